"""One film on many workers: the segments of a plan as tasks of a Ray cluster. The only room that knows Ray.

The head (the process that was called) plans, hands segments out by the rules of `dispatch`, puts what comes back into
the film's journal, and joins. A worker gets the plan and the number of a segment, reads that stretch of the source
with the context it needs, and sends back a whole file. A plan cannot move a frame, so the pictures are those of a run
on one machine. The journal is the one of such a run too: a head that died goes on with the same command, here or
without a cluster.

Segments travel in one of three ways: straight into the journal where the worker sees the head's folder; through a
folder or URL that both see (`Farm.work`); else through Ray's object store, in chunks of `CHUNK_BYTES`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from midframe import pipeline, process, segments, storage
from midframe import plan as planning
from midframe.dispatch import Dispatch, piece_outputs
from midframe.engine import Engine
from midframe.errors import DeviceError, InputError, Interrupted, JobError, MediaError, MidframeError, WeightsError
from midframe.journal import Journal, fingerprint
from midframe.models import load_model
from midframe.options import Options
from midframe.pipeline import OnPlan
from midframe.plan import Plan, check_target
from midframe.result import OnProgress, Progress, Result
from midframe.video import images

CHUNK_BYTES = 8 << 20  # of a segment on its way through the object store
CHUNKS_AHEAD = 4  # a worker waits when the head has not taken so many: 32 MiB a worker in the object store
NEWS_FRAMES = 16  # a worker tells how far it is every so many pictures
NEWS_WORKERS = 64  # with more of them each tells less often, so that the head keeps up with a thousand
SPARE_BYTES = 512 << 20  # of disk beside the journal; with less nothing new is handed out
CORES_PER_WORKER = 4  # convolutions on a CPU gain little from more
# Memory of a worker: torch, Ray and libav, and for every pixel of a picture. With dis a run takes 447 MB at 540p and
# 763 MB at 1080p (benchmarks/memory.py).
WORKER_BYTES = 400 << 20
BYTES_PER_PIXEL = 256
LOOK_SECONDS = 5.0  # how often a farm is asked whether it has grown
DEATHS = 20  # of workers over one segment, however they came, after which it is given up
DEATHS_APART = 3.0  # seconds; workers that die closer together over different segments die of something else
RETRY_SECONDS = 20.0  # how long a farm without any worker is waited for


@dataclass(frozen=True, slots=True)
class Farm:
    """Where the workers are, and how many."""

    address: str = "auto"  # "auto": a cluster that runs here, else one is started; "local"; "host:port"; "ray://..."
    workers: int | None = None  # at a time; None: as many as the cluster carries
    gpus_per_worker: float = 1.0  # 0.5: two workers share one
    devices: tuple[str, ...] = ()  # of this box, one worker each: ("cuda:0", "cuda:1"); a cluster is started for it
    work: str | None = None  # a folder or URL that head and workers see, for sources, segments and journals

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers {self.workers} cannot work; 1 is the least")
        if not 0 < self.gpus_per_worker <= 8:
            raise InputError(f"--gpus-per-worker {self.gpus_per_worker:g} is not within 0 to 8; 0.5 lets two share one")
        for device in self.devices:
            if not (device == "cpu" or device.startswith("cuda:")):
                raise InputError(f"--device {','.join(self.devices)}: one worker each for cpu and cuda:N; not {device}")
        if len({device.split(":")[0] for device in self.devices}) > 1:
            raise InputError(f"--device {','.join(self.devices)}: all cpu or all cuda:N, not both")


@dataclass(frozen=True, slots=True)
class Job:
    """All that a worker needs to know of a film. Travels to it once a segment."""

    plan: Plan
    source: str  # path or URL as the worker shall open it
    mark: str  # by which a worker knows the source again
    folder: str  # the head's journal
    token: str  # name of a file in it: who finds it there sees the same folder
    work: str | None
    threads: int
    news_frames: int  # pictures from one word of progress to the next


@dataclass(slots=True)
class _Attempt:
    """One running task, as the head sees it."""

    number: int
    ref: Any
    frames: int = 0
    part: Path | None = None  # what has come of its segment through the object store
    began: bool = False
    node: str = ""  # where it runs, once it has begun


def interpolate(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str] | None = None,
    *,
    farm: Farm | None = None,
    on_plan: OnPlan | None = None,
    on_progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
    drain: threading.Event | None = None,
    **wishes: Any,
) -> Result:
    """`pipeline.interpolate` over a farm: the same arguments, the same pictures, the same result.

    Args:
        src: a path that the workers see too, or an fsspec URL.
        dst: a path, or an fsspec URL; beside the source if None.
        farm: where the workers are; a cluster that runs on this machine, or one started for the run, if None.
        on_plan, on_progress, cancel, drain, wishes: as there. `Progress.latest` is always None.

    Raises:
        JobError: a segment failed again and again; the rest is kept. Or what `pipeline.interpolate` raises.
        DeviceError: there is no cluster at the address, or no worker in it.
    """
    farm = farm if farm is not None else Farm()
    options = pipeline.options_of(wishes)
    ray = _ray()
    home = _home(farm)
    source = storage.fetch(os.fspath(src), home / "sources") if storage.is_url(src) else Path(src)
    url = os.fspath(dst) if dst is not None and storage.is_url(dst) else None
    if url is not None:
        if storage.exists(url) and not options.overwrite:
            raise InputError(f"'{url}' exists already; -y replaces it, or give another -o")
        target: Path | None = home / f"{_mark(url)}-{url.rsplit('/', 1)[-1]}"
        options = replace(options, overwrite=True)
    elif storage.is_url(src) and dst is None:
        raise InputError(f"'{os.fspath(src)}' is a URL; say with -o where the result shall go")
    else:
        target = None if dst is None else Path(dst)
    plan = plan_run(source, target, options)
    check_target(plan.target, source, options.overwrite)
    with segments.disk_trouble(plan.target), Journal(plan.target) as journal, connected(ray, farm):
        share = _Share(ray, farm, plan)
        if plan.frames_out is not None and len(plan.segments) > 1:
            outputs = piece_outputs(plan.frames_out, share.lanes(), planning.SEGMENT_OUTPUTS)
            if outputs != planning.SEGMENT_OUTPUTS:
                plan = plan_run(source, target, options, outputs)
        if on_plan is not None:
            on_plan(plan)
        plan = segments.enter(journal, plan)
        head = _Head(share, plan, journal, os.fspath(src), on_progress, cancel, drain)
        head.make()
        result = head.join()
        if url is not None:  # inside: segments are kept until the film has arrived
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
    """What a farm would do. The device is the workers' affair, so the plan names the wish."""
    model = load_model(options.model, options.weights)  # missing weights are known before the work
    return pipeline.plan_run(
        src,
        dst,
        options,
        model=model.name,
        device=options.device,
        precision=options.precision,
        segment_outputs=segment_outputs,
    )


