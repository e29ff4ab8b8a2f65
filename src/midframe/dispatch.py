"""Who makes which piece next: the rules of a farm, as plain values, without a cluster, a clock or a file.

A job is cut into pieces of known cost. Workers ask for one (`next`), and later it is `finished`, `failed` (the piece's
own doing, or the worker died over it) or `lost` (the worker's node went away: nobody's doing). Rules:

- The dearest piece that nobody works on goes first, so that no long one is left for the end (LPT rule, Graham 1969,
  "Bounds on multiprocessing timing anomalies").
- A piece that failed `attempts` times is poisoned: it is given up and named, the others go on.
- When nothing is left to hand out, an idle worker doubles a straggler: a piece that has run longer than `patience`
  times what the finished ones lead to expect. The first of the two that finishes counts; the other is dropped. What
  waits for a place on a machine is no straggler: a second one would wait behind it.
- A worker asks when it is idle, so a fast one takes more pieces than a slow one.

`cluster` drives this with Ray, and `benchmarks/farm.py` with a thousand simulated workers: the same rules.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

PIECES_PER_WORKER = 8  # at the least, where the job can be cut so finely: with fewer, the last round idles many workers
LEAST_OUTPUTS = 120  # of a piece: with fewer, reading up to its begin costs more than the better balance saves


def piece_outputs(total: int, workers: int, most: int) -> int:
    """How many pictures a piece should have so that so many workers share a job of `total` pictures evenly.

    Args:
        total: pictures of the whole job.
        workers: at work at a time, >= 1.
        most: of a piece, as a job on one machine has it.
    """
    if workers == 1:  # nothing to balance: half as many lead-ins
        return 2 * most
    return min(most, max(LEAST_OUTPUTS, -(-total // (PIECES_PER_WORKER * workers))))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One worker's go at one piece."""

    piece: int
    began: float | None = None  # seconds, on the caller's clock; None: waits for a place
    copy: bool = False  # whether another worker had it already


@dataclass(slots=True)
class _Piece:
    cost: float
    failures: list[str] = field(default_factory=list)
    poisoned: bool = False
    running: int = 0
    done: bool = False


class Dispatch:
    """Hands out the pieces of one job. Times are seconds on any clock that only goes forward.

    Args:
        costs: of each piece, in any unit, > 0.
        done: pieces that an earlier run has finished.
        attempts: failures of one piece after which it is given up.
        patience: a piece is a straggler after this many times its expected seconds.
        grace: and never before this many seconds.
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
        self._pieces = [_Piece(max(cost, 1e-9)) for cost in costs]
        for number in done:
            self._pieces[number].done = True
        self._open = {number for number, piece in enumerate(self._pieces) if not piece.done}
        self._attempts, self._patience, self._grace = attempts, patience, grace
        self._paces: list[float] = []  # seconds per cost of finished pieces
        self._running: dict[int, Attempt] = {}
        self._count = 0
        self._waiting = sorted(
            (n for n, piece in enumerate(self._pieces) if not piece.done), key=lambda n: (self._pieces[n].cost, -n)
        )  # the next one is the last: dearest first, and in order among equals

    @property
    def over(self) -> bool:
        """Whether every piece is done or given up."""
        return not self._open

    @property
    def left(self) -> int:
        """Pieces neither done nor given up."""
        return len(self._open)

    @property
    def poisoned(self) -> dict[int, tuple[str, ...]]:
        """Pieces given up, with what each failure said."""
        return {n: tuple(piece.failures) for n, piece in enumerate(self._pieces) if not piece.done and piece.poisoned}

    def next(self, now: float) -> tuple[int, Attempt] | None:
        """(ticket, attempt) for an idle worker, or None: there is nothing for it at present."""
        while self._waiting:
            number = self._waiting.pop()
            if not self._pieces[number].done and not self._pieces[number].poisoned:
                return self._hand_out(Attempt(number))
        straggler = self._straggler(now)
        return None if straggler is None else self._hand_out(Attempt(straggler, copy=True))

    def started(self, ticket: int, now: float) -> None:
        """The worker has begun: what it waited for a place does not count as work."""
        if ticket in self._running:
            self._running[ticket] = replace(self._running[ticket], began=now)

    def finished(self, ticket: int, now: float) -> bool:
        """The attempt is through. Returns whether its result counts: False if another was first."""
        attempt = self._take_back(ticket)
        if attempt is None:
            return False
        piece = self._pieces[attempt.piece]
        if attempt.began is not None:
            self._paces.append((now - attempt.began) / piece.cost)
        first = not piece.done
        piece.done = True
        self._open.discard(attempt.piece)
        return first

    def failed(self, ticket: int, why: str, *, final: bool = False) -> None:
        """The attempt ended in an error, or killed its worker: it counts against the piece.

        Args:
            ticket: of the attempt.
            why: one line.
            final: the caller knows that another attempt would end the same way.
        """
        attempt = self._take_back(ticket)
        if attempt is None:
            return
        piece = self._pieces[attempt.piece]
        piece.failures.append(why)
        piece.poisoned = piece.poisoned or final or len(piece.failures) >= self._attempts
        if piece.poisoned:
            self._open.discard(attempt.piece)
        self._requeue(attempt.piece)

    def lost(self, ticket: int) -> None:
        """The attempt's node went away: the piece runs again, and nothing counts against it."""
        attempt = self._take_back(ticket)
        if attempt is not None:
            self._requeue(attempt.piece)

    def obsolete(self) -> list[int]:
        """Tickets still running of pieces that another attempt has finished: they may be cancelled."""
        return [ticket for ticket, attempt in self._running.items() if self._pieces[attempt.piece].done]

    def _hand_out(self, attempt: Attempt) -> tuple[int, Attempt]:
        self._count += 1
        self._running[self._count] = attempt
        self._pieces[attempt.piece].running += 1
        return self._count, attempt

    def _take_back(self, ticket: int) -> Attempt | None:
        attempt = self._running.pop(ticket, None)
        if attempt is not None:
            self._pieces[attempt.piece].running -= 1
        return attempt

    def _requeue(self, number: int) -> None:
        piece = self._pieces[number]
        if not piece.done and not piece.running and not piece.poisoned:
            self._waiting.append(number)  # at once: it has already cost time

    def _straggler(self, now: float) -> int | None:
        """The running piece that is furthest behind what it should take, if it is behind, and runs only once."""
        if not self._paces:
            return None
        pace = statistics.median(self._paces)
        late = [
            (now - attempt.began - max(self._grace, self._patience * pace * self._pieces[attempt.piece].cost), number)
            for attempt in self._running.values()
            for number in (attempt.piece,)
            if attempt.began is not None and self._pieces[number].running == 1 and not self._pieces[number].done
        ]
        behind = max(late, default=(0.0, -1))
        return behind[1] if behind[0] > 0 else None
