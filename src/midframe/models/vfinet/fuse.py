"""From flows and two images to the image between them: residual flows, adaptive filter, mask, static blend.

After Quadratic Video Interpolation (Xu et al. 2019), with a U-Net at half resolution and a blend for static
content, as in ModelScope's vfinet (Apache-2.0). Images are the network's own: BGR less the mean.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midframe import ops

MAX_OFFSET = 10.0  # pixels by which the adaptive filter moves a flow's place at most
STATIC_REACH = 4  # pixels by which the static mask grows (the original: a 5x5 maximum, twice)
LEAK = 0.1


def _conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu_(x, LEAK)


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class Pair(nn.Module):
    """Two convolutions, each leaky."""

    def __init__(self, inputs: int, outputs: int, sizes: tuple[int, int] = (3, 3)) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, sizes[0])
        self.second = _conv(outputs, outputs, sizes[1])

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H, W)."""
        return _leaky(self.second(_leaky(self.first(x))))


class Up(nn.Module):
    """Upsample by two, concatenate with the skip connection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs)
        self.second = _conv(2 * outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, inputs, H/2, W/2) and (N, outputs, H, W) -> (N, outputs, H, W)."""
        x = _leaky(self.first(_resize(x, skip)))
        return _leaky(self.second(torch.cat([x, skip], dim=1)))


class Residuals(nn.Module):
    """U-Net: images, warped images and flows (20 channels) -> 8 channels of corrections, 32 of features."""

    def __init__(self) -> None:
        super().__init__()
        self.full = Pair(20, 32, (5, 3))
        self.coarse = Pair(32, 32)
        self.down = nn.ModuleList([Pair(32, 64, (5, 5)), Pair(64, 128), Pair(128, 128)])
        self.up = nn.ModuleList([Up(128, 128), Up(128, 64), Up(64, 32)])
        self.features = _conv(32, 32)
        self.out = _conv(32, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 20, H, W), sides multiples of 16 -> (N, 8, H, W) float32 and (N, 32, H, W)."""
        top = self.full(x)
        skips = [self.coarse(F.avg_pool2d(top, 2))]  # equals bilinear halving
        for down in self.down:
            skips.append(down(F.avg_pool2d(skips[-1], 2)))
        x = skips.pop()
        for up in self.up:
            x = up(x, skips.pop())
        features = _leaky(self.features(_resize(x, top)))
        return self.out(features).float(), features


def _chain(widths: tuple[int, ...], first: int) -> nn.ModuleList:
    """Convolutions through these widths; the first has `first` pixels a side, the others 3."""
    return nn.ModuleList([_conv(a, b, first if i == 0 else 3) for i, (a, b) in enumerate(pairwise(widths))])


def _run(chain: nn.ModuleList, x: Tensor) -> Tensor:
    """Leaky between the convolutions, then a sigmoid, in float32."""
    *body, last = chain
    for layer in body:
        x = _leaky(layer(x))
    return last(x).float().sigmoid()  # type: ignore[no-any-return]


def gradient(image: Tensor) -> Tensor:
    """Length of the central difference, unhalved, of every channel; zeros beyond the edge. (B, 3, H, W)."""
    wide = F.pad(image, (1, 1, 1, 1))
    dx = wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]
    dy = wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]
    return torch.sqrt(dx * dx + dy * dy + 1e-6)


class Fuse(nn.Module):
    """Two images, flows between them and flows from t to both -> the image at t."""

    def __init__(self) -> None:
        super().__init__()
        self.residuals = Residuals()
        self.mask = _chain((38, 32, 16, 1), first=5)
        self.static = _chain((56, 32, 32, 16, 16, 1), first=3)

    def forward(
        self, images: Tensor, flows: Tensor, reversed_flows: Tensor, t: Tensor, full: Tensor | None = None
    ) -> Tensor:
        """The image at t, (N, 3, H, W) float32, in the images' own scale.

        Args:
            images: (2, N, 3, H, W): a and b, at the resolution of the flows.
            flows: (2, N, 2, H, W): a -> b and b -> a.
            reversed_flows: (2, N, 2, H, W): t -> a and t -> b.
            t: (N, 1, 1, 1).
            full: (2, N, 3, 2H, 2W): a and b at twice the resolution, to take the colours from; the result is of
                that size then.
        """
        n = len(t)
        images, rough = images.flatten(0, 1), reversed_flows.flatten(0, 1)  # (2N, ...): a first
        slopes = gradient(images)
        warped = ops.warp(images, rough)
        parts = [*images.chunk(2), *warped.chunk(2), *flows, *rough.chunk(2)]
        changes, features = self.residuals(_together(parts))
        residual = torch.cat([changes[:, 0:2], changes[:, 2:4]])
        move = MAX_OFFSET * torch.tanh(torch.cat([changes[:, 4:6], changes[:, 6:8]]))
        fine = ops.warp(rough, move) + residual  # the adaptive filter: take the flow of a better place

        # one warp for colours and slopes
        seen = ops.warp(torch.cat([images, slopes], dim=1), fine)
        colours, edges = seen[:, :3], seen[:, 3:]
        mask = _run(self.mask, _together([*colours.chunk(2), features]))
        static = _run(
            self.static,
            _together([*colours.chunk(2), *edges.chunk(2), *images.chunk(2), *slopes.chunk(2), features]),
        )
        size, reach = 2 * STATIC_REACH + 1, STATIC_REACH  # a square maximum is one of columns, then of rows
        static = F.max_pool2d(F.max_pool2d(static, (size, 1), 1, (reach, 0)), (1, size), 1, (0, reach))
        if full is not None:
            images = full.flatten(0, 1)
            fine = F.interpolate(2.0 * fine, scale_factor=2, mode="bilinear", align_corners=False)
            colours = ops.warp(images, fine)
            mask, static = (
                F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False) for x in (mask, static)
            )
        near_a, near_b = (1.0 - t) * mask, t * (1.0 - mask)
        moving = (near_a * colours[:n] + near_b * colours[n:]) / (near_a + near_b)
        still = (1.0 - t) * images[:n] + t * images[n:]
        return (1.0 - static) * moving + static * still


def _together(parts: list[Tensor]) -> Tensor:
    """Channels side by side, in channels-last memory, for the convolutions."""
    return torch.cat([part.contiguous(memory_format=torch.channels_last) for part in parts], dim=1)
