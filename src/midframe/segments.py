"""Segments of the output: written one after the other, kept across any end of a run, joined into the target.

A segment is a file of its own in `OUT.midframe/`. Only the writer changes files at the borders; one reader runs through
the whole video, so segments cost no decoding.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from midframe import __version__
from midframe.errors import Interrupted, JobError, MediaError
from midframe.journal import Journal, fingerprint, segments_from_json, segments_to_json, write_whole
from midframe.models.base import Model
from midframe.plan import Plan, report_of
from midframe.result import LETTERS, OLD_LETTERS, LowConfidence, Result, report_text
from midframe.types import Frame, Gap, Segment
from midframe.video import mux
from midframe.video.segment_files import SEGMENT_SUFFIX
from midframe.video.streams import excluded_streams
from midframe.video.writer import Writer, open_writer

# Interpolated frames of lower confidence are reported, one for each moment; their PSNR was 25 dB in the median.
LOW_CONFIDENCE = 0.98
MOMENT_SECONDS = Fraction(1, 2)  # of the output: who looks at one picture sees its neighbours too
MOST_LOW = 500


class SegmentWriter:
    """Puts pictures into the segment they belong to: the next file begins where a border is crossed.

    It also keeps what the report says of each segment: kinds of the pictures, cuts, source frames.
    """

    def __init__(self, plan: Plan, journal: Journal, first: int, drain: threading.Event) -> None:
        self.plan = plan
        self.journal = journal
        self.number = first
        self.cuts_met = 0
        self._drain = drain
        self._suffix = "" if plan.encoding.container == "pictures" else SEGMENT_SUFFIX
        self._borders = [s.end for s in plan.segments[:-1] if s.end is not None]
        self._open = contextlib.ExitStack()  # holds the writer of the segment at hand
        self._writer: Writer | None = None
        self._kinds: list[str] = []
        self._low: dict[int, tuple[int, float]] = {}  # moment of the segment -> its frame of least confidence
        self._cuts: dict[int, list[Fraction]] = {}
        self._sources: dict[int, int] = {}
        self._held: dict[int, list[tuple[Fraction, Fraction]]] = {}

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of a file that is not whole."""
        self._open.__exit__(kind, error, trace)

    def watch(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The same frames; counts them and notes where shots begin."""
        wished = Segment(self.plan.segments[0].start, self.plan.segments[-1].end)
        shot: int | None = None
        for frame in frames:
            if frame.pts in wished:
                home = self._home(frame.pts)
                self._sources[home] = self._sources.get(home, 0) + 1
                if shot is not None and frame.shot != shot:
                    self._cuts.setdefault(home, []).append(frame.pts)
                    self.cuts_met += 1
            shot = frame.shot
            yield frame

    def watch_gaps(self, gaps: Iterable[Gap]) -> Iterator[Gap]:
        """Pass gaps through and record the stretches of the source in which a frame is held."""
        wanted = Segment(self.plan.segments[0].start, self.plan.segments[-1].end)
        for gap in gaps:
            if gap.held and gap.a.pts in wanted:
                held = self._held.setdefault(self._home(gap.a.pts), [])
                stretch = (gap.a.pts, gap.a.pts + gap.held)
                if stretch not in held[-1:]:  # a long gap comes in several pieces
                    held.append(stretch)
            yield gap

    def write(self, frame: Frame) -> None:
        """Write one picture; pictures come in order of pts."""
        home = self._home(self.plan.instant(frame.pts))
        while self.number < home:
            self._close_segment()
        if self._writer is None:
            plan, part = self.plan, self.journal.part(self.number, self._suffix)
            self._writer = self._open.enter_context(
                open_writer(
                    part, plan.info, plan.encoding, rate=plan.rate, tick=plan.tick, start=plan.start, segment=True
                )
            )
        self._writer.write(frame)
        if frame.confidence is not None and frame.confidence < LOW_CONFIDENCE:
            moment = int(len(self._kinds) / (self.plan.rate * MOMENT_SECONDS))
            if moment not in self._low or frame.confidence < self._low[moment][1]:
                self._low[moment] = len(self._kinds), round(frame.confidence, 4)
        self._kinds.append(LETTERS[frame.kind])

    def finish(self) -> None:
        """The film is at its end: the segment at hand is whole, and those behind it stay empty."""
        while self.number < len(self.plan.segments):
            self._close_segment(last=True)

    def _home(self, instant: Fraction) -> int:
        """The segment that holds an instant of the source."""
        return bisect.bisect_right(self._borders, instant)

    def _close_segment(self, last: bool = False) -> None:
        number = self.number
        self._open.close()  # ends the file; raises what went wrong in it
        self._writer = None
        record = {
            "frames_in": self._sources.pop(number, 0),
            "frames_out": len(self._kinds),
            "kinds": "".join(self._kinds),
            "cuts": [str(at) for at in self._cuts.pop(number, [])],
            "held": [[str(start), str(end)] for start, end in self._held.pop(number, [])],
            "low_confidence": list(self._low.values()),
        }
        self.journal.finish(number, self._suffix, record)
        self._kinds.clear()
        self._low.clear()
        self.number += 1
        if self._drain.is_set() and not last:
            raise Interrupted(f"stopped; {kept(self.number, len(self.plan.segments))}")


def segment_record(journal: Journal, number: int) -> dict[str, Any]:
    """The record of a segment that must be there.

    Raises:
        JobError: it is not.
    """
    record = journal.record(number)
    if record is None:
        raise JobError(f"segment {number} of '{journal.target}' has vanished; give the same command again")
    # records of version 0.1 before November 2026 have other letters and names
    low = record.get("low_confidence", record.get("doubts", []))
    return {**record, "kinds": str(record["kinds"]).translate(OLD_LETTERS), "low_confidence": low}


def join(
    plan: Plan, journal: Journal, warnings: Iterable[str], seconds: float, made: int, resumed: int, **statistics: float
) -> Result:
    """Finished segments become one film under its own name, with a report beside it; the journal is done.

    Args:
        plan: whose segments are all finished.
        journal: that holds them.
        warnings: met while they were made.
        seconds: of work in this run, for the statistics.
        made: output pictures made in this run.
        resumed: output pictures that were there before.
        statistics: further figures for the report.

    Raises:
        JobError: a segment is missing.
        MediaError: a segment is damaged, the source's sound is gone, or the target cannot be written.
    """
    records = [segment_record(journal, n) for n in range(len(plan.segments))]
    pictures = plan.encoding.container == "pictures"
    left = {plan.info.video_index, *(stream.index for stream in excluded_streams(plan.info, plan.options))}
    beside = [s for s in plan.info.streams if s.index not in left]
    if beside and not pictures:
        source, known = Path(plan.source), (journal.manifest() or {}).get("source", {})
        # one that is still being recorded has grown: what was there when the run began is what counts
        if not source.exists() or fingerprint(source, known.get("size")) != known:
            what = "has changed" if source.exists() else "is gone"
            raise MediaError(
                f"'{source}' {what} since its pictures were read, and its {beside[0].kind} is still to be copied; "
                "bring it back"
            )
    whole = plan.target if pictures else journal.folder / f"whole.part{plan.target.suffix}"
    dropped = mux.join(
        [journal.folder / r["file"] for r in records if r["file"]], whole, plan.source, plan.info, plan.options
    )
    result = Result(
        path=plan.target,
        report=report_of(plan.target),
        frames_in=sum(r["frames_in"] for r in records),
        frames_out=sum(r["frames_out"] for r in records),
        rate=plan.rate,
        kinds="".join(r["kinds"] for r in records),
        cuts=tuple(Fraction(at) for r in records for at in r["cuts"]),
        held=tuple(Segment(Fraction(a), Fraction(b)) for r in records for a, b in r.get("held", ())),
        warnings=tuple(dict.fromkeys([*plan.info.warnings, *plan.notes, *warnings])),
        dropped=tuple(dropped),
        low_confidence=_low_confidence(records),
        statistics={
            "seconds": round(seconds, 3),
            "frames_per_second": round(made / seconds, 3),
            "resumed_frames": resumed,
            **statistics,
        },
    )
    if not pictures:
        os.replace(whole, plan.target)
    write_whole(result.report, report_text(plan.to_json(), result))
    journal.discard()
    return result


def _low_confidence(records: Iterable[Mapping[str, Any]]) -> tuple[LowConfidence, ...]:
    """The frames of low confidence of all segments, counted through the video, worst first."""
    found, first = [], 0
    for record in records:
        found += [LowConfidence(first + frame, confidence) for frame, confidence in record["low_confidence"]]
        first += record["frames_out"]
    return tuple(sorted(found, key=lambda low: low.confidence)[:MOST_LOW])


def weights_digest(model: Model) -> str:
    """What tells one set of weights from another: a hash over all tensors of a model."""
    digest = hashlib.sha256()
    for name, values in model.state_dict().items():
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def enter(journal: Journal, plan: Plan, model: Model | None = None) -> Plan:
    """Go on with what an earlier run left, or begin.

    Args:
        journal: the target's.
        plan: what shall be made.
        model: the model at hand, whose weights must be those of the earlier run; None where workers load their own.

    Raises:
        JobError: what is there was made from another source or with other wishes.
    """
    mine = {
        "midframe": __version__,
        "source": fingerprint(Path(plan.source)),
        "mask": None if plan.options.mask is None else fingerprint(Path(plan.options.mask))["sha256"],
        "model": [plan.model, plan.device, plan.precision],
        "weights": None if model is None else weights_digest(model),
        "options": plan.options.to_json(),
        "segments": segments_to_json(plan.segments),
    }
    theirs = journal.manifest()
    left = 0 if theirs is None else len(journal.held(len(theirs.get("segments", ()))))
    if theirs is None or left == 0 or not plan.options.resume:
        journal.begin(mine)
        return plan
    changed = plan.options.differences(theirs.get("options", {}))
    if theirs.get("source") != mine["source"]:
        changed.append("the source has changed")
    if theirs.get("mask") != mine["mask"]:
        changed.append("the mask has changed")
    if theirs.get("midframe") != mine["midframe"]:
        changed.append(f"midframe {theirs.get('midframe')}, now {mine['midframe']}")
    if theirs.get("model") != mine["model"] and not any(text.startswith("model") for text in changed):
        changed.append(f"on {theirs.get('model')}, now {mine['model']}")
    if mine["weights"] and theirs.get("weights") and theirs["weights"] != mine["weights"]:
        changed.append("other weights")
    if changed:
        raise JobError(
            f"'{journal.folder}' holds {left} finished segments of another run ({'; '.join(changed)}); give the "
            "command of that run to go on with it, or --no-resume to begin afresh"
        )
    return replace(plan, segments=segments_from_json(theirs["segments"]))


def kept(done: int, segments: int) -> str:
    """What is said of the work when a run ends before its time."""
    return f"{done} of {segments} segments are finished and kept: the same command goes on from there"


@contextlib.contextmanager
def disk_trouble(target: Path) -> Iterator[None]:
    """What the system says of a disk inside becomes one clear line.

    Raises:
        MediaError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise MediaError(
                f"the disk of '{target.parent}' is full; finished segments are kept: free some space and give the same "
                "command again"
            ) from error
        raise MediaError(f"'{target}' cannot be written: {error.strerror or error}") from error
