"""Which output picture falls at which instant of the source: exact arithmetic, streaming, no pictures touched.

Frames go in, gaps with slots come out. The rule: output k is shown at `start + k / rate`; its gap is the one whose
`a` is the latest source frame that is not after it; `t = (T - a.pts) / (b.pts - a.pts)`; outputs stop before
`last.pts + last.duration`, and those after `last.pts` hold the last frame. Sources with a variable rate need no
special case. The grid counts from the start of the film, also where only a segment of it is read, so splitting a
film into segments changes no output.

Nothing here knows what a cut does to a picture: a gap whose ends lie in different shots says so (`Gap.cut`), keeps
its true t, and the engine holds, picks or blends.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction

from midframe.errors import InputError
from midframe.types import Frame, Gap, Segment, Slot

# A gap hands over at most this many slots at a time, so that a ten-minute hole in a film stays a stream.
_SLOTS_AT_ONCE = 256


def output_count(seconds: Fraction, rate: Fraction, slowmo: Fraction = Fraction(1)) -> int:
    """How many outputs a film of this many seconds gives: every k with `k / (rate * slowmo) < seconds`.

    N frames of a constant rate at ratio r give exactly ceil(N r).
    """
    return max(0, math.ceil(seconds * rate * slowmo))


def segment_count(
    segment: Segment, start: Fraction, end: Fraction, rate: Fraction, slowmo: Fraction = Fraction(1)
) -> int:
    """How many outputs of a film that lasts from `start` to `end` seconds fall in a segment of it."""
    low = start if segment.start is None else max(segment.start, start)
    high = end if segment.end is None else min(segment.end, end)
    return max(0, math.ceil((high - start) * rate * slowmo) - math.ceil((low - start) * rate * slowmo))


def regular(frames: Iterable[Frame], rate: Fraction, tick: Fraction, start: Fraction | None = None) -> Iterator[Frame]:
    """Undo the rounding that a coarse time base did to a constant rate.

    Matroska keeps whole milliseconds, so frames at 24000/1001 arrive up to half a tick early or late. Taken at their
    word, hardly any source frame would fall on the output grid and steps would vary by 3 % at 24 -> 60. A frame within
    one tick of `start + n / rate` is put exactly there, with its duration; all others keep what the file says.

    Args:
        frames: in order of pts.
        rate: frames per second that the source claims.
        tick: seconds per unit of the source's time base.
        start: seconds; pts of the film's first frame. The first frame's given here if None.
    """
    # Never more than an eighth of a frame: at coarser ticks a rate cannot be told from jitter.
    near = min(tick, 1 / (8 * rate))
    for frame in frames:
        if start is None:
            start = frame.pts
        n = round((frame.pts - start) * rate)
        pts, duration = start + n / rate, frame.duration
        if abs(frame.pts - pts) > near:
            yield frame
            continue
        m = round(duration * rate)
        if m > 0 and abs(duration - m / rate) <= near:
            duration = m / rate
        if (pts, duration) != (frame.pts, frame.duration):
            frame = replace(frame, pts=pts, duration=duration)
        yield frame


def gaps(
    frames: Iterable[Frame],
    rate: Fraction,
    *,
    slowmo: Fraction = Fraction(1),
    keep: int | None = None,
    context: int = 0,
    segment: Segment | None = None,
    start: Fraction | None = None,
) -> Iterator[Gap]:
    """Turn frames into gaps with the outputs that fall in them. Holds at most four frames at once.

    Gaps in which no output falls are left out. A gap with very many outputs comes in several pieces, in order.

    Args:
        frames: in order of pts, shots labelled. For a segment: from `context` frames before its start to
            `context + 1` beyond its end, where the film has them. A frame not later than the one before it is skipped.
        rate: output frames per second.
        slowmo: how many times longer the output lasts; source instants are that much denser.
        keep: instead of a constant rate, this many outputs in every gap, evenly placed, so that every source instant
            is kept; the last frame is then one output, as long as it was. `rate` says nothing in that case.
        context: 1 fills in `before` and `after` (None at ends and across cuts).
        segment: only the outputs whose source instant lies in it.
        start: seconds; pts of the film's first frame, from which the grid counts. The first frame's given here if None.
    """
    if rate <= 0 or slowmo <= 0:
        raise InputError(f"rate {rate} and slow motion {slowmo} must be above 0")
    if keep is not None and keep < 1:
        raise InputError(f"{keep} outputs in a gap cannot be made; 1 keeps the source's frames, 2 doubles them")
    if context not in (0, 1):
        raise ValueError(f"context {context} is neither 0 nor 1")
    clock: _Grid | _Kept | None = None
    length = Fraction(0)  # seconds from the last a to its b
    for before, a, b, after in _windows(_increasing(frames), context):
        if clock is None:
            start = a.pts if start is None else start
            clock = _Kept(start, keep, slowmo, segment) if keep is not None else _Grid(start, rate, slowmo, segment)
        if segment is not None and segment.end is not None and a.pts >= segment.end:
            return
        if b is None and a.duration == 0:  # a file that does not say how long its last frame is shown
            a = replace(a, duration=length or 1 / (rate * slowmo))
        length = Fraction(0) if b is None else b.pts - a.pts
        if b is not None and b.shot != a.shot:
            before = after = None
        if before is not None and before.shot != a.shot:
            before = None
        if after is not None and b is not None and after.shot != b.shot:
            after = None
        for slots in clock.slots(a, b):
            yield Gap(a, b, slots, before, after)


class _Grid:
    """A constant output rate: output k at `start + k / rate`, which shows the source at `start + k / density`."""

    def __init__(self, start: Fraction, rate: Fraction, slowmo: Fraction, segment: Segment | None) -> None:
        self.start, self.step = start, 1 / rate
        self.density = rate * slowmo  # outputs per second of the source
        first = start if segment is None or segment.start is None else max(start, segment.start)
        self.first = math.ceil((first - start) * self.density)
        self.end = None if segment is None else segment.end

    def slots(self, a: Frame, b: Frame | None) -> Iterator[tuple[Slot, ...]]:
        """The outputs from a to b, or to the end of a where there is no b."""
        end = a.pts + a.duration if b is None else b.pts
        if self.end is not None:
            end = min(end, self.end)
        low = max(self.first, math.ceil((a.pts - self.start) * self.density))
        high = math.ceil((end - self.start) * self.density)  # exclusive
        if b is not None:
            # t = (start + k / density - a.pts) / (b.pts - a.pts), linear in k
            scale = 1 / (self.density * (b.pts - a.pts))
            offset = (self.start - a.pts) / (b.pts - a.pts)
        for piece in range(low, high, _SLOTS_AT_ONCE):
            yield tuple(
                Slot(self.start + k * self.step, Fraction(0) if b is None else offset + k * scale, self.step)
                for k in range(piece, min(piece + _SLOTS_AT_ONCE, high))
            )


class _Kept:
    """Every source instant, and outputs evenly placed between two."""

    def __init__(self, start: Fraction, count: int, slowmo: Fraction, segment: Segment | None) -> None:
        self.start, self.count, self.slowmo = start, count, slowmo
        self.segment = segment or Segment()

    def slots(self, a: Frame, b: Frame | None) -> Iterator[tuple[Slot, ...]]:
        """The outputs from a to b; a alone where there is no b."""
        length, count = (a.duration, 1) if b is None else (b.pts - a.pts, self.count)
        slots = []
        for i in range(count):
            instant = a.pts + length * i / count
            if instant in self.segment:
                pts = self.start + (instant - self.start) * self.slowmo
                slots.append(Slot(pts, Fraction(i, count), length * self.slowmo / count))
        if slots:
            yield tuple(slots)


def _increasing(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Leave out frames that are not later than the one before them, as damaged files have them."""
    last: Fraction | None = None
    for frame in frames:
        if last is None or frame.pts > last:
            last = frame.pts
            yield frame


def _windows(frames: Iterator[Frame], context: int) -> Iterator[tuple[Frame | None, Frame, Frame | None, Frame | None]]:
    """(before, a, b, after) for every frame as a; what the stream does not have, or nobody asked for, is None."""
    before: Frame | None = None
    ahead: deque[Frame] = deque()
    while True:
        while len(ahead) < 2 + context:
            frame = next(frames, None)
            if frame is None:
                break
            ahead.append(frame)
        if not ahead:
            return
        a = ahead.popleft()
        b = ahead[0] if ahead else None
        after = ahead[1] if context and len(ahead) > 1 else None
        yield before, a, b, after
        before = a if context else None
