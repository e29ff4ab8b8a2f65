"""Losses: image differences, end-point errors of flow, cross-entropies of matches and masks.

Images are (B, 3, H, W) in 0..1, flows (B, 2, H, W) in pixels of their own size. Every function returns a scalar.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from midframe.ops import coordinates


def laplacian(one: Tensor, two: Tensor, levels: int = 4) -> Tensor:
    """Mean absolute difference of Laplacian pyramids, each coarser band weighted double (Niklaus & Liu 2018)."""
    residual = one - two
    total: Tensor = one.new_zeros(())
    for level in range(levels):
        small = F.avg_pool2d(residual, 2)
        band = residual - F.interpolate(small, size=residual.shape[-2:], mode="bilinear", align_corners=False)
        total = total + 0.25 * 2**level * band.abs().mean()
        residual = small
    total = total + 0.25 * 2**levels * residual.abs().mean()
    return total


def charbonnier(one: Tensor, two: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(difference^2 + epsilon^2): the absolute difference, smooth at zero."""
    return torch.sqrt((one - two) ** 2 + epsilon**2).mean()


def gradient_difference(one: Tensor, two: Tensor) -> Tensor:
    """Mean absolute difference of gradients: penalises blur."""
    return (
        ((one[..., 1:] - one[..., :-1]) - (two[..., 1:] - two[..., :-1])).abs().mean()
        + ((one[..., 1:, :] - one[..., :-1, :]) - (two[..., 1:, :] - two[..., :-1, :])).abs().mean()
    )  # fmt: skip


def downsample(values: Tensor, factor: int) -> Tensor:
    """Mean over factor x factor blocks; flow vectors are not scaled."""
    return F.avg_pool2d(values.float(), factor) if factor > 1 else values.float()


def endpoint_error(flow: Tensor, truth: Tensor, weight: Tensor, known: Tensor, stride: int) -> Tensor:
    """Weighted mean end-point error in full-size pixels; unknown flow does not blur known flow.

    Args:
        flow: (B, 2, H/stride, W/stride), in pixels of that size.
        truth: (B, 2, H, W), finite.
        weight: (B, 1, H, W), 0..1.
        known: (B, 1, H, W), 1 where the truth is known.
        stride: between the two sizes.
    """
    share = downsample(known, stride)
    target = downsample(truth * known, stride) / share.clamp(min=1e-3)
    difference = flow * stride - target
    # ten times as fast as torch.linalg.vector_norm over this axis
    error = torch.sqrt((difference * difference).sum(1, keepdim=True) + 1e-4)
    weight = downsample(weight, stride)
    return (error * weight).sum() / (weight.sum() + 1e-3 * weight.numel())


def match_entropy(logits: Tensor, truth: Tensor, visible: Tensor) -> Tensor:
    """Cross-entropy of the all-pairs match at 1/16, both ways, over places visible in the other frame.

    Args:
        logits: (B, N, N), rows are places of a, columns places of b.
        truth: (2B, 2, H, W) flows a to b, then b to a.
        visible: (2B, 1, H, W) 1 where the pixel is visible in the other frame and its flow is known.
    """
    where = downsample(truth, 16) / 16
    rows, columns = where.shape[-2:]
    target = (coordinates(rows, columns, where.device) + where).round()
    x, y = target[:, 0], target[:, 1]
    good = (x >= 0) & (x < columns) & (y >= 0) & (y < rows) & (downsample(visible, 16)[:, 0] > 0.6)
    index = (y.clamp(0, rows - 1) * columns + x.clamp(0, columns - 1)).long().flatten(1)
    both = torch.cat([logits, logits.transpose(1, 2)])
    entropy = F.cross_entropy(both.flatten(0, 1), index.flatten(), reduction="none").view_as(index)
    share = good.flatten(1).float()
    return (entropy * share).sum() / (share.sum() + 1.0)


def mask_entropy(logit: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean binary cross-entropy; all (B, 1, H, W), truth and weight 0..1."""
    entropy = F.binary_cross_entropy_with_logits(logit, truth, reduction="none")
    return (entropy * weight).sum() / (weight.sum() + 1e-3 * weight.numel())
