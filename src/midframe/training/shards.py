"""Samples in store: workers render scenes and cut clips into shards on disk, the trainer reads them again and again.

A shard is a folder of .npy files with `SAMPLES` samples, written under a temporary name and renamed, read memory-
mapped. Drawing is reproducible: sample i of a run comes from a shard, a place in it and a change (crop, flip, quarter
turn, time reversal, colour) that depend on the run's seed and on i alone; a shard depends on its number alone. So a run
that is resumed at sample i goes on with the samples it would have had; shards that are gone are made again.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from midframe.errors import InputError, JobError
from midframe.scenes import Mix, Textures, compose, render, stack
from midframe.scenes.batched import render_batch
from midframe.training.scenes import training_textures

SAMPLES = 64  # in a shard: 64 scenes of 288 x 288 are 210 MB with neighbours
TOGETHER = 16  # scenes rendered at once on a GPU
PATIENCE = 600.0  # seconds to wait for a shard before giving up

FRAMES = ("before", "a", "target", "b", "after")
FADING, FADE = 0.1, 0.25  # share of samples in which light changes, and by how much (logarithm, standard deviation)
FLOWS = ("flow_ab", "flow_ba", "flow_ta", "flow_tb", "flow_a_before", "flow_b_after")
MASKS = (
    "hidden_ab",
    "hidden_ba",
    "hidden_ta",
    "hidden_tb",
    "overlay",
    "static",
    "repeated",
    "hidden_a_before",
    "hidden_b_after",
)
# names exchanged by time reversal
REVERSED = {
    "before": "after",
    "a": "b",
    "flow_ab": "flow_ba",
    "flow_ta": "flow_tb",
    "flow_a_before": "flow_b_after",
    "hidden_ab": "hidden_ba",
    "hidden_ta": "hidden_tb",
    "hidden_a_before": "hidden_b_after",
}
REVERSED |= {later: earlier for earlier, later in REVERSED.items()}

Arrays = dict[str, NDArray[Any]]


class Source(Protocol):
    """Whatever can fill a shard. Sent to worker processes, so it must be picklable."""

    def make(self, number: int, samples: int) -> Arrays:
        """The arrays of shard `number`, each with `samples` along its first axis; the same at every call."""
        ...

    def sample(self, arrays: Mapping[str, NDArray[Any]], index: int, rng: Generator) -> Arrays:
        """One sample of a shard: images (H, W, 3) uint8 under FRAMES; for scenes also flows and masks, and "t"."""
        ...


@dataclass(frozen=True)
class SceneSource:
    """Rendered scenes; shard k holds the training seeds from k SAMPLES on."""

    photos: tuple[Path, ...] = ()  # folders
    size: int = 288  # pixels; somewhat larger than the crop, so that crops differ
    neighbours: bool = True
    mix: Mix = field(default_factory=Mix)
    first_seed: int = 0
    device: str = ""  # render in batches with torch on this device, e.g. "cuda"; on the CPU with OpenCV if not given

    def make(self, number: int, samples: int) -> Arrays:
        """Render a shard."""
        textures = cached_textures(self.photos)
        first = self.first_seed + number * samples
        size = (self.size, self.size)
        seeds = range(first, first + samples)
        scenes = (compose(seed, textures, size, "training", self.mix) for seed in seeds)
        if not self.device:
            return packed([stack([render(scene, self.neighbours)]) for scene in scenes])
        parts = []
        while some := list(islice(scenes, TOGETHER)):
            drawn = render_batch(some, self.neighbours, self.device)
            parts.append({name: value.cpu().numpy() for name, value in drawn.items()})
        return packed(parts)

    def sample(self, arrays: Mapping[str, NDArray[Any]], index: int, rng: Generator) -> Arrays:
        """One scene as it was rendered."""
        out: Arrays = {"t": arrays["t"][index]}
        names = FRAMES if arrays["frames"].shape[1] == len(FRAMES) else FRAMES[1:4]
        out |= dict(zip(names, arrays["frames"][index], strict=True))
        flows = arrays["flows"][index]
        out |= dict(zip(FLOWS, flows, strict=False))
        masks = arrays["masks"][index]
        for bit, name in enumerate(MASKS):
            if bit < 7 or len(flows) == len(FLOWS):
                out[name] = (masks >> bit & 1).astype(np.uint8)
        return out


@lru_cache(maxsize=1)
def cached_textures(photos: tuple[Path, ...]) -> Textures:
    """Textures kept from shard to shard, so that a worker decodes each photograph once."""
    return training_textures(photos)


def packed(parts: Sequence[Mapping[str, NDArray[Any]]]) -> Arrays:
    """Drawn scenes (of `scenes.stack`) as a shard: frames uint8, flows float16, masks as bits of uint16."""

    def joined(names: Sequence[str]) -> NDArray[Any]:
        rows = [np.stack([part[name].transpose(0, 2, 3, 1) for name in names], 1) for part in parts]
        return np.concatenate(rows)

    first = parts[0]
    masks = np.concatenate(
        [sum(part[name].astype(np.uint16) << bit for bit, name in enumerate(MASKS) if name in part) for part in parts]
    )
    return {
        "frames": joined([name for name in FRAMES if name in first]),
        "flows": joined([name for name in FLOWS if name in first]).astype(np.float16),  # 0.008 px fine below 16 px
        "masks": masks,
        "t": np.concatenate([part["t"] for part in parts]),
    }


# Shards on disk


class Shards:
    """The shards of one source: made by worker processes ahead of the reader, thrown away behind it.

    Sample number i (of this source) is drawn from shard i // (samples * reuse) and the `window - 1` before it, as far
    as there are so many. So a run begins as soon as one shard is there, each shard serves about `reuse` times its
    samples, mixed with others', and at most `window + ahead` lie on disk.

    Args:
        folder: where they lie; made if absent. One run at a time may use it.
        source: of their samples.
        samples: in a shard.
        reuse: how often each sample is used on average.
        window: shards drawn from at a time.
        ahead: shards made beforehand.
        workers: processes; 0 makes each shard in this process when it is wanted.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        samples: int = SAMPLES,
        reuse: float = 5.0,
        window: int = 4,
        ahead: int = 2,
        workers: int = 1,
    ) -> None:
        if samples < 1 or reuse <= 0 or window < 1 or ahead < 0 or workers < 0:
            raise InputError(
                f"shards: samples {samples}, reuse {reuse}, window {window}, ahead {ahead}, workers {workers}: "
                "counts must be 1 or more, reuse above 0"
            )
        self.folder, self.source = folder, source
        self.samples, self.reuse, self.window, self.ahead, self.workers = samples, reuse, window, ahead, workers
        self._open: dict[int, Arrays] = {}
        self._processes: list[BaseProcess] = []
        self._first = multiprocessing.get_context("spawn").Value("q", 0)  # the oldest shard still wanted
        self._draws = 0
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, position: int = 0) -> None:
        """Set the workers to work, for a reader that begins at sample `position`."""
        self._advance(self.first_shard(position))
        if self._processes or not self.workers:
            return
        context = multiprocessing.get_context("spawn")
        for worker in range(self.workers):
            process = context.Process(
                target=_work,
                args=(self.folder, self.source, self.samples, self._first, self.window + self.ahead, os.getpid()),
                kwargs={"worker": worker, "workers": self.workers},
                daemon=True,
                name=f"shards-{worker}",
            )
            with one_thread():
                process.start()
            self._processes.append(process)

    def close(self) -> None:
        """Stop the workers; finished shards stay on disk."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        self._processes.clear()
        self._open.clear()

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def first_shard(self, position: int) -> int:
        """The oldest shard from which sample `position` may be drawn."""
        return max(self.last_shard(position) - self.window + 1, 0)

    def last_shard(self, position: int) -> int:
        """The newest shard from which sample `position` may be drawn."""
        return int(position / (self.samples * self.reuse))

    def draw(self, position: int, rng: Generator) -> Arrays:
        """Sample number `position`, as stored; waits for its shard if it must."""
        first = self.first_shard(position)
        self._advance(first)
        arrays = self.arrays(first + int(rng.integers(self.last_shard(position) - first + 1)))
        return self.source.sample(arrays, int(rng.integers(self.samples)), rng)

    def arrays(self, number: int) -> Arrays:
        """The memory-mapped arrays of a shard.

        Raises:
            JobError: the workers have died, or made nothing for ten minutes.
        """
        if number in self._open:
            return self._open[number]
        path, since = shard_path(self.folder, number), time.monotonic()
        while not path.is_dir():
            if not self._processes:
                write_shard(path, self.source.make(number, self.samples))
                break
            dead = [p for p in self._processes if not p.is_alive()]
            if dead or time.monotonic() - since > PATIENCE:
                reason = f"worker {dead[0].name} ended with code {dead[0].exitcode}" if dead else "no worker made it"
                raise JobError(f"shard {number} in {self.folder} is missing: {reason}; see its message above")
            time.sleep(0.05)
        self._open[number] = {file.stem: np.load(file, mmap_mode="r") for file in sorted(path.glob("*.npy"))}
        return self._open[number]

    def _advance(self, first: int) -> None:
        if first < self._first.value:
            self._first.value = first
            return
        for number in range(max(self._first.value, 0), first):
            self._open.pop(number, None)
            shutil.rmtree(shard_path(self.folder, number), ignore_errors=True)
        self._first.value = first


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes that are started inside compute with one thread each.

    The variables are read when a process loads numpy. With a thread per core in every worker, products of small
    matrices took 11 ms instead of 0.3 ms beside a trainer, and rendering four times as long.
    """
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def shard_path(folder: Path, number: int) -> Path:
    """Where shard `number` lies."""
    return folder / f"shard-{number:06d}"


