"""midnet: our own network. Features per frame, motion per gap, frames per instant; sizes S and M.

    encode   1/1   luma and mean colours; planes with cubic spline coefficients
    match    1/4   bidirectional flow by inverse search (`flow`); forward-backward inconsistency -> occlusion and
                   splatting importance; filtered flows, with small fast objects; where the search fails, the
                   learned matcher's (midnet-l)
    render   1/4   motion hypotheses at t: splatted, one-sided, filtered, refined, shifted, zero
             1/1   both frames warped by cubic splines under every active hypothesis
             1/4   matching features -> fusion network -> weights of every warped frame in every 4x4 block
             1/1   weighted sum

The fusion network is all that is learned, and midnet-l's matcher and refiner. midnet knows no file, no time base and
no device policy. Flow, coordinates and sampling are float32; only convolutions follow the autocast of the caller. Ideas
are from softmax splatting (Niklaus & Liu 2020) and RAFT (Teed & Deng 2020).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from midframe import kernels
from midframe.models.base import Model, RenderRequest
from midframe.models.flow.intermediate import LearnedMotion
from midframe.models.flow.types import DisConfig
from midframe.models.midnet import fast_objects
from midframe.models.midnet.architecture import SIZES, Architecture
from midframe.models.midnet.backend import Backend, Warped
from midframe.models.midnet.flow_estimation import FlowConfig, estimate_flow, flow_frames
from midframe.models.midnet.fusion import FusionNetwork
from midframe.models.midnet.learned_motion import needs_matching, prepare_learned_motion, refine, unreliable
from midframe.models.midnet.occlusion import background_motion
from midframe.models.midnet.torch_backend import TorchBackend
from midframe.models.midnet.types import (
    BLOCK,
    TILE,
    Acceleration,
    FlowFields,
    FrameFeatures,
    LearnedMotionInput,
    MotionField,
    RefinedFlow,
    WarpedFrames,
    WarpRequest,
)
from midframe.types import PixelFormat


class Midnet(Model):
    """Classical flow, motion hypotheses at t, and a learned fusion of the frames warped under them."""

    name = "midnet"
    context = 1
    stride = BLOCK * TILE
    min_side = 64
    flow_scales = (1.0, 0.5, 0.25)
    prefetch = True
    dis_config: DisConfig | None = None  # by area if not given
    matcher_downscale: int | None = None  # power of two by which the matcher's input is reduced; by size if not given

    def __init__(self, architecture: Architecture = SIZES["midnet-m"], backend: Backend | None = None) -> None:
        """Build a network without trained weights.

        Args:
            architecture: its size.
            backend: of the computation; tensor operations if not given.
        """
        super().__init__()
        self.architecture = architecture
        self.backend: Backend = backend or TorchBackend()
        self.fusion = FusionNetwork(architecture.hypotheses, *architecture.fusion)
        self.motion = LearnedMotion() if architecture.refined else None

    def on_device(self, device: torch.device) -> Midnet:
        """See `Model.on_device`; the native back end on a CPU."""
        return self.with_backend(backend_for(device)).to(device)

    def with_backend(self, backend: Backend) -> Midnet:
        """The same network, weights shared, on another back end."""
        model = copy.copy(self)
        model.backend = backend
        return model

    # Per frame

    def encode(self, image: Tensor) -> FrameFeatures:
        """See `Model.encode`."""
        return self._with_flow_frames(self.backend.prepare(image))

    def supports_planes(self, format: PixelFormat, height: int, width: int) -> bool:
        """See `Model.supports_planes`."""
        return self.backend.supports_planes(format)

    def encode_planes(self, planes: Sequence[Tensor], format: PixelFormat) -> FrameFeatures:
        """See `Model.encode_planes`."""
        features = self.backend.prepare_planes(planes, format, self.padded_size(*planes[0].shape))
        return self._with_flow_frames(features)

    def _with_flow_frames(self, features: FrameFeatures) -> FrameFeatures:
        return replace(features, flow_frames=flow_frames(features.luma, self._flow_config(features)))

    def _flow_config(self, features: FrameFeatures) -> FlowConfig:
        height, width = features.luma.shape[-2:]
        return FlowConfig.of(height, width, self.flow_scale, self.dis_config)

    # Per gap

    def match(self, a: FrameFeatures, b: FrameFeatures) -> MotionField:
        """See `Model.match`."""
        workspace = self.backend.workspace
        flows, alternative, area = estimate_flow(a, b, self._flow_config(a), self.architecture.filtered, workspace)
        errors = self._inconsistency(flows)
        forward, backward = (background_motion(*each, workspace) for each in zip(flows, errors, strict=True))
        background = forward, backward
        fast = fast_objects.find(a, b, flows, background)
        if fast:
            flows, alternative = (fast_objects.with_flows(pair, fast) for pair in (flows, alternative))
            errors = self._inconsistency(flows)
        primary = self.backend.flow_fields(flows, errors, area, background)
        if fast:
            primary = fast_objects.with_ground(primary, fast)
        if not self.architecture.filtered:
            return MotionField(primary, fast=fast)
        alternative_errors = errors if alternative is flows else self._inconsistency(alternative)
        filtered = self._filtered(alternative, alternative_errors, a, b)
        fields = self.backend.flow_fields(filtered, self._inconsistency(filtered), area, background)
        if fast:
            fields = fast_objects.with_ground(fields, fast)
        return MotionField(primary, fields, self._learned(primary, fields, errors, a, b), fast)

    def _inconsistency(self, flows: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.backend.inconsistency(*flows), self.backend.inconsistency(*flows[::-1])

    def _filtered(
        self, flows: tuple[Tensor, Tensor], errors: tuple[Tensor, Tensor], a: FrameFeatures, b: FrameFeatures
    ) -> tuple[Tensor, Tensor]:
        """Both flows with unreliable vectors, of occluded content, replaced by those of the surface around them.

        Weighted filtering by colour: Sun, Roth & Black 2010.
        """
        confidence = [torch.exp(-error) + 1e-3 for error in errors]
        forward, backward = (
            self.backend.filter_flow(flow, frame.block_means, own)
            for flow, frame, own in zip(flows, (a, b), confidence, strict=True)
        )
        return forward, backward

    @torch.no_grad()
    def _learned(
        self,
        primary: FlowFields,
        filtered: FlowFields,
        errors: tuple[Tensor, Tensor],
        a: FrameFeatures,
        b: FrameFeatures,
    ) -> LearnedMotionInput | None:
        """Matched flow, for the refiner; None where classical flow suffices."""
        if self.motion is None:
            return None
        places = unreliable(a, b, primary.ab.flow, errors[0]), unreliable(b, a, primary.ba.flow, errors[1])
        if not any(needs_matching(each) for each in places):
            return None
        correlation = self.backend.local_correlation
        return prepare_learned_motion(self.motion, (a, b), filtered, places, self.matcher_downscale, correlation)

    def flow(self, motion: MotionField) -> Tensor:
        """See `Model.flow`; the filtered flow where there is one, which also follows small fast objects."""
        return (motion.filtered or motion.primary).ab.flow

    # Per instant

    def render(self, request: RenderRequest) -> Tensor:
        """See `Model.render`; uses `before` and `after` only together, where both show the same acceleration."""
        frames = []
        for part in self._parts(request):
            frames.append(self.backend.blend(*self._fused(part)))
        return torch.cat(frames)

    def render_planes(self, request: RenderRequest) -> list[tuple[Tensor, ...]]:
        """See `Model.render_planes`."""
        frames = []
        for part in self._parts(request):
            frames.append(self.backend.blend_planes(*self._fused(part)))
        return frames

    def _fused(self, request: WarpRequest) -> tuple[Warped, Tensor]:
        """Warped frames and their fusion weights."""
        warped = self.backend.warp(request, self.architecture.hypotheses)
        weights = self.backend.fuse(self.fusion, warped, request.t)
        if request.motion.fast:
            flows = self.backend.hypothesis_flows(warped)
            weights = fast_objects.follow_trajectories(weights, flows, request.motion)
        return warped, weights

    def warp(self, request: RenderRequest) -> WarpedFrames:
        """Both frames warped under every hypothesis, and their matching features, as stored for training."""
        (part,) = self._parts(request)
        return self.backend.as_tensors(self.backend.warp(part, self.architecture.hypotheses))

    def acceleration(self, motion: MotionField, before: MotionField, after: MotionField) -> Acceleration:
        """Second differences of position at a and at b from the flows of the gaps before and after.

        At a: x(1) - 2 x(0) + x(-1) = flow from a to b + flow from a to before. Used where both ends agree, and never
        more than half the velocity.
        """
        ab, ba = motion.primary.ab.flow, motion.primary.ba.flow
        at_a, at_b = ab + before.primary.ba.flow, ba + after.primary.ab.flow
        confirm = self.backend.confirm_acceleration
        return Acceleration(confirm(at_a, at_b, ab), confirm(at_b, at_a, ba))

    def _parts(self, request: RenderRequest) -> Iterator[WarpRequest]:
        """Split a request into the parts that the back end computes at once, in order."""
        a, b, motion, t = request.a, request.b, request.motion, request.t
        acceleration = None
        if request.before is not None and request.after is not None:
            acceleration = self.acceleration(motion, request.before, request.after)
        limit = self.backend.batch_limit(a.luma.shape[-2] * a.luma.shape[-1])
        alone = len(a.luma) == 1
        for first in range(0, len(t), limit):
            members = slice(first, first + limit)
            part = WarpRequest(a, b, motion, t[members], acceleration)
            if not alone:
                curve = None if acceleration is None else acceleration.select(members)
                part = replace(
                    part, a=a.select(members), b=b.select(members), motion=motion.select(members), acceleration=curve
                )
            yield replace(part, refined=self._refined(part))

    @torch.no_grad()
    def _refined(self, request: WarpRequest) -> RefinedFlow | None:
        if self.motion is None or request.motion.learned is None:
            return None
        return refine(self.motion, request.motion.learned, request.t)


def backend_for(device: torch.device) -> Backend:
    """A back end for an engine on a device: C++ kernels on a CPU, if installed; tensor operations elsewhere."""
    if device.type != "cpu":
        return TorchBackend()
    if kernels.missing():
        kernels.warn_if_missing()
        return TorchBackend()
    from midframe.models.midnet.native_backend import NativeBackend

    return NativeBackend()
