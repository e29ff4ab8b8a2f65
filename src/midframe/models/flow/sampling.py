"""Sampling of arrays along flow vectors, and resizing of flow; NumPy and OpenCV on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from midframe.models.flow.types import Flow, Gray, Mask, Plane


@lru_cache(maxsize=8)
def pixel_grid(height: int, width: int) -> Flow:
    """Read-only (H, W, 2): x and y of every pixel."""
    out = np.empty((height, width, 2), np.float32)
    out[..., 0] = np.arange(width, dtype=np.float32)
    out[..., 1] = np.arange(height, dtype=np.float32)[:, None]
    out.setflags(write=False)
    return out


def sample(values: NDArray[Any], coordinates: Flow, interpolation: int = cv2.INTER_LINEAR) -> NDArray[Any]:
    """Sample values (h, w) or (h, w, C) at coordinates x, y; the edge is repeated outside."""
    return cv2.remap(values, coordinates, None, interpolation, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload, no-any-return]


def warp(values: NDArray[np.float32], flow: Flow) -> NDArray[np.float32]:
    """Backward warp: `out[y, x] = values[y + dy, x + dx]`, bilinear."""
    return sample(values, pixel_grid(*flow.shape[:2]) + flow)


def scale_vectors(vectors: Flow, x: float, y: float) -> Flow:
    """Multiply the components of vectors (h, w, 2) by x and y."""
    return cv2.multiply(vectors, (x, y, 0.0, 0.0))  # type: ignore[call-overload, no-any-return]


def resize_flow(flow: Flow, height: int, width: int) -> Flow:
    """Flow at another resolution, its vectors in pixels of that."""
    rows, columns = flow.shape[:2]
    if (rows, columns) == (height, width):
        return flow
    interpolation = cv2.INTER_AREA if height < rows else cv2.INTER_LINEAR
    out = cv2.resize(flow, (width, height), interpolation=interpolation)
    return scale_vectors(np.asarray(out, np.float32), width / columns, height / rows)


def select(mask: Mask, new: Flow, old: Flow) -> Flow:
    """The new flow where the mask, at any resolution, is set; elsewhere the old one."""
    height, width = old.shape[:2]
    resized = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(cv2.copyTo(new, resized, old.copy()), np.float32)


def reduce(frames: Sequence[Gray], rows: int, columns: int) -> list[Plane]:
    """Area means of frames at a smaller size."""
    size = columns, rows
    return [np.asarray(cv2.resize(x, size, interpolation=cv2.INTER_AREA), np.float32) for x in frames]
