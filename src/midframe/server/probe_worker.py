"""The probe worker: probes files and decodes stills, one at a time, in a subprocess with limits on time and memory."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

from midframe.errors import JobError
from midframe.server import paths
from midframe.server.backend import Probe, Still
from midframe.server.store import NotFoundError, Store
from midframe.server.subprocess_worker import (
    Note,
    RequestFailedError,
    SubprocessWorker,
    WorkerDiedError,
    WorkerTimeoutError,
)

WARM_UP_SECONDS = 60.0  # more for the first answer of a new process, which imports torch before it
PROBE_NICENESS = 5  # yields to the server, which answers requests; someone waits for a probe


def _look_handler(
    probe: Probe, still: Still, request: Mapping[str, Any], note: Note, cancel: threading.Event
) -> tuple[Mapping[str, Any], bytes | None]:
    if request["what"] == "probe":
        return probe(request["path"]), None
    return {}, still(request["path"], request["seconds"], request["width"], request["upright"])


class ProbeWorker:
    """Has files looked at, one at a time, in a process with a limit on time and memory."""

    MAX_STILLS_WAITING = 8

    def __init__(
        self, store: Store, probe: Probe, still: Still, check: Callable[[Mapping[str, Any]], dict[str, str] | None],
        changed: Callable[[str], None], seconds: float, memory_bytes: int | None,
    ) -> None:  # fmt: skip
        """Create a worker; `check` returns an error if what a probe found exceeds the limits of the server."""
        self._store, self._check, self._changed, self._seconds = store, check, changed, seconds
        self._process = SubprocessWorker(
            "midframe probe", partial(_look_handler, probe, still), memory_bytes, PROBE_NICENESS
        )
        self._waiting: queue.Queue[str | tuple[dict[str, Any], Future[bytes]] | None] = queue.Queue()
        self._stills = 0
        self._lock = threading.Lock()
        self._warm = self._closing = False
        self._thread = threading.Thread(target=self._loop, name="probe_worker", daemon=True)

    @property
    def pid(self) -> int | None:
        """Process id of the subprocess while it lives."""
        return self._process.pid

    def start(self) -> None:
        """Start probing."""
        self._thread.start()

    def probe(self, source: str) -> None:
        """Queue a source for probing; the store gets the result."""
        self._waiting.put(source)

    def still(self, path: str, seconds: float, width: int, upright: bool) -> Future[bytes] | None:
        """Request one frame; None when too many wait already."""
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
        self._process.kill()
        self._thread.join(5)

    def _ask(self, request: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes | None]:
        paths.refuse_moved(request["path"])
        seconds = self._seconds if self._warm else self._seconds + WARM_UP_SECONDS
        try:
            answer = self._process.request(request, seconds=seconds)
        except (WorkerDiedError, WorkerTimeoutError):
            self._warm = False
            raise
        except RequestFailedError:
            self._warm = True
            raise
        self._warm = True
        return answer

    def _loop(self) -> None:
        with contextlib.suppress(JobError):  # a probe of nothing, so that the first video does not wait for imports
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
            self._store.set_probe_result(id, info, self._check(info))
        except NotFoundError:
            return
        except (RequestFailedError, paths.ForbiddenError) as error:
            said = str(error).replace(source.path, source.name)  # where the server keeps it is nobody's business
            self._store.set_probe_result(id, None, {"code": error.code, "message": said})
        except WorkerTimeoutError as error:
            self._store.set_probe_result(id, None, {"code": "too_slow", "message": f"looking at this file {error}"})
        except WorkerDiedError as error:
            if self._closing:
                return  # it was us
            message = f"this file brought the process that looked at it down ({error})"
            self._store.set_probe_result(id, None, {"code": "unreadable", "message": message})
        self._changed(id)
