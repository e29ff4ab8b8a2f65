"""The clock: counts, exact instants, variable rates, segments; two hours of every common pair of rates."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from fractions import Fraction as Fr
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from midframe import timeline
from midframe.types import Frame, Gap, PixelFormat, Segment

GRAY = PixelFormat("gray", "gray", 8)
PLANES = (torch.zeros(1, 1, dtype=torch.uint8),)

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.load_profile("unhurried")

NTSC24, NTSC30, NTSC60 = Fr(24000, 1001), Fr(30000, 1001), Fr(60000, 1001)


def frame(index: int, pts: Fr, duration: Fr, shot: int = 0) -> Frame:
    return Frame(PLANES, GRAY, pts, duration, index, shot)


def cfr(count: int, rate: Fr, start: Fr = Fr(0), first: int = 0) -> Iterator[Frame]:
    return (frame(n, start + n / rate, 1 / rate) for n in range(first, count))


def video(lengths: list[Fr], start: Fr = Fr(0), cuts: frozenset[int] = frozenset()) -> list[Frame]:
    """Frames shown for these lengths; a cut before each index in `cuts`."""
    frames, pts, shot = [], start, 0
    for n, length in enumerate(lengths):
        shot += n in cuts
        frames.append(frame(n, pts, length, shot))
        pts += length
    return frames


def shown(gaps: Iterator[Gap] | list[Gap]) -> list[tuple[Fr, int, Fr]]:
    """(pts, index of a, t) of every output."""
    return [(slot.pts, gap.a.index, slot.t) for gap in gaps for slot in gap.slots]


def test_the_known_video() -> None:
    got = shown(timeline.gaps(cfr(1441, Fr(24)), Fr(60)))
    assert len(got) == 3603
    assert [pts for pts, _, _ in got] == [Fr(k, 60) for k in range(3603)]
    assert [t for _, _, t in got[:6]] == [0, Fr(2, 5), Fr(4, 5), Fr(1, 5), Fr(3, 5), 0]


def test_ntsc_steps() -> None:
    got = shown(timeline.gaps(cfr(10, Fr(24000, 1001)), Fr(60000, 1001)))
    assert [(a, t) for _, a, t in got[:6]] == [
        (0, 0),
        (0, Fr(2, 5)),
        (0, Fr(4, 5)),
        (1, Fr(1, 5)),
        (1, Fr(3, 5)),
        (2, 0),
    ]


def test_last_frame_is_held_to_its_end_and_a_single_frame_is_shown() -> None:
    last = list(timeline.gaps(cfr(3, Fr(24)), Fr(120)))[-1]
    assert last.b is None and [s.t for s in last.slots] == [0] * 5
    assert len(shown(timeline.gaps(cfr(1, Fr(24)), Fr(24)))) == 1
    assert len(shown(timeline.gaps([frame(0, Fr(5), Fr(0))], Fr(24)))) == 1
    assert list(timeline.gaps([], Fr(24))) == []


def test_late_start_and_slow_motion() -> None:
    start = Fr(7, 5)
    late = shown(timeline.gaps(cfr(4, Fr(24), start), Fr(48)))
    assert late[0] == (start, 0, 0) and len(late) == 8
    slow = list(timeline.gaps(cfr(4, Fr(24), start), Fr(24), slowmo=Fr(4)))
    assert [pts for pts, _, _ in shown(slow)] == [start + Fr(k, 24) for k in range(16)]
    assert [t for _, _, t in shown(slow)[:5]] == [0, Fr(1, 4), Fr(1, 2), Fr(3, 4), 0]
    assert all(s.duration == Fr(1, 24) for g in slow for s in g.slots)


def test_fewer_frames_are_interpolated_too() -> None:
    got = shown(timeline.gaps(cfr(60, Fr(60)), Fr(24)))
    assert len(got) == 24
    assert got[1] == (Fr(1, 24), 2, Fr(1, 2))


def test_keep_shows_every_source_instant() -> None:
    frames = video([Fr(1, 30), Fr(1, 24), Fr(1, 10), Fr(1, 30)], Fr(2))
    gaps = list(timeline.gaps(frames, Fr(60), keep=3))
    assert [len(g.slots) for g in gaps] == [3, 3, 3, 1]
    got = shown(gaps)
    assert {pts for pts, _, t in got if t == 0} == {f.pts for f in frames}
    slots = [s for g in gaps for s in g.slots]
    assert all(s.pts + s.duration == n.pts for s, n in pairwise(slots))
    assert slots[-1].pts + slots[-1].duration == frames[-1].pts + frames[-1].duration


def test_context_stops_at_ends_and_cuts() -> None:
    frames = video([Fr(1, 24)] * 7, cuts=frozenset({3}))
    seen = [
        (g.before and g.before.index, g.a.index, g.b and g.b.index, g.after and g.after.index)
        for g in timeline.gaps(frames, Fr(48), context=1)
    ]
    assert seen == [
        (None, 0, 1, 2),
        (0, 1, 2, None),
        (None, 2, 3, None),
        (None, 3, 4, 5),
        (3, 4, 5, 6),
        (4, 5, 6, None),
        (5, 6, None, None),
    ]
    assert [g.cut for g in timeline.gaps(frames, Fr(48))] == [False, False, True, False, False, False, False]


def test_frames_that_do_not_go_forward_are_skipped() -> None:
    frames = [frame(0, Fr(0), Fr(1, 24)), frame(1, Fr(1, 24), Fr(1, 24)), frame(2, Fr(1, 24), Fr(1, 24))]
    frames += [frame(3, Fr(1, 48), Fr(1, 24)), frame(4, Fr(2, 24), Fr(1, 24))]
    assert [g.a.index for g in timeline.gaps(frames, Fr(24))] == [0, 1, 4]


def test_a_long_hole_comes_in_pieces() -> None:
    frames = [frame(0, Fr(0), Fr(600)), frame(1, Fr(600), Fr(1, 24))]
    gaps = list(timeline.gaps(frames, Fr(60)))
    assert max(len(g.slots) for g in gaps) < 1000
    assert len(shown(gaps)) == timeline.output_count(Fr(600) + Fr(1, 24), Fr(60))


def test_reads_no_further_than_it_must() -> None:
    read = []

    def watched() -> Iterator[Frame]:
        for f in cfr(100, Fr(24)):
            read.append(f.index)
            yield f

    stream = timeline.gaps(watched(), Fr(48), context=1)
    for _ in range(10):
        gap = next(stream)
    assert gap.a.index == 9 and read[-1] == 11
    stream = timeline.gaps(watched(), Fr(48), segment=Segment(None, Fr(1)))
    read.clear()
    assert len(shown(stream)) == 48 and read[-1] <= 25


def test_rounded_times_of_a_constant_rate_are_put_right() -> None:
    rate, tick = Fr(24000, 1001), Fr(1, 1000)
    exact = list(cfr(3000, rate, Fr(21, 1000)))
    rounded = [
        frame(
            f.index, Fr(round(f.pts * 1000), 1000), Fr(round((f.pts + f.duration) * 1000) - round(f.pts * 1000), 1000)
        )
        for f in exact
    ]
    mended = list(timeline.regular(rounded, rate, tick))
    assert [(f.pts, f.duration) for f in mended] == [(f.pts, f.duration) for f in exact]
    assert len(shown(timeline.gaps(mended, rate * 2))) == 6000
    # a frame that really lies elsewhere keeps its place
    odd = frame(9, Fr(21, 1000) + Fr(95, 10) / rate, 1 / rate)
    assert list(timeline.regular([*rounded[:9], odd], rate, tick))[-1] is odd


@pytest.mark.parametrize("rate", [NTSC24, Fr(24), Fr(25), NTSC30, Fr(30), Fr(50), NTSC60], ids=str)
def test_acceptance_two_hours(rate: Fr) -> None:
    """Acceptance test 1: count, duration and pts exact; looked at where it begins, in the middle and where it ends."""
    count = round(7200 * rate)
    end = count / rate
    for fps in (Fr(48), Fr(50), NTSC60, Fr(60), Fr(75), Fr(90), Fr(120), Fr(144)):
        total = timeline.output_count(end, fps)
        assert total - 1 < end * fps <= total
        if (ratio := fps / rate).denominator == 1:
            assert total == count * ratio
        edges = [None, Fr(1), Fr(3600), Fr(3601), end - 1, None]
        seen = 0
        for low, high in ((0, 1), (2, 3), (4, 5)):
            segment = Segment(edges[low], edges[high])
            first = 0 if segment.start is None else int(segment.start * rate)
            frames = (f for f in cfr(count, rate, first=first))
            got = shown(timeline.gaps(frames, fps, segment=segment, start=Fr(0)))
            ks = [pts * fps for pts, _, _ in got]
            k0 = 0 if segment.start is None else -(-segment.start * fps // 1)
            assert ks == list(range(int(k0), int(k0) + len(got)))
            for pts, a, t in got:
                if a < count - 1:
                    assert (a + t) / rate == pts  # the frame shown is the video at exactly this instant
                else:
                    assert t == 0 and a / rate <= pts < end
            assert len(got) == timeline.segment_count(segment, Fr(0), end, fps)
            seen += len(got)
        assert ks[-1] == total - 1


def test_twenty_minutes_in_full() -> None:
    """One pair of rates, frame by frame: the drift at the end is none."""
    rate, fps = Fr(24000, 1001), Fr(60)
    count = n = 0
    for gap in timeline.gaps(cfr(28_771, rate), fps):
        for slot in gap.slots:
            assert slot.pts.numerator * 60 == n * slot.pts.denominator
            n += 1
        count += 1
    assert count == 28_771 and n == timeline.output_count(28_771 / rate, fps)


rates = st.sampled_from([Fr(24000, 1001), Fr(24), Fr(25), Fr(30), Fr(60000, 1001), Fr(60), Fr(1, 2)]) | st.fractions(
    Fr(1, 2), 240, max_denominator=1001
)
lengths = st.lists(st.fractions(Fr(1, 240), Fr(1, 4), max_denominator=1000), min_size=1, max_size=14)
starts = st.fractions(-2, 50, max_denominator=90000)


@given(st.integers(1, 60), rates, st.fractions(Fr(1, 10), 12, max_denominator=100))
def test_constant_rate_count(count: int, rate: Fr, ratio: Fr) -> None:
    got = shown(timeline.gaps(cfr(count, rate), rate * ratio))
    assert len(got) == -(-count * ratio.numerator // ratio.denominator)  # ceil(N r)
    assert len(got) == timeline.output_count(count / rate, rate * ratio)


@given(lengths, starts, rates, st.sampled_from([Fr(1), Fr(4), Fr(5, 2)]))
def test_any_lengths_give_a_constant_rate(parts: list[Fr], start: Fr, rate: Fr, slowmo: Fr) -> None:
    frames = video(parts, start)
    gaps = list(timeline.gaps(frames, rate, slowmo=slowmo))
    got = shown(gaps)
    assert [pts for pts, _, _ in got] == [start + k / rate for k in range(len(got))]
    assert len(got) == timeline.output_count(sum(parts, Fr(0)), rate, slowmo)
    for gap in gaps:
        for slot in gap.slots:
            instant = start + (slot.pts - start) / slowmo
            if gap.b is not None:
                assert gap.a.pts + slot.t * (gap.b.pts - gap.a.pts) == instant
            else:
                assert slot.t == 0 and gap.a.pts <= instant < gap.a.pts + gap.a.duration


@given(
    lengths,
    starts,
    rates,
    st.data(),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([0, 1]),
    st.sampled_from([Fr(1), Fr(3)]),
)
def test_splitting_changes_nothing(
    parts: list[Fr], start: Fr, rate: Fr, data: st.DataObject, keep: int | None, context: int, slowmo: Fr
) -> None:
    cuts = frozenset(data.draw(st.sets(st.integers(1, max(1, len(parts) - 1)), max_size=3)))
    frames = video(parts, start, cuts)
    ends = sorted({frames[i].pts for i in data.draw(st.sets(st.integers(0, len(frames) - 1), max_size=4))} - {start})
    whole = list(timeline.gaps(frames, rate, keep=keep, context=context, slowmo=slowmo))
    pieces = []
    for low, high in pairwise([None, *ends, None]):
        segment = Segment(low, high)
        inside = [i for i, f in enumerate(frames) if f.pts in segment]
        read = frames[max(0, inside[0] - context) : inside[-1] + 2 + context]
        pieces += timeline.gaps(
            read, rate, keep=keep, context=context, slowmo=slowmo, segment=segment, start=frames[0].pts
        )
    assert pieces == whole


@given(lengths, starts, st.integers(1, 5))
def test_keep_is_gapless(parts: list[Fr], start: Fr, count: int) -> None:
    frames = video(parts, start)
    slots = [s for g in timeline.gaps(frames, Fr(24), keep=count) for s in g.slots]
    assert {f.pts for f in frames} <= {s.pts for s in slots}
    assert all(s.pts + s.duration == n.pts for s, n in pairwise(slots))
    assert slots[-1].pts + slots[-1].duration == start + sum(parts, Fr(0))


@pytest.mark.skipif("MIDFRAME_REFERENCE" not in os.environ, reason="MIDFRAME_REFERENCE names no folder")
def test_integer_ratios_agree_with_the_recorded_clock_of_the_original() -> None:
    """At whole ratios the original's clock is exact too, but for the held last frame: 2N - 1 outputs at 2x."""
    recorded = json.loads((Path(os.environ["MIDFRAME_REFERENCE"]) / "reference_schedule.json").read_text())
    compared = 0
    for case in recorded:
        if "outputs" not in case:  # the original crashed
            continue
        ratio = Fr(case["out_fps"]) / Fr(case["fps"])
        if ratio.denominator != 1 or case["outputs"] != (case["frames"] - 1) * ratio + 1 or case["cuts_after"]:
            continue
        got = shown(timeline.gaps(cfr(case["frames"], Fr(case["fps"])), Fr(case["out_fps"])))
        places = [float(a + t) for _, a, t in got][: case["outputs"]]
        assert places == pytest.approx(case["source_position"], abs=0.006)  # it rounds t to 0.01
        compared += 1
    assert compared


