"""The job store: sources and jobs in one SQLite file, and the only place where a job changes its state.

    queued ── claim ──> running ── finish ──> done
      ^  ^                │ ├─── fail ─────> failed ─┐
      │  │               pause └── cancel ─> cancelled ┤
      │  └── resume ── paused                          │
      └──────────────────── retry ─────────────────────┘

A running job is not stopped here: `ask` records the request, its dispatcher sees it, and `stopped` turns it into the
requested state. Every change is one guarded UPDATE, so two requests at once cannot both win. The file is opened
in exclusive mode: a second server on the same folder is refused, and the lock dies with the process.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from midframe.errors import InputError, JobError

STATES = ("queued", "running", "paused", "done", "failed", "cancelled")
FINISHED = ("done", "failed", "cancelled")
MAX_CRASHES = 2  # a file that kills its worker twice is given up: once may be bad luck, such as memory

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sources (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL,
    received INTEGER NOT NULL, state TEXT NOT NULL, info TEXT, error TEXT, mask INTEGER NOT NULL DEFAULT 0,
    client TEXT NOT NULL, created REAL NOT NULL, touched REAL NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, source TEXT NOT NULL, kind TEXT NOT NULL,
    options TEXT NOT NULL, about TEXT NOT NULL, state TEXT NOT NULL, requested TEXT, progress TEXT, outcome TEXT,
    error TEXT,
    crashes INTEGER NOT NULL DEFAULT 0, device TEXT, client TEXT NOT NULL,
    created REAL NOT NULL, started REAL, finished REAL, position REAL);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state);
CREATE INDEX IF NOT EXISTS jobs_by_source ON jobs (source);
CREATE TABLE IF NOT EXISTS speeds (
    number INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, source TEXT NOT NULL,
    pixels_per_second REAL NOT NULL, bits_per_pixel REAL NOT NULL, start_seconds REAL NOT NULL DEFAULT 0);
"""
_VERSION = 2
# from version 1, where `requested` was called wish and jobs ran in the order of their numbers
_MIGRATION = """
ALTER TABLE jobs RENAME COLUMN wish TO requested;
ALTER TABLE jobs ADD COLUMN position REAL;
UPDATE jobs SET position = number;
ALTER TABLE speeds ADD COLUMN start_seconds REAL NOT NULL DEFAULT 0;
"""


class NotFoundError(InputError):
    """No source or job has this id (any more)."""


class ConflictError(JobError):
    """The state of the job does not allow the request."""


@dataclass(frozen=True, slots=True)
class Source:
    """A source video: uploaded into the server's folder, or a file under an allowed folder."""

    id: str
    name: str  # as the client called it; never used as a path
    kind: str  # "upload" or "path"
    path: str
    size: int  # bytes, as announced
    received: int  # bytes
    state: str  # "receiving", "probing", "ready" or "refused"
    info: Mapping[str, Any] | None
    error: Mapping[str, str] | None  # {"code", "message"}
    mask: bool  # an overlay mask was painted
    client: str
    created: float  # seconds since the epoch, as every time here
    touched: float
    revision: int = 0  # of two looks at the same row, the larger is the newer


@dataclass(frozen=True, slots=True)
class Job:
    """One run of one source with one set of options."""

    number: int  # order of creation
    id: str
    source: str
    kind: str  # "preview" or "full"
    options: Mapping[str, Any]
    about: Mapping[
        str, str
    ]  # source_name, output_name, source_rate, rate: known when it was queued, kept if the source goes
    state: str
    requested: str | None  # "pause" or "cancel", asked of a running job and not yet done
    progress: Mapping[str, Any] = field(default_factory=dict)
    outcome: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, str] | None = None
    crashes: int = 0
    device: str | None = None
    client: str = ""
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    position: float = 0.0  # order in the queue among jobs of its kind
    revision: int = 0  # as in Source


@dataclass(frozen=True, slots=True)
class MeasuredSpeed:
    """Cost of earlier runs, in pixels of output frames and bits of the output file."""

    pixels_per_second: float
    bits_per_pixel: float  # at crf 16; other qualities are estimated from there
    start_seconds: float = 0.0  # before the first frame and after the last: loading, joining


def new_id() -> str:
    """Draw sixteen hexadecimal digits nobody can guess."""
    return secrets.token_hex(8)


