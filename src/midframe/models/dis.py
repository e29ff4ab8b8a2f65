"""The classical model: OpenCV's DIS optical flow, inverted at t, and an occlusion-aware blend. Needs no weights.

Flow is estimated both ways (Kroeger et al. 2016, "Fast Optical Flow using Dense Inverse Search"). The velocity at an
instant is found by inverting each flow: the pixel at x at time t began at y with y + t f(y) = x, which two
fixed-point steps solve. Of the two velocities the one with the smaller forward-backward error has the larger weight.
Frames are then warped from both sides by cubic splines, which are worth 1.0 dB over bilinear interpolation on
Middlebury (bicubic interpolation, without the C++ kernels: 0.9 dB), and blended; where the flows of one side contradict
the velocity, the pixel is occluded there and the other side is used.

Frames are RGB or planes. Planes are warped as they are, chroma at its own size: fewer than half of the samples of RGB,
and no conversion. This model works in NumPy on the CPU, whatever the device.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from midframe import kernels
from midframe.colour import levels
from midframe.models.base import Features, Model, Motion, RenderRequest, scale_by_size
from midframe.models.flow.bidirectional import estimate_bidirectional
from midframe.models.flow.extrapolation import out_of_frame_distance
from midframe.models.flow.frame import FlowFrame
from midframe.models.flow.sampling import pixel_grid, resize_flow, sample, scale_vectors
from midframe.models.flow.types import ActiveArea, DisConfig, largest_downscale, select_by_area
from midframe.types import PixelFormat

if TYPE_CHECKING:
    from midframe._native import Workspace

Array = npt.NDArray[Any]

_INVERSION_STEPS = 2  # fixed-point steps that invert a flow
_ERROR_SCALE = 0.5  # pixels of the flow grid: how soon the less consistent of two velocities loses weight
_VISIBLE_ERROR = 1.5  # pixels of the flow grid by which a side may contradict a velocity before it counts as occluded
_LEAVING_WEIGHT = 4.0  # pixels of the flow grid to which a pixel beyond the edge of the frame counts
_MIN_VISIBILITY = 0.1  # weight of an occluded side: where both are, both count
_STATIC_LEVEL = 1  # 8-bit levels of gray: difference that noise and recoding make between two views of static content
_STATIC_SPEED = 0.5  # pixels between a and b
_FLOW_BLOCK = 4  # pixels; sides of the blocks that share a vector in the kernels


# For small, medium and large frames; and frame pixels per vector that is kept. In small ones the full size is worth
# 0.4 dB, at eight times the time, and variational refinement nothing (35.85 dB with it on Middlebury, 36.00 without,
# for half of the time). The other two were chosen on 30 triplets of ten real clips: luma PSNR, CPU time of `match`.
# At 960x540 (2, 5, 25, 0) has 36.91 dB in 44 ms, and (2, 5, 8, 1) 36.91 in 95; at 1280x720 (4, 4, 16, 0) has 35.76 dB
# in 23 ms, (4, 3, 12, 3) 35.75 in 67, (2, 5, 25, 0) 35.90 in 66. A vector for 4x4 pixels is 0.05 dB better than one
# for 2x2.
_DIS_CONFIGS = (DisConfig(1, 4, 25, 0), 2), (DisConfig(2, 5, 25, 0), 4), (DisConfig(4, 4, 16, 0), 4)


@dataclass(frozen=True, slots=True)
class _Frame:
    planes: tuple[Array, ...]  # (h, w) float32: R, G and B in 0..1, or planes in code values
    gray: Array  # (h, w) uint8, at the scale of flow
    flow_frame: FlowFrame
    format: PixelFormat | None = None  # of planes


@dataclass(frozen=True, slots=True)
class _Flows:
    forward: Array  # (h, w, 2) float32, pixels of this grid: a -> b
    backward: Array  # b -> a
    active_area: ActiveArea


@dataclass(frozen=True, slots=True)
class _MotionAtT:
    """How the content moves at an instant."""

    velocity: Array  # (h, w, 2) float32, pixels of this grid from a to b
    weight: Array  # (h, w) float32, of b
    static: Array | None  # uint8, 255 where nothing moves; None: nowhere

    def resized(self, height: int, width: int) -> _MotionAtT:
        """The same for planes of a size, the velocity in pixels of that and still on its own grid."""
        rows, columns = self.weight.shape
        velocity: Array = scale_vectors(self.velocity, width / columns, height / rows)
        weight, static = self.weight, self.static
        if (rows, columns) != (height, width):
            weight = cv2.resize(weight, (width, height))
        if static is not None:
            interpolation = cv2.INTER_AREA if height < static.shape[0] else cv2.INTER_NEAREST
            static = cv2.resize(static, (width, height), interpolation=interpolation)
        return _MotionAtT(velocity, weight, static)


class Dis(Model):
    """Flow by DIS, frames by warping; any t in (0, 1)."""

    name = "dis"
    min_side: ClassVar[int] = 16  # DIS uses patches of 8 pixels
    fast_half: ClassVar[tuple[str, ...]] = ()
    flow_scales: ClassVar[tuple[float, ...]] = (1.0, 0.5, 0.25)
    prefetch: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self._workspace = kernels.workspace(torch.get_num_threads())

    def on_device(self, device: torch.device) -> Dis:
        """See `Model.on_device`."""
        model = copy.copy(self)
        model._workspace = kernels.workspace(torch.get_num_threads())
        return model.to(device)

    def encode(self, image: Tensor) -> Features:
        """Convert frames to NumPy, and to gray at the size at which flow is estimated."""
        frames = []
        for member in image.detach().cpu().float():
            planes = tuple(channel.numpy() for channel in member.contiguous())
            frames.append(_frame(planes, self._gray(cv2.cvtColor(cv2.merge(planes), cv2.COLOR_RGB2GRAY), 255, 0)))
        return frames

    def supports_planes(self, format: PixelFormat, height: int, width: int) -> bool:
        """Every format, at sizes that need no padding."""
        return min(height, width) >= self.min_side

    def encode_planes(self, planes: Sequence[Tensor], format: PixelFormat) -> Features:
        """Convert planes to float32; gray is luma at full range, or the luma of RGB."""
        arrays = tuple(plane.cpu().numpy().astype(np.float32) for plane in planes)
        black, span, _, _ = levels(format)
        luma = cv2.cvtColor(cv2.merge(arrays[:3]), cv2.COLOR_RGB2GRAY) if format.layout == "rgb" else arrays[0]
        return [_frame(arrays, self._gray(luma, 255 / span, -black * 255 / span), format)]

    def match(self, a: Features, b: Features) -> Motion:
        """Estimate flow both ways for every pair."""
        return [_flows(p, q, self._workspace) for p, q in zip(a, b, strict=True)]

    def flow(self, motion: Motion) -> Tensor | None:
        """(B, 2, h, w) from a to b, on the grid on which it was estimated."""
        return torch.stack([torch.from_numpy(flows.forward.transpose(2, 0, 1).copy()) for flows in motion])

    def render(self, request: RenderRequest) -> Tensor:
        """Interpolate (N, 3, H, W), one frame for every t."""
        a, b, motion, t = request.a, request.b, request.motion, request.t
        many = len(t) if len(a) == 1 else 1
        out = torch.empty((len(t), 3, *a[0].planes[0].shape))
        pairs = zip(a * many, b * many, motion * many, t.tolist(), out.numpy(), strict=True)
        for left, right, flows, instant, planes in pairs:
            planes[:] = _interpolated(left, right, flows, instant, self._workspace)
        return out.to(t.device)

    def render_planes(self, request: RenderRequest) -> list[tuple[Tensor, ...]]:
        """Interpolate planes like those given, for every t."""
        (left,), (right,), (flows,) = request.a, request.b, request.motion
        frames = (_interpolated(left, right, flows, instant, self._workspace) for instant in request.t.tolist())
        return [tuple(torch.from_numpy(_rounded(plane, left.format)) for plane in planes) for planes in frames]

    def _gray(self, luma: Array, gain: float, offset: float) -> Array:
        """Convert luma (H, W) float32 to 8-bit levels `gain * luma + offset` at the size at which flow is estimated."""
        scale = self._scale(*luma.shape)
        if scale != 1:
            luma = cv2.resize(luma, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        return _saturated(luma, cv2.CV_8U, gain, offset)

    def _scale(self, height: int, width: int) -> float:
        scale = self.flow_scale
        if scale is None:
            scale = scale_by_size(height * width)
        return max(scale, min(1.0, self.min_side / min(height, width)))


def _saturated(values: Array, depth: int, gain: float = 1.0, offset: float = 0.0) -> Array:
    """`gain * values + offset`, rounded, within the range of OpenCV's type `depth`."""
    out: Array = cv2.addWeighted(values, gain, values, 0.0, offset, dtype=depth)
    return out