TICK = Fr(1, 90000)
FREE, PAUSE = timeline.Holds(None, TICK), Fr(1, 30)


def paused(*pauses: int | Fr) -> list[Frame]:
    """Frames at 30 fps, 10 before and after every pause of so many seconds."""
    lengths = [PAUSE] * 10
    for pause in pauses:
        lengths[-1] = Fr(pause)
        lengths += [PAUSE] * 10
    return video(lengths)


@pytest.mark.parametrize("pause", [Fr(1), Fr(4), Fr(12), Fr(70), Fr(600)], ids=str)
@pytest.mark.parametrize("slowmo", [Fr(1), Fr(3)], ids=str)
def test_a_long_gap_holds_its_first_frame_until_one_interval_before_the_next(pause: Fr, slowmo: Fr) -> None:
    frames = paused(pause)
    gaps = list(timeline.gaps(frames, Fr(60), slowmo=slowmo, playback=timeline.Playback(holds=FREE)))
    assert {g.a.index: g.held for g in gaps if g.held} == {9: pause - PAUSE}
    moves = frames[9].pts + pause - PAUSE
    for gap in gaps:
        for slot in gap.slots:
            instant = slot.pts / slowmo
            if gap.a.index == 9:
                assert slot.t == max(Fr(0), (instant - moves) / PAUSE)
                assert slot.held == (frames[9].pts < instant <= moves)
            elif gap.b is not None:
                assert slot.t == (instant - gap.a.pts) / PAUSE and not slot.held
    assert len(shown(gaps)) == timeline.output_count(pause + 19 * PAUSE, Fr(60), slowmo)


