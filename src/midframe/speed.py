"""Speed ramps: which instant of the source is shown at an instant of the output.

Speed is seconds of the source per second of the output. A stretch of the source has one speed, or one that changes
evenly over the output time from its first to its last value, so that the map to the source is a quadratic with rational
values. Times here are seconds from the first frame on either side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

SLOWEST, FASTEST = Fraction(1, 64), Fraction(64)
_PRECISION = 10**9  # parts of a second to which the way back through a ramp is rounded


@dataclass(frozen=True, slots=True)
class Stretch:
    """A range [start, end) of the source, in seconds, and its speed."""

    start: Fraction
    end: Fraction | None  # None: to the end of the video
    first: Fraction  # speed at its start
    last: Fraction  # speed at its end

    def __post_init__(self) -> None:
        """Refuse empty stretches and speeds out of range."""
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"{float(self.start):g}-{float(self.end):g} is empty")
        for speed in (self.first, self.last):
            if not SLOWEST <= speed <= FASTEST:
                raise ValueError(f"speed {float(speed):g} is not within 1/64 to 64")
        if self.end is None and self.first != self.last:
            raise ValueError("a ramp needs an end")

    @property
    def seconds(self) -> Fraction | None:
        """Duration in the output; None: to its end."""
        return None if self.end is None else (self.end - self.start) * 2 / (self.first + self.last)

    def source(self, at: Fraction) -> Fraction:
        """Map output seconds from the start of the stretch to source seconds from there."""
        if self.first == self.last or self.seconds is None:
            return at * self.first
        return at * self.first + at * at * (self.last - self.first) / (2 * self.seconds)

    def output(self, at: Fraction) -> Fraction:
        """The inverse of `source`; in ramps rounded to a nanosecond."""
        if self.first == self.last or self.seconds is None:
            return at / self.first
        slope = float((self.last - self.first) / self.seconds)
        first = float(self.first)
        root = 2 * float(at) / (first + math.sqrt(max(0.0, first * first + 2 * slope * float(at))))
        return Fraction(round(root * _PRECISION), _PRECISION)


@dataclass(frozen=True, slots=True)
class SpeedMap:
    """The speed of a whole video, from its first frame on."""

    stretches: tuple[Stretch, ...]  # from 0 on without gaps; the last is open
    begins: tuple[Fraction, ...]  # output seconds at which they begin

    @classmethod
    def constant(cls, speed: Fraction) -> SpeedMap:
        """One speed throughout."""
        return cls((Stretch(Fraction(0), None, speed, speed),), (Fraction(0),))

    @classmethod
    def of(cls, stretches: Iterable[Stretch], origin: Fraction = Fraction(0)) -> SpeedMap:
        """Fill the gaps between stretches with speed 1.

        Args:
            stretches: in order, on the clock of the source.
            origin: seconds on that clock of the first frame; what lies before it is cut off.
        """
        one = Fraction(1)
        whole: list[Stretch] = []
        at = origin
        for stretch in stretches:
            if stretch.start > at:
                whole.append(Stretch(at, stretch.start, one, one))
            begin = max(stretch.start, at)
            if stretch.end is not None and stretch.end <= begin:
                continue
            if begin > stretch.start and stretch.seconds is not None:
                part = stretch.output(begin - stretch.start) / stretch.seconds
                first = stretch.first + (stretch.last - stretch.first) * part
                stretch = Stretch(begin, stretch.end, first, stretch.last)
            whole.append(stretch)
            at = stretch.end if stretch.end is not None else begin
        if not whole or whole[-1].end is not None:
            whole.append(Stretch(at, None, one, one))
        moved = [Stretch(s.start - origin, None if s.end is None else s.end - origin, s.first, s.last) for s in whole]
        begins = [Fraction(0)]
        for stretch in moved[:-1]:
            assert stretch.seconds is not None
            begins.append(begins[-1] + stretch.seconds)
        return cls(tuple(moved), tuple(begins))

    @property
    def slowest(self) -> Fraction:
        """The lowest speed."""
        return min(min(stretch.first, stretch.last) for stretch in self.stretches)

    def source(self, output: Fraction) -> Fraction:
        """Map seconds of the output to seconds of the source, exactly."""
        n = max((i for i, begin in enumerate(self.begins) if begin <= output), default=0)
        return self.stretches[n].start + self.stretches[n].source(output - self.begins[n])

    def output(self, source: Fraction) -> Fraction:
        """Map seconds of the source to seconds of the output; in ramps rounded to a nanosecond."""
        n = max((i for i, stretch in enumerate(self.stretches) if stretch.start <= source), default=0)
        return self.begins[n] + self.stretches[n].output(source - self.stretches[n].start)

    def first_output(self, source: Fraction, rate: Fraction) -> int:
        """Return the least k for which output k, at `rate` frames per second, shows `source` or a later instant."""
        k = math.ceil(self.output(source) * rate)
        while self.source(k / rate) < source:
            k += 1
        while self.source((k - 1) / rate) >= source:
            k -= 1
        return k


_STRETCH = re.compile(r"\s*([\d.:/]+)\s*-\s*([\d.:/]*)\s*:\s*([\d./]+)\s*(?:>\s*([\d./]+)\s*)?")


def parse(text: str) -> tuple[Stretch, ...]:
    """Parse "0-2:1, 2-4:1>0.25, 4-:0.25": ranges of the source in seconds, each with a speed or a ramp between two.

    Raises:
        ValueError: not of this form, or ranges that overlap.
    """
    stretches = []
    for part in text.split(","):
        found = _STRETCH.fullmatch(part)
        if found is None:
            raise ValueError(f"{part.strip()!r} is not START-END:SPEED")
        start, end, first, last = found.groups()
        speed = Fraction(first)
        stretches.append(
            Stretch(_seconds(start), _seconds(end) if end else None, speed, Fraction(last) if last else speed)
        )
    for one, two in pairwise(stretches):
        if one.end is None or two.start < one.end:
            raise ValueError(f"{float(two.start):g} s lies within the stretch before it")
    return tuple(stretches)


def written(stretches: Iterable[Stretch]) -> str:
    """The text that `parse` reads."""
    return ", ".join(
        f"{s.start}-{'' if s.end is None else s.end}:{s.first}" + (f">{s.last}" if s.last != s.first else "")
        for s in stretches
    )


def _seconds(text: str) -> Fraction:
    seconds = Fraction(0)
    for part in text.split(":"):
        seconds = 60 * seconds + Fraction(part)
    return seconds
