"""Read a video file as `Frame`s with exact times, prefetched in a thread.

    with open_reader("video.mkv") as frames:
        for frame in frames:
            ...

The decoder runs in a thread that fills a bounded queue. Leaving the context joins the thread; its errors are raised in
the reading thread. Frames are views of the decoder's buffers and must not be written to.
"""

from __future__ import annotations

import heapq
import os
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from fractions import Fraction
from types import TracebackType
from typing import Any, NamedTuple

import av
import av.error
import av.filter
import av.packet

from midframe.errors import MediaError, UnsupportedError
from midframe.types import Frame, Segment, VideoInfo
from midframe.video import formats, images
from midframe.video.damage import Damage, Findings, jumps_text, reordered_text
from midframe.video.decoding import StreamDecoder
from midframe.video.files import (
    AVI_CHUNK_HEADER,
    decoder_of,
    discard_others,
    named,
    open_source,
    packets_of,
    witness,
)
from midframe.video.probe import probe
from midframe.video.structure import Structure, examine

SORTED_STAMPS = 2  # frames whose timestamps may be swapped
QUEUE_FRAMES = 4  # prefetched; a 4K frame is 12 to 25 MB
# Longer steps are faults: broadcast clocks wrap and jump at splices, damaged timestamps are arbitrary.
LONGEST_STEP = Fraction(10)  # seconds; longer ones are accepted only within the duration of the file
LONGEST_PAUSE = Fraction(3600)  # seconds; never accepted: one damaged timestamp would cost days of work
MAX_STEPS = 10_000  # steps of several frames, recorded at most
INEXACT_END = Fraction(1, 2)  # seconds by which audio may outlast the video, if only the duration of the file is known
INDEXED = frozenset({"avi", "mp4", "matroska"})  # demuxers of files that begin with a key frame, unlike broadcasts
SKIMMED = Fraction(1)  # seconds before a segment; earlier, only reference frames are decoded
BACK_STEPS = (Fraction(0), Fraction(1), Fraction(5), Fraction(30), Fraction(120))  # seconds before a requested start


class _Waiting(NamedTuple):
    """Decoded frame whose end is not known yet."""

    frame: Any
    pts: Fraction
    duration: Fraction  # of the file, or one step
    number: int


def plausible_end(info: VideoInfo) -> Fraction:
    """Seconds of video time after which a timestamp is only accepted close to the one before."""
    return (info.duration or Fraction(0)) + max(info.start, Fraction(0)) + LONGEST_STEP


