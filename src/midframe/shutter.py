"""Motion blur as a camera's shutter makes it: the mean, in linear light, of what is seen while it is open.

The shutter angle is the share of the frame interval for which the shutter is open: 360 degrees is all of it. The
opening is centred on the instant of the output frame, so that blur moves nothing in time. `timeline.gaps` divides
openings into parts that lie in one gap; the engine samples each part and adds the samples here.

This module knows pixels and light, but neither time nor motion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from midframe import colour
from midframe.options import MOST_SAMPLES
from midframe.types import PixelFormat

PIXELS_PER_SAMPLE = 2.0  # of motion; coarser sampling shows single edges instead of blur
FAST_SHARE = 0.95  # quantile of the motion of all pixels that decides the number of samples
SAMPLES_WITHOUT_FLOW = 8  # per output frame, of models that give no flow

_BT1886 = 2.4  # exponent of the display's transfer function (ITU-R BT.1886)
# SMPTE ST 2084
_PQ_M1, _PQ_M2 = 2610 / 16384, 2523 / 4096 * 128
_PQ_C1, _PQ_C2, _PQ_C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
# ARIB STD-B67
_HLG_A = 0.17883277
_HLG_B = 1 - 4 * _HLG_A
_HLG_C = 0.5 - _HLG_A * math.log(4 * _HLG_A)


def sample_count(pixels: float | None, share: float) -> int:
    """Number of samples for a part of an opening.

    Args:
        pixels: motion during the part, of the fastest pixels; None where the model gives no flow.
        share: of the whole opening, 0..1.
    """
    most = max(1, math.floor(MOST_SAMPLES * share))
    wanted = SAMPLES_WITHOUT_FLOW * share if pixels is None else pixels / PIXELS_PER_SAMPLE
    return min(most, max(1, math.ceil(wanted)))


def fast_motion(flow: Tensor, height: int, width: int) -> float:
    """Length in pixels of the motion that few pixels exceed (`FAST_SHARE`).

    Args:
        flow: (B, 2, h, w), in pixels of its own resolution.
        height: of the frame that the flow covers, in pixels.
        width: like `height`.
    """
    scale = torch.tensor([width / flow.shape[-1], height / flow.shape[-2]], device=flow.device).view(1, 2, 1, 1)
    length = torch.linalg.vector_norm(flow.float() * scale, dim=1).flatten()
    return float(length.kthvalue(max(1, math.ceil(FAST_SHARE * length.numel()))).values)


def to_linear(rgb: Tensor, transfer: str) -> Tensor:
    """Undo the transfer function; values below 0 are mirrored.

    Args:
        rgb: (3, H, W) float32, 0..1.
        transfer: ffmpeg's name; unknown ones are taken as BT.1886.

    Returns:
        (3, H, W) proportional to light.
    """
    size = rgb.abs()
    if transfer == "smpte2084":
        root = size.pow(1 / _PQ_M2)
        light = ((root - _PQ_C1).clamp_(min=0) / (_PQ_C2 - _PQ_C3 * root)).pow(1 / _PQ_M1)
    elif transfer == "arib-std-b67":
        light = torch.where(size <= 0.5, size.square() / 3, (((size - _HLG_C) / _HLG_A).exp() + _HLG_B) / 12)
    elif transfer == "iec61966-2-1":
        light = torch.where(size <= 0.04045, size / 12.92, ((size + 0.055) / 1.055).pow(2.4))
    elif transfer == "linear":
        light = size
    else:
        light = size.pow(_BT1886)
    return light.copysign(rgb)


def from_linear(light: Tensor, transfer: str) -> Tensor:
    """The inverse of `to_linear`."""
    size = light.abs()
    if transfer == "smpte2084":
        power = size.pow(_PQ_M1)
        rgb = ((_PQ_C1 + _PQ_C2 * power) / (1 + _PQ_C3 * power)).pow(_PQ_M2)
    elif transfer == "arib-std-b67":
        bright = _HLG_A * (12 * size - _HLG_B).clamp(min=1e-9).log() + _HLG_C
        rgb = torch.where(size <= 1 / 12, (3 * size).sqrt(), bright)
    elif transfer == "iec61966-2-1":
        rgb = torch.where(size <= 0.0031308, size * 12.92, 1.055 * size.pow(1 / 2.4) - 0.055)
    elif transfer == "linear":
        rgb = size
    else:
        rgb = size.pow(1 / _BT1886)
    return rgb.copysign(light)


class Exposure:
    """One output frame while its shutter is open."""

    def __init__(self, format: PixelFormat, device: torch.device | str) -> None:
        """Start with no light.

        Args:
            format: of the frames to come and of the result.
            device: where the sum is kept.
        """
        self.format, self.device = format, device
        self._light: Tensor | None = None
        self._alpha: Tensor | None = None
        self._weight = 0.0
        self._only: Sequence[Tensor] | None = None  # the planes of all samples so far, where they are the same

    def add(self, planes: Sequence[Tensor], weight: float) -> None:
        """Add a sample, shown for a share `weight` of the opening."""
        if self._light is None:
            if self._only is None or self._same(planes):
                self._only = planes
                self._weight += weight
                return
            known, self._only = self._only, None
            before, self._weight = self._weight, 0.0
            self._sum(known, before)
        self._sum(planes, weight)

    def frame(self) -> tuple[tuple[Tensor, ...], bool]:
        """Return the planes of the mean, and whether samples differed; if not, the planes are the samples' own."""
        if self._light is None:
            assert self._only is not None, "no sample was added"
            return tuple(self._only), False
        rgb = from_linear(self._light / self._weight, self.format.transfer)
        planes = tuple(plane.cpu() for plane in colour.from_rgb(rgb, self.format))
        if self._alpha is not None:
            planes = (*planes, (self._alpha / self._weight).round().to(torch.int32).to(self.format.dtype))
        return planes, True

    def _same(self, planes: Sequence[Tensor]) -> bool:
        return self._only is not None and all(p is q for p, q in zip(planes, self._only, strict=True))

    def _sum(self, planes: Sequence[Tensor], weight: float) -> None:
        light = to_linear(colour.to_rgb(planes, self.format, self.device), self.format.transfer).mul_(weight)
        self._light = light if self._light is None else self._light.add_(light)
        self._weight += weight
        if self.format.alpha:
            alpha = planes[-1].to(torch.int32).float() * weight
            self._alpha = alpha if self._alpha is None else self._alpha.add_(alpha)
