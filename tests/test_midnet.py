"""midnet: its parts against slow twins and known answers, its doors, its cost, its weights on disk."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from midframe import colour
from midframe.engine import Engine
from midframe.errors import WeightsError
from midframe.models import drawing, load_model, midnet
from midframe.models.base import RenderRequest
from midframe.models.midnet import SIZES, Architecture, Features, Midnet, Motion
from midframe.ops import coordinates, warp
from midframe.types import Frame, Gap, PixelFormat, Slot


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    """A smooth random picture (1, 3, H, W), well above the sampling limit."""
    noise = torch.randn(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    return torch.sigmoid(1.5 * F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=False))


def constant(dx: float, dy: float, height: int, width: int) -> Tensor:
    return torch.tensor([dx, dy]).view(1, 2, 1, 1).expand(1, 2, height, width).contiguous()


def moved(image: Tensor, dx: float, dy: float) -> Tensor:
    """The picture after its content has gone by (dx, dy)."""
    return midnet.warp_spline(midnet.spline_coefficients(image), constant(-dx, -dy, *image.shape[-2:]))


@pytest.fixture(scope="module")
def small() -> Midnet:
    torch.manual_seed(0)
    return Midnet(SIZES["midnet-s"]).eval()


@pytest.fixture(scope="module")
def classical() -> Midnet:
    """Classical flow, and a judge that says nothing of its own yet."""
    torch.manual_seed(0)
    return Midnet(replace(SIZES["midnet-m"], matcher="dis")).eval()


# Parts


@pytest.mark.parametrize(("height", "width", "radius"), [(8, 8, 3), (13, 17, 1), (9, 24, 2)])
def test_local_correlation_equals_shifted_products_and_their_gradients(height: int, width: int, radius: int) -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(2, 5, height, width, generator=generator, requires_grad=True) for _ in "ab")
    wide = F.pad(b, (radius,) * 4)
    window = range(2 * radius + 1)
    twin = torch.stack([(a * wide[..., y : y + height, x : x + width]).sum(1) for y in window for x in window], 1)
    own = midnet.local_correlation(a, b, radius)
    torch.testing.assert_close(own, twin, atol=1e-5, rtol=1e-5)
    grad = torch.randn(twin.shape, generator=generator)
    for mine, other in zip(
        torch.autograd.grad(own, (a, b), grad), torch.autograd.grad(twin, (a, b), grad), strict=True
    ):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)


def test_best_place_follows_a_permutation_and_the_side_lobe_does_not_pull() -> None:
    rows, columns = 6, 7
    places = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(4))
    logits = torch.zeros(1, rows * columns, rows * columns)
    logits[0, torch.arange(rows * columns), places] = 40.0
    far = (places + 3 * columns) % (rows * columns)  # a second best, three rows away
    logits[0, torch.arange(rows * columns), far] += 39.0
    found = midnet._best_place(logits, rows, columns).flatten(2)[0]
    torch.testing.assert_close(found[0], (places % columns).float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(found[1], (places // columns).float(), atol=1e-3, rtol=0)


def test_convex_upsampling_keeps_a_constant_flow() -> None:
    logits = torch.randn(1, 36, 5, 6, generator=torch.Generator().manual_seed(5))
    doubled = midnet.upsample_convex(constant(1.5, -2.0, 5, 6), logits)
    torch.testing.assert_close(doubled, constant(3.0, -4.0, 10, 12))


GUESSES = ("carried", "alone_a", "alone_b", "smooth", "right", "left", "below", "above", "rest")


def still(ab: Tensor, ba: Tensor, ab_sure: Tensor | None = None, ba_sure: Tensor | None = None) -> Motion:
    """A motion whose smoothed flows are the flows themselves."""
    own = ab, ba, *(torch.zeros_like(ab) if sure is None else sure for sure in (ab_sure, ba_sure))
    return Motion(*own, *own)


@pytest.mark.parametrize("t", [0.25, 0.5, 0.8])
def test_carry_brings_a_translation_to_t(t: float) -> None:
    ab = constant(3.0, -1.0, 16, 20)
    guesses, seen = midnet.carry(still(ab, -ab), torch.tensor(t).view(1, 1, 1, 1), GUESSES)
    assert guesses.shape == (1, len(GUESSES), 4, 16, 20)
    inside = (..., slice(4, -4), slice(4, -4))
    truth = torch.cat([-t * ab, (1 - t) * ab], 1)
    for kind in range(len(GUESSES) - 1):  # whichever way it is found, a translation is a translation
        torch.testing.assert_close(guesses[:, kind][inside], truth[inside], atol=1e-4, rtol=0)
    assert guesses[:, -1].abs().max() == 0
    assert seen[inside][:, :2].min() > 0.7
    some, _ = midnet.carry(still(ab, -ab), torch.tensor(t).view(1, 1, 1, 1), ("rest", "left"))
    assert torch.equal(some, guesses[:, [8, 5]])


def test_carry_lets_the_front_cover_and_tells_what_is_seen_in_one_only() -> None:
    # a square moves right by 8 over a ground at rest; behind it the ground appears
    ab, ba = torch.zeros(1, 2, 24, 40), torch.zeros(1, 2, 24, 40)
    ab[:, 0, 8:16, 10:18] = 8.0
    ba[:, 0, 8:16, 18:26] = -8.0
    sure_a, sure_b = torch.zeros(1, 2, 24, 40), torch.zeros(1, 2, 24, 40)
    sure_a[:, 1, 8:16, 18:26] = -4.0  # hidden in b, so of little importance
    sure_b[:, 1, 8:16, 10:18] = -4.0
    t = torch.tensor(0.5).view(1, 1, 1, 1)
    guesses, _ = midnet.carry(still(ab, ba, sure_a, sure_b), t, GUESSES)
    found = {name: guesses[0, k, :, 12] for k, name in enumerate(GUESSES)}
    assert found["carried"][0, 16].item() == pytest.approx(-4, abs=0.3)  # the square, half way
    assert found["right"][0, 13].item() == found["left"][0, 21].item() == found["carried"][0, 17].item()
    assert found["alone_a"][0, 16].item() == pytest.approx(-4, abs=0.5)
    assert found["alone_a"][0, 30].item() == 0
    _, seen = midnet.carry(still(ab, ba), t, GUESSES)
    assert seen[0, 2, 12, 11].item() < -0.5  # where the square was: seen in b
    assert seen[0, 2, 12, 24].item() > 0.5  # where it will be: seen in a


def test_a_flow_in_doubt_takes_that_of_its_own_colour() -> None:
    # left red and moving, right blue and at rest; along the edge the red is hidden in b and its flow is nonsense
    image = torch.zeros(1, 3, 64, 96)
    image[:, 0, :, :48], image[:, 2, :, 48:] = 0.8, 0.8
    flow, back = torch.zeros(1, 2, 16, 24), torch.zeros(1, 2, 16, 24)
    flow[:, 0, :, :12], back[:, 0] = 2.0, -2.0
    back[:, 0, :, 14:] = 0.0
    flow[:, 1, :, 10:12] = 3.0
    made = midnet.smoothed(F.avg_pool2d(image, 4), flow, back)
    assert made[0, 0, 4:12, 10:12].mean().item() == pytest.approx(2.0, abs=0.1)
    assert made[0, 1, 4:12, 10:12].abs().max().item() < 0.5
    assert torch.equal(made[..., :7], flow[..., :7]) or (made[..., :7] - flow[..., :7]).abs().max() < 1e-2
    assert made[..., 16:].abs().max() < 1e-2


def test_small_things_that_leap_are_one_of_the_guesses_where_there_is_one_for_doubt() -> None:
    """The shipped sizes: of M's flows only the smoothed ones follow a bar that leaps by four times its width."""
    pictures = []
    bar = F.interpolate(texture(25, 8, seed=5), size=(50, 16), mode="bicubic", align_corners=False)
    for top, left in ((60, 100), (80, 172)):
        picture = F.interpolate(texture(64, 108, seed=4), size=(192, 320), mode="bicubic", align_corners=False)
        picture[..., top : top + 50, left : left + 16] = bar
        pictures.append(picture)
    inside = np.s_[0, :, 18:25, 26:28]  # of the bar in a, at 1/4
    true = torch.tensor([18.0, 5.0]).view(2, 1, 1)
    miss = {}
    for name in ("midnet-s", "midnet-m"):
        net = load_model(name)
        assert isinstance(net, Midnet)
        with torch.inference_mode():
            motion = net.match(*(net.encode(x) for x in pictures))
        miss[name] = [float((flow[inside] - true).norm(dim=0).median()) for flow in (motion.ab, motion.smooth_ab)]
        assert miss[name][0] > 3
    assert miss["midnet-m"][1] < 1
    assert miss["midnet-s"][1] == miss["midnet-s"][0]


