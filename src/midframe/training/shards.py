"""Training samples on disk: worker processes write shards, the trainer reads each several times.

A shard is a folder of .npy files with `SAMPLES_PER_SHARD` samples, written under a temporary name, renamed, and memory-
mapped. Sampling is reproducible: the shard, the index and the augmentation (crop, flip, quarter turn, time reversal,
colour) of sample i depend only on the seed and i, and the content of a shard only on its number. A run resumed at
sample i continues with the samples it would have had; missing shards are made again.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from midframe.errors import InputError, JobError
from midframe.scenes import Mix, Textures, compose, render, stack
from midframe.scenes.batched import render_batch
from midframe.training.scenes import training_textures

SAMPLES_PER_SHARD = 64  # 64 scenes of 288x288 with neighbours take 210 MB
SCENES_PER_BATCH = 16  # on a GPU
SHARD_TIMEOUT = 600.0  # seconds

FRAMES = ("before", "a", "target", "b", "after")
FADE_SHARE, FADE_SIGMA = 0.1, 0.25  # share of samples with a change of brightness; standard deviation of its logarithm
FLOW_NAMES = ("flow_ab", "flow_ba", "flow_ta", "flow_tb", "flow_a_before", "flow_b_after")
MASK_NAMES = (
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
# names that time reversal exchanges
REVERSED_NAMES = {
    "before": "after",
    "a": "b",
    "flow_ab": "flow_ba",
    "flow_ta": "flow_tb",
    "flow_a_before": "flow_b_after",
    "hidden_ab": "hidden_ba",
    "hidden_ta": "hidden_tb",
    "hidden_a_before": "hidden_b_after",
}
REVERSED_NAMES |= {later: earlier for earlier, later in REVERSED_NAMES.items()}

Arrays = dict[str, NDArray[Any]]


class Source(Protocol):
    """Source of samples; picklable, for worker processes."""

    def make(self, number: int, samples: int) -> Arrays:
        """Make the arrays of shard `number`, `samples` along the first axis; deterministic."""
        ...

    def sample(self, arrays: Mapping[str, NDArray[Any]], index: int, rng: Generator) -> Arrays:
        """Return one sample: images (H, W, 3) uint8 under the names in FRAMES; of scenes also flows, masks and "t"."""
        ...


@dataclass(frozen=True)
class SceneSource:
    """Rendered scenes; shard k holds as many training seeds as it has samples, from k times as many on."""

    photos: tuple[Path, ...] = ()  # folders
    size: int | tuple[int, int] = 288  # of a side, or height and width, pixels; larger than the crop
    neighbours: bool = True
    mix: Mix = field(default_factory=Mix)
    first_seed: int = 0
    device: str = ""  # renders batches with torch on this device; with OpenCV on the CPU if empty

    def make(self, number: int, samples: int) -> Arrays:
        """Render a shard."""
        textures = cached_textures(self.photos)
        first = self.first_seed + number * samples
        size = (self.size, self.size) if isinstance(self.size, int) else self.size
        seeds = range(first, first + samples)
        scenes = (compose(seed, textures, size, "training", self.mix) for seed in seeds)
        if not self.device:
            return pack([stack([render(scene, self.neighbours)]) for scene in scenes])
        parts = []
        while some := list(islice(scenes, SCENES_PER_BATCH)):
            drawn = render_batch(some, self.neighbours, self.device)
            parts.append({name: value.cpu().numpy() for name, value in drawn.items()})
        return pack(parts)

    def sample(self, arrays: Mapping[str, NDArray[Any]], index: int, rng: Generator) -> Arrays:
        """Return one scene without augmentation."""
        out: Arrays = {"t": arrays["t"][index]}
        names = FRAMES if arrays["frames"].shape[1] == len(FRAMES) else FRAMES[1:4]
        out |= dict(zip(names, arrays["frames"][index], strict=True))
        flows = arrays["flows"][index]
        out |= dict(zip(FLOW_NAMES, flows, strict=False))
        masks = arrays["masks"][index]
        for bit, name in enumerate(MASK_NAMES):
            if bit < 7 or len(flows) == len(FLOW_NAMES):
                out[name] = (masks >> bit & 1).astype(np.uint8)
        return out


@dataclass(frozen=True)
class PreparedSource(ABC):
    """Samples of another source, augmented and prepared once for all their uses, as a source of shards."""

    source: Source
    size: int  # pixels of a side, of whole samples
    seed: ClassVar[int]  # of the augmentation, with the number of the shard

    def make(self, number: int, samples: int) -> Arrays:
        """Make a shard."""
        drawn = self.source.make(number, samples)
        rng = np.random.default_rng([self.seed, number])
        rows = [self._prepared(self.source.sample(drawn, k, rng), rng) for k in range(samples)]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _prepared(self, sample: Arrays, rng: Generator) -> Arrays:
        height, width = sample["a"].shape[:2]
        return self.prepare(augment(sample, draw_augmentation(rng, height, width, self.size)), rng)

    @abstractmethod
    def prepare(self, made: dict[str, Tensor], rng: Generator) -> Arrays:
        """Return the arrays to store of one augmented sample, see `augment`."""

    def sample(self, arrays: Mapping[str, NDArray[Any]], index: int, rng: Generator) -> Arrays:
        """Return one sample as it was stored."""
        return {name: value[index] for name, value in arrays.items()}


@lru_cache(maxsize=1)
def cached_textures(photos: tuple[Path, ...]) -> Textures:
    """Return the textures of a process, which decodes each photograph once."""
    return training_textures(photos)


def pack(parts: Sequence[Mapping[str, NDArray[Any]]]) -> Arrays:
    """Pack rendered scenes (of `scenes.stack`) into a shard: frames uint8, flows float16, masks as bits of uint16."""

    def joined(names: Sequence[str]) -> NDArray[Any]:
        rows = [np.stack([part[name].transpose(0, 2, 3, 1) for name in names], 1) for part in parts]
        return np.concatenate(rows)

    first = parts[0]
    masks = np.concatenate(
        [
            sum(part[name].astype(np.uint16) << bit for bit, name in enumerate(MASK_NAMES) if name in part)
            for part in parts
        ]
    )
    return {
        "frames": joined([name for name in FRAMES if name in first]),
        # steps of 0.008 px below 16 px
        "flows": joined([name for name in FLOW_NAMES if name in first]).astype(np.float16),
        "masks": masks,
        "t": np.concatenate([part["t"] for part in parts]),
    }


# Shards on disk


class Shards:
    """A sliding window of shards of one source, made ahead by worker processes and deleted after use.

    Sample i of this source is drawn from shard i // (samples * reuse) and up to `window - 1` shards before it. Training
    starts as soon as one shard exists, every sample is used `reuse` times on average, and at most `window + ahead`
    shards are on disk.

    Args:
        folder: of the shards; created if missing. Only one run at a time may use it.
        source: of the samples.
        samples: per shard.
        reuse: average number of uses of a sample.
        window: shards that samples are drawn from.
        ahead: shards made in advance.
        workers: processes; 0 makes each shard in this process when it is needed.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        samples: int = SAMPLES_PER_SHARD,
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
        self._first = multiprocessing.get_context("spawn").Value("q", 0)  # oldest shard in the window
        self._draws = 0
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, position: int = 0) -> None:
        """Start the workers for a reader that begins at sample `position`."""
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
        """Return the oldest shard that sample `position` may come from."""
        return max(self.last_shard(position) - self.window + 1, 0)

    def last_shard(self, position: int) -> int:
        """Return the newest shard that sample `position` may come from."""
        return int(position / (self.samples * self.reuse))

    def draw(self, position: int, rng: Generator) -> Arrays:
        """Return sample `position` without augmentation; waits for its shard."""
        first = self.first_shard(position)
        self._advance(first)
        arrays = self.arrays(first + int(rng.integers(self.last_shard(position) - first + 1)))
        return self.source.sample(arrays, int(rng.integers(self.samples)), rng)

    def arrays(self, number: int) -> Arrays:
        """Return the memory-mapped arrays of a shard.

        Raises:
            JobError: a worker ended, or the shard did not appear within ten minutes.
        """
        if number in self._open:
            return self._open[number]
        path, since = shard_path(self.folder, number), time.monotonic()
        while not path.is_dir():
            if not self._processes:
                write_shard(path, self.source.make(number, self.samples))
                break
            dead = [p for p in self._processes if not p.is_alive()]
            if dead or time.monotonic() - since > SHARD_TIMEOUT:
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
    """Limit processes started in this context to one thread each.

    NumPy reads the variables when it is imported. With one thread per core in every worker, products of small matrices
    took 11 ms instead of 0.3 ms beside a trainer, and rendering took four times as long.
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
    """Return the folder of shard `number`."""
    return folder / f"shard-{number:06d}"


def write_shard(path: Path, arrays: Arrays) -> None:
    """Write a shard under a temporary name, then rename it."""
    hidden = path.with_name(f".{path.name}-{os.getpid()}")
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(hidden / f"{name}.npy", array)
    try:
        hidden.rename(path)
    except OSError:  # another process made the same shard
        shutil.rmtree(hidden, ignore_errors=True)
        if not path.is_dir():
            raise


def _work(
    folder: Path, source: Source, samples: int, first: Any, ahead: int, parent: int, worker: int, workers: int
) -> None:
    """Run a worker: make its share of shards `first` to `first + ahead` until the parent ends."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer ends its workers
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
class Augmentation:
    """Augmentation of a sample, applied alike to images, flows and masks."""

    top: int
    left: int
    crop: int
    mirrored: bool
    turns: int  # quarter turns, counter-clockwise as in np.rot90
    reverse_time: bool
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: float = 0.0  # added to all channels
    channels: tuple[int, int, int] = (0, 1, 2)  # order of the colour channels
    fade: float = 0.0  # logarithm of the brightness of b over that of a; linear in between

    def brightness(self, time: float) -> float:
        """Return the gain at a time (a at 0, b at 1); the brighter of a and b keeps its brightness."""
        gain = math.exp(self.fade)
        return max(0.0, 1.0 + (gain - 1.0) * time) / max(1.0, gain)


