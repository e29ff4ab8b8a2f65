"""Motion sought by OpenCV's dense inverse search (DIS, Kroeger et al. 2016), and sought again where that lost it.

DIS goes from coarse to fine along gradients. What moves farther than its coarsest patches see, or is too small to be
seen there, it loses, and what it finds instead is as smooth as true motion. So patches of both pictures are compared
where they were found to go (normalised cross-correlation); those that do not fit are sought in the whole of the other
picture, and if a few are plainly elsewhere, DIS begins again from there. Of both flows the one is taken, place by
place, under which the pictures agree and which leads back to where it began. At last, motion that leads out of the
picture, where nothing can be found, is continued from what lies around. What is smaller than such patches and moves
farther than its own width, a hand or a leg, is sought among what has no like in the other picture. Matches of
descriptors have long been what variational flow needs for large displacements (Brox & Malik 2011; DeepFlow, Weinzaepfel
et al. 2013).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

T = TypeVar("T")
Grey = NDArray[np.uint8]  # (h, w), levels
Light = NDArray[np.float32]  # likewise
Flow = NDArray[np.float32]  # (h, w, 2): across and down, in pixels of its own size

LIMITS = 330_000, 700_000  # pixels of the picture in which motion is sought: up to these it is small, and middling
LEAST_SIDE = 16  # pixels, of what is sought in: twice a patch of DIS

AREA = 17_000  # pixels of the pictures in which patches are compared: 160x107, 174x98
PATCH, STEP = 12, 4  # pixels there
NOISE = 8.0  # strength of a patch, in levels times pixels, that noise may have: patches without contrast fit nothing
CONTRAST = 40.0, 150.0  # strength from which on a patch is sought: where strong ones are few, and where there is plenty
PLENTY = 0.2  # of all patches
FITS = 0.8  # correlation from which on a patch is where it was found to go
GAIN = 0.15  # by how much a patch must fit better elsewhere
# How well at all, and by how much better than in any third place; less where three neighbours agree.
LEAST, LEAD = (0.7, 0.6), (0.1, 0.02)
ALIKE = 2.0  # pixels by which neighbours that agree may differ
NEAR = 3  # pixels around the best place that are no third place
SHARE = 0.01  # of all patches; fewer that are elsewhere are left alone
ROUNDS = 2
SHARP, WIDE, FAINT = 0.8, 6.0, 0.02  # patches: over how many they are smoothed; the weight of the wider mean
MISS, MOST = 1.0, 8.0  # levels of difference to which a pixel counts by which two flows miss each other; pixels
BOX = 9  # places over which that is averaged
CLEAR = 0.5  # levels by which a new flow must be better
PLACES = 20_000  # at most, of a picture, that are looked at whether motion goes on there
CELLS = 32  # along the longer side, in which motion is averaged to be continued
SURFACE = 2.7  # cells around, of which a place is thought a part
FAR = 0.01  # weight of all other cells: where nothing around is known, they tell
RIDGE = 1e-5  # variance of position, in squared CELLS, added where cells lie in a row
TURNS = 4  # of least squares, each with less weight for what moves otherwise; in the last
STRICT = 4.0  # half a weight at a sixth of a place
FLAT = 4.0  # levels by which a place must differ from its neighbours to be known half
KNOWN = 0.02  # of a picture; where less of it is known, nothing is continued
BLACK = 24.0  # levels up to which a row or a column may be part of a bar
LEAST_SHOWN = 0.5  # of the height and of the width; where bars leave less, they are night
DOUBT = 1.0  # pixels by which a flow that should leave the picture misses its way back
UNLIKE = 9.0  # levels by which what has no like in the other picture differs from what is found there
LONE = 0.15  # part of a patch that must have none for it to be sought
UNEVEN = 8.0  # standard deviation of that part in levels; what is more even fits anywhere
HELD = 0.5  # part of that part that must come to lie on what has no like either
BESIDE = 2  # patches to the side within which two more must go the same way
SOUGHT = 48  # patches in each picture that are sought so, at most; the least alike first
AROUND = 32  # pixels around all that is found so in which it goes on from there
SCALES = 2  # from which inverse search goes on with what was found so: as many halvings


class View(NamedTuple):
    """What pictures show between dark bars at their sides; parts of the width and of the height."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0


