"""Colour planes as decoders make them <-> RGB floats, on any device, and back without loss of a level.

RGB here is the frame's own R'G'B': the matrix and the range are undone, transfer and primaries are left alone.
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
# Rows of a frame that are converted at a time. Temporaries of a strip stay in the cache (on one core of a Zen 4 a
# 1080p frame takes 5 ms in strips of 64 to 256 rows, 8 ms in one piece); more strips mean more waiting of threads for
# each other, which costs where decoder and encoder want the cores too.
STRIP_ROWS = 256


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
    """Convert planes to RGB.

    Args:
        planes: (H, W) tensors as `Frame.planes` holds them; a plane of alpha at the end is ignored.
        format: of the planes.
        device: where the result shall be; by default where the planes are.

    Returns:
        (3, H, W) float32, R, G, B; nominally 0..1, not clamped.
    """
    colour = [plane.to(device, non_blocking=True) if device is not None else plane for plane in planes]
    black, span, _, _ = levels(format)
    if format.layout == "gray":
        gray = colour[0].to(torch.float32).sub_(black).mul_(1 / span)
        return gray.expand(3, *gray.shape).contiguous()
    if format.layout == "rgb":
        out = torch.empty((3, *colour[0].shape), dtype=torch.float32, device=colour[0].device)
        for channel in range(3):
            out[channel].copy_(colour[channel])
        return out.sub_(black).mul_(1 / span) if black else out.mul_(1 / span)
    return _yuv_to_rgb(colour, format)


def from_rgb(rgb: Tensor, format: PixelFormat) -> tuple[Tensor, ...]:
    """Convert RGB to planes, rounded and clamped to the code values of the format.

    Args:
        rgb: (3, H, W) float, R, G, B in 0..1; values beyond are clamped only as code values.
        format: of the planes; alpha is left to the caller.

    Returns:
        (Y, Cb, Cr), (R, G, B) or (Y,) on the device of `rgb`, uint8 or uint16.
    """
    rgb = rgb.to(torch.float32)
    black, span, _, _ = levels(format)
    if format.layout == "rgb":
        return tuple(_quantise(rgb[channel] * span, format, black) for channel in range(3))
    if format.layout == "gray":
        return (_quantise(rgb.mean(0) * span, format, black),)
    return _rgb_to_yuv(rgb, format)


def _quantise(values: Tensor, format: PixelFormat, offset: float = 0.0) -> Tensor:
    """The nearest code values of `values + offset`; takes over `values`."""
    values.add_(offset + 0.5).clamp_(0.0, float((1 << format.depth) - 1) + 0.5)
    if format.dtype == torch.uint8:
        return values.to(torch.uint8)
    return values.to(torch.int32).to(torch.uint16)


def _sited(format: PixelFormat) -> tuple[bool, bool]:
    """Whether chroma sits on a luma sample: across, down. False: half-way between two."""
    siting = format.siting
    across = format.chroma_w > 0 and siting in ("left", "topleft", "bottomleft", "unspecified", "unknown")
    down = format.chroma_h > 0 and siting in ("topleft", "top")
    return across, down


def _strips(height: int, device: torch.device) -> list[tuple[int, int]]:
    """Ranges of rows, each beginning on a row of 4:2:0 and 4:1:0 chroma."""
    step = STRIP_ROWS if device.type == "cpu" else height
    return [(top, min(top + step, height)) for top in range(0, height, step)]


def _yuv_to_rgb(planes: Sequence[Tensor], format: PixelFormat) -> Tensor:
    luma, height, width = planes[0], planes[0].shape[0], planes[0].shape[1]
    black, span, zero, chroma_span = levels(format)
    across, down = _sited(format)
    # Contribution of chroma to R, G and B, at its own resolution; black is taken off here, where there are fewer
    # samples.
    cb = planes[1].to(torch.float32).sub_(zero)
    cr = planes[2].to(torch.float32).sub_(zero)
    part = torch.empty((3, *cb.shape), dtype=torch.float32, device=luma.device)
    for channel, (_, of_cb, of_cr) in enumerate(matrix_to_rgb(format.matrix)):
        torch.mul(cb, of_cb / chroma_span, out=part[channel])
        part[channel].add_(cr, alpha=of_cr / chroma_span).sub_(black / span)
    for _ in range(format.chroma_h - 1):  # 4:1:0
        part = _double_rows(part, 0, part.shape[1], down)[:, : -(-height // 2)]
    for step in range(format.chroma_w - 1, 0, -1):  # 4:1:1 and 4:1:0
        part = _double_columns(part, -(-width >> step), across)
    out = torch.empty((3, height, width), dtype=torch.float32, device=luma.device)
    for top, bottom in _strips(height, luma.device):
        if format.chroma_h:
            rows = _double_rows(part, top // 2, -(-bottom // 2), down)[:, : bottom - top]
        else:
            rows = part[:, top:bottom]
        scaled = luma[top:bottom].to(torch.float32).mul_(1 / span)
        if format.chroma_w:
            rows = _double_columns(rows, width, across, out[:, top:bottom])
            rows.add_(scaled)
        else:
            torch.add(rows, scaled, out=out[:, top:bottom])
    return out


def _double_rows(part: Tensor, first: int, last: int, on_sample: bool) -> Tensor:
    """Rows 2 first .. 2 last of twice as many rows; linear interpolation, the edge repeated."""
    channels, height, width = part.shape
    here = part[:, first:last]
    after = part[:, first + 1 : last + 1]
    if last == height:
        after = torch.cat([after, part[:, -1:]], 1)
    out = torch.empty((channels, last - first, 2, width), dtype=part.dtype, device=part.device)
    if on_sample:
        out[:, :, 0] = here
        torch.lerp(here, after, 0.5, out=out[:, :, 1])
    else:
        before = part[:, first - 1 : last - 1] if first else torch.cat([part[:, :1], part[:, : last - 1]], 1)
        torch.lerp(here, before, 0.25, out=out[:, :, 0])
        torch.lerp(here, after, 0.25, out=out[:, :, 1])
    return out.view(channels, 2 * (last - first), width)


def _double_columns(rows: Tensor, width: int, on_sample: bool, out: Tensor | None = None) -> Tensor:
    """Twice as many columns, cut to `width`; linear interpolation, the edge repeated."""
    count = rows.shape[2]
    odd = torch.empty_like(rows)
    weight = 0.5 if on_sample else 0.25
    if count > 1:
        torch.lerp(rows[..., :-1], rows[..., 1:], weight, out=odd[..., :-1])
    odd[..., -1] = rows[..., -1]
    even = rows
    if not on_sample:
        even = torch.empty_like(rows)
        if count > 1:
            torch.lerp(rows[..., 1:], rows[..., :-1], weight, out=even[..., 1:])
        even[..., 0] = rows[..., 0]
    # (even, odd) side by side are a complex number, and torch is five times faster with those than with steps of 2
    if out is not None and width == 2 * count:
        torch.complex(even, odd, out=torch.view_as_complex(out.view(*rows.shape, 2)))
        return out
    pairs = torch.view_as_real(torch.complex(even, odd)).flatten(-2)[..., :width]
    return pairs if out is None else out.copy_(pairs)


def _rgb_to_yuv(rgb: Tensor, format: PixelFormat) -> tuple[Tensor, ...]:
    height, width = rgb.shape[1:]
    black, span, zero, chroma_span = levels(format)
    across, down = _sited(format)
    (y_r, y_g, y_b), *chroma_rows = matrix_from_rgb(format.matrix)
    luma = torch.empty((height, width), dtype=format.dtype, device=rgb.device)
    sizes = [height, width]
    for _ in range(format.chroma_h):
        sizes[0] = -(-sizes[0] // 2)
    for _ in range(format.chroma_w):
        sizes[1] = -(-sizes[1] // 2)
    chroma = [torch.empty(sizes, dtype=format.dtype, device=rgb.device) for _ in range(2)]
    low: list[list[Tensor]] = [[], []]  # 4:1:0 only: chroma at half the height, halved again at the end
    for top, bottom in _strips(height, rgb.device):
        block = rgb[:, top:bottom]
        scaled = torch.mul(block[0], y_r * span).add_(block[1], alpha=y_g * span).add_(block[2], alpha=y_b * span)
        luma[top:bottom] = _quantise(scaled, format, black)
        if format.chroma_h:
            block = _halve_rows(rgb, top, bottom, down)
        for n, (of_r, of_g, of_b) in enumerate(chroma_rows):
            made = torch.mul(block[0], of_r * chroma_span).add_(block[1], alpha=of_g * chroma_span)
            made.add_(block[2], alpha=of_b * chroma_span)
            for _ in range(format.chroma_w):
                made = _halve_columns(made, across)
            if format.chroma_h == 2:
                low[n].append(made)
            else:
                first = top >> format.chroma_h
                chroma[n][first : first + made.shape[0]] = _quantise(made, format, zero)
    if format.chroma_h == 2:
        for n in range(2):
            whole = torch.cat(low[n])[None]
            chroma[n] = _quantise(_halve_rows(whole, 0, whole.shape[1], down)[0], format, zero)
    return (luma, *chroma)


def _halve_rows(rgb: Tensor, top: int, bottom: int, on_sample: bool) -> Tensor:
    """Rows `top` to `bottom` (top even) at half the height; the inverse of `_double_rows`."""
    height = rgb.shape[1]
    count = -(-(bottom - top) // 2)
    if top >= 2 and top + 2 * count + 2 <= height:
        rows = rgb[:, top - 2 : top + 2 * count + 2]
    else:  # the edges are repeated; an odd height is continued by linear interpolation
        above = [rgb[:, :1]] * 2 if top == 0 else [rgb[:, top - 2 : top]]
        below = [rgb[:, bottom : top + 2 * count + 2]] if bottom < height else []
        if bottom == height and (bottom - top) % 2:
            last = rgb[:, height - 1 : height]
            known = on_sample or height == 1
            below.append(last if known else 1.5 * last - 0.5 * rgb[:, height - 2 : height - 1])
        rows = torch.cat([*above, rgb[:, top:bottom], *below], 1)
        short = 2 * count + 4 - rows.shape[1]
        rows = torch.cat([rows, rows[:, -1:].expand(-1, short, -1)], 1) if short else rows
    even, odd = rows[:, 2:-2:2], rows[:, 3:-1:2]
    before, after = rows[:, 1:-3:2], rows[:, 4::2]
    if on_sample:
        out = torch.add(odd, before).mul_(0.25).add_(even, alpha=0.75)
        return out.sub_(rows[:, 0:-4:2], alpha=0.125).sub_(after, alpha=0.125)
    return torch.add(even, odd).mul_(0.75).sub_(before, alpha=0.25).sub_(after, alpha=0.25)


def _halve_columns(rows: Tensor, on_sample: bool) -> Tensor:
    """Every row at half the width; the inverse of `_double_columns`. (H, W) -> (H, ceil(W / 2))."""
    height, width = rows.shape
    if width % 2:
        last = rows[:, -1:]
        known = on_sample or width == 1
        rows = torch.cat([rows, last if known else 1.5 * last - 0.5 * rows[:, -2:-1]], 1)
        width += 1
    pairs = rows.view(height, width // 2, 2)
    even, odd = pairs[..., 0].contiguous(), pairs[..., 1].contiguous()
    if on_sample:
        out = torch.add(odd * 0.25, even, alpha=0.75)
        out[:, 1:].add_(odd[:, :-1], alpha=0.25).sub_(even[:, :-1], alpha=0.125)
        out[:, :1].add_(even[:, :1], alpha=0.25 - 0.125)
        out[:, :-1].sub_(even[:, 1:], alpha=0.125)
        out[:, -1:].sub_(odd[:, -1:], alpha=0.125)
        return out
    out = torch.add(even, odd).mul_(0.75)
    out[:, 1:].sub_(odd[:, :-1], alpha=0.25)
    out[:, :1].sub_(even[:, :1], alpha=0.25)
    out[:, :-1].sub_(even[:, 1:], alpha=0.25)
    out[:, -1:].sub_(odd[:, -1:], alpha=0.25)
    return out


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
