"""Options of every encoder: constant quality, preset, HDR metadata, known faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av.codec.context
import cv2

from midframe.errors import InputError
from midframe.types import Mastering, PixelFormat, VideoInfo

CV_CPU_AVX_512F = 13  # OpenCV's number of the instruction set, which its Python module does not name
# Presets that two cores can keep up with.
_PRESETS = {"libx264": "veryfast", "libx264rgb": "veryfast", "libx265": "veryfast", "libsvtav1": "8"}
_X26X_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip
_NAMED_PRESETS = ("libx264", "libx264rgb", "libx265")  # numbers from 0 are these by their place
_NUMBERED_PRESETS = {"libsvtav1": (-1, 13), "libvpx-vp9": (0, 8)}
# x265 4.2 writes beyond its buffers at widths of 33 to 48 pixels with mb-tree on (found with glibc's MALLOC_CHECK_=3;
# the assembly of cuTreePropagateCost): 3 blocks of 8 pixels at half size, 4 written at a time.
X265_NARROW_WIDTH = 64
# Without quality settings: lossless, or (ProRes, DNxHR) of a quality that the profile fixes.
LOSSLESS = frozenset({
    "ffv1", "png", "apng", "huffyuv", "ffvhuff", "utvideo", "magicyuv", "rawvideo", "wrapped_avframe", "qtrle", "qoi",
    "tiff", "bmp", "ljpeg", "jpegls", "v210", "v308", "v408", "v410", "r210", "r10k", "yuv4", "y41p", "exr", "dpx",
})  # fmt: skip
_FIXED_QUALITY = frozenset({"prores", "prores_aw", "prores_ks", "dnxhd", "cfhd", "gif", "libwebp", "libwebp_anim"})


@dataclass(frozen=True, slots=True)
class QualityScale:
    """Constant quality of one encoder: the option that sets it, its range, and the default.

    The defaults give equal quality. Those of software encoders are measured: 45.1 to 46.5 dB PSNR and 0.985 to 0.989
    SSIM of luma; libx264 crf 16 has 45.8 dB and 0.989 (mean of 4 real clips, 8 frames of 640x360 each, presets of
    this file; `benchmarks/encoder_quality.py`). Those of hardware encoders are not measured: they follow the
    quantizer scale of H.264, 2 finer than libx264, which decides better where to spend bits. librav1e, libaom-av1 and
    libvvenc are not in PyAV's build, and not measured either.
    """

    option: str  # libav's name
    default: float
    low: float = 0
    high: float = 51
    also: tuple[tuple[str, str], ...] = ()  # options without which the encoder ignores it


_SCALES = {
    "libx264": QualityScale("crf", 16),
    "libx264rgb": QualityScale("crf", 16),
    "libx265": QualityScale("crf", 17),
    "libsvtav1": QualityScale("crf", 20, 1, 63),
    "libaom-av1": QualityScale("crf", 20, 0, 63, (("b", "0"),)),
    "librav1e": QualityScale("qp", 60, 0, 255),
    "libvpx-vp9": QualityScale("crf", 22, 0, 63, (("b", "0"),)),
    "libvpx": QualityScale("crf", 13, 4, 63, (("b", "100M"),)),  # VP8 needs a bit rate, which crf then limits
    "libvvenc": QualityScale("qp", 20, 0, 63),
}
# Families of hardware encoders, by the end of the name.
_HARDWARE_SCALES = {
    "_nvenc": QualityScale("cq", 18, 1, 51, (("rc", "vbr"), ("b", "0"))),
    "_qsv": QualityScale("global_quality", 18, 1, 51),
    "_amf": QualityScale("qp", 18, 0, 51, (("rc", "cqp"),)),
}
# Options that choose rate or quality: with one of them from the user, no default quality is set.
_RATE_CONTROL = frozenset({
    "b", "crf", "cq", "qp", "qmin", "qmax", "global_quality", "rc", "rc_mode", "rate_control", "quality", "lossless",
    "qp_i", "qp_p", "qp_b", "qvbr_quality_level",
})  # fmt: skip
# MPEG-1/2/4, MJPEG and relatives have a quantizer of 1 to 31, in steps twice as wide: 2 has the step of H.264's QP 16.
_MPEG_QUANTIZER_AT_CRF_16 = 2.0
_LAMBDA_PER_QUANTIZER = 118  # FF_QP2LAMBDA of libav
_CRF_PER_DOUBLING = 6.0  # of the quantizer step, by the definition of H.264


def quality_options(codec: str, crf: float | None, private: set[str]) -> tuple[dict[str, str], str]:
    """Return the options that set constant quality, and how the plan shows it ("crf 16", "quantizer 2").

    `crf` counts on the encoder's own scale if that is one of rate factors or quantizers up to 51 or 63. Quantizers of
    MPEG-4 and its relatives, and percentages of VideoToolbox and Media Foundation, are converted from libx264's crf.

    Args:
        codec: libav's name of the encoder.
        crf: smaller is better; None: the default, of equal quality for all encoders.
        private: names of the encoder's private options.

    Raises:
        InputError: the value is out of range, or the encoder has no such setting.
    """
    if codec in _FIXED_QUALITY and crf is not None:
        raise InputError(f"{codec} has no --crf: its profile decides the quality; leave it out")
    if codec in LOSSLESS or codec in _FIXED_QUALITY:
        return {}, ""
    family = next((scale for end, scale in _HARDWARE_SCALES.items() if codec.endswith(end)), None)
    scale = _SCALES.get(codec, family)
    if scale is None and "crf" in private:
        scale = QualityScale("crf", 16)
    if scale is not None:
        value = scale.default if crf is None else crf
        _within(codec, crf, scale.low, scale.high, scale.default)
        if codec.endswith("_amf"):
            found = {f"qp_{kind}": f"{value:g}" for kind in "ipb" if f"qp_{kind}" in private}
        else:
            found = {scale.option: f"{value:g}"}
        return found | dict(scale.also), f"{scale.option.replace('_', ' ')} {value:g}"
    if codec.endswith(("_videotoolbox", "_mf")):  # 1 to 100, larger is better
        _within(codec, crf, 0, 49, 16)
        percent = round(100 - (16 if crf is None else crf) * 2)
        if codec.endswith("_mf"):
            return {"rate_control": "quality", "quality": str(percent)}, f"quality {percent}"
        return {"flags": "+qscale", "global_quality": str(percent * _LAMBDA_PER_QUANTIZER)}, f"quality {percent}"
    if "mpv_flags" in private:
        _within(codec, crf, 0, 39, 16)
        doublings = ((16 if crf is None else crf) - 16) / _CRF_PER_DOUBLING
        quantizer = str(min(31, max(1, round(_MPEG_QUANTIZER_AT_CRF_16 * 2**doublings))))
        return {"qmin": quantizer, "qmax": quantizer}, f"quantizer {quantizer}"
    if crf is not None:
        raise InputError(f"{codec} has no constant quality, so no --crf; set its bit rate with -e b=20M")
    return {}, "default quality of the encoder"


def _within(codec: str, given: float | None, low: float, high: float, default: float) -> None:
    if given is not None and not low <= given <= high:
        raise InputError(f"--crf {given:g} is not within {low:g} to {high:g} of {codec}; the default is {default:g}")


def _check_preset(codec: str, preset: str) -> None:
    """Refuse an unknown preset of the usual encoders, which themselves say "invalid argument"."""
    if codec in _NAMED_PRESETS and preset not in _X26X_PRESETS and not preset.isdecimal():
        raise InputError(f"--preset {preset}: {codec} has {' '.join(_X26X_PRESETS)}")
    if codec in _NUMBERED_PRESETS:
        low, high = _NUMBERED_PRESETS[codec]
        if not preset.lstrip("-").isdecimal() or not low <= int(preset) <= high:
            raise InputError(f"--preset {preset}: {codec} has {low} (slowest, smallest files) to {high} (fastest)")


def encoder_options(
    codec: str,
    crf: float | None,
    preset: str | None,
    extra: Sequence[tuple[str, str]],
    info: VideoInfo,
    made: PixelFormat,
) -> tuple[tuple[tuple[str, str], ...], str]:
    """Return all (key, value) pairs for an encoder (quality, preset, HDR metadata, the user's own), and its quality.

    Raises:
        InputError: an option that the encoder does not have.
    """
    known = av.codec.context.CodecContext.create(codec, "w").supported_options
    names = {option.name for option in known.private} | {option.name for option in known.generic}
    private = {option.name for option in known.private}
    found: dict[str, str] = {}
    own = [(key, value) for key, value in extra if key in _RATE_CONTROL]
    if own and crf is None:
        shown = ", ".join(f"{key} {value}" for key, value in own)
    else:
        quality, shown = quality_options(codec, crf, private)
        found |= quality
    if preset is not None:
        _check_preset(codec, preset)
        if "preset" in private:
            found["preset"] = preset
        elif codec == "libvpx-vp9":
            found["cpu-used"] = preset
        else:
            raise InputError(f"{codec} has no --preset; leave it out")
    elif codec in _PRESETS:
        found["preset"] = _PRESETS[codec]
    if codec == "libvpx-vp9":
        found |= {"row-mt": "1", "deadline": "good"} | ({} if preset else {"cpu-used": "4"})
        if made.alpha:
            found["auto-alt-ref"] = "0"  # libvpx keeps alpha in a second stream, which cannot have hidden frames
    if codec == "prores_ks":
        found |= {"profile": "4444" if made.chroma_w == 0 else "hq", "vendor": "apl0"}
        if made.alpha:
            found["alpha_bits"] = "16"
    if codec == "ffv1":
        found |= {"level": "3", "slices": "4", "slicecrc": "1"}
    if codec == "dnxhd":  # of any size and rate, unlike DNxHD proper
        deep = "dnxhr_444" if made.chroma_w == 0 else "dnxhr_hqx"
        found["profile"] = deep if made.depth > 8 or made.chroma_w == 0 else "dnxhr_hq"
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
    return tuple((key, value) for key, value in found.items() if value), shown


def _joined(own: str | None, separator: str, made: dict[str, str]) -> str:
    """Join parameters in the notation of an encoder; those of the user come last and win."""
    parts = [f"{key}={value}" for key, value in made.items()]
    return separator.join([*parts, *([own] if own else [])])


def _x264(made: PixelFormat) -> dict[str, str]:
    found = _chromaloc(made)
    # Its AVX-512 code for mbtree gives one of several results at random (x264 165 in PyAV 18.1: 3 different files from
    # 6 encodes of equal frames; with AVX2 8 of 8 were equal). A resumed run must make the frames it would have made.
    if cv2.checkHardwareSupport(CV_CPU_AVX_512F):
        found["asm"] = "AVX2"
    return found


def _chromaloc(made: PixelFormat) -> dict[str, str]:
    """Return chroma_sample_loc_type of H.264 and HEVC, unless it is the default "left" (0)."""
    number = {"center": 1, "topleft": 2, "top": 3, "bottomleft": 4, "bottom": 5}.get(made.siting)
    return {"chromaloc": str(number)} if number and made.chroma_h else {}


def _x265(info: VideoInfo, made: PixelFormat) -> dict[str, str]:
    found = {"log-level": "none"}
    if info.width < X265_NARROW_WIDTH:
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
    """Format SMPTE ST 2086 metadata for x265: chromaticities in 1/50000, luminances in 1/10000 cd/m2."""

    def point(key: str, xy: tuple[Fraction, Fraction]) -> str:
        return f"{key}({round(xy[0] * 50000)},{round(xy[1] * 50000)})"

    colours = point("G", mastering.green) + point("B", mastering.blue) + point("R", mastering.red)
    light = f"L({round(mastering.brightest * 10000)},{round(mastering.darkest * 10000)})"
    return colours + point("WP", mastering.white) + light
