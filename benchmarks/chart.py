"""Draw the chart of speed against quality as SVG: one panel for each quality measure, a logarithmic axis of speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 340  # pixels of a panel
LEFT, RIGHT, TOP, BOTTOM = 52, 24, 40, 48
OURS = ("dis", "midnet-s", "midnet-m")  # joined by a line
SPEED_AXIS = "output frames per second of processor time"
COLOURS = {True: "#1f6feb", False: "#57606a"}
LETTER, LINE = 6.3, 13.0  # pixels, of a label of 11 px


@dataclass(frozen=True, slots=True)
class Point:
    """One method: frames per second of processor time and a score."""

    name: str
    fps: float
    score: float


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart."""

    title: str
    axis: str  # of the scores
    points: tuple[Point, ...]


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(s for s in (step, 2 * step, 5 * step, 10 * step) if (high - low) / s <= 6)
    return [round(k * step, 6) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _label_place(
    x: float, y: float, text: str, taken: list[tuple[float, float, float, float]]
) -> tuple[float, float, str]:
    """Return the first place beside a point that covers no other label or point, and reserve it."""
    wide = LETTER * len(text)
    spots = [(8, 4, "start"), (-8, 4, "end"), (0, -9, "middle"), (0, 18, "middle"), (7, -8, "start"), (7, 16, "start"),
             (-7, -8, "end"), (-7, 16, "end"), (0, -22, "middle"), (0, 31, "middle")]  # fmt: skip
    best = spots[0]
    for spot in spots:
        dx, dy, anchor = spot
        left = x + dx - {"start": 0, "end": wide, "middle": wide / 2}[anchor]
        box = (left, y + dy - LINE + 3, left + wide, y + dy + 3)
        inside = box[0] >= LEFT and box[2] <= WIDTH - 2 and box[1] >= TOP - 6 and box[3] <= HEIGHT - BOTTOM
        if inside and all(box[2] < t[0] or t[2] < box[0] or box[3] < t[1] or t[3] < box[1] for t in taken):
            best = spot
            taken.append(box)
            break
    return x + best[0], y + best[1], best[2]


def _panel(panel: Panel, offset: int) -> list[str]:
    speeds, scores = [p.fps for p in panel.points], [p.score for p in panel.points]
    first, last = math.log10(min(speeds)) - 0.12, math.log10(max(speeds)) + 0.15
    margin = 0.1 * (max(scores) - min(scores) or 1)
    low, high = min(scores) - margin, max(scores) + margin

    def across(fps: float) -> float:
        return LEFT + (math.log10(fps) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def down(score: float) -> float:
        return TOP + (high - score) / (high - low) * (HEIGHT - TOP - BOTTOM)

    out = [f'<g transform="translate({offset} 0)">']
    out.append(f'<text x="{LEFT}" y="22" font-weight="600" font-size="13">{escape(panel.title)}</text>')
    for fps in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200):
        if first <= math.log10(fps) <= last:
            x = across(fps)
            out.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#e3e6ea"/>')
            out.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{fps:g}</text>')
    for score in _ticks(low, high):
        y = down(score)
        out.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#e3e6ea"/>')
        out.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{score:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(f'<text x="{middle:.0f}" y="{HEIGHT - 10}" text-anchor="middle">{SPEED_AXIS}</text>')
    rise = (TOP + HEIGHT - BOTTOM) / 2
    out.append(
        f'<text transform="translate(14 {rise:.0f}) rotate(-90)" text-anchor="middle">{escape(panel.axis)}</text>'
    )
    joined = [p for name in OURS for p in panel.points if p.name == name]
    line = " ".join(f"{across(p.fps):.1f},{down(p.score):.1f}" for p in joined)
    out.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[True]}" stroke-width="1.5"/>')
    taken = [(across(p.fps) - 5, down(p.score) - 5, across(p.fps) + 5, down(p.score) + 5) for p in panel.points]
    for p in sorted(panel.points, key=lambda p: p.name not in OURS):
        ours = p.name in OURS
        x, y = across(p.fps), down(p.score)
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLOURS[ours]}"/>')
        tx, ty, anchor = _label_place(x, y, p.name, taken)
        weight = ' font-weight="600"' if ours else ""
        out.append(
            f'<text x="{tx:.1f}" y="{ty:.1f}" text-anchor="{anchor}" fill="{COLOURS[ours]}"{weight}>'
            f"{escape(p.name)}</text>"
        )
    return [*out, "</g>"]


def draw(panels: Sequence[Panel], caption: str) -> str:
    """Return an SVG file with the panels side by side above a caption."""
    wide = WIDTH * len(panels)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {HEIGHT + 20}" width="{wide}" '
        f'height="{HEIGHT + 20}" font-family="system-ui, sans-serif" font-size="11" fill="#24292f">',
        f'<rect width="{wide}" height="{HEIGHT + 20}" fill="#ffffff"/>',
    ]
    for k, panel in enumerate(panels):
        out += _panel(panel, k * WIDTH)
    out.append(f'<text x="{LEFT}" y="{HEIGHT + 10}" font-size="10" fill="#57606a">{escape(caption)}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"
