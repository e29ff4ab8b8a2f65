"""Confidence against error: frames of real videos are dropped, interpolated, and compared with the truth.

    python benchmarks/confidence.py video.mp4 ... [--model dis] [--frames 12]

Of every video up to 160 frames are read at 384 rows or less; frame n + 2 is interpolated from n and n + 4. Prints the
rank correlation (Spearman) of 1 - confidence with -PSNR over the whole frame and over its worst 32 x 32 pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice

import av
import numpy as np
import torch
import torch.nn.functional as F

from midframe.engine import Engine
from midframe.models import load_model
from midframe.types import Frame, Gap, PixelFormat, Slot

ROWS, FRAMES, BLOCK = 384, 160, 32
CUT = 50  # 8-bit levels of mean difference above which two frames are taken for two shots
GRAY = PixelFormat("gray", "gray", 8)


def frames(path: str) -> Iterator[Frame]:
    with av.open(path) as video:
        for n, image in enumerate(video.decode(video=0)):
            scale = min(1.0, ROWS / image.height)
            gray = image.reformat(round(image.width * scale), round(image.height * scale), "gray")
            yield Frame((torch.from_numpy(gray.to_ndarray().copy()),), GRAY, Fraction(n), Fraction(1), n)


def measure(engine: Engine, shown: list[Frame], count: int) -> Iterator[tuple[float, float, float]]:
    """(1 - confidence, PSNR, PSNR of the worst block) for some frames of a video."""
    for i in range(0, len(shown) - 4, max(1, (len(shown) - 4) // count)):
        a, truth, b = (shown[i + n].planes[0].float() for n in (0, 2, 4))
        if not 0 < (a - b).abs().mean() < CUT:
            continue
        gap = Gap(shown[i], shown[i + 4], (Slot(shown[i + 2].pts, Fraction(1, 2)),))
        made = next(engine.run([gap]))
        if made.confidence is None:
            raise SystemExit(f"model {engine.model.name} has no flow, so it has no confidence")
        error = ((made.planes[0].float() - truth) / 255) ** 2
        worst = F.avg_pool2d(error[None, None], BLOCK, BLOCK // 2).max()
        yield 1 - made.confidence, psnr(float(error.mean())), psnr(float(worst))


def psnr(error: float) -> float:
    return -10 * float(np.log10(error + 1e-10))


def ranks(values: list[float]) -> np.ndarray:
    """Ranks, equal values sharing one."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[where]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--model", default="dis")
    parser.add_argument("--frames", type=int, default=12, help="of each video")
    options = parser.parse_args()
    engine = Engine(load_model(options.model))
    found = []
    for path in options.videos:
        found += measure(engine, list(islice(frames(path), FRAMES)), options.frames)
    missing, whole, worst = (list(column) for column in zip(*found, strict=True))
    print(f"{len(found)} frames of {len(options.videos)} videos, model {options.model}")
    for name, values in (("whole frame", whole), ("worst block", worst)):
        print(f"rank correlation with -PSNR, {name}: {np.corrcoef(ranks(missing), -ranks(values))[0, 1]:.3f}")
    for low, high in ((0.0, 0.98), (0.98, 0.998), (0.998, 1.001)):
        inside = [p for d, p in zip(missing, whole, strict=True) if low <= 1 - d < high]
        if inside:
            middle = np.median(inside)
            print(f"confidence from {low:g} to {min(high, 1):g}: {len(inside)} frames, median {middle:.1f} dB")


if __name__ == "__main__":
    main()
