"""The curves of a run as a PNG: one panel a quantity, drawn with OpenCV so that nothing else need be installed."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

PANELS = ("loss", "psnr", "epe", "epe_seen", "epe_zero", "evaluation", "rate", "norm")
WIDTH, HEIGHT, PANEL_MARGIN = 480, 240, 36  # pixels of a panel


def draw_curves(run_log: Path, image: Path) -> None:
    """Draw `log.jsonl` as `curves.png`: steps to the right, each panel scaled to its own values.

    Args:
        run_log: lines of JSON with "step" and numbers.
        image: PNG to write.
    """
    lines = [json.loads(line) for line in run_log.read_text().splitlines() if line.strip()]
    panels = []
    for name in PANELS:
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            panels.append(_panel(name, np.array(points, np.float64)))
    if not panels:
        return
    if len(panels) % 2:
        panels.append(np.full_like(panels[0], 255))
    rows = [np.hstack(panels[k : k + 2]) for k in range(0, len(panels), 2)]
    done, data = cv2.imencode(".png", np.vstack(rows))
    if done:
        image.write_bytes(data.tobytes())


def _panel(name: str, points: NDArray[np.float64]) -> NDArray[np.uint8]:
    canvas = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    low, high = np.percentile(points[:, 1], [1, 99])
    span = max(high - low, 1e-9)
    first, last = points[0, 0], max(points[-1, 0], points[0, 0] + 1)
    x = PANEL_MARGIN + (points[:, 0] - first) / (last - first) * (WIDTH - 2 * PANEL_MARGIN)
    y = HEIGHT - PANEL_MARGIN - np.clip((points[:, 1] - low) / span, -0.05, 1.05) * (HEIGHT - 2 * PANEL_MARGIN)
    cv2.rectangle(canvas, (PANEL_MARGIN, PANEL_MARGIN), (WIDTH - PANEL_MARGIN, HEIGHT - PANEL_MARGIN), (200, 200, 200))
    line = np.stack([x, y], 1).round().astype(np.int32)
    cv2.polylines(canvas, [line], False, (160, 80, 20), 1, cv2.LINE_AA)
    for text, place in (
        (f"{name}: last {points[-1, 1]:.4g}", (PANEL_MARGIN, PANEL_MARGIN - 10)),
        (f"{high:.4g}", (2, PANEL_MARGIN + 4)),
        (f"{low:.4g}", (2, HEIGHT - PANEL_MARGIN)),
        (f"step {int(first)} to {int(last)}", (PANEL_MARGIN, HEIGHT - 12)),
    ):
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40, 40, 40), 1, cv2.LINE_AA)
    return canvas
