"""Training of the learned motion network: matcher first, then matcher and refiner with the interpolated frame's loss.

A run lives in one folder: `matcher.pt` (weights, moving average, optimiser, samples seen), `matcher-log.jsonl`,
`matcher.safetensors` (moving average, for the model). The samples depend on the seed and their number alone,
so a resumed run equals an uninterrupted one as long as the recipe stays; a changed recipe (other data, another rate)
goes on from the same state.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from midframe.engine import pick_device
from midframe.errors import InputError
from midframe.models.flow.intermediate import LearnedMotion, synthesise
from midframe.models.flow.matcher import Matched, Matcher
from midframe.scenes import Mix, Textures, compose, render
from midframe.training import losses
from midframe.training.checkpoint import update_ema, write_checkpoint
from midframe.training.clip_flows import ClipFlows
from midframe.training.processes import on_request_to_stop
from midframe.training.recipe import learning_rate
from midframe.training.shards import SAMPLES_PER_SHARD, Batches, SceneSource, Shards, Share
from midframe.weights import save_half

log = logging.getLogger(__name__)

WARM_UP = 500  # steps
# weights of the losses of stage "frames": matcher, interpolated frame, flow at t, visibility
MATCHER_SHARE, FRAME_SHARE, FLOW_AT_T_SHARE, VISIBILITY_SHARE = 0.1, 100.0, 0.2, 0.1
KEEP = 300.0  # seconds between checkpoints
REPORT = 50  # steps between lines of the log
DECAY = 0.85  # weight of an estimate relative to the next one
OCCLUDED = 0.2  # weight of the flow of occluded pixels
STAGES = ("flow", "frames")
SCENE = (192, 224)  # height and width of the rendered scenes, pixels; the crop is smaller
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
EVALUATION_MIX = Mix(static_scene=0.0, fast=0.4, medium=0.4, duplicate=0.0)


@dataclass(frozen=True)
class MatcherRecipe:
    """Settings of a run."""

    out: Path
    photos: tuple[Path, ...] = ()  # folders of photographs; procedural textures if empty
    clips: tuple[Path, ...] = ()  # folders of videos
    samples: int = 200_000  # of the learning-rate schedule
    stop_after: int | None = None  # samples; ends the run before the schedule does
    minutes: float | None = None  # of this call
    batch: int = 8
    size: int = 160  # side of the input of the matcher, pixels
    stage: str = "flow"  # "flow" trains the matcher; "frames" matcher and refiner, on crops of twice the size
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


def objective(found: Matched, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of flow estimates, global match and occlusion, and values for the log.

    Pixels with NaN in `flow_ab` or `flow_ba` have no label and are ignored.
    """
    truth = torch.cat([batch["flow_ab"], batch["flow_ba"]])
    known = torch.isfinite(truth).all(1, keepdim=True).float()
    truth = torch.nan_to_num(truth)
    occluded = torch.cat([batch["hidden_ab"], batch["hidden_ba"]]).float()
    weight = known * (1.0 - (1.0 - OCCLUDED) * occluded)
    count = len(found.estimates)
    loss = losses.match_entropy(found.similarity[: len(truth) // 2], truth, known * (1.0 - occluded))
    for k, estimate in enumerate(found.estimates):
        error = losses.endpoint_error(estimate.flow, truth, weight, known, estimate.stride)
        loss = loss + DECAY ** (count - 1 - k) * error
        if estimate.occlusion is not None:
            hidden, certain = losses.downsample(occluded, estimate.stride), losses.downsample(known, estimate.stride)
            entropy = losses.mask_entropy(estimate.occlusion, hidden, (certain > 0.99).float())
            loss = loss + 0.5 * DECAY ** (count - 1 - k) * entropy
    with torch.no_grad():
        seen = known * (1.0 - occluded)
        notes = {
            "epe": losses.endpoint_error(found.flow, truth, known, known, 2),
            "epe_seen": losses.endpoint_error(found.flow, truth, seen, known, 2),
            "epe_zero": losses.endpoint_error(torch.zeros_like(found.flow), truth, known, known, 2),
        }
    return loss, notes


def frame_objective(net: LearnedMotion, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of the interpolated frame at twice the matcher's size, the flow at t and the matcher."""
    small = {name: F.avg_pool2d(batch[name], 2) for name in ("a", "b")}
    for name in ("flow_ab", "flow_ba", "flow_ta", "flow_tb"):
        small[name] = half_flow(batch[name])
    for name in ("hidden_ab", "hidden_ba", "hidden_ta", "hidden_tb"):
        small[name] = F.max_pool2d(batch[name].float(), 2) > 0
    t = batch["t"].view(-1, 1, 1, 1)
    matched, motion = net(small["a"], small["b"], t)
    loss, notes = objective(matched, small)
    image, target = synthesise(batch["a"], batch["b"], motion, t), batch["target"]
    loss = MATCHER_SHARE * loss + FRAME_SHARE * (
        losses.laplacian(image, target)
        + 0.5 * losses.charbonnier(image, target)
        + 0.1 * losses.gradient_difference(image, target)
    )
    rendered = (batch["flow_ta"].abs().amax((1, 2, 3), keepdim=True) > 0).float()  # only scenes have flow at t
    for name, flow in (("a", motion.to_a), ("b", motion.to_b)):
        weight = rendered * (1.0 - small[f"hidden_t{name}"].float())
        loss = loss + FLOW_AT_T_SHARE * losses.endpoint_error(
            flow, small[f"flow_t{name}"], weight, torch.ones_like(weight), 1
        )
    one_sided = small["hidden_ta"] ^ small["hidden_tb"]
    weight = (one_sided.float() * rendered).expand_as(motion.visibility)
    loss = loss + VISIBILITY_SHARE * losses.mask_entropy(motion.visibility, small["hidden_tb"].float(), weight)
    with torch.no_grad():
        error = ((image.clamp(0, 1) - target) ** 2).mean((1, 2, 3))
        notes["psnr"] = (-10.0 * torch.log10(error + 1e-10)).mean()
    return loss, notes


def half_flow(flow: Tensor) -> Tensor:
    """Halve a flow; a pixel is unknown (NaN) only where all four are."""
    known = torch.isfinite(flow)
    share = F.avg_pool2d(known.float(), 2)
    mean = F.avg_pool2d(torch.nan_to_num(flow), 2) / share.clamp(min=0.25)
    return torch.where(share > 0, 0.5 * mean, torch.full_like(mean, float("nan")))


def open_sources(recipe: MatcherRecipe) -> list[Share]:
    """Open the sources of a run."""
    folder = recipe.out / "matcher-shards"
    # crops of clips take three times as long as scenes: decoding, and flow between all neighbours
    detail, samples = (1, SAMPLES_PER_SHARD) if recipe.stage == "flow" else (2, SAMPLES_PER_SHARD // 2)
    folder = folder / recipe.stage
    size = detail * SCENE[0], detail * SCENE[1]
    rendered = SceneSource(recipe.photos, size, neighbours=False, mix=TRAINING_MIX)
    scenes = Shards(folder / "scenes", rendered, samples, recipe.reuse, 8, 3, recipe.workers)
    if not recipe.clips:
        return [Share(scenes, 1.0)]
    cut = ClipFlows(recipe.clips, detail=detail)
    clips = Shards(folder / "clips", cut, samples, 1.5 * recipe.reuse, 16, 3, recipe.workers)
    return [Share(scenes, 1.0 - recipe.clip_share), Share(clips, recipe.clip_share)]


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


def train_matcher(recipe: MatcherRecipe, report: Callable[[str], None] = log.info) -> Path:
    """Run or resume a training; returns the path of the weights."""
    recipe.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    device = pick_device(recipe.device)
    half = device.type == "cuda"
    net = (Matcher() if recipe.stage == "flow" else LearnedMotion()).train().to(device)
    average = {key: value.detach().clone() for key, value in net.state_dict().items()}
    optimiser = torch.optim.AdamW(net.parameters(), recipe.rate, betas=(0.9, 0.99), weight_decay=1e-4)
    state = State(net, average, optimiser)
    name = "matcher" if recipe.stage == "flow" else "motion"
    checkpoint, weights = recipe.out / f"{name}.pt", recipe.out / f"{name}.safetensors"
    if checkpoint.exists():
        state.load(checkpoint)
        report(f"resumed after {state.samples:,} samples, {state.seconds / 3600:.2f} hours")
    elif isinstance(net, LearnedMotion):
        begin_with_matcher(net, average, recipe.out / "matcher.pt")
        report("begins with the matcher of this folder")
    crop = recipe.size if recipe.stage == "flow" else 2 * recipe.size
    batches = Batches(open_sources(recipe), recipe.batch, crop, recipe.seed, state.samples)
    began, kept, noted = time.monotonic(), time.monotonic(), time.monotonic()
    sums: dict[str, float] = {}
    with on_request_to_stop() as stop, batches:
        while state.samples < min(recipe.samples, recipe.stop_after or recipe.samples) and not stop.is_set:
            if recipe.minutes is not None and time.monotonic() - began > recipe.minutes * 60:
                break
            tick = time.monotonic()
            batch = {key: value.to(device, non_blocking=True) for key, value in next(batches).items()}
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                if isinstance(net, LearnedMotion):
                    loss, notes = frame_objective(net, batch)
                else:
                    loss, notes = objective(net(batch["a"], batch["b"]), batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            rate = learning_rate(recipe.rate, state.step, state.samples / recipe.samples, WARM_UP)
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
                with (recipe.out / f"{name}-log.jsonl").open("a") as file:
                    file.write(json.dumps({k: round(v, 6) for k, v in line.items()}) + "\n")
                report(
                    f"{state.samples:,} samples, {pace:.1f}/s: loss {means['loss']:.2f}, error {means['epe']:.2f} px, "
                    f"visible {means['epe_seen']:.2f}, zero flow {means['epe_zero']:.2f}"
                    + (f", frames {means['psnr']:.2f} dB" if "psnr" in means else "")
                )
                sums, noted = {}, time.monotonic()
            if time.monotonic() - kept > KEEP:
                kept = time.monotonic()
                state.save(checkpoint)
                save_half(weights, average)
    state.save(checkpoint)
    save_half(weights, average)
    return weights


def begin_with_matcher(net: LearnedMotion, average: dict[str, Tensor], path: Path) -> None:
    """Start the second stage from the first one's moving average.

    Raises:
        InputError: there is no matcher in the folder.
    """
    if not path.exists():
        raise InputError(f"train: {path} is missing; train the stage flow first")
    weights = torch.load(path, map_location="cpu", weights_only=True)["average"]
    net.matcher.load_state_dict(weights)
    for name, value in weights.items():
        average[f"matcher.{name}"].copy_(value)


def load_matcher(path: Path) -> Matcher:
    """Load a matcher from the weights of a run, or of a midnet that holds one.

    Raises:
        InputError: the file is missing or holds other tensors.
    """
    from safetensors.torch import load_file

    if not path.exists():
        raise InputError(f"train: {path} is missing; train the stage flow first")
    net = Matcher()
    try:
        state = {name: value.float() for name, value in load_file(path).items()}
        own = {name.removeprefix("matcher."): value for name, value in state.items() if name.startswith("matcher.")}
        net.load_state_dict(own or state)
    except RuntimeError as error:
        raise InputError(f"train: {path} does not hold a matcher: {str(error).splitlines()[0]}") from error
    return net.eval()


# Evaluation


@dataclass(frozen=True, slots=True)
class FlowScores:
    """End-point errors over a set of scenes, pixels."""

    everything: float
    visible: float
    fl: float  # share of visible pixels with an error above 3 px and 5 %
    fast: float  # over visible pixels that move by more than 20 px
    zero: float  # of zero flow, over all pixels

    def __str__(self) -> str:
        return (
            f"error {self.everything:.2f} px, visible {self.visible:.2f}, Fl {100 * self.fl:.1f} %, "
            f"motion > 20 px {self.fast:.2f}, zero flow {self.zero:.2f}"
        )


def evaluation_scenes(count: int = 128) -> Iterator[tuple[Tensor, Tensor, NDArray[Any], NDArray[Any]]]:
    """Render held-out scenes of 192x256 (domain evaluation, seeds from 0): a, b, flow, occlusion."""
    textures = Textures()
    for seed in range(count):
        drawn = render(compose(seed, textures, (192, 256), "evaluation", EVALUATION_MIX), False)
        a, b = (torch.from_numpy(x).permute(2, 0, 1).float() / 255 for x in (drawn.a, drawn.b))
        yield a, b, drawn.flow_ab, drawn.hidden_ab


def flow_scores(estimate: Callable[[Tensor, Tensor], NDArray[Any]], count: int = 128) -> FlowScores:
    """Score `estimate(a, b)`, which maps two images (3, H, W) to a flow (H, W, 2), on the held-out scenes."""
    errors, lengths, seen = [], [], []
    for a, b, flow, hidden in evaluation_scenes(count):
        errors.append(np.hypot(*(estimate(a, b) - flow).transpose(2, 0, 1)))
        lengths.append(np.hypot(*flow.transpose(2, 0, 1)))
        seen.append(~hidden)
    error, length, visible = (np.stack(x) for x in (errors, lengths, seen))
    return FlowScores(
        float(error.mean()),
        float(error[visible].mean()),
        float(((error > 3) & (error > 0.05 * length))[visible].mean()),
        float(error[visible & (length > 20)].mean()),
        float(length.mean()),
    )


def matcher_flow(net: Matcher, a: Tensor, b: Tensor) -> NDArray[Any]:
    """Estimate the flow (H, W, 2) from a to b at the size of the input."""
    with torch.inference_mode():
        flow = net(a[None], b[None]).flow[:1]
        flow = F.interpolate(flow, scale_factor=2.0, mode="bilinear", align_corners=False) * 2.0
    return flow[0].permute(1, 2, 0).numpy()
