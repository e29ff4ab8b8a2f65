"""Scene changes, flashes, pans, fades and duplicates on synthetic frames."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction as Fr
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from midframe import shots
from midframe.types import Frame, PixelFormat

YUV = PixelFormat("yuv420p", "yuv", 8, 1, 1)
HEIGHT, WIDTH = 180, 320


def scene(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """A smooth random frame (3, height, width), levels: clouds of several sizes, like most photographs."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.zeros(1, 3, height, width)
    for cells, strength in ((3, 60.0), (9, 40.0), (30, 25.0)):
        noise = torch.randn(1, 3, cells, cells * 2, generator=generator)
        out += strength * F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=False)
    return (out[0] + 128).clamp(16, 235)


def frame(index: int, image: Tensor, format: PixelFormat = YUV) -> Frame:
    scale = 1 << (format.depth - 8)
    planes = []
    for n in range(3):
        shrink = (1, 1) if n == 0 else (1 << format.chroma_h, 1 << format.chroma_w)
        plane = F.avg_pool2d(image[None, n : n + 1], shrink)[0, 0] if shrink != (1, 1) else image[n]
        planes.append((plane.clamp(0, 255) * scale).round().to(torch.int32).to(format.dtype))
    return Frame(tuple(planes), format, Fr(index, 24), Fr(1, 24), index)


def video(images: list[Tensor]) -> list[Frame]:
    return [frame(n, image) for n, image in enumerate(images)]


def cuts(frames: list[Frame], threshold: float | None = None) -> list[int]:
    """Indexes of the frames with which shots begin."""
    labelled = list(shots.label(iter(frames), shots.Thumbnails(threshold)))
    assert [f.index for f in labelled] == [f.index for f in frames]
    steps = [b.shot - a.shot for a, b in pairwise(labelled)]
    assert set(steps) <= {0, 1}
    return [n for n, step in enumerate(steps, 1) if step]


def pan(seed: int, count: int, pixels: int) -> list[Tensor]:
    wide = scene(seed, HEIGHT, WIDTH + count * pixels)
    return [wide[:, :, n * pixels : n * pixels + WIDTH] for n in range(count)]


def test_cuts_are_found_where_they_are() -> None:
    images = [scene(seed) for seed in (1, 2, 3, 4) for _ in range(5)]
    assert cuts(video(images)) == [5, 10, 15]
    assert cuts(video(pan(5, 6, 8) + pan(6, 6, 8))) == [6]


def test_shots_of_one_frame_and_cuts_at_the_ends() -> None:
    assert cuts(video([scene(1), scene(2), scene(3), scene(3)])) == [1, 2]
    assert cuts(video([scene(1), scene(1), scene(2)])) == [2]
    assert cuts(video([scene(1)])) == [] == cuts([])


def test_flash_of_one_frame_is_no_cut() -> None:
    flash = scene(1) * 0.2 + 200
    assert cuts(video([scene(1)] * 4 + [flash] + [scene(1)] * 4)) == []
    assert cuts(video([scene(1)] * 4 + [scene(2)] + [scene(1)] * 4)) == []  # one odd frame, whatever it shows
    # a flash on the cut itself: the flash belongs to either side, or to none
    assert cuts(video([scene(1)] * 4 + [flash] + [scene(2)] * 4)) in ([4], [5], [4, 5])


@pytest.mark.parametrize(("gain", "black"), [(0.12, 16), (0.06, 17), (0.15, 190), (0.2, 100)])
@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_cuts_between_dark_or_flat_shots(gain: float, black: float, noise: float) -> None:
    generator = torch.Generator().manual_seed(0)

    def exposed(image: Tensor) -> Tensor:
        grain = torch.randn(image.shape, generator=generator) * noise
        return torch.cat([black + gain * (image[:1] - 16), 128 + gain * (image[1:] - 128)]) + grain

    moving = [exposed(p) for p in pan(5, 6, 8) + pan(6, 6, 8)]
    assert cuts(video(moving)) == [6]
    flat = torch.full((3, HEIGHT, WIDTH), 128.0)
    assert cuts(video([exposed(flat) for _ in range(8)])) == []


def test_light_that_changes_is_no_cut() -> None:
    dim = torch.cat([16 + 0.45 * (scene(1)[:1] - 16), scene(1)[1:]])
    assert cuts(video([scene(1)] * 4 + [dim] * 4)) == []
    assert cuts(video([scene(1)] * 4 + [scene(1) * 0.2 + 200] * 2 + [scene(1)] * 4)) == []


@pytest.mark.parametrize("runs", [[3] * 6, [1, 3, 2, 3, 1, 2], [4, 1, 4, 2, 4, 3], [2, 4, 2, 4, 3, 4]])
def test_leaps_after_runs_of_duplicates_are_no_cuts(runs: list[int]) -> None:
    """Frames shown several times, those in between lost: the next one leaps."""
    count = sum(runs)
    moving = pan(3, count, 8)
    shown, at = [], 0
    for run in runs:
        shown += [moving[at]] * run
        at += run
    assert cuts(video(shown)) == []
    assert cuts(video(shown + [scene(4)] * 3)) == [count]


@pytest.mark.parametrize("pixels", [4, 12, 24])
def test_pans_are_no_cuts(pixels: int) -> None:
    moving = pan(7, 12, pixels)
    assert cuts(video([moving[0]] * 3 + moving + [moving[-1]] * 3)) == []


