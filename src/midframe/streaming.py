"""Interpolate through a pipe: from a stream that can be read only once, or to one.

Runs cannot be resumed, and memory does not depend on the length. Audio and other streams are dropped.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from midframe import pipeline, shots, timeline
from midframe.errors import InputError, Interrupted
from midframe.models.base import Model
from midframe.options import Options
from midframe.plan import check_image_rate, check_target, delivered_info, output_rate
from midframe.result import OnProgress, Progress
from midframe.types import Frame, VideoInfo
from midframe.video.encoders import Encoding, choose_encoder
from midframe.video.files import is_pipe
from midframe.video.pipes import STREAM_FORMATS, PipeReader, StreamWriter, Y4MWriter, kind_of, y4m_format
from midframe.video.probe import probe
from midframe.video.reader import open_reader
from midframe.video.scaling import Scaling
from midframe.video.writer import open_writer

# Options that need a file: its length, its streams, or a second pass.
_FOR_FILES = ("start", "end", "compat", "slow_audio", "speed", "loop", "shutter")


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """Rates, encoder and model of a run through a pipe."""

    source: str
    target: str
    info: VideoInfo  # of the source, at the size of the output
    scaling: Scaling
    rate: Fraction  # frames per second of the output
    keep: int | None  # output frames per source frame if source timestamps are kept, else None
    encoding: Encoding | None  # None: y4m
    model: str
    device: str
    precision: str
    latency_frames: int  # source frames between the first of a gap and its last output
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Summarise the plan in one line."""
        info = self.info
        parts = [f"{info.rate or 'rate unknown'} -> {'variable' if self.keep else self.rate} fps"]
        parts.append(str(self.scaling))
        parts.append(f"y4m, {y4m_format(info.format).name}" if self.encoding is None else str(self.encoding))
        parts.append(f"{self.model} on {self.device} {self.precision}")
        parts.append(f"{self.latency_frames} source frames of latency")
        parts.append("a pipe: no resume")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `--progress json`."""
        return {"source": self.source, "target": self.target, "rate": str(self.rate), "model": self.model}


@dataclass(frozen=True, slots=True)
class StreamResult:
    """Outcome of a run through a pipe."""

    target: str
    frames_out: int
    seconds: float
    closed: bool  # the reader of the output went away before the end


def is_stream(source: str | os.PathLike[str], target: str | os.PathLike[str] | None) -> bool:
    """Return whether a run goes through a pipe: standard input or output, a FIFO, or a y4m file as target."""
    if is_pipe(source):
        return True
    return target is not None and (is_pipe(target) or Path(target).suffix.lower() == ".y4m")


def interpolate_stream(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    options: Options,
    *,
    format: str | None = None,
    network: Model | None = None,
    on_plan: Callable[[StreamPlan], None] | None = None,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> StreamResult:
    """Interpolate a stream; `-` is the standard input or output.

    Args:
        src: `-`, a FIFO, or a video file.
        dst: `-`, a FIFO, or a file to write.
        options: those that need the whole file are refused.
        format: "y4m", "mkv" or "nut" for a pipe; None: y4m.
        network: a model that replaces the one in the options.
        on_plan: called with the plan after the first frame has arrived.
        on_progress: called after every frame.
        stop: set it to end after the current frame; the output is then complete up to there.

    Raises:
        InputError: an option that needs a file, or an existing target.
        MediaError: the stream cannot be read, or the target not written.
        Interrupted: by `stop`.
    """
    check_options(options, dst, format)
    to_pipe = is_pipe(dst)
    if not to_pipe:
        check_target(Path(dst), Path(src), options.overwrite)
    stop = stop if stop is not None else threading.Event()
    engine = pipeline.make_engine(options, network)
    began, count, closed = time.monotonic(), 0, False
    with _source(src, options, stop) as (info, frames):
        check_image_rate(info, options)
        delivered = delivered_info(info, options)
        rate = output_rate(delivered, options)
        keep = int(options.ratio or 2) if options.vfr == "keep" else None
        tick = (
            1 / rate if keep is None else (delivered.time_base if delivered.rate is None else 1 / delivered.rate) / keep
        )
        kind = kind_of(dst, format) if to_pipe or format or Path(dst).suffix.lower() == ".y4m" else None
        if kind == "y4m" and keep is not None:
            raise InputError("y4m has one rate, and --vfr keep has none; use --format mkv or nut")
        scaling = Scaling.of(info, options)
        encoding = None if kind == "y4m" else _encoding(scaling.output, dst, kind, options)
        plan = StreamPlan(
            source=os.fspath(src), target=os.fspath(dst), info=scaling.output, scaling=scaling, rate=rate, keep=keep,
            encoding=encoding,
            model=engine.model.name, device=str(engine.device), precision=engine.precision,
            latency_frames=1 + (options.scene != "off") + engine.context,
        )  # fmt: skip
        if on_plan is not None:
            on_plan(plan)
        stream = scaling.before(iter(frames))
        if info.rate is not None:
            stream = timeline.regular(stream, info.rate, info.time_base, info.start)
        stream = shots.label(stream, None if options.scene == "off" else shots.Thumbnails(options.scene_threshold))
        stream = shots.dedup(stream) if options.dedup == "auto" else stream
        gaps = timeline.gaps(
            stream, rate, slowmo=options.slowmo or Fraction(1), keep=keep, context=engine.context, start=info.start
        )
        try:
            with _writer(dst, kind, plan, tick) as writer:
                # without prefetch: outputs of a gap do not wait for the next one to arrive
                for frame in scaling.after(engine.run(gaps, prefetch=not is_pipe(src))):
                    writer.write(frame)
                    count += 1
                    if on_progress is not None:
                        on_progress(_progress(count, time.monotonic() - began, frame))
                    if stop.is_set():
                        break
        except BrokenPipeError:
            closed = True
    if stop.is_set():
        raise Interrupted(
            f"stopped after {count} frames; the output is complete up to there, and a pipe cannot be resumed"
        )
    return StreamResult(os.fspath(dst), count, time.monotonic() - began, closed)


def check_options(options: Options, dst: str | os.PathLike[str], format: str | None) -> None:
    """Refuse options that need a whole file, before anything is opened.

    Raises:
        InputError: one was given.
    """
    usual = Options()
    for name in _FOR_FILES:
        if getattr(options, name) != getattr(usual, name):
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} is for files, and a pipe is read once; cut or convert before or behind the pipe")
    if options.scene == "modelscope":
        raise InputError("--scene modelscope is for files; use --scene auto or off with a pipe")
    if format is not None and format not in STREAM_FORMATS:
        raise InputError(f"--format {format} is not known; allowed: {', '.join(STREAM_FORMATS)}")
    if format is not None and not is_pipe(dst):
        raise InputError("--format is for -o - or a FIFO; a file has its format by its name")


@contextlib.contextmanager
def _source(
    src: str | os.PathLike[str], options: Options, stop: threading.Event
) -> Iterator[tuple[VideoInfo, Iterator[Frame]]]:
    if is_pipe(src):
        with PipeReader(src, stop) as reader:
            yield reader.info, iter(reader)
        return
    info = probe(src, in_rate=options.in_fps)
    deinterlace = options.deinterlace == "auto"
    with open_reader(src, info=info, strict=options.strict, deinterlace=deinterlace) as frames:
        yield delivered_info(info, options), iter(frames)


def _encoding(info: VideoInfo, dst: str | os.PathLike[str], kind: str | None, options: Options) -> Encoding:
    target = Path(dst) if kind is None else Path(f"stream.{kind}")
    return choose_encoder(
        info, target, options.codec, crf=options.crf, preset=options.preset, pix_fmt=options.pix_fmt,
        options=options.encoder,
    )  # fmt: skip


@contextlib.contextmanager
def _writer(dst: str | os.PathLike[str], kind: str | None, plan: StreamPlan, tick: Fraction) -> Iterator[Any]:
    """Open the writer of a target; a file is written under a temporary name and renamed at the end."""
    if kind is None:
        with open_writer(dst, plan.info, plan.encoding, rate=plan.rate, tick=tick, start=plan.info.start) as writer:
            yield writer
        return
    part = Path(f"{os.fspath(dst)}.{os.getpid()}.part")
    to_pipe = is_pipe(dst)
    name: int | str | Path = os.dup(1) if os.fspath(dst) == "-" else os.fspath(dst) if to_pipe else part
    try:
        with open(name, "wb") as file:
            yield from _writing(file, kind, plan, tick)
        if not to_pipe:
            os.replace(part, dst)
    finally:
        if not to_pipe:
            part.unlink(missing_ok=True)


def _writing(file: BinaryIO, kind: str, plan: StreamPlan, tick: Fraction) -> Iterator[Any]:
    if plan.encoding is None:
        with Y4MWriter(file, plan.info, plan.rate) as plain:
            yield plain
    else:
        with StreamWriter(file, kind, plan.info, plan.encoding, plan.rate, tick) as encoded:
            yield encoded


def _progress(frames: int, seconds: float, frame: Frame) -> Progress:
    return Progress(
        frames=frames, total=None, seconds=seconds, fps=frames / seconds if seconds > 0 else 0.0, remaining=None,
        segment=0, segments=1, cuts=frame.shot, pts=frame.pts, latest=frame,
    )  # fmt: skip
