"""Confidence of frames with a known fraction of right pixels."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from midframe import confidence
from midframe.engine import Engine
from midframe.models.base import Model, RenderRequest
from midframe.models.blend import Blend
from midframe.models.dis import Dis
from midframe.models.tiled import Tiled
from midframe.types import Frame, Gap, PixelFormat, Slot

STEP = 12  # pixels to the right from a to b
FORMATS = {
    "8 bits": PixelFormat("yuv420p", "yuv", 8, 1, 1, full_range=True),
    "10 bits": PixelFormat("yuv420p10le", "yuv", 10, 1, 1, full_range=True),
    "rgb": PixelFormat("gbrp", "rgb", 8, matrix="rgb", full_range=True),
}


class Shift(Model):
    """Moves everything by STEP, but spoils the lower fraction `spoilt` of its frames."""

    name = "shift"
    stride = 64

    def __init__(self, spoilt: float = 0.0, flow: float = STEP) -> None:
        super().__init__()
        self.spoilt, self.step = spoilt, flow

    def encode(self, image: Tensor) -> Tensor:
        return image

    def match(self, a: Tensor, b: Tensor) -> tuple[int, int]:
        return a.shape[-2] // 4, a.shape[-1] // 4

    def flow(self, motion: tuple[int, int]) -> Tensor:
        return torch.tensor([self.step / 4, 0.0]).view(1, 2, 1, 1).expand(1, 2, *motion)  # at a quarter of the size

    def render(self, request: RenderRequest) -> Tensor:
        made = torch.cat([request.a.roll(round(float(t) * STEP), -1) for t in request.t])
        rows = round(360 * (1 - self.spoilt))
        made[..., rows:, :] = 1 - made[..., rows:, :]
        return made


def images(format: PixelFormat, height: int = 360, width: int = 620) -> tuple[Frame, Frame]:
    """A pattern and the same STEP further to the right."""
    y, x = np.mgrid[:height, : width + STEP]
    gray = 0.5 + 0.22 * np.sin(x / 9) + 0.22 * np.cos(y / 11)
    gray = np.where(gray > 0.5, gray + 0.05, gray - 0.05)  # nothing near the middle, which inverting would not change
    top = (1 << format.depth) - 1
    frames = []
    for n, part in enumerate((gray[:, STEP:], gray[:, :-STEP])):
        plane = torch.from_numpy(np.rint(part * top).astype(np.uint16 if format.depth > 8 else np.uint8))
        flat = torch.full((height // 2, width // 2), (top + 1) // 2).to(plane.dtype)
        planes = (plane, plane, plane) if format.layout == "rgb" else (plane, flat, flat)
        frames.append(Frame(planes, format, Fraction(n), Fraction(1), n))
    return frames[0], frames[1]


def interpolated(model: Model, format: PixelFormat = FORMATS["8 bits"], **engine: Any) -> list[Frame]:
    a, b = images(format)
    slots = tuple(Slot(Fraction(n, 3), Fraction(n, 3)) for n in range(3))
    return list(Engine(model, **engine).run([Gap(a, b, slots)]))


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("spoilt", [0.0, 0.25, 0.5])
def test_it_is_the_fraction_of_the_frame_that_is_right(format: PixelFormat, spoilt: float) -> None:
    passed, *made = interpolated(Shift(spoilt), format)
    assert passed.confidence is None
    for frame in made:
        assert frame.confidence == pytest.approx(1 - spoilt, abs=0.03)  # STEP columns come from outside
        if spoilt:
            assert frame.find_region is not None
            left, top, right, bottom = frame.find_region()
            assert 1 - spoilt - 0.04 <= top < bottom <= 1, "within the spoilt rows, but for strays at their edge"
            assert 0 <= left < right <= 1 and (right - left) * 620 < 620 / 5 + 4
            assert (bottom - top) * (right - left) > 0.02
        elif frame.confidence is not None and frame.confidence >= confidence.LOW:
            assert frame.find_region is None


def test_a_wrong_flow_is_inconsistent() -> None:
    for frame in interpolated(Shift(flow=-STEP))[1:]:
        assert frame.confidence is not None and frame.confidence < 0.6


def test_without_a_flow_there_is_none() -> None:
    assert [frame.confidence for frame in interpolated(Blend())] == [None] * 3


def test_through_tiles_it_is_the_same() -> None:
    whole, tiled = interpolated(Shift(0.25))[1:], interpolated(Shift(0.25), tile=256)[1:]
    # the fake spoils row 270 on of every tile; tiles of 256 have none
    assert [frame.confidence for frame in tiled] == pytest.approx([1.0, 1.0], abs=0.03)
    assert [frame.confidence for frame in whole] == pytest.approx([0.75, 0.75], abs=0.03)


def test_tiles_flow_is_that_of_the_whole() -> None:
    a, b = (torch.rand(1, 3, 192, 320, generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    b = torch.nn.functional.avg_pool2d(a.roll(4, -1), 5, 1, 2)
    a = torch.nn.functional.avg_pool2d(a, 5, 1, 2)
    tiled, dis = Tiled(Dis(), 128), Dis()
    found = tiled.flow(tiled.match(tiled.encode(a), tiled.encode(b)))
    assert found is not None and found.shape == (1, 2, 192, 320)
    assert found[0, 0, 16:-16, 16:-16].median() == pytest.approx(4, abs=0.1)
    assert dis.flow(dis.match(dis.encode(a), dis.encode(b)))[0, 0].median() == pytest.approx(2, abs=0.1)  # type: ignore[index]
    assert Tiled(Blend(), 128).flow(Tiled(Blend(), 128).match(*[Tiled(Blend(), 128).encode(x) for x in (a, b)])) is None


def test_thumbnails_are_small_and_of_eight_bits() -> None:
    for format in FORMATS.values():
        a, _ = images(format)
        small = confidence.thumbnail(a.planes, format)
        assert small.dtype == np.uint8 and max(small.shape) == confidence.MAX_SIDE
        assert small.mean() == pytest.approx(127, abs=8)
    tiny = confidence.thumbnail((torch.zeros(2, 5, dtype=torch.uint8),), PixelFormat("gray", "gray", 8))
    assert tiny.shape == (2, 5)
