"""Metrics: an image against the truth, a flow against the true flow, a video against smooth motion.

Images are (3, H, W) RGB float tensors, 0..1. Measures named without an addition are the usual ones: the image
is first rounded to the 8-bit levels it would be stored in. Measures named `..._modelscope` are those of ModelScope's
own evaluation (modelscope/metrics/video_frame_interpolation_metric.py): floats, neither rounded nor clamped, and a
three-dimensional SSIM. The two are never to be compared with each other.

Nothing here knows a network, a file or a codec. LPIPS is a network, and stays behind an adapter: its own
package, its weights looked up on this machine and never fetched.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from midframe.extras import install_command

LEVELS = 255.0  # the largest 8-bit level
HALF_UNITS = 4096  # per level: the grid to which levels are brought before they are rounded
GMSD_C = 170.0  # stabilises the quotient, in squared levels; Xue et al. 2014
FLOW_LENGTHS = (10.0, 40.0)  # pixels in a frame of FLOW_ROWS rows: motion is short, medium or long
FLOW_ROWS = 720
DIVERGENCE_SHARE = 0.01  # of the largest divergence; above it a pixel counts in PSNR_DIV
SSIM_TAPS = 11
SSIM_SIGMA = 1.5  # pixels
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # Wang et al. 2004, for a range of 1
FLOW_OUTLIER_PIXELS, FLOW_OUTLIER_SHARE = 3.0, 0.05  # KITTI 2015's Fl: worse than 3 px and than 5 % of the length


def to_levels(image: Tensor) -> Tensor:
    """The 8-bit levels an image is stored in: clamped to 0..1, times 255, rounded; float, whole numbers 0..255.

    Halves go to the even level. What is within 1/8192 of a half counts as one: the mean of two 8-bit images is full
    of halves, which float32 carries with errors of 3e-5 levels, and 0.005 dB hang on which way they fall.
    """
    return (image.float().clamp(0, 1) * (LEVELS * HALF_UNITS)).round_().div_(HALF_UNITS).round_()


def _check_pair(image: Tensor, truth: Tensor) -> None:
    if image.shape != truth.shape or image.dim() != 3:
        raise ValueError(f"images of shape {tuple(image.shape)} and {tuple(truth.shape)}: both must be (C, H, W)")


# Images -------------------------------------------------------------------------------------------------------


def psnr(image: Tensor, truth: Tensor, region: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB over RGB, the image rounded to 8-bit levels; `inf` where nothing differs.

    Args:
        image: (3, H, W) float 0..1, rounded here.
        truth: (3, H, W) float 0..1, rounded as well.
        region: (H, W) bool; only these pixels count. `nan` when it is empty.
    """
    _check_pair(image, truth)
    square = (to_levels(image) - to_levels(truth)).double().square()
    if region is not None:
        square = square[:, region]
    if square.numel() == 0:
        return math.nan
    error = float(square.mean())
    return math.inf if error == 0 else 10 * math.log10(LEVELS**2 / error)


def psnr_modelscope(image: Tensor, truth: Tensor) -> float:
    """ModelScope's PSNR in dB: on the floats as they are, neither rounded nor clamped."""
    _check_pair(image, truth)
    error = float((image.double() - truth.double()).square().mean())
    return math.inf if error == 0 else -10 * math.log10(error)


def gaussian(taps: int = SSIM_TAPS, sigma: float = SSIM_SIGMA) -> Tensor:
    """A Gaussian window (taps,) float64 that sums to 1."""
    x = torch.arange(taps, dtype=torch.float64) - (taps - 1) / 2
    window = torch.exp(-(x**2) / (2 * sigma**2))
    return window / window.sum()


def _slide(volume: Tensor, window: Tensor, dim: int) -> Tensor:
    """Weighted sum of `taps` shifted views along one dimension: a valid convolution with a 1-D window."""
    length = volume.shape[dim] - len(window) + 1
    out = volume.narrow(dim, 0, length) * float(window[0])
    for i in range(1, len(window)):
        out.add_(volume.narrow(dim, i, length), alpha=float(window[i]))
    return out