def test_acceleration_is_exact_for_even_acceleration_and_silent_where_the_ends_disagree() -> None:
    def motion(ab: float, ba: float) -> Motion:
        return still(constant(ab, 0, 12, 12), constant(ba, 0, 12, 12))

    # x(s) = 4 s + s^2 at s = -1, 0, 1, 2: -3, 0, 5, 12
    here, before, after = motion(5, -5), motion(3, -3), motion(7, -7)
    at_a, at_b = midnet.acceleration(here, before, after)
    torch.testing.assert_close(at_a, constant(2.0, 0, 12, 12), atol=1e-4, rtol=0)
    torch.testing.assert_close(at_b, constant(2.0, 0, 12, 12), atol=1e-4, rtol=0)
    t = torch.tensor(0.5).view(1, 1, 1, 1)
    guesses, _ = midnet.carry(here, t, GUESSES, (at_a, at_b))
    for kind in range(len(GUESSES) - 1):
        assert guesses[0, kind, 0, 6, 6].item() == pytest.approx(-2.25, abs=1e-3)  # x(1/2) = 2.25
        assert guesses[0, kind, 2, 6, 6].item() == pytest.approx(2.75, abs=1e-3)
    jerked = midnet.acceleration(here, before, motion(1, -1))  # 2 at one end, -4 at the other
    assert jerked[0].abs().max() < 1e-6
    wild = midnet.acceleration(motion(2, -2), motion(-6, 6), motion(10, -10))
    assert wild[0].abs().max() <= 1.0 + 1e-5  # capped at half of the velocity


