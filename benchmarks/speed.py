"""Speed: output frames a second from file to file, new frames a second of a filter or model alone, peak memory.

    python benchmarks/speed.py                                   everything: hours
    python benchmarks/speed.py --only 720p:2x --methods dis minterpolate
    python benchmarks/speed.py --only overhead

Methods: our models, RIFE where --rife names its weights, ffmpeg's minterpolate (mci with its defaults, and
aobmc/bidir/vsbmc), MVTools and svpflow where --peers names their environment; others are left out. All decode the same
y4m clip and encode it by libx264 at crf 16 with equal preset and threads. Results are added to results/speed.json
cell by cell; --append adds repeats to a cell measured before at the same commit.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import rig

from midframe.evaluation.peers import PEERS, script

MCI = "mi_mode=mci"
BEST = "mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1"
FILTERS = {"minterpolate": MCI, "minterpolate-best": BEST}
MODELS = ("blend", "dis", "midnet-s", "midnet-m", "rife", "vfinet")
PRESET = "veryfast"  # of libx264, for every method: what two cores can spare


def available(name: str, arguments: argparse.Namespace) -> bool:
    """Whether a method can run here."""
    if name in FILTERS:
        return shutil.which("ffmpeg") is not None
    if name in PEERS:
        return arguments.peers is not None and shutil.which("ffmpeg") is not None
    return name != "rife" or arguments.rife is not None


def vspipe(name: str, size: str, rate: str, arguments: argparse.Namespace) -> list[str]:
    """The start of a vspipe command: the program and a script."""
    path = rig.storage() / f"{name}-{size}-{rate}.vpy"
    path.write_text(script(name, rig.clip(size, arguments.frames), rig.CLIP_RATE * rig.RATES[rate]))
    return [str(arguments.peers / "bin" / "vspipe"), str(path)]


def file_command(name: str, size: str, rate: str, arguments: argparse.Namespace) -> list[str]:
    """Clip to file."""
    clip, target = rig.clip(size, arguments.frames), rig.storage() / f"out-{name}.mp4"
    ratio, threads = rig.RATES[rate], str(arguments.threads)
    encode = ["-c:v", "libx264", "-crf", "16", "-preset", PRESET, "-threads", threads, str(target)]
    ffmpeg = ["ffmpeg", "-v", "error", "-y", "-threads", threads, "-i"]
    if name in FILTERS:
        chain = f"minterpolate=fps={rig.CLIP_RATE * ratio}:{FILTERS[name]}"
        return [*ffmpeg, str(clip), "-vf", chain, *encode]
    if name in PEERS:
        pipe = [*vspipe(name, size, rate, arguments), "-", "-c", "y4m"]
        return ["bash", "-o", "pipefail", "-c", f"{shlex.join(pipe)} | {shlex.join([*ffmpeg, '-', *encode])}"]
    weights = {"weights": str(arguments.rife)} if name == "rife" else {}
    return rig.child(
        "file", clip=str(clip), target=str(target), model=name, ratio=str(ratio), precision=arguments.precision,
        codec="libx264", crf=16, preset=PRESET, **weights,
    )  # fmt: skip


def alone_command(name: str, size: str, rate: str, arguments: argparse.Namespace) -> list[str]:
    """The filter without an encoder, the model without decoder and encoder."""
    clip, ratio = rig.clip(size, arguments.frames), rig.RATES[rate]
    if name in FILTERS:
        return [
            "ffmpeg", "-v", "error", "-threads", str(arguments.threads), "-i", str(clip),
            "-vf", f"minterpolate=fps={rig.CLIP_RATE * ratio}:{FILTERS[name]}", "-f", "null", "-",
        ]  # fmt: skip
    if name in PEERS:
        return [*vspipe(name, size, rate, arguments), "--"]
    weights = {"weights": str(arguments.rife)} if name == "rife" else {}
    return rig.child("model", clip=str(clip), model=name, ratio=str(ratio), precision=arguments.precision, **weights)


def measure(size: str, rate: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One cell: all methods, from file to file and alone, interleaved."""
    frames, threads = arguments.frames, arguments.threads
    named = [n for n in arguments.methods if available(n, arguments)]
    interpolated = rig.new_frames(frames, rig.RATES[rate])
    cell: dict[str, Any] = {}
    for kind, command in (("file", file_command), ("model", alone_command)):
        if arguments.what not in (kind, "both"):
            continue
        load = Path("/proc/loadavg").read_text().split()[:3] if Path("/proc/loadavg").exists() else []
        print(f"{size} {rate}, {frames} frames, {kind}, load {' '.join(load)}", file=sys.stderr)
        commands = {n: command(n, size, rate, arguments) for n in named}
        plan = rig.Rounds(arguments.repeats, not arguments.no_warm_up, arguments.budget)
        for name, runs in rig.interleave(commands, plan, threads).items():
            answer = runs[0].answer
            seconds = [r.answer.get("seconds", r.seconds) if kind == "model" else r.seconds for r in runs]
            cell.setdefault(name, {})[kind] = {
                "seconds": seconds,
                "cpu_seconds": [r.cpu_seconds for r in runs],
                "others": [round(r.others, 3) for r in runs],
                "frames": answer.get("interpolated", interpolated)
                if kind == "model"
                else rig.outputs(frames, rig.RATES[rate]),
                "interpolated": interpolated,
                "peak_bytes": max(r.peak_bytes for r in runs),
                "inside": [r.answer["seconds"] for r in runs] if kind == "file" and answer else seconds,
                **({"precision": answer["precision"], "device": answer["device"]} if "precision" in answer else {}),
            }
    return cell


