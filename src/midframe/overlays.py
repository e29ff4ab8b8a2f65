"""Static overlays over moving content (logos, subtitles, HUDs): detected, and copied from the source.

An overlay consists of details (edges) that are at the same place, unchanged, in every frame at hand, while the content
around them changes in every gap. Either alone proves nothing: a static background is unchanged, and so is flat sky in a
pan; a model renders both correctly. Details are found in two ways:

    static texture    static pixels that differ strongly from other static pixels beside them: outlined text, a logo of
                      several colours. Where the camera moves that hardly happens by chance (under 0.8 % of the pixels
                      of 24 real videos, 4 to 5 % of one of water, 6 to 94 % of those of rendered overlays), so little
                      is required of the surroundings. Edges along the motion only look static (the aperture problem: a
                      window sill in a pan), so edges of other directions must be static beside them.
    isolated regions  static pixels of one level amid moving ones, such as plain text. Sky between moving leaves is
                      that too, so the surroundings must move in every gap, on all sides, and stably.

Thin text without an outline is rarely either. But where a part of a text is found, its level identifies the rest:
static details of the levels that are common in the part, thin, near it, and so on from letter to letter.

Overlays are protected: copied from the nearest source frame, with soft edges. A mask can also be painted: white is
protected, black is not.

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

_SAME_LEVELS = 3  # 8-bit levels by which noise and recoding change static pixels
_EDGE = 24  # 8-bit levels within 5x5 pixels that make a detail
_MOVED = 8  # 8-bit levels by which a moving detail changes its pixels
_CELL = 8  # side of the cells in which motion is measured, pixels
_MOVING_CELL = 10  # of 255: fraction of a cell that must change for it to move
_MIN_MOVING = 0.02  # fraction of the cells that must move for an overlay to be searched for
_MIN_DENSITY = 0.15  # fraction of a cell that details must fill
_SURROUNDING_CELLS = 3  # cells from a detail to the surroundings that must move
_MIN_MOVING_AROUND = 0.5  # fraction of the cells around that must have moved, in every gap
_MIN_STABLE = 0.5  # fraction of the changing pixels beside a detail that change in every gap
_GROWTH = 2  # pixels by which a protected detail grows, for its soft edge
_SPREAD_STEPS = 5  # steps of two pixels by which protection spreads over static pixels
_MAX_REGION = 0.25  # fraction of the frame above which a connected static region is the scene itself
_TEXTURE_WINDOW = 35  # pixels; side of the window in which static texture is counted and extended
_MIN_TEXTURE = 6  # pixels of a static texture in a window: fewer may agree by chance
_CORNER_RATIO = (
    0.1  # strength of edges across the dominant direction over that along it; below, they are edges along the motion
)
_MIN_CORNER_STRENGTH = 576.0  # squared levels of that in a window: one pixel beside which the level jumps by `_EDGE`
_MOVING_CAMERA = 0.35  # fraction of the cells that must move for static texture to be searched
_MAX_STATIC_DETAIL = 0.12  # fraction of the details that may be static; more are in slow, dim scenes
_SMALL_STATIC_DETAIL = 0.04  # fraction of the frame that static details may fill however few others there are
_CONSTANT_LEVELS = 3  # 8-bit levels within which a pixel of a static texture stays in all frames
_TEXTURE_MOVING_AROUND = 0.25  # fraction of the cells around a static texture that must have moved, in every gap
_TEXT_MIN_PIXELS = 20  # pixels of details required to find the level of a text
_TEXT_LEVEL_SHARE = 0.2  # fraction of them that have the level of the text, at least
_TEXT_LEVEL_RANGE = 3  # 8-bit levels by which text deviates from it
_TEXT_LEVEL_MAX = 0.05  # fraction of the frame of a level above which it is no text level: darkness, a bright sky
_STROKE_WIDTH = 9, 50  # pixels, and lines per pixel of the height; thicker shapes are no text strokes
_TEXT_STEPS = 30  # windows from the seeds to the end of a text, at most


@dataclass(frozen=True, slots=True)
class Protection:
    """How much of each pixel comes from the source: one (H, W) uint8 for luma-sized planes, one for chroma."""

    full: Tensor  # 0: interpolated, 255: the source
    chroma: Tensor
    top: int  # bounding box of all that is not 0, in luma pixels, even
    left: int
    bottom: int
    right: int


@dataclass(frozen=True, slots=True)
class Change:
    """Changes from one frame to the next."""

    same: Array  # (H, W) uint8: 255 where nothing changes
    moving: Array  # (H / 8, W / 8) uint8: 255 for cells in which something moves


def compare(first: Frame, second: Frame) -> Change:
    """Changes between two frames of one size, for `find`; cached from gap to gap."""
    changed = cv2.absdiff(_luma8(first), _luma8(second))
    size = max(1, first.width // _CELL), max(1, first.height // _CELL)
    part = cv2.resize(cv2.inRange(changed, _MOVED + 1, 255), size, interpolation=cv2.INTER_AREA)
    return Change(cv2.inRange(changed, 0, _SAME_LEVELS), cv2.inRange(part, _MOVING_CELL, 255))


def find(
    before: Frame | None,
    a: Frame,
    b: Frame,
    after: Frame | None,
    known: dict[tuple[int, int], Change] | None = None,
) -> Protection | None:
    """Static overlays between a and b, or None where there are none.

    At least one neighbour must be there: in two frames alone an overlay cannot be distinguished from accidental
    agreement.

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
    moving = changes[0].moving
    for change in changes[1:]:
        moving = cv2.min(moving, change.moving)
    if cv2.countNonZero(moving) < _MIN_MOVING * moving.size:  # nothing moves; nothing to protect
        return None
    static, changing = changes[0].same, cv2.bitwise_not(changes[0].same)
    for change in changes[1:]:
        static = cv2.min(static, change.same)
        changing = cv2.subtract(changing, change.same)
    here, square = _luma8(a), np.ones((5, 5), np.uint8)
    contrast = cv2.subtract(cv2.dilate(here, square), cv2.erode(here, square))
    static, protected = cv2.min(static, _constant_pixels(frames)), np.zeros_like(here)
    details = cv2.inRange(contrast, _EDGE, 255)
    most = max(_MAX_STATIC_DETAIL * cv2.countNonZero(details), _SMALL_STATIC_DETAIL * details.size)
    still_details = cv2.min(details, static)
    if cv2.countNonZero(still_details) > most:
        return None  # the scene itself hardly moves, or moves by a whole period of its texture
    if cv2.countNonZero(moving) >= _MOVING_CAMERA * moving.size:
        protected = _static_texture(here, static, moving)
    detail: Array = cv2.min(_opened(static), details)
    if _dense_cells(detail, moving).any():
        detail = cv2.min(detail, _stable(static, changing))
        isolated = _isolated_regions((detail > 0).astype(np.uint8), (static > 0).astype(np.uint8), moving)
        protected = protected if isolated is None else protected | isolated
    if not protected.any():
        return None
    protected = protected | _text_strokes(here, still_details, static, moving, protected)
    grown = cv2.dilate(protected * np.uint8(255), np.ones((3, 3), np.uint8))
    return _protection(cv2.blur(grown, (3, 3)), a)


