"""midnet's weights on disk: safetensors, 16 bits, the architecture in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from midframe.errors import WeightsError
from midframe.models.midnet.architecture import PRIMARY, SIZES, Architecture
from midframe.models.midnet.model import Midnet
from midframe.weights import note_sum, save_half

# Parameters in files written before they were called by the field's terms.
_OLD_PREFIXES = {
    "judge.kind": "fusion.hypothesis_bias",
    "judge.look.": "fusion.input_layer.",
    "judge.first.": "fusion.hidden_layer.",
    "judge.gather.": "fusion.context_encoder.",
    "judge.down8.": "fusion.encoder8.",
    "judge.down16.": "fusion.encoder16.",
    "judge.up8.": "fusion.decoder8.",
    "judge.spread.": "fusion.context_decoder.",
    "judge.second.": "fusion.output_layer.",
    "judge.verdict.": "fusion.head.",
}


def current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the parameter names of this version."""

    def current(name: str) -> str:
        for old, new in _OLD_PREFIXES.items():
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    return {current(name): value for name, value in state.items()}


def save_midnet(path: Path, state: Mapping[str, Tensor], architecture: Architecture, notes: Mapping[str, str]) -> None:
    """Write weights, architecture and notes under a temporary name, then rename."""
    save_half(path, state, {"architecture": json.dumps(architecture.to_json()), **notes})
    note_sum(path)


def widened(net: Midnet, architecture: Architecture) -> Midnet:
    """The same network with more hypotheses: a new one starts as "filtered", or as the primary one.

    Raises:
        WeightsError: the architectures differ in more than additional hypotheses.
    """
    if net.architecture == architecture:
        return net
    own, wanted = net.architecture, architecture.hypotheses
    if own.fusion != architecture.fusion or not set(own.hypotheses) <= set(wanted):
        raise WeightsError(f"a network of {own.to_json()} cannot become one of {architecture.to_json()}")
    names = [*own.hypotheses]
    model = "filtered" if "filtered" in names else PRIMARY
    rows = [names.index(name if name in names else model) for name in wanted]
    wide = Midnet(architecture)
    state = {**wide.state_dict(), **net.state_dict()}
    state["fusion.hypothesis_bias"] = net.fusion.hypothesis_bias.detach()[rows]
    wide.load_state_dict(state)
    return wide


def load_midnet(path: Path, name: str = "") -> Midnet:
    """Load a network as `save_midnet` wrote it, or an older version, in float32, on the CPU.

    Args:
        path: a file, or a folder with `<name>.safetensors` in it.
        name: of the model.

    Raises:
        WeightsError: missing, damaged, or not midnet's.
    """
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        path = path / f"{name}.safetensors"
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; a safetensors file of midnet is needed")
    try:
        with safe_open(path, "pt") as file:
            found = (file.metadata() or {}).get("architecture")
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors: {error}") from error
    if (bad := next((key for key, value in state.items() if not torch.isfinite(value).all()), None)) is not None:
        raise WeightsError(f"'{path}' is damaged: '{bad}' holds numbers that are not finite; use another copy")
    try:
        architecture = Architecture.from_json(json.loads(found or ""))
        if name in SIZES and architecture != SIZES[name]:
            raise ValueError(f"they are not of the size of {name}")
        net = Midnet(architecture)
        net.load_state_dict(current_names(state))
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path} holds no weights of a midnet that this version can build: {reason}") from error
    net.name = name or Midnet.name  # type: ignore[misc]
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
