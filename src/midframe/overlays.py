"""What stays put while the picture behind it moves: logos, subtitles, displays. Found, and protected.

An overlay is made of details (edges) that are in the same place, unchanged, in every frame at hand, while the picture
around them changes in every gap and on all sides. Either alone proves nothing: a still background is unchanged, and so
is flat sky in a pan; a model renders both rightly. Only where both hold is a pixel protected, which means copied from
the nearest source frame, with soft edges. A person can also paint a mask: white is protected, black is not.

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
_DENSE = 0.15  # part of a cell that details must fill
_REACH = 3  # cells from a detail to the surroundings that must move
_LIVELY = 0.5  # part of the cells around that must have moved, in every gap
_STEADY = 0.5  # part of the changing pixels beside a detail that change in every gap
_GROW = 2  # pixels by which a protected detail is grown, to take in its soft edge
_SPREAD = 5  # times that protection spreads by two pixels over what is still
_LARGEST = 0.25  # part of the picture above which a connected still region is the scene itself


@dataclass(frozen=True, slots=True)
class Protection:
    """How much of each pixel comes from the source: one (H, W) uint8 for luma-sized planes, one for chroma."""

    full: Tensor  # 0: what the model made, 255: the source
    chroma: Tensor
    top: int  # the box that holds everything that is not 0, in luma pixels, even
    left: int
    bottom: int
    right: int


def find(before: Frame | None, a: Frame, b: Frame, after: Frame | None) -> Protection | None:
    """Static overlays between a and b, or None where there are none.

    At least one neighbour must be there: two frames alone do not tell an overlay from what happens to agree.
    """
    if before is None and after is None:
        return None
    frames = [frame for frame in (before, a, b, after) if frame is not None]
    lumas = [_luma8(frame) for frame in frames]
    still: Array | None = None  # 255 where no gap changes a pixel
    restless: Array | None = None  # 255 where every gap does
    lively: Array | None = None  # 1 for cells in which something moves in every gap
    for first, second in pairwise(lumas):
        changed = cv2.absdiff(first, second)
        same = cv2.inRange(changed, 0, _SAME)
        moved = _cells(cv2.inRange(changed, _MOVED + 1, 255))
        still = same if still is None else cv2.min(still, same)
        restless = cv2.bitwise_not(same) if restless is None else cv2.subtract(restless, same)
        lively = moved if lively is None else np.minimum(lively, moved)
    assert still is not None and restless is not None and lively is not None
    if lively.mean() < 0.02:  # nothing moves; nothing to protect
        return None
    here = lumas[0 if before is None else 1]
    contrast = cv2.subtract(cv2.dilate(here, np.ones((5, 5), np.uint8)), cv2.erode(here, np.ones((5, 5), np.uint8)))
    # still over at least 2x2 pixels; opposite anchors, or an even kernel would shift the picture
    pair = np.ones((2, 2), np.uint8)
    solid = cv2.dilate(cv2.erode(still, pair, anchor=(0, 0)), pair, anchor=(1, 1))
    # Patches of sky between moving leaves are still too, but their outlines move: what changes beside them changes in
    # one gap and not in the next. Beside an overlay the same pixels change every time.
    steady = cv2.blur(restless, (15, 15)) >= _STEADY * cv2.blur(cv2.bitwise_not(still), (15, 15)).astype(np.float32)
    detail = ((solid > 0) & (contrast >= _EDGE) & steady).astype(np.uint8)
    if not detail.any():
        return None
    protected = _enclosed(detail, (still > 0).astype(np.uint8), lively)
    if protected is None:
        return None
    grown = cv2.dilate(protected * np.uint8(255), np.ones((3, 3), np.uint8))
    return _protection(cv2.blur(grown, (3, 3)), a)


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


def _cells(moved: Array) -> Array:
    """(H / 8, W / 8) float32: 1 where a good part of a cell has moved."""
    height, width = moved.shape
    size = max(1, width // _CELL), max(1, height // _CELL)
    part = cv2.resize(moved.astype(np.float32), size, interpolation=cv2.INTER_AREA) / 255
    out: Array = (part > 0.04).astype(np.float32)
    return out


def _enclosed(detail: Array, still: Array, lively: Array) -> Array | None:
    """(H, W) 0 or 1: the still details with movement on all sides, grown over the still pixels between them."""
    height, width = detail.shape
    rows, columns = lively.shape
    cells = (cv2.resize(detail.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA) > _DENSE).astype(
        np.uint8
    )
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
    ring = around.astype(bool)
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
