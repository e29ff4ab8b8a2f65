"""Detect scene changes and duplicate frames: streaming, with a lookahead of a frame or two.

A scene change is a frame that motion cannot explain from its predecessor. Both are reduced to thumbnails of 64 pixels
on the long side; each 4x4 block is matched within 4 thumbnail pixels (a 16th of the width), and the mean residual is
compared with the contrast of the two frames, so that dark and flat scenes count as bright ones, and with the residuals
of the frames before and of the next one, so that a fast pan or noise, where residuals are always high, is no scene
change. Duplicates are left out of this: the frame after a run of them may leap. Neither is a flash a scene change (the
scene goes on behind it as it was), nor a light that is switched (the luma of both frames correlates).

This module knows neither models nor optical flow. Detectors share one method.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import islice, pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from midframe.types import Frame

Thumb = npt.NDArray[Any]

THRESHOLD = 0.38
# Frames before a segment that give the detector the same state as in the whole video.
SEARCH_RADIUS = 6
LOOKAHEAD = 5  # frames read behind a candidate
MEMORY = Fraction(5)  # seconds; older frames do not tell how much change is usual

_THUMB = 64  # long side of a thumbnail, pixels
_THUMBNAIL_BLOCK = 4  # side of the matched blocks, thumbnail pixels
_SEARCH = 4  # search range of the matching, thumbnail pixels
_WIDE_SEARCH = 8  # the same behind a run of duplicates
_CHROMA_WEIGHT = 0.5  # weight of each colour difference beside luma
# Residual that noise, small movements and occlusion leave in a static scene: levels, and over its contrast.
_NOISE_FLOOR = 1.0
_CONTRAST = 0.45
_UNIFORM = 16.0  # the same beside a uniform frame, in levels
_UNIFORM_CONTRAST = 0.2  # of the contrast of the other frame, below which a frame is uniform
_QUIET = 0.18  # of that residual; thumbnails that differ less without motion are not matched
_DUPLICATE = 0.02  # of that residual; frames that differ less are duplicates
_RECENT = 5  # frames whose median residual is the usual one
_COMPARED_STEP = 4  # frames; over more, motion does not raise the residual further
_LONGEST_FLASH = 2  # frames
_SAME_STRUCTURE = 0.85  # correlation of luma above which only the light has changed

# A run of near-duplicates of at most this duration is one drawing shown several times (animation on twos to fours,
# pulldown); a longer one is a still.
LONGEST_FLASH = Fraction(1, 6)  # seconds
_LONGEST_RUN = 32  # frames kept at once, whatever the rate
# Mean difference of the worst 16x16 block that recoding leaves between duplicates, in 8-bit levels.
_DUPLICATE_NOISE = 1.5


class Detector(Protocol):
    """Find the frames that begin a shot."""

    def mark(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, bool]]:
        """Yield the same frames in order, each with whether it begins a shot."""
        ...


def label(frames: Iterable[Frame], detector: Detector | None) -> Iterator[Frame]:
    """Number the shots: `Frame.shot` counts the scene changes since the first frame. None: no detection."""
    if detector is None:
        yield from frames
        return
    shot = 0
    for frame, begins in detector.mark(frames):
        shot += begins
        yield frame if frame.shot == shot else replace(frame, shot=shot)


class KnownSceneChanges:
    """Scene changes known beforehand, for example from an edit list."""

    def __init__(self, pts: Collection[Fraction]) -> None:
        """Store the pts of the frames that begin shots."""
        self.pts = frozenset(pts)

    def mark(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, bool]]:
        """Mark every frame with a known pts."""
        return ((frame, frame.pts in self.pts) for frame in frames)


class Thumbnails:
    """The detector described above. Looks one frame ahead, and up to `LOOKAHEAD` frames at a candidate."""

    def __init__(self, threshold: float | None = None) -> None:
        """Scores above `threshold`, 0 to 1, are scene changes; lower detects more."""
        self.threshold = THRESHOLD if threshold is None else threshold

    def mark(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, bool]]:
        """Mark the frames that begin a shot; the first of the stream is not marked."""
        source = ((frame, thumbnail(frame)) for frame in frames)
        first = next(source, None)
        if first is None:
            return
        yield first[0], False
        last = first[1]
        history = _History()
        ahead: deque[tuple[Frame, Thumb]] = deque()

        def fill(count: int) -> None:
            ahead.extend(islice(source, max(0, count - len(ahead))))

        while True:
            fill(2)
            if not ahead:
                return
            here, thumb = ahead[0]
            residual = matching_residual(last, thumb)
            usual = history.usual(here.pts)
            cut = self._exceeds(residual, usual, last, thumb)
            if cut and history.steps > 1:  # what moved meanwhile has moved further
                residual = matching_residual(last, thumb, _WIDE_SEARCH)
                cut = self._exceeds(residual, usual, last, thumb)
            if cut:
                fill(LOOKAHEAD)
                thumbs = [thumb for _, thumb in ahead]
                if flash := self._flash(last, thumbs):
                    for _ in range(flash):
                        yield ahead.popleft()[0], False
                        history.skip()
                    continue
                cut = self._exceeds(residual, max(usual, history.following(thumbs)), last, thumb)
                cut = cut and correlation(last[0], thumb[0]) < _SAME_STRUCTURE
            if cut:
                history.clear()
            elif residual <= _DUPLICATE * _scale(last, thumb):
                history.skip()
            else:
                history.add(here.pts, residual)
            yield here, cut
            last = thumb
            ahead.popleft()

    def _exceeds(self, residual: float, usual: float, a: Thumb, b: Thumb) -> bool:
        """Tell whether a residual between a and b scores above the threshold."""
        return residual / (residual + usual + _scale(a, b)) > self.threshold

    def _flash(self, last: Thumb, thumbs: Sequence[Thumb]) -> int:
        """Return for how many frames the scene is interrupted before it goes on as in `last`; 0 for a scene change."""
        for length in range(1, min(_LONGEST_FLASH, len(thumbs) - 1) + 1):
            returns = matching_residual(thumbs[length - 1], thumbs[length])
            if not self._exceeds(returns, 0.0, thumbs[length - 1], thumbs[length]):
                continue
            if not self._exceeds(matching_residual(last, thumbs[length]), 0.0, last, thumbs[length]):
                return length
        return 0


class _History:
    """Residuals of recent frames, which tell how much change is usual.

    Duplicates are left out, and the frame after a run of them may change as much as so many frames together.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[Fraction, float]] = deque(maxlen=_RECENT)  # pts, residual per frame
        self.steps = 1  # frames since the last that was no duplicate

    def skip(self) -> None:
        """Count a duplicate."""
        self.steps += 1

    def add(self, pts: Fraction, residual: float) -> None:
        """Add the residual of a frame."""
        self._recent.append((pts, residual / min(self.steps, _COMPARED_STEP)))
        self.steps = 1

    def clear(self) -> None:
        """Forget everything at a scene change."""
        self._recent.clear()
        self.steps = 1

    def usual(self, pts: Fraction) -> float:
        """Return the residual that recent frames suggest for a frame at `pts`."""
        recent = [residual for at, residual in self._recent if at >= pts - MEMORY]
        return statistics.median(recent) * min(self.steps, _COMPARED_STEP) if recent else 0.0

    def following(self, thumbs: Sequence[Thumb]) -> float:
        """Return the residual that the next frame which is no duplicate suggests for the first of `thumbs`."""
        mine = self.steps if self.steps <= _COMPARED_STEP else 1  # longer runs are stills
        for steps, (a, b) in enumerate(pairwise(thumbs), 1):
            residual = matching_residual(a, b)
            if residual > _DUPLICATE * _scale(a, b):
                return residual * mine / steps
        return 0.0


