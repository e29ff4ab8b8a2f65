"""Quick evaluation of a network during its training: PSNR on a folder of triplets, in less than a minute.

It is a compass, not a report: `midframe.evaluation` makes those.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from midframe.errors import InputError, MediaError
from midframe.models.base import RenderRequest
from midframe.models.midnet.model import Midnet
from midframe.ops import crop, pad

MAX_TRIPLETS = 40  # evenly spread over those found


@dataclass(frozen=True)
class Triplet:
    """Three frames: the outer two are given, the middle one is the truth at t = 1/2."""

    a: Path
    target: Path
    b: Path


def find_triplets(folder: Path) -> list[Triplet]:
    """Triplets under a folder: Middlebury's (`input/*/frame10.png`, `gt/*/frame10i11.png`), Vimeo's, septuplets.

    Of a septuplet im3, im4 and im5 are used.

    Raises:
        InputError: none found.
    """
    found = []
    for first in sorted(folder.glob("input/*/frame10.png")):
        truth = folder / "gt" / first.parent.name / "frame10i11.png"
        if truth.is_file():
            found.append(Triplet(first, truth, first.with_name("frame11.png")))
    for first in sorted(folder.rglob("im1.*")):
        place, end = first.parent, first.suffix
        names = ("im3", "im4", "im5") if (place / f"im7{end}").is_file() else ("im1", "im2", "im3")
        paths = [place / f"{name}{end}" for name in names]
        if all(path.is_file() for path in paths):
            found.append(Triplet(*paths))
    if not found:
        raise InputError(
            f"train: no triplets under {folder}; accepted are Middlebury's input/*/frame10.png with "
            "gt/*/frame10i11.png, and folders of im1, im2, im3"
        )
    return found[:: -(-len(found) // MAX_TRIPLETS)]


def quick_evaluation(net: Midnet, weights: dict[str, Tensor], triplets: list[Triplet], half: bool) -> float:
    """Mean PSNR in dB of a network with other weights, frames rounded to 8 bits.

    Args:
        net: has its own weights again afterwards.
        weights: state dict to evaluate: the moving average.
        triplets: to evaluate on.
        half: convolutions in bf16.
    """
    own = {name: value.detach().clone() for name, value in net.state_dict().items()}
    net.load_state_dict(weights)
    net.eval()
    device = next(net.parameters()).device
    model = net.on_device(device)
    scores = []
    try:
        for triplet in triplets:
            first, target, second = (_read(path).to(device) for path in (triplet.a, triplet.target, triplet.b))
            height, width = first.shape[-2:]
            size = model.padded_size(height, width)
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=half):
                a, b = model.encode(pad(first, *size)), model.encode(pad(second, *size))
                frame = model.render(RenderRequest(a, b, model.match(a, b), torch.tensor([0.5], device=device)))
            rounded = (crop(frame.float(), height, width).clamp(0, 1) * 255).round()
            error = float(((rounded - target * 255) ** 2).mean())
            scores.append(10 * np.log10(255**2 / max(error, 1e-6)))
    finally:
        net.load_state_dict(own)
        net.train()
    return float(np.mean(scores))


def _read(path: Path) -> Tensor:
    raw = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
    if raw is None:
        raise MediaError(f"train: {path} cannot be decoded")
    return torch.from_numpy(np.asarray(raw, np.float32)).permute(2, 0, 1)[None] / 255
