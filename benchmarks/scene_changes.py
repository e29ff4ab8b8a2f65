"""Precision and recall of scene-change detection on joined real clips, over brightness, contrast, noise and motion.

    python benchmarks/scene_changes.py CLIPS... [--pairs 120] [--cache FOLDER] [--seed 0] [--json results.json]

Positives: two clips joined in the middle, at normal and triple speed, with irregular duplicates. Negatives: runs of one
clip at normal, triple and sixfold speed, with irregular duplicates, flashes, light switched, fades, dissolves, whip
pans, shake. Every case is shown at six levels of brightness and contrast, one of them with sensor noise. A detection
counts at the exact frame only. Frames are reduced to the samples that the detector's thumbnails take, which changes no
thumbnail.

The clips must not contain scene changes of their own; `--skip NAME:FRAME` leaves out the shorter side of one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from midframe import shots
from midframe.types import Frame, PixelFormat
from midframe.video.reader import open_reader

Video = npt.NDArray[np.uint8]  # (frames, 3, height, width) Y, Cb, Cr at one size
Levels = npt.NDArray[np.float32]

FRAMES = 150  # read of every clip
LENGTH = 24  # frames of a case
YUV = PixelFormat("yuv444p", "yuv", 8)
# name -> (gain of luma and chroma, luma level of black, noise in levels)
LEVELS = {
    "as it is": (1.0, 16.0, 0.0),
    "dim": (0.4, 16.0, 0.0),
    "dark": (0.12, 16.0, 0.0),
    "dark, noise": (0.12, 18.0, 2.0),
    "gray, flat": (0.2, 100.0, 0.0),
    "bright, flat": (0.15, 190.0, 0.0),
}


@dataclass(frozen=True)
class Case:
    kind: str
    level: str
    video: Video
    changes: frozenset[int]  # indexes of the frames that begin a shot


def samples(path: Path) -> Video | None:
    """The samples of a clip that thumbnails take; None unless it is YUV."""
    taken = []
    with open_reader(path) as frames:
        for frame in islice(frames, FRAMES):
            if frame.format.layout != "yuv":
                return None
            height, width = (4 * side for side in shots.thumbnail(frame).shape[1:])
            planes = []
            for plane in frame.planes[:3]:
                rows, columns = (
                    ((np.arange(count) + 0.5) * (side / count)).astype(int)
                    for side, count in zip(plane.shape, (height, width), strict=True)
                )
                planes.append(plane.numpy()[rows[:, None], columns] >> (frame.format.depth - 8))
            taken.append(np.stack(planes).astype(np.uint8))
    return np.stack(taken)


def load(paths: list[Path], cache: Path | None) -> dict[str, Video]:
    clips = {}
    for path in paths:
        kept = None if cache is None else cache / f"{path.parent.name}__{path.name}.npy"
        if kept is not None and kept.exists():
            clip: Video | None = np.load(kept)
        else:
            clip = samples(path)
            if kept is not None and clip is not None:
                np.save(kept, clip)
        if clip is not None and len(clip) > LENGTH:
            clips[path.name] = clip
    return clips


def fitted(video: Video, shape: tuple[int, ...]) -> Video:
    """The same video at another size, by nearest neighbours."""
    rows = np.arange(shape[-2]) * video.shape[-2] // shape[-2]
    columns = np.arange(shape[-1]) * video.shape[-1] // shape[-1]
    return video[:, :, rows[:, None], columns]


def exposed(video: Levels | Video, level: str, dice: np.random.Generator) -> Video:
    gain, black, noise = LEVELS[level]
    out = video.astype(np.float32)
    out[:, 0] = black + gain * (out[:, 0] - 16)
    out[:, 1:] = 128 + gain * (out[:, 1:] - 128)
    if noise:
        out += dice.normal(0, noise, out.shape).astype(np.float32)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def stuttering(count: int, dice: np.random.Generator) -> npt.NDArray[np.int_]:
    """Indexes with irregular duplicates: every frame is shown one to four times, and those in between are lost."""
    shown: list[int] = []
    while len(shown) < count:
        shown += [len(shown)] * int(dice.integers(1, 5))
    return np.array(shown[:count])


def joints(clips: dict[str, Video], pairs: int, dice: np.random.Generator) -> Iterator[tuple[str, Levels, set[int]]]:
    names = sorted(clips)
    for n in range(pairs):
        one, two = (clips[names[i]] for i in dice.choice(len(names), 2, replace=False))
        kind, speed = (("cut", 1), ("cut, triple speed", 3), ("cut, duplicates", 1))[n % 3]
        half = LENGTH // 2
        left, right = (at_random(clip, half, speed, dice) for clip in (one, two))
        joined = np.concatenate([left, fitted(right, left.shape)]).astype(np.float32)
        changes = {half}
        if kind == "cut, duplicates":
            shown = stuttering(LENGTH, dice)
            joined, changes = joined[shown], {int(np.argmax(shown >= half))}
        yield kind, joined, changes


def at_random(clip: Video, count: int, speed: int, dice: np.random.Generator) -> Video:
    """A run of a clip, as fast as its length allows."""
    speed = min(speed, (len(clip) - 1) // count)
    first = int(dice.integers(0, len(clip) - count * speed))
    return clip[first : first + count * speed : speed]


def single(clip: Video, other: Video, dice: np.random.Generator) -> Iterator[tuple[str, Levels]]:
    """Runs without a scene change."""
    run = at_random(clip, LENGTH, 1, dice).astype(np.float32)
    middle = LENGTH // 2
    yield "motion", run
    for speed in (3, 6):
        if len(clip) > speed * LENGTH:
            yield f"motion, {speed} times as fast", at_random(clip, LENGTH, speed, dice).astype(np.float32)
    yield "duplicates", run[stuttering(LENGTH, dice)]
    fast = at_random(clip, LENGTH, 3, dice).astype(np.float32)
    yield "duplicates, fast", fast[stuttering(LENGTH, dice)]
    for length in (1, 2):
        flash = run.copy()
        flash[middle : middle + length, 0] = 120 + 0.5 * flash[middle : middle + length, 0]
        yield f"flash of {length}", flash
    light = run.copy()
    light[middle:, 0] = 16 + 0.45 * (light[middle:, 0] - 16)
    yield "light switched", light
    ramp = np.clip(np.abs(np.arange(LENGTH) - middle) / 8, 0, 1).astype(np.float32)[:, None, None, None]
    black = np.array([16, 128, 128], np.float32)[:, None, None]
    yield "fade out and in", black + (run - black) * ramp
    beyond = fitted(at_random(other, LENGTH, 1, dice), run.shape).astype(np.float32)
    yield (
        "dissolve",
        run + (beyond - run) * np.clip((np.arange(LENGTH, dtype=np.float32) - 6) / 10, 0, 1)[:, None, None, None],
    )
    width = run.shape[-1]
    wide = np.concatenate([run, run[..., ::-1]], -1)
    steps = np.concatenate([np.zeros(8), np.linspace(0, width // 8, 6), np.linspace(width // 8, 0, 6), np.zeros(4)])
    places = np.cumsum(steps).astype(int) % (2 * width)
    yield "whip pan", np.stack([np.roll(f, -at, -1)[..., :width] for f, at in zip(wide, places, strict=True)])
    jitter = dice.integers(-8, 9, (LENGTH, 2))
    yield "shake", np.stack([np.roll(f, tuple(at), (-2, -1)) for f, at in zip(run, jitter, strict=True)])


def cases(clips: dict[str, Video], pairs: int, seed: int) -> Iterator[Case]:
    dice = np.random.default_rng(seed)
    for kind, video, changes in joints(clips, pairs, dice):
        for level in LEVELS:
            yield Case(kind, level, exposed(video, level, dice), frozenset(changes))
    names = sorted(clips)
    for n, name in enumerate(names):
        for kind, video in single(clips[name], clips[names[n - 7]], dice):
            for level in LEVELS:
                yield Case(kind, level, exposed(video, level, dice), frozenset())


def frames_of(video: Video) -> Iterator[Frame]:
    for n, planes in enumerate(video):
        tensors = tuple(torch.from_numpy(np.ascontiguousarray(plane)) for plane in planes)
        yield Frame(tensors, YUV, Fraction(n, 24), Fraction(1, 24), n)


def found(video: Video) -> set[int]:
    return {frame.index for frame, begins in shots.Thumbnails().mark(frames_of(video)) if begins}


def table(results: dict[tuple[str, str], list[tuple[int, int, int]]]) -> list[dict[str, Any]]:
    rows = []
    for level in [*LEVELS, "all"]:
        mine = [r for (_, at), many in results.items() if level in (at, "all") for r in many]
        hits, false, missed = (sum(r[i] for r in mine) for i in range(3))
        rows.append(
            {
                "level": level,
                "cases": len(mine),
                "precision": hits / max(1, hits + false),
                "recall": hits / max(1, hits + missed),
                "false": false,
                "missed": missed,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--skip", nargs="*", default=[], metavar="NAME:FRAME")
    given = parser.parse_args()
    clips = load(sorted(given.clips), given.cache)
    for name, _, frame in (text.rpartition(":") for text in given.skip):
        if name in clips:  # the longer of the two parts
            clips[name] = max(clips[name][: int(frame)], clips[name][int(frame) :], key=len)
    results: dict[tuple[str, str], list[tuple[int, int, int]]] = defaultdict(list)
    began, count = time.process_time(), 0
    for case in cases({n: c for n, c in clips.items() if len(c) > LENGTH}, given.pairs, given.seed):
        got = found(case.video)
        hits = len(got & case.changes)
        results[case.kind, case.level].append((hits, len(got) - hits, len(case.changes) - hits))
        count += LENGTH
    took = time.process_time() - began
    rows = table(results)
    print(f"{len(clips)} clips, {count} frames, {1000 * took / count:.2f} ms a frame")
    for row in rows:
        scores = f"precision {row['precision']:.4f} recall {row['recall']:.4f}"
        print(f"{row['level']:14} {scores} false {row['false']} missed {row['missed']}")
    kinds: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for (kind, _), many in results.items():
        kinds[kind] += many
    for kind, many in kinds.items():
        print(f"  {kind:26} {len(many):5} cases, false {sum(r[1] for r in many):4}, missed {sum(r[2] for r in many):4}")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
