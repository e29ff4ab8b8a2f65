"""midnet: our own network. Features per frame, motion per gap, picture per instant; sizes S, M and L.

The figure, with M's channels (fractions are of the picture's side):

    encode   1/2: 16 - 1/4: 32 - 1/8: 64 - 1/16: 96, convolutions without learned normalisation
    match    1/16  all-pairs cosine correlation, best place and its 5x5 neighbourhood -> first flow
             1/16  two recurrent updates, each looking at a 7x7 correlation of warped features
             1/8   two recurrent updates, likewise
             1/4   refinement by a 3x3 correlation; occlusion and importance of every pixel
    render   1/4   flows carried to t by splatting, holes filled from the linear combination; beside them other guesses
                   (each flow alone, at its own place or splatted; what is carried to the places around; no motion), and
                   how well the two pictures agree under each; a U of 1/4, 1/8 and 1/16 weighs them and corrects
             1/2   refined again with pictures of half size
             1/1   one Gauss-Newton step on the brightness of the two warped pictures (no parameters)
             1/1   warp by cubic splines, mask and correction computed on 2x2 blocks; detail in which the two warped
                   pictures disagree is toned down (no parameters)

It knows no file, no time base and no device policy. Flow, coordinates, correlations and sampling are float32; only
convolutions follow the autocast of the caller. With the matcher "dis" the flow is OpenCV's dense inverse search and the
stages at 1/8 and 1/16 are absent. Sources of ideas: RAFT (Teed & Deng 2020) for recurrent updates and convex
upsampling, GMFlow (Xu et al. 2022) for global matching, softmax splatting (Niklaus & Liu 2020), Lucas & Kanade 1981.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from midframe.errors import WeightsError
from midframe.models.base import Model, scale_by_size
from midframe.ops import coordinates, resize_flow, splat, warp

LUMA = (0.299, 0.587, 0.114)
DOUBT = 0.5  # log importance lost per pixel by which forward and backward flow miss each other
TILE = 8  # places; sides of the blocks in which local correlation is computed
LOCAL_RADIUS = 3  # places at 1/16 and 1/8: a 7x7 window
AROUND = 4  # places at 1/4 from which neighbouring flows are borrowed: an edge of a flow is often that far off
CANDIDATES = 10  # guesses of the flow at t that are weighed
FIRST_GUESS = 4.0  # logit by which the carried flow is ahead of the other guesses before anything is learned
FINE_UP_TO = 450_000  # pixels up to which inverse search goes down to full size: +0.6 dB untrained at thrice the time
POLISH = 0.85  # of the step that would make two warped pictures agree
MOST_DETAIL_LOST = 0.5  # share of what two warped pictures disagree in; 0.7 is 0.02 dB better, and too soft
GLOBAL_TOKENS = 8704  # places at 1/16 that are matched against each other: 1080p has 8160; above, 2x2 are averaged


@dataclass(frozen=True, slots=True)
class Architecture:
    """What must be known to build a midnet; stored in the metadata of its weights."""

    channels: tuple[int, int, int, int] = (16, 32, 64, 96)  # of features at 1/2, 1/4, 1/8, 1/16
    render: tuple[int, int] = (48, 32)  # of the render stage at 1/4 and 1/2
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
    "midnet-s": Architecture((16, 32, 48, 64), (32, 16), 48),
    "midnet-m": Architecture(),
    "midnet-l": Architecture((32, 48, 96, 128), (80, 48), 96),
}


class Features(NamedTuple):
    """What `encode` returns: the picture, as a spline too, and its features at 1/2, 1/4, 1/8 and 1/16."""

    image: Tensor  # (B, 3, H, W)
    half: Tensor
    quarter: Tensor
    eighth: Tensor
    sixteenth: Tensor
    spline: Tensor  # (B, 3, H + 4, W + 4), see `spline_coefficients`


class Motion(NamedTuple):
    """What `match` returns, at 1/4 of the picture, flow in pixels of that size."""

    ab: Tensor  # (B, 2, H/4, W/4)
    ba: Tensor
    ab_sure: Tensor  # (B, 2, H/4, W/4): logit that the pixel of a is not seen in b; log importance
    ba_sure: Tensor


class Matching(NamedTuple):
    """All intermediate flows of `match`, for training: batch 2B, first a to b, then b to a."""

    logits: Tensor  # (B, N, N) all-pairs correlation
    sixteenth: list[Tensor]
    eighth: list[Tensor]
    quarter: list[Tensor]
    sure: Tensor


class Rendering(NamedTuple):
    """What the render stage makes, for training."""

    image: Tensor  # (N, 3, H, W)
    to_a: list[Tensor]  # flow from t to a at 1/4, 1/2 (pixels of that size)
    to_b: list[Tensor]
    mask: Tensor  # (N, 1, H, W) logit: above 0 picks a
    guesses: Tensor  # (N, CANDIDATES, 4, H/4, W/4), see `carry`
    shares: Tensor  # (N, CANDIDATES, H/4, W/4): how much of each was taken


def activation() -> nn.Module:
    """Leaky rectifier; cheap and fuses with the convolution before it."""
    return nn.LeakyReLU(0.1)


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
        return F.leaky_relu(x + self.second(self.first(x)), 0.1)


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
    shares, places = [], []
    for axis, size in ((0, columns), (1, rows)):
        at = where[:, axis].clamp(0.0, size - 5.0) + 2.0
        first = at.detach().floor()
        f = at - first
        g = 1.0 - f
        low, high = g * g * g / 6.0, f * f * f / 6.0
        near = 2.0 / 3.0 - 0.5 * f * f * (2.0 - f)  # of the place itself; that before it has `low`
        share = low + near
        shares.append((share, 1.0 - share))
        pair = first - 1.0 + near / share, first + 1.0 + high / (1.0 - share)
        places.append([p * (2.0 / (size - 1)) - 1.0 for p in pair])
    grids = [torch.stack([x, y], -1) for y in places[1] for x in places[0]]
    fetched = F.grid_sample(coefficients, torch.cat(grids, 1), mode="bilinear", align_corners=True)
    parts = fetched.chunk(4, 2)
    left, right = (x[:, None] for x in shares[0])
    top, bottom = (y[:, None] for y in shares[1])
    return top * (left * parts[0] + right * parts[1]) + bottom * (left * parts[2] + right * parts[3])


def reconcile(image: Tensor, a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Detail in which two warped pictures disagree is toned down: Wiener's filter with the noise known from two copies.

    Two pictures of the same texture, each shifted by an error of the flow, are two noisy copies of it. How far they
    differ in what is finer than about three pixels tells the noise of their mean; of detail that is mostly noise only
    a part is kept. No parameters are learned. Middlebury +0.09 dB, Vimeo +0.15 dB, SSIM +0.0015 on both.

    Args:
        image: (B, 3, H, W), the mixture.
        a: what it was mixed of.
        b: likewise.
        share: (B, 1, H, W), of a, 0..1.
    """
    fine = image - _smooth(image)
    with torch.no_grad():
        apart = a - b
        apart = apart - _smooth(apart)
        noise = _mean(share * (1.0 - share) * (apart * apart).mean(1, keepdim=True), 7)
        ratio = noise / (_mean((fine * fine).mean(1, keepdim=True), 7) + 1e-6)
        lost = (ratio * ratio.sqrt()).clamp(max=MOST_DETAIL_LOST)
    return image - fine * lost


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


