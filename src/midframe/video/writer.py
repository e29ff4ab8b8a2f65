"""Write `Frame`s into a video file, encoded in a thread.

    encoding = choose_encoder(info, "out.mp4")
    with open_writer("out.mp4", info, encoding, rate=Fraction(60)) as writer:
        for frame in frames:
            writer.write(frame)

A writer writes the video stream only; `mux.join` adds audio, subtitles and everything else. The file is written under
a temporary name beside its own and renamed when it is complete; a failure leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import av
import av.codec.context
import av.error

from midframe import colour
from midframe.errors import MediaError
from midframe.types import Frame, VideoInfo
from midframe.video import formats
from midframe.video.animations import lossless
from midframe.video.containers import muxer_options, wants_global_header
from midframe.video.encoders import (
    ANIMATIONS,
    Encoding,
    add_encoder,
    choose_encoder,
    encoded_size,
    image_encoding,
    open_encoder,
    reorder_depth,
)
from midframe.video.files import named, write_error
from midframe.video.matroska_header import write_sample_aspect
from midframe.video.segment_files import parameters_tag, segment_muxer
from midframe.video.timestamps import DecodingTimes

WRITE_QUEUE_FRAMES = 4  # waiting for the encoder at most


class Writer(Protocol):
    """Context manager that `open_writer` returns."""

    def write(self, frame: Frame) -> None:
        """Hand over the next frame; waits while the queue is full."""
        ...

    def __enter__(self) -> Writer: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_writer(
    path: str | os.PathLike[str],
    info: VideoInfo,
    encoding: Encoding | None = None,
    *,
    rate: Fraction,
    tick: Fraction | None = None,
    start: Fraction = Fraction(0),
    segment: bool = False,
) -> Writer:
    """Open a target for writing frames.

    Args:
        path: of the file, which appears when it is complete.
        info: the source: size, aspect, rotation, colour tags.
        encoding: by default that of `choose_encoder` for the path.
        rate: frames per second, for the rate control of the encoder.
        tick: seconds that divide all output pts exactly; 1 / rate by default.
        start: seconds; the output time that is 0 in the file.
        segment: write a segment for `mux.join`, see `segment_files`.

    Returns:
        A context manager with `write(frame)`.

    Raises:
        MediaError: the file cannot be written; also raised later, by `write` and at the end.
    """
    encoding = encoding if encoding is not None else choose_encoder(info, path)
    if encoding.container == "images":
        from midframe.video.image_writer import ImageWriter

        return ImageWriter(path, info, encoding)
    if encoding.container == "webp" and not segment:  # one frame, as between two images
        from midframe.video.image_writer import ImageWriter

        return ImageWriter(path, info, image_encoding(info.format, path, "libwebp"))
    if encoding.container in ANIMATIONS:
        if not segment:
            raise MediaError(f"{named(path)} is an animated image, which is made from segments; see mux.join")
        encoding = lossless(encoding)
    return VideoWriter(path, info, encoding, rate=rate, tick=tick, start=start, counted=segment)


class VideoWriter:
    """Encode frames into one file; a context manager. See `open_writer`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        info: VideoInfo,
        encoding: Encoding,
        *,
        rate: Fraction,
        tick: Fraction | None = None,
        start: Fraction = Fraction(0),
        counted: bool = False,
    ) -> None:
        self.path = Path(path)
        self.info = info
        self.encoding = encoding
        self.rate = rate
        self.tick = tick if tick is not None else 1 / rate
        self.start = start
        self._counted = counted  # a segment: its clock counts ticks, see `segment_files`
        self._part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        self._queue: queue.Queue[Frame | None] = queue.Queue(maxsize=WRITE_QUEUE_FRAMES)
        self._error: BaseException | None = None
        self._abandoned = threading.Event()
        self._thread: threading.Thread | None = None
        self.frames = 0  # handed over so far

    def __enter__(self) -> VideoWriter:
        check_target(self.path)
        self._thread = threading.Thread(target=self._work, name="midframe-writer", daemon=True)
        self._thread.start()
        return self

    def write(self, frame: Frame) -> None:
        """Hand over the next frame; waits while the queue is full.

        Raises:
            MediaError: the encoder or the disk has failed, now or on an earlier frame.
        """
        if self._thread is None:
            raise RuntimeError("a writer is used within 'with open_writer(...) as writer:'")
        while self._error is None:
            try:
                self._queue.put(frame, timeout=0.1)
                self.frames += 1
                return
            except queue.Full:
                continue
        raise self._error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file and rename it to the target; remove it if the block has failed."""
        assert self._thread is not None
        if error is not None:
            self._abandoned.set()
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=0.1)
                break
            except queue.Full:
                continue
        self._thread.join()
        if error is not None or self._error is not None:
            with contextlib.suppress(OSError):
                self._part.unlink(missing_ok=True)
            if error is None and self._error is not None:
                raise self._error
            return
        try:
            os.replace(self._part, self.path)
        except OSError as problem:
            with contextlib.suppress(OSError):
                self._part.unlink(missing_ok=True)
            raise write_error(self.path, problem) from problem

    # everything below runs in the encoder's thread

    def _work(self) -> None:
        try:
            self._encode()
        except MediaError as error:
            self._error = error
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._error = write_error(self.path, error)
            self._error.__cause__ = error
        except BaseException as error:
            self._error = error

    def _encode(self) -> None:
        encoding = self.encoding
        muxer = segment_muxer(encoding) if self._counted else encoding.container
        counts_ticks = self._counted and muxer == "matroska"
        options = muxer_options(muxer, self.tick)
        if self._counted and muxer == "mov":
            options["movflags"] = "+use_metadata_tags"
        if self._counted and muxer == "nut":
            options["avoid_negative_ts"] = "disabled"  # or B-frames shift the pts
        container = av.open(f"file:{self._part}", "w", format=muxer, options=options)
        try:
            stream = add_encoder(container, self.info, encoding, self.rate, self.tick)
            if self._counted:
                container.metadata["MIDFRAME_TICK"] = str(self.tick)
                container.metadata["MIDFRAME_START"] = str(self.start)
                if not wants_global_header(encoding.container):
                    stream.codec_context.flags &= ~av.codec.context.Flags.global_header
            last = -1
            lengths: dict[int, int] = {}  # ticks, by pts: not every encoder returns them
            open_encoder(stream.codec_context)
            if self._counted:
                container.metadata["MIDFRAME_PARAMETERS"] = parameters_tag(stream.codec_context)
            self._times = DecodingTimes(reorder_depth(stream.codec_context))
            while not self._abandoned.is_set():
                frame = self._queue.get()
                if frame is None:
                    self._mux(container, stream.encode(None), lengths, counts_ticks)
                    break
                encoder_frame = to_encoder_frame(frame, self.info, encoding)
                at = round((frame.pts - self.start) / self.tick)
                if at <= last:
                    raise MediaError(
                        f"frame {frame.index} at {float(frame.pts):.6f} s is not later than the one before"
                    )
                last = at
                encoder_frame.pts = at
                encoder_frame.time_base = self.tick
                encoder_frame.duration = lengths[at] = max(1, round(frame.duration / self.tick))
                self._mux(container, stream.encode(encoder_frame), lengths, counts_ticks)
        finally:
            if self._abandoned.is_set():
                with contextlib.suppress(Exception):
                    container.close()
            else:
                container.close()
                if not self._counted:
                    write_sample_aspect(self._part, self.info.sample_aspect, muxer)

    def _mux(self, container: Any, packets: Sequence[Any], lengths: dict[int, int], counts_ticks: bool) -> None:
        for packet in packets:
            packet.duration = lengths.pop(packet.pts, packet.duration)
            packet.dts = min(self._times(packet.pts), packet.pts)
            if counts_ticks:
                packet.time_base = Fraction(1, 1000)  # one tick per millisecond of Matroska
            container.mux(packet)


def to_encoder_frame(frame: Frame, info: VideoInfo, encoding: Encoding) -> Any:
    """Convert a frame to an `av.VideoFrame` in the format and size of the encoder."""
    made = encoding.format
    planes = colour.convert(frame.planes, frame.format, made)
    width, height = encoded_size(info, encoding)
    if (height, width) != tuple(planes[0].shape):
        planes = tuple(
            _pad_plane(plane, height, width, made.chroma_h if n in (1, 2) and made.layout == "yuv" else 0,
                      made.chroma_w if n in (1, 2) and made.layout == "yuv" else 0)
            for n, plane in enumerate(planes)
        )  # fmt: skip
    return formats.video_frame(planes, made, encoding.pixel_name or None)


def _pad_plane(plane: Any, height: int, width: int, down: int, across: int) -> Any:
    """Pad a plane to a size by repeating its last row and column."""
    rows, columns = -(-height >> down), -(-width >> across)
    if plane.shape[0] < rows:
        plane = plane[[*range(plane.shape[0]), plane.shape[0] - 1]]
    if plane.shape[1] < columns:
        plane = plane[:, [*range(plane.shape[1]), plane.shape[1] - 1]]
    return plane


def check_target(path: Path) -> None:
    """Raise a `MediaError` if a file cannot be written at `path`."""
    folder = path.parent
    if not folder.exists():
        raise MediaError(f"the folder {named(folder)} does not exist; make it, or give another -o")
    if path.is_dir():
        raise MediaError(f"{named(path)} is a folder; give the name of a file")
    if not os.access(folder, os.W_OK):
        raise MediaError(f"the folder {named(folder)} is not writable; give another -o")