def draw_augmentation(rng: Generator, height: int, width: int, crop: int) -> Augmentation:
    """Draw a crop, flip, rotation and time direction; colour changes for half of the samples, a fade for some."""
    gain, offset, channels = (1.0, 1.0, 1.0), 0.0, (0, 1, 2)
    if rng.random() < 0.5:
        drawn = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.06, 3))
        gain, offset = (float(drawn[0]), float(drawn[1]), float(drawn[2])), float(rng.normal(0, 0.03))
    if rng.random() < 0.3:
        one, two, three = (int(c) for c in rng.permutation(3))
        channels = (one, two, three)
    fade = float(rng.normal(0, FADE_SIGMA)) if rng.random() < FADE_SHARE else 0.0
    return Augmentation(
        int(rng.integers(height - crop + 1)),
        int(rng.integers(width - crop + 1)),
        crop,
        bool(rng.random() < 0.5),
        int(rng.integers(4)),
        bool(rng.random() < 0.5),
        gain,
        offset,
        channels,
        fade,
    )


def augment(sample: Arrays, augmentation: Augmentation) -> dict[str, Tensor]:
    """Augment a sample: returns images and flows (C, H, W), masks (1, H, W).

    Pixels whose match falls outside the crop are marked occluded in `hidden_*`.
    """
    rows, columns = (
        slice(augmentation.top, augmentation.top + augmentation.crop),
        slice(augmentation.left, augmentation.left + augmentation.crop),
    )
    out: dict[str, Tensor] = {}
    when = {"before": -1.0, "a": 0.0, "b": 1.0, "after": 2.0}
    if "t" in sample:
        when["target"] = 1.0 - float(sample["t"]) if augmentation.reverse_time else float(sample["t"])
    for name, value in sample.items():
        if name == "t":
            out["t"] = torch.tensor(when["target"])
            continue
        key = REVERSED_NAMES.get(name, name) if augmentation.reverse_time else name
        part = np.asarray(value[rows, columns])
        if augmentation.mirrored:
            part = part[:, ::-1]
        part = np.ascontiguousarray(np.rot90(part, augmentation.turns))
        tensor = torch.from_numpy(part)
        if name in FRAMES:
            image = tensor.permute(2, 0, 1).float().div_(255)
            if augmentation.channels != (0, 1, 2):
                image = image[list(augmentation.channels)]
            if augmentation.gain != (1.0, 1.0, 1.0) or augmentation.offset:
                image = (image * torch.tensor(augmentation.gain).view(3, 1, 1) + augmentation.offset).clamp_(0, 1)
            if augmentation.fade:
                image = (image * augmentation.brightness(when[key])).clamp_(max=1)
            out[key] = image.contiguous()
        elif name in FLOW_NAMES:
            flow = tensor.permute(2, 0, 1).float()
            out[key] = turned_vectors(flow, augmentation.mirrored, augmentation.turns)
        else:
            out[key] = tensor.bool()[None]
    for name, flow in [(n, f) for n, f in out.items() if n in FLOW_NAMES]:
        hidden = name.replace("flow", "hidden")
        if hidden in out:
            out[hidden] = out[hidden] | leaves_frame(flow)
    return out