def _opened(static: Array) -> Array:
    """Opened mask: static over at least 2x2 pixels."""
    pair = np.ones((2, 2), np.uint8)
    # opposite anchors, or an even kernel would shift the mask
    out: Array = cv2.dilate(cv2.erode(static, pair, anchor=(0, 0)), pair, anchor=(1, 1))
    return out


def _constant_pixels(frames: list[Frame]) -> Array:
    """(H, W) uint8: 255 where all frames have the same level: water and foliage may agree from frame to frame only."""
    lightest = darkest = _luma8(frames[0])
    for frame in frames[1:]:
        lightest, darkest = cv2.max(lightest, _luma8(frame)), cv2.min(darkest, _luma8(frame))
    out: Array = cv2.inRange(cv2.subtract(lightest, darkest), 0, _CONSTANT_LEVELS)
    return out


def _static_texture(here: Array, static: Array, moving: Array) -> Array:
    """(H, W) 0 or 1: static pixels near static texture over moving content."""
    height, width = here.shape
    square = np.ones((5, 5), np.uint8)
    lightest = cv2.dilate(cv2.min(here, static), square)
    darkest = cv2.erode(cv2.max(here, cv2.bitwise_not(static)), square)
    texture = cv2.min(_opened(static), cv2.inRange(cv2.subtract(lightest, darkest), _EDGE, 255))
    window = _TEXTURE_WINDOW, _TEXTURE_WINDOW
    count = cv2.boxFilter(texture, cv2.CV_32F, window, normalize=False, borderType=cv2.BORDER_CONSTANT)
    around = _moving_around(moving, height, width)
    texture = cv2.min(cv2.min(texture, around), cv2.inRange(count, 255 * _MIN_TEXTURE, float("inf")))
    texture = cv2.min(texture, _corners(here, static, texture))
    if not texture.any():
        return np.zeros_like(here)
    near = cv2.dilate(texture, np.ones(window, np.uint8))
    out: Array = (cv2.min(near, static) > 0).astype(np.uint8)
    return out


