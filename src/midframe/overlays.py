"""What stays put while the picture behind it moves: logos, subtitles, displays. Found, and protected.

An overlay is made of details (edges) that are in the same place, unchanged, in every frame at hand, while the picture
around them changes in every gap. Either alone proves nothing: a still background is unchanged, and so is flat sky in a
pan; a model renders both rightly. Details are found in two ways:

    patterns   still pixels that differ strongly from other still pixels beside them: letters with an outline, a logo
               of several colours. Where the camera moves that hardly happens by chance (under 0.8 % of the pixels of
               24 real films, 4 to 5 % of one of water, 6 to 94 % of those of drawn overlays), so little is asked
               of the surroundings. Edges along the motion only look still (the aperture problem: a window sill in a
               pan), so edges of other directions must be still beside them.
    islands    still pixels of one level amid moving ones, as plain letters are. Sky between moving leaves is too, so
               the surroundings must move in every gap, on all sides, and steadily.

Thin letters without an outline hardly make either. But where a part of a text is found, what it is written in tells the
rest: still details of the levels that are common in what is found, thin, near it, and so on from letter to letter.

What belongs to them is protected: copied from the nearest source frame, with soft edges. A person can also paint a
mask: white is protected, black is not.

Works on the planes as decoded, on the CPU; knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from midframe.errors import InputError
from midframe.types import Frame

Array = npt.NDArray[Any]

_SAME = 3  # 8-bit levels by which noise and recoding change what stands still
_EDGE = 24  # 8-bit levels within 5x5 pixels that make a detail
_MOVED = 8  # 8-bit levels by which a moving detail changes its pixels
_CELL = 8  # side of the cells in which surroundings are judged, pixels
_LIVELY_CELL = 10  # of 255: part of a cell that must change for it to move
_FILM_MOVES = 0.02  # part of the cells that must move for an overlay to be worth a search
_DENSE = 0.15  # part of a cell that details must fill
_REACH = 3  # cells from a detail to the surroundings that must move
_LIVELY = 0.5  # part of the cells around that must have moved, in every gap
_STEADY = 0.5  # part of the changing pixels beside a detail that change in every gap
_GROW = 2  # pixels by which a protected detail is grown, to take in its soft edge
_SPREAD = 5  # times that protection spreads by two pixels over what is still
_LARGEST = 0.25  # part of the picture above which a connected still region is the scene itself
_PATTERN_SIDE = 35  # pixels; side of the window in which still patterns are counted, and still pixels belong to them
_PATTERN_LEAST = 6  # pixels of a still pattern in a window: fewer agree by chance
_CORNERS = 0.1  # of the strength of edges along, so much must they have across to be no edges along the motion
_CORNERS_LEAST = 576.0  # squared levels of that in a window: one pixel beside which the level jumps by `_EDGE`
_CAMERA_MOVES = 0.35  # part of the cells that must move for still patterns to be searched
_OVERLAY_DETAIL = 0.12  # part of the picture's details that may be still; of a slow scene in dim light more agree
_SMALL_DETAIL = 0.04  # part of the picture that still details may fill however few others there are
_RANGE = 3  # 8-bit levels within which a pixel of a still pattern stays in all frames
_PATTERN_LIVELY = 0.25  # part of the cells around a still pattern that must have moved, in every gap
_INK_LEAST = 20  # pixels of details that must have been found to tell what a text is written in
_INK_SHARE = 0.2  # part of them that a level must have for that
_INK_RANGE = 3  # 8-bit levels by which a text strays from it
_INK_MOST = 0.05  # part of the picture of a level above which it says nothing: the dark, or a bright sky
_STROKE = 9, 50  # what is thicker than so many pixels and than that part of the height is no stroke of a letter
_STROKE_STEPS = 30  # windows from what is found to the end of a text, at most


@dataclass(frozen=True, slots=True)
class Protection:
    """How much of each pixel comes from the source: one (H, W) uint8 for luma-sized planes, one for chroma."""

    full: Tensor  # 0: what the model made, 255: the source
    chroma: Tensor
    top: int  # the box that holds everything that is not 0, in luma pixels, even
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, slots=True)
class Change:
    """What changes from one frame to the next."""

    same: Array  # (H, W) uint8: 255 where the picture stays
    lively: Array  # (H / 8, W / 8) uint8: 255 for cells in which something moves


def compare(first: Frame, second: Frame) -> Change:
    """Where two frames of one size differ; what `find` starts from, to be kept from gap to gap."""
    changed = cv2.absdiff(_luma8(first), _luma8(second))
    size = max(1, first.width // _CELL), max(1, first.height // _CELL)
    part = cv2.resize(cv2.inRange(changed, _MOVED + 1, 255), size, interpolation=cv2.INTER_AREA)
    return Change(cv2.inRange(changed, 0, _SAME), cv2.inRange(part, _LIVELY_CELL, 255))


def find(
    before: Frame | None,
    a: Frame,
    b: Frame,
    after: Frame | None,
    known: dict[tuple[int, int], Change] | None = None,
) -> Protection | None:
    """Static overlays between a and b, or None where there are none.

    At least one neighbour must be there: two frames alone do not tell an overlay from what happens to agree.

    Args:
        before: the frame before a, or None.
        a: left frame of the gap.
        b: right frame.
        after: the frame after b, or None.
        known: changes by the indexes of both frames; looked up here, and added to.
    """
    frames = [f for f in (before, a, b, after) if f is not None and f.format == a.format]
    frames = [f for f in frames if (f.height, f.width) == (a.height, a.width)]
    if len(frames) < 3 or (len(frames) == 3 and b.format != a.format):
        return None
    known = {} if known is None else known
    changes = []
    for first, second in pairwise(frames):
        key = first.index, second.index
        if key not in known:
            known[key] = compare(first, second)
        changes.append(known[key])
    lively = changes[0].lively
    for change in changes[1:]:
        lively = cv2.min(lively, change.lively)
    if cv2.countNonZero(lively) < _FILM_MOVES * lively.size:  # nothing moves; nothing to protect
        return None
    still, restless = changes[0].same, cv2.bitwise_not(changes[0].same)
    for change in changes[1:]:
        still = cv2.min(still, change.same)
        restless = cv2.subtract(restless, change.same)
    here, square = _luma8(a), np.ones((5, 5), np.uint8)
    contrast = cv2.subtract(cv2.dilate(here, square), cv2.erode(here, square))
    still, protected = cv2.min(still, _constant(frames)), np.zeros_like(here)
    details = cv2.inRange(contrast, _EDGE, 255)
    most = max(_OVERLAY_DETAIL * cv2.countNonZero(details), _SMALL_DETAIL * details.size)
    still_details = cv2.min(details, still)
    if cv2.countNonZero(still_details) > most:
        return None  # it is the scene that hardly moves, or moves by a whole period of its texture
    if cv2.countNonZero(lively) >= _CAMERA_MOVES * lively.size:
        protected = _patterns(here, still, lively)
    detail: Array = cv2.min(_solid(still), details)
    if _dense(detail, lively).any():
        detail = cv2.min(detail, _steady(still, restless))
        islands = _enclosed((detail > 0).astype(np.uint8), (still > 0).astype(np.uint8), lively)
        protected = protected if islands is None else protected | islands
    if not protected.any():
        return None
    protected = protected | _text(here, still_details, still, lively, protected)
    grown = cv2.dilate(protected * np.uint8(255), np.ones((3, 3), np.uint8))
    return _protection(cv2.blur(grown, (3, 3)), a)


def _solid(still: Array) -> Array:
    """What is still over at least 2x2 pixels."""
    pair = np.ones((2, 2), np.uint8)
    # opposite anchors, or an even kernel would shift the picture
    out: Array = cv2.dilate(cv2.erode(still, pair, anchor=(0, 0)), pair, anchor=(1, 1))
    return out


def _constant(frames: list[Frame]) -> Array:
    """(H, W) uint8: 255 where all frames have the same level: water and foliage may agree from frame to frame only."""
    lightest = darkest = _luma8(frames[0])
    for frame in frames[1:]:
        lightest, darkest = cv2.max(lightest, _luma8(frame)), cv2.min(darkest, _luma8(frame))
    out: Array = cv2.inRange(cv2.subtract(lightest, darkest), 0, _RANGE)
    return out


def _patterns(here: Array, still: Array, lively: Array) -> Array:
    """(H, W) 0 or 1: still pixels near still patterns over something that moves."""
    height, width = here.shape
    square = np.ones((5, 5), np.uint8)
    lightest = cv2.dilate(cv2.min(here, still), square)
    darkest = cv2.erode(cv2.max(here, cv2.bitwise_not(still)), square)
    pattern = cv2.min(_solid(still), cv2.inRange(cv2.subtract(lightest, darkest), _EDGE, 255))
    window = _PATTERN_SIDE, _PATTERN_SIDE
    count = cv2.boxFilter(pattern, cv2.CV_32F, window, normalize=False, borderType=cv2.BORDER_CONSTANT)
    around = _moves_around(lively, height, width)
    pattern = cv2.min(cv2.min(pattern, around), cv2.inRange(count, 255 * _PATTERN_LEAST, float("inf")))
    pattern = cv2.min(pattern, _edges_cross(here, still, pattern))
    if not pattern.any():
        return np.zeros_like(here)
    near = cv2.dilate(pattern, np.ones(window, np.uint8))
    out: Array = (cv2.min(near, still) > 0).astype(np.uint8)
    return out


def _edges_cross(here: Array, still: Array, where: Array) -> Array:
    """(H, W) uint8: 255 where edges between still pixels, within a window, have more than one direction.

    Told by the structure tensor (Foerstner & Guelch 1987); looked at where `where` is not 0.
    """
    box = _box(where, _PATTERN_SIDE // 2 + 1)
    level, there = here[box].astype(np.float32), still[box] > 0
    x, y = np.zeros_like(level), np.zeros_like(level)
    x[:, 1:-1] = (level[:, 2:] - level[:, :-2]) * (there[:, 2:] & there[:, 1:-1] & there[:, :-2])
    y[1:-1] = (level[2:] - level[:-2]) * (there[2:] & there[1:-1] & there[:-2])
    xx, xy, yy = (
        cv2.boxFilter(z, cv2.CV_32F, (_PATTERN_SIDE,) * 2, normalize=False, borderType=cv2.BORDER_CONSTANT)
        for z in (x * x, x * y, y * y)
    )
    mean, apart = 0.5 * (xx + yy), np.sqrt(0.25 * (xx - yy) ** 2 + xy * xy)  # strongest, weakest: mean +- apart
    out = np.zeros_like(here)
    out[box] = ((mean - apart > _CORNERS * (mean + apart)) & (mean - apart > _CORNERS_LEAST)) * np.uint8(255)
    return out


def _text(here: Array, detail: Array, still: Array, lively: Array, found: Array) -> Array:
    """(H, W) 0 or 1: strokes of letters near what is found, written in what that is written in.

    Where strokes are a pixel wide, most of them are neither patterns nor still over 2x2 pixels.
    """
    seeds = cv2.min(detail, found * np.uint8(255))
    count = cv2.countNonZero(seeds)
    if count < _INK_LEAST:
        return np.zeros_like(found)
    levels = [cv2.calcHist([here], [0], mask, [256], [0, 256]).ravel() for mask in (seeds, None)]
    there, anywhere = (np.convolve(x, np.ones(2 * _INK_RANGE + 1), "same") for x in levels)
    common = (there >= _INK_SHARE * count) & (anywhere <= _INK_MOST * here.size)
    ink = cv2.min(still, cv2.LUT(here, common * np.uint8(255)))
    thickest = max(_STROKE[0], here.shape[0] // _STROKE[1]) | 1
    thick = cv2.morphologyEx(ink, cv2.MORPH_OPEN, np.ones((thickest, thickest), np.uint8))
    ink = cv2.subtract(ink, cv2.dilate(thick, np.ones((5, 5), np.uint8)))
    strokes = cv2.min(cv2.min(detail, ink), _moves_around(lively, *here.shape))
    box = _box(cv2.max(seeds, strokes), 2 * _SPREAD + 2)  # nothing comes of what is farther off
    part, strokes, ink = seeds[box], strokes[box], ink[box]
    window = np.ones((_PATTERN_SIDE, _PATTERN_SIDE), np.uint8)
    for _ in range(_STROKE_STEPS):
        part = cv2.max(part, cv2.min(cv2.dilate(part, window), strokes))
        count, before = cv2.countNonZero(part), count
        if count == before:
            break
    for _ in range(_SPREAD):
        part = cv2.max(part, cv2.min(cv2.dilate(part, np.ones((5, 5), np.uint8)), ink))
    added = cv2.subtract(part, found[box] * np.uint8(255))
    rim = cv2.min(cv2.dilate(added, np.ones((5, 5), np.uint8)), still[box])
    out = np.zeros_like(found)
    out[box] = cv2.max(added, rim) > 0
    return out


def _box(mask: Array, reach: int) -> tuple[slice, slice]:
    """Rows and columns of all that is not 0 in a mask, and of as many pixels to the sides."""
    left, top, across, down = cv2.boundingRect(mask)
    return slice(max(top - reach, 0), top + down + reach), slice(max(left - reach, 0), left + across + reach)


def _moves_around(lively: Array, height: int, width: int) -> Array:
    """(height, width) uint8: 255 where enough of the cells around have moved."""
    moving = cv2.blur(lively, (2 * _REACH + 1,) * 2)
    around = cv2.inRange(moving, 255 * _PATTERN_LIVELY, 255)
    out: Array = cv2.resize(around, (width, height), interpolation=cv2.INTER_NEAREST)
    return out


def _dense(detail: Array, lively: Array) -> Array:
    """(H / 8, W / 8) uint8: 1 for the cells that details, 255, fill well enough."""
    cells = cv2.resize(detail, (lively.shape[1], lively.shape[0]), interpolation=cv2.INTER_AREA)
    return (cells > 255 * _DENSE).astype(np.uint8)


def _steady(still: Array, restless: Array) -> Array:
    """(H, W) uint8: 255 where what changes nearby changes in every gap.

    Patches of sky between moving leaves are still too, but their outlines move: what changes beside them changes in
    one gap and not in the next. Beside an overlay the same pixels change every time.
    """
    height, width = still.shape
    small = max(1, width // 4), max(1, height // 4)
    always = cv2.blur(cv2.resize(restless, small, interpolation=cv2.INTER_AREA), (5, 5))
    ever = cv2.blur(cv2.resize(cv2.bitwise_not(still), small, interpolation=cv2.INTER_AREA), (5, 5))
    enough = (always >= _STEADY * ever.astype(np.float32)).astype(np.uint8) * np.uint8(255)
    out: Array = cv2.resize(enough, (width, height), interpolation=cv2.INTER_NEAREST)
    return out


def load_mask(path: str | Path) -> Array:
    """A painted mask from a picture file: (h, w) uint8, white is protected, what is transparent is not.

    Raises:
        InputError: not a picture.
    """
    data = np.fromfile(path, np.uint8) if Path(path).is_file() else np.empty(0, np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if picture is None:
        raise InputError(f"mask {path} is not a picture that can be read; give a PNG, white where pixels shall stay")
    if picture.dtype == np.uint16:
        picture = cv2.convertScaleAbs(picture, alpha=255 / 65535)
    if picture.ndim == 2:
        return picture
    gray: Array = cv2.cvtColor(np.ascontiguousarray(picture[..., :3]), cv2.COLOR_BGR2GRAY)
    return gray if picture.shape[2] < 4 else cv2.min(gray, np.ascontiguousarray(picture[..., 3]))


def from_mask(mask: Array, frame: Frame) -> Protection | None:
    """A painted mask (h, w), white 255 = protected, scaled to the frames it is for."""
    size = frame.width, frame.height
    if (mask.shape[1], mask.shape[0]) != size:
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
    return _protection(mask.astype(np.uint8), frame)


def protect(planes: tuple[Tensor, ...], source: Frame, protection: Protection) -> tuple[Tensor, ...]:
    """Put the source's pixels over the made ones where they are protected. The made planes are written to."""
    for n, plane in enumerate(planes):
        shrunk = source.format.layout == "yuv" and n in (1, 2)
        across, down = (source.format.chroma_w, source.format.chroma_h) if shrunk else (0, 0)
        mask = protection.chroma if shrunk else protection.full
        box = (
            slice(protection.top >> down, -(-protection.bottom >> down)),
            slice(protection.left >> across, -(-protection.right >> across)),
        )
        made, kept, share = (x[box].numpy() for x in (plane, source.planes[n], mask))
        mixed = made + (kept.astype(np.float32) - made) * (share * np.float32(1 / 255))
        made[...] = np.rint(mixed)
    return planes


