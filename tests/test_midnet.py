"""midnet: its parts against slow twins and known answers, its methods, its cost, its weights on disk."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from midframe import colour, kernels
from midframe.engine import Engine
from midframe.errors import WeightsError
from midframe.models import load_model
from midframe.models.base import RenderRequest
from midframe.models.midnet import SIZES, Architecture, Midnet, hypotheses, load_midnet, occlusion, save_midnet
from midframe.models.midnet.architecture import HYPOTHESES
from midframe.models.midnet.backend import Backend
from midframe.models.midnet.features import fusion_inputs
from midframe.models.midnet.fusion import FusionNetwork
from midframe.models.midnet.hypotheses import active_tiles, expand_tiles, propose, trivial_tiles
from midframe.models.midnet.model import backend_for
from midframe.models.midnet.torch_backend import TorchBackend
from midframe.models.midnet.types import (
    FLOWS,
    FeatureChannel,
    FlowField,
    FlowFields,
    MotionField,
    WarpedFrames,
    WarpRequest,
)
from midframe.ops import coordinates, spline_coefficients, warp, warp_spline
from midframe.types import Frame, Gap, PixelFormat, Slot


def texture(height: int, width: int, seed: int = 0) -> Tensor:
    """A smooth random frame (1, 3, H, W), well above the sampling limit."""
    noise = torch.randn(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    return torch.sigmoid(1.5 * F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=False))


def constant(dx: float, dy: float, height: int, width: int) -> Tensor:
    return torch.tensor([dx, dy]).view(1, 2, 1, 1).expand(1, 2, height, width).contiguous()


def moved(image: Tensor, dx: float, dy: float) -> Tensor:
    """The frame after its content has gone by (dx, dy)."""
    return warp_spline(spline_coefficients(image), constant(-dx, -dy, *image.shape[-2:]))


def native() -> Backend:
    if kernels.missing():
        pytest.skip(kernels.missing())
    return backend_for(torch.device("cpu"))


@pytest.fixture(params=["torch", "native"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return TorchBackend() if request.param == "torch" else native()


@pytest.fixture(scope="module")
def net() -> Midnet:
    """Untrained, on tensor operations."""
    torch.manual_seed(0)
    return Midnet().eval()


# Parts


def fields(ab: Tensor, ba: Tensor, importance: tuple[Tensor, Tensor] | None = None) -> FlowFields:
    """Flows that are visible everywhere."""
    none = torch.zeros_like(ab[:, :1])
    of_a, of_b = importance or (none, none)
    return FlowFields(FlowField(ab, none, of_a), FlowField(ba, none, of_b))


def field(ab: Tensor, ba: Tensor, importance: tuple[Tensor, Tensor] | None = None) -> MotionField:
    """A motion whose filtered and matched flows are the flows themselves."""
    own = fields(ab, ba, importance)
    return MotionField(own, own, own)


def at(t: float) -> Tensor:
    return torch.tensor(t).view(1, 1, 1, 1)


@pytest.mark.parametrize("t", [0.25, 0.5, 0.8])
def test_every_hypothesis_brings_a_translation_to_t(t: float) -> None:
    ab = constant(3.0, -1.0, 16, 20)
    proposed = propose(field(ab, -ab), at(t), HYPOTHESES, None)
    assert proposed.flows.shape == (1, len(HYPOTHESES), 4, 16, 20)
    inside = (..., slice(4, -4), slice(4, -4))
    truth = torch.cat([-t * ab, (1 - t) * ab], 1)
    for k, name in enumerate(HYPOTHESES):
        expected = torch.zeros_like(truth) if name == "zero" else truth
        torch.testing.assert_close(proposed.flows[:, k][inside], expected[inside], atol=1e-4, rtol=0)
    assert proposed.coverage[inside][:, :2].min() > 0.7
    some = propose(field(ab, -ab), at(t), ("zero", "shifted_left"), None).flows
    assert torch.equal(some, proposed.flows[:, [HYPOTHESES.index("zero"), HYPOTHESES.index("shifted_left")]])


def test_splatted_foreground_covers_and_coverage_shows_what_is_visible_in_one_frame_only() -> None:
    # a square moves right by 8 over static ground; behind it the ground appears
    ab, ba = torch.zeros(1, 2, 24, 40), torch.zeros(1, 2, 24, 40)
    ab[:, 0, 8:16, 10:18] = 8.0
    ba[:, 0, 8:16, 18:26] = -8.0
    of_a, of_b = torch.zeros(1, 1, 24, 40), torch.zeros(1, 1, 24, 40)
    of_a[:, 0, 8:16, 18:26] = -4.0  # occluded in b, so of little importance
    of_b[:, 0, 8:16, 10:18] = -4.0
    flows = propose(field(ab, ba, (of_a, of_b)), at(0.5), HYPOTHESES, None).flows
    found = {name: flows[0, k, :, 12] for k, name in enumerate(HYPOTHESES)}
    assert found["splatted"][0, 16].item() == pytest.approx(-4, abs=0.3)  # the square, half way
    shifted = found["shifted_right"][0, 13].item(), found["shifted_left"][0, 21].item()
    assert shifted[0] == shifted[1] == found["splatted"][0, 17].item()
    assert found["one_sided_a"][0, 16].item() == pytest.approx(-4, abs=0.5)
    assert found["one_sided_a"][0, 30].item() == 0
    coverage = propose(field(ab, ba), at(0.5), HYPOTHESES, None).coverage
    assert coverage[0, 2, 12, 11].item() < -0.5  # where the square was: visible in b
    assert coverage[0, 2, 12, 24].item() > 0.5  # where it will be: visible in a


def test_an_unreliable_flow_becomes_that_of_its_own_surface(backend: Backend) -> None:
    # left red and moving, right blue and static; along the edge the red is occluded in b and its flow is wrong
    image = torch.zeros(1, 3, 64, 96)
    image[:, 0, :, :48], image[:, 2, :, 48:] = 0.8, 0.8
    flow, backward = torch.zeros(1, 2, 16, 24), torch.zeros(1, 2, 16, 24)
    flow[:, 0, :, :12], backward[:, 0] = 2.0, -2.0
    backward[:, 0, :, 14:] = 0.0
    flow[:, 1, :, 10:12] = 3.0
    confidence = torch.exp(-backend.inconsistency(flow, backward)) + 1e-3
    filtered = backend.filter_flow(flow, F.avg_pool2d(image, 4), confidence)
    assert filtered[0, 0, 4:12, 10:12].mean().item() == pytest.approx(2.0, abs=0.1)
    assert filtered[0, 1, 4:12, 10:12].abs().max().item() < 0.5
    assert (filtered[..., :7] - flow[..., :7]).abs().max() < 1e-2
    assert filtered[..., 16:].abs().max() < 1e-2


def test_filtered_flows_follow_small_fast_objects() -> None:
    """A bar moves by four times its width; only M has the filtered hypothesis."""
    images = []
    bar = F.interpolate(texture(25, 8, seed=5), size=(50, 16), mode="bicubic", align_corners=False)
    for top, left in ((60, 100), (80, 172)):
        image = F.interpolate(texture(64, 108, seed=4), size=(192, 320), mode="bicubic", align_corners=False)
        image[..., top : top + 50, left : left + 16] = bar
        images.append(image)
    inside = np.s_[0, :, 18:25, 26:28]  # of the bar in a, at 1/4
    true = torch.tensor([18.0, 5.0]).view(2, 1, 1)
    miss = {}
    for name in ("midnet-s", "midnet-m"):
        net = load_model(name)
        with torch.inference_mode():
            motion = net.match(*(net.encode(x) for x in images))
        flows = motion.primary.ab.flow, net.flow(motion)
        miss[name] = [float((flow[inside] - true).norm(dim=0).median()) for flow in flows if flow is not None]
        assert miss[name][0] > 3
    assert miss["midnet-m"][1] < 1
    assert miss["midnet-s"][1] == miss["midnet-s"][0]


def test_acceleration_is_exact_if_constant_and_zero_where_the_ends_disagree(net: Midnet, backend: Backend) -> None:
    net = net.with_backend(backend)

    def motion(ab: float, ba: float) -> MotionField:
        return field(constant(ab, 0, 12, 12), constant(ba, 0, 12, 12))

    # x(s) = 4 s + s^2 at s = -1, 0, 1, 2: -3, 0, 5, 12
    here, before, after = motion(5, -5), motion(3, -3), motion(7, -7)
    acceleration = net.acceleration(here, before, after)
    torch.testing.assert_close(acceleration.a, constant(2.0, 0, 12, 12), atol=1e-4, rtol=0)
    torch.testing.assert_close(acceleration.b, constant(2.0, 0, 12, 12), atol=1e-4, rtol=0)
    flows = propose(here, at(0.5), HYPOTHESES, acceleration).flows
    for k in range(len(HYPOTHESES) - 1):
        assert flows[0, k, 0, 6, 6].item() == pytest.approx(-2.25, abs=1e-3)  # x(1/2) = 2.25
        assert flows[0, k, 2, 6, 6].item() == pytest.approx(2.75, abs=1e-3)
    jerked = net.acceleration(here, before, motion(1, -1))  # 2 at one end, -4 at the other
    assert jerked.a.abs().max() < 1e-6
    wild = net.acceleration(motion(2, -2), motion(-6, 6), motion(10, -10))
    assert wild.a.abs().max() <= 1.0 + 1e-5  # capped at half of the velocity


# The methods of a model


def test_a_translation_is_rendered_at_any_t(net: Midnet) -> None:
    image = texture(96, 128)
    a, b = net.encode(image), net.encode(moved(image, 6.0, 2.0))
    with torch.no_grad():
        motion = net.match(a, b)
        made = net.render(RenderRequest(a, b, motion, torch.tensor([0.25, 0.5, 0.75])))
    for t, frame in zip((0.25, 0.5, 0.75), made, strict=True):
        error = (frame - moved(image, 6.0 * t, 2.0 * t))[..., 16:-16, 16:-16]
        assert -10 * math.log10(error.square().mean().item()) > 30  # untrained; a plain mean of the two has 20
    flow = net.flow(motion)
    assert flow[..., 4:-4, 4:-4].mean((0, 2, 3)).tolist() == pytest.approx([1.5, 0.5], abs=0.05)  # at 1/4


def test_a_batch_equals_its_members_and_inputs_stay_as_they_were(net: Midnet, backend: Backend) -> None:
    model = net.with_backend(backend)
    images = torch.cat([texture(64, 64, seed) for seed in range(4)])
    before = images.clone()
    t = torch.tensor([0.3, 0.6])
    with torch.no_grad():
        a, b = model.encode(images[:2]), model.encode(images[2:])
        together = model.render(RenderRequest(a, b, model.match(a, b), t))
        for k in range(2):
            one, two = (features.select(slice(k, k + 1)) for features in (a, b))
            alone = model.render(RenderRequest(one, two, model.match(one, two), t[k : k + 1]))
            torch.testing.assert_close(together[k : k + 1], alone, atol=2e-4, rtol=0)
    assert torch.equal(images, before)
    assert together.shape == (2, 3, 64, 64)
    assert together.dtype == torch.float32


def test_neighbours_change_the_frame_only_when_both_are_there(net: Midnet) -> None:
    image = texture(64, 96)
    frames = [net.encode(moved(image, x, 0.0)) for x in (-3.0, 0.0, 5.0, 12.0)]
    with torch.no_grad():
        before, here, after = (net.match(frames[k], frames[k + 1]) for k in range(3))
        t = torch.tensor([0.5])
        linear = net.render(RenderRequest(frames[1], frames[2], here, t))
        one_sided = net.render(RenderRequest(frames[1], frames[2], here, t, before=before))
        bent = net.render(RenderRequest(frames[1], frames[2], here, t, before, after))
    assert torch.equal(linear, one_sided)
    truth = moved(image, 2.25, 0.0)[..., 8:-8, 24:-24]
    errors = [(x[..., 8:-8, 24:-24] - truth).square().mean().item() for x in (linear, bent)]
    assert errors[1] < 0.8 * errors[0]


def test_bf16_convolutions_leave_flow_and_frame_in_float32(net: Midnet) -> None:
    image = texture(64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        a, b = net.encode(image), net.encode(moved(image, 1.0, 0.0))
        motion = net.match(a, b)
        made = net.render(RenderRequest(a, b, motion, torch.tensor([0.5])))
    assert motion.primary.ab.flow.dtype == made.dtype == torch.float32
    assert made.isfinite().all()


# Weights


def test_weights_come_back_with_their_architecture(net: Midnet, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    save_midnet(path, net.state_dict(), net.architecture, {"step": "7"})
    again = load_midnet(path)
    assert again.architecture == net.architecture
    for name, value in net.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=1e-3, rtol=1e-3)  # 16 bits on disk
    assert load_midnet(tmp_path, "mine").architecture == net.architecture
    assert [p.name for p in tmp_path.iterdir()] == ["mine.safetensors"]


OLD_NAMES = {
    "fusion.hypothesis_bias": "judge.kind",
    "fusion.input_layer": "judge.look",
    "fusion.hidden_layer": "judge.first",
    "fusion.context_encoder": "judge.gather",
    "fusion.encoder8": "judge.down8",
    "fusion.encoder16": "judge.down16",
    "fusion.decoder8": "judge.up8",
    "fusion.context_decoder": "judge.spread",
    "fusion.output_layer": "judge.second",
    "fusion.head": "judge.verdict",
}


def old_file(path: Path, net: Midnet, **changes: object) -> None:
    """The weights as version 0.9 wrote them."""
    state = {}
    for name, value in net.state_dict().items():
        new, old = next(pair for pair in OLD_NAMES.items() if name.startswith(pair[0]))
        state[old + name.removeprefix(new)] = value.half().contiguous()
    guesses = ["carried", "alone_a", "alone_b", "smooth", "below", "right", "rest"]
    architecture = {"channels": [16, 32, 64, 96], "judge": [16, 24, 32], "guesses": guesses, "hidden": 48}
    architecture |= {"updates": [2, 2], "matcher": "dis", **changes}
    save_file(state, path, {"architecture": json.dumps(architecture)})


def test_weights_of_the_version_before_are_read(net: Midnet, tmp_path: Path) -> None:
    old_file(tmp_path / "midnet-m.safetensors", net)
    again = load_midnet(tmp_path, "midnet-m")
    assert again.architecture == SIZES["midnet-m"]
    for name, value in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.half().float()), name
    old_file(tmp_path / "learned.safetensors", net, matcher="learned")
    with pytest.raises(WeightsError, match="flow is learned"):
        load_midnet(tmp_path / "learned.safetensors")


def test_bad_weights_are_distinguished(tmp_path: Path) -> None:
    small = Midnet(SIZES["midnet-s"])
    with pytest.raises(WeightsError, match="no weights at"):
        load_midnet(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("not tensors")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_midnet(tmp_path / "text.safetensors")
    save_midnet(tmp_path / "other.safetensors", small.state_dict(), SIZES["midnet-m"], {})
    with pytest.raises(WeightsError, match="no weights of a midnet"):
        load_midnet(tmp_path / "other.safetensors")
    save_midnet(tmp_path / "small.safetensors", small.state_dict(), small.architecture, {})
    with pytest.raises(WeightsError, match="not of the size of midnet-m"):
        load_midnet(tmp_path / "small.safetensors", "midnet-m")
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors", {"architecture": "[1]"})
    with pytest.raises(WeightsError, match="no weights of a midnet"):
        load_midnet(tmp_path / "foreign.safetensors")


def test_architecture_survives_json() -> None:
    for architecture in SIZES.values():
        assert Architecture.from_json(architecture.to_json()) == architecture
    with pytest.raises(ValueError, match="the first is splatted"):
        Architecture(hypotheses=("zero", "splatted"))


def test_a_spline_is_sampled_as_scipy_samples_it() -> None:
    """scipy's own values, `map_coordinates(order=3, mode="mirror")` of float64, for frames whose edge is repeated."""
    scipy = pytest.importorskip("scipy.ndimage")
    image = texture(32, 40)
    flow = 6.0 * torch.randn(1, 2, 32, 40, generator=torch.Generator().manual_seed(8))
    x, y = (coordinates(32, 40) + flow)[0].double().unbind()
    where = [y.clamp(0, 31) + 12, x.clamp(0, 39) + 12]
    wide = F.pad(image.double(), (12,) * 4, mode="replicate")[0]
    got = warp_spline(spline_coefficients(image), flow)[0]
    for plane, made in zip(wide, got.double(), strict=True):
        want = torch.from_numpy(scipy.map_coordinates(plane.numpy(), where, order=3, mode="mirror"))
        torch.testing.assert_close(made, want, atol=1e-4, rtol=0)


