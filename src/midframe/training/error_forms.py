"""Quadratic error forms: the error of every blend of warped frames, stored instead of the frames.

Only midnet's fusion network is learned. So training frames are warped under every motion hypothesis once and not at
every step; and because warped frames are blended linearly, the mean squared error of a blend with weights w in a 4x4
block is exactly w' G w, where G holds the mean products of the errors of the single frames. G and the matching
features are all that is kept: a step of training looks at no frame, and its loss is still that of full-size frames.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from midframe.metrics import LEVELS
from midframe.models.base import RenderRequest
from midframe.models.midnet.architecture import Architecture
from midframe.models.midnet.flow_estimation import FAIR, FINE, QUICK
from midframe.models.midnet.model import Midnet
from midframe.models.midnet.types import BLOCK, TILE, WarpedFrames
from midframe.training.refiner import load_motion
from midframe.training.shards import Arrays, Batches, PreparedSource

FLOW_CONFIGS = {FINE: 0.6, FAIR: 0.2, QUICK: 0.2}  # how the flow of samples is estimated, and shares of the samples
MAX_PRODUCT = 6e4  # squared levels; 16-bit floats end at 65504
ROUNDING = 1.0 / 12.0  # squared levels that rounding to 8 bits adds


def triangle(frames: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the upper triangle of G, in the order in which they are stored."""
    rows, columns = np.triu_indices(frames)
    return torch.from_numpy(rows), torch.from_numpy(columns)


def error_forms(warped: WarpedFrames, target: Tensor) -> Tensor:
    """Mean products of the errors of warped frames, (N, K (2K + 1), H/4, W/4): the upper triangle of G, squared levels.

    Args:
        warped: N pairs under K hypotheses.
        target: (N, 3, H, W), the truth.
    """
    errors = (torch.stack([*warped.a, *warped.b], 1) - target[:, None]) * LEVELS
    count, frames, colours, height, width = errors.shape
    blocks = errors.view(count, frames, colours, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    blocks = blocks.permute(0, 3, 5, 1, 2, 4, 6).flatten(4)  # (N, h, w, 2K, 48)
    products = blocks @ blocks.transpose(-1, -2) / blocks.shape[-1]
    rows, columns = triangle(frames)
    return products[..., rows, columns].permute(0, 3, 1, 2).clamp(max=MAX_PRODUCT)


def mean_squared_error(weights: Tensor, forms: Tensor) -> Tensor:
    """Mean squared error (N, h, w) of blends in every block, squared levels.

    Args:
        weights: fusion weights (N, 2K, h, w), sum 1.
        forms: of `error_forms`.
    """
    rows, columns = (x.to(weights.device) for x in triangle(weights.shape[1]))
    twice = torch.where(rows == columns, 1.0, 2.0).view(1, -1, 1, 1)
    return (weights[:, rows] * weights[:, columns] * (forms * twice)).sum(1)


@dataclass(frozen=True)
class ErrorFormSource(PreparedSource):
    """Error forms of the samples of another source; of fine and coarse flow by turns.

    Its shards have `features` (S, K, 17, h, w), `coverage` (S, 3, h, w), `error_forms`, all float16, and `t` (S,).
    """

    architecture: Architecture
    motion: Path | None = None  # weights of the learned motion, or of a midnet that holds them
    seed: ClassVar[int] = 12

    def prepare(self, made: dict[str, Tensor], rng: Generator) -> Arrays:
        """See `PreparedSource.prepare`."""
        net = copy.copy(_untrained(self.architecture, self.motion))
        net.dis_config = list(FLOW_CONFIGS)[int(rng.choice(len(FLOW_CONFIGS), p=list(FLOW_CONFIGS.values())))]
        net.flow_scale = 1.0
        net.matcher_downscale = 1 if net.dis_config == FINE else 2
        with torch.no_grad():
            a, b = net.encode(made["a"][None]), net.encode(made["b"][None])
            warped = net.warp(RenderRequest(a, b, net.match(a, b), made["t"].view(1)))
            forms = error_forms(warped, made["target"][None])
        parts = {"features": warped.features, "coverage": warped.coverage, "error_forms": forms}
        return {**{name: x[0].half().numpy() for name, x in parts.items()}, "t": made["t"].numpy()}


@lru_cache(maxsize=1)
def _untrained(architecture: Architecture, motion: Path | None) -> Midnet:
    """A network whose fusion is not used."""
    net = Midnet(architecture)
    if net.motion is not None and motion is not None:
        net.motion.load_state_dict(load_motion(motion).state_dict())
    return net.eval().on_device(torch.device("cpu"))


class ErrorFormBatches(Batches):
    """Batches of float32 `features`, `coverage`, `error_forms` and `t`, cropped, mirrored and rotated.

    Args: see `Batches`; the sources are `ErrorFormSource`s, the crop is in pixels.
    """

    def finish(self, drawn: Arrays, rng: Generator) -> dict[str, Tensor]:
        """One sample, augmented: inputs of the fusion network have no directions, see `fusion_inputs`."""
        height, width = drawn["coverage"].shape[-2:]
        side = self.crop // BLOCK
        # on the tiles in which hypotheses are active or not
        top, left = (TILE * int(rng.integers((length - side) // TILE + 1)) for length in (height, width))
        turns, mirrored = int(rng.integers(4)), bool(rng.random() < 0.5)
        out = {"t": torch.tensor(float(drawn["t"]))}
        for name in ("features", "coverage", "error_forms"):
            part = torch.from_numpy(drawn[name][..., top : top + side, left : left + side].astype(np.float32))
            out[name] = torch.rot90(part.flip(-1) if mirrored else part, turns, (-2, -1))
        return out

    def join(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Stack samples to one batch."""
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
