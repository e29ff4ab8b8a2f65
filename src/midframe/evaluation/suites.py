"""Our own sets: rendered scenes with exact truth, and a stress suite of what breaks interpolation.

Both are drawn by the renderer that training uses, with seeds of the domain "evaluation", which no training scene
can have. Without photographs the surfaces are procedural, so the suites need no data; with folders of photographs they
use only those that training never takes (`scenes.held_out`).

    rendered   200 scenes of 384x256: PSNR where a pixel of the truth is seen in two, one or none of the frames, by
               class of motion and by kind of trajectory; end-point error of the flow, all and seen in both
    stress     what goes wrong in films, a few cases each, with masks (`KINDS`)
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
from midframe.evaluation.datasets import Case, DataSet, FlowTruth, Target
from midframe.scenes import Mix, Rendered, Scene, Textures, compose, find_photos, render, shapes
from midframe.scenes.compose import DENSITY, flat, lettering, logo, root, subtitle, ticker
from midframe.scenes.render import spread_out
from midframe.scenes.script import Clock, Layer, Light, Motion, placed
from midframe.scenes.textures import repeated

SIZE = (256, 384)  # rows, columns
RENDERED = 200  # scenes
STRESS_SEEDS = 1_000_000  # the stress suite's seeds begin here, above those of the rendered suite
HALF = Fraction(1, 2)

# as training, but with less degradation: what noise takes away no model can give back; and fewer scenes at rest, which
# every model gets right
MIX = Mix(static_scene=0.03, noise=0.1, compressed=0.1, halved_chroma=0.2, duplicate=0.02)

KIND_TAGS = ("static-scene", "duplicate", "repeated", "motion-blur", "shadow", "drift", "jerky", "quadratic", "linear")


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with all that is known of it: `drawn[k]` has its truth at `times[k]`, all else is the same."""

    name: str
    kind: str
    times: tuple[Fraction, ...]
    drawn: tuple[Rendered, ...]
    regions: tuple[Mapping[str, NDArray[np.bool_]], ...]  # of the truths, by time
    pan: bool = False  # everything moves by one translation

    def case(self) -> Case:
        """As the evaluation takes it."""
        first = self.drawn[0]
        targets = tuple(
            Target(t, picture(one.target), {name: torch.from_numpy(mask) for name, mask in regions.items()})
            for t, one, regions in zip(self.times, self.drawn, self.regions, strict=True)
        )
        flow = FlowTruth(
            torch.from_numpy(first.flow_ab).permute(2, 0, 1).contiguous(), seen=torch.from_numpy(~first.hidden_ab)
        )
        return Case(
            self.name,
            picture(first.a),
            picture(first.b),
            targets,
            None if first.before is None else picture(first.before),
            None if first.after is None else picture(first.after),
            kind=self.kind,
            motion=float(np.hypot(first.flow_ab[..., 0], first.flow_ab[..., 1]).mean()),
            pan=self.pan,
            flow=flow,
        )


def picture(array: NDArray[np.uint8]) -> Tensor:
    """(H, W, 3) uint8 -> (3, H, W) float32, 0..1."""
    return torch.from_numpy(array).permute(2, 0, 1).float().div(255).contiguous()


def seen_regions(drawn: Rendered) -> dict[str, NDArray[np.bool_]]:
    """Masks of the truth: seen in two, one or none of a and b; and the overlay, if there is one."""
    lost = drawn.hidden_ta.astype(np.int8) + drawn.hidden_tb
    regions = {"seen in two": lost == 0, "seen in one": lost == 1, "seen in none": lost == 2}
    if drawn.overlay.any():
        regions["overlay"] = drawn.overlay
    return regions


# The suites


