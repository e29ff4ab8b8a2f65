"""Invent scenes: from a domain and a seed to a `Scene`. How often each thing happens is decided here.

Training and evaluation are different domains: the domain goes into the root of the random numbers, so no seed of
one can give a scene of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.random import Generator, SeedSequence

from midframe.scenes import figures, perspective, shapes
from midframe.scenes.figures import DENSITY
from midframe.scenes.script import (
    Bytes,
    Clock,
    Deformation,
    Degradation,
    Layer,
    Light,
    Motion,
    Scene,
    Shadow,
    Trajectory,
    placed,
)
from midframe.scenes.textures import Textures, repeated

Domain = Literal["training", "evaluation"]
DOMAINS: dict[str, int] = {"training": 1, "evaluation": 2}


def root(domain: Domain, seed: int) -> SeedSequence:
    """Return the root of all random numbers of scene `seed` of a domain."""
    return SeedSequence(entropy=seed, spawn_key=(DOMAINS[domain],))


@dataclass(frozen=True)
class Mix:
    """How often things happen, as shares of all scenes unless said otherwise. The defaults are the training mix."""

    static_scene: float = 0.10
    static_layer: float = 0.15  # of the layers
    fast: float = 0.25  # scenes whose fastest motion is above 44 px in an image 256 px wide: a fifth reach 40 px widely
    medium: float = 0.30  # 10 to 40 px; the others 0.3 to 10 px
    repeated: float = 0.07
    whole_period: float = 0.0  # of the repeated ones: they move by one period, give or take a tenth
    overlay: float = 0.25
    blur: float = 0.12
    drift: float = 0.15
    shadow: float = 0.08
    noise: float = 0.35
    compressed: float = 0.25
    halved_chroma: float = 0.40
    duplicate: float = 0.02
    articulated: float = 0.0  # one to three figures with limbs
    perspective: float = 0.0  # one camera and many planes at different depths, in place of independent layers
    layers: tuple[float, ...] = (0.08, 0.17, 0.22, 0.2, 0.15, 0.1, 0.08)  # for 0, 1, 2 ... layers on the background


def compose(
    seed: int,
    textures: Textures,
    size: tuple[int, int] = (256, 256),
    domain: Domain = "training",
    mix: Mix | None = None,
    t: float | None = None,
) -> Scene:
    """Compose scene `seed` of a domain.

    Args:
        seed: which scene; 0 or more.
        textures: of the surfaces.
        size: height and width, pixels.
        domain: whose seeds these are.
        mix: how often things happen.
        t: where the truth lies; drawn (half of them 1/2) if not given.
    """
    rng = np.random.default_rng(root(domain, seed))
    mix = mix or Mix()
    height, width = size
    if t is None:
        t = 0.5 if rng.random() < 0.5 else float(rng.uniform(0.08, 0.92))
    tags: list[str] = []
    speed = pace(rng, mix) * min(height, width) / 256
    course = courses(rng, tags)
    if speed == 0:
        tags.append("static-scene")
    if mix.perspective and speed > 0 and rng.random() < mix.perspective:
        layers = perspective.world(rng, textures, size, speed)
        tags.append("perspective")
    else:
        camera, pan = viewpoint(rng, speed, course(), size)
        layers = [background(rng, textures, size, speed, camera, pan, course)]
        for _ in range(int(rng.choice(len(mix.layers), p=np.array(mix.layers) / sum(mix.layers)))):
            layers.append(thing(rng, textures, size, speed, camera, pan, course, mix))
        if rng.random() < mix.repeated and speed > 0:
            repeat(rng, textures, size, layers, tags, mix.whole_period)
    if mix.articulated and speed > 0 and rng.random() < mix.articulated:
        for _ in range(int(rng.integers(1, 4))):
            layers += figures.figure(rng, textures, size, speed, None)
        tags.append("articulated")
    if rng.random() < mix.overlay:
        layers += overlays(rng, size, tags)
    clock = Clock()
    if rng.random() < mix.duplicate:
        clock = Clock(((-1.0, 0.0, 0.0, 1.0), (0.0, 0.0, 1.0, 2.0), (-1.0, 0.0, 1.0, 1.0))[int(rng.integers(3))])
        tags.append("duplicate")
    exposure = 0.0
    if rng.random() < mix.blur and speed > 2:
        exposure = float(rng.uniform(0.2, 0.6))
        tags.append("motion-blur")
    return Scene(
        height=height,
        width=width,
        t=t,
        layers=tuple(layers),
        clock=clock,
        exposure=exposure,
        light=lighting(rng, size, mix, tags),
        degradation=degradation_of(rng, mix),
        noise_seed=seed,
        tags=tuple(tags),
    )


# Motion


def pace(rng: Generator, mix: Mix) -> float:
    """Draw the speed of the fastest things of a scene, pixels per frame in an image 256 px wide."""
    kind = rng.random()
    if kind < mix.static_scene:
        return 0.0
    kind = rng.random()
    low, high = (44.0, 100.0) if kind < mix.fast else (10.0, 44.0) if kind < mix.fast + mix.medium else (0.4, 10.0)
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def courses(rng: Generator, tags: list[str]) -> Callable[[], Trajectory]:
    """Draw one kind of trajectory for the whole scene (60 % linear, 30 % quadratic, 10 % jerky), details by layer."""
    kind = rng.random()
    if kind < 0.6:
        tags.append("linear")
        return Trajectory
    if kind < 0.9:
        tags.append("quadratic")
        return lambda: Trajectory(bend=float(np.clip(rng.normal(0, 0.2), -0.45, 0.45)))
    tags.append("jerky")
    return lambda: Trajectory(jerk=(float(rng.normal(-0.3, 0.9)), float(rng.normal(1.3, 0.9))))


def viewpoint(
    rng: Generator, speed: float, course: Trajectory, size: tuple[int, int]
) -> tuple[Motion, tuple[float, float]]:
    """Draw the camera's turn, zoom and tilt, and its pan in pixels, which each layer takes by its depth."""
    half = min(size) / 2
    kind = rng.random()  # a sixth on a tripod, a quarter drifting, the others moving
    share = 0.0 if kind < 0.16 else speed * float(rng.uniform(0.02, 0.4) if kind < 0.4 else rng.uniform(0.4, 1.0))
    angle = rng.uniform(0, 2 * np.pi)
    if rng.random() < 0.5:  # videos are panned along the horizon more than any other way
        angle = float(rng.choice([0.0, np.pi])) + rng.normal(0, 0.1)
    pan = (share * float(np.cos(angle)), share * float(np.sin(angle)))
    if rng.random() < 0.35:
        return Motion(course=course), pan
    amount = speed * float(rng.random()) ** 2 / half
    tilt = (0.0, 0.0)
    if rng.random() < 0.4:
        drawn = np.clip(rng.normal(0, 0.25, 2) * amount, -0.2, 0.2) / half
        tilt = (float(drawn[0]), float(drawn[1]))
    turn, zoom = (rng.normal(0, 0.4) * amount if rng.random() < 0.6 else 0.0 for _ in range(2))
    return Motion(
        turn=float(np.clip(turn, -0.25, 0.25)), zoom=float(np.clip(zoom, -0.22, 0.22)), tilt=tilt, course=course
    ), pan