def add(
    stored: dict[str, Any], key: str, frames: int, cell: dict[str, Any], machine: dict[str, Any], more: bool
) -> None:
    """Put a cell among the stored ones: methods measured now replace their former figures, or add to them."""
    cells = stored.setdefault("cells", {})
    old = cells.setdefault(key, {"frames": frames, "methods": {}})
    if old["frames"] != frames:
        old = cells[key] = {"frames": frames, "methods": {}}
    for name, kinds in cell.items():
        known = old["methods"].setdefault(name, {})
        for kind, figures in kinds.items():
            same = more and kind in known and known[kind]["commit"] == machine["commit"]
            if same:
                for part in ("seconds", "inside", "cpu_seconds", "others"):
                    figures[part] = known[kind][part] + figures[part]
                figures["peak_bytes"] = max(figures["peak_bytes"], known[kind]["peak_bytes"])
            known[kind] = {**figures, "commit": machine["commit"]}
    stored["machine"] = machine


def rates(figures: dict[str, Any]) -> tuple[float, float]:
    """Return output frames a second of the whole command, and without the start of Python; medians."""
    return (
        figures["frames"] / rig.median(figures["seconds"]),
        figures["frames"] / rig.median(figures["inside"]),
    )


def processor_milliseconds(figures: dict[str, Any]) -> float:
    """Return the median processor time per output frame, start included; other load changes it little."""
    return 1000 * rig.median(figures["cpu_seconds"]) / figures["frames"]


def quiet(figures: dict[str, Any]) -> bool:
    """Whether nothing else kept the machine busy during the repeats, so that wall times may be quoted."""
    return max(figures["others"]) <= rig.DISTURBED


def show(key: str, cell: dict[str, Any]) -> str:
    """Format the table of one cell, fastest first."""
    rows = []

    def seconds(item: tuple[str, Any]) -> float:
        kinds = item[1]
        figures = kinds.get("file") or kinds["model"]
        return rig.median(figures["seconds"])

    for name, kinds in sorted(cell["methods"].items(), key=seconds):
        file, model = kinds.get("file"), kinds.get("model")
        row = [name]
        if file:
            whole, inside = rates(file)
            spread = (max(file["seconds"]) - min(file["seconds"])) / rig.median(file["seconds"])
            row += [
                f"{whole:.1f}",
                f"{100 * spread:.0f} %",
                f"{inside:.1f}",
                f"{processor_milliseconds(file):.0f}",
                f"{file['peak_bytes'] / 1e6:.0f}",
            ]
        else:
            row += ["-"] * 5
        row += [f"{model['frames'] / rig.median(model['seconds']):.1f}" if model else "-"]
        measured = file or model
        count, most = len(measured["seconds"]), max(measured["others"])
        rows.append([*row, str(count), f"{most:.2f}"])
    head = ["output fps", "spread", "without start", "CPU ms", "peak MB", "alone, new fps", "repeats", "others"]
    return f"{key}, {cell['frames']} frames\n\n" + rig.table([key, *head], rows)


def overhead(arguments: argparse.Namespace) -> dict[str, Any]:
    """The pipeline with the blend model at 1080p, encoder excluded: milliseconds of wall time per output frame."""
    commands = {"overhead": rig.child("overhead", clip=str(rig.clip("1080p", arguments.frames)), ratio="2")}
    plan = rig.Rounds(arguments.repeats, not arguments.no_warm_up, arguments.budget)
    runs = rig.interleave(commands, plan, arguments.threads)["overhead"]
    each = [1000 * r.answer["seconds"] / r.answer["frames"] for r in runs]
    others = [round(r.others, 3) for r in runs]
    print(f"overhead at 1080p: {rig.median(each):.2f} ms per output frame")
    return {
        "milliseconds": each,
        "others": others,
        "peak_bytes": max(r.peak_bytes for r in runs),
        "frames": arguments.frames,
    }


def main() -> None:
    cells = [f"{size}:{rate}" for size in ("540p", "720p", "1080p") for rate in rig.RATES]
    methods = [*MODELS, *FILTERS, *PEERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*cells, "overhead"], default=[*cells, "overhead"], metavar="CELL")
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    parser.add_argument("--what", choices=["file", "model", "both"], default="both")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--append", action="store_true", help="add repeats to those taken before at this commit")
    parser.add_argument("--peers", type=Path, default=os.environ.get("MIDFRAME_PEERS"), help="made by peers/setup")
    parser.add_argument("--rife", type=Path, default=os.environ.get("MIDFRAME_RIFE_HDV3"), help="weights of RIFE")
    parser.add_argument("--no-warm-up", action="store_true", help="for methods that ran a moment ago")
    parser.add_argument("--budget", type=float, help="seconds after which no round is begun")
    arguments = parser.parse_args()
    arguments.peers = arguments.peers and Path(arguments.peers)
    machine = rig.machine(arguments.threads)
    for key in arguments.only:
        stored = rig.load("speed")
        if key == "overhead":
            stored["overhead"] = {**overhead(arguments), "commit": machine["commit"]}
            stored["machine"] = machine
        else:
            size, _, rate = key.partition(":")
            add(stored, key, arguments.frames, measure(size, rate, arguments), machine, arguments.append)
            print(show(key, stored["cells"][key]))
        rig.store("speed", stored)


if __name__ == "__main__":
    main()