def rendered(textures: Textures, count: int = RENDERED) -> Iterator[Sample]:
    """The rendered suite: `count` scenes, one truth each, half of them at 1/2 and the others at other eighths."""
    for seed in range(count):
        rng = np.random.default_rng([13, seed])
        t = HALF if seed % 2 == 0 else Fraction(int(rng.choice([1, 2, 3, 5, 6, 7])), 8)
        scene = compose(seed, textures, SIZE, "evaluation", MIX, float(t))
        drawn = render(scene)
        kind = next(tag for tag in KIND_TAGS if tag in scene.tags)
        yield Sample(f"scene {seed:03d}", kind, (t,), (drawn,), (seen_regions(drawn),))


def stress(textures: Textures, keep: Container[int] | None = None) -> Iterator[Sample]:
    """The stress suite: every kind of `KINDS` in turn; of its samples, counted from 0, only those to `keep`."""
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
    """A suite as a data set of the evaluation.

    Args:
        name: "rendered" or "stress".
        photos: folders of photographs, of which the held-out ones are used; procedural surfaces without any.
        limit: at most so many cases; of the rendered suite the first, of the stress suite evenly spread over the kinds.

    Raises:
        InputError: another name; a folder that is missing or holds no held-out photograph.
    """
    if name not in SUITES:
        raise InputError(f"suite {name!r} is none of {', '.join(SUITES)}")
    textures = Textures(find_photos(photos, evaluation=True)) if photos else Textures()
    count = RENDERED if name == "rendered" else sum(cases for _, cases in KINDS.values())
    wanted = count if limit is None else min(limit, count)
    keep = {index * count // wanted for index in range(wanted)}

    def cases() -> Iterator[Case]:
        if name == "rendered":
            yield from (sample.case() for sample in islice(rendered(textures), wanted))
        else:
            yield from (sample.case() for sample in stress(textures, keep))

    surfaces = f"{len(textures.photos)} held-out photographs" if photos else "procedural surfaces"
    note = f"{surfaces}; seeds of the domain evaluation"
    if wanted < count:
        note += f"; {wanted} of {count} cases"
    return DataSet(name, SUITES[name], wanted, cases, note=note)


SUITES = {
    "rendered": f"rendered scenes, {SIZE[1]}x{SIZE[0]}, exact truth, flow and occlusion; four frames given",
    "stress": "overlays, repeated textures, thin lines, large motion, cuts, flashes; masked PSNR",
}


# The kinds of the stress suite. Each gives one sample from its own random numbers.


def surface(rng: Generator, textures: Textures, shift: tuple[float, float]) -> Layer:
    """A background that moves by `shift` from a to b, and nothing else."""
    margin = int(max(abs(shift[0]), abs(shift[1])) * 1.6) + 8
    rows, columns = (int((n + 2 * margin) * DENSITY) for n in SIZE)
    patch = textures.pick(rng, rows, columns, DENSITY, rich=True)
    return Layer(patch, placed(_middle(), (rows, columns), DENSITY), Motion(shift=shift), kind="background")


def thing(
    rng: Generator, textures: Textures, mask: NDArray[np.uint8], centre: tuple[float, float], shift: tuple[float, float]
) -> Layer:
    """A layer of a given outline, whose middle is at `centre` halfway between a and b."""
    colour = textures.pick(rng, mask.shape[0], mask.shape[1], DENSITY, rich=True)
    middle = (centre[0] - shift[0] / 2, centre[1] - shift[1] / 2)
    cover = np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.8), np.uint8)
    cover[[0, -1]], cover[:, [0, -1]] = 0, 0
    return Layer(np.dstack([colour, cover]), placed(middle, mask.shape, DENSITY), Motion(shift=shift))


def pan(rng: Generator, low: float, high: float) -> tuple[float, float]:
    """A shift of low to high pixels, more often along the horizon than not."""
    angle = float(rng.choice([0.0, np.pi])) + rng.normal(0, 0.12) if rng.random() < 0.7 else rng.uniform(0, 2 * np.pi)
    length = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return float(length * np.cos(angle)), float(length * np.sin(angle))


def _middle() -> tuple[float, float]:
    return (SIZE[1] - 1) / 2, (SIZE[0] - 1) / 2


