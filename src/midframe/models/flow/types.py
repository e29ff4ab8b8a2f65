"""Values of bidirectional flow estimation: configuration of DIS, active area, the pair of flows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
Gray = NDArray[np.uint8]  # (h, w), 8-bit levels
Plane = NDArray[np.float32]  # (h, w)
Mask = NDArray[np.bool_]  # (h, w)
Flow = NDArray[np.float32]  # (h, w, 2): dx, dy in pixels of its own resolution

AREA_LIMITS = 330_000, 700_000  # pixels of the frame in which flow is estimated: small and medium frames, at most
MIN_SIDE = 16  # pixels of the frame in which flow is estimated: two patches of DIS


class ActiveArea(NamedTuple):
    """The frame inside its letterbox bars, as fractions of width and height."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0


@dataclass(frozen=True, slots=True)
class FlowPair:
    """Flow between two frames."""

    forward: Flow  # from the first to the second
    backward: Flow
    active_area: ActiveArea
    alternative: tuple[Flow, Flow] | None = None  # both flows with small fast objects; None if there are none


@dataclass(frozen=True, slots=True)
class DisConfig:
    """Settings of OpenCV's inverse search."""

    downscale: int  # the frame is reduced by this factor beforehand: 1, 2 or 4
    patch_stride: int  # pixels, at every scale
    descent_steps: int  # gradient descent steps of each patch
    refinement_steps: int  # variational refinement steps at each scale


def select_by_area(pixels: int, choices: Sequence[T], limits: Sequence[int] = AREA_LIMITS) -> T:
    """Select a value by image area: the first choice up to the first limit, and so on."""
    return choices[sum(pixels > limit for limit in limits)]


def largest_downscale(limit: int, height: int, width: int) -> int:
    """The largest power of two, at most `limit`, by which a frame can be reduced and keep `MIN_SIDE`."""
    room = max(1, min(height, width) // MIN_SIDE)
    return min(limit, 1 << (room.bit_length() - 1))
