"""RAFT against its plain twin, both kinds of look-up against each other, names against the published ones."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vfinet_reference as reference
from midframe.errors import InputError
from midframe.models import raft
from midframe.models.raft import Raft

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import vfinet_twin as twin


@pytest.fixture(scope="module", autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    """(1, 3, H, W), 0..1: smooth enough to be matched."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8 + 4, width // 8 + 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)


@pytest.fixture(scope="module")
def basic() -> Raft:
    network = Raft().eval()
    network.load_state_dict(reference.named_weights(reference.shapes("flownet")))
    return network


def test_names_and_shapes_are_the_published_ones() -> None:
    assert raft.original_shapes() == reference.shapes("flownet")


def test_as_the_plain_twin() -> None:
    weights = reference.named_weights(raft.original_shapes())
    plain = twin.Raft().eval()
    assert {n for n in plain.state_dict() if "num_batches" not in n} == set(weights)
    plain.load_state_dict(weights, strict=False)
    network = Raft().eval()
    network.load_state_dict({f"module.{name}": value for name, value in weights.items()})
    a, b = texture(128, 160), texture(128, 160, 1) * 0.5 + texture(128, 160) * 0.5
    start = 2 * torch.randn(1, 2, 16, 20, generator=torch.Generator().manual_seed(5))
    for flow_init in (None, start):
        low, fine = network.flow_pyramid(a, b, 6, flow_init)
        expected_low, expected = plain(255 * a, 255 * b, 6, flow_init)
        assert (low - expected_low).abs().max() < 2e-3
        assert (fine - expected).abs().mean() < 1e-3
        assert (fine - expected).abs().max() < 2e-2
        assert fine.abs().max() > 1  # px; something was found


def test_both_directions_are_two_single_ones(basic: Raft) -> None:
    a, b = texture(128, 136), texture(128, 136, 1)
    forward, backward = basic.match(basic.encode(a), basic.encode(b), 3)
    assert torch.allclose(forward, basic.flow(a, b, 3), atol=1e-3)
    assert torch.allclose(backward, basic.flow(b, a, 3), atol=1e-3)


def test_a_batch_is_its_frames(basic: Raft) -> None:
    a, b = (torch.cat([texture(128, 128, seed), texture(128, 128, seed + 1)]) for seed in (0, 7))
    whole = basic.match(basic.encode(a), basic.encode(b), 2)
    for i in range(2):
        single = basic.match(basic.encode(a[i : i + 1]), basic.encode(b[i : i + 1]), 2)
        for many, one in zip(whole, single, strict=True):
            assert torch.allclose(many[i : i + 1], one, atol=1e-3)


@pytest.mark.parametrize("spread", [0.5, 4.0, 500.0])
def test_look_ups_without_the_volume_are_those_with_it(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft, "TILE_LIMIT", 4000)  # so that these small frames are tiled at all
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(2, 32, 21, 26, generator=generator) for _ in range(2))
    where = raft.ops.coordinates(21, 26) + spread * torch.randn(4, 2, 21, 26, generator=generator)
    kept = raft.VolumeLookup(a, b, both=True)(where)
    tiled = raft.TiledLookup(a, b, both=True)(where)
    assert kept.shape == (4, raft.TAPS, 21, 26)
    assert torch.allclose(kept, tiled, atol=1e-4)


def test_a_look_up_is_bilinear_and_zero_outside() -> None:
    volume = torch.rand(1, 9, 7, generator=torch.Generator().manual_seed(2))
    where = torch.tensor([[2.25, 6.5]])
    found = raft.sample_window(volume, where, radius=3).view(7, 7)
    for i in range(7):  # x first
        for j in range(7):
            x, y = 2.25 + i - 3, 6.5 + j - 3
            expected = 0.0
            for row in range(9):
                for column in range(7):
                    share = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
                    expected += share * float(volume[0, row, column])
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_no_volume_is_ever_too_large() -> None:
    """4K at 1/8 would be 63 GB a direction; the tiles need some megabytes."""
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(1, 16, 270, 480, generator=generator) for _ in range(2))
    look = raft.TiledLookup(a, b, both=False)
    where = raft.ops.coordinates(270, 480) + 3.3
    found = look(where)
    # the pixel (100, 50) in the finest level, no shift: between four neighbours
    want = [(b[0, :, 53 + j, 103 + i] * a[0, :, 50, 100]).sum() for i in (0, 1) for j in (0, 1)]
    mixed = 0.7 * (0.7 * want[0] + 0.3 * want[1]) + 0.3 * (0.7 * want[2] + 0.3 * want[3])
    assert float(found[0, 40, 50, 100]) == pytest.approx(float(mixed), abs=1e-3)