def _luma8(frame: Frame) -> Array:
    """Luma, or the green of RGB, as (H, W) uint8."""
    plane: Array = frame.planes[1 if frame.format.layout == "rgb" else 0].numpy()
    return plane if frame.format.depth == 8 else (plane >> (frame.format.depth - 8)).astype(np.uint8)


def _enclosed(detail: Array, still: Array, lively: Array) -> Array | None:
    """(H, W) 0 or 1: the still details with movement on all sides, grown over the still pixels between them."""
    height, width = detail.shape
    rows, columns = lively.shape
    cells = _dense(detail * np.uint8(255), lively)
    joined = cv2.dilate(cells, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    kept = np.zeros_like(cells)
    for label in range(1, count):
        left, top, wide, tall, area = stats[label]
        if area > _LARGEST * rows * columns:
            continue
        box = (
            slice(max(0, top - _REACH), min(rows, top + tall + _REACH)),
            slice(max(0, left - _REACH), min(columns, left + wide + _REACH)),
        )
        own = (labels[box] == label).astype(np.uint8)
        around = cv2.dilate(own, np.ones((2 * _REACH + 1,) * 2, np.uint8)) & (own ^ 1)
        if around.any() and _moves_on_all_sides(own, around, lively[box]):
            kept[box] |= own
    if not kept.any():
        return None
    region: Array = cv2.resize(kept, (width, height), interpolation=cv2.INTER_NEAREST)
    seeds: Array = detail & region
    near: Array = cv2.dilate(seeds, np.ones((2 * _GROW + 1,) * 2, np.uint8))
    # what is enclosed by kept details and did not change belongs to them: the inside of letters and of a logo
    closed: Array = cv2.morphologyEx(near, cv2.MORPH_CLOSE, np.ones((15, 15), np.uint8))
    ground: Array = cv2.min(still, region)
    out: Array = (near | closed) & ground
    for _ in range(_SPREAD):  # along strokes, whose ends border on too little to be details
        out = cv2.dilate(out, np.ones((5, 5), np.uint8)) & ground
    return out


def _moves_on_all_sides(own: Array, around: Array, lively: Array) -> bool:
    """Whether half of the ring has moved, and something on every side of it that the picture has."""
    ring, lively = around.astype(bool), lively > 0
    if lively[ring].mean() < _LIVELY:
        return False
    y, x = np.nonzero(own)
    middle = y.mean(), x.mean()
    yy, xx = np.nonzero(ring)
    moved = lively[ring]
    for side in (yy < middle[0], yy > middle[0], xx < middle[1], xx > middle[1]):
        if side.any() and moved[side].mean() < _LIVELY / 2:
            return False
    return True


def _protection(mask: Array, frame: Frame) -> Protection | None:
    if not mask.any():
        return None
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    across, down = 1 << frame.format.chroma_w, 1 << frame.format.chroma_h
    top, left = int(rows[0]) // down * down, int(columns[0]) // across * across
    chroma = mask
    if down > 1 or across > 1:
        # a chroma sample is protected as much as the most protected of the pixels it colours
        spread = cv2.dilate(mask, np.ones((down + 1, across + 1), np.uint8))
        chroma = np.ascontiguousarray(spread[::down, ::across])
    return Protection(
        torch.from_numpy(np.ascontiguousarray(mask)),
        torch.from_numpy(chroma),
        max(0, top - down),
        max(0, left - across),
        min(mask.shape[0], int(rows[-1]) + 1 + down),
        min(mask.shape[1], int(columns[-1]) + 1 + across),
    )
