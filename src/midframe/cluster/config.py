"""Where the workers of a cluster run, and how many of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from midframe.errors import InputError


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Address and size of a cluster, checked on construction."""

    address: str = "auto"  # "auto": the cluster running on this machine, else a new one; "local"; "host:port"; "ray://"
    workers: int | None = None  # segments in parallel; None: as many as CPUs, GPUs and memory allow
    gpus_per_worker: float = 1.0  # 0.5: two workers share one
    devices: tuple[str, ...] = ()  # of this machine, one worker each, in a new cluster: ("cuda:0", "cuda:1")
    work: str | None = None  # folder or URL that coordinator and workers see, for sources, segments and journals

    def __post_init__(self) -> None:
        """Refuse invalid values. Raises InputError."""
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers {self.workers} is not allowed; give 1 or more")
        if not 0 < self.gpus_per_worker <= 8:
            raise InputError(f"--gpus-per-worker {self.gpus_per_worker:g} is not within 0 to 8; 0.5 lets two share one")
        listed = ",".join(self.devices)
        for device in self.devices:
            if not (device == "cpu" or device.startswith("cuda:")):
                raise InputError(f"--device {listed}: a list may hold cpu and cuda:N, not {device}")
        if len({device.split(":")[0] for device in self.devices}) > 1:
            raise InputError(f"--device {listed}: give only cpu or only cuda:N, not both")


def cache_folder() -> Path:
    """Per-user cache folder of cluster runs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    home = Path(base) / "midframe" / "cluster"
    home.mkdir(parents=True, exist_ok=True)
    return home