@contextlib.contextmanager
def connected(ray: ModuleType, farm: Farm) -> Iterator[None]:
    """A connection to the farm, left as it was found.

    Raises:
        DeviceError: nothing answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "include_dashboard": False}
    if farm.devices:
        cuda = [device.split(":")[1] for device in farm.devices if device != "cpu"]
        if cuda:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(cuda)
        cores = max(os.cpu_count() or 1, len(farm.devices))
        ray.init(address="local", num_cpus=cores, num_gpus=len(cuda), **quiet)
    elif farm.address == "local":
        ray.init(address="local", **quiet)  # without an address it would join a cluster that happens to run here
    else:
        try:
            ray.init(address=farm.address, logging_level="ERROR", log_to_driver=False)
        except ConnectionError as error:
            if farm.address != "auto":
                raise DeviceError(f"no Ray cluster answers at '{farm.address}': {error}") from error
            ray.init(address="local", **quiet)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def joined(farm: Farm) -> Iterator[None]:
    """One connection for several films: `interpolate` calls inside share it, and its workers keep their models."""
    with connected(_ray(), farm):
        yield


class _Share:
    """What of the farm one task takes, and how many tasks the farm carries at a time.

    Raises:
        DeviceError: the farm has no worker, or none of the kind that is wished.
    """

    def __init__(self, ray: ModuleType, farm: Farm, plan: Plan) -> None:
        self.ray, self.farm = ray, farm
        self.unfit: set[str] = set()  # nodes that cannot do this film
        nodes = self.nodes()
        cores = [node.get("CPU", 0.0) for node in nodes.values()]
        cards = [node for node in nodes.values() if node.get("GPU")]
        wish = plan.options.device
        self.gpus = 0.0
        if farm.devices:
            self.cores = max(1.0, sum(cores) // len(farm.devices))
            self.gpus = float(farm.devices[0] != "cpu")
        elif cards and wish != "cpu":
            self.gpus = farm.gpus_per_worker
            shares = [node.get("CPU", 0.0) // max(1, int(node["GPU"] / self.gpus)) for node in cards]
            self.cores = max(1.0, min(CORES_PER_WORKER, *shares))
        elif wish.startswith("cuda"):
            raise DeviceError("the farm has no GPU; add --device cpu, or start its nodes with --num-gpus")
        elif not any(cores):
            raise DeviceError("the farm has no worker; start nodes with: ray start --address=HEAD:6379")
        elif farm.workers is not None:  # a task lives on one node
            self.cores = max(1.0, min(max(cores), sum(cores) // farm.workers))
        else:
            self.cores = max(1.0, min(CORES_PER_WORKER, *(core for core in cores if core)))
        wanted = WORKER_BYTES + BYTES_PER_PIXEL * plan.info.width * plan.info.height
        able = [n for n in nodes.values() if n.get("CPU", 0.0) >= self.cores and n.get("GPU", 0.0) >= self.gpus]
        if not able:
            raise DeviceError(
                f"no node of the farm has {self.cores:g} cores and {self.gpus:g} GPUs for one worker; "
                "lower --gpus-per-worker, or add --device cpu"
            )
        largest = max(node.get("memory", 0.0) for node in able)
        self.memory = min(float(wanted), largest)  # a node with less than is wanted may still try

    def nodes(self) -> dict[str, dict[str, float]]:
        """Resources of the nodes that are alive and fit, by Ray's name for them."""
        return {
            node["NodeID"]: node["Resources"]
            for node in self.ray.nodes()
            if node["Alive"] and node["NodeID"] not in self.unfit
        }

    def lanes(self) -> int:
        """How many tasks at a time. What is asked for, or what cores, GPUs and memory of the nodes carry now."""
        if self.farm.devices:
            return len(self.farm.devices)
        if self.farm.workers is not None:
            return self.farm.workers
        return max(1, self.carried())

    def carried(self) -> int:
        """Tasks for which the fit nodes have cores, GPUs and memory."""
        each = {"CPU": self.cores, "GPU": self.gpus, "memory": self.memory}
        return sum(
            min(int(node.get(kind, 0.0) / part) for kind, part in each.items() if part > 0)
            for node in self.nodes().values()
        )

    def strategy(self) -> Any:
        """Where Ray may run a task: anywhere but on nodes that cannot do it."""
        if not self.unfit:
            return "DEFAULT"
        from ray.util.scheduling_strategies import NodeLabelSchedulingStrategy, NotIn

        return NodeLabelSchedulingStrategy(hard={"ray.io/node-id": NotIn(*self.unfit)})  # type: ignore[no-untyped-call]


