"""Small objects that move farther than their own size over other ground: balls, birds, things thrown.

Flow from coarse to fine follows the ground there. But against the ground that the other frame shows at the same place,
compensated for background motion, such an object is an isolated blob of residual in either frame. Blobs of both frames
are paired by colour, size, shape, and by their residual under the displacement from one to the other.

A wrong pair draws an object where none is, so a blob must be closed and isolated, and a pair without rivals. All of it
works on block means of colour; pixels are those of that grid, levels those of 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from midframe.models.flow.sampling import pixel_grid, sample, warp
from midframe.models.flow.types import Flow, Mask, Plane

Colours = NDArray[np.float32]  # (h, w, 3), levels
Box = tuple[slice, slice]  # rows and columns

RESIDUAL_LEVELS = 10.0, 20.0, 40.0  # at which blobs are cut out: clutter around an object ends at one of them
MIN_AREA, MAX_AREA_FRACTION, SMALL_FRAME_AREA = 5, 0.025, 12  # pixels; of the frame, but never below so many pixels
MAX_WIDTH, MAX_HEIGHT = 1 / 4, 1 / 3  # of the frame
MAX_BLOBS = 24  # at each level, the largest first
MIN_BLOB_RESIDUAL = 18.0  # mean levels of a blob
MIN_EDGE_RATIO = 1.8  # of gradients along its border, in its own frame over those of the other: the ground has no edge
MIN_ISOLATION = 0.9  # fraction of the ring around it whose residual is below the level
MAX_OPENING, CONTINUED_COLOUR = 0.12, 0.35  # fraction of its border that goes on in its colour; of its residual
MIN_AREA_RATIO, MIN_SHAPE_OVERLAP = 0.6, 0.5  # of a pair; intersection over union
MAX_PAIR_COLOUR_DIFFERENCE = 30.0  # levels
MIN_DISTANCE, MAX_DISTANCE = 1.5, 0.35  # pixels from background motion; of the width of the frame
MAX_SIZES = 12.0  # times its own size: what is small and far away is found anywhere by chance
MIN_PAIR_SCORE, SCORE_MARGIN = 0.5, 0.15  # fraction of the residual that a displacement explains; lead over rivals
RIVAL_LENGTH = 2.0  # times as long: displacements from which on another pair of the same blob is no rival
EXPLAINED_FRACTION = 0.4  # of a blob whose residual its flow halves
PATH_PLACES = 0.35, 0.5, 0.65  # places of the displacement at which the ground must show
PATH_COLOUR = 0.4  # of the blob's residual: difference from its colour that shows ground there
PAIR_SEARCH_RADIUS, PAIR_SEARCH_STEPS = 3, (0.5, 0.25)  # pixels around the distance of two centres; then these steps
SQUARE_3, SQUARE_5 = np.ones((3, 3), np.uint8), np.ones((5, 5), np.uint8)
SQUARE_9 = np.ones((9, 9), np.uint8)  # around objects and the ground they hide, where their motion decides


@dataclass(frozen=True, slots=True, eq=False)
class FastObjects:
    """Fast objects between two frames; pairs are of the first and the second frame."""

    flows: tuple[Flow, Flow]  # forward and backward, with the objects, and background motion of the ground they hide
    ground: tuple[Mask, Mask]  # where a frame shows ground that an object hides in the other
    near: Mask  # objects and ground of both, and what lies around


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One frame and what the other one shows at its places."""

    own: Colours
    other: Colours
    flow: Flow
    background: Flow
    compensated: Colours  # the other frame, warped by background motion