# Doors


def test_a_translation_is_rendered_at_any_t(classical: Midnet) -> None:
    image = texture(96, 128)
    a, b = classical.encode(image), classical.encode(moved(image, 6.0, 2.0))
    with torch.no_grad():
        motion = classical.match(a, b)
        made = classical.render(RenderRequest(a, b, motion, torch.tensor([0.25, 0.5, 0.75])))
    for t, picture in zip((0.25, 0.5, 0.75), made, strict=True):
        error = (picture - moved(image, 6.0 * t, 2.0 * t))[..., 16:-16, 16:-16]
        assert -10 * math.log10(error.square().mean().item()) > 30  # untrained; a plain mean of the two has 20
    flow = classical.flow(motion)
    assert flow is not None
    assert flow[..., 4:-4, 4:-4].mean((0, 2, 3)).tolist() == pytest.approx([1.5, 0.5], abs=0.05)  # at 1/4


@pytest.mark.parametrize("net", ["small", "classical"])
def test_a_batch_equals_its_members_and_nothing_of_the_caller_is_touched(
    net: str, request: pytest.FixtureRequest
) -> None:
    model: Midnet = request.getfixturevalue(net)
    images = torch.cat([texture(64, 64, seed) for seed in range(4)])
    before = images.clone()
    t = torch.tensor([0.3, 0.6])
    with torch.no_grad():
        a, b = model.encode(images[:2]), model.encode(images[2:])
        together = model.render(RenderRequest(a, b, model.match(a, b), t))
        for k in range(2):
            one, two = (Features(*(x[k : k + 1] for x in f)) for f in (a, b))
            alone = model.render(RenderRequest(one, two, model.match(one, two), t[k : k + 1]))
            torch.testing.assert_close(together[k : k + 1], alone, atol=2e-4, rtol=0)
    assert torch.equal(images, before)
    assert together.shape == (2, 3, 64, 64)
    assert together.dtype == torch.float32


def test_neighbours_change_the_picture_only_when_both_are_there(classical: Midnet) -> None:
    image = texture(64, 96)
    frames = [classical.encode(moved(image, x, 0.0)) for x in (-3.0, 0.0, 5.0, 12.0)]
    with torch.no_grad():
        before, here, after = (classical.match(frames[k], frames[k + 1]) for k in range(3))
        t = torch.tensor([0.5])
        linear = classical.render(RenderRequest(frames[1], frames[2], here, t))
        one_sided = classical.render(RenderRequest(frames[1], frames[2], here, t, before=before))
        bent = classical.render(RenderRequest(frames[1], frames[2], here, t, before, after))
    assert torch.equal(linear, one_sided)
    truth = moved(image, 2.25, 0.0)[..., 8:-8, 24:-24]
    errors = [(x[..., 8:-8, 24:-24] - truth).square().mean().item() for x in (linear, bent)]
    assert errors[1] < 0.8 * errors[0]


def test_global_match_of_a_large_picture_is_limited(small: Midnet, monkeypatch: pytest.MonkeyPatch) -> None:
    image = texture(128, 192)
    with torch.no_grad():
        features = small.encode(image)
        full = small.match_all(features, features)
        monkeypatch.setattr(midnet, "GLOBAL_TOKENS", 50)  # 8x12 places at 1/16: averaged to 4x6
        coarse = small.match_all(features, features)
    assert full.logits.shape == (1, 96, 96)
    assert coarse.logits.shape == (1, 24, 24)
    assert coarse.sixteenth[0].shape == full.sixteenth[0].shape
    assert coarse.sixteenth[0].abs().max() < 1.5  # of a picture with itself: at rest


