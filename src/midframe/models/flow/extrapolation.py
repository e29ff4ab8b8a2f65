"""Flow beyond the active area and over textureless places, extrapolated from local affine background motion."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from midframe.models.flow.consistency import CONSISTENCY_MARGIN, forward_backward_error, matching_cost
from midframe.models.flow.sampling import pixel_grid, resize_flow, sample, scale_vectors, select
from midframe.models.flow.types import ActiveArea, Flow, Plane

if TYPE_CHECKING:
    from midframe._native import Workspace

CELLS = 32  # along the longer side, in which motion is averaged before the fit
GAUSSIAN_SIGMA = 2.7  # cells
PRIOR_WEIGHT = 0.01  # of all cells together: they decide where nothing nearby is reliable
TIKHONOV = 1e-5  # added to the variance of position, in squared CELLS, where cells lie in a row
IRLS_ITERATIONS = 4  # of least squares, each with less weight on outliers
ROBUST_SCALE = 4.0  # in the last of them: half the weight at a sixth of a grid pixel
TEXTURE_SCALE = 4.0  # levels of local deviation at which texture strength is a half
MIN_RELIABLE = 0.02  # mean weight of a frame below which nothing is extrapolated
BAR_LEVEL = 24.0  # levels up to which a row or a column may be part of a letterbox bar
MIN_ACTIVE = 0.5  # of height and width; darker frames are night scenes
MAX_LEAVING_ERROR = 1.0  # pixels of forward-backward error above which a flow out of the frame is replaced


def extrapolate(
    planes: Sequence[Plane],
    flows: Sequence[Flow],
    full: Flow,
    grid: int,
    area: ActiveArea,
    workspace: Workspace | None = None,
) -> Flow:
    """Flow continued by background motion where it leaves the active area or cannot be observed.

    An unreliable place takes the background motion if that leads out of the active area; any place does whose
    matching cost is lower so. Letterbox bars have zero motion.

    Args:
        planes: (h, w), the frame the flow leads from and the one it leads to, at the size of the grid.
        flows: (h, w, 2), that flow and the opposite one.
        full: the flow at its own size, which is returned with replaced places.
        grid: frame pixels per grid pixel.
        area: active area of both frames.
        workspace: see `background_of_planes`.
    """
    (own, other), (flow, backward) = planes, flows
    at = pixel_grid(*own.shape)
    inside = out_of_frame_distance(at, area) <= 0.0
    error = forward_backward_error(flow, backward, grid)
    reliable = np.exp(-0.5 * error * error) * texture_strength(own) * inside
    if reliable.mean() < MIN_RELIABLE:
        return full
    background = background_motion(flow, reliable, workspace)
    leaves = out_of_frame_distance(at + background, area) > 0.5
    background_error = forward_backward_error(background, backward, grid)
    costs = (matching_cost(own, other, *some) for some in ((flow, error), (background, background_error)))
    cheaper = np.subtract(*costs) > CONSISTENCY_MARGIN
    use = np.where(leaves, cv2.blur(error, (3, 3)) > MAX_LEAVING_ERROR, cheaper) | ~inside
    background[~inside] = 0.0
    return select(use, resize_flow(background, *full.shape[:2]), full)


def background_motion(flow: Flow, weight: Plane, workspace: Workspace | None = None) -> Flow:
    """Local affine motion around each place, see `background_of_planes`; (h, w, 2) of a flow (h, w, 2)."""
    planes = np.ascontiguousarray(flow.transpose(2, 0, 1), np.float32)
    return np.ascontiguousarray(background_of_planes(planes, weight, workspace).transpose(1, 2, 0))


def background_of_planes(
    flow: NDArray[np.float32], weight: Plane, workspace: Workspace | None = None
) -> NDArray[np.float32]:
    """Local affine motion around each place.

    Normalised convolution of affine functions (Knutsson & Westin 1993) on a grid of cells; outliers lose their weight
    by iteratively reweighted least squares (Odobez & Bouthemy 1995).

    Args:
        flow: (2, h, w).
        weight: (h, w), reliability; some above 0.
        workspace: scratch memory of the kernels; None: by NumPy.

    Returns:
        (2, h, w).
    """
    height, width = weight.shape
    side = max(1.0, max(height, width) / CELLS)
    cells = max(1, round(height / side)), max(1, round(width / side))
    if workspace is None:
        return _fitted_by_numpy(flow, weight, cells)
    planes, weights = np.ascontiguousarray(flow, np.float32), np.ascontiguousarray(weight, np.float32)
    parameters = IRLS_ITERATIONS, PRIOR_WEIGHT, ROBUST_SCALE, TIKHONOV
    return np.asarray(workspace.background_motion(planes, weights, cells, CELLS, _taps(), *parameters))


@cache
def _taps() -> NDArray[np.float32]:
    """The Gaussian as `cv2.GaussianBlur` truncates it."""
    return np.asarray(cv2.getGaussianKernel(round(8 * GAUSSIAN_SIGMA + 1) | 1, GAUSSIAN_SIGMA), np.float32).ravel()


def _fitted_by_numpy(
    flow: NDArray[np.float32], weight: Plane, size: tuple[int, int]
) -> NDArray[np.float32]:  # fmt: skip
    """`background_of_planes` without the kernels, whose oracle it is; `size` is that of the grid of cells."""
    (height, width), (rows, columns) = weight.shape, size
    x, y = flow
    cells = cv2.resize(cv2.merge([x * weight, y * weight, weight]), (columns, rows), interpolation=cv2.INTER_AREA)
    u, v, load = cv2.split(cells)
    u, v = u / (load + 1e-6), v / (load + 1e-6)
    # coordinates of cells, with one more on every side
    wide_x, wide_y = cv2.split((pixel_grid(rows + 2, columns + 2) - 1.0) / np.float32(CELLS))
    x, y = wide_x[1:-1, 1:-1], wide_y[1:-1, 1:-1]
    terms = cv2.merge([np.ones_like(u), x, y, x * x, x * y, y * y, u, v, x * u, y * u, x * v, y * v])
    robust = load
    for iteration in range(IRLS_ITERATIONS):
        sums = terms * robust[..., None]
        local = cv2.GaussianBlur(sums, (0, 0), GAUSSIAN_SIGMA, borderType=cv2.BORDER_CONSTANT)
        sums = local + PRIOR_WEIGHT * sums.mean((0, 1))
        total, *means = np.moveaxis(sums.astype(np.float64), 2, 0)
        mean_x, mean_y, xx, xy, yy, mean_u, mean_v, *products = (mean / total for mean in means)
        xx, xy, yy = xx - mean_x**2 + TIKHONOV, xy - mean_x * mean_y, yy - mean_y**2 + TIKHONOV
        fitted = []
        for mean, (xm, ym) in ((mean_u, products[:2]), (mean_v, products[2:])):
            xm, ym = xm - mean_x * mean, ym - mean_y * mean
            slope_x, slope_y = (yy * xm - xy * ym), (xx * ym - xy * xm)
            slope_x, slope_y = (part / (xx * yy - xy * xy) for part in (slope_x, slope_y))
            fitted.append([mean - slope_x * mean_x - slope_y * mean_y, slope_x, slope_y])
        squared = sum((p + q * x + r * y - own) ** 2 for (p, q, r), own in zip(fitted, (u, v), strict=True))
        scale = ROBUST_SCALE * min(1.0, 0.25 * 2**iteration)
        robust = (load / (1.0 + scale**2 * squared) ** 2).astype(np.float32)
    padded = [[np.pad(part, 1, "edge") for part in component] for component in fitted]
    motion = cv2.merge([(p + q * wide_x + r * wide_y).astype(np.float32) for p, q, r in padded])
    at = scale_vectors(pixel_grid(height, width) + np.float32(0.5), columns / width, rows / height) + np.float32(0.5)
    return np.ascontiguousarray(np.asarray(sample(motion, at), np.float32).transpose(2, 0, 1))


def active_area(first: Plane, second: Plane) -> ActiveArea:
    """The area between letterbox bars that both frames have."""
    brightest = np.maximum(first, second)
    sides = []
    for lit in (brightest.max(0) > BAR_LEVEL, brightest.max(1) > BAR_LEVEL):
        where = np.flatnonzero(lit)
        if len(where) < MIN_ACTIVE * len(lit):
            return ActiveArea()
        # a grid pixel beside a bar may contain a part of it
        first_lit, last_lit = int(where[0]), int(where[-1])
        begin, end = first_lit + (first_lit > 0), last_lit + (last_lit == len(lit) - 1)
        sides.append((begin / len(lit), end / len(lit)))
    (left, right), (top, bottom) = sides
    return ActiveArea(left, top, right, bottom)


def out_of_frame_distance(coordinates: Flow, area: ActiveArea) -> Plane:
    """Distance in pixels of coordinates x, y (h, w, 2) from the active area of their own grid; negative inside."""
    height, width = coordinates.shape[:2]
    x, y = cv2.split(coordinates)
    across = np.maximum(area.left * width - x, x - (area.right * width - 1))
    down = np.maximum(area.top * height - y, y - (area.bottom * height - 1))
    return np.asarray(np.maximum(across, down), np.float32)


def texture_strength(plane: Plane) -> Plane:
    """How reliably flow can be observed around a place, 0..1."""
    mean = cv2.blur(plane, (5, 5))
    energy = (cv2.blur(plane * plane, (5, 5)) - mean * mean).clip(0.0)
    return np.asarray(energy / (energy + TEXTURE_SCALE**2), np.float32)
