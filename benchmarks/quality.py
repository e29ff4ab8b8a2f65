"""Quality: the methods on all sets at hand; the numbers of the README come from here.

    python benchmarks/quality.py --data DIR            or MIDFRAME_DATA=DIR
    python benchmarks/quality.py --data DIR --models dis --only middlebury-other
    python benchmarks/quality.py --add REPORT.json ...     takes the summaries of `midframe eval`

DIR holds eval/<set>/ as listed in `AT_HAND`; sets that are not there are left out. The suites need
no folder. The report with its images goes to --out; results/quality.json keeps the summaries.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import rig
import torch

from midframe.errors import MidframeError
from midframe.evaluation import report as reports
from midframe.evaluation.datasets import DataSet, open_set
from midframe.evaluation.evaluate import Report, evaluate, paired_differences
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
PEERS_FOLDER = Path(os.environ["MIDFRAME_PEERS"]) if "MIDFRAME_PEERS" in os.environ else None
VIDEO_WINDOWS = 48  # of a folder of videos: enough to rank, short enough to repeat


def find(root: Path | None, only: list[str] | None, limit: int | None) -> list[DataSet]:
    """Open the sets that are there; print the reason for others."""
    found: list[DataSet] = []
    for name, folder in AT_HAND.items():
        if (only and name not in only) or root is None or not (root / folder).is_dir():
            continue
        try:
            videos = name.startswith("videos")
            found.append(open_set(name, root / folder, limit or (VIDEO_WINDOWS if videos else None), partial=True))
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
    parser.add_argument("--add", nargs="+", type=Path, metavar="REPORT", help="report.json of midframe eval; no work")
    arguments = parser.parse_args()
    if arguments.add:
        stored = rig.load("quality")
        measured = [reports.load(path) for path in arguments.add]
        for one in measured:
            add(stored, one.as_json())
        compare(stored, measured)
        stored["machine"] = rig.machine(arguments.threads)
        rig.store("quality", stored)
        return
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    methods = []
    weights = os.environ.get("MIDFRAME_RIFE_HDV3")
    for name in arguments.models:
        try:
            methods.append(make_method(name, weights if name == "rife" else None, peers=PEERS_FOLDER))
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
        part = evaluate(methods, [data], arguments.focus or "", load_lpips())
        parts.append(part)
        add(stored, part.as_json())
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


def add(stored: dict[str, Any], report: dict[str, Any]) -> None:
    """Keep the summaries of a report; methods measured again replace their former figures."""
    for described in report["sets"]:
        entry = stored.setdefault("sets", {}).setdefault(described["name"], {"summaries": {}})
        if entry.get("note", described["note"]) != described["note"]:
            entry["summaries"] = {}  # another part of the set: not to be mixed
        entry |= {key: described[key] for key in ("protocol", "cases", "note")}
        entry["date"] = report["environment"]["date"]
        for result in report["results"]:
            if result["set"] == described["name"] and not result["failure"]:
                entry["summaries"][result["method"]] = {**result["summary"], "commit": rig.commit()}


def compare(stored: dict[str, Any], measured: Sequence[Report]) -> None:
    """Store the paired differences from `FOCUS` of methods that were measured in different reports."""
    rows = {(r.set, r.method): r.rows for one in measured for r in one.results if not r.failure}
    for (name, method), found in rows.items():
        reference = rows.get((name, FOCUS))
        if reference is not None and method != FOCUS:
            stored["sets"][name]["summaries"][method]["paired"] = paired_differences(found, reference)


FOCUS = "midnet-m"  # the method that others are compared with
ORDER = ("hold", "blend", "svpflow", "mvtools-fast", "mvtools-high", "minterpolate", "minterpolate-best",
         "rife", "vfinet", "dis", "midnet-s", "midnet-m")  # fmt: skip


def _rank(name: str) -> tuple[int, str]:
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def _interval(summary: dict[str, Any], key: str, interval: str, digits: int) -> str:
    value, found = summary.get(key), summary.get(interval)
    if value is None:
        return "-"
    return f"{value:.{digits}f}" + (f" ({found['low']:.{digits}f} to {found['high']:.{digits}f})" if found else "")


def _value(summary: dict[str, Any], key: str, digits: int) -> str:
    value = summary.get(key)
    return "-" if value is None else f"{value:.{digits}f}"


def _difference(summary: dict[str, Any], score: str, digits: int) -> str:
    found = (summary.get("paired") or {}).get(score)
    if not found:
        return "-"
    return f"{found['mean']:+.{digits}f} ({found['low']:+.{digits}f} to {found['high']:+.{digits}f})"


def set_line(name: str, entry: dict[str, Any]) -> str:
    """Describe a set: protocol, number of cases, clips and frames."""
    summaries = list(entry["summaries"].values())
    clips = next((s["interval"]["clips"] for s in summaries if s.get("interval")), entry["cases"])
    note = f"; {entry['note']}" if entry["note"] else ""
    first = summaries[0] if summaries else {}
    frames = first.get("frames", first.get("pictures", 0))  # "pictures": results of before 2026-11-30
    parts = [f"{entry['cases']} cases"]
    if clips != entry["cases"]:
        parts.append(f"{clips} clips")
    if frames and frames != entry["cases"]:
        parts.append(f"{frames} interpolated frames")
    return f"**{name}**: {entry['protocol']}; n = {', '.join(parts)}{note}; {entry.get('date', '2026-11-26')}."


def set_tables(name: str, entry: dict[str, Any]) -> list[str]:
    """Format a set: one line about it, accuracy, and flow where the truth is known."""
    summaries = {n: entry["summaries"][n] for n in sorted(entry["summaries"], key=_rank)}
    parts = [set_line(name, entry)]
    scored = {n: s for n, s in summaries.items() if s["psnr"] is not None}
    if scored:
        head = ["", "PSNR, dB (95 %)", "worst 5 %", "luma PSNR", "SSIM", "GMSD", "gradient energy", "PSNR_DIV"]
        head += ["cvvdp, JOD (95 %)", "worst 5 %"]
        head += [f"luma PSNR less {FOCUS}'s (95 %)", f"cvvdp less {FOCUS}'s (95 %)"]
        rows = [
            [
                n, _interval(s, "psnr", "interval", 2), _value(s, "worst", 2), _value(s, "psnr_luma", 2),
                _value(s, "ssim", 4), _value(s, "gmsd", 4), _value(s, "gradient_energy", 3), _value(s, "psnr_div", 2),
                _interval(s, "cvvdp", "cvvdp_interval", 2), _value(s, "cvvdp_worst", 2),
                _difference(s, "psnr_luma", 2), _difference(s, "cvvdp", 3),
            ]
            for n, s in scored.items()
        ]  # fmt: skip
        kept = [k for k in range(len(head)) if k == 0 or any(row[k] != "-" for row in rows)]
        parts.append(rig.table([head[k] for k in kept], [[row[k] for k in kept] for row in rows]))
    flowed = {n: s["flow"] for n, s in summaries.items() if s.get("flow")}
    if flowed:
        keys = {
            "masked": "seen in both, px", "short": "below 10 px", "medium": "10 to 40 px", "long": "above 40 px",
            "all": "all pixels, px", "outliers_masked_percent": "Fl seen in both, %", "outliers_percent": "Fl-all, %",
        }  # fmt: skip
        keys = {k: v for k, v in keys.items() if any(f.get(k) is not None for f in flowed.values())}
        rows = [[n, *(_value(f, k, 2) for k in keys)] for n, f in flowed.items()]
        zero = next(iter(flowed.values()))["zero"]
        rows.append(["zero flow", *(f"{zero:.2f}" if k == "all" else "-" for k in keys)])
        parts += ["Flow, end-point error by length of motion at 720 rows:", rig.table(["", *keys.values()], rows)]
    return parts


def show(stored: dict[str, Any]) -> str:
    """Format all sets."""
    return "\n\n".join(part for name in sorted(stored["sets"]) for part in set_tables(name, stored["sets"][name]))


if __name__ == "__main__":
    main()
