"""The log of a training run: a line of JSON every 50 steps, curves as PNG, TensorBoard events if it is installed."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midframe.extras import install_command
from midframe.training.curves import draw_curves

log = logging.getLogger(__name__)


class RunLog:
    """Collects the values of steps, and writes their means."""

    EVERY = 50  # steps

    def __init__(self, folder: Path, writes: bool) -> None:
        """Log to a folder.

        Args:
            folder: of the run.
            writes: False for all processes but the first.
        """
        self.path, self.writes = folder / "log.jsonl", writes
        self.values: dict[str, list[Tensor]] = {}
        self.since = time.monotonic()
        self.events: Any = None
        if writes:
            try:
                from torch.utils.tensorboard import SummaryWriter

                self.events = SummaryWriter(str(folder / "events"))
            except ImportError:
                log.info("no TensorBoard events: %s", install_command("train"))

    def add(self, step: int, values: dict[str, Tensor], rate: float, progress: float) -> str | None:
        """Add the values of a step; every `EVERY` steps return a line with their means."""
        for name, value in values.items():
            self.values.setdefault(name, []).append(value.detach())  # read later: reading makes a GPU wait
        if step % self.EVERY:
            return None
        means = {name: float(torch.stack(noted).mean()) for name, noted in self.values.items()}
        seconds = (time.monotonic() - self.since) / max(len(self.values["loss"]), 1)
        self.values, self.since = {}, time.monotonic()
        self.write(step, {**means, "rate": rate, "seconds": seconds, "progress": progress})
        timing = f"step {step} ({progress:.1%}, {seconds:.2f} s each)"
        return f"{timing} loss {means['loss']:.4f} psnr {means['psnr']:.2f}"

    def write(self, step: int, values: dict[str, float]) -> None:
        """Write values."""
        if not self.writes:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **{name: round(value, 6) for name, value in values.items()}}) + "\n")
        if self.events is not None:
            for name, value in values.items():
                self.events.add_scalar(name, value, step)

    def draw(self) -> None:
        """Draw the curves anew."""
        if self.writes and self.path.exists():
            draw_curves(self.path, self.path.with_name("curves.png"))

    def close(self) -> None:
        """Draw the curves, close the events file."""
        self.draw()
        if self.events is not None:
            self.events.close()
