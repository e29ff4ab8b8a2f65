"""What a video file is: `probe(path)` reads its header, its first pictures and some of its time stamps.

What the header says is kept apart from what was seen or counted. Nothing here decodes more than a few pictures,
unless counting is asked for, and nothing opens any file but the one that was named: playlists, concat scripts,
references to other files and network addresses inside a file are refused by libav on our order.
"""

from __future__ import annotations

import os
import re
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import av.container
import av.error
import av.filter
import av.logging
import av.stream

from midframe.errors import MediaError, UnsupportedError
from midframe.types import Mastering, PixelFormat, StreamInfo, VideoInfo
from midframe.video import formats

# Demuxers that follow names written inside a file, draw text as pictures, or read devices.
_REFUSED = frozenset({
    "hls", "applehttp", "dash", "concat", "concatf", "sdp", "rtsp", "rtp", "sap", "imf", "tty", "lavfi", "image2",
    "image2pipe", "webm_dash_manifest", "vapoursynth", "avisynth", "ffmetadata", "tedcaptions", "libopenmpt", "v4l2",
    "video4linux2", "fbdev", "x11grab", "kmsgrab", "alsa", "oss", "pulse", "sndio", "jack", "openal", "dshow",
    "gdigrab", "vfwcap", "avfoundation", "decklink", "libdc1394", "iec61883", "xcbgrab", "android_camera",
})  # fmt: skip
OPEN_SECONDS = 60.0  # longer than any header takes to read, shorter than a person waits
MAX_PIXELS = 16384 * 8704  # 16K video; a damaged header may ask for any amount of memory
FIRST_PICTURES = 4  # decoded to see interlacing
# Bounds of the look at time stamps: whichever is reached first.
LOOK_PACKETS = 600
LOOK_BYTES = 24 << 20
# Bounds of the search for a first picture in a damaged file.
SEARCH_PACKETS = 5000
SEARCH_BYTES = 256 << 20
_INVALID_DATA = 1094995529  # libav's number for it: AVERROR_INVALIDDATA, without the sign
MAX_INDEX = 500_000  # entries of a file's index that are looked through: 2.3 hours at 60 fps
# Rates that films have, for those whose header does not say or whose time stamps are rounded.
USUAL_RATES = tuple(
    Fraction(*pair)
    for pair in ((24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (48, 1), (50, 1), (60000, 1001), (60, 1),
                 (12, 1), (15, 1), (12000, 1001), (15000, 1001), (10, 1), (20, 1), (72, 1), (90, 1), (100, 1),
                 (120000, 1001), (120, 1), (144, 1), (240000, 1001), (240, 1))
)  # fmt: skip
# Codecs without a key to where chroma sits, that put it half-way between luma samples.
_CENTRED = ("mjpeg", "jpegls", "jpeg2000", "mpeg1video", "theora", "vp8", "webp", "png", "svq1", "svq3", "h263")
_PICTURES = ("png", "mjpeg", "tiff", "webp", "bmp", "gif", "apng", "jpeg2000", "jpegls", "libjxl", "targa", "dpx")
_INTERLACED = (2, 3, 4, 5)  # AVFieldOrder: TT, BB, TB, BT
_HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}


def named(path: str | os.PathLike[str]) -> str:
    """A path as messages show it."""
    return f"'{os.fspath(path)}'"


@lru_cache(maxsize=1)
def _allowed_demuxers() -> str:
    return ",".join(sorted(name for name in av.formats_available if name not in _REFUSED))


def missing(path: str | os.PathLike[str]) -> MediaError:
    """One line for a file that is not there, or no longer: it may go at any moment between two questions about it."""
    return MediaError(f"{named(path)} does not exist; check the name")


def check_path(path: str | os.PathLike[str]) -> None:
    """Raise a `MediaError` for what cannot be a readable file."""
    file = Path(path)
    try:
        if file.is_dir():
            raise MediaError(f"{named(path)} is a folder; give a video file, or a folder of pictures with --in-fps")
        if not file.exists():
            raise missing(path)
        if file.is_file() and file.stat().st_size == 0:
            raise MediaError(f"{named(path)} is empty (0 bytes)")
        if not os.access(file, os.R_OK):
            raise MediaError(f"{named(path)} may not be read; check its permissions")
    except FileNotFoundError as error:
        raise missing(path) from error
    except (OSError, ValueError) as error:  # a name that is too long, or holds a null character
        raise MediaError(f"{named(path)} cannot be opened: {getattr(error, 'strerror', None) or error}") from error


