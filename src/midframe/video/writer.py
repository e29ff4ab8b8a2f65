"""`Frame`s into a video file, encoded in a thread; and the choice of encoder, made before any work.

    encoding = choose_encoder(info, "out.mp4")
    with open_writer("out.mp4", info, encoding, rate=Fraction(60)) as writer:
        for frame in frames:
            writer.write(frame)

A writer makes the picture only. Sound, subtitles and all else come with `concat.join`, which also puts segments
together. The file is written under a temporary name beside its own and renamed when it is whole; nothing is left
of it when anything fails.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import av
import av.codec
import av.codec.context
import av.error
import torch

from midframe import colour
from midframe.errors import InputError, MediaError, UnsupportedError
from midframe.types import Frame, Mastering, PixelFormat, VideoInfo
from midframe.video import formats
from midframe.video.files import named, write_error

QUEUE_FRAMES = 4  # pictures that wait for the encoder

# Suffix of a target -> libav's muxer.
CONTAINERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".qt": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi",
    ".ts": "mpegts", ".m2ts": "mpegts", ".mts": "mpegts", ".nut": "nut", ".mxf": "mxf", ".gif": "gif", ".flv": "flv",
}  # fmt: skip
PICTURE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp")

# What -c auto takes; crf of equal looks, presets that two cores can follow.
_CRF = {"libx264": 16.0, "libx265": 17.0, "libvpx-vp9": 20.0, "libsvtav1": 20.0, "libaom-av1": 20.0}
_PRESETS = {"libx264": "veryfast", "libx265": "veryfast", "libsvtav1": "8"}
# Encoders whose constant-quality option has another name than crf.
_QUALITY_OPTION = {
    "h264_nvenc": "cq", "hevc_nvenc": "cq", "av1_nvenc": "cq", "h264_qsv": "global_quality",
    "hevc_qsv": "global_quality", "av1_qsv": "global_quality", "mpeg4": "qscale",
}  # fmt: skip
# Encoders that take 4:2:0 in even sizes only; VP9, AV1 and FFV1 take any.
_EVEN = ("libx264", "libx265", "libopenh264", "h264_nvenc", "hevc_nvenc", "h264_qsv", "hevc_qsv", "mpeg4")
X265_LEAST = 16  # pixels; x265 refuses less
# x265 4.2 writes beyond its buffers at widths of 33 to 48 pixels with mb-tree on (found with glibc's MALLOC_CHECK_=3;
# the assembly of cuTreePropagateCost): 3 blocks of 8 pixels at half size, 4 written at a time.
X265_NARROW = 64
_LOSSLESS = ("ffv1", "png", "huffyuv", "ffvhuff", "utvideo", "rawvideo", "qtrle")


@dataclass(frozen=True, slots=True)
class Encoding:
    """How pictures are encoded: decided before the work, shown in the plan."""

    codec: str  # libav's name of the encoder
    container: str  # libav's name of the muxer; "pictures" for a folder of pictures
    format: PixelFormat  # what the encoder is given
    options: tuple[tuple[str, str], ...] = ()
    crf: float | None = None
    notes: tuple[str, ...] = ()  # what is changed on the way, in words

    def __str__(self) -> str:
        quality = "" if self.crf is None else f" crf {self.crf:g}"
        return f"{self.codec}{quality}, {self.format.name}"


class DecodingTimes:
    """Rising dts for packets in order of decoding, from their pts alone.

    Encoders' own are not trusted: x265 4.2 makes up the first ones where it got fewer pictures than it delays.
    """

    def __init__(self, depth: int, beat: int = 1) -> None:
        self._depth = depth  # packets that wait in decoding order for one shown before them
        self._beat = beat  # least distance of two pictures
        self._heap: list[int] = []
        self._last: int | None = None

    def __call__(self, pts: int) -> int:
        """The dts of the next packet; beyond its pts only if the depth was too small."""
        heapq.heappush(self._heap, pts)
        # the first packets have nothing before them in order of time: evenly up to the first pts
        early = self._heap[0] - (self._depth - len(self._heap) + 1) * self._beat
        dts = heapq.heappop(self._heap) if len(self._heap) > self._depth else early
        if self._last is not None and dts <= self._last:
            dts = self._last + 1
        self._last = dts
        return dts


def reorder_depth(context: Any) -> int:
    """How many packets of an opened encoder may wait for one that is shown before them, at most."""
    declared: int = context.reorder_depth  # which libx265's wrapper leaves at 0
    if context.codec.canonical_name in ("h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video"):
        software = context.codec.name in ("libx264", "libx265", "mpeg4", "mpeg2video", "mpeg1video")
        return max(declared, 2 if software else 4)  # one level of a pyramid of B frames; hardware may have two
    return declared


class Writer(Protocol):
    """What `open_writer` returns."""

    def write(self, frame: Frame) -> None:
        """Hand over the next frame; waits while the queue is full."""
        ...

    def __enter__(self) -> Writer: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def container_of(path: str | os.PathLike[str]) -> str:
    """libav's muxer for a target, by its suffix; "pictures" for a folder or a pattern of pictures.

    Raises:
        UnsupportedError: no muxer is known for the suffix.
    """
    text = os.fspath(path)
    suffix = Path(text).suffix.lower()
    if suffix in PICTURE_SUFFIXES or text.endswith(("/", os.sep)) or Path(text).is_dir():
        return "pictures"
    if suffix not in CONTAINERS:
        known = " ".join(name for name in CONTAINERS if name in (".mp4", ".mkv", ".mov", ".webm", ".avi"))
        given = f"the suffix {suffix} of {named(path)} is" if suffix else f"{named(path)} has no suffix that is"
        raise UnsupportedError(f"{given} not a known container; allowed: {known}, or a folder of PNG pictures")
    return CONTAINERS[suffix]


def choose_encoder(
    info: VideoInfo,
    target: str | os.PathLike[str],
    codec: str = "auto",
    *,
    crf: float | None = None,
    preset: str | None = None,
    pix_fmt: str = "auto",
    options: Sequence[tuple[str, str]] = (),
) -> Encoding:
    """The encoder for a source and a target, checked against this build.

    "auto" is libx264 for 8 bits, libx265 for more (HDR stays HDR), VP9 or AV1 in WebM; transparency goes to
    ProRes 4444 in MOV, FFV1 in MKV, VP9 in WebM, PNG in folders.

    Args:
        info: what the source is.
        target: path of the output; its suffix decides the container.
        codec: "auto" or an encoder of libav's.
        crf: quality, smaller is better; None: a value without visible loss.
        preset: speed of the encoder, in its own words.
        pix_fmt: "auto" (as the source, as far as the encoder goes) or a pixel format of libav's.
        options: further (key, value) pairs for the encoder.

    Raises:
        UnsupportedError: the container, the encoder or the combination is not there.
        InputError: an option that the encoder does not take.
    """
    container = container_of(target)
    source = info.format
    if container == "pictures":
        return _picture_encoding(source, target, codec)
    if codec == "auto":
        codec = _auto_codec(source, container, target, pix_fmt)
        if codec == "libx265" and min(info.width, info.height) < X265_LEAST:
            codec = "libx264"
    try:
        encoder = av.codec.Codec(codec, "w")
    except (av.error.FFmpegError, ValueError) as error:
        raise UnsupportedError(f"no encoder {codec!r} is in this build; try -c auto, libx264 or libx265") from error
    if encoder.type != "video":
        raise UnsupportedError(f"{codec!r} encodes {encoder.type}, not video; try -c auto, libx264 or libx265")
    if not _container_takes(container, codec):
        raise UnsupportedError(
            f"{Path(target).suffix} cannot hold {encoder.canonical_name} ({codec}); "
            f"name the output .mkv, or choose another codec with -c"
        )
    supported = [pixel.name for pixel in encoder.video_formats or ()]
    usable = [name for name in supported if formats.is_planar(name) and not name.startswith("yuvj")]
    if pix_fmt != "auto":
        names = [pix_fmt.replace("yuvj", "yuv")]
        if supported and names[0] not in usable:
            raise UnsupportedError(f"{codec} takes no {pix_fmt}; allowed: {' '.join(usable)}")
    elif not usable:
        names = [formats.name_of(source)]
        if supported and names[0] not in supported:
            raise UnsupportedError(f"{codec} takes none of the formats that midframe makes; try -c libx264")
    else:  # encoders claim more than they do: libvpx lists yuva444p and refuses it
        names = sorted(usable, key=lambda option: _loss(source, option, codec))[:3]
    refusal: UnsupportedError | None = None
    for name in names:
        made = _target_format(info, name)
        settings = _settings(codec, crf, preset, options, info, made)
        if container == "avi" and codec in ("libx264", "libx265", "mpeg4") and "bf" not in dict(settings):
            settings = (*settings, ("bf", "0"))  # AVI keeps the order of decoding only
        plain = codec in _LOSSLESS or codec.startswith("prores")
        quality = None if plain else (crf if crf is not None else _CRF.get(codec))
        encoding = Encoding(codec, container, made, settings, quality, _losses(info, codec, container, made))
        try:
            _try_out(info, encoding)
        except UnsupportedError as error:
            refusal = refusal or error
        else:
            return encoding
    assert refusal is not None
    raise refusal


def _losses(info: VideoInfo, codec: str, container: str, made: PixelFormat) -> tuple[str, ...]:
    """What pictures lose on their way into the encoder, in words."""
    source, notes = info.format, []
    if source.alpha and not made.alpha:
        notes.append(f"transparency is left out: {codec} in {container} has none")
    if made.depth < source.depth:
        notes.append(f"{source.depth} bits become {made.depth}: {codec} takes no more")
    if codec in _EVEN and ((made.chroma_w and info.width % 2) or (made.chroma_h and info.height % 2)):
        wide, high = info.width + info.width % 2, info.height + info.height % 2
        notes.append(
            f"{codec} takes even sizes only: {info.width}x{info.height} becomes {wide}x{high} by repeating the last "
            f"column or row; --pix-fmt yuv444p keeps the size"
        )
    return tuple(notes)


def _try_out(info: VideoInfo, encoding: Encoding) -> None:
    """Open the encoder once, so that what it does not take is known before the work."""
    rate = info.rate or Fraction(25)
    with av.open(os.devnull, "w", format="null") as nowhere:
        stream = add_encoder(nowhere, info, encoding, rate, 1 / rate)
        try:
            stream.codec_context.open()
        except (av.error.FFmpegError, ValueError, OSError) as error:
            said = ", ".join(f"{key}={value}" for key, value in encoding.options)
            width, height = encoded_size(info, encoding)
            raise UnsupportedError(
                f"{encoding.codec} refuses {width}x{height} {encoding.format.name} with {said or 'no options'} "
                f"({getattr(error, 'strerror', None) or error}); try other -e options, or -c libx264"
            ) from error


def _auto_codec(source: PixelFormat, container: str, target: str | os.PathLike[str], pix_fmt: str) -> str:
    alpha = source.alpha and (pix_fmt == "auto" or "yuva" in pix_fmt or "gbrap" in pix_fmt)
    if alpha:
        found = {"webm": "libvpx-vp9", "mov": "prores_ks", "matroska": "ffv1", "nut": "ffv1", "avi": "ffv1"}
        if container in found:
            return found[container]
        raise UnsupportedError(
            f"the source has transparency, which {Path(target).suffix} cannot hold; name the output .mov (ProRes "
            f"4444), .webm (VP9) or .mkv (FFV1), or drop it with --pix-fmt yuv420p"
        )
    deep = source.depth > 8 if pix_fmt == "auto" else pix_fmt.endswith(("10le", "12le", "10", "12"))
    if container == "webm":
        return "libsvtav1" if deep else "libvpx-vp9"
    if container == "mxf":
        return "mpeg2video"
    if container in ("avi", "flv"):
        return "libx264"
    if container == "gif":
        return "gif"
    return "libx265" if deep else "libx264"


def _container_takes(container: str, codec: str) -> bool:
    with av.open(os.devnull, "w", format=container) as probe:
        try:
            probe.add_stream(codec)
        except ValueError:
            return False
    return True


def _loss(source: PixelFormat, option: str, codec: str) -> tuple[int, ...]:
    """Order of pixel formats for a source, the best first: nothing lost, then nothing added."""
    made = formats.describe(option, matrix=source.matrix, full_range=source.full_range, siting=source.siting)
    chroma_w, chroma_h = source.chroma_w, source.chroma_h
    depth = source.depth
    lossless = codec in _LOSSLESS
    if source.layout != "yuv" and not lossless:
        chroma_w = chroma_h = 1  # what every player takes
        depth = min(depth, 10)
    same_kind = made.layout == source.layout if lossless else made.layout == "yuv"
    return (
        int(source.alpha and not made.alpha),
        int(not same_kind),
        max(0, depth - made.depth),
        max(0, made.chroma_w - chroma_w) + max(0, made.chroma_h - chroma_h),
        int(made.alpha and not source.alpha),
        max(0, chroma_w - made.chroma_w) + max(0, chroma_h - made.chroma_h),
        max(0, made.depth - depth),
    )


def _target_format(info: VideoInfo, name: str) -> PixelFormat:
    """What planes in pixel format `name` mean, made of a source: its own colour, or BT.709 / 601 where it is RGB."""
    source = info.format
    matrix, full = source.matrix, source.full_range
    if source.layout == "rgb":
        matrix = "bt709" if info.width >= 1280 or info.height > 576 else "smpte170m"
        full = False
    made = formats.describe(
        name, matrix=matrix, full_range=full, primaries=source.primaries, transfer=source.transfer,
        siting="left" if source.layout != "yuv" else source.siting,
    )  # fmt: skip
    if (made.chroma_w, made.chroma_h) != (source.chroma_w, source.chroma_h) and made.siting not in ("left", "center"):
        made = replace(made, siting="left")
    return made


def _settings(
    codec: str,
    crf: float | None,
    preset: str | None,
    extra: Sequence[tuple[str, str]],
    info: VideoInfo,
    made: PixelFormat,
) -> tuple[tuple[str, str], ...]:
    known = av.codec.context.CodecContext.create(codec, "w").supported_options
    names = {option.name for option in known.private} | {option.name for option in known.generic}
    private = {option.name for option in known.private}
    found: dict[str, str] = {}
    if codec in _QUALITY_OPTION:
        if crf is not None:
            found[_QUALITY_OPTION[codec]] = f"{crf:g}"
    elif "crf" in private:
        if crf is not None or codec in _CRF:
            found["crf"] = f"{crf if crf is not None else _CRF[codec]:g}"
    elif crf is not None and codec not in _LOSSLESS:
        raise InputError(f"{codec} takes no --crf; try -e with one of its own options")
    if preset is not None:
        if "preset" in private:
            found["preset"] = preset
        elif codec == "libvpx-vp9":
            found["cpu-used"] = preset
        else:
            raise InputError(f"{codec} takes no --preset; leave it out")
    elif codec in _PRESETS:
        found["preset"] = _PRESETS[codec]
    if codec == "libvpx-vp9":
        found |= {"b": "0", "row-mt": "1", "deadline": "good"} | ({} if preset else {"cpu-used": "4"})
        if made.alpha:
            found["auto-alt-ref"] = "0"  # libvpx keeps alpha in a second stream that cannot have hidden frames
    if codec == "prores_ks":
        found |= {"profile": "4444" if made.chroma_w == 0 else "hq", "vendor": "apl0"}
        if made.alpha:
            found["alpha_bits"] = "16"
    if codec == "ffv1":
        found |= {"level": "3", "slices": "4", "slicecrc": "1"}
    for key, value in extra:
        if key not in names:
            raise InputError(f"-e {key}={value}: {codec} has no option {key!r}")
        found[key] = value
    if codec == "libx265":
        found["x265-params"] = _joined(found.get("x265-params"), ":", _x265(info, made))
    elif codec == "libx264" and (params := _x264(made)):
        found["x264-params"] = _joined(found.get("x264-params"), ":", params)
    elif codec == "libsvtav1":
        found["svtav1-params"] = _joined(found.get("svtav1-params"), ":", _svt(info))
    return tuple((key, value) for key, value in found.items() if value)


def _joined(own: str | None, separator: str, made: dict[str, str]) -> str:
    """Parameters in an encoder's own notation; what the user said comes last and wins."""
    parts = [f"{key}={value}" for key, value in made.items()]
    return separator.join([*parts, *([own] if own else [])])


