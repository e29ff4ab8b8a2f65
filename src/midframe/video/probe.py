"""Describe a video file: `probe(path)` reads its header, its first frames and some of its timestamps.

Header values are kept apart from measured and counted ones. Only a few frames are decoded, unless counting is
requested, and only the named file is opened: playlists, concat scripts, references to other files and network
addresses inside a file are refused.
"""

from __future__ import annotations

import os
import statistics
import struct
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import av.container
import av.error
import av.filter
import av.logging
import av.packet
import av.stream

from midframe.errors import MediaError, UnsupportedError
from midframe.types import Mastering, StreamInfo, VideoInfo
from midframe.video import formats, images, still_metadata
from midframe.video.decoding import StreamDecoder
from midframe.video.files import (
    choose_stream,
    decoder_of,
    discard_others,
    is_cover,
    named,
    open_source,
    origin_of,
    packets_of,
    refuse_unread_image,
)
from midframe.video.rates import measure_rate, stream_rates
from midframe.video.source_format import format_of

FIRST_FRAMES = 4  # decoded to detect interlacing
# Limits of the scan of timestamps: whichever is reached first.
SCAN_PACKETS = 600
SCAN_BYTES = 24 << 20
MAX_COUNTED_BYTES = 8 << 30  # size of a VFR file whose frames are counted by reading it
# Bounds of the search for a first frame in a damaged file.
SEARCH_PACKETS = 5000
SCANNED_BYTES = 256 << 20
MAX_INDEX = 500_000  # entries of an index that are checked: 2.3 hours at 60 fps
_INTERLACED = (2, 3, 4, 5)  # AVFieldOrder: TT, BB, TB, BT
_DOLBY_TAGS = ("dvh1", "dvhe", "dva1", "dvav", "dav1")
_HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}


@dataclass
class _Scan:
    """Packets and frames from the start of a stream."""

    frames: list[Any] = field(default_factory=list)
    pts: list[int] = field(default_factory=list)  # ticks, in file order
    durations: list[int] = field(default_factory=list)
    packets: int = 0
    whole: bool = False  # the scan reached the end of the file
    encrypted: bool = False
    corrupt: int = 0  # packets that did not decode

    def forget_unfinished(self, dts: int | None) -> None:
        """Drop timestamps that later packets may still precede, because packets are in decoding order.

        Later packets are decoded after `dts`, that of the last packet, and displayed after it too. Without it the
        last 16 timestamps are dropped, the reordering limit of H.264 and H.265.
        """
        last = dts if dts is not None else sorted(self.pts)[-17] if len(self.pts) > 17 else None
        if last is not None:
            kept = [(stamp, length) for stamp, length in zip(self.pts, self.durations, strict=True) if stamp <= last]
            self.pts, self.durations = [stamp for stamp, _ in kept], [length for _, length in kept]


def _scan(container: Any, stream: Any) -> _Scan:
    scan = _Scan()
    size = 0
    decoder = decoder_of(stream)
    discard_others(container, stream)
    try:
        for packet in packets_of(container, stream):
            if packet.size:
                scan.packets += 1
                size += packet.size
                if packet.has_sidedata("encryption_info"):
                    scan.encrypted = True
                stamp = packet.pts if packet.pts is not None else packet.dts
                if stamp is not None and not packet.is_discard:
                    scan.pts.append(stamp)
                    scan.durations.append(packet.duration or 0)
            if len(scan.frames) < FIRST_FRAMES:
                try:
                    scan.frames += decoder.decode(packet)
                except (av.error.FFmpegError, ValueError):
                    scan.corrupt += 1
            enough = SCAN_PACKETS, SCAN_BYTES
            if not scan.frames:
                enough = SEARCH_PACKETS, SCANNED_BYTES
            if scan.packets >= enough[0] or size >= enough[1]:
                scan.forget_unfinished(packet.dts)
                break
        else:
            scan.whole = True
    except (av.error.FFmpegError, OSError, ValueError):
        scan.whole = True
    if not scan.frames:
        try:
            scan.frames += decoder.decode(None)
        except (av.error.FFmpegError, ValueError):
            scan.corrupt += 1
    return scan


def _index_is_regular(stream: Any, rate: Fraction | None) -> bool:
    """Return False if the index of the file has unequal frame intervals anywhere in the video.

    An index of key frames only, as in Matroska, is not used.
    """
    entries = stream.index_entries
    if not 2 <= len(entries) <= MAX_INDEX or (stream.frames and len(entries) < stream.frames):
        return True
    if not stream.frames:
        seconds = (entries[-1].timestamp - entries[0].timestamp) * Fraction(stream.time_base)
        if rate is None or 2 * len(entries) < seconds * rate:
            return True
    stamps = [entry.timestamp for entry in entries]
    if any(entry.is_discard for entry in entries):
        return True  # after an edit list, decoding times do not give presentation times
    steps = {b - a for a, b in pairwise(stamps[:-1])}
    return not steps or max(steps) - min(steps) <= 1