def turned_vectors(flow: Tensor, mirrored: bool, turns: int) -> Tensor:
    """Vectors (..., 2, H, W) of a flow whose grid was mirrored and turned counter-clockwise."""
    x, y = flow.unbind(-3)
    if mirrored:
        x = -x
    for _ in range(turns % 4):
        x, y = y, -x  # counter-clockwise: right becomes up, down becomes right
    return torch.stack([x, y], -3)


def leaves_frame(flow: Tensor) -> Tensor:
    """Return (1, H, W) bool: pixels whose flow (2, H, W) leaves the image."""
    height, width = flow.shape[1:]
    x = flow[0] + torch.arange(width, dtype=torch.float32)
    y = flow[1] + torch.arange(height, dtype=torch.float32)[:, None]
    return ((x < -0.5) | (x > width - 0.5) | (y < -0.5) | (y > height - 0.5))[None]


@dataclass(frozen=True)
class Share:
    """A source of a run and its share of the samples."""

    shards: Shards
    share: float


class Batches:
    """Endless batches, determined by seed and position.

    A batch is a dict of float32 tensors: `before`, `a`, `target`, `b`, `after` (B, 3, H, W) RGB 0..1, `t` (B,), flows
    (B, 2, H, W) in pixels under the names in `FLOW_NAMES`, bool masks (B, 1, H, W) under those in `MASK_NAMES`, and
    `has_flow` and `has_neighbours` (B,) bool. Samples without flow have zero flow and empty masks; without neighbours
    `before` is a and `after` is b.

    Args:
        shares: sources and their shares.
        batch: samples per batch.
        crop: side, pixels.
        seed: of sampling and augmentation.
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
        """Return the next batch."""
        samples = [self.sample(self.position + k) for k in range(self.batch)]
        self.position += self.batch
        return self.join(samples)

    def sample(self, position: int) -> dict[str, Tensor]:
        """Return sample `position` of the run."""
        rng = np.random.default_rng([self.seed, position])
        number = int(rng.choice(len(self.shards), p=self.shares))
        # the position in a source depends only on the position in the run
        return self.finish(self.shards[number].draw(int(position * self.shares[number]), rng), rng)

    def finish(self, drawn: Arrays, rng: Generator) -> dict[str, Tensor]:
        """Augment a stored sample."""
        height, width = drawn["a"].shape[:2]
        if min(height, width) < self.crop:
            raise InputError(f"batches: a crop of {self.crop} px is larger than the samples, {width}x{height}")
        return augment(drawn, draw_augmentation(rng, height, width, self.crop))

    def join(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Collate samples."""
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
    """Collate samples into a batch, see `Batches`."""
    has_flow = torch.tensor(["flow_ab" in sample for sample in samples])
    has_neighbours = torch.tensor(["before" in sample and "after" in sample for sample in samples])
    out = {"t": torch.stack([sample["t"] for sample in samples]), "has_flow": has_flow}
    out["has_neighbours"] = has_neighbours
    crop = samples[0]["a"].shape[-1]
    for name in FRAMES:
        stand_in = {"before": "a", "after": "b"}.get(name, name)
        out[name] = torch.stack([sample.get(name, sample[stand_in]) for sample in samples])
    no_flow, no_mask = torch.zeros(2, crop, crop), torch.zeros(1, crop, crop, dtype=torch.bool)
    for name in FLOW_NAMES:
        out[name] = torch.stack([sample.get(name, no_flow) for sample in samples])
    for name in MASK_NAMES:
        out[name] = torch.stack([sample.get(name, no_mask) for sample in samples])
    return out
