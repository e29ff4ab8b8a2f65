"""Training of midnet, top to bottom: set up, resume, loop (draw, forward, losses, backward, step), look, keep, ship.

The same function serves a laptop and several GPUs (`torchrun --nproc-per-node=N -m midframe train ...`). A run lives in
one folder: `checkpoint.pt` (weights, moving average, optimiser, step), `log.jsonl`, `curves.png`, `events/`
(TensorBoard, if installed), `best.safetensors` and `last.safetensors` (moving average, 16 bits, ready for `--weights`).
The same command goes on where it stopped; what is drawn depends on seed and step alone, so a resumed run equals an
uninterrupted one.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from midframe.errors import DeviceError, InputError
from midframe.extras import install_command
from midframe.models.base import RenderRequest
from midframe.models.midnet import (
    SIZES,
    Architecture,
    Matching,
    Midnet,
    load_midnet,
    members,
    save_midnet,
)
from midframe.scenes import Mix
from midframe.training import losses
from midframe.training.clips import ClipSource
from midframe.training.curves import draw_curves
from midframe.training.feed import Feed, spread
from midframe.training.mixtures import LEVELS, ROUNDING, Mixtures, MixtureSource, missed
from midframe.training.quick import Triplet, find_triplets, quick_score
from midframe.training.shards import SAMPLES, Batches, SceneSource, Shards, Share, Source

log = logging.getLogger(__name__)

WARM_UP = 200  # steps
RATES = {"learned": 6e-4, "dis": 2e-3}  # highest learning rate, by matcher
FLOOR = 0.02  # of the learning rate, at the end of the cosine
AVERAGE = 0.999  # of the moving average of the weights
KEEP = 600.0  # seconds between checkpoints


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on. Written into the checkpoint and beside it."""

    out: Path
    model: str = "midnet-m"
    # "learned", or "dis": classical flow, only the judge is trained, on stored mixtures; "auto": that of the weights to
    # begin with, else learned on a GPU and dis on a CPU, where a matcher that learns from nothing takes days
    matcher: str = "auto"
    photos: tuple[Path, ...] = ()  # folders of textures; procedural ones if none
    clips: tuple[Path, ...] = ()  # folders of videos; rendered scenes only if none
    start: Path | None = None  # weights to begin with
    steps: int | None = None  # length of the run, for the schedule; None: as many as `minutes` allow
    minutes: float | None = None  # of training in all, over every resumption
    batch: int = 16  # samples, per process
    size: int = 192  # pixels; side of a crop
    rate: float | None = None  # learning rate at its highest; by matcher if not given, see `RATES`
    flow_share: float = 0.35  # of the run, for flow alone
    clip_share: float = 0.4  # of the samples after that, if there are clips
    reuse: float = 5.0  # times each rendered sample is used, cropped and coloured anew
    workers: int = 1  # processes that render, for each source
    loaders: int = 0  # processes that draw batches; 0: the trainer does it itself, which is enough on a CPU
    gpu_render: bool = False  # render scenes in batches on the GPU that trains
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    evaluate: Path | None = None  # folder of triplets, looked at every `evaluate_minutes`
    evaluate_minutes: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.model not in SIZES:
            raise InputError(f"train: {self.model!r} cannot be trained; {', '.join(SIZES)} can")
        if self.matcher not in ("auto", "learned", "dis"):
            raise InputError(f"train: matcher {self.matcher!r} is none of auto, learned, dis")
        if self.steps is None and self.minutes is None:
            raise InputError("train: give steps or minutes")
        if self.gpu_render and not torch.cuda.is_available():
            raise DeviceError("train: there is no GPU to render on; leave --gpu-render out")
        if self.size % 32 or self.size < 64:
            raise InputError(f"train: crops of {self.size} px; a multiple of 32, 64 or more, is needed")
        for name in ("batch", "rate", "reuse"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise InputError(f"train: {name} {value} must be above 0")


@dataclass(frozen=True)
class Weights:
    """How much each loss counts. The flows' fall with progress; the sharpness term comes in the last fifth."""

    flow: float = 0.02
    match: float = 0.1
    hidden: float = 0.05
    picture: float = 1.0
    census: float = 0.0  # was 0.1: on two cores it took 57 % of a step
    charbonnier: float = 0.5
    sharpness: float = 0.0


# of each flow on its way: 1/16 (global, two updates), 1/8 (upsampled, two updates), 1/4 (upsampled, refined)
STAGES = ((16, (0.3, 0.6, 0.8)), (8, (0.4, 0.7, 0.9)), (4, (0.6, 1.4)))


def weights_at(progress: float, flow_share: float) -> Weights:
    """The weights at a point 0..1 of the run."""
    if progress < flow_share:
        return Weights()
    later = (progress - flow_share) / (1.0 - flow_share + 1e-9)
    fall = 1.0 - 0.6 * min(later, 1.0)
    return Weights(flow=0.01 * fall, match=0.02, hidden=0.02, sharpness=0.05 if later > 0.8 else 0.0)


def rate_at(highest: float, step: int, progress: float) -> float:
    """Learning rate: linear warm-up, then a cosine down to a low tail."""
    warm = min(1.0, (step + 1) / WARM_UP)
    return highest * warm * (FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0))))


