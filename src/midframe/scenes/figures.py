"""Articulated figures: people, animals, hands and chains whose limbs swing about their joints.

A figure is a tree of limbs. Limb k maps its own plane (pixels, the joint at the origin, x along the limb) to the
frame by `parent(s) @ translation(joint) @ rotation(angle(s))`, so a hand moves with the forearm, the upper arm and
the body at once. Each limb is one layer of the scene, exact at every instant.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.random import Generator

from midframe.scenes.script import Bytes, Layer, Matrix, Motion, Trajectory, translation
from midframe.scenes.textures import Textures

DENSITY = 2.0  # texels per pixel
LIMB_RIM = 6  # transparent texels around a limb


@dataclass(frozen=True, slots=True)
class Swing:
    """An angle over time: `rest + amplitude * sin(phase + rate * s)`, radians."""

    rest: float = 0.0
    amplitude: float = 0.0
    rate: float = 0.0  # radians per frame interval
    phase: float = 0.0

    def __call__(self, s: float) -> float:
        """Return the angle at time s."""
        return self.rest + self.amplitude * float(np.sin(self.phase + self.rate * s))


@dataclass(frozen=True, slots=True)
class Bone:
    """A limb's place in the tree."""

    parent: int  # number of the parent bone; -1 for the body's root
    joint: tuple[float, float]  # in the parent's plane, pixels
    length: float
    width: float  # at the joint
    tip: float  # width at the far end
    angle: Swing
    texture: int  # which of the figure's textures
    depth: float = 0.0  # drawn from the smallest to the largest


@dataclass(frozen=True, slots=True)
class Skeleton:
    """A figure's bones and the way its root takes."""

    bones: tuple[Bone, ...]
    centre: tuple[float, float]  # of the root at s = 0, pixels
    shift: tuple[float, float]  # of the root from s = 0 to 1, pixels
    bob: tuple[float, float]  # amplitude of its up and down, pixels, and radians per frame interval
    turn: Swing
    zoom: float = 0.0  # natural logarithm of the growth from s = 0 to 1
    course: Trajectory = field(default_factory=Trajectory)

    def pose(self, bone: int, s: float) -> Matrix:
        """Return the pose (3 x 3): the plane of a bone to the frame at time s."""
        chain = []
        while bone >= 0:
            chain.append(self.bones[bone])
            bone = self.bones[bone].parent
        along = self.course.along(s)
        height, rate = self.bob
        x = self.centre[0] + self.shift[0] * along
        y = self.centre[1] + self.shift[1] * along + height * float(np.sin(rate * s))
        grown = float(np.exp(self.zoom * along))
        out = translation(x, y) @ np.diag([grown, grown, 1.0]) @ rotation(self.turn(s))
        for part in reversed(chain):
            out = out @ translation(*part.joint) @ rotation(part.angle(s))
        return np.asarray(out)


@dataclass(frozen=True, slots=True)
class LimbMotion(Motion):
    """Motion of one bone: its pose at s against its pose at 0."""

    skeleton: Skeleton | None = None
    bone: int = 0

    @property
    def rest(self) -> bool:
        """Limbs never rest."""
        return False

    def matrix(self, s: float, pivot: tuple[float, float]) -> Matrix:
        """Return a 3 x 3 matrix, pixels to pixels; the pivot is the limb's own joint."""
        assert self.skeleton is not None
        return np.asarray(self.skeleton.pose(self.bone, s) @ np.linalg.inv(self.skeleton.pose(self.bone, 0.0)))