def _x264(made: PixelFormat) -> dict[str, str]:
    found = _chromaloc(made)
    # Its AVX-512 code for mbtree gives one of several results at random (x264 165 in PyAV 18.1: 3 different files from
    # 6 encodes of equal frames; with AVX2 8 of 8 were equal). A resumed run must make the frames it would have made.
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        found["asm"] = "AVX2"
    return found


def _chromaloc(made: PixelFormat) -> dict[str, str]:
    """chroma_sample_loc_type of H.264 and HEVC, said where it is not the usual "left" (0)."""
    number = {"center": 1, "topleft": 2, "top": 3, "bottomleft": 4, "bottom": 5}.get(made.siting)
    return {"chromaloc": str(number)} if number and made.chroma_h else {}


def _x265(info: VideoInfo, made: PixelFormat) -> dict[str, str]:
    found = {"log-level": "none"}
    if info.width < X265_NARROW:
        found["cutree"] = "0"
    found |= _chromaloc(made)
    if info.mastering is not None:
        found["master-display"] = mastering_text(info.mastering)
    if info.content_light is not None:
        found["max-cll"] = f"{info.content_light[0]},{info.content_light[1]}"
    if made.transfer == "smpte2084":
        found |= {"hdr10": "1", "repeat-headers": "1"}
    return found