def thumbnail(frame: Frame) -> Thumb:
    """Reduce a frame to (3, h, w) float32: luma and two colour differences, 8-bit levels, long side 64 pixels.

    In numpy, because torch would wake its threads for very little work.
    """
    scale = 1.0 / (1 << (frame.format.depth - 8))
    long = max(frame.height, frame.width)
    height, width = _cells(frame.height, long), _cells(frame.width, long)
    small = []
    for plane in frame.planes[:1] if frame.format.layout == "gray" else frame.planes[:3]:
        # 16 samples approximate the mean of a cell well enough
        rows, columns = _places(plane.shape[0], 4 * height), _places(plane.shape[1], 4 * width)
        picked = plane.numpy()[rows[:, None], columns]
        small.append(picked.reshape(height, 4, width, 4).mean((1, 3), dtype=np.float32) * np.float32(scale))
    if frame.format.layout == "gray":
        small += [np.zeros_like(small[0])] * 2
    elif frame.format.layout == "rgb":
        red, green, blue = small
        luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        small = [luma, (blue - luma) * 0.5389, (red - luma) * 0.6350]
    return np.stack(small).astype(np.float32)


def _cells(side: int, long: int) -> int:
    return max(_THUMBNAIL_BLOCK, round(side * _THUMB / long / _THUMBNAIL_BLOCK) * _THUMBNAIL_BLOCK)


def _places(side: int, count: int) -> npt.NDArray[np.intp]:
    """Return the centres of `count` equal parts of a side."""
    return ((np.arange(count) + 0.5) * (side / count)).astype(np.intp)


def _scale(a: Thumb, b: Thumb) -> float:
    """Return the residual, in 8-bit levels, that counts as usual in a static scene of the contrast of a and b."""
    low, high = sorted((_contrast(a), _contrast(b)))
    scale = _NOISE_FLOOR + _CONTRAST * high
    # beside a uniform frame, contrast says nothing: the first step of a fade from black is no scene change
    return max(scale, _UNIFORM) if low < _UNIFORM_CONTRAST * high else scale


def _contrast(thumb: Thumb) -> float:
    """Return the mean absolute deviation of a thumbnail, in 8-bit levels, summed over weighted channels."""
    deviation = np.abs(thumb - thumb.mean((1, 2), keepdims=True)).mean((1, 2))
    return float(deviation[0] + _CHROMA_WEIGHT * (deviation[1] + deviation[2]))


