"""Make docs/images/hard-moments.jpg: left-out frames of real clips by all methods, side by side, beside the true frame.

    python benchmarks/contact_sheet.py CLIPS [--peers ENV] [--rife flownet.pkl]

CLIPS holds the clips of moments.csv, which names source, licence, first frame, distance of the two input frames and the
part shown (centre and width as shares of the frame). Frames are scaled to at most 360 rows first. The input before and
after the gap is given to methods that use it.
"""

from __future__ import annotations

import argparse
import csv
import os
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import rig
import torch
from torch import Tensor

from midframe import colour, metrics
from midframe.evaluation.datasets import Case, DataSet, Target, scaled_down
from midframe.evaluation.methods import make_method
from midframe.video.reader import open_reader

COLUMNS = ("svpflow", "mvtools-high", "minterpolate", "rife", "dis", "midnet-m")
TILE = (176, 132)  # pixels
ROWS = 360
BAR = 18  # pixels above the columns
OUT = rig.HERE.parent / "docs" / "images" / "hard-moments.jpg"


def moment(clips: Path, row: dict[str, str]) -> Case:
    """Read the case of one line of moments.csv."""
    first, distance = int(row["first"]), int(row["distance"])
    wanted = {first + k * distance for k in (-1, 0, 1, 2)} | {first + distance // 2}
    frames: dict[int, Tensor] = {}
    with open_reader(str(clips / row["clip"])) as reader:
        for index, frame in enumerate(reader):
            if index in wanted:
                frames[index] = colour.to_rgb(frame.planes, frame.format)
            if index > max(wanted):
                break
    a, b, truth = (frames[first + k] for k in (0, distance, distance // 2))
    before, after = frames.get(first - distance), frames.get(first + 2 * distance)
    case = Case(row["shows"], a, b, (Target(Fraction(1, 2), truth),), before, after)
    return next(iter(scaled_down(DataSet("", "", 1, lambda: iter([case])), ROWS).cases()))


def tile(frame: Tensor, row: dict[str, str]) -> np.ndarray:
    """Cut the part shown and scale it to a tile, BGR."""
    pixels = metrics.to_levels(frame).byte().permute(1, 2, 0).numpy()[..., ::-1]
    height, width = pixels.shape[:2]
    wide = round(float(row["width"]) * width)
    tall = min(height, round(wide * TILE[1] / TILE[0]))
    left = min(max(round(float(row["x"]) * width - wide / 2), 0), width - wide)
    top = min(max(round(float(row["y"]) * height - tall / 2), 0), height - tall)
    return cv2.resize(pixels[top : top + tall, left : left + wide], TILE, interpolation=cv2.INTER_CUBIC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--peers", type=Path, default=os.environ.get("MIDFRAME_PEERS"))
    parser.add_argument("--rife", default=os.environ.get("MIDFRAME_RIFE_HDV3"))
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    peers = arguments.peers and Path(arguments.peers)
    methods = [make_method(n, arguments.rife if n == "rife" else None, peers=peers) for n in COLUMNS]
    lines = []
    with (rig.HERE / "moments.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        case = moment(arguments.clips, row)
        half = [Fraction(1, 2)]
        frames = [m.between(case.a, case.b, half, case.before, case.after)[0] for m in methods]
        tiles = [tile(frame, row) for frame in (*frames, case.targets[0].truth)]
        lines.append(
            np.hstack([cv2.copyMakeBorder(t, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(255,) * 3) for t in tiles])
        )
    bar = np.full((BAR, lines[0].shape[1], 3), 255, np.uint8)
    for k, name in enumerate((*COLUMNS, "true frame")):
        at = (k * (TILE[0] + 2) + 4, BAR - 5)
        cv2.putText(bar, name, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
    arguments.out.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(arguments.out), np.vstack([bar, *lines]), [cv2.IMWRITE_JPEG_QUALITY, 80])


if __name__ == "__main__":
    main()