class Reader:
    """Read the frames of one video file in order; an iterator and a context manager. See `open_reader`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        segment: Segment | None = None,
        *,
        info: VideoInfo,
        strict: bool = False,
        deinterlace: bool = False,
        queue_frames: int = QUEUE_FRAMES,
    ) -> None:
        self.path = os.fspath(path)
        self.segment = segment if segment is not None else Segment()
        self.strict = strict
        self._deinterlace = deinterlace and info.interlaced
        self._source = info
        self.info = deinterlaced(info) if deinterlace else info
        self._remarks: dict[str, tuple[Fraction, str]] = {}  # topic -> time and text of the first
        self._reordered: list[Fraction] = []  # pts of frames whose timestamp was corrected
        self._jumps: list[Fraction] = []  # pts of frames before which the clock jumps
        self._broken_off = False  # the file ends early: its last frame is not extended to the end in the header
        self._decoder: StreamDecoder | None = None  # of the current pass; counts the damage
        self._at_end = False  # the current pass has reached the end of the file
        self._undelivered: list[int | None] = []  # timestamps in the index of the file that have no packet
        self._structure = Structure()
        self._steps: list[tuple[Fraction, int]] = []  # (pts, frames left out before it) at a constant rate
        self._late = Fraction(0)  # seconds by which the video ends before the end in its header
        self._promised_end: Fraction | None = None  # seconds; from the header of a truncated file
        self._queue: queue.Queue[Frame | BaseException | None] = queue.Queue(maxsize=queue_frames)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._done = False
        # From here on all frames are decoded, before it only reference frames. None: all frames.
        start = None if info.vfr or self._deinterlace else self.segment.start
        self._whole_from = None if start is None else start - SKIMMED

    @property
    def warnings(self) -> tuple[str, ...]:
        """Faults found so far; complete when the last frame has been read."""
        return self.findings().texts(self._source, self._frames_decoded, self.segment)

    @property
    def damage(self) -> Damage:
        """Missing and broken frames and packets so far; complete when the last frame has been read."""
        return self.findings().damage(self._source, self._frames_decoded, self.segment)

    @property
    def _frames_decoded(self) -> int:
        return 0 if self._decoder is None else self._decoder.frames

    def findings(self) -> Findings:
        """Return the faults found so far, by time; complete when the last frame has been read."""
        decoder, undelivered = self._decoder, list(self._undelivered)

        def seconds(stamps: Iterable[int]) -> frozenset[Fraction]:
            return frozenset(stamp * self._source.time_base - self._source.origin for stamp in stamps)

        of_decoder = {} if decoder is None else {
            "missing": seconds(decoder.missing),
            "failed": seconds(decoder.failed.copy()),
            "broken": seconds(decoder.broken.copy()),
            "concealed": seconds(decoder.concealed.copy()),
        }  # fmt: skip
        return Findings(
            **of_decoder,
            absent=seconds(stamp for stamp in undelivered if stamp is not None),
            reordered=frozenset(self._reordered.copy()),
            jumps=frozenset(self._jumps.copy()),
            steps=frozenset(self._steps.copy()),
            remarks=self._remarks.copy(),
            untimed=undelivered.count(None),
            late=self._late,
            promised_end=self._promised_end,
            holes=self._structure.holes,
            cut_bytes=self._structure.cut_bytes,
        )

    def __enter__(self) -> Reader:
        self._thread = threading.Thread(target=self._work, name="midframe-reader", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop decoding and join the thread. Safe to call twice."""
        self._stop.set()
        self._done = True
        if self._thread is not None:
            while self._thread.is_alive():
                try:  # the thread may be waiting for room
                    self._queue.get_nowait()
                except queue.Empty:
                    self._thread.join(0.01)
            self._thread.join()

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        if self._thread is None:
            raise RuntimeError("a reader is used within 'with open_reader(...) as frames:'")
        if self._done:
            raise StopIteration
        item = self._queue.get()
        if isinstance(item, Frame):
            return item
        self._done = True
        if item is None:
            raise StopIteration
        raise item

    # everything below runs in the decoder's thread

    def _work(self) -> None:
        end: BaseException | None = None
        are_images = self.info.container == "images"
        try:
            files = images.files_of(self.path) if are_images else []
            for frame in images.read_sequence(self.info, files, self.segment) if are_images else self._frames():
                if not self._put(frame):
                    return
        except BaseException as error:
            end = error
        self._put(end)

    def _put(self, item: Frame | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _remark(self, topic: str, at: Fraction, text: str) -> None:
        """Keep the first remark on a topic, at a time of the video."""
        self._refuse(text)
        self._remarks.setdefault(topic, (at, text))

    def _refuse(self, text: str) -> None:
        """Raise if `strict`."""
        if self.strict:
            raise MediaError(f"{named(self.path)}: {text}; --strict refuses damaged files")

    def _refuse_damage(self) -> None:
        """Raise at the first damage if `strict`."""
        if self.strict and (damage := self.damage):
            self._refuse(str(damage))

    def _frames(self) -> Iterator[Frame]:
        """Yield the frames of the segment; the duration of each is the time to the next."""
        info = self.info
        step = 1 / info.rate if info.rate else Fraction(1, 25)
        waiting: _Waiting | None = None
        for index, (frame, pts, seconds) in enumerate(self._timed()):
            if self.segment.end is not None and pts >= self.segment.end:
                if waiting is not None:
                    yield self._frame(waiting, pts - waiting.pts)
                return
            # the frame shown at the start of the segment may have begun before it
            if waiting is not None and (self.segment.start is None or pts > self.segment.start):
                if self._whole_from is not None and waiting.pts < self._whole_from:
                    # in a gap of the video the held frame may be one that was skipped
                    self._whole_from = None
                    for found in (self._remarks, self._reordered, self._jumps, self._steps):
                        found.clear()
                    yield from self._frames()
                    return
                yield self._frame(waiting, pts - waiting.pts)
            waiting = _Waiting(frame, pts, seconds if 0 < seconds <= LONGEST_STEP else step, index)
        if waiting is not None:
            yield self._frame(waiting, self._last_length(waiting))
        elif self.segment == Segment():
            raise MediaError(f"{named(self.path)}: no frame could be decoded")

    def _frame(self, waiting: _Waiting, duration: Fraction) -> Frame:
        """Convert a decoded frame to planes; frames before the segment are never converted."""
        form = self.info.format
        made = formats.to_planar(waiting.frame, form, self.info.width, self.info.height)
        return Frame(formats.planes_of(made, form), form, waiting.pts, duration, waiting.number)

    def _last_length(self, frame: _Waiting) -> Fraction:
        """Return the duration of the last frame of the video.

        Containers that store intervals in decoding order do not give it; then the frame lasts to the end of the
        stream.
        """
        info = self.info
        if info.vfr and info.duration is not None and not self._broken_off:
            left = info.start + info.duration - frame.pts
            if info.time_base <= left <= LONGEST_STEP:
                return left
        step = 1 / info.rate if info.rate else frame.duration
        return step if not info.vfr and abs(frame.duration - step) < step else frame.duration

    def _timed(self) -> Iterator[tuple[Any, Fraction, Fraction]]:
        """Yield (frame, pts, duration) with strictly increasing pts, in seconds of video time."""
        info = self.info
        step = 1 / info.rate if info.rate else Fraction(1, 25)
        latest = plausible_end(info)
        shift = Fraction(0)  # added to the clock of the file after a jump
        last: Fraction | None = None
        lasting = step
        size = (info.width, info.height)
        pixels: str | None = None
        for frame, stamp, tick in self._shown():
            seconds = (frame.duration or 0) * tick
            pts = None if stamp is None else stamp * tick - info.origin + shift
            if last is None:
                pts = info.start if pts is None else pts
            elif pts is None:
                pts = last + step
            elif pts <= last:
                if last - pts > LONGEST_STEP:
                    shift += last + step - pts
                    self._jumps.append(last + step)
                else:
                    self._reordered.append(last + step)
                pts = last + step
            elif pts - last > (LONGEST_STEP if pts > latest else LONGEST_PAUSE):
                shift += last + step - pts
                self._jumps.append(last + step)
                pts = last + step
            elif info.rate and (pts - last) * info.rate > Fraction(3, 2) and len(self._steps) < MAX_STEPS:
                self._steps.append((pts, round((pts - last) * info.rate) - 1))
            last = pts
            name = frame.format.name.replace("yuvj", "yuv")
            if pixels is None:
                pixels = name
            elif name != pixels and "pixel format" not in self._remarks:
                self._remarks["pixel format"] = pts, (
                    f"the pixel format changes from {pixels} to {name} at {float(pts):.3f} s; "
                    f"frames are converted to {info.format.name}"
                )
            if (frame.width, frame.height) != size and "size" not in self._remarks:
                self._remark(
                    "size",
                    pts,
                    f"the frame size changes from {size[0]}x{size[1]} to {frame.width}x{frame.height} at "
                    f"{float(pts):.3f} s; it is scaled to the first size",
                )
            lasting = seconds if 0 < seconds <= LONGEST_STEP else step
            yield frame, pts, seconds
        if self._reordered:
            self._refuse(reordered_text(len(self._reordered)))
        if self._jumps:
            self._refuse(jumps_text(len(self._jumps)))
        if last is not None and self.segment.end is None and info.duration is not None:
            end = info.start + info.duration
            if self._promised_end is not None:
                end = self._promised_end = max(end, self._promised_end)
            missing = end - (last + lasting)
            cut = self._structure.cut_bytes > 0
            exact = (info.exact_duration and (cut or not info.vfr)) or self._promised_end is not None
            if missing > (Fraction(3, 4) * step + info.time_base if exact else max(2 * step, INEXACT_END)):
                self._broken_off = True
                self._late = missing
                if (info.vfr or not info.rate) and not self._undelivered:
                    self._remark(
                        "end",
                        last,
                        f"it ends {float(missing):.2f} s early: {float(last + lasting - info.start):.2f} s of "
                        f"{float(end - info.start):.2f} s could be read",
                    )
        self._refuse_damage()

    def _shown(self) -> Iterator[tuple[Any, int | None, Fraction]]:
        """Yield (decoded frame, timestamp, seconds per unit), from a key frame at or before the segment."""
        decoded = sorted_stamps(self._decoded())
        if not self._deinterlace:
            yield from decoded
            return
        graph: Any = None
        sink: Any = None
        tick = self._source.time_base
        for frame, stamp, tick in decoded:
            if graph is None:
                graph = av.filter.Graph()
                feed = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=tick)
                # deint=all: frames flagged progressive in an interlaced stream still last two fields
                bwdif = graph.add("bwdif", "mode=send_field:parity=auto:deint=all")
                sink = graph.add("buffersink")
                graph.link_nodes(feed, bwdif, sink)
                graph.configure()
            frame.pts = stamp
            graph.push(frame)
            yield from self._filtered(sink, tick / 2)
        if graph is not None:
            graph.push(None)
            yield from self._filtered(sink, tick / 2)

    def _filtered(self, sink: Any, tick: Fraction) -> Iterator[tuple[Any, int | None, Fraction]]:
        while True:
            try:
                frame = sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            yield frame, frame.pts, tick

    def _decoded(self) -> Iterator[tuple[Any, int | None, Fraction]]:
        start = self.segment.start
        if start is not None and self._deinterlace:
            start -= 4 * self._source.time_base + (2 / self._source.rate if self._source.rate else 0)
        if start is None or start <= self._source.start:
            yield from self._decode_from(None)
            return
        for back in BACK_STEPS:
            wanted = start - back
            if wanted <= self._source.start:
                break
            found = self._decode_from(wanted)
            held: list[tuple[Any, int | None, Fraction]] = []
            exact = False
            for item in found:
                frame, stamp, tick = item
                if stamp is not None and frame.key_frame and stamp * tick - self._source.origin <= start:
                    exact = not frame.is_corrupt  # its concealment depends on the frames before it
                    held.append(item)
                    break
                if stamp is not None and stamp * tick - self._source.origin > start:
                    break  # the seek went past the key frame
            if exact:
                yield from held
                yield from found
                return
        yield from self._decode_from(None)

    def _decode_from(self, wanted: Fraction | None) -> Iterator[tuple[Any, int | None, Fraction]]:
        source = self._source
        self._at_end = False
        with ExitStack() as opened, witness(self.path) as check_still_there:
            container, stream = self._open(opened)
            tick = Fraction(stream.time_base)
            if wanted is not None:
                try:
                    container.seek(int((wanted + source.origin) / tick), stream=stream, backward=True)
                except (av.error.FFmpegError, OverflowError):
                    return  # cannot seek: the caller reads from the start
            elif self.strict:
                self._structure = self._examine()
                self._refuse_damage()

            def open_decoder(threads: bool) -> Any:
                return decoder_of(stream if threads else self._open(opened)[1], threads)

            decoder = self._decoder = StreamDecoder(
                source.codec, open_decoder, from_start=wanted is None and not INDEXED.isdisjoint(names_of(container))
            )
            packets = packets_of(container, stream)
            first_dts = last_dts = None
            delivered: list[int] = []  # positions of packets with a dts
            while not self._stop.is_set():
                try:
                    packet = next(packets)
                except StopIteration:
                    break
                except (av.error.FFmpegError, OSError) as error:
                    check_still_there()
                    at = source.start if last_dts is None else last_dts * tick - source.origin
                    self._remark("stop", at, f"reading stops at a damaged place ({error.strerror or error})")
                    packet = av.packet.Packet()  # the decoder still holds frames; `packets` ends after its error
                if not packet.size and packet.pts is not None:
                    continue  # AVI: the frame before is shown again
                if packet.dts is not None:
                    first_dts = packet.dts if first_dts is None else first_dts
                    last_dts = packet.dts
                    delivered.append(-1 if packet.pos is None else packet.pos)
                early = (
                    self._whole_from is not None
                    and packet.pts is not None
                    and packet.pts * tick - source.origin < self._whole_from
                )
                for frame in decoder.decode(packet, early):
                    stamp = frame.pts if frame.pts is not None else frame.dts
                    yield frame, stamp, tick
                self._refuse_damage()
            else:
                return  # stopped: the rest of the file is unknown
            check_still_there()
            decoder.finish()
            self._at_end = True
            self._undelivered = _undelivered(container, stream, (first_dts, last_dts), delivered)
            self._structure = self._examine()
            alone = not any(other.kind == "audio" for other in source.streams)  # audio may last longer than the video
            if self._structure.cut_bytes and container.duration and alone and not source.exact_duration:
                self._promised_end = Fraction(container.duration, av.time_base)

    def _open(self, opened: ExitStack) -> tuple[Any, Any]:
        """Open the file and its video stream; packets of other streams are discarded."""
        container = opened.enter_context(open_source(self.path))
        if self._source.video_index >= len(container.streams):
            raise MediaError(f"{named(self.path)} has changed since it was looked at")
        stream = container.streams[self._source.video_index]
        if stream.codec_context is None:
            raise UnsupportedError(f"{named(self.path)}: no decoder for its video codec is in this build of PyAV")
        discard_others(container, stream)
        return container, stream

    def _examine(self) -> Structure:
        try:
            return examine(self.path, self._source.container)
        except OSError:
            return Structure()


