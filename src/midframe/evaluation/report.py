"""Write a report as JSON, Markdown and one self-contained HTML page.

The page needs no network: images are inlined, plots are SVG. This module only formats results.
"""

from __future__ import annotations

import base64
import json
import math
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import cv2
import numpy as np

from midframe.errors import InputError, MediaError
from midframe.evaluation.evaluate import PSNR_CAP, WORST_SHARE, Exhibit, Report, Result

# One colour per method, readable on light and dark backgrounds (after Okabe & Ito 2008, with equalised lightness).
HUES = ("#8a8f98", "#b58a3c", "#c2622d", "#3b8ea5", "#4e9a4e", "#8a63c7", "#c7508a", "#5b74d6", "#7a9a2e", "#b0474a")
ERROR_GAIN = 4  # error images show |interpolated - truth| times this
WEBP_QUALITY = 88
WIDEST_TABLE = 7  # columns; wider tables are transposed
AXIS_END = 60.0  # dB; higher values are plotted here, so that identical frames at 100 dB do not compress the axis

Image = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a set's table."""

    title: str
    pick: Callable[[Mapping[str, Any]], float | None]
    digits: int
    better: int  # 1: higher is better, -1: lower is better, 0: neither


def _inside(outer: str, inner: str) -> Callable[[Mapping[str, Any]], float | None]:
    def pick(summary: Mapping[str, Any]) -> float | None:
        part = summary.get(outer)
        value = part.get(inner) if part else None
        return None if value is None else float(value)

    return pick


def _paired(score: str, part: str) -> Callable[[Mapping[str, Any]], float | None]:
    def pick(summary: Mapping[str, Any]) -> float | None:
        value = ((summary.get("paired") or {}).get(score) or {}).get(part)
        return None if value is None else float(value)

    return pick


def _plain(key: str) -> Callable[[Mapping[str, Any]], float | None]:
    def pick(summary: Mapping[str, Any]) -> float | None:
        value = summary.get(key)
        return None if value is None else float(value)

    return pick


def _milliseconds(summary: Mapping[str, Any]) -> float | None:
    value = summary.get("seconds")
    return None if value is None else 1000 * float(value)


QUALITY_COLUMNS = (
    Column("frames", _plain("frames"), 0, 0),
    Column("clips or scenes", _inside("interval", "clips"), 0, 0),
    Column("PSNR, dB", _plain("psnr"), 2, 1),
    Column("95 % from", _inside("interval", "low"), 2, 0),
    Column("to", _inside("interval", "high"), 2, 0),
    Column("luma PSNR, dB", _plain("psnr_luma"), 2, 1),
    Column("SSIM", _plain("ssim"), 4, 1),
    Column("GMSD", _plain("gmsd"), 4, -1),
    Column("gradient energy / truth", _plain("gradient_energy"), 3, 0),
    Column("IE, levels", _plain("ie"), 3, -1),
    Column("PSNR_DIV, dB", _plain("psnr_div"), 2, 1),
    Column("cvvdp, JOD", _plain("cvvdp"), 3, 1),
    Column("cvvdp 95 % from", _inside("cvvdp_interval", "low"), 3, 0),
    Column("cvvdp to", _inside("cvvdp_interval", "high"), 3, 0),
    Column("cvvdp, worst 5 %", _plain("cvvdp_worst"), 3, 1),
    Column("LPIPS", _plain("lpips"), 4, -1),
    Column("worst 5 %, dB", _plain("worst"), 2, 1),
    Column("ms per frame", _milliseconds, 0, 0),
)
TIME = (
    Column("sharpness loss, %", _inside("flicker", "sharpness_percent"), 1, -1),
    Column("brightness flicker, levels", _inside("flicker", "luma_levels"), 3, -1),
    Column("static pixels: mean error, levels", _inside("static", "mean_levels"), 3, -1),
    Column("static pixels changed, %", _inside("static", "moved_percent"), 3, -1),
    Column("step deviation, %", _inside("steps", "deviation_percent"), 2, -1),
    Column("worst step, %", _inside("steps", "worst_percent"), 2, -1),
)
MODELSCOPE = (
    Column("PSNR, floats", _plain("psnr_modelscope"), 2, 1),
    Column("SSIM, 3-D", _plain("ssim_modelscope"), 4, 1),
    Column("LPIPS, BGR", _plain("lpips_modelscope"), 4, -1),
)
FLOW = (
    Column("end-point error, px", _inside("flow", "all"), 2, -1),
    Column("seen in both, px", _inside("flow", "masked"), 2, -1),
    Column("below 10 px, px", _inside("flow", "short"), 2, -1),
    Column("10 to 40 px, px", _inside("flow", "medium"), 2, -1),
    Column("above 40 px, px", _inside("flow", "long"), 2, -1),
    Column("Fl-all, %", _inside("flow", "outliers_percent"), 1, -1),
    Column("Fl, seen in both, %", _inside("flow", "outliers_masked_percent"), 1, -1),
    Column("zero flow, px", _inside("flow", "zero"), 2, 0),
)


