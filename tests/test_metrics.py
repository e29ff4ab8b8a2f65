"""The measures against other libraries, against slow twins, and against values worked out by hand."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

from midframe import metrics


def texture(seed: int, height: int = 48, width: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=generator)
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[0].clamp(0, 1)


def damaged(image: Tensor, seed: int = 9, amount: float = 0.05) -> Tensor:
    return image + amount * torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))


def levels(image: Tensor) -> np.ndarray:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def test_luma_psnr_of_one_level_everywhere() -> None:
    truth = torch.full((3, 8, 8), 100 / 219)
    assert metrics.psnr_luma(truth + 1 / 219, truth) == pytest.approx(20 * math.log10(255))
    assert metrics.psnr_luma(truth, truth) == math.inf


def test_gmsd_and_gradient_energy_see_blur() -> None:
    truth = torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(1))
    blurred = F.avg_pool2d(truth[None], 3, 1, 1, count_include_pad=False)[0]
    assert metrics.gmsd(truth, truth) == 0 < metrics.gmsd(blurred, truth)
    assert metrics.gradient_energy_ratio(truth, truth) == 1
    weak = metrics.gradient_energy_ratio(blurred, truth)
    assert weak is not None and weak < 0.5
    assert metrics.gradient_energy_ratio(truth, torch.zeros_like(truth)) is None


def test_interval_draws_clips_not_frames() -> None:
    """A hundred equal frames of three clips say as much as one frame of each."""
    few, many = [[30.0], [34.0], [38.0]], [[30.0] * 100, [34.0] * 100, [38.0] * 100]
    assert metrics.confidence_interval(few) == metrics.confidence_interval(many) == (30.0, 38.0)
    assert metrics.confidence_interval([[30.0] * 50, [31.0]]) is None
    even = metrics.confidence_interval([[30.0 + n % 2] for n in range(400)])
    assert even is not None and even[1] - even[0] == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.15)


@pytest.mark.parametrize("rows", [720, 360])
def test_flow_error_by_length_of_motion_at_720_rows(rows: int) -> None:
    truth = torch.zeros(2, rows, 4)
    part = rows // 3
    truth[0, part : 2 * part], truth[0, 2 * part :] = 12.0 * rows / 720, 41.0 * rows / 720
    lengths = torch.tensor([1.0, 2, 3]).repeat_interleave(part)[:, None].expand(rows, 4)
    error = metrics.flow_error(truth + torch.stack([torch.zeros(rows, 4), lengths]), truth)
    assert (error.short, error.medium, error.long) == (1, 2, 3)
    assert metrics.flow_error(truth[:, :part], truth[:, :part]).long is None


def test_flow_outliers_inside_the_mask() -> None:
    truth, mask = torch.zeros(2, 4, 5), torch.zeros(4, 5, dtype=torch.bool)
    flow = truth.clone()
    flow[0, :2] = 4.0
    mask[1:] = True
    error = metrics.flow_error(flow, truth, mask=mask)
    assert (error.outliers_percent, error.outliers_masked_percent) == (50, pytest.approx(100 / 3))
    assert metrics.flow_error(flow, truth).outliers_masked_percent is None


def test_psnr_div_counts_errors_where_motion_diverges() -> None:
    """A square moves over a static ground: only its surroundings diverge."""
    generator = torch.Generator().manual_seed(3)
    ground, square = (F.interpolate(torch.rand(1, 3, n, n, generator=generator), scale_factor=4)[0] for n in (40, 10))

    def at(column: int) -> Tensor:
        frame = ground.clone()
        frame[:, 60:100, column : column + 40] = square
        return frame

    truth, following = at(60), at(64)
    assert metrics.psnr_div(truth, truth, following) == math.inf
    far, near = truth.clone(), truth.clone()
    far[:, 4:24, 4:24] += 0.1
    near[:, 70:90, 100:120] += 0.1
    assert metrics.psnr_div(near, truth, following) < metrics.psnr(near, truth) - 3
    assert metrics.psnr_div(near, truth, following) < metrics.psnr_div(far, truth, far + following - truth) - 3
    flat = torch.zeros(3, 40, 40)
    assert math.isnan(metrics.psnr_div(flat, flat + 0.1, flat))  # no motion at all


def test_psnr_by_hand() -> None:
    black = torch.zeros(3, 8, 8)
    assert metrics.psnr(black + 10 / 255, black) == pytest.approx(20 * math.log10(255 / 10))
    assert metrics.psnr(black, black) == math.inf
    half = torch.zeros(8, 8, dtype=torch.bool)
    half[:4] = True
    stepped = black.clone()
    stepped[:, :4] = 1.0
    assert metrics.psnr(stepped, black, half) == 0.0
    assert metrics.psnr(stepped, black, ~half) == math.inf
    assert math.isnan(metrics.psnr(stepped, black, torch.zeros(8, 8, dtype=torch.bool)))


def test_psnr_rounds_and_modelscope_does_not() -> None:
    black = torch.zeros(3, 8, 8)
    assert metrics.psnr(black + 0.4 / 255, black) == math.inf  # rounds to the same level
    assert metrics.psnr_modelscope(black + 0.01, black) == pytest.approx(40.0, abs=1e-4)
    assert metrics.psnr(black - 0.1, black) == math.inf  # clamped
    assert metrics.psnr_modelscope(black - 0.1, black) == pytest.approx(20.0, abs=1e-4)


@pytest.mark.parametrize("seed", [1, 2])
def test_psnr_and_ssim_are_scikit_images(seed: int) -> None:
    truth, image = (
        torch.from_numpy(levels(p)).permute(2, 0, 1) / 255 for p in (texture(seed), damaged(texture(seed), seed + 10))
    )
    expected = peak_signal_noise_ratio(levels(truth), levels(image), data_range=255)
    assert metrics.psnr(image, truth) == pytest.approx(expected, abs=1e-9)
    expected = structural_similarity(
        levels(truth),
        levels(image),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2,
    )
    assert metrics.ssim(image, truth) == pytest.approx(expected, abs=1e-6)


def test_halves_go_to_the_even_level_whatever_float32_makes_of_them() -> None:
    x, y = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    mean = torch.lerp(x / 255.0, y / 255.0, 0.5)
    assert torch.equal(metrics.to_levels(mean), ((x + y).double() / 2).round().float())
    wide = torch.linspace(-0.5, 1.5, 5001)
    away = ((wide * 255) % 1 - 0.5).abs() > 1e-3
    assert torch.equal(metrics.to_levels(wide)[away], (wide[away].clamp(0, 1) * 255).round())


def test_ssim_is_torchmetrics_inside_the_border() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    truth, image = (metrics.to_levels(p) / 255 for p in (texture(3), damaged(texture(3))))
    answer = structural_similarity_index_measure(
        image[None].double(), truth[None].double(), sigma=1.5, data_range=1.0, return_full_image=True
    )
    # torchmetrics reflects the image at its edges and counts them; the usual measure leaves 5 px out
    assert metrics.ssim(image, truth) == pytest.approx(float(answer[1][..., 5:-5, 5:-5].mean()), abs=1e-6)


def test_ssim_modelscope_is_its_slow_twin() -> None:
    truth = texture(4, 24, 32)
    image = damaged(truth)
    line = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    line /= line.sum()
    cube = torch.einsum("i,j,k->ijk", line, line, line)[None, None]

    def mean(volume: Tensor) -> Tensor:
        return F.conv3d(F.pad(volume.double()[None, None], (5,) * 6, mode="replicate"), cube)

    mean_x, mean_y = mean(image), mean(truth)
    var_x, var_y = mean(image.double() ** 2) - mean_x**2, mean(truth.double() ** 2) - mean_y**2
    cov = mean(image.double() * truth.double()) - mean_x * mean_y
    c1, c2 = 0.0001, 0.0009
    twin = ((2 * mean_x * mean_y + c1) * (2 * cov + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    assert metrics.ssim_modelscope(image, truth) == pytest.approx(float(twin.mean()), abs=1e-6)
    assert metrics.ssim_modelscope(image, truth) == pytest.approx(
        metrics.ssim_modelscope(image.flip(0), truth.flip(0)), abs=1e-6
    )  # so that BGR, which ModelScope reads, makes no difference here


def test_the_two_ssims_differ_and_one_is_one() -> None:
    truth = texture(5)
    image = damaged(truth)
    assert abs(metrics.ssim(image, truth) - metrics.ssim_modelscope(image, truth)) > 1e-3
    assert metrics.ssim(truth, truth) == pytest.approx(1.0)
    assert metrics.ssim_modelscope(truth, truth) == pytest.approx(1.0)


def test_frames_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        metrics.psnr(torch.zeros(3, 4, 4), torch.zeros(3, 4, 5))
    with pytest.raises(ValueError, match="smaller than the window"):
        metrics.ssim(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8))


def test_interpolation_error_by_hand() -> None:
    black = torch.zeros(3, 4, 4)
    image = black.clone()
    image[0, 0, 0] = 48 / 255
    assert metrics.interpolation_error(image, black) == pytest.approx(1.0)


def test_flow_error_by_hand() -> None:
    truth = torch.zeros(2, 2, 2)
    truth[0] = 100.0
    flow = truth.clone()
    flow[:, 0, 0] += torch.tensor([3.0, 4.0])  # 5 px off, but not above 5 % of 100 px
    flow[:, 0, 1] += torch.tensor([0.0, 8.0])  # an outlier
    flow[:, 1, 1] += 1000.0  # unknown: does not count
    valid = torch.tensor([[True, True], [True, False]])
    mask = torch.tensor([[True, False], [True, True]])
    error = metrics.flow_error(flow, truth, valid, mask)
    assert error.all == pytest.approx(13 / 3)
    assert error.masked == pytest.approx(2.5)
    assert error.outliers_percent == pytest.approx(100 / 3)
    assert error.zero == pytest.approx(100.0)
    assert metrics.flow_error(flow, truth, valid).masked is None
    with pytest.raises(ValueError, match="known nowhere"):
        metrics.flow_error(flow, truth, torch.zeros(2, 2, dtype=torch.bool))


def test_worst_mean() -> None:
    assert metrics.worst_mean([float(v) for v in range(100)]) == 2.0  # 0, 1, 2, 3, 4
    assert metrics.worst_mean([5.0, 1.0]) == 1.0
    with pytest.raises(ValueError, match="no values"):
        metrics.worst_mean([])


def pan(shift_x: float, shift_y: float = 0.0) -> Tensor:
    """A smooth image moved exactly: sums of sines drawn at moved coordinates."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(96.0), indexing="ij")
    x, y = x - shift_x, y - shift_y
    waves = [torch.sin(0.21 * x + 0.13 * y), torch.sin(0.37 * x - 0.29 * y + 1), torch.cos(0.11 * x * 1.7 + 0.31 * y)]
    return torch.stack([0.5 + 0.16 * (w + waves[0] * waves[2]) for w in waves])