def _rotation(matrix: tuple[int, ...] | None) -> int:
    """Return the rotation of a display matrix in degrees clockwise, a multiple of 90."""
    if matrix is None:
        return 0
    a, b = matrix[0], matrix[1]
    if abs(a) >= abs(b):
        return 0 if a >= 0 else 180
    return 90 if b > 0 else 270


def _side_data(frame: Any, kind: str) -> bytes | None:
    try:
        return bytes(frame.side_data[kind])
    except (KeyError, IndexError, ValueError):  # ValueError: side data that PyAV does not know, such as EXIF
        return None


def _stereo(raw: bytes | None) -> bytes | None:
    """Return AVStereo3D; None for its type 0, an ordinary video, as some programs mark theirs."""
    return None if raw is None or not any(raw[:4]) else raw


def _mastering(raw: bytes | None) -> Mastering | None:
    """Parse AVMasteringDisplayMetadata: ten pairs of int32 and two flags."""
    if raw is None or len(raw) < 88:
        return None
    numbers = struct.unpack("<22i", raw[:88])
    if not (numbers[20] and numbers[21]) or any(numbers[2 * n + 1] == 0 for n in range(10)):
        return None
    values = [Fraction(numbers[2 * n], numbers[2 * n + 1]) for n in range(10)]
    return Mastering(
        (values[0], values[1]), (values[2], values[3]), (values[4], values[5]), (values[6], values[7]),
        values[8], values[9],
    )  # fmt: skip


def _content_light(raw: bytes | None) -> tuple[int, int] | None:
    if raw is None or len(raw) < 8:
        return None
    brightest, average = struct.unpack("<2I", raw[:8])
    return (brightest, average) if brightest or average else None


def stream_infos(container: Any) -> tuple[StreamInfo, ...]:
    """Describe all streams of a container from its header."""
    found = []
    for stream in container.streams:
        context = stream.codec_context
        codec = context.codec.canonical_name if context is not None else getattr(stream, "name", None) or "unknown"
        flags = tuple(flag.name for flag in av.stream.Disposition if flag.name and stream.disposition & flag)
        found.append(
            StreamInfo(stream.index, stream.type, codec, stream.metadata.get("language"), flags, dict(stream.metadata))
        )
    return tuple(found)


def probe(path: str | os.PathLike[str], count: bool = False, in_rate: Fraction | None = None) -> VideoInfo:
    """Describe a video file or a sequence of images.

    Args:
        path: a video file, a folder of images, a pattern of images (`%04d.png`, `*.png`), or one image.
        count: also decode all of it and count the frames (takes as long as decoding does).
        in_rate: frames per second of a sequence of images.

    Returns:
        The description; `header_frames` and `duration` come from the header, `counted_frames` only with `count`.

    Raises:
        MediaError: missing, a folder, not a video, audio only, encrypted, or no frame can be decoded.
        UnsupportedError: a codec or container that this build of PyAV does not support.
    """
    if not os.path.isdir(path):
        refuse_unread_image(path)
    if images.is_sequence(path):
        return images.probe_sequence(path, in_rate)
    with open_source(path) as container:
        stream = choose_stream(container, path)
        info = _describe(container, stream, path)
    if count:
        info = replace(info, counted_frames=_count(path, info.video_index))
    return info


