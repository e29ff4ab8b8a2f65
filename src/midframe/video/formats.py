"""Convert between libav's frames and ours: names of pixel formats, colour code points, planes.

Planar integer formats are used directly. All others (nv12, yuyv422, rgb24, pal8, p010le, big-endian ...) are repacked
without loss into the planar format that holds the same samples, see `planar_name`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import numpy as np
from av.video.reformatter import Interpolation

from midframe.types import PixelFormat

if TYPE_CHECKING:
    from torch import Tensor

# Code points of ITU-T H.273 under ffmpeg's names; values not listed are "unknown".
MATRICES = {
    0: "rgb", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "ycgco", 9: "bt2020nc",
    10: "bt2020c", 11: "smpte2085", 12: "chroma-derived-nc", 13: "chroma-derived-c", 14: "ictcp",
}  # fmt: skip
PRIMARIES = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film", 9: "bt2020", 10: "smpte428",
    11: "smpte431", 12: "smpte432", 22: "jedec-p22",
}  # fmt: skip
TRANSFERS = {
    1: "bt709", 4: "gamma22", 5: "gamma28", 6: "smpte170m", 7: "smpte240m", 8: "linear", 9: "log100", 10: "log316",
    11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1", 14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084",
    17: "smpte428", 18: "arib-std-b67",
}  # fmt: skip
UNSPECIFIED = 2  # the code point of "unspecified" in all three tables
RANGE_LIMITED, RANGE_FULL = 1, 2  # AVCOL_RANGE_MPEG, AVCOL_RANGE_JPEG; 0 is unspecified

_YUV = re.compile(r"^yuv(?P<alpha>a?)(?P<full>j?)(?P<chroma>420|422|444|440|411|410)p(?P<depth>9|1[0246])?(le)?$")
_RGB = re.compile(r"^gbr(?P<alpha>a?)p(?P<depth>9|1[0246])?(le)?$")
_GRAY = re.compile(r"^gray(?P<depth>9|1[0246])?(le)?$")
# log2 of subsampling, across and down
_CHROMA_SHIFTS = {"420": (1, 1), "422": (1, 0), "444": (0, 0), "440": (0, 1), "411": (2, 0), "410": (2, 2)}
_NAMED = {v: k for k, v in _CHROMA_SHIFTS.items()}

# libswscale's bit-exact flags, used for every conversion
EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)


def code(table: dict[int, str], name: str) -> int:
    """Return the code point of a name; `UNSPECIFIED` if there is none."""
    return next((number for number, known in table.items() if known == name), UNSPECIFIED)


def is_planar(name: str) -> bool:
    """Return whether the planes of libav's pixel format `name` are used directly."""
    return any(pattern.match(name) for pattern in (_YUV, _RGB, _GRAY)) and name[-2:] != "be"


