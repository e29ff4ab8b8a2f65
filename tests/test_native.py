"""The C++ kernels against PyTorch and NumPy, and against each other's variants."""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Iterator
from fractions import Fraction as Fr

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

_native = pytest.importorskip("midframe._native")

from midframe import load_model  # noqa: E402
from midframe.engine import Engine  # noqa: E402
from midframe.models.base import RenderRequest  # noqa: E402
from midframe.models.flow import dis_flow, extrapolation  # noqa: E402
from midframe.models.flow.types import DisConfig  # noqa: E402
from midframe.models.midnet import SIZES, Midnet  # noqa: E402
from midframe.models.midnet.model import backend_for  # noqa: E402
from midframe.models.midnet.torch_backend import TorchBackend  # noqa: E402
from midframe.models.midnet.types import WarpRequest  # noqa: E402
from midframe.ops import spline_coefficients, warp_spline  # noqa: E402
from midframe.types import Frame, Gap, PixelFormat, Slot  # noqa: E402

RNG = np.random.default_rng(2)


def random(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * RNG.random(shape)).astype(np.float32)


@pytest.fixture
def workspace() -> _native.Workspace:
    return _native.Workspace(2)


@pytest.fixture
def variants() -> Iterator[list[str]]:
    before = _native.simd_variant()
    yield _native.simd_variants()
    _native.use_simd_variant(before)


@pytest.mark.parametrize("channels", [1, 2])
def test_spline_coefficients_are_those_of_the_torch_twin(workspace: _native.Workspace, channels: int) -> None:
    planes = random(channels, 24, 19)
    want = spline_coefficients(torch.from_numpy(planes)[None])[0].permute(1, 2, 0)
    np.testing.assert_allclose(workspace.spline_coefficients(planes), want.numpy(), atol=2e-5)


@pytest.mark.parametrize(("channels", "down", "across"), [(1, 4, 4), (2, 4, 4), (2, 2, 2), (2, 4, 2)])
def test_pixels_sampled_together_are_those_sampled_one_by_one(
    workspace: _native.Workspace, channels: int, down: int, across: int
) -> None:
    rows, columns = 4, 12
    planes = random(channels, down * rows, across * columns)

    def warp(flow: np.ndarray) -> np.ndarray:
        out, means = workspace.warp(planes, flow)
        np.testing.assert_allclose(means, out.reshape(channels, rows, down, columns, across).mean((2, 4)), atol=1e-6)
        return np.asarray(out)

    whole = np.full((2, rows, columns), 0.3, np.float32)
    broken = whole.copy()
    broken[0, :, 5] = 2.3  # from the middle of the fourth block on
    own = slice(0, across * 4 + across // 2)  # the last of them is sampled with others that look elsewhere
    assert np.array_equal(warp(broken)[..., own], warp(whole)[..., own])
    assert not np.array_equal(warp(broken)[..., own.stop], warp(whole)[..., own.stop])


def test_warp_is_that_of_the_torch_twin(workspace: _native.Workspace) -> None:
    planes, flow = random(1, 64, 96), random(2, 16, 24, scale=6.0) - 3.0
    wide = 4.0 * F.interpolate(torch.from_numpy(flow)[None], scale_factor=4.0, mode="bilinear")
    want = warp_spline(spline_coefficients(torch.from_numpy(planes)[None]), wide)[0]
    np.testing.assert_allclose(workspace.warp(planes, flow)[0], want.numpy(), atol=1e-4)


def test_exponential_and_logarithm() -> None:
    x = np.concatenate([-np.geomspace(1e-6, 80.0, 200), [0.0, -100.0]]).astype(np.float32)
    out = np.empty_like(x)
    _native.exponential(x, out)
    for one, value in zip(x, out, strict=True):
        assert value == pytest.approx(math.exp(one), rel=2e-7 * float(1 - one), abs=1e-37)
    x = np.geomspace(1e-6, 1e6, 200).astype(np.float32)
    out = np.empty_like(x)
    _native.logarithm(x, out)
    np.testing.assert_allclose(out, np.log(x.astype(np.float64)), atol=3e-6)


def test_all_variants_give_the_same_bits(workspace: _native.Workspace, variants: list[str]) -> None:
    assert "x86-64" in variants or len(variants) == 1
    torch.manual_seed(3)
    net = trained(Midnet().eval()).on_device(torch.device("cpu"))
    a = F.interpolate(torch.rand(1, 3, 16, 24), size=(64, 96), mode="bicubic")
    b = torch.roll(a, (2, 3), (2, 3)).flip(1)
    found = []
    for name in variants:
        _native.use_simd_variant(name)
        with torch.no_grad():
            one, two = net.encode(a), net.encode(b)
            motion = net.match(one, two)
            request = RenderRequest(one, two, motion, torch.tensor([0.3]))
            found.append([net.render(request), *motion.tensors(), one.block_means])
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))


