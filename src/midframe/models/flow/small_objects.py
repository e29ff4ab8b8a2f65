"""Re-matching of unmatched residual regions: small fast objects that move farther than their own width.

A patch around a hand or a leg shows more background than object. So only its unmatched part, which has no counterpart
in the other frame, is compared, and only with unmatched pixels there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from midframe.models.flow import dis_flow
from midframe.models.flow.consistency import select_flows
from midframe.models.flow.large_displacement import AGREEMENT, MATCHED_SCORE, MIN_MARGIN
from midframe.models.flow.patches import (
    PATCH,
    PATCH_STRIDE,
    SUPPRESSION_RADIUS,
    TEXTURE_NOISE,
    patch_rows,
    patches,
    peaks,
    products,
)
from midframe.models.flow.sampling import resize_flow, warp
from midframe.models.flow.types import DisConfig, Flow, Gray, Mask, Plane

if TYPE_CHECKING:
    from midframe._native import Workspace

RESIDUAL = 9.0  # levels of photometric residual from which a pixel is unmatched
MIN_UNMATCHED = 0.15  # fraction of a patch that must be unmatched for it to be searched
MIN_DEVIATION = 8.0  # standard deviation of that part in levels; flatter parts match anywhere
MIN_OVERLAP = 0.5  # fraction of that part that must land on unmatched pixels
SUPPORT_RADIUS = 2  # patches to the side within which two more must move alike
MAX_SEARCHED = 48  # patches per frame; those with the largest residual first
SEARCH_MARGIN = 32  # pixels around all regions in which DIS continues from them
COARSEST_SCALE = 2  # at which it starts there

Region = tuple[Flow, Mask]  # a flow of a frame's size, and where it holds


def alternative_flows(
    frames: Sequence[Gray],
    flows: Sequence[Flow],
    regions: Sequence[Region],
    config: DisConfig,
    grid: int,
    workspace: Workspace | None = None,
) -> Sequence[Flow]:
    """Both flows with the motion of small fast objects where its matching cost is lower; the same ones without any.

    Args:
        frames: both, (h, w).
        flows: forward and backward.
        regions: of `rematched_regions`.
        config: of DIS.
        grid: frame pixels per grid pixel at which costs are compared.
        workspace: see `dis_flow.estimate`.
    """
    if not regions:
        return flows
    first, second = frames
    height, width = first.shape
    masks = [cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) for _, mask in regions]
    left, top, across, down = cv2.boundingRect(cv2.max(*masks))
    box = np.s_[
        max(top - SEARCH_MARGIN, 0) : top + down + SEARCH_MARGIN,
        max(left - SEARCH_MARGIN, 0) : left + across + SEARCH_MARGIN,
    ]
    first, second = np.ascontiguousarray(first[box]), np.ascontiguousarray(second[box])
    old = [np.ascontiguousarray(flow[box]) for flow in flows]
    initial = [
        np.asarray(cv2.copyTo(resize_flow(new, height, width)[box], mask[box], flow.copy()), np.float32)
        for (new, _), mask, flow in zip(regions, masks, old, strict=True)
    ]
    pyramids = dis_flow.pyramid(first), dis_flow.pyramid(second)
    refined = dis_flow.estimate(pyramids, config, workspace, initial, COARSEST_SCALE)
    found = [flow.copy() for flow in flows]
    chosen = select_flows(first, second, select_flows(first, second, old, initial, grid), refined, grid)
    for flow, new in zip(found, chosen, strict=True):
        flow[box] = new
    return found


def rematched_regions(first: Plane, second: Plane, flows: Sequence[Flow]) -> list[Region]:
    """The motion of small objects that both flows lose: a region of either matching frame; empty without any."""
    resized = [resize_flow(flow, *first.shape) for flow in flows]
    ways = (first, second, resized[0]), (second, first, resized[1])
    residuals = [np.asarray(cv2.blur(np.abs(a - warp(b, flow)), (3, 3)), np.float32) for a, b, flow in ways]
    unmatched = [np.asarray(x > RESIDUAL, np.float32) for x in residuals]
    forward = rematched_patches(first, second, residuals[0], *unmatched)
    backward = rematched_patches(second, first, residuals[1], *unmatched[::-1])
    pairs = np.concatenate([forward, backward[:, ::-1]])
    return [_region(unmatched[0], pairs), _region(unmatched[1], pairs[:, ::-1])] if len(pairs) else []


def rematched_patches(
    first: Plane, second: Plane, residual: Plane, unmatched: Plane, other_unmatched: Plane
) -> NDArray[np.int64]:
    """Patches whose unmatched part is found again: upper left corners in both frames, (N, 2, row and column).

    Args:
        first: (h, w).
        second: like `first`.
        residual: photometric residual of the first.
        unmatched: 1 where the first has no counterpart, otherwise 0.
        other_unmatched: like `unmatched` of the second.
    """
    parts, own, residuals = (patches(x)[::PATCH_STRIDE, ::PATCH_STRIDE] for x in (unmatched, first, residual))
    position = np.argwhere(parts.mean((2, 3)) > MIN_UNMATCHED)
    row, column = position.T
    parts, own = parts[row, column], own[row, column]
    size = parts.sum((1, 2), keepdims=True)
    own = parts * (own - (parts * own).sum((1, 2), keepdims=True) / size)
    norm = np.sqrt((own * own).sum((1, 2)))
    priority = (parts * residuals[row, column]).sum((1, 2)) * (norm > MIN_DEVIATION * np.sqrt(size[:, 0, 0]))
    chosen = np.argsort(-priority, kind="stable")[: min(MAX_SEARCHED, np.count_nonzero(priority))]
    if len(chosen) == 0 or not other_unmatched.any():
        return np.zeros((0, 2, 2), np.int64)
    (top, left), (bottom, right) = (edge(np.argwhere(other_unmatched), 0) for edge in (np.min, np.max))
    top, left = max(top - PATCH, 0), max(left - PATCH, 0)
    box = np.s_[top : bottom + PATCH, left : right + PATCH]
    templates = own[chosen] / norm[chosen, None, None]
    best, margin, found = best_partial_matches(templates, parts[chosen], second[box], other_unmatched[box])
    accepted = (best > MATCHED_SCORE) & (margin > MIN_MARGIN[1])
    position = PATCH_STRIDE * position[chosen[accepted]]
    found = found[accepted] + (top, left)
    near = np.abs(position[:, None] - position).max(2, initial=0) <= SUPPORT_RADIUS * PATCH_STRIDE
    alike = np.abs((found - position)[:, None] - (found - position)).max(2, initial=0) <= AGREEMENT
    accepted = (near & alike).sum(1) > 2
    return np.stack([position[accepted], found[accepted]], 1)


def best_partial_matches(
    templates: Plane, parts: Plane, plane: Plane, other_unmatched: Plane
) -> tuple[Plane, Plane, NDArray[np.int64]]:
    """Where parts of patches match a plane best; every second position only, since DIS continues from there.

    Args:
        templates: (N, PATCH, PATCH), 0 outside of the part, of mean 0 and norm 1.
        parts: like `templates`, 1 within the part, otherwise 0.
        plane: (h, w).
        other_unmatched: like `plane`; 1 where a part may land.

    Returns:
        NCC score (N,), uniqueness margin, and position (N, 2) of the upper left corner, row and column.
    """
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        rows, others = patch_rows(plane, 2), patch_rows(other_unmatched, 2)
        shapes, masks = (torch.from_numpy(x).flatten(1) for x in (templates, parts))
        size = masks.sum(1, keepdim=True)
        sums, squares, overlap = (products(masks, x) for x in (rows, rows * rows, others))
        norm = (squares - sums * sums / size).clamp(min=0.0).sqrt() + TEXTURE_NOISE
        found = torch.where(overlap > MIN_OVERLAP * size, products(shapes, rows) / norm, -1.0)
        height, width = ((side - PATCH) // 2 + 1 for side in plane.shape)
        scores: Plane = found.view(-1, height, width).numpy()
    best, margin, position = peaks(scores, SUPPRESSION_RADIUS // 2 + 1)
    return best, margin, 2 * position


def _region(unmatched: Plane, pairs: NDArray[np.int64]) -> Region:
    """The motion of re-matched patches as a flow, and where it holds: on unmatched pixels and beside them."""
    window = np.hanning(PATCH + 2)[1:-1].astype(np.float32)
    window = window[:, None] * window
    total = np.zeros((*unmatched.shape, 3), np.float32)
    for (row, column), (down, across) in zip(pairs[:, 0], pairs[:, 1] - pairs[:, 0], strict=True):
        vector = np.array([across, down, 1.0], np.float32)
        total[row : row + PATCH, column : column + PATCH] += window[..., None] * vector
    weight = total[..., 2:]
    mask = (weight[..., 0] > 0.05) & (cv2.dilate(unmatched, np.ones((5, 5), np.uint8)) > 0)
    return np.asarray(total[..., :2] / np.maximum(weight, 0.05), np.float32), mask
