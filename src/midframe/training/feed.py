"""Batches drawn by several processes ahead of the trainer: one alone draws about 200 samples a second.

The batches are those of `Batches`, in its order, whatever the number of processes: batch k is drawn by process k modulo
that number, and what it holds depends on seed and k alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from midframe.errors import JobError
from midframe.training.shards import PATIENCE, Arrays, Batches, Shards, Share, Source, shard_path

AHEAD = 4  # batches that each process draws beforehand


def spread(loaders: int, batch: int) -> int:
    """Samples by which the fastest of the processes may be ahead of the slowest."""
    return loaders * (AHEAD + 1) * batch


@dataclass(frozen=True)
class Place:
    """A source of shards as another process needs to know it: picklable, unlike `Shards`."""

    folder: Path
    source: Source
    samples: int
    reuse: float
    window: int
    share: float


class Reader(Shards):
    """Reads shards that others make and throw away."""

    def _advance(self, first: int) -> None:
        for number in [n for n in self._open if n < first]:
            del self._open[number]

    def arrays(self, number: int) -> Arrays:
        """The memory-mapped arrays of a shard; waits until it is there."""
        path, since = shard_path(self.folder, number), time.monotonic()
        while number not in self._open and not path.is_dir():
            if time.monotonic() - since > PATIENCE:
                raise JobError(f"shard {number} in {self.folder} was not made; see the message of its worker above")
            time.sleep(0.05)
        return super().arrays(number)


class Numbered(IterableDataset[dict[str, Tensor]]):
    """Batches from a position on; in process w of n those whose number is w modulo n."""

    def __init__(self, places: Sequence[Place], batch: int, crop: int, seed: int, position: int) -> None:
        self.places, self.batch, self.crop, self.seed, self.position = tuple(places), batch, crop, seed, position

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Draw without end."""
        torch.set_num_threads(1)
        info = get_worker_info()
        number, count = (info.id, info.num_workers) if info is not None else (0, 1)
        shares = [
            Share(Reader(p.folder, p.source, p.samples, p.reuse, p.window, workers=0), p.share) for p in self.places
        ]
        batches = Batches(shares, self.batch, self.crop, self.seed, self.position + number * self.batch)
        while True:
            yield next(batches)
            batches.position += (count - 1) * self.batch


class Feed:
    """Batches without end, drawn by `loaders` processes; see `Batches` for what is in them.

    Args:
        shares: sources and their shares.
        batch: samples in a batch.
        crop: pixels of a side.
        seed: of the draws.
        position: samples drawn so far, to resume.
        loaders: processes that draw; 1 or more.
        pinned: keep batches in page-locked memory, from which a GPU fetches faster.
    """

    def __init__(
        self,
        shares: Sequence[Share],
        batch: int,
        crop: int,
        seed: int = 0,
        position: int = 0,
        loaders: int = 1,
        pinned: bool = False,
    ) -> None:
        self.shares, self.batch, self.position = list(shares), batch, position
        total = float(np.sum([share.share for share in shares]))
        self.behind = spread(loaders, batch)  # what the slowest process may still want is not thrown away
        for share in self.shares:
            share.shards.start(self._place(share, total))
        self.total = total
        places = [
            Place(s.shards.folder, s.shards.source, s.shards.samples, s.shards.reuse, s.shards.window, s.share)
            for s in self.shares
        ]
        drawn: DataLoader[Any] = DataLoader(
            Numbered(places, batch, crop, seed, position),
            batch_size=None,
            num_workers=loaders,
            prefetch_factor=AHEAD,
            pin_memory=pinned,
            multiprocessing_context="spawn",
        )
        self._batches = iter(drawn)

    def _place(self, share: Share, total: float) -> int:
        return int(max(self.position - self.behind, 0) * share.share / total)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return self

    def __next__(self) -> dict[str, Tensor]:
        """The next batch."""
        batch: dict[str, Tensor] = next(self._batches)
        self.position += self.batch
        for share in self.shares:
            share.shards.start(self._place(share, self.total))
        return batch

    def close(self) -> None:
        """Stop all processes."""
        del self._batches
        for share in self.shares:
            share.shards.close()