def _svt(info: VideoInfo) -> dict[str, str]:
    found = {}
    if info.mastering is not None:
        m = info.mastering
        pairs = [f"{k}({float(x):.5f},{float(y):.5f})" for k, (x, y) in
                 (("G", m.green), ("B", m.blue), ("R", m.red), ("WP", m.white))]  # fmt: skip
        found["mastering-display"] = "".join(pairs) + f"L({float(m.brightest):.4f},{float(m.darkest):.4f})"
    if info.content_light is not None:
        found["content-light"] = f"{info.content_light[0]},{info.content_light[1]}"
    return found


def mastering_text(mastering: Mastering) -> str:
    """SMPTE ST 2086 as x265 takes it: chromaticities in 1/50000, luminances in 1/10000 cd/m2."""

    def point(key: str, xy: tuple[Fraction, Fraction]) -> str:
        return f"{key}({round(xy[0] * 50000)},{round(xy[1] * 50000)})"

    colours = point("G", mastering.green) + point("B", mastering.blue) + point("R", mastering.red)
    light = f"L({round(mastering.brightest * 10000)},{round(mastering.darkest * 10000)})"
    return colours + point("WP", mastering.white) + light


def _picture_encoding(source: PixelFormat, target: str | os.PathLike[str], codec: str) -> Encoding:
    suffix = Path(target).suffix.lower() or ".png"
    if codec not in ("auto", "png", "tiff", "mjpeg", "libwebp"):
        raise UnsupportedError(f"a folder of pictures takes -c png, tiff, mjpeg or libwebp, not {codec}")
    by_suffix = {".png": "png", ".tif": "tiff", ".tiff": "tiff", ".jpg": "mjpeg", ".jpeg": "mjpeg", ".webp": "libwebp"}
    chosen = by_suffix.get(suffix, "png") if codec == "auto" else codec
    deep = source.depth > 8 and chosen in ("png", "tiff")
    alpha = source.alpha and chosen != "mjpeg"
    if chosen == "mjpeg":
        made = formats.describe("yuv444p", matrix="smpte170m", full_range=True, siting="center")
        return Encoding(chosen, "pictures", made, (("qmin", "1"), ("qmax", "2")))
    name = ("gbrap" if alpha else "gbrp") + ("16le" if deep else "")
    if source.layout == "gray" and not alpha:
        name = "gray16le" if deep else "gray"
    made = formats.describe(name, matrix=source.matrix, full_range=True, siting="left")
    options = (("lossless", "1"),) if chosen == "libwebp" else ()
    return Encoding(chosen, "pictures", made, options)


