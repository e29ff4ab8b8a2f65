"""Connection to a Ray cluster, and how many segments its nodes can process in parallel."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from midframe.cluster.config import ClusterConfig, cache_folder
from midframe.cluster.local_processes import end_orphans, recorded
from midframe.errors import DeviceError, InputError
from midframe.extras import install_command
from midframe.plan import Plan

CORES_PER_WORKER = 4  # convolutions on a CPU gain little from more
# Memory of a worker: torch, Ray and libav, plus a share for every pixel of a frame. A run with dis takes 447 MB at
# 540p and 763 MB at 1080p (benchmarks/memory.py); a worker takes a fifth more, for Ray's own part.
WORKER_BYTES = 500 << 20
BYTES_PER_PIXEL = 320


@contextlib.contextmanager
def connected(ray: ModuleType, config: ClusterConfig) -> Iterator[None]:
    """Connect to the cluster for the time of a `with` block; an existing connection is left open.

    Raises:
        DeviceError: no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    with contextlib.ExitStack() as stack:
        try:
            if config.devices or config.address == "local":
                stack.enter_context(_local_cluster(ray, config))
            else:
                ray.init(address=config.address, logging_level="ERROR", log_to_driver=False)
                stack.callback(ray.shutdown)
        except ConnectionError as error:
            if config.address != "auto":
                raise DeviceError(f"no Ray cluster answers at '{config.address}': {error}") from error
            stack.enter_context(_local_cluster(ray, config))
        yield


@contextlib.contextmanager
def _local_cluster(ray: ModuleType, config: ClusterConfig) -> Iterator[None]:
    """Start a cluster on this machine. Without address="local" Ray would join one that already runs here."""
    records = cache_folder() / "processes"
    end_orphans(records)
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False, "include_dashboard": False}
    if config.devices:
        cuda = [device.split(":")[1] for device in config.devices if device != "cpu"]
        if cuda:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(cuda)
        options.update(num_cpus=max(os.cpu_count() or 1, len(config.devices)), num_gpus=len(cuda))
    ray.init(address="local", **options)
    try:
        with recorded(records):
            yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def session(config: ClusterConfig) -> Iterator[None]:
    """Share one connection between several `interpolate` calls, whose workers then keep their models loaded."""
    with connected(import_ray(), config):
        yield


class ClusterResources:
    """Cores, GPUs and memory of one task, and the number of tasks that the nodes can run in parallel.

    Raises:
        DeviceError: the cluster has no worker, or none with the requested device.
    """

    def __init__(self, ray: ModuleType, config: ClusterConfig, plan: Plan) -> None:
        self.ray, self.config = ray, config
        self.ineligible: set[str] = set()  # nodes that cannot process this video
        nodes = self.nodes()
        cores = [node.get("CPU", 0.0) for node in nodes.values()]
        cards = [node for node in nodes.values() if node.get("GPU")]
        device = plan.options.device
        self.gpus = 0.0
        if config.devices:
            self.cores = max(1.0, sum(cores) // len(config.devices))
            self.gpus = float(config.devices[0] != "cpu")
        elif cards and device != "cpu":
            self.gpus = config.gpus_per_worker
            shares = [node.get("CPU", 0.0) // max(1, int(node["GPU"] / self.gpus)) for node in cards]
            self.cores = max(1.0, min(CORES_PER_WORKER, *shares))
        elif device.startswith("cuda"):
            raise DeviceError("the cluster has no GPU; add --device cpu, or start its nodes with --num-gpus")
        elif not any(cores):
            raise DeviceError("the cluster has no worker; start nodes with: ray start --address=HEAD:6379")
        elif config.workers is not None:  # a task runs on one node
            self.cores = max(1.0, min(max(cores), sum(cores) // config.workers))
        else:
            self.cores = max(1.0, min(CORES_PER_WORKER, *(core for core in cores if core)))
        wanted = WORKER_BYTES + BYTES_PER_PIXEL * plan.info.width * plan.info.height
        able = [n for n in nodes.values() if n.get("CPU", 0.0) >= self.cores and n.get("GPU", 0.0) >= self.gpus]
        if not able:
            raise DeviceError(
                f"no node of the cluster has {self.cores:g} cores and {self.gpus:g} GPUs for one worker; "
                "lower --gpus-per-worker, or add --device cpu"
            )
        largest = max(node.get("memory", 0.0) for node in able)
        self.memory = min(float(wanted), largest)  # a smaller node may still try

    @property
    def device(self) -> str:
        """Device that a plain run would name for the same work, so that either resumes the other's journal."""
        return "cuda:0" if self.gpus else "cpu"

    def nodes(self) -> dict[str, dict[str, float]]:
        """Resources of the live, eligible nodes by Ray's node id."""
        return {
            node["NodeID"]: node["Resources"]
            for node in self.ray.nodes()
            if node["Alive"] and node["NodeID"] not in self.ineligible
        }

    def parallel_tasks(self) -> int:
        """Number of tasks to run in parallel: the configured number, else what the nodes have room for now."""
        if self.config.devices:
            return len(self.config.devices)
        if self.config.workers is not None:
            return self.config.workers
        return max(1, self.capacity())

    def capacity(self) -> int:
        """Number of tasks for which eligible nodes have cores, GPUs and memory."""
        each = {"CPU": self.cores, "GPU": self.gpus, "memory": self.memory}
        return sum(
            min(int(node.get(kind, 0.0) / part) for kind, part in each.items() if part > 0)
            for node in self.nodes().values()
        )

    def strategy(self) -> Any:
        """Ray scheduling strategy that avoids ineligible nodes."""
        if not self.ineligible:
            return "DEFAULT"
        from ray.util.scheduling_strategies import NodeLabelSchedulingStrategy, NotIn

        return NodeLabelSchedulingStrategy(hard={"ray.io/node-id": NotIn(*self.ineligible)})  # type: ignore[no-untyped-call]


def import_ray() -> ModuleType:
    """Import Ray, or raise InputError with the command that installs it."""
    try:
        import ray
    except ImportError as error:
        raise InputError(f"a cluster needs Ray: {install_command('cluster')}") from error
    module: ModuleType = ray
    return module