def names_of(container: Any) -> frozenset[str]:
    """Return libav's names of the demuxer of an open file."""
    return frozenset(container.format.name.split(","))


def _undelivered(
    container: Any, stream: Any, span: tuple[int | None, int | None], delivered: Sequence[int]
) -> list[int | None]:
    """Return the timestamps of frames in the index that have no packet; None for unknown timestamps.

    Args:
        container: the file, read to its end.
        stream: its video stream.
        span: dts of the first and the last packet.
        delivered: positions of packets with a dts, in bytes.
    """
    first, last = span
    names = names_of(container)
    if first is None or last is None or not ("mp4" in names or "avi" in names):
        return []  # elsewhere an index holds key frames only
    promised = [entry for entry in stream.index_entries if entry.size and entry.timestamp >= first]
    if "avi" in names:  # while libav searches for the next chunk, it may take other bytes for one
        places = set(delivered)
        return [entry.timestamp for entry in promised if entry.pos + AVI_CHUNK_HEADER not in places]
    behind: list[int | None] = [e.timestamp for e in promised if e.timestamp > last and not e.is_discard]
    return behind + [None] * max(0, len(promised) - len(behind) - len(delivered))


def sorted_stamps(frames: Iterator[tuple[Any, int | None, Fraction]]) -> Iterator[tuple[Any, int | None, Fraction]]:
    """Reassign timestamps so that they increase: each frame gets the smallest of the next few.

    Decoders return frames in display order, but their timestamps may be in decoding order: AVI has no others (and DivX
    and Xvid pack B-frames), and VC-1 in MP4 was often copied from AVI. Timestamps are not sorted across clock jumps.
    """
    waiting: deque[tuple[Any, int | None, Fraction]] = deque()
    stamps: list[int] = []

    def due() -> tuple[Any, int | None, Fraction]:
        frame, stamp, tick = waiting.popleft()
        return frame, None if stamp is None else heapq.heappop(stamps), tick

    for item in frames:
        stamp, tick = item[1:]
        if stamp is not None and stamps and abs(stamp - stamps[0]) * tick > LONGEST_STEP:
            while waiting:
                yield due()
        waiting.append(item)
        if stamp is not None:
            heapq.heappush(stamps, stamp)
        if len(waiting) > SORTED_STAMPS:
            yield due()
    while waiting:
        yield due()


