"""Refinement of a pair's flows: three networks from coarse to fine, each correcting both directions at once.

The arrangement is RIFE's IFNet (Huang et al. 2022, MIT) with Swin layers in the finer two, as in ModelScope's vfinet
(Apache-2.0). Images are the network's own: (B, 3, H, W) BGR less the mean, sides multiples of 32 and at
least 128. Flows follow the convention of `midframe.ops`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midframe import ops
from midframe.models.vfinet.swin import Transformer


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution and its PReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.PReLU(outputs))


class Stage(nn.Module):
    """Corrections of both flows, found at 1/`scale` of the resolution.

    Input: both images, both warped, both flows: 16 channels. `swin` says whether the body is a transformer
    or six convolutions.
    """

    def __init__(self, scale: int, channels: int, swin: bool) -> None:
        super().__init__()
        self.scale = scale
        enter = [conv(16, channels // 2, 2), conv(channels // 2, channels, 2)]
        if swin:
            enter.append(conv(channels, channels))
        self.enter = nn.Sequential(*enter)
        self.transformer = Transformer(channels) if swin else None
        depth, count = (2, 1) if swin else (3, 2)
        self.bodies = nn.ModuleList(
            [nn.Sequential(*(conv(channels, channels) for _ in range(depth))) for _ in range(count)]
        )
        self.up = nn.ConvTranspose2d(channels, 4, 4, 2, 1)
        self.out = nn.Conv2d(4, 4, 3, padding=1)

    def _resize(self, x: Tensor, factor: float) -> Tensor:
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)

    def forward(self, images: Tensor, flows: Tensor) -> Tensor:
        """Images (B, 12, H, W), flows (B, 4, H, W): there and back -> corrections (B, 4, H, W), at least float32."""
        if self.scale != 1:
            images = self._resize(images, 1.0 / self.scale)
            flows = self._resize(flows, 1.0 / self.scale) / self.scale
        x = torch.cat([images, flows], dim=1).contiguous(memory_format=torch.channels_last)
        x = self.enter(x)  # (B, C, H / 4 scale, W / 4 scale)
        if self.transformer is not None:
            x = self.transformer(x)
        for body in self.bodies:
            x = body(x) + x
        x = ops.at_least_float32(self.out(self.up(x)))
        change = self._resize(x, 2.0) * 2.0
        return change if self.scale == 1 else self._resize(change, float(self.scale)) * self.scale


class Refine(nn.Module):
    """Flows of a pair -> better ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                Stage(scale=4, channels=128, swin=False),
                Stage(scale=2, channels=64, swin=True),
                Stage(scale=1, channels=32, swin=True),
            ]
        )

    def forward(self, a: Tensor, b: Tensor, forward: Tensor, backward: Tensor) -> tuple[Tensor, Tensor]:
        """Refined flows a -> b and b -> a, each (B, 2, H, W), at least float32."""
        pair, turned = torch.cat([a, b], dim=1), torch.cat([b, a])
        flows = torch.cat([forward, backward], dim=1)
        for stage in self.stages:
            both = torch.cat([flows[:, :2], flows[:, 2:]])  # as a batch: one warp for both directions
            warped = ops.warp(turned, both)
            flows = flows + stage(torch.cat([pair, *warped.chunk(2)], dim=1), flows)
        return flows[:, :2], flows[:, 2:]
