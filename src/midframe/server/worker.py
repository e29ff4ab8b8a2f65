"""Processes that may die: one per device for jobs, one for looking at files nobody has vouched for.

A `Child` is a spawned process that answers one request at a time over a pipe. What crosses the pipe is JSON and raw
bytes, never pickles, so a decoder that was taken over cannot talk the server into anything. The child leaves when the
pipe closes, so a killed server leaves nobody behind. `Keeper` feeds a device's child from the job store, `Prober`
feeds the other one with files to look at.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from midframe.errors import Interrupted, JobError, MidframeError
from midframe.server import plan
from midframe.server.jobs import Job, NotFoundError, Store

STOP_SECONDS = 20.0  # a run that was asked to stop and did not within this is killed; its segments stay
SAVE_SECONDS = 2.0  # how often progress goes to disk; the page hears of every step
WARM_UP_SECONDS = 60.0  # more for the first answer of a new process, which imports torch before it
NICENESS = 10  # children yield to the server's own thread, which answers requests

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
    report: name of a JSON file, or None; marks: {"cuts": [s], "holds": [[s, s]], "duplicates": [[s, s]]} in seconds of
    the output; warnings: [str]; size: bytes; seconds, pixels, bits: what the run cost. Raises Interrupted once
    `cancel` is set.
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


class ChildDiedError(JobError):
    """The process ended under the request."""


class ChildSlowError(JobError):
    """The request took longer than allowed, and the process was killed."""


class ChildFailedError(JobError):
    """The request was answered with an error of the file or of the wish."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


# what a child does with a request: (request, note, cancel) -> (JSON answer, raw answer)
Note = Callable[[Mapping[str, Any], bytes | None], None]
Handler = Callable[[Mapping[str, Any], Note, threading.Event], tuple[Mapping[str, Any], bytes | None]]


def _pack(head: Mapping[str, Any], body: bytes | None) -> bytes:
    return json.dumps(head).encode() + b"\n" + (body or b"")


def _unpack(message: bytes) -> tuple[dict[str, Any], bytes | None]:
    head, _, body = message.partition(b"\n")
    return json.loads(head), body or None


