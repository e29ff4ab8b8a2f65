"""Draw many scenes at once with torch, on a GPU or on the CPU: the twin of `render` for the same scenes.

Images differ from the twin's by the interpolation's arithmetic (OpenCV places samples on 1/32 texel; here they are
exact), flows by less than 0.02 px; noise has the same strength but other values; JPEG is its quantisation without the
entropy coding, which loses nothing. All scenes of a call have one size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from midframe.errors import InputError
from midframe.scenes.render import FLOW_PAIRS, OUTSIDE, ROUNDS, blur_samples, shortest_period
from midframe.scenes.script import Layer, Scene

TEXTURE_RIM = 2  # texels mirrored around the patch of an endless layer, for the cubic's reach


@dataclass(frozen=True, slots=True)
class LayerBatch:
    """The layers of one number of all scenes that have so many, their patches side by side in one tensor."""

    number: int
    members: Tensor  # (M,) which scenes
    layers: tuple[Layer, ...]
    patches: Tensor  # (M, 4, R, C) float32, 0..255
    sizes: Tensor  # (M, 2) columns and rows of each patch, before padding
    endless: Tensor  # (M,) bool
    waves: Tensor | None  # (M, N, 6): amplitude x, y, wave x, y, phase, speed; None if nothing deformations
    repeats: Tensor  # (M,) bool


def render_batch(
    scenes: Sequence[Scene], neighbours: bool = True, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Draw scenes of one size.

    Returns:
        As `render.stack`, tensors on `device`: images (B, 3, H, W) uint8, flows (B, 2, H, W) float32
        pixels, masks (B, H, W) bool, `t` and `period` (B,) float32.

    Raises:
        InputError: no scenes, or of different sizes.
    """
    if len({(scene.height, scene.width) for scene in scenes}) != 1:
        raise InputError("render_batch: one or more scenes, all of one size, are needed")
    groups: dict[int, list[int]] = {}
    for index, scene in enumerate(scenes):
        groups.setdefault(blur_samples(scene), []).append(index)
    parts = [_same_blur([scenes[i] for i in members], neighbours, device, n) for n, members in groups.items()]
    order = torch.tensor([i for members in groups.values() for i in members], device=device).argsort()
    return {name: torch.cat([part[name] for part in parts])[order] for name in parts[0]}


def _same_blur(
    scenes: Sequence[Scene], neighbours: bool, device: torch.device | str, samples: int
) -> dict[str, Tensor]:
    layer_batches = stacked(scenes, device)
    height, width, count = scenes[0].height, scenes[0].width, len(scenes)
    names = ("a", "t", "b", "before", "after") if neighbours else ("a", "t", "b")
    times = {"a": [0.0] * count, "b": [1.0] * count, "t": [scene.t for scene in scenes]}
    times |= {"before": [-1.0] * count, "after": [2.0] * count}
    moments = {name: [scene.clock(s) for scene, s in zip(scenes, times[name], strict=True)] for name in names}
    clean: dict[str, Tensor] = {}
    labels: dict[str, Tensor] = {}
    out: dict[str, Tensor] = {}
    for name in names:
        image, labels[name], overlay = instant(scenes, layer_batches, moments[name])
        if samples:
            total = torch.zeros_like(image)
            for k in range(samples):
                offsets = [((k + 0.5) / samples - 0.5) * scene.exposure for scene in scenes]
                at = [moment + offset for moment, offset in zip(moments[name], offsets, strict=True)]
                total += instant(scenes, layer_batches, at, quick=True)[0]
            image = (total / samples).round_()
        clean[name] = image
        if name == "t":
            out["overlay"] = overlay
    halved = torch.tensor([scene.degradation.halved_chroma for scene in scenes], device=device)
    out["target"] = torch.where(halved[:, None, None, None], halved_chroma(clean["t"]), clean["t"])
    out |= degraded(scenes, {name: clean[name] for name in names if name != "t"}, moments, halved)
    for one, two in FLOW_PAIRS:
        if one not in names or two not in names:
            continue
        title = f"{one}_{two}" if len(two) > 1 else one + two
        flow = flow_between(scenes, layer_batches, labels[one], moments[one], moments[two])
        out[f"flow_{title}"] = flow
        out[f"hidden_{title}"] = lost(labels[one], labels[two], flow)
    still = (out["flow_ta"].abs().amax(1) < 0.02) & (out["flow_tb"].abs().amax(1) < 0.02)
    out["static"] = still & ~out["hidden_ta"] & ~out["hidden_tb"]
    out["repeated"] = torch.zeros(count, height, width, dtype=torch.bool, device=device)
    for layer_batch in layer_batches:
        mine = (labels["t"][layer_batch.members] == layer_batch.number) & layer_batch.repeats[:, None, None]
        out["repeated"][layer_batch.members] |= mine
    out["t"] = torch.tensor(times["t"], device=device)
    out["period"] = torch.tensor([shortest_period(scene) for scene in scenes], device=device)
    return {name: value.to(torch.uint8) if value.ndim == 4 and value.shape[1] == 3 else value
            for name, value in out.items()}  # fmt: skip


