"""Measure the frame rate of a stream from its timestamps."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

# Usual rates, for streams without a rate in the header or with rounded timestamps.
USUAL_RATES = tuple(
    Fraction(*pair)
    for pair in ((24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (48, 1), (50, 1), (60000, 1001), (60, 1),
                 (12, 1), (15, 1), (12000, 1001), (15000, 1001), (10, 1), (20, 1), (72, 1), (90, 1), (100, 1),
                 (120000, 1001), (120, 1), (144, 1), (240000, 1001), (240, 1))
)  # fmt: skip

_NTSC_TOLERANCE = Fraction(1, 1_000_000)  # relative; 59.94 is further from 60000/1001


def stream_rates(stream: Any, timed: bool) -> list[Fraction]:
    """Return the rates that the header of a PyAV stream offers, best first.

    The average rate of a raw stream (H.264, HEVC) is the demuxer's default of 25; its bitstream may hold the real one.

    Args:
        stream: of video.
        timed: whether its packets have timestamps; those of raw streams have none.
    """
    rates = stream.average_rate, stream.guessed_rate, stream.base_rate
    return header_rates(*(rates if timed else (stream.guessed_rate, *rates)))


def header_rates(*rates: Any) -> list[Fraction]:
    """Return the rates that a header offers, best first, without those that are absent or absurd.

    libav reads the frame duration of Matroska as a rate with terms of at most 30,000: 48000/1001 becomes 7001/146. Such
    rates are those of the NTSC family again.
    """
    found = []
    for rate in rates:
        exact = Fraction(rate) if rate else Fraction(0)
        if not Fraction(1, 10) <= exact <= 1000:
            continue
        ntsc = Fraction(1000 * round(exact * 1001 / 1000), 1001)
        found.append(ntsc if abs(exact - ntsc) < _NTSC_TOLERANCE * exact else exact)
    return found


def measure_rate(pts: Sequence[int], tick: Fraction, claims: Sequence[Fraction | None]) -> tuple[Fraction | None, bool]:
    """Return the rate of a stream from its timestamps, and whether it is variable.

    Args:
        pts: ticks, in any order.
        tick: seconds.
        claims: rates that the header offers, best first.

    Returns:
        Frames per second (None if unknown; of a variable rate the most frequent one), and True if frames are unequally
        spaced.
    """
    stamps = sorted(set(pts))
    offered = [claim for claim in claims if claim]
    if len(stamps) < 2:
        return (offered[0] if offered else None), False
    steps = sorted(b - a for a, b in pairwise(stamps))
    mean = Fraction(len(stamps) - 1) / ((stamps[-1] - stamps[0]) * tick)
    usual = [rate for rate in USUAL_RATES if abs(rate / mean - 1) < Fraction(1, 200)]
    usual.sort(key=lambda rate: abs(rate / mean - 1))
    plain = [rate for rate in offered if rate in USUAL_RATES or rate.denominator == 1001]
    for rate in [*plain, *usual, *offered, mean]:
        if _fits(stamps, tick, rate):
            return (rate if rate != mean else mean.limit_denominator(100_000)), False
    typical = 1 / (steps[len(steps) // 2] * tick)
    near = [rate for rate in [*plain, *USUAL_RATES, *offered] if abs(rate / typical - 1) < Fraction(1, 20)]
    if near:  # frames left out of a constant rate, as screen recorders do: the rest lie on its grid
        best = max(near, key=lambda rate: _on_grid(stamps, tick, rate))
        if _on_grid(stamps, tick, best) * 2 > len(stamps):
            return best, True
        return near[0], True
    return min(typical.limit_denominator(1001), Fraction(1000)), True


def _fits(pts: Sequence[int], tick: Fraction, rate: Fraction) -> bool:
    """Return whether all sorted timestamps lie within a tick of a grid of this rate, one on each point."""
    steps = [(stamp - pts[0]) * tick * rate for stamp in pts]
    near = min(tick * rate, Fraction(1, 4)) + Fraction(1, 1000)
    return all(abs(step - n) <= near for n, step in enumerate(steps))


def _on_grid(pts: Sequence[int], tick: Fraction, rate: Fraction) -> int:
    """Count the timestamps within a tick of any point of a grid of this rate."""
    near = min(tick * rate, Fraction(1, 8))
    steps = [(stamp - pts[0]) * tick * rate for stamp in pts]
    return sum(abs(step - round(step)) <= near for step in steps)