def trained(net: Midnet) -> Midnet:
    """With weights that make a difference."""
    with torch.no_grad():
        for parameter in net.fusion.parameters():
            parameter.normal_(0.0, 0.2)
    return net


def fields(generator: torch.Generator, count: int, scale: float) -> list[torch.Tensor]:
    return [
        scale * F.interpolate(torch.randn(1, 2, 3, 4, generator=generator), size=(24, 32), mode="bicubic")
        for _ in range(count)
    ]


@pytest.mark.parametrize("size", ["midnet-s", "midnet-m", "midnet-l"])
def test_fusion_weights_are_those_of_torch(size: str) -> None:
    torch.manual_seed(4)
    net = trained(Midnet(SIZES[size]).eval()).on_device(torch.device("cpu"))
    a = F.interpolate(torch.rand(1, 3, 20, 28), size=(80, 112), mode="bicubic")
    b = torch.roll(a, (2, 3), (2, 3)) + 0.05 * torch.rand(1, 3, 80, 112)
    t = torch.tensor([0.3])
    with torch.no_grad():
        one, two = net.encode(a), net.encode(b)
        warped = net.backend.warp(WarpRequest(one, two, net.match(one, two), t), net.architecture.hypotheses)
        tensors = net.backend.as_tensors(warped)
        want = net.fusion(tensors.features, tensors.coverage, t.view(1, 1, 1, 1))
        torch.testing.assert_close(net.backend.fuse(net.fusion, warped, t), want, atol=2e-4, rtol=0)


def test_occlusion_and_importance_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(7)
    ab, ba, background_a, background_b = fields(generator, 4, 6.0)
    ab[:, :, 8:14, 10:18] += 9.0  # moves otherwise than what lies around it
    errors = tuple(x[:, :1].abs() for x in fields(generator, 2, 1.0))
    for error in errors:
        error[..., 1::3] = 60.0  # disocclusions
    parts = (ab, ba), errors, torch.tensor([[0.1, 0.0, 0.95, 1.0]]), (background_a, background_b)
    found, want = (backend.flow_fields(*parts) for backend in (backend_for(torch.device("cpu")), TorchBackend()))
    for mine, theirs in ((found.ab, want.ab), (found.ba, want.ba)):
        assert (theirs.importance > 3.0).any()  # foreground
        torch.testing.assert_close(mine.occlusion, theirs.occlusion, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(mine.importance, theirs.importance, atol=1e-3, rtol=1e-3)


def textured(height: int, width: int) -> np.ndarray:
    noise = cv2.GaussianBlur(RNG.random((height, width)).astype(np.float32), (0, 0), 2.0)
    return ((noise - noise.mean()) * 900.0 + 128.0).clip(0, 255)


def moved(image: np.ndarray, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    """A frame, and the same with every pixel moved, the middle another way."""
    height, width = image.shape
    other = cv2.warpAffine(image, np.array([[1, 0, x], [0, 1, y]], np.float32), (width, height), flags=cv2.INTER_CUBIC)
    middle = np.s_[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3]
    other[middle] = np.roll(image, 3, 1)[middle]
    return image.astype(np.uint8), other.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("size", "stride"), [((90, 120), 4), ((67, 101), 5), ((33, 16), 3), ((16, 45), 4)])
@pytest.mark.parametrize("begun", [False, True])
def test_inverse_search_is_that_of_opencv(
    workspace: _native.Workspace, size: tuple[int, int], stride: int, begun: bool
) -> None:
    frames = moved(textured(*size), 2.6, -1.3)
    config = DisConfig(1, stride, 12, 0)
    initial = None
    if begun:
        start = np.dstack([4.0 * random(*size), 2.5 * random(*size)])
        initial = [start, -start]
    starts = initial or (None, None)
    want = [
        dis_flow.estimate_by_opencv(pair, start, config, None)
        for pair, start in zip((frames, frames[::-1]), starts, strict=True)
    ]
    pyramids = dis_flow.pyramid(frames[0]), dis_flow.pyramid(frames[1])
    for own, other in zip(dis_flow.estimate(pyramids, config, workspace, initial), want, strict=True):
        difference = np.abs(own - other).max(2)
        assert np.median(difference) < 1e-3 and (difference > 0.05).mean() < 0.05


def test_inverse_search_does_not_depend_on_threads_or_variant(variants: list[str]) -> None:
    frames = [[x] for x in moved(textured(61, 83), 1.6, 0.3)]
    found = []
    for name in variants:
        _native.use_simd_variant(name)
        found += [_native.Workspace(n).inverse_search(*frames, None, 4, 12, 0.125) for n in (1, 3)]
    assert all(np.array_equal(found[0], other) for other in found[1:])
    assert np.abs(found[0][0][10:20, 10:70] - [1.6, 0.3]).mean() < 0.2


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30])
def test_inverse_search_survives_any_initial_flow(workspace: _native.Workspace, value: float) -> None:
    frames = [[x] for x in moved(textured(40, 56), 1.0, 1.0)]
    start = [np.full((40, 56, 2), value, np.float32)]
    found = workspace.inverse_search(*frames, (start, start), 4, 12, 0.125)
    assert np.isfinite(found).all() and np.abs(found).max() < 60


