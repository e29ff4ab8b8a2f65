"""Quality: the methods on all sets at hand; the numbers of the README come from here.

    python benchmarks/quality.py --data DIR            or MIDFRAME_DATA=DIR
    python benchmarks/quality.py --data DIR --models dis --only middlebury-other

DIR holds eval/<set>/ as listed in `AT_HAND`; sets that are not there are left out. The suites need
no folder. The report with its pictures goes to --out; results/quality.json keeps the sums.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import rig
import torch

from midframe.errors import MidframeError
from midframe.evaluation import report as reports
from midframe.evaluation.datasets import DataSet, open_set
from midframe.evaluation.evaluate import evaluate
from midframe.evaluation.methods import METHODS, make_method
from midframe.evaluation.suites import open_suite
from midframe.metrics import load_lpips

# set -> folder under DIR
AT_HAND = {
    "middlebury-other": "eval/middlebury-other",
    "vimeo90k-septuplet": "eval/vimeo90k_septuplets",
    "vimeo90k-septuplet-6x": "eval/vimeo90k_septuplets",
    "frames:2": "eval/middlebury_rubberwhale_8frames",
    "videos:2": "clips",
    "videos:4": "clips",
    "sintel": "eval/sintel_flow",
    "kitti": "eval/kitti2015_sample",
    "middlebury-flow": "eval/middlebury_rubberwhale_8frames",
    "ucf101-dvf": "eval/ucf101",
    "ucf101-qvi": "eval/ucf101_qvi",
    "vimeo90k-triplet": "eval/vimeo_triplet",
    "davis": "eval/davis",
    "snu-film-easy": "eval/snu-film",
    "snu-film-medium": "eval/snu-film",
    "snu-film-hard": "eval/snu-film",
    "snu-film-extreme": "eval/snu-film",
    "xiph-2k": "eval/xiph",
    "xiph-4k": "eval/xiph",
    "x-test": "eval/x-test",
}
FILM_WINDOWS = 48  # of a folder of films: enough to rank, short enough to repeat


def find(root: Path | None, only: list[str] | None, limit: int | None) -> list[DataSet]:
    """The sets that are there; why others are not."""
    found: list[DataSet] = []
    for name, folder in AT_HAND.items():
        if (only and name not in only) or root is None or not (root / folder).is_dir():
            continue
        try:
            films = name.startswith("videos")
            found.append(open_set(name, root / folder, limit or (FILM_WINDOWS if films else None), partial=True))
        except MidframeError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("MIDFRAME_DATA"), help="folder with eval/ and clips/")
    parser.add_argument("--models", nargs="+", default=list(METHODS))
    parser.add_argument("--only", nargs="+", metavar="SET", help="these sets only, by the names above")
    parser.add_argument("--limit", type=int, help="at most so many cases of each set")
    parser.add_argument("--focus", help="whose worst cases are shown; the last model if not given")
    parser.add_argument("--out", default="quality-report", help="folder of the full report")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    methods = []
    for name in arguments.models:
        try:
            methods.append(make_method(name))
        except MidframeError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    sets = find(Path(arguments.data) if arguments.data else None, arguments.only, arguments.limit)
    suites = [s for s in ("rendered", "stress") if not arguments.only or s in arguments.only]
    sets += [open_suite(name, limit=arguments.limit) for name in suites]
    if not sets:
        sys.exit(f"no data set under {arguments.data}; give --data DIR or MIDFRAME_DATA")
    stored = rig.load("quality")
    parts = []
    for data in sets:
        start = time.perf_counter()
        part = evaluate(methods, [data], arguments.focus or "", load_lpips())
        parts.append(part)
        add(stored, part.as_json(), time.perf_counter() - start)
        stored["machine"] = rig.machine(arguments.threads)
        rig.store("quality", stored)
    whole = parts[0]
    if len(parts) > 1:
        from dataclasses import replace

        whole = replace(
            whole,
            sets=tuple(s for p in parts for s in p.sets),
            results=tuple(r for p in parts for r in p.results),
            exhibits=tuple(e for p in parts for e in p.exhibits),
        )
    print(*reports.write(whole, arguments.out).values(), sep="\n", file=sys.stderr)
    print(show(stored))


def add(stored: dict[str, Any], report: dict[str, Any], seconds: float) -> None:
    """Keep the sums of a set; of methods measured before, those that were measured again are replaced."""
    (told,) = report["sets"]
    entry = stored.setdefault("sets", {}).setdefault(told["name"], {"summaries": {}})
    if entry.get("note", told["note"]) != told["note"]:
        entry["summaries"] = {}  # another part of the set: not to be mixed
    entry |= {"protocol": told["protocol"], "cases": told["cases"], "note": told["note"], "seconds": round(seconds, 1)}
    for result in report["results"]:
        if not result["failure"]:
            entry["summaries"][result["method"]] = {**result["summary"], "commit": rig.commit()}
    stored["notes"] = report["notes"]


def _rank(name: str) -> tuple[int, str]:
    return (METHODS.index(name) if name in METHODS else len(METHODS), name)


def show(stored: dict[str, Any]) -> str:
    """PSNR and the worst 5 % of every method on every set; end-point errors apart."""
    sets = stored["sets"]
    names = sorted({n for s in sets.values() for n in s["summaries"]}, key=_rank)
    pictured = [s for s in sets if any(v["psnr"] is not None for v in sets[s]["summaries"].values())]
    rows = []
    for name in names:
        row = [name]
        for s in pictured:
            v = sets[s]["summaries"].get(name)
            row.append("-" if v is None or v["psnr"] is None else f"{v['psnr']:.2f} ({v['worst']:.1f})")
        rows.append(row)
    text = "PSNR in dB, in brackets the mean of the worst 5 %\n\n" + rig.table(["", *pictured], rows)
    flowed = [s for s in sets if any(v["flow"] for v in sets[s]["summaries"].values())]
    if flowed:
        rows = []
        for name in names:
            found = [sets[s]["summaries"].get(name, {}).get("flow") for s in flowed]
            if any(found):
                rows.append([name, *(f"{f['all']:.2f} ({f['outliers_percent']:.0f} %)" if f else "-" for f in found)])
        zero = [next(v["flow"]["zero"] for v in sets[s]["summaries"].values() if v["flow"]) for s in flowed]
        rows.append(["nothing moves", *(f"{z:.2f}" for z in zero)])
        text += "\n\nEnd-point error in px, in brackets Fl-all\n\n" + rig.table(["", *flowed], rows)
    return text


if __name__ == "__main__":
    main()
