"""Restart initialisation of DIS from patch correlation, for motion beyond its coarsest scale.

Patches of one frame are compared with the other where the flow leads (NCC). Mismatched patches are searched in the
whole of the other frame; matched ones spread their motion to uncertain neighbours. Descriptor matches have long been
used for large displacements in variational flow (Brox & Malik 2011; DeepFlow, Weinzaepfel et al. 2013).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from midframe.models.flow.patches import PATCH, PATCH_STRIDE, TEXTURE_NOISE, best_matches, patch_centres, patches
from midframe.models.flow.sampling import pixel_grid, resize_flow, sample, scale_vectors
from midframe.models.flow.types import Flow, Plane

TEXTURE = 40.0, 150.0  # patch norm from which a patch is searched: where textured patches are rare, where they abound
ABUNDANT = 0.2  # fraction of patches above the second threshold that makes texture abundant
MATCHED_SCORE = 0.8  # NCC from which a patch is where the flow leads
MIN_GAIN = 0.15  # NCC gain required elsewhere
# NCC score and uniqueness margin of a single patch, and of one that agrees with three neighbours.
MIN_SCORE, MIN_MARGIN = (0.7, 0.6), (0.1, 0.02)
AGREEMENT = 2.0  # pixels by which agreeing neighbours may differ
MIN_MISMATCHED = 0.01  # fraction of patches; no restart for fewer
SIGMA_NARROW, SIGMA_WIDE, WIDE_WEIGHT = 0.8, 6.0, 0.02  # patches; smoothing of their vectors


def restart_initialisation(first: Plane, second: Plane, flows: Sequence[Flow]) -> list[Flow]:
    """Initial patch vectors for a restart, both ways; empty if nothing is mismatched forwards.

    Args:
        first: of `matching_frame`.
        second: like `first`.
        flows: forward and backward, at any resolution.
    """
    forward = patch_vectors(first, second, resize_flow(flows[0], *first.shape))
    if forward is None:
        return []
    flow = resize_flow(flows[1], *first.shape)
    backward = patch_vectors(second, first, flow)
    return [forward, patch_centres(flow) if backward is None else backward]


def patch_vectors(first: Plane, second: Plane, flow: Flow) -> Flow | None:
    """Vectors (rows, columns, 2) of patches, mismatched ones re-matched; None if too few are mismatched."""
    vectors = patch_centres(flow)
    rows, columns = vectors.shape[:2]
    own = patches(first)[::PATCH_STRIDE, ::PATCH_STRIDE].reshape(rows, columns, -1)
    own = own - own.mean(2, keepdims=True)
    norm = np.linalg.norm(own, axis=2)
    other = displaced_patches(second, vectors)
    other -= other.mean(2, keepdims=True)
    score = (own * other).sum(2) / ((norm + TEXTURE_NOISE) * (np.linalg.norm(other, axis=2) + TEXTURE_NOISE))
    abundant = (norm > TEXTURE[1]).mean() > ABUNDANT
    mismatched = np.argwhere((score < MATCHED_SCORE) & (norm > TEXTURE[int(abundant)]))
    required = MIN_MISMATCHED * score.size
    if len(mismatched) < required:
        return None
    row, column = mismatched.T
    templates = own[row, column] / (norm[row, column, None] + TEXTURE_NOISE)
    best, margin, found = best_matches(templates, second)
    found -= PATCH_STRIDE * mismatched[:, ::-1]
    accepted = accepted_matches(best, margin, score[row, column], found, mismatched)
    if accepted.sum() < required:
        return None
    row, column = row[accepted], column[accepted]
    weight = (score - 0.6).clip(0.0) * (norm / 200.0).clip(0.0, 1.0) + 1e-4
    vectors[row, column] = found[accepted]
    weight[row, column] = margin[accepted]
    weighted = np.dstack([vectors * weight[..., None], weight]).astype(np.float32)
    narrow, wide = (
        cv2.GaussianBlur(weighted, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        for sigma in (SIGMA_NARROW, SIGMA_WIDE)
    )
    mean = narrow + WIDE_WEIGHT * wide
    return np.asarray(mean[..., :2] / mean[..., 2:], np.float32)


def accepted_matches(
    best: Plane, margin: Plane, score: Plane, vectors: Plane, position: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Matches that are unique by themselves, or agree with three neighbours.

    Args:
        best: NCC score (N,) of the match.
        margin: uniqueness margin (N,).
        score: NCC score (N,) where the flow leads.
        vectors: (N, 2) of the match.
        position: (N, 2), row and column of the patch.
    """
    gains = best - score > MIN_GAIN
    alone = gains & (best > MIN_SCORE[0]) & (margin > MIN_MARGIN[0])
    maybe = gains & (best > MIN_SCORE[1]) & (margin > MIN_MARGIN[1])
    row, column = position.T + 1
    table = np.full((*(position.max(0, initial=0) + 3), 2), 1e6, np.float32)
    table[row[maybe], column[maybe]] = vectors[maybe]
    agreeing = np.zeros(len(position), int)
    for down, right in (p for p in np.ndindex(3, 3) if p != (1, 1)):
        neighbour = table[row + down - 1, column + right - 1]
        agreeing += np.abs(neighbour - vectors).max(1) <= AGREEMENT
    return alone | (maybe & (agreeing >= 3))


def displaced_patches(plane: Plane, vectors: Flow) -> Plane:
    """Patches (rows, columns, PATCH ** 2) of a plane, each displaced by the vector of its centre, not warped."""
    rows, columns = vectors.shape[:2]
    within = np.arange(PATCH, dtype=np.float32)
    at = np.empty((rows, PATCH, columns, PATCH, 2), np.float32)
    at[..., 0] = (PATCH_STRIDE * np.arange(columns) + vectors[..., 0])[:, None, :, None] + within
    at[..., 1] = (PATCH_STRIDE * np.arange(rows)[:, None] + vectors[..., 1])[:, None, :, None] + within[:, None, None]
    found = sample(plane, at.reshape(rows * PATCH, columns * PATCH, 2))
    tiles = found.reshape(rows, PATCH, columns, PATCH)
    return tiles.transpose(0, 2, 1, 3).reshape(rows, columns, -1)


def dense_flow(vectors: Flow, shape: Sequence[int], matching_shape: Sequence[int]) -> Flow:
    """Flow of a frame of a shape from the patch vectors of its matching frame, bilinear."""
    (height, width), (rows, columns) = shape, matching_shape
    down, across = rows / height, columns / width
    at = pixel_grid(height, width).copy()
    at[..., 0] = ((at[..., 0] + 0.5) * across - 0.5 * PATCH) / PATCH_STRIDE
    at[..., 1] = ((at[..., 1] + 0.5) * down - 0.5 * PATCH) / PATCH_STRIDE
    out = sample(vectors, at)
    return scale_vectors(out, 1 / across, 1 / down)