def _scene(*layers: Layer, **more: object) -> Scene:
    return Scene(*SIZE, 0.5, layers, **more)  # type: ignore[arg-type]


def _sample(scene: Scene, kind: str, seed: int, times: Sequence[Fraction] = (HALF,), region: str = "") -> Sample:
    """Draw a scene at several times; `region` names the overlay's mask."""
    drawn = tuple(render(replace(scene, t=float(t), noise_seed=seed)) for t in times)
    regions = []
    for one in drawn:
        masks = {name: mask for name, mask in seen_regions(one).items() if name != "overlay"}
        if region:
            masks[region] = _covered(scene, one) if region in ("static logo", "subtitle") else one.overlay
        regions.append(masks)
    return Sample("", kind, tuple(times), drawn, tuple(regions))


def _covered(scene: Scene, drawn: Rendered) -> NDArray[np.bool_]:
    """Where a resting overlay hides all of what moves below: at its rim part of a pixel is the background's."""
    out = np.zeros(SIZE, bool)
    for sheet in spread_out(scene, drawn.t):
        if sheet.layer.overlay:
            out[sheet.rows, sheet.columns] |= sheet.patch[..., 3] >= 250
    return out


def static_logo(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """A resting logo in a corner of a pan."""
    layer = replace(logo(rng, SIZE), opacity=1.0)
    return _sample(_scene(surface(rng, textures, pan(rng, 4, 32)), layer), "static logo", seed, region="static logo")


def static_subtitle(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """Resting lines of text upon a pan."""
    layer = replace(subtitle(rng, SIZE), shown=(-9.0, 9.0), fade=0.0)
    return _sample(_scene(surface(rng, textures, pan(rng, 4, 32)), layer), "subtitle", seed, region="subtitle")


def scrolling(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """A ticker over a picture that rests or moves another way."""
    shift = (0.0, 0.0) if k % 2 else pan(rng, 2, 12)
    return _sample(_scene(surface(rng, textures, shift), ticker(rng, SIZE)), "ticker", seed, region="ticker")


RATIOS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # periods from a to b


def repeated_pan(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """A wall of repeated texture in a picture that pans by a share of its period.

    The wall and its surroundings move as one, so the surroundings tell by how much. The kind names the share: a model
    that jumps to the nearest repetition does well below 1/2 and badly above.
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
    regions = {**sample.regions[0], f"repeated {ratio:.2f}": sample.drawn[0].repeated}
    return replace(sample, regions=(regions,))


def thin_lines(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """Wires, poles and fences, 1 to 5 px thick, that move against the ground by several times their thickness."""
    size = int(SIZE[0] * 1.1 * DENSITY)
    mask = (shapes.wire, shapes.pole, shapes.grid)[k % 3](rng, size)
    ground = pan(rng, 1, 8)
    lines = thing(rng, textures, mask, _middle(), pan(rng, 6, 24))
    lines = replace(lines, patch=np.dstack([_shade(rng, lines.patch), lines.patch[..., 3]]))
    scene = _scene(surface(rng, textures, ground), lines)
    sample = _sample(scene, "thin lines", seed)
    bare = render(replace(scene, layers=scene.layers[:1]), neighbours=False).target.astype(np.int16)
    touched = np.abs(sample.drawn[0].target - bare).max(-1) > 8
    near = cv2.dilate(touched.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return replace(sample, regions=({**sample.regions[0], "thin lines": near},))


def _shade(rng: Generator, patch: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Dark or light, as lines against a sky are."""
    level = 25 if rng.random() < 0.7 else 235
    return np.asarray(np.clip(patch[..., :3] * 0.1 + level * 0.9, 0, 255), np.uint8)


def large_motion(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """A pan and a thing against it, 1/10 to 1/4 of the width from a to b."""
    share = (0.1, 0.15, 0.2, 0.25)[k % 4]
    sign = float(rng.choice([-1.0, 1.0]))
    shift = (sign * share * SIZE[1], float(rng.normal(0, 4)))
    layers = [surface(rng, textures, shift if k % 2 else (shift[0] * 0.3, 0.0))]
    mask = shapes.blob(rng, int(rng.uniform(70, 150) * DENSITY))
    way = (-sign * share * SIZE[1] * (0.3 if k % 2 else 1.0), float(rng.normal(0, 6)))
    layers.append(thing(rng, textures, mask, _middle(), way))
    return _sample(_scene(*layers), "large motion", seed)


def cut(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """a and b belong to different shots: nothing lies between them, so the truth is a up to the half."""
    one = render(_scene(surface(rng, textures, pan(rng, 1, 10))))
    two = render(_scene(surface(rng, textures, pan(rng, 1, 10))))
    flat_flow = np.zeros_like(one.flow_ab)
    hidden = np.ones(SIZE, bool)
    joined = replace(
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
    return Sample("", "cut", (Fraction(1, 4),), (joined,), ({"after a cut": hidden},))


def flash(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """b alone is lit by a flash; the truth between is as bright as a."""
    sample = _sample(_scene(surface(rng, textures, pan(rng, 2, 12))), "flash", seed, (Fraction(1, 4),))
    lit = np.clip(sample.drawn[0].b.astype(np.float32) * rng.uniform(1.3, 1.9) + rng.uniform(10, 40), 0, 255)
    return replace(sample, drawn=(replace(sample.drawn[0], b=np.rint(lit).astype(np.uint8)),))


def duplicate(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """b repeats a, while the frames before and after move on: what lies between is the same picture."""
    scene = _scene(surface(rng, textures, pan(rng, 2, 16)), clock=Clock((-1.0, 0.0, 0.0, 1.0)))
    return _sample(scene, "duplicate", seed)


def brightness_ramp(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """A fade up or down by a quarter, with a pan below it: the truth's brightness lies between."""
    light = Light(gain=float(rng.choice([-1.0, 1.0])) * 0.25)
    times = (Fraction(1, 4), HALF, Fraction(3, 4))
    return _sample(_scene(surface(rng, textures, pan(rng, 2, 12)), light=light), "brightness ramp", seed, times)


def steady_pan(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """Everything moves by one translation; asked for at four even steps, to see whether they come out even."""
    times = (Fraction(1, 4), HALF, Fraction(3, 4))
    scene = _scene(surface(rng, textures, pan(rng, 3, 24)))
    return replace(_sample(scene, "steady pan", seed, times), pan=True)


def half_transparent(rng: Generator, textures: Textures, seed: int, k: int) -> Sample:
    """A resting mark through which the pan is seen."""
    high, wide = int(rng.uniform(0.15, 0.3) * SIZE[0]), int(rng.uniform(0.4, 0.8) * SIZE[1])
    patch = lettering(rng, "midframe", high, wide, plate=False)
    top, left = int(rng.uniform(0.1, 0.6) * SIZE[0]), int(rng.uniform(0.05, 0.95) * (SIZE[1] - wide))
    layer = flat("mark", patch, top, left, opacity=float(rng.uniform(0.3, 0.6)))
    scene = _scene(surface(rng, textures, pan(rng, 4, 16)), layer)
    return _sample(scene, "half transparent", seed, region="half transparent")


def wrong_period(sample: Sample, flow: Tensor) -> bool:
    """Whether a flow (2, H, W) from a to b has jumped to another repetition: its median error in the repeated texture,
    where that is seen in both frames, is above half the period."""
    drawn = sample.drawn[0]
    # the mask is that of t: half a way off, which a median does not mind
    where = drawn.repeated & ~drawn.hidden_ab
    if drawn.period <= 0 or not where.any():
        raise InputError(f"{sample.name}: no repeated texture is seen in both frames")
    error = (flow.permute(1, 2, 0).numpy() - drawn.flow_ab)[where]
    return bool(np.median(np.hypot(error[:, 0], error[:, 1])) > drawn.period / 2)


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