def stacked(scenes: Sequence[Scene], device: torch.device | str) -> list[LayerBatch]:
    """Stack the layers of all scenes, from the back to the front, on the device."""
    layer_batches = []
    for number in range(max(len(scene.layers) for scene in scenes)):
        members = [index for index, scene in enumerate(scenes) if len(scene.layers) > number]
        layers = tuple(scenes[index].layers[number] for index in members)
        rows = max(layer.patch.shape[0] for layer in layers) + 2 * TEXTURE_RIM
        columns = max(layer.patch.shape[1] for layer in layers) + 2 * TEXTURE_RIM
        patches = np.zeros((len(layers), rows, columns, 4), np.uint8)
        for patch, layer in zip(patches, layers, strict=True):
            high, wide, channels = layer.patch.shape
            rim = ((TEXTURE_RIM, TEXTURE_RIM), (TEXTURE_RIM, TEXTURE_RIM), (0, 0))
            full = np.pad(layer.patch, rim, mode="reflect") if layer.endless else np.pad(layer.patch, rim)
            patch[: high + 2 * TEXTURE_RIM, : wide + 2 * TEXTURE_RIM, :channels] = full
            if layer.endless:
                patch[: high + 2 * TEXTURE_RIM, : wide + 2 * TEXTURE_RIM, 3] = 255
        waves = None
        if any(layer.deformation is not None for layer in layers):
            most = max(len(layer.deformation.phase) for layer in layers if layer.deformation is not None)
            table = np.zeros((len(layers), most, 6), np.float32)
            for row, layer in zip(table, layers, strict=True):
                r = layer.deformation
                if r is not None:
                    row[: len(r.phase)] = np.column_stack([r.amplitude, r.wave, r.phase, r.speed])
            waves = torch.from_numpy(table).to(device)
        sizes = torch.tensor([layer.patch.shape[1::-1] for layer in layers], dtype=torch.float32)
        layer_batches.append(
            LayerBatch(
                number,
                torch.tensor(members, device=device),
                layers,
                torch.from_numpy(patches).to(device).permute(0, 3, 1, 2).float(),
                sizes.to(device),
                torch.tensor([layer.endless for layer in layers], device=device),
                waves,
                torch.tensor([layer.period is not None for layer in layers], device=device),
            )
        )
    return layer_batches


# Images


