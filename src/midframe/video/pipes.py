"""Read and write video through pipes, which cannot seek and have no known length.

`PipeReader` demuxes yuv4mpeg2 or any container that libav reads from a stream. `Y4MWriter` and `StreamWriter` write
frames as they arrive. Each holds a few frames.
"""

from __future__ import annotations

import io
import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import av
import av.error

from midframe import colour
from midframe.errors import MediaError, UnsupportedError
from midframe.types import Frame, PixelFormat, VideoInfo
from midframe.video import ebml, formats
from midframe.video.damage import Damage
from midframe.video.decoding import StreamDecoder
from midframe.video.encoders import Encoding, add_encoder
from midframe.video.files import allowed_demuxers, decoder_of, packets_of
from midframe.video.matroska_header import MUXERS, with_sample_aspect
from midframe.video.rates import stream_rates
from midframe.video.source_format import format_of
from midframe.video.writer import to_encoder_frame

PIPE_QUEUE_FRAMES = 2  # decoded ahead
PROBE_BYTES = 1 << 20  # read before the first frame is decoded, at most
WAIT_SECONDS = 0.2  # between two checks of the stop event
STREAM_FORMATS = ("y4m", "mkv", "nut")
_PIPE_MUXERS = {"mkv": "matroska", "nut": "nut"}
_CLUSTER_ID = ebml.CLUSTER.to_bytes(4, "big")
_Y4M_CHROMA = {(1, 1): "420", (1, 0): "422", (0, 0): "444"}  # log2 subsampling -> y4m's name