class VideoWriter:
    """Encodes frames into one file; a context manager. Made by `open_writer`."""

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
        self._counted = counted  # a segment: its clock counts ticks, see `concat`
        self._part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        self._queue: queue.Queue[Frame | None] = queue.Queue(maxsize=QUEUE_FRAMES)
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
        """Finish the file and give it its name; or leave nothing of it, if the block has failed."""
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
        muxer = "matroska" if self._counted else encoding.container
        container = av.open(f"file:{self._part}", "w", format=muxer, options=muxer_options(muxer, self.tick))
        try:
            stream = add_encoder(container, self.info, encoding, self.rate, self.tick)
            if self._counted:
                container.metadata["MIDFRAME_TICK"] = str(self.tick)
                container.metadata["MIDFRAME_START"] = str(self.start)
            last = -1
            lengths: dict[int, int] = {}  # ticks, by pts: not every encoder hands them on
            stream.codec_context.open()
            self._times = DecodingTimes(reorder_depth(stream.codec_context))
            while not self._abandoned.is_set():
                frame = self._queue.get()
                if frame is None:
                    self._mux(container, stream.encode(None), lengths)
                    break
                picture = prepared(frame, self.info, encoding)
                at = round((frame.pts - self.start) / self.tick)
                if at <= last:
                    raise MediaError(
                        f"frame {frame.index} at {float(frame.pts):.6f} s is not later than the one before"
                    )
                last = at
                picture.pts = at
                picture.time_base = self.tick
                picture.duration = lengths[at] = max(1, round(frame.duration / self.tick))
                self._mux(container, stream.encode(picture), lengths)
        finally:
            if self._abandoned.is_set():
                with contextlib.suppress(Exception):
                    container.close()
            else:
                container.close()

    def _mux(self, container: Any, packets: Sequence[Any], lengths: dict[int, int]) -> None:
        for packet in packets:
            packet.duration = lengths.pop(packet.pts, packet.duration)
            packet.dts = min(self._times(packet.pts), packet.pts)
            if self._counted:
                packet.time_base = Fraction(1, 1000)  # one tick for each of Matroska's milliseconds
            container.mux(packet)