def instant(
    scenes: Sequence[Scene], layer_batches: Sequence[LayerBatch], moments: Sequence[float], quick: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Render each scene at its own moment: image (B, 3, H, W) in whole levels; label and overlay (B, H, W)."""
    height, width, device = scenes[0].height, scenes[0].width, layer_batches[0].patches.device
    canvas = torch.zeros(len(scenes), 3, height, width, device=device)
    label = torch.zeros(len(scenes), height, width, dtype=torch.uint8, device=device)
    overlay = torch.zeros_like(label, dtype=torch.bool)
    lit = [False] * len(scenes)
    for layer_batch in layer_batches:
        members = layer_batch.members.tolist()
        first = [i for i, layer in zip(members, layer_batch.layers, strict=True) if layer.overlay and not lit[i]]
        for index in first:
            lit[index] = True
        shine(canvas, scenes, moments, first)
        at = [moments[index] for index in members]
        strength = torch.tensor(
            [layer.visibility(s) for layer, s in zip(layer_batch.layers, at, strict=True)], device=device
        )
        matrix = matrices(layer_batch, at, height, width)
        sheet = sampled(
            layer_batch, *places(layer_batch, matrix, at, height, width), "bilinear" if quick else "bicubic"
        )
        under = canvas[layer_batch.members]
        cover = sheet[:, 3:] * (strength / 255).view(-1, 1, 1, 1)
        canvas[layer_batch.members] = under + (sheet[:, :3] - under) * cover
        mine = cover[:, 0] > 0.5
        label[layer_batch.members] = torch.where(
            mine, torch.full_like(label[:1], layer_batch.number), label[layer_batch.members]
        )
        drawn_on = torch.tensor([layer.overlay for layer in layer_batch.layers], device=device) & (strength > 0)
        overlay[layer_batch.members] |= (sheet[:, 3] > 25) & drawn_on[:, None, None]
    shine(canvas, scenes, moments, [index for index, done in enumerate(lit) if not done])
    return canvas.clamp_(0, 255).round_(), label, overlay


def matrices(layer_batch: LayerBatch, moments: Sequence[float], height: int, width: int) -> NDArray[Any]:
    """Return matrices (M, 3, 3): texels to pixels, float64."""
    return np.stack([layer.matrix(s, height, width) for layer, s in zip(layer_batch.layers, moments, strict=True)])


def project(matrix: NDArray[Any], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Project points (..., H, W) through homographies (M, 3, 3), in float32 about the origin of the image."""
    m = torch.from_numpy(matrix / matrix[:, 2:, 2:]).to(x.device, torch.float32)[:, :, :, None, None]
    w = m[:, 2, 0] * x + m[:, 2, 1] * y + m[:, 2, 2]
    return (m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2]) / w, (m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]) / w


def grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a row of x and a column of y."""
    x, y = torch.arange(width, device=device), torch.arange(height, device=device)
    return x.float()[None, None, :], y.float()[None, :, None]


def deformed(waves: Tensor, x: Tensor, y: Tensor, moments: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Compute the displacement (M, H, W) by `Deformation` at texels (x, y)."""
    dx, dy = torch.zeros_like(x), torch.zeros_like(y)
    s = torch.tensor(moments, device=x.device).view(-1, 1, 1)
    for ax, ay, wx, wy, phase, speed in waves.permute(1, 2, 0)[..., None, None]:
        wave = torch.sin(wx * x + wy * y + (phase + speed * s))
        dx, dy = dx + ax * wave, dy + ay * wave
    return dx, dy


