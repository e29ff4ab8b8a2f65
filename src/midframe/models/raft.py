"""RAFT optical flow (Teed & Deng 2020, arXiv:2003.12039), the paper's basic network, usable on its own.

Every pixel of one image is correlated with every pixel of the other, at 1/8 of the resolution; a recurrent network
looks correlations up around its current estimate and corrects the estimate, twelve times by default. The arithmetic
is the original's (github.com/princeton-vl/RAFT, BSD), the arrangement is ours:

- the three gates of the recurrent unit are split so that the contribution of the context is computed once and not in
  every iteration;
- both directions of a pair run as one batch and share one correlation volume: that of b against a is
  the transpose of that of a against b;
- only the last estimate is brought to full resolution;
- where the volume does not fit (`volume_limit`), look-ups multiply features of a tile with features of the box
  around its targets: the same numbers, a few megabytes;
- on a CPU in float32, convolutions sum in parts (`Conv`), and small images are computed in float64: twelve
  iterations magnify rounding errors a hundred times.

`load_state_dict` takes our own names, or the original's with or without `module.` in front.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midframe import ops
from midframe.errors import InputError

M = TypeVar("M", bound=nn.Module)

FEATURE_STRIDE = 8  # pixels of the image per pixel of the features
RAFT_MIN_SIDE = 128  # pixels; below, the fourth level of correlations would be a single column, which has no scale
NORM_EPS = 1e-5

# A volume of both directions above this is not kept; 720p needs 1.4 GiB, 1080p 6.6 GiB.
VOLUME_LIMIT = 2 << 30  # bytes
# Correlations of one tile when the volume is not kept: 4 MiB, about the size of a core's caches.
TILE_LIMIT = 1 << 20
SMALLEST_TILE = 64  # pixels

# Products that a convolution on a CPU adds up in one go: the rounding of a long sum grows with the root of its length.
TERMS = 320
LEAST_CHANNELS = 8  # of one part: a vector register
# Images of at most this area are computed in float64, which takes two to three times as long.
EXACT_AREA = 384 * 256
LEVEL_ROUNDING = 6e-5  # 8-bit levels: a few roundings of float32, each 1.5e-5 of them at most


FEATURES = 256  # channels that are correlated
HIDDEN_CHANNELS = 128  # channels of the recurrent state
CONTEXT = 128  # channels fed to the state in every iteration
LOOKUP_RADIUS = 4  # pixels around the estimate that are looked up, at every level
WIDTHS = (64, 64, 96, 128)  # channels of the stem and the three stages of an encoder
PYRAMID_LEVELS = 4  # of the correlation pyramid: 1/8, 1/16, 1/32, 1/64
TAPS = PYRAMID_LEVELS * (2 * LOOKUP_RADIUS + 1) ** 2  # correlations looked up for one pixel


@dataclass(frozen=True)
class Encoded:
    """An image (or a batch), ready to be matched with others."""

    features: Tensor  # (B, C, H/8, W/8) float32, correlated with those of others; of small images all are float64
    hidden: Tensor  # (B, hidden, H/8, W/8) float32, the state to start from
    context: Tensor  # (B, context, H/8, W/8)


def _in_full(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether float32 on a CPU is meant to be just that: no half precision was asked for."""
    return device.type == "cpu" and dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def is_small(image: Tensor) -> bool:
    """Whether images (B, C, H, W) are computed in float64."""
    return _in_full(image.device, image.dtype) and image.shape[-2] * image.shape[-1] <= EXACT_AREA


def exact(image: Tensor) -> Tensor:
    """An image in float64, with its 8-bit levels restored from their float32 rounding.

    Levels are n/255, or (halved images) n/4/255; others are left as they are.
    """
    level = 255.0 * image.double()
    near = (4.0 * level).round() / 4.0
    return torch.where((level - near).abs() < LEVEL_ROUNDING, near, level) / 255.0


def doubled(module: M) -> M:
    """A copy in float64, made when it is needed: some 20 ms, and nothing to keep in step with the weights."""
    return copy.deepcopy(module).double()


