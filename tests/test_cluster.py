"""A farm makes the film that one machine makes, whatever happens to its workers. Runs a two-node Ray here."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

import clips
from clips import Clip
from midframe import pipeline, storage
from midframe.errors import InputError, Interrupted, JobError
from midframe.plan import Plan

ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

from midframe import cluster, plan  # noqa: E402
from midframe.cluster import Farm  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("ray")]

WISHES: dict[str, Any] = {"fps": "60", "model": "blend", "device": "cpu", "codec": "ffv1"}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two nodes of one core each, this process connected."""
    farm = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 120 << 20})
    farm.add_node(num_cpus=1, object_store_memory=120 << 20)
    ray.init(address=farm.address, logging_level="ERROR", log_to_driver=False)
    yield farm
    ray.shutdown()
    farm.shutdown()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds at 24 with sound."""
    return clips.make(tmp_path_factory.mktemp("film") / "film.mkv", Clip(frames=96, sounds=1))


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SEGMENT_OUTPUTS", 30)


def hashes(path: Path) -> list[int]:
    with av.open(str(path)) as film:
        return [hash(frame.to_ndarray().tobytes()) for frame in film.decode(video=0)]


@pytest.fixture(scope="module")
def truth(film: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """Hashes of the pictures that one machine makes."""
    done = pipeline.interpolate(film, tmp_path_factory.mktemp("truth") / "out.mkv", **WISHES)
    return hashes(done.path)


def test_two_nodes_make_the_same_film(nodes: Any, film: Path, truth: list[int], tmp_path: Path) -> None:
    told: list[int] = []
    plans: list[Plan] = []
    result = cluster.interpolate(
        film,
        tmp_path / "out.mkv",
        farm=Farm(workers=2),
        on_plan=plans.append,
        on_progress=lambda p: told.append(p.frames),
        **WISHES,
    )
    assert len(plans[0].segments) > 3
    assert hashes(result.path) == truth
    assert result.frames_out == 240 == told[-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mkv", "out.mkv.json"]


def test_segments_travel_through_the_object_store_where_no_folder_is_shared(
    nodes: Any, film: Path, truth: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apart(job: Any, number: int) -> Iterator[Mapping[str, Any]]:
        from dataclasses import replace

        from midframe import cluster

        cluster.CHUNK_BYTES = 2000  # several for each segment
        yield from cluster._make_segment(replace(job, token="not there"), number)

    monkeypatch.setattr(cluster, "_make_segment", apart)
    result = cluster.interpolate(film, tmp_path / "out.mkv", farm=Farm(workers=2), **WISHES)
    assert hashes(result.path) == truth
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mkv", "out.mkv.json"]


def test_segments_travel_through_a_work_folder(
    nodes: Any, film: Path, truth: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apart(job: Any, number: int) -> Iterator[Mapping[str, Any]]:
        from dataclasses import replace

        from midframe import cluster

        yield from cluster._make_segment(replace(job, token="not there"), number)

    monkeypatch.setattr(cluster, "_make_segment", apart)
    farm = Farm(workers=2, work=(tmp_path / "work").as_uri())
    result = cluster.interpolate(film, tmp_path / "out.mkv", farm=farm, **WISHES)
    assert hashes(result.path) == truth
    assert not list((tmp_path / "work").rglob("*.mkv"))


def test_urls_for_source_work_and_target(nodes: Any, film: Path, truth: list[int], tmp_path: Path) -> None:
    target = (tmp_path / "there" / "out.mkv").as_uri()
    farm = Farm(workers=2, work=str(tmp_path / "work"))
    result = cluster.interpolate(film.as_uri(), target, farm=farm, **WISHES)
    assert hashes(tmp_path / "there" / "out.mkv") == truth
    assert result.frames_out == 240
    with pytest.raises(InputError, match="exists already"):
        cluster.interpolate(film.as_uri(), target, farm=farm, **WISHES)
    assert not list((tmp_path / "work").glob("*.midframe"))


def test_workers_that_are_killed_cost_no_frame(nodes: Any, film: Path, truth: list[int], tmp_path: Path) -> None:
    kills = 0

    def on_progress(progress: Any) -> None:
        nonlocal kills
        if kills < 4 and progress.frames > 20 * kills:
            for pid in worker_pids():
                os.kill(pid, signal.SIGKILL)
            kills += 1

    result = cluster.interpolate(film, tmp_path / "out.mkv", farm=Farm(workers=2), on_progress=on_progress, **WISHES)
    assert kills == 4
    assert hashes(result.path) == truth


def test_a_stopped_head_goes_on_alone_or_with_the_farm(
    nodes: Any, film: Path, truth: list[int], tmp_path: Path
) -> None:
    target = tmp_path / "out.mkv"
    drain = threading.Event()

    def on_progress(progress: Any) -> None:
        if progress.frames > 60:
            drain.set()

    with pytest.raises(Interrupted):
        cluster.interpolate(film, target, farm=Farm(workers=2), on_progress=on_progress, drain=drain, **WISHES)
    assert not target.exists()
    result = cluster.interpolate(film, target, farm=Farm(workers=2), **WISHES)
    assert result.statistics["resumed_frames"] >= 30
    assert hashes(result.path) == truth


@pytest.mark.parametrize("how", ["raises", "dies"])
def test_a_poisoned_segment_is_named_and_the_rest_is_kept(
    nodes: Any, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def poisoned(job: Any, number: int) -> Iterator[Mapping[str, Any]]:
        import os

        from midframe import cluster
        from midframe.errors import MediaError

        if number == 2 and how == "raises":
            raise MediaError("a bad picture")
        if number == 2:
            os.kill(os.getpid(), 9)
        yield from cluster._make_segment(job, number)

    monkeypatch.setattr(cluster, "_make_segment", poisoned)
    target = tmp_path / "out.mkv"
    plans: list[Plan] = []
    why = "a bad picture" if how == "raises" else "its worker died 3 times"
    with pytest.raises(JobError, match=rf"1 of \d+ segments failed again and again: segment 2 .*{why}"):
        cluster.interpolate(film, target, farm=Farm(workers=2), on_plan=plans.append, **WISHES)
    kept = {int(path.stem) for path in target.with_name("out.mkv.midframe").glob("[0-9]*.json")}
    assert kept == set(range(len(plans[0].segments))) - {2}
    assert not target.exists()


def test_a_wish_that_no_worker_can_fulfil_ends_at_once(nodes: Any, film: Path, tmp_path: Path) -> None:
    from midframe.errors import DeviceError

    with pytest.raises(DeviceError, match="no GPU"):
        cluster.interpolate(film, tmp_path / "out.mkv", **{**WISHES, "device": "cuda"})


def test_wishes_for_a_farm_are_checked() -> None:
    with pytest.raises(InputError, match="--workers 0"):
        Farm(workers=0)
    with pytest.raises(InputError, match="--gpus-per-worker"):
        Farm(gpus_per_worker=0)
    with pytest.raises(InputError, match="not both"):
        Farm(devices=("cpu", "cuda:0"))


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
    assert storage.is_url("s3://b/k") and not storage.is_url("C:\\film.mkv") and not storage.is_url("a/b:c.mkv")


def worker_pids() -> list[int]:
    """Processes that make segments now: Ray names them after their task."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::_make_segment"):
                found.append(int(entry.name))
    return found


def test_cost_counts_outputs(film: Path, tmp_path: Path) -> None:
    made = cluster.plan_run(film, tmp_path / "out.mkv", pipeline.options_of(dict(WISHES)))
    assert sum(cluster.cost(made, n) for n in range(len(made.segments))) == pytest.approx(
        float(4 * Fraction(60)), abs=2
    )