@contextmanager
def open_source(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a video file with libav; only this file, whatever is written in it.

    Yields:
        The `av.container.InputContainer`.

    Raises:
        MediaError: it cannot be opened, in one line.
    """
    check_path(path)
    options = {
        "format_whitelist": _allowed_demuxers(),
        "protocol_whitelist": "file",
        "max_pixels": str(MAX_PIXELS),
    }
    try:
        # "file:" keeps names with a colon or a leading dash from being read as anything else
        container = av.open(
            f"file:{os.fspath(path)}", options=options, metadata_errors="replace", timeout=(OPEN_SECONDS, None)
        )
    except (av.error.FFmpegError, ValueError, OSError, RuntimeError) as error:
        raise _refusal(path, error) from error
    try:
        yield container
    finally:
        container.close()


@contextmanager
def witness(path: str | os.PathLike[str]) -> Iterator[Callable[[], None]]:
    """Tell a file that ends or is damaged, which gives a shorter film, from one that is taken away while it is read.

    libav reports both as the end of the file. A file that has grown is still being recorded, and one whose name is gone
    can be read on: both are fine.

    Yields:
        A function to call where reading has come to an end; it raises a `MediaError` if the file is shorter than it was
        when this was entered, or if its disk does not answer.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size

        def check() -> None:
            try:
                now = os.fstat(file.fileno()).st_size
                last = max(0, min(now, size) - 1)
                if hasattr(os, "posix_fadvise"):  # or the system answers from memory for a disk that is gone
                    os.posix_fadvise(file.fileno(), last >> 16 << 16, 0, os.POSIX_FADV_DONTNEED)
                file.seek(last)
                file.read(1)
            except OSError as error:
                why = error.strerror or str(error)
            else:
                if now >= size:
                    return
                why = f"{size} bytes have become {now}"
            raise MediaError(f"{named(path)} was lost while it was read ({why}); bring it back")

        yield check


def _refusal(path: str | os.PathLike[str], error: Exception) -> MediaError:
    """One line for a file that libav does not open."""
    if isinstance(error, FileNotFoundError):
        return missing(path)
    if isinstance(error, av.error.PermissionError | PermissionError):
        return MediaError(f"{named(path)} may not be read; check its permissions")
    if isinstance(error, av.error.ExitError | TimeoutError):
        return MediaError(f"{named(path)}: nothing could be read from it within {OPEN_SECONDS:.0f} s")
    try:
        with open(path, "rb") as file:
            head = file.read(4096)
    except OSError:
        head = b""
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return MediaError(f"{named(path)} is not a video: it holds HTML or XML, perhaps an error page saved as a video")
    if start.startswith(b"#extm3u"):
        return UnsupportedError(f"{named(path)} is a playlist, not a video; give one of the files that it names")
    if start.startswith(b"version https://git-lfs"):
        return MediaError(f"{named(path)} is a Git LFS pointer, not the video itself; run 'git lfs pull' first")
    if head and b"\0" not in head and all(byte >= 32 or byte in b"\t\n\r\f\x1b" for byte in head):
        return MediaError(f"{named(path)} is not a video: it holds text")
    if head and head[4:8] in (b"ftyp", b"mdat", b"free", b"wide"):
        return MediaError(f"{named(path)} is damaged: its index is missing, as after a broken download or recording")
    return MediaError(f"{named(path)} is not a video that can be read; damaged, encrypted, or no video at all")


def choose_stream(container: Any, path: str | os.PathLike[str]) -> Any:
    """The video stream that is interpolated: no cover art; the default one, else the one with most pixels.

    Raises:
        MediaError: there is none.
        UnsupportedError: there is one, but no decoder for it.
    """
    videos = [stream for stream in container.streams if stream.type == "video"]
    moving = [stream for stream in videos if not is_cover(stream)]
    if not moving:
        kinds = {stream.type for stream in container.streams}
        if videos:
            raise MediaError(f"{named(path)} holds sound and a cover picture, but no video")
        if "audio" in kinds:
            raise MediaError(f"{named(path)} holds sound only, no video")
        raise MediaError(f"{named(path)} holds no video stream")
    known = [stream for stream in moving if stream.codec_context is not None]
    if not known:
        raise UnsupportedError(f"{named(path)}: no decoder for its video codec is in this build of PyAV")
    if default := [s for s in known if s.disposition & av.stream.Disposition.default]:
        known = default
    return max(known, key=lambda s: (s.codec_context.width * s.codec_context.height, -s.index))


def decoder_of(stream: Any, threads: bool = False) -> Any:
    """A decoder for a video stream: libav's own, but libvpx where VP8 or VP9 carries transparency.

    Args:
        stream: of an opened file; its decoder is known.
        threads: decode several pictures at a time; the first then comes later.
    """
    context = stream.codec_context
    alpha = {key.lower(): value for key, value in stream.metadata.items()}.get("alpha_mode") == "1"
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(context.codec.canonical_name)
    if alpha and name is not None and name in av.codecs_available:
        context = av.CodecContext.create(name, "r")
    if threads:
        context.thread_type = "AUTO"
    context.options = {"max_pixels": str(MAX_PIXELS)}
    return context


def is_cover(stream: Any) -> bool:
    """Whether a video stream is a still picture that belongs to the file: cover art or thumbnails."""
    still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    return stream.type == "video" and bool(stream.disposition & still)


def origin_of(container: Any) -> Fraction:
    """The file's own time stamp, in seconds, that counts as 0 for us.

    Broadcast formats start their clock anywhere, and so do recordings of a live stream: there it is the start of the
    first stream. Elsewhere time stamps count from 0 already, and a late start is meant, unless they start before 0.
    """
    starts = [
        stream.start_time * stream.time_base
        for stream in container.streams
        if stream.start_time is not None and stream.time_base and stream.type in ("video", "audio")
        if not is_cover(stream)
    ]
    if not starts:
        return Fraction(0)
    first: Fraction = min(starts)
    anywhere = any(name in container.format.name.split(",") for name in ("mpegts", "mpeg", "mpegtsraw", "rm"))
    # no film starts ten seconds late on purpose in a container whose clock starts at 0
    return first if anywhere or first < 0 or first > 10 else Fraction(0)


@dataclass
class _Look:
    """What the first packets and pictures of a stream show."""

    pictures: list[Any] = field(default_factory=list)
    pts: list[int] = field(default_factory=list)  # ticks, in file order
    durations: list[int] = field(default_factory=list)
    packets: int = 0
    whole: bool = False  # the look reached the end of the file
    encrypted: bool = False
    corrupt: int = 0  # packets that did not decode

    def forget_unfinished(self, dts: int | None) -> None:
        """Drop the stamps behind which others may still come, because packets are in order of decoding.

        What follows is decoded later than `dts`, of the last packet, and so shown later too. Without it the last
        stamps go, as many as pictures may change places (16 in H.264 and H.265).
        """
        last = dts if dts is not None else sorted(self.pts)[-17] if len(self.pts) > 17 else None
        if last is not None:
            kept = [(stamp, length) for stamp, length in zip(self.pts, self.durations, strict=True) if stamp <= last]
            self.pts, self.durations = [stamp for stamp, _ in kept], [length for _, length in kept]


def packets_of(container: Any, stream: Any) -> Iterator[Any]:
    """Packets of a stream as `container.demux` gives them; what PyAV stumbles over in damaged files is an FFmpegError.

    A stream that libav finds only while it reads is in none of PyAV's lists: an IndexError.
    """
    try:
        yield from container.demux(stream)
    except IndexError:
        raise av.error.InvalidDataError(_INVALID_DATA, "a stream begins in the middle of the file") from None


def _look(container: Any, stream: Any) -> _Look:
    look = _Look()
    size = 0
    decoder = decoder_of(stream)
    for other in container.streams:
        if other.index != stream.index:
            other.discard = av.stream.Discard.all
    try:
        for packet in packets_of(container, stream):
            if packet.size:
                look.packets += 1
                size += packet.size
                if packet.has_sidedata("encryption_info"):
                    look.encrypted = True
                stamp = packet.pts if packet.pts is not None else packet.dts
                if stamp is not None and not packet.is_discard:
                    look.pts.append(stamp)
                    look.durations.append(packet.duration or 0)
            if len(look.pictures) < FIRST_PICTURES:
                try:
                    look.pictures += decoder.decode(packet)
                except (av.error.FFmpegError, ValueError):
                    look.corrupt += 1
            enough = LOOK_PACKETS, LOOK_BYTES
            if not look.pictures:
                enough = SEARCH_PACKETS, SEARCH_BYTES
            if look.packets >= enough[0] or size >= enough[1]:
                look.forget_unfinished(packet.dts)
                break
        else:
            look.whole = True
    except (av.error.FFmpegError, OSError, ValueError):
        look.whole = True
    if not look.pictures:
        try:
            look.pictures += decoder.decode(None)
        except (av.error.FFmpegError, ValueError):
            look.corrupt += 1
    return look


def _fits(pts: Sequence[int], tick: Fraction, rate: Fraction) -> bool:
    """Whether all of the sorted stamps lie within a tick of a grid of this rate, one on each point."""
    steps = [(stamp - pts[0]) * tick * rate for stamp in pts]
    near = min(tick * rate, Fraction(1, 4)) + Fraction(1, 1000)
    return all(abs(step - n) <= near for n, step in enumerate(steps))


def measure_rate(pts: Sequence[int], tick: Fraction, claims: Sequence[Fraction | None]) -> tuple[Fraction | None, bool]:
    """The rate of a stream from its time stamps, and whether it is variable.

    Args:
        pts: ticks, in any order.
        tick: seconds.
        claims: rates that the header offers, best first.

    Returns:
        Frames per second (None if nothing is known) and True if frames do not come at equal distances. Of a variable
        rate it is the one that most frames have.
    """
    stamps = sorted(set(pts))
    offered = [claim for claim in claims if claim and Fraction(1, 10) <= claim <= 1000]
    if len(stamps) < 2:
        return (offered[0] if offered else None), False
    steps = sorted(b - a for a, b in pairwise(stamps))
    mean = Fraction(len(stamps) - 1) / ((stamps[-1] - stamps[0]) * tick)
    usual = [rate for rate in USUAL_RATES if abs(rate / mean - 1) < Fraction(1, 200)]
    usual.sort(key=lambda rate: abs(rate / mean - 1))
    plain = [rate for rate in offered if rate in USUAL_RATES]  # before "19001/317", a muxer's idea of 60000/1001
    for rate in [*plain, *usual, *offered, mean]:
        if _fits(stamps, tick, rate):
            return (rate if rate != mean else mean.limit_denominator(100_000)), False
    typical = 1 / (steps[len(steps) // 2] * tick)
    near = [rate for rate in [*plain, *USUAL_RATES, *offered] if abs(rate / typical - 1) < Fraction(1, 20)]
    if near:  # frames left out of a constant rate, as screen recorders do: the rest lie on its grid
        best = max(near, key=lambda rate: _on_grid(stamps, tick, rate))
        if _on_grid(stamps, tick, best) * 2 > len(stamps):
            return best, True
        return near[0], True
    return min(typical.limit_denominator(1001), Fraction(1000)), True


def _on_grid(pts: Sequence[int], tick: Fraction, rate: Fraction) -> int:
    """How many stamps lie within a tick of some point of a grid of this rate."""
    near = min(tick * rate, Fraction(1, 8))
    steps = [(stamp - pts[0]) * tick * rate for stamp in pts]
    return sum(abs(step - round(step)) <= near for step in steps)


def _index_is_regular(stream: Any, rate: Fraction | None) -> bool:
    """False if the file's own index shows unequal distances between frames anywhere in the film.

    An index of key frames alone, as Matroska's, says nothing of it.
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
        return True  # behind an edit list decoding times say nothing of the times of showing
    steps = {b - a for a, b in pairwise(stamps[:-1])}
    return not steps or max(steps) - min(steps) <= 1


def _format_of(frame: Any, context: Any, codec: str) -> tuple[PixelFormat, frozenset[str]]:
    """The format that frames of the stream are handed out in, and what of it the file does not say."""
    source = frame.format.name
    name = formats.planar_name(source)
    if name == "gbrap" and (source == "pal8" or codec == "gif") and not _uses_alpha(frame):
        name = "gbrp"
    untagged = set()
    matrix = formats.MATRICES.get(frame.colorspace) or formats.MATRICES.get(context.colorspace)
    if matrix is None or (matrix == "rgb") == name.startswith(("yuv", "gray")):
        untagged.add("matrix")
        large = frame.width >= 1280 or frame.height > 576
        matrix = "bt709" if large and codec not in _PICTURES else "smpte170m"
    full = source.startswith("yuvj") or frame.color_range == formats.RANGE_FULL
    if not full and frame.color_range == 0 and not source.startswith("yuvj"):
        untagged.add("full_range")
        full = codec in _PICTURES and name.startswith("gray")
    primaries = formats.PRIMARIES.get(frame.color_primaries, "unknown")
    transfer = formats.TRANSFERS.get(frame.color_trc, "unknown")
    if said := _siting_said(frame):
        siting = said
    elif codec in _CENTRED or (source.startswith("yuvj") and codec not in ("h264", "hevc", "av1")):
        siting = "center"
    elif codec == "av1" and primaries == "bt2020":
        siting = "topleft"  # what UHD discs and broadcasts do (ITU-T H.273 type 2)
    else:
        siting = "left"
    made = formats.describe(name, matrix=matrix, full_range=full, primaries=primaries, transfer=transfer, siting=siting)
    return made, frozenset(untagged)


_log_level = threading.Lock()  # libav has one for the whole process


def _siting_said(frame: Any) -> str | None:
    """Where chroma sits, as the decoder says; None if it does not.

    PyAV hands on all of a picture's colour but this; libav's filter showinfo writes it to the log.
    """
    graph = av.filter.Graph()
    feed = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
    sink = graph.add("buffersink")
    graph.link_nodes(feed, graph.add("showinfo", "checksum=0"), sink)
    graph.configure()
    with _log_level:
        level = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        try:
            with av.logging.Capture(local=True) as lines:
                graph.push(frame)
                graph.pull()
        finally:
            av.logging.set_level(level)
    for _, _, line in lines:
        if found := re.search(r" cl:(\w+)", line):
            return found[1] if found[1] in ("left", "center", "topleft", "top", "bottomleft", "bottom") else None
    return None


def _uses_alpha(frame: Any) -> bool:
    opaque = frame.reformat(format="rgba").planes[0]
    pixels = bytes(opaque)
    step = opaque.line_size
    return any(set(pixels[y * step + 3 : y * step + 4 * frame.width : 4]) != {255} for y in range(frame.height))


def _rotation(matrix: tuple[int, ...] | None) -> int:
    """Degrees clockwise, a multiple of 90, that a display matrix turns the picture."""
    if matrix is None:
        return 0
    a, b = matrix[0], matrix[1]
    if abs(a) >= abs(b):
        return 0 if a >= 0 else 180
    return 90 if b > 0 else 270


def _side_data(frame: Any, kind: str) -> bytes | None:
    try:
        return bytes(frame.side_data[kind])
    except (KeyError, IndexError):
        return None


def _mastering(raw: bytes | None) -> Mastering | None:
    """AVMasteringDisplayMetadata: ten pairs of int32 and two flags."""
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
    """All streams of a container, as its header says."""
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
    """What a video file, or a sequence of pictures, is.

    Args:
        path: a video file, a folder of pictures, a pattern of pictures (`%04d.png`, `*.png`), or one picture.
        count: also decode all of it and count the pictures (takes as long as decoding does).
        in_rate: frames per second of a sequence of pictures, which has none of its own.

    Returns:
        The facts; `header_frames` and `duration` as the header says, `counted_frames` only if asked for.

    Raises:
        MediaError: missing, a folder, not a video, sound only, encrypted, or no picture can be decoded.
        UnsupportedError: a codec or container that this build does not know.
    """
    from midframe.video import images

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
    look = _look(container, stream)
    if not look.pictures:
        if look.encrypted or "enc" in container.metadata.get("major_brand", ""):
            raise UnsupportedError(f"{named(path)} is encrypted (DRM); only unprotected video can be read")
        if look.packets == 0:
            raise MediaError(f"{named(path)} has a video stream, but no frames in it")
        hint = "it is damaged or encrypted"
        raise MediaError(f"{named(path)}: no picture of its {codec} video could be decoded; {hint}")
    first = look.pictures[0]
    made, untagged = _format_of(first, context, codec)
    tick = Fraction(stream.time_base)
    warnings = []
    claims = [formats.exact(stream.average_rate), formats.exact(stream.guessed_rate), formats.exact(stream.base_rate)]
    interlaced = sum(picture.interlaced_frame for picture in look.pictures) * 2 > len(look.pictures)
    if len(look.pictures) < 2:
        interlaced = interlaced or context.field_order in _INTERLACED
    # two field pictures may come as two packets: only decoded pictures count then
    stamps = look.pts
    if interlaced and codec in ("h264", "hevc", "mpeg2video"):
        stamps = [p.pts for p in look.pictures if p.pts is not None]
    rate, variable = measure_rate(stamps, tick, claims)
    if not variable and not interlaced and not _index_is_regular(stream, rate):
        variable = True
    origin = origin_of(container)
    start = Fraction(first.pts) * tick - origin if first.pts is not None else Fraction(0)
    matrix_bytes = _side_data(first, "DISPLAYMATRIX")
    display = struct.unpack("<9i", matrix_bytes[:36]) if matrix_bytes and len(matrix_bytes) >= 36 else None
    aspect = formats.exact(stream.sample_aspect_ratio) or Fraction(1)
    if not Fraction(1, 16) <= aspect <= 16:
        warnings.append(f"a sample aspect ratio of {aspect} is taken for 1")
        aspect = Fraction(1)
    hdr = _HDR.get(made.transfer)
    if _side_data(first, "DOVI_METADATA") or _side_data(first, "DOVI_RPU_BUFFER"):
        warnings.append("Dolby Vision metadata cannot be carried over; its base layer is kept")
        hdr = "Dolby Vision"
    if _side_data(first, "DYNAMIC_HDR_PLUS"):
        warnings.append("HDR10+ dynamic metadata cannot be carried over; static HDR metadata is kept")
    if look.corrupt:
        warnings.append(f"{look.corrupt} packet(s) at the start could not be decoded")
    other = [s.index for s in container.streams if s.type == "video" and not is_cover(s) and s.index != stream.index]
    if other:
        rest = ", ".join(str(index) for index in other)
        warnings.append(f"several video streams: stream {stream.index} is made smoother, {rest} not")
    frames = stream.frames or int(_number(stream.metadata.get("NUMBER_OF_FRAMES")))
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
        duration=_duration(container, stream, look, tick, first),
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


def key_times(path: str | os.PathLike[str], info: VideoInfo) -> list[Fraction]:
    """When the key frames of a film are shown, in seconds of film time, in order; by reading, not decoding.

    A file that breaks off gives the times up to there; a sequence of pictures gives those of all pictures.

    Raises:
        MediaError: the file cannot be opened.
    """
    if info.container == "pictures":
        return [n * info.time_base for n in range(info.header_frames or 0)]
    found: set[Fraction] = set()
    with open_source(path) as container:
        stream = container.streams[info.video_index]
        for other in container.streams:
            if other.index != stream.index:
                other.discard = av.stream.Discard.all
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


def _duration(container: Any, stream: Any, look: _Look, tick: Fraction, first: Any) -> Fraction | None:
    """Seconds of the video stream: what the header says, else what was seen where the look saw all of it.

    Pictures before the `first` that decodes, as broadcasts have them where recording began, do not count.
    """
    seconds = _header_duration(container, stream, look, tick)
    if seconds is None or first.pts is None or stream.start_time is None:
        return seconds
    late = (first.pts - stream.start_time) * tick
    return seconds - late if 0 < late < seconds else seconds


def _header_duration(container: Any, stream: Any, look: _Look, tick: Fraction) -> Fraction | None:
    if stream.duration and stream.duration > 0:
        return Fraction(stream.duration) * tick
    text = stream.metadata.get("DURATION") or stream.metadata.get("DURATION-eng") or ""
    parts = text.split(":")
    if len(parts) == 3:
        try:
            seconds = int(parts[0]) * 3600 + int(parts[1]) * 60 + Fraction(parts[2])
        except ValueError:
            seconds = Fraction(0)
        if seconds > 0:
            return seconds - max(Fraction(0), (stream.start_time or 0) * tick)
    if look.whole and look.pts:
        return (max(look.pts) - min(look.pts) + max(look.durations)) * tick
    if container.duration and container.duration > 0:
        return Fraction(container.duration, av.time_base)
    return None


def _count(path: str | os.PathLike[str], index: int) -> int:
    total = 0
    with open_source(path) as container:
        stream = container.streams[index]
        decoder = decoder_of(stream, threads=True)
        try:
            for packet in packets_of(container, stream):
                try:
                    total += len(decoder.decode(packet))
                except (av.error.FFmpegError, ValueError):
                    continue
        except (av.error.FFmpegError, OSError):
            return total
    return total
