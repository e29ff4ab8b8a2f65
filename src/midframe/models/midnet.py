"""midnet: our own network. Features per frame, motion per gap, picture per instant; sizes S, M and L.

The figure, with M's channels (fractions are of the picture's side):

    encode   1/2: 16 - 1/4: 32 - 1/8: 64 - 1/16: 96, convolutions without learned normalisation
    match    1/16  all-pairs cosine correlation, best place and its 5x5 neighbourhood -> first flow
             1/16  two recurrent updates, each looking at a 7x7 correlation of warped features
             1/8   two recurrent updates, likewise
             1/4   refinement by a 3x3 correlation; occlusion and importance of every pixel
    render   1/4   guesses of the flows at t: carried there by splatting, holes filled from the linear combination; each
                   flow alone; smoothed by colour; borrowed from the places around; no motion
             1/1   under every guess both pictures are drawn, warped by cubic splines (no parameters)
             1/4   a judge sees how the drawn pictures agree, and says how much of each goes into every 4x4 block

It knows no file, no time base and no device policy. Flow, coordinates, correlations and sampling are float32; only
convolutions follow the autocast of the caller. With the matcher "dis" the flow is OpenCV's dense inverse search,
nothing is encoded, and only the judge is learned. Ideas are from RAFT (Teed & Deng 2020) for recurrent updates and
convex upsampling, GMFlow (Xu et al. 2022) for global matching and softmax splatting (Niklaus & Liu 2020).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from midframe import kernels
from midframe.errors import WeightsError
from midframe.models import search
from midframe.models.base import Model, RenderRequest, scale_by_size
from midframe.models.search import LIMITS, Search, both_ways, by_size, resized, shrink_within
from midframe.ops import coordinates, resize_flow, splat, warp

if TYPE_CHECKING:
    from midframe._native import FusionNetwork
    from midframe.models.drawing import Drawn, Layers
    from midframe.types import PixelFormat

LUMA = (0.299, 0.587, 0.114)
DOUBT = 0.5  # log importance lost per pixel by which forward and backward flow miss each other
STRAY = 0.05  # of a vector's length, of more than 20 pixels, by which forward and backward flow may miss as by 1 pixel
HELD = 2.0  # pixels, as of short vectors, by which what is told to be in front may miss its way back
FRONT = 6.0  # log importance of what is in front of its surroundings, see `in_front`
OWN_WAY = 16.0  # pixels from which on a motion is another than that of the surroundings; from twice that on surely
UNCOVERED = 0.3  # of that difference, by which what it uncovers must miss its way back; from twice that on surely
LEFT = 4.0  # pixels of missing each other to which a pixel beyond the edge is equal, where it is asked what is hidden
TILE = 8  # places; sides of the blocks in which local correlation is computed
LOCAL_RADIUS = 3  # places at 1/16 and 1/8: a 7x7 window
AROUND = 4  # places at 1/4 from which neighbouring flows are borrowed: an edge of a flow is often that far off
EVIDENCE = 17  # values that are kept of every guess in every 4x4 block, see `Midnet.candidates`
CLUES, SHARED_CLUES = 21, 13  # what the judge makes of them, see `clues`
POOLED = 4  # what the surroundings see of the guesses: mean, maximum, the first and "rest"
AHEAD = {"carried": 2.0, "rest": -2.0}  # logit of a guess before anything is learned; 1 for the others
SMOOTH = 3  # places at 1/4 to either side over which a flow in doubt is smoothed
SURE = 1.1  # what misses by less than 0.1 pixel is left as it is
ALIKE = 0.06  # of colours, 0..1: the standard deviation within a surface
TILE_BLOCKS, APART = 4, 0.5  # see `present`: sides of tiles in 4x4 blocks, pixels
# See `calm`: of the difference of both pictures, where no other guess is present and where one is; of colours; of how
# much greater the difference is under "rest".
CALM, CALMER, SAME, WORSE = 1.5 / 255, 0.8 / 255, 2.0 / 255, 2.0 / 255
AT_ONCE = 2_000_000  # pixels of all pictures that are rendered together
GLOBAL_TOKENS = 8704  # places at 1/16 that are matched against each other: 1080p has 8160; above, 2x2 are averaged


@dataclass(frozen=True, slots=True)
class Architecture:
    """What must be known to build a midnet; stored in the metadata of its weights."""

    channels: tuple[int, int, int, int] = (16, 32, 64, 96)  # of features at 1/2, 1/4, 1/8, 1/16
    judge: tuple[int, int, int] = (16, 24, 32)  # of the judge: for each guess, of what lies around, at 1/8 and 1/16
    guesses: tuple[str, ...] = ("carried", "alone_a", "alone_b", "smooth", "below", "right", "rest")  # see `carry`
    hidden: int = 48  # of the recurrent state
    updates: tuple[int, int] = (2, 2)  # recurrent updates at 1/16 and 1/8
    matcher: str = "learned"  # or "dis": flow by OpenCV's inverse search, on the CPU; everything else as it is

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Architecture:
        """Undo `to_json`."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**values)


SIZES = {
    "midnet-s": Architecture((16, 32, 48, 64), (8, 16, 24), ("carried", "alone_a", "alone_b", "rest"), 48),
    "midnet-m": Architecture(),
    "midnet-l": Architecture((32, 48, 96, 128), (32, 64, 96), hidden=96),
}


class Features(NamedTuple):
    """What `encode` returns: the picture, and its features at 1/4, 1/8 and 1/16. What is not needed has no pixels."""

    image: Tensor  # (B, 3, H, W)
    bright: Tensor  # (B, 1, H, W)
    tones: Tensor  # (B, 3, H/4, W/4): mean colours
    spline: Tensor  # (B, 4, H + 4, W + 4), of colours and brightness, see `spline_coefficients`; and of the compiled:
    layers: tuple[Layers, ...]  # B
    quarter: Tensor  # this and the next two for the learned matcher only
    eighth: Tensor
    sixteenth: Tensor


class Motion(NamedTuple):
    """What `match` returns, at 1/4 of the picture, flow in pixels of that size."""

    ab: Tensor  # (B, 2, H/4, W/4)
    ba: Tensor
    ab_sure: Tensor  # (B, 2, H/4, W/4): logit that the pixel of a is not seen in b; log importance
    ba_sure: Tensor
    smooth_ab: Tensor  # (B, 2, H/4, W/4): see `Midnet.motion`; this and the next three: as above if it is no guess
    smooth_ba: Tensor
    smooth_ab_sure: Tensor  # (B, 2, H/4, W/4)
    smooth_ba_sure: Tensor


Parts = TypeVar("Parts", Features, Motion)


class Matching(NamedTuple):
    """All intermediate flows of `match`, for training: batch 2B, first a to b, then b to a."""

    logits: Tensor  # (B, N, N) all-pairs correlation
    sixteenth: list[Tensor]
    eighth: list[Tensor]
    quarter: list[Tensor]
    sure: Tensor


class Candidates(NamedTuple):
    """What each of K guesses of the flows makes of the two pictures."""

    seen: Tensor  # (N, 3, H/4, W/4), see `carry`
    a: list[Tensor]  # K of (N, 3, H, W): a, brought to t
    b: list[Tensor]
    evidence: Tensor  # (N, K, EVIDENCE, H/4, W/4), no gradient


def activation() -> nn.Module:
    """Leaky rectifier; cheap and fuses with the convolution before it."""
    return nn.LeakyReLU(0.1, inplace=True)


