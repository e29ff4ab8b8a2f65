"""Training of the learned motion network: the matcher first, then the refiner on its flow.

A run lives in one folder: `STAGE.pt` (weights, moving average, optimiser, samples seen), `STAGE-log.jsonl`,
`STAGE.safetensors` (moving average), and `motion.safetensors` (of both stages, for `midframe train --motion`). Samples
depend on the seed and their number alone, so a resumed run equals an uninterrupted one as long as the recipe stays; a
changed recipe (other data, another rate) goes on from the same state.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from midframe.engine import pick_device
from midframe.errors import InputError
from midframe.models.flow.intermediate import Refiner
from midframe.models.flow.matcher import Matcher
from midframe.scenes import Mix
from midframe.training.checkpoint import update_ema, write_checkpoint
from midframe.training.clip_flows import ClipFlows
from midframe.training.matcher import load_matcher, objective
from midframe.training.processes import on_request_to_stop
from midframe.training.recipe import learning_rate
from midframe.training.refiner import DETAIL, CandidateBatches, CandidateSource, frame_objective
from midframe.training.shards import SAMPLES_PER_SHARD, Batches, SceneSource, Shards, Share, Source
from midframe.weights import save_half

log = logging.getLogger(__name__)

MOTION_WARM_UP = 500  # steps
KEEP = 300.0  # seconds between checkpoints
REPORT = 50  # steps between lines of the log
STAGES = ("matcher", "refiner")
SCENE = (192, 224)  # height and width of the rendered scenes of the matcher, pixels; the crop is smaller
TRAINING_MIX = Mix(
    static_scene=0.02,
    fast=0.35,
    medium=0.45,
    compressed=0.15,
    halved_chroma=0.1,
    duplicate=0.0,
    articulated=0.35,
    perspective=0.4,
)
Objective = Callable[[dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class MotionRecipe:
    """Settings of a run."""

    out: Path
    photos: tuple[Path, ...] = ()  # folders of photographs; procedural textures if empty
    clips: tuple[Path, ...] = ()  # folders of videos
    samples: int = 200_000  # of the learning-rate schedule
    stop_after: int | None = None  # samples; ends the run before the schedule does
    minutes: float | None = None  # of this call
    batch: int = 8
    size: int = 160  # side of the input of the matcher, pixels
    stage: str = "matcher"  # or "refiner", on crops of twice the size
    rate: float = 1e-3  # peak learning rate
    reuse: float = 4.0  # uses of a stored sample, augmented differently
    workers: int = 1  # processes per source
    seed: int = 0
    device: str = "auto"  # "auto": GPU if available
    clip_share: float = 0.4  # of the samples, if there are clips

    def __post_init__(self) -> None:
        """Check the values."""
        if self.stage not in STAGES:
            raise InputError(f"train: stage {self.stage!r} is none of {', '.join(STAGES)}")
        if self.size % 16 or not 64 <= self.size <= min(SCENE):
            raise InputError(f"train: crops of {self.size} px; a multiple of 16 from 64 to {min(SCENE)} is needed")


def open_batches(recipe: MotionRecipe, position: int) -> Batches:
    """Open the sources of a run at a position."""
    folder = recipe.out / "shards" / recipe.stage
    alone = recipe.stage == "matcher"
    # samples of the refiner are four times as large
    detail, samples = (1, SAMPLES_PER_SHARD) if alone else (DETAIL, SAMPLES_PER_SHARD // 2)
    size = detail * SCENE[0], detail * SCENE[1]

    def shards(name: str, source: Source, reuse: float, window: int) -> Shards:
        if not alone:
            source = CandidateSource(source, size[0], matcher_weights(recipe))
        return Shards(folder / name, source, samples, reuse, window, 3, recipe.workers)

    rendered = SceneSource(recipe.photos, size, neighbours=False, mix=TRAINING_MIX)
    shares = [Share(shards("scenes", rendered, recipe.reuse, 8), 1.0)]
    if recipe.clips:
        # crops of clips take three times as long as scenes: decoding, and flow between all neighbours
        clips = shards("clips", ClipFlows(recipe.clips, detail=detail), 1.5 * recipe.reuse, 16)
        shares = [Share(shares[0].shards, 1.0 - recipe.clip_share), Share(clips, recipe.clip_share)]
    kind = Batches if alone else CandidateBatches
    return kind(shares, recipe.batch, detail * recipe.size, recipe.seed, position)


def save(recipe: MotionRecipe, state: State, checkpoint: Path, weights: Path) -> None:
    """Write the state of a run, and its moving average as weights."""
    state.save(checkpoint)
    save_half(weights, state.average)
    if recipe.stage == "refiner":
        parts = {"refiner": state.average, "matcher": load_matcher(matcher_weights(recipe)).state_dict()}
        both = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        save_half(recipe.out / "motion.safetensors", both)


def matcher_weights(recipe: MotionRecipe) -> Path:
    """The weights of the matcher of a run."""
    return recipe.out / "matcher.safetensors"


def open_stage(recipe: MotionRecipe, device: torch.device) -> tuple[nn.Module, Objective]:
    """The network that a stage trains, and its loss."""
    if recipe.stage == "matcher":
        matcher = Matcher().train().to(device)
        return matcher, lambda batch: objective(matcher(batch["a"], batch["b"]), batch)
    refiner, trained = Refiner().train().to(device), load_matcher(matcher_weights(recipe)).to(device)
    return refiner, lambda batch: frame_objective(refiner, trained, batch)


@dataclass
class State:
    """State of a run that its checkpoint holds."""

    net: nn.Module
    average: dict[str, Tensor]
    optimiser: torch.optim.Optimizer
    step: int = 0
    samples: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write under a temporary name, then rename."""
        content = {
            "net": self.net.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "samples": self.samples,
            "seconds": self.seconds,
        }
        write_checkpoint(path, content)

    def load(self, path: Path) -> None:
        """Read a checkpoint."""
        content = torch.load(path, map_location="cpu", weights_only=True)
        self.net.load_state_dict(content["net"])
        for name, value in self.average.items():
            value.copy_(content["average"][name])
        self.optimiser.load_state_dict(content["optimiser"])
        self.step, self.samples, self.seconds = content["step"], content["samples"], content["seconds"]