def write_shard(path: Path, arrays: Arrays) -> None:
    """Write a shard under a temporary name, then give it its own."""
    hidden = path.with_name(f".{path.name}-{os.getpid()}")
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(hidden / f"{name}.npy", array)
    try:
        hidden.rename(path)
    except OSError:  # made by another in the meantime: they are the same
        shutil.rmtree(hidden, ignore_errors=True)
        if not path.is_dir():
            raise


def _work(
    folder: Path, source: Source, samples: int, first: Any, ahead: int, parent: int, worker: int, workers: int
) -> None:
    """A worker: fill shards `first` to `first + ahead`, those that are its turn, until the parent is gone."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer stops its workers itself
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with suppress(OSError, AttributeError):
        os.nice(5)
    while os.getppid() == parent:
        wanted = [n for n in range(first.value, first.value + ahead) if n % workers == worker]
        missing = [n for n in wanted if not shard_path(folder, n).is_dir()]
        if missing:
            write_shard(shard_path(folder, missing[0]), source.make(missing[0], samples))
        else:
            time.sleep(0.2)


# Samples


@dataclass(frozen=True)
class Change:
    """How a sample is changed: the same way for all its images, flows and masks."""

    top: int
    left: int
    crop: int
    mirrored: bool
    turns: int  # quarter turns, anticlockwise as np.rot90 makes them
    backwards: bool  # in time
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    lift: float = 0.0
    swap: tuple[int, int, int] = (0, 1, 2)  # order of the colours
    fade: float = 0.0  # logarithm of how much brighter b becomes than a; linear in between

    def brightness(self, time: float) -> float:
        """Of an image, a being at 0 and b at 1, by the fade; the brighter of the two stays as it is."""
        gain = math.exp(self.fade)
        return max(0.0, 1.0 + (gain - 1.0) * time) / max(1.0, gain)


def draw_change(rng: Generator, height: int, width: int, crop: int) -> Change:
    """Any crop, mirroring, quarter turn and time direction; colours changed in half of all samples, a fade in some."""
    gain, lift, swap = (1.0, 1.0, 1.0), 0.0, (0, 1, 2)
    if rng.random() < 0.5:
        drawn = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.06, 3))
        gain, lift = (float(drawn[0]), float(drawn[1]), float(drawn[2])), float(rng.normal(0, 0.03))
    if rng.random() < 0.3:
        one, two, three = (int(c) for c in rng.permutation(3))
        swap = (one, two, three)
    fade = float(rng.normal(0, FADE)) if rng.random() < FADING else 0.0
    return Change(
        int(rng.integers(height - crop + 1)),
        int(rng.integers(width - crop + 1)),
        crop,
        bool(rng.random() < 0.5),
        int(rng.integers(4)),
        bool(rng.random() < 0.5),
        gain,
        lift,
        swap,
        fade,
    )


def changed(sample: Arrays, change: Change) -> dict[str, Tensor]:
    """A sample cropped, mirrored, turned, reversed and recoloured: images and flows (C, H, W), masks (1, H, W).

    A pixel of a crop whose match lies outside of the crop is hidden there, so `hidden_*` grows by those.
    """
    rows, columns = slice(change.top, change.top + change.crop), slice(change.left, change.left + change.crop)
    out: dict[str, Tensor] = {}
    when = {"before": -1.0, "a": 0.0, "b": 1.0, "after": 2.0}
    if "t" in sample:
        when["target"] = 1.0 - float(sample["t"]) if change.backwards else float(sample["t"])
    for name, value in sample.items():
        if name == "t":
            out["t"] = torch.tensor(when["target"])
            continue
        key = REVERSED.get(name, name) if change.backwards else name
        part = np.asarray(value[rows, columns])
        if change.mirrored:
            part = part[:, ::-1]
        part = np.ascontiguousarray(np.rot90(part, change.turns))
        tensor = torch.from_numpy(part)
        if name in FRAMES:
            image = tensor.permute(2, 0, 1).float().div_(255)
            if change.swap != (0, 1, 2):
                image = image[list(change.swap)]
            if change.gain != (1.0, 1.0, 1.0) or change.lift:
                image = (image * torch.tensor(change.gain).view(3, 1, 1) + change.lift).clamp_(0, 1)
            if change.fade:
                image = (image * change.brightness(when[key])).clamp_(max=1)
            out[key] = image.contiguous()
        elif name in FLOWS:
            out[key] = turned(tensor.float(), change)
        else:
            out[key] = tensor.bool()[None]
    for name, flow in [(n, f) for n, f in out.items() if n in FLOWS]:
        hidden = name.replace("flow", "hidden")
        if hidden in out:
            out[hidden] = out[hidden] | leaves(flow)
    return out


def turned(flow: Tensor, change: Change) -> Tensor:
    """The vectors of a flow (H, W, 2) whose image was mirrored and turned, as (2, H, W)."""
    x, y = flow[..., 0], flow[..., 1]
    if change.mirrored:
        x = -x
    for _ in range(change.turns % 4):
        x, y = y, -x  # a quarter turn anticlockwise: right becomes up, down becomes right
    return torch.stack([x, y]).contiguous()


def leaves(flow: Tensor) -> Tensor:
    """(1, H, W) bool: where a flow (2, H, W) points out of the image."""
    height, width = flow.shape[1:]
    x = flow[0] + torch.arange(width, dtype=torch.float32)
    y = flow[1] + torch.arange(height, dtype=torch.float32)[:, None]
    return ((x < -0.5) | (x > width - 0.5) | (y < -0.5) | (y > height - 0.5))[None]


@dataclass(frozen=True)
class Share:
    """One of the sources of a run, and its share of the samples."""

    shards: Shards
    share: float


class Batches:
    """Batches for the trainer, without end, the same for the same seed and position.

    A batch is a dict of float32 tensors: `before`, `a`, `target`, `b`, `after` (B, 3, H, W) RGB 0..1, `t` (B,), flows
    (B, 2, H, W) in pixels under the names in `FLOWS`, bool masks (B, 1, H, W) under those in `MASKS`, and `has_flow`
    and `has_neighbours` (B,) bool. Samples cut from clips have no flow: theirs are 0, and their masks false. Without
    neighbours `before` repeats a and `after` repeats b.

    Args:
        shares: sources and their shares.
        batch: samples in a batch.
        crop: pixels of a side.
        seed: of the draws.
        position: samples drawn so far, to resume.
    """

    def __init__(self, shares: Sequence[Share], batch: int, crop: int = 256, seed: int = 0, position: int = 0) -> None:
        total = sum(share.share for share in shares)
        if not shares or total <= 0 or batch < 1 or crop < 8:
            raise InputError(f"batches: {len(shares)} sources of shares {total}, batch {batch}, crop {crop} px")
        self.shards = [share.shards for share in shares]
        self.shares = np.array([share.share for share in shares]) / total
        self.batch, self.crop, self.seed, self.position = batch, crop, seed, position
        for shards, share in zip(self.shards, self.shares, strict=True):
            shards.start(int(position * share))

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return self

    def __next__(self) -> dict[str, Tensor]:
        """The next batch."""
        samples = [self.sample(self.position + k) for k in range(self.batch)]
        self.position += self.batch
        return self.join(samples)

    def sample(self, position: int) -> dict[str, Tensor]:
        """Sample number `position` of the run."""
        rng = np.random.default_rng([self.seed, position])
        number = int(rng.choice(len(self.shards), p=self.shares))
        # each source is read at its own pace, which depends on the position alone
        return self.finish(self.shards[number].draw(int(position * self.shares[number]), rng), rng)

    def finish(self, drawn: Arrays, rng: Generator) -> dict[str, Tensor]:
        """A sample as it was stored -> cropped and changed at random."""
        height, width = drawn["a"].shape[:2]
        if min(height, width) < self.crop:
            raise InputError(f"batches: a crop of {self.crop} px is larger than the samples, {width}x{height}")
        return changed(drawn, draw_change(rng, height, width, self.crop))

    def join(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Samples -> one batch."""
        return collate(samples)

    def close(self) -> None:
        """Stop all workers."""
        for shards in self.shards:
            shards.close()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def collate(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Samples -> one batch; see `Batches`."""
    has_flow = torch.tensor(["flow_ab" in sample for sample in samples])
    has_neighbours = torch.tensor(["before" in sample and "after" in sample for sample in samples])
    out = {"t": torch.stack([sample["t"] for sample in samples]), "has_flow": has_flow}
    out["has_neighbours"] = has_neighbours
    crop = samples[0]["a"].shape[-1]
    for name in FRAMES:
        stand_in = {"before": "a", "after": "b"}.get(name, name)
        out[name] = torch.stack([sample.get(name, sample[stand_in]) for sample in samples])
    no_flow, no_mask = torch.zeros(2, crop, crop), torch.zeros(1, crop, crop, dtype=torch.bool)
    for name in FLOWS:
        out[name] = torch.stack([sample.get(name, no_flow) for sample in samples])
    for name in MASKS:
        out[name] = torch.stack([sample.get(name, no_mask) for sample in samples])
    return out