def deinterlaced(info: VideoInfo) -> VideoInfo:
    """Describe an interlaced video after deinterlacing to the field rate; other videos are returned unchanged."""
    if not info.interlaced:
        return info
    return replace(
        info,
        rate=info.rate * 2 if info.rate else None,
        time_base=info.time_base / 2,
        interlaced=False,
        header_frames=info.header_frames * 2 if info.header_frames else None,
    )


def open_reader(
    path: str | os.PathLike[str],
    segment: Segment | None = None,
    *,
    info: VideoInfo | None = None,
    in_rate: Fraction | None = None,
    strict: bool = False,
    deinterlace: bool = False,
) -> Reader:
    """Open a video file or a sequence of images for reading, from its start or a segment of it.

    Args:
        path: as for `probe`.
        segment: half-open range of video time. The first frame is the one shown at `segment.start`, which may have
            begun before it; the last one is the last with `pts < segment.end`.
        info: description of the file by `probe`, if it is known already.
        in_rate: frames per second of a sequence of images.
        strict: a damaged or truncated file is an error instead of a shorter video with `warnings`.
        deinterlace: make one full frame of each field (bwdif) where the source is interlaced; `info.rate` of the
            reader is then twice the source's.

    Returns:
        A context manager that iterates over frames: `pts` in seconds of video time (`VideoInfo.origin` is taken off),
        exact and strictly increasing; `duration` is the time to the next frame, for the last one that of the file;
        `index` counts the frames.

    Raises:
        MediaError: the file cannot be read (also later on, from the iteration).
    """
    source = info if info is not None else probe(path, in_rate=in_rate)
    return Reader(path, segment, info=source, strict=strict, deinterlace=deinterlace)
