"""Progress and latest frame of running jobs, kept in memory only."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any


class LiveProgress:
    """What is known of running jobs beyond the store: the latest progress and picture. Kept in memory only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._progress: dict[str, dict[str, Any]] = {}
        self._pictures: dict[str, tuple[int, bytes]] = {}

    def update(self, job: str, progress: Mapping[str, Any], picture: bytes | None) -> dict[str, Any]:
        """Take a step in; the progress returned carries the picture's number."""
        with self._lock:
            if picture is not None:
                self._pictures[job] = (self._pictures.get(job, (0, b""))[0] + 1, picture)
            entry = {**progress, "picture": self._pictures.get(job, (0, b""))[0]}
            self._progress[job] = entry
            return entry

    def progress(self, job: str) -> dict[str, Any] | None:
        """Latest progress, None before the first."""
        with self._lock:
            return self._progress.get(job)

    def picture(self, job: str) -> bytes | None:
        """Latest picture as JPEG."""
        with self._lock:
            return self._pictures.get(job, (0, None))[1]

    def forget(self, job: str) -> None:
        """The job runs no more."""
        with self._lock:
            self._progress.pop(job, None)
            self._pictures.pop(job, None)
