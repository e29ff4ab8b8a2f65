"""Fakes for the server's tests: a "video" is a line of JSON that says how to be treated. Run in real processes."""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midframe.errors import Interrupted, MediaError
from midframe.server.backend import OnProgress, Progress, Task

if TYPE_CHECKING:
    from midframe.server.backend import Backend

# a gray JPEG of 8x8
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAP//////////////////////////////////////////////////////////////////////////////////////"
    "wAALCAAIAAgBAREA/8QAFAABAAAAAAAAAAAAAAAAAAAACf/EABQQAQAAAAAAAAAAAAAAAAAAAAD/2gAIAQEAAD8AKp//2Q=="
)


def video(**options: Any) -> bytes:
    """A fake video: keys of its info, and of how its run goes (steps, pause, die, fail, deaf, die_once)."""
    return json.dumps({"fake": True, **options}).encode()


def read(path: str) -> dict[str, Any]:
    try:
        said = json.loads(Path(path).read_bytes())
        assert said["fake"]
    except (ValueError, KeyError, AssertionError, TypeError, UnicodeDecodeError) as error:
        raise MediaError(f"{path} is no video: nothing in it can be decoded") from error
    return dict(said)


def wait_for(ask: Callable[[], Any], good: Callable[[Any], bool], seconds: float = 30.0) -> Any:
    """Ask until the answer is good."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = ask()
        if good(found):
            return found
        time.sleep(0.02)
    raise AssertionError(f"still {found}")


def probe(path: str) -> Mapping[str, Any]:
    said = read(path)
    if said.get("probe") == "die":
        os._exit(7)
    if said.get("probe") == "hang":
        time.sleep(600)
    info = {
        "width": 64, "height": 48, "duration": 10.0, "rate": "24000/1001", "frames": 240, "container": "mp4",
        "codec": "h264", "vfr": False, "interlaced": False, "hdr": None, "streams": [], "warnings": [],
    }  # fmt: skip
    return {**info, **said.get("info", {})}


def still(path: str, seconds: float, width: int, upright: bool) -> bytes:
    read(path)
    return JPEG


def run_job(task: Task, on_progress: OnProgress, cancel: threading.Event) -> Mapping[str, Any]:
    """Counts steps in a file of the job's folder, so that a second run goes on where a first one was stopped."""
    said = read(task.source)
    folder = Path(task.folder)
    log, count = folder / "log.txt", folder / "count"
    done = int(count.read_text()) if count.exists() else 0
    with log.open("a") as file:
        file.write(f"start {done} {os.getpid()}\n")
    if said.get("fail"):
        raise MediaError(said["fail"].format(source=task.source, folder=task.folder))
    if said.get("die") or (said.get("die_once") and done == 0 and len(log.read_text().splitlines()) == 1):
        os._exit(9)
    total = int(said.get("steps", 5))
    while done < total:
        time.sleep(said.get("pause", 0.01))
        if cancel.is_set() and not said.get("deaf"):
            raise Interrupted("stopped on request")
        done += 1
        new = folder / "count.new"
        new.write_text(str(done))
        new.replace(count)
        on_progress(Progress(done, total, fps=10.0, seconds_left=(total - done) / 10), JPEG if done % 2 else None)
    (folder / "result.mp4").write_bytes(b"result of " + task.id.encode())
    (folder / "report.json").write_text(json.dumps({"options": dict(task.options), "mask": task.mask}))
    return {
        "result": said.get("result", "result.mp4"), "before": "result.mp4", "after": "result.mp4",
        "report": "report.json", "marks": {"cuts": [1.5], "holds": [[1.5, 1.6]], "duplicates": [],
        "low_confidence": [[0.5, 0.9]]},
        "warnings": ["a warning"], "size": 26, "seconds": 1.0, "pixels": 64 * 48 * total, "bits": 8000,
    }  # fmt: skip


def bench() -> Backend:
    from midframe.server.backend import Backend

    return Backend(run_job, probe, still)


def serve(port: int, data: str) -> None:
    """A server with these fakes, in a process that tests may kill."""
    import uvicorn

    from midframe.server.app import create_app
    from midframe.server.settings import Limits, Settings

    limits = Limits(jobs_per_client=1000, probe_bytes=None)
    uvicorn.run(create_app(Settings(Path(data), limits=limits), bench()), port=port, log_level="warning")


if __name__ == "__main__":
    import sys

    import server_fakes  # its functions must be known to the workers by this name, not as __main__

    server_fakes.serve(int(sys.argv[1]), sys.argv[2])
