"""The tensors of an official `interpnet.pt`, by name: which of ours each one is, and which are constants.

`raft-sintel.pt` is `midframe.models.raft.from_original`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from midframe.models.vfinet.fuse import Fuse
from midframe.models.vfinet.refine import Refine

# Constants that the original stores among its weights: indices and masks of a 128 px training window, and
# three fixed filters. We compute them; a checkpoint may leave them out.
CONSTANTS = ("relative_position_index", "attn_mask", "attn_mask_x", "attn_mask_y", "weight_lpf", "weight_h", "weight_v")


def is_constant(name: str) -> bool:
    """Whether this tensor of the original is not learned."""
    return name.rsplit(".", 1)[-1] in CONSTANTS


def names() -> dict[str, str]:
    """Every learned tensor of `interpnet.pt` (without `module.`) -> its name in `VFINet`."""
    out: dict[str, str] = {}

    def both(theirs: str, ours: str) -> None:
        for part in ("weight", "bias"):
            out[f"{theirs}.{part}"] = f"{ours}.{part}"

    def prelu(theirs: str, ours: str) -> None:
        both(f"{theirs}.0", f"{ours}.0")
        out[f"{theirs}.1.weight"] = f"{ours}.1.weight"

    for i in range(3):
        theirs, ours = f"ifnet.block{i + 1}", f"refine.stages.{i}"
        for j in range(2 if i == 0 else 3):
            prelu(f"{theirs}.conv0.{j}", f"{ours}.enter.{j}")
        bodies = [("convblock1", 3), ("convblock2", 3)] if i == 0 else [("conv1", 2)]
        for j, (body, depth) in enumerate(bodies):
            for k in range(depth):
                prelu(f"{theirs}.{body}.{k}", f"{ours}.bodies.{j}.{k}")
        both(f"{theirs}.up", f"{ours}.up")
        both(f"{theirs}.conv2", f"{ours}.out")
        if i == 0:
            continue
        theirs, ours = f"{theirs}.trans", f"{ours}.transformer"
        both(f"{theirs}.patch_embed.norm", f"{ours}.enter")
        both(f"{theirs}.norm", f"{ours}.leave")
        for j in range(2):
            group, own = f"{theirs}.layers0.{j}", f"{ours}.groups.{j}"
            both(f"{group}.conv", f"{own}.conv")
            for k in range(3):
                block, layer = f"{group}.residual_group.blocks.{k}", f"{own}.layers.{k}"
                both(f"{block}.norm1", f"{layer}.norm1")
                both(f"{block}.norm2", f"{layer}.norm2")
                both(f"{block}.mlp.fc1", f"{layer}.mlp.0")
                both(f"{block}.mlp.fc2", f"{layer}.mlp.2")
                both(f"{block}.attn.qkv", f"{layer}.attention.qkv")
                both(f"{block}.attn.proj", f"{layer}.attention.out")
                table = f"{block}.attn.relative_position_bias_table"
                if j == 0:
                    out[table] = f"{layer}.attention.bias"
                else:
                    out[f"{table}_x"] = f"{layer}.attention.bias"
                    out[f"{table}_y"] = f"{layer}.attention.wide_bias"
                    both(f"{block}.attn.kv", f"{layer}.attention.kv")
                    both(f"{block}.attn.merge1", f"{layer}.attention.merge.0")
                    both(f"{block}.attn.merge2", f"{layer}.attention.merge.1")
    net, own = "internet.refinenet", "fuse.residuals"
    for theirs, ours in (
        ("conv1_1", "full.first"),
        ("conv1_2", "full.second"),
        ("conv2_1", "coarse.first"),
        ("conv2_2", "coarse.second"),
        ("conv3", "features"),
        ("conv4", "out"),
    ):
        both(f"{net}.{theirs}", f"{own}.{ours}")
    for i in range(3):
        for way in ("down", "up"):
            both(f"{net}.{way}{i + 1}.conv1", f"{own}.{way}.{i}.first")
            both(f"{net}.{way}{i + 1}.conv2", f"{own}.{way}.{i}.second")
        both(f"internet.masknet.conv{i + 1}", f"fuse.mask.{i}")
    for i in range(5):
        both(f"internet.staticnet.body.{2 * i}", f"fuse.static.{i}")
    return out


def original_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of every learned tensor in `interpnet.pt`, without `module.`."""
    with torch.device("meta"):
        ours = {f"refine.{name}": value for name, value in Refine().state_dict().items()}
        ours |= {f"fuse.{name}": value for name, value in Fuse().state_dict().items()}
    return {theirs: tuple(ours[name].shape) for theirs, name in names().items()}


def from_original(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors from those of an `interpnet.pt`, `module.` in front or not; constants are left out."""
    state = {name.removeprefix("module."): value for name, value in state.items()}
    table = names()
    return {table[name]: value.float() for name, value in state.items() if not is_constant(name)}
