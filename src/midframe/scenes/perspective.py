"""One camera and many planes: ground, walls and upright cards at different depths, with parallax and perspective.

A plane maps its texels to camera space by an affine frame: `X = origin + x u + y v`; the camera at time s sees `K(s)
R(s) (X - C(s))`. So the map from texels to pixels is the 3 x 3 matrix `K R [u, v, origin - C]`, which is the
homography K (R - t n^T / d) K^-1 between any two instants, written without its division.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.random import Generator

from midframe.scenes import shapes
from midframe.scenes.script import Bytes, Layer, Matrix, Motion, Trajectory
from midframe.scenes.textures import Textures

NEAREST = 0.35  # depth at which the ground and walls begin at the nearest, units of camera space


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera's path. Time s as everywhere; at s = 0 it stands in the origin and looks along +z."""

    focal: float  # pixels
    centre: tuple[float, float]  # principal point, pixels
    move: tuple[float, float, float]  # from s = 0 to 1; x right, y down, z ahead
    bow: tuple[float, float, float] = (0.0, 0.0, 0.0)  # times (s^2 - s)
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)  # rotation vector from s = 0 to 1, radians
    zoom: float = 0.0  # natural logarithm of the growth of the focal length
    course: Trajectory = field(default_factory=Trajectory)

    def matrix(self, s: float, frame: Matrix) -> Matrix:
        """3 x 3, texels to pixels, of a plane with columns (u, v, origin) in camera space at s = 0."""
        k = self.course.along(s)
        focal = self.focal * float(np.exp(self.zoom * k))
        lens = np.array([[focal, 0, self.centre[0]], [0, focal, self.centre[1]], [0, 0, 1.0]])
        rotation, _ = cv2.Rodrigues(np.multiply(self.turn, k))
        at = np.multiply(self.move, k) + np.multiply(self.bow, s * s - s)
        seen = frame.copy()
        seen[:, 2] -= at
        return np.asarray(lens @ rotation @ seen)


@dataclass(frozen=True, slots=True)
class PlaneMotion(Motion):
    """Motion of a plane under a camera."""

    camera_path: Camera | None = None
    frame: Matrix = field(default_factory=lambda: np.eye(3))

    @property
    def rest(self) -> bool:
        """Whether the camera stands still."""
        path = self.camera_path
        return path is None or not any((*path.move, *path.bow, *path.turn, path.zoom))

    def matrix(self, s: float, pivot: tuple[float, float]) -> Matrix:
        """3 x 3, pixels at s = 0 to pixels at s."""
        assert self.camera_path is not None
        return np.asarray(
            self.camera_path.matrix(s, self.frame) @ np.linalg.inv(self.camera_path.matrix(0.0, self.frame))
        )


def world(rng: Generator, textures: Textures, size: tuple[int, int], speed: float) -> list[Layer]:
    """Compose the layers of a scene under one camera, from the back to the front; the first fills the plane.

    Args:
        rng: source of all choices.
        textures: surfaces.
        size: height and width of the frame, pixels.
        speed: of the fastest parts between a and b, pixels, about.
    """
    focal = float(rng.uniform(0.7, 1.6)) * size[1]
    depths = np.sort(np.exp(rng.uniform(np.log(1.2), np.log(14.0), int(rng.integers(2, 8)))))[::-1]
    camera = path(rng, size, focal, speed, float(depths[-1]))
    layers = [backdrop(rng, textures, size, camera)]
    ground = float(rng.uniform(0.4, 1.2))  # height of the camera above it
    if rng.random() < 0.7:
        layers += plane_layers(rng, textures, size, camera, floor(size, camera, ground))
    for side in (-1, 1):
        if rng.random() < 0.3:
            layers += plane_layers(rng, textures, size, camera, wall(rng, camera, ground, side))
    for depth in depths:
        layers.append(card(rng, textures, size, camera, float(depth), ground))
    return layers


def path(rng: Generator, size: tuple[int, int], focal: float, speed: float, nearest: float) -> Camera:
    """Draw a dolly, truck, crane, orbit or zoom, scaled so that the nearest card moves by about `speed` pixels."""
    height, width = size
    kind = int(rng.integers(6))
    move, turn, zoom = np.zeros(3), np.zeros(3), 0.0
    if kind in (0, 4):  # dolly: the edges move most
        move[2] = rng.choice([-1, 1]) * speed / (0.5 * width) * nearest
    if kind in (1, 3, 4):  # truck
        move[0] = rng.choice([-1, 1]) * speed * nearest / focal
    if kind in (2, 4):  # crane
        move[1] = rng.choice([-1, 1]) * 0.6 * speed * nearest / focal
    if kind == 3:  # orbit: turned back towards a point farther off
        turn[1] = np.arctan2(move[0], float(rng.uniform(1.5, 5)) * nearest)
    if kind == 5:
        zoom = float(rng.choice([-1, 1])) * min(speed / (0.5 * width), 0.3)
    if rng.random() < 0.4:  # hand-held
        turn += rng.normal(0, 0.3 * speed / focal, 3) * (1, 1, 0.5)
    # no plane may come behind the camera between s = -1 and 2
    move[2] = np.clip(move[2], -0.25 * nearest, 0.25 * nearest)
    bow = rng.normal(0, 0.1, 3) * np.abs(move) if rng.random() < 0.3 else np.zeros(3)
    x, y, z = (float(v) for v in move)
    return Camera(
        focal,
        ((width - 1) / 2, (height - 1) * float(rng.uniform(0.35, 0.65))),
        (x, y, z),
        (float(bow[0]), float(bow[1]), float(bow[2])),
        (float(turn[0]), float(turn[1]), float(turn[2])),
        zoom,
        Trajectory(bend=float(np.clip(rng.normal(0, 0.2), -0.45, 0.45)) if rng.random() < 0.3 else 0.0),
    )


