"""The worker process: makes one segment of a plan and yields messages for the coordinator."""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from midframe import pipeline, segments, storage
from midframe.cluster.config import cache_folder
from midframe.cluster.resources import import_ray
from midframe.cluster.transfer import SegmentTask, pack, source_mark
from midframe.engine import Engine
from midframe.errors import DeviceError, MediaError, WeightsError
from midframe.journal import Journal
from midframe.options import Options
from midframe.plan import Plan
from midframe.result import Progress

_engines: dict[str, Engine] = {}  # one per process, which Ray uses for many tasks


def make_segment(task: SegmentTask, number: int) -> Iterator[dict[str, Any]]:
    """Make one segment and yield messages for the coordinator. Runs in a worker process."""
    import torch

    torch.set_num_threads(task.threads)
    yield {"kind": "began", "node": node_id()}
    try:
        source = locate_source(task)
        engine_for(task.plan.options)
    except (MediaError, WeightsError, DeviceError) as error:
        yield {"kind": "ineligible", "error": error}
        return
    shared = (Path(task.folder) / task.token).is_file()
    with contextlib.ExitStack() as stack:
        if shared:
            work = Path(task.folder) / f"{number:05d}.{secrets.token_hex(6)}.part"
            work.mkdir()
        else:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="midframe-")))
        try:
            plan = replace(
                task.plan,
                segments=(task.plan.segments[number],),
                source=str(source),
                target=work / task.plan.target.name,
            )
            journal = stack.enter_context(Journal(plan.target))
            yield from _run_in_thread(plan, journal, task.progress_frames)
            record = segments.segment_record(journal, 0)
        except DeviceError as error:  # out of memory after every fallback; another GPU may have more
            shutil.rmtree(work, ignore_errors=True)
            yield {"kind": "ineligible", "error": error}
            return
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        done = {"kind": "done", "record": record, "packed": False}
        if record["file"] is None:
            yield {**done, "where": "nowhere"}
            if shared:
                shutil.rmtree(work, ignore_errors=True)
            return
        path = journal.folder / record["file"]
        if shared:
            yield {**done, "where": "folder", "path": str(path)}  # the coordinator moves it and cleans up
            return
        packed = path.is_dir()  # an image sequence
        if packed:
            path = pack(path)
        if task.work is not None:
            url = storage.name_in(task.work, f"segments/{number:05d}-{secrets.token_hex(6)}{path.suffix}")
            storage.store(path, url if storage.is_url(url) else Path(url).resolve().as_uri())
            url = url if storage.is_url(url) else Path(url).resolve().as_uri()
            yield {**done, "where": "url", "path": url, "packed": packed}
            return
        with open(path, "rb") as file:
            while data := file.read(storage.CHUNK_BYTES):
                yield {"kind": "chunk", "data": data}
        yield {**done, "where": "chunks", "packed": packed}


def _run_in_thread(plan: Plan, journal: Journal, progress_frames: int) -> Iterator[dict[str, Any]]:
    """Make the plan's only segment in a thread and yield progress; closing the generator stops the thread."""
    messages: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue()
    cancel = threading.Event()

    def on_progress(progress: Progress) -> None:
        if progress.frames % progress_frames == 0:
            messages.put({"kind": "frames", "frames": progress.frames, "pts": str(progress.pts)})

    def work() -> None:
        try:
            run = pipeline.Run(
                segments.enter(journal, plan), journal, engine_for(plan.options), on_progress, cancel, threading.Event()
            )
            run.make()
            messages.put(None)
        except BaseException as error:
            messages.put(error)

    thread = threading.Thread(target=work, name="midframe-segment", daemon=True)
    thread.start()
    try:
        while True:
            message = messages.get()
            if message is None:
                return
            if isinstance(message, BaseException):
                raise message
            yield message
    finally:
        cancel.set()
        thread.join()


def engine_for(options: Options) -> Engine:
    """Return the engine of this process for these options, kept because loading costs more than a short segment."""
    key = repr((options.model, options.weights, options.device, options.precision, options.tile, options.flow_scale,
                options.runtime, options.scene_fill, options.static, options.mask))  # fmt: skip
    if key not in _engines:
        _engines.clear()
        _engines[key] = pipeline.make_engine(options)
    return _engines[key]


def node_id() -> str:
    """Return Ray's id of the node that this process runs on."""
    ray = import_ray()
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""


def locate_source(task: SegmentTask) -> Path:
    """Return the path of the source on this node.

    Raises:
        MediaError: the file is missing here, or differs from the coordinator's.
    """
    if storage.is_url(task.source):
        home = Path(task.work) if task.work is not None and not storage.is_url(task.work) else cache_folder()
        return storage.fetch(task.source, home / "sources")
    path = Path(task.source)
    if source_mark(path) != task.mark:
        raise MediaError(
            f"a worker on {os.uname().nodename} does not see '{path}' as the coordinator does; put it into a "
            "shared folder, or give a URL that all can read"
        )
    return path