@pytest.mark.parametrize("size", [(45, 80), (90, 51), (7, 64), (20, 20)])
def test_background_motion_is_that_of_numpy(workspace: _native.Workspace, size: tuple[int, int]) -> None:
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    flow = np.stack([3.0 + 0.04 * x - 0.02 * y, -1.0 + 0.03 * y]).astype(np.float32)
    flow[:, height // 3 : height // 2, width // 3 : width // 2] += 5.0  # an object, an outlier
    flow += 0.1 * random(2, *size)
    weight = random(*size) + 1e-3
    own = extrapolation.background_of_planes(flow, weight, workspace)
    want = extrapolation.background_of_planes(flow, weight)
    assert own.shape == want.shape and own.dtype == want.dtype
    np.testing.assert_allclose(own, want, atol=0.01)  # OpenCV samples at 32nds of a cell


def test_pyramids_of_other_shapes_are_errors(workspace: _native.Workspace) -> None:
    one, two = np.zeros((32, 32), np.uint8), np.zeros((32, 40), np.uint8)
    for first, second in (([one], [two]), ([one], []), ([one[:4]], [one[:4]])):
        with pytest.raises(ValueError):
            workspace.inverse_search(first, second, None, 4, 12, 0.125)
    with pytest.raises(ValueError, match="initial"):
        workspace.inverse_search([one], [one], ([np.zeros((32, 40, 2), np.float32)],) * 2, 4, 12, 0.125)


def test_an_unknown_variant_is_an_error() -> None:
    with pytest.raises(ValueError, match="no kernels for mmx"):
        _native.use_simd_variant("mmx")


def test_arrays_of_another_shape_type_or_layout_are_errors(workspace: _native.Workspace) -> None:
    flow = random(2, 8, 8)
    with pytest.raises(ValueError, match=r"backward has shape \(2, 8, 7\); expected \(2, 8, 8\)"):
        workspace.forward_backward_error(flow, random(2, 8, 7))
    with pytest.raises(TypeError):
        workspace.forward_backward_error(flow.astype(np.float64), flow)
    with pytest.raises(TypeError):
        workspace.forward_backward_error(flow.transpose(0, 2, 1), flow)
    with pytest.raises(ValueError, match="multiples of 16"):
        workspace.planes_of_rgb(random(3, 16, 24), (0.0,) * 6)
    with pytest.raises(TypeError, match="uint8 or uint16"):
        workspace.planes_of_codes([random(16, 16)], [(0.0, 255.0)], (16, 16), (0, 0), (0.0,) * 6)


def test_what_is_returned_stays_as_it_is(workspace: _native.Workspace) -> None:
    one, two = random(2, 16, 24), random(2, 16, 24)
    first = workspace.forward_backward_error(one, two)
    kept = first.copy()
    for _ in range(3):
        workspace.forward_backward_error(two, one)
    np.testing.assert_array_equal(first, kept)
    del workspace
    gc.collect()
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("name", ["dis", "midnet-m", "midnet-s"])
def test_an_engine_has_one_workspace_and_one_gap_does_not_change_the_next(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, gray = textured(220, 400), PixelFormat("gray", "gray", 8, full_range=True)
    scene[60:80, 90:330:40] = 255.0
    crops = [scene[8 * n : 8 * n + 180, 11 * n : 11 * n + 320].astype(np.uint8) for n in range(4)]
    frames = [Frame((torch.from_numpy(x),), gray, Fr(n), Fr(1), n) for n, x in enumerate(crops)]
    gaps = [Gap(*frames[n : n + 2], (Slot(n + Fr(1, 3), Fr(1, 3)),)) for n in range(3)]
    model, made = load_model(name), []
    whole = _native.Workspace
    monkeypatch.setattr(_native, "Workspace", lambda *count: made.append(whole(*count)) or made[-1])
    found = [*Engine(model).run(gaps)]
    assert len(made) == 1 and [frame.kind for frame in found] == ["interpolated"] * 3
    for gap, frame in zip(gaps, found, strict=True):
        (alone,) = Engine(model).run([gap])
        assert torch.equal(frame.planes[0], alone.planes[0])
    assert len(made) == 4


def test_a_workspace_serves_several_threads(workspace: _native.Workspace) -> None:
    planes = random(1, 64, 64)
    want = workspace.spline_coefficients(planes).copy()
    wrong: list[int] = []

    def work() -> None:
        for _ in range(50):
            if not np.array_equal(workspace.spline_coefficients(planes), want):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
