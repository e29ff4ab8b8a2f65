"""The classical model: OpenCV's DIS optical flow, carried to t, and a blend that heeds occlusion. Needs no weights.

Flow is sought both ways (Kroeger et al. 2016, "Fast Optical Flow using Dense Inverse Search"). The velocity at an
instant is found by inverting each flow: the pixel that is at x at time t began at y with y + t f(y) = x, which two
fixed-point steps solve. Of the two answers the one counts more that both flows bear out where it leads to: that is the
forward-backward check and the visibility test in one. Pictures are then fetched from both sides with bicubic
interpolation, which is worth 0.9 dB over bilinear on Middlebury, and mixed; where one side does not bear the
velocity out, the pixel is hidden there and the other side is taken.

Pictures come as RGB or as planes. Planes are warped as they are, chroma at its own size: less than half of the samples
of RGB, and no way there and back. This model lives on the CPU and works in numpy, whatever device it is asked on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from midframe.colour import levels
from midframe.models.base import Features, Model, Motion, RenderRequest, scale_by_size
from midframe.models.search import (
    Search,
    View,
    beyond,
    both_ways,
    by_size,
    places,
    remapped,
    resized,
    scaled,
    shrink_within,
)
from midframe.types import PixelFormat

Array = npt.NDArray[Any]

_STEPS = 2  # fixed-point steps that invert a flow
_BELIEF = 0.5  # pixels of the flow grid: how soon the less consistent of two velocities loses weight
_SEEN = 1.5  # pixels of the flow grid by which a side may fail to bear out a velocity before it counts as hidden
_LEFT = 4.0  # pixels of the flow grid by which a side fails, to which one beyond the edge of the picture is equal
_TRUST = 0.1  # weight that is left to a hidden side: where both are in doubt, both count
_STILL_LEVEL = 1  # 8-bit level of grey: difference that noise and recoding make between two views of what stands still
_STILL_SPEED = 0.5  # pixels between a and b


# For small, middling and large pictures; and how many pixels of the picture each vector that is kept stands for. In
# small ones the full size is worth 0.4 dB, at eight times the time, and variational refinement nothing (35.85 dB with
# it on Middlebury, 36.00 without, for half of the time). The other two were chosen on triplets of real clips: at 720p a
# quarter of the size with a dense stride is as good as half with a wide one (29.6 and 29.5 dB) at three fifths of the
# time, and a vector for 4x4 pixels is 0.05 dB better than one for 2x2.
_SEARCHES = (Search(1, 4, 25, 0), 2), (Search(2, 5, 8, 1), 4), (Search(4, 3, 12, 3), 4)


@dataclass(frozen=True, slots=True)
class _Picture:
    layers: tuple[Array, ...]  # float32: one (H, W, 3) RGB 0..1, or planes (h, w) in code values
    gray: Array  # (h, w) uint8, at the size at which motion is sought
    format: PixelFormat | None = None  # of planes


@dataclass(frozen=True, slots=True)
class _Flows:
    forward: Array  # (h, w, 2) float32, pixels of this grid: a -> b
    backward: Array  # b -> a
    view: View


@dataclass(frozen=True, slots=True)
class _Course:
    """How the content at an instant moves."""

    velocity: Array  # (h, w, 2) float32, pixels of this grid from a to b
    share: Array  # (h, w) float32: weight of b
    still: Array | None  # uint8, 255 where nothing moves; None: nowhere


class Dis(Model):
    """Motion by DIS, pictures by warping; any t in (0, 1)."""

    name = "dis"
    min_side: ClassVar[int] = 16  # DIS seeks with patches of 8 pixels
    fast_half: ClassVar[tuple[str, ...]] = ()
    flow_scales: ClassVar[tuple[float, ...]] = (1.0, 0.5, 0.25)
    prefetch: ClassVar[bool] = True

    def encode(self, image: Tensor) -> Features:
        """The pictures as numpy, and in grey at the size at which motion is sought."""
        found = []
        for picture in image.detach().cpu().float():
            rgb = cv2.merge([channel.numpy() for channel in picture.contiguous()])
            found.append(_Picture((rgb,), self._gray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), 255, 0)))
        return found

    def supports_planes(self, format: PixelFormat, height: int, width: int) -> bool:
        """Whatever needs no padding."""
        return min(height, width) >= self.min_side

    def encode_planes(self, planes: Sequence[Tensor], format: PixelFormat) -> Features:
        """The planes in float32; grey is luma at full range, or a mean of R, G and B."""
        layers = tuple(plane.cpu().numpy().astype(np.float32) for plane in planes)
        black, span, _, _ = levels(format)
        light = cv2.cvtColor(cv2.merge(layers[:3]), cv2.COLOR_RGB2GRAY) if format.layout == "rgb" else layers[0]
        return [_Picture(layers, self._gray(light, 255 / span, -black * 255 / span), format)]

    def match(self, a: Features, b: Features) -> Motion:
        """Flow both ways for every pair."""
        return [_flows(p.gray, q.gray) for p, q in zip(a, b, strict=True)]

    def flow(self, motion: Motion) -> Tensor | None:
        """(B, 2, h, w) from a to b, on the grid on which it was sought."""
        return torch.stack([torch.from_numpy(flows.forward.transpose(2, 0, 1).copy()) for flows in motion])

    def render(self, request: RenderRequest) -> Tensor:
        """(N, 3, H, W): one picture for every t."""
        a, b, motion, t = request.a, request.b, request.motion, request.t
        many = len(t) if len(a) == 1 else 1
        out = torch.empty((len(t), 3, *a[0].layers[0].shape[:2]))
        pairs = zip(a * many, b * many, motion * many, t.tolist(), out.numpy(), strict=True)
        for left, right, flows, instant, planes in pairs:
            picture = _between(left, right, flows, instant)[0]
            for channel, plane in enumerate(planes):
                cv2.extractChannel(picture, channel, plane)
        return out.to(t.device)

    def render_planes(self, request: RenderRequest) -> list[tuple[Tensor, ...]]:
        """Planes like those given, for every t."""
        (left,), (right,), (flows,) = request.a, request.b, request.motion
        return [
            tuple(torch.from_numpy(_rounded(layer, left.format)) for layer in _between(left, right, flows, instant))
            for instant in request.t.tolist()
        ]

    def _gray(self, light: Array, gain: float, offset: float) -> Array:
        """Light (H, W) float32 as 8-bit levels `gain * light + offset`, at the size at which motion is sought."""
        scale = self._scale(*light.shape)
        if scale != 1:
            light = cv2.resize(light, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        return _saturated(light, cv2.CV_8U, gain, offset)

    def _scale(self, height: int, width: int) -> float:
        scale = self.flow_scale
        if scale is None:
            scale = scale_by_size(height * width)
        return max(scale, min(1.0, self.min_side / min(height, width)))


def _saturated(values: Array, depth: int, gain: float = 1.0, offset: float = 0.0) -> Array:
    """`gain * values + offset`, rounded, within the range of OpenCV's type `depth`."""
    out: Array = cv2.addWeighted(values, gain, values, 0.0, offset, dtype=depth)
    return out