def test_fades_dissolves_and_zooms_are_no_cuts() -> None:
    a, b = scene(1), scene(2)
    ramp = [n / 12 for n in range(13)]
    assert cuts(video([16 + (a - 16) * t for t in ramp])) == []
    assert cuts(video([torch.lerp(a, b, t) for t in ramp])) == []
    zoom = [a[:, 4 * n : HEIGHT - 4 * n, 7 * n : WIDTH - 7 * n] for n in range(8)]
    assert cuts(video([F.interpolate(z[None], size=(HEIGHT, WIDTH), mode="bilinear")[0] for z in zoom])) == []


@pytest.mark.parametrize(
    "format",
    [
        PixelFormat("yuv420p10le", "yuv", 10, 1, 1),
        PixelFormat("yuv444p", "yuv", 8),
        PixelFormat("gbrp", "rgb", 8, matrix="rgb", full_range=True),
    ],
    ids=lambda f: f.name,
)
def test_formats(format: PixelFormat) -> None:
    images = [scene(1)] * 4 + [scene(2)] * 4
    assert cuts([frame(n, p, format) for n, p in enumerate(images)]) == [4]


@pytest.mark.parametrize("size", [(16, 16), (1, 1), (3, 500), (640, 360), (5, 7)])
def test_sizes(size: tuple[int, int]) -> None:
    images = [scene(1, *size)] * 3 + [255 - scene(1, *size)] * 3
    gray = PixelFormat("gray", "gray", 8)
    frames = [Frame((p[0].to(torch.uint8),), gray, Fr(n), Fr(1), n) for n, p in enumerate(images)]
    assert cuts(frames) == [3]


def test_threshold_and_known_cuts_and_none() -> None:
    frames = video([scene(1)] * 3 + [scene(2)] * 3)
    assert cuts(frames, 0.95) == []
    known = shots.label(frames, shots.KnownSceneChanges({Fr(1, 24), Fr(4, 24)}))
    assert [f.shot for f in known] == [0, 1, 1, 1, 2, 2]
    assert list(shots.label(frames, None)) == frames


def test_reads_one_frame_ahead() -> None:
    read = []

    def watched() -> Iterator[Frame]:
        for f in video(pan(1, 9, 4)):
            read.append(f.index)
            yield f

    stream = shots.label(watched(), shots.Thumbnails())
    for n in range(5):
        assert next(stream).index == n
    assert read[-1] <= 5


def test_a_detector_knows_in_a_segment_what_it_knows_in_the_video() -> None:
    images = pan(1, 10, 20) + pan(2, 10, 3) + [scene(3)] * 6
    frames = video(images)
    whole = cuts(frames)
    assert whole == [10, 20]
    for first in range(len(frames) - shots.SEARCH_RADIUS):
        part = cuts(frames[first:])
        assert [first + n for n in part if n >= shots.SEARCH_RADIUS] == [
            n for n in whole if n >= first + shots.SEARCH_RADIUS
        ]


def noisy(image: Tensor, seed: int) -> Tensor:
    return image + torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)) * 0.8


def test_dedup_animation_on_twos_and_threes() -> None:
    drawings = pan(1, 6, 5)
    twos = video([noisy(d, n * 9 + k) for n, d in enumerate(drawings) for k in range(2)])
    assert [f.index for f in shots.dedup(twos)] == [0, 2, 4, 6, 8, 10]
    kept = list(shots.dedup(video([d for d in drawings for _ in range(3)])))
    assert [f.index for f in kept] == [0, 3, 6, 9, 12, 15] and {f.duration for f in kept} == {Fr(3, 24)}
    pulldown = video([d for n, d in enumerate(drawings) for _ in range(2 + n % 2)])
    assert [f.index for f in shots.dedup(pulldown)] == [0, 2, 5, 7, 10, 12]


def test_dedup_leaves_stills_and_motion() -> None:
    moving = pan(1, 6, 5)
    frames = video(moving[:3] + [moving[3]] * 8 + moving[4:])
    assert [f.index for f in shots.dedup(frames)] == [f.index for f in frames]
    assert [f.index for f in shots.dedup(video(moving))] == [*range(6)]
    assert list(shots.dedup([])) == []


def test_dedup_sees_a_small_thing_move() -> None:
    still = scene(1)
    blink = still.clone()
    blink[0, 60:66, 100:112] = 20
    frames = video([still, blink, still, blink])
    assert [f.index for f in shots.dedup(frames)] == [0, 1, 2, 3]


def test_dedup_keeps_cuts_apart() -> None:
    frames = video([scene(1)] * 4)
    cut = [frames[0], frames[1], *(Frame(f.planes, YUV, f.pts, f.duration, f.index, 1) for f in frames[2:])]
    assert [f.index for f in shots.dedup(cut)] == [0, 2]


def test_matching_residual_against_a_slow_twin() -> None:
    """Block by block in plain loops."""
    a, b = (np.random.default_rng(n).random((3, 12, 16), np.float32) * 255 for n in (1, 2))
    worst = 0.0
    for p, q in ((a, b), (b, a)):
        padded = np.pad(q, ((0, 0), (4, 4), (4, 4)), mode="edge")
        rest = []
        for y in range(0, 12, 4):
            for x in range(0, 16, 4):
                block = p[:, y : y + 4, x : x + 4]
                best = min(
                    float(
                        (
                            np.abs(padded[:, y + j : y + j + 4, x + i : x + i + 4] - block).mean((1, 2)) * [1, 0.5, 0.5]
                        ).sum()
                    )
                    for j in range(9)
                    for i in range(9)
                )
                rest.append(best)
        worst = max(worst, sum(rest) / len(rest))
    assert shots.matching_residual(a, b) == pytest.approx(worst, rel=1e-4)