class Conv(nn.Conv2d):
    """A convolution that adds up its input channels in parts of `TERMS` products at most, then the parts.

    The libraries' float32 kernels for CPUs add all products to one number, one after the other: 2304 in a 3x3
    convolution over 256 channels, 6e-7 of the result in rounding, where parts of 288 have 2.3e-7.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See `nn.Conv2d`."""
        parts = 1
        if _in_full(x.device, x.dtype):
            terms = self.in_channels * self.kernel_size[0] * self.kernel_size[1]
            while terms > parts * TERMS and self.in_channels % (2 * parts * LEAST_CHANNELS) == 0:
                parts *= 2
        if parts == 1:
            return super().forward(x)
        first, *rest = zip(x.chunk(parts, 1), self.weight.chunk(parts, 1), strict=True)
        out = self._conv_forward(*first, self.bias)
        for part, weight in rest:
            out += self._conv_forward(part, weight, None)
        return out  # type: ignore[no-any-return]


def instance_norm(x: Tensor) -> Tensor:
    """Zero mean and unit variance of every channel of every image, at least float32; x is channels-last.

    Written out: PyTorch's instance norm takes six times as long on this memory, and its batch norm adds all pixels up
    in one float32, which is 5 % off where a large part of the image has one colour (black bars, padding). Here
    rows are added up first, then their sums.
    """
    rows = ops.at_least_float32(x).permute(0, 2, 3, 1)  # (B, H, W, C)
    centred = rows - rows.mean(2, keepdim=True).mean(1, keepdim=True)
    variance = (centred * centred).mean(2, keepdim=True).mean(1, keepdim=True)
    return centred.mul_(torch.rsqrt(variance + NORM_EPS)).permute(0, 3, 1, 2)


class InstanceNorm(nn.Module):
    """See `instance_norm`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return instance_norm(x)


class BatchNorm(nn.Module):
    """A batch norm whose training is over: a scale and a shift for every channel.

    Not folded into the convolution before it, which would round the weights once more.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        return F.batch_norm(x, self.mean, self.variance, self.weight, self.bias, eps=NORM_EPS)


def _norm(kind: str, channels: int) -> nn.Module:
    """Of kind "instance", "batch" or "none"."""
    if kind == "instance":
        return InstanceNorm()
    return BatchNorm(channels) if kind == "batch" else nn.Identity()


class Residual(nn.Module):
    """Two 3x3 convolutions and a skip connection."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        layers = [Conv(inputs, outputs, 3, stride, 1), Conv(outputs, outputs, 3, 1, 1)]
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList([_norm(norm, layer.out_channels) for layer in layers])
        self.skip = nn.Sequential(Conv(inputs, outputs, 1, stride), _norm(norm, outputs)) if stride != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y = x
        for layer, norm in zip(self.layers, self.norms, strict=True):
            y = norm(layer(y)).relu_()
        if self.skip is not None:
            x = self.skip(x)
        return torch.add(x, y).relu_()


class Encoder(nn.Module):
    """Image to features at 1/8: instance norm for correlated features, batch norm for the context."""

    def __init__(self, outputs: int, norm: str) -> None:
        super().__init__()
        stem, *stages = WIDTHS
        self.stem = nn.Sequential(Conv(3, stem, 7, 2, 3), _norm(norm, stem))
        blocks = []
        width = stem
        for i, stage in enumerate(stages):
            blocks.append(Residual(width, stage, 1 if i == 0 else 2, norm))
            blocks.append(Residual(stage, stage, 1, norm))
            width = stage
        self.blocks = nn.Sequential(*blocks)
        self.head = Conv(width, outputs, 1)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W), -1..1 -> (B, outputs, H/8, W/8)."""
        x = self.stem(image).relu_()  # (B, 64, H/2, W/2)
        x = self.blocks(x)  # (B, 128, H/8, W/8)
        return self.head(x)  # type: ignore[no-any-return]