def test_a_convolution_in_parts_rounds_as_little_as_float32_allows() -> None:
    """Which of the two rounds less depends on the kernels of a processor: on one by half, on another by twice."""
    generator = torch.Generator().manual_seed(5)
    layer = raft.Conv(256, 32, 3, padding=1)
    x = torch.randn(1, 256, 24, 24, generator=generator)
    layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / 48)
    exact = torch.nn.functional.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)
    whole = torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=1)
    parts = layer(x)
    assert torch.allclose(parts, whole, atol=1e-5)
    assert float((parts - exact).square().mean()) <= 4 * float((whole - exact).square().mean())
    assert torch.equal(raft.doubled(layer)(x.double()), exact)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def test_levels_are_exact_again() -> None:
    levels = torch.arange(256, dtype=torch.float64)
    assert torch.equal(raft.exact((levels / 255).float()), levels / 255)
    halved = torch.nn.functional.avg_pool2d((levels.float() / 255).view(1, 1, 16, 16), 2)
    assert torch.equal(raft.exact(halved) * 1020, (raft.exact(halved) * 1020).round())
    between = torch.tensor([0.123456, 0.5])
    assert torch.equal(raft.exact(between), between.double())


def test_small_images_are_worked_on_in_float64(basic: Raft, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that their flow is the network's, whatever a machine's kernels round; near the float32 one."""
    a, b = texture(128, 136), texture(128, 136, 1)
    flow = basic.flow(a, b, 3)
    assert flow.dtype == torch.float32
    assert basic.encode(a).features.dtype == torch.float64
    by_match = basic.match(basic.encode(a), basic.encode(b), 3)[0]
    assert torch.allclose(flow, by_match, atol=1e-5)
    monkeypatch.setattr(raft, "EXACT_AREA", 0)
    assert basic.encode(a).features.dtype == torch.float32
    assert torch.allclose(basic.flow(a, b, 3), flow, atol=1e-3)


def test_norm_holds_where_most_of_a_frame_is_one_colour() -> None:
    """Black bars: summed up in one float32, the variance would be off by percents."""
    x = torch.randn(1, 8, 360, 640, generator=torch.Generator().manual_seed(4)) + 3
    x[:, :, 60:] = x[:, :, 60:61, :1]
    found = raft.instance_norm(x.contiguous(memory_format=torch.channels_last))
    exact = x.double()
    exact = (exact - exact.mean((2, 3), keepdim=True)) / (exact.var((2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    assert float((found - exact).abs().max()) < 1e-3


def test_the_limit_decides_the_kind(basic: Raft) -> None:
    features = torch.zeros(1, 256, 16, 20)
    assert isinstance(basic.lookup_of(features, features, True), raft.VolumeLookup)
    tight = Raft(volume_limit=1000)
    assert isinstance(tight.lookup_of(features, features, True), raft.TiledLookup)


def test_any_size(basic: Raft) -> None:
    a, b = texture(128, 200)[..., :33, :149], texture(128, 200, 1)[..., :33, :149]
    flow = basic.flow(a, b, 2)
    assert flow.shape == (1, 2, 33, 149)
    assert bool(torch.isfinite(flow).all())


def test_two_threads_share_a_network(basic: Raft) -> None:
    pairs = [(texture(128, 128, i), texture(128, 128, i + 10)) for i in range(2)]
    alone = [basic.flow(a, b, 2) for a, b in pairs]

    def work(pair: tuple[Tensor, Tensor]) -> Tensor:
        with torch.no_grad():
            return basic.flow(*pair, 2)

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(work, pairs))
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_our_own_names_load_too(basic: Raft) -> None:
    other = Raft()
    other.load_state_dict(basic.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(basic.parameters(), other.parameters(), strict=True))


def test_errors_say_what_is_wanted(basic: Raft) -> None:
    with pytest.raises(InputError, match="one size"):
        basic.flow_pyramid(torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 128, 136))
    with pytest.raises(InputError, match="pad"):
        basic.flow_pyramid(torch.zeros(1, 3, 100, 128), torch.zeros(1, 3, 100, 128))
    with pytest.raises(InputError, match="at least 1"):
        basic.flow(torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 128, 128), iterations=0)
