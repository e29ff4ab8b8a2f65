"""Open video files with libav: only the named file, one stream of it, its decoder.

Playlists, concat scripts, references to other files and network addresses inside a file are refused by libav.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import av.error
import av.stream

from midframe.errors import MediaError, UnsupportedError

# Demuxers that follow names written inside a file, draw text as images, or read devices.
_REFUSED = frozenset({
    "hls", "applehttp", "dash", "concat", "concatf", "sdp", "rtsp", "rtp", "sap", "imf", "tty", "lavfi", "image2",
    "image2pipe", "webm_dash_manifest", "vapoursynth", "avisynth", "ffmetadata", "tedcaptions", "libopenmpt", "v4l2",
    "video4linux2", "fbdev", "x11grab", "kmsgrab", "alsa", "oss", "pulse", "sndio", "jack", "openal", "dshow",
    "gdigrab", "vfwcap", "avfoundation", "decklink", "libdc1394", "iec61883", "xcbgrab", "android_camera",
})  # fmt: skip
OPEN_SECONDS = 60.0  # longer than any header takes to read, shorter than a person waits
AVI_CHUNK_HEADER = 8  # bytes between the position in the index and that of the data
MAX_PIXELS = 16384 * 8704  # 16K video; a damaged header may ask for any amount of memory
_INVALID_DATA = 1094995529  # -AVERROR_INVALIDDATA
FLOAT_SUFFIXES = (".exr", ".hdr", ".pfm")  # images of floating-point samples
OTHER_IMAGES = (
    ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".tga", ".psd", ".dpx", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf",
)  # fmt: skip


def is_pipe(name: str | os.PathLike[str]) -> bool:
    """Return whether a name is the standard input, `-`, a FIFO or a socket, which cannot be read twice."""
    if os.fspath(name) == "-":
        return True
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def named(path: str | os.PathLike[str]) -> str:
    """Quote a path for messages."""
    return f"'{os.fspath(path)}'"


@lru_cache(maxsize=1)
def allowed_demuxers() -> str:
    """Return the demuxers that read only the file given to them, comma-separated."""
    return ",".join(sorted(name for name in av.formats_available if name not in _REFUSED))


def missing(path: str | os.PathLike[str]) -> MediaError:
    """Return the error for a missing file, which may also vanish between two checks."""
    return MediaError(f"{named(path)} does not exist; check the name")


def check_path(path: str | os.PathLike[str]) -> None:
    """Raise a `MediaError` if `path` cannot be a readable file."""
    file = Path(path)
    try:
        if file.is_dir():
            raise MediaError(f"{named(path)} is a folder; give a video file, or a folder of images with --in-fps")
        if not file.exists():
            raise missing(path)
        if file.is_fifo() or file.is_socket():  # opening one waits for its other end, and no signal ends that
            raise MediaError(
                f"{named(path)} is a pipe, which is read once and by 'midframe interpolate' only; give a file"
            )
        if file.is_file() and file.stat().st_size == 0:
            raise MediaError(f"{named(path)} is empty (0 bytes)")
        if not os.access(file, os.R_OK):
            raise MediaError(f"{named(path)} is not readable; check its permissions")
    except FileNotFoundError as error:
        raise missing(path) from error
    except (OSError, ValueError) as error:  # a name that is too long, or holds a null character
        raise MediaError(f"{named(path)} cannot be opened: {getattr(error, 'strerror', None) or error}") from error


def refuse_unread_image(path: str | os.PathLike[str]) -> None:
    """Raise an `UnsupportedError` if `path` names images of a kind that is not read, or a folder of them."""
    file = Path(path)
    names = [file.name]
    if os.path.isdir(file):  # False for a name that the system refuses
        with suppress(OSError):
            names = sorted(os.listdir(file))
    refused = (*FLOAT_SUFFIXES, *OTHER_IMAGES)
    suffix = next((Path(name).suffix for name in names if Path(name).suffix.lower() in refused), None)
    if suffix is None:
        return
    if suffix.lower() in OTHER_IMAGES:
        raise UnsupportedError(f"{named(path)}: {suffix} images are not read; convert them to PNG, TIFF or JPEG first")
    raise UnsupportedError(
        f"{named(path)}: {suffix} holds floating-point samples, and midframe processes integers of up to 16 bits; "
        f"convert first, which clips beyond white: ffmpeg -apply_trc iec61966_2_1 -i %04d{suffix} -pix_fmt rgb48be "
        "%04d.png"
    )


@contextmanager
def open_source(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a video file with libav; other files that it refers to are not opened.

    Yields:
        The `av.container.InputContainer`.

    Raises:
        MediaError: it cannot be opened, in one line.
    """
    check_path(path)
    options = {
        "format_whitelist": allowed_demuxers(),
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
    """Tell a file that ends or is damaged, which gives a shorter video, from one that is taken away while it is read.

    libav reports both as the end of the file. A file that has grown is still being recorded, and one whose name is gone
    can be read on: both are fine.

    Yields:
        A function to call where reading has come to an end; it raises a `MediaError` if the file is shorter than it was
        when this was entered, or if its disk does not answer.
    """
    try:
        opened = open(path, "rb")  # noqa: SIM115
    except FileNotFoundError as error:
        raise missing(path) from error
    with opened as file:
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
        return MediaError(f"{named(path)} is not readable; check its permissions")
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
    """Choose the video stream to interpolate: not cover art; the default one, else the one with most pixels.

    Raises:
        MediaError: there is none.
        UnsupportedError: there is one, but no decoder for it.
    """
    videos = [stream for stream in container.streams if stream.type == "video"]
    moving = [stream for stream in videos if not is_cover(stream)]
    if not moving:
        kinds = {stream.type for stream in container.streams}
        if videos:
            raise MediaError(f"{named(path)} holds audio and a cover image, but no video")
        if "audio" in kinds:
            raise MediaError(f"{named(path)} holds audio only, no video")
        raise MediaError(f"{named(path)} holds no video stream")
    known = [stream for stream in moving if stream.codec_context is not None]
    if not known:
        raise UnsupportedError(f"{named(path)}: no decoder for its video codec is in this build of PyAV")
    tile = av.stream.Disposition.dependent
    if all(stream.frames == 1 for stream in known) and any(stream.disposition & tile for stream in known):
        raise UnsupportedError(f"{named(path)} is a photo in tiles (HEIC, AVIF), which are not read; convert it to PNG")
    known = [stream for stream in known if stream.frames != 1] or known  # AVIF has a still beside its sequence
    if default := [s for s in known if s.disposition & av.stream.Disposition.default]:
        known = default
    return max(known, key=lambda s: (s.codec_context.width * s.codec_context.height, -s.index))


def decoder_of(stream: Any, threads: bool = False) -> Any:
    """Return a decoder for a video stream: libav's own, but libvpx for VP8 or VP9 with alpha.

    Args:
        stream: of an opened file; its decoder is known.
        threads: use frame threading, which delays the first frame, and reject damaged packets: a frame may be handed
            out before its errors are known. False: one thread, whose errors and error concealment are the same on
            every machine.
    """
    context = stream.codec_context
    alpha = {key.lower(): value for key, value in stream.metadata.items()}.get("alpha_mode") == "1"
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(context.codec.canonical_name)
    if alpha and name is not None and name in av.codecs_available:
        context = av.CodecContext.create(name, "r")
    options = {"max_pixels": str(MAX_PIXELS)}
    if threads:
        context.thread_type = "AUTO"
        options["err_detect"] = "explode"
    else:
        context.thread_count = 1
    context.options = options
    return context


def discard_others(container: Any, stream: Any) -> None:
    """Let the demuxer drop the packets of all streams but one."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = av.stream.Discard.all


def is_cover(stream: Any) -> bool:
    """Return whether a video stream is cover art or thumbnails."""
    still = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    return stream.type == "video" and bool(stream.disposition & still)


def origin_of(container: Any) -> Fraction:
    """Return the timestamp of the file, in seconds, that becomes 0.

    Broadcast formats and recordings of live streams start their clock anywhere: there it is the start of the first
    stream. In other containers timestamps count from 0 and a late start is intended, unless they start before 0.
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
    # no video starts ten seconds late on purpose in a container whose clock starts at 0
    return first if anywhere or first < 0 or first > 10 else Fraction(0)


def packets_of(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets of a stream; errors of damaged files are raised as FFmpegError.

    PyAV raises an IndexError for packets of a stream that libav finds only while reading.
    """
    try:
        packets = container.demux(stream)
        yield from _indexed(container, packets) if container.format.name == "avi" else packets
    except IndexError:
        raise av.error.InvalidDataError(_INVALID_DATA, "a stream begins in the middle of the file") from None


def _indexed(container: Any, packets: Iterator[Any]) -> Iterator[Any]:
    """Yield the packets of an AVI file with the video timestamps of its index.

    libav numbers chunks as it meets them: after a damaged chunk all later frames come too early, unless it has seeked.
    """
    index = {
        stream.index: {entry.pos + AVI_CHUNK_HEADER: entry.timestamp for entry in stream.index_entries}
        for stream in container.streams.video
    }
    lag = dict.fromkeys(index, 0)  # ticks
    for packet in packets:
        number = packet.stream_index
        if packet.dts is not None and number in index:
            if packet.pos in index[number]:
                lag[number] = index[number][packet.pos] - packet.dts
            if lag[number]:
                packet.dts += lag[number]
                packet.pts = None if packet.pts is None else packet.pts + lag[number]
        yield packet


def write_error(path: str | os.PathLike[str], error: BaseException) -> MediaError:
    """Return a one-line error for a failed write."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return MediaError(f"no space is left on the disk of {named(path)}; free some, or give another -o")
    if number == errno.EFBIG:
        return MediaError(f"{named(path)} has grown larger than its disk or limits allow; give another -o")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return MediaError(f"{named(path)} is not writable; give another -o")
    if number in (errno.ENOENT, errno.EIO, errno.ENODEV, errno.ESTALE):
        return MediaError(f"the place of {named(path)} is lost ({os.strerror(number)}); check the disk or mount")
    return MediaError(f"{named(path)} cannot be written: {getattr(error, 'strerror', None) or error}")