def _corners(here: Array, static: Array, where: Array) -> Array:
    """(H, W) uint8: 255 where edges between static pixels within a window have more than one direction.

    By the structure tensor (Foerstner & Guelch 1987), evaluated where `where` is not 0.
    """
    box = _box(where, _TEXTURE_WINDOW // 2 + 1)
    level, there = here[box].astype(np.float32), static[box] > 0
    x, y = np.zeros_like(level), np.zeros_like(level)
    x[:, 1:-1] = (level[:, 2:] - level[:, :-2]) * (there[:, 2:] & there[:, 1:-1] & there[:, :-2])
    y[1:-1] = (level[2:] - level[:-2]) * (there[2:] & there[1:-1] & there[:-2])
    xx, xy, yy = (
        cv2.boxFilter(z, cv2.CV_32F, (_TEXTURE_WINDOW,) * 2, normalize=False, borderType=cv2.BORDER_CONSTANT)
        for z in (x * x, x * y, y * y)
    )
    mean, apart = 0.5 * (xx + yy), np.sqrt(0.25 * (xx - yy) ** 2 + xy * xy)  # strongest, weakest: mean +- apart
    out = np.zeros_like(here)
    out[box] = ((mean - apart > _CORNER_RATIO * (mean + apart)) & (mean - apart > _MIN_CORNER_STRENGTH)) * np.uint8(255)
    return out


def _text_strokes(here: Array, detail: Array, static: Array, moving: Array, found: Array) -> Array:
    """(H, W) 0 or 1: text strokes near `found`, of its text level.

    Where strokes are a pixel wide, most of them are neither patterns nor static over 2x2 pixels.
    """
    seeds = cv2.min(detail, found * np.uint8(255))
    count = cv2.countNonZero(seeds)
    if count < _TEXT_MIN_PIXELS:
        return np.zeros_like(found)
    levels = [cv2.calcHist([here], [0], mask, [256], [0, 256]).ravel() for mask in (seeds, None)]
    there, anywhere = (np.convolve(x, np.ones(2 * _TEXT_LEVEL_RANGE + 1), "same") for x in levels)
    common = (there >= _TEXT_LEVEL_SHARE * count) & (anywhere <= _TEXT_LEVEL_MAX * here.size)
    text = cv2.min(static, cv2.LUT(here, common * np.uint8(255)))
    thickest = max(_STROKE_WIDTH[0], here.shape[0] // _STROKE_WIDTH[1]) | 1
    thick = cv2.morphologyEx(text, cv2.MORPH_OPEN, np.ones((thickest, thickest), np.uint8))
    text = cv2.subtract(text, cv2.dilate(thick, np.ones((5, 5), np.uint8)))
    strokes = cv2.min(cv2.min(detail, text), _moving_around(moving, *here.shape))
    box = _box(cv2.max(seeds, strokes), 2 * _SPREAD_STEPS + 2)  # nothing farther away is reached
    part, strokes, text = seeds[box], strokes[box], text[box]
    window = np.ones((_TEXTURE_WINDOW, _TEXTURE_WINDOW), np.uint8)
    for _ in range(_TEXT_STEPS):
        part = cv2.max(part, cv2.min(cv2.dilate(part, window), strokes))
        count, before = cv2.countNonZero(part), count
        if count == before:
            break
    for _ in range(_SPREAD_STEPS):
        part = cv2.max(part, cv2.min(cv2.dilate(part, np.ones((5, 5), np.uint8)), text))
    added = cv2.subtract(part, found[box] * np.uint8(255))
    rim = cv2.min(cv2.dilate(added, np.ones((5, 5), np.uint8)), static[box])
    out = np.zeros_like(found)
    out[box] = cv2.max(added, rim) > 0
    return out


def _box(mask: Array, reach: int) -> tuple[slice, slice]:
    """Rows and columns of the bounding box of a mask, `reach` pixels larger on every side."""
    left, top, across, down = cv2.boundingRect(mask)
    return slice(max(top - reach, 0), top + down + reach), slice(max(left - reach, 0), left + across + reach)


def _moving_around(moving: Array, height: int, width: int) -> Array:
    """(height, width) uint8: 255 where enough of the cells around have moved."""
    moving = cv2.blur(moving, (2 * _SURROUNDING_CELLS + 1,) * 2)
    around = cv2.inRange(moving, 255 * _TEXTURE_MOVING_AROUND, 255)
    out: Array = cv2.resize(around, (width, height), interpolation=cv2.INTER_NEAREST)
    return out


def _dense_cells(detail: Array, moving: Array) -> Array:
    """(H / 8, W / 8) uint8: 1 for the cells that details (255) fill well enough."""
    cells = cv2.resize(detail, (moving.shape[1], moving.shape[0]), interpolation=cv2.INTER_AREA)
    return (cells > 255 * _MIN_DENSITY).astype(np.uint8)


def _stable(static: Array, changing: Array) -> Array:
    """(H, W) uint8: 255 where nearby changes occur in every gap.

    Patches of sky between moving leaves are static too, but their outlines move: pixels beside them change in one
    gap and not in the next. Beside an overlay the same pixels change every time.
    """
    height, width = static.shape
    small = max(1, width // 4), max(1, height // 4)
    always = cv2.blur(cv2.resize(changing, small, interpolation=cv2.INTER_AREA), (5, 5))
    ever = cv2.blur(cv2.resize(cv2.bitwise_not(static), small, interpolation=cv2.INTER_AREA), (5, 5))
    enough = (always >= _MIN_STABLE * ever.astype(np.float32)).astype(np.uint8) * np.uint8(255)
    out: Array = cv2.resize(enough, (width, height), interpolation=cv2.INTER_NEAREST)
    return out


def load_mask(path: str | Path) -> Array:
    """Load a painted mask from an image file: (h, w) uint8, white is protected, transparent is not.

    Raises:
        InputError: not an image.
    """
    data = np.fromfile(path, np.uint8) if Path(path).is_file() else np.empty(0, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None:
        raise InputError(f"mask {path} cannot be read as an image; give a PNG, white where pixels are protected")
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=255 / 65535)
    if image.ndim == 2:
        return image
    gray: Array = cv2.cvtColor(np.ascontiguousarray(image[..., :3]), cv2.COLOR_BGR2GRAY)
    return gray if image.shape[2] < 4 else cv2.min(gray, np.ascontiguousarray(image[..., 3]))


def from_mask(mask: Array, frame: Frame) -> Protection | None:
    """Protection by a painted mask (h, w), white 255 = protected, scaled to the size of a frame."""
    size = frame.width, frame.height
    if (mask.shape[1], mask.shape[0]) != size:
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_AREA)
    return _protection(mask.astype(np.uint8), frame)


def protect(planes: tuple[Tensor, ...], source: Frame, protection: Protection) -> tuple[Tensor, ...]:
    """Copy protected pixels of the source into interpolated planes, in place."""
    for n, plane in enumerate(planes):
        shrunk = source.format.layout == "yuv" and n in (1, 2)
        across, down = (source.format.chroma_w, source.format.chroma_h) if shrunk else (0, 0)
        mask = protection.chroma if shrunk else protection.full
        box = (
            slice(protection.top >> down, -(-protection.bottom >> down)),
            slice(protection.left >> across, -(-protection.right >> across)),
        )
        target, kept, weight = (x[box].numpy() for x in (plane, source.planes[n], mask))
        mixed = target + (kept.astype(np.float32) - target) * (weight * np.float32(1 / 255))
        target[...] = np.rint(mixed)
    return planes


def _luma8(frame: Frame) -> Array:
    """Luma, or the green of RGB, as (H, W) uint8."""
    plane: Array = frame.planes[1 if frame.format.layout == "rgb" else 0].numpy()
    return plane if frame.format.depth == 8 else (plane >> (frame.format.depth - 8)).astype(np.uint8)


def _isolated_regions(detail: Array, static: Array, moving: Array) -> Array | None:
    """(H, W) 0 or 1: static details with motion on all sides, grown over the static pixels between them."""
    height, width = detail.shape
    rows, columns = moving.shape
    cells = _dense_cells(detail * np.uint8(255), moving)
    joined = cv2.dilate(cells, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined, connectivity=8)
    kept = np.zeros_like(cells)
    for label in range(1, count):
        left, top, wide, tall, area = stats[label]
        if area > _MAX_REGION * rows * columns:
            continue
        box = (
            slice(max(0, top - _SURROUNDING_CELLS), min(rows, top + tall + _SURROUNDING_CELLS)),
            slice(max(0, left - _SURROUNDING_CELLS), min(columns, left + wide + _SURROUNDING_CELLS)),
        )
        own = (labels[box] == label).astype(np.uint8)
        around = cv2.dilate(own, np.ones((2 * _SURROUNDING_CELLS + 1,) * 2, np.uint8)) & (own ^ 1)
        if around.any() and _moves_on_all_sides(own, around, moving[box]):
            kept[box] |= own
    if not kept.any():
        return None
    region: Array = cv2.resize(kept, (width, height), interpolation=cv2.INTER_NEAREST)
    seeds: Array = detail & region
    near: Array = cv2.dilate(seeds, np.ones((2 * _GROWTH + 1,) * 2, np.uint8))
    # static pixels enclosed by kept details belong to them: the inside of letters and logos
    closed: Array = cv2.morphologyEx(near, cv2.MORPH_CLOSE, np.ones((15, 15), np.uint8))
    ground: Array = cv2.min(static, region)
    out: Array = (near | closed) & ground
    for _ in range(_SPREAD_STEPS):  # along strokes, whose ends have too little contrast to be details
        out = cv2.dilate(out, np.ones((5, 5), np.uint8)) & ground
    return out


def _moves_on_all_sides(own: Array, around: Array, moving: Array) -> bool:
    """Whether half of the ring has moved, and something on every side of it inside the frame."""
    ring, moving = around.astype(bool), moving > 0
    if moving[ring].mean() < _MIN_MOVING_AROUND:
        return False
    y, x = np.nonzero(own)
    middle = y.mean(), x.mean()
    yy, xx = np.nonzero(ring)
    moved = moving[ring]
    for side in (yy < middle[0], yy > middle[0], xx < middle[1], xx > middle[1]):
        if side.any() and moved[side].mean() < _MIN_MOVING_AROUND / 2:
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