def _rounded(plane: Array, format: PixelFormat) -> Array:
    """A plane in code values of its format."""
    if format.depth == 8:
        return _saturated(plane, cv2.CV_8U)
    if format.depth < 16:
        plane = np.minimum(plane, np.float32((1 << format.depth) - 1))
    return _saturated(plane, cv2.CV_16U)


def _frame(planes: tuple[Array, ...], gray: Array, format: PixelFormat | None = None) -> _Frame:
    height, width = gray.shape
    factor = _downscale(gray.shape)
    small = gray
    if factor > 1:
        small = cv2.resize(gray, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
    return _Frame(planes, gray, FlowFrame.of(small), format)


def _downscale(shape: tuple[int, ...]) -> int:
    """The factor by which a gray frame is reduced for DIS."""
    config, _ = select_by_area(math.prod(shape), _DIS_CONFIGS)
    return largest_downscale(config.downscale, *shape)


def _flows(a: _Frame, b: _Frame, workspace: Workspace | None) -> _Flows:
    """DIS flow (h/n, w/n, 2) both ways between frames with gray ones (h, w), in pixels of the smaller grid."""
    height, width = a.gray.shape
    config, grid = select_by_area(a.gray.size, _DIS_CONFIGS)
    cost_grid = max(1, 4 // _downscale(a.gray.shape))
    pair = estimate_bidirectional(a.flow_frame, b.flow_frame, config, cost_grid, workspace=workspace)
    size = max(1, height // grid), max(1, width // grid)
    return _Flows(resize_flow(pair.forward, *size), resize_flow(pair.backward, *size), pair.active_area)


def _interpolated(a: _Frame, b: _Frame, flows: _Flows, t: float, workspace: Workspace | None) -> list[Array]:
    """The planes of the frame at t, float32."""
    whole = _motion_at(a, b, flows, t)
    motions = {shape: whole.resized(*shape) for shape in {plane.shape for plane in a.planes}}
    planes = []
    for n, (p, q) in enumerate(zip(a.planes, b.planes, strict=True)):
        motion = motions[p.shape]
        if a.format is not None and a.format.alpha and n == len(a.planes) - 1:
            if np.array_equal(p, q):  # a constant matte is kept whatever moves in it
                planes.append(p)
                continue
            motion = replace(motion, static=None)  # over static colour a fading one fades
        planes.append(_blended(p, q, motion, t, workspace))
    return planes


def _motion_at(a: _Frame, b: _Frame, flows: _Flows, t: float) -> _MotionAtT:
    """Velocity at t, blending weight, and static pixels."""
    forward, backward = flows.forward, flows.backward
    grid = pixel_grid(*forward.shape[:2])
    from_a, from_b = forward, backward
    for _ in range(_INVERSION_STEPS):
        from_a = sample(forward, _advanced(grid, from_a, -t))
        from_b = sample(backward, _advanced(grid, from_b, t - 1))
    # two hypotheses of the velocity a -> b at t, and the pixels by which the flows of each side contradict them
    hypotheses = from_a, -from_b
    errors = []
    for velocity in hypotheses:
        at_a = _length(sample(forward, _advanced(grid, velocity, -t)) - velocity)
        at_b = _length(sample(backward, _advanced(grid, velocity, 1 - t)) + velocity)
        errors.append((at_a, at_b))
    first, second = (at_a + at_b for at_a, at_b in errors)
    share = 1 / (1 + np.exp(np.clip((first - second) / _ERROR_SCALE, -30, 30)))
    velocity = hypotheses[1] + share[..., None] * (hypotheses[0] - hypotheses[1])
    occlusion = []
    for side, (one, two) in enumerate(zip(*errors, strict=True)):
        beyond = out_of_frame_distance(_advanced(grid, velocity, side - t), flows.active_area)
        occlusion.append(np.maximum(two + share * (one - two), _LEAVING_WEIGHT * beyond))
    visible_a, visible_b = (
        np.exp(-np.maximum(cv2.blur(x, (3, 3)) - _VISIBLE_ERROR, 0)) + _MIN_VISIBILITY for x in occlusion
    )
    weight = t * visible_b / (t * visible_b + (1 - t) * visible_a)
    static = _static(a.gray, b.gray, velocity, a.planes[0].shape[1] / grid.shape[1])
    return _MotionAtT(velocity, weight, static if static.any() else None)


def _blended(a: Array, b: Array, motion: _MotionAtT, t: float, workspace: Workspace | None) -> Array:
    """One plane (h, w) at t from that of both frames, motion `resized` to it."""
    steps = (a, -t), (b, 1 - t)
    if workspace is None:
        height, width = a.shape
        velocity = cv2.resize(motion.velocity, (width, height))
        grid = pixel_grid(height, width)
        from_a, from_b = (sample(x, _advanced(grid, velocity, step), cv2.INTER_CUBIC) for x, step in steps)
    else:
        blocks = _block_velocity(motion.velocity, *a.shape)
        from_a, from_b = (_spline_warped(x, np.float32(step / _FLOW_BLOCK) * blocks, workspace) for x, step in steps)
    out: Array = cv2.blendLinear(from_a, from_b, 1 - motion.weight, motion.weight)
    if motion.static is not None:
        cv2.copyTo(a if t < 0.5 else b, motion.static, out)
    return out


def _block_velocity(velocity: Array, height: int, width: int) -> Array:
    """A velocity (h, w, 2) of a plane's pixels at its 4x4 blocks, (2, rows, columns); columns are a multiple of 4."""
    rows, columns = -(-height // _FLOW_BLOCK), -(-width // (4 * _FLOW_BLOCK)) * 4
    if velocity.shape[:2] != (rows, columns) or (height % _FLOW_BLOCK or width % _FLOW_BLOCK):
        down, across = _FLOW_BLOCK * velocity.shape[0] / height, _FLOW_BLOCK * velocity.shape[1] / width
        to_velocity = np.array([[across, 0, 0.5 * across - 0.5], [0, down, 0.5 * down - 0.5]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        velocity = cv2.warpAffine(velocity, to_velocity, (columns, rows), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(velocity.transpose(2, 0, 1))


def _spline_warped(plane: Array, flow: Array, workspace: Workspace) -> Array:
    """A plane (h, w) warped backward by a flow (2, rows, columns) of its 4x4 blocks, in blocks."""
    height, width = plane.shape
    below, beside = _FLOW_BLOCK * flow.shape[1] - height, _FLOW_BLOCK * flow.shape[2] - width
    if below or beside:
        plane = cv2.copyMakeBorder(plane, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    (warped,), _ = workspace.warp(np.ascontiguousarray(plane)[None], flow)
    return np.ascontiguousarray(warped[:height, :width])


def _static(a: Array, b: Array, velocity: Array, scale: float) -> Array:
    """(h, w) uint8 like a and b, not 0 where they agree in every 3x3 neighbour and the velocity is small."""
    same = cv2.inRange(cv2.dilate(cv2.absdiff(a, b), np.ones((3, 3), np.uint8)), 0, _STATIC_LEVEL)
    slow = cv2.inRange(_length(velocity), 0, _STATIC_SPEED / scale)
    out: Array = cv2.min(same, cv2.resize(slow, (a.shape[1], a.shape[0]), interpolation=cv2.INTER_NEAREST))
    return out


def _advanced(grid: Array, velocity: Array, t: float) -> Array:
    """Positions of grid pixels after the time t."""
    out: Array = cv2.addWeighted(velocity, t, grid, 1.0, 0.0)
    return out


def _length(vectors: Array) -> Array:
    # not cv2.magnitude: its last bits depend on where in memory the arrays lie
    x, y = vectors[..., 0], vectors[..., 1]
    out: Array = np.sqrt(x * x + y * y)
    return out