def rotation(angle: float) -> Matrix:
    """Return a 3 x 3 rotation, clockwise on the screen."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])


def figure(
    rng: Generator, textures: Textures, size: tuple[int, int], speed: float, camera: Motion | None
) -> list[Layer]:
    """Compose the layers of one figure, from the back to the front.

    Args:
        rng: source of all choices.
        textures: surfaces of clothes and skin.
        size: height and width of the frame, pixels.
        speed: of its fastest parts, pixels per frame interval, about.
        camera: motion of the camera, if the figure stands in the world.
    """
    kind = (person, person, person, animal, hand, chain)[int(rng.integers(6))]
    height = float(np.exp(rng.uniform(np.log(0.3), np.log(1.1)))) * min(size)
    rate = float(np.clip(rng.normal(0.9, 0.4), 0.15, 2.0)) * (1 if speed > 3 else 0.3)
    bones = kind(rng, height, rate)
    walk = float(rng.uniform(0.0, 0.8)) * speed
    angle = float(rng.choice([0.0, np.pi])) + rng.normal(0, 0.25) if rng.random() < 0.8 else rng.uniform(0, 6.3)
    shift = (walk * float(np.cos(angle)), walk * float(np.sin(angle)))
    middle = rng.uniform(0.15, 0.85, 2) * (size[1], size[0])
    skeleton = Skeleton(
        bones,
        (float(middle[0] - shift[0] / 2), float(middle[1] - shift[1] / 2)),
        shift,
        (float(rng.uniform(0, 0.03)) * height, 2 * rate),
        Swing(float(rng.normal(0, 0.12)), float(rng.uniform(0, 0.15)), rate, float(rng.uniform(0, 6.3))),
        float(rng.normal(0, 0.03)),
        Trajectory(bend=float(np.clip(rng.normal(0, 0.15), -0.4, 0.4)) if rng.random() < 0.3 else 0.0),
    )
    surfaces = [surface(rng, textures) for _ in range(1 + max(bone.texture for bone in bones))]
    order = sorted(range(len(bones)), key=lambda k: bones[k].depth)
    return [limb(rng, skeleton, k, surfaces[bones[k].texture], camera) for k in order]


def surface(rng: Generator, textures: Textures) -> Bytes:
    """Make a texture for clothes, skin or fur; a third nearly of one colour, as clothes are."""
    texture = textures.pick(rng, 512, 512, DENSITY)
    if rng.random() < 0.33:
        colour = np.clip(rng.uniform(10, 235) + rng.normal(0, 25, 3), 0, 255).astype(np.uint8)
        texture = np.asarray(cv2.addWeighted(texture, 0.25, np.full_like(texture, colour), 0.75, 0), np.uint8)
    return texture


def limb(rng: Generator, skeleton: Skeleton, number: int, texture: Bytes, camera: Motion | None) -> Layer:
    """Make one bone as a layer: a tapered capsule cut out of a texture, shaded across its width."""
    bone = skeleton.bones[number]
    long, wide = bone.length * DENSITY, max(bone.width, bone.tip) * DENSITY
    rows, columns = int(wide) + 2 * LIMB_RIM + 2, int(long + wide) + 2 * LIMB_RIM + 2
    joint = (LIMB_RIM + wide / 2, (rows - 1) / 2)
    mask = capsule(rows, columns, joint, long, bone.width * DENSITY / 2, bone.tip * DENSITY / 2)
    top = int(rng.integers(max(1, texture.shape[0] - rows)))
    left = int(rng.integers(max(1, texture.shape[1] - columns)))
    patch = texture[top : top + rows, left : left + columns]
    if patch.shape[:2] != (rows, columns):
        patch = np.asarray(cv2.resize(texture, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
    across = (np.arange(rows) - (rows - 1) / 2) / max(wide / 2, 1)
    shade = 1.0 - float(rng.uniform(0.0, 0.45)) * np.clip(across + rng.uniform(-0.3, 0.3), -1, 1) ** 2
    colour = np.clip(patch * shade[:, None, None], 0, 255).astype(np.uint8)
    local = np.array([[1 / DENSITY, 0, -joint[0] / DENSITY], [0, 1 / DENSITY, -joint[1] / DENSITY], [0, 0, 1.0]])
    return Layer(
        patch=np.dstack([colour, mask]),
        place=skeleton.pose(number, 0.0) @ local,
        motion=LimbMotion(skeleton=skeleton, bone=number),
        camera=camera,
        kind="limb",
    )


def capsule(rows: int, columns: int, joint: tuple[float, float], long: float, one: float, two: float) -> Bytes:
    """Compute the coverage of a capsule whose radius goes from `one` at the joint to `two` at its end, texels."""
    out = np.zeros((rows, columns), np.uint8)
    end = (joint[0] + long, joint[1])
    bits = 4
    unit = 1 << bits
    for (x, y), radius in ((joint, one), (end, two)):
        cv2.circle(out, (int(x * unit), int(y * unit)), int(max(radius, 0.7) * unit), 255, -1, cv2.LINE_AA, bits)
    corners = [(joint[0], joint[1] - one), (end[0], end[1] - two), (end[0], end[1] + two), (joint[0], joint[1] + one)]
    cv2.fillPoly(out, [np.asarray(np.multiply(corners, unit), np.int32)], 255, cv2.LINE_AA, bits)
    return np.asarray(cv2.GaussianBlur(out, (0, 0), 0.8), np.uint8)


# Bodies; x of a bone runs along it, and an angle of +pi/2 points down


def person(rng: Generator, height: float, rate: float) -> tuple[Bone, ...]:
    """Make a person: torso, head, two arms and two legs of two bones each."""
    down, phase, amount = np.pi / 2, float(rng.uniform(0, 6.3)), float(rng.uniform(0.3, 1.1))
    build = float(rng.uniform(0.7, 1.4)) * height
    torso, leg, arm = 0.3 * height, 0.25 * height, 0.17 * height
    bones = [
        Bone(-1, (0, 0), torso, 0.15 * build, 0.17 * build, Swing(-down + float(rng.normal(0, 0.15))), 0, 0.0),
        Bone(
            0, (torso, 0), 0.1 * height, 0.09 * build, 0.1 * build, Swing(float(rng.normal(0, 0.2)), 0.1, rate), 1, 1.0
        ),
    ]
    for side in (0, 1):
        lag = phase + side * np.pi
        front = 2.0 if side else -2.0
        hip, shoulder = (0.0, 0.02 * build * (1 - 2 * side)), (0.92 * torso, 0.05 * build * (1 - 2 * side))
        bones.append(Bone(0, hip, leg, 0.085 * build, 0.065 * build, Swing(np.pi, amount, rate, lag), 2, front))
        knee = Swing(0.5 * amount, 0.5 * amount, rate, lag - 1.2)
        bones.append(Bone(len(bones) - 1, (leg, 0), leg, 0.06 * build, 0.04 * build, knee, 2, front - 0.1))
        bones.append(
            Bone(len(bones) - 1, (leg, 0), 0.06 * height, 0.04 * build, 0.03 * build, Swing(-1.4), 3, front - 0.1)
        )
        swing = Swing(np.pi + float(rng.normal(0, 0.3)), 0.9 * amount, rate, lag + np.pi)
        bones.append(
            Bone(0, shoulder, arm, 0.055 * build, 0.045 * build, swing, 0 if rng.random() < 0.6 else 1, 1.5 * front)
        )
        elbow = Swing(-0.6, 0.5 * amount, rate, lag + np.pi)
        bones.append(Bone(len(bones) - 1, (arm, 0), arm, 0.04 * build, 0.03 * build, elbow, 1, 1.5 * front + 0.1))
    return tuple(bones)


def animal(rng: Generator, height: float, rate: float) -> tuple[Bone, ...]:
    """Make an animal: a horizontal body with four legs of two bones, neck, head and tail."""
    long, leg = float(rng.uniform(0.7, 1.2)) * height, float(rng.uniform(0.25, 0.5)) * height
    thick, amount, phase = (
        float(rng.uniform(0.2, 0.4)) * height,
        float(rng.uniform(0.2, 0.9)),
        float(rng.uniform(0, 6.3)),
    )
    bones = [Bone(-1, (0, 0), long, thick, 0.8 * thick, Swing(0.0, 0.05, rate), 0, 0.0)]
    bones.append(Bone(0, (long, 0), 0.3 * height, 0.4 * thick, 0.3 * thick, Swing(-0.8, 0.2, rate), 0, 0.5))
    bones.append(Bone(1, (0.3 * height, 0), 0.2 * height, 0.35 * thick, 0.2 * thick, Swing(0.9, 0.2, rate), 1, 0.6))
    bones.append(
        Bone(0, (0, 0), 0.4 * height, 0.12 * thick, 0.06 * thick, Swing(np.pi + 0.4, 0.7, rate * 1.5, phase), 0, -0.5)
    )
    for k, at in enumerate((0.05, 0.1, 0.9, 0.95)):
        front = 1.0 if k % 2 else -1.0
        lag = phase + k * float(rng.choice([np.pi / 2, np.pi]))
        bones.append(
            Bone(
                0,
                (at * long, 0.3 * thick),
                leg,
                0.3 * thick,
                0.18 * thick,
                Swing(np.pi / 2, amount, rate, lag),
                1,
                front,
            )
        )
        knee = Swing(0.3, 0.6 * amount, rate, lag - 1.0)
        bones.append(Bone(len(bones) - 1, (leg, 0), leg, 0.17 * thick, 0.1 * thick, knee, 1, front))
    return tuple(bones)


def hand(rng: Generator, height: float, rate: float) -> tuple[Bone, ...]:
    """Make a hand: a forearm, a palm and five fingers of two bones."""
    palm, amount, phase = 0.3 * height, float(rng.uniform(0.1, 0.6)), float(rng.uniform(0, 6.3))
    wide = 0.8 * palm
    wrist = Swing(float(rng.normal(0, 0.2)), amount, rate, phase)
    bones = [
        Bone(
            -1,
            (0, 0),
            0.7 * height,
            0.7 * wide,
            0.5 * wide,
            Swing(float(rng.uniform(0, 6.3)), 0.5 * amount, rate, phase),
            0,
            0.0,
        ),
        Bone(0, (0.7 * height, 0), palm, 0.6 * wide, wide, wrist, 1, 1.0),
    ]
    for k in range(5):
        at = (palm * (0.4 if k == 0 else 1.0), wide * (-0.45 + 0.22 * k))
        spread, long = -0.9 if k == 0 else -0.25 + 0.12 * k, 0.35 * palm
        bones.append(
            Bone(1, at, long, 0.2 * wide, 0.17 * wide, Swing(spread, amount, rate, phase + 0.4 * k), 1, 2.0 + k)
        )
        curl = Swing(0.3, amount, rate, phase + 0.4 * k - 0.6)
        bones.append(Bone(len(bones) - 1, (long, 0), 0.8 * long, 0.17 * wide, 0.12 * wide, curl, 1, 2.1 + k))
    return tuple(bones)


def chain(rng: Generator, height: float, rate: float) -> tuple[Bone, ...]:
    """Make a rope, tentacle or snake of three to seven bones."""
    count = int(rng.integers(3, 8))
    long, wide = height / count, float(rng.uniform(0.04, 0.2)) * height
    amount, phase = float(rng.uniform(0.1, 0.6)), float(rng.uniform(0, 6.3))
    bones = [Bone(-1, (0, 0), long, wide, wide, Swing(float(rng.uniform(0, 6.3)), amount, rate, phase), 0, 0.0)]
    for k in range(1, count):
        bend = Swing(float(rng.normal(0, 0.2)), amount, rate, phase - 0.7 * k)
        thin = wide * (1 - 0.6 * k / count)
        bones.append(Bone(k - 1, (long, 0), long, thin, 0.9 * thin, bend, 0, 0.1 * k))
    return tuple(bones)