@dataclass(frozen=True, slots=True, eq=False)
class Blob:
    """An isolated part of a frame that differs from the compensated other one."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    centre: NDArray[np.float64]  # x, y
    residual: float  # mean levels
    colour: NDArray[np.float32]
    flow: NDArray[np.float32]  # median
    explained: bool  # by that flow

    @property
    def area(self) -> int:
        """Pixels."""
        return len(self.rows)

    def mask(self, shape: Sequence[int]) -> NDArray[np.uint8]:
        """1 within, 0 outside."""
        out = np.zeros((shape[0], shape[1]), np.uint8)
        out[self.rows, self.columns] = 1
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """An object in both frames."""

    first: Blob
    second: Blob
    displacement: NDArray[np.float64]  # x, y
    score: float


def find_fast_objects(
    frames: tuple[Colours, Colours],
    flows: tuple[Flow, Flow],
    background: tuple[Flow, Flow],
) -> FastObjects | None:
    """Find fast objects; None if there are none.

    Args:
        frames: mean colours (h, w, 3), 8-bit levels.
        flows: forward and backward, (h, w, 2).
        background: background motion of each.
    """
    first = _view(frames, flows, background, 0)
    blobs = list(_blobs(first))
    if not blobs:
        return None
    second = _view(frames, flows, background, 1)
    pairs = _chosen(_pairs(first, second, blobs, list(_blobs(second))))
    return _inserted((first, second), pairs) if pairs else None


def _view(
    frames: tuple[Colours, Colours],
    flows: tuple[Flow, Flow],
    background: tuple[Flow, Flow],
    way: int,
) -> View:
    other = frames[1 - way]
    return View(frames[way], other, flows[way], background[way], warp(other, background[way]))


def _blobs(view: View) -> Iterator[Blob]:
    """Yield the blobs that may be objects of the frame."""
    residual = cv2.absdiff(view.own, view.compensated)
    most, mean = _largest(residual), np.asarray(sum(cv2.split(residual)) / 3.0, np.float32)
    for level in RESIDUAL_LEVELS:
        for mask, box in _isolated(most, mean, level):
            if not _closed(view.own[box], mean[box], mask):
                continue
            border = cv2.subtract(_dilated(mask), cv2.erode(mask, SQUARE_3, borderValue=0))
            edges, ground = (cv2.mean(_gradient(image[box]), border)[0] for image in (view.own, view.compensated))
            if edges <= MIN_EDGE_RATIO * ground:
                continue
            inside = mask > 0
            rows, columns = np.nonzero(mask)
            rows, columns = rows + box[0].start, columns + box[1].start
            yield Blob(
                rows,
                columns,
                np.array([columns.mean(), rows.mean()]),
                float(mean[box][inside].mean()),
                view.own[box][inside].mean(0),
                np.median(view.flow[box][inside], 0),
                bool(_explained(view, most, box)[inside].mean() > EXPLAINED_FRACTION),
            )


def _isolated(most: Plane, mean: Plane, level: float) -> Iterator[tuple[NDArray[np.uint8], Box]]:
    """Yield connected parts above a level amid others below it, largest first.

    Args:
        most: largest residual of any colour, (h, w).
        mean: that of all colours.
        level: for `most`.

    Yields:
        A mask, and the box, 3 pixels larger, that it is of.
    """
    height, width = most.shape
    above = (most > level).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
    left, top, across, down, area = stats.T
    largest = max(MAX_AREA_FRACTION * height * width, SMALL_FRAME_AREA)
    fits = (area >= MIN_AREA) & (area <= largest) & (across < MAX_WIDTH * width) & (down < MAX_HEIGHT * height)
    # an object that the edge of the frame cuts off has another shape in the other frame
    fits &= (left > 0) & (top > 0) & (left + across < width) & (top + down < height)
    fits[0] = False  # the rest of the frame
    if not fits.any():
        return
    fits &= np.bincount(labels.ravel(), mean.ravel(), len(stats)) >= MIN_BLOB_RESIDUAL * area
    for label in np.argsort(np.where(fits, -area, 0), kind="stable")[: min(MAX_BLOBS, np.count_nonzero(fits))]:
        box = (
            slice(max(top[label] - 3, 0), top[label] + down[label] + 3),
            slice(max(left[label] - 3, 0), left[label] + across[label] + 3),
        )
        mask = (labels[box] == label).astype(np.uint8)
        ring = cv2.subtract(cv2.dilate(mask, SQUARE_5), _dilated(mask))  # beside it is its own soft edge
        if cv2.countNonZero(cv2.min(above[box], ring)) <= (1 - MIN_ISOLATION) * cv2.countNonZero(ring):
            yield mask, box


def _closed(own: Colours, residual: Plane, mask: NDArray[np.uint8]) -> bool:
    """Whether the colour of a blob ends at its border: that of a part of an object goes on."""
    beside = _dilated(mask) != mask
    off = np.abs(own[beside] - np.asarray(cv2.mean(own, mask)[:3], np.float32)).sum(1) / 3.0
    same = np.count_nonzero(off < CONTINUED_COLOUR * cv2.mean(residual, mask)[0])
    return bool(same <= MAX_OPENING * len(off))


def _explained(view: View, residual: Plane, box: Box) -> Mask:
    """Where the flow leaves far less residual than background motion, in a box."""
    there = sample(view.other, pixel_grid(*residual.shape)[box] + view.flow[box])
    own = cv2.absdiff(view.own[box], np.asarray(there, np.float32)).max(2)
    return np.asarray(own < 0.5 * residual[box])


def _pairs(first: View, second: View, blobs: Sequence[Blob], others: Sequence[Blob]) -> list[Pair]:
    """All pairs that may be one object, best first."""
    found = []
    for one in blobs:
        for two in others:
            if not MIN_AREA_RATIO < one.area / two.area < 1 / MIN_AREA_RATIO:
                continue
            if np.abs(one.colour - two.colour).max() > MAX_PAIR_COLOUR_DIFFERENCE or not _reachable(
                first, one, two.centre - one.centre
            ):
                continue
            pair = _matched(first, second, one, two)
            if pair.score > 0 and _reachable(first, one, pair.displacement) and _plausible(first, second, pair):
                found.append(pair)
    return sorted(found, key=lambda pair: -pair.score)


def _reachable(view: View, blob: Blob, displacement: NDArray[np.float64]) -> bool:
    """Whether a displacement is short enough, and not that of the background."""
    x, y = blob.centre.astype(int)
    distance = np.hypot(*(displacement - view.background[y, x]))
    farthest = min(MAX_DISTANCE * view.own.shape[1], MAX_SIZES * np.sqrt(blob.area))
    return bool(distance >= MIN_DISTANCE and np.hypot(*displacement) <= farthest)


def _matched(first: View, second: View, one: Blob, two: Blob) -> Pair:
    """Two blobs with the displacement under which they agree best, both ways."""

    def score(displacement: NDArray[np.float64]) -> float:
        there = _difference(first.own, second.own, one, displacement) / one.residual
        back = _difference(second.own, first.own, two, -displacement) / two.residual
        return 1.0 - max(there, back)

    def best(middle: NDArray[np.float64], radius: int, step: float) -> tuple[float, Any]:
        steps = [step * np.array([x - radius, y - radius], float) for y, x in np.ndindex(*(2 * radius + 1,) * 2)]
        return max(((score(middle + each), tuple(middle + each)) for each in steps), key=lambda found: found[0])

    found = best(np.rint(two.centre - one.centre), PAIR_SEARCH_RADIUS, 1.0)
    for step in PAIR_SEARCH_STEPS:
        found = best(np.array(found[1]), 1, step)
    return Pair(one, two, np.array(found[1]), found[0])


def _difference(own: Colours, other: Colours, blob: Blob, displacement: NDArray[np.float64]) -> float:
    """Mean levels by which a blob differs from the other frame where the displacement leads."""
    at = np.stack([blob.columns + displacement[0], blob.rows + displacement[1]], 1).astype(np.float32)[:, None]
    return float(np.abs(own[blob.rows, blob.columns] - sample(other, at)[:, 0]).mean())


def _plausible(first: View, second: View, pair: Pair) -> bool:
    """Whether shapes agree, the ground shows between both places, and no consistent flow leads elsewhere."""
    one, two, displacement = pair.first, pair.second, pair.displacement
    for blob, vector in ((one, displacement), (two, -displacement)):
        if blob.explained and np.abs(vector - blob.flow).max() > 1.0:
            return False
    height, width = first.own.shape[:2]
    shift = np.array([[1, 0, round(displacement[0])], [0, 1, round(displacement[1])]], float)
    moved = cv2.warpAffine(one.mask((height, width)), shift, (width, height))
    there = two.mask((height, width))
    if cv2.countNonZero(cv2.min(moved, there)) < MIN_SHAPE_OVERLAP * cv2.countNonZero(cv2.max(moved, there)):
        return False
    for part in PATH_PLACES:  # an object that spans both places moves by less than its size
        x, y = np.rint(one.centre + part * displacement).clip(0, (width - 1, height - 1)).astype(int)
        for view, blob in ((first, one), (second, two)):
            if np.abs(view.own[y, x] - blob.colour).mean() < PATH_COLOUR * blob.residual:
                return False
    return True


def _chosen(pairs: Sequence[Pair]) -> list[Pair]:
    """The best pairs that share no blob and have no rival."""
    chosen: list[Pair] = []
    for pair in pairs:
        if pair.score < MIN_PAIR_SCORE:
            break
        if any(_overlap(pair, other) for other in chosen):
            continue
        rivals = [other for other in pairs if _overlap(pair, other)]
        length = np.hypot(*pair.displacement)
        if not any(
            other.score > pair.score - SCORE_MARGIN
            and np.abs(other.displacement - pair.displacement).max() > 2.0
            and np.hypot(*other.displacement) < RIVAL_LENGTH * length
            for other in rivals
        ):
            chosen.append(pair)
    return chosen


def _overlap(pair: Pair, other: Pair) -> bool:
    """Whether two pairs have the same place in a frame: one blob may be found at several levels."""
    places = (pair.first, other.first), (pair.second, other.second)
    return any(np.abs(one.centre - two.centre).max() < 2.0 for one, two in places)


def _inserted(views: tuple[View, View], pairs: Sequence[Pair]) -> FastObjects:
    """Flows with the objects, and with background motion of the ground that they hide in the other frame."""
    shape = views[0].own.shape[:2]
    flows, objects = [], []
    for way, view in enumerate(views):
        flow, where = view.flow.copy(), np.zeros(shape, np.bool_)
        residual = cv2.absdiff(view.own, view.compensated).mean(2)
        for pair in pairs:
            blob, sign = ((pair.first, 1.0), (pair.second, -1.0))[way]
            vector = np.asarray(sign * pair.displacement, np.float32)
            there = np.asarray(sample(view.other, pixel_grid(*shape) + vector), np.float32)
            better = (cv2.absdiff(view.own, there).mean(2) < residual).astype(np.uint8)
            mask = blob.mask(shape)
            around = cv2.dilate(mask, SQUARE_5)  # the level may cut off a part of the object
            own = cv2.max(mask, cv2.min(around, better)) > 0
            flow[own] = vector
            where |= own
        flows.append(flow)
        objects.append(where)
    ground = []
    for way, view in enumerate(views):
        there = np.asarray(cv2.dilate(objects[1 - way].astype(np.float32), SQUARE_3), np.float32)
        hidden = warp(there, view.background) > 0.5
        hidden &= ~objects[way]
        flows[way][hidden] = view.background[hidden]
        ground.append(np.asarray(hidden))
    near = cv2.dilate((objects[0] | objects[1] | ground[0] | ground[1]).astype(np.uint8), SQUARE_9) > 0
    return FastObjects((flows[0], flows[1]), (ground[0], ground[1]), near)


def _dilated(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(cv2.dilate(mask, SQUARE_3), np.uint8)


def _gradient(image: Colours) -> Plane:
    """Largest gradient of any colour."""
    across, down = (np.abs(cv2.Sobel(image, cv2.CV_32F, *way, ksize=3)) for way in ((1, 0), (0, 1)))
    return _largest(across + down)


def _largest(image: NDArray[Any]) -> Plane:
    """Largest value of any colour."""
    red, green, blue = cv2.split(image)
    return np.asarray(cv2.max(cv2.max(red, green), blue), np.float32)
