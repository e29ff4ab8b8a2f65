"""Speed ramps: exact both ways, parsed and written, and a whole run with its timestamps."""

from __future__ import annotations

from fractions import Fraction as Fr
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midframe import speed, timeline
from midframe.errors import InputError
from midframe.options import Options
from midframe.speed import SpeedMap, Stretch
from midframe.types import Segment
from test_timeline import cfr

RAMP = speed.parse("0-2:1, 2-4:1>0.25, 4-5:0.25, 7-:2")


def test_what_is_parsed_is_written() -> None:
    assert (
        Stretch(Fr(0), Fr(2), Fr(1), Fr(1)),
        Stretch(Fr(2), Fr(4), Fr(1), Fr(1, 4)),
        Stretch(Fr(4), Fr(5), Fr(1, 4), Fr(1, 4)),
        Stretch(Fr(7), None, Fr(2), Fr(2)),
    ) == RAMP
    assert speed.parse(speed.written(RAMP)) == RAMP
    assert speed.parse("1:00-1:30:0.5") == (Stretch(Fr(60), Fr(90), Fr(1, 2), Fr(1, 2)),)
    options = Options.parse(speed="0-2:1, 2-4:0.25")
    assert Options.from_json(options.to_json()) == options


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2-1:1", "is empty"),
        ("0-3:1, 2-4:1", "within the stretch before"),
        ("0-:1, 2-4:1", "within the stretch before"),
        ("0-2:0", "not within 1/64 to 64"),
        ("0-:1>2", "a ramp needs an end"),
        ("fast", "not START-END:SPEED"),
        ("0-2:1/0", "--speed"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        Options.parse(speed=text)


def test_other_options_that_it_excludes() -> None:
    for other in ({"slowmo": 2}, {"ratio": 2}, {"vfr": "keep"}, {"compat": "modelscope"}):
        with pytest.raises(InputError, match=r"--speed|--compat"):
            Options.parse(speed="0-2:1", **other)


def test_known_instants() -> None:
    pace = SpeedMap.of(RAMP)
    # 2 s of output for 2 s of source; 3.2 s for the ramp; 4 s for 1 s; 2 s as they are; twice as fast
    assert pace.begins == (0, 2, Fr(26, 5), Fr(46, 5), Fr(56, 5))
    assert [pace.source(at) for at in (Fr(1), Fr(2), Fr(26, 5), Fr(36, 5), Fr(46, 5), Fr(56, 5), Fr(61, 5))] == [
        1, 2, 4, Fr(9, 2), 5, 7, 9,
    ]  # fmt: skip
    assert pace.slowest == Fr(1, 4)
    # the speed within the ramp falls evenly: half way through its output it is 5/8
    step = Fr(1, 1000)
    middle = Fr(2) + Fr(8, 5)
    assert (pace.source(middle + step) - pace.source(middle - step)) / (2 * step) == Fr(5, 8)
    late = SpeedMap.of(RAMP, Fr(3))
    assert late.stretches[0].first == pytest.approx(Fr(5, 8), abs=0.2) and late.source(Fr(0)) == 0


@settings(deadline=None)
@given(st.fractions(0, 20, max_denominator=1001), st.sampled_from([Fr(24), Fr(60000, 1001)]))
def test_both_ways_and_first_outputs(at: Fr, rate: Fr) -> None:
    pace = SpeedMap.of(RAMP)
    assert abs(pace.output(pace.source(at)) - at) < Fr(1, 10**8)
    k = pace.first_output(at, rate)
    assert pace.source(k / rate) >= at and (k == 0 or pace.source((k - 1) / rate) < at)


@pytest.mark.parametrize("shutter", [Fr(0), Fr(1, 2)])
def test_the_timeline_follows_the_ramp_and_knows_no_segments(shutter: Fr) -> None:
    pace, rate = SpeedMap.of(RAMP), Fr(30)
    frames = list(cfr(9 * 24, Fr(24)))
    whole = list(timeline.gaps(frames, rate, slowmo=pace, playback=timeline.Playback(shutter=shutter)))
    slots = [(gap, slot) for gap in whole for slot in gap.slots if slot.opening is None or slot.opening.first]
    count = timeline.segment_count(Segment(), Fr(0), Fr(9), rate, pace)
    assert count == pace.first_output(Fr(9), rate) == -(-pace.output(Fr(9)) * rate // 1)
    assert [slot.pts for _, slot in slots] == [k / rate for k in range(count)]
    if not shutter:
        for gap, slot in slots:
            if gap.b is not None:
                assert gap.a.pts + slot.t * (gap.b.pts - gap.a.pts) == pace.source(slot.pts)
    pieces = []
    for low, high in pairwise([None, Fr(3), Fr(9, 2), Fr(8), None]):
        pieces += timeline.gaps(
            frames, rate, slowmo=pace, playback=timeline.Playback(shutter=shutter), segment=Segment(low, high)
        )
    shown = [[(gap.a.index, slot) for gap in gaps for slot in gap.slots] for gaps in (whole, pieces)]
    outputs = [{slot.pts: [part for part in each if part[1].pts == slot.pts] for _, slot in each} for each in shown]
    assert outputs[0] == outputs[1]