def own_motion(rng: Generator, speed: float, pan: tuple[float, float], depth: float, course: Trajectory) -> Motion:
    """Draw a layer's shift (the pan by its depth, and its own), turn and zoom."""
    share = speed * float(rng.uniform(0.05, 1.0))
    angle = rng.uniform(0, 2 * np.pi)
    if rng.random() < 0.3:
        share = 0.0  # goes with the world
    own = (share * np.cos(angle), share * np.sin(angle))
    turn = zoom = 0.0
    if share and rng.random() < 0.5:
        turn, zoom = rng.normal(0, 0.05, 2) * min(share / 8, 2)
    bow = rng.normal(0, 0.12, 2) * share if course.bend else np.zeros(2)
    return Motion(
        shift=(float(pan[0] * depth + own[0]), float(pan[1] * depth + own[1])),
        turn=float(np.clip(turn, -0.3, 0.3)),
        zoom=float(np.clip(zoom, -0.2, 0.2)),
        bow=(float(bow[0]), float(bow[1])),
        course=course,
    )


def deformations(rng: Generator, speed: float, size: float) -> Deformation:
    """Draw one to three waves; their slopes together stay below 0.3, so that no place folds over."""
    count = int(rng.integers(1, 4))
    length = np.maximum(size * DENSITY * rng.uniform(0.4, 1.6, count), 90.0)  # texels
    angle = rng.uniform(0, 2 * np.pi, count)
    wave = np.stack([np.cos(angle), np.sin(angle)], 1) * (2 * np.pi / length)[:, None]
    limit = 0.3 / count / np.linalg.norm(wave, axis=1)
    wanted = DENSITY * np.exp(rng.normal(np.log(max(0.25 * speed, 0.3)), 0.5, count))
    heading = rng.uniform(0, 2 * np.pi, count)
    amplitude = np.stack([np.cos(heading), np.sin(heading)], 1) * np.minimum(wanted, limit)[:, None]
    return Deformation(
        amplitude=amplitude.astype(np.float32),
        wave=wave.astype(np.float32),
        phase=rng.uniform(0, 2 * np.pi, count).astype(np.float32),
        speed=rng.normal(0, 0.7, count).astype(np.float32),
    )


