"""Learned optical flow for small frames: a global match, then one recurrent cell shared by all levels.

The matcher estimates large motion, which gradient-based flow loses, at a quarter of the frame's size (320x180 for
720p). Features at 1/4, 1/8, 1/16 of its input, and coarser ones for larger inputs, come from one block applied again
and again (RAPIDFlow, Morimitsu et al. 2024); the coarsest level is matched all-pairs by a softmax over cosine
similarities (GMFlow, Xu et al. 2022); a ConvGRU with a local correlation of warped features refines the flow from level
to level (RAFT, Teed & Deng 2020; PWC-Net, Sun et al. 2018). It knows neither time nor interpolation.

Flow follows the convention of `midframe.ops`: `flow_ab[:, :, y, x]` is where pixel (x, y) of a has gone in b, in
pixels of its own resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midframe.models.layers import SLOPE, Residual, convolution
from midframe.ops import coordinates, warp

CORRELATION_RADIUS = 3  # of the local correlation, pixels of a level: 7x7 displacements
FINEST_STRIDE = 4  # input pixels per feature pixel of the finest level; twice as many at each coarser one
MIN_LEVELS = 3
# Feature pixels on the short side of the coarsest level, at most: as in training. With 14 the global match fails (end-
# point error of Sintel's hard pair 68 px), with 7 it is 18 px (16.6 by inverse search).
MAX_COARSEST_SIDE = 10
ITERATIONS, FINEST_ITERATIONS = 2, 1  # of the cell at every level, and at the finest


def level_count(height: int, width: int) -> int:
    """Levels for an input of a size: enough for a small coarsest one."""
    count = MIN_LEVELS
    while math.ceil(min(height, width) / (FINEST_STRIDE << (count - 1))) > MAX_COARSEST_SIDE:
        count += 1
    return count


def stride_of(height: int, width: int) -> int:
    """Input pixels per feature pixel of the coarsest level; the sides of an input must be multiples of it."""
    return FINEST_STRIDE << (level_count(height, width) - 1)


class FlowAtLevel(NamedTuple):
    """One estimate on the way from coarse to fine; both directions are stacked (a to b, then b to a)."""

    flow: Tensor  # (2B, 2, h, w) float32, pixels of this level
    occlusion: Tensor | None  # (2B, 1, h, w) logits, positive where the pixel is not seen in the other frame
    stride: int  # input pixels per pixel of this level


class Matched(NamedTuple):
    """Result of the matcher, from the coarsest estimate to the final one at half of the input's size."""

    similarity: Tensor  # (2B, N, N) logits of the global match: rows are places of the first frame
    estimates: tuple[FlowAtLevel, ...]

    @property
    def flow(self) -> Tensor:
        """Final flow (2B, 2, H/2, W/2), a to b, then b to a, in pixels of that size."""
        return self.estimates[-1].flow

    @property
    def occlusion(self) -> Tensor:
        """Final occlusion logits (2B, 1, H/4, W/4)."""
        occlusion = self.estimates[-2].occlusion
        assert occlusion is not None
        return occlusion


@dataclass(frozen=True, slots=True)
class MatcherArchitecture:
    """Channels of the matcher."""

    stem: int = 24  # features at 1/2
    features: int = 48  # at 1/4 and coarser
    hidden: int = 64  # state of the recurrent cell

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"stem": self.stem, "features": self.features, "hidden": self.hidden}


class LocalCorrelation(torch.autograd.Function):
    """Dot products of each feature vector with a window of the other map.

    Autograd would keep a copy for each of the 49 products; this keeps the two maps (a twentieth of a training step).
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, radius: int) -> Tensor:
        """(B, C, h, w) twice -> (B, (2 radius + 1)^2, h, w)."""
        ctx.radius = radius
        ctx.save_for_backward(a, b)
        height, width = a.shape[-2:]
        padded = F.pad(b, (radius,) * 4)
        out = a.new_empty(a.shape[0], (2 * radius + 1) ** 2, height, width)
        for k, (y, x) in enumerate(_window(radius)):
            torch.sum(a * padded[:, :, y : y + height, x : x + width], 1, out=out[:, k])
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients of both maps."""
        a, b = ctx.saved_tensors
        radius, height, width = ctx.radius, a.shape[-2], a.shape[-1]
        padded = F.pad(b, (radius,) * 4)
        of_a, of_padded = torch.zeros_like(a), torch.zeros_like(padded)
        for k, (y, x) in enumerate(_window(radius)):
            gradient = gradients[0][:, k : k + 1]
            of_a.addcmul_(gradient, padded[:, :, y : y + height, x : x + width])
            of_padded[:, :, y : y + height, x : x + width].addcmul_(gradient, a)
        return of_a, of_padded[:, :, radius : radius + height, radius : radius + width], None


