"""Losses: differences of images, end-point errors of flows, entropies of matches and masks.

Images are (B, 3, H, W) in 0..1; flows (B, 2, H, W) in pixels of their own size; every function returns a scalar. It
knows no network and no schedule.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from midframe.ops import coordinates

LUMA = (0.299, 0.587, 0.114)


def laplacian(one: Tensor, two: Tensor, levels: int = 4) -> Tensor:
    """Mean absolute difference of Laplacian pyramids, each coarser band weighted double (Niklaus & Liu 2018)."""
    apart = one - two
    total: Tensor = one.new_zeros(())
    for level in range(levels):
        small = F.avg_pool2d(apart, 2)
        band = apart - F.interpolate(small, size=apart.shape[-2:], mode="bilinear", align_corners=False)
        total = total + 0.25 * 2**level * band.abs().mean()
        apart = small
    total = total + 0.25 * 2**levels * apart.abs().mean()
    return total


def charbonnier(one: Tensor, two: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(difference^2 + epsilon^2): absolute difference with a round foot."""
    return torch.sqrt((one - two) ** 2 + epsilon**2).mean()


def census(one: Tensor, two: Tensor) -> Tensor:
    """Difference of soft census transforms, 5x5: how each pixel stands to those around it (Meister et al. 2018)."""

    def transform(image: Tensor) -> Tensor:
        gray = (image * image.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True) * 255.0
        height, width = gray.shape[-2:]
        wide = F.pad(gray, (2, 2, 2, 2), mode="replicate")
        around = torch.cat([wide[..., y : y + height, x : x + width] for y in range(5) for x in range(5)], 1) - gray
        return around / torch.sqrt(0.81 + around**2)

    apart = (transform(one) - transform(two)) ** 2
    distance: Tensor = apart.div(0.1 + apart).mean()
    return distance


def sharpness(one: Tensor, two: Tensor) -> Tensor:
    """Mean absolute difference of gradients: asks for edges as steep as those of the truth."""
    return (
        ((one[..., 1:] - one[..., :-1]) - (two[..., 1:] - two[..., :-1])).abs().mean()
        + ((one[..., 1:, :] - one[..., :-1, :]) - (two[..., 1:, :] - two[..., :-1, :])).abs().mean()
    )  # fmt: skip


def shrink(values: Tensor, factor: int) -> Tensor:
    """Mean over factor x factor blocks; flow vectors are not scaled."""
    return F.avg_pool2d(values.float(), factor) if factor > 1 else values.float()


def flow_error(flow: Tensor, truth: Tensor, weight: Tensor, factor: int) -> Tensor:
    """Weighted mean end-point error in full-size pixels.

    Args:
        flow: (B, 2, H/factor, W/factor), in pixels of that size.
        truth: (B, 2, H, W).
        weight: (B, 1, H, W), 0..1.
        factor: between the two sizes.
    """
    off = flow * factor - shrink(truth, factor)
    apart = torch.sqrt(
        (off * off).sum(1, keepdim=True) + 1e-6
    )  # ten times as fast as the library's norm over this axis
    share = shrink(weight, factor)
    return (apart * share).sum() / (share.sum() + 1e-3 * share.numel())


def match_entropy(logits: Tensor, truth: Tensor, seen: Tensor) -> Tensor:
    """Cross-entropy of the all-pairs match at 1/16, both ways, over places that are seen on the other side.

    Args:
        logits: (B, N, N), rows are places of a, columns places of b.
        truth: (2B, 2, H, W) flows a to b, then b to a.
        seen: (2B, 1, H, W) 1 where the pixel is seen on the other side and its flow is known.
    """
    where = shrink(truth, 16) / 16
    rows, columns = where.shape[-2:]
    target = (coordinates(rows, columns, where.device) + where).round()
    x, y = target[:, 0], target[:, 1]
    good = (x >= 0) & (x < columns) & (y >= 0) & (y < rows) & (shrink(seen, 16)[:, 0] > 0.6)
    index = (y.clamp(0, rows - 1) * columns + x.clamp(0, columns - 1)).long().flatten(1)
    both = torch.cat([logits, logits.transpose(1, 2)])
    entropy = F.cross_entropy(both.flatten(0, 1), index.flatten(), reduction="none").view_as(index)
    share = good.flatten(1).float()
    return (entropy * share).sum() / (share.sum() + 1.0)


def mask_entropy(logit: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean binary cross-entropy; all (B, 1, H, W), truth and weight 0..1."""
    entropy = F.binary_cross_entropy_with_logits(logit, truth, reduction="none")
    return (entropy * weight).sum() / (weight.sum() + 1e-3 * weight.numel())
