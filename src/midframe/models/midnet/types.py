"""Values that travel through midnet: frame features, motion field, hypotheses, warped frames, and their channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from midframe.models.flow.fast_objects import FastObjects
from midframe.models.flow.frame import FlowFrame
from midframe.models.flow.intermediate import CandidateFlow

BLOCK = 4  # pixels; sides of the blocks that share a flow vector, matching features and fusion weights
TILE = 4  # blocks; sides of the tiles in which a hypothesis is active or not


class FeatureChannel(IntEnum):
    """Matching features of a hypothesis in a block."""

    FLOW_TO_A_X = 0  # pixels at 1/4
    FLOW_TO_A_Y = 1
    FLOW_TO_B_X = 2
    FLOW_TO_B_Y = 3
    COLOUR_A_R = 4  # mean colour of a, warped
    COLOUR_A_G = 5
    COLOUR_A_B = 6
    COLOUR_B_R = 7
    COLOUR_B_G = 8
    COLOUR_B_B = 9
    RESIDUAL = 10  # photometric: mean absolute difference of luma between a and b, warped
    DEVIATION_A = 11  # mean absolute difference of luma between a, warped, and the mean of all warped frames
    DEVIATION_B = 12
    DETAIL_A = 13  # deviation of luma from its local mean
    DETAIL_B = 14
    OCCLUSION_A = 15  # logit that the content of a is not visible in b
    OCCLUSION_B = 16


FLOWS = slice(FeatureChannel.FLOW_TO_A_X, FeatureChannel.FLOW_TO_B_Y + 1)
FLOW_TO_A = slice(FeatureChannel.FLOW_TO_A_X, FeatureChannel.FLOW_TO_A_Y + 1)
FLOW_TO_B = slice(FeatureChannel.FLOW_TO_B_X, FeatureChannel.FLOW_TO_B_Y + 1)
COLOURS = slice(FeatureChannel.COLOUR_A_R, FeatureChannel.COLOUR_B_B + 1)
COLOUR_A = slice(FeatureChannel.COLOUR_A_R, FeatureChannel.COLOUR_A_B + 1)
COLOUR_B = slice(FeatureChannel.COLOUR_B_R, FeatureChannel.COLOUR_B_B + 1)
EVALUATED = slice(FeatureChannel.DEVIATION_A, None)  # zero in trivial tiles


class CoverageChannel(IntEnum):
    """Splat coverage of a block."""

    A = 0  # how much of a landed here, 0..1
    B = 1
    VISIBILITY = 2  # logit that a shows the block rather than b


@dataclass(frozen=True, slots=True)
class FrameFeatures:
    """Result of `encode` for a batch of frames."""

    luma: Tensor  # (B, 1, H, W), 0..1
    block_means: Tensor  # (B, 3, H/4, W/4): mean R, G and B
    planes: Any  # with spline coefficients, as the back end keeps them
    flow_frames: tuple[FlowFrame, ...] = ()  # B, on the CPU; set by `Midnet`, which knows how flow is estimated

    def select(self, members: slice) -> FrameFeatures:
        """Some of the batch."""
        return FrameFeatures(
            self.luma[members], self.block_means[members], self.planes[members], self.flow_frames[members]
        )


@dataclass(frozen=True, slots=True)
class FlowField:
    """The flow of one frame's pixels at 1/4 of its size, with occlusion and splatting importance."""

    flow: Tensor  # (B, 2, h, w), pixels of that size
    occlusion: Tensor  # (B, 1, h, w): logit that the pixel is not visible in the other frame
    importance: Tensor  # (B, 1, h, w): log of the splatting weight

    def select(self, members: slice) -> FlowField:
        """Some of the batch."""
        return FlowField(self.flow[members], self.occlusion[members], self.importance[members])

    def expand(self, count: int) -> FlowField:
        """A batch of one as one of `count`."""
        return FlowField(*(_expanded(x, count) for x in (self.flow, self.occlusion, self.importance)))


@dataclass(frozen=True, slots=True)
class FlowFields:
    """Both directions of a gap."""

    ab: FlowField
    ba: FlowField


