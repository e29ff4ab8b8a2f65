"""Large motion with labels from real clips: classical flow between neighbouring frames, composed over several.

Between neighbouring frames of a clip the classical search is right nearly everywhere; from frame 0 to frame 8 it is
lost on a runner's legs. Its flows, composed over 1 to 8 frames and kept where the chain forward and the chain
backward agree and the frames look alike along them, label motion that is far and bends, which rendered scenes do not
teach.
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

from midframe.models.flow.bidirectional import estimate_bidirectional
from midframe.models.flow.sampling import pixel_grid, sample
from midframe.models.flow.types import DisConfig
from midframe.training.clips import Clip, collect, found_clips, read_run
from midframe.training.shards import FLOWS, FRAMES, Arrays

Bytes = NDArray[np.uint8]
Flow = NDArray[np.float32]

DISTANCES = (1, 2, 3, 4, 6, 8)  # frames that flows are composed over
CHANCES = (0.05, 0.1, 0.15, 0.25, 0.25, 0.2)
SHORT_SIDE = (240, 400)  # pixels of the frames that crops are cut from, smallest and largest
AGREEMENT = 0.7, 0.05  # pixels, and share of the length, by which forward and backward chains may differ
LIKENESS = 18.0  # levels by which two frames may differ along the flow, mean over 5x5
LEAST_KNOWN = 0.4  # of a crop's pixels must have a label
SLOW = 1.5  # pixels, mean motion of a crop below which most are left out
PER_RUN = 20  # samples from one run of frames
CUT = 40.0  # mean absolute difference in levels from which neighbours are taken for a cut
BARREN = 60  # runs without a sample before the clips are called unfit
SETTINGS = DisConfig(1, 4, 25, 0)


@dataclass(frozen=True)
class ClipFlows:
    """Crops of real clips with composed flow, as a source of shards; unknown flow is NaN."""

    folders: tuple[Path, ...]
    size: int = 224  # pixels
    detail: int = 1  # 2: frames are kept at twice the size at which flow is estimated, and its labels are enlarged

    def make(self, number: int, samples: int) -> Arrays:
        """Cut a shard.

        Raises:
            InputError: hardly any place of the clips is fit.
        """
        rng = np.random.default_rng([12, number])
        kept = collect(
            found_clips(self.folders, max(DISTANCES) + 1),
            rng,
            samples,
            lambda clip: labelled_crops(clip, rng, self.size, self.detail),
            "a frame pair that can be labelled",
            BARREN,
        )
        return {name: np.stack([sample[name] for sample in kept]) for name in ("frames", "flows", "t")}

    def sample(self, arrays: Mapping[str, NDArray[Any]], index: int, rng: Generator) -> Arrays:
        """One crop: frames a, target, b, flows between a and b, and no occlusion known."""
        out: Arrays = {"t": arrays["t"][index]}
        out |= dict(zip(FRAMES[1:4], arrays["frames"][index], strict=True))
        flows = arrays["flows"][index]
        if self.detail > 1:
            flows = self.detail * flows.repeat(self.detail, 1).repeat(self.detail, 2)
        out |= dict(zip(FLOWS[:2], flows, strict=True))
        return out


def labelled_crops(clip: Clip, rng: Generator, size: int, detail: int = 1) -> list[Arrays]:
    """Up to `PER_RUN` crops from one place of a clip."""
    frames = uncut(read_run(clip, rng))
    if len(frames) < 3 or min(frames[0].shape[:2]) < detail * SHORT_SIDE[0]:
        return []
    short = min(frames[0].shape[:2]) // detail
    wanted = float(np.exp(rng.uniform(np.log(SHORT_SIDE[0]), np.log(min(SHORT_SIDE[1], short)))))
    scale = wanted / min(frames[0].shape[:2])
    height, width = (round(side * scale) for side in frames[0].shape[:2])
    large = [_resized(f, detail * height, detail * width) for f in frames]
    frames = [_resized(f, height, width) for f in large]
    grays = [np.asarray(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), np.uint8) for f in frames]
    found = [estimate_bidirectional(one, two, SETTINGS, 4) for one, two in pairwise(grays)]
    forward, backward = [x.forward for x in found], [x.backward for x in found]
    out: list[Arrays] = []
    for _ in range(3 * PER_RUN):
        if len(out) == PER_RUN:
            break
        distance = int(rng.choice(DISTANCES, p=CHANCES))
        if distance >= len(frames) or (distance == 1 and detail > 1):  # without a frame between there is no target
            continue
        first = int(rng.integers(len(frames) - distance))
        sample = labelled(frames, forward, backward, (first, distance), rng, size, large)
        if sample is not None:
            out.append(sample)
    return out


def _resized(frame: Bytes, height: int, width: int) -> Bytes:
    return np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def uncut(frames: Sequence[Bytes]) -> list[Bytes]:
    """The longest stretch without a cut."""
    best: list[Bytes] = []
    run: list[Bytes] = []
    for frame in frames:
        if run:
            one, two = (
                cv2.resize(x, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32) for x in (run[-1], frame)
            )
            if run[-1].shape != frame.shape or float(np.abs(one - two).mean()) > CUT:
                run = []
        run.append(frame)
        if len(run) > len(best):
            best = list(run)
    return best


def labelled(
    frames: Sequence[Bytes],
    forward: Sequence[Flow],
    backward: Sequence[Flow],
    place: tuple[int, int],
    rng: Generator,
    size: int,
    large: Sequence[Bytes] | None = None,
) -> Arrays | None:
    """One crop with labels; None where too little is known or nothing moves.

    Args:
        frames: (H, W, 3).
        forward: flow from each frame to the next.
        backward: flow from each frame's successor back to it.
        place: first frame and distance.
        rng: source of all choices.
        size: of the crop, pixels.
        large: the frames at a multiple of their size, which the crop shows; the frames themselves if not given.
    """
    first, distance = place
    ab = composed(forward[first : first + distance])
    ba = composed(backward[first : first + distance][::-1])
    a, b = frames[first], frames[first + distance]
    known_ab, known_ba = agreeing(a, b, ab, ba), agreeing(b, a, ba, ab)
    height, width = a.shape[:2]
    length = np.hypot(ab[..., 0], ab[..., 1]) * known_ab
    best, chosen = -1.0, (0, 0)
    for _ in range(4):  # of four random places that with the most motion
        top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
        moved = float(length[top : top + size : 8, left : left + size : 8].mean())
        if moved > best:
            best, chosen = moved, (top, left)
    window = np.s_[chosen[0] : chosen[0] + size, chosen[1] : chosen[1] + size]
    if known_ab[window].mean() < LEAST_KNOWN or (best < SLOW and rng.random() < 0.7):
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


def composed(flows: Sequence[Flow]) -> Flow:
    """The flow along a chain; NaN from where it leaves the frame."""
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


def agreeing(here: Bytes, there: Bytes, flow: Flow, back: Flow) -> NDArray[np.bool_]:
    """(H, W): where a flow leads back to its start and to a pixel of like colour."""
    known = np.isfinite(flow[..., 0])
    plain = np.nan_to_num(flow)
    grid = pixel_grid(*flow.shape[:2])
    returned = sample(back, grid + plain)  # NaN next to a place without a way back
    apart = np.hypot(*(plain + returned).transpose(2, 0, 1))
    length = np.hypot(plain[..., 0], plain[..., 1])
    with np.errstate(invalid="ignore"):
        known &= apart < AGREEMENT[0] + AGREEMENT[1] * length
    off = np.abs(here.astype(np.float32) - sample(there, grid + plain)).mean(2)
    known &= cv2.blur(off, (5, 5)) < LIKENESS
    # single pixels prove nothing
    solid = cv2.morphologyEx(known.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return np.asarray(solid, bool)