def _ssim_mean(x: Tensor, y: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Mean of the SSIM map of two volumes, windowed along `dims`; float32."""
    window = gaussian()
    # the variance is a difference of nearly equal numbers: around 0 they are smaller, and float32 suffices
    centre = 0.5
    x, y = x.float() - centre, y.float() - centre

    def mean(volume: Tensor) -> Tensor:
        for dim in dims:
            volume = _slide(volume, window, dim)
        return volume

    mean_x, mean_y = mean(x), mean(y)
    var_x = mean(x * x).addcmul_(mean_x, mean_x, value=-1)
    var_y = mean(y * y).addcmul_(mean_y, mean_y, value=-1)
    cov = mean(x * y).addcmul_(mean_x, mean_y, value=-1)
    mean_x, mean_y = mean_x.add_(centre), mean_y.add_(centre)
    light = (2 * mean_x * mean_y + SSIM_C1) / (mean_x.square() + mean_y.square() + SSIM_C1)
    structure = (2 * cov + SSIM_C2) / (var_x + var_y + SSIM_C2)
    return (light * structure).double().mean()


def ssim(image: Tensor, truth: Tensor) -> float:
    """Structural similarity, per channel with an 11x11 Gaussian (sigma 1.5), inside the border of 5 px, then the mean.

    The same as scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=255)` of the 8-bit images. Needs sides of at least 11 px.
    """
    _check_pair(image, truth)
    if min(image.shape[-2:]) < SSIM_TAPS:
        raise ValueError(f"an image of {tuple(image.shape[-2:])} is smaller than the window of {SSIM_TAPS} px")
    x, y = (to_levels(each) / LEVELS for each in (image, truth))
    # plane by plane: the data stays in the processor's cache, six times as fast
    return float(torch.stack([_ssim_mean(p, q, (-2, -1)) for p, q in zip(x, y, strict=True)]).mean())


def ssim_modelscope(image: Tensor, truth: Tensor) -> float:
    """ModelScope's SSIM: an 11x11x11 Gaussian (sigma 1.5) over (C, H, W), edges repeated, floats as they are."""
    _check_pair(image, truth)
    edge = SSIM_TAPS // 2
    x, y = (F.pad(each.float()[None, None], (edge,) * 6, mode="replicate")[0, 0] for each in (image, truth))
    # across the channels first: three planes are left to slide over, not thirteen
    return float(_ssim_mean(x, y, (-3, -2, -1)))


def interpolation_error(image: Tensor, truth: Tensor) -> float:
    """Mean absolute difference of the 8-bit levels (0..255) over RGB: the "IE" of the interpolation literature.

    Middlebury's own tables give the root of the mean square instead.
    """
    _check_pair(image, truth)
    return float((to_levels(image) - to_levels(truth)).abs().double().mean())


class Lpips:
    """LPIPS with AlexNet features (Zhang et al. 2018, arXiv:1801.03924), by the authors' package `lpips`.

    The package brings its linear weights; the AlexNet weights are torchvision's file `alexnet-owt-*.pth`, looked up
    by `lpips_weights` and never fetched.
    """

    def __init__(self, network: Any):
        self.network = network  # callable: two (1, 3, H, W) tensors, -1..1 -> (1, 1, 1, 1)

    def usual(self, image: Tensor, truth: Tensor) -> float:
        """Of images rounded to 8 bits, RGB, scaled to -1..1."""
        _check_pair(image, truth)
        return self._distance(to_levels(image) / LEVELS, to_levels(truth) / LEVELS)

    def modelscope(self, image: Tensor, truth: Tensor) -> float:
        """Of the floats as they are, channels in the order B, G, R in which ModelScope reads its images."""
        _check_pair(image, truth)
        return self._distance(image.flip(0), truth.flip(0))

    def _distance(self, x: Tensor, y: Tensor) -> float:
        with torch.inference_mode():
            return float(self.network(x[None].float() * 2 - 1, y[None].float() * 2 - 1))


def lpips_weights() -> Path | None:
    """Torchvision's AlexNet file on this machine: `$MIDFRAME_LPIPS` or in torch's hub cache; None if absent."""
    named = os.environ.get("MIDFRAME_LPIPS")
    if named:
        return Path(named) if Path(named).is_file() else None
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return next(iter(sorted(folder.glob("alexnet-owt-*.pth"))), None)


def lpips_absence() -> str | None:
    """Why there is no LPIPS on this machine, in one line that fits a table's note; None if it can be loaded."""
    if importlib.util.find_spec("lpips") is None:
        return f"no LPIPS: package absent ({install_command('lpips')})"
    try:
        importlib.import_module("lpips")
    except Exception as error:  # torchvision built for another torch raises various errors
        return f"no LPIPS: package unusable ({str(error).splitlines()[0]})"
    if lpips_weights() is None:
        return "no LPIPS: AlexNet weights absent (alexnet-owt-*.pth in torch's hub cache, or $MIDFRAME_LPIPS)"
    return None


def load_lpips(device: torch.device | str = "cpu") -> Lpips | None:
    """LPIPS if it is installed on this machine, or None; `lpips_absence` says why."""
    weights = lpips_weights()
    if lpips_absence() is not None or weights is None:
        return None
    import lpips

    # pnet_rand keeps the package from fetching AlexNet; its layers keep torchvision's numbers, so names map by number
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package speaks to torchvision in an older way
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval().to(device)
    stored = torch.load(weights, map_location=device, weights_only=True)
    state = {name: stored[f"features.{name.split('.', 1)[1]}"] for name in network.net.state_dict()}
    network.net.load_state_dict(state)
    return Lpips(network)


def luma(image: Tensor) -> Tensor:
    """BT.709 luma (H, W) of an RGB image, rounded to the 8-bit codes of limited range (16 to 235)."""
    red, green, blue = image.double().unbind(0)
    return (16 + 219 * (0.2126 * red + 0.7152 * green + 0.0722 * blue)).round().clamp(0, LEVELS)


def psnr_luma(image: Tensor, truth: Tensor) -> float:
    """PSNR in dB of 8-bit limited-range BT.709 luma with a peak of 255, as filters on 4:2:0 video are measured."""
    _check_pair(image, truth)
    error = float((luma(image) - luma(truth)).square().mean())
    return math.inf if error == 0 else 10 * math.log10(LEVELS**2 / error)


def _gradient(gray: Tensor) -> Tensor:
    """Sobel gradient magnitude of (1, 1, H, W), in levels per pixel."""
    across = gray.new_tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    kernels = torch.stack([across, across.T])[:, None]
    padded = F.pad(gray, (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernels).square().sum(1, keepdim=True).sqrt()


def gmsd(image: Tensor, truth: Tensor) -> float:
    """Gradient magnitude similarity deviation (Xue et al. 2014, arXiv:1308.3052) of half-size luma; 0 is equal."""
    _check_pair(image, truth)
    first, second = (_gradient(F.avg_pool2d(luma(x)[None, None], 2, ceil_mode=True)) for x in (image, truth))
    similarity = (2 * first * second + GMSD_C) / (first.square() + second.square() + GMSD_C)
    return float(similarity.std(unbiased=False))


def gradient_energy_ratio(image: Tensor, truth: Tensor) -> float | None:
    """Energy of the luma gradient over the truth's: below 1 where detail is lost; None for a flat truth."""
    _check_pair(image, truth)
    first, second = (float(_gradient(luma(x)[None, None]).square().mean()) for x in (image, truth))
    return first / second if second > 0 else None


def psnr_div(image: Tensor, truth: Tensor, following: Tensor) -> float:
    """PSNR_DIV in dB (Daly et al. 2025, arXiv:2510.01361): luma PSNR where the interpolated motion diverges.

    A pixel counts if |du/dx + dv/dy| of Farneback's flow from `image` to `following` exceeds a hundredth of its
    maximum. `inf` where nothing differs there; `nan` if nothing diverges.

    Args:
        image: (3, H, W) float 0..1, rounded here to 8 bits.
        truth: (3, H, W) float 0..1, rounded as well.
        following: the frame shown after `image`, interpolated or not.
    """
    _check_pair(image, truth)
    _check_pair(image, following)
    weights = torch.tensor([0.2126, 0.7152, 0.0722])[:, None, None]
    first, true, second = ((to_levels(x) * weights).sum(0).floor().byte().numpy() for x in (image, truth, following))
    start = np.zeros((*first.shape, 2), np.float32)
    # the settings of the authors' implementation
    flow = cv2.calcOpticalFlowFarneback(first, second, start, 0.5, 3, 15, 3, 5, 1.2, cv2.OPTFLOW_FARNEBACK_GAUSSIAN)
    divergence = np.abs(np.gradient(flow[..., 0], axis=1) + np.gradient(flow[..., 1], axis=0))
    where = divergence > DIVERGENCE_SHARE * divergence.max()
    if not where.any():
        return math.nan
    error = float(np.square(first[where].astype(np.float64) - true[where]).mean())
    return math.inf if error == 0 else 10 * math.log10(LEVELS**2 / error)


def confidence_interval(groups: Sequence[Sequence[float]], draws: int = 1000) -> tuple[float, float] | None:
    """95 % bootstrap interval of the mean over all values, groups (clips) drawn with replacement.

    Frames of one clip are alike, so frames are not drawn on their own. None for fewer than three groups. The seed is
    fixed: the same values give the same interval.
    """
    if len(groups) < 3:
        return None
    sums, counts = (torch.tensor([float(f(g)) for g in groups], dtype=torch.float64) for f in (sum, len))
    drawn = torch.randint(len(groups), (draws, len(groups)), generator=torch.Generator().manual_seed(0))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


# Flow -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FlowError:
    """How far a flow is from the true one."""

    all: float  # pixels; mean end-point error where the truth is known
    masked: float | None  # pixels; the same inside the mask (seen in both, say); None without a mask
    outliers_percent: float  # KITTI's Fl: end-point error above 3 px and above 5 % of the true length
    zero: float  # pixels; the error of "nothing moves", to read the others by
    short: float | None = None  # pixels; where the true motion is below 10 px in a frame scaled to 720 rows
    medium: float | None = None  # from 10 to 40 px
    long: float | None = None  # above 40 px
    outliers_masked_percent: float | None = None  # Fl inside the mask


def flow_error(flow: Tensor, truth: Tensor, valid: Tensor | None = None, mask: Tensor | None = None) -> FlowError:
    """End-point error of a flow.

    Args:
        flow: (2, H, W) float, pixels.
        truth: (2, H, W) float, pixels.
        valid: (H, W) bool, where the truth is known; everywhere if not given.
        mask: (H, W) bool, a region of its own, counted where valid as well.
    """
    if flow.shape != truth.shape or flow.dim() != 3 or flow.shape[0] != 2:
        raise ValueError(f"flows of shape {tuple(flow.shape)} and {tuple(truth.shape)}: both must be (2, H, W)")
    known = torch.ones_like(truth[0], dtype=torch.bool) if valid is None else valid
    error = (flow - truth).float().norm(dim=0)
    length = truth.float().norm(dim=0)
    if not known.any():
        raise ValueError("the true flow is known nowhere")
    outlier = (error > FLOW_OUTLIER_PIXELS) & (error > FLOW_OUTLIER_SHARE * length)
    inside = known if mask is None else known & mask
    low, high = (at * truth.shape[-2] / FLOW_ROWS for at in FLOW_LENGTHS)
    parts = (known & (length < low), known & (length >= low) & (length < high), known & (length >= high))
    short, medium, long = (float(error[part].double().mean()) if part.any() else None for part in parts)
    return FlowError(
        all=float(error[known].double().mean()),
        masked=float(error[inside].double().mean()) if mask is not None and inside.any() else None,
        outliers_percent=100 * float(outlier[known].double().mean()),
        zero=float(length[known].double().mean()),
        short=short,
        medium=medium,
        long=long,
        outliers_masked_percent=(
            100 * float(outlier[inside].double().mean()) if mask is not None and inside.any() else None
        ),
    )


# Time -----------------------------------------------------------------------------------------------------------


def worst_mean(values: Sequence[float], share: float = 0.05) -> float:
    """Mean of the lowest `share` of the values, at least one of them: visible errors that averages hide."""
    if not values:
        raise ValueError("no values to take the worst of")
    count = max(1, math.ceil(len(values) * share))
    return sum(sorted(values)[:count]) / count


def _shifted(gray: Tensor, dx: float, dy: float) -> Tensor:
    """`gray[y + dy, x + dx]` by a Blackman-windowed sinc of 12 taps (bicubic is off by 0.03 px); edges repeat."""
    out = gray
    for dim, shift in ((1, dx), (0, dy)):
        whole = math.floor(shift)
        taps = torch.arange(-5, 7, dtype=gray.dtype)
        distance = taps - (shift - whole)
        window = 0.42 + 0.5 * torch.cos(math.pi * distance / 6.5) + 0.08 * torch.cos(2 * math.pi * distance / 6.5)
        kernel = torch.sinc(distance) * window
        kernel /= kernel.sum()
        length = out.shape[dim]
        index = torch.arange(-5 + whole, length + 6 + whole).clamp(0, length - 1)
        out = _slide(out.index_select(dim, index), kernel, dim)
    return out


def measured_shift(a: Tensor, b: Tensor, steps: int = 10) -> tuple[float, float]:
    """The one translation (dx, dy) in pixels from image a to image b: b[y + dy, x + dx] = a[y, x].

    Phase correlation for the whole pixels, then Gauss-Newton steps on the gray difference for the rest (Lucas &
    Kanade 1981); to about 0.01 px on textured images under pure translation of less than half their size.
    """
    _check_pair(a, b)
    gray_a, gray_b = a.double().mean(0), b.double().mean(0)
    height, width = gray_a.shape
    hann = torch.outer(
        torch.hann_window(height, False, dtype=torch.float64), torch.hann_window(width, False, dtype=torch.float64)
    )
    spectrum_a, spectrum_b = (torch.fft.rfft2((gray - gray.mean()) * hann) for gray in (gray_a, gray_b))
    cross = spectrum_a.conj() * spectrum_b
    peak = int(torch.fft.irfft2(cross / (cross.abs() + 1e-12), s=(height, width)).argmax())
    dy, dx = float(peak // width), float(peak % width)
    dy, dx = dy - height * (dy > height / 2), dx - width * (dx > width / 2)

    border = 7  # pixels: half the window of `_shifted`; samples from outside b are meaningless
    for _ in range(steps):
        rows = slice(border + max(0, math.ceil(-dy)), height - border - max(0, math.ceil(dy)))
        columns = slice(border + max(0, math.ceil(-dx)), width - border - max(0, math.ceil(dx)))
        moved = _shifted(gray_b, dx, dy)
        slope_y, slope_x = torch.gradient(moved)
        slopes = torch.stack([slope_x[rows, columns].flatten(), slope_y[rows, columns].flatten()])
        normal = slopes @ slopes.T
        if slopes.shape[1] == 0 or float(torch.linalg.det(normal)) < 1e-12:
            break  # nothing left in common, or nothing to hold on to
        step = torch.linalg.solve(normal, slopes @ (gray_a - moved)[rows, columns].flatten())
        dx, dy = dx + float(step[0]), dy + float(step[1])
        if float(step.abs().max()) < 1e-4:
            break
    return dx, dy


@dataclass(frozen=True, slots=True)
class StepUniformity:
    """Evenness of the steps of constant motion from frame to frame."""

    mean: float  # pixels per frame
    deviation_percent: float  # standard deviation of the step, of its mean
    worst_percent: float  # largest departure of one step from the mean, of the mean


def step_uniformity(images: Sequence[Tensor]) -> StepUniformity:
    """Steps between successive images (3, H, W) of a pan at constant speed, measured in the images themselves."""
    if len(images) < 3:
        raise ValueError(f"{len(images)} images: at least 3 are needed to compare steps")
    shifts = [measured_shift(a, b) for a, b in itertools.pairwise(images)]
    total = torch.tensor(shifts, dtype=torch.float64)
    direction = total.mean(0)
    if float(direction.norm()) < 1e-6:
        raise ValueError("the image does not move: steps cannot be compared")
    steps = total @ (direction / direction.norm())  # along the pan; across it there is only noise
    mean = float(steps.mean())
    return StepUniformity(
        mean,
        100 * float(steps.std(unbiased=False)) / abs(mean),
        100 * float((steps - mean).abs().max()) / abs(mean),
    )


def sharpness(image: Tensor) -> float:
    """Mean length of the gray gradient, levels per pixel: falls when an image is blurred."""
    gray = image.float().mean(0) * LEVELS
    dx, dy = gray[:-1, 1:] - gray[:-1, :-1], gray[1:, :-1] - gray[:-1, :-1]
    return float(torch.sqrt(dx * dx + dy * dy).double().mean())


@dataclass(frozen=True, slots=True)
class Flicker:
    """What pulses when kept and made frames alternate. All three are 0 where made frames look like kept ones."""

    sharpness_percent: float  # by how much made frames are less sharp than the kept ones around them
    luma_levels: float  # mean |difference| in mean gray level, 0..255
    colour_levels: float  # mean |difference| in mean level of the worst channel, 0..255


def flicker(a: Tensor, made: Sequence[Tensor], times: Sequence[float], b: Tensor) -> Flicker:
    """Flicker between the kept frames a, b and those made between them at `times` (0 < t < 1).

    What a made frame should have is taken as linear between a and b in sharpness and mean colour; one-sided in
    sharpness (blur pulses; a frame sharper than both does not occur in practice).
    """
    if not made or len(made) != len(times):
        raise ValueError(f"{len(made)} images for {len(times)} instants")
    sharp_a, sharp_b = sharpness(a), sharpness(b)
    colour_a, colour_b = (to_levels(p).double().mean((1, 2)) for p in (a, b))
    loss, luma, colour = 0.0, 0.0, 0.0
    for image, t in zip(made, times, strict=True):
        wanted = (1 - t) * sharp_a + t * sharp_b
        loss += max(0.0, 1 - sharpness(image) / wanted) if wanted > 0 else 0.0
        difference = to_levels(image).double().mean((1, 2)) - ((1 - t) * colour_a + t * colour_b)
        luma += abs(float(difference.mean()))
        colour += float(difference.abs().max())
    return Flicker(100 * loss / len(made), luma / len(made), colour / len(made))


@dataclass(frozen=True, slots=True)
class StaticStability:
    """Stability of static parts of a frame."""

    share: float  # of the image that is still, 0..1
    mean_levels: float  # mean |made - kept| there, 8-bit levels
    moved_percent: float  # of still pixels that are off by more than 2 levels in any channel
    psnr: float  # dB against frame a, inside; inf where nothing differs


def static_stability(
    a: Tensor,
    made: Tensor,
    b: Tensor,
    truth: Tensor | None = None,
    tolerance: float = 1.0,
    least: float = 0.002,
) -> StaticStability | None:
    """Of the pixels that are the same in a and b, 5x5 neighbourhoods and all, deviation of the interpolated frame.

    Args:
        a: kept frame before, (3, H, W).
        made: the interpolated frame, (3, H, W).
        b: kept frame after, (3, H, W).
        truth: the true frame, where known: only what is the same there too counts as still, since
            something may pass between a and b.
        tolerance: levels by which a and b may differ in any channel and still count as the same.
        least: share of the image that must be still for the measure to mean something.

    Returns:
        None where less than `least` of the image is still.
    """
    _check_pair(a, made)
    _check_pair(a, b)
    levels_a, levels_made = to_levels(a), to_levels(made)
    moving = ((levels_a - to_levels(b)).abs() > tolerance).any(0)
    if truth is not None:
        moving |= ((levels_a - to_levels(truth)).abs() > tolerance).any(0)
    # a pixel whose neighbours move only happens to look alike
    still = F.max_pool2d(moving[None, None].float(), 5, stride=1, padding=2)[0, 0] == 0
    share = float(still.double().mean())
    if share < least:
        return None
    off = (levels_made - levels_a).abs()[:, still]
    return StaticStability(
        share,
        float(off.double().mean()),
        100 * float((off > 2).any(0).double().mean()),
        psnr(made, a, still),
    )