@pytest.mark.parametrize("shift", [(0.0, 0.0), (0.4, -0.3), (3.25, 1.5), (-7.6, 0.2)])
def test_measured_shift(shift: tuple[float, float]) -> None:
    dx, dy = metrics.measured_shift(pan(0), pan(*shift))
    assert dx == pytest.approx(shift[0], abs=0.02)
    assert dy == pytest.approx(shift[1], abs=0.02)


def test_step_uniformity_of_even_and_uneven_steps() -> None:
    even = metrics.step_uniformity([pan(2.4 * k) for k in range(5)])
    assert even.mean == pytest.approx(2.4, abs=0.02)
    assert even.deviation_percent < 1
    # 24 -> 60 by copying the nearest frame: steps of 0, 1, 1, ... instead of 0.4 each
    uneven = metrics.step_uniformity([pan(2.0 * k) for k in (0, 1, 1, 2, 3)])
    assert uneven.deviation_percent > 40
    assert uneven.worst_percent == pytest.approx(100, abs=5)
    with pytest.raises(ValueError, match="does not move"):
        metrics.step_uniformity([pan(0)] * 3)


def test_flicker_sees_blur_and_light() -> None:
    a, b = texture(6), texture(7)
    same = metrics.flicker(a, [a], [0.5], a)
    assert (same.sharpness_percent, same.luma_levels, same.colour_levels) == (0, 0, 0)
    blurred = F.avg_pool2d(a[None], 5, 1, 2, count_include_pad=False)[0]
    assert metrics.flicker(a, [blurred], [0.5], a).sharpness_percent > 20
    darker = metrics.flicker(a * 0 + 0.5, [a * 0 + 0.5 - 4 / 255], [0.5], a * 0 + 0.5)
    assert darker.luma_levels == pytest.approx(4.0, abs=0.51)
    # a fade from a to b is not flicker
    low, high = a * 0 + 0.2, a * 0 + 0.4
    fade = metrics.flicker(low, [low + 0.05, low + 0.1, low + 0.15], [0.25, 0.5, 0.75], high)
    assert fade.luma_levels < 0.6
    assert metrics.flicker(a, [b], [0.5], a).colour_levels > 0.5


