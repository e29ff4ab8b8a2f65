"""The encoder of a run, chosen and tried before any work.

encoding = choose_encoder(info, "out.mp4")
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.codec
import av.codec.context
import av.error
import numpy as np

from midframe.errors import InputError, UnsupportedError
from midframe.types import PixelFormat, VideoInfo
from midframe.video import formats
from midframe.video.containers import CONTAINERS, container_of
from midframe.video.encoder_settings import LOSSLESS, encoder_options
from midframe.video.matroska_header import MUXERS
from midframe.video.timestamps import DecodingTimes

PROFILE_ENCODERS = ("png", "mjpeg")  # of images that keep an ICC profile
# Containers of animated images, and the note that the plan shows.
ANIMATIONS = {"gif": "one palette of 256 colours", "apng": "", "webp": "quality 90"}
_ANIMATION_ENCODERS = {"gif": "gif", "apng": "apng", "webp": "libwebp_anim"}
GIF_FASTEST = 50  # frames per second; players take a delay of one hundredth for ten
APPLE_HEVC_TAG = "hvc1"  # QuickTime and Photos refuse libav's default "hev1"
HARDWARE_ENDINGS = ("_nvenc", "_qsv", "_amf", "_vaapi", "_videotoolbox", "_mf", "_v4l2m2m", "_mediacodec", "_vulkan")
_REFUSE_AT_OPENING = ("libx264", "libx265", "libsvtav1", "libvpx", "libvpx-vp9", "prores_ks", "ffv1")
_JPEG_ENCODERS = ("mjpeg", "mjpeg_qsv", "ljpeg")
# Encoders that accept subsampled chroma in even sizes only; VP9, AV1 and FFV1 accept any.
_EVEN_SIZES_ONLY = ("libx264", "libx265", "libopenh264", "h264_nvenc", "hevc_nvenc", "h264_qsv", "hevc_qsv", "mpeg4")
_ASPECT_TOLERANCE = Fraction(1, 100)  # relative; codecs round the ratio to small terms
X265_MIN_SIDE = 16  # pixels; x265 refuses less


@dataclass(frozen=True, slots=True)
class Encoding:
    """Encoder, container and pixel format of an output: decided before the work, shown in the plan."""

    codec: str  # libav's name of the encoder
    container: str  # libav's name of the muxer; "images" for a folder of images
    format: PixelFormat  # input of the encoder
    options: tuple[tuple[str, str], ...] = ()
    quality: str = ""  # "crf 16", "quantizer 2"; empty where the codec has none to choose
    notes: tuple[str, ...] = ()  # losses of the conversion, one line each
    pixel_name: str = ""  # libav's pixel format of the encoder, if it packs samples of `format` otherwise

    def __str__(self) -> str:
        return f"{self.codec}{self.quality and ' '}{self.quality}, {self.format.name}"


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
    """Choose the encoder for a source and a target, and check that it opens.

    "auto" is libx264 for 8 bits, libx265 for more (HDR stays HDR), VP9 or AV1 in WebM; transparency goes to
    ProRes 4444 in MOV, FFV1 in MKV, VP9 in WebM, PNG in folders.

    Args:
        info: the source.
        target: path of the output; its suffix decides the container.
        codec: "auto", an encoder of libav, or a codec ("h264", "hevc", "av1"), which means its usual encoder.
        crf: quality, smaller is better; None: visually lossless.
        preset: speed of the encoder, one of its own names.
        pix_fmt: "auto" (as the source, as far as the encoder goes) or a pixel format of libav's.
        options: further (key, value) pairs for the encoder.

    Raises:
        UnsupportedError: the container, the encoder or their combination is not supported.
        InputError: an option that the encoder does not accept.
    """
    container = container_of(target)
    source = info.format
    if container == "images" or container in ANIMATIONS:
        if container == "images":
            encoding = image_encoding(source, target, codec)
        else:
            encoding = _animation_encoding(info, container, codec, crf, options)
        notes = encoding.notes
        if info.sample_aspect != 1:
            notes = (*notes, _aspect_note(info, Path(target).suffix or "a folder of images"))
        return replace(encoding, notes=(*notes, *_profile_notes(info, encoding.codec)))
    if codec == "auto":
        codec = _auto_codec(source, container, target, pix_fmt)
        if codec == "libx265" and min(info.width, info.height) < X265_MIN_SIDE:
            codec = "libx264"
    try:
        encoder = av.codec.Codec(codec, "w")
    except (av.error.FFmpegError, ValueError) as error:
        raise UnsupportedError(f"no encoder {codec!r} is in this build; try -c auto, libx264 or libx265") from error
    codec = encoder.name  # "hevc" is an alias of libx265
    if encoder.type != "video":
        raise UnsupportedError(f"{codec!r} encodes {encoder.type}, not video; try -c auto, libx264 or libx265")
    if not holds(container, codec):
        holders = [end for end in (".mkv", ".mov", ".avi", ".nut") if holds(CONTAINERS[end], codec)]
        hint = f"name the output {holders[0]}, or " if holders else ""
        raise UnsupportedError(
            f"{Path(target).suffix} cannot hold {encoder.canonical_name} ({codec}); {hint}choose another codec with -c"
        )
    supported = [pixel.name for pixel in encoder.video_formats or ()]
    usable = [name for name in supported if formats.repackable(name) and not name.startswith("yuvj")]
    if pix_fmt != "auto":
        names = [pix_fmt.replace("yuvj", "yuv")]
        if supported and names[0] not in usable:
            raise UnsupportedError(f"{codec} takes no {pix_fmt}; allowed: {' '.join(usable)}")
    elif not supported:
        names = [formats.name_of(source)]
    elif not usable:
        raise UnsupportedError(f"{codec} accepts none of the pixel formats that midframe writes; try -c libx264")
    else:  # some encoders list formats that they refuse: libvpx lists yuva444p
        names = sorted(usable, key=lambda option: _format_cost(source, option, codec))[:3]
    refusal: UnsupportedError | None = None
    first: Encoding | None = None
    for name in names:
        made = _target_format(info, name, codec)
        settings, quality = encoder_options(codec, crf, preset, options, info, made)
        if container == "avi" and codec in ("libx264", "libx265", "mpeg4") and "bf" not in dict(settings):
            settings = (*settings, ("bf", "0"))  # AVI has one timestamp per frame: no reordering
        notes = _conversion_notes(info, codec, container, made)
        encoding = Encoding(codec, container, made, settings, quality, notes, name)
        first = first or encoding
        try:
            _check_opens(info, encoding)
        except UnsupportedError as error:
            refusal = refusal or error
            continue
        why, aspect_kept = _trial_output(info, encoding)
        if why is not None:
            raise UnsupportedError(
                f"{Path(target).suffix} cannot hold {encoder.canonical_name} of {codec} ({why}); name the output .mkv "
                f"or .nut, or choose another codec with -c"
            )
        if not aspect_kept and container not in MUXERS:
            lost = _aspect_note(info, f"{encoder.canonical_name} in {Path(target).suffix}")
            encoding = replace(encoding, notes=(*notes, lost))
        return encoding
    assert refusal is not None and first is not None
    advice = []
    if options or preset:
        advice.append("other -e options or --preset")
    advice += [f"-c {name}" for name in _alternatives(info, first)[:1]]
    if is_hardware(codec):
        raise UnsupportedError(f"{refusal}; its hardware or driver may be missing: try {advice[-1]}") from refusal
    raise UnsupportedError(f"{refusal}; try {' or '.join(advice) or 'another container'}") from refusal


def _aspect_note(info: VideoInfo, output: str) -> str:
    aspect = info.sample_aspect
    return f"{output} cannot keep the sample aspect ratio {aspect.numerator}:{aspect.denominator}; .mkv can"


def _profile_notes(info: VideoInfo, codec: str) -> tuple[str, ...]:
    """Tell that the ICC profile of images is lost; sRGB is the default of players."""
    profile = info.colour_profile
    if profile is None or codec in PROFILE_ENCODERS or b"sRGB" in profile or "sRGB".encode("utf-16-be") in profile:
        return ()
    return ("the images' ICC colour profile is lost; .png and .jpg keep it, or convert the images to sRGB first",)


def _conversion_notes(info: VideoInfo, codec: str, container: str, made: PixelFormat) -> tuple[str, ...]:
    """Describe the losses of the conversion to the format of the encoder."""
    source, notes = info.format, []
    if source.alpha and not made.alpha:
        notes.append(f"transparency is lost: {codec} in {container} has no alpha")
    if made.depth < source.depth:
        notes.append(f"{source.depth} bits become {made.depth}: {codec} accepts no more")
    if source.layout == made.layout == "yuv" and (made.chroma_w > source.chroma_w or made.chroma_h > source.chroma_h):
        before, after = formats.sampling_of(source), formats.sampling_of(made)
        notes.append(f"chroma becomes coarser, {before} to {after} ({codec})")
    if codec in _EVEN_SIZES_ONLY and ((made.chroma_w and info.width % 2) or (made.chroma_h and info.height % 2)):
        wide, high = info.width + info.width % 2, info.height + info.height % 2
        notes.append(
            f"{codec} accepts even sizes only: {info.width}x{info.height} becomes {wide}x{high} by repeating the last "
            f"column or row; --pix-fmt yuv444p keeps the size"
        )
    return (*notes, *_profile_notes(info, codec))


def _check_opens(info: VideoInfo, encoding: Encoding) -> None:
    """Open the encoder once, so that a refusal comes before the work."""
    rate = info.rate or Fraction(25)
    with av.open(os.devnull, "w", format="null") as nowhere:
        stream = add_encoder(nowhere, info, encoding, rate, 1 / rate)
        try:
            open_encoder(stream.codec_context)
            if encoding.codec not in _REFUSE_AT_OPENING:  # others refuse the first frame
                width, height = encoded_size(info, encoding)
                blank = av.VideoFrame(width, height, encoding.pixel_name or encoding.format.name)
                blank.pts, blank.time_base = 0, 1 / rate
                stream.encode(blank)
        except (av.error.FFmpegError, ValueError, OSError) as error:
            said = ", ".join(f"{key}={value}" for key, value in encoding.options)
            width, height = encoded_size(info, encoding)
            raise UnsupportedError(
                f"{encoding.codec} refuses {width}x{height} {encoding.format.name} with {said or 'no options'} "
                f"({getattr(error, 'strerror', None) or error})"
            ) from error


def _trial_output(info: VideoInfo, encoding: Encoding) -> tuple[str | None, bool]:
    """Write two small frames to memory and read one back.

    Some muxers list codecs that they refuse in the header, or write files that nothing decodes.

    Returns:
        Why that fails, None if it does not; and whether the sample aspect ratio is kept.
    """
    rate = info.rate or Fraction(25)
    # the display aspect ratio stays, since MPEG-2 stores that
    aspect = info.sample_aspect * Fraction(info.width, info.height) / Fraction(320, 256)
    small = replace(info, width=320, height=256, sample_aspect=aspect, display_matrix=None)
    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format=encoding.container) as out:
            stream = add_encoder(out, small, encoding, rate, 1 / rate)
            open_encoder(stream.codec_context)
            times = DecodingTimes(reorder_depth(stream.codec_context))
            name = encoding.pixel_name or encoding.format.name
            trial: list[Any] = [_noise(320, 256, n, name) for n in range(2)]
            for n, frame in enumerate([*trial, None]):
                if frame is not None:
                    frame.pts, frame.time_base = n, 1 / rate
                for packet in stream.encode(frame):
                    packet.dts = min(times(packet.pts), packet.pts)
                    out.mux(packet)
        buffer.seek(0)
        with av.open(buffer, "r") as made:
            if not made.streams.video:
                return "the file has no video stream that can be read back", False
            next(made.decode(video=0))
            read = formats.exact(made.streams.video[0].sample_aspect_ratio) or Fraction(1)
            return None, abs(read / aspect - 1) < _ASPECT_TOLERANCE
    except StopIteration:
        return "no frame can be read back", False
    except (av.error.FFmpegError, ValueError, OSError) as error:
        return str(getattr(error, "strerror", None) or error), False


def _noise(width: int, height: int, seed: int, pixel_name: str) -> av.VideoFrame:
    """Return a frame of noise: blank ones make files of MPEG-TS too short to be recognised as such."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    try:
        return av.VideoFrame.from_ndarray(values, format="rgb24").reformat(format=pixel_name)
    except (av.error.FFmpegError, ValueError, OSError):  # swscale does not write this format
        return av.VideoFrame(width, height, pixel_name)


