"""The video of the demo: a street rendered exactly at any instant, with all that is hard for interpolation in it.

A camera that pans and zooms a little, a wall with a repeated texture, fence posts that pass in front, a ball that
flies and turns, and over it all a logo and a subtitle that stand still.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

OVERSAMPLING = 2  # rendered larger and averaged down, so that edges move by fractions of a pixel
FONT = cv2.FONT_HERSHEY_DUPLEX


@dataclass(frozen=True, slots=True)
class Scene:
    """The video: `frame(seconds)` renders it at any instant."""

    width: int = 640
    height: int = 360
    seconds: float = 3.0

    def frame(self, at: float) -> Image:
        """Render (height, width, 3) uint8 RGB at an instant, 0 <= at <= seconds."""
        wide, high = self.width * OVERSAMPLING, self.height * OVERSAMPLING
        canvas = _seen(_wall(), at, 0.45 * wide, high, wide)
        _posts(canvas, at, 0.6 * wide)
        _ball(canvas, at / self.seconds)
        small: Image = np.asarray(cv2.resize(canvas, (self.width, self.height), interpolation=cv2.INTER_AREA), np.uint8)
        _logo(small)
        _subtitle(small, "Every frame between two frames" if at < 1.6 else "interpolated, not repeated")
        return small

    def overlay(self) -> NDArray[np.bool_]:
        """Return the mask (height, width) of the logo."""
        mask = np.zeros((self.height, self.width), bool)
        x, y = self.width - 74, 18
        mask[y : y + 24, x : x + 56] = True
        return mask


_WALL: list[Image] = []  # rendered once


def _wall() -> Image:
    """Draw a long brick wall under a sky with hills."""
    if _WALL:
        return _WALL[0]
    rng = np.random.default_rng(7)
    high, wide = 960, 4200
    y, x = np.mgrid[0:high, 0:wide].astype(np.float32)
    sky = np.stack([120 + 0.10 * y, 165 + 0.07 * y, 215 + 0.02 * y], -1)
    noise = cv2.resize(
        rng.normal(0, 1, (high // 60, wide // 60)).astype(np.float32), (wide, high), interpolation=cv2.INTER_CUBIC
    )
    fine = cv2.resize(
        rng.normal(0, 1, (high // 6, wide // 6)).astype(np.float32), (wide, high), interpolation=cv2.INTER_CUBIC
    )
    image = sky + 9 * noise[..., None]
    hills = 330 + 70 * np.sin(x / 310) + 35 * np.sin(x / 97 + 1)
    green = np.stack([70 + 10 * fine, 105 + 14 * fine + 12 * noise, 62 + 9 * fine], -1)
    image = np.where((y > hills)[..., None], green, image)
    brick = np.stack([166 + 9 * fine, 92 + 7 * fine, 70 + 6 * fine], -1) + 7 * noise[..., None]
    row = np.floor(y / 26)
    mortar = (np.mod(y, 26) < 4) | (np.mod(x + 32 * np.mod(row, 2), 64) < 4)
    brick = np.where(mortar[..., None], 186 + 5 * fine[..., None], brick)
    image = np.where((y > 440)[..., None], brick, image)
    ground = np.stack([112 + 11 * fine] * 3, -1) + 6 * noise[..., None]
    image = np.where((y > 800)[..., None], ground, image)
    for left in range(260, wide - 400, 760):
        cv2.rectangle(image, (left, 520), (left + 170, 690), (60, 64, 74), -1)
        cv2.rectangle(image, (left, 520), (left + 170, 690), (225, 220, 205), 9)
        cv2.line(image, (left + 85, 520), (left + 85, 690), (225, 220, 205), 7)
        cv2.line(image, (left, 605), (left + 170, 605), (225, 220, 205), 7)
    _WALL.append(np.clip(image, 0, 255).astype(np.uint8))
    return _WALL[0]


def _seen(wall: Image, at: float, speed: float, high: int, wide: int) -> Image:
    """Cut the camera's view of the wall: it pans at `speed` pixels a second and draws back a little."""
    zoom = 1.0 + 0.05 * at
    to_wall = np.array([[zoom, 0, 120 + speed * at], [0, zoom, 150 - 14 * at]], np.float32)
    seen = cv2.warpAffine(
        wall, to_wall, (wide, high), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )
    return np.asarray(seen, np.uint8)


def _posts(canvas: Image, at: float, speed: float) -> None:
    """Draw fence posts near the camera, one like the other, that pass quickly."""
    high, wide = canvas.shape[:2]
    shift = 5  # fractional bits of coordinates
    for n in range(-1, 14):
        x = n * 380 + 200 - speed * at
        if not -60 < x < wide + 60:
            continue
        left, right = round(x * 2**shift), round((x + 22) * 2**shift)
        top, bottom = round(0.60 * high * 2**shift), high << shift
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.int32)
        cv2.fillConvexPoly(canvas, corners, (58, 42, 33), cv2.LINE_AA, shift)
        corners[1:3, 0] = left + (7 << shift)
        cv2.fillConvexPoly(canvas, corners, (92, 70, 54), cv2.LINE_AA, shift)


def _ball(canvas: Image, share: float) -> None:
    """Draw a ball with a pattern that flies through the frame and turns."""
    high, wide = canvas.shape[:2]
    shift, radius = 5, 0.115 * high
    x = (0.08 + 0.80 * share) * wide
    y = (0.62 - 1.55 * share * (1 - share)) * high
    centre = (round(x * 2**shift), round(y * 2**shift))
    cv2.circle(canvas, centre, round(radius * 2**shift), (236, 200, 62), -1, cv2.LINE_AA, shift)
    turn = 400 * share
    for n in range(6):
        angle = np.deg2rad(turn + 60 * n)
        spot = (
            round((x + 0.62 * radius * np.cos(angle)) * 2**shift),
            round((y + 0.62 * radius * np.sin(angle)) * 2**shift),
        )
        cv2.circle(canvas, spot, round(0.17 * radius * 2**shift), (52, 76, 150), -1, cv2.LINE_AA, shift)
    cv2.circle(canvas, centre, round(0.22 * radius * 2**shift), (196, 62, 52), -1, cv2.LINE_AA, shift)


def _logo(image: Image) -> None:
    """Draw a station logo in the corner."""
    x, y = image.shape[1] - 74, 18
    cv2.rectangle(image, (x, y), (x + 55, y + 23), (250, 250, 250), -1)
    cv2.putText(image, "MID", (x + 9, y + 18), FONT, 0.62, (200, 40, 50), 1, cv2.LINE_AA)


def _subtitle(image: Image, text: str) -> None:
    """Draw one line of white text with a dark edge at the bottom."""
    (wide, _), _ = cv2.getTextSize(text, FONT, 0.62, 1)
    letters = np.zeros(image.shape[:2], np.uint8)
    where = ((image.shape[1] - wide) // 2, image.shape[0] - 22)
    cv2.putText(letters, text, where, FONT, 0.62, 255, 1, cv2.LINE_AA)
    edge = cv2.GaussianBlur(cv2.dilate(letters, np.ones((5, 5), np.uint8)), (3, 3), 0)
    for mask, level in ((edge, 0), (letters, 255)):
        share = mask[..., None].astype(np.float32) / 255
        image[:] = np.rint(image * (1 - share) + level * share).astype(np.uint8)