def places(
    layer_batch: LayerBatch,
    matrix: NDArray[Any],
    moments: Sequence[float],
    height: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    """Find the texel (M, H, W) of each patch seen at each pixel."""
    u, v = project(np.linalg.inv(matrix), *grid(height, width, layer_batch.patches.device))
    if layer_batch.waves is None:
        return u, v
    x, y = u, v
    for _ in range(ROUNDS):
        dx, dy = deformed(layer_batch.waves, x, y, moments)
        x, y = u - dx, v - dy
    return x, y


def sampled(layer_batch: LayerBatch, x: Tensor, y: Tensor, mode: str) -> Tensor:
    """Sample the patches (M, 4, H, W) at texels (x, y): whole levels, mirrored beyond the edges of endless ones."""
    size = layer_batch.sizes[:, :, None, None] - 1
    mirrored = layer_batch.endless[:, None, None]

    def folded(at: Tensor, last: Tensor) -> Tensor:
        round_trip = torch.remainder(at, 2 * last)
        # far outside of a patch nothing is seen; kept near, so that float32 stays fine
        return torch.where(mirrored, torch.minimum(round_trip, 2 * last - round_trip), at.clamp(-8, 1e5)) + TEXTURE_RIM

    rows, columns = layer_batch.patches.shape[-2:]
    where = torch.stack(
        [folded(x, size[:, 0]) * (2 / (columns - 1)) - 1, folded(y, size[:, 1]) * (2 / (rows - 1)) - 1], -1
    )
    out = F.grid_sample(layer_batch.patches, where, mode=mode, padding_mode="zeros", align_corners=True)
    return out.clamp_(0, 255).round_()


# Light and degradation


def shine(canvas: Tensor, scenes: Sequence[Scene], moments: Sequence[float], which: Sequence[int]) -> None:
    """Apply shadows, gain and gamma to some of the scenes, in place."""
    x, y = grid(canvas.shape[-2], canvas.shape[-1], canvas.device)
    for index in which:
        light, s = scenes[index].light, moments[index]
        for shadow in light.shadows:
            across = (x[0] - (shadow.centre[0] + shadow.shift[0] * s)) / shadow.radii[0]
            down = (y[0] - (shadow.centre[1] + shadow.shift[1] * s)) / shadow.radii[1]
            canvas[index] *= 1 - shadow.strength * torch.exp(-(across**2) - down**2)
        if light.gain:
            canvas[index] *= float(np.exp(light.gain * s))
        if light.gamma:
            canvas[index] = (canvas[index].clamp(0, 255) / 255) ** float(np.exp(light.gamma * s)) * 255


def degraded(
    scenes: Sequence[Scene], images: dict[str, Tensor], moments: dict[str, list[float]], halved: Tensor
) -> dict[str, Tensor]:
    """Add noise, halved chroma and compression to the input images; one moment of a scene has one noise."""
    device = halved.device
    generator = torch.Generator(device).manual_seed(sum(scene.noise_seed * 2 + 1 for scene in scenes) % 2**62)
    degradations = [scene.degradation for scene in scenes]

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, device=device).view(-1, 1, 1, 1)

    read, shot = column([d.noise for d in degradations]), column([d.shot for d in degradations])
    grain: dict[str, Tensor] = {}
    out = {}
    for name, clean in images.items():
        noise = torch.randn(clean.shape, generator=generator, device=device)
        for index, degradation in enumerate(degradations):
            if degradation.coarse:
                noise[index] = _blurred(noise[index], degradation.coarse) * (1 + 2.5 * degradation.coarse)
            same = [other for other in grain if moments[other][index] == moments[name][index]]
            if same:
                noise[index] = grain[same[0]][index]
        grain[name] = noise
        image = (clean + noise * torch.sqrt(read**2 + shot**2 * (clean / 255))).clamp_(0, 255).round_()
        image = torch.where(halved[:, None, None, None], halved_chroma(image), image)
        for index, degradation in enumerate(degradations):
            if degradation.jpeg is not None:
                image[index] = jpeg(image[index : index + 1], degradation.jpeg)[0]
        out[name] = image
    return out


