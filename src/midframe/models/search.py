"""Motion sought by OpenCV's dense inverse search (DIS, Kroeger et al. 2016), and sought again where that lost it.

DIS goes from coarse to fine along gradients. What moves farther than its coarsest patches see, or is too small to be
seen there, it loses, and what it finds instead is as smooth as true motion. So patches of both pictures are compared
where they were found to go (normalised cross-correlation); those that do not fit are sought in the whole of the other
picture, and if a few are plainly elsewhere, DIS begins again from there. Of both flows the one is taken, place by
place, under which the pictures agree and which leads back to where it began. Matches of descriptors have long been
what variational flow needs for large displacements (Brox & Malik 2011; DeepFlow, Weinzaepfel et al. 2013).
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

LIMITS = 450_000, 700_000  # pixels of the picture in which motion is sought: up to these it is small, and middling
LEAST_SIDE = 16  # pixels, of what is sought in: twice a patch of DIS

AREA = 17_000  # pixels of the pictures in which patches are compared: 160x107, 174x98
PATCH, STEP = 12, 4  # pixels there
NOISE = 8.0  # strength of a patch, in levels times pixels, that noise may have: patches without contrast fit nothing
CONTRAST = 150.0  # strength from which on a patch is sought
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


class Search(NamedTuple):
    """How inverse search seeks."""

    shrink: int  # the picture is made smaller by this before: 1, 2 or 4; it ends at that size
    stride: int  # pixels from patch to patch at each scale
    descent: int  # steps of gradient descent of each patch
    refinement: int  # variational steps at each scale


def by_size(pixels: int, searches: Sequence[T]) -> T:
    """Of what belongs to small, middling and large pictures, what belongs to one of so many pixels."""
    return searches[sum(pixels > limit for limit in LIMITS)]


def shrink_within(shrink: int, height: int, width: int) -> int:
    """By how much a picture may be made smaller, a power of two, up to `shrink`."""
    room = max(1, min(height, width) // LEAST_SIDE)
    return min(shrink, 1 << (room.bit_length() - 1))


def both_ways(one: Grey, two: Grey, how: Search, grid: int) -> tuple[Flow, Flow]:
    """Flow from one picture to another and back.

    Args:
        one: (h, w), `how.shrink` has been done to it.
        two: likewise.
        how: how to seek.
        grid: pixels to the side of each place at which flows are compared.

    Returns:
        Two flows (h, w, 2).
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
    return flows[0], flows[1]


def _sought(pair: tuple[Grey, Grey], how: Search, start: Flow | None = None) -> Flow:
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    finder.setFinestScale(0)
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
    astray = np.argwhere((fit < FITS) & (strength > CONTRAST))
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
    index = fits.argmax(1)
    best, (y, x) = fits[np.arange(len(fits)), index], np.divmod(index, columns)
    for fit, top, left in zip(fits.reshape(-1, rows, columns), y - NEAR, x - NEAR, strict=True):
        fit[max(top, 0) : top + 2 * NEAR + 1, max(left, 0) : left + 2 * NEAR + 1] = -1.0
    return best, best - fits.max(1), np.stack([x, y], 1).astype(np.float32)


def _spread(moves: Flow, shape: Sequence[int], small: Sequence[int]) -> Flow:
    """Vectors of patches of small pictures as a flow of pictures of a shape."""
    (height, width), (rows, columns) = shape, small
    down, across = rows / height, columns / width
    at = places(height, width).copy()
    at[..., 0] = ((at[..., 0] + 0.5) * across - 0.5 * PATCH) / STEP
    at[..., 1] = ((at[..., 1] + 0.5) * down - 0.5 * PATCH) / STEP
    out = remapped(moves, at)
    return scaled(out, 1 / across, 1 / down)


def _better(one: Grey, two: Grey, old: Sequence[Flow], new: Sequence[Flow], grid: int) -> list[Flow]:
    """Of two flows each way the better one, place by place; a place has `grid` pixels to either side."""
    height, width = one.shape
    rows, columns = max(1, height // grid), max(1, width // grid)
    a, b = (np.asarray(cv2.resize(x, (columns, rows), interpolation=cv2.INTER_AREA), np.float32) for x in (one, two))
    costs = []
    for flows in (old, new):
        forth, back = (resized(flow, rows, columns) for flow in flows)
        costs.append((_cost(a, b, forth, back, grid), _cost(b, a, back, forth, grid)))
    out = []
    for way in (0, 1):
        better = (costs[1][way] < costs[0][way] - CLEAR).astype(np.uint8)
        mask = cv2.resize(better, (width, height), interpolation=cv2.INTER_NEAREST)
        out.append(np.where(mask[..., None] > 0, new[way], old[way]))
    return out


def _cost(a: Light, b: Light, flow: Flow, back: Flow, grid: int) -> Light:
    """How far b, fetched along a flow, is from a, and the way back from where it began; levels."""
    missed = np.linalg.norm(flow + _fetched(back, flow), axis=2) * grid
    apart = np.abs(a - _fetched(b, flow)) + MISS * missed.clip(max=MOST)
    return np.asarray(cv2.blur(apart, (BOX, BOX), borderType=cv2.BORDER_REPLICATE), np.float32)


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