def _alternatives(info: VideoInfo, refused: Encoding) -> list[str]:
    """Return the names of software encoders that accept this source where `refused` does not: of its codec first."""
    codec = av.codec.Codec(refused.codec, "w").canonical_name
    usual = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9"}.get(codec, "libx264")
    found = []
    for name in dict.fromkeys((usual, "libx264", "libx265", "libvpx-vp9", "ffv1")):
        if name == refused.codec or not holds(refused.container, name):
            continue
        supported = [pixel.name for pixel in av.codec.Codec(name, "w").video_formats or ()]
        if refused.format.name not in supported:
            continue
        made = _target_format(info, refused.format.name, name)
        settings, quality = encoder_options(name, None, None, (), info, made)
        with contextlib.suppress(UnsupportedError):
            _check_opens(info, Encoding(name, refused.container, made, settings, quality))
            found.append(name)
    return found


def _silence(codec: str) -> None:
    """Keep the library of an encoder from printing its settings."""
    if codec in ("libsvtav1", "av1"):
        os.environ.setdefault("SVT_LOG", "1")


def open_encoder(context: Any) -> None:
    """Open an encoder and keep the scheduling of this process.

    SVT-AV1, run by root, puts its caller and its own threads under SCHED_FIFO at priority 99, which starves everything
    else on the machine.
    """
    if not hasattr(os, "sched_getscheduler"):  # macOS, Windows
        context.open()
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        context.open()
    finally:
        with contextlib.suppress(OSError):  # no /proc, or a thread has ended
            if os.sched_getscheduler(0) != policy:
                for thread in os.listdir("/proc/self/task"):
                    os.sched_setscheduler(int(thread), policy, priority)


