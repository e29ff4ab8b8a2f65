"""Record the processes of a local Ray cluster, so that the next start ends those that a killed run left.

When the process that started a local cluster is killed, Ray's agents stay for ever. A record holds process ids with
their start times, so a number that now belongs to another process is left alone. Linux only (/proc).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")

_log = logging.getLogger("midframe.cluster")


@contextlib.contextmanager
def recorded(folder: Path) -> Iterator[None]:
    """Keep a record of this process and its descendants in `folder` for the time of a `with` block."""
    if not PROC.is_dir():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / f"{os.getpid()}.json"
    started = _start_times(_descendants(os.getpid()))
    record.write_text(json.dumps({"owner": [os.getpid(), _start_time(os.getpid())], "started": started}))
    try:
        yield
    finally:
        record.unlink(missing_ok=True)


def end_orphans(folder: Path) -> list[int]:
    """End recorded processes whose owner is gone, and return their ids."""
    ended = []
    for record in sorted(folder.glob("*.json")):
        try:
            said = json.loads(record.read_text())
            owner, started = tuple(said["owner"]), [(int(pid), ticks) for pid, ticks in said["started"].items()]
        except (OSError, ValueError, KeyError, TypeError):
            record.unlink(missing_ok=True)  # cut off by a kill or by a full disk
            continue
        if _start_time(owner[0]) == owner[1]:
            continue
        for pid, ticks in started:
            if _start_time(pid) == ticks:
                with contextlib.suppress(OSError):  # it may end by itself, or belong to another user
                    os.kill(pid, signal.SIGTERM)
                    ended.append(pid)
        record.unlink(missing_ok=True)
    if ended:
        _log.warning("ended %d processes of Ray that a killed run had left", len(ended))
    return ended


def _start_times(pids: set[int]) -> dict[int, int]:
    found = {pid: _start_time(pid) for pid in pids}
    return {pid: ticks for pid, ticks in found.items() if ticks is not None}


def _start_time(pid: int) -> int | None:
    """Return the start of a process in clock ticks since boot; None if it has ended."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def _descendants(root: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in PROC.iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdigit() else None
        if fields is not None:
            parents[int(entry.name)] = int(fields[1])
    found, grown = {root}, True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found - {root}


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third on."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rsplit(")", 1)[1].split()  # the name before it may hold spaces and parentheses