def test_keep_holds_too() -> None:
    frames = paused(12)
    gaps = list(timeline.gaps(frames, Fr(60), keep=4, playback=timeline.Playback(holds=FREE)))
    slots = [s for g in gaps for s in g.slots]
    assert len(slots) == 4 * 19 + 1
    (long,) = (g.slots for g in gaps if g.held)
    assert [s.t for s in long] == [0, Fr(1, 4), Fr(1, 2), Fr(3, 4)]
    assert [s.pts - frames[10].pts for s in long[1:]] == [-PAUSE * 3 / 4, -PAUSE / 2, -PAUSE / 4]
    assert all(s.pts + s.duration == n.pts for s, n in pairwise(slots))


def holds_of(lengths: list[Fr], holds: timeline.Holds = FREE) -> list[Fr]:
    return [
        g.held
        for g in timeline.gaps(video(lengths), Fr(6), keep=1, playback=timeline.Playback(holds=holds))
        if g.b is not None
    ]


def test_which_gaps_are_long() -> None:
    tenth, half = Fr(1, 10), Fr(1, 2)
    assert not any(holds_of([Fr(2)] * 5, timeline.Holds(Fr(2))))  # a constant rate of one frame in two seconds
    assert not any(holds_of([tenth] * 4 + [3 * tenth] + [tenth] * 4))  # frames left out of motion
    assert not any(holds_of([PAUSE] * 9 + [7 * PAUSE] + [PAUSE] * 9))  # up to a quarter of a second
    assert holds_of([tenth, tenth, Fr(3, 2), tenth, tenth, tenth]) == [0, 0, Fr(7, 5), 0, 0]
    assert holds_of([Fr(3, 2), tenth, tenth, tenth]) == [Fr(7, 5), 0, 0]  # at the start
    assert holds_of([tenth, tenth, tenth, Fr(3, 2), tenth]) == [0, 0, 0, Fr(7, 5)]  # at the end
    # single changes seconds apart: no slow dissolve
    assert holds_of([Fr(4), Fr(3), Fr(7), Fr(4)]) == [Fr(4) - half, Fr(3) - half, Fr(7) - half]
    # a hole in a constant rate
    rate = Fr(1, 25)
    assert holds_of([rate] * 5 + [Fr(3)] + [rate] * 5, timeline.Holds(rate))[5] == 3 - rate