def test_a_spline_goes_through_its_samples_and_looks_where_warp_looks() -> None:
    image = texture(32, 40)
    spline = spline_coefficients(image)
    torch.testing.assert_close(warp_spline(spline, torch.zeros(1, 2, 32, 40)), image, atol=1e-4, rtol=0)
    whole = constant(2.0, 1.0, 32, 40)
    moved = warp_spline(spline, whole)
    torch.testing.assert_close(moved[..., :-1, :-2], image[..., 1:, 2:], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[..., :-1, -2:], image[..., 1:, -1:].expand(-1, -1, -1, 2), atol=1e-4, rtol=0)
    flow = 0.3 * torch.randn(1, 2, 32, 40, generator=torch.Generator().manual_seed(8))
    torch.testing.assert_close(warp_spline(spline, flow), warp(image, flow), atol=0.08, rtol=0)


# The native back end and its oracle


def pair_of_backends(net: Midnet) -> tuple[Midnet, Midnet]:
    return net.with_backend(native()), net.with_backend(TorchBackend())


def two_motions(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two frames: moving ground, and a part of it that moves otherwise, so that something is occluded."""
    image, other = texture(height, width), texture(height, width, 9)
    a, b = image.clone(), moved(image, 2.3, -1.1).clamp(0, 1)
    a[..., 16:40, 12:44], b[..., 20:44, 21:53] = other[..., :24, :32], other[..., :24, :32]
    return a, b


@pytest.mark.parametrize("name", ["midnet-l", "midnet-m", "midnet-s"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("residual", [hypotheses.TRIVIAL_RESIDUAL, 0.0], ids=["some trivial", "none trivial"])
def test_a_native_frame_is_that_of_torch(
    name: str, threads: int, residual: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypotheses, "TRIVIAL_RESIDUAL", residual)
    monkeypatch.setattr(hypotheses, "STRICT_RESIDUAL", 0.7 * residual)
    torch.manual_seed(3)
    net = Midnet(SIZES[name]).eval()
    for parameter in net.fusion.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    frames, t = two_motions(96, 160), torch.tensor([0.35, 0.8])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            requests = []
            for model in pair_of_backends(net):
                a, b = (model.encode(x) for x in frames)
                requests.append(RenderRequest(a, b, model.match(a, b), t))
            fast_net, slow_net = pair_of_backends(net)
            fast, again = fast_net.render(requests[0]), fast_net.render(requests[0])
            slow = slow_net.render(requests[1])
    finally:
        torch.set_num_threads(before)
    assert (requests[0].motion.learned is not None) == net.architecture.refined
    assert torch.equal(fast, again)  # rows do not depend on what the memory held, nor on threads
    for one, two in zip(*(request.motion.tensors() for request in requests), strict=True):
        torch.testing.assert_close(one, two, atol=1e-3, rtol=0)
    torch.testing.assert_close(fast, slow, atol=4e-4, rtol=0)
    assert (fast - slow).abs().mean() < 2e-5


def warped_by_both(net: Midnet, frames: tuple[Tensor, Tensor], t: float) -> tuple[WarpedFrames, WarpedFrames]:
    """Frames warped by the native back end and by torch, from the motion of the native one."""
    models = pair_of_backends(net)
    with torch.no_grad():
        motion = models[0].match(*(models[0].encode(x) for x in frames))
        one, two = (
            model.warp(RenderRequest(*(model.encode(x) for x in frames), motion, torch.tensor([t]))) for model in models
        )
        return one, two


def test_warped_frames_and_features_are_those_of_torch(net: Midnet) -> None:
    fast, slow = warped_by_both(net, two_motions(64, 96), 0.4)
    flows, zero = slow.features[:, :, FLOWS], net.fusion.zero
    active = active_tiles(flows, net.architecture.hypotheses)
    assert 0 < active[:, 1:-1].float().mean() < 1
    assert 0 < trivial_tiles(slow.features[:, 0], slow.features[:, zero], active).float().mean() < 1
    torch.testing.assert_close(fast.features, slow.features, atol=2e-4, rtol=0)
    for one, two in zip((*fast.a, *fast.b), (*slow.a, *slow.b), strict=True):
        torch.testing.assert_close(one, two, atol=2e-4, rtol=0)
    inputs = [fusion_inputs(x.features, x.coverage, at(0.4)) for x in (fast, slow)]
    for one, two in zip(*inputs, strict=True):
        torch.testing.assert_close(one, two, atol=0.02, rtol=0)  # the root of a small difference is steep


@pytest.mark.parametrize("accelerated", [False, True])
def test_hypotheses_are_those_of_torch(accelerated: bool) -> None:
    generator = torch.Generator().manual_seed(5)

    def smooth(scale: float, channels: int = 2) -> Tensor:
        noise = torch.randn(1, channels, 4, 6, generator=generator)
        return scale * F.interpolate(noise, size=(16, 24), mode="bicubic")

    def random_fields(scale: float) -> FlowFields:
        ab, ba = (FlowField(smooth(scale), smooth(1.0, 1), smooth(1.0, 1)) for _ in "ab")
        return FlowFields(ab, ba)

    before, here, after = (MotionField(random_fields(6.0), random_fields(3.0)) for _ in "bha")
    before.primary.ab.flow[0, :, 0, 0] = torch.tensor([1e6, -1e6])  # lands outside
    net = Midnet(Architecture(hypotheses=HYPOTHESES)).eval()
    found, accelerations = [], []
    image = texture(64, 96)
    for model in pair_of_backends(net):
        with torch.no_grad():
            a, b = model.encode(image), model.encode(image.flip(-1))
            acceleration = model.acceleration(here, before, after)
            accelerations.append(acceleration)
            part = WarpRequest(a, b, here, torch.tensor([0.3]), accelerations[0] if accelerated else None)
            found.append(model.backend.as_tensors(model.backend.warp(part, HYPOTHESES)))
    torch.testing.assert_close(accelerations[0].a, accelerations[1].a, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(accelerations[0].b, accelerations[1].b, atol=1e-4, rtol=1e-4)
    fast, slow = found
    inside = (..., slice(1, None), slice(1, None))
    active = active_tiles(slow.features[:, :, FLOWS], HYPOTHESES)
    assert active[:, 1:-1].float().mean() > 0
    torch.testing.assert_close(
        fast.features[:, :, FLOWS][inside], slow.features[:, :, FLOWS][inside], atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(fast.coverage, slow.coverage, atol=1e-4, rtol=1e-4)


def test_nan_and_infinite_flows_read_no_foreign_memory(net: Midnet) -> None:
    model = net.with_backend(native())
    with torch.no_grad():
        a, b = (model.encode(x) for x in two_motions(64, 96))
        motion = model.match(a, b)
        assert motion.filtered is not None
        for broken in (math.nan, math.inf, -math.inf, 1e30):
            for both in (motion.primary, motion.filtered):
                both.ab.flow[..., 3:9, 4:11] = both.ba.flow[..., 3:9, 4:11] = broken
            assert model.render(RenderRequest(a, b, motion, torch.tensor([0.5]))).shape == (1, 3, 64, 96)


def test_features_belong_to_the_back_end_that_made_them(net: Midnet) -> None:
    image = texture(64, 64)
    models = pair_of_backends(net)
    for one, other in (models, models[::-1]):
        a = one.encode(image)
        with pytest.raises(TypeError, match="another back end"):
            other.render(RenderRequest(a, a, other.match(a, a), torch.tensor([0.5])))


# Gradients: of the torch back end, whatever the state of autograd was when features were made


@pytest.mark.parametrize("without", [(), ("a",), ("a", "b")], ids=["both", "one without", "both without"])
def test_frames_with_and_without_gradients_render_the_same_differentiable_frame(
    net: Midnet, without: tuple[str, ...]
) -> None:
    net.zero_grad()
    frames = two_motions(64, 96)
    features = []
    for name, frame in zip("ab", frames, strict=True):
        with torch.set_grad_enabled(name not in without):
            features.append(net.encode(frame))
    with torch.no_grad():
        motion = net.match(*features)
        expected = net.render(RenderRequest(*features, motion, torch.tensor([0.4])))
    frame = net.render(RenderRequest(*features, motion, torch.tensor([0.4])))
    torch.testing.assert_close(frame, expected)
    frame.square().mean().backward()
    weight = net.fusion.head.weight.grad
    assert weight is not None and weight.abs().sum() > 0


def test_a_frame_is_differentiable_by_its_flow_and_its_sources(net: Midnet) -> None:
    sources = [x.requires_grad_() for x in two_motions(64, 96)]
    features = [net.encode(x) for x in sources]
    with torch.no_grad():
        motion = net.match(*features)
    motion.primary.ab.flow.requires_grad_()
    net.render(RenderRequest(*features, motion, torch.tensor([0.4]))).square().mean().backward()
    for x in (*sources, motion.primary.ab.flow):
        assert x.grad is not None and x.grad.abs().sum() > 0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_warping_works_in_every_autograd_mode(net: Midnet, backend: Backend, mode: type) -> None:
    model = net.with_backend(backend)
    with mode():
        a, b = (model.encode(x) for x in two_motions(64, 96))
        warped = model.warp(RenderRequest(a, b, model.match(a, b), torch.tensor([0.5])))
    assert warped.features.shape == (1, 7, len(FeatureChannel), 16, 24)


def test_a_hypothesis_is_active_only_where_it_differs() -> None:
    flows = torch.zeros(1, 3, 4, 16, 24)
    flows[0, 1, 2, 5, 9] = 0.2  # 0.8 px of the frame
    flows[0, 1, 0, 12, 20] = 0.1
    active = active_tiles(flows, ("splatted", "filtered", "zero"))
    assert active.shape == (1, 3, 4, 6)
    assert active[0, 0].all()
    assert active[0, 2].all()
    assert active[0, 1].nonzero().tolist() == [[1, 2]]
    assert expand_tiles(active).shape == (1, 3, 16, 24)


def test_a_tile_is_trivial_where_the_primary_hypothesis_fits_and_zero_motion_does_not_matter() -> None:
    alone = torch.tensor([True, False, True]).view(1, 3, 1, 1)
    others = torch.ones_like(alone)
    residual = FeatureChannel.RESIDUAL

    def moving(tiles: int = 1) -> tuple[Tensor, Tensor]:
        """Features of the primary hypothesis, 4 px of motion, and of zero motion, which shows other colours."""
        primary, zero = torch.zeros(2, 1, 11, 4, 4 * tiles)
        primary[:, FLOWS] = 1.0
        zero[:, FeatureChannel.COLOUR_A_R : residual] = 0.1
        return primary, zero

    primary, zero = moving(2)
    zero[:, residual] = 0.05  # zero motion fits worse
    assert trivial_tiles(primary, zero, alone).flatten().tolist() == [True, True]
    primary[0, residual, 1, 6] = 3.5 / 255  # in one block of the second tile the primary one does not fit
    assert trivial_tiles(primary, zero, alone).flatten().tolist() == [True, False]
    primary, zero = moving()
    assert not trivial_tiles(primary, zero, alone).any()  # zero motion fits as well, and shows something else
    primary[:, FLOWS] = 0.0
    assert trivial_tiles(primary, zero, alone).all()  # nothing moves
    primary, zero = moving()[0], torch.zeros_like(zero)
    assert trivial_tiles(primary, zero, alone).all()  # it moves, but zero motion shows the same
    primary[:, residual] = 1.6 / 255
    assert not trivial_tiles(primary, zero, alone).any()  # on the whole it does not fit
    primary[:, residual] = 1.2 / 255
    assert trivial_tiles(primary, zero, alone).all()
    assert not trivial_tiles(primary, zero, others).any()  # where another hypothesis is active, it must fit better


def test_other_hypotheses_are_not_warped_where_the_primary_one_suffices(net: Midnet) -> None:
    """The whole frame moves: whatever the other hypotheses say is left out where the primary one fits."""
    image = 0.7 * texture(64, 96)
    found = []
    with torch.no_grad():
        for model in pair_of_backends(net):
            a, b = (model.encode(x) for x in (image, moved(image, 4.0, -2.0)))
            motion = model.match(a, b)
            assert motion.filtered is not None
            motion.filtered.ab.flow.add_(0.5)
            found.append(model.warp(RenderRequest(a, b, motion, torch.tensor([0.4]))))
    filtered = net.architecture.hypotheses.index("filtered")
    torch.testing.assert_close(found[0].features, found[1].features, atol=2e-3, rtol=0)
    for warped in found:
        assert torch.equal(warped.a[filtered][..., 16:48, 16:80], warped.a[0][..., 16:48, 16:80])


@pytest.mark.parametrize("name", ["midnet-s", "midnet-m"])
@pytest.mark.parametrize("gain", [0.75, 1 / 0.75])
def test_shipped_weights_follow_a_fade(name: str, gain: float) -> None:
    """Brightness that changes between a and b has changed by the fraction t at t, whatever moves."""
    model = load_model(name).on_device(torch.device("cpu"))
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
    """A disc of 44 pixels that rotates and moves by 59 over static ground, and the mask of its inside."""
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
    image = ground + (thing - ground) * cover[..., None]
    return torch.from_numpy(image.clip(0, 255)).permute(2, 0, 1) / 255, cover > 0.99


@pytest.mark.parametrize("name", ["midnet-m", "midnet-s"])
def test_an_object_that_moves_farther_than_its_own_width_stays_whole(name: str) -> None:
    """At t it lies over ground that both frames show; without foreground ordering it comes out in shreds (16 dB)."""
    (a, _), (truth, where), (b, _) = (disc(t) for t in (0.0, 0.5, 1.0))
    made = Engine(load_model(name), static="off").between(a, b, [0.5])[0]
    error = (made - truth)[:, torch.from_numpy(where)]
    assert -10 * torch.log10(error.square().mean()) > 30


def visible(ab: Tensor, ba: Tensor, background: tuple[Tensor, Tensor]) -> FlowFields:
    backend = TorchBackend()
    errors = backend.inconsistency(ab, ba), backend.inconsistency(ba, ab)
    return occlusion.flow_fields((ab, ba), errors, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), background)


def test_foreground_is_recognised_by_the_disocclusions_around_it() -> None:
    """A square passes over static ground: flows of what it uncovers in the other frame are inconsistent."""
    ab, ba = torch.zeros(1, 2, 48, 80), torch.zeros(1, 2, 48, 80)
    ab[:, 0, 16:32, 10:26], ba[:, 0, 16:32, 40:56] = 30.0, -30.0
    found = visible(ab, ba, (torch.zeros_like(ab), torch.zeros_like(ba)))
    for importance, left in ((found.ab.importance[0, 0], 10), (found.ba.importance[0, 0], 40)):
        assert (importance[18:30, left + 2 : left + 14] > 5).all()
        assert importance[4:12].abs().max() == 0 and importance[:, 64:].abs().max() == 0
    assert visible(ab, ba, (ab, ba)).ab.importance.max() == 0  # without motion of its own nothing is in front
    inconsistency = TorchBackend().inconsistency(ba, ab)
    assert occlusion.foreground(ab, torch.zeros_like(ab), inconsistency)[0, 0, 18:30, 12:24].min() == 1
    assert occlusion.foreground(ab, torch.zeros_like(ab), 0.0 * inconsistency).max() == 0  # it uncovers nothing


def test_background_motion_under_a_small_object_is_that_of_the_ground() -> None:
    ab, ba = torch.full((1, 2, 48, 80), 3.0), torch.full((1, 2, 48, 80), -3.0)
    ab[:, 0, 20:28, 30:38], ba[:, 0, 20:28, 50:58] = 20.0, -20.0
    background = occlusion.background_motion(ab, TorchBackend().inconsistency(ab, ba))
    assert (background[:, :, 20:28, 30:38] - 3.0).abs().max() < 1.0


def test_inconsistency_counts_relative_to_the_length_of_a_vector() -> None:
    long, short = torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 16, 16)
    long[:, 0], short[:, 0] = 40.0, 2.0  # 160 and 8 full-size pixels, and ways back that miss by 4
    offset = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    of_long, of_short = (visible(x, offset - x, (x, -x)).ab.importance[0, 0, 8, 1] for x in (long, short))
    assert of_long == -0.5 * occlusion.IMPORTANCE_PER_PIXEL and of_short == -4.0 * occlusion.IMPORTANCE_PER_PIXEL


def test_inputs_of_the_fusion_network_have_no_directions(net: Midnet) -> None:
    image = texture(64, 96)
    network = FusionNetwork(net.architecture.hypotheses, *net.architecture.fusion).eval()
    with torch.no_grad():
        network.head.weight.normal_()
        a, b = net.encode(image), net.encode(moved(image, 3.0, 1.0))
        warped = net.warp(RenderRequest(a, b, net.match(a, b), torch.tensor([0.5])))
        weights = network(warped.features, warped.coverage, at(0.5))
        torch.testing.assert_close(weights.sum(1), torch.ones(1, 16, 24))
        for dims in ((-1,), (-2,)):
            plain = fusion_inputs(warped.features, warped.coverage, at(0.5))
            flipped = fusion_inputs(warped.features.flip(dims), warped.coverage.flip(dims), at(0.5))
            for one, two in zip(plain, flipped, strict=True):
                torch.testing.assert_close(one, two.flip(dims), atol=1e-5, rtol=1e-5)
    assert (weights.amax((2, 3)) - weights.amin((2, 3))).max() > 0.05  # they depend on the features


def test_pixel_coordinates() -> None:
    assert coordinates(2, 3)[0, :, 1, 2].tolist() == [2, 1]


def video_frames(form: PixelFormat, height: int, width: int) -> list[Frame]:
    images = (F.interpolate(x, size=(height, width), mode="bilinear")[0] for x in two_motions(96, 128))
    return [Frame(colour.from_rgb(x, form), form, Fraction(n), Fraction(1), n) for n, x in enumerate(images)]


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
def test_planes_of_a_video_come_out_as_by_way_of_rgb(
    net: Midnet, form: PixelFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sides are multiples of nothing. Chroma is drawn at its own size, so where that is smaller it differs a little."""
    frames = video_frames(form, 91, 121)
    gap = Gap(frames[0], frames[1], (Slot(Fraction(1, 3), Fraction(1, 3)), Slot(Fraction(2, 3), Fraction(2, 3))))
    direct = list(Engine(net).run([gap]))
    monkeypatch.setattr(Midnet, "supports_planes", lambda *_: False)
    by_rgb = list(Engine(net).run([gap]))
    level = 1 << form.depth - 8
    for one, two in zip(direct, by_rgb, strict=True):
        assert one.kind == two.kind == "interpolated"
        assert one.confidence == pytest.approx(two.confidence, abs=0.02)
        for number, (p, q) in enumerate(zip(one.planes, two.planes, strict=True)):
            assert p.dtype == q.dtype == form.dtype
            assert p.shape == q.shape
            smaller = number > 0 and form.chroma_w > 0
            assert (p.int() - q.int()).abs().float().mean() < (2.0 if smaller else 0.02) * level


def test_which_formats_are_taken_as_planes(net: Midnet) -> None:
    fast, slow = pair_of_backends(net)
    video = PixelFormat("yuv420p", "yuv", 8, 1, 1)
    assert fast.supports_planes(video, 720, 1280)
    assert not fast.supports_planes(PixelFormat("yuva420p", "yuv", 8, 1, 1, alpha=True), 720, 1280)
    assert not fast.supports_planes(PixelFormat("gbrp", "rgb", 8), 720, 1280)
    assert not fast.supports_planes(PixelFormat("yuv410p", "yuv", 8, 2, 2), 720, 1280)
    assert not slow.supports_planes(video, 720, 1280)


def test_an_engine_has_a_back_end_of_its_own(net: Midnet) -> None:
    shipped = load_model("midnet-s")
    assert isinstance(shipped, Midnet) and isinstance(shipped.backend, type(native()))
    first, second = Engine(net), Engine(net)
    assert isinstance(first.model, Midnet) and isinstance(second.model, Midnet)
    assert isinstance(first.model.backend, type(native())) and first.model.backend is not second.model.backend
    assert isinstance(net.backend, TorchBackend)
    assert first.model.fusion is second.model.fusion  # weights are shared
