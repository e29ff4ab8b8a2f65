"""Twenty kills at random moments, of a worker, a node or the head: the video is the one of a single machine each time.

The head runs in a process of its own; nodes and workers are killed from here with SIGKILL.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

import clips
from clips import Clip
from midframe import pipeline
from midframe.journal import folder_of
from midframe.video.probe import probe

cluster_utils = pytest.importorskip("ray.cluster_utils")

from test_cluster import hashes, worker_pids  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("ray")]

OPTIONS: dict[str, Any] = {"fps": "60", "model": "blend", "device": "cpu", "codec": "ffv1"}
FRAMES = 480  # of the source, at 24 a second
SEGMENT_OUTPUTS = 60
PATIENCE_SECONDS = 300  # with a head, which then says where it hangs
KINDS = ("worker", "node", "head")

HEAD = f"""
import faulthandler, sys
from midframe import cluster, plan
faulthandler.enable()
plan.SEGMENT_OUTPUTS = {SEGMENT_OUTPUTS}
source, target, address = sys.argv[1:]
result = cluster.interpolate(
    source, target, config=cluster.ClusterConfig(address=address, workers=2),
    on_progress=lambda p: print("frames", p.frames, p.stage, flush=True), **{OPTIONS!r},
)
print("resumed", int(result.statistics["resumed_frames"]), flush=True)
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head node that makes no frames, and two that do, of one core each."""
    store = 120 << 20
    made = cluster_utils.Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": store,
            # a dead node is known after two seconds instead of half a minute
            "_system_config": {"health_check_period_ms": 500, "health_check_failure_threshold": 4},
        },
    )
    made.add_node(num_cpus=1, object_store_memory=store)
    made.add_node(num_cpus=1, object_store_memory=store)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds with audio."""
    return clips.make(tmp_path_factory.mktemp("video") / "video.mkv", Clip(320, 180, frames=FRAMES, audio=1))


@pytest.fixture(scope="module")
def truth(video: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """Hashes of the frames that one machine makes."""
    return hashes(pipeline.interpolate(video, tmp_path_factory.mktemp("truth") / "out.mkv", **OPTIONS).path)


class Head:
    """A run in a process of its own."""

    def __init__(self, video: Path, target: Path, address: str) -> None:
        words = [sys.executable, "-W", "ignore", "-c", HEAD, str(video), str(target), address]
        with open(target.parent.parent / f"{target.parent.name}.log", "a") as log:
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
        self.resumed = 0
        self._watch = threading.Timer(PATIENCE_SECONDS, self.process.send_signal, [signal.SIGABRT])
        self._watch.start()

    def until(self, frames: int) -> None:
        """Follow the run until it has made so many frames, or has begun to join them."""
        for line in self._lines():
            if line[0] == "frames" and (int(line[1]) >= frames or line[2] == "joining"):
                return

    def end(self) -> int:
        """Follow it to its end; the exit code."""
        for line in self._lines():
            if line[0] == "resumed":
                self.resumed = int(line[1])
        self._watch.cancel()
        return self.process.wait(60)

    def kill(self) -> None:
        self._watch.cancel()
        self.process.kill()
        self.process.wait(60)

    def _lines(self) -> Iterator[list[str]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if words := line.split():
                yield words


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_killed_the_video_is_whole(
    nodes: Any, video: Path, truth: list[int], tmp_path: Path, seed: int
) -> None:
    dice, kind, target = random.Random(seed), KINDS[seed % 3], tmp_path / "out.mkv"
    total = FRAMES * 60 // 24
    head = Head(video, target, nodes.address)
    head.until(dice.randrange(total))
    time.sleep(dice.random() / 4)  # between two words of progress, or while joining
    if kind == "worker":
        for _ in range(100):  # there is none for a moment between two segments
            if pids := worker_pids():
                os.kill(dice.choice(pids), signal.SIGKILL)
                break
            time.sleep(0.02)
    elif kind == "node":
        nodes.remove_node(dice.choice(sorted(nodes.worker_nodes, key=str)), allow_graceful=False)
        nodes.add_node(num_cpus=1, object_store_memory=120 << 20)
    else:
        head.kill()
        kept = len(list(folder_of(target).glob("[0-9]*.json")))
        if not target.exists():  # or it was killed behind its last breath
            head = Head(video, target, nodes.address)
            assert head.end() == 0
            assert head.resumed >= kept * SEGMENT_OUTPUTS
    if kind != "head":
        assert head.end() == 0
    assert hashes(target) == truth
    assert instants(target) == [Fraction(n, 60) for n in range(total)]
    assert probe(target).streams[1].kind == "audio"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mkv", "out.mkv.json"]


def instants(path: Path) -> list[Fraction]:
    """When each frame is shown, in seconds; Matroska's milliseconds go back to sixtieths."""
    with av.open(str(path)) as container:
        stamps = [Fraction(frame.pts) * frame.time_base for frame in container.decode(video=0)]
    return [Fraction(round(stamp * 60), 60) for stamp in stamps]