@given(
    st.lists(st.sampled_from([PAUSE, PAUSE, 2 * PAUSE, Fr(1, 2), Fr(3), Fr(9), Fr(40)]), min_size=2, max_size=40),
    st.data(),
)
def test_a_reader_that_starts_late_finds_the_same_holds(lengths: list[Fr], data: st.DataObject) -> None:
    frames = video(lengths)
    end = frames[-1].pts + frames[-1].duration
    cut = data.draw(st.fractions(0, end, max_denominator=30).filter(lambda at: 0 < at < end))
    first = max(i for i, f in enumerate(frames) if f.pts <= max(Fr(0), cut - 2 * timeline.NEIGHBOURHOOD))
    whole = list(timeline.gaps(frames, Fr(24), playback=timeline.Playback(holds=FREE)))
    late = timeline.gaps(
        frames[first:], Fr(24), playback=timeline.Playback(holds=FREE), segment=Segment(cut), start=Fr(0)
    )
    assert shown(late) == [item for item in shown(whole) if item[0] >= cut]


def exposed(gaps: list[Gap]) -> dict[Fr, list[tuple[Fr, Fr]]]:
    """Source seconds seen in motion by each complete output, part by part."""
    seen: dict[Fr, list[tuple[Fr, Fr]]] = {}
    spans: list[tuple[Fr, Fr]] = []
    at: Fr | None = None
    for gap in gaps:
        for slot in gap.slots:
            opening = slot.opening
            assert opening is not None and slot.t <= opening.end <= 1
            if opening.first:  # what was exposed before, of another shot, is discarded
                spans, at = [], slot.pts
            assert at == slot.pts
            if gap.b is not None and not slot.held and opening.end > slot.t:
                moves = gap.a.pts + gap.held
                length = gap.b.pts - moves
                spans.append((moves + slot.t * length, moves + opening.end * length))
            if opening.last:
                seen[slot.pts] = spans
    return seen


