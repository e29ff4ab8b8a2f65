"""Confidence of interpolated frames: photometric consistency with both neighbours along the motion.

A pixel at x in a is at x + t f in the interpolated frame and at x + f in b, f being the flow from a to b. Where the
three agree in luma, the motion was right and the frame is; where one differs, something was occluded, mismatched or
blurred. It does not depend on how a model works, so the confidence of different models can be compared.

Measured with every second frame dropped and interpolated (`benchmarks/confidence.py`, model dis, 325 frames of 26 real
clips): the rank correlation of 1 - confidence with the loss of PSNR is 0.84, with the PSNR of the worst 32 x 32 pixels
0.88. Forward-backward error, the usual measure, had 0.58 and 0.61, the plain difference of a and b 0.79 and 0.67. Below
0.98 the median PSNR was 25 dB, above 0.998 it was 42 dB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor

from midframe import ops
from midframe.types import PixelFormat

Array = npt.NDArray[Any]

MAX_SIDE = 320  # pixels; longer side of the thumbnails that are compared: 480 gains 0.01 of correlation
LOW = 0.98  # shares below are reported, one frame per moment; the median PSNR of those frames was 25 dB
_CONFIDENCE_WINDOW = 1 / 5  # of the longer side; largest side of a region
_INNER = (2, 98)  # percentiles of the coordinates that bound a region: strays do not widen it
TOLERANCE = 20  # 8-bit levels within which pixels agree: 10 correlates less, with 28 good frames are all 1


Region = tuple[float, float, float, float]  # left, top, right, bottom, as fractions of the frame


@dataclass(frozen=True, slots=True)
class Confidence:
    """Photometric consistency of one interpolated frame."""

    share: float  # of the frame, 0..1, that is consistent with both neighbours
    # finds where the inconsistent pixels are densest; None unless the share is below `LOW`
    find_region: Callable[[], Region] | None = None


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Both neighbours of the frames of a gap, aligned with the left one."""

    a: Array  # (h, w) uint8, luma
    b: Array  # (h, w) uint8, warped
    grid: Array  # (h, w, 2) float32: x, y of every pixel
    flow: Array  # (h, w, 2) float32, pixels of this size

    def confidence(self, thumbnail: Array, t: float) -> Confidence:
        """Compare the thumbnail of a frame interpolated at t, 0..1, with both neighbours."""
        places = cv2.addWeighted(self.flow, t, self.grid, 1.0, 0.0)
        aligned = _sample(thumbnail, places)
        residual = cv2.max(cv2.absdiff(aligned, self.a), cv2.absdiff(aligned, self.b))
        wrong = cv2.inRange(residual, TOLERANCE + 1, 255)
        share = float(1 - cv2.countNonZero(wrong) / residual.size)
        return Confidence(share, partial(densest_region, places, wrong) if share < LOW else None)


def thumbnail(planes: tuple[Tensor, ...], format: PixelFormat) -> Array:
    """The luma (green, for RGB) of a frame as (h, w) uint8, neither side above MAX_SIDE."""
    plane: Array = planes[1 if format.layout == "rgb" else 0].numpy()
    scale = min(1.0, MAX_SIDE / max(plane.shape))
    if scale < 1:
        size = max(1, round(plane.shape[1] * scale)), max(1, round(plane.shape[0] * scale))
        plane = cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
    return plane if format.depth == 8 else (plane >> (format.depth - 8)).astype(np.uint8)


def align(a: Array, b: Array, flow: Tensor) -> Neighbours:
    """Align the neighbours of a gap.

    Args:
        a: thumbnail of the left neighbour.
        b: of the right one.
        flow: (1, 2, h, w) from a to b over the whole frame, at any resolution, in pixels of that resolution.
    """
    height, width = a.shape
    own = ops.resize_flow(flow.float(), height, width)[0].permute(1, 2, 0).cpu().contiguous().numpy()
    grid = ops.coordinates(height, width)[0].permute(1, 2, 0).contiguous().numpy()
    return Neighbours(a, _sample(b, grid + own), grid, own)


def densest_region(places: Array, marked: Array) -> Region:
    """Return the box of nearly all marked places in the window that holds most of them.

    Args:
        places: (h, w, 2), x and y in pixels.
        marked: (h, w), not 0 where marked.
    """
    height, width = marked.shape
    x, y = np.clip(np.rint(places[marked > 0]), 0, (width - 1, height - 1)).astype(int).T
    counts = np.bincount(y * width + x, minlength=height * width).reshape(height, width).astype(np.float32)
    side = max(3, round(max(height, width) * _CONFIDENCE_WINDOW)) | 1
    sums = cv2.boxFilter(counts, -1, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
    row, column = np.unravel_index(int(sums.argmax()), sums.shape)
    near = (abs(x - column) <= side // 2) & (abs(y - row) <= side // 2)
    left, right = np.percentile(x[near], _INNER) / width
    top, bottom = np.percentile(y[near], _INNER) / height
    return float(left), float(top), min(1.0, float(right) + 1 / width), min(1.0, float(bottom) + 1 / height)


def _sample(values: Array, coordinates: Array) -> Array:
    out: Array = cv2.remap(values, coordinates, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload]
    return out
