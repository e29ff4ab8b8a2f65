"""Outlines of layers, as uint8 masks: polygons, blobs, ellipses, cut-outs, poles, wires, grids, text, holes."""

from __future__ import annotations

import string

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Mask = NDArray[np.uint8]

FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_PLAIN,
)
LETTERS = string.ascii_letters * 3 + string.digits + ".,:!?-"


def polygon(rng: Generator, size: int) -> Mask:
    """Draw a star-shaped polygon of 3 to 9 corners."""
    count = int(rng.integers(3, 10))
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.uniform(-0.3, 0.3, count) + rng.uniform(0, 6.3)
    radii = size / 2 * rng.uniform(0.4, 1, count)
    corners = np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None] + size / 2
    return fill(size, corners)


def blob(rng: Generator, size: int) -> Mask:
    """Draw a smooth closed curve: a circle whose radius is a short Fourier series."""
    angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    radius = np.ones_like(angles)
    for k in range(1, 7):
        radius += rng.normal(0, 0.35 / k) * np.cos(k * angles + rng.uniform(0, 6.3))
    radius = np.maximum(radius, 0.15)
    radius *= size / 2 / radius.max()
    squeeze = rng.uniform(0.4, 1)
    return fill(size, np.stack([radius * np.cos(angles), squeeze * radius * np.sin(angles)], 1) + size / 2)


def ellipse(rng: Generator, size: int) -> Mask:
    """Draw an ellipse."""
    out = np.zeros((size, size), np.uint8)
    axes = (size * 8 - 16, int(size * 8 * rng.uniform(0.2, 1)))
    cv2.ellipse(out, (size * 8, size * 8), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1, cv2.LINE_AA, 4)
    return out