class _Head:
    """Hands segments out until all are in the journal, then joins them."""

    def __init__(
        self,
        share: _Share,
        plan: Plan,
        journal: Journal,
        source: str,
        on_progress: OnProgress | None,
        cancel: threading.Event | None,
        drain: threading.Event | None,
    ) -> None:
        self.ray, self.share, self.plan, self.journal = share.ray, share, plan, journal
        self.on_progress = on_progress
        self.cancel = cancel if cancel is not None else threading.Event()
        self.drain = drain if drain is not None else threading.Event()
        self.began = time.monotonic()
        done = journal.held(len(plan.segments))
        self.resumed = sum(segments.segment_record(journal, n)["frames_out"] for n in done)
        self.made = 0
        self.cuts = 0
        self.warnings: list[str] = []
        self.dispatch = Dispatch([cost(plan, n) for n in range(len(plan.segments))], done)
        self.running: dict[int, _Attempt] = {}  # by ticket
        self.deaths: list[tuple[float, int, int]] = []  # of workers: when, over which segment, after how many pictures
        self.idle_since: float | None = None
        self.lanes, self.looked = share.lanes(), time.monotonic()
        self.largest = 0  # bytes of a finished segment
        token = f"seen-{secrets.token_hex(8)}"
        (journal.folder / token).touch()
        self.job = Job(
            plan=plan,
            source=source if storage.is_url(source) else str(Path(source).resolve()),
            mark=_known_by(Path(plan.source)),
            folder=str(journal.folder.resolve()),
            token=token,
            work=share.farm.work,
            threads=max(1, int(share.cores)),
            news_frames=NEWS_FRAMES * -(-self.lanes // NEWS_WORKERS),
        )
        self.task = self.ray.remote(
            num_cpus=share.cores,
            num_gpus=share.gpus,
            memory=share.memory or None,
            max_retries=0,
            # without it a worker takes a fifth more processor time than a plain run
            runtime_env={"env_vars": process.environment()},
            num_returns="streaming",
            _generator_backpressure_num_objects=CHUNKS_AHEAD,
        )(_make_segment)

    def make(self) -> None:
        """Hand out, take in, until every segment is in the journal.

        Raises:
            Interrupted: by `drain` or `cancel`.
            JobError: segments were given up.
        """
        try:
            while not self.dispatch.over:
                self._hand_out()
                self._take_in()
                if self.cancel.is_set() or (self.drain.is_set() and not self.running):
                    count = len(self.plan.segments)
                    raise Interrupted(f"stopped; {segments.kept(len(self.journal.held(count)), count)}")
        finally:
            for ticket in list(self.running):
                self._drop(ticket)
        if poisoned := self.dispatch.poisoned:
            raise JobError(
                f"{len(poisoned)} of {len(self.plan.segments)} segments failed again and again: "
                + "; ".join(f"{self._name(n)}: {why[-1]}" for n, why in poisoned.items())
                + "; the others are finished and kept: the same command tries these again"
            )

    def join(self) -> Result:
        """One film out of all segments."""
        self._tell("joining", self.plan.start)
        seconds = time.monotonic() - self.began
        return segments.join(
            self.plan, self.journal, self.warnings, seconds, self.made, self.resumed, workers=self.lanes
        )

    def _hand_out(self) -> None:
        """Give every idle worker a segment, as long as the disk carries what comes back."""
        now = time.monotonic()
        if now - self.looked > LOOK_SECONDS:
            self.lanes, self.looked = self.share.lanes(), now
        while len(self.running) < self.lanes and not self.drain.is_set():
            coming = self.largest * len(self.running)
            if shutil.disk_usage(self.journal.folder).free < SPARE_BYTES + coming:
                if not self.running:
                    raise MediaError(
                        f"the disk of '{self.journal.target.parent}' is nearly full; finished segments are kept: "
                        "free some space and give the same command again"
                    )
                return
            handed = self.dispatch.next(now)
            if handed is None:
                return
            ticket, attempt = handed
            task = self.task.options(scheduling_strategy=self.share.strategy())
            self.running[ticket] = _Attempt(attempt.piece, task.remote(self.job, attempt.piece))

    def _take_in(self) -> None:
        """Wait a little for news, and act on what has come."""
        if not self.running:
            time.sleep(0.05)
            return
        owner = {attempt.ref: ticket for ticket, attempt in self.running.items()}
        ready, rest = self.ray.wait(list(owner), timeout=0.5, num_returns=1)
        if ready and rest:  # all that is there already: asking once for each would be slow with many workers
            ready += self.ray.wait(rest, timeout=0, num_returns=len(rest))[0]
        for ref in ready:
            ticket = owner[ref]
            try:
                news = self.ray.get(next(ref))
            except StopIteration:
                self._failed(ticket, "ended without a segment")
            except Exception as error:
                self._trouble(ticket, error)
            else:
                self._news(ticket, news)
        for ticket in self.dispatch.obsolete():
            self._drop(ticket)
        if not ready:
            self._mind_the_idle()

    def _mind_the_idle(self) -> None:
        """A farm without a node left that can carry a task says so; Ray itself would wait for one for ever."""
        if any(attempt.began for attempt in self.running.values()) or self.share.carried():
            self.idle_since = None
            return
        now = time.monotonic()
        self.idle_since = self.idle_since or now
        if now - self.idle_since > RETRY_SECONDS:
            raise DeviceError("the farm has no worker left; finished segments are kept: the same command goes on")

    def _news(self, ticket: int, news: Mapping[str, Any]) -> None:
        """Something a worker says: it began, how far it is, a chunk, or that it is through."""
        attempt = self.running[ticket]
        kind = news["kind"]
        if kind == "began":
            attempt.began, attempt.node = True, news["node"]
            self.dispatch.started(ticket, time.monotonic())
        elif kind == "frames":
            attempt.frames = news["frames"]
            self._tell("frames", Fraction(news["pts"]), attempt.number)
        elif kind == "unfit":
            self._lost(ticket)
            self._unfit(attempt.node, news["error"])
        elif kind == "chunk":
            if attempt.part is None:
                attempt.part = self.journal.folder / f"{attempt.number:05d}.{ticket}.part.in"
            with open(attempt.part, "ab") as file:
                file.write(news["data"])
        else:
            del self.running[ticket]
            if self.dispatch.finished(ticket, time.monotonic()):
                self._keep(attempt, news)
            else:
                _forget(attempt.part)

    def _unfit(self, node: str, error: MidframeError) -> None:
        """A node cannot do this film: no such GPU, too little memory, no weights, no sight of the source. Others may.

        Raises:
            MidframeError: what it said, if no other node is left.
        """
        if node in self.share.unfit:
            return
        self.share.unfit.add(node)
        if not self.share.carried():
            raise error
        self.warnings.append(f"a node of the farm was left out: {error}")
        self.lanes = self.share.lanes()

    def _keep(self, attempt: _Attempt, news: Mapping[str, Any]) -> None:
        """A segment is whole: it takes its place in the journal."""
        record = dict(news["record"])
        name = record.pop("file", None)
        record.pop("size", None)
        suffix = "" if name is None else name[name.index(".") :] if "." in name else ""
        part = self.journal.part(attempt.number, suffix)
        if name is not None:
            if news["where"] == "folder":
                os.replace(news["path"], part)
                shutil.rmtree(Path(news["path"]).parent.parent, ignore_errors=True)
            elif news["where"] == "url":
                local = storage.fetch(news["path"], self.journal.folder / "fetched.part")
                os.replace(local, part)
                storage.remove(news["path"])
            else:
                assert attempt.part is not None
                os.replace(attempt.part, part)
            if news["packed"]:
                _unpack(part)
        self.journal.finish(attempt.number, suffix, record)
        self.largest = max(self.largest, segments.segment_record(self.journal, attempt.number).get("size", 0))
        self.made += record["frames_out"]
        self.cuts += len(record["cuts"])
        self.warnings += news["warnings"]
        self._tell("frames", self.plan.start, attempt.number)

    def _trouble(self, ticket: int, error: Exception) -> None:
        """A task ended badly: whose doing was it?"""
        exceptions = self.ray.exceptions
        attempt = self.running[ticket]
        cause = getattr(error, "cause", None) or error
        nodes_doing = (
            exceptions.NodeDiedError,
            exceptions.ObjectLostError,
            exceptions.RaySystemError,
            exceptions.TaskCancelledError,
            exceptions.LocalRayletDiedError,
        )
        if isinstance(error, exceptions.WorkerCrashedError | exceptions.OutOfMemoryError):
            # A poisoned segment kills its worker alone, and at the same picture each time; what something else kills
            # dies anywhere, or several at once. The last report may be lost on the way.
            self.deaths.append((time.monotonic(), attempt.number, attempt.frames))
            mine = [(at, frames) for at, number, frames in self.deaths if number == attempt.number]
            others = [at for at, number, _ in self.deaths if number != attempt.number]
            alone = [frames for at, frames in mine if all(abs(at - other) > DEATHS_APART for other in others)]
            alike = sum(abs(frames - attempt.frames) <= 2 * self.job.news_frames for frames in alone)
            if alike >= 3 or len(mine) >= DEATHS:
                self._failed(ticket, f"its worker died {len(mine)} times", final=True)
            else:
                self._lost(ticket)
        elif isinstance(error, nodes_doing):
            self._lost(ticket)
        elif isinstance(cause, InputError):
            raise cause  # a wish that no worker can fulfil: the other segments would say the same
        else:
            said = str(cause) if isinstance(cause, MidframeError) else f"{type(cause).__name__}: {cause}"
            self._failed(ticket, said.splitlines()[0] if said else type(cause).__name__)

    def _failed(self, ticket: int, why: str, final: bool = False) -> None:
        _forget(self.running.pop(ticket).part)
        self.dispatch.failed(ticket, why, final=final)

    def _lost(self, ticket: int) -> None:
        _forget(self.running.pop(ticket).part)
        self.dispatch.lost(ticket)

    def _drop(self, ticket: int) -> None:
        """Stop a task whose result is not wanted any more."""
        attempt = self.running.pop(ticket, None)
        if attempt is None:
            return
        with contextlib.suppress(Exception):
            self.ray.cancel(attempt.ref, force=True)
        _forget(attempt.part)
        self.dispatch.lost(ticket)

    def _tell(self, stage: str, pts: Fraction, number: int = 0) -> None:
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
    """Output pictures of a segment: what it costs to make, in a unit of its own."""
    segment = plan.segments[number]
    start = plan.start if segment.start is None else segment.start
    end = segment.end if segment.end is not None else plan.end
    if end is None:
        return 1.0
    return max(1.0, float((end - start) * plan.rate * plan.slowmo))


# ---- the worker ----------------------------------------------------------------------------------------------------

_engines: dict[str, Engine] = {}  # one a worker process: Ray uses a process for many tasks


def _make_segment(job: Job, number: int) -> Iterator[dict[str, Any]]:
    """Make one segment; yields news for the head. Runs in a worker process."""
    import torch

    torch.set_num_threads(job.threads)
    yield {"kind": "began", "node": _node()}
    try:
        source = _source(job)
        _engine(job.plan.options)
    except (MediaError, WeightsError, DeviceError) as error:
        yield {"kind": "unfit", "error": error}
        return
    seen = (Path(job.folder) / job.token).is_file()
    with contextlib.ExitStack() as stack:
        if seen:
            work = Path(job.folder) / f"{number:05d}.{secrets.token_hex(6)}.part"
            work.mkdir()
        else:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="midframe-")))
        try:
            plan = replace(
                job.plan, segments=(job.plan.segments[number],), source=str(source), target=work / job.plan.target.name
            )
            journal = stack.enter_context(Journal(plan.target))
            run_warnings = yield from _running(plan, journal, job.news_frames)
            record = segments.segment_record(journal, 0)
        except DeviceError as error:  # out of memory after every step down; another card may have more
            shutil.rmtree(work, ignore_errors=True)
            yield {"kind": "unfit", "error": error}
            return
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        done = {"kind": "done", "record": record, "warnings": run_warnings, "packed": False}
        if record["file"] is None:
            yield {**done, "where": "nowhere"}
            if seen:
                shutil.rmtree(work, ignore_errors=True)
            return
        path = journal.folder / record["file"]
        if seen:
            yield {**done, "where": "folder", "path": str(path)}  # the head moves it, and clears up behind it
            return
        packed = path.is_dir()  # pictures
        if packed:
            path = _pack(path)
        if job.work is not None:
            url = storage.name_in(job.work, f"segments/{number:05d}-{secrets.token_hex(6)}{path.suffix}")
            storage.store(path, url if storage.is_url(url) else Path(url).resolve().as_uri())
            url = url if storage.is_url(url) else Path(url).resolve().as_uri()
            yield {**done, "where": "url", "path": url, "packed": packed}
            return
        with open(path, "rb") as file:
            while data := file.read(CHUNK_BYTES):
                yield {"kind": "chunk", "data": data}
        yield {**done, "where": "chunks", "packed": packed}


