"""Map output frames to instants of the source: exact, streaming, without touching pixels.

Frames go in, gaps with slots come out. Output k is shown at `start + k / rate`; its gap is the one whose `a` is the
latest source frame not after it; `t = (T - a.pts) / (b.pts - a.pts)`; outputs stop before `last.pts + last.duration`,
and those after `last.pts` hold the last frame. Variable-rate sources need no special case. The grid counts from the
start of the video even where only a segment of it is read, so splitting a video into segments changes no output.

Where a source has no frame for seconds (screen recordings, GIFs), nothing moves: with `Holds`, a is held until one
usual frame interval before b, and t runs from 0 to 1 over that interval.

This module does not decide what is shown across a scene change: such a gap keeps its true t (`Gap.cut` is set), and
the engine holds, picks or blends.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice, pairwise

from midframe.errors import InputError
from midframe.speed import SpeedMap
from midframe.types import Frame, Gap, Opening, Segment, Slot

# Slots per gap at most: longer gaps are split, so that a ten-minute hole does not break streaming.
_SLOTS_AT_ONCE = 256

# Seconds of history that decide whether a gap is long: what a reader must provide before a segment of a variable rate.
# Gaps longer than this are judged by the frames after them, so that the start of a segment within one does not matter.
NEIGHBOURHOOD = Fraction(5)
_NEXT_FRAMES = 5  # frames after a long gap whose intervals count as its neighbourhood
# A gap is long above this many usual intervals. Phones and game captures leave out one to three frames in motion.
_LONG_INTERVALS = 4
_SHORTEST_HOLD = Fraction(1, 4)  # seconds; gaps up to this length are never held: a quarter of a second is motion
_SEAM_FRAMES = 6  # last frames of a loop that tell how much change is usual
_LONGEST_MOTION = Fraction(1, 2)  # seconds; longer transitions between two frames look like slow dissolves


@dataclass(frozen=True, slots=True)
class Holds:
    """How the usual frame interval of a source is found, which tells long gaps from motion."""

    interval: Fraction | None = None  # seconds per frame of a constant rate; None: the median around each gap
    tick: Fraction = Fraction(1, 1000)  # seconds per unit of the source's time base; held ends are multiples of it

    def before(self, past: Iterable[Fraction], a: Frame, ahead: Sequence[Frame]) -> Fraction:
        """Seconds for which a is held before it moves to its successor; 0 where the gap is not long.

        Args:
            past: pts of the frames before a, in order.
            a: the frame at the start of the gap.
            ahead: the frames after it, in order; at least one.
        """
        b = ahead[0]
        length = b.pts - a.pts
        if length <= _SHORTEST_HOLD:
            return Fraction(0)
        intervals = [d.pts - c.pts for c, d in pairwise(ahead)]
        if self.interval is None and length <= NEIGHBOURHOOD:
            near = [pts for pts in past if pts >= a.pts - NEIGHBOURHOOD]
            intervals += [q - p for p, q in pairwise([*near, a.pts])]
        if not intervals and b.duration > 0:
            intervals = [b.duration]
        # the lower median is one of the intervals, hence a multiple of the tick
        usual = statistics.median_low(intervals) if intervals else length
        if self.interval is not None:
            usual = max(usual, self.interval) if intervals else self.interval
        else:
            usual = min(usual, max(self.tick, _LONGEST_MOTION // self.tick * self.tick))
        return length - usual if length > _LONG_INTERVALS * usual else Fraction(0)


@dataclass(frozen=True, slots=True)
class Playback:
    """How the source is played beside its pace.

    Attributes:
        holds: hold the first frame of long gaps; None interpolates over their whole length.
        shutter: share of the output's frame interval for which the shutter is open, 0 to 1; above 0, slots are the
            parts of openings, several per output, and those of one output follow each other.
        loop: the last frame only ends the video: it is the first frame again, as `looped` appends it.
    """

    holds: Holds | None = None
    shutter: Fraction = Fraction(0)
    loop: bool = False


def output_count(seconds: Fraction, rate: Fraction, slowmo: Fraction = Fraction(1)) -> int:
    """Count the outputs of a video of this many seconds: every k with `k / (rate * slowmo) < seconds`.

    N frames of a constant rate at ratio r give exactly ceil(N r).
    """
    return max(0, math.ceil(seconds * rate * slowmo))


def segment_count(
    segment: Segment, start: Fraction, end: Fraction, rate: Fraction, slowmo: Fraction | SpeedMap = Fraction(1)
) -> int:
    """Count the outputs that fall in a segment of a video that lasts from `start` to `end` seconds."""
    low = start if segment.start is None else max(segment.start, start)
    high = end if segment.end is None else min(segment.end, end)
    if isinstance(slowmo, SpeedMap):
        return max(0, slowmo.first_output(high - start, rate) - slowmo.first_output(low - start, rate))
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
    slowmo: Fraction | SpeedMap = Fraction(1),
    keep: int | None = None,
    context: int = 0,
    segment: Segment | None = None,
    start: Fraction | None = None,
    playback: Playback | None = None,
) -> Iterator[Gap]:
    """Turn frames into gaps with the outputs that fall in them. Keeps at most four frames at once.

    Gaps without outputs are skipped. A gap with very many outputs comes in several pieces, in order. Before a long gap
    a few more frames are read ahead.

    Args:
        frames: in order of pts, shots labelled. For a segment: from `context` frames before its start to
            `context + 1` beyond its end, where they exist. A frame not later than its predecessor is skipped.
        rate: output frames per second.
        slowmo: duration of the output over that of the source, or a map where it varies.
        keep: outputs per gap, evenly spaced, in place of a constant rate, so that every source instant is kept; the
            last frame is then one output of its own duration, and `rate` is unused.
        context: 1 fills in `before` and `after` (None at ends and across scene changes).
        segment: only the outputs whose source instant lies in it.
        start: seconds; pts of the video's first frame, where the grid begins; None: the first frame given here.
        playback: pauses, motion blur, loop; None: none of them.
    """
    if rate <= 0 or (isinstance(slowmo, Fraction) and slowmo <= 0):
        raise InputError(f"rate {rate} and slow motion {slowmo} must be above 0")
    if keep is not None and keep < 1:
        raise InputError(f"{keep} outputs per gap are not possible; 1 keeps the source's frames, 2 doubles them")
    if context not in (0, 1):
        raise ValueError(f"context {context} is neither 0 nor 1")
    clock: _Grid | _Kept | _Shutter | None = None
    playback = playback or Playback()
    length = Fraction(0)  # seconds from the last a to its b
    for before, a, b, after, held in _windows(_increasing(frames), context, playback.holds):
        if clock is None:
            start = a.pts if start is None else start
            clock = _clock(start, rate, slowmo, keep, segment, playback.shutter)
        if clock.until is not None and a.pts >= clock.until:
            return
        if playback.loop and b is None:
            clock.stop(a.pts)
        if b is None and a.duration == 0:  # the file does not give the duration of its last frame
            a = replace(a, duration=length or clock.interval)
        length = Fraction(0) if b is None else b.pts - a.pts
        if b is not None and b.shot != a.shot:
            before = after = None
        if before is not None and before.shot != a.shot:
            before = None
        if after is not None and b is not None and after.shot != b.shot:
            after = None
        for slots in clock.slots(a, b, held):
            yield Gap(a, b, slots, before, after, held)


def _clock(
    start: Fraction,
    rate: Fraction,
    slowmo: Fraction | SpeedMap,
    keep: int | None,
    segment: Segment | None,
    shutter: Fraction,
) -> _Grid | _Shutter | _Kept:
    """Build the clock that the arguments of `gaps` ask for."""
    if keep is not None:
        if isinstance(slowmo, SpeedMap):
            raise InputError("source instants cannot be kept where the speed varies")
        return _Kept(start, keep, slowmo, segment, 1 / (rate * slowmo))
    grid = _Ramp(start, rate, slowmo, segment) if isinstance(slowmo, SpeedMap) else _Grid(start, rate, slowmo, segment)
    return _Shutter(grid, shutter) if shutter else grid


class _Grid:
    """A constant output rate: output k, shown at `start + k / rate`, samples the source at `start + k / density`."""

    def __init__(self, start: Fraction, rate: Fraction, slowmo: Fraction, segment: Segment | None) -> None:
        self.start, self.step = start, 1 / rate
        self.interval = 1 / (rate * slowmo)  # seconds of the source per output
        self._limit(segment)

    def _limit(self, segment: Segment | None) -> None:
        first = self.start if segment is None or segment.start is None else max(self.start, segment.start)
        self.first = self.index(first)
        self.end = None if segment is None else segment.end

    def instant(self, k: Fraction | int) -> Fraction:
        """Return the source instant of output k, in seconds."""
        return self.start + k * self.interval

    def index(self, instant: Fraction) -> int:
        """Return the first output that shows this instant of the source or a later one."""
        return math.ceil((instant - self.start) / self.interval)

    @property
    def until(self) -> Fraction | None:
        """Seconds; no output shows the source from here on."""
        return self.end

    def stop(self, end: Fraction) -> None:
        """Leave out outputs from this instant of the source on."""
        self.end = end if self.end is None else min(self.end, end)

    def slots(self, a: Frame, b: Frame | None, held: Fraction) -> Iterator[tuple[Slot, ...]]:
        """Yield the outputs from a to b, or to the end of a where there is no b."""
        end = a.pts + a.duration if b is None else b.pts
        if self.end is not None:
            end = min(end, self.end)
        low, high = max(self.first, self.index(a.pts)), self.index(end)
        moves = a.pts + held  # motion begins
        scale = Fraction(0) if b is None else 1 / (b.pts - moves)
        for piece in range(low, high, _SLOTS_AT_ONCE):
            slots = []
            for k in range(piece, min(piece + _SLOTS_AT_ONCE, high)):
                instant = self.instant(k)
                t = max((instant - moves) * scale, Fraction(0))
                slots.append(Slot(self.start + k * self.step, t, self.step, held=t == 0 and instant > a.pts))
            yield tuple(slots)


class _Ramp(_Grid):
    """A constant output rate over a source whose speed varies."""

    def __init__(self, start: Fraction, rate: Fraction, speed: SpeedMap, segment: Segment | None) -> None:
        self.start, self.step, self.speed = start, 1 / rate, speed
        self.interval = self.step
        self._limit(segment)

    def instant(self, k: Fraction | int) -> Fraction:
        """Return the source instant of output k, in seconds; what lies before the first counts as the first."""
        return self.start + self.speed.source(max(k * self.step, Fraction(0)))

    def index(self, instant: Fraction) -> int:
        """Return the first output that shows this instant of the source or a later one."""
        return max(0, self.speed.first_output(instant - self.start, 1 / self.step)) if instant > self.start else 0


class _Shutter:
    """A constant output rate with motion blur: output k collects the source around its instant.

    An opening ends at scene changes and at the ends of the video, so that every output shows one shot.
    """

    def __init__(self, grid: _Grid, share: Fraction) -> None:
        self.grid, self.share = grid, share
        self.interval = grid.interval
        self._shot_start = grid.start  # seconds; begin of the shot at hand

    @property
    def until(self) -> Fraction | None:
        """Seconds; no output shows the source from here on."""
        end = self.grid.end
        return None if end is None else max(end, self.grid.instant(self.grid.index(end) + self.share / 2))

    def stop(self, end: Fraction) -> None:
        """Leave out outputs from this instant of the source on."""
        self.grid.stop(end)

    def slots(self, a: Frame, b: Frame | None, held: Fraction) -> Iterator[tuple[Slot, ...]]:
        """Yield the parts of openings from a to b, or to the end of a where there is no b."""
        grid, half = self.grid, self.share / 2
        end = a.pts + a.duration if b is None else b.pts
        closes = b is None or b.shot != a.shot  # openings end here
        low = max(grid.first, grid.index(max(a.pts, self._shot_start)) - 1)
        high = grid.index(end) + (0 if closes else 1)
        if grid.end is not None:
            high = min(high, grid.index(grid.end))
        parts: list[Slot] = []
        for k in range(low, high):
            if grid.instant(k) < self._shot_start:
                continue  # complete since the scene change
            opens, shuts = grid.instant(k - half), grid.instant(k + half)
            bounds = max(opens, self._shot_start), shuts, end
            if shuts > a.pts and bounds[0] < end:
                parts += self._parts(k, shuts - opens, bounds, end if b is None else a.pts + held, a, closes)
            if len(parts) >= _SLOTS_AT_ONCE:
                yield tuple(parts)
                parts = []
        if parts:
            yield tuple(parts)
        if b is not None and closes:
            self._shot_start = b.pts

    def _parts(
        self,
        k: int,
        whole: Fraction,
        bounds: tuple[Fraction, Fraction, Fraction],
        moves: Fraction,
        a: Frame,
        closes: bool,
    ) -> Iterator[Slot]:
        """Yield the parts of one opening: where a is held, and where it moves."""
        opens, shuts, end = bounds
        begin, until = max(opens, a.pts), min(shuts, end)
        pts = self.grid.start + k * self.grid.step
        for start, stop in ((begin, min(until, moves)), (max(begin, moves), until)):
            if start >= stop:
                continue
            still = stop <= moves
            t0, t1 = (Fraction(0) if still else (at - moves) / (end - moves) for at in (start, stop))
            opening = Opening(t1, (stop - start) / whole, start == opens, (shuts <= end or closes) and stop == until)
            yield Slot(pts, t0, self.grid.step, opening, held=still and start > a.pts)


class _Kept:
    """Every source instant, and evenly spaced outputs between two."""

    def __init__(
        self, start: Fraction, count: int, slowmo: Fraction, segment: Segment | None, interval: Fraction
    ) -> None:
        self.start, self.count, self.slowmo = start, count, slowmo
        self.segment = segment or Segment()
        self.until = self.segment.end
        self.interval = interval
        self.end: Fraction | None = None

    def stop(self, end: Fraction) -> None:
        """Leave out outputs from this instant of the source on."""
        self.end = end

    def slots(self, a: Frame, b: Frame | None, held: Fraction) -> Iterator[tuple[Slot, ...]]:
        """Yield the outputs from a to b; a alone where there is no b."""
        length, count = (a.duration, 1) if b is None else (b.pts - a.pts, self.count)
        slots = []
        for i in range(count):
            step = (length - held) / count
            instant = a.pts + (held + step * i if i else 0)
            if instant in self.segment and (self.end is None or instant < self.end):
                pts = self.start + (instant - self.start) * self.slowmo
                slots.append(Slot(pts, Fraction(i, count), (step if i else held + step) * self.slowmo))
        if slots:
            yield tuple(slots)


def looped(frames: Iterable[Frame], first: Frame, same_shot: Callable[[Sequence[Frame]], bool]) -> Iterator[Frame]:
    """Append the first frame behind the last, where a loop shows it again.

    Args:
        frames: the video, or its end.
        first: its first frame.
        same_shot: tells whether the last of some consecutive frames continues their shot.
    """
    recent: deque[Frame] = deque(maxlen=_SEAM_FRAMES)
    for frame in frames:
        recent.append(frame)
        yield frame
    if recent:
        last = recent[-1]
        again = replace(first, pts=last.pts + last.duration, index=last.index + 1, shot=last.shot)
        yield again if same_shot([*recent, again]) else replace(again, shot=last.shot + 1)


def _increasing(frames: Iterable[Frame]) -> Iterator[Frame]:
    """Skip frames that are not later than their predecessor, as in damaged files."""
    last: Fraction | None = None
    for frame in frames:
        if last is None or frame.pts > last:
            last = frame.pts
            yield frame


def _windows(
    frames: Iterator[Frame], context: int, holds: Holds | None
) -> Iterator[tuple[Frame | None, Frame, Frame | None, Frame | None, Fraction]]:
    """Yield (before, a, b, after, held) for every frame as a; missing or unrequested neighbours are None."""
    before: Frame | None = None
    past: deque[Fraction] = deque()  # pts
    ahead: deque[Frame] = deque()
    while True:
        ahead.extend(islice(frames, max(0, 2 + context - len(ahead))))
        if not ahead:
            return
        a = ahead.popleft()
        held = Fraction(0)
        if holds is not None and ahead and ahead[0].pts - a.pts > _SHORTEST_HOLD:
            ahead.extend(islice(frames, max(0, 1 + _NEXT_FRAMES - len(ahead))))
            held = holds.before(past, a, tuple(ahead))
        b = ahead[0] if ahead else None
        after = ahead[1] if context and len(ahead) > 1 else None
        yield before, a, b, after, held
        before = a if context else None
        past.append(a.pts)
        while past[0] < a.pts - NEIGHBOURHOOD:
            past.popleft()
