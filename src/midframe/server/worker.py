"""Who feeds the processes: `Keeper` takes jobs from the store to a device's child, `Prober` takes files to another's.

The functions that know films come in from outside (`RunJob`, `Probe`, `Still`) and run in those processes only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from midframe.errors import Interrupted, JobError
from midframe.server import plan
from midframe.server.child import Child, ChildDiedError, ChildFailedError, ChildSlowError, Note
from midframe.server.jobs import Job, NotFoundError, Store

STOP_SECONDS = 20.0  # a run that was asked to stop and did not within this is killed; its segments stay
SAVE_SECONDS = 2.0  # how often progress goes to disk; the page hears of every step
WARM_UP_SECONDS = 60.0  # more for the first answer of a new process, which imports torch before it

JOB_NICENESS, LOOK_NICENESS = 10, 5  # both yield to the server, which answers requests; someone waits for a look

_log = logging.getLogger("midframe.server")


@dataclass(frozen=True, slots=True)
class Task:
    """What a runner is told about a job."""

    id: str
    kind: str  # "preview" or "full"
    source: str  # path of the film
    folder: str  # the job's own folder: whatever it makes goes there, and stays there while it is paused
    options: Mapping[str, Any]
    mask: str | None  # path of the painted overlay mask, a PNG of the picture's size
    device: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    frames: int  # output frames made
    total: int  # output frames there will be
    stage: str = "frames"  # "frames", then "comparison" while what the page plays is written
    fps: float | None = None  # output frames per second of work
    seconds_left: float | None = None


OnProgress = Callable[[Progress, bytes | None], None]  # the bytes: a JPEG of the latest picture, now and then


class RunJob(Protocol):
    """Runs a job in a worker process and returns its outcome, JSON with these keys, all names within `task.folder`.

    result: name of the finished film; before, after: names of what a browser can play beside each other;
    report: name of a JSON file, or None; marks: {"cuts": [s], "holds": [[s, s]], "duplicates": [[s, s]],
    "low_confidence": [[s, confidence]]} in seconds of the output; warnings: [str]; size: bytes; seconds, pixels, bits:
    what the run cost. Raises Interrupted once `cancel` is set.
    """

    def __call__(self, task: Task, on_progress: OnProgress, cancel: threading.Event) -> Mapping[str, Any]:
        """Run it."""


class Probe(Protocol):
    """Looks at a file: JSON with at least width, height, duration, rate, frames, container. Raises MediaError."""

    def __call__(self, path: str) -> Mapping[str, Any]:
        """Look."""


class Still(Protocol):
    """One picture of a film as JPEG, at most `width` wide."""

    def __call__(self, path: str, seconds: float, width: int, upright: bool) -> bytes:
        """Decode it; `upright` turns it as the file asks players to."""


def _run_handler(
    run_job: RunJob, request: Mapping[str, Any], note: Note, cancel: threading.Event
) -> tuple[Mapping[str, Any], bytes | None]:
    def on_progress(progress: Progress, picture: bytes | None) -> None:
        note(asdict(progress), picture)

    return run_job(Task(**request), on_progress, cancel), None


def _look_handler(
    probe: Probe, still: Still, request: Mapping[str, Any], note: Note, cancel: threading.Event
) -> tuple[Mapping[str, Any], bytes | None]:
    if request["what"] == "probe":
        return probe(request["path"]), None
    return {}, still(request["path"], request["seconds"], request["width"], request["upright"])


def _same_place(path: str) -> None:
    """Refuse a path that has become a link since it was judged. Raises ChildFailedError."""
    if os.path.realpath(path) != path:
        raise ChildFailedError("forbidden", "the file has become a link since it was named")


class Live:
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


class Keeper:
    """Takes jobs from the store and has one device's child run them, one after the other."""

    def __init__(
        self, device: str, store: Store, live: Live, folder: Callable[[str], Path],
        changed: Callable[[str], None], run_job: RunJob, mask: Callable[[str], Path],
    ) -> None:  # fmt: skip
        """`changed` is told the id of every job that changed; `folder` and `mask` say where a job and a mask live."""
        self._device, self._store, self._live, self._folder = device, store, live, folder
        self._changed, self._mask = changed, mask
        self._child = Child(f"midframe {device}", partial(_run_handler, run_job), niceness=JOB_NICENESS)
        self._wake = threading.Event()
        self._closing = False
        self._stop_sent: float | None = None
        self._saved = 0.0
        self.current: str | None = None
        self._thread = threading.Thread(target=self._loop, name=f"keeper {device}", daemon=True)

    @property
    def pid(self) -> int | None:
        """Process id of the child while it lives."""
        return self._child.pid

    def start(self) -> None:
        """Begin to take jobs."""
        self._thread.start()

    def wake(self) -> None:
        """There may be a job, or a wish."""
        self._wake.set()

    def close(self, seconds: float = 5.0) -> None:
        """Stop taking jobs; the running one stops within `seconds` and is queued again, with its segments."""
        self._closing = True
        self._wake.set()
        self._thread.join(seconds)
        self._child.kill()
        self._thread.join(5)

    def _loop(self) -> None:
        while not self._closing:
            job = self._store.claim(self._device)
            if job is None:
                self._wake.wait(1.0)
                self._wake.clear()
                continue
            try:
                self._run(job)
            except Exception as error:  # the store or disk refused; the next job may do better
                _log.exception("job %s", job.id)
                self._store.fail(job.id, {"code": "internal", "message": f"{type(error).__name__}: {error}"})
            self.current = None
            self._changed(job.id)
            self._live.forget(job.id)

    def _run(self, job: Job) -> None:
        self.current, self._stop_sent, self._saved = job.id, None, 0.0
        self._changed(job.id)
        try:
            source = self._store.source(job.source)
        except NotFoundError as error:
            self._store.fail(job.id, {"code": "source_gone", "message": str(error)})
            return
        folder = self._folder(job.id)
        folder.mkdir(parents=True, exist_ok=True)
        mask = self._mask(source.id)
        task = Task(
            id=job.id, kind=job.kind, source=source.path, folder=str(folder), options=job.options,
            mask=str(mask) if source.mask and job.options.get("use_mask") else None, device=self._device,
        )  # fmt: skip
        try:
            _same_place(source.path)
            outcome, _ = self._child.request(asdict(task), note=lambda *step: self._step(job, *step), idle=self._idle)
            for key in ("result", "before", "after", "report"):
                name = outcome.get(key)
                if name is not None and (Path(name).name != name or not (folder / name).is_file()):
                    raise ChildFailedError("internal", f"the runner names {name!r}, which is not in the job's folder")
        except Interrupted:
            self._store.stopped(job.id)
        except ChildFailedError as error:
            said = str(error).replace(f"{folder}{os.sep}", "").replace(source.path, source.name)
            self._store.fail(job.id, {"code": error.code, "message": said})
        except ChildDiedError as error:
            _log.warning("job %s: the worker died: %s", job.id, error)
            if self._closing or self._stop_sent is not None:
                self._store.stopped(job.id)
            else:
                self._store.crashed(job.id, str(error))
        else:
            progress = self._live.progress(job.id) or {}
            self._store.finish(job.id, outcome, {**progress, "fps": None, "seconds_left": 0.0})
            if outcome.get("pixels") and outcome.get("seconds"):
                model = str(job.options.get("model") or "")
                speed, bits = outcome["pixels"] / outcome["seconds"], outcome.get("bits", 0) / outcome["pixels"]
                self._store.learn(model, source.id, speed, plan.at_crf_16(bits, job.options.get("crf")))

    def _step(self, job: Job, progress: Mapping[str, Any], picture: bytes | None) -> None:
        entry = self._live.update(job.id, progress, picture)
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self._saved = time.monotonic()
            self._store.save_progress(job.id, entry)
        self._changed(job.id)

    def _idle(self) -> None:
        """Called some times a second while a job runs: passes wishes on, and kills what does not listen."""
        if self._stop_sent is not None:
            if time.monotonic() - self._stop_sent > STOP_SECONDS:
                self._child.kill()
            return
        if not self._wake.is_set() and not self._closing:
            return
        self._wake.clear()
        if self._closing or (self.current and self._store.job(self.current).wish is not None):
            self._stop_sent = time.monotonic()
            self._child.ask_stop()