def add_encoder(container: Any, info: VideoInfo, encoding: Encoding, rate: Fraction, tick: Fraction) -> Any:
    """A video stream of an output container that encodes as `encoding` says, tagged as the source is."""
    if encoding.codec == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # it prints its settings otherwise
    made = encoding.format
    stream = container.add_stream(encoding.codec, rate=rate, options=dict(encoding.options))
    context = stream.codec_context
    context.width, context.height = encoded_size(info, encoding)
    context.pix_fmt = made.name
    context.time_base = tick
    context.framerate = rate
    stream.time_base = tick
    context.flags |= av.codec.context.Flags.frame_duration
    context.sample_aspect_ratio = info.sample_aspect
    if info.display_matrix is not None:
        stream.set_display_matrix(info.display_matrix)
    if made.layout == "rgb":
        context.colorspace = formats.code(formats.MATRICES, "rgb")
        context.color_range = formats.RANGE_FULL
    else:
        converted = info.format.layout == "rgb"
        said = converted or "matrix" not in info.untagged
        context.colorspace = formats.code(formats.MATRICES, made.matrix) if said else formats.UNSPECIFIED
        if converted or made.full_range or "full_range" not in info.untagged:
            context.color_range = formats.RANGE_FULL if made.full_range else formats.RANGE_LIMITED
    context.color_primaries = formats.code(formats.PRIMARIES, made.primaries)
    context.color_trc = formats.code(formats.TRANSFERS, made.transfer)
    return stream


