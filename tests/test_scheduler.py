"""The scheduler: every segment is made once, whatever happens to the workers."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midframe.cluster.scheduler import Attempt, SegmentScheduler, segment_outputs_for


def test_longest_first_then_in_order() -> None:
    scheduler = SegmentScheduler([1, 5, 5, 2])
    order = []
    for _ in range(4):
        handed = scheduler.next(0.0)
        assert handed is not None
        order.append(handed[1].segment)
    assert order == [1, 2, 3, 0]
    assert scheduler.next(0.0) is None


def test_what_is_done_is_not_handed_out() -> None:
    scheduler = SegmentScheduler([1, 1, 1], done=[0, 2])
    handed = scheduler.next(0.0)
    assert handed is not None and handed[1].segment == 1
    assert scheduler.finished(handed[0], 1.0)
    assert scheduler.over and not scheduler.permanently_failed


def test_a_segment_that_always_fails_is_named_and_the_rest_goes_on() -> None:
    scheduler = SegmentScheduler([1, 1])
    made = set()
    for now in range(20):
        handed = scheduler.next(float(now))
        if handed is None:
            break
        ticket, attempt = handed
        if attempt.segment == 0:
            scheduler.failed(ticket, f"crash {now}")
        elif scheduler.finished(ticket, now + 0.5):
            made.add(attempt.segment)
    assert scheduler.over
    assert made == {1}
    assert list(scheduler.permanently_failed) == [0] and len(scheduler.permanently_failed[0]) == 3


def test_a_lost_node_counts_against_no_piece() -> None:
    scheduler = SegmentScheduler([1])
    for _ in range(10):
        handed = scheduler.next(0.0)
        assert handed is not None
        scheduler.lost(handed[0])
    handed = scheduler.next(0.0)
    assert handed is not None and scheduler.finished(handed[0], 1.0) and scheduler.over


def two_begun() -> tuple[SegmentScheduler, tuple[int, Attempt], tuple[int, Attempt]]:
    """Two segments, both handed out and begun at 0 s."""
    scheduler = SegmentScheduler([1, 1], grace=0.0)
    first, second = scheduler.next(0.0), scheduler.next(0.0)
    assert first is not None and second is not None
    for ticket, _ in (first, second):
        scheduler.started(ticket, 0.0)
    return scheduler, first, second


def test_a_straggler_is_doubled_once_and_its_first_result_counts() -> None:
    scheduler, first, second = two_begun()
    assert scheduler.finished(first[0], 10.0)
    assert scheduler.next(15.0) is None, "not yet late: twice 10 s have not gone by"
    copy = scheduler.next(20.5)
    assert copy is not None and copy[1].copy and copy[1].segment == second[1].segment
    assert scheduler.next(40.0) is None, "two at a time are enough"
    assert scheduler.finished(copy[0], 30.0)
    assert scheduler.obsolete() == [second[0]]
    assert not scheduler.finished(second[0], 31.0)
    assert scheduler.over


def test_a_segment_given_up_stays_so_whatever_becomes_of_its_copy() -> None:
    scheduler, first, second = two_begun()
    assert scheduler.finished(first[0], 1.0)
    copy = scheduler.next(9.0)
    assert copy is not None and copy[1].copy
    scheduler.failed(second[0], "killed its worker", final=True)
    scheduler.failed(copy[0], "an ordinary error")
    assert list(scheduler.permanently_failed) == [second[1].segment]
    assert scheduler.over and scheduler.next(20.0) is None


def test_what_waits_for_a_place_is_no_straggler() -> None:
    scheduler = SegmentScheduler([1, 1], grace=0.0)
    first, second = scheduler.next(0.0), scheduler.next(0.0)
    assert first is not None and second is not None
    scheduler.started(first[0], 0.0)
    assert scheduler.finished(first[0], 1.0)
    assert scheduler.next(100.0) is None, "the second has not begun"
    scheduler.started(second[0], 100.0)
    assert scheduler.next(101.5) is None
    assert scheduler.next(102.5) is not None


def test_each_worker_takes_what_it_can() -> None:
    """Four slow workers and one that is eight times as fast: it makes two thirds, and all end together."""
    paces = [8.0, 8.0, 8.0, 8.0, 1.0]
    scheduler = SegmentScheduler([1.0] * 300, grace=1.0)
    busy: list[tuple[float, int, int]] = []
    made = [0] * len(paces)
    idle, now = list(range(len(paces))), 0.0
    while not scheduler.over:
        while idle and (handed := scheduler.next(now)) is not None:
            scheduler.started(handed[0], now)
            worker = idle.pop()
            busy.append((now + paces[worker], worker, handed[0]))
        busy.sort()
        now, worker, ticket = busy.pop(0)
        made[worker] += scheduler.finished(ticket, now)
        idle.append(worker)
    assert made[4] == pytest.approx(200, abs=5)
    assert now < 300 / (1 + 4 / 8) + 9, "the slowest last segment and no more"


@pytest.mark.parametrize(
    ("total", "workers", "outputs"), [(3600, 1, 960), (3600, 2, 225), (432_000, 100, 480), (432_000, 1000, 120)]
)
def test_many_workers_get_smaller_pieces(total: int, workers: int, outputs: int) -> None:
    assert segment_outputs_for(total, workers, 480) == outputs


@settings(max_examples=60, deadline=None)
@given(
    costs=st.lists(st.floats(0.1, 10), min_size=1, max_size=40),
    workers=st.integers(1, 12),
    seed=st.integers(0, 2**31),
)
def test_every_piece_is_made_exactly_once_through_random_deaths(costs: list[float], workers: int, seed: int) -> None:
    rng = random.Random(seed)
    scheduler = SegmentScheduler(costs, grace=0.1)
    made: list[int] = []
    busy: list[tuple[float, int, int]] = []
    now = 0.0
    for _ in range(100_000):
        while len(busy) < workers and (handed := scheduler.next(now)) is not None:
            ticket, attempt = handed
            scheduler.started(ticket, now)
            busy.append((now + costs[attempt.segment] * rng.choice([1, 1, 1, 8]), ticket, attempt.segment))
        if not busy:
            break
        busy.sort()
        now, ticket, segment = busy.pop(0)
        if rng.random() < 0.3:
            scheduler.lost(ticket)
        elif scheduler.finished(ticket, now):
            made.append(segment)
    assert scheduler.over
    assert sorted(made) == list(range(len(costs)))