def backdrop(rng: Generator, textures: Textures, size: tuple[int, int], camera: Camera) -> Layer:
    """Make sky or far hills: a plane across the view, thirty units off, that fills it."""
    height, width = size
    density = 2.0
    rows, columns = int(density * height * 1.5), int(density * width * 1.5)
    depth = 30.0
    unit = depth / camera.focal / density  # of camera space per texel
    frame = columns_of((unit, 0, 0), (0, unit, 0), (-columns / 2 * unit, -rows / 2 * unit, depth))
    return placed_layer(textures.pick(rng, rows, columns, density), camera, frame, "background")


def floor(size: tuple[int, int], camera: Camera, ground: float) -> tuple[Matrix, tuple[int, int]]:
    """Return the ground as a frame, and its texels: from below the lower edge of the view to ten units ahead."""
    height, width = size
    below = height - 1 - camera.centre[1]
    near = max(0.8 * camera.focal * ground / max(below, 1.0), NEAREST + 2.2 * max(camera.move[2], 0.0))
    far = near + 10.0
    broad = far * width / camera.focal
    rows, columns = 720, 720
    frame = columns_of((broad / columns, 0, 0), (0, 0, (near - far) / rows), (-broad / 2, ground, far))
    return frame, (rows, columns)


def wall(rng: Generator, camera: Camera, ground: float, side: int) -> tuple[Matrix, tuple[int, int]]:
    """Make a wall along the view, left or right."""
    away = side * float(rng.uniform(1.0, 3.5))
    near = max(float(rng.uniform(1.0, 3.0)), NEAREST + 2.2 * max(camera.move[2], 0.0))
    far = near + float(rng.uniform(4, 10))
    high = float(rng.uniform(1.0, 4.0))
    rows, columns = 360, 600
    frame = columns_of((0, 0, (near - far) / columns), (0, high / rows, 0), (away, ground - high, far))
    return frame, (rows, columns)


def plane_layers(
    rng: Generator, textures: Textures, size: tuple[int, int], camera: Camera, plane: tuple[Matrix, tuple[int, int]]
) -> list[Layer]:
    """Return a plane as a layer, unless it is seen edge-on."""
    frame, (rows, columns) = plane
    if abs(np.linalg.det(camera.matrix(0.0, frame))) < 1e-9:
        return []
    mask = np.full((rows, columns), 255, np.uint8)
    mask[:2], mask[-2:], mask[:, :2], mask[:, -2:] = 0, 0, 0, 0
    colour = textures.pick(rng, rows, columns, 2.0)
    return [placed_layer(np.dstack([colour, mask]), camera, frame, "plane")]


def card(
    rng: Generator, textures: Textures, size: tuple[int, int], camera: Camera, depth: float, ground: float
) -> Layer:
    """Make an upright thing, a little turned about its own axis; half of them stand on the ground."""
    height, width = size
    high = float(np.exp(rng.uniform(np.log(0.3), np.log(2.5))))
    pixels = high / depth * camera.focal
    texels = int(np.clip(2 * pixels, 24, 640))
    mask, kind = shapes.draw(rng, texels)
    colour = textures.pick(rng, texels, texels, 2.0)
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), float(rng.uniform(0.5, 1.1))), np.uint8)
    mask[:1], mask[-1:], mask[:, :1], mask[:, -1:] = 0, 0, 0, 0
    turn = float(rng.normal(0, 0.4))
    unit = high / texels
    across = np.array([np.cos(turn), 0.0, np.sin(turn)]) * unit
    x = float(rng.uniform(-0.5, 0.5)) * width / camera.focal * depth
    y = ground - high / 2 if rng.random() < 0.5 else float(rng.uniform(-0.4, 0.4)) * height / camera.focal * depth
    origin = np.array([x, y - high / 2, depth]) - across * texels / 2
    origin[2] = max(origin[2], 0.6 * depth)
    frame = columns_of(tuple(across), (0, unit, 0), tuple(origin))
    return placed_layer(np.dstack([colour, mask]), camera, frame, kind)


def placed_layer(patch: Bytes, camera: Camera, frame: Matrix, kind: str) -> Layer:
    """Place a patch on a plane as a layer."""
    return Layer(patch, camera.matrix(0.0, frame), PlaneMotion(camera_path=camera, frame=frame), kind=kind)


def columns_of(u: tuple[float, ...], v: tuple[float, ...], origin: tuple[float, ...]) -> Matrix:
    """Return the 3 x 3 matrix with these columns."""
    return np.asarray(np.stack([u, v, origin], 1), np.float64)