def encoded_size(info: VideoInfo, encoding: Encoding) -> tuple[int, int]:
    """Width and height of the encoded picture: the source's, or the next even ones."""
    width, height = info.width, info.height
    if encoding.codec in _EVEN:
        width += width % 2 if encoding.format.chroma_w else 0
        height += height % 2 if encoding.format.chroma_h else 0
    return width, height


def prepared(frame: Frame, info: VideoInfo, encoding: Encoding) -> Any:
    """A frame as a picture of libav's, in the encoder's format and size."""
    made = encoding.format
    planes = colour.convert(frame.planes, frame.format, made)
    width, height = encoded_size(info, encoding)
    if (height, width) != tuple(planes[0].shape):
        planes = tuple(
            _extended(plane, height, width, made.chroma_h if n in (1, 2) and made.layout == "yuv" else 0,
                      made.chroma_w if n in (1, 2) and made.layout == "yuv" else 0)
            for n, plane in enumerate(planes)
        )  # fmt: skip
    return formats.picture(planes, made)


def _extended(plane: Any, height: int, width: int, down: int, across: int) -> Any:
    """A plane with its last row and column repeated as far as the size asks."""
    rows, columns = -(-height >> down), -(-width >> across)
    if plane.shape[0] < rows:
        plane = plane[[*range(plane.shape[0]), plane.shape[0] - 1]]
    if plane.shape[1] < columns:
        plane = plane[:, [*range(plane.shape[1]), plane.shape[1] - 1]]
    return plane