@given(lengths, starts, rates, st.data(), st.sampled_from([Fr(1), Fr(3)]), st.sampled_from([Fr(1, 8), Fr(1, 2), Fr(1)]))
def test_openings_are_centred_stay_in_their_shot_and_know_no_segments(
    parts: list[Fr], start: Fr, rate: Fr, data: st.DataObject, slowmo: Fr, share: Fr
) -> None:
    cuts = frozenset(data.draw(st.sets(st.integers(1, max(1, len(parts) - 1)), max_size=3)))
    frames = video(parts, start, cuts)
    whole = list(timeline.gaps(frames, rate, slowmo=slowmo, playback=timeline.Playback(shutter=share)))
    reach = share / (rate * slowmo) / 2
    begins = [start, *(f.pts for n, f in enumerate(frames) if n in cuts)]
    end = frames[-1].pts
    for pts, spans in exposed(whole).items():
        instant = start + (pts - start) / slowmo
        assert all(q == r for (_, q), (r, _) in pairwise(spans))
        if spans:
            low = max(begin for begin in begins if begin <= instant)
            high = min([begin for begin in begins if begin > instant], default=end)
            assert spans[0][0] == max(instant - reach, low)
            assert spans[-1][1] == min(instant + reach, high)
    plain = shown(timeline.gaps(frames, rate, slowmo=slowmo))
    assert list(exposed(whole)) == [pts for pts, _, _ in plain]
    border = frames[len(frames) // 2].pts
    pieces: list[Gap] = []
    for segment in (Segment(None, border), Segment(border)) if border > start else (Segment(),):
        pieces += timeline.gaps(frames, rate, slowmo=slowmo, playback=timeline.Playback(shutter=share), segment=segment)

    assert exposed(pieces) == exposed(whole)
