"""What the published network was recorded to give, and the weights it was recorded with.

`data/vfinet_reference.npz` holds, from runs of the original (ModelScope 1.x, RAFT and interpnet, float32, CPU): four
frames of 256x192 (a detail of the open movie Sintel, (c) Blender Foundation, CC BY 3.0), the flows and frames it made
of them, every fourth row and column, the names and shapes of its checkpoints' tensors, and the schedules of its
pipeline's clock. With $MIDFRAME_REFERENCE, a folder with the whole recordings, the tests use those.

The weights are no trained ones: every tensor is filled from its own name, so that they need not be stored.
"""

from __future__ import annotations

import json
import os
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

REDUCED = Path(__file__).parent / "data" / "vfinet_reference.npz"
FULL = Path(os.environ["MIDFRAME_REFERENCE"]) if "MIDFRAME_REFERENCE" in os.environ else None
ROWS, COLUMNS = slice(1, None, 4), slice(2, None, 4)  # what was kept of the recordings

# Constants among the tensors: they are not filled. Endings.
CONSTANT = (
    "relative_position_index", "attn_mask", "attn_mask_x", "attn_mask_y", "weight_lpf", "weight_h", "weight_v",
    "num_batches_tracked",
)  # fmt: skip
# Layers whose outputs are corrections: small ones.
GENTLE = ("flow_head.conv2", "conv4", ".up.", "block1.conv2", "block2.conv2", "block3.conv2")


@cache
def _stored() -> dict[str, Any]:
    with np.load(REDUCED) as file:
        return dict(file)


def _unpacked(name: str) -> Any:
    return json.loads(zlib.decompress(_stored()[name].tobytes()))


def shapes(part: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of "flownet" (raft-sintel.pt) or "internet" (interpnet.pt)."""
    return {name: tuple(shape) for name, shape in _unpacked("names")[part].items()}


def schedules() -> list[dict[str, Any]]:
    """Runs of the original's clock: frames, rates, cuts, and what came out."""
    return list(_unpacked("schedule"))


def frames() -> Tensor:
    """(4, 3, 192, 256) float32, 0..1, channels in the order in which the network was fed."""
    images = [cv2.imdecode(_stored()[f"frame{i}"], cv2.IMREAD_COLOR) for i in range(4)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def recorded(name: str) -> Tensor:
    """A recorded array, reduced."""
    return torch.from_numpy(_stored()[name])


def reduce(value: Tensor) -> Tensor:
    """The rows and columns that were kept."""
    return value[..., ROWS, COLUMNS]


def named_weights(table: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights that follow from names and shapes alone: uniform numbers, seeded by the name's CRC-32."""
    return {
        name: torch.from_numpy(_numbers(name, shape).astype(np.float32))
        for name, shape in table.items()
        if not name.endswith(CONSTANT)
    }


def _numbers(name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    spread = 2.0 * generator.random(int(np.prod(shape)), dtype=np.float64).reshape(shape) - 1.0
    if name.endswith("running_var"):
        return 1.0 + 0.2 * spread
    if name.endswith(("running_mean", "bias")):
        return 0.05 * spread
    if len(shape) == 1:  # scales of norms, slopes of PReLUs
        slope = name.split(".")[-2] == "1" and "conv" in name
        return (0.25 if slope else 1.0) * (1.0 + 0.2 * spread)
    if "relative_position_bias_table" in name:
        return 0.2 * spread
    gain = 0.4 if any(part in name for part in GENTLE) else 1.4
    return gain * np.sqrt(3.0 / np.prod(shape[1:])) * spread
