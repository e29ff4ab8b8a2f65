"""Write benchmarks/README.md, and the figures of README.md, docs/evaluation.md and the chart, from results/*.json.

    python benchmarks/report.py
    python benchmarks/report.py --check      fails if they are not what the results say

Every number in them comes from a JSON file.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from typing import Any

import chart
import memory
import quality
import rig
import scaling
import speed
import stages

BEGIN, END = "<!-- numbers: written by benchmarks/report.py -->", "<!-- /numbers -->"
ROOT = rig.HERE.parent
README, EVALUATION = ROOT / "README.md", ROOT / "docs" / "evaluation.md"
CHART = ROOT / "docs" / "images" / "speed-quality.svg"
LEAST_CASES = 12  # of a set in README.md
HEADLINE = {  # set -> title in README.md and in the chart
    "middlebury-other": "Middlebury",
    "videos:4": "real clips",
    "motion": "large motion",
}
SPEED_CELL = "720p:2x"


def commands() -> str:
    """Return the table of the scripts, from their first lines."""
    rows = []
    for name, module in (
        ("speed", speed),
        ("memory", memory),
        ("scaling", scaling),
        ("stages", stages),
        ("quality", quality),
    ):
        line = (module.__doc__ or "").split("\n\n", 1)[0].replace("\n", " ").rstrip(".")
        rows.append([f"`python benchmarks/{name}.py`", line])
    return rig.table(["command", "measures"], rows)


def machine_line(stored: dict[str, Any]) -> str:
    m = stored["machine"]
    bf16 = ", bf16 products" if m.get("bf16") else ""
    gpu = f", {m['gpu']}" if m.get("gpu") else ""
    ffmpeg = f", ffmpeg {m['ffmpeg']}" if m.get("ffmpeg") else ""
    return f"{m['threads']} threads of {m['processor']}{bf16}{gpu}; torch {m['torch']}{ffmpeg}; {m['date']}."


def page() -> str:
    """Return the text of benchmarks/README.md."""
    parts = [
        "# Benchmarks",
        "Written by `python benchmarks/report.py` from `results/*.json`; every number was taken by the scripts here.",
        commands(),
    ]
    if quality_data := rig.load("quality"):
        parts += ["## Quality", quality.show(quality_data)]
    if speed_data := rig.load("speed"):
        parts += ["## Speed", machine_line(speed_data), speed_text(speed_data)]
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


def speed_text(data: dict[str, Any]) -> str:
    return (
        f"Clips of {rig.CLIP_RATE} frames a second in memory-backed storage, methods taking turns after a warm-up, "
        'medians. "Output fps": the whole command from y4m to H.264 (libx264, crf 16, '
        f'{speed.PRESET}, for every method), its start included; "spread": slowest less fastest repeat; "without '
        'start" leaves out the start of Python and torch, which matters for short clips only. "Alone": no encoder, for '
        'models no decoder either. "CPU ms": processor time per output frame, all threads. "Others": processors that '
        f"other processes kept busy during the worst repeat; above {rig.DISTURBED} the machine was not quiet."
    )


def overhead_line(data: dict[str, Any]) -> str:
    each = rig.median(data["overhead"]["milliseconds"])
    return (
        "The pipeline itself (1080p 2x, blend model, encoder excluded): "
        f"{each:.1f} ms of wall time per output frame, "
        f"{len(data['overhead']['milliseconds'])} repeats, others {max(data['overhead']['others']):.2f}."
    )


def headline_sets(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the sets for README.md that were measured and have enough cases."""
    sets = data.get("sets", {})
    return {name: sets[name] for name in HEADLINE if name in sets and sets[name]["cases"] >= LEAST_CASES}