Correlation = Callable[[Tensor, Tensor], Tensor]


def correlate(a: Tensor, b: Tensor) -> Tensor:
    """Local correlation (B, 49, h, w) of two maps (B, C, h, w); differentiable."""
    return LocalCorrelation.apply(a, b, CORRELATION_RADIUS)  # type: ignore[no-untyped-call, no-any-return]


def _window(radius: int) -> list[tuple[int, int]]:
    side = 2 * radius + 1
    return [(y, x) for y in range(side) for x in range(side)]


class UpdateCell(nn.Module):
    """ConvGRU that turns correlation, flow and features into a flow residual; the same weights serve every level."""

    def __init__(self, architecture: MatcherArchitecture) -> None:
        super().__init__()
        hidden, features = architecture.hidden, architecture.features
        self.correlation = convolution((2 * CORRELATION_RADIUS + 1) ** 2, 64, 1)
        self.motion = convolution(64 + 2 + features, 64)
        self.gates = nn.Conv2d(hidden + 64, 2 * hidden, 3, 1, 1)
        self.candidate = nn.Conv2d(hidden + 64, hidden, 3, 1, 1)
        self.head = nn.Sequential(convolution(hidden, 48), nn.Conv2d(48, 3, 3, 1, 1))  # flow residual, occlusion logit
        self.upsampling = nn.Sequential(convolution(hidden, 48), nn.Conv2d(48, 9 * 4, 1))

    def forward(
        self, state: Tensor, own: Tensor, other: Tensor, flow: Tensor, correlation: Correlation = correlate
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Update the state and the flow.

        Args:
            state: (B, hidden, h, w).
            own: features (B, C, h, w) of the frame the flow leads from.
            other: features of the frame it leads to.
            flow: (B, 2, h, w) float32.
            correlation: computes as `correlate`.

        Returns:
            New state, new flow (float32), occlusion logits (B, 1, h, w).
        """
        costs = correlation(own.float(), warp(other.float(), flow, "zeros"))
        costs = costs * (1.0 / math.sqrt(own.shape[1]))
        motion = self.motion(torch.cat([self.correlation(costs), flow * 0.2, own], 1))
        update, reset = torch.sigmoid(self.gates(torch.cat([state, motion], 1))).chunk(2, 1)
        candidate = torch.tanh(self.candidate(torch.cat([reset * state, motion], 1)))
        state = (1 - update) * state + update * candidate
        residual = self.head(state).float()
        return state, flow + residual[:, :2], residual[:, 2:]


class Matcher(nn.Module):
    """Optical flow between two small frames, both directions at once; 0.5 million parameters."""

    def __init__(self, architecture: MatcherArchitecture | None = None) -> None:
        super().__init__()
        self.architecture = architecture or MatcherArchitecture()
        channels, features, hidden = self.architecture.stem, self.architecture.features, self.architecture.hidden
        self.stem = nn.Sequential(convolution(3, channels, 3, 2), convolution(channels, channels))
        self.quarter = nn.Sequential(convolution(channels, features, 3, 2), Residual(features))
        self.coarser = nn.Sequential(convolution(features, features, 3, 2), Residual(features))
        self.key = nn.Conv2d(features, features, 1)
        self.state = nn.Conv2d(features + hidden, hidden, 3, 1, 1)
        self.cell = UpdateCell(self.architecture)
        self.temperature = nn.Parameter(torch.tensor(2.5))  # natural logarithm, of the global match
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        for small in (self.cell.head[-1], self.cell.upsampling[-1]):
            assert isinstance(small, nn.Conv2d)
            nn.init.normal_(small.weight, std=1e-3)

    def features(self, image: Tensor) -> list[Tensor]:
        """Features of an image (B, 3, H, W) in 0..1 at every level, fine to coarse, each of unit variance.

        A frame's features serve both of its gaps.
        """
        return self.pyramid(self.stem_features(image))

    def stem_features(self, image: Tensor) -> Tensor:
        """Features at 1/2 of an image (B, 3, H, W) in 0..1."""
        mean, spread = image.mean((2, 3), keepdim=True), image.std((1, 2, 3), keepdim=True)
        return self.stem((image - mean) / (spread + 0.05))  # type: ignore[no-any-return]

    def pyramid(self, stem: Tensor) -> list[Tensor]:
        """Features at every level from those at 1/2."""
        x = _normalised(self.quarter(stem))
        out = [x]
        height, width = stem.shape[-2:]
        for _ in range(level_count(2 * height, 2 * width) - 1):
            x = _normalised(self.coarser(x))
            out.append(x)
        return out

    def forward(self, a: Tensor, b: Tensor, correlation: Correlation = correlate) -> Matched:
        """Match two images (B, 3, H, W) in 0..1 both ways; H and W are multiples of `stride_of(H, W)`."""
        count = len(a)
        features = self.features(torch.cat([a, b]))
        return self.match([x[:count] for x in features], [x[count:] for x in features], correlation)

    def match(self, a: list[Tensor], b: list[Tensor], correlation: Correlation = correlate) -> Matched:
        """Match two images by their `features`."""
        own = [torch.cat(pair) for pair in zip(a, b, strict=True)]
        other = [torch.cat(pair) for pair in zip(b, a, strict=True)]
        similarity, flow = self._match_globally(own[-1], other[-1])
        strides = [FINEST_STRIDE << level for level in range(len(own))]
        estimates = [FlowAtLevel(flow, None, strides[-1])]
        state: Tensor | None = None
        for level, stride in reversed([*enumerate(strides)]):
            state = self._initial_state(own[level], state)
            occlusion = None
            for _ in range(ITERATIONS if level else FINEST_ITERATIONS):
                state, flow, occlusion = self.cell(state, own[level], other[level], flow.detach(), correlation)
                estimates.append(FlowAtLevel(flow, occlusion, stride))
            flow = upsample_convex(flow, self.cell.upsampling(state))
            estimates.append(FlowAtLevel(flow, None, stride // 2))
        return Matched(similarity, tuple(estimates))

    def _initial_state(self, features: Tensor, coarser: Tensor | None) -> Tensor:
        if coarser is None:
            before = features.new_zeros(len(features), self.architecture.hidden, *features.shape[-2:])
        else:
            before = F.interpolate(coarser, scale_factor=2.0, mode="nearest")
        return torch.tanh(self.state(torch.cat([features, before], 1)))

    def _match_globally(self, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Similarity logits (2B, N, N), and the expected displacement (2B, 2, h, w) under their softmax."""
        one, two = (F.normalize(self.key(x).float(), dim=1).flatten(2) for x in (own, other))
        count, _, height, width = own.shape
        with torch.autocast(own.device.type, enabled=False):
            similarity = torch.bmm(one.transpose(1, 2), two) * self.temperature.exp()
            places = coordinates(height, width, own.device).flatten(2).transpose(1, 2)  # (1, N, 2)
            reached = torch.bmm(similarity.softmax(2), places.expand(count, -1, -1))
        return similarity, (reached - places).transpose(1, 2).reshape(count, 2, height, width)


def _normalised(x: Tensor) -> Tensor:
    return F.instance_norm(x.float())


def upsample_convex(flow: Tensor, logits: Tensor) -> Tensor:
    """Double a flow (B, 2, h, w): each fine pixel is a convex combination of the 3x3 around it (RAFT).

    Args:
        flow: float32, pixels of its size.
        logits: (B, 36, h, w), nine weights for each of four fine pixels.
    """
    count, _, height, width = flow.shape
    weights = logits.float().view(count, 1, 9, 4, height, width).softmax(2)
    around = F.unfold(F.pad(2.0 * flow, (1,) * 4, mode="replicate"), 3).view(count, 2, 9, 1, height, width)
    return F.pixel_shuffle((around * weights).sum(2).reshape(count, 8, height, width), 2)