def _limit_memory(limit: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows: there the time limit stands alone
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _child_main(pipe: Connection, handler: Handler, memory_bytes: int | None) -> None:
    """The process: a thread reads the pipe, the main thread works."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides what stops
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    if memory_bytes:
        _limit_memory(memory_bytes)
    requests: queue.Queue[tuple[Mapping[str, Any], threading.Event]] = queue.Queue()
    sending = threading.Lock()

    def read() -> None:
        number, cancel = 0, threading.Event()
        while True:
            try:
                message, _ = _unpack(pipe.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)  # the server is gone
            if message["kind"] == "request":
                number, cancel = message["number"], threading.Event()
                requests.put((message["request"], cancel))
            elif message["number"] == number:  # a stop that crossed its answer must not stop the next request
                cancel.set()

    def send(head: Mapping[str, Any], body: bytes | None = None) -> None:
        with sending:
            try:
                pipe.send_bytes(_pack(head, body))
            except OSError:
                os._exit(0)

    threading.Thread(target=read, daemon=True, name="pipe").start()
    while True:
        request, cancel = requests.get()
        try:
            answer, body = handler(request, lambda head, body: send({"kind": "note", "note": head}, body), cancel)
            send({"kind": "answer", "answer": answer}, body)
        except Interrupted:
            send({"kind": "stopped"})
        except MidframeError as error:
            send({"kind": "error", "code": _code(error), "message": str(error)})
        except MemoryError:
            send({"kind": "error", "code": "too_large", "message": "this file needs more memory than it may have"})
        except Exception as error:  # a bug of ours or of a codec: the job fails, the worker lives
            _log.exception("a request failed")
            send({"kind": "error", "code": "internal", "message": f"{type(error).__name__}: {error}"})


def _code(error: MidframeError) -> str:
    name = type(error).__name__.removesuffix("Error")
    return {"Media": "unreadable", "Unsupported": "unsupported", "Input": "invalid"}.get(name, name.lower())


class Child:
    """A process that answers one request at a time, started when needed, killed when it is too slow."""

    def __init__(self, name: str, handler: Handler, memory_bytes: int | None = None) -> None:
        """`handler` must be picklable: a module's function, or a partial of one."""
        self._name, self._handler, self._memory_bytes = name, handler, memory_bytes
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._sending = threading.Lock()
        self._number = 0

    @property
    def pid(self) -> int | None:
        """Process id while it lives."""
        return self._process.pid if self._process is not None and self._process.is_alive() else None

    def start(self) -> None:
        """Start the process unless it lives."""
        if self.pid is not None:
            return
        self._bury()
        context = multiprocessing.get_context("spawn")  # fork would copy the server's threads' locks
        ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_child_main, args=(theirs, self._handler, self._memory_bytes), name=self._name, daemon=True
        )
        self._process.start()
        theirs.close()
        self._pipe = ours

    def ask_stop(self) -> None:
        """Set the running request's `cancel`."""
        with self._sending:
            if self._pipe is not None:
                with contextlib.suppress(OSError):  # it died; whoever waits for the answer hears of it
                    self._pipe.send_bytes(_pack({"kind": "stop", "number": self._number}, None))

    def request(
        self, request: Mapping[str, Any], note: Note | None = None, seconds: float | None = None,
        idle: Callable[[], None] | None = None,
    ) -> tuple[Mapping[str, Any], bytes | None]:  # fmt: skip
        """Send a request and wait for its answer; `idle` is called some times a second meanwhile.

        Raises ChildDiedError, ChildSlowError (after `seconds`), ChildFailedError, or Interrupted.
        """
        self.start()
        assert self._process is not None and self._pipe is not None
        deadline = None if seconds is None else time.monotonic() + seconds
        try:
            with self._sending:
                self._number += 1
                self._pipe.send_bytes(_pack({"kind": "request", "number": self._number, "request": request}, None))
            while True:
                if self._pipe.poll(0.1):
                    head, body = _unpack(self._pipe.recv_bytes())
                    if head["kind"] == "answer":
                        return head["answer"], body
                    if head["kind"] == "error":
                        raise ChildFailedError(head["code"], head["message"])
                    if head["kind"] == "stopped":
                        raise Interrupted("stopped on request")
                    if note is not None:
                        note(head["note"], body)
                elif not self._process.is_alive():
                    raise EOFError
                if idle is not None:
                    idle()
                if deadline is not None and time.monotonic() > deadline:
                    self._bury()
                    raise ChildSlowError(f"took longer than {seconds:g} s")
        except (EOFError, OSError) as error:
            self._bury()
            raise ChildDiedError(self._how()) from error

    def _how(self) -> str:
        code = self._process.exitcode if self._process is not None else None
        if code is not None and code < 0:
            return f"signal {signal.Signals(-code).name}"
        return f"exit code {code}"

    def kill(self) -> None:
        """End the process now; from any thread. A request that waits hears of it."""
        if self._process is not None:
            self._process.kill()
            self._process.join(10)

    def _bury(self) -> None:
        """End the process and let go of its pipe. Only from the thread that sends requests."""
        self.kill()
        with self._sending:
            if self._pipe is not None:
                self._pipe.close()
                self._pipe = None


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
        from functools import partial

        self._device, self._store, self._live, self._folder = device, store, live, folder
        self._changed, self._mask = changed, mask
        self._child = Child(f"midframe {device}", partial(_run_handler, run_job))
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
            if source.kind == "path" and os.path.realpath(source.path) != source.path:
                raise ChildFailedError("forbidden", "the file has become a link since it was looked at")
            outcome, _ = self._child.request(asdict(task), note=lambda *step: self._step(job, *step), idle=self._idle)
            for key in ("result", "before", "after", "report"):
                name = outcome.get(key)
                if name is not None and (Path(name).name != name or not (folder / name).is_file()):
                    raise ChildFailedError("internal", f"the runner names {name!r}, which is not in the job's folder")
        except Interrupted:
            self._store.stopped(job.id)
        except ChildFailedError as error:
            self._store.fail(job.id, {"code": error.code, "message": str(error)})
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
        from functools import partial

        self._store, self._judge, self._changed, self._seconds = store, judge, changed, seconds
        self._child = Child("midframe probe", partial(_look_handler, probe, still), memory_bytes)
        self._waiting: queue.Queue[str | tuple[dict[str, Any], Future[bytes]] | None] = queue.Queue()
        self._stills = 0
        self._lock = threading.Lock()
        self._warm = False
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
        """Stop looking."""
        self._waiting.put(None)
        self._child.kill()
        self._thread.join(5)

    def _ask(self, request: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes | None]:
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
        while (wanted := self._waiting.get()) is not None:
            if isinstance(wanted, str):
                self._probe(wanted)
                continue
            request, future = wanted
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
            self._store.judge_source(id, None, {"code": error.code, "message": str(error)})
        except ChildSlowError as error:
            self._store.judge_source(id, None, {"code": "too_slow", "message": f"looking at this file {error}"})
        except ChildDiedError as error:
            message = f"this file brought the process that looked at it down ({error})"
            self._store.judge_source(id, None, {"code": "unreadable", "message": message})
        self._changed(id)
