"""Learned intermediate flow: from candidate flows between two frames to flow and visibility at any instant t.

Every candidate (classical flow, and the matcher's) is splatted to t with softmax weights (Niklaus & Liu 2020). Two
refinement steps, at 1/2 and at the full size of the matcher's input (1/8 and 1/4 of the frame), see what both frames
show there under each candidate, choose among them, and predict residual flow and visibility. Trained with the loss of
the interpolated frame through the warp, beside flow supervision where flow is known (RIFE, Huang et al. 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midframe.models.flow.matcher import Matched, Matcher, MatcherArchitecture
from midframe.models.layers import SLOPE, Residual, convolution
from midframe.ops import splat, warp

FLOW_UNIT = 0.1  # flows are fed to convolutions in tens of pixels
STEEP = 0.5  # 1/px: importance lost for a pixel of forward-backward inconsistency
INCONSISTENCY_LIMIT = 12.0  # pixels, above which nothing more is lost
LEAST_COVERAGE = 0.3  # splat coverage below which the plain linear flow takes over
LEAST_WEIGHT = 0.05  # added to coverage where its logarithm is taken
CANDIDATES = ("classical", "matched")
RESIDUAL_WINDOW_SIDE = 5  # pixels at 1/2 over which the residual of a candidate is averaged
STATE = 8  # channels handed from the coarse step to the fine one


class CandidateFlow(NamedTuple):
    """A flow between two frames at half of the matcher's input, both ways, and how far to trust it."""

    flow: Tensor  # (2B, 2, h, w) float32, a to b, then b to a, pixels of that size
    importance: Tensor  # (2B, 1, h, w): log of the splatting weight


class IntermediateFlow(NamedTuple):
    """Motion from t to both frames."""

    to_a: Tensor  # (B, 2, H, W) float32, pixels of the matcher's input
    to_b: Tensor
    visibility: Tensor  # (B, 1, H, W) logits: positive where the pixel should come from a
    choice: Tensor | None = None  # (B, K, H, W) logits of the candidates; None of a candidate itself


class SplattedFlow(NamedTuple):
    """Flows at t by splatting alone, at half of the matcher's input."""

    flow: Tensor  # (B, 4, h, w): to a, to b
    coverage: Tensor  # (B, 2, h, w) splat weights from a and from b, at most 4

    def enlarged(self) -> IntermediateFlow:
        """As the motion at the matcher's input, with visibility by coverage."""
        to_a, to_b = double(self.flow).chunk(2, 1)
        seen_a, seen_b = (self.coverage + LEAST_WEIGHT).log().chunk(2, 1)
        return IntermediateFlow(to_a, to_b, double(0.5 * (seen_a - seen_b).clamp(-3, 3), 1.0))


class Refiner(nn.Module):
    """Two refinement steps on splatted flows; 0.3 million parameters."""

    def __init__(self, architecture: MatcherArchitecture | None = None, coarse: int = 64, fine: int = 32) -> None:
        super().__init__()
        stem, count = (architecture or MatcherArchitecture()).stem, len(CANDIDATES)
        self.coarse = nn.Sequential(
            convolution(count * (2 * stem + 4 + 2 + 2) + 1, coarse), Residual(coarse), Residual(coarse)
        )
        # choice, residual flow, visibility and state of 2x2 pixels
        self.coarse_head = nn.Conv2d(coarse, 4 * (count + 5 + STATE), 3, 1, 1)
        self.fine = nn.Sequential(convolution(3 + 3 + 1 + 4 + 1 + STATE + 1, fine), Residual(fine))
        self.fine_head = nn.Conv2d(fine, 5, 3, 1, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for head in (self.coarse_head, self.fine_head):
            nn.init.normal_(head.weight, std=1e-3)

    def forward(
        self,
        images: tuple[Tensor, Tensor],
        stems: tuple[Tensor, Tensor],
        splatted: Sequence[SplattedFlow],
        t: Tensor,
    ) -> IntermediateFlow:
        """Refine the flow at t.

        Args:
            images: a and b (B, 3, H, W) in 0..1, the matcher's input.
            stems: their features (B, stem, H/2, W/2), of `Matcher.stem_features`.
            splatted: the candidates at t, as many as `CANDIDATES`, in that order.
            t: (B, 1, 1, 1).
        """
        inputs = [t.expand(-1, 1, *splatted[0].flow.shape[-2:])]
        small = [F.avg_pool2d(image, 2) for image in images]
        for each in splatted:
            flows = each.flow.chunk(2, 1)
            sides = [warp(x.float(), f) for x, f in zip(stems, flows, strict=True)]
            seen_a, seen_b = (warp(x, f) for x, f in zip(small, flows, strict=True))
            off = 10.0 * (seen_a - seen_b).abs().mean(1, keepdim=True)
            around = F.avg_pool2d(off, RESIDUAL_WINDOW_SIDE, 1, RESIDUAL_WINDOW_SIDE // 2, count_include_pad=False)
            inputs += [*sides, each.flow * FLOW_UNIT, 0.5 * each.coverage, off, around]
        found = F.pixel_shuffle(self.coarse_head(self.coarse(torch.cat(inputs, 1))).float(), 2)
        choice, residual, visibility, state = (
            found[:, first:last] for first, last in pairwise(accumulate([0, len(splatted), 4, 1, STATE]))
        )
        chosen = choice.argmax(1, keepdim=True)
        flow = residual
        for k, each in enumerate(splatted):
            own, here = each.enlarged(), chosen == k
            flow = flow + torch.where(here, torch.cat([own.to_a, own.to_b], 1), 0.0)
            visibility = visibility + torch.where(here, own.visibility, 0.0)
        one, two = (warp(x, f) for x, f in zip(images, flow.chunk(2, 1), strict=True))
        off = (one - two).abs().mean(1, keepdim=True)
        when = t.expand(-1, 1, *flow.shape[-2:])
        inputs = [one - 0.5, two - 0.5, off, flow * FLOW_UNIT, visibility, state, when]
        found = self.fine_head(self.fine(torch.cat(inputs, 1))).float()
        flow = flow + found[:, :4]
        return IntermediateFlow(flow[:, :2], flow[:, 2:], visibility + found[:, 4:], choice)


class LearnedMotion(nn.Module):
    """Matcher and refiner, trained one after the other; 0.8 million parameters."""

    def __init__(self, architecture: MatcherArchitecture | None = None) -> None:
        super().__init__()
        self.matcher = Matcher(architecture)
        self.refiner = Refiner(self.matcher.architecture)


def matched_candidate(matched: Matched) -> CandidateFlow:
    """The matcher's flow, weighted by its forward-backward consistency and occlusion."""
    flow, occlusion = matched.flow, double(matched.occlusion, 1.0)
    ab, ba = flow.chunk(2)
    apart = (flow + warp(torch.cat([ba, ab]), flow)).square().sum(1, keepdim=True).add(1e-6).sqrt()
    return CandidateFlow(flow, -STEEP * apart.clamp(max=INCONSISTENCY_LIMIT) - F.softplus(occlusion))


def splat_to(candidate: CandidateFlow, t: Tensor) -> SplattedFlow:
    """Splat both flows of a candidate to t (B, 1, 1, 1)."""
    count = len(t)
    weight = candidate.importance.exp().clamp(min=1e-3)
    ab, ba = candidate.flow.chunk(2)
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
