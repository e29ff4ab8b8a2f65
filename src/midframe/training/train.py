"""Training of midnet's fusion network, top to bottom: set up, resume, loop, evaluate, save.

The same function serves a laptop and several GPUs (`torchrun --nproc-per-node=N -m midframe train ...`). A run lives in
one folder: `checkpoint.pt` (weights, moving average, optimiser, step), `log.jsonl`, `curves.png`, `events/`
(TensorBoard, if installed), `best.safetensors` and `last.safetensors` (moving average, 16 bits, ready for `--weights`).
The same command resumes it; samples depend on seed and step alone, so a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from midframe.errors import InputError
from midframe.metrics import LEVELS
from midframe.models.midnet.architecture import SIZES
from midframe.models.midnet.checkpoint import load_midnet, save_midnet, widened
from midframe.models.midnet.model import Midnet
from midframe.scenes import Mix
from midframe.training.checkpoint import Training, load_checkpoint, save_checkpoint
from midframe.training.clips import ClipSource
from midframe.training.error_forms import ROUNDING, ErrorFormBatches, ErrorFormSource, mean_squared_error
from midframe.training.processes import all_reduce_gradients, any_of_all, join, on_request_to_stop, tear_down
from midframe.training.quick_evaluation import find_triplets, quick_evaluation
from midframe.training.recipe import Recipe, learning_rate
from midframe.training.refiner import load_motion
from midframe.training.run_log import RunLog
from midframe.training.shards import SAMPLES_PER_SHARD, SceneSource, Shards, Share, Source

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 600.0  # between checkpoints
CROP_MARGIN = 64  # pixels by which samples are larger than crops
SHARD_WINDOW = 16  # shards that are drawn from: batches of hundreds need many scenes
# Motion that inverse search loses cannot be repaired by fusion; it would only be noise in the gradients. Motion
# by a whole period looks like none: only such scenes teach otherwise.
SCENES = Mix(fast=0.06, medium=0.4, repeated=0.35, whole_period=0.6)
# A learned matcher follows it, so that such motion is worth a share of its own.
FAST_SCENES = replace(SCENES, fast=0.3, articulated=0.3, perspective=0.3)


def objective(net: Midnet, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of a batch of error forms: mean decibels of every sample, as the evaluation counts; and PSNR."""
    weights = net.fusion(batch["features"], batch["coverage"], batch["t"].view(-1, 1, 1, 1))
    error = mean_squared_error(weights, batch["error_forms"]).mean((1, 2)) + ROUNDING
    loss = 10.0 * torch.log10(error + 0.5).mean()  # a static scene, wrong by half a level, does not count
    with torch.no_grad():
        return loss, {"psnr": (10.0 * torch.log10(LEVELS**2 / error)).mean()}


