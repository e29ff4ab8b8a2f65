"""Matching features of warped frames, and the inputs of the fusion network made of them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from midframe.models.midnet.types import (
    BLOCK,
    COLOUR_A,
    COLOUR_B,
    FLOW_TO_A,
    FLOW_TO_B,
    FeatureChannel,
)
from midframe.ops import box_mean

LUMA_CHANNEL = slice(3, 4)  # of warped channels: R, G, B, luma


class HypothesisInput(IntEnum):
    """Inputs of the fusion network for each hypothesis."""

    RESIDUAL = 0
    RESIDUAL_OVER_MINIMUM = 1
    RESIDUAL_OVER_PRIMARY = 2
    COLOUR_DIFFERENCE = 3  # between a and b
    DEVIATION_A = 4
    DEVIATION_B = 5
    DEVIATION_DIFFERENCE = 6
    DETAIL_A = 7
    DETAIL_B = 8
    DETAIL_DIFFERENCE = 9
    OCCLUSION_A = 10
    OCCLUSION_B = 11
    FLOW_A_FROM_PRIMARY = 12  # log of one plus the distance between two flows
    FLOW_B_FROM_PRIMARY = 13
    FLOW_VARIATION_A = 14  # local
    FLOW_VARIATION_B = 15
    SPEED = 16  # between a and b
    COLOUR_A_FROM_PRIMARY_A = 17
    COLOUR_B_FROM_PRIMARY_B = 18
    COLOUR_A_FROM_PRIMARY_B = 19
    COLOUR_B_FROM_PRIMARY_A = 20


class BlockInput(IntEnum):
    """Inputs of the fusion network for each block, the same for all hypotheses."""

    COVERAGE_A = 0
    COVERAGE_B = 1
    VISIBILITY = 2
    TIME_FROM_A = 3
    TIME_TO_B = 4
    PRIMARY_COLOUR_A_R = 5
    PRIMARY_COLOUR_A_G = 6
    PRIMARY_COLOUR_A_B = 7
    PRIMARY_COLOUR_B_R = 8
    PRIMARY_COLOUR_B_G = 9
    PRIMARY_COLOUR_B_B = 10
    MINIMUM_RESIDUAL = 11
    PRIMARY_SPEED = 12


def matching_features(
    a: Sequence[Tensor], b: Sequence[Tensor], flows: Sequence[Tensor], occlusion: Sequence[tuple[Tensor, Tensor]]
) -> Tensor:
    """Matching features (N, K, 17, h, w) of K hypotheses, see `FeatureChannel`.

    Args:
        a: K of (N, 4, H, W): R, G, B and luma of a, warped.
        b: like `a`.
        flows: K of (N, 4, h, w), to a and to b.
        occlusion: K pairs of logits (N, 1, h, w), of a and of b, warped.
    """
    mean = torch.stack([x[:, LUMA_CHANNEL] for x in (*a, *b)]).mean(0)
    found = []
    for of_a, of_b, flow, logits in zip(a, b, flows, occlusion, strict=True):
        lumas = of_a[:, LUMA_CHANNEL], of_b[:, LUMA_CHANNEL]
        deviation = [F.avg_pool2d((x - mean).abs_(), BLOCK) for x in lumas]
        detail = [F.avg_pool2d((x - box_mean(box_mean(x, 3), 3)).square_(), BLOCK).sqrt_() for x in lumas]
        found.append(torch.cat([leading_features(flow, of_a, of_b), *deviation, *detail, *logits], 1))
    return torch.stack(found, 1)


def leading_features(flow: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The features up to `FeatureChannel.RESIDUAL` of one hypothesis, by which trivial tiles are found."""
    colours = [F.avg_pool2d(x[:, :3], BLOCK) for x in (a, b)]
    return torch.cat([flow, *colours, F.avg_pool2d((a[:, LUMA_CHANNEL] - b[:, LUMA_CHANNEL]).abs_(), BLOCK)], 1)