class PipeReader:
    """Decode the frames of a stream in a thread; an iterator and a context manager.

    Attributes:
        info: description of the stream, set on entering; `duration` and `header_frames` are None.
    """

    info: VideoInfo

    def __init__(self, name: str | os.PathLike[str], stop: threading.Event | None = None) -> None:
        """Read `name`, or the standard input for `-`; iteration ends when `stop` is set."""
        self.name = "the standard input" if os.fspath(name) == "-" else f"'{os.fspath(name)}'"
        self._path = os.fspath(name)
        self._stop = stop if stop is not None else threading.Event()
        self._left = False
        self._queue: queue.Queue[VideoInfo | Frame | BaseException | None] = queue.Queue(PIPE_QUEUE_FRAMES)
        self.warnings: list[str] = []

    def __enter__(self) -> PipeReader:
        """Open the stream and wait for its first frame.

        Raises:
            MediaError: it ends or holds nothing that can be decoded.
        """
        threading.Thread(target=self._work, name="midframe-pipe", daemon=True).start()
        first = self._get()
        if isinstance(first, VideoInfo):
            self.info = first
            return self
        raise first if isinstance(first, BaseException) else MediaError(f"{self.name} holds no video")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop reading. The thread may wait for the other end of the pipe, and ends with the process."""
        self._left = True

    def __iter__(self) -> Iterator[Frame]:
        while True:
            item = self._get()
            if isinstance(item, Frame):
                yield item
            elif isinstance(item, BaseException):
                raise item
            else:
                return

    def _get(self) -> VideoInfo | Frame | BaseException | None:
        while not (self._stop.is_set() or self._left):
            try:
                return self._queue.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                continue
        return None

    # everything below runs in the thread

    def _put(self, item: VideoInfo | Frame | BaseException | None) -> bool:
        while not (self._stop.is_set() or self._left):
            try:
                self._queue.put(item, timeout=WAIT_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def _work(self) -> None:
        try:
            # unbuffered: a read returns the bytes available and does not wait for more
            with io.FileIO(0 if self._path == "-" else self._path, "rb", closefd=self._path != "-") as file:
                self._decode(file)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self._put(MediaError(f"{self.name} cannot be read as video: {reason}"))
        except BaseException as error:
            self._put(error)
        else:
            self._put(None)

    def _decode(self, file: io.FileIO) -> None:
        options = {"format_whitelist": allowed_demuxers(), "probesize": str(PROBE_BYTES)}
        opened: Any = av.open(_ReadOnly(file), options=options, metadata_errors="replace")
        with opened as container:
            if not container.streams.video:
                raise MediaError(f"{self.name} holds no video")
            stream = container.streams.video[0]
            form: PixelFormat | None = None
            last = origin = Fraction(0)
            number = 0
            step = Fraction(1, 25)
            # one thread: a stream cannot be reopened to replay damaged packets
            decoder = StreamDecoder(stream.codec_context.codec.canonical_name, partial(decoder_of, stream), single=True)
            for frame in _decoded(container, stream, decoder):
                if form is None:
                    info = self._describe(container, stream, frame)
                    form, step = info.format, 1 / info.rate if info.rate else step
                    origin = Fraction(frame.pts or 0) * stream.time_base
                    if not self._put(info):
                        return
                pts = number * step if frame.pts is None else frame.pts * stream.time_base - origin
                if number and pts <= last:
                    pts = last + step
                made = formats.to_planar(frame, form, info.width, info.height)
                if not self._put(Frame(formats.planes_of(made, form), form, pts, step, number)):
                    return
                last, number = pts, number + 1
            damage = Damage(
                frames=decoder.frames,
                missing=len(decoder.missing),
                failed_packets=len(decoder.failed),
                broken_packets=len(decoder.broken),
                concealed=len(decoder.concealed),
            )
            if damage:
                self.warnings.append(str(damage))

    def _describe(self, container: Any, stream: Any, frame: Any) -> VideoInfo:
        codec = stream.codec_context.codec.canonical_name
        form, untagged = format_of(frame, stream.codec_context, codec)
        rates = stream_rates(stream, timed=frame.pts is not None)
        aspect = formats.exact(stream.sample_aspect_ratio) or Fraction(1)
        return VideoInfo(
            path=self._path,
            container=container.format.name,
            codec=codec,
            width=frame.width,
            height=frame.height,
            format=form,
            rate=rates[0] if rates else None,
            time_base=Fraction(stream.time_base),
            start=Fraction(0),
            duration=None,
            header_frames=None,
            sample_aspect=aspect,
            untagged=untagged,
            warnings=self._notes(container, frame),
        )

    def _notes(self, container: Any, frame: Any) -> tuple[str, ...]:
        notes = []
        if len(container.streams) > 1:
            notes.append("audio and all streams but the video are left out of a pipe")
        if frame.interlaced_frame:
            notes.append("the stream is interlaced and is taken as it is; deinterlace it before the pipe")
        return tuple(notes)


def _decoded(container: Any, stream: Any, decoder: StreamDecoder) -> Iterator[Any]:
    """Yield the frames of a stream; the decoder counts packets that it cannot decode."""
    for packet in packets_of(container, stream):
        if packet.size or packet.pts is None:
            yield from decoder.decode(packet)
    decoder.finish()


class _ReadOnly:
    """Expose only `read` of a file, so that libav does not seek."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """Read the bytes available, up to `size`."""
        return self._file.read(size) or b""


class Y4MWriter:
    """Write frames as yuv4mpeg2, flushed one by one; a context manager.

    8 to 16 bits of Y'CbCr 4:2:0, 4:2:2, 4:4:4 or gray; RGB becomes 4:4:4, alpha is dropped. Sample aspect, range and
    the exact rate are kept.
    """

    def __init__(self, file: BinaryIO, info: VideoInfo, rate: Fraction) -> None:
        self._file, self._rate, self._info = file, rate, info
        self.format = y4m_format(info.format)
        self._begun = False

    def __enter__(self) -> Y4MWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: every frame is flushed."""

    def write(self, frame: Frame) -> None:
        """Write one frame.

        Raises:
            BrokenPipeError: the reader has closed the pipe.
        """
        if not self._begun:
            self._begun = True
            self._file.write(self._header(frame.width, frame.height))
        planes = colour.convert(frame.planes, frame.format, self.format)
        self._file.write(b"FRAME\n" + b"".join(plane.contiguous().numpy().tobytes() for plane in planes))
        self._file.flush()

    def _header(self, width: int, height: int) -> bytes:
        form, aspect, rate = self.format, self._info.sample_aspect, self._rate
        if form.layout == "gray":
            chroma = "mono" if form.depth == 8 else f"mono{form.depth}"
        else:
            chroma = _Y4M_CHROMA[form.chroma_w, form.chroma_h]
            if form.depth > 8:
                chroma += f"p{form.depth}"
            elif chroma == "420":
                chroma = {"center": "420jpeg", "topleft": "420paldv"}.get(form.siting, "420mpeg2")
        words = [
            "YUV4MPEG2", f"W{width}", f"H{height}", f"F{rate.numerator}:{rate.denominator}", "Ip",
            f"A{aspect.numerator}:{aspect.denominator}", f"C{chroma}",
            f"XCOLORRANGE={'FULL' if form.full_range else 'LIMITED'}",
        ]  # fmt: skip
        return " ".join(words).encode() + b"\n"


