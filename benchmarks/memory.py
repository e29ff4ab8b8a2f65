"""Memory: peak resident size of a whole run, over the length of the video and the size of its frames.

    python benchmarks/memory.py                          1080p 2x of 200 and 2,000 frames; 540p to 2160p
    python benchmarks/memory.py --lengths 50 200 --length-size 540p --model blend

The peak must not grow with the length. Clips are H.264 here, since 2,000 raw frames of 1080p are 6 GB.
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import rig


def looped_clip(size: str, frames: int) -> Path:
    """Write an H.264 clip of any length: the y4m clip's frames to and fro."""
    width, height = rig.SIZES[size]
    path = rig.storage() / f"{size}-{frames}.mp4"
    if path.exists():
        return path
    some = rig.frames_of(width, height, min(frames, 24))
    order = [*range(len(some)), *range(len(some) - 2, 0, -1)]
    aside = path.with_suffix(".part.mp4")
    with av.open(str(aside), "w") as out:
        stream = out.add_stream("libx264", rate=rig.CLIP_RATE, options={"preset": "ultrafast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, rig.CLIP_RATE)
        for k in range(frames):
            frame = av.VideoFrame.from_ndarray(some[order[k % len(order)]], format="bgr24")
            frame.pts = k
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    aside.replace(path)
    return path


def peak(model: str, size: str, frames: int, threads: int, timeout: float) -> dict[str, Any]:
    command = rig.child(
        "file", clip=str(looped_clip(size, frames)), target=str(rig.storage() / "memory.mp4"), model=model, ratio="2",
        codec="libx264", preset="ultrafast",
    )  # fmt: skip
    done = rig.run(command, threads, timeout)
    print(f"{model} {size} {frames} frames: {done.peak_bytes / 1e6:.0f} MB, {done.seconds:.0f} s", file=sys.stderr)
    return {
        "model": model, "size": size, "frames": frames, "peak_bytes": done.peak_bytes, "commit": rig.commit()
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["dis"])
    parser.add_argument("--lengths", type=int, nargs="*", default=[200, 2000])
    parser.add_argument("--length-size", choices=rig.SIZES, default="1080p")
    parser.add_argument("--sizes", nargs="*", choices=rig.SIZES, default=["540p", "720p", "1080p", "2160p"])
    parser.add_argument("--frames", type=int, default=24, help="frames of the clips of many sizes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=3600, help="seconds a run may take")
    arguments = parser.parse_args()
    stored = rig.load("memory")
    rows = {(r["model"], r["size"], r["frames"]): r for r in stored.get("rows", [])}
    wanted = [(m, arguments.length_size, n) for m in arguments.model for n in arguments.lengths]
    wanted += [(m, s, arguments.frames) for m in arguments.model for s in arguments.sizes]
    for key in wanted:
        try:
            rows[key] = peak(*key, arguments.threads, arguments.timeout)
        except RuntimeError as error:
            print(f"{' '.join(map(str, key))} is left out: {error}", file=sys.stderr)
            continue
        stored = {"rows": [rows[k] for k in sorted(rows)], "machine": rig.machine(arguments.threads)}
        rig.store("memory", stored)
    print(show(stored))


def show(stored: dict[str, Any]) -> str:
    rows = [[r["model"], r["size"], str(r["frames"]), f"{r['peak_bytes'] / 1e6:.0f}"] for r in stored["rows"]]
    return rig.table(["model", "size", "frames", "peak MB"], rows)


if __name__ == "__main__":
    main()
