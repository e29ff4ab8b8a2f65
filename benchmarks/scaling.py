"""Scaling: time per interpolated frame of a model alone, over frame size, ratio and threads.

python benchmarks/scaling.py --models dis
python benchmarks/scaling.py --models dis --over size --repeats 2 --frames 8
"""

from __future__ import annotations

import argparse
from typing import Any

import rig

OVER_SIZES = ("540p", "720p", "1080p", "1440p", "2160p")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["dis"])
    parser.add_argument("--over", nargs="+", choices=["size", "ratio", "threads"], default=["size", "ratio", "threads"])
    parser.add_argument("--sizes", nargs="+", choices=rig.SIZES, default=list(OVER_SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2, help="the most threads to use")
    arguments = parser.parse_args()
    cells: list[tuple[str, str, int]] = []
    if "size" in arguments.over:
        cells += [(size, "2x", arguments.threads) for size in arguments.sizes]
    if "ratio" in arguments.over:
        cells += [("720p", rate, arguments.threads) for rate in rig.RATES]
    if "threads" in arguments.over:
        cells += [("720p", "2x", n) for n in range(1, arguments.threads + 1)]
    stored = rig.load("scaling")
    rows = {(r["model"], r["size"], r["rate"], r["threads"]): r for r in stored.get("rows", [])}
    for size, rate, threads in dict.fromkeys(cells):
        clip = str(rig.clip(size, arguments.frames))
        commands = {m: rig.child("model", clip=clip, model=m, ratio=str(rig.RATES[rate])) for m in arguments.models}
        for model, runs in rig.interleave(commands, rig.Rounds(arguments.repeats), threads).items():
            rows[model, size, rate, threads] = {
                "model": model, "size": size, "rate": rate, "threads": threads, "commit": rig.commit(),
                "others": [round(r.others, 3) for r in runs],
                "milliseconds": [1000 * r.answer["seconds"] / r.answer["interpolated"] for r in runs],
            }  # fmt: skip
        stored = {"rows": [rows[k] for k in sorted(rows)], "machine": rig.machine(arguments.threads)}
        rig.store("scaling", stored)
    print(show(stored))


def show(stored: dict[str, Any]) -> str:
    rows = []
    for r in sorted(stored["rows"], key=lambda r: (r["model"], r["rate"], r["threads"], rig.SIZES[r["size"]])):
        width, height = rig.SIZES[r["size"]]
        each = rig.median(r["milliseconds"])
        rows.append(
            [r["model"], r["size"], r["rate"], str(r["threads"]), f"{each:.0f}", f"{each / (width * height / 1e6):.0f}"]
        )
    return rig.table(["model", "size", "rate", "threads", "ms per new frame", "ms per megapixel"], rows)


if __name__ == "__main__":
    main()