def _running(plan: Plan, journal: Journal, news_frames: int) -> Generator[dict[str, Any], None, list[str]]:
    """Make the plan's one segment in a thread; yields how far it is. A generator that is given up stops the thread.

    Returns:
        The warnings of the run.
    """
    news: queue.Queue[dict[str, Any] | BaseException | list[str]] = queue.Queue()
    cancel = threading.Event()

    def on_progress(progress: Progress) -> None:
        if progress.frames % news_frames == 0:
            news.put({"kind": "frames", "frames": progress.frames, "pts": str(progress.pts)})

    def work() -> None:
        try:
            run = pipeline.Run(
                segments.enter(journal, plan), journal, _engine(plan.options), on_progress, cancel, threading.Event()
            )
            run.make()
            news.put(run.warnings)
        except BaseException as error:
            news.put(error)

    thread = threading.Thread(target=work, name="midframe-segment", daemon=True)
    thread.start()
    try:
        while True:
            one = news.get()
            if isinstance(one, list):
                return one
            if isinstance(one, BaseException):
                raise one
            yield one
    finally:
        cancel.set()
        thread.join()


def _engine(options: Options) -> Engine:
    """This process's engine for these options; kept, because loading and compiling cost more than a short segment."""
    key = repr((options.model, options.weights, options.device, options.precision, options.tile, options.flow_scale,
                options.scene_fill, options.static, options.mask))  # fmt: skip
    if key not in _engines:
        _engines.clear()
        _engines[key] = pipeline.make_engine(options)
    return _engines[key]