# Layers


def background(
    rng: Generator,
    textures: Textures,
    size: tuple[int, int],
    speed: float,
    camera: Motion,
    pan: tuple[float, float],
    course: Callable[[], Trajectory],
) -> Layer:
    """Compose the layer behind all others; it fills the plane."""
    height, width = size
    margin = 8 + min(1.1 * speed, 0.3 * max(size))
    rows, columns = (int((n + 2 * margin) * DENSITY) for n in size)
    still = rng.random() < 0.08
    motion = Motion(shift=pan, course=course())
    if still or speed == 0:
        motion = Motion()
    deformation = deformations(rng, speed, 1.5 * max(size)) if rng.random() < 0.15 and speed and not still else None
    return Layer(
        patch=textures.pick(rng, rows, columns, DENSITY),
        place=placed(((width - 1) / 2, (height - 1) / 2), (rows, columns), DENSITY, float(rng.normal(0, 0.04))),
        motion=motion,
        camera=None if still or speed == 0 else camera,
        deformation=deformation,
        kind="background",
    )


def thing(
    rng: Generator,
    textures: Textures,
    size: tuple[int, int],
    speed: float,
    camera: Motion,
    pan: tuple[float, float],
    course: Callable[[], Trajectory],
    mix: Mix,
) -> Layer:
    """Compose an object in front of the background."""
    height, width = size
    big = float(np.exp(rng.uniform(np.log(18), np.log(200)))) * min(size) / 256  # pixels across
    texels = max(16, int(big * DENSITY))
    mask, kind = shapes.draw(rng, texels)
    outline = rng.random()
    if kind in ("pole", "wire", "grid") and texels < 160:
        texels = int(160 + big)
        mask, kind = shapes.draw(rng, texels)
    colour = textures.pick(rng, texels, texels, DENSITY)
    if kind == "cut_out" and outline < 0.4:
        mask = np.minimum(mask, shapes.silhouette(colour))
    if kind in ("pole", "wire", "grid", "text") and rng.random() < 0.7:  # mostly of one colour
        colour = plain(rng, colour)
    soft = float(rng.uniform(0.5, 1.1)) if rng.random() < 0.85 else float(rng.uniform(1.5, 5))
    if kind not in ("wire", "grid", "text") or soft < 1.5:
        mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), soft), np.uint8)
    rim = 1
    mask[:rim], mask[-rim:], mask[:, :rim], mask[:, -rim:] = 0, 0, 0, 0
    still = speed == 0 or rng.random() < mix.static_layer
    # where it is halfway between a and b, so that fast things are seen at all
    where = rng.uniform(-0.1, 1.1, 2) * (width, height)
    motion = own_motion(rng, speed, pan, float(rng.uniform(1.0, 1.7)), course())
    middle = (float(where[0] - motion.shift[0] / 2), float(where[1] - motion.shift[1] / 2))
    if still:
        motion, middle = Motion(), (float(where[0]), float(where[1]))
    deformation = deformations(rng, speed, big) if not still and kind != "text" and rng.random() < 0.3 else None
    return Layer(
        patch=np.dstack([colour, mask]),
        place=placed(middle, mask.shape, DENSITY, float(rng.normal(0, 0.6)) if kind != "text" else 0.0),
        motion=motion,
        camera=None if still else camera,
        deformation=deformation,
        opacity=1.0 if rng.random() < 0.95 else float(rng.uniform(0.3, 0.8)),
        kind=kind,
    )


