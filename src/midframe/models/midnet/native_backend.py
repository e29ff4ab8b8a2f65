"""midnet's back end of C++ kernels, on the CPU; computes no gradients.

A frame is luma and chroma, as in video: warping and blending are linear, so nothing is lost, and the chroma of a video
is warped at its own size, fewer than half of the samples of RGB. A few rows at a time go through all operations, which
takes a fifth of the time of whole frames through each. Rows do not depend on how they are distributed over threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from midframe import _native
from midframe.colour import levels, matrix_to_rgb
from midframe.models.flow.matcher import CORRELATION_RADIUS
from midframe.models.midnet import hypotheses, occlusion
from midframe.models.midnet.fusion import FusionNetwork
from midframe.models.midnet.torch_backend import COLOUR_SIGMA, FILTER_RADIUS, KEPT_CONFIDENCE
from midframe.models.midnet.types import (
    BLOCK,
    EVALUATED,
    FLOWS,
    TILE,
    FlowField,
    FlowFields,
    FrameFeatures,
    RefinedFlow,
    WarpedFrames,
    WarpRequest,
)
from midframe.types import PixelFormat

Array = NDArray[Any]  # of float32
FlowPair = tuple[Tensor, Tensor]
RGB_MATRIX = "smpte170m"  # of the luma and chroma that RGB frames are converted to


@dataclass(frozen=True, slots=True)
class NativeFrame:
    """Planes of a frame with spline coefficients. Sides are multiples of 16."""

    planes: _native.Planes
    format: PixelFormat | None = None  # of the planes it was made of, and their sizes
    sizes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class NativeWarped:
    """Two frames warped to t under K hypotheses; inactive hypotheses and features of trivial tiles are undefined."""

    warped: _native.Warped
    a: NativeFrame


class NativeBackend:
    """See `Backend`; frames one at a time. Owns its worker threads, as many as PyTorch has, and its scratch memory."""

    def __init__(self) -> None:
        self._workspace = _native.Workspace()
        self._network: FusionNetwork | None = None
        self._parameters: list[Tensor] = []  # of the network: listing them takes as long as a layer
        self._layers: tuple[tuple[Any, ...], _native.FusionNetwork] | None = None

    @property
    def workspace(self) -> _native.Workspace:
        """Scratch memory and threads."""
        if self._workspace.threads != torch.get_num_threads():
            self._workspace.threads = torch.get_num_threads()
        return self._workspace

    def prepare(self, image: Tensor) -> FrameFeatures:
        """See `Backend.prepare`."""
        matrix = _matrix(RGB_MATRIX)
        return _features([NativeFrame(self.workspace.planes_of_rgb(rgb, matrix)) for rgb in _members(image)])

    def supports_planes(self, format: PixelFormat) -> bool:
        """Y'CbCr and gray without alpha, chroma at full or half size."""
        return format.layout in ("yuv", "gray") and not format.alpha and max(format.chroma_w, format.chroma_h) <= 1

    def prepare_planes(self, planes: Sequence[Tensor], format: PixelFormat, size: tuple[int, int]) -> FrameFeatures:
        """See `Backend.prepare_planes`."""
        codes = [plane.contiguous().numpy() for plane in planes]
        chroma = size[0] >> format.chroma_h, size[1] >> format.chroma_w
        matrix = _matrix(format.matrix) if len(codes) == 3 else (0.0,) * 6
        prepared = self.workspace.planes_of_codes(codes, _ranges(format), size, chroma, matrix)
        return _features([NativeFrame(prepared, format, tuple((len(plane), plane.shape[1]) for plane in codes))])

    def inconsistency(self, flow: Tensor, backward: Tensor) -> Tensor:
        """See `Backend.inconsistency`."""
        pairs = zip(_members(flow), _members(backward), strict=True)
        return _batch([self.workspace.forward_backward_error(*pair)[None] for pair in pairs])

    def flow_fields(self, flows: FlowPair, inconsistency: FlowPair, area: Tensor, background: FlowPair) -> FlowFields:
        """See `Backend.flow_fields`."""
        limits = (
            occlusion.INDEPENDENT_MOTION, occlusion.DISOCCLUSION, occlusion.OUT_OF_FRAME_WEIGHT,
            occlusion.LENGTH_TOLERANCE, occlusion.IMPORTANCE_PER_PIXEL, occlusion.MAX_FOREGROUND_INCONSISTENCY,
            occlusion.FOREGROUND_IMPORTANCE,
        )  # fmt: skip
        areas, fields = area.tolist(), []
        for way, flow in enumerate(flows):
            own, other = (_members(x[:, 0]) for x in (inconsistency[way], inconsistency[1 - way]))
            parts = zip(_members(flow), own, other, _members(background[way]), areas, strict=True)
            found = _batch([self.workspace.flow_importance(*each, limits) for each in parts])
            fields.append(FlowField(flow, found[:, :1], found[:, 1:]))
        return FlowFields(*fields)

    def filter_flow(self, flow: Tensor, block_means: Tensor, confidence: Tensor) -> Tensor:
        """See `Backend.filter_flow`."""
        parts = torch.cat([flow, block_means, confidence], 1)
        padded = _members(F.pad(parts.float(), (FILTER_RADIUS,) * 4, mode="replicate"))
        parameters = FILTER_RADIUS, 0.5 / COLOUR_SIGMA**2, KEPT_CONFIDENCE
        return _batch([self.workspace.filtered_flow(member, *parameters) for member in padded])

    def confirm_acceleration(self, own: Tensor, other: Tensor, flow: Tensor) -> Tensor:
        """See `Backend.confirm_acceleration`."""
        parts = zip(_members(own), _members(other), _members(flow), strict=True)
        return _batch([self.workspace.confirmed_acceleration(*each) for each in parts])

    def local_correlation(self, a: Tensor, b: Tensor) -> Tensor:
        """See `Backend.local_correlation`."""
        radius = CORRELATION_RADIUS
        padded = F.pad(b, (radius, radius + _native.CORRELATION_PADDING, radius, radius))
        pairs = zip(_members(a), _members(padded), strict=True)
        return _batch([self.workspace.local_correlation(*pair, radius) for pair in pairs])

    def batch_limit(self, pixels: int) -> int:
        """One."""
        return 1

    def warp(self, request: WarpRequest, names: Sequence[str]) -> NativeWarped:
        """See `Backend.warp`."""
        a, b = _frame(request.a), _frame(request.b)
        motion, acceleration = request.motion, request.acceleration
        fields = motion.fields
        threshold = 0.25 * hypotheses.ACTIVE_DISTANCE
        proposed = self.workspace.hypotheses(
            [_array(field.flow[0]) for field in fields],
            [_array(field.importance[0, 0]) for field in fields],
            None if request.refined is None else _array(_stacked(request.refined)),
            None if acceleration is None else (_array(acceleration.a[0]), _array(acceleration.b[0])),
            float(request.t),
            list(names),
            [] if motion.filtered is None else ["filtered"],
            hypotheses.SHIFT,
            threshold,
        )
        limits = (
            threshold, hypotheses.TRIVIAL_RESIDUAL, hypotheses.STRICT_RESIDUAL, hypotheses.SAME_COLOUR,
            hypotheses.LARGER_RESIDUAL,
        )  # fmt: skip
        ab, ba = (_array(field.occlusion[0, 0]) for field in (motion.primary.ab, motion.primary.ba))
        return NativeWarped(self.workspace.warp_hypotheses(proposed, a.planes, b.planes, ab, ba, limits), a)

    def as_tensors(self, warped: NativeWarped) -> WarpedFrames:
        """See `Backend.as_tensors`; of frames that came as RGB."""
        found = warped.warped
        count, zero = len(found.active), found.zero
        active, evaluated = (x.repeat(TILE, 1).repeat(TILE, 2)[:, None] for x in (found.active, found.evaluated))
        pixels = evaluated.repeat(BLOCK, 2).repeat(BLOCK, 3)
        matrix = np.array(found.a.matrix, np.float32).reshape(3, 2)
        sides = []
        for side, source in enumerate((found.a, found.b)):
            own = slice(side * count, (side + 1) * count)
            luma, chroma = found.luma[own].copy(), found.chroma[own].copy()
            luma[zero], chroma[zero] = source.luma, source.chroma
            luma, chroma = (np.where(pixels, x, x[:1]) for x in (luma, chroma))
            sides.append(torch.from_numpy(luma + np.einsum("kn,pnyx->pkyx", matrix, chroma))[:, None])
        features = np.where(active, found.features, found.features[:1])
        features[:, EVALUATED] = np.where(evaluated[0], features[:, EVALUATED], 0.0)
        a, b = (side.unbind(0) for side in sides)
        return WarpedFrames(a, b, torch.from_numpy(features)[None], torch.from_numpy(found.coverage)[None])

    def hypothesis_flows(self, warped: NativeWarped) -> Tensor:
        """See `Backend.hypothesis_flows`."""
        return torch.from_numpy(np.ascontiguousarray(warped.warped.features[:, FLOWS]))[None]

    @torch.no_grad()
    def fuse(self, network: FusionNetwork, warped: NativeWarped, t: Tensor) -> Tensor:
        """See `Backend.fuse`."""
        return torch.from_numpy(self.workspace.fuse(warped.warped, self._prepared(network), float(t)))[None]

    def _prepared(self, network: FusionNetwork) -> _native.FusionNetwork:
        """Layers of a network as the kernels take them; made again if its parameters have changed."""
        if self._network is not network:
            self._network, self._parameters, self._layers = network, list(network.parameters()), None
        state = tuple((p.data_ptr(), p._version) for p in self._parameters)
        if self._layers is None or self._layers[0] != state:
            self._layers = state, _layers(network)
        return self._layers[1]

    def blend(self, warped: NativeWarped, weights: Tensor) -> Tensor:
        """See `Backend.blend`."""
        luma, chroma = self.workspace.blend(warped.warped, weights[0].numpy())
        assert chroma is not None
        return torch.from_numpy(self.workspace.rgb_of(luma, chroma, warped.a.planes.matrix))[None]

    def blend_planes(self, warped: NativeWarped, weights: Tensor) -> tuple[Tensor, ...]:
        """See `Backend.blend_planes`."""
        luma, chroma = self.workspace.blend(warped.warped, weights[0].numpy())
        format, frames = warped.a.format, []
        assert format is not None
        planes = [luma] if chroma is None else [luma, *chroma]
        for plane, range_, size in zip(planes, _ranges(format), warped.a.sizes, strict=True):
            codes = torch.empty(size, dtype=format.dtype)
            self.workspace.write_codes(plane, range_, (1 << format.depth) - 0.5, codes.numpy())
            frames.append(codes)
        return tuple(frames)