def muxer_options(muxer: str, tick: Fraction) -> dict[str, str]:
    """Options of a muxer that keep time exact, and put the index where a player begins to read."""
    if muxer in ("mp4", "mov"):
        scale = str(timescale(tick))
        return {"video_track_timescale": scale, "movie_timescale": scale, "movflags": "+faststart"}
    return {}


def timescale(tick: Fraction) -> int:
    """Ticks per second of a track whose pictures fall on multiples of `tick`: exact, and fine enough for players."""
    scale = tick.denominator
    while scale < 10_000:  # QuickTime's habit; coarser ones disturb some players
        scale *= 2
    return scale


def check_target(path: Path) -> None:
    """Raise a `MediaError` if a file cannot be written at `path`."""
    folder = path.parent
    if not folder.exists():
        raise MediaError(f"the folder {named(folder)} does not exist; make it, or give another -o")
    if path.is_dir():
        raise MediaError(f"{named(path)} is a folder; give the name of a file")
    if not os.access(folder, os.W_OK):
        raise MediaError(f"the folder {named(folder)} may not be written to; give another -o")


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
    """Open a target for writing pictures.

    Args:
        path: where the file shall be; it appears there when it is whole.
        info: the source: size, aspect, rotation, colour tags.
        encoding: how; by default what `choose_encoder` says for the path.
        rate: frames per second to tell the encoder.
        tick: seconds that divide all output pts exactly; 1 / rate by default.
        start: seconds; the instant of output time that is 0 in the file.
        segment: write a segment for `concat.join`: Matroska, whose clock counts ticks so that nothing is rounded.

    Returns:
        A context manager with `write(frame)`.

    Raises:
        MediaError: the place cannot be written to; also later on, from `write` and at the end.
    """
    encoding = encoding if encoding is not None else choose_encoder(info, path)
    if encoding.container == "pictures":
        from midframe.video.image_writer import ImageWriter

        return ImageWriter(path, info, encoding)
    return VideoWriter(path, info, encoding, rate=rate, tick=tick, start=start, counted=segment)
