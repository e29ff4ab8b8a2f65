"""The matcher in training: its loss, its weights, and its scores on held-out scenes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from midframe.models.flow.matcher import Matched, Matcher
from midframe.scenes import Mix, Textures, compose, render
from midframe.training import losses
from midframe.training.checkpoint import load_network

DECAY = 0.85  # weight of an estimate relative to the next one
OCCLUDED = 0.2  # weight of the flow of occluded pixels
EVALUATION_MIX = Mix(static_scene=0.0, fast=0.4, medium=0.4, duplicate=0.0)


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


def load_matcher(path: Path) -> Matcher:
    """Load a matcher from the weights of a run.

    Raises:
        InputError: the file is missing or holds other tensors.
    """
    return load_network(Matcher(), path, "does not hold a matcher", "the matcher")


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
