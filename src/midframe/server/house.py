"""A running server's parts, wired together: store, workers, event hub, folders, limits, expiry. No HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request

from midframe.server import paths
from midframe.server.events import Hub
from midframe.server.jobs import FINISHED, Job, NotFoundError, Source, Store
from midframe.server.wire import ErrorText, JobState, ProgressState, SourceState
from midframe.server.worker import Keeper, Live, Probe, Prober, RunJob, Still

EXPIRY_SECONDS = 60.0

_log = logging.getLogger("midframe.server")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one client, one film and the whole server may take."""

    upload_bytes: int = 20_000_000_000
    duration_seconds: float = 4 * 3600.0
    pixels: int = 8192 * 4352  # of one picture
    frames: int = 2_000_000  # of one result
    jobs_per_client: int = 50  # unfinished ones; a client is an address
    uploads_per_client: int = 20  # films that are not here as a whole, or not looked at yet
    probe_seconds: float = 60.0  # by the clock; a usual look takes a tenth of a second
    probe_bytes: int | None = 6 * 1024**3  # address space of the process that looks at files
    keep_seconds: float = 7 * 86400.0  # after that a finished job and an unused source go
    keep_bytes: int = 100_000_000_000  # of all sources and results together; the oldest go first


@dataclass(frozen=True, slots=True)
class Bench:
    """The functions that know films; each runs in a worker process, so each must be a module's function."""

    run_job: RunJob
    probe: Probe
    still: Still


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the server keeps its things, who may use it, and how much."""

    data: Path
    folders: tuple[Path, ...] = ()  # films under these may be named by path
    token: str | None = None
    hosts: tuple[str, ...] = ()  # names beyond the loopback ones that a browser may know the server by
    devices: tuple[str, ...] = ("cpu",)  # one worker process each
    models: tuple[str, ...] = ("dis",)
    model: str = "dis"  # used when none is named
    limits: Limits = field(default_factory=Limits)


@dataclass(slots=True)
class Upload:
    """An upload's newest writer; an older one sees that it is no longer the newest and leaves."""

    lock: asyncio.Lock
    writer: object = None


