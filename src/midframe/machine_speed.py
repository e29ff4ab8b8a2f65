"""Speed of earlier runs on this machine, from which plans estimate their time.

Kept in `speed.json`: the latest runs with model, device, precision, encoder, frame size, share of
interpolated frames and seconds per output frame. Nothing leaves the machine; a file that is damaged or cannot be
written only costs the estimate.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from midframe.journal import write_whole
from midframe.weights import cache_folder

KEPT = 200  # runs
BLUR_COST = 8.0  # a blurred frame in interpolated ones, before the first blurred run; as SAMPLES_WITHOUT_FLOW
LEAST_FRAMES = 24  # interpolated frames below which a run says little
# Distance of two runs: for a factor of e in frame size, for the share of interpolated frames, for another encoder.
SIZE_WEIGHT, SHARE_WEIGHT, ENCODER_WEIGHT = 1.0, 2.0, 0.5


@dataclass(frozen=True)
class RunSpeed:
    """What one run took."""

    model: str
    device: str
    precision: str
    encoder: str
    pixels: int  # of a frame
    interpolated: float  # share of the output frames
    seconds: float  # per output frame, start and join left out
    blurred: bool = False  # motion blur: an output frame has as many samples as the motion needs


def speed_file() -> Path:
    """Where runs are kept: `$MIDFRAME_SPEED_FILE`, else the cache folder. Tests keep theirs apart."""
    return Path(os.environ.get("MIDFRAME_SPEED_FILE") or cache_folder() / "speed.json")


def recorded() -> list[RunSpeed]:
    """All runs that are kept, oldest first; empty where the file is missing or damaged."""
    try:
        return [RunSpeed(**entry) for entry in json.loads(speed_file().read_text())]
    except (OSError, ValueError, TypeError):
        return []


def record(run: RunSpeed, frames: int) -> None:
    """Keep a run with this many interpolated frames; short ones are left out."""
    if frames < LEAST_FRAMES or not math.isfinite(run.seconds) or run.seconds <= 0:
        return
    entries = [asdict(entry) for entry in (*recorded(), run)][-KEPT:]
    path = speed_file()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(entries))


def seconds_per_frame(like: RunSpeed) -> float | None:
    """Seconds per output frame of a run like this one, whose own `seconds` are not read; None before the first run.

    The mean of the three nearest runs of the same model, device and precision, scaled by frame size. Runs with and
    without motion blur are kept apart; before the first blurred run, its time follows from the others.
    """
    known = [
        run for run in recorded() if (run.model, run.device, run.precision) == (like.model, like.device, like.precision)
    ]

    alike = [run for run in known if run.blurred == like.blurred]
    cost = 1.0
    if like.blurred and not alike:
        alike, cost = known, BLUR_COST

    def distance(run: RunSpeed) -> float:
        size = abs(math.log(run.pixels / like.pixels))
        share = abs(run.interpolated - like.interpolated)
        return SIZE_WEIGHT * size + SHARE_WEIGHT * share + ENCODER_WEIGHT * (run.encoder != like.encoder)

    near = sorted(reversed(alike), key=distance)[:3]  # of equally near ones the latest
    if not near:
        return None
    if cost != 1.0:  # time per interpolated frame
        scaled = [cost * run.seconds / max(run.interpolated, 0.1) * like.pixels / run.pixels for run in near]
    else:
        scaled = [run.seconds * like.pixels / run.pixels for run in near]
    return math.exp(sum(math.log(value) for value in scaled) / len(scaled))
