"""The RIFE graph written step by step at full size, and the script that records its outputs for `test_rife.py`.

    python tests/rife_reference.py    # writes tests/data/rife_reference.npz

Nothing is shared with `midframe.models.rife` but names and shapes: every block's input is the whole image reduced,
every output is enlarged to the whole image, every warp is of the whole image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def warp(x: Tensor, flow: Tensor) -> Tensor:
    _, _, height, width = x.shape
    ys, xs = torch.meshgrid(torch.arange(height, dtype=x.dtype), torch.arange(width, dtype=x.dtype), indexing="ij")
    grid = torch.stack([(xs + flow[:, 0]) * 2 / (width - 1) - 1, (ys + flow[:, 1]) * 2 / (height - 1) - 1], -1)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=True)


def resized(x: Tensor, factor: float) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def conv(w: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride, 1)


def transposed(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.conv_transpose2d(x, w[f"{name}.weight"], w[f"{name}.bias"], 2, 1)


def encode(w: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    for names in (("cnn0", "cnn1", "cnn2", "cnn3"), ("0", "2", "4", "6"), ("0", "1")):
        if all(f"encode.{name}.weight" in w for name in names):
            x = conv(w, f"encode.{names[0]}", x, 2)
            for name in names[1:-1]:
                x = conv(w, f"encode.{name}", F.leaky_relu(x, 0.2))
            return [transposed(w, f"encode.{names[-1]}", F.leaky_relu(x, 0.2) if len(names) > 2 else x)]
    return []


def block4(w: dict[str, Tensor], n: int, x: Tensor, flow: Tensor | None, scale: int) -> Tensor:
    x = resized(x, 1 / scale)
    if flow is not None:
        x = torch.cat([x, resized(flow, 1 / scale) / scale], 1)
    for k in (0, 1):
        x = F.leaky_relu(conv(w, f"block{n}.conv0.{k}.0", x, 2), 0.2)
    for k in range(8):
        x = F.leaky_relu(conv(w, f"block{n}.convblock.{k}.conv", x) * w[f"block{n}.convblock.{k}.beta"] + x, 0.2)
    out = resized(F.pixel_shuffle(transposed(w, f"block{n}.lastconv.0", x), 2), scale)
    return torch.cat([out[:, :4] * scale, out[:, 4:]], 1)


def version4(w: dict[str, Tensor], scales: tuple[int, ...], a: Tensor, b: Tensor, t: float) -> Tensor:
    codes = [*encode(w, a), *encode(w, b)]
    plane = torch.full_like(a[:, :1], t)
    out = block4(w, 0, torch.cat([a, b, *codes, plane], 1), None, scales[0])
    flow, mask, features = out[:, :4], out[:, 4:5], out[:, 5:]
    for n, scale in enumerate(scales[1:], start=1):
        both = [warp(a, flow[:, :2]), warp(b, flow[:, 2:])]
        both += [warp(code, flow[:, 2 * k : 2 * k + 2]) for k, code in enumerate(codes)]
        given = [*both, plane, mask] + ([features] if features.shape[1] == 8 else [])
        out = block4(w, n, torch.cat(given, 1), flow, scale)
        flow, features = flow + out[:, :4], out[:, 5:]
        mask = out[:, 4:5] if codes else mask + out[:, 4:5]
    share = torch.sigmoid(mask)
    return warp(a, flow[:, :2]) * share + warp(b, flow[:, 2:]) * (1 - share)


def block3(w: dict[str, Tensor], n: int, x: Tensor, flow: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    def step(name: str, x: Tensor, stride: int = 1) -> Tensor:
        return F.prelu(conv(w, f"block{n}.{name}.0", x, stride), w[f"block{n}.{name}.1.weight"])

    def head(name: str, x: Tensor) -> Tensor:
        x = F.prelu(transposed(w, f"block{n}.{name}.0", x), w[f"block{n}.{name}.1.weight"])
        return resized(transposed(w, f"block{n}.{name}.2", x), scale)

    x = torch.cat([resized(x, 1 / scale), resized(flow, 1 / scale) / scale], 1)
    x = step("conv0.1", step("conv0.0", x, 2), 2)
    for k in range(4):
        x = step(f"convblock{k}.1", step(f"convblock{k}.0", x)) + x
    return head("conv1", x) * scale, head("conv2", x)


def version3(w: dict[str, Tensor], a: Tensor, b: Tensor) -> Tensor:
    flow, mask, left, right = torch.zeros_like(a[:, :1]).repeat(1, 4, 1, 1), torch.zeros_like(a[:, :1]), a, b
    for n, scale in enumerate((4, 2, 1)):
        f0, m0 = block3(w, n, torch.cat([left, right, mask], 1), flow, scale)
        back = torch.cat([flow[:, 2:], flow[:, :2]], 1)
        f1, m1 = block3(w, n, torch.cat([right, left, -mask], 1), back, scale)
        flow = flow + (f0 + torch.cat([f1[:, 2:], f1[:, :2]], 1)) / 2
        mask = mask + (m0 - m1) / 2
        left, right = warp(a, flow[:, :2]), warp(b, flow[:, 2:])
    return left * torch.sigmoid(mask) + right * (1 - torch.sigmoid(mask))


def main() -> None:
    from test_models import moved
    from test_rife import OWN, SMALL, state_of

    out: dict[str, np.ndarray] = {}
    for number, (version, architecture) in enumerate(SMALL.items()):
        w = {name: value.double() for name, value in state_of(architecture).items()}
        a, _, b = ((x * 255).round().to(torch.uint8) for x in moved(number, 3, 24, 44))
        out[f"{version}_a"], out[f"{version}_b"] = a.numpy(), b.numpy()
        stride = architecture.stride
        sides = [-(-side // stride) * stride - side for side in a.shape[-2:]]
        left, right = (F.pad(x[None].double() / 255, (0, sides[1], 0, sides[0])) for x in (a, b))
        for t in (0.5,) if version == "3.x" else (0.5, 0.3):
            frame = version3(w, left, right) if version == "3.x" else version4(w, architecture.scales, left, right, t)
            out[f"{version}_{t}"] = frame[0, :, :24, :44].clamp(0, 1).float().numpy()
    np.savez_compressed(OWN, **out)
    print(f"{Path(OWN)}: {OWN.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
