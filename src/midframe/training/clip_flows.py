"""Pseudo-labels for large, non-rigid motion: flow between neighbouring frames of real clips, composed over several.

Classical flow is accurate between neighbouring frames, but fails over eight frames on a runner's legs. Composing
it over 1 to 8 frames, and keeping pixels where the forward and backward chains agree and the colours match, labels
motion that rendered scenes do not contain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from midframe import kernels
from midframe.models.flow.bidirectional import estimate_bidirectional
from midframe.models.flow.frame import FlowFrame
from midframe.models.flow.sampling import pixel_grid, sample
from midframe.models.flow.types import DisConfig
from midframe.training.clips import Clip, collect, found_clips, read_run
from midframe.training.shards import FLOW_NAMES, FRAMES, Arrays

Bytes = NDArray[np.uint8]
Flow = NDArray[np.float32]

DISTANCES = (1, 2, 3, 4, 6, 8)  # frames
DISTANCE_PROBABILITIES = (0.05, 0.1, 0.15, 0.25, 0.25, 0.2)
SHORT_SIDE = (240, 400)  # of the resized frames, pixels: smallest and largest
CONSISTENCY_TOLERANCE = 0.7, 0.05  # forward-backward error: pixels, and share of the flow length
MAX_COLOUR_DIFFERENCE = 18.0  # 8-bit levels, mean over 5x5
MIN_LABELLED_SHARE = 0.4  # of the pixels of a crop
MIN_MEAN_MOTION = 1.5  # pixels; most crops below it are rejected
CROPS_PER_RUN = 20  # from one run of consecutive frames
SCENE_CHANGE_DIFFERENCE = 40.0  # mean absolute difference of neighbours, levels
MAX_UNLABELLED_RUNS = 60  # in a row
DIS_CONFIG = DisConfig(1, 4, 25, 0)


@dataclass(frozen=True)
class ClipFlows:
    """Source of shards: crops of real clips with composed flow; unknown flow is NaN."""

    folders: tuple[Path, ...]
    size: int = 224  # pixels
    detail: int = 1  # frames are stored at this multiple of the size of the flow, whose labels are enlarged

    def make(self, number: int, samples: int) -> Arrays:
        """Cut a shard.

        Raises:
            InputError: the clips hold no usable frames.
        """
        rng = np.random.default_rng([12, number])
        kept = collect(
            found_clips(self.folders, max(DISTANCES) + 1),
            rng,
            samples,
            lambda clip: label_crops(clip, rng, self.size, self.detail),
            "a frame pair that can be labelled",
            MAX_UNLABELLED_RUNS,
        )
        return {name: np.stack([sample[name] for sample in kept]) for name in ("frames", "flows", "t")}

    def sample(self, arrays: Mapping[str, NDArray[Any]], index: int, rng: Generator) -> Arrays:
        """Return frames a, target and b and the flows between a and b; occlusion is unknown."""
        out: Arrays = {"t": arrays["t"][index]}
        out |= dict(zip(FRAMES[1:4], arrays["frames"][index], strict=True))
        flows = arrays["flows"][index]
        if self.detail > 1:
            flows = self.detail * flows.repeat(self.detail, 1).repeat(self.detail, 2)
        out |= dict(zip(FLOW_NAMES[:2], flows, strict=True))
        return out


def label_crops(clip: Clip, rng: Generator, size: int, detail: int = 1) -> list[Arrays]:
    """Up to `PER_RUN` crops from one place of a clip."""
    frames = longest_shot(read_run(clip, rng))
    if len(frames) < 3 or min(frames[0].shape[:2]) < detail * SHORT_SIDE[0]:
        return []
    short = min(frames[0].shape[:2]) // detail
    wanted = float(np.exp(rng.uniform(np.log(SHORT_SIDE[0]), np.log(min(SHORT_SIDE[1], short)))))
    scale = wanted / min(frames[0].shape[:2])
    height, width = (round(side * scale) for side in frames[0].shape[:2])
    large = [_resized(f, detail * height, detail * width) for f in frames]
    frames = [_resized(f, height, width) for f in large]
    flow_frames = [FlowFrame.of(np.asarray(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), np.uint8)) for f in frames]
    workspace = kernels.workspace(1)
    found = [estimate_bidirectional(*pair, DIS_CONFIG, 4, workspace=workspace) for pair in pairwise(flow_frames)]
    forward, backward = [x.forward for x in found], [x.backward for x in found]
    out: list[Arrays] = []
    for _ in range(3 * CROPS_PER_RUN):
        if len(out) == CROPS_PER_RUN:
            break
        distance = int(rng.choice(DISTANCES, p=DISTANCE_PROBABILITIES))
        if distance >= len(frames) or (distance == 1 and detail > 1):  # there is no target frame
            continue
        first = int(rng.integers(len(frames) - distance))
        sample = label_crop(frames, forward, backward, (first, distance), rng, size, large)
        if sample is not None:
            out.append(sample)
    return out


def _resized(frame: Bytes, height: int, width: int) -> Bytes:
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def longest_shot(frames: Sequence[Bytes]) -> list[Bytes]:
    """Return the longest run of frames without a scene change."""
    best: list[Bytes] = []
    run: list[Bytes] = []
    for frame in frames:
        if run:
            one, two = (
                cv2.resize(x, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32) for x in (run[-1], frame)
            )
            if run[-1].shape != frame.shape or float(np.abs(one - two).mean()) > SCENE_CHANGE_DIFFERENCE:
                run = []
        run.append(frame)
        if len(run) > len(best):
            best = list(run)
    return best


def label_crop(
    frames: Sequence[Bytes],
    forward: Sequence[Flow],
    backward: Sequence[Flow],
    place: tuple[int, int],
    rng: Generator,
    size: int,
    large: Sequence[Bytes] | None = None,
) -> Arrays | None:
    """Cut one labelled crop; None if too little of it is labelled or it hardly moves.

    Args:
        frames: (H, W, 3) uint8.
        forward: flow from each frame to the next.
        backward: flow from each frame to the previous one.
        place: index of the first frame, and distance in frames.
        rng: random generator.
        size: of the crop, pixels.
        large: the same frames at a multiple of the size, to store instead.
    """
    first, distance = place
    ab = compose_flows(forward[first : first + distance])
    ba = compose_flows(backward[first : first + distance][::-1])
    a, b = frames[first], frames[first + distance]
    known_ab, known_ba = consistent_pixels(a, b, ab, ba), consistent_pixels(b, a, ba, ab)
    height, width = a.shape[:2]
    length = np.hypot(ab[..., 0], ab[..., 1]) * known_ab
    best, chosen = -1.0, (0, 0)
    for _ in range(4):  # the one of four random crops with the most motion
        top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
        moved = float(length[top : top + size : 8, left : left + size : 8].mean())
        if moved > best:
            best, chosen = moved, (top, left)
    window = np.s_[chosen[0] : chosen[0] + size, chosen[1] : chosen[1] + size]
    if known_ab[window].mean() < MIN_LABELLED_SHARE or (best < MIN_MEAN_MOTION and rng.random() < 0.7):
        return None
    flows = [
        np.where(known[window][..., None], flow[window], np.nan) for flow, known in ((ab, known_ab), (ba, known_ba))
    ]
    between = int(rng.integers(1, distance)) if distance > 1 else 0
    shown = frames if large is None else large
    detail = shown[0].shape[0] // height
    window = np.s_[detail * chosen[0] : detail * (chosen[0] + size), detail * chosen[1] : detail * (chosen[1] + size)]
    return {
        "frames": np.stack([shown[k][window] for k in (first, first + between, first + distance)]),
        "flows": np.stack(flows).astype(np.float16),
        "t": np.array(between / distance if between else 0.5, np.float32),
    }


def compose_flows(flows: Sequence[Flow]) -> Flow:
    """Compose a chain of flows; NaN where it leaves the frame."""
    total = flows[0].copy()
    height, width = total.shape[:2]
    grid = pixel_grid(height, width)
    for flow in flows[1:]:
        where = grid + total
        step = sample(flow, where)
        total = total + step
    where = grid + total
    outside = (where[..., 0] < 0) | (where[..., 0] > width - 1) | (where[..., 1] < 0) | (where[..., 1] > height - 1)
    total[outside] = np.nan
    return np.asarray(total, np.float32)


def consistent_pixels(here: Bytes, there: Bytes, flow: Flow, back: Flow) -> NDArray[np.bool_]:
    """Return (H, W) bool: pixels with a small forward-backward error and a matching colour."""
    known = np.isfinite(flow[..., 0])
    plain = np.nan_to_num(flow)
    grid = pixel_grid(*flow.shape[:2])
    returned = sample(back, grid + plain)  # NaN where the backward flow is unknown
    apart = np.hypot(*(plain + returned).transpose(2, 0, 1))
    length = np.hypot(plain[..., 0], plain[..., 1])
    with np.errstate(invalid="ignore"):
        known &= apart < CONSISTENCY_TOLERANCE[0] + CONSISTENCY_TOLERANCE[1] * length
    off = np.abs(here.astype(np.float32) - sample(there, grid + plain)).mean(2)
    known &= cv2.blur(off, (5, 5)) < MAX_COLOUR_DIFFERENCE
    # isolated pixels are unreliable
    solid = cv2.morphologyEx(known.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return np.asarray(solid, bool)
