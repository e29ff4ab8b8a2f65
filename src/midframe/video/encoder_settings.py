"""Options of every encoder: constant quality, preset, HDR metadata, known faults."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import av.codec.context
import torch

from midframe.errors import InputError
from midframe.types import Mastering, PixelFormat, VideoInfo

# Default constant quality, of equal appearance; presets that two cores can keep up with.
DEFAULT_CRF = {"libx264": 16.0, "libx265": 17.0, "libvpx-vp9": 20.0, "libsvtav1": 20.0, "libaom-av1": 20.0}
_PRESETS = {"libx264": "veryfast", "libx265": "veryfast", "libsvtav1": "8"}
# Option of constant quality, where it is not called crf.
_QUALITY_OPTION = {
    "h264_nvenc": "cq", "hevc_nvenc": "cq", "av1_nvenc": "cq", "h264_qsv": "global_quality",
    "hevc_qsv": "global_quality", "av1_qsv": "global_quality", "mpeg4": "qscale",
}  # fmt: skip
# x265 4.2 writes beyond its buffers at widths of 33 to 48 pixels with mb-tree on (found with glibc's MALLOC_CHECK_=3;
# the assembly of cuTreePropagateCost): 3 blocks of 8 pixels at half size, 4 written at a time.
X265_NARROW_WIDTH = 64
LOSSLESS = ("ffv1", "png", "huffyuv", "ffvhuff", "utvideo", "rawvideo", "qtrle")


def encoder_options(
    codec: str,
    crf: float | None,
    preset: str | None,
    extra: Sequence[tuple[str, str]],
    info: VideoInfo,
    made: PixelFormat,
) -> tuple[tuple[str, str], ...]:
    """Return all (key, value) pairs for an encoder: quality, preset, HDR metadata, the user's own.

    Raises:
        InputError: an option that the encoder does not have.
    """
    known = av.codec.context.CodecContext.create(codec, "w").supported_options
    names = {option.name for option in known.private} | {option.name for option in known.generic}
    private = {option.name for option in known.private}
    found: dict[str, str] = {}
    if codec in _QUALITY_OPTION:
        if crf is not None:
            found[_QUALITY_OPTION[codec]] = f"{crf:g}"
    elif "crf" in private:
        if crf is not None or codec in DEFAULT_CRF:
            found["crf"] = f"{crf if crf is not None else DEFAULT_CRF[codec]:g}"
    elif crf is not None and codec not in LOSSLESS:
        raise InputError(f"{codec} has no --crf; try -e with one of its own options")
    if preset is not None:
        if "preset" in private:
            found["preset"] = preset
        elif codec == "libvpx-vp9":
            found["cpu-used"] = preset
        else:
            raise InputError(f"{codec} has no --preset; leave it out")
    elif codec in _PRESETS:
        found["preset"] = _PRESETS[codec]
    if codec == "libvpx-vp9":
        found |= {"b": "0", "row-mt": "1", "deadline": "good"} | ({} if preset else {"cpu-used": "4"})
        if made.alpha:
            found["auto-alt-ref"] = "0"  # libvpx keeps alpha in a second stream, which cannot have hidden frames
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
    """Join parameters in the notation of an encoder; those of the user come last and win."""
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