def _blurred(noise: Tensor, sigma: float) -> Tensor:
    reach = torch.arange(-3, 4, device=noise.device)
    kernel = torch.exp(-(reach**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(noise[:, None], (3, 3, 3, 3), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]


# JFIF: full-range BT.601
_TO_YCC = torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_FROM_YCC = torch.tensor([[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]])


def _to_ycc(image: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", _TO_YCC.to(image.device), image)


def _to_rgb(ycc: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", _FROM_YCC.to(ycc.device), ycc).clamp(0, 255).round_()


def halved_chroma(image: Tensor) -> Tensor:
    """Average chroma over 2 x 2 and interpolate it again, as 4:2:0 does; (B, 3, H, W) of levels."""
    height, width = image.shape[-2:]
    ycc = _to_ycc(image)
    odd = F.pad(ycc[:, 1:], (0, width % 2, 0, height % 2), mode="replicate")
    back = F.interpolate(F.avg_pool2d(odd, 2), scale_factor=2, mode="bilinear", align_corners=False)
    return _to_rgb(torch.cat([ycc[:, :1], back[:, :, :height, :width]], 1))


# ITU-T T.81, tables K.1 and K.2
_LUMA_TABLE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29,
    51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121,
    120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMA_TABLE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, *[99] * 38,
)  # fmt: skip


@lru_cache(maxsize=4)
def _cosines(device: torch.device) -> Tensor:
    """Return the orthonormal DCT-II (8, 8)."""
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
    table = torch.cos((2 * n + 1) * k * torch.pi / 16) / 2
    table[0] /= 2**0.5
    return table.to(device)


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Compress images (B, 3, H, W) of levels by JPEG of a quality (1 to 100, libjpeg's scale) with 4:2:0."""
    height, width = image.shape[-2:]
    padded = F.pad(image, (0, -width % 16, 0, -height % 16), mode="replicate")
    ycc = _to_ycc(padded)
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    luma = _quantised(ycc[:, :1] - 128, _LUMA_TABLE, scale) + 128
    chroma = _quantised(F.avg_pool2d(ycc[:, 1:], 2), _CHROMA_TABLE, scale)
    back = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    return _to_rgb(torch.cat([luma, back], 1)[:, :, :height, :width])


def _quantised(plane: Tensor, table: tuple[int, ...], scale: float) -> Tensor:
    batch, channels, height, width = plane.shape
    steps = torch.tensor(table, device=plane.device).float()
    steps = ((steps * scale + 50) / 100).floor().clamp(1, 255).view(8, 8)
    c = _cosines(plane.device)
    blocks = plane.view(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    coded = ((c @ blocks @ c.T) / steps).round() * steps
    return (c.T @ coded @ c).transpose(3, 4).reshape(batch, channels, height, width)


# Geometry


def flow_between(
    scenes: Sequence[Scene],
    layer_batches: Sequence[LayerBatch],
    label: Tensor,
    start: Sequence[float],
    end: Sequence[float],
) -> Tensor:
    """Compute the flow (B, 2, H, W) from `start` to `end` of each pixel, by its layer in `label`."""
    height, width, device = scenes[0].height, scenes[0].width, label.device
    x, y = grid(height, width, device)
    out = torch.zeros(len(scenes), 2, height, width, device=device)
    for layer_batch in layer_batches:
        members = layer_batch.members.tolist()
        one, two = ([moments[index] for index in members] for moments in (start, end))
        first, second = matrices(layer_batch, one, height, width), matrices(layer_batch, two, height, width)
        u, v = project(second @ np.linalg.inv(first), x, y)
        if layer_batch.waves is not None:
            q, r = places(layer_batch, first, one, height, width)
            sx, sy = deformed(layer_batch.waves, q, r, two)
            bent_u, bent_v = project(second, q + sx, r + sy)
            bent = torch.tensor([layer.deformation is not None for layer in layer_batch.layers], device=device)[
                :, None, None
            ]
            u, v = torch.where(bent, bent_u, u), torch.where(bent, bent_v, v)
        mine = label[layer_batch.members] == layer_batch.number
        still = [layer.still or s == e for layer, s, e in zip(layer_batch.layers, one, two, strict=True)]
        mine &= ~torch.tensor(still, device=device)[:, None, None]
        flow = torch.stack([u - x, v - y], 1)
        out[layer_batch.members] = torch.where(mine[:, None], flow, out[layer_batch.members])
    return out


def lost(label: Tensor, other: Tensor, flow: Tensor) -> Tensor:
    """Find (B, H, W) bool where the layer at a pixel's place in the other image is not its own, or there is none."""
    batch, height, width = label.shape
    x, y = grid(height, width, label.device)
    across, down = (flow[:, 0] + x).round(), (flow[:, 1] + y).round()
    inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
    index = (down * width + across).clamp(0, height * width - 1).long().flatten(1)
    seen = other.flatten(1).gather(1, index).view(batch, height, width)
    return torch.where(inside, seen, torch.full_like(seen, OUTSIDE)) != label
