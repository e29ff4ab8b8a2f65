"""Quality and size of every software encoder at its default, and at neighbouring values: PSNR and SSIM of luma.

    python benchmarks/encoder_quality.py CLIP... [--frames 24] [--encoders libx264 libx265] [--spread 3]

The frames are cropped to 640x360 from the middle of each clip and encoded as `choose_encoder` would. The defaults in
`midframe.video.encoder_settings` are the values nearest to libx264 crf 16 by mean PSNR.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from statistics import mean

import torch

from midframe import metrics
from midframe.errors import MidframeError
from midframe.types import Frame, VideoInfo
from midframe.video.encoders import choose_encoder
from midframe.video.probe import probe
from midframe.video.reader import open_reader
from midframe.video.writer import open_writer

ENCODERS = {
    "libx264": ".mp4", "libx265": ".mp4", "libsvtav1": ".mkv", "libvpx-vp9": ".webm", "libvpx": ".webm",
    "mpeg4": ".mp4", "mpeg2video": ".ts", "mjpeg": ".avi", "prores_ks": ".mov", "dnxhd": ".mov", "cfhd": ".mov",
}  # fmt: skip
WIDTH, HEIGHT = 640, 360
RATE = Fraction(25)


def load(path: Path, count: int) -> tuple[VideoInfo, list[Frame]]:
    """Frames of a clip, cropped from the middle, one per 1/25 s."""
    info = probe(path)
    top, left = (info.height - HEIGHT) // 4 * 2, (info.width - WIDTH) // 4 * 2
    frames = []
    with open_reader(path, info=info) as reader:
        for n, frame in enumerate(islice(reader, count)):
            planes = tuple(
                plane[top >> down : (top + HEIGHT) >> down, left >> across : (left + WIDTH) >> across].clone()
                for plane, down, across in zip(
                    frame.planes, (0, frame.format.chroma_h, frame.format.chroma_h),
                    (0, frame.format.chroma_w, frame.format.chroma_w), strict=True,
                )
            )  # fmt: skip
            frames.append(replace(frame, planes=planes, pts=n / RATE, duration=1 / RATE, index=n))
    return replace(info, width=WIDTH, height=HEIGHT, rate=RATE, start=Fraction(0), streams=()), frames


def measure(info: VideoInfo, frames: list[Frame], codec: str, crf: float | None) -> tuple[str, float, float, float]:
    """Encode and decode; return the quality setting, PSNR in dB, SSIM, and kilobits per frame."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"a{ENCODERS[codec]}"
        encoding = choose_encoder(info, target, codec, crf=crf)
        with open_writer(target, info, encoding, rate=RATE) as writer:
            for frame in frames:
                writer.write(frame)
        size = target.stat().st_size * 8 / 1000 / len(frames)
        psnrs, ssims = [], []
        with open_reader(target) as reader:
            for mine, theirs in zip(reader, frames, strict=True):
                a, b = (luma(f) for f in (mine, theirs))
                psnrs.append(float(metrics.psnr(a, b)))
                ssims.append(float(metrics.ssim(a, b)))
    return encoding.quality, mean(psnrs), mean(ssims), size


def luma(frame: Frame) -> torch.Tensor:
    """Luma in limited range, 0..1, as (1, H, W)."""
    plane = frame.planes[0].float() / (2**frame.format.depth - 1)
    if frame.format.full_range:
        plane = plane * (219 / 255) + 16 / 255
    return plane[None]


def main() -> None:
    """Print one table, and JSON after it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--encoders", nargs="*", default=list(ENCODERS))
    parser.add_argument("--values", nargs="*", type=float, help="crf values to try beside the default")
    given = parser.parse_args()
    loaded = [load(path, given.frames) for path in given.clips]
    rows = []
    for codec in given.encoders:
        for crf in [None, *(given.values or ())]:
            try:
                found = [measure(info, frames, codec, crf) for info, frames in loaded]
            except MidframeError as error:
                print(f"{codec:12} {crf}: {error}")
                continue
            row = {
                "encoder": codec, "quality": found[0][0], "psnr": round(mean(f[1] for f in found), 2),
                "ssim": round(mean(f[2] for f in found), 4), "kilobits_per_frame": round(mean(f[3] for f in found), 1),
                "psnr_of_clips": [round(f[1], 2) for f in found],
            }  # fmt: skip
            rows.append(row)
            print(f"{codec:12} {row['quality']:28} {row['psnr']:6} dB {row['ssim']:.4f} {row['kilobits_per_frame']:8}"
                  f" kbit/frame {row['psnr_of_clips']}", flush=True)  # fmt: skip
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
