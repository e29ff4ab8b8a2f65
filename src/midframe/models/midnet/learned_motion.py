"""Learned motion inside midnet, where classical flow is unreliable: large motion of what bends.

The matcher and the refiner see frames reduced to 1/4 (720p) or so; everything else of midnet's motion is at 1/4.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from midframe.models.flow.intermediate import CandidateFlow, LearnedMotion, matched_candidate, splat_to
from midframe.models.flow.matcher import Correlation, correlate, stride_of
from midframe.models.midnet.hypotheses import IMPORTANCE_LIMIT
from midframe.models.midnet.types import BLOCK, FlowFields, FrameFeatures, LearnedMotionInput, RefinedFlow
from midframe.ops import crop, pad, warp

MAX_INPUT_AREA = 80_000  # pixels of the matcher's input: 320x180 of 720p; 117 ms of one thread
INCONSISTENT = 4.0  # pixels of forward-backward inconsistency above which classical flow is unreliable
MAX_RESIDUAL = 0.06  # mean colour difference, 0..1, above which it is
RESIDUAL_WINDOW = 5  # places at 1/4 over which residuals are averaged, and by which unreliable places are dilated
MIN_SHARE = 0.005  # of a frame's places that must be unreliable for the matcher to run


def unreliable(own: FrameFeatures, other: FrameFeatures, flow: Tensor, inconsistency: Tensor) -> Tensor:
    """Where a flow (B, 2, h, w) is inconsistent, or leaves a residual, (B, 1, h, w) bool.

    Args:
        own: features of the frame that the flow leads from.
        other: of the one that it leads to.
        flow: pixels of that size.
        inconsistency: (B, 1, h, w), full-size pixels.
    """
    difference = (own.block_means - warp(other.block_means, flow)).abs().mean(1, keepdim=True)
    residual = F.avg_pool2d(difference, RESIDUAL_WINDOW, 1, RESIDUAL_WINDOW // 2, count_include_pad=False)
    return (inconsistency > INCONSISTENT) | (residual > MAX_RESIDUAL)


def needs_matching(places: Tensor) -> bool:
    """Whether so many places of a frame are unreliable that the matcher should run."""
    return float(places.float().mean((1, 2, 3)).max()) > MIN_SHARE


def prepare_learned_motion(
    net: LearnedMotion,
    frames: tuple[FrameFeatures, FrameFeatures],
    classical: FlowFields,
    places: tuple[Tensor, Tensor],
    downscale: int | None = None,
    correlation: Correlation = correlate,
) -> LearnedMotionInput:
    """Match two frames, and gather the inputs of the refiner.

    Args:
        net: trained.
        frames: features of frames of (H, W).
        classical: flow at 1/4, the other candidate.
        places: of `unreliable`, of both.
        downscale: of the frames, a power of two; by their size if not given.
        correlation: computes as `matcher.correlate`.
    """
    height, width = frames[0].luma.shape[-2:]
    factor = downscale or downscale_by_area(height * width)
    images = _padded(_reduced(frames[0], factor)), _padded(_reduced(frames[1], factor))
    stems = net.matcher.stem_features(images[0]), net.matcher.stem_features(images[1])
    one, two = (net.matcher.pyramid(stem) for stem in stems)
    matched = matched_candidate(net.matcher.match(one, two, correlation))
    own = resized_candidate(classical_candidate(classical), BLOCK / (2.0 * factor), matched.flow.shape[-2:])
    candidates = own, matched
    return LearnedMotionInput(images, stems, candidates, (places[0].float(), places[1].float()), factor)


def classical_candidate(fields: FlowFields) -> CandidateFlow:
    """The flow of a gap at 1/4 with its splatting importance."""
    importance = torch.cat([fields.ab.importance, fields.ba.importance])
    return CandidateFlow(
        torch.cat([fields.ab.flow, fields.ba.flow]), importance.clamp(-IMPORTANCE_LIMIT, IMPORTANCE_LIMIT)
    )


def resized_candidate(candidate: CandidateFlow, scale: float, size: tuple[int, ...]) -> CandidateFlow:
    """A candidate at another scale, its edges repeated up to a size (h, w)."""
    flow, importance = (_resized(x, scale) for x in candidate)
    return CandidateFlow(pad(scale * flow, size[0], size[1]), pad(importance, size[0], size[1]))


def refine(net: LearnedMotion, learned: LearnedMotionInput, t: Tensor) -> RefinedFlow:
    """Flow and visibility at the instants t (N,), at 1/4 of the frames; used where classical flow is unreliable."""
    if len(learned.images[0]) != len(t):
        learned = learned.expand(len(t))
    t = t.float().view(-1, 1, 1, 1)
    found = net.refiner(learned.images, learned.stems, [splat_to(each, t) for each in learned.candidates], t)
    height, width = learned.unreliable[0].shape[-2:]
    scale = learned.downscale / BLOCK

    def at_quarter(x: Tensor) -> Tensor:
        return crop(_resized(x, scale), height, width)

    to_a, to_b = scale * at_quarter(found.to_a), scale * at_quarter(found.to_b)
    places = [warp(own, flow) for own, flow in zip(learned.unreliable, (to_a, to_b), strict=True)]
    used = F.max_pool2d((torch.maximum(*places) > 0.5).float(), RESIDUAL_WINDOW, 1, RESIDUAL_WINDOW // 2)
    return RefinedFlow(torch.cat([to_a, to_b], 1), at_quarter(found.visibility), used)


def downscale_by_area(pixels: int) -> int:
    """Power of two by which frames of so many pixels are reduced for the matcher."""
    return 1 << max(0, math.ceil(0.5 * math.log2(pixels / MAX_INPUT_AREA)))


def _resized(x: Tensor, scale: float) -> Tensor:
    """Enlarge by a power of two bilinearly, or reduce by one to the mean."""
    if scale >= 1.0:
        return x if scale == 1.0 else F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
    return F.avg_pool2d(x, round(1.0 / scale))


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
