"""Time stretching of audio, pitch kept, along any map from output to source time.

Waveform-similarity overlap-add (Verhelst and Roelands, ICASSP 1993): windows of the source are placed by the map, and
moved by at most a hundredth of a second so that each continues the one before it. libav's atempo is the same method
for one constant tempo, and its length depends on its windows; here speed may vary, nothing drifts, and the length is
exact to the sample.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_HOPS_PER_SECOND = 50  # half a window; its period is the lowest frequency that stays in phase
_TIE = 1e-3  # subtracted from the similarity at the ends of the search: of equal windows the nearest is taken


class TimeStretch:
    """Stretch a stream of samples.

    Args:
        rate: samples per second.
        first: index, on the clock of the source, of the first sample pushed.
        begin: index, on the clock of the output, of the first sample returned.
        source_of: maps sample indices of the output to those of the source, never backwards.
    """

    def __init__(self, rate: int, first: int, begin: int, source_of: Callable[[int], float]) -> None:
        self.hop = max(16, rate // _HOPS_PER_SECOND)
        self._reach = self.hop // 2  # samples by which a window is moved at most
        self._window = (0.5 - 0.5 * np.cos(np.pi * np.arange(2 * self.hop) / self.hop)).astype(np.float32)
        ties = np.abs(np.arange(-self._reach, self._reach + 1)) / self._reach
        self._ties = (_TIE * ties).astype(np.float32)
        self._length = 1 << (2 * self.hop + 2 * self._reach - 1).bit_length()  # of the Fourier transforms
        self._source_of = source_of
        self._first = self._base = first  # source indices of the first sample, and of the first one kept
        self._source_end: int | None = None  # source index after the last sample; None: not known yet
        self._samples: NDArray[np.float32] | None = None  # (channels, kept)
        self._at = begin  # output index at the centre of the next window
        self._last: int | None = None  # source index at the centre of the window before
        self._tail: NDArray[np.float32] | None = None  # second half of that window, weighted

    def push(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add samples (channels, n) and return those that are ready, (channels, m)."""
        self._samples = samples if self._samples is None else np.concatenate([self._samples, samples], axis=1)
        made = []
        while self._next_end() <= self._base + self._samples.shape[1]:
            made.append(self._step())
        return np.concatenate(made, axis=1) if made else samples[:, :0]

    def finish(self, end: int) -> NDArray[np.float32]:
        """Return the remaining samples, up to index `end` of the output; the source is silent after its last sample."""
        assert self._samples is not None, "samples were pushed before"
        channels = self._samples.shape[0]
        self._source_end = self._base + self._samples.shape[1]
        made = [self._samples[:, :0]]
        ready = self._at - self.hop if self._tail is not None else self._at  # samples returned so far end here
        while ready < end:
            missing = self._next_end() - self._base - self._samples.shape[1]
            if missing > 0:
                self._samples = np.concatenate([self._samples, np.zeros((channels, missing), np.float32)], axis=1)
            made.append(self._step())
            ready += made[-1].shape[1]
        rest = np.concatenate(made, axis=1)
        return rest[:, : rest.shape[1] - max(0, ready - end)]

    def _next_end(self) -> int:
        """Return the source index at which the samples for the next window end."""
        end = self._target() + self._reach + self.hop
        return end if self._last is None else max(end, self._last + 2 * self.hop)

    def _target(self) -> int:
        """Return the source index for the centre of the next window.

        Windows lie within the source, so that slow motion does not repeat the silence around it. The first may begin
        before it and, at the speed of the source, the last end behind it.
        """
        target = round(self._source_of(self._at))
        if self._last is None or target == self._last + self.hop:
            return target
        if self._source_end is not None:
            target = min(target, self._source_end - self.hop)
        return max(target, self._first + self.hop)

    def _part(self, centre: int, before: int, after: int) -> NDArray[np.float32]:
        """Return the source from `before` samples before the centre to `after` behind it; silent before its start."""
        assert self._samples is not None
        begin, end = centre - before - self._base, centre + after - self._base
        part = self._samples[:, max(0, begin) : max(0, end)]
        return part if begin >= 0 else np.pad(part, ((0, 0), (min(-begin, end - begin), 0)))

    def _step(self) -> NDArray[np.float32]:
        """Add one window and return the samples that it completes: a hop of them, none from the first window."""
        target = self._target()
        centre = target if self._last is None else self._aligned(target, self._last + self.hop)
        window = self._part(centre, self.hop, self.hop) * self._window
        done = window[:, :0] if self._tail is None else self._tail + window[:, : self.hop]
        self._tail, self._last = window[:, self.hop :], centre
        self._at += self.hop
        self._forget(min(centre + self.hop, self._target() - self._reach) - self.hop)
        return done

    def _aligned(self, target: int, follows: int) -> int:
        """Return the centre near `target` whose window is most like the one at `follows`, the exact continuation."""
        if follows == target:
            return target
        wanted = self._part(follows, self.hop, self.hop).sum(axis=0)
        found = self._part(target, self.hop + self._reach, self.hop + self._reach).sum(axis=0)
        spectrum = np.fft.rfft(found, self._length) * np.conj(np.fft.rfft(wanted, self._length))
        match = np.fft.irfft(spectrum, self._length)[: 2 * self._reach + 1]
        energy = np.concatenate([[0.0], np.cumsum(found.astype(np.float64) ** 2)])
        energies = (energy[2 * self.hop :] - energy[: -2 * self.hop])[: 2 * self._reach + 1]
        norm = np.sqrt(np.maximum(energies, 0) * float((wanted.astype(np.float64) ** 2).sum())) + 1e-9
        score = match / norm - self._ties
        score[: max(0, self._first + self.hop - target + self._reach)] = -np.inf  # windows lie within the source
        if self._source_end is not None and (behind := target + self.hop - self._source_end) > -self._reach:
            score[self._reach + 1 - behind :] = -np.inf
        return target - self._reach + int(np.argmax(score))

    def _forget(self, before: int) -> None:
        assert self._samples is not None
        count = min(max(0, before - self._base), self._samples.shape[1])
        self._samples = self._samples[:, count:]
        self._base += count
