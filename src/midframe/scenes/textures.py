"""Surfaces of rendered scenes: photographs, dead leaves, smooth and repeated patterns.

A texture is a uint8 RGB image. `Textures.pick` returns one at a given resolution; everything random
comes from the generator that is passed in, so a scene depends on its seed alone (and on the photographs given).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from midframe.errors import InputError

Image = NDArray[np.uint8]

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
CACHE_BYTES = 1 << 30  # decoded photographs kept by one process
LEAVES = 24  # different dead-leaves images
HOLD_OUT = 8  # one photograph in eight is kept from training

# Without low-pass filter a texture of twice the image's resolution, sampled once a pixel, would alias. This 5-tap
# kernel passes 0.75 at the image's Nyquist frequency and 0 at the texture's: about as the area of a pixel
# does, and the cubic interpolation after it hardly depends on the phase (0.97 at half a texel).
PREFILTER = np.array([-1, 4, 10, 4, -1], np.float32) / 16


def held_out(path: Path) -> bool:
    """Whether a photograph is kept from training for the rendered suite; its file name alone decides."""
    return hashlib.sha256(path.name.encode()).digest()[0] % HOLD_OUT == 0


def find_photos(folders: Sequence[Path], evaluation: bool = False) -> list[Path]:
    """Find the photographs under `folders`, sorted by name: those held out if `evaluation`, else all others.

    Raises:
        InputError: a folder does not exist, or none of its files is for this use.
    """
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"photographs: {folder} is no folder")
        found += [p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES and p.is_file()]
    chosen = sorted((p for p in found if held_out(p) == evaluation), key=lambda p: (p.name, str(p)))
    if not chosen:
        use = "evaluation" if evaluation else "training"
        raise InputError(f"photographs: {len(found)} images under {', '.join(map(str, folders))}, none for {use}")
    return chosen


class Textures:
    """Photographs (decoded once, kept within bounds) and procedural textures.

    Args:
        photos: image files; without any, all textures are procedural.
        cache_bytes: how much of decoded photographs is kept in memory.
    """

    def __init__(self, photos: Sequence[Path] = (), cache_bytes: int = CACHE_BYTES) -> None:
        self.photos = tuple(photos)
        self.cache_bytes = cache_bytes
        self._cache: OrderedDict[int, Image] = OrderedDict()
        self._held = 0
        self._leaves: dict[int, Image] = {}

    def photo(self, index: int) -> Image:
        """Decode photograph `index`, RGB, as stored."""
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        path = self.photos[index]
        raw = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
        if raw is None:
            raise InputError(f"photographs: {path} cannot be decoded; remove it from the folder")
        image = np.asarray(raw, np.uint8)
        self._cache[index] = image
        self._held += image.nbytes
        while self._held > self.cache_bytes and len(self._cache) > 1:
            self._held -= self._cache.popitem(last=False)[1].nbytes
        return image

    def leaves(self, index: int) -> Image:
        """Return dead-leaves image `index` modulo `LEAVES`, 640 x 640."""
        index %= LEAVES
        if index not in self._leaves:
            self._leaves[index] = dead_leaves(np.random.default_rng([7, index]), 640)
        return self._leaves[index]

    def source(self, rng: Generator, size: int = 512, rich: bool = False) -> Image:
        """Pick a whole image to cut textures from: mostly a photograph, if there are any; smooth ones are of `size`."""
        kind = rng.random()
        if self.photos and kind < 0.84:
            return self.photo(int(rng.integers(len(self.photos))))
        if rich or kind < (0.95 if self.photos else 0.85):
            return self.leaves(int(rng.integers(LEAVES)))
        return smooth(rng, min(max(size, 64), 512))

    def pick(self, rng: Generator, height: int, width: int, density: float, rich: bool = False) -> Image:
        """Cut a texture (height, width, 3) with `density` texels per pixel of the image.

        The source shows at 0.9 to 2.2 of its own pixels per pixel of the image, where it is large enough (as sharp
        as a photograph, or a photograph made smaller), in a quarter of all textures at 0.45 to 0.9. Regions beyond the
        source are mirrored. `rich` leaves out smooth surfaces.
        """
        source = self.source(rng, max(height, width), rich)
        if rng.random() < 0.5:
            source = source[:, ::-1]
        rows, columns = source.shape[:2]
        # a quarter is enlarged: video is softer than photographs, by about 8 dB at two thirds of Nyquist
        low, high = (0.45, 0.9) if rng.random() < 0.25 else (0.9, 2.2)
        zoom = float(np.exp(rng.uniform(np.log(low), np.log(high)))) / density  # source pixels per texel
        # not larger than the source allows, unless that would blur
        zoom = max(min(zoom, rows / height, columns / width), min(zoom, 0.9 / density))
        tall, wide = min(round(height * zoom), rows), min(round(width * zoom), columns)
        top, left = int(rng.integers(rows - tall + 1)), int(rng.integers(columns - wide + 1))
        cut = source[top : top + tall, left : left + wide]
        tall, broad = min(height, max(2, round(tall / zoom))), min(width, max(2, round(wide / zoom)))
        way = cv2.INTER_AREA if zoom > 1 else cv2.INTER_CUBIC
        texture = np.asarray(cv2.resize(cut, (broad, tall), interpolation=way), np.uint8)
        if (tall, broad) != (height, width):
            texture = mirror(texture, height, width)
        if density > 1.5:
            filtered = cv2.sepFilter2D(texture, -1, PREFILTER, PREFILTER, borderType=cv2.BORDER_REFLECT_101)
            texture = np.asarray(filtered, np.uint8)
        return recolour(rng, texture)


def mirror(image: Image, height: int, width: int) -> Image:
    """Extend an image right and down to (height, width) by mirroring, as often as it takes."""
    rows, columns = image.shape[:2]
    y, x = np.arange(height) % max(2 * rows - 2, 1), np.arange(width) % max(2 * columns - 2, 1)
    return np.ascontiguousarray(image[np.minimum(y, 2 * rows - 2 - y)[:, None], np.minimum(x, 2 * columns - 2 - x)])


def recolour(rng: Generator, image: Image) -> Image:
    """Sometimes change exposure, contrast or tint."""
    if rng.random() < 0.5:
        return image
    ramp = np.arange(256, dtype=np.float32)[:, None] / 255
    gain = np.exp(rng.normal(0, 0.15)) * np.exp(rng.normal(0, 0.06, 3))
    table = (ramp ** np.exp(rng.normal(0, 0.2)) * gain + rng.normal(0, 0.03)) * 255
    table8 = np.clip(table + 0.5, 0, 255).astype(np.uint8)[:, None, :]
    return np.asarray(cv2.LUT(image, np.ascontiguousarray(table8)), np.uint8)


def dead_leaves(rng: Generator, size: int) -> Image:
    """Draw discs, ellipses and polygons one upon the other, radius density ~ r^-3, each with its own shading and grain.

    The model of Matheron and Ruderman, whose statistics are those of natural images (Lee, Mumford & Huang 2001); a
    leaf is filled with noise of falling spectrum, not with one colour, as surfaces are.
    """
    low, high, count = 2.5, size / 5, size * size // 200
    u = rng.random(count)
    radii = np.sort(1 / np.sqrt(u / low**2 + (1 - u) / high**2))[::-1]
    order = np.argsort(np.arange(count) + rng.normal(0, count / 5, count))  # large ones early: small ones stay seen
    radii = np.concatenate([rng.uniform(size / 9, size / 4, 50), radii[order]])
    count = len(radii)
    base = rng.uniform(60, 190) + rng.normal(0, 22, 3)
    palette = np.clip(base + rng.normal(0, 50, (40, 1)) + rng.normal(0, 14, (40, 3)), 4, 251)
    tints = (palette[rng.integers(40, size=count)] + rng.normal(0, 6, (count, 3))).tolist()
    shades = rng.normal(0, 22, count).tolist()
    places, turns = rng.uniform(0, size, (count, 2)), rng.uniform(0, 180, count).tolist()
    axes = (16 * np.stack([radii, radii * rng.uniform(0.25, 1, count)], 1)).astype(int).tolist()
    angles = np.sort(rng.uniform(0, 2 * np.pi, (count, 6)), 1)
    ring = np.stack([np.cos(angles), np.sin(angles)], 2) * radii[:, None, None]
    corners = ((places[:, None] + ring) * 16).astype(np.int32)
    middles, rough = (places * 16).astype(int).tolist(), rng.integers(0, 256, count).tolist()
    round_ones = rng.random(count) < 0.5
    out = np.empty((size, size, 3), np.uint8)
    out[:] = base.astype(np.uint8)
    skin = np.zeros((size, size), np.uint8)  # strength of the grain, 0 to 255
    for k, radius in enumerate(radii.tolist()):
        colour = tints[k]
        if radius < 12:  # small leaves mostly have the colour under them
            under = out[middles[k][1] // 16, middles[k][0] // 16].tolist()
            colour = [0.3 * c + 0.7 * below + shades[k] for c, below in zip(colour, under, strict=True)]
        inks: list[tuple[Image, tuple[float, ...], int]] = [
            (out, tuple(min(max(c, 0.0), 255.0) for c in colour), cv2.LINE_AA)
        ]
        if radius > 8:
            inks.append((skin, (float(rough[k]),), cv2.LINE_8))
        for canvas, ink, line in inks:
            if round_ones[k]:
                cv2.ellipse(canvas, middles[k], axes[k], turns[k], 0, 360, ink, -1, line, 4)
            else:
                cv2.fillPoly(canvas, [corners[k]], ink, line, 4)
    lit = out.astype(np.float32)
    for channel in range(3):
        lit[..., channel] += clouds(rng, size) * 16  # light over everything
    grain = clouds(rng, size, finest=1.0, slope=0.55)
    lit += (grain * (skin.astype(np.float32) * (34 / 255)))[..., None]
    lit += rng.standard_normal((size, size), np.float32)[..., None]
    return np.asarray(np.clip(lit + 0.5, 0, 255), np.uint8)


def clouds(rng: Generator, size: int, finest: float = 16.0, slope: float = 1.0) -> NDArray[np.float32]:
    """Make noise of falling spectrum (size, size), of standard deviation about 1.

    Args:
        rng: source of all choices.
        size: pixels.
        finest: size of its smallest spots, pixels.
        slope: the amplitude of an octave is its spots' size to this power; 1 is the spectrum of natural images.
    """
    out = np.zeros((size, size), np.float32)
    spot, total = size / 3, 0.0
    while spot >= finest:
        cells = max(2, round(size / spot))
        weight = (spot / size) ** slope
        noise = rng.standard_normal((cells, cells), np.float32)
        out += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC) * np.float32(weight)
        total += weight**2
        spot /= 2
    out /= np.float32(max(total, 1e-9) ** 0.5)
    return out


def smooth(rng: Generator, size: int) -> Image:
    """Make a surface of little texture: sky, wall, paper; a gradient with faint noise of several scales."""
    out = np.zeros((size, size, 3), np.float32)
    corners = rng.uniform(20, 240) + rng.normal(0, 22, 3) + rng.normal(0, 22, (2, 2, 1)) + rng.normal(0, 8, (2, 2, 3))
    out += cv2.resize(corners.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
    for cells in (8, 32, 128):
        noise = rng.normal(0, rng.uniform(0, 5), (cells, cells)).astype(np.float32)
        out += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)[..., None]
    out += rng.standard_normal(out.shape, np.float32)
    return np.asarray(np.clip(out + 0.5, 0, 255), np.uint8)


def repeated(rng: Generator, textures: Textures, height: int, width: int, period: tuple[int, int]) -> Image:
    """Make a texture (height, width, 3) of stripes, boards, tiles or bricks, repeated every `period` (rows, columns).

    Args:
        rng: source of all choices.
        textures: where tiles are cut from.
        height: rows, texels.
        width: columns, texels.
        period: rows and columns after which the texture is the same again.
    """
    high, wide = period
    kind = rng.integers(5)
    tile = np.empty((high, wide, 3), np.float32)
    one, two = (rng.uniform(20, 235) + rng.normal(0, 25, 3) for _ in range(2))
    two += np.sign(two.mean() - one.mean()) * max(0.0, 50.0 - abs(float(two.mean() - one.mean())))  # distinguishable
    y, x = np.mgrid[0:high, 0:wide]
    if kind == 0:  # stripes, soft or hard
        wave = np.clip(0.5 + rng.uniform(0.5, 6) * np.sin(2 * np.pi * x / wide), 0, 1)[..., None]
        tile[:] = one * wave + two * (1 - wave)
    elif kind == 1:  # board
        tile[:] = np.where(((y < high / 2) ^ (x < wide / 2))[..., None], one, two)
    elif kind == 2:  # windows in a wall, bricks
        gap = rng.uniform(0.1, 0.35)
        tile[:] = np.where(((y < high * gap) | (x < wide * gap))[..., None], one, two)
    else:  # a piece of image again and again
        tile[:] = cv2.resize(textures.source(rng)[:256, :256], (wide, high), interpolation=cv2.INTER_AREA)
    filtered = cv2.sepFilter2D(np.tile(tile, (3, 3, 1)), -1, PREFILTER, PREFILTER)[high : 2 * high, wide : 2 * wide]
    tile8 = np.clip(filtered + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.tile(tile8, (-(-height // high), -(-width // wide), 1))[:height, :width])