def train_motion(recipe: MotionRecipe, report: Callable[[str], None] = log.info) -> Path:
    """Run or resume a training; returns the path of the weights."""
    recipe.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    device = pick_device(recipe.device)
    half = device.type == "cuda"
    net, loss_of = open_stage(recipe, device)
    average = {key: value.detach().clone() for key, value in net.state_dict().items()}
    optimiser = torch.optim.AdamW(net.parameters(), recipe.rate, betas=(0.9, 0.99), weight_decay=1e-4)
    state = State(net, average, optimiser)
    checkpoint, weights = recipe.out / f"{recipe.stage}.pt", recipe.out / f"{recipe.stage}.safetensors"
    if checkpoint.exists():
        state.load(checkpoint)
        report(f"resumed after {state.samples:,} samples, {state.seconds / 3600:.2f} hours")
    batches = open_batches(recipe, state.samples)
    began, kept, noted = time.monotonic(), time.monotonic(), time.monotonic()
    sums: dict[str, float] = {}
    with on_request_to_stop() as stop, batches:
        while state.samples < min(recipe.samples, recipe.stop_after or recipe.samples) and not stop.is_set:
            if recipe.minutes is not None and time.monotonic() - began > recipe.minutes * 60:
                break
            tick = time.monotonic()
            batch = {key: value.to(device, non_blocking=True) for key, value in next(batches).items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss, notes = loss_of(batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            rate = learning_rate(recipe.rate, state.step, state.samples / recipe.samples, MOTION_WARM_UP)
            for group in optimiser.param_groups:
                group["lr"] = rate
            if torch.isfinite(norm):
                optimiser.step()
            else:
                report(f"step {state.step}: the gradient is not finite; batch skipped")
            state.step += 1
            state.samples += recipe.batch
            state.seconds += time.monotonic() - tick
            update_ema(average, net, state.step)
            for key, value in {"loss": loss.detach(), "norm": norm, **notes}.items():
                sums[key] = sums.get(key, 0.0) + float(value)
            if state.step % REPORT == 0:
                means = {key: value / REPORT for key, value in sums.items()}
                pace = REPORT * recipe.batch / (time.monotonic() - noted)
                line = {"samples": state.samples, "rate": rate, "pace": pace, **means}
                with (recipe.out / f"{recipe.stage}-log.jsonl").open("a") as file:
                    file.write(json.dumps({k: round(v, 6) for k, v in line.items()}) + "\n")
                report(
                    f"{state.samples:,} samples, {pace:.1f}/s: " + ", ".join(f"{k} {v:.3f}" for k, v in means.items())
                )
                sums, noted = {}, time.monotonic()
            if time.monotonic() - kept > KEEP:
                kept = time.monotonic()
                save(recipe, state, checkpoint, weights)
    save(recipe, state, checkpoint, weights)
    return weights
