"""Description of a scene: layers, their paths through time, light, degradation of its images. Draws no pixels.

Time s counts in frames: a is shown at 0, b at 1, the neighbours at -1 and 2, the truth at t between. A layer is a
patch (uint8 RGBA) and a plane-to-plane map for every s: `matrix(s)` takes homogeneous patch coordinates (x, y, 1) in
texels to pixels of the image; a `Deformation` bends the patch within its own plane before that. Both are exact
functions of s, so every image, flow and mask between them is exact at every instant.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Array = NDArray[np.float32]
Bytes = NDArray[np.uint8]

NODES = np.array([-1.0, 0.0, 1.0, 2.0])


@dataclass(frozen=True, slots=True)
class Clock:
    """Which moment of the scene a frame shows: `moments` at s = -1, 0, 1, 2; equal ones are duplicates."""

    moments: tuple[float, float, float, float] = (-1.0, 0.0, 1.0, 2.0)

    def __call__(self, s: float) -> float:
        """The moment shown at s; beyond the ends the clock runs on at speed 1 (motion blur reaches there)."""
        if s < -1.0:
            return self.moments[0] + s + 1.0
        if s > 2.0:
            return self.moments[3] + s - 2.0
        return float(np.interp(s, NODES, self.moments))


@dataclass(frozen=True, slots=True)
class Trajectory:
    """How far along its way something is: `along(s)` is 0 at s = 0 and 1 at s = 1, whatever happens between and beyond.

    linear: s. quadratic: s + bend (s^2 - s). jerky: linear between four free places, so that neighbours tell nothing.
    """

    bend: float = 0.0
    jerk: tuple[float, float] | None = None  # places at s = -1 and 2 of a jerky course

    def along(self, s: float) -> float:
        """Return the share of the way from a to b that is done at s."""
        if self.jerk is not None:
            before, after = self.jerk
            if s < 0:
                return -s * before
            return s if s <= 1 else 1 + (s - 1) * (after - 1)
        return s + self.bend * (s * s - s)


@dataclass(frozen=True, slots=True)
class Motion:
    """A motion as it is from s = 0 to 1; all zero is rest."""

    shift: tuple[float, float] = (0.0, 0.0)  # pixels, right and down
    turn: float = 0.0  # radians, clockwise on the screen
    zoom: float = 0.0  # natural logarithm of the scale
    tilt: tuple[float, float] = (0.0, 0.0)  # the two perspective terms of a homography, 1/pixel
    bow: tuple[float, float] = (0.0, 0.0)  # sideways: pixels times (s^2 - s)
    course: Trajectory = field(default_factory=Trajectory)

    @property
    def rest(self) -> bool:
        """Whether nothing moves, whatever the course."""
        return not any((*self.shift, self.turn, self.zoom, *self.tilt, *self.bow))

    def matrix(self, s: float, pivot: tuple[float, float]) -> Matrix:
        """3 x 3, pixels to pixels, about a pivot."""
        k, arc = self.course.along(s), s * s - s if self.course.jerk is None else 0.0
        cos, sin, scale = np.cos(self.turn * k), np.sin(self.turn * k), np.exp(self.zoom * k)
        x, y = pivot
        out = np.array(
            [
                [scale * cos, -scale * sin, self.shift[0] * k + self.bow[0] * arc],
                [scale * sin, scale * cos, self.shift[1] * k + self.bow[1] * arc],
                [self.tilt[0] * k, self.tilt[1] * k, 1.0],
            ]
        )
        return np.asarray(translation(x, y) @ out @ translation(-x, -y))


@dataclass(frozen=True, slots=True)
class Deformation:
    """Smooth non-rigid motion: waves that travel through the patch. Displacement in texels at patch place q and time s:

    d(q, s) = sum_i amplitude_i * sin(wave_i . q + phase_i + speed_i * s)
    """

    amplitude: Array  # (N, 2) texels
    wave: Array  # (N, 2) radians per texel
    phase: Array  # (N,) radians
    speed: Array  # (N,) radians per frame

    def __call__(self, x: Array, y: Array, s: float) -> tuple[Array, Array]:
        """Displacement (dx, dy) at places (x, y), float32: its sine is ten times as quick."""
        dx, dy = np.zeros_like(x), np.zeros_like(y)
        for a, w, p, v in zip(self.amplitude, self.wave, self.phase, self.speed, strict=True):
            wave = np.sin(w[0] * x + w[1] * y + np.float32(p + v * s))
            dx += a[0] * wave
            dy += a[1] * wave
        return dx, dy


@dataclass(frozen=True, slots=True)
class Layer:
    """One sheet of the scene."""

    patch: (
        Bytes  # (h, w, 4): colour and coverage; a layer that fills the plane (mirrored beyond its edges) has 3 channels
    )
    place: Matrix  # 3 x 3: texels to pixels at s = 0, before any motion
    motion: Motion = field(default_factory=Motion)
    camera: Motion | None = None  # the camera's motion, None if the layer does not move with the world
    deformation: Deformation | None = None
    opacity: float = 1.0
    shown: tuple[float, float] = (-9.0, 9.0)  # the layer is there for s in [from, to)
    fade: float = 0.0  # frames over which it appears and goes; 0 at once
    kind: str = "layer"
    overlay: bool = False  # drawn upon the image, not in the world: logo, subtitle, letterbox, mark, ticker
    period: tuple[float, float] | None = None  # texels (x, y) after which the patch repeats itself

    @property
    def endless(self) -> bool:
        """Whether the layer fills the plane."""
        return bool(self.patch.shape[2] == 3)

    def matrix(self, s: float, height: int, width: int) -> Matrix:
        """3 x 3: patch (texels) to image (pixels) at the scene's moment s."""
        rows, columns = self.patch.shape[:2]
        x, y, w = self.place @ np.array([(columns - 1) / 2, (rows - 1) / 2, 1.0])
        out = self.motion.matrix(s, (x / w, y / w)) @ self.place
        if self.camera is not None:
            out = self.camera.matrix(s, ((width - 1) / 2, (height - 1) / 2)) @ out
        return np.asarray(out / out[2, 2])

    def visibility(self, s: float) -> float:
        """Return the opacity at s, 0 to 1."""
        start, end = self.shown
        if self.fade <= 0:
            return self.opacity if start <= s < end else 0.0
        into, out = (s - start) / self.fade + 0.5, (end - s) / self.fade + 0.5
        return self.opacity * float(np.clip(min(into, out), 0, 1))

    @property
    def still(self) -> bool:
        """Whether the layer rests in the image."""
        return self.deformation is None and self.motion.rest and (self.camera is None or self.camera.rest)


