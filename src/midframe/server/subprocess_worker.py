"""A process that may die: it answers one request at a time over a pipe.

What crosses the pipe is JSON and raw bytes, never pickles, so a decoder that was taken over cannot talk the server
into anything. The subprocess leaves when the pipe closes, so a killed server leaves nobody behind.
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
from multiprocessing.connection import Connection
from typing import Any

from midframe.errors import Interrupted, JobError, MidframeError

_log = logging.getLogger("midframe.server")


class WorkerDiedError(JobError):
    """The process ended during the request."""


class WorkerTimeoutError(JobError):
    """The request took longer than allowed, and the process was killed."""


class RequestFailedError(JobError):
    """The request failed because of the file or the options."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


# what a subprocess does with a request: (request, note, cancel) -> (JSON answer, raw answer)
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


def _child_main(pipe: Connection, handler: Handler, memory_bytes: int | None, niceness: int) -> None:
    """Run the process: a thread reads the pipe, the main thread works."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server decides what stops
    if hasattr(os, "nice"):
        os.nice(niceness)
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


class SubprocessWorker:
    """A process that answers one request at a time, started when needed, killed when it is too slow."""

    def __init__(self, name: str, handler: Handler, memory_bytes: int | None = None, niceness: int = 0) -> None:
        """Create a worker; `handler` must be picklable: a module's function, or a partial of one."""
        self._name, self._setting = name, (handler, memory_bytes, niceness)
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
        self._process = context.Process(target=_child_main, args=(theirs, *self._setting), name=self._name, daemon=True)
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

        Raises WorkerDiedError, WorkerTimeoutError (after `seconds`), RequestFailedError, or Interrupted.
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
                        raise RequestFailedError(head["code"], head["message"])
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
                    raise WorkerTimeoutError(f"took longer than {seconds:g} s")
        except (EOFError, OSError) as error:
            self._bury()
            raise WorkerDiedError(self._how()) from error

    def _how(self) -> str:
        code = self._process.exitcode if self._process is not None else None
        if code is not None and code < 0:
            return f"signal {signal.Signals(-code).name}"
        return f"exit code {code}"

    def kill(self) -> None:
        """Kill the process now, from any thread; a waiting request fails."""
        if self._process is not None:
            self._process.kill()
            self._process.join(10)

    def _bury(self) -> None:
        """End the process and close its pipe; only from the thread that sends requests."""
        self.kill()
        with self._sending:
            if self._pipe is not None:
                self._pipe.close()
                self._pipe = None
