"""The classical model: OpenCV's DIS optical flow, carried to t, and a blend that heeds occlusion. Needs no weights.

Flow is sought both ways (Kroeger et al. 2016, "Fast Optical Flow using Dense Inverse Search"). The velocity at an
instant is found by inverting each flow: the pixel that is at x at time t began at y with y + t f(y) = x, which two
fixed-point steps solve. Of the two answers the one counts more that both flows bear out where it leads to: that is the
forward-backward check and the visibility test in one. Pictures are then fetched from both sides with bicubic
interpolation, which is worth 0.9 dB over bilinear on Middlebury, and mixed; where one side does not bear the
velocity out, the pixel is hidden there and the other side is taken.

This model lives on the CPU and works in numpy, whatever device it is asked on.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from midframe.models.base import Features, Model, Motion

Array = npt.NDArray[Any]

# Pictures larger than this, in pixels, have their motion sought at half or quarter size: 1920x1080 and 3840x2160
# are, 1280x720 is not.
_HALF_ABOVE, _QUARTER_ABOVE = 1_500_000, 6_000_000
# Up to this many pixels DIS goes down to the finest scale: +0.4 dB, and eight times the time.
_FINEST_UP_TO = 450_000
_STEPS = 2  # fixed-point steps that invert a flow
_BELIEF = 0.5  # pixels of the flow grid: how soon the less consistent of two velocities loses weight
_SEEN = 1.5  # pixels of the flow grid by which a side may fail to bear out a velocity before it counts as hidden
_TRUST = 0.1  # weight that is left to a hidden side: where both are in doubt, both count
_STILL_LEVEL = 1  # 8-bit level of grey: difference that noise and recoding make between two views of what stands still
_STILL_SPEED = 0.5  # pixels between a and b


@dataclass(frozen=True, slots=True)
class _Picture:
    rgb: Array  # (H, W, 3) float32, 0..1
    gray: Array  # (h, w) uint8, at the size at which motion is sought


@dataclass(frozen=True, slots=True)
class _Flows:
    forward: Array  # (h, w, 2) float32, pixels of this grid: a -> b
    backward: Array  # b -> a


class Dis(Model):
    """Motion by DIS, pictures by warping; any t in (0, 1)."""

    name = "dis"
    min_side: ClassVar[int] = 16  # DIS seeks with patches of 8 pixels
    fast_half: ClassVar[tuple[str, ...]] = ()
    flow_scales: ClassVar[tuple[float, ...]] = (1.0, 0.5, 0.25)

    def encode(self, image: Tensor) -> Features:
        """The pictures as numpy, and in grey at the size at which motion is sought."""
        return [self._picture(picture) for picture in image.detach().cpu().float()]

    def match(self, a: Features, b: Features) -> Motion:
        """Flow both ways for every pair, each direction in a thread of its own."""
        return [self._flows(p, q) for p, q in zip(a, b, strict=True)]

    def flow(self, motion: Motion) -> Tensor | None:
        """(B, 2, h, w) from a to b, on the grid on which it was sought."""
        return torch.stack([torch.from_numpy(flows.forward.transpose(2, 0, 1).copy()) for flows in motion])

    def render(
        self,
        a: Features,
        b: Features,
        motion: Motion,
        t: Tensor,
        before: Motion | None = None,
        after: Motion | None = None,
    ) -> Tensor:
        """(N, 3, H, W): one picture for every t."""
        many = len(t) if len(a) == 1 else 1
        out = torch.empty((len(t), 3, *a[0].rgb.shape[:2]))
        pairs = zip(a * many, b * many, motion * many, t.tolist(), out.numpy(), strict=True)
        for left, right, flows, instant, planes in pairs:
            picture = _between(left, right, flows, instant)
            for channel, plane in enumerate(planes):
                cv2.extractChannel(picture, channel, plane)
        return out.to(t.device)

    def _picture(self, image: Tensor) -> _Picture:
        rgb = cv2.merge([channel.numpy() for channel in image.contiguous()])
        gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
        scale = self._scale(*gray.shape)
        if scale != 1:
            gray = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        return _Picture(rgb, cv2.convertScaleAbs(np.maximum(gray, 0, out=gray), alpha=255))

    def _scale(self, height: int, width: int) -> float:
        scale = self.flow_scale
        if scale is None:
            pixels = height * width
            scale = 0.25 if pixels > _QUARTER_ABOVE else 0.5 if pixels > _HALF_ABOVE else 1.0
        return max(scale, min(1.0, self.min_side / min(height, width)))

    def _flows(self, a: _Picture, b: _Picture) -> _Flows:
        found: dict[str, Array] = {}

        def seek(name: str, first: Array, second: Array) -> None:
            found[name] = _flow(first, second)

        other = threading.Thread(target=seek, args=("backward", b.gray, a.gray))
        other.start()
        try:
            seek("forward", a.gray, b.gray)
        finally:
            other.join()
        return _Flows(**found)


def _flow(a: Array, b: Array) -> Array:
    """DIS flow (h/2, w/2, 2) from one grey picture (h, w) uint8 to another, in pixels of the smaller grid."""
    seeker = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    fine = a.size <= _FINEST_UP_TO
    seeker.setFinestScale(0 if fine else 1)
    # The preset has stride 3, 25 steps of descent and 5 of refinement: measured no better, and half as quick.
    # Above the finest scale's size it is time that counts: a fifth of it for 0.1 dB.
    seeker.setPatchStride(4 if fine else 5)
    seeker.setGradientDescentIterations(12 if fine else 8)
    seeker.setVariationalRefinementIterations(5 if fine else 1)
    flow: Array = seeker.calc(a, b, None)  # type: ignore[call-overload]
    height, width = a.shape
    small = max(1, width // 2), max(1, height // 2)
    flow = cv2.resize(flow, small, interpolation=cv2.INTER_AREA)
    return flow * np.array([small[0] / width, small[1] / height], np.float32)


def _between(a: _Picture, b: _Picture, flows: _Flows, t: float) -> Array:
    """The picture (H, W, 3) at t."""
    height, width = a.rgb.shape[:2]
    forward, backward = flows.forward, flows.backward
    grid = _grid(*forward.shape[:2])
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
    hidden = [doubts[1][side] + share * (doubts[0][side] - doubts[1][side]) for side in (0, 1)]
    seen_a, seen_b = (np.exp(-np.maximum(cv2.blur(h, (3, 3)) - _SEEN, 0)) + _TRUST for h in hidden)
    weight = t * seen_b / (t * seen_b + (1 - t) * seen_a)  # of b

    velocity = velocity * np.array([width / grid.shape[1], height / grid.shape[0]], np.float32)
    still = _still(a.gray, b.gray, velocity)
    velocity = cv2.resize(velocity, (width, height))
    weight = cv2.resize(weight, (width, height))
    whole = _grid(height, width)
    out: Array = cv2.blendLinear(
        _picture_at(a.rgb, _along(whole, velocity, -t)),
        _picture_at(b.rgb, _along(whole, velocity, 1 - t)),
        1 - weight,
        weight,
    )
    if still.any():
        cv2.copyTo(
            a.rgb if t < 0.5 else b.rgb, cv2.resize(still, (width, height), interpolation=cv2.INTER_NEAREST), out
        )
    return out


def _still(a: Array, b: Array, velocity: Array) -> Array:
    """(h, w) uint8 like a and b, not 0 where they agree in every 3x3 neighbour and no motion was found."""
    same = cv2.inRange(cv2.dilate(cv2.absdiff(a, b), np.ones((3, 3), np.uint8)), 0, _STILL_LEVEL)
    slow = cv2.inRange(_length(velocity), 0, _STILL_SPEED)
    out: Array = cv2.min(same, cv2.resize(slow, (a.shape[1], a.shape[0]), interpolation=cv2.INTER_NEAREST))
    return out


def _along(grid: Array, velocity: Array, t: float) -> Array:
    """Where pixels of the grid are after the time t."""
    out: Array = cv2.addWeighted(velocity, t, grid, 1.0, 0.0)
    return out


def _grid(height: int, width: int) -> Array:
    """(H, W, 2) float32: x, y of every pixel."""
    out = np.empty((height, width, 2), np.float32)
    out[..., 0] = np.arange(width, dtype=np.float32)
    out[..., 1] = np.arange(height, dtype=np.float32)[:, None]
    return out


def _fetch(flow: Array, where: Array) -> Array:
    return _remap(flow, where, cv2.INTER_LINEAR)


def _picture_at(rgb: Array, where: Array) -> Array:
    return _remap(rgb, where, cv2.INTER_CUBIC)


def _remap(values: Array, where: Array, how: int) -> Array:
    out: Array = cv2.remap(values, where, None, how, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return out


def _length(vectors: Array) -> Array:
    out: Array = cv2.magnitude(np.ascontiguousarray(vectors[..., 0]), np.ascontiguousarray(vectors[..., 1]))
    return out
