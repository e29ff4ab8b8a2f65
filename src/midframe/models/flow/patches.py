"""Patches of small frames, and normalised cross-correlation (NCC) of them with a whole frame."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from midframe.models.flow.types import Flow, Gray, Plane

MATCHING_AREA = 17_000  # pixels of the frames in which patches are compared: 160x107, 174x98
PATCH, PATCH_STRIDE = 12, 4  # pixels there
# Norm of a patch, in levels times pixels, that noise may have: patches without contrast match nothing.
TEXTURE_NOISE = 8.0
SUPPRESSION_RADIUS = 3  # pixels around the best position that are no rival of it


def matching_frame(gray: Gray) -> Plane:
    """The frame at the size at which patches are compared."""
    factor = max(1.0, math.sqrt(gray.size / MATCHING_AREA))
    width, height = (max(2 * PATCH, round(length / factor)) for length in gray.shape[::-1])
    return np.asarray(cv2.resize(gray, (width, height), interpolation=cv2.INTER_AREA), np.float32)


def patches(plane: Plane) -> Plane:
    """View of all patches (h - PATCH + 1, w - PATCH + 1, PATCH, PATCH)."""
    return np.lib.stride_tricks.sliding_window_view(plane, (PATCH, PATCH))


def patch_centres(flow: Flow) -> Flow:
    """Copy of the flow at the centres of patches, (rows, columns, 2)."""
    rows, columns = ((side - PATCH) // PATCH_STRIDE + 1 for side in flow.shape[:2])
    return flow[PATCH // 2 :: PATCH_STRIDE, PATCH // 2 :: PATCH_STRIDE][:rows, :columns].copy()


def best_matches(templates: Plane, plane: Plane) -> tuple[Plane, Plane, Plane]:
    """Where patches match a plane best.

    Args:
        templates: (N, PATCH ** 2), of mean 0 and norm 1.
        plane: (h, w).

    Returns:
        NCC score (N,), uniqueness margin over every other position (N,), and position (N, 2) of the upper left corner,
        x and y.
    """
    rows, columns = (side - PATCH + 1 for side in plane.shape)
    count = PATCH * PATCH
    sums, squares = (
        cv2.boxFilter(x, cv2.CV_32F, (PATCH, PATCH), anchor=(0, 0), normalize=False)[:rows, :columns]
        for x in (plane, plane * plane)
    )
    norm = np.sqrt((squares - sums * sums / count).clip(0.0)) + TEXTURE_NOISE
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        scores = products(torch.from_numpy(templates), patch_rows(plane)).numpy()
    scores /= norm.reshape(-1)
    best, margin, position = peaks(scores.reshape(-1, rows, columns), SUPPRESSION_RADIUS)
    return best, margin, position[:, ::-1].astype(np.float32)


def patch_rows(plane: Plane, step: int = 1) -> Tensor:
    """All patches of a plane, or those at every `step`-th row and column, as rows (N, PATCH ** 2)."""
    unfolded = torch.from_numpy(np.ascontiguousarray(plane)).unfold(0, PATCH, step).unfold(1, PATCH, step)
    return unfolded.reshape(-1, PATCH * PATCH)


def products(templates: Tensor, rows: Tensor) -> Tensor:
    """Dot products (M, N) of templates (M, PATCH ** 2) with rows (N, PATCH ** 2).

    A convolution would be compiled anew for every number of templates and size of plane, which takes longer than it.
    """
    return torch.mm(templates, rows.t())


def peaks(scores: Plane, radius: int) -> tuple[Plane, Plane, NDArray[np.int64]]:
    """Maxima of score maps (N, h, w), their margins over the second peak, and their rows and columns.

    Non-maximum suppression removes positions up to `radius` to the sides; the maps are written to.
    """
    flat = scores.reshape(len(scores), -1)
    index = flat.argmax(1)
    best, (row, column) = flat[np.arange(len(flat)), index], np.divmod(index, scores.shape[2])
    for score, top, left in zip(scores, row - radius, column - radius, strict=True):
        score[max(top, 0) : top + 2 * radius + 1, max(left, 0) : left + 2 * radius + 1] = -1.0
    return best, best - flat.max(1), np.stack([row, column], 1)