def test_bf16_convolutions_leave_flow_and_picture_in_float32(small: Midnet) -> None:
    image = texture(64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        a, b = small.encode(image), small.encode(moved(image, 1.0, 0.0))
        motion = small.match(a, b)
        made = small.render(RenderRequest(a, b, motion, torch.tensor([0.5])))
    assert motion.ab.dtype == made.dtype == torch.float32
    assert made.isfinite().all()


# Cost


@pytest.mark.parametrize(
    ("name", "millions", "frame", "gap", "instant"),
    [("midnet-s", 0.85, 6.80, 59.8, 0.71), ("midnet-m", 1.10, 9.72, 61.6, 1.83), ("midnet-l", 2.71, 21.2, 113.4, 10.8)],
)
def test_gflop_per_stage_at_720p(name: str, millions: float, frame: float, gap: float, instant: float) -> None:
    """GFLOP (2 x multiply-adds) of encode, match (both ways) and render, at 1280x736, counted without computing."""

    def counted(work: object) -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            results.append(work())  # type: ignore[operator]
        return counter.get_total_flops() / 1e9

    results: list[object] = []
    with FakeTensorMode():
        net = Midnet(SIZES[name])
        image = torch.rand(1, 3, 736, 1280)
        assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
        assert counted(lambda: net.encode(image)) == pytest.approx(frame, rel=0.02)
        features = results[-1]
        assert counted(lambda: net.match(features, features)) == pytest.approx(gap, rel=0.02)
        motion = results[-1]
        cost = counted(lambda: net.render(RenderRequest(features, features, motion, torch.rand(1))))
        assert cost == pytest.approx(instant, rel=0.02)


# Weights


def test_weights_come_back_with_their_architecture(small: Midnet, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    midnet.save_midnet(path, small.state_dict(), small.architecture, {"step": "7"})
    again = midnet.load_midnet(path)
    assert again.architecture == small.architecture
    for name, value in small.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=1e-3, rtol=1e-3)  # 16 bits on disk
    assert midnet.load_midnet(tmp_path, "mine").architecture == small.architecture
    assert [p.name for p in tmp_path.iterdir()] == ["mine.safetensors"]


def test_bad_weights_are_told_apart(small: Midnet, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights at"):
        midnet.load_midnet(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("not tensors")
    with pytest.raises(WeightsError, match="cannot be read"):
        midnet.load_midnet(tmp_path / "text.safetensors")
    midnet.save_midnet(tmp_path / "other.safetensors", small.state_dict(), SIZES["midnet-m"], {})
    with pytest.raises(WeightsError, match="no weights of a midnet"):
        midnet.load_midnet(tmp_path / "other.safetensors")
    midnet.save_midnet(tmp_path / "small.safetensors", small.state_dict(), small.architecture, {})
    with pytest.raises(WeightsError, match="not of the size of midnet-m"):
        midnet.load_midnet(tmp_path / "small.safetensors", "midnet-m")


def test_architecture_survives_json() -> None:
    for architecture in SIZES.values():
        assert Architecture.from_json(architecture.to_json()) == architecture


def test_a_spline_is_sampled_as_scipy_samples_it() -> None:
    """scipy's own values, `map_coordinates(order=3, mode="mirror")` of float64, for pictures whose edge is repeated."""
    scipy = pytest.importorskip("scipy.ndimage")
    image = texture(32, 40)
    flow = 6.0 * torch.randn(1, 2, 32, 40, generator=torch.Generator().manual_seed(8))
    x, y = (coordinates(32, 40) + flow)[0].double().unbind()
    where = [y.clamp(0, 31) + 12, x.clamp(0, 39) + 12]
    wide = F.pad(image.double(), (12,) * 4, mode="replicate")[0]
    got = midnet.warp_spline(midnet.spline_coefficients(image), flow)[0]
    for plane, made in zip(wide, got.double(), strict=True):
        want = torch.from_numpy(scipy.map_coordinates(plane.numpy(), where, order=3, mode="mirror"))
        torch.testing.assert_close(made, want, atol=1e-4, rtol=0)


def test_a_spline_goes_through_its_samples_and_looks_where_warp_looks() -> None:
    image = texture(32, 40)
    spline = midnet.spline_coefficients(image)
    torch.testing.assert_close(midnet.warp_spline(spline, torch.zeros(1, 2, 32, 40)), image, atol=1e-4, rtol=0)
    whole = constant(2.0, 1.0, 32, 40)
    moved = midnet.warp_spline(spline, whole)
    torch.testing.assert_close(moved[..., :-1, :-2], image[..., 1:, 2:], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[..., :-1, -2:], image[..., 1:, -1:].expand(-1, -1, -1, 2), atol=1e-4, rtol=0)
    flow = 0.3 * torch.randn(1, 2, 32, 40, generator=torch.Generator().manual_seed(8))
    torch.testing.assert_close(midnet.warp_spline(spline, flow), warp(image, flow), atol=0.08, rtol=0)


# Compiled parts and their slow twins


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From when it is called on, nothing is compiled."""
    return lambda: monkeypatch.setattr(midnet, "_compiled", lambda *_: False)


def two_motions(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two pictures: a ground that moves, and a part of it that moves otherwise, so that something is hidden."""
    image, other = texture(height, width), texture(height, width, 9)
    a, b = image.clone(), moved(image, 2.3, -1.1).clamp(0, 1)
    a[..., 16:40, 12:44], b[..., 20:44, 21:53] = other[..., :24, :32], other[..., :24, :32]
    return a, b


@pytest.mark.parametrize("name", ["midnet-m", "midnet-s"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("calm", [midnet.CALM, 0.0], ids=["some judged", "all judged"])
def test_a_compiled_picture_is_that_of_the_slow_twin(
    name: str, threads: int, calm: float, slowly: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(midnet, "CALM", calm)
    monkeypatch.setattr(midnet, "CALMER", 0.7 * calm)
    torch.manual_seed(3)
    net = Midnet(replace(SIZES[name], matcher="dis")).eval()
    for parameter in net.judge.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    frames = two_motions(96, 160)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            t = torch.tensor([0.35, 0.8])
            a, b = (net.encode(x) for x in frames)
            motion = net.match(a, b)
            fast = net.render(RenderRequest(a, b, motion, t))
            again = net.render(RenderRequest(a, b, motion, t))
            slowly()
            slow_a, slow_b = (net.encode(x) for x in frames)
            slow_motion = net.match(slow_a, slow_b)
            slow = net.render(RenderRequest(slow_a, slow_b, slow_motion, t))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(fast, again)  # rows do not depend on what the memory held, nor on threads
    for one, two in zip(motion, slow_motion, strict=True):
        torch.testing.assert_close(one, two, atol=1e-3, rtol=0)
    torch.testing.assert_close(fast, slow, atol=4e-4, rtol=0)
    assert (fast - slow).abs().mean() < 2e-5


def test_what_is_stored_for_training_is_that_of_the_slow_twin(classical: Midnet, slowly: Callable[[], None]) -> None:
    t = torch.full((1, 1, 1, 1), 0.4)
    with torch.no_grad():
        a, b = (classical.encode(x) for x in two_motions(64, 96))
        motion = classical.match(a, b)
        fast = classical.stored_candidates(a, b, motion, t)
        there = midnet.present(
            midnet.carry(motion, t, classical.architecture.guesses)[0], classical.architecture.guesses
        )
        slowly()
        a, b = (classical.encode(x) for x in two_motions(64, 96))
        slow = classical.candidates(a, b, motion, t)
    assert 0 < there[:, 1:-1].float().mean() < 1  # some are present and some are not
    assert 0 < midnet.calm(slow.evidence[:, 0], slow.evidence[:, classical.judge.rest], there).float().mean() < 1
    torch.testing.assert_close(fast.evidence, slow.evidence, atol=2e-4, rtol=0)
    for side in ("a", "b"):
        for one, two in zip(getattr(fast, side), getattr(slow, side), strict=True):
            torch.testing.assert_close(one, two, atol=2e-4, rtol=0)
    for one, two in zip(
        midnet.clues(fast.evidence, fast.seen, t), midnet.clues(slow.evidence, slow.seen, t), strict=True
    ):
        torch.testing.assert_close(one, two, atol=0.02, rtol=0)  # the root of a difference of nothing is steep


def test_compiled_guesses_are_those_of_the_slow_twin(slowly: Callable[[], None]) -> None:
    generator = torch.Generator().manual_seed(5)

    def field(scale: float) -> Tensor:
        return scale * F.interpolate(torch.randn(1, 2, 4, 6, generator=generator), size=(16, 24), mode="bicubic")

    gaps = [Motion(*(field(6.0) for _ in range(2)), *(field(1.0) for _ in range(2)), *(field(3.0),) * 4) for _ in "bac"]
    gaps[1].ab[0, :, 0, 0] = torch.tensor([1e6, -1e6])  # lands outside
    names = ("carried", "alone_a", "alone_b", "smooth", "below", "right", "left", "above", "rest")
    with torch.no_grad():
        before, here, after = gaps
        fast_bend = midnet.acceleration(here, before, after)
        fast_missed = midnet.missed(here.ab, here.ba)
        slowly()
        bend = midnet.acceleration(here, before, after)
        torch.testing.assert_close(fast_missed, midnet.missed(here.ab, here.ba), atol=1e-4, rtol=1e-4)
    for one, two in zip(fast_bend, bend, strict=True):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    for curve in (None, bend):
        made = drawing.guessed(here, 0.3, names, curve, midnet.AROUND, 0.25 * midnet.APART)
        want, seen = midnet.carry(here, torch.full((1, 1, 1, 1), 0.3), names, curve)
        there = midnet.present(want, names)
        assert there[:, 1:-1].float().mean() > 0
        want = torch.where(midnet.spread_tiles(there)[:, :, None], want, want[:, :1])
        torch.testing.assert_close(
            torch.from_numpy(made.evidence[:, :4])[None, ..., 1:, 1:], want[..., 1:, 1:], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(torch.from_numpy(made.seen)[None], seen, atol=1e-4, rtol=1e-4)
        assert torch.equal(torch.from_numpy(made.present)[None], there)


def test_flows_that_are_no_numbers_read_no_foreign_memory(classical: Midnet) -> None:
    with torch.no_grad():
        a, b = (classical.encode(x) for x in two_motions(64, 96))
        motion = classical.match(a, b)
        for broken in (math.nan, math.inf, -math.inf, 1e30):
            for flow in motion[:2] + motion[4:6]:
                flow[..., 3:9, 4:11] = broken
            assert classical.render(RenderRequest(a, b, motion, torch.tensor([0.5]))).shape == (1, 3, 64, 96)


def test_a_guess_is_drawn_only_where_it_differs() -> None:
    guesses = torch.zeros(1, 3, 4, 16, 24)
    guesses[0, 1, 2, 5, 9] = 0.2  # 0.8 px of the picture
    guesses[0, 1, 0, 12, 20] = 0.1
    there = midnet.present(guesses, ("carried", "smooth", "rest"))
    assert there.shape == (1, 3, 4, 6)
    assert there[0, 0].all()
    assert there[0, 2].all()
    assert there[0, 1].nonzero().tolist() == [[1, 2]]


def test_the_first_guess_alone_will_do_where_it_fits_and_rest_does_not_matter() -> None:
    lonely = torch.tensor([True, False, True]).view(1, 3, 1, 1)
    others = torch.ones_like(lonely)

    def some(**changes: float) -> list[bool]:
        """Two tiles side by side, the second with the changes in one of its blocks."""
        first, rest = torch.zeros(2, 1, 11, 4, 8)
        first[:, :4] = 1.0  # moves by 4 px
        rest[:, 4:10] = 0.1  # other colours
        rest[:, 10] = 0.05  # and fits worse
        for name, value in changes.items():
            which, entry = name.split("_")
            {"first": first, "rest": rest}[which][0, int(entry), 1, 6] = value
        return midnet.calm(first, rest, lonely)[0, 0, 0].tolist()  # type: ignore[no-any-return]

    assert some() == [True, True]
    assert some(first_10=3.5 / 255) == [True, False]  # the first one does not fit
    first, rest = torch.zeros(2, 1, 11, 4, 4)
    rest[:, 4:10] = 0.1
    assert midnet.calm(first, rest, lonely).all()  # nothing moves
    first[:, :4] = 1.0
    assert not midnet.calm(first, rest, lonely).any()  # "rest" fits as well, and shows something else
    assert midnet.calm(first, torch.zeros_like(first), lonely).all()  # it moves, but "rest" shows the same
    first[:, 10] = 1.6 / 255
    assert not midnet.calm(first, torch.zeros_like(first), lonely).any()  # on the whole it does not fit
    first[:, 10] = 1.2 / 255
    assert midnet.calm(first, torch.zeros_like(first), lonely).all()
    assert not midnet.calm(first, torch.zeros_like(first), others).any()  # where another guess is, it must fit better


def test_other_guesses_are_not_drawn_where_the_first_will_do(classical: Midnet, slowly: Callable[[], None]) -> None:
    """A picture that moves as a whole: whatever the guesses say is left out where the first one fits."""
    image = 0.7 * texture(64, 96)
    t = torch.full((1, 1, 1, 1), 0.4)
    with torch.no_grad():
        a, b = (classical.encode(x) for x in (image, moved(image, 4.0, -2.0)))
        motion = classical.match(a, b)
        motion.smooth_ab.add_(0.5)
        found = classical.stored_candidates(a, b, motion, t)
        slowly()
        slow = classical.candidates(*(classical.encode(x) for x in (image, moved(image, 4.0, -2.0))), motion, t)
    smooth = classical.architecture.guesses.index("smooth")
    torch.testing.assert_close(found.evidence, slow.evidence, atol=2e-4, rtol=0)
    assert torch.equal(found.a[smooth][..., 16:48, 16:80], found.a[0][..., 16:48, 16:80])


@pytest.mark.parametrize("name", ["midnet-s", "midnet-m"])
@pytest.mark.parametrize("gain", [0.75, 1 / 0.75])
def test_shipped_weights_follow_a_fade(name: str, gain: float) -> None:
    """Light that changes between a and b has changed by its share at t, whatever moves."""
    model = load_model(name)
    image = 0.7 * texture(128, 192)
    a, b = image, (gain * moved(image, 4.0, -1.0)).clamp(0, 1)
    with torch.no_grad():
        features = model.encode(a), model.encode(b)
        motion = model.match(*features)
        for t in (0.25, 0.5, 0.75):
            made = model.render(RenderRequest(*features, motion, torch.tensor([t])))
            truth = (1.0 + (gain - 1.0) * t) * moved(image, 4.0 * t, -t)
            off = 255 * (made - truth)[..., 16:-16, 16:-16]
            assert off.square().mean().sqrt() < 255 / 10 ** (38 / 20), t  # 38 dB


def disc(t: float) -> tuple[Tensor, npt.NDArray[np.bool_]]:
    """A disc of 44 pixels that turns and flies 59 over a resting ground, and where it covers that whole."""
    rng = np.random.default_rng(1)

    def texture(height: int, width: int, low: float, high: float) -> npt.NDArray[np.float32]:
        out = np.zeros((height, width, 3), np.float32)
        for cells, strength in ((5, 1.0), (20, 0.7), (60, 0.5)):
            grid = rng.standard_normal((cells, cells * width // height, 3)).astype(np.float32)
            out += strength * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        return np.asarray(low + (high - low) * (out - out.min()) / np.ptp(out), np.float32)

    ground, thing = texture(240, 368, 30, 140), cv2.GaussianBlur(texture(64, 64, 150, 255), (0, 0), 2)
    y, x = np.mgrid[:64, :64] - 31.5
    cover = np.clip(22.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    place = cv2.getRotationMatrix2D((31.5, 31.5), 25 * t, 1)
    place[:, 2] += 90 + 20 * t, 40 + 56 * t
    thing = cv2.warpAffine(thing, place, (368, 240), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    cover = cv2.warpAffine(cover, place, (368, 240))
    picture = ground + (thing - ground) * cover[..., None]
    return torch.from_numpy(picture.clip(0, 255)).permute(2, 0, 1) / 255, cover > 0.99


@pytest.mark.parametrize("name", ["midnet-m", "midnet-s"])
def test_a_thing_that_flies_farther_than_its_own_width_is_drawn_whole(name: str) -> None:
    """In between it lies over ground that both pictures show; weighed like that it comes out in shreds (16 dB)."""
    (a, _), (truth, where), (b, _) = (disc(t) for t in (0.0, 0.5, 1.0))
    made = Engine(load_model(name), static="off").between(a, b, [0.5])[0]
    error = (made - truth)[:, torch.from_numpy(where)]
    assert -10 * torch.log10(error.square().mean()) > 30


def test_what_uncovers_something_is_in_front() -> None:
    """A square passes over a resting ground: what it uncovers of that in the other picture does not lead back."""
    ab, ba = torch.zeros(1, 2, 48, 80), torch.zeros(1, 2, 48, 80)
    ab[:, 0, 16:32, 10:26], ba[:, 0, 16:32, 40:56] = 30.0, -30.0
    around = torch.zeros_like(ab), torch.zeros_like(ba)
    of_a, of_b = (x[0, 1] for x in midnet.doubts(ab, ba, None, around))
    for importance, left in ((of_a, 10), (of_b, 40)):
        assert (importance[18:30, left + 2 : left + 14] > 5).all()
        assert importance[4:12].abs().max() == 0 and importance[:, 64:].abs().max() == 0
    assert midnet.doubts(ab, ba, None)[0][:, 1].max() == 0  # it was the surroundings that told
    missed = midnet.missed(ba, ab)
    assert midnet.in_front(ab, around[0], missed)[0, 0, 18:30, 12:24].min() == 1
    assert midnet.in_front(ab, around[0], 0.0 * missed).max() == 0  # what uncovers nothing may as well be behind


def test_surroundings_are_those_of_the_ground_under_a_small_thing() -> None:
    ab, ba = torch.full((1, 2, 48, 80), 3.0), torch.full((1, 2, 48, 80), -3.0)
    ab[:, 0, 20:28, 30:38], ba[:, 0, 20:28, 50:58] = 20.0, -20.0
    assert (midnet.surroundings(ab, midnet.missed(ab, ba))[:, :, 20:28, 30:38] - 3.0).abs().max() < 1.0


def test_a_long_vector_may_miss_by_more_than_a_short_one() -> None:
    long, short = torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 16, 16)
    long[:, 0], short[:, 0] = 40.0, 2.0  # 160 and 8 full-size pixels, and ways back that miss by 4
    back = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    of_long, of_short = (midnet.doubts(x, back - x, None)[0][0, 1, 8, 1] for x in (long, short))
    assert of_long == -0.5 * midnet.DOUBT and of_short == -4.0 * midnet.DOUBT


def test_a_judge_sees_nothing_of_directions(classical: Midnet, slowly: Callable[[], None]) -> None:
    slowly()
    image = texture(64, 96)
    t = torch.full((1, 1, 1, 1), 0.5)
    judge = midnet.Judge(classical.architecture.guesses, *classical.architecture.judge).eval()
    with torch.no_grad():
        judge.verdict.weight.normal_()
        a, b = classical.encode(image), classical.encode(moved(image, 3.0, 1.0))
        found = classical.candidates(a, b, classical.match(a, b), t)
        shares = judge(found.evidence, found.seen, t)
        torch.testing.assert_close(shares.sum(1), torch.ones(1, 16, 24))
        for dims in ((-1,), (-2,)):
            for one, two in zip(
                midnet.clues(found.evidence, found.seen, t),
                midnet.clues(found.evidence.flip(dims), found.seen.flip(dims), t),
                strict=True,
            ):
                torch.testing.assert_close(one, two.flip(dims), atol=1e-5, rtol=1e-5)
    assert (shares.amax((2, 3)) - shares.amin((2, 3))).max() > 0.05  # it looks


def test_flow_places() -> None:
    assert coordinates(2, 3)[0, :, 1, 2].tolist() == [2, 1]


def film_frames(form: PixelFormat, height: int, width: int) -> list[Frame]:
    pictures = (F.interpolate(x, size=(height, width), mode="bilinear")[0] for x in two_motions(96, 128))
    return [Frame(colour.from_rgb(x, form), form, Fraction(n), Fraction(1), n) for n, x in enumerate(pictures)]


@pytest.mark.parametrize(
    "form",
    [
        PixelFormat("yuv444p10le", "yuv", 10, matrix="smpte170m"),
        PixelFormat("yuv420p", "yuv", 8, 1, 1, matrix="smpte170m"),
        PixelFormat("yuv422p12le", "yuv", 12, 1, 0, matrix="smpte170m", full_range=True),
        PixelFormat("gray", "gray", 8, full_range=True),
    ],
    ids=lambda form: form.name,
)
def test_planes_of_a_film_come_out_as_by_way_of_rgb(
    classical: Midnet, form: PixelFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sides are multiples of nothing. Chroma is drawn at its own size, so where that is smaller it differs a little."""
    frames = film_frames(form, 91, 121)
    gap = Gap(frames[0], frames[1], (Slot(Fraction(1, 3), Fraction(1, 3)), Slot(Fraction(2, 3), Fraction(2, 3))))
    assert classical.supports_planes(form, 91, 121)
    direct = list(Engine(classical).run([gap]))
    monkeypatch.setattr(Midnet, "supports_planes", lambda *_: False)
    by_rgb = list(Engine(classical).run([gap]))
    level = 1 << form.depth - 8
    for one, two in zip(direct, by_rgb, strict=True):
        assert one.kind == two.kind == "interpolated"
        assert one.confidence == pytest.approx(two.confidence, abs=0.02)
        for number, (p, q) in enumerate(zip(one.planes, two.planes, strict=True)):
            assert p.dtype == q.dtype == form.dtype
            assert p.shape == q.shape
            smaller = number > 0 and form.chroma_w > 0
            assert (p.int() - q.int()).abs().float().mean() < (2.0 if smaller else 0.02) * level


def test_which_pictures_are_taken_as_they_are(small: Midnet, classical: Midnet) -> None:
    film = PixelFormat("yuv420p", "yuv", 8, 1, 1)
    assert classical.supports_planes(film, 720, 1280)
    assert not classical.supports_planes(PixelFormat("yuva420p", "yuv", 8, 1, 1, alpha=True), 720, 1280)
    assert not classical.supports_planes(PixelFormat("gbrp", "rgb", 8), 720, 1280)
    assert not classical.supports_planes(PixelFormat("yuv410p", "yuv", 8, 2, 2), 720, 1280)
    assert not small.supports_planes(film, 720, 1280)  # its features are learned of RGB
