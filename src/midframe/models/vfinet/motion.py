"""From flows between frames to flows from an instant between them: quadratic or linear motion, then reversal.

After Quadratic Video Interpolation (Xu et al. 2019), as in ModelScope's vfinet (Apache-2.0).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Flows are reversed at a third of the resolution.
THIRD = 3


def linear(there: Tensor, back: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Flows a -> t and b -> t of even motion, from a -> b and b -> a; t is (N, 1, 1, 1)."""
    return t * there, (1.0 - t) * back


def quadratic(there: Tensor, back: Tensor, past: Tensor, future: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Flows a -> t and b -> t of motion with constant acceleration.

    Args:
        there: a -> b.
        back: b -> a.
        past: a -> the frame before a.
        future: b -> the frame after b.
        t: (N, 1, 1, 1), 0..1.
    """
    s = 1.0 - t
    return (
        0.5 * ((t + t * t) * there - (t - t * t) * past),
        0.5 * ((s + s * s) * back - (s - s * s) * future),
    )


def _spread(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Carry a flow (N, 2, H, W) along itself to the four pixels around each target, weighted by exp(-distance^2).

    Returns:
        Weighted sums (N, 2, H, W) and weights (N, 1, H, W); content that leaves the image is lost.
    """
    n, _, height, width = flow.shape
    corner = flow.floor()
    fraction = flow - corner
    # beyond the image is beyond it, and keeps within the integers
    corner = corner.clamp(-(height + width + 2), height + width + 2).long()
    column = torch.arange(width, device=flow.device) + corner[:, 0]  # (N, H, W)
    row = torch.arange(height, device=flow.device)[:, None] + corner[:, 1]
    load = torch.cat([flow, torch.ones_like(flow[:, :1])], dim=1)  # (N, 3, H, W)
    out = flow.new_zeros(n, 3, height * width)
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = column + dx, row + dy
            weight = torch.exp(-((fraction[:, 0] - dx) ** 2 + (fraction[:, 1] - dy) ** 2))
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            target = torch.where(inside, y * width + x, 0).flatten(1)
            weight = torch.where(inside, weight, 0.0)
            out.scatter_add_(2, target[:, None].expand(-1, 3, -1), (load * weight[:, None]).flatten(2))
    out = out.view(n, 3, height, width)
    return out[:, :2], out[:, 2:]


def reverse(flow: Tensor) -> Tensor:
    """Flows a -> t to flows t -> a: (N, 2, H, W) float32, both at full resolution.

    Where nothing lands, the negative flow of that pixel is put, then smoothed: a 7x7 mean, taken down to a quarter and
    back.
    """
    height, width = flow.shape[-2:]
    h, w = height // THIRD, width // THIRD
    small = flow[:, :, ::THIRD, ::THIRD][:, :, :h, :w] / THIRD
    total, weight = _spread(small)
    hole = weight == 0
    found = torch.where(hole, -small, -total / torch.where(hole, 1.0, weight))
    smooth = F.avg_pool2d(found, 7, stride=1, padding=3)  # zeros beyond the edge count, as in the original
    smooth = F.interpolate(smooth, size=(h // 4, w // 4), mode="bilinear", align_corners=False)
    smooth = F.interpolate(smooth, size=(h, w), mode="bilinear", align_corners=False)
    found = torch.where(hole, smooth, found)
    return F.interpolate(found, size=(height, width), mode="nearest") * THIRD
