"""Motion blur: linear light, sampling, and a moving bar against its exact mean."""

from __future__ import annotations

from fractions import Fraction as Fr

import pytest
import torch
from torch import Tensor

from midframe import shutter, timeline
from midframe.engine import Engine
from midframe.models.base import Features, Model, Motion, RenderRequest
from midframe.types import Frame, PixelFormat

GRAY = PixelFormat("gray", "gray", 8, full_range=True)
HEIGHT, WIDTH = 8, 240


@pytest.mark.parametrize("transfer", ["bt709", "unknown", "iec61966-2-1", "smpte2084", "arib-std-b67", "linear"])
def test_linear_light_and_back(transfer: str) -> None:
    rgb = torch.linspace(-0.05 if transfer not in ("smpte2084", "arib-std-b67") else 0.0, 1.0, 300).expand(3, 1, 300)
    light = shutter.to_linear(rgb, transfer)
    assert torch.allclose(shutter.from_linear(light, transfer), rgb, atol=2e-4)
    assert bool((light.diff(dim=-1) >= 0).all()) and float(light[0, 0, -1]) == pytest.approx(1.0, abs=1e-3)


def test_number_of_samples() -> None:
    assert [shutter.sample_count(pixels, 1.0) for pixels in (0.0, 1.9, 2.1, 20.0, 500.0)] == [1, 1, 2, 10, 32]
    assert [shutter.sample_count(500.0, share) for share in (0.5, 0.25, 0.01)] == [16, 8, 1]
    assert shutter.sample_count(None, 0.5) == 4


def test_fast_motion_is_that_of_few_pixels() -> None:
    flow = torch.zeros(1, 2, 10, 10)
    flow[0, 0, 0] = 3.0  # a tenth of the frame moves
    assert shutter.fast_motion(flow, 20, 40) == 12.0
    flow[0, 0, 0, 4:] = 0.0  # less than a twentieth
    assert shutter.fast_motion(flow, 20, 40) == 0.0


class Sliding(Model):
    """Move everything by `step` pixels to the right from a to b, to whole pixels; count what is rendered."""

    name = "sliding"

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step, self.matched, self.rendered = step, 0, 0

    def encode(self, image: Tensor) -> Features:
        return image

    def match(self, a: Features, b: Features) -> Motion:
        self.matched += 1
        flow = torch.zeros(1, 2, a.shape[-2], a.shape[-1])
        flow[:, 0] = self.step
        return flow

    def flow(self, motion: Motion) -> Tensor:
        return motion  # type: ignore[no-any-return]

    def render(self, request: RenderRequest) -> Tensor:
        self.rendered += len(request.t)
        return torch.cat([request.a.roll(round(float(t) * self.step), -1) for t in request.t])


def bars(count: int, step: int) -> list[Frame]:
    frames = []
    for n in range(count):
        plane = torch.full((HEIGHT, WIDTH), 20, dtype=torch.uint8)
        plane[:, 20 + step * n : 24 + step * n] = 220
        frames.append(Frame((plane,), GRAY, Fr(n, 24), Fr(1, 24), n))
    return frames


def test_a_moving_bar_becomes_its_mean_in_linear_light() -> None:
    model = Sliding(16)
    gaps = timeline.gaps(bars(10, 16), Fr(24), playback=timeline.Playback(shutter=Fr(1, 2)))
    out = list(Engine(model).run(gaps))
    assert {f.kind for f in out} == {"interpolated"}
    assert len(out) == 10 and model.matched == 9, "motion is estimated once per gap"
    assert [f.pts for f in out] == [Fr(n, 24) for n in range(10)]
    # half an interval is 8 px, in two gaps of 4 px with 2 samples each, at 1/8 and 3/8 of ... each part
    row = out[5].planes[0][0].double() / 255
    light = torch.full((WIDTH,), (20 / 255) ** 2.4, dtype=torch.float64)
    for offset in (-3, -1, 1, 3):
        at = 20 + 80 + offset
        light[at : at + 4] += ((220 / 255) ** 2.4 - (20 / 255) ** 2.4) / 4
    assert torch.allclose(row, light ** (1 / 2.4), atol=1.5 / 255)


@pytest.mark.parametrize(("step", "samples"), [(1, 2), (16, 16), (60, 32)])
def test_samples_follow_the_motion(step: int, samples: int) -> None:
    model = Sliding(step)
    frames = bars(4, min(step, 50))
    list(Engine(model).run(timeline.gaps(frames[:2], Fr(24), playback=timeline.Playback(shutter=Fr(1)))))
    per_gap = model.rendered
    assert per_gap <= samples, "the gap between two outputs is seen half by either"
    assert per_gap >= samples // 2


def test_a_scene_change_is_not_blurred() -> None:
    left, right = bars(6, 16), bars(6, 3)
    frames = left[:3] + [Frame(f.planes, GRAY, f.pts, f.duration, f.index, 1) for f in right[3:]]
    out = list(Engine(Sliding(16)).run(timeline.gaps(frames, Fr(24), playback=timeline.Playback(shutter=Fr(1)))))
    assert [f.pts for f in out] == [Fr(n, 24) for n in range(6)]
    assert out[2].planes[0][0, 20 + 32 + 30 :].float().std() < 1, "nothing of the shot behind"
    assert int(out[3].planes[0][0, : 20 + 9 - 9].max()) == 20, "nothing of the shot before"


def test_what_stands_still_is_untouched() -> None:
    still = bars(1, 0)[0]
    frames = [Frame(still.planes, GRAY, Fr(n, 24), Fr(1, 24), n) for n in range(6)]
    out = list(Engine(Sliding(16)).run(timeline.gaps(frames, Fr(60), playback=timeline.Playback(shutter=Fr(1, 2)))))
    assert len(out) == 15 and all(torch.equal(f.planes[0], still.planes[0]) for f in out)