def box(rng: Generator, size: int) -> Mask:
    """Draw an upright rectangle, sometimes with round corners."""
    high, wide = (size * rng.uniform(0.25, 1, 2)).astype(int)
    out = np.zeros((size, size), np.uint8)
    out[(size - high) // 2 : (size + high) // 2, (size - wide) // 2 : (size + wide) // 2] = 255
    if rng.random() < 0.4:
        k = int(max(3, min(high, wide) // 3)) | 1
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (k, k))
        out = np.asarray(cv2.morphologyEx(out, cv2.MORPH_OPEN, disc), np.uint8)
    return out


def cut_out(rng: Generator, size: int) -> Mask:
    """Draw a torn, leafy shape with islands: smooth noise of two scales above a level, within an ellipse."""
    coarse = cv2.resize(rng.random((5, 5)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    cells = int(rng.integers(8, 24))
    fine = cv2.resize(rng.random((cells, cells)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    level = coarse + rng.uniform(0, 0.7) * (fine - 0.5) - rng.uniform(0.35, 0.55)
    edge = np.clip(level * size * 0.4 * 255, 0, 255).astype(np.uint8)  # about one texel from out to in
    return np.minimum(edge, ellipse(rng, size))


def silhouette(texture: Mask) -> Mask:
    """Cut the lighter parts of a texture (h, w, 3), smoothed: outlines of things as they are in photographs."""
    gray = np.asarray(cv2.cvtColor(texture, cv2.COLOR_RGB2GRAY), np.uint8)
    smooth = np.asarray(cv2.GaussianBlur(gray, (0, 0), max(1.5, texture.shape[0] / 60)), np.uint8)
    level, _ = cv2.threshold(smooth, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return np.asarray(np.clip((smooth.astype(np.float32) - level) * 24 + 128, 0, 255), np.uint8)


def pole(rng: Generator, size: int) -> Mask:
    """Draw a thin pole, straight through."""
    return lines(size, [_chord(rng, size)], float(rng.uniform(2, 14)))


def wire(rng: Generator, size: int) -> Mask:
    """Draw one to four thin wires, sagging."""
    strands = []
    thickness = float(rng.uniform(1.5, 5))
    (x0, y0), (x1, y1) = _chord(rng, size)
    sag, gap = rng.uniform(0, 0.2) * size, rng.uniform(6, 30)
    s = np.linspace(0, 1, 24)
    for k in range(int(rng.integers(1, 5))):
        curve = y0 + (y1 - y0) * s + 4 * sag * s * (1 - s) + k * gap
        strands.append(np.stack([x0 + (x1 - x0) * s, curve], 1))
    return lines(size, strands, thickness)


def grid(rng: Generator, size: int) -> Mask:
    """Draw a fence, a net, a lattice, branches: lines both ways, or one way only."""
    step, thickness = float(rng.uniform(14, 50)), float(rng.uniform(1.5, 8))
    slant = float(rng.uniform(-0.5, 0.5)) * size
    strands = []
    for at in np.arange(0, size, step):
        strands.append(np.array([[at, 0], [at + slant, size]]))
        if thickness % 1 < 0.6:
            strands.append(np.array([[0, at], [size, at + (slant if thickness % 1 < 0.3 else 0)]]))
    return lines(size, strands, thickness)


def text(rng: Generator, size: int) -> Mask:
    """Draw one to three words in one of OpenCV's fonts, filling the width."""
    out = np.zeros((size, size), np.uint8)
    rows = int(rng.integers(1, 4))
    for row in range(rows):
        write(out, words(rng), (size * 0.04, size * (row + 1) / (rows + 1)), size * 0.92, rng)
    return out


def words(rng: Generator, letters: int = 0) -> str:
    """Make up words, `letters` long in all (3 to 12 if 0)."""
    count = letters or int(rng.integers(3, 13))
    drawn = [LETTERS[int(i)] for i in rng.integers(0, len(LETTERS), count)]
    for i in range(4, count - 1, int(rng.integers(4, 8))):
        drawn[i] = " "
    return "".join(drawn)


def write(canvas: Mask, line: str, where: tuple[float, float], width: float, rng: Generator) -> None:
    """Draw a line of text into `canvas`, `width` texels wide, its base line starting at `where` (x, y)."""
    font = int(FONTS[int(rng.integers(len(FONTS)))])
    (wide, _), _ = cv2.getTextSize(line, font, 1.0, 1)
    scale = max(width / max(wide, 1), 0.2)
    thickness = max(1, round(scale * rng.uniform(1, 4)))
    cv2.putText(canvas, line, (int(where[0]), int(where[1])), font, scale, (255,), thickness, cv2.LINE_AA)


def pierce(rng: Generator, mask: Mask) -> Mask:
    """Pierce holes through which the layers below are seen."""
    size = mask.shape[0]
    for _ in range(int(rng.integers(1, 6))):
        small = max(8, int(size * rng.uniform(0.08, 0.35)))
        hole = (ellipse, polygon, blob)[int(rng.integers(3))](rng, small)
        y, x = (rng.uniform(0.1, 0.9, 2) * (size - small)).astype(int)
        part = mask[y : y + small, x : x + small]
        np.minimum(part, 255 - hole, out=part)
    return mask


def fill(size: int, corners: NDArray[np.float64]) -> Mask:
    """Fill an outline (N, 2) of x, y in texels, its edge one texel soft."""
    out = np.zeros((size, size), np.uint8)
    cv2.fillPoly(out, [np.round(corners * 16).astype(np.int32)], (255,), cv2.LINE_AA, 4)
    return out


def lines(size: int, strands: list[NDArray[np.float64]], thickness: float) -> Mask:
    """Draw strands of the same thickness, which need not be whole: drawn four times as large."""
    big = np.zeros((size * 4, size * 4), np.uint8)
    for strand in strands:
        points = np.round(strand * 4 * 16).astype(np.int32)
        cv2.polylines(big, [points], False, (255,), max(1, round(thickness * 4)), cv2.LINE_8, 4)
    return np.asarray(cv2.resize(big, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def _chord(rng: Generator, size: int) -> NDArray[np.float64]:
    ends = np.array([[0, rng.uniform(0.2, 0.8)], [1, rng.uniform(0.2, 0.8)]]) * size
    return ends if rng.random() < 0.5 else ends[:, ::-1]


# how often each is drawn
SHAPES = (
    (polygon, 0.17),
    (blob, 0.22),
    (ellipse, 0.10),
    (box, 0.11),
    (cut_out, 0.13),
    (pole, 0.08),
    (wire, 0.07),
    (grid, 0.06),
    (text, 0.06),
)


def draw(rng: Generator, size: int) -> tuple[Mask, str]:
    """Draw any shape (size, size) uint8, with its name."""
    shape = SHAPES[int(rng.choice(len(SHAPES), p=[share for _, share in SHAPES]))][0]
    mask = shape(rng, size)
    if shape in (polygon, blob, ellipse, box) and rng.random() < 0.15:
        mask = pierce(rng, mask)
    return mask, shape.__name__
