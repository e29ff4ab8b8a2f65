"""Losses against what can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from midframe.ops import warp
from midframe.training import losses


@pytest.fixture
def frame() -> torch.Tensor:
    return torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["laplacian", "gradient_difference"])
def test_frame_losses_are_zero_for_equal_and_grow_with_the_difference(name: str, frame: torch.Tensor) -> None:
    loss = getattr(losses, name)
    noise = torch.randn(frame.shape, generator=torch.Generator().manual_seed(2))
    assert loss(frame, frame).item() == 0
    assert 0 < loss(frame + 0.01 * noise, frame) < loss(frame + 0.05 * noise, frame)


def test_a_constant_shift_is_seen_by_the_coarsest_band_alone(frame: torch.Tensor) -> None:
    # bands of a constant are 0, the rest has weight 0.25 * 2^4
    assert losses.laplacian(frame + 0.1, frame).item() == pytest.approx(0.4, rel=1e-4)
    assert losses.gradient_difference(frame + 0.1, frame).item() == pytest.approx(0, abs=1e-6)


def test_charbonnier_is_the_absolute_difference_far_from_zero(frame: torch.Tensor) -> None:
    assert losses.charbonnier(frame + 0.2, frame).item() == pytest.approx(0.2, rel=1e-3)


def test_endpoint_error_counts_full_size_pixels_where_weighted() -> None:
    truth = torch.zeros(1, 2, 16, 16)
    truth[:, 0] = 8.0
    flow = torch.zeros(1, 2, 4, 4)  # at 1/4: 8 full-size pixels are 2
    flow[:, 0, :, :2] = 2.0  # right on the left half, wrong by 8 px on the right
    left, right = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    left[..., :8], right[..., 8:] = 1, 1
    known = torch.ones_like(left)
    assert losses.endpoint_error(flow, truth, left, known, 4).item() == pytest.approx(0, abs=0.011)
    assert losses.endpoint_error(flow, truth, right, known, 4).item() == pytest.approx(8, rel=5e-3)
    assert losses.endpoint_error(flow, truth, left * 0, known, 4).item() == 0
    known[..., 4:8] = 0  # a wrong value where nothing is known does not count
    spoilt = torch.where(known > 0, truth, 100.0)
    assert losses.endpoint_error(flow, spoilt, left * known, known, 4).item() == pytest.approx(0, abs=0.011)


def test_match_entropy_is_least_for_the_true_match() -> None:
    truth = torch.zeros(2, 2, 64, 64)
    truth[0, 0], truth[1, 0] = 16.0, -16.0  # one place to the right, and back
    seen = torch.ones(2, 1, 64, 64)
    places = torch.arange(16).view(4, 4)
    right = torch.zeros(1, 16, 16)
    for y in range(4):
        for x in range(3):
            right[0, places[y, x], places[y, x + 1]] = 20.0
    wrong = right.flip(1)
    assert losses.match_entropy(right, truth, seen) < 1e-3 < losses.match_entropy(wrong, truth, seen)
    nothing = losses.match_entropy(torch.zeros(1, 16, 16), truth, seen).item()
    assert nothing == pytest.approx(math.log(16) * 24 / 25, rel=1e-4)  # 12 of 16 places each way stay inside


def test_match_entropy_reads_flow_as_ops_does() -> None:
    # the place named by the entropy must be the place that warp looks at
    truth = torch.zeros(2, 2, 64, 64)
    truth[:, 1] = 32.0  # two places down
    places = torch.arange(16.0).view(1, 1, 4, 4)
    seen_at = warp(places, truth[:1, :, :4, :4] / 16, "zeros")
    logits = torch.zeros(1, 16, 16)
    for place in range(8):
        logits[0, place, int(seen_at.flatten()[place])] = 30.0
    known = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(2, 1, 64, 64)
    assert losses.match_entropy(logits, truth, known).item() < 1e-6


def test_mask_entropy_weighs() -> None:
    logit = torch.full((1, 1, 4, 4), 10.0)
    ones, weight = torch.ones_like(logit), torch.zeros_like(logit)
    weight[..., 0] = 1
    assert losses.mask_entropy(logit, ones, weight).item() < 1e-3
    assert losses.mask_entropy(logit, 1 - ones, weight).item() == pytest.approx(10, rel=1e-2)