def _stacked(refined: RefinedFlow) -> Tensor:
    return torch.cat([refined.flow, refined.visibility, refined.used], 1)[0]


def _frame(features: FrameFeatures) -> NativeFrame:
    if not isinstance(features.planes, tuple):
        raise TypeError("these features come from another back end; encode the frames with the model that renders them")
    (frame,) = features.planes
    return frame  # type: ignore[no-any-return]


def _features(frames: Sequence[NativeFrame]) -> FrameFeatures:
    luma = _batch([frame.planes.luma[None] for frame in frames])
    return FrameFeatures(luma, _batch([frame.planes.block_means for frame in frames]), tuple(frames))


def _layers(network: FusionNetwork) -> _native.FusionNetwork:
    parts = network.encoder8, network.encoder16, network.decoder8, network.context_encoder
    encoder8, encoder16, decoder8, context_encoder = (list[Any](part.children()) for part in parts)
    layers: list[Any] = [
        network.input_layer, network.hidden_layer, network.output_layer, network.head, context_encoder[0],
        network.context_decoder, encoder8[0], next(encoder16[0].children()),
    ]  # fmt: skip
    for residual in encoder16[1:]:
        layers += [next(residual.first.children()), residual.second]
    layers += [next(decoder8[0].children()), decoder8[1]]
    weights, biases = [_array(x.weight.flatten(1)) for x in layers], [_array(x.bias) for x in layers]
    hypothesis_bias = _array(network.hypothesis_bias + network.input_layer.bias)
    return _native.FusionNetwork(weights, biases, hypothesis_bias, _array(network.prior))


def _matrix(name: str) -> tuple[float, ...]:
    """Contributions of Cb and Cr to R, G and B: (3, 2), flat."""
    return tuple(float(x) for row in matrix_to_rgb(name) for x in row[1:])


def _ranges(format: PixelFormat) -> list[tuple[float, float]]:
    """For each plane the code value of 0, and the number of codes per unit."""
    black, span, zero, chroma_span = levels(format)
    return [(black, span), *[(zero, chroma_span)] * (format.plane_count - 1)]


def _array(x: Tensor) -> Array:
    return np.ascontiguousarray(x.detach().float().numpy())


def _members(batch: Tensor) -> list[Array]:
    return [_array(x) for x in batch]


def _batch(arrays: Sequence[Array]) -> Tensor:
    """Members as a batch; a single one is not copied."""
    return torch.from_numpy(arrays[0])[None] if len(arrays) == 1 else torch.from_numpy(np.stack(arrays))