def plain(rng: Generator, texture: Bytes) -> Bytes:
    """Make a texture nearly of one colour, dark or light more often than not."""
    level = rng.uniform(0, 60) if rng.random() < 0.45 else rng.uniform(60, 255)
    colour = np.clip(level + rng.normal(0, 18, 3), 0, 255)
    return np.asarray(cv2.addWeighted(texture, 0.12, np.full_like(texture, colour.astype(np.uint8)), 0.88, 0), np.uint8)


def repeat(
    rng: Generator, textures: Textures, size: tuple[int, int], layers: list[Layer], tags: list[str], whole: float
) -> None:
    """Give one layer (the background if it moves) a repeated texture that moves 0.5 to 1.5 periods from a to b.

    `whole` is the share of those that move by one, half of them exactly, half of them nearly so: to the naked eye both
    rest.
    """
    moving = [i for i, layer in enumerate(layers) if np.hypot(*layer.motion.shift) > 3 and layer.kind != "text"]
    if not moving:
        return
    number = moving[0] if rng.random() < 0.6 else moving[-1]
    layer = layers[number]
    shift = float(np.hypot(*layer.motion.shift))
    exactly = False
    if whole and rng.random() < whole:
        exactly = bool(rng.random() < 0.5)
        periods = 1.0 if exactly else rng.uniform(0.9, 1.1)
    else:
        periods = rng.uniform(0.5, 1.5)
    period = float(np.clip(shift / periods, 6, 64))  # pixels
    rows, columns = layer.patch.shape[:2]
    wide = max(8, round(period * DENSITY))
    across, down = layer.motion.shift
    gain = wide / (DENSITY * shift) if exactly else 1.0
    high = max(8, round(wide * rng.uniform(0.5, 1.5)))
    colour = repeated(rng, textures, rows, columns, (high, wide))
    # the direction in which it repeats is the direction in which it goes
    heading = float(np.arctan2(layer.motion.shift[1], layer.motion.shift[0]))
    centre = layer.place @ np.array([(columns - 1) / 2, (rows - 1) / 2, 1.0])
    layers[number] = replace(
        layer,
        patch=colour if layer.endless else np.dstack([colour, layer.patch[..., 3]]),
        place=placed((float(centre[0]), float(centre[1])), (rows, columns), DENSITY, heading),
        motion=replace(layer.motion, shift=(gain * across, gain * down), turn=0.0, zoom=0.0, bow=(0.0, 0.0)),
        deformation=None,
        period=(float(wide), float(high)),
    )
    tags.append("repeated")


# Overlays: drawn on the grid of the image itself, one texel a pixel, so that they rest to the last bit


