"""Speed: new pictures a second of the model alone, output pictures a second of the whole way, peak memory.

    python benchmarks/speed.py                                   everything: hours
    python benchmarks/speed.py --only 720p:2x --methods dis minterpolate
    python benchmarks/speed.py --only overhead

Methods: ffmpeg's minterpolate (mci as it comes, and aobmc/bidir/vsbmc), dis, midnet, vfinet; those whose
weights are not here are left out. Both sides decode the same y4m clip and encode by libx264 at crf 16, preset and
threads alike. Results are added to results/speed.json cell by cell; --append adds repeats to a cell measured before
at the same commit.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from typing import Any

import rig

MCI = "mi_mode=mci"
BEST = "mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1"
FILTERS = {"minterpolate": MCI, "minterpolate-best": BEST}
MODELS = ("dis", "midnet-s", "midnet-m", "vfinet")
PRESET = "veryfast"  # of libx264, on both sides: what two cores can spare


def video_command(name: str, size: str, rate: str, frames: int, threads: int, precision: str) -> list[str]:
    """The whole way from clip to file."""
    clip, target = rig.clip(size, frames), rig.storage() / f"out-{name}.mp4"
    ratio = rig.RATES[rate]
    if name in FILTERS:
        return [
            "ffmpeg", "-v", "error", "-y", "-threads", str(threads), "-i", str(clip),
            "-vf", f"minterpolate=fps={rig.CLIP_RATE * ratio}:{FILTERS[name]}",
            "-c:v", "libx264", "-crf", "16", "-preset", PRESET, "-threads", str(threads), str(target),
        ]  # fmt: skip
    return rig.child(
        "film", clip=str(clip), target=str(target), model=name, ratio=str(ratio), precision=precision,
        codec="libx264", crf=16, preset=PRESET,
    )  # fmt: skip


def model_command(name: str, size: str, rate: str, frames: int, threads: int, precision: str) -> list[str]:
    """What makes the pictures alone; for the filter that is ffmpeg without an encoder."""
    clip, ratio = rig.clip(size, frames), rig.RATES[rate]
    if name in FILTERS:
        return [
            "ffmpeg", "-v", "error", "-threads", str(threads), "-i", str(clip),
            "-vf", f"minterpolate=fps={rig.CLIP_RATE * ratio}:{FILTERS[name]}", "-f", "null", "-",
        ]  # fmt: skip
    return rig.child("model", clip=str(clip), model=name, ratio=str(ratio), precision=precision)


def measure(size: str, rate: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One cell: all methods, film and model alone, interleaved."""
    frames, threads = arguments.frames, arguments.threads
    named = [n for n in arguments.methods if n not in FILTERS or shutil.which("ffmpeg")]
    made = rig.new_pictures(frames, rig.RATES[rate])
    cell: dict[str, Any] = {}
    for kind, command in (("film", video_command), ("model", model_command)):
        if arguments.what not in (kind, "both"):
            continue
        print(f"{size} {rate}, {frames} frames, {kind}", file=sys.stderr)
        commands = {n: command(n, size, rate, frames, threads, arguments.precision) for n in named}
        for name, runs in rig.interleave(commands, arguments.repeats, threads).items():
            told = runs[0].told
            seconds = [r.told.get("seconds", r.seconds) if kind == "model" else r.seconds for r in runs]
            cell.setdefault(name, {})[kind] = {
                "seconds": seconds,
                "cpu_seconds": [r.cpu_seconds for r in runs],
                "others": [round(r.others, 3) for r in runs],
                "pictures": told.get("made", made) if kind == "model" else rig.outputs(frames, rig.RATES[rate]),
                "made": made,
                "peak_bytes": max(r.peak_bytes for r in runs),
                "inside": [r.told["seconds"] for r in runs] if kind == "film" and told else seconds,
                **({"precision": told["precision"], "device": told["device"]} if "precision" in told else {}),
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
    """(output pictures a second of the whole command, the same without the start of the process)."""
    return (
        figures["pictures"] / rig.median(figures["seconds"]),
        figures["pictures"] / rig.median(figures["inside"]),
    )


def show(key: str, cell: dict[str, Any]) -> str:
    """The table of one cell."""
    rows = []
    base = cell["methods"].get("minterpolate", {})
    for name, kinds in cell["methods"].items():
        film, model = kinds.get("film"), kinds.get("model")
        row = [name]
        if film:
            whole, inside = rates(film)
            ratio = rig.median(base["film"]["seconds"]) / rig.median(film["seconds"]) if "film" in base else None
            row += [
                f"{whole:.2f}",
                f"{inside:.2f}",
                f"{ratio:.2f}" if ratio else "-",
                f"{1000 * rig.median(film['cpu_seconds']) / film['pictures']:.0f}",
                f"{film['peak_bytes'] / 1e6:.0f}",
            ]
        else:
            row += ["-"] * 5
        row += [f"{model['pictures'] / rig.median(model['seconds']):.2f}" if model else "-"]
        kinds_measured = film or model
        count, most = len(kinds_measured["seconds"]), max(kinds_measured["others"])
        rows.append([*row, str(count), f"{most:.2f}"])
    head = ["", "output fps", "without start", "x minterpolate", "cpu ms", "peak MB", "model alone, new fps", "repeats"]
    head.append("others")
    return f"{key}, {cell['frames']} frames\n\n" + rig.table([f"{key}", *head[1:]], rows)


def overhead(arguments: argparse.Namespace) -> dict[str, Any]:
    """The pipeline with the blend model at 1080p, encoder excluded: milliseconds of wall time per output picture."""
    commands = {"overhead": rig.child("overhead", clip=str(rig.clip("1080p", arguments.frames)), ratio="2")}
    runs = rig.interleave(commands, arguments.repeats, arguments.threads)["overhead"]
    each = [1000 * r.told["seconds"] / r.told["frames"] for r in runs]
    others = [round(r.others, 3) for r in runs]
    print(f"overhead at 1080p: {rig.median(each):.2f} ms per output picture")
    return {
        "milliseconds": each,
        "others": others,
        "peak_bytes": max(r.peak_bytes for r in runs),
        "frames": arguments.frames,
    }


def main() -> None:
    cells = [f"{size}:{rate}" for size in ("540p", "720p", "1080p") for rate in rig.RATES]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*cells, "overhead"], default=[*cells, "overhead"], metavar="CELL")
    parser.add_argument("--methods", nargs="+", choices=[*FILTERS, *MODELS], default=[*FILTERS, *MODELS])
    parser.add_argument("--what", choices=["film", "model", "both"], default="both")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    parser.add_argument("--append", action="store_true", help="add repeats to those taken before at this commit")
    arguments = parser.parse_args()
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
