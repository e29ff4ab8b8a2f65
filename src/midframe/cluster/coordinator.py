"""The coordinator: plans, hands segments to workers, puts results into the journal, and joins them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from midframe import pipeline, planning, process, segments, storage
from midframe import plan as plan_module
from midframe.cluster import transfer, worker
from midframe.cluster.config import ClusterConfig
from midframe.cluster.resources import ClusterResources, connected, import_ray
from midframe.cluster.scheduler import SegmentScheduler, segment_outputs_for
from midframe.cluster.transfer import SegmentTask, short_hash, source_mark, unpack, work_folder
from midframe.engine import pick_precision
from midframe.errors import DeviceError, InputError, Interrupted, JobError, MediaError, MidframeError
from midframe.journal import Journal
from midframe.models import load_model
from midframe.options import Options
from midframe.pipeline import OnPlan
from midframe.plan import Plan, check_target
from midframe.result import OnProgress, Progress, Result

PROGRESS_FRAMES = 16  # between two progress messages of a worker
PROGRESS_WORKERS = 64  # with more of them each reports less often, so that one coordinator serves a thousand
FREE_DISK_BYTES = 512 << 20  # beside the journal; with less no new segment is submitted
RESCAN_SECONDS = 5.0  # between two looks at the nodes, which may come and go
MAX_WORKER_DEATHS = 20  # over one segment, for whatever reason, after which it is given up
COMMON_CAUSE_SECONDS = 3.0  # deaths over different segments within this time have a cause outside the segments
NO_WORKER_SECONDS = 20.0  # without any usable worker, after which the run ends


@dataclass(slots=True)
class _RunningTask:
    """The coordinator's view of one running task."""

    number: int
    ref: Any
    frames: int = 0
    part: Path | None = None  # what has arrived of its segment through the object store
    began: bool = False
    node: str = ""  # where it runs, once it has started


def interpolate(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str] | None = None,
    *,
    config: ClusterConfig | None = None,
    on_plan: OnPlan | None = None,
    on_progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
    drain: threading.Event | None = None,
    **options: Any,
) -> Result:
    """Interpolate a video on a cluster: `pipeline.interpolate` with the same arguments, frames and result.

    Args:
        src: a path that the workers see too, or an fsspec URL.
        dst: a path, or an fsspec URL; beside the source if None.
        config: where the workers are; if None, the cluster running on this machine, or one started for the run.
        on_plan, on_progress, cancel, drain, options: as there. `Progress.latest` is always None.

    Raises:
        JobError: a segment failed repeatedly; the others are kept.
        DeviceError: no cluster answers at the address, or it has no worker.
        MidframeError: as `pipeline.interpolate`.
    """
    config = config if config is not None else ClusterConfig()
    wanted = pipeline.options_of(options)
    ray = import_ray()
    home = work_folder(config)
    source = storage.fetch(os.fspath(src), home / "sources") if storage.is_url(src) else Path(src)
    url = os.fspath(dst) if dst is not None and storage.is_url(dst) else None
    if url is not None:
        if storage.exists(url) and not wanted.overwrite:
            raise InputError(f"'{url}' exists already; -y replaces it, or give another -o")
        target: Path | None = home / f"{short_hash(url)}-{url.rsplit('/', 1)[-1]}"
        wanted = replace(wanted, overwrite=True)
    elif storage.is_url(src) and dst is None:
        raise InputError(f"'{os.fspath(src)}' is a URL; name the output with -o")
    else:
        target = None if dst is None else Path(dst)
    plan = plan_run(source, target, wanted)
    if url is None and (finished := segments.finished_before(plan)) is not None:
        return finished
    check_target(plan.target, source, wanted.overwrite)
    with segments.disk_trouble(plan.target), Journal(plan.target) as journal, connected(ray, config):
        resources = ClusterResources(ray, config, plan)
        if plan.frames_out is not None and len(plan.segments) > 1:
            outputs = segment_outputs_for(plan.frames_out, resources.parallel_tasks(), plan_module.SEGMENT_OUTPUTS)
            if outputs != plan_module.SEGMENT_OUTPUTS:
                plan = plan_run(source, target, wanted, outputs)
        plan = resolve_device(plan, resources)
        if on_plan is not None:
            on_plan(plan)
        plan = segments.enter(journal, plan)
        coordinator = Coordinator(resources, plan, journal, os.fspath(src), on_progress, cancel, drain)
        coordinator.make()
        result = coordinator.join()
        if url is not None:  # inside the journal: segments are kept until the video is stored
            storage.store(result.path, url)
            storage.store(result.report, url + ".json")
            result.path.unlink()
            result.report.unlink()
    return result