def polish(a: Tensor, b: Tensor) -> Tensor:
    """One Gauss-Newton step between two warped pictures (Lucas & Kanade 1981), symmetric, no parameters.

    Gradients and differences of brightness at full size, gathered in 6x6 windows, solved at half size.

    Args:
        a: (B, 3, H, W) what a says about the picture at t.
        b: what b says about it.

    Returns:
        (B, 2, H/2, W/2) float32: by how many full-size pixels b's flow has still to grow for the two to agree,
        at most 1.
    """
    weights = a.new_tensor(LUMA).view(1, 3, 1, 1)
    a, b = (a * weights).sum(1, keepdim=True), (b * weights).sum(1, keepdim=True)
    wide = F.pad(0.5 * (a + b), (1, 1, 1, 1), mode="replicate")
    gx = 0.5 * (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2])
    gy = 0.5 * (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1])
    change = b - a
    trust = 1.0 / (change.abs() * 20.0 + 1.0)  # a difference of 0.05 counts half: robust against occlusion
    sums = torch.cat([gx * gx, gx * gy, gy * gy, gx * change, gy * change], 1) * trust
    sums = _mean(halve(sums), 3)
    xx, xy, yy, xt, yt = (sums[:, k : k + 1] for k in range(5))
    xx, yy = xx + 2e-4, yy + 2e-4  # keeps flat regions where they are
    area = xx * yy - xy * xy
    step = torch.cat([(xy * yt - yy * xt) / area, (xy * xt - xx * yt) / area], 1)
    return step.clamp(-1.0, 1.0)