def correlation(a: Thumb, b: Thumb) -> float:
    """Largest correlation coefficient of two planes over all shifts of the search range; 1 where only light differs."""
    height, width = a.shape
    best = -1.0
    for down in range(-_SEARCH, _SEARCH + 1):
        for right in range(-_SEARCH, _SEARCH + 1):
            p = a[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
            q = b[max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)]
            if p.size < a.size / 2:
                continue
            p, q = p - p.mean(), q - q.mean()
            norm = float(np.sqrt((p * p).sum() * (q * q).sum()))
            if norm > 0:
                best = max(best, float((p * q).sum()) / norm)
    return best


def matching_residual(a: Thumb, b: Thumb, search: int = _SEARCH) -> float:
    """Mean difference, in 8-bit levels, after block matching between two thumbnails.

    Blocks are matched within `search` thumbnail pixels. The larger of both directions counts, because occlusion raises
    the one and disocclusion the other. Thumbnails that differ little without motion are not matched.
    """
    weight = np.array([1.0, _CHROMA_WEIGHT, _CHROMA_WEIGHT], np.float32).reshape(1, 3, 1, 1)
    there = np.stack([a, b]) * weight
    here = there[::-1]
    as_is = float(_blocks(np.abs(here - there)).mean())
    if as_is < _QUIET * _scale(a, b):
        return as_is
    height, width = a.shape[-2:]
    padded = np.pad(here, ((0, 0), (0, 0), (search, search), (search, search)), mode="edge")
    different = np.empty_like(there)
    best: Thumb | None = None
    for down in range(2 * search + 1):
        for right in range(2 * search + 1):
            np.subtract(padded[:, :, down : down + height, right : right + width], there, out=different)
            blocks = _blocks(np.abs(different, out=different))
            best = blocks if best is None else np.minimum(best, blocks, out=best)
    assert best is not None
    return float(best.mean((1, 2)).max())


def _blocks(different: Thumb) -> Thumb:
    """Reduce (2, 3, h, w) weighted differences to (2, h/4, w/4): mean of each block, sum over channels."""
    height, width = different.shape[-2:]
    flat = different.sum(1).reshape(2, height // _THUMBNAIL_BLOCK, _THUMBNAIL_BLOCK, width).sum(2)
    mean: Thumb = flat.reshape(2, height // _THUMBNAIL_BLOCK, width // _THUMBNAIL_BLOCK, _THUMBNAIL_BLOCK).sum(
        3
    ) * np.float32(1 / _THUMBNAIL_BLOCK**2)
    return mean


def dedup(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Drop duplicates, so that a run of near-duplicates becomes one long gap with even motion.

    A run no longer than `LONGEST_FLASH` is replaced by its first frame with the duration of the run. Longer runs are
    stills and stay as they are.
    """
    run: list[Frame] = []  # consecutive near-duplicates
    still = False  # the run has grown too long and passes through
    for frame in frames:
        if run and frame.shot == run[-1].shot and near_duplicate(run[-1], frame):
            if still:
                yield run[-1]
                run = [frame]
                continue
            run.append(frame)
            if len(run) > _LONGEST_RUN or frame.pts + frame.duration - run[0].pts > LONGEST_FLASH:
                still = True
                yield from run[:-1]
                run = run[-1:]
            continue
        if run:
            yield _whole(run)
        run, still = [frame], False
    if run:
        yield _whole(run)


def _whole(run: list[Frame]) -> Frame:
    """Return the first frame of a run with the duration of the run."""
    last = run[-1]
    return replace(run[0], duration=last.pts + last.duration - run[0].pts) if len(run) > 1 else last


def near_duplicate(a: Frame, b: Frame) -> bool:
    """Tell whether two frames are equal but for coding noise, in every 16x16 block of every plane."""
    if a.format != b.format or (a.height, a.width) != (b.height, b.width):
        return False
    limit = _DUPLICATE_NOISE * (1 << (a.format.depth - 8))
    for p, q in zip(a.planes, b.planes, strict=True):
        # one row of blocks in eight suffices for most frames with motion
        for step in (8, 1):
            if _worst_block(p.numpy(), q.numpy(), step) > limit:
                return False
    return True


def _worst_block(p: Thumb, q: Thumb, step: int) -> float:
    """Return the largest mean |p - q| of a 16x16 block, over every `step`-th row of blocks."""
    rows = np.arange(0, p.shape[0], 16)
    if step > 1:
        rows = rows[::step]
        chosen = (rows[:, None] + np.arange(16)).ravel()
        chosen = chosen[chosen < p.shape[0]]
        p, q = p[chosen], q[chosen]
        rows = np.arange(0, p.shape[0], 16)
    columns = np.arange(0, p.shape[1], 16)
    different = np.maximum(p, q) - np.minimum(p, q)
    sums = np.add.reduceat(different, rows, axis=0, dtype=np.uint32)
    sums = np.add.reduceat(sums, columns, axis=1)
    tall, wide = np.diff(rows, append=p.shape[0]), np.diff(columns, append=p.shape[1])
    return float((sums / (tall[:, None] * wide)).max())