def is_hardware(codec: str) -> bool:
    """Return whether an encoder needs hardware, by its name."""
    return codec.endswith(HARDWARE_ENDINGS)


def opens_here(codec: str) -> bool:
    """Return whether this build has an encoder and this machine can open it, tried on a 320x240 frame."""
    _silence(codec)
    try:
        found = av.codec.Codec(codec, "w")
        context: Any = av.codec.context.CodecContext.create(codec, "w")
        context.width, context.height = 320, 240
        context.time_base = Fraction(1, 25)
        formats_listed = [pixel.name for pixel in found.video_formats or ()]
        context.pix_fmt = "yuv420p" if "yuv420p" in formats_listed or not formats_listed else formats_listed[0]
        context.options = {"x265-params": "log-level=none"} if found.name == "libx265" else {}
        open_encoder(context)
    except (av.error.FFmpegError, ValueError, OSError):
        return False
    return True


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
    if container == "avif":
        return "libsvtav1"
    if container == "webm":
        return "libsvtav1" if deep else "libvpx-vp9"
    if container == "mxf":
        return "mpeg2video"
    if container in ("avi", "flv"):
        return "libx264"
    return "libx265" if deep else "libx264"


def holds(container: str, codec: str) -> bool:
    """Return whether a container lists the codec of an encoder."""
    with av.open(os.devnull, "w", format=container) as probe:
        try:
            probe.add_stream(codec)
        except ValueError:
            return False
    return True


