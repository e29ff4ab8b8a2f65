"""A running server's parts, wired together: store, workers, event events, folders, limits, expiry. No HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request

from midframe.errors import MidframeError
from midframe.server import paths
from midframe.server.backend import Backend
from midframe.server.dispatcher import Dispatcher
from midframe.server.event_broker import EventBroker
from midframe.server.live_progress import LiveProgress
from midframe.server.probe_worker import ProbeWorker
from midframe.server.schemas import ErrorText, JobState, ProgressState, SourceState
from midframe.server.settings import Settings
from midframe.server.store import FINISHED, Job, NotFoundError, Source, Store

EXPIRY_SECONDS = 60.0

_log = logging.getLogger("midframe.server")


@dataclass(slots=True)
class Upload:
    """The latest writer of an upload; an earlier one stops when it sees that it is not the latest."""

    lock: asyncio.Lock
    writer: object = None


class Services:
    """The parts of a running server, wired together."""

    def __init__(self, settings: Settings, backend: Backend) -> None:
        self.settings, self.limits = settings, settings.limits
        self.store = Store(settings.data / "jobs.sqlite")
        self.live = LiveProgress()
        self.events = EventBroker(self.render)
        self.uploads: dict[str, Upload] = {}
        self.probe_worker = ProbeWorker(
            self.store, backend.probe, backend.still, self.check_probe, lambda id: self.events.publish("source", id),
            self.limits.probe_seconds, self.limits.probe_bytes,
        )  # fmt: skip
        self.dispatchers = [
            Dispatcher(device, self.store, self.live, self.job_folder, lambda id: self.events.publish("job", id),
                   backend.run_job, self.mask_path)
            for device in settings.devices
        ]  # fmt: skip
        self._closing = threading.Event()
        self._expirer = threading.Thread(target=self._expire_often, name="expiry", daemon=True)

    def start(self) -> None:
        """Resume the jobs of a former server, and start."""
        for source in self.store.recover():
            self.probe_worker.probe(source)
        self.probe_worker.start()
        for dispatcher in self.dispatchers:
            dispatcher.start()
        self._expirer.start()

    def close(self) -> None:
        """Stop; running jobs are queued again with their finished segments."""
        self._closing.set()
        closers = [
            threading.Thread(target=dispatcher.close) for dispatcher in self.dispatchers
        ]  # all at once: each may take seconds
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()
        self.probe_worker.close()
        self._expirer.join(5)
        self.store.close()

    def wake(self) -> None:
        """Tell the dispatchers that there is a job or a request."""
        for dispatcher in self.dispatchers:
            dispatcher.wake()

    def submit_probe(self, source: Source) -> None:
        """Send a complete file to the probe worker, unless its first bytes are those of a playlist."""
        try:
            paths.refuse_playlist(source.path)
        except (MidframeError, OSError) as error:
            self.store.set_probe_result(source.id, None, {"code": "unreadable", "message": str(error)})
        else:
            self.probe_worker.probe(source.id)
        self.events.publish("source", source.id)

    # -- places

    def source_folder(self, id: str) -> Path:
        """Return the folder of an upload and its mask."""
        return self.settings.data / "sources" / id

    def mask_path(self, id: str) -> Path:
        """Return the path of a source's painted mask."""
        return self.source_folder(id) / "mask.png"

    def job_folder(self, id: str) -> Path:
        """Return the folder of a job's segments and results."""
        return self.settings.data / "jobs" / id

    # -- limits

    def check_probe(self, info: Mapping[str, Any]) -> dict[str, str] | None:
        """Return the error of a probed video that exceeds the limits, None if it does not."""
        if set(str(info.get("container", "")).split(",")) & paths.FOLLOWING_CONTAINERS:
            return {"code": "unreadable", "message": "this is a playlist, not a video; give the video itself"}
        pixels = int(info["width"]) * int(info["height"])
        if pixels > self.limits.pixels:
            text = f"{info['width']}x{info['height']} is {pixels} pixels; this server takes {self.limits.pixels}"
            return {"code": "too_many_pixels", "message": text}
        duration = info.get("duration")
        if not duration or not info.get("rate"):
            return {"code": "unreadable", "message": "this video does not say how long it is or what its frame rate is"}
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
        """Count the bytes on disk of every source's and job's folder."""
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
            keep = self.limits.keep_seconds
            if source.state in ("receiving", "refused"):
                sent_nothing = source.state == "receiving" and source.received == 0 and source.id not in self.uploads
                keep = min(keep, self.limits.announced_seconds if sent_nothing else self.limits.upload_seconds)
            if source.touched < now - keep and source.id not in used:
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
        """Remove folders without a row: a server was killed between removing the one and the other."""
        known = {source.id for source in self.store.sources()} | {job.id for job in self.store.jobs(limit=1_000_000)}
        for folder in sizes:
            if folder.name not in known and folder.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(folder, ignore_errors=True)

    def remove_job(self, id: str) -> None:
        """Forget a finished job and delete its files."""
        self.store.remove_job(id)
        shutil.rmtree(self.job_folder(id), ignore_errors=True)
        self.events.publish("gone", id)

    def remove_source(self, id: str) -> bool:
        """Forget a source, unless an unfinished job needs it, and delete what was uploaded."""
        if not self.store.remove_source(id):
            return False
        self.uploads.pop(id, None)
        shutil.rmtree(self.source_folder(id), ignore_errors=True)
        self.events.publish("gone", id)
        return True

    # -- what things look like outside

    def render(self, kind: str, id: str) -> str | None:
        """Format a source or job as it is now as JSON, for the event stream."""
        if kind == "gone":
            return json.dumps({"id": id})
        try:
            if kind == "job":
                return self.job_state(self.store.job(id)).model_dump_json()
            return source_state(self.store.source(id)).model_dump_json()
        except NotFoundError:
            return None

    def job_state(self, job: Job) -> JobState:
        """Return a job as the API shows it."""
        progress = (self.live.progress(job.id) if job.state == "running" else None) or job.progress
        files = [kind for kind in ("result", "before", "after", "report") if job.outcome.get(kind)]
        return JobState(
            id=job.id, number=job.number, source=job.source,  kind=job.kind,  # type: ignore[arg-type]
            options=dict(job.options), state=job.state,  # type: ignore[arg-type]
            requested=job.requested, progress=ProgressState(**progress),  # type: ignore[arg-type]
            error=ErrorText(**job.error) if job.error else None, warnings=list(job.outcome.get("warnings", ())),
            files=files, **job.about, size=job.outcome.get("size"), device=job.device,
            created=job.created, started=job.started, finished=job.finished,
            position=job.position, revision=job.revision,
        )  # fmt: skip


def source_state(source: Source) -> SourceState:
    """Return a source as the API shows it."""
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
    """Return the address of the client, by which limits are counted."""
    return request.client.host if request.client else "local"


def services_of(request: Request) -> Services:
    """Return the services of the application that received a request."""
    services: Services = request.app.state.services
    return services


InServices = Annotated[Services, Depends(services_of)]
