"""Training of the refiner: intermediate flow from stored candidate flows, by the loss of the interpolated frame.

Classical and matched flow are fixed, so both are estimated once for every stored sample and not at every step: a
step runs the refiner alone. Samples are crops of twice the size of the matcher's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from torch import Tensor

from midframe.models.flow.intermediate import (
    CANDIDATES,
    CandidateFlow,
    IntermediateFlow,
    LearnedMotion,
    Refiner,
    matched_candidate,
    splat_to,
    synthesise,
)
from midframe.models.flow.matcher import Matcher
from midframe.models.midnet.architecture import SIZES
from midframe.models.midnet.flow_estimation import FAIR, FINE
from midframe.models.midnet.learned_motion import classical_candidate
from midframe.models.midnet.model import Midnet
from midframe.models.midnet.types import BLOCK
from midframe.training import losses
from midframe.training.checkpoint import load_network
from midframe.training.matcher import load_matcher
from midframe.training.shards import Arrays, Batches, PreparedSource, turned_vectors

DETAIL = 2  # pixels of a sample per pixel of the matcher's input
FINE_SHARE = 0.5  # of the samples whose classical flow is searched down to full size; the others down to half
# Weights of the losses: interpolated frame, its pixels and gradients, choice, flow at t, visibility.
FRAME_SHARE, PIXEL_SHARE, GRADIENT_SHARE = 100.0, 0.5, 0.1
CHOICE_SHARE, FLOW_AT_T_SHARE, VISIBILITY_SHARE = 10.0, 0.2, 0.1
ERROR_WINDOW = 5  # pixels of the matcher's input over which errors are averaged
HARD = 0.03  # mean error of classical flow, 0..1, from which a place counts in full in the loss of the frame
# Planes of a stored sample that time reversal exchanges come in pairs, a first. Vectors have two planes.
IMAGES, CANDIDATE_FLOWS, IMPORTANCES, TRUE_FLOWS, MASKS = "images", "candidates", "importances", "true_flows", "masks"
FROM_T = ("flow_ta", "flow_tb")
HIDDEN = ("hidden_ta", "hidden_tb")


@dataclass(frozen=True)
class CandidateSource(PreparedSource):
    """Samples of another source with their classical and matched flows; flows and importances are float16."""

    matcher: Path  # weights
    seed: ClassVar[int] = 14

    def prepare(self, made: dict[str, Tensor], rng: Generator) -> Arrays:
        """See `PreparedSource.prepare`."""
        a, b = made["a"][None], made["b"][None]
        with torch.no_grad():
            found = estimate_candidates(a, b, _matcher(self.matcher), bool(rng.random() < FINE_SHARE))
        none = torch.zeros(2, self.size, self.size)
        true_flows = [half_flow(made.get(name, none)[None])[0] for name in FROM_T]
        masks = [F.max_pool2d(made[name].float(), DETAIL) if name in made else none[:1, ::2, ::2] for name in HIDDEN]
        images = torch.stack([made["a"], made["target"], made["b"]])
        return {
            IMAGES: images.mul(255).round().byte().numpy(),
            CANDIDATE_FLOWS: torch.stack([x.flow for x in found]).half().numpy(),
            IMPORTANCES: torch.stack([x.importance for x in found]).half().numpy(),
            TRUE_FLOWS: torch.stack(true_flows).half().numpy(),
            MASKS: torch.stack(masks).byte().numpy(),
            "rendered": np.array(FROM_T[0] in made, np.float32),
            "t": made["t"].numpy(),
        }


def estimate_candidates(a: Tensor, b: Tensor, matcher: Matcher, fine: bool) -> list[CandidateFlow]:
    """Both candidates of a pair of images (1, 3, H, W) at 1/4 of their size; see `intermediate.CANDIDATES`."""
    net = _classical(fine)
    motion = net.match(net.encode(a), net.encode(b))
    matched = matcher(F.avg_pool2d(a, DETAIL), F.avg_pool2d(b, DETAIL))
    return [classical_candidate(motion.filtered or motion.primary), matched_candidate(matched)]


@lru_cache(maxsize=2)
def _classical(fine: bool) -> Midnet:
    """A midnet whose fusion is not used."""
    net = Midnet(SIZES["midnet-m"]).eval().on_device(torch.device("cpu"))
    assert isinstance(net, Midnet)
    net.dis_config, net.flow_scale = FINE if fine else FAIR, 1.0
    return net


def load_motion(path: Path) -> LearnedMotion:
    """Load matcher and refiner from the weights of a run (`motion.safetensors`), or of a midnet that holds them.

    Raises:
        InputError: the file is missing or holds other tensors.
    """
    first = "the learned motion (midframe train motion)"
    return load_network(LearnedMotion(), path, "holds no learned motion", first, "motion.")


@lru_cache(maxsize=1)
def _matcher(weights: Path) -> Matcher:
    return load_matcher(weights)


class CandidateBatches(Batches):
    """Batches of samples of `CandidateSource`, cropped, mirrored, rotated and reversed in time.

    A batch has `a`, `target`, `b` (B, 3, H, W) in 0..1, `t` (B, 1, 1, 1), `candidates` (K, 2B, 2, H/4, W/4) and
    `importances` (K, 2B, 1, H/4, W/4), a to b, then b to a; `flow_ta`, `flow_tb`, `hidden_ta`, `hidden_tb` at half of
    the size, and `rendered` (B, 1, 1, 1), 1 where those are known.
    """

    def finish(self, drawn: Arrays, rng: Generator) -> dict[str, Tensor]:
        """Crop and augment a stored sample."""
        height, width = drawn[IMAGES].shape[-2:]
        top, left = (BLOCK * int(rng.integers((side - self.crop) // BLOCK + 1)) for side in (height, width))
        mirrored, turns, reverse = bool(rng.random() < 0.5), int(rng.integers(4)), bool(rng.random() < 0.5)
        out = {}
        for name, value in drawn.items():
            if name in ("t", "rendered"):
                out[name] = torch.tensor(float(value)).view(1, 1, 1)
                continue
            scale = height // value.shape[-2]
            side = self.crop // scale
            rows, columns = (slice(first // scale, first // scale + side) for first in (top, left))
            part = torch.from_numpy(np.ascontiguousarray(value[..., rows, columns])).float()
            part = torch.rot90(part.flip(-1) if mirrored else part, turns, (-2, -1))
            if name in (CANDIDATE_FLOWS, TRUE_FLOWS):
                part = turned_vectors(part, mirrored, turns)
            if reverse:  # the axis before the channels is that of a and b
                part = part.flip(-4)
            out[name] = part.contiguous()
        if reverse:
            out["t"] = 1.0 - out["t"]
        return out

    def join(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Collate samples."""
        stacked = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        a, target, b = stacked[IMAGES].div_(255).unbind(1)
        out = {"a": a, "target": target, "b": b, "t": stacked["t"], "rendered": stacked["rendered"]}
        for name in (CANDIDATE_FLOWS, IMPORTANCES):  # (B, K, 2, C, h, w)
            out[name] = stacked[name].permute(1, 2, 0, 3, 4, 5).flatten(1, 2)
        out |= dict(zip(FROM_T, stacked[TRUE_FLOWS].unbind(1), strict=True))
        out |= dict(zip(HIDDEN, stacked[MASKS].unbind(1), strict=True))
        return out


