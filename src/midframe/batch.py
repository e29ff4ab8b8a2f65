"""Interpolate many videos, one or several at a time, with one report.

The report also makes a batch resumable: a second run skips finished videos, resumes an interrupted one from its journal
and retries failed ones. The caller passes the function that interpolates one video, locally or on a cluster.
"""

from __future__ import annotations

import csv
import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from midframe.errors import InputError, Interrupted, MediaError, MidframeError
from midframe.journal import fingerprint, write_whole
from midframe.options import Options
from midframe.result import Progress, Result


class Interpolate(Protocol):
    """The signature of `pipeline.interpolate` and of its counterpart for a cluster."""

    def __call__(
        self,
        src: str | Path,
        dst: str | Path | None,
        *,
        options: Options,
        on_progress: Callable[[Progress], None],
        cancel: threading.Event,
        drain: threading.Event,
    ) -> Result:
        """Interpolate one video."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One video of a batch and its state."""

    source: str  # path or URL
    target: str | None  # None: next to the source, or in the batch's folder
    options: dict[str, Any]  # as `Options.to_json` writes them
    state: str = "waiting"  # "waiting", "running", "done", "failed"
    frames: int = 0  # output frames so far
    total: int | None = None
    seconds: float = 0.0  # duration of the run that finished it
    error: str | None = None  # one line
    fingerprint: dict[str, Any] | None = None  # of the source when the video was finished


def read_list(path: Path, options: Options) -> list[Entry]:
    """Read a CSV file with the columns `source`, optionally `target` and any options by name (`fps`, `ratio` ...).

    Paths are relative to the list's folder; an empty cell takes its value from `options`.

    Raises:
        MediaError: the list cannot be read.
        InputError: unknown column or invalid value; the message gives the line number.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, restkey="?", restval=""))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise MediaError(f"the list '{path}' cannot be read: {why}") from error
    if not rows or "source" not in rows[0]:
        raise InputError(f"the list '{path}' has no videos: its first line must name the columns, including 'source'")
    base = {name: value for name, value in asdict(options).items() if value != getattr(Options(), name)}
    entries = []
    for number, row in enumerate(rows, 2):
        cells = {name: value for name, value in row.items() if name not in ("source", "target") and value}
        if "?" in cells:
            raise InputError(f"'{path}', line {number}: more cells than columns")
        if not row["source"]:
            raise InputError(f"'{path}', line {number}: the source is empty")
        try:
            clash = {"fps": "ratio", "ratio": "fps"}
            defaults = {k: v for k, v in base.items() if clash.get(k) not in cells}
            parsed = Options.parse(**{**defaults, **cells})
        except InputError as error:
            raise InputError(f"'{path}', line {number}: {error}") from error
        target = row.get("target") or None
        entries.append(
            Entry(_relative_to(path, row["source"]), target and _relative_to(path, target), parsed.to_json())
        )
    return entries


def _relative_to(path: Path, name: str) -> str:
    return name if "://" in name else str(path.parent / name)


class Batch:
    """A list of videos and their report.

    Args:
        entries: the videos.
        report: the JSON report; videos that it lists as done are skipped.
        interpolate: interpolates one video.
        at_once: number of videos processed at the same time.
        on_change: called with all entries when one changes, from any thread.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        report: Path,
        interpolate: Interpolate,
        *,
        at_once: int = 1,
        on_change: Callable[[Sequence[Entry]], None] | None = None,
    ) -> None:
        self.report = report
        self._interpolate, self._at_once, self._on_change = interpolate, at_once, on_change
        self._lock = threading.RLock()
        self._written = 0.0
        self.entries = [self._restored(entry) for entry in entries]

    def run(self, cancel: threading.Event, drain: threading.Event) -> list[Entry]:
        """Interpolate the remaining videos and return all entries. A failure does not stop the other videos.

        Raises:
            Interrupted: stopped on request; a second run resumes the batch.
        """
        todo = [n for n, entry in enumerate(self.entries) if entry.state != "done"]
        self._save()
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="midframe-batch") as pool:
            for _ in pool.map(lambda n: self._one(n, cancel, drain), todo):
                pass
        self._save()
        if cancel.is_set() or drain.is_set():
            done = sum(entry.state == "done" for entry in self.entries)
            raise Interrupted(f"stopped; {done} of {len(self.entries)} videos are done; run the same command to resume")
        return self.entries

    def _one(self, number: int, cancel: threading.Event, drain: threading.Event) -> None:
        if cancel.is_set() or drain.is_set():
            return
        entry = self.entries[number]
        began = time.monotonic()
        self._change(number, state="running", error=None, frames=0)

        def on_progress(progress: Progress) -> None:
            self._change(number, save=False, frames=progress.frames, total=progress.total)

        try:
            result = self._interpolate(
                entry.source,
                entry.target,
                options=Options.from_json(entry.options),
                on_progress=on_progress,
                cancel=cancel,
                drain=drain,
            )
        except Interrupted:
            self._change(number, state="waiting")
        except MidframeError as error:
            self._change(number, state="failed", error=str(error), seconds=time.monotonic() - began)
        else:
            self._change(
                number,
                state="done",
                target=str(result.path),
                frames=result.frames_out,
                total=result.frames_out,
                seconds=round(time.monotonic() - began, 3),
                fingerprint=_fingerprint_of(entry.source),
            )

    def _change(self, number: int, save: bool = True, **fields: Any) -> None:
        with self._lock:
            self.entries[number] = replace(self.entries[number], **fields)
            if save:
                self._save()
            if self._on_change is not None:
                self._on_change(self.entries)

    def _save(self) -> None:
        with self._lock:
            self.report.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.report, json.dumps([asdict(entry) for entry in self.entries], indent=1))

    def _restored(self, entry: Entry) -> Entry:
        """Return the entry of an earlier report if that video is done and unchanged, else `entry`."""
        for old in self._old():
            if (
                old.state == "done"
                and old.source == entry.source
                and (entry.target is None or old.target == entry.target)
                and old.options == entry.options
                and old.fingerprint == _fingerprint_of(entry.source)
                and (old.target is None or "://" in old.target or Path(old.target).exists())
            ):
                return old
        return entry

    def _old(self) -> list[Entry]:
        try:
            return [Entry(**record) for record in json.loads(self.report.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError):
            return []


def _fingerprint_of(source: str) -> dict[str, Any] | None:
    """Return a source's fingerprint; None for URLs and missing files, which are identified by name only."""
    path = Path(source)
    return fingerprint(path) if "://" not in source and path.exists() else None