@dataclass(frozen=True, slots=True)
class LearnedMotionInput:
    """Inputs of the refiner that do not depend on t; batches of frames reduced by `downscale`."""

    images: tuple[Tensor, Tensor]  # (B, 3, H, W) in 0..1, the matcher's inputs
    stems: tuple[Tensor, Tensor]  # features (B, C, H/2, W/2)
    candidates: tuple[CandidateFlow, ...]
    unreliable: tuple[Tensor, Tensor]  # (B, 1, h, w) at 1/4 of the frames: 1 where the flow of a, of b, is unreliable
    downscale: int

    def select(self, members: slice) -> LearnedMotionInput:
        """Some of the batch."""
        return self._map(lambda x: x[members])

    def expand(self, count: int) -> LearnedMotionInput:
        """A batch of one as one of `count`."""
        return self._map(lambda x: _expanded(x, count))

    def _map(self, change: Callable[[Tensor], Tensor]) -> LearnedMotionInput:
        def both(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return change(pair[0]), change(pair[1])

        def stacked(x: Tensor) -> Tensor:
            return torch.cat([change(half) for half in x.chunk(2)])

        candidates = tuple(CandidateFlow(*(stacked(x) for x in each)) for each in self.candidates)
        return LearnedMotionInput(
            both(self.images), both(self.stems), candidates, both(self.unreliable), self.downscale
        )


@dataclass(frozen=True, slots=True)
class MotionField:
    """Result of `match`."""

    primary: FlowFields
    filtered: FlowFields | None = None  # None for architectures without the hypothesis "filtered"
    learned: LearnedMotionInput | None = None  # None without the hypothesis "refined", or if classical flow suffices
    fast: tuple[FastObjects | None, ...] = ()  # of every member of the batch; empty if no member has fast objects

    def select(self, members: slice) -> MotionField:
        """Some of the batch."""
        return self._map(lambda part: part.select(members), self.fast[members])

    def expand(self, count: int) -> MotionField:
        """A batch of one as one of `count`."""
        return self._map(lambda part: part.expand(count), self.fast * count)

    def tensors(self) -> list[Tensor]:
        """All tensors of its flows, in a fixed order."""
        return [x for field in self.fields for x in (field.flow, field.occlusion, field.importance)]

    @property
    def fields(self) -> list[FlowField]:
        """The flow fields, primary and filtered, a to b, then b to a."""
        pairs = [self.primary] if self.filtered is None else [self.primary, self.filtered]
        return [field for pair in pairs for field in (pair.ab, pair.ba)]

    def _map(self, change: Any, fast: tuple[FastObjects | None, ...]) -> MotionField:
        def both(fields: FlowFields | None) -> Any:
            return None if fields is None else FlowFields(change(fields.ab), change(fields.ba))

        learned = None if self.learned is None else change(self.learned)
        return MotionField(both(self.primary), both(self.filtered), learned, fast)


@dataclass(frozen=True, slots=True)
class Acceleration:
    """Second differences of position, at 1/4, in pixels of that size per gap squared."""

    a: Tensor  # (B, 2, h, w), of the pixels of a
    b: Tensor

    def select(self, members: slice) -> Acceleration:
        """Some of the batch."""
        return Acceleration(self.a[members], self.b[members])

    def expand(self, count: int) -> Acceleration:
        """A batch of one as one of `count`."""
        return Acceleration(_expanded(self.a, count), _expanded(self.b, count))


@dataclass(frozen=True, slots=True)
class RefinedFlow:
    """Learned intermediate flow at 1/4 of the frames."""

    flow: Tensor  # (N, 4, h, w), to a and to b, pixels of that size
    visibility: Tensor  # (N, 1, h, w) logits: positive where the pixel should come from a
    used: Tensor  # (N, 1, h, w): 1 where the flow is a hypothesis, 0 where the splatted one stands in


@dataclass(frozen=True, slots=True)
class WarpRequest:
    """Two frames to be warped to an instant, and their motion."""

    a: FrameFeatures
    b: FrameFeatures
    motion: MotionField
    t: Tensor  # (N,) float32, 0 < t < 1
    acceleration: Acceleration | None = None
    refined: RefinedFlow | None = None


@dataclass(frozen=True, slots=True)
class Hypotheses:
    """Motion hypotheses at t: flow to a and to b, at 1/4."""

    flows: Tensor  # (N, K, 4, h, w), pixels of that size
    coverage: Tensor  # (N, 3, h, w), see `CoverageChannel`


@dataclass(frozen=True, slots=True)
class WarpedFrames:
    """Both frames warped to t under each of K hypotheses, as tensors."""

    a: Sequence[Tensor]  # K of (N, 3, H, W)
    b: Sequence[Tensor]
    features: Tensor  # (N, K, 17, h, w), see `FeatureChannel`; without gradients
    coverage: Tensor  # (N, 3, h, w), see `CoverageChannel`


def _expanded(x: Tensor, count: int) -> Tensor:
    return x.expand(count, *x.shape[1:])
