"""Which segment is processed next: the rules of a cluster run as plain values, without Ray, clock or files.

A run has segments of known cost. An idle worker asks for one (`next`); later it is `finished`, `failed` (an error of
the segment, or it killed its worker) or `lost` (the node went away, which counts against nobody). Rules:

- Longest first among the segments that nobody works on, so that no long one is left for the end (LPT rule, Graham 1969,
  "Bounds on multiprocessing timing anomalies").
- A segment that failed `attempts` times has failed permanently: it is named, and the others continue.
- When none is left, an idle worker duplicates a straggler: a segment that has run longer than `patience` times its
  expected time. The first of the two to finish counts. A task that still waits for a place on a node is no straggler:
  a second one would wait behind it.
- Workers ask when they are idle, so fast ones process more segments than slow ones.

`coordinator` drives this with Ray, and `benchmarks/cluster.py` with a thousand simulated workers.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

SEGMENTS_PER_WORKER = 8  # at least, where the video is long enough: with fewer the last round leaves many idle
MIN_SEGMENT_OUTPUTS = 120  # with fewer, seeking and lead-in frames cost more than the better balance saves


def segment_outputs_for(total: int, workers: int, maximum: int) -> int:
    """Number of output frames per segment that shares a video of `total` frames evenly between workers.

    Args:
        total: output frames of the video.
        workers: in parallel, >= 1.
        maximum: output frames of a segment in a run on one machine.
    """
    if workers == 1:  # nothing to balance: half as many lead-in frames
        return 2 * maximum
    return min(maximum, max(MIN_SEGMENT_OUTPUTS, -(-total // (SEGMENTS_PER_WORKER * workers))))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at one segment by one worker."""

    segment: int
    began: float | None = None  # seconds on the caller's clock; None: still waits for a place
    copy: bool = False  # a duplicate of a straggler


@dataclass(slots=True)
class _Segment:
    cost: float
    failures: list[str] = field(default_factory=list)
    permanently_failed: bool = False
    running: int = 0
    done: bool = False


class SegmentScheduler:
    """Assigns the segments of one run. Times are seconds on any monotonic clock.

    Args:
        costs: of each segment, in any unit, > 0.
        done: segments finished by an earlier run.
        attempts: failures after which a segment has failed permanently.
        patience: a segment is a straggler after this many times its expected seconds.
        grace: seconds before which no segment is a straggler.
    """

    def __init__(
        self,
        costs: Sequence[float],
        done: Iterable[int] = (),
        *,
        attempts: int = 3,
        patience: float = 2.0,
        grace: float = 5.0,
    ) -> None:
        self._segments = [_Segment(max(cost, 1e-9)) for cost in costs]
        for number in done:
            self._segments[number].done = True
        self._open = {number for number, segment in enumerate(self._segments) if not segment.done}
        self._attempts, self._patience, self._grace = attempts, patience, grace
        self._paces: list[float] = []  # seconds per cost of finished segments
        self._running: dict[int, Attempt] = {}
        self._count = 0
        self._waiting = sorted(
            (n for n, segment in enumerate(self._segments) if not segment.done),
            key=lambda n: (self._segments[n].cost, -n),
        )  # popped from the end: longest first, in order among equals

    @property
    def over(self) -> bool:
        """Return whether every segment is done or has failed permanently."""
        return not self._open

    @property
    def left(self) -> int:
        """Number of segments neither done nor permanently failed."""
        return len(self._open)

    @property
    def permanently_failed(self) -> dict[int, tuple[str, ...]]:
        """Permanently failed segments with the message of each failure."""
        return {
            n: tuple(segment.failures)
            for n, segment in enumerate(self._segments)
            if not segment.done and segment.permanently_failed
        }

    def next(self, now: float) -> tuple[int, Attempt] | None:
        """(ticket, attempt) for an idle worker, None if there is nothing to do at present."""
        while self._waiting:
            number = self._waiting.pop()
            if not self._segments[number].done and not self._segments[number].permanently_failed:
                return self._assign(Attempt(number))
        straggler = self._straggler(now)
        return None if straggler is None else self._assign(Attempt(straggler, copy=True))

    def started(self, ticket: int, now: float) -> None:
        """Record that the worker of an attempt has started; its time in the queue does not count."""
        if ticket in self._running:
            self._running[ticket] = replace(self._running[ticket], began=now)

    def finished(self, ticket: int, now: float) -> bool:
        """Record a finished attempt; return whether its result counts: False if another one was first."""
        attempt = self._release(ticket)
        if attempt is None:
            return False
        segment = self._segments[attempt.segment]
        if attempt.began is not None:
            self._paces.append((now - attempt.began) / segment.cost)
        first = not segment.done
        segment.done = True
        self._open.discard(attempt.segment)
        return first

    def failed(self, ticket: int, why: str, *, final: bool = False) -> None:
        """Record a failed attempt, or one that killed its worker; it counts against the segment.

        Args:
            ticket: of the attempt.
            why: one line.
            final: another attempt would fail the same way.
        """
        attempt = self._release(ticket)
        if attempt is None:
            return
        segment = self._segments[attempt.segment]
        segment.failures.append(why)
        segment.permanently_failed = segment.permanently_failed or final or len(segment.failures) >= self._attempts
        if segment.permanently_failed:
            self._open.discard(attempt.segment)
        self._requeue(attempt.segment)

    def lost(self, ticket: int) -> None:
        """Record that the node of an attempt was lost: the segment runs again, and nothing counts against it."""
        attempt = self._release(ticket)
        if attempt is not None:
            self._requeue(attempt.segment)

    def obsolete(self) -> list[int]:
        """Running tickets of segments that another attempt has finished."""
        return [ticket for ticket, attempt in self._running.items() if self._segments[attempt.segment].done]

    def _assign(self, attempt: Attempt) -> tuple[int, Attempt]:
        self._count += 1
        self._running[self._count] = attempt
        self._segments[attempt.segment].running += 1
        return self._count, attempt

    def _release(self, ticket: int) -> Attempt | None:
        attempt = self._running.pop(ticket, None)
        if attempt is not None:
            self._segments[attempt.segment].running -= 1
        return attempt

    def _requeue(self, number: int) -> None:
        segment = self._segments[number]
        if not segment.done and not segment.running and not segment.permanently_failed:
            self._waiting.append(number)  # next in line: it has already cost time

    def _straggler(self, now: float) -> int | None:
        """Return the segment furthest behind its expected time that only one worker processes, if any."""
        if not self._paces:
            return None
        pace = statistics.median(self._paces)
        late = [
            (
                now - attempt.began - max(self._grace, self._patience * pace * self._segments[attempt.segment].cost),
                number,
            )
            for attempt in self._running.values()
            for number in (attempt.segment,)
            if attempt.began is not None and self._segments[number].running == 1 and not self._segments[number].done
        ]
        behind = max(late, default=(0.0, -1))
        return behind[1] if behind[0] > 0 else None
