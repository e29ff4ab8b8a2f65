"""Flow of the learned matcher, where classical flow is unreliable: large motion of what bends."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from midframe.models.flow.matcher import Correlation, Matcher, correlate, stride_of
from midframe.models.midnet.types import BLOCK, FrameFeatures
from midframe.ops import crop, pad, warp

MAX_INPUT_AREA = 80_000  # pixels of the matcher's input: 320x180 of 720p; 117 ms of one thread
INCONSISTENT = 4.0  # pixels of forward-backward inconsistency above which classical flow is unreliable
MAX_RESIDUAL = 0.06  # mean colour difference, 0..1, above which it is
WINDOW = 5  # places at 1/4 over which residuals are averaged, and by which unreliable places are dilated
MIN_SHARE = 0.005  # of a frame's places that must be unreliable for the matcher to run

FlowPair = tuple[Tensor, Tensor]


def matched_flow(
    matcher: Matcher,
    a: FrameFeatures,
    b: FrameFeatures,
    downscale: int | None = None,
    correlation: Correlation = correlate,
) -> FlowPair:
    """Flows a to b and b to a by the matcher, (B, 2, H/4, W/4), pixels of that size.

    Args:
        matcher: trained.
        a: features of frames of (H, W).
        b: like `a`.
        downscale: of the frames, a power of two; by their size if not given.
        correlation: computes as `matcher.correlate`.
    """
    height, width = a.luma.shape[-2:]
    factor = downscale or downscale_by_area(height * width)
    one, two = (_padded(_reduced(frame, factor)) for frame in (a, b))
    flow = matcher(one, two, correlation).flow  # at half of the input
    scale = 2.0 * factor / BLOCK
    size = round(flow.shape[-2] * scale), round(flow.shape[-1] * scale)
    flow = scale * F.interpolate(flow, size=size, mode="bilinear", align_corners=False)
    forward, backward = crop(flow, height // BLOCK, width // BLOCK).contiguous().chunk(2)
    return forward, backward


@dataclass(frozen=True, slots=True)
class Unreliable:
    """Where the flow of a frame is unreliable, and its residual, (B, 1, h, w)."""

    places: Tensor  # bool
    residual: Tensor  # mean colour difference, 0..1, over a window

    @property
    def needs_matching(self) -> bool:
        """Whether there are enough such places for the matcher to run."""
        return float(self.places.float().mean((1, 2, 3)).max()) > MIN_SHARE


def unreliable(own: FrameFeatures, other: FrameFeatures, flow: Tensor, inconsistency: Tensor) -> Unreliable:
    """Where a flow (B, 2, h, w) is inconsistent, or leaves a residual.

    Args:
        own: features of the frame that the flow leads from.
        other: of the one that it leads to.
        flow: pixels of that size.
        inconsistency: (B, 1, h, w), full-size pixels.
    """
    residual = residual_of(own, other, flow)
    return Unreliable((inconsistency > INCONSISTENT) | (residual > MAX_RESIDUAL), residual)


def downscale_by_area(pixels: int) -> int:
    """Power of two by which frames of so many pixels are reduced for the matcher."""
    return 1 << max(0, math.ceil(0.5 * math.log2(pixels / MAX_INPUT_AREA)))


def combined_flow(classical: Tensor, matched: Tensor, where: Unreliable, better: Tensor) -> Tensor:
    """The matched flow where the classical one is unreliable and the matched one fits better, and around that."""
    chosen = F.max_pool2d((where.places & better).float(), WINDOW, 1, WINDOW // 2) > 0
    return torch.where(chosen, matched, classical)


def residual_of(own: FrameFeatures, other: FrameFeatures, flow: Tensor) -> Tensor:
    """Mean colour difference under a flow, (B, 1, h, w), 0..1, over a window."""
    difference = (own.block_means - warp(other.block_means, flow)).abs().mean(1, keepdim=True)
    return F.avg_pool2d(difference, WINDOW, 1, WINDOW // 2, count_include_pad=False)


def _reduced(frame: FrameFeatures, factor: int) -> Tensor:
    """RGB (B, 3, H / factor, W / factor); above 1/4 of the size, colour is that of the block around a pixel."""
    means = frame.block_means.float()
    if factor >= BLOCK:
        return F.avg_pool2d(means, factor // BLOCK)
    luma = F.avg_pool2d(frame.luma.float(), factor)
    scale = BLOCK // factor
    own = F.interpolate(F.avg_pool2d(luma, scale), scale_factor=scale, mode="bilinear", align_corners=False)
    return F.interpolate(means, scale_factor=scale, mode="bilinear", align_corners=False) + (luma - own)


def _padded(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    stride = stride_of(height, width)
    return pad(image, height + -height % stride, width + -width % stride)