def train(recipe: Recipe, report: Callable[[str], None] = log.info) -> Path:
    """Run or resume a training.

    Args:
        recipe: of the run.
        report: called with one line of progress at a time.

    Returns:
        The weights: `best.safetensors` if the run was evaluated, else `last.safetensors`.

    Raises:
        InputError: folders that hold nothing, or a checkpoint of another architecture.
        DeviceError: the device is not there.
    """
    rank, world, device = join(recipe.device)
    recipe.out.mkdir(parents=True, exist_ok=True)
    half = half_precision(recipe, device)
    training = set_up(recipe, device)
    checkpoint = recipe.out / "checkpoint.pt"
    if checkpoint.exists():
        load_checkpoint(checkpoint, training)
        report(f"resumed at step {training.step}, after {training.seconds / 60:.1f} minutes")
    net = training.net
    triplets = find_triplets(recipe.evaluate) if recipe.evaluate else []
    run_log = RunLog(recipe.out, rank == 0)
    began = time.monotonic() - training.seconds
    saved, evaluated = time.monotonic(), training.seconds
    with on_request_to_stop() as stop, open_batches(recipe, training.step * recipe.batch, rank) as batches:
        while True:
            training.seconds = time.monotonic() - began
            progress = recipe.progress(training.step, training.seconds)
            done = any_of_all(progress >= 1.0 or stop.is_set, device, world)
            if done or (rank == 0 and time.monotonic() - saved > CHECKPOINT_SECONDS):
                saved = time.monotonic()
                if rank == 0:
                    save_checkpoint(checkpoint, training)
                    save_average(recipe.out / "last.safetensors", training)
                    run_log.draw()
            if triplets and rank == 0 and (done or training.seconds - evaluated > recipe.evaluate_minutes * 60.0):
                evaluated = training.seconds
                score = quick_evaluation(net, training.average, triplets, half)
                report(f"step {training.step}: {score:.2f} dB on {len(triplets)} triplets")
                run_log.write(training.step, {"evaluation": score})
                if score > training.best:
                    training.best = score
                    save_average(recipe.out / "best.safetensors", training)
            if done:
                break

            batch = {name: value.to(device, non_blocking=True) for name, value in next(batches).items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss, notes = objective(net, batch)
            training.optimiser.zero_grad(set_to_none=False)
            loss.backward()  # type: ignore[no-untyped-call]
            all_reduce_gradients(net, world)
            norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            rate = learning_rate(recipe.rate, training.step, progress)
            for group in training.optimiser.param_groups:
                group["lr"] = rate
            if torch.isfinite(norm):
                training.optimiser.step()
            else:
                report(f"step {training.step}: the gradient is not finite; this batch is skipped")
            training.step += 1
            training.update_average()
            line = run_log.add(training.step, {"loss": loss, "norm": norm, **notes}, rate, progress)
            if line and rank == 0:
                report(line)
    run_log.close()
    tear_down(world)
    return recipe.out / ("best.safetensors" if recipe.evaluate else "last.safetensors")


# The parts, in the order in which they are called


def half_precision(recipe: Recipe, device: torch.device) -> bool:
    """Whether convolutions run in bf16: on GPUs, and on CPUs with instructions for it."""
    if recipe.precision != "auto":
        return recipe.precision == "bf16"
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cuda" or bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def set_up(recipe: Recipe, device: torch.device) -> Training:
    """A new network, or the one to begin with, its moving average and optimiser."""
    torch.manual_seed(recipe.seed)
    net = initial_network(recipe)
    if net.motion is not None:
        net.motion.requires_grad_(False)
    net = net.train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = {name: value.detach().clone() for name, value in net.state_dict().items()}
    optimiser = torch.optim.AdamW(net.fusion.parameters(), recipe.rate, betas=(0.9, 0.99), weight_decay=1e-4)
    return Training(net, average, optimiser)


def initial_network(recipe: Recipe) -> Midnet:
    """A new network, or the one of `start`, with the learned motion of the recipe.

    Raises:
        WeightsError: `start` is of another size.
        InputError: the model has learned motion, and there are no weights of it.
    """
    architecture = SIZES[recipe.model]
    start = Midnet(architecture) if recipe.start_file is None else load_midnet(recipe.start_file)
    net = widened(start, architecture)
    if net.motion is not None and recipe.motion is not None:
        net.motion.load_state_dict(load_motion(recipe.motion).state_dict())
    elif net.motion is not None and (recipe.start is None or start.motion is None):
        raise InputError(f"train: {recipe.model} needs learned motion (midframe train motion): give --motion")
    return net


def open_batches(recipe: Recipe, position: int, rank: int) -> ErrorFormBatches:
    """Error forms of rendered scenes, and of clips; each process draws its own."""
    size = recipe.size + CROP_MARGIN
    shards = recipe.out / "shards" / str(rank)
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if recipe.gpu_render else ""
    architecture = SIZES[recipe.model]
    mix = FAST_SCENES if architecture.refined else SCENES
    scenes = SceneSource(recipe.photos, size, False, mix, first_seed=10_000_000 * rank, device=device)
    motion = recipe.motion or recipe.start_file if architecture.refined else None

    def stored(folder: str, source: Source) -> Shards:
        forms = ErrorFormSource(source, size, architecture, motion)
        return Shards(
            shards / folder,
            forms,
            SAMPLES_PER_SHARD,
            recipe.reuse,
            SHARD_WINDOW,
            max(2, recipe.workers),
            recipe.workers,
        )

    sources = [Share(stored("scenes", scenes), 1.0)]
    if recipe.clips:
        clips = Share(stored("clips", ClipSource(recipe.clips, size)), recipe.clip_share)
        sources = [replace(sources[0], share=1.0 - recipe.clip_share), clips]
    return ErrorFormBatches(sources, recipe.batch, recipe.size, recipe.seed * 1000 + rank, position)


def save_average(path: Path, training: Training) -> None:
    """Write the moving average as weights."""
    save_midnet(path, training.average, training.net.architecture, {"step": str(training.step)})