def conv(inside: int, outside: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution and rectifier."""
    return nn.Sequential(nn.Conv2d(inside, outside, size, stride, size // 2), activation())


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to the same."""
        return F.leaky_relu_(x + self.second(self.first(x)), 0.1)


def local_correlation(a: Tensor, b: Tensor, radius: int) -> Tensor:
    """Scalar products of a's feature at each place with b's in the window around it.

    Computed as matrix products of 8x8 tiles of a with the (8 + 2 radius)^2 places of b around each: three times the
    multiplications that are wanted, but at the speed of a matrix product; shift-multiply-reduce took twice as long.

    Args:
        a: (B, C, H, W); computed in float32 whatever it is.
        b: likewise.
        radius: of the window, in places.

    Returns:
        (B, (2 radius + 1)^2, H, W) float32, rows of the window first; 0 outside b.
    """
    batch, channels, height, width = a.shape
    down, right = -height % TILE, -width % TILE
    rows, columns = (height + down) // TILE, (width + right) // TILE
    side, window = TILE + 2 * radius, 2 * radius + 1
    with torch.autocast(a.device.type, enabled=False):
        query = F.pad(a.float(), (0, right, 0, down)).view(batch, channels, rows, TILE, columns, TILE)
        query = query.permute(0, 2, 4, 3, 5, 1).reshape(-1, TILE * TILE, channels)
        wide = F.pad(b.float(), (radius, right + radius, radius, down + radius))
        key = F.unfold(wide, side, stride=TILE).view(batch, channels, side * side, rows * columns)
        key = key.permute(0, 3, 1, 2).reshape(-1, channels, side * side)
        products = torch.bmm(query, key).flatten(1)  # (tiles, 64 side^2)
    # of each pixel's row of products the window is wanted: entry (y + dy, x + dx) for pixel (y, x) of the tile
    y, x = (torch.arange(n, device=a.device) for n in (TILE, TILE))
    step = torch.arange(window, device=a.device)
    pixel = (y[:, None] * TILE + x).view(TILE, TILE, 1, 1) * side * side
    place = (y[:, None] + step).view(TILE, 1, window, 1) * side + (x[:, None] + step).view(1, TILE, 1, window)
    out = products[:, (pixel + place).flatten()].view(batch, rows, columns, TILE, TILE, window * window)
    out = out.permute(0, 5, 1, 3, 2, 4).reshape(batch, window * window, rows * TILE, columns * TILE)
    return out[..., :height, :width]


def upsample_convex(flow: Tensor, logits: Tensor) -> Tensor:
    """Flow (B, 2, H, W) at twice the size, each pixel a learned mean of 9 coarse ones (RAFT); vectors doubled."""
    batch, _, height, width = flow.shape
    share = logits.float().view(batch, 1, 9, 4, height, width).softmax(2)
    near = F.unfold(2.0 * F.pad(flow, (1, 1, 1, 1), mode="replicate"), 3).view(batch, 2, 9, 1, height, width)
    return F.pixel_shuffle((near * share).sum(2).reshape(batch, 8, height, width), 2)


def double(x: Tensor, scale: float = 1.0) -> Tensor:
    """Bilinear, twice the size, times `scale`."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False) * scale


def quadruple(x: Tensor, scale: float = 1.0) -> Tensor:
    """Bilinear, four times the size, times `scale`."""
    return F.interpolate(x, scale_factor=4.0, mode="bilinear", align_corners=False) * scale


def brightness(image: Tensor) -> Tensor:
    """(B, 3, H, W) RGB to (B, 1, H, W)."""
    return (image * image.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def halve(x: Tensor) -> Tensor:
    """Mean of 2x2."""
    return F.avg_pool2d(x, 2)


def spline_coefficients(image: Tensor) -> Tensor:
    """What `warp_spline` samples: (B, C, H, W) to (B, C, H + 4, W + 4) float32, two places more on every side.

    The inverse of sampling a cubic B-spline at whole places (Unser, Aldroubi & Eden 1993), as a symmetric exponential
    of which nine places to either side are kept; the rest is below 1e-5. The edge of the picture is repeated.
    """
    pole = math.sqrt(3.0) - 2.0
    reach = torch.arange(-9, 10, device=image.device).abs().float()
    kernel = -6.0 * pole / (1.0 - pole * pole) * pole**reach
    channels = image.shape[1]
    with torch.autocast(image.device.type, enabled=False):
        wide = F.pad(image.float(), (11,) * 4, mode="replicate")
        wide = F.conv2d(wide, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
        return F.conv2d(wide, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def warp_spline(coefficients: Tensor, flow: Tensor) -> Tensor:
    """Backward warp by a cubic spline, which keeps the detail that other kernels blur.

    Measured on Middlebury with one and the same flow: 35.88 dB; with the usual cubic kernel (a = -0.75) 35.73, with
    linear sampling 34.65. The sixteen weights are positive, so four linear samples between the right places fetch them
    all (Sigg & Hadwiger, GPU Gems 2, 2005).

    Args:
        coefficients: of `spline_coefficients`.
        flow: (B, 2, H, W) in pixels; where it points out of the picture, the edge is repeated.
    """
    rows, columns = coefficients.shape[-2:]
    where = coordinates(rows - 4, columns - 4, flow.device) + flow.float()
    (left, xs), (top, ys) = (_pairs(where[:, axis], size) for axis, size in ((0, columns), (1, rows)))
    across, down = 2.0 / (columns - 1), 2.0 / (rows - 1)
    grids = [torch.stack([x * across - 1.0, y * down - 1.0], -1) for y in ys for x in xs]
    fetched = F.grid_sample(coefficients, torch.cat(grids, 1), mode="bilinear", align_corners=True)
    parts = fetched.chunk(4, 2)
    left, top = left[:, None], top[:, None]
    upper = left * parts[0] + (1.0 - left) * parts[1]
    return top * upper + (1.0 - top) * (left * parts[2] + (1.0 - left) * parts[3])


def _pairs(where: Tensor, size: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Along one axis: the share of the first of two places whose linear samples fetch all four weights, and both.

    Args:
        where: coordinates in the picture.
        size: of the coefficients along the axis, which lie two places before and behind.
    """
    at = where.clamp(0.0, size - 5.0) + 2.0
    first = at.detach().floor()
    f = at - first
    g = 1.0 - f
    low, high = g * g * g / 6.0, f * f * f / 6.0  # weights of the outer two of four places
    share = ((f / 3.0 - 0.5) * f - 0.5) * f + 5.0 / 6.0  # of the first two
    return share, (first - low / share, first + 1.0 + high / (1.0 - share))


def _compiled(*tensors: Tensor) -> bool:
    """Whether `drawing` may do it: on a CPU, where no gradient is asked for, if the kernels are installed."""
    if kernels.missing() or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    return all(type(x) is Tensor and x.device.type == "cpu" for x in tensors)


def _smooth(x: Tensor) -> Tensor:
    return _mean(_mean(x, 3), 3)


def _mean(x: Tensor, side: int) -> Tensor:
    """Mean of side x side; as sums of shifted rows and columns, which on a CPU takes a tenth of `avg_pool2d`'s time."""
    height, width = x.shape[-2:]
    wide = F.pad(x, (side // 2,) * 4, mode="replicate")
    rows = wide[..., :width] + wide[..., 1 : width + 1]
    for k in range(2, side):
        rows += wide[..., k : k + width]
    out = rows[..., :height, :] + rows[..., 1 : height + 1, :]
    for k in range(2, side):
        out += rows[..., k : k + height, :]
    return out.mul_(1.0 / side**2)


class Judge(nn.Module):
    """Says of every guess, in every 4x4 block, how much of either of its pictures goes into the result.

    All guesses are looked at by the same few layers, which see one block; a small U sees the mean and the extremes of
    all guesses and the surroundings. So what is learned about one place and one guess serves for all, and a guess costs
    next to nothing where it is not present.
    """

    def __init__(self, guesses: Sequence[str], each: int, context: int, deep: int) -> None:
        super().__init__()
        self.names = tuple(guesses)
        self.rest = self.names.index("rest")
        self.kind = nn.Parameter(torch.zeros(len(guesses), each))
        self.look = nn.Linear(CLUES, each)
        self.first = nn.Linear(each, each)
        self.gather = conv(POOLED * each + SHARED_CLUES, context, 1)
        self.down8 = conv(context, deep, 3, 2)
        self.down16 = nn.Sequential(conv(deep, deep, 3, 2), Residual(deep), Residual(deep))
        # what is added to every guess's features, a logit for each side, and one for "rest"
        self.up8 = nn.Sequential(conv(deep, deep), nn.Conv2d(deep, each + 3, 1))
        self.spread = nn.Conv2d(context, each + 3, 1)
        self.second = nn.Linear(each, each)
        self.verdict = nn.Linear(each, 2)
        ahead = [AHEAD.get(name, 1.0) for name in guesses]
        self.register_buffer("ahead", torch.tensor(ahead), persistent=False)
        self.ahead: Tensor

    def forward(self, evidence: Tensor, seen: Tensor, t: Tensor) -> Tensor:
        """Shares of the pictures.

        Args:
            evidence: (N, K, EVIDENCE, h, w), see `Midnet.candidates`.
            seen: (N, 3, h, w), see `carry`.
            t: (N, 1, 1, 1).

        Returns:
            (N, 2K, h, w) float32, sum 1: of a's picture under each guess, then of b's.
        """
        each, shared = clues(evidence, seen, t)
        there = present(evidence[:, :, :4], self.names)
        there = there & ~calm(evidence[:, 0], evidence[:, self.rest], there)
        there = spread_tiles(there)[:, :, None]
        x = self.look(each.movedim(2, -1)) + self.kind.view(1, len(self.names), 1, 1, -1)
        x = self.first(F.leaky_relu_(x, 0.1)).movedim(-1, 2)  # (N, K, each, h, w)
        y = F.leaky_relu(x, 0.1)
        y = torch.where(there, y, 0.0)
        mean, some = y.sum(1) / there.sum(1).clamp(min=1), there[:, 0]
        most = torch.where(some, y.masked_fill(~there, -math.inf).amax(1), 0.0)
        around = self.around(torch.cat([mean, most, y[:, 0], y[:, self.rest], shared], 1)).float()
        x = F.leaky_relu_(x + around[:, None, :-3], 0.1).movedim(2, -1)
        out = self.verdict(F.leaky_relu_(self.second(x), 0.1)).float()  # (N, K, h, w, 2)
        out = torch.where(there[:, :, 0, ..., None], out, 0.0)
        first, ahead = seen[:, 2:3], self.ahead.view(1, -1, 1, 1)
        still = F.one_hot(torch.tensor(self.rest), len(self.names)).to(out).view(1, -1, 1, 1) * around[:, -1:]
        of_a = out[..., 0] + around[:, -3:-2] + still + ahead + torch.log(1.0 - t + 1e-3) + F.logsigmoid(first)
        of_b = out[..., 1] + around[:, -2:-1] + still + ahead + torch.log(t + 1e-3) + F.logsigmoid(-first)
        absent = ~there[:, :, 0]
        absent[:, 0] = False
        return torch.cat([x.masked_fill(absent, -1e4) for x in (of_a, of_b)], 1).softmax(1)

    def around(self, pooled: Tensor) -> Tensor:
        """What all guesses of a block and the block itself show -> what the surroundings say of it, and of a and b."""
        near = F.leaky_relu_(pointwise(self.gather[0], pooled), 0.1)
        return pointwise(self.spread, near) + double(self.far(near))

    def far(self, near: Tensor) -> Tensor:
        """What is gathered of a block (N, context, h, w) -> what is farther away says of it, at half the size."""
        eighth = self.down8(near)
        eighth = eighth + F.interpolate(self.down16(eighth), scale_factor=2.0, mode="nearest")
        found: Tensor = self.up8(eighth)
        return found

    @torch.no_grad()
    def of_drawn(self, found: Drawn, t: float) -> Tensor:
        """`forward` of one pair at an instant, compiled: shares (2K, h, w)."""
        from midframe.models import drawing

        network = self._native()
        looked = drawing.look(found, t, network)
        far = self.far(torch.from_numpy(looked.fine)[None]).float()[0].contiguous()
        return drawing.decide(looked, found, far, t, network)

    def _native(self) -> FusionNetwork:
        from midframe._native import FusionNetwork

        layers: list[Any] = [self.look, self.first, self.second, self.verdict, self.gather[0], self.spread]

        def array(x: Tensor) -> NDArray[np.float32]:
            return np.asarray(x.detach().float().contiguous().numpy(), np.float32)

        weights, biases = [array(x.weight.flatten(1)) for x in layers], [array(x.bias) for x in layers]
        return FusionNetwork(weights, biases, array(self.kind + self.look.bias), array(self.ahead))


def pointwise(layer: nn.Module, x: Tensor) -> Tensor:
    """A convolution of 1x1 as a product of matrices, channels last: a quarter of the time that it takes on a CPU."""
    assert isinstance(layer, nn.Conv2d)
    return F.linear(x.movedim(1, -1), layer.weight.flatten(1), layer.bias).movedim(-1, 1)


def present(guesses: Tensor, names: Sequence[str]) -> Tensor:
    """In which tiles a guess differs from the first one by so much that it is worth its cost.

    Measured with 0.5 px and tiles of 16 px: a fifth of the tiles are left (two fifths at six times the motion), for
    0.015 dB on Middlebury and less elsewhere.

    Args:
        guesses: (N, K, 4, h, w), pixels at 1/4.
        names: of the guesses; "rest" costs nothing and is always present.

    Returns:
        (N, K, h / TILE, w / TILE) bool.
    """
    apart = (guesses - guesses[:, :1]).abs().amax(2)
    there = F.max_pool2d(apart, TILE_BLOCKS) > 0.25 * APART
    there[:, 0] = True
    for k, name in enumerate(names):
        if name == "rest":
            there[:, k] = True
    return there


def calm(first: Tensor, rest: Tensor, there: Tensor) -> Tensor:
    """In which tiles the first guess alone will do: no other is drawn there, and nothing is judged.

    That is so where both pictures agree under it, and "rest" says or shows the same or is plainly worse. Measured:
    three fifths of the tiles of clips at twice the motion, for 0.01 dB.

    Args:
        first: (N, 11 or more, h, w), the evidence of the first guess, see `Midnet.candidates`.
        rest: of "rest".
        there: of `present`: where another guess is, the pictures must agree better.

    Returns:
        (N, 1, h / TILE, w / TILE) bool.
    """

    def most(x: Tensor) -> Tensor:
        return F.max_pool2d(x, TILE_BLOCKS)

    first, rest = first.float(), rest.float()
    apart, largest = first[:, 10:11], most(first[:, 10:11])
    tones = (first[:, 4:10] - rest[:, 4:10]).abs()
    tones = torch.maximum(tones[:, :3].mean(1, keepdim=True), tones[:, 3:].mean(1, keepdim=True))
    still = most(first[:, :4].abs().amax(1, keepdim=True)) < 0.25 * APART
    still |= (most(rest[:, 10:11]) > largest + WORSE) | (most(tones) < SAME)
    most_apart = torch.where(there.sum(1, keepdim=True) > 2, CALMER, CALM)  # more than the first one and "rest"
    return still & (F.avg_pool2d(apart, TILE_BLOCKS) < most_apart) & (largest < 2.0 * most_apart)


def spread_tiles(x: Tensor, times: int = 1) -> Tensor:
    """Values of tiles (..., h, w), of every block of theirs, or of `times` places of each."""
    side = TILE_BLOCKS * times
    return x.repeat_interleave(side, -2).repeat_interleave(side, -1)


def clues(evidence: Tensor, seen: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """What the judge looks at: differences rather than values, magnitudes without directions, roots of heavy tails.

    So nothing changes when pictures are mirrored or turned, and training may do both to stored evidence.

    Returns:
        Of each guess (N, K, CLUES, h, w), and of the place (N, SHARED_CLUES, h, w).
    """
    with torch.autocast(evidence.device.type, enabled=False):
        evidence = evidence.float()
        to_a, to_b = evidence[:, :, :2], evidence[:, :, 2:4]
        tone_a, tone_b = evidence[:, :, 4:7], evidence[:, :, 7:10]
        apart, off_a, off_b, detail_a, detail_b = (_root(evidence[:, :, k]) for k in range(10, 15))
        hidden_a, hidden_b = 0.25 * evidence[:, :, 15], 0.25 * evidence[:, :, 16]
        least = apart.amin(1, keepdim=True)
        velocity = torch.log1p(_size(to_b - to_a))
        each = [
            apart, apart - least, apart - apart[:, :1], _tones_apart(tone_a, tone_b),
            off_a, off_b, off_a - off_b, detail_a, detail_b, detail_a - detail_b, hidden_a, hidden_b,
            torch.log1p(_size(to_a - to_a[:, :1])), torch.log1p(_size(to_b - to_b[:, :1])),
            _unevenness(to_a), _unevenness(to_b), velocity,
            _tones_apart(tone_a, tone_a[:, :1]), _tones_apart(tone_b, tone_b[:, :1]),
            _tones_apart(tone_a, tone_b[:, :1]), _tones_apart(tone_b, tone_a[:, :1]),
        ]  # fmt: skip
        when = t.expand(-1, 1, *seen.shape[-2:])
        place = [seen, when, 1.0 - when, tone_a[:, 0] - 0.5, tone_b[:, 0] - 0.5, least, velocity[:, :1]]
        return torch.stack(each, 2), torch.cat(place, 1)


def _size(vectors: Tensor) -> Tensor:
    return torch.sqrt((vectors * vectors).sum(2) + 1e-6)


def _root(x: Tensor) -> Tensor:
    return 4.0 * torch.sqrt(x.clamp(min=0.0) + 1e-4)


def _tones_apart(one: Tensor, two: Tensor) -> Tensor:
    return _root((one - two).abs().mean(2))


def _unevenness(flow: Tensor) -> Tensor:
    """How far a flow (N, K, 2, h, w) is from its mean over 3x3 places."""
    return torch.log1p(_size(flow - _mean(flow.flatten(0, 1), 3).view_as(flow)))


class Update(nn.Module):
    """Recurrent update of a flow from a window of correlations (RAFT's, with one 3x3 gated unit)."""

    def __init__(self, context: int, hidden: int) -> None:
        super().__init__()
        self.correlation = conv((2 * LOCAL_RADIUS + 1) ** 2, 64, 1)
        self.motion = conv(64 + 2 + context, 64)
        self.gates = nn.Conv2d(hidden + 64, 2 * hidden, 3, 1, 1)
        self.candidate = nn.Conv2d(hidden + 64, hidden, 3, 1, 1)
        self.delta = nn.Sequential(conv(hidden, 64), nn.Conv2d(64, 2, 3, 1, 1))
        self.shares = nn.Conv2d(hidden, 36, 1)

    def forward(self, state: Tensor, correlation: Tensor, context: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """State, correlations, features of the own frame, scaled flow -> new state, and what to add to the flow."""
        seen = torch.cat([self.correlation(correlation), flow, context], 1)
        motion = self.motion(seen)
        update, reset = torch.sigmoid(self.gates(torch.cat([state, motion], 1))).chunk(2, 1)
        candidate = torch.tanh(self.candidate(torch.cat([reset * state, motion], 1)))
        state = (1 - update) * state + update * candidate
        return state, self.delta(state).float()


class Midnet(Model):
    """Our own network: learned or classical flow, splatted to t, refined and blended by what is seen."""

    name = "midnet"
    context = 1
    stride = 32
    min_side = 64

    def __init__(self, architecture: Architecture = SIZES["midnet-m"]) -> None:
        super().__init__()
        self.architecture = architecture
        if architecture.matcher == "learned":
            self._build_matcher()
        else:
            self.flow_scales = (1.0, 0.5, 0.25)  # type: ignore[misc]
            self.stride = 4 * TILE_BLOCKS  # type: ignore[misc]
            self.prefetch = True  # type: ignore[misc]
        self.judge = Judge(architecture.guesses, *architecture.judge)
        self._initialise()

    def _build_matcher(self) -> None:
        c, hidden = self.architecture.channels, self.architecture.hidden
        self.encode4 = nn.Sequential(conv(3, c[0], 3, 2), conv(c[0], c[1], 3, 2), Residual(c[1]))
        self.encode8 = nn.Sequential(conv(c[1], c[2], 3, 2), Residual(c[2]), Residual(c[2]))
        self.encode16 = nn.Sequential(conv(c[2], c[3], 3, 2), Residual(c[3]))

        self.key16, self.key8, self.key4 = nn.Conv2d(c[3], 64, 1), nn.Conv2d(c[2], 48, 1), nn.Conv2d(c[1], 32, 1)
        self.state16, self.state8 = nn.Conv2d(c[3], hidden, 1), nn.Conv2d(c[2], hidden, 1)
        self.update16, self.update8 = Update(c[3], hidden), Update(c[2], hidden)
        self.refine4 = nn.Sequential(conv(c[1] * 2 + 9 + 2 + hidden // 4, 48), Residual(48), nn.Conv2d(48, 4, 3, 1, 1))
        self.temperature = nn.Parameter(torch.tensor(2.5))  # log; cosines of -1..1 become logits of -12..12

    def _initialise(self) -> None:
        """Kaiming everywhere; what is added to a flow starts small, what is said of guesses at nothing."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, a=0.1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.judge.verdict.weight.zero_()
            for last in (self.judge.spread, self.judge.up8[1]):
                last.weight.mul_(0.3)  # type: ignore[operator]
                last.weight[-3:].zero_()  # type: ignore[index]
            if self.architecture.matcher == "learned":
                for last in (self.update16.delta[1], self.update8.delta[1], self.refine4[2]):
                    next(last.parameters()).mul_(0.05)

    # ---- per frame

    def encode(self, image: Tensor) -> Features:
        """See `Model.encode`."""
        if _compiled(image):
            from midframe.models import drawing

            made = self._of_layers([drawing.layers_of_rgb(x) for x in image])._replace(image=image)
        else:
            bright = brightness(image)
            spline = spline_coefficients(torch.cat([image, bright], 1))
            nothing = image[:, :, :0, :0]
            made = Features(image, bright, F.avg_pool2d(image, 4), spline, (), nothing, nothing, nothing)
        if self.architecture.matcher == "dis":
            return made
        quarter = self.encode4((image - 0.45) / 0.225)
        eighth = self.encode8(F.instance_norm(quarter))
        sixteenth = self.encode16(F.instance_norm(eighth))
        return made._replace(quarter=quarter, eighth=eighth, sixteenth=sixteenth)

    def supports_planes(self, format: PixelFormat, height: int, width: int) -> bool:
        """Light with chroma as large or half as large, where it is drawn compiled and no features are learned."""
        here = self.architecture.matcher == "dis" and self.judge.kind.device.type == "cpu" and not kernels.missing()
        plain = format.layout in ("yuv", "gray") and not format.alpha
        return here and plain and max(format.chroma_w, format.chroma_h) <= 1

    def encode_planes(self, planes: Sequence[Tensor], format: PixelFormat) -> Features:
        """See `Model.encode_planes`."""
        from midframe.models import drawing

        return self._of_layers([drawing.layers_of_planes(planes, format, *self.padded_size(*planes[0].shape))])

    def _of_layers(self, layers: Sequence[Layers]) -> Features:
        bright = _stacked([torch.from_numpy(x.light)[None] for x in layers])
        tones = _stacked([torch.from_numpy(x.tones) for x in layers])
        nothing = bright[:, :, :0, :0]
        return Features(nothing, bright, tones, nothing, tuple(layers), nothing, nothing, nothing)

    # ---- per gap

    def match(self, a: Features, b: Features) -> Motion:
        """See `Model.match`."""
        if self.architecture.matcher == "dis":
            return self.sought(a, b, scale=self.flow_scale)
        found = self.match_all(a, b)
        return self.motion(a, b, *found.quarter[-1].chunk(2), *found.sure.chunk(2))

    def sought(
        self, a: Features, b: Features, how: Sequence[Search] | None = None, scale: float | None = None
    ) -> Motion:
        """`match` by inverse search, whatever the matcher is; for `how` and `scale` see `inverse_search`."""
        smooth = "smooth" in self.architecture.guesses
        ab, ba, view, *others = inverse_search(a.bright, b.bright, how, scale, smooth)
        misses = missed(ab, ba), missed(ba, ab)
        around = surroundings(ab, misses[0]), surroundings(ba, misses[1])
        sure = doubts(ab, ba, view, around, misses)
        return self.motion(a, b, ab, ba, *sure, view=view, around=around, others=tuple(others))

    def motion(
        self,
        a: Features,
        b: Features,
        ab: Tensor,
        ba: Tensor,
        ab_sure: Tensor,
        ba_sure: Tensor,
        *,
        view: Tensor | None = None,
        around: tuple[Tensor, Tensor] | None = None,
        others: tuple[Tensor, ...] = (),
    ) -> Motion:
        """Flows, and what is needed of them for all guesses; see `Motion` and `doubts`.

        The smoothed flows are made of the `others`, if there are any, see `inverse_search`: what these say of small
        things may be wrong, but the judge sees what comes of it.
        """
        if "smooth" not in self.architecture.guesses:
            return Motion(ab, ba, ab_sure, ba_sure, ab, ba, ab_sure, ba_sure)
        with torch.no_grad():
            forth, back = others or (ab, ba)
            smooth = smoothed(a.tones, forth, back), smoothed(b.tones, back, forth)
            return Motion(ab, ba, ab_sure, ba_sure, *smooth, *doubts(*smooth, view, around))

    def flow(self, motion: Motion) -> Tensor:
        """See `Model.flow`; of the smoothed flows if these are guessed, which also follow what small things may do."""
        return motion.smooth_ab

    def match_all(self, a: Features, b: Features) -> Matching:
        """`match` with every intermediate flow; both directions in one batch."""
        here4, here8, here16 = (torch.cat(pair) for pair in zip(a[5:], b[5:], strict=True))
        keys = _unit(self.key16(F.instance_norm(here16)))
        logits, flow = self._match_globally(keys)
        flows16, flows8 = [flow], []

        state = torch.tanh(self.state16(here16))
        other = _swap(keys)
        for _ in range(self.architecture.updates[0]):
            flow = flow.detach()
            seen = 4.0 * local_correlation(keys, warp(other, flow), LOCAL_RADIUS)
            state, delta = self.update16(state, seen, here16, flow * 0.25)
            flow = flow + delta
            flows16.append(flow)
        flow = upsample_convex(flow, self.update16.shares(state))
        flows8.append(flow)

        keys = _unit(self.key8(F.instance_norm(here8)))
        state, other = torch.tanh(self.state8(here8)), _swap(keys)
        for _ in range(self.architecture.updates[1]):
            flow = flow.detach()
            seen = 4.0 * local_correlation(keys, warp(other, flow), LOCAL_RADIUS)
            state, delta = self.update8(state, seen, here8, flow * 0.125)
            flow = flow + delta
            flows8.append(flow)
        flow = upsample_convex(flow, self.update8.shares(state))
        flows4 = [flow]

        features = F.instance_norm(here4)
        keys = _unit(self.key4(features))
        flow = flow.detach()
        seen = 4.0 * local_correlation(keys, warp(_swap(keys), flow), 1)
        other = warp(_swap(features), flow)
        refined = self.refine4(torch.cat([features, other, seen, flow * 0.125, F.pixel_shuffle(state, 2)], 1)).float()
        flows4.append(flow + refined[:, :2])
        return Matching(logits, flows16, flows8, flows4, refined[:, 2:])

    def _match_globally(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """First flow, both ways: the best match of all places, averaged over the 5x5 places around it."""
        height, width = keys.shape[-2:]
        coarse = keys
        while coarse.shape[-2] * coarse.shape[-1] > GLOBAL_TOKENS:
            coarse = _unit(halve(coarse))
        rows, columns = coarse.shape[-2:]
        a, b = coarse.flatten(2).chunk(2)
        with torch.autocast(keys.device.type, enabled=False):
            logits = torch.bmm(a.transpose(1, 2), b) * self.temperature.exp()
        flow = torch.cat([_best_place(logits, rows, columns), _best_place(logits.transpose(1, 2), rows, columns)])
        flow = flow - coordinates(rows, columns, flow.device)
        return logits, resize_flow(flow, height, width)

    # ---- per instant

    def render(self, request: RenderRequest) -> Tensor:
        """See `Model.render`; uses `before` and `after` only together, where both tell of the same acceleration."""
        a, b, motion, t = request.a, request.b, request.motion, request.t
        bend = _bend(motion, request.before, request.after)
        if a.layers:
            from midframe.models import drawing

            pictures = self._pictures(a, b, motion, t, bend)
            return torch.stack([drawing.rgb_of(light, chroma, like) for light, chroma, like in pictures])
        at_once = max(1, AT_ONCE // (a.image.shape[-2] * a.image.shape[-1]))
        if a.image.shape[0] != 1 or t.shape[0] <= at_once:
            return self._render(a, b, motion, t, bend)
        return torch.cat([self._render(a, b, motion, some, bend) for some in torch.split(t, at_once)])

    def _render(
        self, a: Features, b: Features, motion: Motion, t: Tensor, bend: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """`render`, all at once, as tensor operations."""
        count = t.shape[0]
        if a.image.shape[0] != count:
            a, b, motion = _repeated(a, count), _repeated(b, count), _repeated(motion, count)
            bend = None if bend is None else (bend[0].expand_as(motion.ab), bend[1].expand_as(motion.ba))
        t = t.float().view(-1, 1, 1, 1)
        found = self.candidates(a, b, motion, t, bend)
        shares = self.judge(found.evidence, found.seen, t)
        image = torch.zeros_like(found.a[0])
        for k, picture in enumerate((*found.a, *found.b)):
            image = image + quadruple(shares[:, k : k + 1]) * picture
        return image

    def render_planes(self, request: RenderRequest) -> list[tuple[Tensor, ...]]:
        """See `Model.render_planes`."""
        from midframe.models import drawing

        bend = _bend(request.motion, request.before, request.after)
        pictures = self._pictures(request.a, request.b, request.motion, request.t, bend)
        return [drawing.planes_of(*picture) for picture in pictures]

    def _pictures(
        self, a: Features, b: Features, motion: Motion, t: Tensor, bend: tuple[Tensor, Tensor] | None
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32] | None, Layers]]:
        """Light and chroma at every t, compiled, one after the other, and whose like they are; each until the next."""
        from midframe.models import drawing

        several = len(a.layers) > 1
        for n, instant in enumerate(t.tolist()):
            one, two, moves, curve = a, b, motion, bend
            if several:
                this = slice(n, n + 1)
                one, two, moves = members(a, this), members(b, this), members(motion, this)
                curve = None if bend is None else (bend[0][this], bend[1][this])
            found = self._drawn(one, two, moves, instant, curve)
            shares = self.judge.of_drawn(found, instant)
            yield *drawing.mixed(found, shares), one.layers[0]

    def _drawn(
        self, a: Features, b: Features, motion: Motion, t: float, bend: tuple[Tensor, Tensor] | None = None
    ) -> Drawn:
        """Pictures and evidence of one pair, compiled."""
        from midframe.models import drawing

        guessed = drawing.guessed(motion, t, self.architecture.guesses, bend, AROUND, 0.25 * APART)
        hidden = motion.ab_sure[0, 0], motion.ba_sure[0, 0]
        limits = 0.25 * APART, CALM, CALMER, SAME, WORSE
        return drawing.drawn(a.layers[0], b.layers[0], guessed, hidden, self.judge.rest, limits)

    def candidates(
        self, a: Features, b: Features, motion: Motion, t: Tensor, bend: tuple[Tensor, Tensor] | None = None
    ) -> Candidates:
        """Both pictures brought to t under every guess, and what tells how far to trust each.

        Where a guess is not `present`, or the first one is `calm`, it is the first one. Where that is calm so are the
        pictures of "rest", and what of the evidence tells of hidden places, of detail and of the mean is 0.

        Args:
            a: features of the left pictures, batch N.
            b: of the right ones.
            motion: batch N.
            t: (N, 1, 1, 1).
            bend: acceleration at a and b, if known.

        Returns:
            The evidence of a guess in a 4x4 block is the flow to a and to b (4), the mean
            colour of a's and of b's picture (6), how far their brightness is apart, how far a's and b's is from the
            mean of all pictures, the strength of the fine detail of a's and of b's, and the logits that what a and b
            show there is hidden in the other.
        """
        names = self.architecture.guesses
        guesses, seen = carry(motion, t, names, bend)
        rest = self.judge.rest

        def draw(k: int) -> tuple[Tensor, Tensor]:
            if k == rest:
                return torch.cat([a.image, a.bright], 1), torch.cat([b.image, b.bright], 1)
            of_a, of_b = (quadruple(flow, 4.0) for flow in guesses[:, k].chunk(2, 1))
            return warp_spline(a.spline, of_a), warp_spline(b.spline, of_b)

        first, still = draw(0), draw(rest)
        with torch.no_grad():
            there = present(guesses, names)
            alone = calm(_shown(guesses[:, 0], *first), _shown(guesses[:, rest], *still), there)
            there &= ~alone
            there[:, [0, rest]] = True
            guesses = torch.where(spread_tiles(there)[:, :, None], guesses, guesses[:, :1])
            pixels, some = spread_tiles(there, 4)[:, :, None], ~spread_tiles(alone, 4)
        ones, twos = [first[0]], [first[1]]
        for k in range(1, len(names)):
            for made, drawn, leader in zip((ones, twos), still if k == rest else draw(k), first, strict=True):
                made.append(torch.where(pixels[:, k], drawn, leader))
        with torch.no_grad():
            hidden = [
                (warp(motion.ab_sure[:, :1], guess[:, :2]), warp(motion.ba_sure[:, :1], guess[:, 2:]))
                for guess in guesses.unbind(1)
            ]
            evidence = torch.stack(_evidence(ones, twos, guesses.unbind(1), hidden), 1)
            evidence = torch.where(spread_tiles(there)[:, :, None], evidence, evidence[:, :1])
            evidence[:, :, 11:] *= ~spread_tiles(alone)[:, :, None]
        for made in (ones, twos):
            made[rest] = torch.where(some, made[rest], made[0])
        return Candidates(seen, [x[:, :3] for x in ones], [x[:, :3] for x in twos], evidence)

    def stored_candidates(self, a: Features, b: Features, motion: Motion, t: Tensor) -> Candidates:
        """`candidates` of one pair, compiled, to be stored for training."""
        from midframe.models import drawing

        found = self._drawn(a, b, motion, float(t))
        pictures, evidence = (torch.from_numpy(x)[None] for x in drawing.completed(found))
        of_a, of_b = pictures.chunk(2, 1)
        seen = torch.from_numpy(found.seen)[None]
        return Candidates(seen, list(of_a.unbind(1)), list(of_b.unbind(1)), evidence)


def _evidence(
    ones: Sequence[Tensor], twos: Sequence[Tensor], guesses: Sequence[Tensor], hidden: Sequence[tuple[Tensor, Tensor]]
) -> list[Tensor]:
    """Of each guess (N, EVIDENCE, h, w), from colours and brightness (N, 4, H, W); see `Midnet.candidates`."""
    mean = torch.stack([x[:, 3:] for x in (*ones, *twos)]).mean(0)
    found = []
    for one, two, guess, logits in zip(ones, twos, guesses, hidden, strict=True):
        of_a, of_b = one[:, 3:], two[:, 3:]
        off = [F.avg_pool2d((x - mean).abs_(), 4) for x in (of_a, of_b)]
        detail = [F.avg_pool2d((x - _smooth(x)).square_(), 4).sqrt_() for x in (of_a, of_b)]
        found.append(torch.cat([_shown(guess, one, two), *off, *detail, *logits], 1))
    return found


def _shown(guess: Tensor, one: Tensor, two: Tensor) -> Tensor:
    """The first 11 entries of a guess's evidence."""
    tones = [F.avg_pool2d(x[:, :3], 4) for x in (one, two)]
    return torch.cat([guess, *tones, F.avg_pool2d((one[:, 3:] - two[:, 3:]).abs_(), 4)], 1)


def _stacked(some: Sequence[Tensor]) -> Tensor:
    """As a batch; one of them without being copied."""
    return some[0][None] if len(some) == 1 else torch.stack(list(some))


def members(parts: Parts, which: slice) -> Parts:
    """Some of a batch of features or motion."""
    values: list[Any] = [x[which] for x in parts]
    return type(parts)(*values)


def _repeated(parts: Parts, count: int) -> Parts:
    """Features or motion of one pair as those of a batch."""
    values: list[Any] = [x.expand(count, *x.shape[1:]) if isinstance(x, Tensor) else x for x in parts]
    return type(parts)(*values)


def _unit(x: Tensor) -> Tensor:
    x = x.float()  # written out: the library's norm over a strided axis took 28 ms of a training step, ten times over
    return x / torch.sqrt((x * x).sum(1, keepdim=True) + 1e-6)


def _length(flow: Tensor) -> Tensor:
    return torch.sqrt((flow * flow).sum(1, keepdim=True))


def _swap(x: Tensor) -> Tensor:
    first, second = x.chunk(2)
    return torch.cat([second, first])


def _best_place(logits: Tensor, rows: int, columns: int) -> Tensor:
    """(B, 2, rows, columns) coordinates: softmax mean over the 5x5 places around the best of each row of logits."""
    batch = logits.shape[0]
    best = logits.detach().argmax(2)
    offset = torch.arange(-2, 3, device=logits.device)
    y = (best // columns)[..., None, None] + offset.view(5, 1)  # (B, N, 5, 1)
    x = (best % columns)[..., None, None] + offset.view(1, 5)
    inside = ((y >= 0) & (y < rows) & (x >= 0) & (x < columns)).flatten(2)
    index = (y.clamp(0, rows - 1) * columns + x.clamp(0, columns - 1)).flatten(2)  # (B, N, 25)
    share = logits.gather(2, index).masked_fill(~inside, -math.inf).softmax(2)
    x_mean = (share * x.expand(-1, -1, 5, 5).flatten(2)).sum(2)
    y_mean = (share * y.expand(-1, -1, 5, 5).flatten(2)).sum(2)
    return torch.stack([x_mean, y_mean], 1).view(batch, 2, rows, columns)


# Untrained, Middlebury: 35.68 dB down to full size, 35.07 down to half size, at a third of the time. On 30 triplets of
# clips of 720p FAIR has 34.61 dB; a quarter of the size 34.51, at half of the time. Variational refinement takes as
# long as the search and is worth nothing in pictures, but faint grain is followed better (end-point error of the
# rendered suite 0.48 instead of 0.61 px): pictures so small that time does not matter have it. docs/training-log.md,
# "Small pictures without refinement".
FINEST, FINE, FAIR, QUICK = Search(1, 4, 25, 5), Search(1, 4, 25, 0), Search(2, 5, 25, 0), Search(4, 4, 25, 0)
TINY = 120_000  # pixels, up to which a picture has the finest


def inverse_search(
    a: Tensor,
    b: Tensor,
    how: Sequence[Search] | None = None,
    scale: float | None = None,
    small_things: bool = False,
) -> tuple[Tensor, ...]:
    """Flow both ways by inverse search, see `midframe.models.search`; always computed on the CPU.

    Args:
        a: brightness (B, 1, H, W), 0..1.
        b: likewise.
        how: how to seek in each pair; by size if not given.
        scale: of the pictures in which motion is sought: 1, 0.5 or 0.25; by size if not given.
        small_things: whether both flows are wanted once more, with what small things may do that they lose.

    Returns:
        From a to b and from b to a, (B, 2, H/4, W/4) float32, pixels of that size; the views (B, 4), see
        `midframe.models.search.View`; and what else is wanted.
    """
    height, width = a.shape[-2:]
    area = height * width
    before = round(1 / (scale or scale_by_size(area)))
    how = how or [by_size(area // before**2, (FINEST, FINE, FAIR, QUICK), (TINY, *LIMITS))] * len(a)
    flows, views = [], []
    for one, two, each in zip(*(some.detach().float()[:, 0].cpu().numpy() for some in (a, b)), how, strict=True):
        shrink = shrink_within(before * each.shrink, height, width)
        found = both_ways(_grey(one, shrink), _grey(two, shrink), each, max(1, 4 // shrink), small_things)
        plain = found.forth, found.back
        for flow in (*plain, *(found.others or plain)) if small_things else plain:
            flows.append(resized(flow, height // 4, width // 4))
        views.append(found.view)
    found_flows = torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).contiguous().to(a.device)
    ways = len(flows) // len(views)
    forth, back, *others = (found_flows[n::ways] for n in range(ways))
    return forth, back, torch.tensor(views, dtype=torch.float32, device=a.device), *others


def _grey(bright: NDArray[np.float32], shrink: int) -> NDArray[np.uint8]:
    """Brightness 0..1 as levels, at the size at which motion is sought."""
    import cv2

    height, width = bright.shape
    if shrink > 1:
        size = width // shrink, height // shrink
        bright = np.asarray(cv2.resize(bright, size, interpolation=cv2.INTER_AREA), np.float32)
    return np.asarray(cv2.addWeighted(bright, 255.0, bright, 0.0, 0.0, dtype=cv2.CV_8U))


def doubts(
    ab: Tensor,
    ba: Tensor,
    view: Tensor | None = None,
    around: tuple[Tensor, Tensor] | None = None,
    misses: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """`ab_sure` and `ba_sure` of a `Motion`, told by how far, in pixels, the two flows miss each other.

    What leads out of the view is hidden there as well, but its flow may be as good as any. For the importance a miss
    counts against the length of the vector (Sundaram, Brox & Keutzer 2010), or blurred things in flight, whose surface
    flows follow less exactly, would be drawn in shreds; and what is in front is above all others.

    Args:
        ab: (B, 2, h, w).
        ba: likewise.
        view: (B, 4), see `inverse_search`; the whole picture if not given.
        around: of both, see `surroundings`; if not given, what is in front of what is not asked.
        misses: of both, see `missed`, if they are known.
    """
    found = []
    misses = misses or (missed(ab, ba), missed(ba, ab))
    for way, flow in enumerate((ab, ba)):
        miss = misses[way]
        hidden = torch.maximum(miss, LEFT * outside(flow, view))
        stray = (miss / (4.0 * STRAY * _length(flow)).clamp(min=1.0)).clamp(max=8.0)
        importance = -stray * DOUBT
        if around is not None:
            importance = importance + FRONT * in_front(flow, around[way], misses[1 - way]) * (stray < HELD)
        found.append(torch.cat([hidden.clamp(max=8.0) - 2.0, importance], 1))
    return found[0], found[1]


def surroundings(flow: Tensor, miss: Tensor) -> Tensor:
    """How what lies around each place moves, see `midframe.models.search.surroundings`; computed on the CPU.

    Args:
        flow: (B, 2, h, w).
        miss: (B, 1, h, w), of `missed`; where that is much nothing is known.
    """
    known = (torch.exp(-0.5 * miss * miss) + 1e-4).detach().cpu()
    found = [
        search.surroundings(moves.permute(1, 2, 0).contiguous().numpy(), weight.numpy())
        for moves, weight in zip(flow.detach().float().cpu(), known[:, 0], strict=True)
    ]
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous().to(flow.device)


def in_front(flow: Tensor, around: Tensor, missed_there: Tensor) -> Tensor:
    """How surely each place of a picture lies in front of its surroundings, 0..1; (B, 1, h, w).

    What goes another way than its surroundings uncovers in the other picture, where these go, what this one does not
    show: so flows miss each other there. What passes behind uncovers nothing. A thing that moves by more than its own
    width needs it: in between it lies over ground that both pictures show, and of which both flows are as sure.

    Args:
        flow: (B, 2, h, w), pixels of that size.
        around: how what lies around each place moves, see `surroundings`.
        missed_there: (B, 1, h, w), by how many full-size pixels flows miss each other at places of the other picture.
    """
    away = 4.0 * _length(flow - around)
    own = (away / OWN_WAY - 1.0).clamp(0.0, 1.0)
    if not own.any():
        return own
    uncovered = warp(missed_there, around) / (UNCOVERED * away).clamp(min=1e-3) - 1.0
    return own * F.max_pool2d(_mean(uncovered.clamp(0.0, 1.0) * own, 3), 3, 1, 1)


def outside(flow: Tensor, view: Tensor | None = None) -> Tensor:
    """By how many full-size pixels a flow at 1/4 leads out of the view; (B, 1, h, w)."""
    height, width = flow.shape[-2:]
    x, y = (coordinates(height, width, flow.device) + flow).chunk(2, 1)
    whole = flow.new_tensor([[0.0, 0.0, 1.0, 1.0]]) if view is None else view
    left, top, right, bottom = whole.view(-1, 4, 1, 1, 1).unbind(1)
    across = torch.maximum(left * width - x, x - (right * width - 1))
    down = torch.maximum(top * height - y, y - (bottom * height - 1))
    return 4.0 * torch.maximum(across, down).clamp(min=0.0)


def missed(flow: Tensor, back: Tensor) -> Tensor:
    """By how many full-size pixels one misses the start, going along a flow at 1/4 and back; (B, 1, h, w)."""
    if _compiled(flow, back):
        from midframe.models import drawing

        return drawing.missed(flow, back)
    return 4.0 * _length(flow + warp(back, flow))


def smoothed(tones: Tensor, flow: Tensor, back: Tensor) -> Tensor:
    """A flow of which places that are in doubt take the mean of the 7x7 around, of like colour and without doubt.

    What is hidden in the other picture has no match, and inverse search finds some; its own surface around it knows
    better (weighted filtering of flows by colour: Sun, Roth & Black 2010).

    Args:
        tones: (B, 3, H/4, W/4), mean colours of the picture whose pixels move.
        flow: (B, 2, H/4, W/4).
        back: the flow of the other picture.
    """
    sure = torch.exp(-missed(flow, back)) + 1e-3
    if _compiled(tones, flow):
        from midframe.models import drawing

        return drawing.smoothed(tones, flow, sure, SMOOTH, ALIKE, SURE)
    height, width = flow.shape[-2:]
    wide = F.pad(torch.cat([flow, tones, sure], 1).float(), (SMOOTH,) * 4, mode="replicate")
    total, load = torch.zeros_like(flow), torch.zeros_like(sure)
    for dy in range(-SMOOTH, SMOOTH + 1):
        for dx in range(-SMOOTH, SMOOTH + 1):
            there = wide[..., SMOOTH + dy : SMOOTH + dy + height, SMOOTH + dx : SMOOTH + dx + width]
            unlike = (there[:, 2:5] - tones).square().sum(1, keepdim=True) * (0.5 / ALIKE**2)
            weight = there[:, 5:] * torch.exp(-unlike - (dx * dx + dy * dy) / (2.0 * SMOOTH**2))
            total, load = total + weight * there[:, :2], load + weight
    kept = (SURE * sure).clamp(max=1.0)
    return flow * kept + total / load * (1.0 - kept)


def acceleration(motion: Motion, before: Motion, after: Motion) -> tuple[Tensor, Tensor]:
    """Second differences of position at a and at b from the flows of the gaps before and after.

    At a: x(1) - 2 x(0) + x(-1) = flow a to b + flow a to before. Used where the two ends tell the same, never more
    than half the velocity.

    Returns:
        For pixels of a and of b, (B, 2, h, w) float32, pixels per gap squared.
    """
    at_a, at_b = motion.ab + before.ba, motion.ba + after.ab
    if _compiled(at_a, at_b):
        from midframe.models import drawing

        return drawing.agreed(at_a, at_b, motion.ab), drawing.agreed(at_b, at_a, motion.ba)
    return _agreed(at_a, warp(at_b, motion.ab), motion.ab), _agreed(at_b, warp(at_a, motion.ba), motion.ba)


def _bend(motion: Motion, before: Motion | None, after: Motion | None) -> tuple[Tensor, Tensor] | None:
    return None if before is None or after is None else acceleration(motion, before, after)


def _agreed(one: Tensor, two: Tensor, velocity: Tensor) -> Tensor:
    mean, apart = 0.5 * (one + two), _length(one - two)
    size = _length(mean)
    agree = (1.0 - apart / (size + 1e-6)).clamp(0.0, 1.0)  # apart by as much as they are large: nothing is used
    cap = (0.5 * _length(velocity) / (size + 1e-6)).clamp(max=1.0)
    return mean * agree * cap


def carry(
    motion: Motion, t: Tensor, names: Sequence[str], bend: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Guesses of the flows from t to a and to b.

    "carried" is the best at hand: both flows splatted to t by importance, holes filled by the linear combination;
    "smooth" is the same of the smoothed flows. "alone_a" and "alone_b" are each flow alone, splatted; "right", "left",
    "below" and "above" what is carried to a place that far off (edges of a flow are seldom where those of the picture
    are); "rest" no motion (what stands still over what moves).

    Measured on Middlebury with inverse search: were the best of ten such guesses known for each 8x8 block, 37.3 dB
    instead of 35.8.

    Args:
        motion: of the gap.
        t: (N, 1, 1, 1).
        names: of the guesses wanted.
        bend: acceleration at a and b, if known.

    Returns:
        Guesses (N, len(names), 4, h, w), flow to a and flow to b, and what is known of visibility (N, 3, h, w): how
        much of a, how much of b landed here (0..1), and the first mask logit from the two.
    """
    first, alone_a, alone_b, load_a, load_b = _carried(motion, t, bend)
    found = {"carried": first, "alone_a": alone_a, "alone_b": alone_b, "rest": torch.zeros_like(first)}
    if "smooth" in names:
        found["smooth"] = _carried(Motion(*motion[4:], *motion[4:]), t, bend)[0]
    height, width = first.shape[-2:]
    wide = F.pad(first, (AROUND,) * 4, mode="replicate")
    for name, dx, dy in (("right", 1, 0), ("left", -1, 0), ("below", 0, 1), ("above", 0, -1)):
        top, left = AROUND * (1 + dy), AROUND * (1 + dx)
        found[name] = wide[..., top : top + height, left : left + width]
    cover_a, cover_b = load_a / (load_a + 0.25), load_b / (load_b + 0.25)
    seen = torch.cat([cover_a, cover_b, 2.0 * (cover_a - cover_b)], 1).detach()
    return torch.stack([found[name] for name in names], 1), seen


def _carried(motion: Motion, t: Tensor, bend: tuple[Tensor, Tensor] | None) -> tuple[Tensor, ...]:
    """Both flows splatted to t together, each alone, and how much of each landed."""
    ab, ba = motion.ab, motion.ba
    s = 1.0 - t
    place_a, place_b = t * ab, s * ba  # from a to t, from b to t
    if bend is not None:
        place_a = place_a - 0.5 * t * s * bend[0]
        place_b = place_b - 0.5 * t * s * bend[1]
    own_a, own_b = torch.cat([-place_a, ab - place_a], 1), torch.cat([ba - place_b, -place_b], 1)
    weight = torch.cat([motion.ab_sure[:, 1:], motion.ba_sure[:, 1:]]).clamp(-6.0, 6.0).exp()
    own, place = torch.cat([own_a, own_b]), torch.cat([place_a, place_b]).detach()
    carried, load = splat(own, place, weight)
    (from_a, from_b), (load_a, load_b) = carried.chunk(2), load.chunk(2)
    # the linear combination: what each flow says at its own place
    fill = torch.cat([-t * s * ab + t * t * ba, s * s * ab - t * s * ba], 1)
    if bend is not None:
        curve = 0.5 * t * s * (s * bend[0] + t * bend[1])
        fill = fill + torch.cat([curve, curve], 1)
    floor = 0.05
    first = (s * from_a + t * from_b + floor * fill) / (s * load_a + t * load_b + floor)
    alone_a, alone_b = (from_a + floor * own_a) / (load_a + floor), (from_b + floor * own_b) / (load_b + floor)
    return first, alone_a, alone_b, load_a, load_b


# Weights on disk


def save_midnet(path: Path, state: Mapping[str, Tensor], architecture: Architecture, notes: Mapping[str, str]) -> None:
    """Write weights as safetensors, 16 bits, architecture and notes in the metadata; temporary name, then rename."""
    from safetensors.torch import save_file

    small = {name: value.detach().half().contiguous().cpu() for name, value in state.items()}
    hidden = path.with_name(f".{path.name}-{os.getpid()}")
    save_file(small, hidden, {"architecture": json.dumps(architecture.to_json()), **notes})
    hidden.chmod(0o644)  # safetensors makes it readable by its owner alone
    hidden.replace(path)


def load_midnet(path: Path, name: str = "") -> Midnet:
    """A network as `save_midnet` wrote it, in float32, on the CPU.

    Args:
        path: a file, or a folder with `<name>.safetensors` in it.
        name: of the model.

    Raises:
        WeightsError: missing, damaged, or not midnet's.
    """
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        path = path / f"{name}.safetensors"
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; a safetensors file of midnet is needed")
    try:
        with safe_open(path, "pt") as file:
            told = (file.metadata() or {}).get("architecture")
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from error
    try:
        architecture = Architecture.from_json(json.loads(told or ""))
        if name in SIZES and replace(architecture, matcher=SIZES[name].matcher) != SIZES[name]:
            raise ValueError(f"they are not of the size of {name}")
        net = Midnet(architecture)
        net.load_state_dict(state)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path} holds no weights of a midnet that this version can build: {reason}") from error
    kernels.warn_if_missing()
    net.name = name or Midnet.name  # type: ignore[misc]
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