class Context(nn.Module):
    """A small U below 1/4: what lies around a place, seen at 1/8 and 1/16, added to what is known of it."""

    def __init__(self, channels: int, deep: int) -> None:
        super().__init__()
        self.down8 = nn.Sequential(conv(channels, deep, 3, 2), Residual(deep))
        self.down16 = nn.Sequential(conv(deep, deep, 3, 2), Residual(deep), Residual(deep))
        self.up8 = nn.Sequential(conv(deep, deep), nn.Conv2d(deep, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to the same; H and W multiples of 4."""
        eighth = self.down8(x)
        both = eighth + F.interpolate(self.down16(eighth), scale_factor=2.0, mode="nearest")
        around: Tensor = F.interpolate(self.up8(both), scale_factor=2.0, mode="bilinear", align_corners=False)
        return x + around


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
        c, (wide, thin) = architecture.channels, architecture.render
        self.encode2 = conv(3, c[0], 3, 2)
        self.encode4 = nn.Sequential(conv(c[0], c[1], 3, 2), Residual(c[1]))
        if architecture.matcher == "learned":
            self._build_matcher()
        else:
            self.flow_scales = (1.0, 0.5, 0.25)  # type: ignore[misc]
        deep = 2 * architecture.render[1]
        seen = c[1] * 2 + 11 + CANDIDATES
        self.blend4 = nn.Sequential(conv(seen, wide), Context(wide, deep), Residual(wide), Residual(wide))
        self.out4 = nn.Conv2d(wide, 5 + CANDIDATES, 3, 1, 1)
        self.blend2 = nn.Sequential(conv(c[0] * 2 + 6 + 4 + 1 + wide // 4, thin), Residual(thin))
        self.out2 = nn.Conv2d(thin, 5, 3, 1, 1)
        self.fuse = nn.Sequential(conv(24 + thin + 3, thin), Residual(thin), nn.Conv2d(thin, 16, 3, 1, 1))
        self._initialise()

    def _build_matcher(self) -> None:
        c, hidden = self.architecture.channels, self.architecture.hidden
        self.encode8 = nn.Sequential(conv(c[1], c[2], 3, 2), Residual(c[2]), Residual(c[2]))
        self.encode16 = nn.Sequential(conv(c[2], c[3], 3, 2), Residual(c[3]))

        self.key16, self.key8, self.key4 = nn.Conv2d(c[3], 64, 1), nn.Conv2d(c[2], 48, 1), nn.Conv2d(c[1], 32, 1)
        self.state16, self.state8 = nn.Conv2d(c[3], hidden, 1), nn.Conv2d(c[2], hidden, 1)
        self.update16, self.update8 = Update(c[3], hidden), Update(c[2], hidden)
        self.refine4 = nn.Sequential(conv(c[1] * 2 + 9 + 2 + hidden // 4, 48), Residual(48), nn.Conv2d(48, 4, 3, 1, 1))
        self.temperature = nn.Parameter(torch.tensor(2.5))  # log; cosines of -1..1 become logits of -12..12

    def _initialise(self) -> None:
        """Kaiming everywhere; what is added to a flow or to the picture starts near or at nothing."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.1)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        with torch.no_grad():
            for last in (self.out4, self.out2, self.fuse[2]):  # begins as the first guess, polished and blended
                next(last.parameters()).zero_()
            if self.architecture.matcher == "learned":
                for last in (self.update16.delta[1], self.update8.delta[1], self.refine4[2]):
                    next(last.parameters()).mul_(0.05)

    # ---- per frame

    def encode(self, image: Tensor) -> Features:
        """See `Model.encode`."""
        spline = spline_coefficients(image)
        half = self.encode2((image - 0.45) / 0.225)
        quarter: Tensor = self.encode4(half)
        if self.architecture.matcher == "dis":
            nothing = image[:, :, :1, :1]
            return Features(image, half, quarter, nothing, nothing, spline)
        eighth = self.encode8(F.instance_norm(quarter))
        sixteenth = self.encode16(F.instance_norm(eighth))
        return Features(image, half, quarter, eighth, sixteenth, spline)

    # ---- per gap

    def match(self, a: Features, b: Features) -> Motion:
        """See `Model.match`."""
        if self.architecture.matcher == "dis":
            return inverse_search(a.image, b.image, scale=self.flow_scale)
        found = self.match_all(a, b)
        ab, ba = found.quarter[-1].chunk(2)
        ab_sure, ba_sure = found.sure.chunk(2)
        return Motion(ab, ba, ab_sure, ba_sure)

    def flow(self, motion: Motion) -> Tensor:
        """See `Model.flow`."""
        return double(double(motion.ab, 2.0), 2.0)

    def match_all(self, a: Features, b: Features) -> Matching:
        """`match` with every intermediate flow; both directions in one batch."""
        here = [torch.cat(pair) for pair in zip(a, b, strict=True)]
        keys = _unit(self.key16(F.instance_norm(here[4])))
        logits, flow = self._match_globally(keys)
        flows16, flows8 = [flow], []

        state = torch.tanh(self.state16(here[4]))
        other = _swap(keys)
        for _ in range(self.architecture.updates[0]):
            flow = flow.detach()
            seen = 4.0 * local_correlation(keys, warp(other, flow), LOCAL_RADIUS)
            state, delta = self.update16(state, seen, here[4], flow * 0.25)
            flow = flow + delta
            flows16.append(flow)
        flow = upsample_convex(flow, self.update16.shares(state))
        flows8.append(flow)

        keys = _unit(self.key8(F.instance_norm(here[3])))
        state, other = torch.tanh(self.state8(here[3])), _swap(keys)
        for _ in range(self.architecture.updates[1]):
            flow = flow.detach()
            seen = 4.0 * local_correlation(keys, warp(other, flow), LOCAL_RADIUS)
            state, delta = self.update8(state, seen, here[3], flow * 0.125)
            flow = flow + delta
            flows8.append(flow)
        flow = upsample_convex(flow, self.update8.shares(state))
        flows4 = [flow]

        features = F.instance_norm(here[2])
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

    def render(
        self,
        a: Features,
        b: Features,
        motion: Motion,
        t: Tensor,
        before: Motion | None = None,
        after: Motion | None = None,
    ) -> Tensor:
        """See `Model.render`; uses `before` and `after` only together, where both tell of the same acceleration."""
        return self.render_all(a, b, motion, t, before, after).image

    def render_all(
        self,
        a: Features,
        b: Features,
        motion: Motion,
        t: Tensor,
        before: Motion | None = None,
        after: Motion | None = None,
    ) -> Rendering:
        """`render` with every intermediate flow and the mask."""
        count = t.shape[0]
        bend = None if before is None or after is None else acceleration(motion, before, after)
        if a.image.shape[0] != count:
            a, b = (Features(*(x.expand(count, *x.shape[1:]) for x in f)) for f in (a, b))
            motion = Motion(*(x.expand(count, *x.shape[1:]) for x in motion))
            bend = None if bend is None else (bend[0].expand_as(motion.ab), bend[1].expand_as(motion.ba))
        t = t.float().view(-1, 1, 1, 1)
        guesses, seen = carry(motion, t, bend)
        to_a, to_b = guesses[:, 0, :2], guesses[:, 0, 2:]
        misfit = disagreement(F.avg_pool2d(a.image, 4), F.avg_pool2d(b.image, 4), guesses)

        sure_a, sure_b = warp(motion.ab_sure, to_a), warp(motion.ba_sure, to_b)
        inputs = [warp(a.quarter, to_a), warp(b.quarter, to_b), to_a * 0.125, to_b * 0.125, sure_a, sure_b]
        state = self.blend4(torch.cat([*inputs, seen, misfit * 8.0], 1))
        out = self.out4(state).float()
        ahead = out.new_tensor([FIRST_GUESS] + [0.0] * (CANDIDATES - 1)).view(1, -1, 1, 1)
        share = (out[:, 5:] + ahead).softmax(1)
        chosen = (guesses * share[:, :, None]).sum(1)
        flows_a, flows_b = [chosen[:, :2] + out[:, :2]], [chosen[:, 2:] + out[:, 2:4]]
        to_a, to_b = double(flows_a[0], 2.0), double(flows_b[0], 2.0)
        mask = double(out[:, 4:5] + seen[:, 2:3])

        inputs = [warp(a.half, to_a), warp(b.half, to_b), warp(halve(a.image), to_a), warp(halve(b.image), to_b)]
        state = self.blend2(torch.cat([*inputs, to_a * 0.125, to_b * 0.125, mask, F.pixel_shuffle(state, 2)], 1))
        out = self.out2(state).float()
        to_a, to_b, mask = to_a + out[:, :2], to_b + out[:, 2:4], mask + out[:, 4:]
        flows_a.append(to_a)
        flows_b.append(to_b)

        with torch.no_grad():
            step = POLISH * polish(warp(a.image, double(to_a, 2.0)), warp(b.image, double(to_b, 2.0)))
        # both sides go half the way in proportion to how far they are, so that t stays t
        to_a, to_b = double(to_a * 2.0 - t * step), double(to_b * 2.0 + (1 - t) * step)
        from_a, from_b = warp_spline(a.spline, to_a), warp_spline(b.spline, to_b)
        blocks = F.pixel_unshuffle(torch.cat([from_a, from_b], 1), 2)
        out = F.pixel_shuffle(self.fuse(torch.cat([blocks, state, step, mask], 1)), 2).float()
        mask = double(mask) + out[:, 3:]
        share_a = (1 - t) * torch.sigmoid(mask)
        share_b = t * torch.sigmoid(-mask)
        share_a = share_a / (share_a + share_b)
        image = share_a * from_a + (1.0 - share_a) * from_b + 0.1 * out[:, :3]
        image = reconcile(image, from_a, from_b, share_a)
        return Rendering(image, flows_a, flows_b, mask, guesses, share)


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


def inverse_search(a: Tensor, b: Tensor, fine: Sequence[bool] | None = None, scale: float | None = None) -> Motion:
    """Motion by OpenCV's dense inverse search (Kroeger et al. 2016); always computed on the CPU.

    How far the two ways miss each other tells what is hidden: that, in pixels, is both the importance and the doubt.

    Args:
        a: (B, 3, H, W) RGB, 0..1.
        b: likewise.
        fine: of each pair, whether the search goes down to the finest scale; by size if not given.
        scale: of the pictures in which motion is sought: 1, 0.5 or 0.25; by size if not given.
    """
    height, width = a.shape[-2:]
    area = height * width
    shrink = round(1 / (scale or scale_by_size(area)))
    fine = fine or [area <= FINE_UP_TO * shrink * shrink] * len(a)
    weights = a.new_tensor(LUMA).view(1, 3, 1, 1)
    with torch.autocast(a.device.type, enabled=False):
        small = [F.avg_pool2d((x.detach().float() * weights).sum(1, keepdim=True), shrink)[:, 0] for x in (a, b)]
    greys = [(x * 255).round().clamp(0, 255).byte().cpu().numpy() for x in small]
    pairs = [task for one, two, deep in zip(*greys, fine, strict=True) for task in ((one, two, deep), (two, one, deep))]
    with ThreadPoolExecutor(2) as pool:  # both ways at a time; OpenCV lets go of the interpreter
        flows = list(pool.map(_search, pairs))
    flow = torch.from_numpy(np.stack(flows)).permute(0, 3, 1, 2).to(a.device)
    factor = 4 // shrink
    flow = F.avg_pool2d(flow, factor) / factor if factor > 1 else flow
    ab, ba = flow[0::2], flow[1::2]
    sure = []
    for one, two in ((ab, ba), (ba, ab)):
        miss = 4.0 * _length(one + warp(two, one))
        sure.append(torch.cat([miss.clamp(max=8.0) - 2.0, -miss.clamp(max=8.0) * DOUBT], 1))
    return Motion(ab, ba, *sure)


def _search(task: tuple[NDArray[np.uint8], NDArray[np.uint8], bool]) -> NDArray[np.float32]:
    """Flow (h, w, 2) from one grey picture to another."""
    import cv2

    one, two, fine = task
    finder = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # Patches half a patch apart. Untrained, Middlebury: 35.68 dB down to full size, 35.07 down to half size; the latter
    # takes a third to a quarter of the time, and what it lacks is sub-pixel accuracy, which `polish` wins back in part.
    finder.setFinestScale(0 if fine else 1)
    finder.setPatchStride(4)
    return np.asarray(finder.calc(one, two, None), np.float32)  # type: ignore[call-overload]


def acceleration(motion: Motion, before: Motion, after: Motion) -> tuple[Tensor, Tensor]:
    """Second differences of position at a and at b from the flows of the gaps before and after.

    At a: x(1) - 2 x(0) + x(-1) = flow a to b + flow a to before. Used where the two ends tell the same, never more
    than half the velocity.

    Returns:
        For pixels of a and of b, (B, 2, h, w) float32, pixels per gap squared.
    """
    at_a, at_b = motion.ab + before.ba, motion.ba + after.ab
    return _agreed(at_a, warp(at_b, motion.ab), motion.ab), _agreed(at_b, warp(at_a, motion.ba), motion.ba)


def _agreed(one: Tensor, two: Tensor, velocity: Tensor) -> Tensor:
    mean, apart = 0.5 * (one + two), _length(one - two)
    size = _length(mean)
    agree = (1.0 - apart / (size + 1e-6)).clamp(0.0, 1.0)  # apart by as much as they are large: nothing is used
    cap = (0.5 * _length(velocity) / (size + 1e-6)).clamp(max=1.0)
    return mean * agree * cap


def carry(motion: Motion, t: Tensor, bend: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Guesses of the flows from t to a and to b.

    The first is the best at hand: both flows splatted to t by importance, holes filled by the linear combination. Then
    the same borrowed from four places around (edges of a flow are seldom where those of the picture are), each flow
    alone as it stands at its own place and splatted, and no motion (what stands still over what moves).

    Measured on Middlebury with inverse search: were the best guess known for each 8x8 block, 36.8 dB instead of 35.4.

    Args:
        motion: of the gap.
        t: (N, 1, 1, 1).
        bend: acceleration at a and b, if known.

    Returns:
        Guesses (N, CANDIDATES, 4, h, w), flow to a and flow to b, and what is known of visibility (N, 3, h, w): how
        much of a, how much of b landed here (0..1), and the first mask logit from the two.
    """
    ab, ba = motion.ab, motion.ba
    s = 1.0 - t
    place_a, place_b = t * ab, s * ba  # from a to t, from b to t
    if bend is not None:
        place_a = place_a - 0.5 * t * s * bend[0]
        place_b = place_b - 0.5 * t * s * bend[1]
    own_a, own_b = torch.cat([-place_a, ab - place_a], 1), torch.cat([ba - place_b, -place_b], 1)
    weight = torch.cat([motion.ab_sure[:, 1:], motion.ba_sure[:, 1:]]).clamp(-6.0, 6.0).exp()
    carried, load = splat(torch.cat([own_a, own_b]), torch.cat([place_a, place_b]).detach(), weight)
    (from_a, from_b), (load_a, load_b) = carried.chunk(2), load.chunk(2)
    # the linear combination: what each flow says at its own place
    fill = torch.cat([-t * s * ab + t * t * ba, s * s * ab - t * s * ba], 1)
    if bend is not None:
        curve = 0.5 * t * s * (s * bend[0] + t * bend[1])
        fill = fill + torch.cat([curve, curve], 1)
    floor = 0.05
    first = (s * from_a + t * from_b + floor * fill) / (s * load_a + t * load_b + floor)
    alone_a, alone_b = (from_a + floor * own_a) / (load_a + floor), (from_b + floor * own_b) / (load_b + floor)
    height, width = first.shape[-2:]
    wide = F.pad(first, (AROUND,) * 4, mode="replicate")
    around = [
        wide[..., AROUND + dy : AROUND + dy + height, AROUND + dx : AROUND + dx + width]
        for dx, dy in ((AROUND, 0), (-AROUND, 0), (0, AROUND), (0, -AROUND))
    ]
    guesses = torch.stack([first, *around, own_a, own_b, alone_a, alone_b, torch.zeros_like(first)], 1)
    cover_a, cover_b = load_a / (load_a + 0.25), load_b / (load_b + 0.25)
    seen = torch.cat([cover_a, cover_b, 2.0 * (cover_a - cover_b)], 1).detach()
    return guesses, seen


@torch.no_grad()
def disagreement(a: Tensor, b: Tensor, guesses: Tensor) -> Tensor:
    """How far two pictures differ under each guess of the flows between them.

    Args:
        a: (N, 3, h, w), 0..1.
        b: likewise.
        guesses: (N, K, 4, h, w), see `carry`.

    Returns:
        (N, K, h, w) float32: mean absolute difference of the warped pictures over the colours.
    """
    count, kinds, _, height, width = guesses.shape
    flows = guesses.flatten(0, 1)
    one, two = (x.repeat_interleave(kinds, 0) for x in (a, b))
    apart = (warp(one, flows[:, :2]) - warp(two, flows[:, 2:])).abs().mean(1)
    return apart.view(count, kinds, height, width)


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
    net.name = name or Midnet.name  # type: ignore[misc]
    return net
