"""`--model rife`: published RIFE weights behind the methods of every model."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from midframe import ops
from midframe.errors import InputError
from midframe.models.base import Model, RenderRequest
from midframe.models.rife import openvino
from midframe.models.rife.network import Network, State, compose, eighth

# Version 3 knows t = 1/2 only; other instants are halved towards until one is this near (as the original program does).
NEAR = 0.02
# Images above this many pixels have motion estimated at half size unless told otherwise, as the original recommends
# for UHD: 2560x1440 is below.
_RIFE_HALF_ABOVE = 5_000_000
# Splatting weight below which a place counts as uncovered.
_LANDED = 0.1


@dataclass(frozen=True, slots=True)
class Features:
    """An image with its encoding."""

    encoded: Tensor  # (B, 3 + encoded, H, W) float32; the first three channels are the image


@dataclass(slots=True)
class Motion:
    """The two neighbours that motion is estimated between, and the flow of the latest frame rendered from them."""

    a: Tensor  # (B, C, H, W)
    b: Tensor
    middle: State | None = None  # version 3: at t = 1/2, the one instant it knows
    flow: Tensor | None = None  # (B, 4, H / 8, W / 8), in pixels of that size: what `Rife.flow` answers from


class Compiled(Protocol):
    """A runtime that makes whole frames."""

    def frame(self, a: Tensor, b: Tensor, t: float, flow_scale: float) -> tuple[Tensor, Tensor]:
        """The frame (1, 3, H, W) at t and the flow (1, 4, H / 8, W / 8) from (1, C, H, W) each."""
        ...


class Rife(Model):
    """RIFE by published weights (MIT, hzwer and others); name the file with --weights."""

    name = "rife"
    pad_mode = "zeros"
    flow_scales: ClassVar[tuple[float, ...]] = (1.0, 0.5, 0.25)
    scale_frees_memory: ClassVar[bool] = True

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.version = network.architecture.version
        self.stride = network.architecture.stride  # type: ignore[misc]
        self.compiled: Compiled | None = None  # runs whole frames in place of the network

    def on_runtime(self, runtime: str, device: torch.device) -> Model:
        """With OpenVINO on a CPU, where it is installed or asked for."""
        if runtime == "torch" or (runtime == "auto" and not (device.type == "cpu" and openvino.installed())):
            return self
        if device.type != "cpu":
            raise InputError(f"--runtime openvino works on CPUs, and the device is {device}; use --runtime auto")
        model = copy.copy(self)
        model.compiled = openvino.OpenVino(self.network)
        return model

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Multiples of the stride, and of the stride over the flow scale where that is below 1."""
        size = super().padded_size(height, width)
        step = round(self.stride / self._scale(*size))
        return -(-height // step) * step, -(-width // step) * step

    def encode(self, image: Tensor) -> Features:
        """The image, clamped, and its encoding where the version has one."""
        return Features(self.network.encoded(image.clamp(0, 1)))

    def match(self, a: Features, b: Features) -> Motion:
        """Motion at t = 1/2 by version 3; later versions estimate it for each t while rendering."""
        if self.network.architecture.any_time or self.compiled is not None:
            return Motion(a.encoded, b.encoded)
        middle = self.network.middle(a.encoded, b.encoded, self._scale(*a.encoded.shape[-2:]))
        return Motion(a.encoded, b.encoded, middle)

    def flow(self, motion: Motion) -> Tensor:
        """Flow from a to b at 1/8 of the frame: that between both sides of the last frame rendered, splatted to a."""
        flow = motion.flow
        if flow is None:
            half = motion.a.new_full((len(motion.a),), 0.5)
            flow = eighth((motion.middle or self._state(motion.a, motion.b, half)).flow)
        to_a, across = flow[:, :2], flow[:, 2:4] - flow[:, :2]
        total, weight = ops.splat(across, to_a)
        return torch.where(weight > _LANDED, total / weight.clamp(min=_LANDED), across)

    def render(self, request: RenderRequest) -> Tensor:
        """Frames (N, 3, H, W): a and b warped by the motion of the frames that were matched, and mixed."""
        a, b, motion, t = request.a.encoded, request.b.encoded, request.motion, request.t
        if not self.network.architecture.any_time:
            return self._by_halving(a, b, motion, t)
        if self.compiled is not None and a is motion.a and b is motion.b and len(a) == 1:
            scale = self._scale(*a.shape[-2:])
            made = [self.compiled.frame(a, b, instant, scale) for instant in t.tolist()]
            motion.flow = made[len(t) // 2][1]
            return torch.cat([frame for frame, _ in made])
        left, right = (x.expand(len(t), -1, -1, -1) for x in (motion.a, motion.b))
        state = self._state(left, right, t)
        # frames of one gap share its motion: one of them is enough
        motion.flow = eighth(state.flow if len(motion.a) == len(t) else state.flow[len(t) // 2 : len(t) // 2 + 1])
        left, right = (x[:, :3].expand(len(t), -1, -1, -1) for x in (a, b))
        return compose(left, right, state)

    def _state(self, a: Tensor, b: Tensor, t: Tensor) -> State:
        scale = self._scale(*a.shape[-2:])
        network: Network = self.network
        return network.at(a, b, t, scale) if network.architecture.any_time else network.middle(a, b, scale)

    def _by_halving(self, a: Tensor, b: Tensor, motion: Motion, t: Tensor) -> Tensor:
        """Frames at any t from middles of middles; a middle that several instants need is made once."""
        first, last = (x if x is seen else torch.cat([seen, x], 1) for seen, x in ((motion.a, a), (motion.b, b)))
        known = {}
        out = []
        for n, instant in enumerate(t.tolist()):
            low, high = 0.0, 1.0
            left, right = first, last
            while True:
                middle = (low + high) / 2
                if (low, high) not in known:
                    known[low, high] = self._middle(left, right, motion if (low, high) == (0.0, 1.0) else None)
                if abs(instant - middle) <= NEAR:
                    break
                if instant < middle:
                    high, right = middle, known[low, high]
                else:
                    low, left = middle, known[low, high]
            frames = known[low, high]
            out.append(frames[n if len(frames) > 1 else 0, -3:])
        return torch.stack(out)

    def _middle(self, a: Tensor, b: Tensor, motion: Motion | None) -> Tensor:
        """The frame half-way; motion is that of the first three channels, and known for the gap itself."""
        if self.compiled is not None and len(a) == 1 and a.shape[1] == 3:
            frame, flow = self.compiled.frame(a, b, 0.5, self._scale(*a.shape[-2:]))
            if motion is not None:
                motion.flow = flow
            return frame
        state = motion.middle if motion is not None else None
        if state is None:
            state = self._state(a[:, :3], b[:, :3], a.new_full((len(a),), 0.5))
        return compose(a, b, state)

    def _scale(self, height: int, width: int) -> float:
        if self.flow_scale is not None:
            return self.flow_scale
        return 0.5 if height * width > _RIFE_HALF_ABOVE else 1.0
