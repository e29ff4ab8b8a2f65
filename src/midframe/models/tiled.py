"""Any model on overlapping tiles, behind the same methods: for frames that do not fit in memory.

Tiles are of one size and lie on multiples of the model's stride; where they overlap their frames are blended with
windows that add up to 1. A model sees nothing beyond its tile, so motion longer than the overlap can be lost near the
edge of a tile: the larger the tiles the better, and no tiles where memory suffices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from midframe import ops
from midframe.models.base import Features, Model, Motion, RenderRequest, SceneDetector

# Part of a tile's side that it shares with each neighbour.
OVERLAP = 0.25


@dataclass(frozen=True, slots=True)
class _Tiles:
    """Positions of the tiles, and the features or motion of each."""

    height: int
    width: int
    side: tuple[int, int]
    corners: tuple[tuple[int, int], ...]  # (top, left)
    parts: tuple[Any, ...]


class Tiled(Model):
    """Wraps a model; each method calls that of the model for every tile."""

    def __init__(self, inner: Model, side: int) -> None:
        """Tiles of `side` x `side` pixels, rounded up to a size that the model accepts."""
        super().__init__()
        self.inner = inner
        self.side = max(inner.padded_size(side, side))
        # constants of a class; a wrapper has those of its model
        self.name, self.context, self.pad_mode = inner.name, inner.context, inner.pad_mode  # type: ignore[misc]
        self.stride, self.min_side, self.fast_half = inner.stride, inner.min_side, inner.fast_half  # type: ignore[misc]
        self.scene_rule = inner.scene_rule  # type: ignore[misc]

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """That of the model."""
        return self.inner.padded_size(height, width)

    def on_device(self, device: torch.device) -> Tiled:
        """See `Model.on_device`."""
        return Tiled(self.inner.on_device(device), self.side)

    def encode(self, image: Tensor) -> Features:
        """Features of every tile of (B, 3, H, W)."""
        height, width = image.shape[-2:]
        side = min(self.side, height), min(self.side, width)
        corners = tuple(
            (top, left)
            for top in _starts(height, side[0], self.inner.stride)
            for left in _starts(width, side[1], self.inner.stride)
        )
        parts = tuple(
            self.inner.encode(image[..., top : top + side[0], left : left + side[1]].contiguous())
            for top, left in corners
        )
        return _Tiles(height, width, side, corners, parts)

    def match(self, a: Features, b: Features) -> Motion:
        """Motion of every tile."""
        return replace(a, parts=tuple(self.inner.match(p, q) for p, q in zip(a.parts, b.parts, strict=True)))

    def flow(self, motion: Motion) -> Tensor | None:
        """(B, 2, H, W), blended from the tiles' flows; None if the model has none."""
        flows = [self.inner.flow(part) for part in motion.parts]
        found = [ops.resize_flow(flow.float(), *motion.side) for flow in flows if flow is not None]
        return _blended(motion, found) if found else None

    def scene_detector(self, device: torch.device, half: torch.dtype | None) -> SceneDetector:
        """That of the model, on whole frames."""
        return self.inner.scene_detector(device, half)

    def render(self, request: RenderRequest) -> Tensor:
        """Frames (N, 3, H, W), blended from those of the tiles."""
        a, t = request.a, request.t
        nothing: Sequence[None] = [None] * len(a.parts)
        around = (nothing if beside is None else beside.parts for beside in (request.before, request.after))
        tiles = zip(a.parts, request.b.parts, request.motion.parts, *around, strict=True)
        requests = (RenderRequest(p, q, m, t, before, after) for p, q, m, before, after in tiles)
        return _blended(a, (self.inner.render(one).float() for one in requests))


def _blended(tiles: _Tiles, parts: Iterable[Tensor]) -> Tensor:
    """(N, C, H, W) from one (N, C, h, w) for every tile."""
    out = total = torch.zeros(())
    for number, ((top, left), part) in enumerate(zip(tiles.corners, parts, strict=True)):
        if number == 0:
            out = part.new_zeros(*part.shape[:2], tiles.height, tiles.width)
            total = part.new_zeros(1, 1, tiles.height, tiles.width)
            rows, columns = (_window(side, part.device) for side in tiles.side)
            window = rows[:, None] * columns[None, :]
        place = (..., slice(top, top + tiles.side[0]), slice(left, left + tiles.side[1]))
        out[place] += part * window
        total[place] += window
    return out.div_(total)


def _starts(length: int, side: int, stride: int) -> list[int]:
    """Where tiles of `side` begin so that they cover `length`, on multiples of the stride."""
    if length <= side:
        return [0]
    step = max(stride, round(side * (1 - OVERLAP)))
    count = math.ceil((length - side) / step) + 1
    return [(length - side) * i // (count - 1) // stride * stride for i in range(count - 1)] + [length - side]


def _window(side: int, device: torch.device) -> Tensor:
    """A rise over the overlap, a level, a fall; nowhere 0. Sums are divided out, so it need not add up by itself."""
    ramp = max(1, round(side * OVERLAP))
    place = torch.arange(side, device=device, dtype=torch.float32) + 0.5
    edge = torch.minimum(place, side - place) / ramp
    return torch.sin(edge.clamp(max=1.0) * (math.pi / 2)).square() + 1e-4