class Prober:
    """Has files looked at, one at a time, in a process with a limit on time and memory."""

    MAX_STILLS_WAITING = 8

    def __init__(
        self, store: Store, probe: Probe, still: Still, judge: Callable[[Mapping[str, Any]], dict[str, str] | None],
        changed: Callable[[str], None], seconds: float, memory_bytes: int | None,
    ) -> None:  # fmt: skip
        """`judge` says what is wrong with what a probe found, if anything: the server's limits."""
        self._store, self._judge, self._changed, self._seconds = store, judge, changed, seconds
        self._child = Child("midframe probe", partial(_look_handler, probe, still), memory_bytes, LOOK_NICENESS)
        self._waiting: queue.Queue[str | tuple[dict[str, Any], Future[bytes]] | None] = queue.Queue()
        self._stills = 0
        self._lock = threading.Lock()
        self._warm = self._closing = False
        self._thread = threading.Thread(target=self._loop, name="prober", daemon=True)

    @property
    def pid(self) -> int | None:
        """Process id of the child while it lives."""
        return self._child.pid

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def probe(self, source: str) -> None:
        """Have a source looked at; the store hears the verdict."""
        self._waiting.put(source)

    def still(self, path: str, seconds: float, width: int, upright: bool) -> Future[bytes] | None:
        """Ask for one picture; None when too many wait already."""
        with self._lock:
            if self._stills >= self.MAX_STILLS_WAITING:
                return None
            self._stills += 1
        future: Future[bytes] = Future()
        self._waiting.put(
            ({"what": "still", "path": path, "seconds": seconds, "width": width, "upright": upright}, future)
        )
        return future

    def close(self) -> None:
        """Stop looking; what is not looked at yet will be after the next start."""
        self._closing = True
        self._waiting.put(None)
        self._child.kill()
        self._thread.join(5)

    def _ask(self, request: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes | None]:
        _same_place(request["path"])
        seconds = self._seconds if self._warm else self._seconds + WARM_UP_SECONDS
        try:
            answer = self._child.request(request, seconds=seconds)
        except (ChildDiedError, ChildSlowError):
            self._warm = False
            raise
        except ChildFailedError:
            self._warm = True
            raise
        self._warm = True
        return answer

    def _loop(self) -> None:
        with contextlib.suppress(JobError):  # a look at nothing, so that the first film does not wait for imports
            self._ask({"what": "probe", "path": os.devnull})
        while (wanted := self._waiting.get()) is not None and not self._closing:
            if isinstance(wanted, str):
                self._probe(wanted)
                continue
            request, future = wanted
            if future.set_running_or_notify_cancel():  # who asked may have left; from here on they no longer can
                try:
                    _, body = self._ask(request)
                    future.set_result(body or b"")
                except Exception as error:
                    future.set_exception(error)
            with self._lock:
                self._stills -= 1

    def _probe(self, id: str) -> None:
        try:
            source = self._store.source(id)
            info, _ = self._ask({"what": "probe", "path": source.path})
            self._store.judge_source(id, info, self._judge(info))
        except NotFoundError:
            return
        except ChildFailedError as error:
            said = str(error).replace(source.path, source.name)  # where the server keeps it is nobody's business
            self._store.judge_source(id, None, {"code": error.code, "message": said})
        except ChildSlowError as error:
            self._store.judge_source(id, None, {"code": "too_slow", "message": f"looking at this file {error}"})
        except ChildDiedError as error:
            if self._closing:
                return  # it was us
            message = f"this file brought the process that looked at it down ({error})"
            self._store.judge_source(id, None, {"code": "unreadable", "message": message})
        self._changed(id)
