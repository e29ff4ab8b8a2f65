"""A cluster makes the frames of a run on one machine, whatever happens to its workers. Runs a two-node Ray here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest
import torch

import clips
from clips import Clip
from commands import Call
from midframe import pipeline, storage
from midframe.errors import DeviceError, InputError, Interrupted, JobError, MediaError
from midframe.journal import folder_of
from midframe.plan import Plan
from test_rife import SMALL, state_of

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

from midframe import cluster, plan  # noqa: E402
from midframe.cluster import ClusterConfig, coordinator, transfer, worker  # noqa: E402
from midframe.cluster.local_processes import end_orphans  # noqa: E402
from midframe.cluster.resources import ClusterResources  # noqa: E402
from midframe.cluster.scheduler import SegmentScheduler  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("ray")]

OPTIONS: dict[str, Any] = {"fps": "60", "model": "blend", "device": "cpu", "codec": "ffv1"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two nodes of one core each, this process connected."""
    started = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 120 << 20}
    )
    started.add_node(num_cpus=1, object_store_memory=120 << 20)
    ray.init(address=started.address, logging_level="ERROR", log_to_driver=False)
    yield started
    ray.shutdown()
    started.shutdown()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds at 24 with audio."""
    return clips.make(tmp_path_factory.mktemp("video") / "video.mkv", Clip(frames=96, audio=1))


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SEGMENT_OUTPUTS", 30)


def hashes(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [hash(b"".join(bytes(plane) for plane in frame.planes)) for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def truth(video: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """Hashes of the frames that one machine makes."""
    done = pipeline.interpolate(video, tmp_path_factory.mktemp("truth") / "out.mkv", **OPTIONS)
    return hashes(done.path)


def test_two_nodes_make_the_same_video(nodes: Any, video: Path, truth: list[int], tmp_path: Path) -> None:
    told: list[int] = []
    plans: list[Plan] = []
    result = cluster.interpolate(
        video,
        tmp_path / "out.mkv",
        config=ClusterConfig(workers=2),
        on_plan=plans.append,
        on_progress=lambda p: told.append(p.frames),
        **OPTIONS,
    )
    assert len(plans[0].segments) > 3
    assert hashes(result.path) == truth
    assert result.frames_out == 240 == told[-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mkv", "out.mkv.json"]


def test_a_network_with_weights_of_its_own(nodes: Any, tmp_path: Path) -> None:
    torch.save(state_of(SMALL["4.6"]), tmp_path / "flownet.pkl")
    source = clips.make(tmp_path / "in.mkv", Clip(64, 48, frames=36, options={"g": "12"}))
    options = {**OPTIONS, "model": "rife", "weights": tmp_path / "flownet.pkl", "runtime": "torch", "ratio": 2}
    options.pop("fps", None)
    plans: list[Plan] = []
    result = cluster.interpolate(
        source, tmp_path / "out.mkv", config=ClusterConfig(workers=2), on_plan=plans.append, **options
    )
    assert len(plans[0].segments) > 1 and "rife" in plans[0].model
    assert hashes(result.path) == hashes(pipeline.interpolate(source, tmp_path / "one.mkv", **options).path)


def test_segments_travel_through_the_object_store_where_no_folder_is_shared(
    nodes: Any, video: Path, truth: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apart(job: Any, number: int) -> Iterator[Mapping[str, Any]]:
        from dataclasses import replace

        from midframe import storage
        from midframe.cluster import worker

        storage.CHUNK_BYTES = 2000  # several for each segment
        yield from worker.make_segment(replace(job, token="not there"), number)

    monkeypatch.setattr(worker, "make_segment", apart)
    result = cluster.interpolate(video, tmp_path / "out.mkv", config=ClusterConfig(workers=2), **OPTIONS)
    assert hashes(result.path) == truth
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mkv", "out.mkv.json"]


def test_segments_travel_through_a_work_folder(
    nodes: Any, video: Path, truth: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apart(job: Any, number: int) -> Iterator[Mapping[str, Any]]:
        from dataclasses import replace

        from midframe.cluster import worker

        yield from worker.make_segment(replace(job, token="not there"), number)

    monkeypatch.setattr(worker, "make_segment", apart)
    config = ClusterConfig(workers=2, work=(tmp_path / "work").as_uri())
    result = cluster.interpolate(video, tmp_path / "out.mkv", config=config, **OPTIONS)
    assert hashes(result.path) == truth
    assert not list((tmp_path / "work").rglob("*.mkv"))


def test_urls_for_source_work_and_target(nodes: Any, video: Path, truth: list[int], tmp_path: Path) -> None:
    target = (tmp_path / "there" / "out.mkv").as_uri()
    config = ClusterConfig(workers=2, work=str(tmp_path / "work"))
    result = cluster.interpolate(video.as_uri(), target, config=config, **OPTIONS)
    assert hashes(tmp_path / "there" / "out.mkv") == truth
    assert result.frames_out == 240
    with pytest.raises(InputError, match="exists already"):
        cluster.interpolate(video.as_uri(), target, config=config, **OPTIONS)
    assert not list((tmp_path / "work").glob("*.midframe"))


def test_workers_that_are_killed_cost_no_frame(nodes: Any, video: Path, truth: list[int], tmp_path: Path) -> None:
    kills = 0

    def on_progress(progress: Any) -> None:
        nonlocal kills
        if kills < 2 and progress.frames > 20 * kills:  # a segment that kills its workers three times is given up
            for pid in worker_pids():
                os.kill(pid, signal.SIGKILL)
            kills += 1

    result = cluster.interpolate(
        video, tmp_path / "out.mkv", config=ClusterConfig(workers=2), on_progress=on_progress, **OPTIONS
    )
    assert kills == 2
    assert hashes(result.path) == truth


def test_a_stopped_head_goes_on_alone_or_on_the_cluster(
    nodes: Any, video: Path, truth: list[int], tmp_path: Path
) -> None:
    target = tmp_path / "out.mkv"
    drain = threading.Event()

    def on_progress(progress: Any) -> None:
        if any(folder_of(target).glob("[0-9]*.json")):  # a segment is in the journal
            drain.set()

    with pytest.raises(Interrupted):
        cluster.interpolate(
            video, target, config=ClusterConfig(workers=2), on_progress=on_progress, drain=drain, **OPTIONS
        )
    assert not target.exists()
    result = cluster.interpolate(video, target, config=ClusterConfig(workers=2), **OPTIONS)
    assert result.statistics["resumed_frames"] >= 30
    assert hashes(result.path) == truth


@pytest.mark.parametrize("how", ["raises", "dies"])
def test_a_bad_segment_is_named_and_the_rest_is_kept(
    nodes: Any, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def bad(job: Any, number: int) -> Iterator[Mapping[str, Any]]:
        import os

        from midframe.cluster import worker
        from midframe.errors import MediaError

        if number == 2 and how == "raises":
            raise MediaError("a bad frame")
        if number == 2:
            os.kill(os.getpid(), 9)
        yield from worker.make_segment(job, number)

    monkeypatch.setattr(worker, "make_segment", bad)
    target = tmp_path / "out.mkv"
    plans: list[Plan] = []
    why = "a bad frame" if how == "raises" else "its worker died 3 times"
    with pytest.raises(JobError, match=rf"1 of \d+ segments failed repeatedly: segment 2 .*{why}") as error:
        cluster.interpolate(video, target, config=ClusterConfig(workers=2), on_plan=plans.append, **OPTIONS)
    assert error.value.exit_code == 1
    kept = {int(path.stem) for path in target.with_name("out.mkv.midframe").glob("[0-9]*.json")}
    assert kept == set(range(len(plans[0].segments))) - {2}
    assert not target.exists()


def test_an_option_that_no_worker_supports_ends_at_once(nodes: Any, video: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="no GPU"):
        cluster.interpolate(video, tmp_path / "out.mkv", **{**OPTIONS, "device": "cuda"})


def test_a_straggler_runs_again_elsewhere(
    nodes: Any, video: Path, truth: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = tmp_path / "began"
    began.mkdir()

    def stuck(job: Any, number: int) -> Iterator[Mapping[str, Any]]:
        import time

        from midframe.cluster import worker

        mine = began / f"{number}-{time.monotonic_ns()}"
        mine.touch()
        if number == 1 and len(list(began.glob("1-*"))) == 1:
            yield {"kind": "began", "node": ""}
            time.sleep(3600)
        yield from worker.make_segment(job, number)

    monkeypatch.setattr(worker, "make_segment", stuck)
    monkeypatch.setattr(coordinator, "SegmentScheduler", partial(SegmentScheduler, grace=0.5))
    result = cluster.interpolate(video, tmp_path / "out.mkv", config=ClusterConfig(workers=2), **OPTIONS)
    assert hashes(result.path) == truth
    assert len(list(began.glob("1-*"))) == 2


def test_a_node_that_cannot_is_left_out(
    nodes: Any, video: Path, truth: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weak = {ray.nodes()[0]["NodeID"]}

    def mixed(job: Any, number: int) -> Iterator[Mapping[str, Any]]:
        from unittest import mock

        from midframe.cluster import worker
        from midframe.errors import DeviceError

        small = DeviceError("out of memory") if worker.node_id() in weak else None
        with mock.patch.object(worker, "engine_for", side_effect=small, wraps=worker.engine_for):
            yield from worker.make_segment(job, number)

    monkeypatch.setattr(worker, "make_segment", mixed)
    result = cluster.interpolate(video, tmp_path / "out.mkv", config=ClusterConfig(), **OPTIONS)
    assert hashes(result.path) == truth
    assert "a node was excluded: out of memory" in result.warnings
    weak |= {node["NodeID"] for node in ray.nodes()}
    with pytest.raises(DeviceError, match="out of memory"):
        cluster.interpolate(video, tmp_path / "again.mkv", config=ClusterConfig(), **OPTIONS)


def test_a_worker_waits_while_the_head_is_slow(
    nodes: Any, video: Path, truth: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = tmp_path / "sent"

    def apart(job: Any, number: int) -> Iterator[Mapping[str, Any]]:
        from dataclasses import replace

        from midframe import storage
        from midframe.cluster import worker

        storage.CHUNK_BYTES = 2000
        for news in worker.make_segment(replace(job, token="not there"), number):
            if news["kind"] == "chunk":
                with open(sent, "a") as file:
                    file.write(".")
            yield news

    taken, ahead = 0, 0
    take = coordinator.Coordinator.handle_message

    def slow(head: Any, ticket: int, news: Mapping[str, Any]) -> None:
        nonlocal taken, ahead
        if news["kind"] == "chunk":
            time.sleep(0.02)
            ahead = max(ahead, sent.stat().st_size - taken)
            taken += 1
        take(head, ticket, news)

    monkeypatch.setattr(worker, "make_segment", apart)
    monkeypatch.setattr(coordinator.Coordinator, "handle_message", slow)
    result = cluster.interpolate(video, tmp_path / "out.mkv", config=ClusterConfig(workers=1), **OPTIONS)
    assert hashes(result.path) == truth
    assert taken > 20 * transfer.MAX_PENDING_CHUNKS
    assert ahead <= transfer.MAX_PENDING_CHUNKS + 2


def test_nothing_is_handed_out_that_the_disk_does_not_carry(
    nodes: Any, video: Path, truth: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, room = tmp_path / "out.mkv", coordinator.FREE_DISK_BYTES + 1
    most = 0
    usage = shutil.disk_usage

    def disk(path: Any) -> Any:
        full = len(list(target.with_name("out.mkv.midframe").glob("[0-9]*.json"))) >= limit
        return SimpleNamespace(free=0 if full else room) if limit else usage(path)

    take = coordinator.Coordinator.collect

    def watched(head: Any) -> None:
        nonlocal most
        if head.largest:
            most = max(most, len(head.running))
        take(head)

    monkeypatch.setattr(coordinator.Coordinator, "collect", watched)
    monkeypatch.setattr(coordinator.shutil, "disk_usage", disk)
    limit = 3
    with pytest.raises(MediaError, match="nearly full"):
        cluster.interpolate(video, target, config=ClusterConfig(workers=2), **OPTIONS)
    assert most == 1, "room for one segment: no second one beside it"
    limit = 0
    result = cluster.interpolate(video, target, config=ClusterConfig(workers=2), **OPTIONS)
    assert result.statistics["resumed_frames"] >= 90
    assert hashes(result.path) == truth


def share_of(
    nodes: list[dict[str, float]], config: ClusterConfig, device: str, video: Path, tmp_path: Path
) -> ClusterResources:
    alive = [{"NodeID": str(n), "Alive": True, "Resources": resources} for n, resources in enumerate(nodes)]
    made = cluster.plan_run(video, tmp_path / "out.mkv", pipeline.options_of({**OPTIONS, "device": device}))
    return ClusterResources(SimpleNamespace(nodes=lambda: alive), config, made)  # type: ignore[arg-type]


def test_a_cluster_carries_what_its_cores_cards_and_memory_carry(video: Path, tmp_path: Path) -> None:
    big, small, card = {"CPU": 16.0, "memory": 64e9}, {"CPU": 4.0, "memory": 1.1e9}, {"CPU": 8.0, "GPU": 2.0}
    every = partial(share_of, video=video, tmp_path=tmp_path)
    assert every([big, small], ClusterConfig(), "auto").parallel_tasks() == 4 + 1
    assert every([{"CPU": 16.0, "memory": 1.1e9}], ClusterConfig(), "auto").parallel_tasks() == 2, "memory for two"
    assert every([big, {**card, "memory": 64e9}], ClusterConfig(), "auto").parallel_tasks() == 2, (
        "one for each card, none without"
    )
    shared = every([{**card, "memory": 64e9}], ClusterConfig(gpus_per_worker=0.5), "cuda")
    assert (shared.parallel_tasks(), shared.cores) == (4, 2)
    assert every([{**card, "memory": 64e9}], ClusterConfig(), "cpu").parallel_tasks() == 2
    assert every([big], ClusterConfig(workers=3), "auto").parallel_tasks() == 3
    assert every([{"memory": 1e9}, big], ClusterConfig(), "auto").parallel_tasks() == 4, "a head without cores"
    only = every([big, {**card, "memory": 64e9}], ClusterConfig(), "cuda")
    only.ineligible.add("1")
    assert only.capacity() == 0, "no card is left"
    grown = every([small], ClusterConfig(), "auto")
    assert grown.parallel_tasks() == 1
    grown.ray.nodes().append({"NodeID": "new", "Alive": True, "Resources": big})
    assert grown.parallel_tasks() == 5
    grown.ineligible.add("new")
    assert grown.parallel_tasks() == 1
    with pytest.raises(DeviceError, match="no worker"):
        every([], ClusterConfig(), "auto")
    with pytest.raises(DeviceError, match="no node of the cluster has 4 cores and 2 GPUs"):
        every([{"CPU": 8.0, "GPU": 1.0, "memory": 64e9}], ClusterConfig(gpus_per_worker=2), "cuda")
    head = {"CPU": 0.0, "memory": 64e9}
    assert every([head, {"CPU": 4.0, "memory": 8e9}], ClusterConfig(), "auto").memory <= 8e9, (
        "no more than a worker has"
    )


def test_a_cluster_that_no_longer_carries_a_task_says_so(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cores that are free on a node without a card are no help for a task that wants one."""
    share = share_of([{"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0}], ClusterConfig(), "cuda", video, tmp_path)
    head = SimpleNamespace(resources=share, running={1: SimpleNamespace(began=False)}, idle_since=None)
    clock = [100.0]
    monkeypatch.setattr(coordinator.time, "monotonic", lambda: clock[0])
    coordinator.Coordinator.check_idle(head)  # type: ignore[arg-type]
    assert head.idle_since is None, "it may wait: others may hold the card"
    share.ray.nodes()[1]["Alive"] = False
    coordinator.Coordinator.check_idle(head)  # type: ignore[arg-type]
    clock[0] += coordinator.NO_WORKER_SECONDS + 1
    with pytest.raises(DeviceError, match="no worker left"):
        coordinator.Coordinator.check_idle(head)  # type: ignore[arg-type]


class InProcess:
    """As much of Ray as the head uses, without processes: a task runs when it is waited for."""

    exceptions = ray.exceptions

    def is_initialized(self) -> bool:
        return True

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "here")

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": "here", "Alive": True, "Resources": {"CPU": 2.0, "memory": 8e9}}]

    def remote(self, **options: Any) -> Any:
        def of(function: Any) -> Any:
            return SimpleNamespace(options=lambda **more: SimpleNamespace(remote=function))

        return of

    def wait(self, refs: list[Any], **how: Any) -> tuple[list[Any], list[Any]]:
        return refs[:1], refs[1:]

    def get(self, news: Any) -> Any:
        return news


def test_a_video_that_cannot_be_stored_is_joined_again_not_made_again(
    video: Path, truth: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator, "import_ray", InProcess)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real, down = storage.store, [True]

    def store(local: Path, url: str) -> None:
        if down[0]:
            raise MediaError("the bucket does not answer")
        real(local, url)

    monkeypatch.setattr(storage, "store", store)
    again = partial(cluster.interpolate, video, "memory://late/late.mkv", config=ClusterConfig(workers=2), **OPTIONS)
    with pytest.raises(MediaError, match="does not answer"):
        again()
    down[0] = False
    assert again().statistics["resumed_frames"] == 240
    assert hashes(storage.fetch("memory://late/late.mkv", tmp_path)) == truth


def test_everything_may_lie_behind_urls(
    video: Path, truth: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Source, work place and target behind `memory://`, as behind `s3://`: no folder is shared."""
    monkeypatch.setattr(coordinator, "import_ray", InProcess)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real, stored = storage.store, []
    monkeypatch.setattr(storage, "store", lambda local, url: (stored.append(url), real(local, url)))
    monkeypatch.setattr(worker, "make_segment", partial(unseen, worker.make_segment))
    real(video, "memory://videos/a.mkv")
    result = cluster.interpolate(
        "memory://videos/a.mkv",
        "memory://videos/a60.mkv",
        config=ClusterConfig(workers=2, work="memory://videos/pieces"),
        **OPTIONS,
    )
    assert result.frames_out == 240
    assert hashes(storage.fetch("memory://videos/a60.mkv", tmp_path)) == truth
    assert json.loads(storage.fetch("memory://videos/a60.mkv.json", tmp_path).read_text())["frames_out"] == 240
    assert len([url for url in stored if url.startswith("memory://videos/pieces/segments/")]) >= 4
    import fsspec

    left = fsspec.filesystem("memory").find("/videos")
    assert left == ["/videos/a.mkv", "/videos/a60.mkv", "/videos/a60.mkv.json"]
    assert [p for p in (tmp_path / "cache").rglob("*.mkv") if "sources" not in p.parts] == []


def test_images_named_by_a_pattern(nodes: Any, video: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    options = {"model": "blend", "device": "cpu", "in_fps": 24, "codec": "ffv1"}
    pipeline.interpolate(video, folder / "%04d.png", model="blend", device="cpu", ratio=1, end="2")
    one = pipeline.interpolate(folder / "%04d.png", tmp_path / "one.mkv", **options)
    split = cluster.interpolate(folder / "%04d.png", tmp_path / "split.mkv", config=ClusterConfig(workers=2), **options)
    assert hashes(split.path) == hashes(one.path)


def test_a_worker_knows_its_source_by_what_is_in_it(tmp_path: Path) -> None:
    path, other = tmp_path / "video.mkv", tmp_path / "other.mkv"
    path.write_bytes(b"the video")
    other.write_bytes(b"another!")  # of the same size
    job = SimpleNamespace(source=str(path), mark=transfer.source_mark(path), work=None)
    assert worker.locate_source(job) == path
    for wrong in (other, tmp_path / "absent.mkv", tmp_path):
        job.source = str(wrong)
        with pytest.raises(MediaError, match="does not see"):
            worker.locate_source(job)


def unseen(make: Any, job: Any, number: int) -> Iterator[Mapping[str, Any]]:
    """A worker that does not see the head's folder."""
    from dataclasses import replace

    yield from make(replace(job, token="not there"), number)


def test_the_commands_use_the_cluster(nodes: Any, video: Path, truth: list[int], tmp_path: Path, call: Call) -> None:
    arguments = ("--fps", "60", "--model", "blend", "--device", "cpu", "--ray", nodes.address, "--workers", "2")
    target = f"file://{tmp_path}/there/out.mkv"
    assert call("interpolate", video, "-o", target, "--codec", "ffv1", *arguments).code == 0
    assert hashes(tmp_path / "there" / "out.mkv") == truth
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("a.mkv", "b.mkv"):
        shutil.copy(video, videos / name)
    (videos / "bad.mkv").write_text("no video")
    done = call("batch", videos, "-o", f"file://{tmp_path}/made", "--report", tmp_path / "report.json", *arguments)
    assert done.code == 1 and "2 of 3 videos are done" in done.out
    report = json.loads((tmp_path / "report.json").read_text())
    assert {Path(entry["source"]).name: entry["state"] for entry in report} == {
        "a.mkv": "done", "b.mkv": "done", "bad.mkv": "failed"
    }  # fmt: skip
    assert [len(hashes(path)) for path in (tmp_path / "made").glob("*.mkv")] == [240, 240]
    again = call("batch", videos, "-o", f"file://{tmp_path}/made", "--report", tmp_path / "report.json", *arguments)
    assert "done: " not in again.out and "failed: " in again.out, "what is done is not made twice"


@pytest.mark.slow
def test_one_box_needs_no_cluster_and_joins_none(nodes: Any, video: Path, truth: list[int], tmp_path: Path) -> None:
    arguments = ("--fps", "60", "--model", "blend", "--codec", "ffv1", "--device", "cpu,cpu")
    words = [sys.executable, "-m", "midframe", "interpolate", str(video), "-o", str(tmp_path / "out.mkv"), *arguments]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert hashes(tmp_path / "out.mkv") == truth
    assert json.loads((tmp_path / "out.mkv.json").read_text())["statistics"]["workers"] == 2


def test_the_web_server_hands_its_jobs_to_the_cluster(
    nodes: Any, video: Path, truth: list[int], tmp_path: Path
) -> None:
    from midframe.cli.serve import on_cluster
    from midframe.server import job_runner
    from midframe.server.backend import Task

    options = {"model": "blend", "fps": "60", "codec": "ffv1", "container": "mkv"}
    told: list[Any] = []
    outcome = job_runner.run_job(
        Task("0" * 16, "full", str(video), str(tmp_path), options, None, "auto"),
        lambda *step: told.append(step),
        threading.Event(),
        make=on_cluster(nodes.address, 2),
    )
    assert hashes(tmp_path / outcome["result"]) == truth
    assert told[-1][0].frames == 240
    assert json.loads((tmp_path / outcome["report"]).read_text())["statistics"]["workers"] == 2


def test_options_of_a_cluster_are_checked() -> None:
    with pytest.raises(InputError, match="--workers 0"):
        ClusterConfig(workers=0)
    with pytest.raises(InputError, match="--gpus-per-worker"):
        ClusterConfig(gpus_per_worker=0)
    with pytest.raises(InputError, match="not both"):
        ClusterConfig(devices=("cpu", "cuda:0"))


def test_storage_round_trip(tmp_path: Path) -> None:
    local = tmp_path / "a.bin"
    local.write_bytes(b"x" * 1000)
    storage.store(local, "memory://bucket/deep/a.bin")
    assert storage.exists("memory://bucket/deep/a.bin")
    copy = storage.fetch("memory://bucket/deep/a.bin", tmp_path / "copies")
    assert copy.read_bytes() == local.read_bytes()
    assert storage.fetch("memory://bucket/deep/a.bin", tmp_path / "copies") == copy
    storage.remove("memory://bucket/deep/a.bin")
    assert not storage.exists("memory://bucket/deep/a.bin")
    assert storage.is_url("s3://b/k") and not storage.is_url("C:\\video.mkv") and not storage.is_url("a/b:c.mkv")


def worker_pids() -> list[int]:
    """Processes that make segments now: Ray names them after their task."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::make_segment"):
                found.append(int(entry.name))
    return found


def test_cost_counts_outputs(video: Path, tmp_path: Path) -> None:
    made = cluster.plan_run(video, tmp_path / "out.mkv", pipeline.options_of(dict(OPTIONS)))
    assert sum(coordinator.cost(made, n) for n in range(len(made.segments))) == pytest.approx(
        float(4 * Fraction(60)), abs=2
    )


def test_a_plain_run_and_a_cluster_resume_each_other(
    video: Path, truth: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the device left open: a plain run names the one it chose, and so does a cluster."""
    monkeypatch.setattr(coordinator, "import_ray", InProcess)
    options = {name: value for name, value in OPTIONS.items() if name != "device"}
    on_cluster = partial(cluster.interpolate, config=ClusterConfig(workers=1))
    for number, (first, second) in enumerate(((on_cluster, pipeline.interpolate), (pipeline.interpolate, on_cluster))):
        target = tmp_path / f"{number}.mkv"
        drain = threading.Event()

        def stop_after_a_segment(progress: Any, target: Path = target, drain: threading.Event = drain) -> None:
            if any(folder_of(target).glob("[0-9]*.json")):
                drain.set()

        with pytest.raises(Interrupted):
            first(video, target, on_progress=stop_after_a_segment, drain=drain, **options)
        result = second(video, target, **options)
        assert result.statistics["resumed_frames"] >= 30
        assert hashes(result.path) == truth


def test_processes_left_by_a_killed_run_are_ended_at_the_next_start(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time; from pathlib import Path\n"
        "from midframe.cluster.local_processes import recorded\n"
        "subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "with recorded(Path(sys.argv[1])):\n    print('ready', flush=True); time.sleep(600)\n"
    )
    owner = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    (record,) = tmp_path.glob("*.json")
    (left,) = (int(pid) for pid in json.loads(record.read_text())["started"])
    assert end_orphans(tmp_path) == [], "its owner lives"
    owner.kill()
    owner.wait()
    owner.stdout.close()
    other = record.read_text().replace(f'"{left}"', f'"{os.getpid()}"')  # a number that another process has got
    (tmp_path / "1.json").write_text(other)
    (tmp_path / "2.json").write_text("cut o")
    assert end_orphans(tmp_path) == [left]
    assert not list(tmp_path.glob("*.json"))
    for _ in range(500):
        if not Path(f"/proc/{left}").exists() or ") Z " in Path(f"/proc/{left}/stat").read_text():
            break
        time.sleep(0.02)
    else:
        pytest.fail("it still runs")