def write(report: Report, folder: Path | str, title: str = "midframe evaluation") -> dict[str, Path]:
    """Write report.json, report.md and report.html into a folder, each atomically.

    Returns:
        The paths by suffix: "json", "md", "html".

    Raises:
        MediaError: the folder cannot be written.
    """
    target = Path(folder)
    texts = {
        "json": json.dumps(report.as_json(), indent=1, allow_nan=False) + "\n",
        "md": markdown(report, title),
        "html": html(report, title),
    }
    paths = {}
    try:
        target.mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            paths[suffix] = target / f"report.{suffix}"
            temporary = target / f".report.{suffix}.{os.getpid()}"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(paths[suffix])
    except OSError as error:
        raise MediaError(f"{target}: the report cannot be written: {error.strerror}") from error
    return paths


def load(path: Path | str) -> Report:
    """Read a report.json; it holds no images.

    Raises:
        MediaError: the file cannot be read.
        InputError: not an evaluation report.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise MediaError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    return Report.from_json(data)


# Tables ---------------------------------------------------------------------------------------------------------


def _results(report: Report, set_name: str) -> list[Result]:
    found = (report.result(set_name, name) for name in report.methods)
    return [r for r in found if r is not None]


def _columns(columns: Sequence[Column], results: Sequence[Result]) -> list[Column]:
    """Return the columns that have values; LPIPS stays because a note explains its absence."""
    kept = []
    for column in columns:
        known = any(column.pick(r.summary) is not None for r in results)
        frames = any(r.summary.get("frames") for r in results)
        if known:
            kept.append(column)
        elif frames and column.title.startswith("LPIPS"):
            kept.append(replace(column, title=f"{column.title} (absent)"))
    return kept


def _number(value: float | None, digits: int) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{digits}f}"


def _best(values: Sequence[float | None], better: int) -> float | None:
    known = [v for v in values if v is not None]
    if better == 0 or len(known) < 2:
        return None
    return max(known) if better > 0 else min(known)


def _named_columns(summaries: Sequence[Mapping[str, Any]], key: str, suffix: str = ", dB") -> list[Column]:
    """Return one column for each name in a mapping of the summaries: regions, kinds, instants."""
    names: list[str] = []
    for summary in summaries:
        names += [n for n in summary.get(key) or {} if n not in names]
    return [Column(f"{name}{suffix}", _inside(key, name), 2, 1) for name in names]


def _tables(report: Report, set_name: str) -> list[tuple[str, list[Column], list[Result]]]:
    """Return (caption, columns, results) of every table of a set."""
    results = _results(report, set_name)
    focus = report.focus
    paired = [
        Column(f"{title} less {focus}'s", _paired(score, "mean"), digits, 0)
        if part == "mean"
        else Column(f"95 % {part}", _paired(score, {"from": "low", "to": "high"}[part]), digits, 0)
        for title, score, digits in (("luma PSNR", "psnr_luma", 2), ("cvvdp", "cvvdp", 3))
        for part in ("mean", "from", "to")
    ]
    good = [r for r in results if not r.failure]
    summaries = [r.summary for r in good]
    tables = [
        ("Accuracy", _columns(QUALITY_COLUMNS, good), results),
        (
            f"Difference from {focus}, frame by frame, bootstrap over clips",
            _columns(paired, good),
            [r for r in good if r.summary.get("paired")],
        ),
        ("Flow", _columns(FLOW, good), [r for r in good if r.summary.get("flow")]),
        (
            "By region: PSNR over all its pixels",
            _named_columns(summaries, "regions"),
            [r for r in good if r.summary.get("regions")],
        ),
        ("By kind of scene", _named_columns(summaries, "kinds"), [r for r in good if r.summary.get("kinds")]),
        ("Temporal stability", _columns(TIME, good), [r for r in good if r.summary.get("frames")]),
        (
            "By ModelScope's definitions (not comparable with the first table)",
            _columns(MODELSCOPE, good),
            [r for r in good if r.summary.get("frames")],
        ),
    ]
    return [(caption, columns, rows) for caption, columns, rows in tables if columns and rows]


def _scored_sets(report: Report) -> list[str]:
    """Return the sets with scored frames; the others have flow only."""
    return [s["name"] for s in report.sets if any(r.summary.get("frames") for r in _results(report, s["name"]))]


def markdown(report: Report, title: str = "midframe evaluation") -> str:
    """Format the tables of a report as Markdown."""
    lines = [f"# {title}", "", _environment_line(report), ""]
    sets = _scored_sets(report)
    if sets:
        lines += ["PSNR in dB:", ""]
        lines += ["| | " + " | ".join(sets) + " |", "|---" + "|---:" * len(sets) + "|"]
        for name in report.methods:
            cells = []
            for s in sets:
                result = report.result(s, name)
                value = result.summary.get("psnr") if result else None
                best = _best([r.summary.get("psnr") for r in _results(report, s)], 1)
                text = _number(value, 2)
                cells.append(f"**{text}**" if value is not None and value == best else text)
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    for data in report.sets:
        lines += [f"## {data['name']}", "", _set_line(data), ""]
        for caption, columns, rows in _tables(report, data["name"]):
            lines += [f"{caption}:", ""]
            if _tall(columns):
                shown = [r for r in rows if not r.failure]
                lines += ["| | " + " | ".join(r.method for r in shown) + " |", "|---" + "|---:" * len(shown) + "|"]
                for c in columns:
                    values = [_number(c.pick(r.summary), c.digits) for r in shown]
                    lines.append(f"| {c.title} | " + " | ".join(values) + " |")
                lines += ["", *(f"- {r.method}: {r.failure}" for r in rows if r.failure)]
                lines.append("")
                continue
            lines += ["| | " + " | ".join(c.title for c in columns) + " |", "|---" + "|---:" * len(columns) + "|"]
            for r in rows:
                cells = [r.failure] if r.failure else [_number(c.pick(r.summary), c.digits) for c in columns]
                lines.append(f"| {r.method} | " + " | ".join(cells + [""] * (len(columns) - len(cells))) + " |")
            lines.append("")
    lines += ["## Notes", "", *(f"- {line}" for line in _note_lines(report)), ""]
    return "\n".join(lines)


def _environment_line(report: Report) -> str:
    used = report.environment
    return (
        f"Evaluated {used.get('date', '')} with midframe {used.get('midframe', '')} and torch {used.get('torch', '')}, "
        f"{used.get('threads', '')} threads of {used.get('processor', '')}."
    )


def _set_line(data: Mapping[str, Any]) -> str:
    note = f" Note: {data['note']}." if data.get("note") else ""
    return f"{data['protocol']}. {data['cases']} cases.{note}"


def _note_lines(report: Report) -> list[str]:
    return [
        *report.notes,
        f"PSNR, SSIM and IE are computed on RGB rounded to 8 bits; identical frames count as {PSNR_CAP:.0f} dB; "
        f"worst is the mean of the lowest {WORST_SHARE:.0%} of frames.",
        "Times were measured while scoring and are approximate; see benchmarks/ for speed.",
    ]


# The page -------------------------------------------------------------------------------------------------------


def html(report: Report, title: str = "midframe evaluation") -> str:
    """Format a report as one page with tables, plots and worst cases."""
    hues = {name: HUES[k % len(HUES)] for k, name in enumerate(report.methods)}
    body = [_methods_table(report, hues)]
    for data in report.sets:
        name = data["name"]
        body.append(
            f'<h2 id="{escape(_anchor(name))}">{escape(name)}</h2><p class="soft">{escape(_set_line(data))}</p>'
        )
        for k, (caption, columns, rows) in enumerate(_tables(report, name)):
            table = _html_table(caption, columns, rows, report.focus, hues)
            collapsed = caption.startswith("By ModelScope")
            body.append(f"<details><summary>{escape(caption)}</summary>{table}</details>" if collapsed else table)
            if k == 0:
                body.append(_plots(report, name, hues))
        shown = [e for e in report.exhibits if e.set == name]
        if shown:
            body.append(f"<h3>Worst cases of {escape(report.focus)}</h3>")
            body += [_exhibit(e, report.focus) for e in shown]
    nav = "".join(f'<a href="#{escape(_anchor(s["name"]))}">{escape(s["name"])}</a>' for s in report.sets)
    page = Template(files("midframe.evaluation").joinpath("report.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=escape(title),
        environment=escape(_environment_line(report)),
        nav=nav,
        body="\n".join(body),
        notes="".join(f"<p>{escape(line)}</p>" for line in _note_lines(report)),
    )


def _anchor(name: str) -> str:
    return "set-" + "".join(c if c.isalnum() else "-" for c in name)


def _label(name: str, hues: Mapping[str, str]) -> str:
    return f'<span class="dot" style="background:{hues[name]}"></span>{escape(name)}'


def _methods_table(report: Report, hues: Mapping[str, str]) -> str:
    """Return the table of PSNR, methods by sets, with the gain over blend if that was run."""
    sets = _scored_sets(report)
    if not sets:
        return ""
    head = "".join(f'<th><a href="#{escape(_anchor(s))}">{escape(s)}</a></th>' for s in sets)
    best = {s: _best([r.summary.get("psnr") for r in _results(report, s)], 1) for s in sets}
    rows = []
    for name in report.methods:
        cells = []
        for s in sets:
            result, base = report.result(s, name), report.result(s, "blend")
            value = result.summary.get("psnr") if result else None
            if value is None:
                why = escape(result.failure) if result and result.failure else ""
                cells.append(f'<td title="{why}">–</td>')
                continue
            low = base.summary.get("psnr") if base else None
            gain = f"<small>{value - low:+.1f}</small>" if low is not None and name != "blend" else "<small></small>"
            cells.append(f"<td{' class=best' if value == best[s] else ''}>{value:.2f}{gain}</td>")
        focus = " class=focus" if name == report.focus else ""
        rows.append(f"<tr{focus}><td>{_label(name, hues)}</td>{''.join(cells)}</tr>")
    gained = "; small: gain over blend" if "blend" in report.methods and len(report.methods) > 1 else ""
    caption = f"PSNR in dB{gained}. The best of each set is highlighted."
    return (
        f'<div class="card scroll"><table><caption>{caption}</caption><thead><tr><th>method</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _tall(columns: Sequence[Column]) -> bool:
    """Return whether to transpose a table: methods as columns."""
    return len(columns) > WIDEST_TABLE


def _html_tall(caption: str, columns: Sequence[Column], rows: Sequence[Result], hues: Mapping[str, str]) -> str:
    """Return a table with measures as rows and methods as columns."""
    head = "".join(f"<th>{_label(r.method, hues)}</th>" for r in rows)
    lines = []
    for c in columns:
        values = [c.pick(r.summary) for r in rows]
        top = _best(values, c.better)
        cells = "".join(
            f"<td{' class=best' if v is not None and v == top else ''}>{_number(v, c.digits)}</td>" for v in values
        )
        lines.append(f"<tr><td>{escape(c.title)}</td>{cells}</tr>")
    return (
        f'<div class="card scroll"><table><caption>{escape(caption)}</caption><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _html_table(
    caption: str, columns: Sequence[Column], rows: Sequence[Result], focus: str, hues: Mapping[str, str]
) -> str:
    if _tall(columns):
        return _html_tall(caption, columns, rows, hues)
    head = "".join(f"<th>{escape(c.title)}</th>" for c in columns)
    best = [_best([c.pick(r.summary) for r in rows if not r.failure], c.better) for c in columns]
    lines = []
    for r in rows:
        mark = " class=focus" if r.method == focus else ""
        if r.failure:
            cells = f'<td colspan="{len(columns)}" class="soft">{escape(r.failure)}</td>'
        else:
            values = [c.pick(r.summary) for c in columns]
            cells = "".join(
                f"<td{' class=best' if v is not None and v == top else ''}>{_number(v, c.digits)}</td>"
                for v, c, top in zip(values, columns, best, strict=True)
            )
        lines.append(f"<tr{mark}><td>{_label(r.method, hues)}</td>{cells}</tr>")
    return (
        f'<div class="card scroll"><table><caption>{escape(caption)}</caption><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


# Plots ----------------------------------------------------------------------------------------------------------


def _plots(report: Report, set_name: str, hues: Mapping[str, str]) -> str:
    results = [r for r in _results(report, set_name) if not r.failure and r.rows]
    if not results:
        return ""
    figures = [("PSNR of every frame: dots, interquartile range, median", _distribution(results, hues))]
    over_motion = {
        r.method: [((p["low"] + p["high"]) / 2, p["psnr"]) for p in r.summary["motion"]]
        for r in results
        if len(r.summary.get("motion") or []) > 1
    }
    if over_motion:
        figures.append(("PSNR over true motion", _lines(over_motion, hues, "pixels", logarithmic=True)))
    over_t = {
        r.method: sorted((_fraction(t), psnr) for t, psnr in r.summary["instants"].items())
        for r in results
        if len(r.summary.get("instants") or {}) > 2
    }
    if over_t:
        figures.append(("PSNR over the instant t", _lines(over_t, hues, "t")))
    cards = "".join(
        f'<figure class="card">{svg}<figcaption>{escape(text)}</figcaption></figure>' for text, svg in figures
    )
    return f'<div class="plots">{cards}</div>'


def _fraction(text: str) -> float:
    above, _, below = text.partition("/")
    return int(above) / int(below or 1)


def round_ticks(low: float, high: float, wanted: int = 6) -> list[float]:
    """Return about `wanted` multiples of 1, 2 or 5 times a power of ten between two values."""
    raw = max(high - low, 1e-9) / wanted
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _distribution(results: Sequence[Result], hues: Mapping[str, str]) -> str:
    """Plot one strip of dots per method over a PSNR axis; the jitter is deterministic."""
    width, row, left, right = 560, 40, 104, 14
    everything = [min(r.psnr, AXIS_END) for result in results for r in result.rows]
    low, high = min(everything), max(everything)
    low, high = low - 0.03 * (high - low + 1), high + 0.03 * (high - low + 1)

    def x(value: float) -> float:
        return left + (min(value, AXIS_END) - low) / (high - low) * (width - left - right)

    height = row * len(results) + 26
    parts = []
    for tick in round_ticks(low, high):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="0" y2="{height - 22}"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{height - 6}" text-anchor="middle">{tick:g}</text>')
    for k, result in enumerate(results):
        middle, hue = row * k + row / 2, hues[result.method]
        rows = sorted(result.rows, key=lambda r: r.psnr)
        every = max(1, len(rows) // 400)  # more dots would overlap
        values = [r.psnr for r in rows]
        quarter = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        parts.append(
            f'<text class="name" x="{left - 10}" y="{middle + 4}" text-anchor="end">{escape(result.method)}</text>'
        )
        parts.append(
            f'<rect x="{x(quarter[0]):.1f}" y="{middle - 11}" width="{max(x(quarter[2]) - x(quarter[0]), 1):.1f}" '
            f'height="22" rx="4" fill="{hue}" opacity=".22"/>'
        )
        for j, r in enumerate(rows[::every]):
            y = middle + 9 * math.sin(12.9898 * (j + 1) + k)
            label = f"{r.case} t={r.t}: {r.psnr:.2f} dB"
            parts.append(
                f'<circle cx="{x(r.psnr):.1f}" cy="{y:.1f}" r="3" fill="{hue}" opacity=".75">'
                f"<title>{escape(label)}</title></circle>"
            )
        parts.append(
            f'<line x1="{x(quarter[1]):.1f}" x2="{x(quarter[1]):.1f}" y1="{middle - 14}" y2="{middle + 14}" '
            f'stroke="{hue}" stroke-width="3"><title>median {quarter[1]:.2f} dB</title></line>'
        )
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="PSNR by method">{"".join(parts)}</svg>'


def _lines(
    series: Mapping[str, Sequence[tuple[float, float]]], hues: Mapping[str, str], unit: str, logarithmic: bool = False
) -> str:
    """Plot one line per method, labelled at its right end."""
    width, height, left, right, bottom = 560, 280, 40, 112, 38
    xs = [px for points in series.values() for px, _ in points]
    ys = [py for points in series.values() for _, py in points]
    logarithmic = logarithmic and min(xs) > 0 and max(xs) > 5 * min(xs)
    scale: Callable[[float], float] = math.log if logarithmic else float
    x0, x1 = scale(min(xs)), scale(max(xs))
    y0, y1 = min(ys) - 0.5, max(ys) + 0.5

    def x(value: float) -> float:
        return left + (scale(value) - x0) / max(x1 - x0, 1e-9) * (width - left - right)

    def y(value: float) -> float:
        return 6 + (y1 - value) / (y1 - y0) * (height - bottom - 6)

    parts = []
    for tick in round_ticks(y0, y1, 5):
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    marks = (
        sorted(set(xs))
        if not logarithmic
        else [m for m in (0.5, 1, 2, 5, 10, 20, 50, 100, 200) if min(xs) <= m <= max(xs)]
    )
    for mark in marks if len(marks) <= 9 else round_ticks(min(xs), max(xs)):
        text = f"{mark:.2g}" if not logarithmic else f"{mark:g}"
        parts.append(f'<text x="{x(mark):.1f}" y="{height - bottom + 16}" text-anchor="middle">{text}</text>')
    parts.append(f'<text x="{(left + width - right) / 2}" y="{height - 4}" text-anchor="middle">{escape(unit)}</text>')
    taken: list[float] = []
    for name, points in sorted(series.items(), key=lambda item: -item[1][-1][1]):
        path = " ".join(f"{x(px):.1f},{y(py):.1f}" for px, py in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{hues[name]}" stroke-width="2"/>')
        for px, py in points:
            parts.append(
                f'<circle cx="{x(px):.1f}" cy="{y(py):.1f}" r="3.5" fill="{hues[name]}">'
                f"<title>{escape(name)} at {px:.3g}: {py:.2f} dB</title></circle>"
            )
        end = y(points[-1][1])
        end = max(end, taken[-1] + 14) if taken else end  # labels do not overlap
        taken.append(end)
        parts.append(f'<text class="name" x="{width - right + 10}" y="{end + 4:.1f}">{escape(name)}</text>')
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="PSNR lines">{"".join(parts)}</svg>'


# Frames -------------------------------------------------------------------------------------------------------


def flow_image(flow: Image, largest: float) -> Image:
    """Visualise flow (H, W, 2) as RGB (H, W, 3) uint8: hue is direction, saturation is length / `largest` pixels."""
    dx, dy = flow[..., 0].astype(np.float32), flow[..., 1].astype(np.float32)
    length, angle = cv2.cartToPolar(dx, dy, angleInDegrees=True)
    strength = np.clip(np.nan_to_num(length) / max(largest, 1e-6), 0, 1)
    hsv = np.stack([np.nan_to_num(angle) / 2, 255 * strength, np.full_like(strength, 255)], axis=-1)
    return np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB))


def error_image(interpolated: Image, truth: Image) -> Image:
    """Visualise |interpolated - truth| of (H, W, 3) uint8 images: channel mean times `ERROR_GAIN`, black to yellow."""
    error = np.abs(interpolated.astype(np.float32) - truth.astype(np.float32)).mean(-1) * ERROR_GAIN
    coloured = cv2.applyColorMap(np.clip(error, 0, 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return np.asarray(coloured[..., ::-1])


def _inline(image: Image, widest: int) -> str:
    """Encode an RGB image as a data URL, at most `widest` pixels wide."""
    if image.shape[1] > widest:
        size = (widest, max(1, round(image.shape[0] * widest / image.shape[1])))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    good, data = cv2.imencode(".webp", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_WEBP_QUALITY, WEBP_QUALITY])
    assert good
    return "data:image/webp;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def _exhibit(shown: Exhibit, focus: str) -> str:
    """Return one case: a slider between any two images and a strip of all images with errors and flows."""
    captions = {"truth": "truth", "frame a": "frame a", "frame b": "frame b"}
    captions |= {name: f"{name}, {shown.psnr[name]:.2f} dB" for name in shown.interpolated}
    images = {"truth": shown.truth, **shown.interpolated, "frame a": shown.a, "frame b": shown.b}

    def options(chosen: str) -> str:
        return "".join(
            f'<option value="{escape(name)}"{" selected" if name == chosen else ""}>{escape(captions[name])}</option>'
            for name in images
        )

    def figure(image: Image, caption: str, name: str = "", widest: int = 960) -> str:
        data = f' data-name="{escape(name)}"' if name else ""
        alt = f'alt="{escape(caption)}"'
        return (
            f'<figure><img{data} {alt} loading="lazy" src="{_inline(image, widest)}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )

    strips = ["".join(figure(image, captions[name], name) for name, image in images.items())]
    strips.append(
        "".join(
            figure(error_image(image, shown.truth), f"{name}: error x{ERROR_GAIN}", widest=480)
            for name, image in shown.interpolated.items()
        )
    )
    flows = ({"true flow": shown.true_flow} if shown.true_flow is not None else {}) | {
        f"{name}: flow": flow for name, flow in shown.flow.items()
    }
    if flows:
        reference = (
            shown.true_flow if shown.true_flow is not None else shown.flow.get(focus, next(iter(flows.values())))
        )
        largest = max(float(np.percentile(np.linalg.norm(reference, axis=-1), 99)), 1.0)
        strips.append(
            "".join(
                figure(flow_image(flow, largest), f"{name}, full saturation at {largest:.0f} px", widest=480)
                for name, flow in flows.items()
            )
        )
    label = f"t = {shown.t}" + (f" · {shown.where}" if shown.where else "")
    return (
        f'<div class="exhibit card"><h4>{escape(shown.case)} <span class="soft">{escape(label)}</span></h4>'
        f'<div class="bar"><label>left <select>{options(focus)}</select></label>'
        f'<label class="push">right <select>{options("truth")}</select></label></div>'
        f'<div class="slider" tabindex="0" role="slider" aria-label="compare" aria-valuemin="0" aria-valuemax="100">'
        f'<img alt=""><div class="over"><img alt=""></div><div class="edge"></div>'
        f'<span class="tag left"></span><span class="tag right"></span></div>'
        + "".join(f'<div class="strip">{strip}</div>' for strip in strips)
        + "</div>"
    )
