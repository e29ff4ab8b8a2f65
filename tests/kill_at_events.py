"""Run a job, kill it at the n-th file-system event, give the same command again; for every n. Prints JSON.

    python kill_at_events.py video|images|overwrite|batch SOURCE FOLDER

Each attempt is a fork of this process, so that modules are loaded once. Events are what Python's audit hooks report
of files: open for writing, rename, link, mkdir, rmdir, remove. What libav writes lies between them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av

import midframe
from midframe import batch, pipeline, plan
from midframe.options import Options

EVENTS = {"os.rename", "os.link", "os.mkdir", "os.rmdir", "os.remove", "os.truncate"}
OPTIONS: dict[str, Any] = {"model": "blend", "device": "cpu", "static": "off", "scene": "off"}


def video(source: Path, folder: Path) -> None:
    midframe.interpolate(source, folder / "out.mkv", **OPTIONS)


def overwrite(source: Path, folder: Path) -> None:
    """Over an earlier result, which is there or replaced, never in between."""
    midframe.interpolate(source, folder / "out.mkv", overwrite=True, **OPTIONS)


def images(source: Path, folder: Path) -> None:
    midframe.interpolate(source, folder / "shots" / "%03d.png", **OPTIONS)


def replaced_images(source: Path, folder: Path) -> None:
    midframe.interpolate(source, folder / "shots" / "%03d.png", overwrite=True, **OPTIONS)


def batch_of_two(source: Path, folder: Path) -> None:
    options = Options.parse(**OPTIONS).to_json()
    entries = [batch.Entry(str(source), str(folder / name), options) for name in ("a.mkv", "b.mkv")]
    done = batch.Batch(entries, folder / "batch.json", pipeline.interpolate).run(threading.Event(), threading.Event())
    if any(entry.state != "done" for entry in done):
        raise SystemExit(str([entry.error for entry in done]))


def prepare(job: str, folder: Path) -> None:
    folder.mkdir()
    if job == "overwrite":
        (folder / "out.mkv").write_bytes(b"an earlier result")
    if job == "replaced_images":
        (folder / "shots").mkdir()
        for name in ("001.png", "500.png", "notes.txt"):
            (folder / "shots" / name).write_bytes(b"earlier")


JOBS = {job.__name__: job for job in (video, overwrite, images, replaced_images, batch_of_two)}


def attempt(work: Callable[[Path, Path], None], source: Path, folder: Path, kill_at: int | None) -> tuple[int, int]:
    """(wait status, events met) of one run in a process of its own, killed at event `kill_at`."""
    counted = folder.with_name("events")
    child = os.fork()
    if child == 0:
        try:
            seen = 0

            def on_event(event: str, args: tuple[Any, ...]) -> None:
                nonlocal seen
                writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
                if (event in EVENTS or writes) and str(folder) in str(args[0]):
                    seen += 1
                    if seen == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(on_event)
            work(source, folder)
            counted.write_text(str(seen))
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return status, int(counted.read_text()) if status == 0 else -1


def contents(folder: Path) -> dict[str, int]:
    """A hash of every file: of a video its packets, for Matroska has random identifiers; none of reports."""
    return {str(path.relative_to(folder)): content(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def content(path: Path) -> int:
    if path.suffix == ".json":
        return 0
    if path.suffix != ".mkv":
        return hash(path.read_bytes())
    with av.open(str(path)) as opened:
        return hash(tuple((p.stream_index, p.pts, bytes(p)) for p in opened.demux() if p.size))


def main() -> None:
    name, source, place = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    plan.SEGMENT_OUTPUTS = 8
    work = JOBS[name]
    straight = place / "job"
    prepare(name, straight)
    status, events = attempt(work, source, straight, None)
    assert status == 0
    wanted = contents(straight)
    shutil.rmtree(straight)
    failures = []
    for number in range(1, events + 2):
        folder = place / "job"
        prepare(name, folder)
        killed, _ = attempt(work, source, folder, number)
        again, _ = attempt(work, source, folder, None)
        if (killed == 0) != (number > events) or again != 0 or contents(folder) != wanted:
            failures.append({"event": number, "killed": killed, "again": again, "left": sorted(contents(folder))})
        shutil.rmtree(folder)
    print(json.dumps({"events": events, "files": sorted(wanted), "failures": failures}))


if __name__ == "__main__":
    main()