def y4m_format(source: PixelFormat) -> PixelFormat:
    """Return the y4m format for frames of a source.

    Raises:
        UnsupportedError: y4m cannot describe its subsampling.
    """
    form = replace(source, alpha=False)
    if source.layout == "rgb":
        form = replace(form, layout="yuv", matrix="bt709", full_range=False)
    elif source.layout == "yuv" and (source.chroma_w, source.chroma_h) not in _Y4M_CHROMA:
        raise UnsupportedError(f"y4m cannot hold {source.name}; use --format nut or mkv")
    return replace(form, name=formats.name_of(form))


class StreamWriter:
    """Encode frames and send them as Matroska or NUT; a context manager."""

    def __init__(
        self, file: BinaryIO, kind: str, info: VideoInfo, encoding: Encoding, rate: Fraction, tick: Fraction
    ) -> None:
        self._file, self._muxer = file, _PIPE_MUXERS[kind]
        self._info, self._encoding, self._rate, self._tick = info, encoding, rate, tick
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> StreamWriter:
        options = {"flush_packets": "1"} | ({"live": "1"} if self._muxer == "matroska" else {})
        file, aspect = _WriteOnly(self._file), self._info.sample_aspect
        if self._muxer in MUXERS and aspect != 1:
            file = _WithHeader(self._file, partial(with_sample_aspect, aspect=aspect, muxer=self._muxer))
        self._container = av.open(file, "w", format=self._muxer, options=options)
        self._stream = add_encoder(self._container, self._info, self._encoding, self._rate, self._tick)
        return self

    def write(self, frame: Frame) -> None:
        """Encode one frame and send the packets that the encoder returns.

        Raises:
            BrokenPipeError: the reader has closed the pipe.
        """
        encoder_frame = to_encoder_frame(frame, self._info, self._encoding)
        encoder_frame.pts = round((frame.pts - self._info.start) / self._tick)
        encoder_frame.time_base = self._tick
        for packet in self._stream.encode(encoder_frame):
            self._container.mux(packet)
        self._file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush the encoder, if the block has succeeded."""
        try:
            if kind is None:
                for packet in self._stream.encode(None):
                    self._container.mux(packet)
        finally:
            self._container.close()


class _WriteOnly:
    """Expose only `write` of a file, so that libav does not seek."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        """Write all bytes."""
        return self._file.write(data)


class _WithHeader(_WriteOnly):
    """Hold back the header of a Matroska stream, up to the first cluster, and write it changed."""

    def __init__(self, file: BinaryIO, change: Callable[[bytes], bytes | None]) -> None:
        super().__init__(file)
        self._change = change
        self._head: bytes | None = b""

    def write(self, data: bytes) -> int:
        """Write all bytes, or keep those of the header."""
        if self._head is None:
            return self._file.write(data)
        head = self._head + bytes(data)
        if _CLUSTER_ID not in head:
            self._head = head
            return len(data)
        self._head = None
        self._file.write(self._change(head) or head)
        return len(data)


def kind_of(target: str | os.PathLike[str], format: str | None) -> str:
    """Return y4m, mkv or nut: from `--format`, else the suffix of the target, else y4m.

    Raises:
        UnsupportedError: another suffix than those.
    """
    if format is not None:
        return format
    suffix = Path(target).suffix.lower().removeprefix(".") if os.fspath(target) != "-" else "y4m"
    if suffix not in STREAM_FORMATS:
        raise UnsupportedError(f"a stream is written as y4m, mkv or nut, not {suffix or 'a name without suffix'}")
    return suffix