class Gru(nn.Module):
    """One convolutional gated recurrent unit, split by the dependence of its inputs.

    The original's z, r and q each see (state, context, motion). Here `context` computes the part of the context in
    all three with the biases, once per pair; `gates` (z and r) and `candidate` (q) add the rest.
    """

    def __init__(self, hidden: int, context: int, motion: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.hidden = hidden
        self.context = Conv(context, 3 * hidden, kernel, padding=padding)
        self.gates = Conv(hidden + motion, 2 * hidden, kernel, padding=padding, bias=False)
        self.candidate = Conv(hidden + motion, hidden, kernel, padding=padding, bias=False)

    def forward(self, state: Tensor, motion: Tensor, share: Tensor) -> Tensor:
        """The next state (B, hidden, h, w) float32; `share` is the output of `self.context`."""
        n = 2 * self.hidden
        gates = self.gates(torch.cat([state, motion], dim=1)).add_(share[:, :n]).sigmoid_()
        update, reset = gates[:, : self.hidden], gates[:, self.hidden :]
        candidate = self.candidate(torch.cat([reset * state, motion], dim=1)).add_(share[:, n:]).tanh_()
        return torch.lerp(state, ops.at_least_float32(candidate), ops.at_least_float32(update))


class Update(nn.Module):
    """One correction of the flow: look-ups and flow -> motion features -> recurrent state -> change of the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.ModuleList([Conv(TAPS, 256, 1), Conv(256, 192, 3, padding=1)])
        self.flow = nn.ModuleList([Conv(2, 128, 7, padding=3), Conv(128, 64, 3, padding=1)])
        self.join = Conv(192 + 64, 126, 3, padding=1)
        self.units = nn.ModuleList([Gru(HIDDEN_CHANNELS, CONTEXT, 126 + 2, kernel) for kernel in ((1, 5), (5, 1))])
        self.head = nn.ModuleList([Conv(HIDDEN_CHANNELS, 256, 3, padding=1), Conv(256, 2, 3, padding=1)])

    def shares(self, context: Tensor) -> list[Tensor]:
        """Contribution of the context to each unit, the same in every iteration."""
        return [unit.context(context) for unit in self.units]  # type: ignore[operator]

    def forward(self, state: Tensor, shares: list[Tensor], look: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """The next state and the change of the flow (B, 2, h, w), both float32."""
        seen = look
        for layer in self.look:
            seen = layer(seen).relu_()
        moved = flow
        for layer in self.flow:
            moved = layer(moved).relu_()
        motion = self.join(torch.cat([seen, moved], dim=1)).relu_()
        motion = torch.cat([motion, flow.to(motion.dtype)], dim=1)
        for unit, share in zip(self.units, shares, strict=True):
            state = unit(state, motion, share)
        change = self.head[1](self.head[0](state).relu_())
        return state, ops.at_least_float32(change)


class Lookup(Protocol):
    """Correlations around the estimated targets of pixels."""

    def __call__(self, where: Tensor) -> Tensor:
        """Coordinates (D B, 2, h, w) -> correlations (D B, taps, h, w), D being 1 or 2 directions."""
        ...


def sample_window(volume: Tensor, where: Tensor, radius: int) -> Tensor:
    """Bilinear look-ups in a window around each pixel's place.

    All samples of a window share one fraction, so the (2r + 2)^2 whole-numbered neighbours are fetched once
    and blended. Outside the image there is 0.

    Args:
        volume: (n, H, W) float32, any strides: for each of n pixels its correlations with an image.
        where: (n, 2) float32: x and y in that image, in its pixels.
        radius: r.

    Returns:
        (n, (2r + 1)^2); x varies slowest, as in the original.
    """
    n, height, width = volume.shape
    base = where.floor()
    fraction = where - base  # (n, 2)
    offset = torch.arange(-radius, radius + 2, device=where.device, dtype=where.dtype)
    scale = where.new_tensor([2.0 / (width - 1), 2.0 / (height - 1)])
    x, y = ((base[:, :, None] + offset) * scale[:, None] - 1.0).unbind(1)  # (n, 2r + 2) each
    size = offset.numel()
    grid = torch.stack([x[:, :, None].expand(n, size, size), y[:, None, :].expand(n, size, size)], dim=-1)
    taps = F.grid_sample(volume[:, None], grid, mode="nearest", align_corners=True)[:, 0]  # (n, x, y)
    taps = torch.lerp(taps[:, :, :-1], taps[:, :, 1:], fraction[:, 1, None, None])
    return torch.lerp(taps[:, :-1], taps[:, 1:], fraction[:, 0, None, None]).flatten(1)


def _pyramid(features: Tensor) -> list[Tensor]:
    """Features (B, C, h, w) and their 2x2 means, PYRAMID_LEVELS - 1 times."""
    out = [features]
    for _ in range(PYRAMID_LEVELS - 1):
        out.append(F.avg_pool2d(out[-1], 2))
    return out


def _rows(features: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h w, C)."""
    return features.flatten(2).transpose(1, 2).contiguous()


class VolumeLookup:
    """The correlation volume of two images: quick, h w x h w floats and a third more."""

    def __init__(self, a: Tensor, b: Tensor, both: bool) -> None:
        rows_a, rows_b = _rows(a), _rows(b)
        self.forward = [self._correlate(rows_a, level) for level in _pyramid(b)]
        self.directions = [self.forward]
        if both:
            # Level 0 of the way back is the transpose; coarser ones differ, being means over the other image.
            finest, (h, w) = self.forward[0], (int(a.shape[-2]), int(a.shape[-1]))
            back = finest.flatten(2).transpose(1, 2).view(*finest.shape[:2], h, w)
            self.directions.append([back] + [self._correlate(rows_b, level) for level in _pyramid(a)[1:]])

    def _correlate(self, rows: Tensor, features: Tensor) -> Tensor:
        """(B, n, C) and (B, C, h, w) -> (B, n, h, w)."""
        return torch.matmul(rows, features.flatten(2)).view(*rows.shape[:2], *features.shape[-2:])

    def __call__(self, where: Tensor) -> Tensor:
        """See `Lookup`."""
        batch = len(self.forward[0])
        height, width = where.shape[-2:]
        places = where.flatten(2).transpose(1, 2)  # (D B, n, 2)
        out = where.new_empty(len(places), height * width, TAPS)
        for i, place in enumerate(places):
            column = 0
            for level, volume in enumerate(self.directions[i // batch]):
                found = sample_window(volume[i % batch], place / 2**level, LOOKUP_RADIUS)
                out[i, :, column : column + found.shape[1]] = found
                column += found.shape[1]
        return out.view(len(places), height, width, -1).permute(0, 3, 1, 2)  # channels-last memory


class TiledLookup:
    """The same correlations without the volume: each tile of pixels against the box around its targets.

    A tile whose box is large (a motion edge, a wild estimate) is halved until they make at most `TILE_LIMIT`
    correlations.
    """

    def __init__(self, a: Tensor, b: Tensor, both: bool) -> None:
        self.batch = len(a)
        pairs = [(a, b), (b, a)] if both else [(a, b)]
        # (h, w, C) per image and level, so that a tile's rows lie side by side
        self.sources = [one.permute(1, 2, 0).contiguous() for source, _ in pairs for one in source]
        levels = [_pyramid(target) for _, target in pairs]
        self.targets = [
            [level[i].permute(1, 2, 0).contiguous() for level in pyramid] for pyramid in levels for i in range(len(a))
        ]

    def __call__(self, where: Tensor) -> Tensor:
        """See `Lookup`."""
        height, width = where.shape[-2:]
        size = (2 * LOOKUP_RADIUS + 1) ** 2
        out = where.new_empty(len(where), height, width, TAPS)
        for i, place in enumerate(where.permute(0, 2, 3, 1)):
            for level, target in enumerate(self.targets[i]):
                found = out[i, :, :, level * size : (level + 1) * size]
                self._look(self.sources[i], target, place / 2**level, found)
        return out.permute(0, 3, 1, 2)

    def _look(self, source: Tensor, target: Tensor, where: Tensor, out: Tensor) -> None:
        """Fill `out` (h, w, (2r + 1)^2) for one tile: `source` (h, w, C), `where` (h, w, 2)."""
        height, width = where.shape[:2]
        pixels = height * width
        places = where.reshape(pixels, 2)
        bounds = torch.stack([places.amin(0), places.amax(0)]).tolist()
        reach = LOOKUP_RADIUS + 2
        left, right = self._range(bounds[0][0] - reach, bounds[1][0] + reach, target.shape[1])
        top, bottom = self._range(bounds[0][1] - reach, bounds[1][1] + reach, target.shape[0])
        box = (right - left) * (bottom - top)
        if pixels * box > TILE_LIMIT and pixels > SMALLEST_TILE:
            if height >= width:
                half = height // 2
                self._look(source[:half], target, where[:half], out[:half])
                self._look(source[half:], target, where[half:], out[half:])
            else:
                half = width // 2
                self._look(source[:, :half], target, where[:, :half], out[:, :half])
                self._look(source[:, half:], target, where[:, half:], out[:, half:])
            return
        seen = target[top:bottom, left:right].reshape(box, -1)
        volume = (source.reshape(pixels, -1) @ seen.T).view(pixels, bottom - top, right - left)
        found = sample_window(volume, places - places.new_tensor([left, top]), LOOKUP_RADIUS)
        out.copy_(found.view(height, width, -1))

    @staticmethod
    def _range(low: float, high: float, size: int) -> tuple[int, int]:
        """A half-open range of at least two whole numbers within [0, size) that covers low..high as far as possible."""
        first = int(min(max(math.floor(low), 0), size - 2))
        last = int(min(max(math.ceil(high) + 1, first + 2), size))
        return first, last


def upsample(flow: Tensor, mask: Tensor) -> Tensor:
    """A flow at 1/8 to full size: each fine pixel is a convex mix of the 3x3 coarse ones around it.

    Args:
        flow: (B, 2, h, w) float32.
        mask: (B, 9 * 64, h, w): logits; neighbour slowest, then row and column within the 8x8 cell.
    """
    batch, _, h, w = flow.shape
    weights = ops.at_least_float32(mask).view(batch, 1, 9, 8, 8, h, w).softmax(dim=2)
    near = F.unfold(8.0 * flow, 3, padding=1).view(batch, 2, 9, 1, 1, h, w)
    fine = (weights * near).sum(dim=2)  # (B, 2, 8, 8, h, w)
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, 8 * h, 8 * w)


class Raft(nn.Module):
    """RAFT, 5.3 M parameters.

    Images are (B, 3, H, W) float32, 0..1; the channel order is that of the weights' training.

    Args:
        volume_limit: bytes of the correlation volume; above, correlations are computed as they are looked up. On a GPU
            half of the free memory, if that is more.
    """

    def __init__(self, volume_limit: int = VOLUME_LIMIT) -> None:
        super().__init__()
        self.volume_limit = volume_limit
        self.features = Encoder(FEATURES, "instance")
        self.context = Encoder(HIDDEN_CHANNELS + CONTEXT, "batch")
        self.update = Update()
        self.mask = nn.ModuleList([Conv(HIDDEN_CHANNELS, 256, 3, padding=1), Conv(256, 576, 1)])
        self.register_load_state_dict_pre_hook(_accept_original)  # type: ignore[no-untyped-call]
        nn.Module.to(self, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode(self, image: Tensor) -> Encoded:
        """Features of images whose sides are multiples of 8 and at least 128: once per image."""
        if is_small(image):
            return doubled(self).encode(exact(image))
        image = (2.0 * image - 1.0).contiguous(memory_format=torch.channels_last)
        features = ops.at_least_float32(self.features(image))
        context = self.context(image)
        hidden, fed = context[:, :HIDDEN_CHANNELS], context[:, HIDDEN_CHANNELS:]
        return Encoded(features, ops.at_least_float32(hidden).tanh(), fed.relu())

    def match(self, a: Encoded, b: Encoded, iterations: int = 12) -> tuple[Tensor, Tensor]:
        """Flows from a to b and from b to a, each (B, 2, H, W) float32, pixels; both in one batch."""
        forward, backward = self.match_unrounded(a, b, iterations)
        return forward.float(), backward.float()

    def match_unrounded(self, a: Encoded, b: Encoded, iterations: int = 12) -> tuple[Tensor, Tensor]:
        """As `match`, in the type of the features."""
        if a.features.dtype == torch.float64 and self.update.join.weight.dtype != torch.float64:
            return doubled(self).match_unrounded(a, b, iterations)
        lookup = self.lookup_of(a.features, b.features, both=True)
        hidden, context = torch.cat([a.hidden, b.hidden]), torch.cat([a.context, b.context])
        _, flow = self._iterate(lookup, hidden, context, iterations, None)
        forward, backward = flow.chunk(2)
        return forward, backward

    def flow(self, image0: Tensor, image1: Tensor, iterations: int = 12, flow_init: Tensor | None = None) -> Tensor:
        """Flow (B, 2, H, W) from image0 to image1, float32, pixels of the images.

        Args:
            image0: (B, 3, H, W) float32, 0..1, any size; padded at right and bottom, edge repeated, to
                multiples of 8 and at least 128.
            image1: the same.
            iterations: corrections of the estimate, at least 1.
            flow_init: (B, 2, h, w) float32 at 1/8 of the padded size, in its pixels, to start from.

        Raises:
            InputError: images of different sizes, or fewer than one iteration.
        """
        height, width = image0.shape[-2:]
        padded = [-(-max(side, RAFT_MIN_SIDE) // FEATURE_STRIDE) * FEATURE_STRIDE for side in (height, width)]
        a, b = (ops.pad(image, padded[0], padded[1]) for image in (image0, image1))
        _, flow = self.flow_pyramid(a, b, iterations, flow_init)
        return ops.crop(flow, height, width)

    def flow_pyramid(
        self, image0: Tensor, image1: Tensor, iterations: int = 12, flow_init: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `flow`, for padded images: the flow at 1/8, to start another pair from, and at full size.

        Shapes are (B, 2, H/8, W/8), in pixels of that size, and (B, 2, H, W).

        Raises:
            InputError: images of different or unsuitable sizes, or fewer than one iteration.
        """
        height, width = image0.shape[-2:]
        if image0.shape != image1.shape:
            raise InputError(f"images of one size are needed, not {tuple(image0.shape)} and {tuple(image1.shape)}")
        if height % FEATURE_STRIDE or width % FEATURE_STRIDE or min(height, width) < RAFT_MIN_SIDE:
            raise InputError(
                f"{width}x{height} is no multiple of {FEATURE_STRIDE} of at least {RAFT_MIN_SIDE} px; pad the images"
            )
        if iterations < 1:
            raise InputError(f"{iterations} iterations asked for; at least 1 is needed")
        if is_small(image0):
            start = None if flow_init is None else flow_init.double()
            low, fine = doubled(self).flow_pyramid(exact(image0), exact(image1), iterations, start)
            return low.float(), fine.float()
        encoded = self.encode(torch.cat([image0, image1]))
        a, b = encoded.features.chunk(2)
        lookup = self.lookup_of(a, b, both=False)
        return self._iterate(lookup, encoded.hidden[: len(a)], encoded.context[: len(a)], iterations, flow_init)

    def lookup_of(self, a: Tensor, b: Tensor, both: bool) -> Lookup:
        """Return the correlations of two feature maps, held or computed on demand; always at least float32."""
        with torch.autocast(a.device.type, enabled=False):
            a, b = a / math.sqrt(FEATURES), b
            pixels = a.shape[-2] * a.shape[-1]
            needed = a.element_size() * len(a) * pixels * pixels * (1.34 if not both else 1.68)
            limit = self.volume_limit
            if a.is_cuda:  # tiles synchronise with the GPU all the time; there the volume is kept while half is free
                limit = max(limit, torch.cuda.mem_get_info(a.device)[0] // 2)
            if needed <= limit:
                return VolumeLookup(a, b, both)
            return TiledLookup(a, b, both)

    def _iterate(
        self, lookup: Lookup, state: Tensor, context: Tensor, iterations: int, flow_init: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Iterate: flow at 1/8 and at full size."""
        start = ops.coordinates(state.shape[-2], state.shape[-1], state.device)
        flow = (
            state.new_zeros(len(state), 2, *state.shape[-2:]) if flow_init is None else ops.at_least_float32(flow_init)
        )
        shares = self.update.shares(context)
        for _ in range(iterations):
            with torch.autocast(state.device.type, enabled=False):
                look = lookup(start + flow)
            state, change = self.update(state, shares, look, flow)
            flow = flow + change
        return flow, upsample(flow, self.mask[1](self.mask[0](state).relu_()))


def _accept_original(module: nn.Module, state_dict: dict[str, Any], prefix: str, *unused: object) -> None:
    """Before loading: rename and regroup, in place, if the names under `prefix` are the original's."""
    own = {name[len(prefix) :]: value for name, value in state_dict.items() if name.startswith(prefix)}
    if not any(name.removeprefix("module.").startswith("fnet.") for name in own):
        return
    assert isinstance(module, Raft)
    for name in own:
        del state_dict[prefix + name]
    for name, value in from_original(own).items():
        state_dict[prefix + name] = value


def original_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of every tensor in an original checkpoint, without `module.`."""
    out: dict[str, tuple[int, ...]] = {}

    def conv(name: str, inputs: int, outputs: int, kernel: tuple[int, int] = (3, 3)) -> None:
        out[f"{name}.weight"] = (outputs, inputs, *kernel)
        out[f"{name}.bias"] = (outputs,)

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            out[f"{name}.{part}"] = (channels,)
        out[f"{name}.num_batches_tracked"] = ()

    for encoder, outputs in (("fnet", FEATURES), ("cnet", HIDDEN_CHANNELS + CONTEXT)):
        normed = encoder == "cnet"
        stem, *stages = WIDTHS
        conv(f"{encoder}.conv1", 3, stem, (7, 7))
        if normed:
            norm(f"{encoder}.norm1", stem)
        width = stem
        for stage, channels in enumerate(stages, 1):
            for half in range(2):
                name = f"{encoder}.layer{stage}.{half}"
                conv(f"{name}.conv1", width, channels)
                conv(f"{name}.conv2", channels, channels)
                shrinks = stage > 1 and half == 0
                if normed:
                    for i in range(1, 4 if shrinks else 3):
                        norm(f"{name}.norm{i}", channels)
                if shrinks:
                    conv(f"{name}.downsample.0", width, channels, (1, 1))
                    if normed:
                        norm(f"{name}.downsample.1", channels)
                width = channels
        conv(f"{encoder}.conv2", width, outputs, (1, 1))
    block = "update_block"
    conv(f"{block}.encoder.convc1", TAPS, 256, (1, 1))
    conv(f"{block}.encoder.convc2", 256, 192)
    conv(f"{block}.encoder.convf1", 2, 128, (7, 7))
    conv(f"{block}.encoder.convf2", 128, 64)
    conv(f"{block}.encoder.conv", 256, 126)
    for i, kernel in ((1, (1, 5)), (2, (5, 1))):
        for gate in "zrq":
            conv(f"{block}.gru.conv{gate}{i}", HIDDEN_CHANNELS + CONTEXT + 128, HIDDEN_CHANNELS, kernel)
    conv(f"{block}.flow_head.conv1", HIDDEN_CHANNELS, 256)
    conv(f"{block}.flow_head.conv2", 256, 2)
    conv(f"{block}.mask.0", HIDDEN_CHANNELS, 256)
    conv(f"{block}.mask.2", 256, 576, (1, 1))
    return out


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors from an original checkpoint's, `module.` in front or not."""
    state = {name.removeprefix("module."): value for name, value in state.items()}
    out: dict[str, Tensor] = {}

    def take(target: str, source: str, scale: float = 1.0) -> None:
        for part in ("weight", "bias"):
            out[f"{target}.{part}"] = state[f"{source}.{part}"] * scale

    def take_norm(target: str, source: str) -> None:
        """A batch norm, where there is one."""
        own = {"weight": "weight", "bias": "bias", "running_mean": "mean", "running_var": "variance"}
        for part, name in own.items():
            if f"{source}.{part}" in state:
                out[f"{target}.{name}"] = state[f"{source}.{part}"]

    for ours, theirs in (("features", "fnet"), ("context", "cnet")):
        take(f"{ours}.stem.0", f"{theirs}.conv1")
        take_norm(f"{ours}.stem.1", f"{theirs}.norm1")
        for i in range(6):
            block, source = f"{ours}.blocks.{i}", f"{theirs}.layer{i // 2 + 1}.{i % 2}"
            for j in range(2):
                take(f"{block}.layers.{j}", f"{source}.conv{j + 1}")
                take_norm(f"{block}.norms.{j}", f"{source}.norm{j + 1}")
            if f"{source}.downsample.0.weight" in state:
                take(f"{block}.skip.0", f"{source}.downsample.0")
                take_norm(f"{block}.skip.1", f"{source}.downsample.1")
        take(f"{ours}.head", f"{theirs}.conv2")
    block = "update_block"
    for i in range(2):
        take(f"update.look.{i}", f"{block}.encoder.convc{i + 1}")
        take(f"update.flow.{i}", f"{block}.encoder.convf{i + 1}")
        take(f"update.head.{i}", f"{block}.flow_head.conv{i + 1}")
    take("update.join", f"{block}.encoder.conv")
    begin, end = HIDDEN_CHANNELS, HIDDEN_CHANNELS + CONTEXT  # of the context among the inputs
    for i, suffix in enumerate("12"):
        z, r, q = (state[f"{block}.gru.conv{gate}{suffix}.weight"] for gate in "zrq")
        unit = f"update.units.{i}"
        out[f"{unit}.context.weight"] = torch.cat([z, r, q])[:, begin:end]
        out[f"{unit}.context.bias"] = torch.cat([state[f"{block}.gru.conv{g}{suffix}.bias"] for g in "zrq"])
        rest = [torch.cat([gate[:, :begin], gate[:, end:]], dim=1) for gate in (z, r, q)]
        out[f"{unit}.gates.weight"] = torch.cat(rest[:2])
        out[f"{unit}.candidate.weight"] = rest[2]
    take("mask.0", f"{block}.mask.0")
    take("mask.1", f"{block}.mask.2", scale=0.25)  # the original scales the logits by this
    return {name: value.float() for name, value in out.items()}
