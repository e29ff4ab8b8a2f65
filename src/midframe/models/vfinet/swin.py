"""Window attention for the refinement network: plain and cross-scale Swin layers.

After VFIformer (Lu et al. 2022) and SwinIR (Liang et al. 2021), both Apache-2.0, as ModelScope's vfinet uses them.
Images travel as (B, H, W, C); H and W are multiples of the window's 4. Each layer attends within 4x4 windows,
every second one with windows shifted by half; a cross-scale layer also attends to the window of twice the size
around, seen at half resolution.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENTION_WINDOW = 4  # pixels
TOKENS = ATTENTION_WINDOW * ATTENTION_WINDOW
HEADS = 2
# Added to the logit of two pixels that a cyclic shift has brought together; the original's number.
APART = -100.0


def windows(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B * windows, 16, C), windows row by row."""
    batch, height, width, channels = x.shape
    x = x.view(
        batch, height // ATTENTION_WINDOW, ATTENTION_WINDOW, width // ATTENTION_WINDOW, ATTENTION_WINDOW, channels
    )
    return x.transpose(2, 3).reshape(-1, TOKENS, channels)


def image(x: Tensor, height: int, width: int) -> Tensor:
    """Undo `windows`: (B * windows, 16, C) -> (B, H, W, C)."""
    x = x.view(
        -1, height // ATTENTION_WINDOW, width // ATTENTION_WINDOW, ATTENTION_WINDOW, ATTENTION_WINDOW, x.shape[-1]
    )
    return x.transpose(2, 3).reshape(-1, height, width, x.shape[-1])


def wide_windows(x: Tensor) -> Tensor:
    """The 8x8 surroundings of every window at half resolution: (B, H, W, C) -> (B * windows, 16, C).

    Means of 2x2 pixels, mirrored by one at the edges; windows of 4 half pixels, 2 apart.
    """
    batch, _, _, channels = x.shape
    half = F.avg_pool2d(x.permute(0, 3, 1, 2), 2)  # equals bilinear halving
    half = F.pad(half, (1, 1, 1, 1), mode="reflect")
    tokens = F.unfold(half, ATTENTION_WINDOW, stride=ATTENTION_WINDOW // 2)  # (B, C 16, windows)
    return tokens.view(batch, channels, TOKENS, -1).permute(0, 3, 2, 1).reshape(-1, TOKENS, channels)


@lru_cache(maxsize=16)
def shift_masks(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For shifted windows: which pairs of pixels lie apart in truth, as (windows, 16, 16) of 0 and `APART`.

    The first is for pixels of one window, the second for a window's pixels against its wide surroundings.
    """
    with torch.inference_mode(False):
        region = torch.zeros(1, height, width, 1, device=device)
        shift = ATTENTION_WINDOW // 2
        # rolling has moved the first `shift` rows and columns to the end; the last window is the torn one
        region[:, -ATTENTION_WINDOW:] += 3
        region[:, -shift:] += 3
        region[:, :, -ATTENTION_WINDOW:] += 1
        region[:, :, -shift:] += 1
        own, wide = windows(region)[..., 0], wide_windows(region)[..., 0]
        apart = own.new_tensor(APART)
        return (
            torch.where(own[:, None, :] != own[:, :, None], apart, 0.0),
            torch.where(wide[:, None, :] != own[:, :, None], apart, 0.0),
        )


def relative_index() -> Tensor:
    """(16, 16): for every pair of pixels of a window the row of the bias table, by their difference in place."""
    place = torch.stack(
        torch.meshgrid(torch.arange(ATTENTION_WINDOW), torch.arange(ATTENTION_WINDOW), indexing="ij")
    ).flatten(1)
    difference = place[:, :, None] - place[:, None, :] + ATTENTION_WINDOW - 1
    return difference[0] * (2 * ATTENTION_WINDOW - 1) + difference[1]


class Attention(nn.Module):
    """Attention within windows, with a learned bias by relative place; `wide` adds the surroundings."""

    index: Tensor

    def __init__(self, channels: int, wide: bool) -> None:
        super().__init__()
        self.scale = (channels // HEADS) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.bias = nn.Parameter(torch.zeros((2 * ATTENTION_WINDOW - 1) ** 2, HEADS))
        self.out = nn.Linear(channels, channels)
        self.wide = wide
        if wide:
            self.kv = nn.Linear(channels, 2 * channels)
            self.wide_bias = nn.Parameter(torch.zeros((2 * ATTENTION_WINDOW - 1) ** 2, HEADS))
            self.merge = nn.ModuleList([nn.Linear(2 * channels, channels), nn.Linear(channels, channels)])
        self.register_buffer("index", relative_index(), persistent=False)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, table: Tensor, mask: Tensor | None) -> Tensor:
        """q, k, v: (n, heads, 16, d); mask (windows, 16, 16), n being a multiple of windows -> (n, 16, C)."""
        bias = table[self.index].permute(2, 0, 1)  # (heads, 16, 16)
        logits = q @ k.transpose(-2, -1) + bias
        if mask is not None:
            logits = (logits.view(-1, len(mask), *logits.shape[1:]) + mask[:, None]).flatten(0, 1)
        return (logits.softmax(dim=-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(n, 16, parts * C) -> parts of (n, heads, 16, d)."""
        return x.view(len(x), TOKENS, parts, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def forward(self, x: Tensor, shifted: bool) -> Tensor:
        """x: (B, H, W, C), already rolled where `shifted`."""
        height, width = x.shape[1:3]
        masks = shift_masks(height, width, x.device) if shifted else (None, None)
        q, k, v = self._heads(self.qkv(windows(x)), 3)
        q = q * self.scale
        out = self._attend(q, k, v, self.bias, masks[0])
        if self.wide:
            k, v = self._heads(self.kv(wide_windows(x)), 2)
            around = self._attend(q, k, v, self.wide_bias, masks[1])
            merged = F.leaky_relu(self.merge[0](torch.cat([out, around], dim=-1)), 0.2)
            out = self.merge[1](merged) + out
        return image(self.out(out), height, width)


class Layer(nn.Module):
    """Attention and a two-layer perceptron, each with its norm before and the input added after."""

    def __init__(self, channels: int, wide: bool, shifted: bool) -> None:
        super().__init__()
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(channels)
        self.attention = Attention(channels, wide)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same."""
        y = self.norm1(x)
        if self.shifted:
            y = y.roll((-ATTENTION_WINDOW // 2, -ATTENTION_WINDOW // 2), dims=(1, 2))
        y = self.attention(y, self.shifted)
        if self.shifted:
            y = y.roll((ATTENTION_WINDOW // 2, ATTENTION_WINDOW // 2), dims=(1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Group(nn.Module):
    """Three layers, the middle one shifted, then a convolution, then the input added."""

    def __init__(self, channels: int, wide: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Layer(channels, wide, shifted=i == 1) for i in range(3)))
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same."""
        y: Tensor = self.conv(self.layers(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + y


class Transformer(nn.Module):
    """(B, C, H, W) -> the same, H and W multiples of 4: one group of plain layers, one of cross-scale ones."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.LayerNorm(channels)
        self.groups = nn.Sequential(Group(channels, wide=False), Group(channels, wide=True))
        self.leave = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        y = self.groups(self.enter(x.permute(0, 2, 3, 1)))
        return self.leave(y).permute(0, 3, 1, 2)  # type: ignore[no-any-return]
