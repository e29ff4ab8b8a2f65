"""Run a job in a subprocess: the server's bridge to `pipeline.interpolate`.

`run_job` leaves in the job's folder the result, the run's report, and two videos that a browser plays beside each
other: `before.mp4`, the source's own frames at their own times, and `after.mp4`, which is the result itself where
that is 8-bit 4:2:0 H.264 in MP4.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midframe.errors import Interrupted
from midframe.server import prediction
from midframe.server.backend import OnProgress, Progress, Task
from midframe.server.video_inspection import jpeg

if TYPE_CHECKING:  # the server imports this file too, and needs no torch
    from midframe.speed import SpeedMap
    from midframe.types import Frame, Segment, VideoInfo

FRAME_SECONDS = 1.0  # between two frames of a running job that the page gets
REPORT_SECONDS = 0.2  # and between two reports of progress
FRAME_WIDTH = 480
VIEW_CRF = 18.0  # what the page plays beside each other: differences must not be the encoder's
MAX_MARKS = 2000  # of a kind; a timeline of a thousand points cannot show more


class _Reporter:
    """Passes progress on at most every REPORT_SECONDS, with a frame every FRAME_SECONDS."""

    def __init__(self, report: OnProgress) -> None:
        self._report = report
        self._reported = self._frame_sent = 0.0
        self.last = Progress(0, 0)
        self._first: tuple[float, int] | None = None
        self.steady = (0.0, 0)  # seconds, frames: from the first frame reported to the last

    def __call__(self, progress: Any) -> None:
        now = time.monotonic()
        total = progress.total or 0
        stage = "frames" if progress.stage == "frames" else "joining"
        if stage == "frames" and progress.frames:
            self._first = self._first or (now, progress.frames)
            self.steady = now - self._first[0], progress.frames - self._first[1]
        self.last = Progress(progress.frames, total, stage, progress.fps, progress.remaining)
        if stage == "frames" and progress.frames != total and now - self._reported < REPORT_SECONDS:
            return
        self._reported = now
        frame = None
        if progress.latest is not None and now - self._frame_sent >= FRAME_SECONDS:
            self._frame_sent = now
            frame = jpeg(progress.latest, FRAME_WIDTH)
        self._report(self.last, frame)


def run_job(
    task: Task, on_progress: OnProgress, cancel: threading.Event, make: Callable[..., Any] | None = None
) -> Mapping[str, Any]:
    """Run a job; see `backend.RunJob`. A second call with the same task resumes from finished segments.

    Args:
        task: the job.
        on_progress: called with progress, now and then with a frame.
        cancel: stops it.
        make: called as `pipeline.interpolate`, which it is if None; on a cluster, for one.
    """
    from midframe import pipeline
    from midframe.types import Segment

    make = make if make is not None else pipeline.interpolate

    options = replace(prediction.parse_options(task.options), device=task.device, mask=task.mask, overwrite=True)
    target = Path(task.folder) / f"result.{task.options.get('container', 'mp4')}"
    report = _Reporter(on_progress)
    began = time.monotonic()
    on_progress(Progress(0, 0), None)
    result = make(task.source, target, options=options, on_progress=report, cancel=cancel)
    seconds = time.monotonic() - began
    on_progress(replace(report.last, frames=result.frames_out, total=result.frames_out, stage="comparison"), None)
    made = result.frames_out - int(result.statistics.get("resumed_frames", 0))
    info = _probe(target)
    after = target.name if _plays(info, target) else "after.mp4"
    if after != target.name:
        _make_view(target, Path(task.folder) / after, Segment(), cancel)
    _make_view(Path(task.source), Path(task.folder) / "before.mp4", Segment(options.start, options.end), cancel)
    return {
        "result": target.name, "before": "before.mp4", "after": after, "report": result.report.name,
        "marks": marks(result, options.start or Fraction(0), prediction.pace_of(options)),
        "warnings": [*result.warnings, *result.dropped], "size": target.stat().st_size,
        "seconds": seconds if made > 0 else 0.0, "pixels": info.width * info.height * max(made, 0),
        "bits": 8 * target.stat().st_size * made / max(1, result.frames_out),
        "steady_seconds": report.steady[0], "steady_pixels": info.width * info.height * report.steady[1],
    }  # fmt: skip


def marks(result: Any, start: Fraction, pace: SpeedMap) -> dict[str, Any]:
    """Return scene changes, held and duplicate ranges (half-open), low-confidence frames; seconds of the result."""
    spans: dict[str, list[list[float]]] = {"h": [], "d": []}
    position = 0
    for letter, group in groupby(result.kinds):
        length = len(list(group))
        if letter in spans:
            spans[letter].append([float(position / result.rate), float((position + length) / result.rate)])
        position += length
    cuts = [float(pace.output(max(at - start, Fraction(0)))) for at in result.cuts]
    ramps = len(pace.stretches) > 1  # else the page needs only the one speed
    seconds = Fraction(len(result.kinds)) / result.rate
    steps = min(MAX_MARKS, int(seconds * 10) + 1) if ramps else 0
    times = [seconds * n / max(1, steps - 1) for n in range(steps)]
    low = sorted(result.low_confidence, key=lambda one: one.frame)
    return {
        "cuts": cuts[:MAX_MARKS], "holds": spans["h"][:MAX_MARKS], "duplicates": spans["d"][:MAX_MARKS],
        "low_confidence": [[float(one.frame / result.rate), one.confidence] for one in low],
        "regions": [one.region for one in low], "source_times": [[float(at), float(pace.source(at))] for at in times],
    }  # fmt: skip


def _probe(path: Path) -> VideoInfo:
    from midframe.video.probe import probe

    return probe(path)


def _plays(info: VideoInfo, path: Path) -> bool:
    """Return whether every browser plays a video."""
    return path.suffix == ".mp4" and info.codec == "h264" and info.format.name in ("yuv420p", "yuvj420p")


def _make_view(source: Path, target: Path, segment: Segment, cancel: threading.Event) -> None:
    """Write a video that browsers play: the source's frames at their own times, from the first one within the segment.

    HDR is cut to eight bits without tone mapping; the downloaded result is not affected.
    """
    from midframe.video.encoders import choose_encoder
    from midframe.video.reader import open_reader
    from midframe.video.writer import open_writer

    if target.exists():
        return  # an earlier run got this far
    with open_reader(source, segment) as frames:
        info = frames.info
        rate = info.rate or Fraction(25)
        encoding = choose_encoder(info, target, "libx264", crf=VIEW_CRF, pix_fmt="yuv420p")
        begin = segment.start or Fraction(0)
        tick = Fraction(1, 90_000) if info.vfr else 1 / rate
        with open_writer(target, info, encoding, rate=rate, tick=tick) as writer:
            for frame in _placed(frames, begin, tick):
                if cancel.is_set():
                    raise Interrupted("stopped while the comparison was written; the video itself is finished")
                writer.write(frame)


def _placed(frames: Iterator[Frame], begin: Fraction, tick: Fraction) -> Iterator[Frame]:
    """Yield frames with times from `begin` on, where a frame already shown starts; no two on one tick."""
    first: Fraction | None = None
    last = -1
    for frame in frames:
        first = frame.pts if first is None and begin == 0 else first
        at = max(frame.pts - (first if begin == 0 and first is not None else begin), Fraction(0))
        if round(at / tick) <= last:
            continue
        last = round(at / tick)
        yield replace(frame, pts=at)
