"""Stored mixtures: what a classical flow makes of training pictures, and how every mixture of it would miss the truth.

With the matcher "dis" nothing before midnet's judge is learned. So the pictures that a pair gives under every guess of
the flows are drawn once and not at every step; and because they are mixed linearly, what a mixture w misses in a 4x4
block is exactly w' G w, where G holds the mean products of what the single pictures miss there. G and the evidence are
all that is kept: a step of training looks at no picture, and its loss is still that of full-size pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from midframe.models.midnet import (
    FAIR,
    FINE,
    QUICK,
    TILE_BLOCKS,
    Architecture,
    Candidates,
    Midnet,
)
from midframe.training.shards import Arrays, Batches, Source, changed, draw_change

BLOCK = 4  # pixels; sides of the blocks for which shares are found
SEARCHES = {FINE: 0.6, FAIR: 0.2, QUICK: 0.2}  # how the flow of samples is sought, and of how many
LEVELS = 255.0  # products are kept of 8-bit levels
MOST = 6e4  # squared levels; 16-bit floats end at 65504
ROUNDING = 1.0 / 12.0  # squared levels that rounding to 8 bits adds


def pairs(pictures: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the upper triangle of G, in the order in which they are stored."""
    rows, columns = np.triu_indices(pictures)
    return torch.from_numpy(rows), torch.from_numpy(columns)


def products(candidates: Candidates, target: Tensor) -> Tensor:
    """What the pictures under all guesses miss, multiplied with one another.

    Args:
        candidates: of N pairs, K guesses.
        target: (N, 3, H, W), the truth.

    Returns:
        (N, K (2K + 1), H/4, W/4): the upper triangle of G, squared 8-bit levels.
    """
    missed = (torch.stack([*candidates.a, *candidates.b], 1) - target[:, None]) * LEVELS
    count, pictures, colours, height, width = missed.shape
    blocks = missed.view(count, pictures, colours, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    blocks = blocks.permute(0, 3, 5, 1, 2, 4, 6).flatten(4)  # (N, h, w, 2K, 48)
    whole = blocks @ blocks.transpose(-1, -2) / blocks.shape[-1]
    rows, columns = pairs(pictures)
    return whole[..., rows, columns].permute(0, 3, 1, 2).clamp(max=MOST)


def missed(shares: Tensor, stored: Tensor) -> Tensor:
    """Mean squared error of mixtures in every block, squared levels.

    Args:
        shares: (N, 2K, h, w), sum 1.
        stored: of `products`.

    Returns:
        (N, h, w).
    """
    rows, columns = (x.to(shares.device) for x in pairs(shares.shape[1]))
    twice = torch.where(rows == columns, 1.0, 2.0).view(1, -1, 1, 1)
    return (shares[:, rows] * shares[:, columns] * (stored * twice)).sum(1)


@dataclass(frozen=True)
class MixtureSource:
    """Mixtures of the samples of another source, as a source of shards; flows finely and coarsely sought by turns."""

    source: Source
    size: int  # pixels of a side, of whole samples
    architecture: Architecture

    def make(self, number: int, samples: int) -> Arrays:
        """Evidence (S, K, EVIDENCE, h, w), visibility (S, 3, h, w), products, all float16, and t (S,)."""
        drawn = self.source.make(number, samples)
        rng = np.random.default_rng([12, number])
        rows = [self._mixture(self.source.sample(drawn, k, rng), rng) for k in range(samples)]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _mixture(self, sample: Arrays, rng: Generator) -> Arrays:
        height, width = sample["a"].shape[:2]
        made = changed(sample, draw_change(rng, height, width, self.size))
        net = drawing(self.architecture)
        how = list(SEARCHES)[int(rng.choice(len(SEARCHES), p=list(SEARCHES.values())))]
        with torch.no_grad():
            a, b = net.encode(made["a"][None]), net.encode(made["b"][None])
            motion = net.sought(a, b, [how], scale=1.0)
            found = net.stored_candidates(a, b, motion, made["t"].view(1, 1, 1, 1))
            stored = products(found, made["target"][None])
        parts = {"evidence": found.evidence, "seen": found.seen, "products": stored}
        return {**{name: x[0].half().numpy() for name, x in parts.items()}, "t": made["t"].numpy()}

    def sample(self, arrays: Mapping[str, NDArray[Any]], index: int, rng: Generator) -> Arrays:
        """One mixture as it was stored."""
        return {name: value[index] for name, value in arrays.items()}


@lru_cache(maxsize=1)
def drawing(architecture: Architecture) -> Midnet:
    """A network whose parameter-free parts are used."""
    return Midnet(architecture).eval()


class Mixtures(Batches):
    """Batches of stored mixtures: float32 `evidence`, `seen`, `products` and `t`, cropped, mirrored and turned.

    Args: see `Batches`; the sources are `MixtureSource`s, the crop is in pixels.
    """

    def finish(self, drawn: Arrays, rng: Generator) -> dict[str, Tensor]:
        """One sample, changed. What the judge makes of evidence does not depend on directions, see `clues`."""
        height, width = drawn["seen"].shape[-2:]
        side = self.crop // BLOCK
        # on the tiles in which guesses are present or not
        top, left = (TILE_BLOCKS * int(rng.integers((length - side) // TILE_BLOCKS + 1)) for length in (height, width))
        turns, mirrored = int(rng.integers(4)), bool(rng.random() < 0.5)
        out = {"t": torch.tensor(float(drawn["t"]))}
        for name in ("evidence", "seen", "products"):
            part = torch.from_numpy(drawn[name][..., top : top + side, left : left + side].astype(np.float32))
            out[name] = torch.rot90(part.flip(-1) if mirrored else part, turns, (-2, -1))
        return out

    def join(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Samples -> one batch."""
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
