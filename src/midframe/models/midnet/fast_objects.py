"""Fast objects in midnet: their motion at the match, and the fusion weights around them.

The fusion network sees what a hypothesis fetches, not how that content moves: where a ball was, one frame still shows
it, and background motion fetches it. The ball's own flow tells that it does not belong there. So around fast objects,
content whose own flow is not that of its hypothesis loses its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from midframe.models.flow.fast_objects import FastObjects, find_fast_objects
from midframe.models.flow.types import Flow
from midframe.models.midnet.types import BLOCK, FLOW_TO_A, FLOW_TO_B, FlowField, FlowFields, FrameFeatures, MotionField

FlowPair = tuple[Tensor, Tensor]

# Pixels by which fetched content may move otherwise than its hypothesis, and from there to the full penalty.
TRAJECTORY_TOLERANCE, TRAJECTORY_FALLOFF = 4.0, 12.0
TRAJECTORY_PENALTY = 6.0  # negative log of the factor of content that moves otherwise
GROUND_IMPORTANCE = 0.0  # log splatting importance of ground that is hidden in the other frame


def find(a: FrameFeatures, b: FrameFeatures, flows: FlowPair, background: FlowPair) -> tuple[FastObjects | None, ...]:
    """Find the fast objects of every pair of a batch; empty if no pair has any.

    Args:
        a: B frames.
        b: like `a`.
        flows: a to b and b to a, (B, 2, h, w), pixels at 1/4.
        background: background motion of each, of the same shape.
    """
    found = []
    for n in range(len(a.block_means)):
        frames = _last(255.0 * a.block_means[n]), _last(255.0 * b.block_means[n])
        (forward, backward), (ground_ab, ground_ba) = ([_last(x[n]) for x in pair] for pair in (flows, background))
        found.append(find_fast_objects(frames, (forward, backward), (ground_ab, ground_ba)))
    return tuple(found) if any(found) else ()


def with_flows(flows: FlowPair, found: Sequence[FastObjects | None]) -> FlowPair:
    """Flows (B, 2, h, w), those of pairs with fast objects replaced."""

    def replaced(way: int) -> Tensor:
        members = [
            own if objects is None else _first(objects.flows[way], own)
            for own, objects in zip(flows[way], found, strict=True)
        ]
        return torch.stack(members)

    return replaced(0), replaced(1)


def with_ground(fields: FlowFields, found: Sequence[FastObjects | None]) -> FlowFields:
    """Fields whose hidden ground is splatted like ground that both frames show."""

    def raised(field: FlowField, way: int) -> FlowField:
        importance = field.importance.clone()
        for own, objects in zip(importance, found, strict=True):
            if objects is not None:
                own[0, torch.from_numpy(objects.ground[way]).to(own.device)] = GROUND_IMPORTANCE
        return replace(field, importance=importance)

    return FlowFields(raised(fields.ab, 0), raised(fields.ba, 1))


def follow_trajectories(weights: Tensor, flows: Tensor, motion: MotionField) -> Tensor:
    """Fusion weights around fast objects, without those of content that moves otherwise than its hypothesis.

    Args:
        weights: (N, 2K, h, w), which sum to 1.
        flows: of the hypotheses, (N, K, 4, h, w), from t to a and to b, pixels at 1/4.
        motion: of the gap, of N members or of one for all of them.
    """
    out = weights.clone()
    for n, own in enumerate(out):
        member = n if len(motion.fast) > 1 else 0
        objects = motion.fast[member]
        if objects is None:
            continue
        rows, columns = (np.flatnonzero(objects.near.any(axis)) for axis in (1, 0))
        box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
        near = torch.from_numpy(objects.near[box]).to(weights.device)
        to_a, to_b = (flows[n, :, side, *box] for side in (FLOW_TO_A, FLOW_TO_B))
        velocity = to_b - to_a
        fields = motion.primary.ab.flow[member], -motion.primary.ba.flow[member]
        errors = [_fetched(field, to, box) - velocity for field, to in zip(fields, (to_a, to_b), strict=True)]
        excess = BLOCK * torch.cat(errors).norm(dim=1) - TRAJECTORY_TOLERANCE
        factor = torch.exp(-TRAJECTORY_PENALTY * (excess / TRAJECTORY_FALLOFF).clamp(0.0, 1.0))
        part = own[:, *box]
        kept = part * torch.where(near, factor, 1.0)
        sums = kept.sum(0)
        own[:, *box] = torch.where(sums > 1e-6, kept * (part.sum(0) / sums.clamp(min=1e-6)), part)
    return out


def _fetched(field: Tensor, to: Tensor, box: tuple[slice, slice]) -> Tensor:
    """A field (2, h, w) at the nearest places to which flows (K, 2, y, x) of a part of its grid lead."""
    height, width = field.shape[-2:]
    y = torch.arange(box[0].start, box[0].stop, device=field.device)[:, None]
    x = torch.arange(box[1].start, box[1].stop, device=field.device)
    column = (x + to[:, 0]).round().long().clamp(0, width - 1)
    row = (y + to[:, 1]).round().long().clamp(0, height - 1)
    return field[:, row, column].transpose(0, 1)


def _last(planes: Tensor) -> NDArray[np.float32]:
    """Planes (C, h, w) as float32 (h, w, C)."""
    return np.asarray(cv2.merge([*planes.detach().float().cpu().numpy()]), np.float32)


def _first(flow: Flow, like: Tensor) -> Tensor:
    """A flow (h, w, 2) as (2, h, w) where another one is."""
    return torch.from_numpy(np.ascontiguousarray(flow.transpose(2, 0, 1))).to(like)