def _format_cost(source: PixelFormat, option: str, codec: str) -> tuple[int, ...]:
    """Rank a pixel format for a source: first by losses, then by additions."""
    made = formats.describe(
        formats.planar_name(option), matrix=source.matrix, full_range=source.full_range, siting=source.siting
    )
    chroma_w, chroma_h = source.chroma_w, source.chroma_h
    depth = source.depth
    lossless = codec in LOSSLESS
    if source.layout != "yuv" and not lossless:
        chroma_w = chroma_h = 1  # which every player decodes
        depth = min(depth, 10)
    same_kind = made.layout == source.layout if lossless else made.layout == "yuv"
    return (
        int(made.layout == "gray" and source.layout != "gray"),
        int(source.alpha and not made.alpha),
        int(not same_kind),
        max(0, depth - made.depth),
        max(0, made.chroma_w - chroma_w) + max(0, made.chroma_h - chroma_h),
        int(made.alpha and not source.alpha),
        max(0, chroma_w - made.chroma_w) + max(0, chroma_h - made.chroma_h),
        max(0, made.depth - depth),
        int(option != made.name),  # repacking costs time
    )


def _target_format(info: VideoInfo, pixel_name: str, codec: str) -> PixelFormat:
    """Describe the planar format of `pixel_name` with the colour tags of the source; usual ones if that is RGB."""
    source = info.format
    matrix, full = source.matrix, source.full_range
    if source.layout == "rgb":
        matrix = "bt709" if info.width >= 1280 or info.height > 576 else "smpte170m"
        full = False
    siting = "left" if source.layout != "yuv" else source.siting
    if codec in _JPEG_ENCODERS:  # decoders assume this
        matrix, full, siting = "smpte170m", True, "center"
    made = formats.describe(
        formats.planar_name(pixel_name), matrix=matrix, full_range=full, primaries=source.primaries,
        transfer=source.transfer, siting=siting,
    )  # fmt: skip
    if (made.chroma_w, made.chroma_h) != (source.chroma_w, source.chroma_h) and made.siting not in ("left", "center"):
        made = replace(made, siting="left")
    return made