def objective(
    net: Midnet, batch: dict[str, Tensor], weights: Weights, everything: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Forward pass and loss of a batch.

    Args:
        net: the network.
        batch: see `Batches`; on the network's device.
        weights: of the losses.
        everything: also render and compare pictures; flow alone otherwise.

    Returns:
        The loss, and what is worth noting: end-point error of all pixels and of those seen in both, the error
        that no flow at all would have, and PSNR.
    """
    count = len(batch["t"])
    if net.architecture.matcher == "dis":
        return mixture_objective(net, batch)
    features = net.encode(torch.cat([batch["a"], batch["b"]]).contiguous(memory_format=torch.channels_last))
    a, b = members(features, slice(0, count)), members(features, slice(count, 2 * count))
    found = net.match_all(a, b)
    loss, notes = flow_objective(found, batch, weights), flow_notes(found.quarter[-1], batch)
    if not everything:
        return loss, notes

    motion = net.motion(a, b, *found.quarter[-1].chunk(2), *found.sure.chunk(2))
    image, target = net.render(RenderRequest(a, b, motion, batch["t"])).float(), batch["target"]
    loss = loss + weights.picture * losses.laplacian(image, target)
    loss = loss + weights.charbonnier * losses.charbonnier(image, target)
    if weights.census:
        loss = loss + weights.census * losses.census(image, target)
    if weights.sharpness:
        loss = loss + weights.sharpness * losses.sharpness(image, target)
    with torch.no_grad():
        error = ((image.clamp(0, 1) - target) ** 2).mean((1, 2, 3))
        notes["psnr"] = (-10.0 * torch.log10(error + 1e-10)).mean()
    return loss, notes


def mixture_objective(net: Midnet, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the judge on stored mixtures: decibels of every sample, which is what the evaluation counts.

    Noted is PSNR.
    """
    shares = net.judge(batch["evidence"], batch["seen"], batch["t"].view(-1, 1, 1, 1))
    error = missed(shares, batch["products"]).mean((1, 2)) + ROUNDING
    loss = 10.0 * torch.log10(error + 0.5).mean()  # a scene at rest, missed by half a level, has no say
    with torch.no_grad():
        return loss, {"psnr": (10.0 * torch.log10(LEVELS**2 / error)).mean()}


def flow_truth(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """True flows a to b, then b to a (2B, 2, H, W), what is hidden, and whether the flow is known at all."""
    truth = torch.cat([batch["flow_ab"], batch["flow_ba"]])
    hidden = torch.cat([batch["hidden_ab"], batch["hidden_ba"]]).float()
    return truth, hidden, batch["has_flow"].float().repeat(2).view(-1, 1, 1, 1).expand_as(hidden)


def flow_objective(found: Matching, batch: dict[str, Tensor], weights: Weights) -> Tensor:
    """Loss of all flows of `match`, of the all-pairs match, and of what is told to be hidden."""
    truth, hidden, known = flow_truth(batch)
    loss = weights.match * losses.match_entropy(found.logits, truth, known * (1.0 - hidden))
    for (factor, shares), flows in zip(STAGES, (found.sixteenth, found.eighth, found.quarter), strict=True):
        for share, flow in zip(shares[-len(flows) :], flows, strict=True):
            loss = loss + weights.flow * share * losses.flow_error(flow, truth, known, factor)
    hidden, known = losses.shrink(hidden, 4), losses.shrink(known, 4)
    return loss + weights.hidden * losses.mask_entropy(found.sure[:, :1], hidden, known)


def flow_notes(flow: Tensor, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """End-point errors in full-size pixels of a flow at 1/4 (2B, 2, H/4, W/4), and that of no flow at all."""
    truth, hidden, known = flow_truth(batch)
    with torch.no_grad():
        return {
            "epe": losses.flow_error(flow, truth, known, 4),
            "epe_seen": losses.flow_error(flow, truth, known * (1.0 - hidden), 4),
            "epe_zero": losses.flow_error(torch.zeros_like(flow), truth, known, 4),
        }


def train(recipe: Recipe, report: Callable[[str], None] = log.info) -> Path:
    """Run or resume a training.

    Args:
        recipe: what to do.
        report: takes one line of progress at a time.

    Returns:
        The weights: `best.safetensors` if the run was evaluated, else `last.safetensors`.

    Raises:
        InputError: folders that hold nothing, or a checkpoint of another architecture.
        DeviceError: the device is not there.
    """
    rank, world, device = join(recipe)
    recipe.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    net = load_midnet(recipe.start, recipe.model) if recipe.start else None
    matcher = matcher_of(recipe, net, device)
    recipe, highest = replace(recipe, matcher=matcher), recipe.rate or RATES[matcher]
    net = net or Midnet(architecture_of(recipe))
    net = net.train().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = {name: value.detach().clone() for name, value in net.state_dict().items()}
    optimiser = torch.optim.AdamW(net.parameters(), highest, betas=(0.9, 0.99), weight_decay=1e-4)
    half = half_precision(recipe, device)
    flow_share = recipe.flow_share if net.architecture.matcher == "learned" else 0.0

    step, spent, best = 0, 0.0, -math.inf
    checkpoint = recipe.out / "checkpoint.pt"
    if checkpoint.exists():
        step, spent, best = resume(checkpoint, net, average, optimiser)
        report(f"resumed at step {step}, after {spent / 60:.1f} minutes")
    triplets: list[Triplet] = find_triplets(recipe.evaluate) if recipe.evaluate else []
    diary = Diary(recipe.out, rank == 0)
    began, kept, looked, everything, batches = time.monotonic() - spent, time.monotonic(), spent, None, None
    with on_request_to_stop() as stop:
        while True:
            spent = time.monotonic() - began
            progress = max(
                step / recipe.steps if recipe.steps else 0.0,
                spent / (recipe.minutes * 60.0) if recipe.minutes else 0.0,
            )
            done = agree(progress >= 1.0 or stop.is_set, device, world)
            if done or (rank == 0 and time.monotonic() - kept > KEEP):
                kept = time.monotonic()
                if rank == 0:
                    keep(checkpoint, net, average, optimiser, step, spent, best)
                    save_midnet(recipe.out / "last.safetensors", average, net.architecture, {"step": str(step)})
                    diary.draw()
            if triplets and rank == 0 and (done or spent - looked > recipe.evaluate_minutes * 60.0):
                looked = spent
                score = quick_score(net, average, triplets, half)
                report(f"step {step}: {score:.2f} dB on {len(triplets)} triplets")
                diary.note(step, {"evaluation": score})
                if score > best:
                    best = score
                    save_midnet(recipe.out / "best.safetensors", average, net.architecture, {"step": str(step)})
            if done:
                break

            if everything != (progress >= flow_share):
                everything = progress >= flow_share
                if batches is not None:
                    batches.close()
                batches = open_batches(recipe, everything, step * recipe.batch, rank, world)
            assert batches is not None
            batch = {name: value.to(device, non_blocking=True) for name, value in next(batches).items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss, notes = objective(net, batch, weights_at(progress, flow_share), everything)
            optimiser.zero_grad(set_to_none=False)
            loss.backward()  # type: ignore[no-untyped-call]
            share_gradients(net, world)
            norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            rate = rate_at(highest, step, progress)
            for group in optimiser.param_groups:
                group["lr"] = rate
            if torch.isfinite(norm):
                optimiser.step()
            else:
                report(f"step {step}: the gradient is not finite; this batch is skipped")
            step += 1
            follow(average, net, min(AVERAGE, (1 + step) / (10 + step)))
            line = diary.add(step, {"loss": loss, "norm": norm, **notes}, rate, progress)
            if line and rank == 0:
                report(line)
    if batches is not None:
        batches.close()
    diary.close()
    leave(world)
    return recipe.out / ("best.safetensors" if recipe.evaluate else "last.safetensors")


def matcher_of(recipe: Recipe, start: Midnet | None, device: torch.device) -> str:
    """Where the flow comes from.

    Raises:
        InputError: another matcher was asked for than the weights to begin with have, or loaders with classical flow.
    """
    named = recipe.matcher if recipe.matcher != "auto" else None
    known = start.architecture.matcher if start is not None else None
    if named and known and named != known:
        raise InputError(f"train: {recipe.start} has the matcher {known}, not {named}; leave --matcher out")
    matcher = named or known or ("dis" if device.type == "cpu" else "learned")
    if matcher == "dis" and recipe.loaders:
        raise InputError(
            "train: with classical flow (matcher dis) the trainer draws its batches itself; leave --loaders out"
        )
    return matcher


def architecture_of(recipe: Recipe) -> Architecture:
    """The size that was asked for, with the matcher that was asked for."""
    return replace(SIZES[recipe.model], matcher=recipe.matcher)


# The parts, in the order in which they are called


def join(recipe: Recipe) -> tuple[int, int, torch.device]:
    """Rank, number of processes and device; joins the group that torchrun has set up, if it has."""
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    name = recipe.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise DeviceError(f"train: device {name} is not there; try --device cpu")
        if world > 1:
            name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
            torch.cuda.set_device(name)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if name.startswith("cuda") else "gloo")
    return rank, world, torch.device(name)


def half_precision(recipe: Recipe, device: torch.device) -> bool:
    """Whether convolutions run in bf16: on GPUs, and on CPUs with instructions for it."""
    if recipe.precision != "auto":
        return recipe.precision == "bf16"
    able = torch.cpu.get_capabilities()
    return device.type == "cuda" or bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def open_batches(recipe: Recipe, everything: bool, position: int, rank: int, world: int) -> Batches | Feed:
    """Samples of rendered scenes, and in the second phase of clips; each process draws its own."""
    room = recipe.size + 64
    shards = recipe.out / "shards" / str(rank)
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if recipe.gpu_render else ""
    # what inverse search misses altogether cannot be mended by rendering; it would only be noise in the gradients. What
    # moves by a period looks as if it rested: only such scenes teach otherwise
    classical = recipe.matcher == "dis"
    mix = Mix(fast=0.06, medium=0.4, repeated=0.35, whole_period=0.6) if classical else Mix()
    scenes = SceneSource(recipe.photos, room, False, mix, first_seed=10_000_000 * rank, device=device)
    # a batch of hundreds wants to be drawn from more scenes than a batch of sixteen
    window = 16 if classical else max(4, recipe.batch // 16)
    ahead = max(2, recipe.workers) + int(2 * spread(recipe.loaders, recipe.batch) / (SAMPLES * recipe.reuse))

    def stored(folder: str, source: Source) -> Shards:
        if classical:
            source = MixtureSource(source, room, architecture_of(recipe))
        return Shards(shards / folder, source, SAMPLES, recipe.reuse, window, ahead, recipe.workers)

    sources = [Share(stored("scenes", scenes), 1.0)]
    if everything and recipe.clips:
        clips = Share(stored("clips", ClipSource(recipe.clips, room)), recipe.clip_share)
        sources = [replace(sources[0], share=1.0 - recipe.clip_share), clips]
    seed = recipe.seed * 1000 + rank
    if classical:
        return Mixtures(sources, recipe.batch, recipe.size, seed, position)
    if recipe.loaders:
        pinned = torch.cuda.is_available()
        return Feed(sources, recipe.batch, recipe.size, seed, position, recipe.loaders, pinned)
    return Batches(sources, recipe.batch, recipe.size, seed, position)


def share_gradients(net: Midnet, world: int) -> None:
    """Mean of the gradients of all processes, in one message."""
    if world == 1:
        return
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in net.parameters()]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= world
    for p, mean in zip(net.parameters(), torch.split(flat, [g.numel() for g in grads]), strict=True):
        p.grad = mean.view_as(p).clone()


def follow(average: dict[str, Tensor], net: Midnet, inertia: float) -> None:
    """Moving average of the weights."""
    with torch.no_grad():
        values = net.state_dict()
        torch._foreach_lerp_(list(average.values()), [values[name] for name in average], 1.0 - inertia)


def agree(done: bool, device: torch.device, world: int) -> bool:
    """Whether any process wants to stop."""
    if world == 1:
        return done
    flag = torch.tensor(float(done), device=device)
    dist.all_reduce(flag)
    return bool(flag > 0)


def leave(world: int) -> None:
    """Leave the group of processes."""
    if world > 1 and dist.is_initialized():
        dist.destroy_process_group()


@dataclass
class Stop:
    """Set by SIGTERM or SIGINT: finish the step, write a checkpoint, end."""

    is_set: bool = False


@contextmanager
def on_request_to_stop() -> Iterator[Stop]:
    """Catch SIGTERM and SIGINT while inside; in threads, where they cannot be caught, nothing is."""
    stop = Stop()

    def handle(*_: Any) -> None:
        stop.is_set = True

    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def keep(
    path: Path,
    net: Midnet,
    average: dict[str, Tensor],
    optimiser: torch.optim.Optimizer,
    step: int,
    spent: float,
    best: float,
) -> None:
    """Write a checkpoint under a temporary name, then give it its own.

    To stay under 16 MiB for M the optimiser's moments, and how far the average is from the weights, are stored in 16
    bits. They are rounded in the running training too, so that going on and resuming are the same, bit for bit.
    """
    values = net.state_dict()
    moments: list[dict[str, Any] | None] = []
    apart: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, value in average.items():
            apart[name] = (value - values[name]).bfloat16()
            value.copy_(values[name] + apart[name].float())
        for parameter in net.parameters():
            state = optimiser.state.get(parameter)
            if not state:  # not reached yet: the render stage during the first phase
                moments.append(None)
                continue
            small = {"exp_avg": state["exp_avg"].bfloat16(), "exp_avg_sq": state["exp_avg_sq"].sqrt().bfloat16()}
            state["exp_avg"].copy_(small["exp_avg"].float())
            state["exp_avg_sq"].copy_(small["exp_avg_sq"].float() ** 2)
            moments.append({**small, "step": state["step"]})
    content = {
        "architecture": net.architecture.to_json(),
        "net": values,
        "apart": apart,
        "moments": moments,
        "step": step,
        "spent": spent,
        "best": best,
    }
    hidden = path.with_name(f".{path.name}-{os.getpid()}")
    torch.save(content, hidden)
    hidden.replace(path)


def resume(
    path: Path, net: Midnet, average: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> tuple[int, float, float]:
    """Undo `keep`: step, seconds spent, best score so far."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    if Architecture.from_json(content["architecture"]) != net.architecture:
        raise InputError(f"train: {path} holds another size of network than was asked for; choose another --out")
    net.load_state_dict(content["net"])
    with torch.no_grad():
        for name, value in average.items():
            value.copy_(content["net"][name] + content["apart"][name].float())
        for parameter, small in zip(net.parameters(), content["moments"], strict=True):
            if small is not None:
                optimiser.state[parameter] = {
                    "step": small["step"],
                    "exp_avg": small["exp_avg"].to(parameter),
                    "exp_avg_sq": small["exp_avg_sq"].to(parameter).square(),
                }
    return int(content["step"]), float(content["spent"]), float(content["best"])


class Diary:
    """Notes of a run: a line of JSON every 50 steps, curves as PNG, TensorBoard events if it is installed."""

    EVERY = 50  # steps

    def __init__(self, folder: Path, writes: bool) -> None:
        self.path, self.writes = folder / "log.jsonl", writes
        self.sums: dict[str, list[Tensor]] = {}
        self.since = time.monotonic()
        self.events: Any = None
        if writes:
            try:
                from torch.utils.tensorboard import SummaryWriter

                self.events = SummaryWriter(str(folder / "events"))
            except ImportError:
                log.info("no TensorBoard events: %s", install_command("train"))

    def add(self, step: int, values: dict[str, Tensor], rate: float, progress: float) -> str | None:
        """Take the values of a step; every `EVERY` steps return a line that tells their means."""
        for name, value in values.items():
            self.sums.setdefault(name, []).append(value.detach())  # read later: reading makes a GPU wait
        if step % self.EVERY:
            return None
        means = {name: float(torch.stack(noted).mean()) for name, noted in self.sums.items()}
        seconds = (time.monotonic() - self.since) / max(len(self.sums["loss"]), 1)
        self.sums, self.since = {}, time.monotonic()
        self.note(step, {**means, "rate": rate, "seconds": seconds, "progress": progress})
        line = f"step {step} ({progress:.1%}, {seconds:.2f} s each) loss {means['loss']:.4f}"
        if "psnr" in means:
            line += f" psnr {means['psnr']:.2f}"
        if "epe" in means:
            line += (
                f" flow error {means['epe']:.2f} px, seen {means['epe_seen']:.2f}, of no flow {means['epe_zero']:.2f}"
            )
        return line

    def note(self, step: int, values: dict[str, float]) -> None:
        """Write values down."""
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
        """Close the events file."""
        self.draw()
        if self.events is not None:
            self.events.close()


def recipe_json(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain JSON, for the model card."""
    return json.loads(json.dumps(asdict(recipe), default=str))  # type: ignore[no-any-return]
