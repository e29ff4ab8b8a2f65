"""Progress and latest frame of running jobs, kept in memory only."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any


class LiveProgress:
    """Latest progress and latest frame of running jobs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: dict[str, dict[str, Any]] = {}
        self._frames: dict[str, tuple[int, bytes]] = {}

    def update(self, job: str, progress: Mapping[str, Any], frame: bytes | None) -> dict[str, Any]:
        """Take progress in; return it with the number of the latest frame."""
        with self._lock:
            if frame is not None:
                self._frames[job] = (self._frames.get(job, (0, b""))[0] + 1, frame)
            entry = {**progress, "latest_frame": self._frames.get(job, (0, b""))[0]}
            self._progress[job] = entry
            return entry

    def progress(self, job: str) -> dict[str, Any] | None:
        """Return the latest progress, None before the first."""
        with self._lock:
            return self._progress.get(job)

    def frame(self, job: str) -> bytes | None:
        """Return the latest frame as JPEG."""
        with self._lock:
            return self._frames.get(job, (0, None))[1]

    def forget(self, job: str) -> None:
        """Forget a job that has ended."""
        with self._lock:
            self._progress.pop(job, None)
            self._frames.pop(job, None)
