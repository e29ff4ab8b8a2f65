"""The three methods of every model: `encode` once per frame, `match` once per gap, `render` once per slot.

A model turns tensors into tensors. It knows no file, no time base, no device policy, and keeps no per-call state, so
one model serves two threads. The features and motion it returns are opaque to the caller, who caches them: features by
frame, motion by gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from midframe.errors import InputError
from midframe.types import Frame, PixelFormat

Features = Any  # result of encode: opaque outside the model
Motion = Any  # result of match: opaque outside the model


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """Everything `Model.render` needs to interpolate frames between a and b."""

    a: Features  # of the left frame, batch B
    b: Features  # of the right frame, batch B
    motion: Motion  # result of `match(a, b)`
    t: Tensor  # (N,) float32, 0 < t < 1; N equals B, or B is 1 and the one gap is rendered N times
    before: Motion | None = None  # of the gap that ends at a, for `context` 1; None at the start and at cuts
    after: Motion | None = None  # of the gap that begins at b, likewise


# Frames larger than this, in pixels, have classical flow estimated at half or quarter size: 1920x1080 and 3840x2160
# are, 1280x720 is not.
_HALF_ABOVE, _QUARTER_ABOVE = 1_500_000, 6_000_000


def scale_by_size(pixels: int) -> float:
    """Side of the frame in which classical flow is estimated, over that of a frame of so many pixels."""
    return 0.25 if pixels > _QUARTER_ABOVE else 0.5 if pixels > _HALF_ABOVE else 1.0


class SceneDetector(Protocol):
    """Finds the frames that begin a shot; implements `shots.Detector`."""

    def mark(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, bool]]:
        """The same frames in the same order, each with whether a shot begins with it."""
        ...


class Model(nn.Module):
    """Base of all models. Frames are (B, 3, H, W) RGB, float32, 0..1, H and W from `padded_size`.

    Flow, coordinates and splat sums are float32 inside every model; only convolutions may run in half
    precision (the engine opens the autocast context).
    """

    name: ClassVar[str] = ""
    context: ClassVar[int] = 0  # neighbour gaps on each side that `render` can use: 0 or 1
    stride: ClassVar[int] = 1  # sides of the frames given to `encode` are multiples of this
    min_side: ClassVar[int] = 1  # and at least this long, in pixels
    pad_mode: ClassVar[str] = "replicate"  # how the engine pads right and bottom: "replicate", "zeros"
    fast_half: ClassVar[tuple[str, ...]] = ("cuda",)  # device types on which bf16 autocast was measured to be faster
    flow_scales: ClassVar[tuple[float, ...]] = (1.0,)  # allowed values of `flow_scale`, besides None
    prefetch: ClassVar[bool] = False  # encode and match need little memory: on a CPU they may run beside a render
    scale_frees_memory: ClassVar[bool] = False  # whether a smaller `flow_scale` needs notably less memory of the device

    scene_rule: ClassVar[str | None] = None  # value of `--scene` for which `scene_detector` is asked

    # Side of the frames in which flow is estimated, over that of the frames; None: the model chooses by size.
    # A setting, made once before use (the engine sets it on a shallow copy), not per-call state.
    flow_scale: float | None = None

    def on_runtime(self, runtime: str, device: torch.device) -> Model:
        """This model with its networks run by "torch", "openvino" or the faster of them ("auto"), weights shared.

        Raises:
            InputError: the model or the device knows no such runtime, or it is not installed.
        """
        if runtime not in ("auto", "torch"):
            raise InputError(f"model {self.name} does not run in {runtime}; use --runtime auto")
        return self

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) >= (height, width) to which the engine pads before `encode`."""
        s, low = self.stride, self.min_side
        return -(-max(height, low) // s) * s, -(-max(width, low) // s) * s

    def on_device(self, device: torch.device) -> Model:
        """The model for one engine on a device: weights may be shared, scratch memory is not."""
        return self.to(device)

    def encode(self, image: Tensor) -> Features:
        """Features of frames (B, 3, H, W): once per frame, cached by the engine."""
        raise NotImplementedError

    def match(self, a: Features, b: Features) -> Motion:
        """Motion between two neighbours, both ways: once per gap, cached by the engine."""
        raise NotImplementedError

    def flow(self, motion: Motion) -> Tensor | None:
        """The flow from a to b inside a motion, for confidence, inspection and end-point errors.

        Returns:
            (B, 2, h, w) float32 over the whole of the padded frames, at any resolution, in pixels of that resolution
            (`ops.resize_flow` brings it to another); None for a model that has no flow.
        """
        return None

    def render(self, request: RenderRequest) -> Tensor:
        """Interpolate frames (N, 3, H, W), float32 RGB, about 0..1, neither rounded nor clamped."""
        raise NotImplementedError

    def as_published(self) -> Model:
        """This model with the settings of the program it was published with, weights shared; itself if it has none."""
        return self

    def memoised(self) -> Model:
        """A wrapper for one run that keeps recent features and motion, for a scene detector and an engine to share."""
        return self

    def scene_detector(self, device: torch.device, half: torch.dtype | None) -> SceneDetector:
        """The detector of `scene_rule`.

        Args:
            device: where the model is.
            half: precision of its convolutions, None for float32.
        """
        raise NotImplementedError

    def supports_planes(self, format: PixelFormat, height: int, width: int) -> bool:
        """Whether `encode_planes` and `render_planes` take frames of this format and size, without a detour by RGB."""
        return False

    def encode_planes(self, planes: Sequence[Tensor], format: PixelFormat) -> Features:
        """Features of one frame as `Frame.planes` holds it, alpha included, without padding; `encode` is for RGB.

        `match` accepts the features of both.
        """
        raise NotImplementedError

    def render_planes(self, request: RenderRequest) -> list[tuple[Tensor, ...]]:
        """Planes like those given to `encode_planes`, rounded to its code values, for every t; see `render`."""
        raise NotImplementedError