def image_encoding(source: PixelFormat, target: str | os.PathLike[str], codec: str) -> Encoding:
    """Return the encoding of numbered images, or of one image."""
    suffix = Path(target).suffix.lower() or ".png"
    if codec not in ("auto", "png", "tiff", "mjpeg", "libwebp"):
        raise UnsupportedError(f"a folder of images accepts -c png, tiff, mjpeg or libwebp, not {codec}")
    by_suffix = {".png": "png", ".tif": "tiff", ".tiff": "tiff", ".jpg": "mjpeg", ".jpeg": "mjpeg", ".webp": "libwebp"}
    chosen = by_suffix.get(suffix, "png") if codec == "auto" else codec
    deep = source.depth > 8 and chosen in ("png", "tiff")
    alpha = source.alpha and chosen != "mjpeg"
    if chosen == "mjpeg":
        made = formats.describe("yuv444p", matrix="smpte170m", full_range=True, siting="center")
        return Encoding(chosen, "images", made, (("qmin", "1"), ("qmax", "2")))
    name = ("gbrap" if alpha else "gbrp") + ("16le" if deep else "")
    if source.layout == "gray" and not alpha:
        name = "gray16le" if deep else "gray"
    made = formats.describe(name, matrix=source.matrix, full_range=True, siting="left")
    options = (("lossless", "1"),) if chosen == "libwebp" else ()
    return Encoding(chosen, "images", made, options)


def _animation_encoding(
    info: VideoInfo, container: str, codec: str, crf: float | None, options: Sequence[tuple[str, str]]
) -> Encoding:
    """Describe the encoding of an animated image: RGB with or without alpha, 8 bits."""
    encoder = _ANIMATION_ENCODERS[container]
    if codec not in ("auto", container, encoder):
        raise UnsupportedError(f".{container} holds {container} only, not {codec}; leave out -c")
    name = "gbrap" if info.format.alpha else "gbrp"
    made = formats.describe(name, matrix="rgb", full_range=True, siting="left")
    notes = (f"{info.format.depth} bits become 8: .{container} holds no more",) if info.format.depth > 8 else ()
    if container == "gif":
        notes = (*notes, "GIF has 256 colours and delays of hundredths of a second; .apng and .webm keep all colours")
    if crf is not None:
        raise InputError(f".{container} has no --crf; leave it out{', or set -e quality=75' * (container == 'webp')}")
    settings, _ = encoder_options(encoder, None, None, options, info, made)
    shown = ", ".join(f"{key} {value}" for key, value in options) or ANIMATIONS[container]
    return Encoding(encoder, container, made, settings, shown, notes)


def add_encoder(container: Any, info: VideoInfo, encoding: Encoding, rate: Fraction, tick: Fraction) -> Any:
    """Add a video stream with this encoding to an output container, with the colour tags of the source."""
    _silence(encoding.codec)
    made = encoding.format
    stream = container.add_stream(encoding.codec, rate=rate, options=dict(encoding.options))
    context = stream.codec_context
    context.width, context.height = encoded_size(info, encoding)
    context.pix_fmt = encoding.pixel_name or made.name
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
    if encoding.container in ("mp4", "mov") and stream.codec.canonical_name == "hevc":
        context.codec_tag = APPLE_HEVC_TAG
    context.color_primaries = formats.code(formats.PRIMARIES, made.primaries)
    context.color_trc = formats.code(formats.TRANSFERS, made.transfer)
    return stream


def encoded_size(info: VideoInfo, encoding: Encoding) -> tuple[int, int]:
    """Return width and height of the encoded frames: those of the source, rounded up to even if necessary."""
    width, height = info.width, info.height
    if encoding.codec in _EVEN_SIZES_ONLY:
        width += width % 2 if encoding.format.chroma_w else 0
        height += height % 2 if encoding.format.chroma_h else 0
    return width, height


def reorder_depth(context: Any) -> int:
    """Return the largest number of packets of an opened encoder that precede one shown before them."""
    declared: int = context.reorder_depth  # which libx265's wrapper leaves at 0
    if context.codec.canonical_name in ("h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video"):
        software = context.codec.name in ("libx264", "libx265", "mpeg4", "mpeg2video", "mpeg1video")
        return max(declared, 2 if software else 4)  # one level of a pyramid of B frames; hardware may have two
    return declared
