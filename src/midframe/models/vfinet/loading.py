"""A `VFINet` from the official checkpoints."""

from __future__ import annotations

from pathlib import Path

from midframe import weights
from midframe.models import raft
from midframe.models.vfinet import names
from midframe.models.vfinet.network import VFINet


def load(record: weights.Record, folder: Path | None = None, large: str = "area") -> VFINet:
    """The network with the weights of a record.

    Args:
        record: `weights.RECORDS["vfinet"]` or another of its kind.
        folder: where `raft-sintel.pt` and `interpnet.pt` are; None: in the caches.
        large: see `VFINet`.

    Raises:
        WeightsError: weights missing, damaged or of another architecture.
    """
    flow, rest = weights.find(record, folder)
    tensors = raft.from_original(weights.load(flow, raft.original_shapes()))
    state = {f"raft.{name}": value for name, value in tensors.items()}
    state |= names.from_original(weights.load(rest, names.original_shapes(), names.is_constant))
    model = VFINet(large)
    model.load_state_dict(state)
    return model.eval()