def plan_run(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str] | None,
    options: Options,
    segment_outputs: int | None = None,
) -> Plan:
    """Plan a run on a cluster. Each worker resolves the device, so the plan holds the option as given."""
    model = load_model(options.model, options.weights)  # missing weights are reported before the work
    return planning.plan_run(
        src,
        dst,
        options,
        model=model.name,
        device=options.device,
        precision=options.precision,
        segment_outputs=segment_outputs,
    )


def resolve_device(plan: Plan, resources: ClusterResources) -> Plan:
    """Return the plan with device and precision as a plain run names them, so that either resumes the other's journal.

    The precision of a GPU is the workers' choice where this machine has none.
    """
    device, precision = plan.device, plan.precision
    if device == "auto" or device == "cuda":
        device = resources.device
    if precision == "auto" and (device == "cpu" or torch.cuda.is_available()):
        precision = pick_precision("auto", load_model(plan.options.model, plan.options.weights), torch.device(device))
    return replace(plan, device=device, precision=precision)


class Coordinator:
    """Submits segments until all are in the journal, then joins them."""

    def __init__(
        self,
        resources: ClusterResources,
        plan: Plan,
        journal: Journal,
        source: str,
        on_progress: OnProgress | None,
        cancel: threading.Event | None,
        drain: threading.Event | None,
    ) -> None:
        self.ray, self.resources, self.plan, self.journal = resources.ray, resources, plan, journal
        self.on_progress = on_progress
        self.cancel = cancel if cancel is not None else threading.Event()
        self.drain = drain if drain is not None else threading.Event()
        self.began = time.monotonic()
        done = journal.held(len(plan.segments))
        self.resumed = sum(segments.segment_record(journal, n)["frames_out"] for n in done)
        self.made = 0
        self.cuts = 0
        self.scheduler = SegmentScheduler([cost(plan, n) for n in range(len(plan.segments))], done)
        self.running: dict[int, _RunningTask] = {}  # by ticket
        self.deaths: list[tuple[float, int, int]] = []  # of workers: time, segment, frames done
        self.idle_since: float | None = None
        self.parallel_tasks, self.looked = resources.parallel_tasks(), time.monotonic()
        self.largest = 0  # bytes of a finished segment
        token = f"seen-{secrets.token_hex(8)}"
        (journal.folder / token).touch()
        self.segment_task = SegmentTask(
            plan=plan,
            source=source if storage.is_url(source) else str(Path(source).resolve()),
            mark=source_mark(Path(plan.source)),
            folder=str(journal.folder.resolve()),
            token=token,
            work=resources.config.work,
            threads=max(1, int(resources.cores)),
            progress_frames=PROGRESS_FRAMES * -(-self.parallel_tasks // PROGRESS_WORKERS),
        )
        self.task = self.ray.remote(
            num_cpus=resources.cores,
            num_gpus=resources.gpus,
            memory=resources.memory or None,
            max_retries=0,
            # without it a worker takes 20 % more CPU time than a plain run
            runtime_env={"env_vars": process.environment()},
            num_returns="streaming",
            _generator_backpressure_num_objects=transfer.MAX_PENDING_CHUNKS,
        )(worker.make_segment)

    def make(self) -> None:
        """Submit segments and collect results until every segment is in the journal.

        Raises:
            Interrupted: by `drain` or `cancel`.
            JobError: segments failed repeatedly.
        """
        try:
            while not self.scheduler.over:
                self._submit()
                self.collect()
                if self.cancel.is_set() or (self.drain.is_set() and not self.running):
                    count = len(self.plan.segments)
                    raise Interrupted(f"stopped; {segments.kept(len(self.journal.held(count)), count)}")
        finally:
            for ticket in list(self.running):
                self._drop(ticket)
        if failed := self.scheduler.permanently_failed:
            raise JobError(
                f"{len(failed)} of {len(self.plan.segments)} segments failed repeatedly: "
                + "; ".join(f"{self._name(n)}: {why[-1]}" for n, why in failed.items())
                + "; the others are kept: the same command tries these again"
            )

    def join(self) -> Result:
        """Join all segments into one video."""
        self._report("joining", self.plan.start)
        seconds = time.monotonic() - self.began
        if lost := segments.damaged(self.plan, self.journal):
            raise JobError(
                f"{len(lost)} of {len(self.plan.segments)} segments were damaged since they were written, segment "
                f"{lost[0]:05d} first; the others are kept: the same command makes these again"
            )
        return segments.join(self.plan, self.journal, seconds, self.made, self.resumed, workers=self.parallel_tasks)

    def _submit(self) -> None:
        """Give every idle worker a segment, as long as the disk has room for the results."""
        now = time.monotonic()
        if now - self.looked > RESCAN_SECONDS:
            self.parallel_tasks, self.looked = self.resources.parallel_tasks(), now
        while len(self.running) < self.parallel_tasks and not self.drain.is_set():
            expected = self.largest * len(self.running)
            if shutil.disk_usage(self.journal.folder).free < FREE_DISK_BYTES + expected:
                if not self.running:
                    raise MediaError(
                        f"the disk of '{self.journal.target.parent}' is nearly full; finished segments are kept: "
                        "free some space and repeat the command"
                    )
                return
            assigned = self.scheduler.next(now)
            if assigned is None:
                return
            ticket, attempt = assigned
            task = self.task.options(scheduling_strategy=self.resources.strategy())
            self.running[ticket] = _RunningTask(attempt.segment, task.remote(self.segment_task, attempt.segment))

    def collect(self) -> None:
        """Wait briefly for messages and handle them."""
        if not self.running:
            time.sleep(0.05)
            return
        owner = {attempt.ref: ticket for ticket, attempt in self.running.items()}
        ready, rest = self.ray.wait(list(owner), timeout=0.5, num_returns=1)
        if ready and rest:  # take all that are ready at once: one call each would be slow with many workers
            ready += self.ray.wait(rest, timeout=0, num_returns=len(rest))[0]
        for ref in ready:
            ticket = owner[ref]
            try:
                message = self.ray.get(next(ref))
            except StopIteration:
                self._failed(ticket, "ended without a segment")
            except Exception as error:
                self._handle_error(ticket, error)
            else:
                self.handle_message(ticket, message)
        for ticket in self.scheduler.obsolete():
            self._drop(ticket)
        if not ready:
            self.check_idle()

    def check_idle(self) -> None:
        """Raise DeviceError when no node can run a task any more; Ray itself would wait for ever."""
        if any(attempt.began for attempt in self.running.values()) or self.resources.capacity():
            self.idle_since = None
            return
        now = time.monotonic()
        self.idle_since = self.idle_since or now
        if now - self.idle_since > NO_WORKER_SECONDS:
            raise DeviceError(
                "the cluster has no worker left; finished segments are kept: repeat the command to resume"
            )

    def handle_message(self, ticket: int, message: Mapping[str, Any]) -> None:
        """Handle a worker's message: started, progress, a chunk of its segment, or finished."""
        attempt = self.running[ticket]
        kind = message["kind"]
        if kind == "began":
            attempt.began, attempt.node = True, message["node"]
            self.scheduler.started(ticket, time.monotonic())
        elif kind == "frames":
            attempt.frames = message["frames"]
            self._report("frames", Fraction(message["pts"]), attempt.number)
        elif kind == "ineligible":
            self._lost(ticket)
            self._exclude(attempt.node, message["error"])
        elif kind == "chunk":
            if attempt.part is None:
                attempt.part = self.journal.folder / f"{attempt.number:05d}.{ticket}.part.in"
            with open(attempt.part, "ab") as file:
                file.write(message["data"])
        else:
            del self.running[ticket]
            if self.scheduler.finished(ticket, time.monotonic()):
                self._store(attempt, message)
            else:
                _discard(attempt.part)

    def _exclude(self, node: str, error: MidframeError) -> None:
        """Exclude a node that cannot process this video: no GPU, too little memory, no weights, or no source.

        Raises:
            MidframeError: its error, if no other node is left.
        """
        if node in self.resources.ineligible:
            return
        self.resources.ineligible.add(node)
        if not self.resources.capacity():
            raise error
        self.journal.remark(f"a node was excluded: {error}")
        self.parallel_tasks = self.resources.parallel_tasks()

    def _store(self, attempt: _RunningTask, message: Mapping[str, Any]) -> None:
        """Put a finished segment into the journal."""
        record = dict(message["record"])
        name = record.pop("file", None)
        record.pop("size", None)
        suffix = "" if name is None else name[name.index(".") :] if "." in name else ""
        part = self.journal.part(attempt.number, suffix)
        if name is not None:
            if message["where"] == "folder":
                os.replace(message["path"], part)
                shutil.rmtree(Path(message["path"]).parent.parent, ignore_errors=True)
            elif message["where"] == "url":
                local = storage.fetch(message["path"], self.journal.folder / "fetched.part")
                os.replace(local, part)
                storage.remove(message["path"])
            else:
                assert attempt.part is not None
                os.replace(attempt.part, part)
            if message["packed"]:
                unpack(part)
        self.journal.finish(attempt.number, suffix, record)
        self.largest = max(self.largest, segments.segment_record(self.journal, attempt.number).get("size", 0))
        self.made += record["frames_out"]
        self.cuts += len(record["cuts"])
        self._report("frames", self.plan.start, attempt.number)

    def _handle_error(self, ticket: int, error: Exception) -> None:
        """Decide whether a failed task counts against its segment, its node, or the whole run."""
        exceptions = self.ray.exceptions
        attempt = self.running[ticket]
        cause = getattr(error, "cause", None) or error
        node_errors = (
            exceptions.NodeDiedError,
            exceptions.ObjectLostError,
            exceptions.RaySystemError,
            exceptions.TaskCancelledError,
            exceptions.LocalRayletDiedError,
        )
        if isinstance(error, exceptions.WorkerCrashedError | exceptions.OutOfMemoryError):
            # A bad segment kills only its own worker, at the same frame each time; other causes kill at random
            # frames or several workers at once. The last progress message may be lost.
            self.deaths.append((time.monotonic(), attempt.number, attempt.frames))
            mine = [(at, frames) for at, number, frames in self.deaths if number == attempt.number]
            others = [at for at, number, _ in self.deaths if number != attempt.number]
            alone = [frames for at, frames in mine if all(abs(at - other) > COMMON_CAUSE_SECONDS for other in others)]
            alike = sum(abs(frames - attempt.frames) <= 2 * self.segment_task.progress_frames for frames in alone)
            if alike >= 3 or len(mine) >= MAX_WORKER_DEATHS:
                self._failed(ticket, f"its worker died {len(mine)} times", final=True)
            else:
                self._lost(ticket)
        elif isinstance(error, node_errors):
            self._lost(ticket)
        elif isinstance(cause, InputError):
            raise cause  # an invalid option: every segment would fail alike
        else:
            text = str(cause) if isinstance(cause, MidframeError) else f"{type(cause).__name__}: {cause}"
            self._failed(ticket, text.splitlines()[0] if text else type(cause).__name__)

    def _failed(self, ticket: int, why: str, final: bool = False) -> None:
        _discard(self.running.pop(ticket).part)
        self.scheduler.failed(ticket, why, final=final)

    def _lost(self, ticket: int) -> None:
        _discard(self.running.pop(ticket).part)
        self.scheduler.lost(ticket)

    def _drop(self, ticket: int) -> None:
        """Cancel a task whose result is no longer needed."""
        attempt = self.running.pop(ticket, None)
        if attempt is None:
            return
        with contextlib.suppress(Exception):
            self.ray.cancel(attempt.ref, force=True)
        _discard(attempt.part)
        self.scheduler.lost(ticket)

    def _report(self, stage: str, pts: Fraction, number: int = 0) -> None:
        if self.on_progress is None:
            return
        seconds = time.monotonic() - self.began
        best: dict[int, int] = {}
        for attempt in self.running.values():
            best[attempt.number] = max(best.get(attempt.number, 0), attempt.frames)
        made = self.made + sum(best.values())
        frames, total = self.resumed + made, self.plan.frames_out
        fps = made / seconds if seconds > 0 else 0.0
        self.on_progress(
            Progress(
                frames=frames,
                total=total,
                seconds=seconds,
                fps=fps,
                remaining=max(0.0, (total - frames) / fps) if total is not None and fps > 0 else None,
                segment=number,
                segments=len(self.plan.segments),
                cuts=self.cuts,
                pts=pts,
                stage=stage,
            )
        )

    def _name(self, number: int) -> str:
        segment = self.plan.segments[number]
        start = float((segment.start or self.plan.start) - self.plan.start)
        end = segment.end or self.plan.end
        until = "the end" if end is None else f"{float(end - self.plan.start):.3f} s"
        return f"segment {number} ({start:.3f} s to {until})"


def cost(plan: Plan, number: int) -> float:
    """Cost of a segment for the scheduler: its number of output frames."""
    segment = plan.segments[number]
    start = plan.start if segment.start is None else segment.start
    end = segment.end if segment.end is not None else plan.end
    if end is None:
        return 1.0
    return max(1.0, float((end - start) * plan.rate * plan.slowmo))


def _discard(part: Path | None) -> None:
    if part is not None:
        part.unlink(missing_ok=True)