def _describe(container: Any, stream: Any, path: str | os.PathLike[str]) -> VideoInfo:
    context = stream.codec_context
    codec = context.codec.canonical_name
    scan = _scan(container, stream)
    if not scan.frames:
        if scan.encrypted or "enc" in container.metadata.get("major_brand", ""):
            raise UnsupportedError(f"{named(path)} is encrypted (DRM); only unprotected video can be read")
        if scan.packets == 0:
            raise MediaError(f"{named(path)} has a video stream, but no frames in it")
        hint = "it is damaged or encrypted"
        raise MediaError(f"{named(path)}: no frame of its {codec} video could be decoded; {hint}")
    if len(scan.frames) == 1 and container.format.name.endswith("_pipe"):
        raise MediaError(
            f"{named(path)} is an image, not a video; midframe interpolate A B takes two, named .jpg, .png ..."
        )
    first = scan.frames[0]
    made, untagged = format_of(first, context, codec)
    tick = Fraction(stream.time_base)
    warnings = []
    claims = stream_rates(stream, timed=bool(scan.pts))
    interlaced = sum(frame.interlaced_frame for frame in scan.frames) * 2 > len(scan.frames)
    if len(scan.frames) < 2:
        interlaced = interlaced or context.field_order in _INTERLACED
    # the two fields of a frame may come as two packets: only decoded frames count then
    stamps = scan.pts
    if interlaced and codec in ("h264", "hevc", "mpeg2video"):
        stamps = [p.pts for p in scan.frames if p.pts is not None]
    rate, variable = measure_rate(stamps, tick, claims)
    if not variable and not interlaced and not _index_is_regular(stream, rate):
        variable = True
    origin = origin_of(container)
    start = Fraction(first.pts) * tick - origin if first.pts is not None else Fraction(0)
    matrix_bytes = _side_data(first, "DISPLAYMATRIX")
    display = struct.unpack("<9i", matrix_bytes[:36]) if matrix_bytes and len(matrix_bytes) >= 36 else None
    aspect = formats.exact(stream.sample_aspect_ratio) or Fraction(1)
    if not Fraction(1, 16) <= aspect <= 16:
        warnings.append(f"a sample aspect ratio of {aspect} is replaced by 1")
        aspect = Fraction(1)
    hdr = _HDR.get(made.transfer)
    if _is_dolby_vision(container, first):
        warnings.append("Dolby Vision metadata cannot be kept; its base layer is kept")
        hdr = "Dolby Vision"
    if _side_data(first, "DYNAMIC_HDR_PLUS"):
        warnings.append("HDR10+ dynamic metadata cannot be kept; static HDR metadata is kept")
    if any(_side_data(frame, "A53_CC") for frame in scan.frames):
        warnings.append("closed captions inside the video stream cannot be kept")
    if scan.corrupt:
        warnings.append(f"{scan.corrupt} packet(s) at the start could not be decoded")
    other = [s.index for s in container.streams if s.type == "video" and not is_cover(s) and s.index != stream.index]
    if other:
        rest = ", ".join(str(index) for index in other)
        warnings.append(f"several video streams: stream {stream.index} is interpolated, {rest} not")
    span = _index_span(container, stream)
    if stream.duration and 0 < stream.duration < span * Fraction(9, 10):
        warnings.append(
            f"the header gives {float(stream.duration * tick):.3g} s, the file's index {float(span * tick):.3g} s; "
            f"the index is used"
        )
    frames = stream.frames or int(_number(stream.metadata.get("NUMBER_OF_FRAMES")))
    if scan.whole and not scan.corrupt and codec not in ("h264", "hevc", "mpeg2video"):
        frames = len(set(scan.pts)) or frames
    elif scan.whole and not scan.corrupt and not frames and not interlaced:
        frames = len(set(scan.pts))
    elif variable and not frames and not interlaced and not scan.whole:
        frames = _frames_by_reading(path, stream.index)
    return VideoInfo(
        path=os.fspath(path),
        container=container.format.name,
        codec=codec,
        width=first.width,
        height=first.height,
        format=made,
        rate=rate,
        time_base=tick,
        start=start,
        duration=_duration(container, stream, scan, tick, first),
        loops=still_metadata.loops(path) if container.format.name in ("gif", "apng") else None,
        timecode=_timecode(container, stream),
        captions=any(_side_data(frame, "A53_CC") for frame in scan.frames),
        spherical=_side_data(first, "SPHERICAL"),
        stereo=_stereo(_side_data(first, "STEREO3D")),
        exact_duration=_has_exact_duration(container, stream),
        header_frames=frames or None,
        vfr=variable,
        interlaced=interlaced,
        rotation=_rotation(display),
        sample_aspect=aspect,
        hdr=hdr,
        video_index=stream.index,
        streams=stream_infos(container),
        tags=dict(container.metadata),
        warnings=tuple(warnings),
        origin=origin,
        untagged=untagged,
        display_matrix=display,
        mastering=_mastering(_side_data(first, "MASTERING_DISPLAY_METADATA")),
        content_light=_content_light(_side_data(first, "CONTENT_LIGHT_LEVEL")),
        chapters=len(container.chapters()),
    )


def _is_dolby_vision(container: Any, first: Any) -> bool:
    """Return whether a video has Dolby Vision metadata: in its frames, or in an enhancement layer beside it."""
    if _side_data(first, "DOVI_METADATA") or _side_data(first, "DOVI_RPU_BUFFER"):
        return True
    if "dby1" in container.metadata.get("compatible_brands", ""):
        return True
    contexts = [stream.codec_context for stream in container.streams.video]
    return any(context is not None and context.codec_tag in _DOLBY_TAGS for context in contexts)


def key_times(path: str | os.PathLike[str], info: VideoInfo) -> list[Fraction]:
    """Return the times of the key frames of a video, in seconds, in order, without decoding.

    A truncated file gives the times up to its end; a sequence of images gives those of all images.

    Raises:
        MediaError: the file cannot be opened.
    """
    if info.container == "images":
        files = images.files_of(path)
        count = images.positions(path, files) if info.vfr and len(files) > 1 else range(len(files))
        return [n * info.time_base for n in count]
    found: set[Fraction] = set()
    with open_source(path) as container:
        stream = container.streams[info.video_index]
        discard_others(container, stream)
        try:
            for packet in packets_of(container, stream):
                if packet.is_keyframe and packet.pts is not None and packet.size and not packet.is_discard:
                    found.add(packet.pts * info.time_base - info.origin)
        except (av.error.FFmpegError, OSError):
            return sorted(found)
    return sorted(found)


