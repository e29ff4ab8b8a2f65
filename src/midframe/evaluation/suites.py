"""Synthetic data sets: rendered scenes with exact ground truth, and a stress suite of known failure cases.

The renderer is that of training; the seeds are of the domain "evaluation", disjoint from training. Surfaces are
procedural and need no data; with folders of photographs, only the photographs held out of training are used
(`scenes.held_out`).

    rendered   200 scenes of 384x256: PSNR of pixels visible in two, one or none of the frames, by length of motion
               and by kind of trajectory; end-point error of the flow, over all pixels and those visible in both
    motion     64 scenes of large motion: articulated figures, and planes at many depths under one moving camera
    stress     a few cases of every known difficulty, with masks (`KINDS`)
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from midframe.errors import InputError
from midframe.evaluation.datasets import HALF, Case, DataSet, FlowTruth, Target
from midframe.scenes import Mix, Rendered, Scene, Textures, compose, find_photos, render, shapes
from midframe.scenes.compose import flat, lettering, logo, root, subtitle, ticker
from midframe.scenes.figures import DENSITY
from midframe.scenes.render import spread_out
from midframe.scenes.script import Clock, Layer, Light, Motion, placed
from midframe.scenes.textures import repeated

SIZE = (256, 384)  # rows, columns
RENDERED = 200  # scenes
MOTION = 64  # scenes, half of each kind
MOTION_SEEDS = 2_000_000  # the motion suite's seeds begin here
STRESS_SEEDS = 1_000_000  # the stress suite's seeds begin here, above those of the rendered suite

# As in training, but with less degradation, since no model can restore detail lost to noise, and with fewer static
# scenes, which are easy for every model.
MIX = Mix(static_scene=0.03, noise=0.1, compressed=0.1, halved_chroma=0.2, duplicate=0.02)

_LARGE = Mix(
    static_scene=0.0, static_layer=0.05, fast=0.4, medium=0.4, repeated=0.0, overlay=0.0, noise=0.1, compressed=0.1,
    halved_chroma=0.2, duplicate=0.0,
)  # fmt: skip
MOTION_MIXES = {
    "articulated figures": replace(_LARGE, articulated=1.0),
    "moving camera": replace(_LARGE, perspective=1.0),
}

KIND_TAGS = ("static-scene", "duplicate", "repeated", "motion-blur", "shadow", "drift", "jerky", "quadratic", "linear")


@dataclass(frozen=True, slots=True)
class Sample:
    """One case with all its ground truth: `renderings[k]` differs from the others only in the target at `times[k]`."""

    name: str
    kind: str
    times: tuple[Fraction, ...]
    renderings: tuple[Rendered, ...]
    regions: tuple[Mapping[str, NDArray[np.bool_]], ...]  # of the targets, by time
    pan: bool = False  # one constant translation

    def case(self) -> Case:
        """Convert to an evaluation case."""
        first = self.renderings[0]
        targets = tuple(
            Target(t, to_tensor(one.target), {name: torch.from_numpy(mask) for name, mask in regions.items()})
            for t, one, regions in zip(self.times, self.renderings, self.regions, strict=True)
        )
        flow = FlowTruth(
            torch.from_numpy(first.flow_ab).permute(2, 0, 1).contiguous(), seen=torch.from_numpy(~first.hidden_ab)
        )
        return Case(
            self.name,
            to_tensor(first.a),
            to_tensor(first.b),
            targets,
            None if first.before is None else to_tensor(first.before),
            None if first.after is None else to_tensor(first.after),
            kind=self.kind,
            motion=float(np.hypot(first.flow_ab[..., 0], first.flow_ab[..., 1]).mean()),
            pan=self.pan,
            flow=flow,
        )


def to_tensor(array: NDArray[np.uint8]) -> Tensor:
    """Convert (H, W, 3) uint8 to (3, H, W) float32, 0..1."""
    return torch.from_numpy(array).permute(2, 0, 1).float().div(255).contiguous()


def seen_regions(rendering: Rendered) -> dict[str, NDArray[np.bool_]]:
    """Return masks of the pixels visible in two, one or none of a and b, and of the overlay if there is one."""
    lost = rendering.hidden_ta.astype(np.int8) + rendering.hidden_tb
    regions = {"seen in two": lost == 0, "seen in one": lost == 1, "seen in none": lost == 2}
    if rendering.overlay.any():
        regions["overlay"] = rendering.overlay
    return regions


# The suites


def rendered(textures: Textures, count: int = RENDERED) -> Iterator[Sample]:
    """Yield the rendered suite: `count` scenes with one target each, half of them at 1/2, the rest at other eighths."""
    for seed in range(count):
        rng = np.random.default_rng([13, seed])
        t = HALF if seed % 2 == 0 else Fraction(int(rng.choice([1, 2, 3, 5, 6, 7])), 8)
        scene = compose(seed, textures, SIZE, "evaluation", MIX, float(t))
        rendering = render(scene)
        kind = next(tag for tag in KIND_TAGS if tag in scene.tags)
        yield Sample(f"scene {seed:03d}", kind, (t,), (rendering,), (seen_regions(rendering),))


def motion(textures: Textures, count: int = MOTION) -> Iterator[Sample]:
    """Yield the motion suite: `count` scenes with one target at 1/2, the kinds of `MOTION_MIXES` in turn."""
    for k in range(count):
        kind = tuple(MOTION_MIXES)[k % len(MOTION_MIXES)]
        scene = compose(MOTION_SEEDS + k, textures, SIZE, "evaluation", MOTION_MIXES[kind], 0.5)
        rendering = render(scene)
        yield Sample(f"{kind} {k // 2:02d}", kind, (HALF,), (rendering,), (seen_regions(rendering),))


def stress(textures: Textures, keep: Container[int] | None = None) -> Iterator[Sample]:
    """Yield the stress suite, all kinds of `KINDS` in turn; `keep` selects samples by index, from 0."""
    index = -1
    for number, (kind, (make, count)) in enumerate(KINDS.items()):
        for k in range(count):
            index += 1
            if keep is not None and index not in keep:
                continue
            seed = STRESS_SEEDS + 1000 * number + k
            rng = np.random.default_rng(root("evaluation", seed))
            yield replace(make(rng, textures, seed, k), name=f"{kind} {k + 1}")


def open_suite(name: str, photos: Sequence[Path] = (), limit: int | None = None) -> DataSet:
    """Open a suite as a data set.

    Args:
        name: "rendered", "motion" or "stress".
        photos: folders of photographs; only the held-out ones are used. Without folders, surfaces are procedural.
        limit: maximum number of cases: evenly spread ones of the stress suite, the first ones of the others.

    Raises:
        InputError: unknown name; a folder is missing or holds no held-out photograph.
    """
    if name not in SUITES:
        raise InputError(f"suite {name!r} is unknown; there are {', '.join(SUITES)}")
    textures = Textures(find_photos(photos, evaluation=True)) if photos else Textures()
    count = {"rendered": RENDERED, "motion": MOTION}.get(name, sum(cases for _, cases in KINDS.values()))
    wanted = count if limit is None else min(limit, count)
    keep = {index * count // wanted for index in range(wanted)}

    def cases() -> Iterator[Case]:
        if name == "rendered":
            yield from (sample.case() for sample in islice(rendered(textures), wanted))
        elif name == "motion":
            yield from (sample.case() for sample in islice(motion(textures), wanted))
        else:
            yield from (sample.case() for sample in stress(textures, keep))

    surfaces = f"{len(textures.photos)} held-out photographs" if photos else "procedural surfaces"
    note = f"{surfaces}; seeds of the domain evaluation"
    if wanted < count:
        note += f"; {wanted} of {count} cases"
    return DataSet(name, SUITES[name], wanted, cases, note=note)


SUITES = {
    "rendered": f"rendered scenes, {SIZE[1]}x{SIZE[0]}, exact truth, flow and occlusion; four frames given",
    "motion": f"rendered scenes, {SIZE[1]}x{SIZE[0]}, of articulated figures and of a moving camera; exact truth",
    "stress": "overlays, repeated textures, thin lines, large motion, cuts, flashes; masked PSNR",
}


# The kinds of the stress suite. Each function returns one sample from its own random generator.


def surface(rng: Generator, textures: Textures, shift: tuple[float, float]) -> Layer:
    """Return a background that moves by `shift` from a to b."""
    margin = int(max(abs(shift[0]), abs(shift[1])) * 1.6) + 8
    rows, columns = (int((n + 2 * margin) * DENSITY) for n in SIZE)
    patch = textures.pick(rng, rows, columns, DENSITY, rich=True)
    return Layer(patch, placed(_middle(), (rows, columns), DENSITY), Motion(shift=shift), kind="background")


def thing(
    rng: Generator, textures: Textures, mask: NDArray[np.uint8], centre: tuple[float, float], shift: tuple[float, float]
) -> Layer:
    """Return a layer of a given outline, centred at `centre` halfway between a and b."""
    colour = textures.pick(rng, mask.shape[0], mask.shape[1], DENSITY, rich=True)
    middle = (centre[0] - shift[0] / 2, centre[1] - shift[1] / 2)
    cover = np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.8), np.uint8)
    cover[[0, -1]], cover[:, [0, -1]] = 0, 0
    return Layer(np.dstack([colour, cover]), placed(middle, mask.shape, DENSITY), Motion(shift=shift))


def pan(rng: Generator, low: float, high: float) -> tuple[float, float]:
    """Draw a shift of low to high pixels, mostly horizontal."""
    angle = float(rng.choice([0.0, np.pi])) + rng.normal(0, 0.12) if rng.random() < 0.7 else rng.uniform(0, 2 * np.pi)
    length = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return float(length * np.cos(angle)), float(length * np.sin(angle))


def _middle() -> tuple[float, float]:
    return (SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2


def _scene(*layers: Layer, **more: object) -> Scene:
    return Scene(*SIZE, 0.5, layers, **more)  # type: ignore[arg-type]


def _sample(scene: Scene, kind: str, seed: int, times: Sequence[Fraction] = (HALF,), region: str = "") -> Sample:
    """Render a scene at several times; `region` names the overlay's mask."""
    rendering = tuple(render(replace(scene, t=float(t), noise_seed=seed)) for t in times)
    regions = []
    for one in rendering:
        masks = {name: mask for name, mask in seen_regions(one).items() if name != "overlay"}
        if region:
            masks[region] = _covered(scene, one) if region in ("static logo", "subtitle") else one.overlay
        regions.append(masks)
    return Sample("", kind, tuple(times), rendering, tuple(regions))