def planar_name(name: str) -> str:
    """Return the planar format that holds the samples of libav's pixel format `name` without loss."""
    if is_planar(name):
        return name.replace("yuvj", "yuv")
    pixel = av.VideoFormat(name, 16, 16)
    parts = pixel.components
    depth = 16 if "f32" in name or "f16" in name else min(16, max((part.bits for part in parts), default=8))
    depth = next(d for d in (8, 10, 12, 14, 16) if d >= depth)
    suffix = "" if depth == 8 else f"{depth}le"
    if pixel.has_palette:
        return "gbrap"
    if name.startswith("ya") or len(parts) == 2:  # gray with alpha, which no planar format holds
        return "gbrap" + suffix
    if name.startswith("mono"):
        return "gray"
    if len(parts) == 1 and not name.startswith("bayer"):
        return "gray" + suffix
    if pixel.is_rgb or name.startswith(("xyz", "bayer")) or not parts:
        return ("gbrap" if len(parts) == 4 else "gbrp") + suffix
    across = (16 // max(parts[1].width, 1)).bit_length() - 1
    down = (16 // max(parts[1].height, 1)).bit_length() - 1
    chroma = _NAMED.get((across, down), "444")
    # every alpha format exists in 420, 422 and 444, in 8, 10 and 16 bits (12 for 422 and 444)
    alpha = "a" if len(parts) == 4 else ""
    if alpha and (chroma not in ("420", "422", "444") or depth in (12, 14)):
        chroma, suffix = "444", "16le" if depth > 8 else ""
    return f"yuv{alpha}{chroma}p{suffix}"


def repackable(name: str) -> bool:
    """Return whether planes of `planar_name(name)` convert to libav's pixel format `name` without loss."""
    if is_planar(name):
        return True
    pixel = av.VideoFormat(name, 16, 16)
    bits = {part.bits for part in pixel.components}
    if pixel.has_palette or len(bits) != 1 or re.search(r"^bayer|^xyz|^mono|f32|f16", name):
        return False
    return describe(planar_name(name), matrix="bt709", full_range=False, siting="left").depth in bits


def describe(
    name: str, *, matrix: str, full_range: bool, primaries: str = "unknown", transfer: str = "unknown", siting: str
) -> PixelFormat:
    """Return the `PixelFormat` of a planar format, by name, with these colour tags."""
    if found := _YUV.match(name):
        across, down = _CHROMA_SHIFTS[found["chroma"]]
        return PixelFormat(
            name.replace("yuvj", "yuv"), "yuv", int(found["depth"] or 8), across, down, bool(found["alpha"]),
            matrix, full_range or bool(found["full"]), primaries, transfer, siting,
        )  # fmt: skip
    if found := _RGB.match(name):
        return PixelFormat(
            name, "rgb", int(found["depth"] or 8), alpha=bool(found["alpha"]), matrix="rgb", full_range=True,
            primaries=primaries, transfer=transfer, siting=siting,
        )  # fmt: skip
    found = _GRAY.match(name)
    if found is None:
        raise ValueError(f"{name} is not one of our planar formats")
    return PixelFormat(
        name, "gray", int(found["depth"] or 8), matrix=matrix, full_range=full_range, primaries=primaries,
        transfer=transfer, siting=siting,
    )  # fmt: skip


def name_of(format: PixelFormat, depth: int | None = None, alpha: bool | None = None) -> str:
    """Return libav's name of a format, optionally at another depth or with or without alpha."""
    depth = format.depth if depth is None else depth
    alpha = format.alpha if alpha is None else alpha
    suffix = "" if depth == 8 else f"{depth}le"
    if format.layout == "rgb":
        return ("gbrap" if alpha else "gbrp") + suffix
    if format.layout == "gray":
        return "gray" + suffix
    return f"yuv{'a' if alpha else ''}{_NAMED[format.chroma_w, format.chroma_h]}p{suffix}"


def sampling_of(format: PixelFormat) -> str:
    """Return the chroma sampling of a YUV format as people write it: 4:2:0."""
    return ":".join(_NAMED[format.chroma_w, format.chroma_h])


def planes_of(frame: av.VideoFrame, format: PixelFormat) -> tuple[Tensor, ...]:
    """Return the planes of a decoded frame, as Y, U, V or R, G, B and alpha; views, unless rows run upwards.

    The tensors keep the frame's buffer alive. They are read-only: the decoder may still refer to it.
    """
    import torch

    wide = format.depth > 8
    planes = []
    for plane in frame.planes:
        step = abs(plane.line_size)
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, step)
        row_bytes = plane.width * (2 if wide else 1)
        pixels = rows[:, :row_bytes]
        if wide:
            pixels = pixels.view(np.uint16)
        if plane.line_size < 0:
            pixels = np.ascontiguousarray(pixels[::-1])
        planes.append(torch.from_numpy(pixels))
    if format.layout == "rgb":  # libav keeps G, B, R
        planes[:3] = planes[2], planes[0], planes[1]
    return tuple(planes)


def to_planar(frame: av.VideoFrame, format: PixelFormat, width: int, height: int) -> av.VideoFrame:
    """Repack a frame into `format` and size; returns the same object if it has them already."""
    name = frame.format.name
    if name.replace("yuvj", "yuv") == format.name and (frame.width, frame.height) == (width, height):
        return frame
    if frame.format.is_rgb and max(part.bits for part in frame.format.components) < 8:
        # libswscale maps white to 248 when it converts rgb555 to planes directly
        frame = frame.reformat(format="rgb24", interpolation=EXACT)
    full = RANGE_FULL if format.full_range else RANGE_LIMITED
    source_full = full
    if frame.format.is_rgb != (format.layout == "rgb") or name.startswith("yuvj"):
        source_full = RANGE_FULL if frame.format.is_rgb or name.startswith("yuvj") else frame.color_range or full
    return frame.reformat(
        width, height, format.name, interpolation=EXACT, src_color_range=source_full, dst_color_range=full
    )


def video_frame(planes: tuple[Tensor, ...], format: PixelFormat, pixel_name: str | None = None) -> av.VideoFrame:
    """Copy planes into an `av.VideoFrame`, in the format's own or another pixel format of libav."""
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, format.name)
    order = (1, 2, 0, 3) if format.layout == "rgb" else (0, 1, 2, 3)
    for plane, source in zip(frame.planes, order, strict=False):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        samples = planes[source].cpu().numpy()
        if samples.dtype == np.uint16:
            rows.view(np.uint16)[:, : plane.width] = samples
        else:
            rows[:, : plane.width] = samples
    tag(frame, format)
    if pixel_name is not None and pixel_name != format.name:
        same_range = RANGE_FULL if format.full_range else RANGE_LIMITED
        frame = frame.reformat(
            format=pixel_name, interpolation=EXACT, src_color_range=same_range, dst_color_range=same_range
        )
        tag(frame, format)
    return frame


def tag(frame: av.VideoFrame, format: PixelFormat) -> None:
    """Set the colour code points of `format` on an `av.VideoFrame`."""
    frame.colorspace = code(MATRICES, format.matrix)
    frame.color_range = RANGE_FULL if format.full_range else RANGE_LIMITED
    frame.color_primaries = code(PRIMARIES, format.primaries)
    frame.color_trc = code(TRANSFERS, format.transfer)


def exact(value: Fraction | None) -> Fraction | None:
    """Convert a rate or aspect of libav to a `Fraction`; None if it is 0 or absent."""
    return Fraction(value) if value else None
