"""Colour planes as decoders make them <-> RGB floats, on any device, and back without loss of a level.

RGB here is the picture's own R'G'B': the matrix and the range are undone, transfer and primaries are left alone.
Values are (3, H, W) float32, 0 is black and 1 is nominal white. They are *not* clamped: studio-range video holds
levels beyond black and white and colours outside the cube, and they come back as they went in.

Chroma is sampled up by linear interpolation at its true place (`PixelFormat.siting`) and sampled down by the
filter that undoes it exactly: 5/3 (Le Gall & Tabatabai 1988) where chroma sits on a luma sample,
(-1, 3, 3, -1)/4 where it sits half-way between two. So `from_rgb(to_rgb(planes))` is `planes`, to rounding.

Alpha is not colour: both functions leave it out, and the caller carries it along.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from midframe.types import PixelFormat

# Luma weights (Kr, Kb) of the matrices of ITU-T H.273, table 4
LUMA_WEIGHTS = {
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "smpte240m": (0.212, 0.087),
    "bt2020nc": (0.2627, 0.0593),
    "bt2020c": (0.2627, 0.0593),
}
# Rows of a picture that are worked on at a time: temporaries of a strip stay in the cache of a core.
STRIP_ROWS = 64


@lru_cache(maxsize=32)
def matrix_to_rgb(matrix: str) -> tuple[tuple[float, float, float], ...]:
    """Three rows that make R, G, B of (Y, Cb, Cr), with Y in 0..1 and Cb, Cr in -0.5..0.5.

    An unknown matrix is read as BT.709; the way back uses the same numbers, so nothing is lost by it. The constant
    luminance of "bt2020c" is no matrix at all and is treated as "bt2020nc" for the same reason.
    """
    if matrix == "ycgco":  # Cb holds Cg, Cr holds Co
        return ((1.0, -1.0, 1.0), (1.0, 1.0, 0.0), (1.0, -1.0, -1.0))
    kr, kb = LUMA_WEIGHTS.get(matrix, LUMA_WEIGHTS["bt709"])
    kg = 1.0 - kr - kb
    return (
        (1.0, 0.0, 2 * (1 - kr)),
        (1.0, -2 * kb * (1 - kb) / kg, -2 * kr * (1 - kr) / kg),
        (1.0, 2 * (1 - kb), 0.0),
    )


@lru_cache(maxsize=32)
def matrix_from_rgb(matrix: str) -> tuple[tuple[float, float, float], ...]:
    """The inverse of `matrix_to_rgb`."""
    inverse = torch.linalg.inv(torch.tensor(matrix_to_rgb(matrix), dtype=torch.float64))
    return tuple((float(a), float(b), float(c)) for a, b, c in inverse)


def levels(format: PixelFormat) -> tuple[float, float, float, float]:
    """Luma black, luma span, chroma zero and chroma span, in code values of the format."""
    scale = 1 << (format.depth - 8)
    if format.full_range:
        return 0.0, float((1 << format.depth) - 1), 128.0 * scale, float((1 << format.depth) - 1)
    return 16.0 * scale, 219.0 * scale, 128.0 * scale, 224.0 * scale


def to_rgb(planes: Sequence[Tensor], format: PixelFormat, device: torch.device | str | None = None) -> Tensor:
    """RGB of a picture.

    Args:
        planes: (H, W) tensors as `Frame.planes` holds them; a plane of alpha at the end is ignored.
        format: what the planes mean.
        device: where the result shall be; by default where the planes are.

    Returns:
        (3, H, W) float32, R, G, B; nominally 0..1, not clamped.
    """
    colour = [plane.to(device, non_blocking=True) if device is not None else plane for plane in planes]
    black, span, zero, chroma_span = levels(format)
    if format.layout == "gray":
        grey = colour[0].to(torch.float32).sub_(black).mul_(1 / span)
        return grey.expand(3, *grey.shape).contiguous()
    if format.layout == "rgb":
        out = torch.empty((3, *colour[0].shape), dtype=torch.float32, device=colour[0].device)
        for channel in range(3):
            out[channel].copy_(colour[channel])
        return out.sub_(black).mul_(1 / span) if black else out.mul_(1 / span)
    luma, height, width = colour[0], colour[0].shape[0], colour[0].shape[1]
    out = torch.empty((3, height, width), dtype=torch.float32, device=luma.device)
    # what chroma adds to R, G and B, at its own resolution; black is taken off here, where there are fewer samples
    cb = colour[1].to(torch.float32).sub_(zero)
    cr = colour[2].to(torch.float32).sub_(zero)
    part = torch.empty((3, *cb.shape), dtype=torch.float32, device=luma.device)
    for channel, (_, of_cb, of_cr) in enumerate(matrix_to_rgb(format.matrix)):
        torch.mul(cb, of_cb / chroma_span, out=part[channel])
        part[channel].add_(cr, alpha=of_cr / chroma_span).sub_(black / span)
    for top, bottom, chroma in _upsampled(part, format, height, width):
        out[:, top:bottom] = chroma
        out[:, top:bottom].add_(luma[top:bottom].to(torch.float32), alpha=1 / span)
    return out


def from_rgb(rgb: Tensor, format: PixelFormat) -> tuple[Tensor, ...]:
    """Planes of an RGB picture, rounded and clamped to the code values of the format.

    Args:
        rgb: (3, H, W) float, R, G, B in 0..1; values beyond are clamped only as code values.
        format: what the planes shall mean; alpha of the format is left to the caller.

    Returns:
        (Y, Cb, Cr), (R, G, B) or (Y,) on the device of `rgb`, uint8 or uint16.
    """
    rgb = rgb.to(torch.float32)
    black, span, zero, chroma_span = levels(format)
    if format.layout == "rgb":
        return tuple(_quantise(rgb[channel] * span + black, format) for channel in range(3))
    if format.layout == "gray":
        return (_quantise(rgb.mean(0) * span + black, format),)
    (y_r, y_g, y_b), *chroma_rows = matrix_from_rgb(format.matrix)
    luma = torch.mul(rgb[0], y_r * span).add_(rgb[1], alpha=y_g * span).add_(rgb[2], alpha=y_b * span).add_(black)
    planes = [_quantise(luma, format)]
    for of_r, of_g, of_b in chroma_rows:
        full = torch.mul(rgb[0], of_r * chroma_span).add_(rgb[1], alpha=of_g * chroma_span)
        full.add_(rgb[2], alpha=of_b * chroma_span)
        planes.append(_quantise(_downsample(full, format).add_(zero), format))
    return tuple(planes)


def _quantise(values: Tensor, format: PixelFormat) -> Tensor:
    """Round to the nearest code value; takes over `values`."""
    values.add_(0.5).clamp_(0.0, float((1 << format.depth) - 1) + 0.5)
    if format.dtype == torch.uint8:
        return values.to(torch.uint8)
    return values.to(torch.int32).to(torch.uint16)


def _sited(format: PixelFormat) -> tuple[bool, bool]:
    """Whether chroma sits on a luma sample: across, down. False: half-way between two."""
    siting = format.siting
    across = format.chroma_w > 0 and siting in ("left", "topleft", "bottomleft", "unspecified", "unknown")
    down = format.chroma_h > 0 and siting in ("topleft", "top")
    return across, down


def _double(values: Tensor, dim: int, size: int, on_sample: bool) -> Tensor:
    """Twice the samples of `values` along `dim`, cut to `size`; linear interpolation."""
    first = values.narrow(dim, 0, 1)
    last = values.narrow(dim, values.shape[dim] - 1, 1)
    length = values.shape[dim]
    after = torch.cat([values.narrow(dim, 1, length - 1), last], dim) if length > 1 else values
    if on_sample:
        even, odd = values, torch.lerp(values, after, 0.5)
    else:
        before = torch.cat([first, values.narrow(dim, 0, length - 1)], dim) if length > 1 else values
        even, odd = torch.lerp(values, before, 0.25), torch.lerp(values, after, 0.25)
    out = torch.stack([even, odd], dim + 1 if dim >= 0 else dim)
    shape = list(values.shape)
    shape[dim] = 2 * length
    return out.reshape(shape).narrow(dim, 0, size)


def _upsampled(part: Tensor, format: PixelFormat, height: int, width: int) -> list[tuple[int, int, Tensor]]:
    across, down = _sited(format)
    for _ in range(format.chroma_h):
        part = _double(part, 1, min(2 * part.shape[1], height), down)
    for step in reversed(range(format.chroma_w)):
        part = _double(part, 2, -(-width >> step), across)
    return [(0, height, part[:, :height, :width])]


def _halve(values: Tensor, dim: int, on_sample: bool) -> Tensor:
    """Undo `_double`, exactly: every second sample along `dim` of what its dual filter makes."""
    length = values.shape[dim]
    last = values.narrow(dim, length - 1, 1)
    if length % 2:
        # where chroma lies half-way, what linear interpolation would have put there
        known = on_sample or length == 1
        extra = last if known else 1.5 * last - 0.5 * values.narrow(dim, length - 2, 1)
        values = torch.cat([values, extra], dim)
        length += 1
    shape = list(values.shape)
    shape[dim : dim + 1] = [length // 2, 2]
    pairs = values.reshape(shape)
    even, odd = pairs.select(dim + 1, 0), pairs.select(dim + 1, 1)
    count = length // 2
    odd_before = torch.cat([even.narrow(dim, 0, 1), odd.narrow(dim, 0, count - 1)], dim)
    even_after = torch.cat([even.narrow(dim, 1, count - 1), odd.narrow(dim, count - 1, 1)], dim)
    if not on_sample:
        return torch.add(even, odd).mul_(0.75).sub_(torch.add(odd_before, even_after).mul_(0.25))
    even_before = torch.cat([even.narrow(dim, 0, 1), even.narrow(dim, 0, count - 1)], dim)
    near = torch.add(odd, odd_before).mul_(0.25)
    return near.sub_(torch.add(even_before, even_after), alpha=0.125).add_(even, alpha=0.75)


def _downsample(full: Tensor, format: PixelFormat) -> Tensor:
    across, down = _sited(format)
    for _ in range(format.chroma_h):
        full = _halve(full, 0, down)
    for _ in range(format.chroma_w):
        full = _halve(full, 1, across)
    return full


def convert(planes: Sequence[Tensor], source: PixelFormat, target: PixelFormat) -> tuple[Tensor, ...]:
    """Planes of one format as planes of another, alpha included: added opaque, dropped, or brought to the new depth.

    Planes that mean the same in both are returned as they are.
    """
    same = (source.layout, source.depth, source.chroma_w, source.chroma_h, source.full_range, source.matrix) == (
        target.layout, target.depth, target.chroma_w, target.chroma_h, target.full_range, target.matrix,
    )  # fmt: skip
    count = source.plane_count - int(source.alpha)
    colour = tuple(planes[:count]) if same else from_rgb(to_rgb(planes, source), target)
    if not target.alpha:
        return colour
    top = float((1 << target.depth) - 1)
    if not source.alpha:
        opaque = torch.full(planes[0].shape, top, dtype=torch.float32, device=planes[0].device)
        return (*colour, _quantise(opaque, target))
    alpha = planes[count]
    if source.depth != target.depth:
        alpha = _quantise(alpha.to(torch.float32) * (top / ((1 << source.depth) - 1)), target)
    return (*colour, alpha)