def test_static_stability() -> None:
    a = texture(8)
    b = a.clone()
    b[:, :, 32:] = texture(9)[:, :, 32:]
    made = (a + b) / 2
    still = metrics.static_stability(a, made, b)
    assert still is not None
    assert 0.4 < still.share < 0.5  # the border of the moving half does not count
    assert (still.mean_levels, still.moved_percent, still.psnr) == (0.0, 0.0, math.inf)
    made[:, :10, :10] += 10 / 255
    shaken = metrics.static_stability(a, made.clamp(0, 1), b)
    assert shaken is not None
    assert shaken.moved_percent == pytest.approx(100 * 100 / (still.share * 48 * 64), rel=0.05)
    assert metrics.static_stability(a, made, texture(10)) is None
    passed = a.clone()
    passed[:, :20, :20] = 0.0  # something passes by in truth
    judged = metrics.static_stability(a, made.clamp(0, 1), b, truth=passed)
    assert judged is not None
    assert judged.moved_percent == 0.0


class FakeAlex(nn.Module):
    """Stands for the package's network, with layers numbered as torchvision numbers them."""

    def __init__(self) -> None:
        super().__init__()
        self.slice1 = nn.Sequential()
        self.slice1.add_module("0", nn.Conv2d(3, 4, 3))