# state -> what may be asked of it, and the state it has afterwards; a running job only records the request
_ASK: dict[str, dict[str, str]] = {
    "pause": {"queued": "paused", "running": "running"},
    "resume": {"paused": "queued"},
    "cancel": {"queued": "cancelled", "paused": "cancelled", "running": "running"},
    "retry": {"failed": "queued", "cancelled": "queued"},
}


class Store:
    """Sources, jobs and measured speeds, safe to use from any thread of one process."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises JobError where another server has it open."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._revision = 0
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=2.0)
        self._db.row_factory = sqlite3.Row
        try:
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # a job that was accepted outlives a power cut too
            if self._db.execute("PRAGMA user_version").fetchone()[0] == 1:
                self._db.executescript(f"BEGIN; {_MIGRATION} PRAGMA user_version = {_VERSION}; COMMIT;")
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
        except sqlite3.OperationalError as error:
            self._db.close()
            raise JobError(f"{path.parent}: {error}; another midframe server may be using this folder") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def _rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def _look(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        """Return rows as dicts with a revision: answers can overtake each other on their way to a page."""
        with self._lock:
            self._revision = max(self._revision + 1, time.time_ns() // 1000)  # goes on growing over a restart
            rows = self._db.execute(sql, values).fetchall()
            return [{**dict(row), "revision": self._revision} for row in rows]

    def _change(self, sql: str, *values: Any) -> int:
        with self._lock:
            return self._db.execute(sql, values).rowcount

    # -- sources

    def add_source(self, name: str, kind: str, path: str, size: int, client: str, id: str | None = None) -> Source:
        """Store a new source: "receiving" for an upload, "probing" for a path."""
        now, id = time.time(), id or new_id()
        state, received = ("receiving", 0) if kind == "upload" else ("probing", size)
        self._change(
            "INSERT INTO sources (id, name, kind, path, size, received, state, client, created, touched)"
            " VALUES (?,?,?,?,?,?,?,?,?,?)",
            *(id, name, kind, path, size, received, state, client, now, now),
        )
        return self.source(id)

    def source(self, id: str) -> Source:
        """Return the source with this id. Raises NotFoundError."""
        rows = self._look("SELECT * FROM sources WHERE id = ?", id)
        if not rows:
            raise NotFoundError(f"no source {id}: it never was, or its time was up")
        return _source(rows[0])

    def sources(self) -> list[Source]:
        """Return all sources, oldest first."""
        return [_source(row) for row in self._look("SELECT * FROM sources ORDER BY created, id")]

    def receive(self, id: str, received: int) -> None:
        """Store how many bytes of an upload are on disk; the last byte sends it to the probe."""
        self._change(
            "UPDATE sources SET received = ?, touched = ?, state = CASE WHEN size = ? THEN 'probing' ELSE state END"
            " WHERE id = ? AND state = 'receiving'",
            *(received, time.time(), received, id),
        )

    def set_path(self, id: str, path: str) -> None:
        """Store the path of an upload."""
        self._change("UPDATE sources SET path = ? WHERE id = ?", path, id)

    def set_probe_result(self, id: str, info: Mapping[str, Any] | None, error: Mapping[str, str] | None) -> None:
        """Store what the probe found: "ready" with info, "refused" with an error."""
        self._change(
            "UPDATE sources SET state = ?, info = ?, error = ? WHERE id = ? AND state = 'probing'",
            *("refused" if error else "ready", _dump(info), _dump(error), id),
        )

    def set_mask(self, id: str, mask: bool) -> None:
        """Store whether the source has a painted overlay mask."""
        self._change("UPDATE sources SET mask = ?, touched = ? WHERE id = ?", int(mask), time.time(), id)

    def touch(self, id: str) -> None:
        """Reset the age of a source that is used again."""
        self._change("UPDATE sources SET touched = ? WHERE id = ?", time.time(), id)

    def remove_source(self, id: str) -> bool:
        """Forget a source unless an unfinished job needs it; says whether it went."""
        return bool(
            self._change(
                "DELETE FROM sources WHERE id = ? AND NOT EXISTS (SELECT 1 FROM jobs WHERE source = sources.id"
                " AND state IN ('queued', 'running', 'paused'))",
                id,
            )
        )

    def pending_sources(self, client: str) -> int:
        """Count this client's sources that are incomplete or not probed yet."""
        sql = "SELECT count(*) FROM sources WHERE client = ? AND state IN ('receiving', 'probing')"
        rows = self._rows(sql, client)
        return int(rows[0][0])

    # -- jobs

    def add_job(
        self, source: str, kind: str, options: Mapping[str, Any], about: Mapping[str, str], client: str, limit: int
    ) -> Job:  # fmt: skip
        """Add a job at the end of the queue. Raises ConflictError when the client has `limit` unfinished ones."""
        id = new_id()
        added = self._change(
            "INSERT INTO jobs (id, source, kind, options, about, state, client, created, position)"
            " SELECT ?,?,?,?,?,'queued',?,?, (SELECT coalesce(max(position), 0) + 1 FROM jobs)"
            " WHERE (SELECT count(*) FROM jobs WHERE client = ? AND state IN ('queued', 'running', 'paused')) < ?",
            *(id, source, kind, _dump(options), _dump(about), client, time.time(), client, limit),
        )
        if not added:
            raise ConflictError(f"{limit} jobs of this client are not finished yet; wait for one or cancel one")
        return self.job(id)

    def job(self, id: str) -> Job:
        """Return the job with this id. Raises NotFoundError."""
        rows = self._look("SELECT * FROM jobs WHERE id = ?", id)
        if not rows:
            raise NotFoundError(f"no job {id}: it never was, or its time was up")
        return _job(rows[0])

    def jobs(self, state: str | None = None, limit: int = 1000, offset: int = 0) -> list[Job]:
        """List jobs, newest first, of one state or of all."""
        where, values = ("WHERE state = ?", [state]) if state else ("", [])
        sql = f"SELECT * FROM jobs {where} ORDER BY number DESC LIMIT ? OFFSET ?"
        return [_job(row) for row in self._look(sql, *values, limit, offset)]

    def counts(self) -> dict[str, int]:
        """Return the number of jobs in each state."""
        found = dict.fromkeys(STATES, 0)
        found.update({row[0]: row[1] for row in self._rows("SELECT state, count(*) FROM jobs GROUP BY state")})
        return found

    def claim(self, device: str) -> Job | None:
        """Give the next queued job to a device's worker: previews first, someone is looking; then by number."""
        with self._lock:
            rows = self._rows("SELECT id FROM jobs WHERE state = 'queued' ORDER BY kind = 'full', position LIMIT 1")
            if not rows:
                return None
            self._change(
                "UPDATE jobs SET state = 'running', requested = NULL, device = ?, started = ? WHERE id = ?",
                *(device, time.time(), rows[0][0]),
            )
            return self.job(rows[0][0])

    def ask(self, id: str, what: str) -> Job:
        """Request a pause, resumption, cancellation or retry. Raises ConflictError if not allowed in its state."""
        with self._lock:
            job = self.job(id)
            after = _ASK[what].get(job.state)
            if after is None:
                raise ConflictError(f"job {id} is {job.state}; {what} needs {' or '.join(_ASK[what])}")
            if after == "running":
                self._change("UPDATE jobs SET requested = ? WHERE id = ? AND state = 'running'", what, id)
            else:
                fresh = ", error = NULL, crashes = 0, finished = NULL" if what == "retry" else ""
                ended = ", finished = ?" if after in FINISHED else ""
                values = [after, *([time.time()] if ended else []), id]
                self._change(f"UPDATE jobs SET state = ?, requested = NULL{fresh}{ended} WHERE id = ?", *values)
            return self.job(id)

    def move(self, id: str, before: str | None) -> Job:
        """Move a queued job before another queued one of its kind, or to the end. Raises ConflictError."""
        with self._lock:
            job, target = self.job(id), None if before is None else self.job(before)
            for one in (job, target):
                if one is not None and one.state != "queued":
                    raise ConflictError(f"job {one.id} is {one.state}; only queued jobs have a place in the queue")
            if target is not None and target.kind != job.kind:
                raise ConflictError("previews run before full runs; move a job among those of its kind")
            last = self._rows("SELECT coalesce(max(position), 0) FROM jobs")[0][0]
            position = last + 1
            if target is not None and target.id != id:
                sql = "SELECT max(position) FROM jobs WHERE position < ? AND id != ?"
                earlier = self._rows(sql, target.position, id)[0][0]
                position = (target.position + (target.position - 1 if earlier is None else earlier)) / 2
            elif target is not None:
                position = job.position
            self._change("UPDATE jobs SET position = ? WHERE id = ?", position, id)
            return self.job(id)

    def save_progress(self, id: str, progress: Mapping[str, Any]) -> None:
        """Keep the progress of a running job for whoever asks after a restart."""
        self._change("UPDATE jobs SET progress = ? WHERE id = ? AND state = 'running'", _dump(progress), id)

    def finish(self, id: str, outcome: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
        """Record the end of a run."""
        self._change(
            "UPDATE jobs SET state = 'done', requested = NULL, error = NULL, outcome = ?, progress = ?, finished = ?"
            " WHERE id = ? AND state = 'running'",
            *(_dump(outcome), _dump(progress), time.time(), id),
        )

    def fail(self, id: str, error: Mapping[str, str]) -> None:
        """Record the failure of a run, with its reason."""
        self._change(
            "UPDATE jobs SET state = 'failed', requested = NULL, error = ?, finished = ?"
            " WHERE id = ? AND state = 'running'",
            *(_dump(error), time.time(), id),
        )

    def stopped(self, id: str) -> None:
        """Record that a run stopped: the request to pause or cancel is carried out; without one, the job is queued."""
        self._change(
            "UPDATE jobs SET state = CASE requested WHEN 'pause' THEN 'paused' WHEN 'cancel' THEN 'cancelled'"
            " ELSE 'queued' END, finished = CASE requested WHEN 'cancel' THEN ? END, requested = NULL"
            " WHERE id = ? AND state = 'running'",
            *(time.time(), id),
        )

    def crashed(self, id: str, how: str) -> None:
        """Record that the worker died: the job runs once more, then fails; a requested pause or cancel is done."""
        with self._lock:
            job = self.job(id)
            self._change("UPDATE jobs SET crashes = crashes + 1 WHERE id = ?", id)
            if job.requested is None and job.crashes + 1 >= MAX_CRASHES:
                self.fail(id, {"code": "worker_died", "message": f"the worker died {MAX_CRASHES} times: {how}"})
            else:
                self.stopped(id)

    def recover(self) -> list[str]:
        """Queue what ran before a restart again (or as requested); return ids of sources that wait for a probe."""
        for row in self._rows("SELECT id FROM jobs WHERE state = 'running'"):
            self.stopped(row[0])
        return [row[0] for row in self._rows("SELECT id FROM sources WHERE state = 'probing'")]

    def remove_job(self, id: str) -> None:
        """Forget a finished job. Raises ConflictError for any other."""
        job = self.job(id)
        if not self._change("DELETE FROM jobs WHERE id = ? AND state IN ('done', 'failed', 'cancelled')", id):
            raise ConflictError(f"job {id} is {job.state}; cancel it first")

    # -- speeds

    def learn(self, model: str, source: str, speed: MeasuredSpeed) -> None:
        """Store the speed and the size of a finished run, for predictions."""
        self._change(
            "INSERT INTO speeds (model, source, pixels_per_second, bits_per_pixel, start_seconds) VALUES (?,?,?,?,?)",
            *(model, source, speed.pixels_per_second, speed.bits_per_pixel, speed.start_seconds),
        )
        self._change("DELETE FROM speeds WHERE number <= (SELECT max(number) FROM speeds) - 200")

    def learned(self, model: str, source: str | None) -> MeasuredSpeed | None:
        """Return medians of the last five runs of this model, on one source or (None) on any; None before the first."""
        rows = self._rows(
            "SELECT * FROM speeds WHERE model = ? AND (? IS NULL OR source = ?) ORDER BY number DESC LIMIT 5",
            *(model, source, source),
        )
        if not rows:
            return None
        return MeasuredSpeed(
            pixels_per_second=median(row["pixels_per_second"] for row in rows),
            bits_per_pixel=median(row["bits_per_pixel"] for row in rows),
            start_seconds=median(row["start_seconds"] for row in rows),
        )


def _dump(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _load(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _source(row: dict[str, Any]) -> Source:
    row.update(info=_load(row["info"]), error=_load(row["error"]), mask=bool(row["mask"]))
    return Source(**row)


def _job(row: dict[str, Any]) -> Job:
    row.update(
        options=_load(row["options"]),
        about=_load(row["about"]),
        progress=_load(row["progress"]) or {},
        outcome=_load(row["outcome"]) or {},
        error=_load(row["error"]),
    )
    return Job(**row)
