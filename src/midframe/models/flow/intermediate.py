"""Learned intermediate flow: from the matcher's flows to flow and visibility at any instant t.

Both flows are splatted to t with softmax weights (Niklaus & Liu 2020); then two refinement steps, at 1/2 and at the
full size of the matcher's input (1/8 and 1/4 of the frame), see what both frames show there and predict residual flow
and visibility. Trained with the loss of the interpolated frame through the warp, beside flow supervision where flow
is known (RIFE, Huang et al. 2022).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midframe.models.flow.matcher import Matched, Matcher, MatcherArchitecture
from midframe.models.layers import SLOPE, Residual, convolution
from midframe.ops import splat, warp

FLOW_UNIT = 0.1  # flows are fed to convolutions in tens of pixels
STEEP = 0.5  # 1/px: importance lost for a pixel of forward-backward inconsistency
LEAST_COVERAGE = 0.3  # splat coverage below which the plain linear flow takes over


class IntermediateFlow(NamedTuple):
    """Motion from t to both frames."""

    to_a: Tensor  # (B, 2, H, W) float32, pixels of the matcher's input
    to_b: Tensor
    visibility: Tensor  # (B, 1, H, W) logits: positive where the pixel should come from a


class SplattedFlow(NamedTuple):
    """Flows at t by splatting alone, at half of the matcher's input."""

    flow: Tensor  # (B, 4, h, w): to a, to b
    coverage: Tensor  # (B, 2, h, w) splat weights from a and from b, at most 4


class Refiner(nn.Module):
    """Two refinement steps on splatted flow; 0.3 million parameters."""

    def __init__(self, architecture: MatcherArchitecture | None = None, coarse: int = 64, fine: int = 32) -> None:
        super().__init__()
        stem = (architecture or MatcherArchitecture()).stem
        self.coarse = nn.Sequential(convolution(2 * stem + 4 + 2 + 1, coarse), Residual(coarse), Residual(coarse))
        self.coarse_head = nn.Conv2d(coarse, 4 * (5 + 8), 3, 1, 1)  # residual flow, visibility and state of 2x2 pixels
        self.fine = nn.Sequential(convolution(3 + 3 + 1 + 4 + 1 + 8 + 1, fine), Residual(fine))
        self.fine_head = nn.Conv2d(fine, 5, 3, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for head in (self.coarse_head, self.fine_head):
            nn.init.normal_(head.weight, std=1e-3)

    def forward(
        self, images: tuple[Tensor, Tensor], stems: tuple[Tensor, Tensor], matched: Matched, t: Tensor
    ) -> IntermediateFlow:
        """Refine the flow at t.

        Args:
            images: a and b (B, 3, H, W) in 0..1, the matcher's input.
            stems: their features (B, stem, H/2, W/2).
            matched: flows between them.
            t: (B, 1, 1, 1).
        """
        splatted = splat_to(matched, t)
        flow = splatted.flow
        sides = [warp(x.float(), f) for x, f in zip(stems, flow.chunk(2, 1), strict=True)]
        when = t.expand(-1, 1, *flow.shape[-2:])
        state = self.coarse(torch.cat([*sides, flow * FLOW_UNIT, 0.5 * splatted.coverage, when], 1))
        found = F.pixel_shuffle(self.coarse_head(state).float(), 2)  # (B, 13, H, W)
        flow = double(flow) + found[:, :4]
        prior = torch.log((splatted.coverage[:, :1] + 0.05) / (splatted.coverage[:, 1:] + 0.05)).clamp(-3, 3)
        visibility = found[:, 4:5] + 0.5 * F.interpolate(prior, scale_factor=2.0, mode="bilinear", align_corners=False)
        one, two = (warp(x, f) for x, f in zip(images, flow.chunk(2, 1), strict=True))
        when = t.expand(-1, 1, *flow.shape[-2:])
        off = (one - two).abs().mean(1, keepdim=True)
        inputs = torch.cat([one - 0.5, two - 0.5, off, flow * FLOW_UNIT, visibility, found[:, 5:], when], 1)
        found = self.fine_head(self.fine(inputs)).float()
        flow = flow + found[:, :4]
        return IntermediateFlow(flow[:, :2], flow[:, 2:], visibility + found[:, 4:])


class LearnedMotion(nn.Module):
    """Matcher and refiner: from two frames to their motion at t."""

    def __init__(self, architecture: MatcherArchitecture | None = None) -> None:
        super().__init__()
        self.matcher = Matcher(architecture)
        self.refiner = Refiner(self.matcher.architecture)

    def forward(self, a: Tensor, b: Tensor, t: Tensor) -> tuple[Matched, IntermediateFlow]:
        """Match two images (B, 3, H, W) in 0..1 and refine their motion at t (B, 1, 1, 1)."""
        count = len(a)
        stem = self.matcher.stem_features(torch.cat([a, b]))
        pyramid = self.matcher.pyramid(stem)
        matched = self.matcher.match([x[:count] for x in pyramid], [x[count:] for x in pyramid])
        return matched, self.refiner((a, b), (stem[:count], stem[count:]), matched, t)


def splat_to(matched: Matched, t: Tensor) -> SplattedFlow:
    """Splat the matcher's flows to t (B, 1, 1, 1), weighted by their forward-backward consistency and occlusion."""
    count = len(t)
    flow, occlusion = matched.flow, double(matched.occlusion, 1.0)
    back = torch.cat([flow[count:], flow[:count]])
    apart = (flow + warp(back, flow)).square().sum(1, keepdim=True).add(1e-6).sqrt()
    weight = torch.exp(-STEEP * apart.clamp(max=12.0) - F.softplus(occlusion)).clamp(min=1e-3)
    ab, ba = flow.chunk(2)
    both = torch.cat([torch.cat([-t * ab, (1 - t) * ab], 1), torch.cat([t * ba, (t - 1) * ba], 1)])
    total, coverage = splat(both, torch.cat([t * ab, (1 - t) * ba]), weight)
    from_a, from_b = total.chunk(2)
    cover_a, cover_b = coverage.chunk(2)
    cover = cover_a + cover_b
    linear = 0.5 * (both[:count] + both[count:])
    share = (cover / LEAST_COVERAGE).clamp(max=1)
    mean = (from_a + from_b) / cover.clamp(min=1e-4)
    return SplattedFlow(share * mean + (1 - share) * linear, torch.cat([cover_a, cover_b], 1).clamp(max=4))


def double(x: Tensor, scale: float = 2.0) -> Tensor:
    """Enlarge to twice the size, bilinearly, and multiply the values."""
    return scale * F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def synthesise(a: Tensor, b: Tensor, motion: IntermediateFlow, t: Tensor) -> Tensor:
    """Warp both frames to t and blend them by visibility.

    Args:
        a: (B, 3, H, W) or twice as large as the motion; flow is enlarged then.
        b: like `a`.
        motion: at the matcher's input.
        t: (B, 1, 1, 1).
    """
    flow, logit = torch.cat([motion.to_a, motion.to_b], 1), motion.visibility
    if a.shape[-1] != flow.shape[-1]:
        flow, logit = double(flow), double(logit, 1.0)
    share = (1 - t) * torch.sigmoid(logit)
    share = share / (share + t * torch.sigmoid(-logit))
    return share * warp(a, flow[:, :2]) + (1 - share) * warp(b, flow[:, 2:])
