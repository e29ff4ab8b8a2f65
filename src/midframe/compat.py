"""Reproduce the output schedule of ModelScope's video_frame_interpolation pipeline, for comparisons.

The schedule accumulates a float step of `fps / out_fps` source frames, rounds t to 0.01, copies a source frame for
every output within half a step of it, and does not hold the last frame: 2N - 1 frames at 2x. After
modelscope/pipelines/cv/video_frame_interpolation_pipeline.py (Apache-2.0), whose schedules are matched output for
output; one to three frames, which raise an error there, follow the same rule. The exact clock is `midframe.timeline`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from midframe.types import Frame, Gap, Slot


@dataclass(frozen=True, slots=True)
class Output:
    """One output of the schedule: source frame `frame`, or the instant t after it."""

    frame: int
    t: Fraction  # in hundredths


class Clock:
    """The schedule, gap by gap. Stateful: request gaps 0, 1, 2 ... once each, in order."""

    def __init__(self, fps: float, out_fps: float) -> None:
        """Take rates in frames per second, as floats, because float arithmetic is part of the schedule."""
        self.step = float(fps) / float(out_fps)
        self._at = 0.0

    def gap(self, n: int) -> Iterator[Output]:
        """Yield the outputs between source frames n and n + 1, both included."""
        while self._at <= n + 1:
            t = round(self._at + 1 - (n + 1), 2)
            if t < self.step / 2:
                yield Output(n, Fraction(0))
            elif 1 - t < self.step / 2:
                yield Output(n + 1, Fraction(0))
            else:
                yield Output(n, Fraction(round(100 * t), 100))
            self._at += self.step


def count(frames: int, fps: float, out_fps: float) -> int:
    """Count the outputs of a video of this many frames."""
    if frames < 2:
        return frames
    clock = Clock(fps, out_fps)
    return sum(1 for n in range(frames - 1) for _ in clock.gap(n))


def gaps(
    frames: Iterable[Frame],
    fps: float,
    out_fps: float,
    *,
    rate: Fraction,
    context: int = 1,
    start: Fraction | None = None,
) -> Iterator[Gap]:
    """Turn frames into gaps, as `timeline.gaps` does for the exact clock. Keeps at most four frames.

    Args:
        frames: in order, shots labelled.
        fps: rate of the source; a variable rate counts as constant, as in the original.
        out_fps: rate of the output.
        rate: the same, exact: frames are shown at `start + k / rate`.
        context: 1 fills in `before` and `after`; None at ends and across scene changes.
        start: seconds; the first frame's pts if None.

    Yields:
        Gaps. Each copy is a gap of its own with one slot, t = 0.
    """
    clock = Clock(fps, out_fps)
    k = 0
    for n, (before, a, b, after) in enumerate(_windows(frames)):
        if start is None:
            start = a.pts
        if b is None:
            if n == 0:  # a video of one frame
                yield Gap(a, None, (Slot(a.pts, Fraction(0), 1 / rate),))
            return
        around = (before, after) if context and b.shot == a.shot else (None, None)
        left = around[0] if around[0] is not None and around[0].shot == a.shot else None
        right = around[1] if around[1] is not None and around[1].shot == b.shot else None
        interpolated: list[Slot] = []
        for output in clock.gap(n):
            pts = start + k / rate
            k += 1
            if output.t > 0:
                interpolated.append(Slot(pts, output.t, 1 / rate))
                continue
            if interpolated:
                yield Gap(a, b, tuple(interpolated), left, right)
                interpolated = []
            # with neighbours, so that the engine keeps their cached features
            source, beyond = (a, b) if output.frame == n else (b, after)
            yield Gap(source, beyond, (Slot(pts, Fraction(0), 1 / rate),), before if source is a else a, right)
        if interpolated:
            yield Gap(a, b, tuple(interpolated), left, right)


def _windows(frames: Iterable[Frame]) -> Iterator[tuple[Frame | None, Frame, Frame | None, Frame | None]]:
    """Yield (before, a, b, after) for every frame as a."""
    source = iter(frames)
    before: Frame | None = None
    ahead: deque[Frame] = deque()
    while True:
        while len(ahead) < 3 and (frame := next(source, None)) is not None:
            ahead.append(frame)
        if not ahead:
            return
        a = ahead.popleft()
        yield before, a, ahead[0] if ahead else None, ahead[1] if len(ahead) > 1 else None
        before = a