def frame_objective(net: Refiner, stem: Matcher, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of the interpolated frame, and where truth is rendered, of flow at t and visibility; values for the log.

    Args:
        net: in training.
        stem: the matcher, whose first features the refiner sees.
        batch: of `CandidateBatches`.
    """
    small = F.avg_pool2d(batch["a"], DETAIL), F.avg_pool2d(batch["b"], DETAIL)
    with torch.no_grad():
        stems = stem.stem_features(small[0]), stem.stem_features(small[1])
    candidates = [CandidateFlow(*each) for each in zip(batch[CANDIDATE_FLOWS], batch[IMPORTANCES], strict=True)]
    t, target, rendered = batch["t"], batch["target"], batch["rendered"]
    splatted = [splat_to(candidate, t) for candidate in candidates]
    motion = net(small, stems, splatted, t)
    frames = batch["a"], batch["b"]
    image = synthesise(*frames, motion, t)
    with torch.no_grad():
        alternatives = [synthesise(*frames, each.enlarged(), t) for each in splatted]
        errors = torch.cat([local_error(each, target) for each in alternatives], 1)
        hard = (errors[:, CANDIDATES.index("classical")][:, None] / HARD).clamp(max=1.0)
        hard = F.interpolate(hard, scale_factor=float(DETAIL), mode="bilinear", align_corners=False)
    # where classical flow is right, it is a hypothesis of its own: the rest of the frame would only be noise
    counted = hard * image + (1.0 - hard) * target
    loss = FRAME_SHARE * (
        losses.laplacian(counted, target)
        + PIXEL_SHARE * losses.charbonnier(counted, target)
        + GRADIENT_SHARE * losses.gradient_difference(counted, target)
    )
    assert motion.choice is not None
    choice = choice_entropy(motion.choice, errors)
    loss = loss + CHOICE_SHARE * choice + supervision(motion, batch)
    with torch.no_grad():
        error = (motion.to_a - batch["flow_ta"]).square().sum(1, keepdim=True).sqrt()
        seen = rendered * (1.0 - batch["hidden_ta"])
        notes = {"epe": (seen * error).sum() / seen.sum().clamp(min=1.0), "choice": CHOICE_SHARE * choice.detach()}
        taken = errors.gather(1, motion.choice.argmax(1, keepdim=True))
        for name, each in zip(("chosen", *CANDIDATES), (taken, *errors.chunk(len(CANDIDATES), 1)), strict=True):
            notes[f"error {name}"] = 255.0 * (each - errors.amin(1, keepdim=True)).mean()
        for name, each in zip(("refined", *CANDIDATES), (image, *alternatives), strict=True):
            notes[name] = _psnr(each, target)
            notes[f"hard {name}"] = _psnr(hard * each + (1.0 - hard) * target, target)
        return loss, notes


def local_error(image: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of frames (B, 3, H, W) around every pixel of the matcher's input, (B, 1, H/2, W/2)."""
    error = F.avg_pool2d((image - target).abs().mean(1, keepdim=True), DETAIL)
    return F.avg_pool2d(error, ERROR_WINDOW, 1, ERROR_WINDOW // 2, count_include_pad=False)


def choice_entropy(choice: Tensor, errors: Tensor) -> Tensor:
    """Cross-entropy of a choice with the better candidate, weighted by how much better it is; both (B, K, H, W).

    The choice is not trained through the frame: a mean of two flows is worse than either, so that loss leads to the
    more frequent candidate everywhere, and where its share is 1 the gradient ends.
    """
    spread = errors.amax(1) - errors.amin(1)
    entropy = F.cross_entropy(choice, errors.argmin(1), reduction="none")
    return (entropy * (spread / HARD).clamp(max=1.0)).mean()


def supervision(motion: IntermediateFlow, batch: dict[str, Tensor]) -> Tensor:
    """Loss of flow at t and of visibility, of rendered samples."""
    loss = torch.zeros(())
    for flow, truth, hidden in zip((motion.to_a, motion.to_b), FROM_T, HIDDEN, strict=True):
        weight = batch["rendered"] * (1.0 - batch[hidden])
        loss = loss + FLOW_AT_T_SHARE * losses.endpoint_error(flow, batch[truth], weight, torch.ones_like(weight), 1)
    hidden_a, hidden_b = (batch[name] for name in HIDDEN)
    one_sided = (hidden_a != hidden_b).float() * batch["rendered"]
    return loss + VISIBILITY_SHARE * losses.mask_entropy(motion.visibility, hidden_b, one_sided)


def half_flow(flow: Tensor) -> Tensor:
    """Halve a flow (B, 2, H, W) without unknown pixels."""
    return 0.5 * F.avg_pool2d(flow.float(), 2)


def _psnr(image: Tensor, target: Tensor) -> Tensor:
    error = ((image.clamp(0, 1) - target) ** 2).mean((1, 2, 3))
    return (-10.0 * torch.log10(error + 1e-10)).mean()
