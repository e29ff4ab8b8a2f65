"""The dispatcher of a device: takes jobs from the store and runs them in its subprocess, one after the other."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from midframe.errors import Interrupted
from midframe.server import paths, prediction
from midframe.server.backend import Progress, RunJob, Task
from midframe.server.live_progress import LiveProgress
from midframe.server.store import Job, NotFoundError, Store
from midframe.server.subprocess_worker import Note, RequestFailedError, SubprocessWorker, WorkerDiedError

STOP_SECONDS = 20.0  # a run that was asked to stop and did not within this is killed; its segments stay
SAVE_SECONDS = 2.0  # how often progress goes to disk; the page hears of every step
JOB_NICENESS = 10  # yields to the server, which answers requests

_log = logging.getLogger("midframe.server")


def _run_handler(
    run_job: RunJob, request: Mapping[str, Any], note: Note, cancel: threading.Event
) -> tuple[Mapping[str, Any], bytes | None]:
    def on_progress(progress: Progress, frame: bytes | None) -> None:
        note(asdict(progress), frame)

    return run_job(Task(**request), on_progress, cancel), None


class Dispatcher:
    """Takes jobs from the store and has one device's subprocess run them, one after the other."""

    def __init__(
        self, device: str, store: Store, live: LiveProgress, folder: Callable[[str], Path],
        changed: Callable[[str], None], run_job: RunJob, mask: Callable[[str], Path],
    ) -> None:  # fmt: skip
        """Create a dispatcher.

        Args:
            changed: gets the id of every job that changed.
            folder: gives the folder of a job.
            mask: gives the path of a source's overlay mask.
        """
        self._device, self._store, self._live, self._folder = device, store, live, folder
        self._changed, self._mask = changed, mask
        self._process = SubprocessWorker(f"midframe {device}", partial(_run_handler, run_job), niceness=JOB_NICENESS)
        self._wake = threading.Event()
        self._closing = False
        self._stop_sent: float | None = None
        self._saved = 0.0
        self.current: str | None = None
        self._thread = threading.Thread(target=self._loop, name=f"dispatcher {device}", daemon=True)

    @property
    def pid(self) -> int | None:
        """Process id of the subprocess while it lives."""
        return self._process.pid

    def start(self) -> None:
        """Start taking jobs."""
        self._thread.start()

    def wake(self) -> None:
        """Look for a job or a request now."""
        self._wake.set()

    def close(self, seconds: float = 5.0) -> None:
        """Stop taking jobs; the running one stops within `seconds` and is queued again, with its segments."""
        self._closing = True
        self._wake.set()
        self._thread.join(seconds)
        self._process.kill()
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
            paths.refuse_moved(source.path)
            outcome, _ = self._process.request(asdict(task), note=lambda *step: self._step(job, *step), idle=self._idle)
            for key in ("result", "before", "after", "report"):
                name = outcome.get(key)
                if name is not None and (Path(name).name != name or not (folder / name).is_file()):
                    raise RequestFailedError("internal", f"the runner names {name!r}, which is not in the job's folder")
        except Interrupted:
            self._store.stopped(job.id)
        except (RequestFailedError, paths.ForbiddenError) as error:
            said = str(error).replace(f"{folder}{os.sep}", "").replace(source.path, source.name)
            self._store.fail(job.id, {"code": error.code, "message": said})
        except WorkerDiedError as error:
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
                self._store.learn(model, source.id, prediction.measured_speed(outcome, job.options.get("crf")))

    def _step(self, job: Job, progress: Mapping[str, Any], frame: bytes | None) -> None:
        entry = self._live.update(job.id, progress, frame)
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self._saved = time.monotonic()
            self._store.save_progress(job.id, entry)
        self._changed(job.id)

    def _idle(self) -> None:
        """Pass requests on, and kill a worker that does not answer; called several times a second while a job runs."""
        if self._stop_sent is not None:
            if time.monotonic() - self._stop_sent > STOP_SECONDS:
                self._process.kill()
            return
        if not self._wake.is_set() and not self._closing:
            return
        self._wake.clear()
        if self._closing or (self.current and self._store.job(self.current).requested is not None):
            self._stop_sent = time.monotonic()
            self._process.ask_stop()
