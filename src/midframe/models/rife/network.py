"""The RIFE network: one description for all versions that `architecture.recognise` tells apart.

Conventions of this file: images are RGB, 0..1; `flow` has four channels, (dx, dy) from the instant t to image 0, then
to image 1, in pixels of the full image; `mask` is a logit, the weight of image 0. Names of parameters are those of
the published files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midframe.models.rife.architecture import Architecture

_RIFE_SLOPE = 0.2  # of every leaky rectifier


class State(NamedTuple):
    """What frames are made from: flow (B, 4, H, W) in pixels, mask (B, 1, H, W)."""

    flow: Tensor
    mask: Tensor


class _Residual(nn.Module):
    """A convolution added to its input; the file's scale per channel is folded into it (`folded`)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu_(self.conv(x).add_(x), _RIFE_SLOPE)


class Block(nn.Module):
    """One block of version 4: flow, mask and features at 1 / scale of the image."""

    def __init__(self, inputs: int, width: int, features: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(
            nn.Sequential(nn.Conv2d(inputs, width // 2, 3, 2, 1), nn.LeakyReLU(_RIFE_SLOPE, inplace=True)),
            nn.Sequential(nn.Conv2d(width // 2, width, 3, 2, 1), nn.LeakyReLU(_RIFE_SLOPE, inplace=True)),
        )
        self.convblock = nn.Sequential(*(_Residual(width) for _ in range(8)))
        outputs = 4 * (5 + features if features else 6)  # one channel is unused where there are no features
        self.lastconv = nn.Sequential(nn.ConvTranspose2d(width, outputs, 4, 2, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4 + 1 + features or unused, h, w) from (B, inputs, h, w); flow in pixels of this size."""
        return self.lastconv(self.convblock(self.conv0(x)))  # type: ignore[no-any-return]


class SymmetricBlock(nn.Module):
    """One block of version 3: flow and mask by two heads."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv0 = nn.Sequential(_prelu_conv(inputs, half, 2), _prelu_conv(half, width, 2))
        for n in range(4):
            body = nn.Sequential(_prelu_conv(width, width, 1), _prelu_conv(width, width, 1))
            self.add_module(f"convblock{n}", body)
        self.conv1, self.conv2 = (
            nn.Sequential(
                nn.ConvTranspose2d(width, half, 4, 2, 1), nn.PReLU(half), nn.ConvTranspose2d(half, outputs, 4, 2, 1)
            )
            for outputs in (4, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4 + 1, h, w) from (B, inputs, h, w)."""
        x = self.conv0(x)
        for n in range(4):
            x = self.get_submodule(f"convblock{n}")(x) + x
        return torch.cat([self.conv1(x), self.conv2(x)], 1)


def _prelu_conv(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.PReLU(outputs))


class Encoder(nn.Module):
    """Features of one image at its full size, from 4.7 on; layers are named as in the file."""

    def __init__(self, names: tuple[str, ...], width: int, outputs: int) -> None:
        super().__init__()
        self.names = names
        for place, name in enumerate(names):
            layer: nn.Module = nn.Conv2d(3 if place == 0 else width, width, 3, 1 if place else 2, 1)
            if place == len(names) - 1:
                layer = nn.ConvTranspose2d(width, outputs, 4, 2, 1)
            self.add_module(name, layer)

    def forward(self, image: Tensor) -> Tensor:
        """(B, outputs, H, W) from (B, 3, H, W)."""
        x = image
        for place, name in enumerate(self.names):
            if place and len(self.names) > 2:  # the two-layer encoder of 4.7 to 4.9 is linear
                x = F.leaky_relu_(x, _RIFE_SLOPE)
            x = self.get_submodule(name)(x)
        return x


class Network(nn.Module):
    """All blocks and the encoder of an architecture."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        for n, width in enumerate(architecture.widths):
            inputs = architecture.inputs(n)
            block = (
                Block(inputs, width, architecture.features) if architecture.any_time else SymmetricBlock(inputs, width)
            )
            self.add_module(f"block{n}", block)
        if architecture.encoder:
            self.encode = Encoder(architecture.encoder, architecture.encoder_width, architecture.encoded)

    @classmethod
    def expected(cls, architecture: Architecture) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor that a file of this architecture holds."""
        with torch.device("meta"):
            network = cls(architecture)
        shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        if architecture.any_time:
            for n, width in enumerate(architecture.widths):
                shapes |= {f"block{n}.convblock.{k}.beta": (1, width, 1, 1) for k in range(8)}
        return shapes

    def encoded(self, image: Tensor) -> Tensor:
        """The image (B, 3, H, W) and its encoding: (B, 3 + encoded, H, W) float32."""
        if not self.architecture.encoder:
            return image
        return torch.cat([image, self.encode(image).float()], 1)

    def middle(self, a: Tensor, b: Tensor, flow_scale: float = 1.0) -> State:
        """State at t = 1/2 by version 3; each block is averaged with its answer to the swapped images."""
        batch, _, height, width = a.shape
        outputs: list[Output] = []
        for n, base in enumerate(self.architecture.scales):
            grid = Grid(height, width, base / flow_scale)
            pair = _warped(a, b, outputs, grid)
            if outputs:
                mask, flow = _sum(outputs, grid, slice(4, 5)), _sum(outputs, grid, slice(0, 4), in_pixels=True)
            else:
                mask, flow = torch.zeros_like(pair[:, :1]), torch.zeros_like(pair[:, :4])
            forward = torch.cat([pair, mask, flow], 1)
            backward = torch.cat([pair[:, 3:], pair[:, :3], -mask, _swapped(flow)], 1)
            out = self.get_submodule(f"block{n}")(torch.cat([forward, backward])).float()
            ahead, back = out[:batch], out[batch:]
            mean = torch.cat([ahead[:, :4] + _swapped(back[:, :4]), ahead[:, 4:5] - back[:, 4:5]], 1) / 2
            outputs.append(Output(mean, grid.scale))
        return self._state(outputs, height, width)

    def at(self, a: Tensor, b: Tensor, t: Tensor, flow_scale: float = 1.0) -> State:
        """State at instants t by version 4.

        Args:
            a: what `encoded` returns for image 0, (B, C, H, W).
            b: like `a` for image 1.
            t: (B,) float32.
            flow_scale: the chain works at this scale of the images.
        """
        height, width = a.shape[-2:]
        outputs: list[Output] = []
        for n, base in enumerate(self.architecture.scales):
            grid = Grid(height, width, base / flow_scale)
            warped = _warped(a, b, outputs, grid)
            left, right = warped.chunk(2, 1)
            parts = [left[:, :3], right[:, :3], left[:, 3:], right[:, 3:]]
            parts.append(t.view(-1, 1, 1, 1).expand(-1, 1, *warped.shape[-2:]))
            if outputs:
                parts.append(self._mask(outputs, grid))
                if self.architecture.features:
                    parts.append(outputs[-1].at(grid, slice(5, None)))
                parts.append(_sum(outputs, grid, slice(0, 4), in_pixels=True))
            out = self.get_submodule(f"block{n}")(torch.cat(parts, 1)).float()
            outputs.append(Output(out, grid.scale))
        return self._state(outputs, height, width)

    def _mask(self, outputs: Sequence[Output], grid: Grid) -> Tensor:
        """The mask so far: blocks add to it before 4.7 and replace it from then on."""
        return _sum(outputs[-1:] if self.architecture.encoder else outputs, grid, slice(4, 5))

    def _state(self, outputs: Sequence[Output], height: int, width: int) -> State:
        full = Grid(height, width, 1.0)
        return State(_flow_at_points(outputs, full), self._mask(outputs, full))


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file with each residual's scale `beta` multiplied into its convolution."""
    out = dict(state)
    for name in state:
        stem, found, _ = name.rpartition(".beta")
        if found:
            beta = out.pop(name).flatten()
            out[f"{stem}.conv.weight"] = out[f"{stem}.conv.weight"] * beta.view(-1, 1, 1, 1)
            out[f"{stem}.conv.bias"] = out[f"{stem}.conv.bias"] * beta
    return out


def compose(a: Tensor, b: Tensor, state: State) -> Tensor:
    """Both images (B, C, H, W) warped and mixed by the mask."""
    left, right = _sampled(a, b, state.flow, Grid(a.shape[-2], a.shape[-1], 1.0))
    return torch.lerp(right, left, torch.sigmoid(state.mask))


def eighth(flow: Tensor) -> Tensor:
    """Flow at 1/8 of its size, in pixels of that size."""
    return F.avg_pool2d(flow, 8) / 8


@dataclass(frozen=True, slots=True)
class Grid:
    """An image at 1 / scale, and the points of the image that decide it.

    Bilinear reduction by an even factor s without a filter is the mean of the two by two pixels in the middle of each
    s by s cell, so no other pixel need be warped. Where s is 1 or 2 these are all pixels.
    """

    height: int
    width: int
    scale: float

    @property
    def dense(self) -> bool:
        """Whether the points are all pixels of the image."""
        return self.scale <= 2

    def places(self, side: int, device: torch.device) -> Tensor:
        """Coordinates of the points along a side, ascending, float32."""
        if self.dense:
            return torch.arange(side, device=device, dtype=torch.float32)
        step = int(self.scale)
        start = torch.arange(step // 2, side, step, device=device, dtype=torch.float32)
        return torch.stack([start - 1, start], 1).flatten()

    def reduce(self, points: Tensor) -> Tensor:
        """The image at 1 / scale from its points."""
        return points if self.scale == 1 else F.avg_pool2d(points, 2)


@dataclass(frozen=True, slots=True)
class Output:
    """What a block answered, at 1 / scale of the image: flow in pixels of that size, mask, features."""

    values: Tensor
    scale: float

    def at(self, grid: Grid, channels: slice) -> Tensor:
        """Channels at the size of a grid.

        This equals enlarging to the image and reducing: the points that a value is the mean of lie within one patch
        of the bilinear surface, symmetrically around the place that is sampled here.
        """
        x = self.values[:, channels]
        if self.scale == grid.scale:
            return x
        return F.interpolate(x, scale_factor=self.scale / grid.scale, mode="bilinear", align_corners=False)

    def flow_at_points(self, grid: Grid) -> Tensor:
        """Flow at the points of a grid, in pixels of the image."""
        x = self.values[:, :4] * self.scale
        if self.scale == 1:
            return x
        if grid.dense:
            return F.interpolate(x, scale_factor=self.scale, mode="bilinear", align_corners=False)
        for axis, side in ((2, grid.height), (3, grid.width)):
            place = ((grid.places(side, x.device) + 0.5) / self.scale - 0.5).clamp(min=0)
            low = place.long()
            high = (low + 1).clamp(max=x.shape[axis] - 1)
            share = (place - low).view(-1, 1) if axis == 2 else place - low
            x = torch.lerp(x.index_select(axis, low), x.index_select(axis, high), share)
        return x


def _sum(outputs: Sequence[Output], grid: Grid, channels: slice, in_pixels: bool = False) -> Tensor:
    """Sum over blocks of channels at the size of a grid; flow in pixels of that size."""
    parts = [
        output.at(grid, channels) * (output.scale / grid.scale) if in_pixels else output.at(grid, channels)
        for output in outputs
    ]
    return parts[0] if len(parts) == 1 else sum(parts[1:], parts[0])


def _flow_at_points(outputs: Sequence[Output], grid: Grid) -> Tensor:
    """Sum of all blocks' flow at the points of a grid, in pixels of the image."""
    flows = [output.flow_at_points(grid) for output in outputs]
    return sum(flows[1:], flows[0])


def _warped(a: Tensor, b: Tensor, outputs: Sequence[Output], grid: Grid) -> Tensor:
    """Both images (B, C, H, W), warped by the flow so far, at the size of a grid: (B, 2 C, h, w)."""
    if outputs:
        return torch.cat([grid.reduce(x) for x in _sampled(a, b, _flow_at_points(outputs, grid), grid)], 1)
    factor = 1 / grid.scale
    return torch.cat([F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False) for x in (a, b)], 1)


def _sampled(a: Tensor, b: Tensor, flow: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """`ops.warp` of both images at the points of a grid alone."""
    height, width = a.shape[-2:]
    scale = flow.new_tensor([2.0 / max(width - 1, 1), 2.0 / max(height - 1, 1)])
    x, y = grid.places(width, flow.device), grid.places(height, flow.device)
    points = torch.stack([x.view(1, -1).expand(len(y), -1), y.view(-1, 1).expand(-1, len(x))])  # (2, h, w)
    base = points * scale.view(2, 1, 1) - 1.0
    where = torch.addcmul(base.repeat(2, 1, 1), flow, scale.repeat(2).view(1, 4, 1, 1)).permute(0, 2, 3, 1)
    left, right = (
        F.grid_sample(image, xy, mode="bilinear", padding_mode="border", align_corners=True)
        for image, xy in ((a, where[..., :2]), (b, where[..., 2:]))
    )
    return left, right


def _swapped(flow: Tensor) -> Tensor:
    return torch.cat([flow[:, 2:4], flow[:, :2]], 1)