class FakeLpips(nn.Module):
    def __init__(self, net: str, pnet_rand: bool, verbose: bool) -> None:
        assert pnet_rand, "anything else would fetch weights"
        super().__init__()
        self.net = FakeAlex()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        assert x.min() >= -1.001
        return (self.net.slice1(x) - self.net.slice1(y)).square().mean((1, 2, 3), keepdim=True)


def test_lpips_is_found_or_its_absence_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "package absent" in str(metrics.lpips_absence())
    assert metrics.load_lpips() is None

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert "package unusable" in str(metrics.lpips_absence())  # None in sys.modules makes the import fail
    assert metrics.load_lpips() is None

    fake = types.ModuleType("lpips")
    fake.LPIPS = FakeLpips  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", fake)
    monkeypatch.setenv("MIDFRAME_LPIPS", str(tmp_path / "missing.pth"))
    assert "weights absent" in str(metrics.lpips_absence())
    assert metrics.load_lpips() is None

    weights = {
        "features.0.weight": torch.randn(4, 3, 3, 3),
        "features.0.bias": torch.zeros(4),
        "classifier.1": torch.zeros(1),
    }
    torch.save(weights, tmp_path / "alexnet-owt-test.pth")
    monkeypatch.setenv("MIDFRAME_LPIPS", str(tmp_path / "alexnet-owt-test.pth"))
    assert metrics.lpips_absence() is None
    perceptual = metrics.load_lpips()
    assert perceptual is not None
    truth = texture(11)
    image = damaged(truth)

    def by_hand(x: Tensor, y: Tensor) -> float:
        features = [F.conv2d(p[None] * 2 - 1, weights["features.0.weight"]) for p in (x, y)]
        return float((features[0] - features[1]).square().mean())

    rounded = (metrics.to_levels(image) / 255, metrics.to_levels(truth) / 255)
    assert perceptual.usual(image, truth) == pytest.approx(by_hand(*rounded), rel=1e-4)
    assert perceptual.modelscope(truth.flip(1), truth) == pytest.approx(
        by_hand(truth.flip(1).flip(0), truth.flip(0)), rel=1e-4
    )