class House:
    """The parts of a running server, wired together."""

    def __init__(self, settings: Settings, bench: Bench) -> None:
        self.settings, self.limits = settings, settings.limits
        self.store = Store(settings.data / "jobs.sqlite")
        self.live = Live()
        self.hub = Hub(self.render)
        self.uploads: dict[str, Upload] = {}
        self.prober = Prober(
            self.store, bench.probe, bench.still, self.judge, lambda id: self.hub.tell("source", id),
            self.limits.probe_seconds, self.limits.probe_bytes,
        )  # fmt: skip
        self.keepers = [
            Keeper(device, self.store, self.live, self.job_folder, lambda id: self.hub.tell("job", id),
                   bench.run_job, self.mask_path)
            for device in settings.devices
        ]  # fmt: skip
        self._closing = threading.Event()
        self._expirer = threading.Thread(target=self._expire_often, name="expiry", daemon=True)

    def start(self) -> None:
        """Take up what a former server left, and begin."""
        for source in self.store.recover():
            self.prober.probe(source)
        self.prober.start()
        for keeper in self.keepers:
            keeper.start()
        self._expirer.start()

    def close(self) -> None:
        """Stop; running jobs are queued again with what they have finished."""
        self._closing.set()
        closers = [
            threading.Thread(target=keeper.close) for keeper in self.keepers
        ]  # all at once: each may take seconds
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()
        self.prober.close()
        self._expirer.join(5)
        self.store.close()

    def wake(self) -> None:
        """There is a job or a wish for some keeper."""
        for keeper in self.keepers:
            keeper.wake()

    # -- places

    def source_folder(self, id: str) -> Path:
        """Where an upload and a mask live."""
        return self.settings.data / "sources" / id

    def mask_path(self, id: str) -> Path:
        """Where a source's painted mask lives."""
        return self.source_folder(id) / "mask.png"

    def job_folder(self, id: str) -> Path:
        """Where a job's segments and results live."""
        return self.settings.data / "jobs" / id

    # -- limits

    def judge(self, info: Mapping[str, Any]) -> dict[str, str] | None:
        """What is wrong with a probed film, if anything."""
        if set(str(info.get("container", "")).split(",")) & paths.FOLLOWING_CONTAINERS:
            return {"code": "unreadable", "message": "this is a playlist, not a film; give the film itself"}
        pixels = int(info["width"]) * int(info["height"])
        if pixels > self.limits.pixels:
            text = f"{info['width']}x{info['height']} is {pixels} pixels; this server takes {self.limits.pixels}"
            return {"code": "too_many_pixels", "message": text}
        duration = info.get("duration")
        if not duration or not info.get("rate"):
            return {"code": "unreadable", "message": "this film does not say how long it is or how fast it runs"}
        if float(duration) > self.limits.duration_seconds:
            text = f"{float(duration):.0f} s long; this server takes {self.limits.duration_seconds:.0f} s"
            return {"code": "too_long", "message": text}
        return None

    # -- expiry

    def _expire_often(self) -> None:
        while not self._closing.wait(EXPIRY_SECONDS):
            try:
                self.expire(time.time())
            except Exception:
                _log.exception("expiry")

    def sizes(self) -> dict[Path, int]:
        """Bytes on disk of every source's and job's folder."""
        found = {}
        for kind in ("sources", "jobs"):
            for folder in (self.settings.data / kind).glob("*"):
                found[folder] = _bytes_under(folder)
        return found

    def expire(self, now: float) -> None:
        """Remove finished jobs and unused sources that are too old; then the oldest until the rest is small enough."""
        old = now - self.limits.keep_seconds
        finished = [job for job in reversed(self.store.jobs(limit=1_000_000)) if job.state in FINISHED]
        for job in finished:
            if (job.finished or job.created) < old:
                self.remove_job(job.id)
        used = {job.source for job in self.store.jobs(limit=1_000_000)}
        for source in self.store.sources():
            day_old = source.state in ("receiving", "refused") and source.touched < now - 86400
            if (source.touched < old or day_old) and source.id not in used:
                self.remove_source(source.id)
        sizes = self.sizes()
        self._remove_strays(sizes)
        total = sum(sizes.values())
        ages: list[tuple[float, str, str]] = [
            (job.finished or job.created, "job", job.id)
            for job in self.store.jobs(limit=1_000_000)
            if job.state in FINISHED
        ]
        ages += [(source.touched, "source", source.id) for source in self.store.sources()]
        for _, kind, id in sorted(ages):
            if total <= self.limits.keep_bytes:
                break
            folder = self.job_folder(id) if kind == "job" else self.source_folder(id)
            if kind == "job":
                self.remove_job(id)
            elif not self.remove_source(id):
                continue
            total -= sizes.get(folder, 0)

    def _remove_strays(self, sizes: Mapping[Path, int]) -> None:
        """Folders that no row knows: a server was killed between removing the one and the other."""
        known = {source.id for source in self.store.sources()} | {job.id for job in self.store.jobs(limit=1_000_000)}
        for folder in sizes:
            if folder.name not in known and folder.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(folder, ignore_errors=True)

    def remove_job(self, id: str) -> None:
        """Forget a finished job and delete its files."""
        self.store.remove_job(id)
        shutil.rmtree(self.job_folder(id), ignore_errors=True)
        self.hub.tell("gone", id)

    def remove_source(self, id: str) -> bool:
        """Forget a source, unless an unfinished job needs it, and delete what was uploaded."""
        if not self.store.remove_source(id):
            return False
        self.uploads.pop(id, None)
        shutil.rmtree(self.source_folder(id), ignore_errors=True)
        self.hub.tell("gone", id)
        return True

    # -- what things look like outside

    def render(self, kind: str, id: str) -> str | None:
        """JSON of a thing as it is now, for the event stream."""
        if kind == "gone":
            return json.dumps({"id": id})
        try:
            if kind == "job":
                return self.job_state(self.store.job(id)).model_dump_json()
            return source_state(self.store.source(id)).model_dump_json()
        except NotFoundError:
            return None

    def job_state(self, job: Job) -> JobState:
        """A job as the API shows it."""
        progress = (self.live.progress(job.id) if job.state == "running" else None) or job.progress
        files = [kind for kind in ("result", "before", "after", "report") if job.outcome.get(kind)]
        return JobState(
            id=job.id, number=job.number, source=job.source,  kind=job.kind,  # type: ignore[arg-type]
            options=dict(job.options), state=job.state,  # type: ignore[arg-type]
            wish=job.wish, progress=ProgressState(**progress),  # type: ignore[arg-type]
            error=ErrorText(**job.error) if job.error else None, warnings=list(job.outcome.get("warnings", ())),
            files=files, **job.about, size=job.outcome.get("size"), device=job.device,
            created=job.created, started=job.started, finished=job.finished,
            revision=job.revision,
        )  # fmt: skip


def source_state(source: Source) -> SourceState:
    """A source as the API shows it."""
    return SourceState(
        id=source.id, name=source.name, kind=source.kind, size=source.size,  # type: ignore[arg-type]
        received=source.received, state=source.state,  # type: ignore[arg-type]
        info=dict(source.info) if source.info else None, error=ErrorText(**source.error) if source.error else None,
        mask=source.mask, created=source.created, revision=source.revision,
    )  # fmt: skip


def _bytes_under(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue  # removed meanwhile
    return total


def client(request: Request) -> str:
    """Who asks, for the limits: the address."""
    return request.client.host if request.client else "local"


def the_house(request: Request) -> House:
    """The house of the application that a request came to."""
    house: House = request.app.state.house
    return house


InHouse = Annotated[House, Depends(the_house)]
