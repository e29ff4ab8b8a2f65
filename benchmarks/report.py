"""Write benchmarks/README.md, and the numbers in README.md between their markers, from results/*.json.

    python benchmarks/report.py
    python benchmarks/report.py --check      fails if they are not what the results say

Nothing is typed by hand: a number without a JSON file behind it does not appear.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import memory
import quality
import rig
import scaling
import speed
import stages

BEGIN, END = "<!-- numbers: written by benchmarks/report.py -->", "<!-- /numbers -->"
README = rig.HERE.parent / "README.md"
HEADLINE_SETS = ("middlebury-other", "vimeo90k-septuplet", "videos:2", "rendered", "stress")


def commands() -> str:
    """Which script makes what, from the first lines of the scripts."""
    rows = []
    for name, module in (
        ("speed", speed),
        ("memory", memory),
        ("scaling", scaling),
        ("stages", stages),
        ("quality", quality),
    ):
        said = (module.__doc__ or "").split("\n\n", 1)[0].replace("\n", " ").rstrip(".")
        rows.append([f"`python benchmarks/{name}.py`", said])
    return rig.table(["command", "what"], rows)


def machine_line(stored: dict[str, Any]) -> str:
    m = stored["machine"]
    bf16 = ", bf16 products" if m.get("bf16") else ""
    gpu = f", {m['gpu']}" if m.get("gpu") else ""
    ffmpeg = f", ffmpeg {m['ffmpeg']}" if m.get("ffmpeg") else ""
    return f"{m['threads']} threads of {m['processor']}{bf16}{gpu}; torch {m['torch']}{ffmpeg}; {m['date']}."


def page() -> str:
    """The whole of benchmarks/README.md."""
    parts = [
        "# Benchmarks",
        "Written by `python benchmarks/report.py` from `results/*.json`; every number was taken by the scripts here.",
        commands(),
    ]
    if quality_data := rig.load("quality"):
        parts += ["## Quality", machine_line(quality_data), quality.show(quality_data), quality_notes(quality_data)]
    if speed_data := rig.load("speed"):
        parts += ["## Speed", machine_line(speed_data), speed_text()]
        if "overhead" in speed_data:
            parts.append(overhead_line(speed_data))
        parts += [speed.show(key, cell) for key, cell in sorted(speed_data.get("cells", {}).items(), key=cell_rank)]
    if stages_data := rig.load("stages"):
        parts += ["## Stages", machine_line(stages_data), stages.show(stages_data)]
    if scaling_data := rig.load("scaling"):
        parts += ["## Scaling", machine_line(scaling_data), scaling.show(scaling_data)]
    if memory_data := rig.load("memory"):
        parts += [
            "## Memory",
            machine_line(memory_data),
            "Peak resident size of a whole 2x run.",
            memory.show(memory_data),
        ]
    return "\n\n".join(parts) + "\n"


def cell_rank(item: tuple[str, Any]) -> tuple[int, int]:
    size, _, rate = item[0].partition(":")
    return list(rig.SIZES).index(size), list(rig.RATES).index(rate)


def speed_text() -> str:
    return (
        f"Clips of {rig.CLIP_RATE} frames a second in memory-backed storage, a warm-up each, methods taking turns, "
        'medians. "Output fps" is the whole command from y4m to H.264 (libx264, crf 16, '
        f'{speed.PRESET}, both sides alike), the start of the process included; "without start" leaves out '
        'starting Python and importing torch, which a longer film does not notice. "Model alone" has no decoder or '
        'encoder; for ffmpeg it is the filter into the null muxer. "Cpu ms" is processor time per output picture, '
        'all threads; "others" is how many processors other processes kept busy during the worst repeat kept. Above '
        f"{rig.DISTURBED} the machine was busy: such rows show that the script runs, and are not to be quoted."
    )


def quality_notes(data: dict[str, Any]) -> str:
    lines = []
    for name, entry in data["sets"].items():
        note = f"; {entry['note']}" if entry["note"] else ""
        lines.append(f"- {name}: {entry['protocol']}; {entry['cases']} cases{note}.")
    return "\n".join(lines + [f"- {note}." for note in data.get("notes", [])])


def overhead_line(data: dict[str, Any]) -> str:
    each = rig.median(data["overhead"]["milliseconds"])
    return (
        "The pipeline itself (1080p 2x, blend model, encoder excluded: decode, cut detector, overlay finder, clock, "
        f"mixture of planes): {each:.1f} ms of wall time per output picture, "
        f"{len(data['overhead']['milliseconds'])} repeats, others {max(data['overhead']['others']):.2f}."
    )


def headline() -> str:
    """The block of README.md: quality of the methods on the sets at hand, speed at 720p 2x."""
    parts = []
    if data := rig.load("quality"):
        sets = [s for s in HEADLINE_SETS if s in data["sets"]]
        names = sorted({n for s in sets for n in data["sets"][s]["summaries"]}, key=quality._rank)
        rows = []
        for name in names:
            found = [data["sets"][s]["summaries"].get(name) for s in sets]
            if any(found):
                rows.append([name, *(f"{v['psnr']:.2f}" if v else "-" for v in found)])
        parts += ["PSNR in dB:", rig.table(["", *sets], rows)]
    data = rig.load("speed")
    cell = data.get("cells", {}).get("720p:2x", {"methods": {}})
    quiet = {n: k for n, k in cell["methods"].items() if "film" in k and max(k["film"]["others"]) <= rig.DISTURBED}
    if quiet:  # what a busy machine gave stays in benchmarks/README.md, marked
        rows = []
        for name, kinds in quiet.items():
            whole, inside = speed.rates(kinds["film"])
            rows.append([name, f"{whole:.1f}", f"{inside:.1f}", f"{kinds['film']['peak_bytes'] / 1e6:.0f}"])
        parts += [
            f"Speed at 1280x720, 2x, file to file, {machine_line(data).rstrip('.')}:",
            rig.table(["", "output fps", "without start", "peak MB"], rows),
        ]
    if not parts:
        return ""
    return "\n\n".join([*parts, "More, and how it was measured: [benchmarks](benchmarks/README.md)."])


def with_numbers(text: str) -> str:
    """README.md with its block replaced; unchanged without markers."""
    if BEGIN not in text or END not in text:
        return text
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{headline()}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is out of date")
    arguments = parser.parse_args()
    readme = README.read_text(encoding="utf-8")
    if BEGIN not in readme:
        print(f"README.md has no line {BEGIN}: its numbers are left alone", file=sys.stderr)
    stale = []
    for path, text in ((rig.HERE / "README.md", page()), (README, with_numbers(readme))):
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not arguments.check:
                Path(path).write_text(text, encoding="utf-8")
    names = ", ".join(p.relative_to(rig.HERE.parent).as_posix() for p in stale)
    if arguments.check and stale:
        sys.exit(f"out of date: {names}; run python benchmarks/report.py")
    print(f"written: {names}" if stale else "up to date", file=sys.stderr)


if __name__ == "__main__":
    main()