def file_figures(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the figures from file to file of every method in `SPEED_CELL`."""
    methods = data.get("cells", {}).get(SPEED_CELL, {"methods": {}})["methods"]
    return {name: kinds["file"] for name, kinds in methods.items() if "file" in kinds}


def headline() -> str:
    """Return the figures of README.md: quality on the headline sets, speed from file to file."""
    data, speeds = rig.load("quality"), rig.load("speed")
    sets, figures = headline_sets(data), file_figures(speeds)
    names = sorted({n for s in sets.values() for n in s["summaries"]} - {"hold"}, key=quality._rank)
    head, columns = [""], []
    for name, entry in sets.items():
        summaries = entry["summaries"]
        for key, unit, digits in (("psnr_luma", "luma PSNR, dB", 2), ("cvvdp", "cvvdp, JOD", 2)):
            if any(s.get(key) is not None for s in summaries.values()):
                head.append(f"{HEADLINE[name]} (n = {entry['cases']}), {unit}")
                columns.append({n: quality._value(s, key, digits) for n, s in summaries.items()})
    if figures:
        head.append("720p 2x, CPU ms per output frame")
        columns.append({n: f"{speed.processor_milliseconds(f):.0f}" for n, f in figures.items()})
        if all(map(speed.quiet, figures.values())):
            head.append("output fps")
            columns.append({n: f"{speed.rates(f)[0]:.1f}" for n, f in figures.items()})
    table = rig.table(head, [[name, *(column.get(name, "-") for column in columns)] for name in names])
    return f"{table}\n\n{weaknesses(data, figures)}".strip()


def weaknesses(data: dict[str, Any], figures: dict[str, dict[str, Any]]) -> str:
    """Return the paragraph on where midnet-m is behind; "" without its figures."""
    clips = data.get("sets", {}).get("videos:4", {}).get("summaries", {})
    fast = [n for n in ("svpflow", "mvtools-fast", "mvtools-high") if n in figures]
    if not fast or not {"midnet-m", "rife", "mvtools-high"} <= clips.keys() or "midnet-m" not in figures:
        return ""
    each = [speed.processor_milliseconds(figures[n]) for n in fast]
    ours, rife = clips["midnet-m"], clips["rife"]
    text = (
        "**Where we are worse:** what moves far and bends (a runner's leg, a turning head) dissolves more often than "
        "with RIFE: [eight hard moments](docs/evaluation.md#hard-moments). In the worst twentieth of the frames of "
        f"the real clips midnet-m has no lead over RIFE ({ours['worst']:.1f} and {rife['worst']:.1f} dB). MVTools and "
        f"SVPflow need {min(each):.0f} to {max(each):.0f} ms of processor time per output frame, midnet-m "
        f"{speed.processor_milliseconds(figures['midnet-m']):.0f}. Interpolated frames keep "
        f"{100 * ours['gradient_energy']:.0f} % of the true gradient energy, those of MVTools (high) "
        f"{100 * clips['mvtools-high']['gradient_energy']:.0f} %."
    )
    return textwrap.fill(text, 120, break_on_hyphens=False)


def figures_page() -> str:
    """Return the tables of docs/evaluation.md."""
    data = rig.load("quality")
    parts: list[str] = []
    for name in (*HEADLINE, "videos:6", "videos:8"):
        if name in data.get("sets", {}):
            parts += quality.set_tables(name, data["sets"][name])
    return "\n\n".join(parts)


def image() -> str:
    """Return the chart of speed against quality, or "" without figures."""
    data, speeds = rig.load("quality"), rig.load("speed")
    figures = file_figures(speeds)
    panels = []
    for name, key, axis in (
        ("middlebury-other", "psnr_luma", "luma PSNR, dB"),
        ("videos:4", "cvvdp", "cvvdp, JOD"),
    ):
        entry = headline_sets(data).get(name)
        if entry is None:
            continue
        points = [
            chart.Point(n, 1000 / speed.processor_milliseconds(figures[n]), s[key])
            for n, s in entry["summaries"].items()
            if n in figures and s.get(key) is not None
        ]
        if points:
            panels.append(chart.Panel(f"{HEADLINE[name]}, n = {entry['cases']}", axis, tuple(points)))
    if not panels:
        return ""
    m = speeds["machine"]
    frames = speeds["cells"][SPEED_CELL]["frames"]
    caption = (
        f"Processor time of all threads, 1280x720, 2x, {frames} frames in, file to file by libx264, start included; "
        f"{m['processor']}, {m['date']}."
    )
    return chart.draw(panels, caption)


def with_block(text: str, block: str) -> str:
    """Replace the block between the markers; unchanged without markers."""
    if BEGIN not in text or END not in text:
        return text
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is out of date")
    arguments = parser.parse_args()
    texts = {rig.HERE / "README.md": page()}
    for path, block in ((README, headline()), (EVALUATION, figures_page())):
        text = path.read_text(encoding="utf-8")
        if BEGIN not in text:
            print(f"{path.name} has no line {BEGIN}: its numbers are left alone", file=sys.stderr)
        texts[path] = with_block(text, block)
    if drawn := image():
        texts[CHART] = drawn
    stale = []
    for path, text in texts.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if not arguments.check:
                path.write_text(text, encoding="utf-8")
    names = ", ".join(p.relative_to(ROOT).as_posix() for p in stale)
    if arguments.check and stale:
        sys.exit(f"out of date: {names}; run python benchmarks/report.py")
    print(f"written: {names}" if stale else "up to date", file=sys.stderr)


if __name__ == "__main__":
    main()