def _rounded(layer: Array, format: PixelFormat) -> Array:
    """A plane in code values of its format."""
    if format.depth == 8:
        return _saturated(layer, cv2.CV_8U)
    if format.depth < 16:
        layer = np.minimum(layer, np.float32((1 << format.depth) - 1))
    return _saturated(layer, cv2.CV_16U)


def _flows(a: Array, b: Array) -> _Flows:
    """DIS flow (h/n, w/n, 2) both ways between grey pictures (h, w) uint8, in pixels of the smaller grid."""
    height, width = a.shape
    how, grid = by_size(a.size, _SEARCHES)
    shrink = shrink_within(how.shrink, height, width)
    if shrink > 1:
        a, b = (cv2.resize(x, (width // shrink, height // shrink), interpolation=cv2.INTER_AREA) for x in (a, b))
    found = both_ways(a, b, how, max(1, 4 // shrink))
    forward, backward = (resized(flow, max(1, height // grid), max(1, width // grid)) for flow in found[:2])
    return _Flows(forward, backward, found.view)


def _between(a: _Picture, b: _Picture, flows: _Flows, t: float) -> list[Array]:
    """The layers of the picture at t, float32."""
    course = _course(a, b, flows, t)
    layers = [_mixed(p, q, course, t) for p, q in zip(a.layers, b.layers, strict=True)]
    if a.format is not None and a.format.alpha:
        layers[-1] = _alpha(a.layers[-1], b.layers[-1], course, t)
    return layers


def _alpha(a: Array, b: Array, course: _Course, t: float) -> Array:
    """Transparency at t: a matte that stays is kept, whatever moves in it; over still colour one that fades does so."""
    return a if np.array_equal(a, b) else _mixed(a, b, replace(course, still=None), t)


def _course(a: _Picture, b: _Picture, flows: _Flows, t: float) -> _Course:
    """How the content at t moves, from where it is seen, and where nothing moves."""
    forward, backward = flows.forward, flows.backward
    grid = places(*forward.shape[:2])
    from_a, from_b = forward, backward
    for _ in range(_STEPS):
        from_a = _fetch(forward, _along(grid, from_a, -t))
        from_b = _fetch(backward, _along(grid, from_b, t - 1))
    # two answers for the velocity a -> b at t; how far each side is from bearing them out, in pixels
    answers = from_a, -from_b
    doubts = []
    for velocity in answers:
        at_a = _length(_fetch(forward, _along(grid, velocity, -t)) - velocity)
        at_b = _length(_fetch(backward, _along(grid, velocity, 1 - t)) + velocity)
        doubts.append((at_a, at_b))
    first, second = (at_a + at_b for at_a, at_b in doubts)
    share = 1 / (1 + np.exp(np.clip((first - second) / _BELIEF, -30, 30)))
    velocity = answers[1] + share[..., None] * (answers[0] - answers[1])
    hidden = [
        np.maximum(two + share * (one - two), _LEFT * beyond(_along(grid, velocity, side - t), flows.view))
        for side, (one, two) in enumerate(zip(*doubts, strict=True))
    ]
    seen_a, seen_b = (np.exp(-np.maximum(cv2.blur(h, (3, 3)) - _SEEN, 0)) + _TRUST for h in hidden)
    weight = t * seen_b / (t * seen_b + (1 - t) * seen_a)  # of b
    still = _still(a.gray, b.gray, velocity, a.layers[0].shape[1] / grid.shape[1])
    return _Course(velocity, weight, still if still.any() else None)


def _mixed(a: Array, b: Array, course: _Course, t: float) -> Array:
    """One layer at t, of that of both sides."""
    height, width = a.shape[:2]
    rows, columns = course.share.shape
    velocity: Array = scaled(course.velocity, width / columns, height / rows)
    weight = course.share
    if (rows, columns) != (height, width):
        velocity, weight = cv2.resize(velocity, (width, height)), cv2.resize(weight, (width, height))
    grid = places(height, width)
    from_a, from_b = _picture_at(a, _along(grid, velocity, -t)), _picture_at(b, _along(grid, velocity, 1 - t))
    out: Array = cv2.blendLinear(from_a, from_b, 1 - weight, weight)
    if course.still is not None:
        how = cv2.INTER_AREA if height < course.still.shape[0] else cv2.INTER_NEAREST
        mask = cv2.resize(course.still, (width, height), interpolation=how)
        cv2.copyTo(a if t < 0.5 else b, mask, out)
    return out


def _still(a: Array, b: Array, velocity: Array, scale: float) -> Array:
    """(h, w) uint8 like a and b, not 0 where they agree in every 3x3 neighbour and no motion was found."""
    same = cv2.inRange(cv2.dilate(cv2.absdiff(a, b), np.ones((3, 3), np.uint8)), 0, _STILL_LEVEL)
    slow = cv2.inRange(_length(velocity), 0, _STILL_SPEED / scale)
    out: Array = cv2.min(same, cv2.resize(slow, (a.shape[1], a.shape[0]), interpolation=cv2.INTER_NEAREST))
    return out


def _along(grid: Array, velocity: Array, t: float) -> Array:
    """Where pixels of the grid are after the time t."""
    out: Array = cv2.addWeighted(velocity, t, grid, 1.0, 0.0)
    return out


def _fetch(flow: Array, where: Array) -> Array:
    return remapped(flow, where, cv2.INTER_LINEAR)


def _picture_at(layer: Array, where: Array) -> Array:
    return remapped(layer, where, cv2.INTER_CUBIC)


def _length(vectors: Array) -> Array:
    # not cv2.magnitude: its last bits depend on where in memory the arrays lie
    x, y = vectors[..., 0], vectors[..., 1]
    out: Array = np.sqrt(x * x + y * y)
    return out