def _number(text: str | None) -> int:
    try:
        return max(0, int(text or 0))
    except ValueError:
        return 0


def _duration(container: Any, stream: Any, scan: _Scan, tick: Fraction, first: Any) -> Fraction | None:
    """Return the duration of the video stream in seconds, from the header or a scan of the whole file.

    Frames before `first`, the first that decodes, do not count: recordings of broadcasts begin between key frames.
    """
    seconds = _header_duration(container, stream, scan, tick)
    if seconds is None or first.pts is None or stream.start_time is None:
        return seconds
    late = (first.pts - stream.start_time) * tick
    return seconds - late if 0 < late < seconds else seconds


def _timecode(container: Any, stream: Any) -> str | None:
    """Return the timecode of the first frame, from the video stream, its timecode track or the file."""
    places = [stream.metadata, *(s.metadata for s in container.streams if s.type == "data"), container.metadata]
    return next((tags["timecode"] for tags in places if tags.get("timecode")), None)


def _has_exact_duration(container: Any, stream: Any) -> bool:
    """Return whether the header of the stream gives its duration; libav estimates it for MPEG streams."""
    anywhere = any(name in container.format.name.split(",") for name in ("mpegts", "mpeg", "mpegtsraw", "rm", "flv"))
    return not anywhere and bool((stream.duration and stream.duration > 0) or stream.metadata.get("DURATION"))


def _index_span(container: Any, stream: Any) -> Fraction:
    """Return the ticks from the first to the end of the last frame in the index of an MP4 file; 0 without an index.

    A header with a shorter duration is wrong: some cameras and repair programs write one.
    """
    entries = stream.index_entries
    complete = "mp4" in container.format.name.split(",") and 2 <= len(entries) == stream.frames
    if not complete or any(entry.is_discard for entry in (entries[0], entries[-1])):
        return Fraction(0)
    # the index has no duration of the last frame; a mean would include pauses
    usual = statistics.median_low([b.timestamp - a.timestamp for a, b in pairwise(entries)])
    return Fraction(entries[-1].timestamp - entries[0].timestamp + usual)


def _header_duration(container: Any, stream: Any, scan: _Scan, tick: Fraction) -> Fraction | None:
    if stream.duration and stream.duration > 0:
        return max(Fraction(stream.duration), _index_span(container, stream)) * tick
    text = stream.metadata.get("DURATION") or stream.metadata.get("DURATION-eng") or ""
    parts = text.split(":")
    if len(parts) == 3:
        try:
            seconds = int(parts[0]) * 3600 + int(parts[1]) * 60 + Fraction(parts[2])
        except ValueError:
            seconds = Fraction(0)
        if seconds > 0:
            return seconds - max(Fraction(0), (stream.start_time or 0) * tick)
    if scan.whole and scan.pts:
        last = max(zip(scan.pts, scan.durations, strict=True))
        length = last[1] or (max(scan.durations) if len(scan.pts) > 1 else 0)
        return (last[0] - min(scan.pts) + length) * tick
    if container.duration and container.duration > 0:
        return Fraction(container.duration, av.time_base)
    return None


def _frames_by_reading(path: str | os.PathLike[str], index: int) -> int:
    """Count distinct timestamps by reading the whole file without decoding; 0 for a very large one."""
    if os.path.getsize(path) > MAX_COUNTED_BYTES:
        return 0
    stamps = set()
    with open_source(path) as container, suppress(av.error.FFmpegError, OSError):
        stream = container.streams[index]
        discard_others(container, stream)
        for packet in packets_of(container, stream):
            if packet.size and packet.pts is not None and not packet.is_discard:
                stamps.add(packet.pts)
    return len(stamps)


def _count(path: str | os.PathLike[str], index: int) -> int:
    """Count the frames that decode; the same on any number of cores."""
    with ExitStack() as opened:
        container = opened.enter_context(open_source(path))
        stream = container.streams[index]
        discard_others(container, stream)

        def open_decoder(threads: bool) -> Any:
            again = stream if threads else opened.enter_context(open_source(path)).streams[index]
            return decoder_of(again, threads)

        decoder = StreamDecoder(stream.codec_context.codec.canonical_name, open_decoder)
        try:
            for packet in packets_of(container, stream):
                if packet.size or packet.pts is None:
                    decoder.decode(packet)
        except (av.error.FFmpegError, OSError):
            decoder.decode(av.packet.Packet())  # the frames that it still holds
        return decoder.frames