def _node() -> str:
    """Ray's name for the node of this process."""
    ray = _ray()
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def _source(job: Job) -> Path:
    """The source as this worker sees it.

    Raises:
        MediaError: it does not, or it is another file.
    """
    if storage.is_url(job.source):
        home = Path(job.work) if job.work is not None and not storage.is_url(job.work) else _cache()
        return storage.fetch(job.source, home / "sources")
    path = Path(job.source)
    if _known_by(path) != job.mark:
        raise MediaError(
            f"a worker on {os.uname().nodename} does not see '{path}' as the head does; put it into a shared folder or "
            "give a URL that all can read"
        )
    return path


def _known_by(source: Path) -> str:
    """What must be the same for a worker's source to be the head's: size and samples of a file, names of pictures."""
    if source.is_file():
        facts = source.stat()
        return _fingerprint(source, facts.st_size, facts.st_mtime_ns)
    try:
        return _mark("\0".join(file.name for file in images.files_of(source)))
    except (MediaError, OSError):
        return "nothing"


@lru_cache(maxsize=16)
def _fingerprint(source: Path, size_bytes: int, changed: int) -> str:
    """Kept as long as size and time of change stay: a worker asks it for every segment."""
    return str(fingerprint(source, size_bytes)["sha256"])


def _pack(folder: Path) -> Path:
    """A folder of pictures as one file, beside it."""
    packed = folder.with_suffix(".tar")
    with tarfile.open(packed, "w") as tar:
        for entry in sorted(folder.iterdir()):
            tar.add(entry, entry.name)
    return packed


def _unpack(part: Path) -> None:
    """Undo `_pack`: the file becomes the folder of its name."""
    packed = part.with_name(part.name + ".in")
    os.replace(part, packed)
    part.mkdir()
    with tarfile.open(packed) as tar:
        tar.extractall(part, filter="data")
    packed.unlink()


# ---- small things --------------------------------------------------------------------------------------------------


def _ray() -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise InputError("a farm needs Ray: pip install 'midframe[farm]'") from error
    module: ModuleType = ray
    return module


def _home(farm: Farm) -> Path:
    """Where the head keeps copies of sources and journals of targets that lie behind URLs."""
    if farm.work is not None and not storage.is_url(farm.work):
        home = Path(farm.work)
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MediaError(f"the work folder '{home}' cannot be made: {error.strerror}") from error
        return home
    return _cache()


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    home = Path(base) / "midframe" / "farm"
    home.mkdir(parents=True, exist_ok=True)
    return home


def _mark(text: str) -> str:
    """A short name for a URL, or for any text."""
    import hashlib

    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]


def _forget(part: Path | None) -> None:
    if part is not None:
        part.unlink(missing_ok=True)
