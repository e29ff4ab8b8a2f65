"""Warp, splat, resize flow, B-splines, pad and crop. The convention of flow is stated here, once.

A flow is a float32 tensor (B, 2, H, W); channel 0 is dx, to the right, channel 1 is dy, downwards, in pixels of
*this* resolution. `flow_ab[:, :, y, x]` is where pixel (x, y) of a has gone in b, less (x, y): the content at (x, y)
of a is at (x + dx, y + dy) in b. Warping is backward: `warp(image_b, flow_ab)` is b aligned with a. Pixel centres
have whole-number coordinates; a flow is resized through `resize_flow`, which scales the vectors with the image. Flow,
coordinates and splat sums are float32 whatever the type of the images: half precision cannot count past 2048.
"""

from __future__ import annotations

import math

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor


def coordinates(height: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Pixel coordinates (1, 2, H, W) float32: channel 0 is x, channel 1 is y."""
    y = torch.arange(height, device=device, dtype=torch.float32)
    x = torch.arange(width, device=device, dtype=torch.float32)
    return torch.stack([x[None, :].expand(height, width), y[:, None].expand(height, width)])[None]


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def blend(a: Tensor, b: Tensor, t: float) -> Tensor:
    """The plane (1 - t) a + t b of two planes (H, W) uint8 or uint16, rounded to the nearest level; on the CPU."""
    return torch.from_numpy(cv2.addWeighted(a.cpu().numpy(), 1.0 - t, b.cpu().numpy(), t, 0.0))


def warp(image: Tensor, flow: Tensor, padding_mode: str = "border") -> Tensor:
    """Backward warp: `out[y, x] = image[y + dy, x + dx]`, bilinear.

    Args:
        image: (B, C, H, W), any float type; sampled in float32 (float64 if it is that) and returned in its own type.
        flow: (B, 2, H, W) float32, pixels; may have another H, W than the image only if its values
            still are coordinates of the image (they are not scaled here).
        padding_mode: outside the image: "border" repeats the edge, "zeros" gives zeros.
    """
    height, width = image.shape[-2:]
    where = coordinates(flow.shape[-2], flow.shape[-1], flow.device) + at_least_float32(flow)
    x = where[:, 0] * (2.0 / max(width - 1, 1)) - 1.0
    y = where[:, 1] * (2.0 / max(height - 1, 1)) - 1.0
    grid = torch.stack([x, y], dim=-1)  # (B, H, W, 2)
    out = F.grid_sample(at_least_float32(image), grid, mode="bilinear", padding_mode=padding_mode, align_corners=True)
    return out.to(image.dtype)


def splat(values: Tensor, flow: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Forward splat: move each pixel along its flow and distribute it over the four nearest pixels.

    Softmax splatting (Niklaus & Liu 2020, arXiv:2003.05534) is `weight = exp(importance)` and a division of
    the first result by the second.

    Args:
        values: (B, C, H, W) float.
        flow: (B, 2, H, W) float32, pixels.
        weight: (B, 1, H, W) float, >= 0; how much a pixel counts where several land; 1 if not given.

    Returns:
        The weighted sum (B, C, H, W) and the sum of weights (B, 1, H, W), both float32. Where the second is
        0 nothing was splatted.
    """
    batch, channels, height, width = values.shape
    if weight is None:
        weight = torch.ones_like(flow[:, :1])
    weight = weight.float()
    load = torch.cat([values.float() * weight, weight], dim=1).flatten(2)  # (B, C+1, HW)
    where = coordinates(height, width, flow.device) + flow.float()
    left, top = where[:, 0].floor(), where[:, 1].floor()
    fx, fy = (where[:, 0] - left).flatten(1), (where[:, 1] - top).flatten(1)
    # far-off targets would overflow the integer type
    left = left.clamp(-2, width + 1).long().flatten(1)
    top = top.clamp(-2, height + 1).long().flatten(1)
    out = load.new_zeros(batch, channels + 1, height * width)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = left + dx, top + dy
        share = (fx if dx else 1 - fx) * (fy if dy else 1 - fy)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        index = (y * width + x).clamp(0, height * width - 1)
        share = torch.where(inside, share, torch.zeros_like(share))
        out.scatter_add_(2, index[:, None].expand(-1, channels + 1, -1), load * share[:, None])
    out = out.view(batch, channels + 1, height, width)
    return out[:, :-1], out[:, -1:]


def vector_length(flow: Tensor) -> Tensor:
    """Lengths (B, 1, H, W) of the vectors of a flow."""
    return torch.sqrt((flow * flow).sum(1, keepdim=True))


def box_mean(x: Tensor, side: int) -> Tensor:
    """Mean of side x side; as sums of shifted rows and columns, a tenth of `avg_pool2d`'s time on a CPU."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (side // 2,) * 4, mode="replicate")
    rows = padded[..., :width] + padded[..., 1 : width + 1]
    for k in range(2, side):
        rows += padded[..., k : k + width]
    out = rows[..., :height, :] + rows[..., 1 : height + 1, :]
    for k in range(2, side):
        out += rows[..., k : k + height, :]
    return out.mul_(1.0 / side**2)


def spline_coefficients(image: Tensor) -> Tensor:
    """Cubic B-spline coefficients for `warp_spline`: (B, C, H, W) to (B, C, H + 4, W + 4) float32.

    The inverse of sampling a B-spline at the pixels (Unser, Aldroubi & Eden 1993), as a symmetric exponential truncated
    to nine pixels on either side; the rest is below 1e-5. The edge of the image is repeated.
    """
    pole = math.sqrt(3.0) - 2.0
    offset = torch.arange(-9, 10, device=image.device).abs().float()
    kernel = -6.0 * pole / (1.0 - pole * pole) * pole**offset
    channels = image.shape[1]
    with torch.autocast(image.device.type, enabled=False):
        padded = F.pad(image.float(), (11,) * 4, mode="replicate")
        padded = F.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
        return F.conv2d(padded, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def warp_spline(coefficients: Tensor, flow: Tensor) -> Tensor:
    """Backward warp by a cubic B-spline, which keeps the detail that other kernels blur.

    Middlebury, the same flow: 35.88 dB; the usual cubic kernel (a = -0.75) 35.73, linear sampling 34.65. The sixteen
    weights are positive, so four linear samples at suitable positions fetch them all (Sigg & Hadwiger, GPU Gems 2,
    2005).

    Args:
        coefficients: of `spline_coefficients`.
        flow: (B, 2, H, W) in pixels; the edge of the image is repeated outside.
    """
    rows, columns = coefficients.shape[-2:]
    where = coordinates(rows - 4, columns - 4, flow.device) + flow.float()
    (left, xs), (top, ys) = (_spline_samples(where[:, axis], size) for axis, size in ((0, columns), (1, rows)))
    across, down = 2.0 / (columns - 1), 2.0 / (rows - 1)
    grids = [torch.stack([x * across - 1.0, y * down - 1.0], -1) for y in ys for x in xs]
    fetched = F.grid_sample(coefficients, torch.cat(grids, 1), mode="bilinear", align_corners=True)
    parts = fetched.chunk(4, 2)
    left, top = left[:, None], top[:, None]
    upper = left * parts[0] + (1.0 - left) * parts[1]
    return top * upper + (1.0 - top) * (left * parts[2] + (1.0 - left) * parts[3])


def _spline_samples(where: Tensor, size: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Along one axis: weight of the first of two linear samples that fetch all four coefficients, both positions.

    Args:
        where: coordinates in the image.
        size: of the coefficients along the axis, which extend two pixels beyond the image on either side.
    """
    at = where.clamp(0.0, size - 5.0) + 2.0
    first = at.detach().floor()
    f = at - first
    g = 1.0 - f
    low, high = g * g * g / 6.0, f * f * f / 6.0  # weights of the outer two of four coefficients
    weight = ((f / 3.0 - 0.5) * f - 0.5) * f + 5.0 / 6.0  # of the first two
    return weight, (first - low / weight, first + 1.0 + high / (1.0 - weight))


def resize_flow(flow: Tensor, height: int, width: int) -> Tensor:
    """A flow (B, 2, H, W) at another resolution: bilinear, vectors scaled with the image."""
    old_height, old_width = flow.shape[-2:]
    if (old_height, old_width) == (height, width):
        return flow
    out = F.interpolate(flow.float(), size=(height, width), mode="bilinear", align_corners=False)
    scale = out.new_tensor([width / old_width, height / old_height]).view(1, 2, 1, 1)
    return out * scale


def pad(image: Tensor, height: int, width: int, mode: str = "replicate") -> Tensor:
    """Pad (B, C, H, W) on the right and at the bottom to (height, width); mode "replicate" or "zeros"."""
    down, right = height - image.shape[-2], width - image.shape[-1]
    if down == 0 and right == 0:
        return image
    if mode == "zeros":
        return F.pad(image, (0, right, 0, down))
    return F.pad(image, (0, right, 0, down), mode="replicate")


def crop(image: Tensor, height: int, width: int) -> Tensor:
    """Undo `pad`: the top left (height, width) of (B, C, H, W)."""
    return image[..., :height, :width]
