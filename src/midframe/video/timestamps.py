"""Timestamps of the output: from source time to output time, decoding times, time bases. All exact."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from fractions import Fraction

from midframe.options import Options
from midframe.speed import SpeedMap
from midframe.types import VideoInfo


@dataclass
class TimestampMap:
    """Map times of the source to times of the output file: shift, slow motion, speed ramps."""

    begin: Fraction  # source time of the start of the range
    end: Fraction | None
    start: Fraction  # pts of the first frame of the source: slow motion stretches from here
    slowmo: Fraction
    shift: Fraction  # output time that becomes 0 in the file
    speed: SpeedMap | None = None  # where the speed varies; slow motion is then 1

    def out(self, instant: Fraction) -> Fraction:
        """Map seconds of the source to seconds of the output."""
        if self.speed is not None:
            return self.start + self.speed.output(instant - self.start) - self.shift
        return self.start + (instant - self.start) * self.slowmo - self.shift

    def source(self, instant: Fraction) -> Fraction:
        """Map seconds of the output to seconds of the source; the inverse of `out`."""
        at = instant + self.shift - self.start
        return self.start + (self.speed.source(at) if self.speed is not None else at / self.slowmo)

    @property
    def changes_speed(self) -> bool:
        """Whether the output is slower or faster than the source anywhere."""
        return self.speed is not None or self.slowmo != 1

    def affine_maps(self, base: Fraction, origin: Fraction) -> tuple[StampMap, StampMap]:
        """Return the maps from timestamps in units of `base` to output seconds, and to output units of `base`."""
        if self.speed is not None:
            return RampMap(self, base, origin, Fraction(1)), RampMap(self, base, origin, base)
        zero = self.out(-origin)
        return AffineMap.of(base * self.slowmo, zero), AffineMap.of(self.slowmo, zero / base)


@dataclass(frozen=True, slots=True)
class AffineMap:
    """timestamp * slope + offset, exact and in integers, because it runs once per packet."""

    slope: int
    offset: int
    denominator: int  # of both

    @classmethod
    def of(cls, slope: Fraction, offset: Fraction) -> AffineMap:
        """Bring both fractions to one denominator."""
        denominator = math.lcm(slope.denominator, offset.denominator)
        return cls(int(slope * denominator), int(offset * denominator), denominator)

    def exact(self, stamp: int) -> Fraction:
        """Map a timestamp without rounding."""
        return Fraction(stamp * self.slope + self.offset, self.denominator)

    def nearest(self, stamp: int) -> int:
        """Map a timestamp, rounded half to even."""
        down, rest = divmod(stamp * self.slope + self.offset, self.denominator)
        return down + (2 * rest > self.denominator or (2 * rest == self.denominator and down % 2 == 1))


@dataclass(frozen=True, slots=True)
class RampMap:
    """Timestamps through a speed ramp."""

    times: TimestampMap
    base: Fraction  # seconds per unit of the timestamps
    origin: Fraction
    unit: Fraction  # seconds per unit of the result

    def exact(self, stamp: int) -> Fraction:
        """Map a timestamp without rounding to units."""
        return self.times.out(stamp * self.base - self.origin) / self.unit

    def nearest(self, stamp: int) -> int:
        """Map a timestamp, rounded half to even."""
        return round(self.exact(stamp))


StampMap = AffineMap | RampMap


def timestamp_map(info: VideoInfo, options: Options) -> TimestampMap:
    """Build the map that range and slow motion ask for."""
    slowmo = options.slowmo if options.slowmo is not None else Fraction(1)
    begin = options.start if options.start is not None else min(Fraction(0), info.start)
    # the start of a range becomes 0; a whole video at its own speed keeps its timestamps
    shift = Fraction(0)
    if options.speed:
        speed = SpeedMap.of(options.speed, info.start)
        shift = info.start + speed.output((options.start or Fraction(0)) - info.start)
        return TimestampMap(begin, options.end, info.start, Fraction(1), shift, speed)
    if options.start is not None or slowmo != 1:
        shift = info.start + ((options.start or 0) - info.start) * slowmo
    return TimestampMap(begin, options.end, info.start, slowmo, shift)


class DecodingTimes:
    """Derive increasing dts for packets in decoding order from their pts alone.

    Those of encoders are not reliable: x265 4.2 invents the first ones when it gets fewer frames than it delays.
    """

    def __init__(self, depth: int, min_frame_spacing: int = 1) -> None:
        self._depth = depth  # packets that precede, in decoding order, one that is shown before them
        self._min_frame_spacing = min_frame_spacing  # between two pts
        self._heap: list[int] = []
        self._last: int | None = None

    def __call__(self, pts: int) -> int:
        """The dts of the next packet; beyond its pts only if the depth was too small."""
        heapq.heappush(self._heap, pts)
        # nothing is shown before the first packets: space them evenly up to the first pts
        early = self._heap[0] - (self._depth - len(self._heap) + 1) * self._min_frame_spacing
        dts = heapq.heappop(self._heap) if len(self._heap) > self._depth else early
        if self._last is not None and dts <= self._last:
            dts = self._last + 1
        self._last = dts
        return dts


def timescale(tick: Fraction) -> int:
    """Return ticks per second that hold multiples of `tick` exactly and are fine enough for players."""
    scale = tick.denominator
    while scale < 10_000:  # as QuickTime writes; some players stutter with coarser ones
        scale *= 2
    return scale


def common_timescale(tick: Fraction, offset: Fraction) -> int:
    """Return the units per second in which ticks, and if possible the offset of the first, are integers."""
    both = math.lcm(tick.denominator, offset.denominator)
    return timescale(Fraction(1, both)) if both <= 10_000_000 else timescale(tick)
