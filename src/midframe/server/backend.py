"""The functions that process videos, as the server calls them: those of midframe, or fakes in tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Task:
    """A job, as passed to its runner."""

    id: str
    kind: str  # "preview" or "full"
    source: str  # path of the video
    folder: str  # the job's own folder: whatever it makes goes there, and stays there while it is paused
    options: Mapping[str, Any]
    mask: str | None  # path of the painted overlay mask, a PNG of the frame size
    device: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a run."""

    frames: int  # output frames made
    total: int  # output frames there will be
    stage: str = "frames"  # "frames", then "comparison" while what the page plays is written
    fps: float | None = None  # output frames per second of work
    seconds_left: float | None = None


OnProgress = Callable[[Progress, bytes | None], None]  # the bytes: now and then a JPEG of the latest frame


class RunJob(Protocol):
    """Runs a job in a worker process and returns its outcome, JSON with these keys, all names within `task.folder`.

    result: name of the finished video; before, after: names of what a browser plays beside each other;
    report: name of a JSON file, or None; marks: {"cuts": [s], "holds": [[s, s]], "duplicates": [[s, s]],
    "low_confidence": [[s, confidence]]} in seconds of the output; warnings: [str]; size: bytes; seconds, pixels, bits:
    what the run cost; steady_seconds, steady_pixels: the part of it from the first frame to the last, without loading.
    Raises Interrupted once `cancel` is set.
    """

    def __call__(self, task: Task, on_progress: OnProgress, cancel: threading.Event) -> Mapping[str, Any]:
        """Run it."""


class Probe(Protocol):
    """Looks at a file: JSON with at least width, height, duration, rate, frames, container. Raises MediaError."""

    def __call__(self, path: str) -> Mapping[str, Any]:
        """Return the progress, or a request to stop."""


class Still(Protocol):
    """One frame of a video as JPEG, at most `width` wide."""

    def __call__(self, path: str, seconds: float, width: int, upright: bool) -> bytes:
        """Decode it; `upright` turns it as the file asks players to."""


@dataclass(frozen=True, slots=True)
class Backend:
    """The functions that process videos; each runs in a subprocess, so each must be a function of a module."""

    run_job: RunJob
    probe: Probe
    still: Still