def overlays(rng: Generator, size: tuple[int, int], tags: list[str]) -> list[Layer]:
    """Compose one or two overlays."""
    kinds = (logo, subtitle, subtitle, mark, letterbox, ticker)
    out = []
    for _ in range(1 if rng.random() < 0.7 else 2):
        kind = kinds[int(rng.integers(len(kinds)))]
        if kind.__name__ not in tags:
            out.append(kind(rng, size))
            tags.append(kind.__name__)
    return out


def logo(rng: Generator, size: tuple[int, int]) -> Layer:
    """Compose a station's mark in a corner: letters, or letters on a plate."""
    height, width = size
    high, wide = int(rng.uniform(0.06, 0.16) * height), int(rng.uniform(0.12, 0.3) * width)
    patch = lettering(rng, shapes.words(rng, int(rng.integers(2, 7))), high, wide, plate=rng.random() < 0.4)
    top = int(rng.choice([0.04, 0.9]) * height)
    left = int(rng.choice([0.04, 0.96]) * width)
    top, left = min(top, height - high - 4), min(left, width - wide - 4)
    return flat("logo", patch, max(top, 0), max(left, 0), opacity=1.0 if rng.random() < 0.6 else rng.uniform(0.5, 0.95))


def subtitle(rng: Generator, size: tuple[int, int]) -> Layer:
    """Compose one or two lines below the middle; one in four appears or goes between a and b."""
    height, width = size
    lines = 1 if rng.random() < 0.6 else 2
    high, wide = int(rng.uniform(0.05, 0.09) * height), int(rng.uniform(0.4, 0.9) * width)
    rows = [lettering(rng, shapes.words(rng, int(rng.integers(8, 28))), high, wide, plate=False) for _ in range(lines)]
    layer = flat("subtitle", np.vstack(rows), int(height * rng.uniform(0.75, 0.95)) - lines * high, (width - wide) // 2)
    if rng.random() < 0.25:
        # content that appears in between is shown from the nearer frame
        shown = (0.5, 9.0) if rng.random() < 0.5 else (-9.0, 0.5)
        layer = replace(layer, shown=shown, fade=0.0 if rng.random() < 0.6 else float(rng.uniform(1, 6)))
    return layer


def mark(rng: Generator, size: tuple[int, int]) -> Layer:
    """Compose a large half-transparent mark."""
    height, width = size
    high, wide = int(rng.uniform(0.15, 0.4) * height), int(rng.uniform(0.4, 0.9) * width)
    patch = lettering(rng, shapes.words(rng, int(rng.integers(4, 10))), high, wide, plate=False)
    top, left = int(rng.uniform(0, height - high)), int(rng.uniform(0, width - wide))
    return flat("mark", patch, top, left, opacity=float(rng.uniform(0.2, 0.6)))


def letterbox(rng: Generator, size: tuple[int, int]) -> Layer:
    """Compose black bars above and below, or left and right."""
    height, width = size
    patch = np.zeros((height, width, 4), np.uint8)
    across = rng.random() < 0.75
    bar = int((height if across else width) * rng.uniform(0.04, 0.16))
    (patch if across else patch.transpose(1, 0, 2))[:bar, :, 3] = 255
    (patch if across else patch.transpose(1, 0, 2))[-bar:, :, 3] = 255
    return flat("letterbox", patch, 0, 0)


def ticker(rng: Generator, size: tuple[int, int]) -> Layer:
    """Compose a line of text that scrolls at constant speed, from right to left or upwards."""
    height, width = size
    high = max(12, int(rng.uniform(0.06, 0.12) * height))
    texels = (int(high * DENSITY), int(2.2 * width * DENSITY))
    patch = lettering(rng, shapes.words(rng, 60), *texels, plate=rng.random() < 0.6)
    speed = float(np.exp(rng.uniform(np.log(0.5), np.log(14)))) * width / 256
    middle = (width * float(rng.uniform(0.2, 0.8)), height * float(rng.choice([0.08, 0.92])))
    shift = (-speed, 0.0) if rng.random() < 0.8 else (0.0, -speed)
    place = placed(middle, texels, DENSITY)
    return Layer(patch, place, motion=Motion(shift=shift), kind="ticker", overlay=True)


def lettering(rng: Generator, line: str, high: int, wide: int, plate: bool) -> Bytes:
    """Draw a line of text (high, wide, 4): light with a dark outline, or on a plate of one colour."""
    scale = 3
    body = np.zeros((high * scale, wide * scale), np.uint8)
    font = int(shapes.FONTS[int(rng.integers(4))])
    (across, tall), below = cv2.getTextSize(line, font, 1.0, 2)
    size = min(wide * scale * 0.94 / across, high * scale * 0.8 / (tall + below))
    thick = max(2, round(size * 2.2))
    where = (int((wide * scale - size * across) / 2), int(high * scale * 0.5 + size * (tall - below) / 2))
    cv2.putText(body, line, where, font, size, (255,), thick, cv2.LINE_AA)
    edge = np.zeros_like(body)
    cv2.putText(edge, line, where, font, size, (255,), thick + 2 * scale, cv2.LINE_AA)
    ink, rim = (cv2.resize(m, (wide, high), interpolation=cv2.INTER_AREA).astype(np.float32) for m in (body, edge))
    light = rng.uniform(200, 255) + np.minimum(rng.normal(0, 20, 3), 0)
    dark = rng.uniform(0, 50, 3) if not plate else rng.uniform(0, 160, 3)
    share = ink[..., None] / 255
    colour = light * share + dark * (1 - share)
    cover = np.full((high, wide), 255.0) if plate else rim if rng.random() < 0.8 else ink
    return np.clip(np.dstack([colour, cover]) + 0.5, 0, 255).astype(np.uint8)


def flat(kind: str, patch: Bytes, top: int, left: int, opacity: float = 1.0) -> Layer:
    """Place a resting overlay with its top left corner at whole pixels."""
    centre = (left + (patch.shape[1] - 1) / 2, top + (patch.shape[0] - 1) / 2)
    return Layer(patch, placed(centre, patch.shape, 1.0), opacity=float(opacity), kind=kind, overlay=True)


# Light and degradation


def lighting(rng: Generator, size: tuple[int, int], mix: Mix, tags: list[str]) -> Light:
    """Draw a drift of gain and gamma, moving shadows."""
    gain = gamma = 0.0
    if rng.random() < mix.drift:
        gain, gamma = (float(v) for v in rng.normal(0, (0.04, 0.04)))
        tags.append("drift")
    shadows = []
    if rng.random() < mix.shadow:
        tags.append("shadow")
        for _ in range(int(rng.integers(1, 3))):
            centre, shift = rng.uniform(0, 1, 2) * (size[1], size[0]), rng.normal(0, 8, 2)
            radii = rng.uniform(0.1, 0.6, 2) * size
            strength = rng.uniform(0.15, 0.6) if rng.random() < 0.8 else -rng.uniform(0.1, 0.5)
            shadows.append(Shadow(_pair(centre), _pair(shift), _pair(radii), float(strength)))
    return Light(gain, gamma, tuple(shadows))


def degradation_of(rng: Generator, mix: Mix) -> Degradation:
    """Draw noise, compression, halved chroma."""
    noise = shot = coarse = 0.0
    if rng.random() < mix.noise:
        noise, shot = (float(v) for v in np.exp(rng.uniform(np.log(0.3), np.log(6), 2)))
        coarse = float(rng.uniform(0.4, 0.9)) if rng.random() < 0.3 else 0.0
    jpeg = int(rng.integers(35, 97)) if rng.random() < mix.compressed else None
    return Degradation(noise, shot, coarse, jpeg, halved_chroma=bool(rng.random() < mix.halved_chroma))


def _pair(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> tuple[float, float]:
    return float(values[0]), float(values[1])