@dataclass(frozen=True, slots=True)
class Shadow:
    """A soft dark (or bright) spot that moves over everything but the overlays."""

    centre: tuple[float, float]
    shift: tuple[float, float]  # pixels per frame
    radii: tuple[float, float]
    strength: float  # 0.3 takes away 30 % in the middle; negative adds


@dataclass(frozen=True, slots=True)
class Light:
    """How brightness drifts: gain(s) = exp(gain * s), gamma(s) = exp(gamma * s); `flash` is added at s = 1 only."""

    gain: float = 0.0
    gamma: float = 0.0
    shadows: tuple[Shadow, ...] = ()


@dataclass(frozen=True, slots=True)
class Degradation:
    """Degradation of the images after the lens. The truth at t takes only the halved chroma."""

    noise: float = 0.0  # standard deviation of a read noise, levels of 255
    shot: float = 0.0  # and of the part that grows with the root of the level, at white
    coarse: float = 0.0  # sigma of a blur of the noise, pixels: film grain, upscaled noise
    jpeg: int | None = None  # quality 1 to 100
    halved_chroma: bool = False  # 4:2:0


@dataclass(frozen=True, slots=True)
class Scene:
    """All there is to know; `render` draws it, on whatever device."""

    height: int
    width: int
    t: float  # where the truth lies, 0 < t < 1
    layers: tuple[Layer, ...]  # from the back to the front; the first fills the plane
    clock: Clock = field(default_factory=Clock)
    exposure: float = 0.0  # share of the frame interval during which the shutter is open; 0: no motion blur
    light: Light = field(default_factory=Light)
    degradation: Degradation = field(default_factory=Degradation)
    noise_seed: int = 0
    tags: tuple[str, ...] = ()
    cut: bool = False  # b and after belong to another scene

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 < self.t < 1:
            raise ValueError(f"t = {self.t} is not within (0, 1)")
        if not self.layers or not self.layers[0].endless:
            raise ValueError("the first layer of a scene must fill the plane")

    def at(self, t: float) -> Scene:
        """Return the same scene with its truth at another t."""
        return replace(self, t=t)


def translation(x: float, y: float) -> Matrix:
    """Return a 3 x 3 homogeneous translation."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def placed(centre: tuple[float, float], shape: tuple[int, ...], density: float, turn: float = 0.0) -> Matrix:
    """Return the place of a patch of `shape` (rows, columns, ...) of `density` texels a pixel around `centre`."""
    cos, sin = np.cos(turn) / density, np.sin(turn) / density
    turned = np.array([[cos, -sin, centre[0]], [sin, cos, centre[1]], [0.0, 0.0, 1.0]])
    return np.asarray(turned @ translation(-(shape[1] - 1) / 2, -(shape[0] - 1) / 2))