class Found(NamedTuple):
    """What was found between two pictures."""

    forth: Flow  # from the first to the second
    back: Flow
    view: View
    others: tuple[Flow, Flow] | None = None  # both, but with what small things may do that they lose; None without any


class Search(NamedTuple):
    """How inverse search seeks."""

    shrink: int  # the picture is made smaller by this before: 1, 2 or 4; it ends at that size
    stride: int  # pixels from patch to patch at each scale
    descent: int  # steps of gradient descent of each patch
    refinement: int  # variational steps at each scale


def by_size(pixels: int, searches: Sequence[T], limits: Sequence[int] = LIMITS) -> T:
    """Of what belongs to small, middling and large pictures, or within other limits, what belongs to so many pixels."""
    return searches[sum(pixels > limit for limit in limits)]


def shrink_within(shrink: int, height: int, width: int) -> int:
    """By how much a picture may be made smaller, a power of two, up to `shrink`."""
    room = max(1, min(height, width) // LEAST_SIDE)
    return min(shrink, 1 << (room.bit_length() - 1))


def both_ways(one: Grey, two: Grey, how: Search, grid: int, small_things: bool = False) -> Found:
    """Flow from one picture to another and back.

    Args:
        one: (h, w), `how.shrink` has been done to it.
        two: likewise.
        how: how to seek.
        grid: pixels to the side of each place at which flows are compared.
        small_things: whether `Found.others` is wanted.

    Returns:
        Flows (h, w, 2), and the view.
    """
    with ThreadPoolExecutor(2) as pool:  # OpenCV lets go of the interpreter
        pairs = (one, two), (two, one)
        flows = [*pool.map(lambda pair: _sought(pair, how), pairs)]
        small = _small(one), _small(two)
        for _ in range(ROUNDS):
            starts = _starts(*small, flows)
            if not starts:
                break
            starts = [_spread(start, one.shape, small[0].shape) for start in starts]
            again = [*pool.map(lambda pair, start: _sought(pair, how, start), pairs, starts)]
            flows = _better(one, two, flows, again, grid)
        others = _with_things(pool, one, two, flows, _things(*small, flows), how, grid) if small_things else flows
        grid = max(grid, math.ceil(math.sqrt(one.size / PLACES)))
        rows, columns = (max(1, length // grid) for length in one.shape)
        a, b = _means(one, two, rows, columns)
        view = _view(a, b)
        forth, back = (resized(flow, rows, columns) for flow in flows)
        ways = ((a, b), (forth, back), flows[0]), ((b, a), (back, forth), flows[1])
        # one after the other: of so many small steps two threads make fewer a second than one
        forth, back = (_continued(pictures, pair, flow, grid, view) for pictures, pair, flow in ways)
        if others is flows:
            return Found(forth, back, view)
        over = (
            _where((new != flow).any(2), resized(new, *old.shape[:2]), old)
            for old, new, flow in zip((forth, back), others, flows, strict=True)
        )
        return Found(forth, back, view, (next(over), next(over)))


def _sought(pair: tuple[Grey, Grey], how: Search, start: Flow | None = None, scales: int | None = None) -> Flow:
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    finder.setFinestScale(0)
    if scales is not None:
        finder.setCoarsestScale(scales)
    finder.setPatchStride(how.stride)
    finder.setGradientDescentIterations(how.descent)
    finder.setVariationalRefinementIterations(how.refinement)
    return np.asarray(finder.calc(*pair, start), np.float32)  # type: ignore[arg-type]


def resized(flow: Flow, height: int, width: int) -> Flow:
    """A flow at another size, its vectors in pixels of that."""
    rows, columns = flow.shape[:2]
    if (rows, columns) == (height, width):
        return flow
    how = cv2.INTER_AREA if height < rows else cv2.INTER_LINEAR
    out = cv2.resize(flow, (width, height), interpolation=how)
    return scaled(np.asarray(out, np.float32), width / columns, height / rows)


def _small(grey: Grey) -> Light:
    """The picture in which patches are compared."""
    shrink = max(1.0, math.sqrt(grey.size / AREA))
    width, height = (max(2 * PATCH, round(length / shrink)) for length in grey.shape[::-1])
    return np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA), np.float32)


def _starts(one: Light, two: Light, flows: Sequence[Flow]) -> list[Flow]:
    """From where to seek again, both ways, see `_start`; nothing if forwards nothing is elsewhere."""
    forth = _start(one, two, resized(flows[0], *one.shape))
    if forth is None:
        return []
    moves = resized(flows[1], *one.shape)
    back = _start(two, one, moves)
    return [forth, _middles(moves) if back is None else back]


def _start(one: Light, two: Light, flow: Flow) -> Flow | None:
    """Vectors (rows, columns, 2) of patches, of which some are elsewhere; None if too few are.

    Patches that fit pass their motion on to those around them that tell nothing.
    """
    moves = _middles(flow)
    rows, columns = moves.shape[:2]
    here = _patches(one)[::STEP, ::STEP].reshape(rows, columns, -1)
    here = here - here.mean(2, keepdims=True)
    strength = np.linalg.norm(here, axis=2)
    there = _moved(two, moves)
    there -= there.mean(2, keepdims=True)
    fit = (here * there).sum(2) / ((strength + NOISE) * (np.linalg.norm(there, axis=2) + NOISE))
    plenty = (strength > CONTRAST[1]).mean() > PLENTY
    astray = np.argwhere((fit < FITS) & (strength > CONTRAST[int(plenty)]))
    least = SHARE * fit.size
    if len(astray) < least:
        return None
    row, column = astray.T
    wanted = here[row, column] / (strength[row, column, None] + NOISE)
    best, lead, found = _best_places(wanted, two)
    found -= STEP * astray[:, ::-1]
    sure = _sure(best, lead, fit[row, column], found, astray)
    if sure.sum() < least:
        return None
    row, column = row[sure], column[sure]
    weight = (fit - 0.6).clip(0.0) * (strength / 200.0).clip(0.0, 1.0) + 1e-4
    moves[row, column] = found[sure]
    weight[row, column] = lead[sure]
    both = np.dstack([moves * weight[..., None], weight]).astype(np.float32)
    sharp, wide = (cv2.GaussianBlur(both, (0, 0), size, borderType=cv2.BORDER_REPLICATE) for size in (SHARP, WIDE))
    mean = sharp + FAINT * wide
    return np.asarray(mean[..., :2] / mean[..., 2:], np.float32)


def _sure(best: Light, lead: Light, fit: Light, moves: Light, place: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which patches are plainly elsewhere: they fit no third place, or three neighbours go the same way.

    Args:
        best: how well each (N,) fits there.
        lead: by how much better than anywhere else.
        fit: how well where it was found to go.
        moves: (N, 2), vectors there.
        place: (N, 2), row and column of the patch.
    """
    gains = best - fit > GAIN
    alone = gains & (best > LEAST[0]) & (lead > LEAD[0])
    maybe = gains & (best > LEAST[1]) & (lead > LEAD[1])
    row, column = place.T + 1
    table = np.full((*(place.max(0, initial=0) + 3), 2), 1e6, np.float32)
    table[row[maybe], column[maybe]] = moves[maybe]
    like = np.zeros(len(place), int)
    for down, right in (p for p in np.ndindex(3, 3) if p != (1, 1)):
        near = table[row + down - 1, column + right - 1]
        like += np.abs(near - moves).max(1) <= ALIKE
    return alone | (maybe & (like >= 3))


def _patches(picture: Light) -> Light:
    """All patches (h - PATCH + 1, w - PATCH + 1, PATCH, PATCH), without copying them."""
    return np.lib.stride_tricks.sliding_window_view(picture, (PATCH, PATCH))


def _middles(flow: Flow) -> Flow:
    """What a flow says of the middles of patches; a copy."""
    rows, columns = ((side - PATCH) // STEP + 1 for side in flow.shape[:2])
    return flow[PATCH // 2 :: STEP, PATCH // 2 :: STEP][:rows, :columns].copy()


def _moved(picture: Light, moves: Flow) -> Light:
    """Patches (rows, columns, PATCH ** 2) of a picture, each from where its middle goes.

    Not bent along the flow: what is bent to fit proves nothing.
    """
    rows, columns = moves.shape[:2]
    within = np.arange(PATCH, dtype=np.float32)
    at = np.empty((rows, PATCH, columns, PATCH, 2), np.float32)
    at[..., 0] = (STEP * np.arange(columns) + moves[..., 0])[:, None, :, None] + within
    at[..., 1] = (STEP * np.arange(rows)[:, None] + moves[..., 1])[:, None, :, None] + within[:, None, None]
    flat = at.reshape(rows * PATCH, columns * PATCH, 2)
    found = remapped(picture, flat)
    tiles = found.reshape(rows, PATCH, columns, PATCH)
    return tiles.transpose(0, 2, 1, 3).reshape(rows, columns, -1)


def _best_places(wanted: Light, picture: Light) -> tuple[Light, Light, Light]:
    """Where in a picture patches (N, PATCH ** 2), of mean 0 and strength 1, fit best.

    Returns:
        How well (N,), by how much better than anywhere else, and the place (N, 2) of its upper left corner, x and y.
    """
    rows, columns = (side - PATCH + 1 for side in picture.shape)
    norm = PATCH * PATCH
    sums, squares = (
        cv2.boxFilter(x, cv2.CV_32F, (PATCH, PATCH), anchor=(0, 0), normalize=False)[:rows, :columns]
        for x in (picture, picture * picture)
    )
    strength = np.sqrt((squares - sums * sums / norm).clip(0.0)) + NOISE
    # by torch: a third of the time of a product with all patches, and numpy's own threads spin while they wait
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        kernels = torch.from_numpy(wanted).view(-1, 1, PATCH, PATCH)
        fits = F.conv2d(torch.from_numpy(picture)[None, None], kernels)[0].numpy().reshape(len(wanted), -1)
    fits /= strength.reshape(-1)
    best, lead, place = _peaks(fits.reshape(-1, rows, columns), NEAR)
    return best, lead, place[:, ::-1].astype(np.float32)


def _peaks(fits: Light, near: int) -> tuple[Light, Light, NDArray[np.int64]]:
    """Of maps (N, h, w) the greatest value, by how much it exceeds all that is farther off, and its row and column.

    Places up to `near` to its sides are no others; the maps are written to.
    """
    flat = fits.reshape(len(fits), -1)
    index = flat.argmax(1)
    best, (row, column) = flat[np.arange(len(flat)), index], np.divmod(index, fits.shape[2])
    for fit, top, left in zip(fits, row - near, column - near, strict=True):
        fit[max(top, 0) : top + 2 * near + 1, max(left, 0) : left + 2 * near + 1] = -1.0
    return best, best - flat.max(1), np.stack([row, column], 1)


def _spread(moves: Flow, shape: Sequence[int], small: Sequence[int]) -> Flow:
    """Vectors of patches of small pictures as a flow of pictures of a shape."""
    (height, width), (rows, columns) = shape, small
    down, across = rows / height, columns / width
    at = places(height, width).copy()
    at[..., 0] = ((at[..., 0] + 0.5) * across - 0.5 * PATCH) / STEP
    at[..., 1] = ((at[..., 1] + 0.5) * down - 0.5 * PATCH) / STEP
    out = remapped(moves, at)
    return scaled(out, 1 / across, 1 / down)


def _with_things(
    pool: ThreadPoolExecutor,
    one: Grey,
    two: Grey,
    flows: Sequence[Flow],
    things: list[tuple[Flow, NDArray[np.bool_]]],
    how: Search,
    grid: int,
) -> Sequence[Flow]:
    """Flows with what small things do, where the pictures agree better so; the same ones without any."""
    if not things:
        return flows
    height, width = one.shape
    marks = [
        cv2.resize(where.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) for _, where in things
    ]
    left, top, across, down = cv2.boundingRect(cv2.max(*marks))
    box = np.s_[max(top - AROUND, 0) : top + down + AROUND, max(left - AROUND, 0) : left + across + AROUND]
    one, two = np.ascontiguousarray(one[box]), np.ascontiguousarray(two[box])
    old = [np.ascontiguousarray(flow[box]) for flow in flows]
    starts = [
        np.asarray(cv2.copyTo(resized(new, height, width)[box], mark[box], flow.copy()), np.float32)
        for (new, _), mark, flow in zip(things, marks, old, strict=True)
    ]
    pairs = (one, two), (two, one)
    again = [*pool.map(lambda pair, start: _sought(pair, how, start, SCALES), pairs, starts)]
    found = [flow.copy() for flow in flows]
    for flow, new in zip(found, _better(one, two, _better(one, two, old, starts, grid), again, grid), strict=True):
        flow[box] = new
    return found


def _things(one: Light, two: Light, flows: Sequence[Flow]) -> list[tuple[Flow, NDArray[np.bool_]]]:
    """What small things do that both flows lose: for either picture a flow of its size, and where it holds.

    A patch around such a thing shows more of what lies behind it. So only the part of a patch is compared that has no
    like in the other picture, and only with what has none there.
    """
    moves = [resized(flow, *one.shape) for flow in flows]
    ways = (one, two, moves[0]), (two, one, moves[1])
    off = [np.asarray(cv2.blur(np.abs(a - _fetched(b, flow)), (3, 3)), np.float32) for a, b, flow in ways]
    lone = [np.asarray(x > UNLIKE, np.float32) for x in off]
    forth, back = _refound(one, two, off[0], *lone), _refound(two, one, off[1], *lone[::-1])
    pairs = np.concatenate([forth, back[:, ::-1]])
    return [_laid(lone[0], pairs), _laid(lone[1], pairs[:, ::-1])] if len(pairs) else []


def _refound(one: Light, two: Light, off: Light, lone: Light, other: Light) -> NDArray[np.int64]:
    """Patches of which the lone part is found again: their upper left corners here and there, (N, 2, row and column).

    Args:
        one: (h, w).
        two: likewise.
        off: how far the one is from what was found in the other.
        lone: 1 where it has no like there, otherwise 0.
        other: likewise of the other.
    """
    parts, here, unlike = (_patches(x)[::STEP, ::STEP] for x in (lone, one, off))
    place = np.argwhere(parts.mean((2, 3)) > LONE)
    row, column = place.T
    parts, here = parts[row, column], here[row, column]
    size = parts.sum((1, 2), keepdims=True)
    here = parts * (here - (parts * here).sum((1, 2), keepdims=True) / size)
    strength = np.sqrt((here * here).sum((1, 2)))
    worth = (parts * unlike[row, column]).sum((1, 2)) * (strength > UNEVEN * np.sqrt(size[:, 0, 0]))
    chosen = np.argsort(-worth, kind="stable")[: min(SOUGHT, np.count_nonzero(worth))]
    if len(chosen) == 0 or not other.any():
        return np.zeros((0, 2, 2), np.int64)
    (top, left), (bottom, right) = (edge(np.argwhere(other), 0) for edge in (np.min, np.max))
    top, left = max(top - PATCH, 0), max(left - PATCH, 0)
    box = np.s_[top : bottom + PATCH, left : right + PATCH]
    best, lead, found = _best_parts(here[chosen] / strength[chosen, None, None], parts[chosen], two[box], other[box])
    sure = (best > FITS) & (lead > LEAD[1])
    place = STEP * place[chosen[sure]]
    found = found[sure] + (top, left)
    near = np.abs(place[:, None] - place).max(2, initial=0) <= BESIDE * STEP
    alike = np.abs((found - place)[:, None] - (found - place)).max(2, initial=0) <= ALIKE
    sure = (near & alike).sum(1) > 2
    return np.stack([place[sure], found[sure]], 1)


def _best_parts(wanted: Light, parts: Light, picture: Light, other: Light) -> tuple[Light, Light, NDArray[np.int64]]:
    """Where parts of patches fit best in a picture; at every second place, for inverse search goes on from there.

    Args:
        wanted: (N, PATCH, PATCH), 0 outside of the part, of mean 0 and strength 1.
        parts: likewise, 1 within the part, otherwise 0.
        picture: (h, w).
        other: likewise; 1 on what a part may come to lie on.

    Returns:
        How well (N,), by how much better than anywhere else, and the place (N, 2) of the upper left corner, row and
        column.
    """
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        planes = [torch.from_numpy(np.ascontiguousarray(x))[None] for x in (picture, picture * picture, other)]
        kernels, masks = (torch.from_numpy(x)[:, None] for x in (wanted, parts))
        size = masks.sum((1, 2, 3)).view(-1, 1, 1)
        products = F.conv2d(planes[0], kernels, stride=2)
        sums, squares, held = F.conv2d(torch.stack(planes), masks, stride=2)
        strength = (squares - sums * sums / size).clamp(min=0.0).sqrt() + NOISE
        fits: Light = torch.where(held > HELD * size, products / strength, -1.0).numpy()
    best, lead, place = _peaks(fits, NEAR // 2 + 1)
    return best, lead, 2 * place


def _laid(near: Light, pairs: NDArray[np.int64]) -> tuple[Flow, NDArray[np.bool_]]:
    """What patches do, see `_refound`, as a flow, and where it holds: on what has no like, and beside it."""
    window = np.hanning(PATCH + 2)[1:-1].astype(np.float32)
    window = window[:, None] * window
    total = np.zeros((*near.shape, 3), np.float32)
    for (row, column), (down, across) in zip(pairs[:, 0], pairs[:, 1] - pairs[:, 0], strict=True):
        vector = np.array([across, down, 1.0], np.float32)
        total[row : row + PATCH, column : column + PATCH] += window[..., None] * vector
    load = total[..., 2:]
    where = (load[..., 0] > 0.05) & (cv2.dilate(near, np.ones((5, 5), np.uint8)) > 0)
    return np.asarray(total[..., :2] / np.maximum(load, 0.05), np.float32), where


def _continued(pictures: Sequence[Light], flows: Sequence[Flow], full: Flow, grid: int, view: View) -> Flow:
    """A flow that goes on where it cannot be seen: out of the view, and over what shows nothing.

    A place that is in doubt goes as what lies around it does, see `surroundings`, if that leads out of the view; and
    any place where the pictures agree better so. Bars rest.

    Args:
        pictures: (h, w), from which the flow leads and to which, at the size of the places.
        flows: (h, w, 2), the flow there and the way back.
        full: the flow at its own size, of which places are replaced.
        grid: pixels to the side of a place.
        view: of both pictures.
    """
    (here, there), (flow, back) = pictures, flows
    at = places(*here.shape)
    inside = beyond(at, view) <= 0.0
    miss = _missed(flow, back, grid)
    known = np.exp(-0.5 * miss * miss) * _relief(here) * inside
    if known.mean() < KNOWN:
        return full
    around = surroundings(flow, known)
    gone = beyond(at + around, view) > 0.5
    costs = (_cost(here, there, some, way) for some, way in ((flow, miss), (around, _missed(around, back, grid))))
    plainer = np.subtract(*costs) > CLEAR
    use = np.where(gone, cv2.blur(miss, (3, 3)) > DOUBT, plainer) | ~inside
    around[~inside] = 0.0  # bars rest
    return _where(use, resized(around, *full.shape[:2]), full)


def surroundings(flow: Flow, known: Light) -> Flow:
    """The affine motion of what lies around each place.

    A mean of affine functions instead of vectors (normalised convolution, Knutsson & Westin 1993), in cells; what
    moves otherwise than most loses its weight (iteratively reweighted least squares, Odobez & Bouthemy 1995).

    Args:
        flow: (h, w, 2).
        known: weights (h, w), some of them above 0.
    """
    height, width = known.shape
    side = max(1.0, max(height, width) / CELLS)
    rows, columns = (max(1, round(length / side)) for length in (height, width))
    x, y = cv2.split(flow)
    cells = cv2.resize(cv2.merge([x * known, y * known, known]), (columns, rows), interpolation=cv2.INTER_AREA)
    u, v, load = cv2.split(cells)
    u, v = u / (load + 1e-6), v / (load + 1e-6)
    # of cells, with one more on every side
    wide_x, wide_y = cv2.split((places(rows + 2, columns + 2) - 1.0) / np.float32(CELLS))
    x, y = wide_x[1:-1, 1:-1], wide_y[1:-1, 1:-1]
    terms = cv2.merge([np.ones_like(u), x, y, x * x, x * y, y * y, u, v, x * u, y * u, x * v, y * v])
    weight = load
    for turn in range(TURNS):
        sums = terms * weight[..., None]
        sums = cv2.GaussianBlur(sums, (0, 0), SURFACE, borderType=cv2.BORDER_CONSTANT) + FAR * sums.mean((0, 1))
        total, *means = np.moveaxis(sums.astype(np.float64), 2, 0)
        mean_x, mean_y, xx, xy, yy, mean_u, mean_v, *products = (mean / total for mean in means)
        xx, xy, yy = xx - mean_x**2 + RIDGE, xy - mean_x * mean_y, yy - mean_y**2 + RIDGE
        found = []
        for mean, (xm, ym) in ((mean_u, products[:2]), (mean_v, products[2:])):
            xm, ym = xm - mean_x * mean, ym - mean_y * mean
            right, down = (yy * xm - xy * ym), (xx * ym - xy * xm)
            right, down = (part / (xx * yy - xy * xy) for part in (right, down))
            found.append([mean - right * mean_x - down * mean_y, right, down])
        apart = sum((p + q * x + r * y - own) ** 2 for (p, q, r), own in zip(found, (u, v), strict=True))
        strict = STRICT * min(1.0, 0.25 * 2**turn)
        weight = (load / (1.0 + strict**2 * apart) ** 2).astype(np.float32)
    parts = [[np.pad(part, 1, "edge") for part in way] for way in found]
    around = cv2.merge([(p + q * wide_x + r * wide_y).astype(np.float32) for p, q, r in parts])
    at = scaled(places(height, width) + np.float32(0.5), columns / width, rows / height) + np.float32(0.5)
    return np.asarray(remapped(around, at), np.float32)


def _view(one: Light, two: Light) -> View:
    """What two pictures show between bars that both have."""
    light = np.maximum(one, two)
    sides = []
    for lit in (light.max(0) > BLACK, light.max(1) > BLACK):
        where = np.flatnonzero(lit)
        if len(where) < LEAST_SHOWN * len(lit):
            return View()
        # beside a bar lies what is bar and picture at once
        first, last = int(where[0]), int(where[-1])
        sides.append(((first + (first > 0)) / len(lit), (last + (last == len(lit) - 1)) / len(lit)))
    (left, right), (top, bottom) = sides
    return View(left, top, right, bottom)


def beyond(where: Flow, view: View) -> Light:
    """By how many pixels coordinates x, y (h, w, 2) lie outside of a view of their own grid; less than 0 inside."""
    height, width = where.shape[:2]
    x, y = cv2.split(where)
    across = np.maximum(view.left * width - x, x - (view.right * width - 1))
    return np.asarray(np.maximum(across, np.maximum(view.top * height - y, y - (view.bottom * height - 1))), np.float32)


def _relief(picture: Light) -> Light:
    """How far what is seen around a place tells where it went, 0..1."""
    mean = cv2.blur(picture, (5, 5))
    energy = (cv2.blur(picture * picture, (5, 5)) - mean * mean).clip(0.0)
    return np.asarray(energy / (energy + FLAT**2), np.float32)


def _means(one: Grey, two: Grey, rows: int, columns: int) -> list[Light]:
    """Pictures at the size of the places at which flows are compared."""
    return [np.asarray(cv2.resize(x, (columns, rows), interpolation=cv2.INTER_AREA), np.float32) for x in (one, two)]


def _where(use: NDArray[np.bool_], new: Flow, old: Flow) -> Flow:
    """One of two flows, said for each place."""
    height, width = old.shape[:2]
    mask = cv2.resize(use.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(cv2.copyTo(new, mask, old.copy()), np.float32)


def _better(one: Grey, two: Grey, old: Sequence[Flow], new: Sequence[Flow], grid: int) -> list[Flow]:
    """Of two flows each way the better one, place by place; a place has `grid` pixels to either side."""
    height, width = one.shape
    rows, columns = max(1, height // grid), max(1, width // grid)
    a, b = _means(one, two, rows, columns)
    costs = []
    for flows in (old, new):
        forth, back = (resized(flow, rows, columns) for flow in flows)
        misses = _missed(forth, back, grid), _missed(back, forth, grid)
        costs.append((_cost(a, b, forth, misses[0]), _cost(b, a, back, misses[1])))
    return [_where(costs[1][way] < costs[0][way] - CLEAR, new[way], old[way]) for way in (0, 1)]


def _cost(a: Light, b: Light, flow: Flow, miss: Light) -> Light:
    """How far b, fetched along a flow, is from a, and the way back from where it began, see `_missed`; levels."""
    apart = np.abs(a - _fetched(b, flow)) + MISS * miss.clip(max=MOST)
    return np.asarray(cv2.blur(apart, (BOX, BOX), borderType=cv2.BORDER_REPLICATE), np.float32)


def _missed(flow: Flow, back: Flow, grid: int) -> Light:
    """By how many pixels one misses the start, going along a flow and back."""
    x, y = cv2.split(flow + _fetched(back, flow))
    return np.asarray(np.sqrt(x * x + y * y) * grid, np.float32)


def _fetched(values: NDArray[np.float32], flow: Flow) -> NDArray[np.float32]:
    return remapped(values, places(*flow.shape[:2]) + flow)


def remapped(values: NDArray[Any], where: Flow, how: int = cv2.INTER_LINEAR) -> NDArray[Any]:
    """Values (h, w) or (h, w, C) at coordinates x, y; beyond the edge that is repeated."""
    return cv2.remap(values, where, None, how, borderMode=cv2.BORDER_REPLICATE)  # type: ignore[call-overload, no-any-return]


def scaled(vectors: Flow, across: float, down: float) -> Flow:
    """Vectors (h, w, 2) times a number for each direction."""
    return cv2.multiply(vectors, (across, down, 0.0, 0.0))  # type: ignore[call-overload, no-any-return]


@lru_cache(maxsize=8)
def places(height: int, width: int) -> Flow:
    """(H, W, 2): x and y of every pixel; not to be written to."""
    out = np.empty((height, width, 2), np.float32)
    out[..., 0] = np.arange(width, dtype=np.float32)
    out[..., 1] = np.arange(height, dtype=np.float32)[:, None]
    out.setflags(write=False)
    return out