def fusion_inputs(features: Tensor, coverage: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs of the fusion network: differences, magnitudes without directions, roots of heavy tails.

    So nothing changes when frames are mirrored or rotated, and training may do both to stored features.

    Args:
        features: (N, K, 17, h, w), see `FeatureChannel`.
        coverage: (N, 3, h, w), see `CoverageChannel`.
        t: (N, 1, 1, 1).

    Returns:
        Of each hypothesis (N, K, 21, h, w), see `HypothesisInput`; of each block (N, 13, h, w), see `BlockInput`.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = features.float()
        to_a, to_b = features[:, :, FLOW_TO_A], features[:, :, FLOW_TO_B]
        colour_a, colour_b = features[:, :, COLOUR_A], features[:, :, COLOUR_B]
        roots = {
            channel: _root(features[:, :, channel])
            for channel in range(FeatureChannel.RESIDUAL, FeatureChannel.DETAIL_B + 1)
        }
        residual = roots[FeatureChannel.RESIDUAL]
        deviation_a, deviation_b = roots[FeatureChannel.DEVIATION_A], roots[FeatureChannel.DEVIATION_B]
        detail_a, detail_b = roots[FeatureChannel.DETAIL_A], roots[FeatureChannel.DETAIL_B]
        minimum = residual.amin(1, keepdim=True)
        speed = torch.log1p(_length(to_b - to_a))
        own = {
            HypothesisInput.RESIDUAL: residual,
            HypothesisInput.RESIDUAL_OVER_MINIMUM: residual - minimum,
            HypothesisInput.RESIDUAL_OVER_PRIMARY: residual - residual[:, :1],
            HypothesisInput.COLOUR_DIFFERENCE: _colour_difference(colour_a, colour_b),
            HypothesisInput.DEVIATION_A: deviation_a,
            HypothesisInput.DEVIATION_B: deviation_b,
            HypothesisInput.DEVIATION_DIFFERENCE: deviation_a - deviation_b,
            HypothesisInput.DETAIL_A: detail_a,
            HypothesisInput.DETAIL_B: detail_b,
            HypothesisInput.DETAIL_DIFFERENCE: detail_a - detail_b,
            HypothesisInput.OCCLUSION_A: 0.25 * features[:, :, FeatureChannel.OCCLUSION_A],
            HypothesisInput.OCCLUSION_B: 0.25 * features[:, :, FeatureChannel.OCCLUSION_B],
            HypothesisInput.FLOW_A_FROM_PRIMARY: torch.log1p(_length(to_a - to_a[:, :1])),
            HypothesisInput.FLOW_B_FROM_PRIMARY: torch.log1p(_length(to_b - to_b[:, :1])),
            HypothesisInput.FLOW_VARIATION_A: _local_variation(to_a),
            HypothesisInput.FLOW_VARIATION_B: _local_variation(to_b),
            HypothesisInput.SPEED: speed,
            HypothesisInput.COLOUR_A_FROM_PRIMARY_A: _colour_difference(colour_a, colour_a[:, :1]),
            HypothesisInput.COLOUR_B_FROM_PRIMARY_B: _colour_difference(colour_b, colour_b[:, :1]),
            HypothesisInput.COLOUR_A_FROM_PRIMARY_B: _colour_difference(colour_a, colour_b[:, :1]),
            HypothesisInput.COLOUR_B_FROM_PRIMARY_A: _colour_difference(colour_b, colour_a[:, :1]),
        }
        time = t.expand(-1, 1, *coverage.shape[-2:])
        shared = {
            BlockInput.COVERAGE_A: coverage,  # and the next two
            BlockInput.TIME_FROM_A: time,
            BlockInput.TIME_TO_B: 1.0 - time,
            BlockInput.PRIMARY_COLOUR_A_R: colour_a[:, 0] - 0.5,
            BlockInput.PRIMARY_COLOUR_B_R: colour_b[:, 0] - 0.5,
            BlockInput.MINIMUM_RESIDUAL: minimum,
            BlockInput.PRIMARY_SPEED: speed[:, :1],
        }
        each = torch.stack([own[channel] for channel in HypothesisInput], 2)
        return each, torch.cat([shared[channel] for channel in sorted(shared)], 1)


def _length(vectors: Tensor) -> Tensor:
    return torch.sqrt((vectors * vectors).sum(2) + 1e-6)


def _root(x: Tensor) -> Tensor:
    return 4.0 * torch.sqrt(x.clamp(min=0.0) + 1e-4)


def _colour_difference(one: Tensor, two: Tensor) -> Tensor:
    return _root((one - two).abs().mean(2))


def _local_variation(flow: Tensor) -> Tensor:
    """Log of one plus the distance of a flow (N, K, 2, h, w) from its mean over 3x3 places."""
    return torch.log1p(_length(flow - box_mean(flow.flatten(0, 1), 3).view_as(flow)))