def _covered(scene: Scene, rendering: Rendered) -> NDArray[np.bool_]:
    """Return the mask of a static overlay without its partly transparent edge pixels."""
    out = np.zeros(SIZE, bool)
    for sheet in spread_out(scene, rendering.t):
        if sheet.layer.overlay:
            out[sheet.rows, sheet.columns] |= sheet.patch[..., 3] >= 250
    return out


def static_logo(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """Return a static logo in a corner of a pan."""
    layer = replace(logo(rng, SIZE), opacity=1.0)
    return _sample(_scene(surface(rng, textures, pan(rng, 4, 32)), layer), "static logo", seed, region="static logo")


def static_subtitle(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """Return static lines of text over a pan."""
    layer = replace(subtitle(rng, SIZE), shown=(-9.0, 9.0), fade=0.0)
    return _sample(_scene(surface(rng, textures, pan(rng, 4, 32)), layer), "subtitle", seed, region="subtitle")


def scrolling(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """Return a ticker over a background that is static or moves in another direction."""
    shift = (0.0, 0.0) if k % 2 else pan(rng, 2, 12)
    return _sample(_scene(surface(rng, textures, shift), ticker(rng, SIZE)), "ticker", seed, region="ticker")


RATIOS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # periods from a to b


def repeated_pan(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """Return a wall of repeated texture in a pan by a fraction of its period.

    The wall and its surroundings move together, so the surroundings resolve the ambiguity. The kind names the fraction:
    a model that matches the nearest repetition does well below 1/2 and badly above.
    """
    ratio = RATIOS[k % len(RATIOS)]
    period = float(rng.uniform(12, 30))  # pixels
    texels = max(8, round(period * DENSITY))
    shift = (float(rng.choice([-1.0, 1.0])) * ratio * texels / DENSITY, 0.0)
    rows, columns = int(SIZE[0] * 0.6 * DENSITY), int(SIZE[1] * 0.6 * DENSITY)
    colour = repeated(rng, textures, rows, columns, (max(8, int(texels * rng.uniform(0.6, 1.3))), texels))
    cover = np.zeros((rows, columns), np.uint8)
    cover[2:-2, 2:-2] = 255
    x, y = _middle()
    place = placed((x - shift[0] / 2, y), (rows, columns), DENSITY)
    wall = Layer(np.dstack([colour, cover]), place, Motion(shift=shift), kind="wall", period=(float(texels), 0.0))
    sample = _sample(_scene(surface(rng, textures, shift), wall), f"repeated {ratio:.2f}", seed)
    regions = {**sample.regions[0], f"repeated {ratio:.2f}": sample.renderings[0].repeated}
    return replace(sample, regions=(regions,))


def thin_lines(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """Return wires, poles or fences, 1 to 5 px thick, that move by several times their thickness."""
    size = int(SIZE[0] * 1.1 * DENSITY)
    mask = (shapes.wire, shapes.pole, shapes.grid)[k % 3](rng, size)
    ground = pan(rng, 1, 8)
    lines = thing(rng, textures, mask, _middle(), pan(rng, 6, 24))
    lines = replace(lines, patch=np.dstack([_shade(rng, lines.patch), lines.patch[..., 3]]))
    scene = _scene(surface(rng, textures, ground), lines)
    sample = _sample(scene, "thin lines", seed)
    bare = render(replace(scene, layers=scene.layers[:1]), neighbours=False).target.astype(np.int16)
    touched = np.abs(sample.renderings[0].target - bare).max(-1) > 8
    near = cv2.dilate(touched.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return replace(sample, regions=({**sample.regions[0], "thin lines": near},))


def _shade(rng: Generator, patch: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Darken or lighten a patch, like lines against a sky."""
    level = 25 if rng.random() < 0.7 else 235
    return np.asarray(np.clip(patch[..., :3] * 0.1 + level * 0.9, 0, 255), np.uint8)


def large_motion(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """Return a pan and an object moving against it, by 1/10 to 1/4 of the width from a to b."""
    share = (0.1, 0.15, 0.2, 0.25)[k % 4]
    sign = float(rng.choice([-1.0, 1.0]))
    shift = (sign * share * SIZE[1], float(rng.normal(0, 4)))
    layers = [surface(rng, textures, shift if k % 2 else (shift[0] * 0.3, 0.0))]
    mask = shapes.blob(rng, int(rng.uniform(70, 150) * DENSITY))
    way = (-sign * share * SIZE[1] * (0.3 if k % 2 else 1.0), float(rng.normal(0, 6)))
    layers.append(thing(rng, textures, mask, _middle(), way))
    return _sample(_scene(*layers), "large motion", seed)


def cut(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """Return a and b of different shots; the target before the half is a."""
    one = render(_scene(surface(rng, textures, pan(rng, 1, 10))))
    two = render(_scene(surface(rng, textures, pan(rng, 1, 10))))
    flat_flow = np.zeros_like(one.flow_ab)
    hidden = np.ones(SIZE, bool)
    combined = replace(
        one,
        b=two.b,
        after=two.after,
        target=one.a,
        t=0.25,
        flow_ab=flat_flow,
        flow_ba=flat_flow,
        hidden_ab=hidden,
        hidden_ba=hidden,
    )
    return Sample("", "cut", (Fraction(1, 4),), (combined,), ({"after a cut": hidden},))


def flash(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """Return a pan with a flash in b only; the target is as bright as a."""
    sample = _sample(_scene(surface(rng, textures, pan(rng, 2, 12))), "flash", seed, (Fraction(1, 4),))
    lit = np.clip(sample.renderings[0].b.astype(np.float32) * rng.uniform(1.3, 1.9) + rng.uniform(10, 40), 0, 255)
    return replace(sample, renderings=(replace(sample.renderings[0], b=np.rint(lit).astype(np.uint8)),))


def duplicate(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """Return a pan in which b duplicates a while the outer frames move; the target is the same frame."""
    scene = _scene(surface(rng, textures, pan(rng, 2, 16)), clock=Clock((-1.0, 0.0, 0.0, 1.0)))
    return _sample(scene, "duplicate", seed)


def brightness_ramp(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """Return a pan with a fade by a quarter; the target's brightness lies between those of a and b."""
    light = Light(gain=float(rng.choice([-1.0, 1.0])) * 0.25)
    times = (Fraction(1, 4), HALF, Fraction(3, 4))
    return _sample(_scene(surface(rng, textures, pan(rng, 2, 12)), light=light), "brightness ramp", seed, times)


def steady_pan(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """Return one translation with targets at quarters, to measure the uniformity of steps."""
    times = (Fraction(1, 4), HALF, Fraction(3, 4))
    scene = _scene(surface(rng, textures, pan(rng, 3, 24)))
    return replace(_sample(scene, "steady pan", seed, times), pan=True)


def half_transparent(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """Return a pan behind a static, semi-transparent mark."""
    high, wide = int(rng.uniform(0.15, 0.3) * SIZE[0]), int(rng.uniform(0.4, 0.8) * SIZE[1])
    patch = lettering(rng, "midframe", high, wide, plate=False)
    top, left = int(rng.uniform(0.1, 0.6) * SIZE[0]), int(rng.uniform(0.05, 0.95) * (SIZE[1] - wide))
    layer = flat("mark", patch, top, left, opacity=float(rng.uniform(0.3, 0.6)))
    scene = _scene(surface(rng, textures, pan(rng, 4, 16)), layer)
    return _sample(scene, "half transparent", seed, region="half transparent")


def wrong_period(sample: Sample, flow: Tensor) -> bool:
    """Return whether a flow (2, H, W) from a to b matches another repetition.

    It does if its median error in repeated texture visible in both frames exceeds half the period.
    """
    rendering = sample.renderings[0]
    # the mask is valid at t, not at a; the median tolerates the offset
    where = rendering.repeated & ~rendering.hidden_ab
    if rendering.period <= 0 or not where.any():
        raise InputError(f"{sample.name}: no repeated texture is visible in both frames")
    error = (flow.permute(1, 2, 0).numpy() - rendering.flow_ab)[where]
    return bool(np.median(np.hypot(error[:, 0], error[:, 1])) > rendering.period / 2)


Maker = Callable[[Generator, Textures, int, int], Sample]
KINDS: dict[str, tuple[Maker, int]] = {
    "static logo": (static_logo, 8),
    "subtitle": (static_subtitle, 8),
    "ticker": (scrolling, 6),
    "half transparent": (half_transparent, 6),
    "repeated": (repeated_pan, 4 * len(RATIOS)),
    "thin lines": (thin_lines, 9),
    "large motion": (large_motion, 8),
    "cut": (cut, 4),
    "flash": (flash, 4),
    "duplicate": (duplicate, 4),
    "brightness ramp": (brightness_ramp, 6),
    "steady pan": (steady_pan, 6),
}
