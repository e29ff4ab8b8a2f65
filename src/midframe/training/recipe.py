"""The recipe of a training run, and its learning rate."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from midframe.errors import DeviceError, InputError
from midframe.models.midnet.architecture import SIZES

WARM_UP = 200  # steps
LAST_RATE_SHARE = 0.02  # of the learning rate, at the end of the cosine


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on."""

    out: Path
    model: str = "midnet-m"
    photos: tuple[Path, ...] = ()  # folders of textures; procedural ones if none
    clips: tuple[Path, ...] = ()  # folders of videos; rendered scenes only if none
    start: Path | None = None  # weights to begin with; of fewer hypotheses, too
    motion: Path | None = None  # weights of the learned motion, for models that have it; those of `start` if None
    steps: int | None = None  # length of the run, for the schedule; None: as many as `minutes` allow
    minutes: float | None = None  # of training in all, over every resumption
    batch: int = 16  # samples, per process
    size: int = 192  # pixels; side of a crop
    rate: float = 2e-3  # highest learning rate
    clip_share: float = 0.4  # of the samples, if there are clips
    reuse: float = 5.0  # times each rendered sample is used, cropped anew
    workers: int = 1  # processes that render, for each source
    gpu_render: bool = False  # render scenes in batches on the GPU that trains
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    evaluate: Path | None = None  # folder of triplets, evaluated every `evaluate_minutes`
    evaluate_minutes: float = 10.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: one is not possible.
            DeviceError: there is no GPU to render on.
        """
        if self.model not in SIZES:
            raise InputError(f"train: {self.model!r} cannot be trained; {', '.join(SIZES)} can")
        if self.steps is None and self.minutes is None:
            raise InputError("train: give steps or minutes")
        if self.gpu_render and not torch.cuda.is_available():
            raise DeviceError("train: there is no GPU to render on; leave --gpu-render out")
        if self.size % 32 or self.size < 64:
            raise InputError(f"train: crops of {self.size} px; a multiple of 32, 64 or more, is needed")
        for name in ("batch", "rate", "reuse"):
            if (value := getattr(self, name)) <= 0:
                raise InputError(f"train: {name} {value} must be above 0")

    @property
    def start_file(self) -> Path | None:
        """The file of `start`, which may be a folder with weights of `model`."""
        if self.start is not None and self.start.is_dir():
            return self.start / f"{self.model}.safetensors"
        return self.start

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the model card."""
        return json.loads(json.dumps(asdict(self), default=str))  # type: ignore[no-any-return]

    def progress(self, step: int, seconds: float) -> float:
        """How far the run is, 1 at its end."""
        by_steps = step / self.steps if self.steps else 0.0
        by_time = seconds / (self.minutes * 60.0) if self.minutes else 0.0
        return max(by_steps, by_time)


def learning_rate(highest: float, step: int, progress: float, warm_up: int = WARM_UP) -> float:
    """Linear warm-up over `warm_up` steps, then a cosine over the progress 0..1 of the run down to a low tail."""
    warm = min(1.0, (step + 1) / warm_up)
    return (
        highest
        * warm
        * (LAST_RATE_SHARE + (1.0 - LAST_RATE_SHARE) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0))))
    )
