"""Ctrl-C and SIGTERM: the first finishes the segment at hand, the second stops at once, whatever blocks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType

FIRST = "finishing the current segment; the same command goes on from there. Once more: stop at once"
GRACE_SECONDS = 5.0  # after the second signal, for a stop that cleans up behind itself


@contextlib.contextmanager
def stop_events(note: Callable[[str], None], first: str = FIRST) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Yield (drain, cancel): the first signal sets drain, the second sets cancel and ends the process if need be.

    A thread is woken by the C-level handler, so that signals count even while the main thread waits in a library: for
    the other end of a FIFO, say. Finished segments survive any end of the process.
    """
    drain, cancel, over = threading.Event(), threading.Event(), threading.Event()
    receiver, sender = socket.socketpair()
    sender.setblocking(False)

    def watch() -> None:
        while receiver.recv(1) not in (b"", b"\0"):  # the numbers of signals, one a byte
            if not drain.is_set():
                drain.set()
                note(first)
            elif not cancel.is_set():
                cancel.set()
                note("stopping now")
                threading.Thread(target=end, name="midframe-end", daemon=True).start()
            else:
                os._exit(130)

    def end() -> None:
        if not over.wait(GRACE_SECONDS):
            os._exit(130)

    def on_signal(number: int, frame: FrameType | None) -> None:
        """Do nothing: the thread has been woken."""

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    woken_before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="midframe-signals", daemon=True)
    watcher.start()
    try:
        yield drain, cancel
    finally:
        over.set()
        signal.set_wakeup_fd(woken_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        with contextlib.suppress(OSError):
            sender.send(b"\0")
        watcher.join()
        receiver.close()
        sender.close()
