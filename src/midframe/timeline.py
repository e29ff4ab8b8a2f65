"""Map output frames to instants of the source: exact, streaming, without touching pixels.

Frames go in, gaps with slots come out. Output k is shown at `start + k / rate`; its gap is the one whose `a` is the
latest source frame not after it; `t = (T - a.pts) / (b.pts - a.pts)`; outputs stop before `last.pts + last.duration`,
and those after `last.pts` hold the last frame. Variable-rate sources need no special case. The grid counts from the
start of the video even where only a segment of it is read, so splitting a video into segments changes no output.

This module does not decide what is shown across a scene change: such a gap keeps its true t (`Gap.cut` is set), and
the engine holds, picks or blends.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction

from midframe.errors import InputError
from midframe.types import Frame, Gap, Segment, Slot

# Slots per gap at most: longer gaps are split, so that a ten-minute hole does not break streaming.
_SLOTS_AT_ONCE = 256


def output_count(seconds: Fraction, rate: Fraction, slowmo: Fraction = Fraction(1)) -> int:
    """Count the outputs of a video of this many seconds: every k with `k / (rate * slowmo) < seconds`.

    N frames of a constant rate at ratio r give exactly ceil(N r).
    """
    return max(0, math.ceil(seconds * rate * slowmo))


def segment_count(
    segment: Segment, start: Fraction, end: Fraction, rate: Fraction, slowmo: Fraction = Fraction(1)
) -> int:
    """Count the outputs that fall in a segment of a video that lasts from `start` to `end` seconds."""
    low = start if segment.start is None else max(segment.start, start)
    high = end if segment.end is None else min(segment.end, end)
    return max(0, math.ceil((high - start) * rate * slowmo) - math.ceil((low - start) * rate * slowmo))


def regular(frames: Iterable[Frame], rate: Fraction, tick: Fraction, start: Fraction | None = None) -> Iterator[Frame]:
    """Undo the rounding of a constant rate by a coarse time base.

    Matroska keeps whole milliseconds, so frames at 24000/1001 arrive up to half a tick early or late. Used
    as they are, hardly any source frame would fall on the output grid and steps would vary by 3 % at 24 -> 60. A frame
    within one tick of `start + n / rate` moves exactly there, with its duration; all others keep their time stamps.

    Args:
        frames: in order of pts.
        rate: frames per second of the source, from its header.
        tick: seconds per unit of the source's time base.
        start: seconds; pts of the video's first frame; None: the first frame given here.
    """
    # At most an eighth of a frame: coarser ticks make a rate indistinguishable from jitter.
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
    """Turn frames into gaps with the outputs that fall in them. Keeps at most four frames at once.

    Gaps without outputs are skipped. A gap with very many outputs comes in several pieces, in order.

    Args:
        frames: in order of pts, shots labelled. For a segment: from `context` frames before its start to
            `context + 1` beyond its end, where they exist. A frame not later than its predecessor is skipped.
        rate: output frames per second.
        slowmo: duration of the output over that of the source.
        keep: outputs per gap, evenly spaced, in place of a constant rate, so that every source instant is kept; the
            last frame is then one output of its own duration, and `rate` is unused.
        context: 1 fills in `before` and `after` (None at ends and across scene changes).
        segment: only the outputs whose source instant lies in it.
        start: seconds; pts of the video's first frame, where the grid begins; None: the first frame given here.
    """
    if rate <= 0 or slowmo <= 0:
        raise InputError(f"rate {rate} and slow motion {slowmo} must be above 0")
    if keep is not None and keep < 1:
        raise InputError(f"{keep} outputs per gap are not possible; 1 keeps the source's frames, 2 doubles them")
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
        if b is None and a.duration == 0:  # the file does not give the duration of its last frame
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
    """A constant output rate: output k, shown at `start + k / rate`, samples the source at `start + k / density`."""

    def __init__(self, start: Fraction, rate: Fraction, slowmo: Fraction, segment: Segment | None) -> None:
        self.start, self.step = start, 1 / rate
        self.density = rate * slowmo  # outputs per second of the source
        first = start if segment is None or segment.start is None else max(start, segment.start)
        self.first = math.ceil((first - start) * self.density)
        self.end = None if segment is None else segment.end

    def slots(self, a: Frame, b: Frame | None) -> Iterator[tuple[Slot, ...]]:
        """Yield the outputs from a to b, or to the end of a where there is no b."""
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
    """Every source instant, and evenly spaced outputs between two."""

    def __init__(self, start: Fraction, count: int, slowmo: Fraction, segment: Segment | None) -> None:
        self.start, self.count, self.slowmo = start, count, slowmo
        self.segment = segment or Segment()

    def slots(self, a: Frame, b: Frame | None) -> Iterator[tuple[Slot, ...]]:
        """Yield the outputs from a to b; a alone where there is no b."""
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
    """Skip frames that are not later than their predecessor, as in damaged files."""
    last: Fraction | None = None
    for frame in frames:
        if last is None or frame.pts > last:
            last = frame.pts
            yield frame


def _windows(frames: Iterator[Frame], context: int) -> Iterator[tuple[Frame | None, Frame, Frame | None, Frame | None]]:
    """Yield (before, a, b, after) for every frame as a; missing or unrequested neighbours are None."""
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
