"""Forward-backward error, matching cost, and per-pixel selection between two flows."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from midframe.models.flow.sampling import reduce, resize_flow, select, warp
from midframe.models.flow.types import Flow, Gray, Plane

ERROR_WEIGHT, MAX_ERROR = 1.0, 8.0  # levels of residual to which a pixel of forward-backward error counts; pixels
COST_WINDOW = 9  # grid pixels over which the matching cost is averaged
CONSISTENCY_MARGIN = 0.5  # levels by which the cost of a new flow must be lower


def forward_backward_error(flow: Flow, backward: Flow, grid: int) -> Plane:
    """Distance, in frame pixels, between a grid pixel and its position after following both flows.

    Args:
        flow: (h, w, 2), pixels of the grid.
        backward: of the other frame, likewise.
        grid: frame pixels per grid pixel.
    """
    x, y = cv2.split(flow + warp(backward, flow))
    return np.asarray(np.sqrt(x * x + y * y) * grid, np.float32)


def matching_cost(a: Plane, b: Plane, flow: Flow, error: Plane) -> Plane:
    """Photometric residual of b warped to a plus weighted forward-backward error, window mean, in levels."""
    residual = np.abs(a - warp(b, flow)) + ERROR_WEIGHT * error.clip(max=MAX_ERROR)
    return np.asarray(cv2.blur(residual, (COST_WINDOW, COST_WINDOW), borderType=cv2.BORDER_REPLICATE), np.float32)


def select_flows(first: Gray, second: Gray, old: Sequence[Flow], new: Sequence[Flow], grid: int) -> list[Flow]:
    """Per-pixel selection, both ways: the new flow where its matching cost is lower by `CONSISTENCY_MARGIN`.

    Args:
        first: (h, w).
        second: like `first`.
        old: forward and backward flow, (h, w, 2).
        new: like `old`.
        grid: frame pixels per grid pixel at which costs are compared.
    """
    height, width = first.shape
    rows, columns = max(1, height // grid), max(1, width // grid)
    a, b = reduce((first, second), rows, columns)
    costs = []
    for flows in (old, new):
        forward, backward = (resize_flow(flow, rows, columns) for flow in flows)
        errors = forward_backward_error(forward, backward, grid), forward_backward_error(backward, forward, grid)
        costs.append((matching_cost(a, b, forward, errors[0]), matching_cost(b, a, backward, errors[1])))
    return [select(costs[1][way] < costs[0][way] - CONSISTENCY_MARGIN, new[way], old[way]) for way in (0, 1)]
