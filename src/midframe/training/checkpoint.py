"""The checkpoint of a training run: weights, moving average, optimiser, step."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from midframe.errors import InputError
from midframe.models.midnet.architecture import Architecture
from midframe.models.midnet.checkpoint import current_names
from midframe.models.midnet.model import Midnet

EMA_DECAY = 0.999

N = TypeVar("N", bound=nn.Module)


@dataclass
class Training:
    """The state of a run that a checkpoint holds."""

    net: Midnet
    average: dict[str, Tensor]  # exponential moving average (EMA) of the weights
    optimiser: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0  # spent so far
    best: float = float("-inf")  # evaluation score, dB

    def update_average(self) -> None:
        """EMA update after a step."""
        update_ema(self.average, self.net, self.step)


def update_ema(average: dict[str, Tensor], net: nn.Module, step: int) -> None:
    """Update the moving average of the weights in place after `step` steps; it is shorter at the beginning."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    with torch.no_grad():
        values = net.state_dict()
        torch._foreach_lerp_(list(average.values()), [values[name] for name in average], 1.0 - decay)


def save_checkpoint(path: Path, training: Training) -> None:
    """Write a checkpoint under a temporary name, then rename.

    The optimiser's moments, and the distance of the average from the weights, are stored in 16 bits. They are rounded
    in the running training too, so that continuing and resuming are the same, bit for bit.
    """
    net, optimiser = training.net, training.optimiser
    values = net.state_dict()
    moments: list[dict[str, Any] | None] = []
    offsets: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, value in training.average.items():
            offsets[name] = (value - values[name]).bfloat16()
            value.copy_(values[name] + offsets[name].float())
        for parameter in net.parameters():
            state = optimiser.state.get(parameter)
            if not state:  # no step yet
                moments.append(None)
                continue
            small = {"exp_avg": state["exp_avg"].bfloat16(), "exp_avg_sq": state["exp_avg_sq"].sqrt().bfloat16()}
            state["exp_avg"].copy_(small["exp_avg"].float())
            state["exp_avg_sq"].copy_(small["exp_avg_sq"].float() ** 2)
            moments.append({**small, "step": state["step"]})
    content = {
        "architecture": net.architecture.to_json(),
        "net": values,
        "average_offsets": offsets,
        "moments": moments,
        "step": training.step,
        "seconds": training.seconds,
        "best": training.best,
    }
    write_checkpoint(path, content)


def load_network(net: N, path: Path, lacks: str, first: str, prefix: str = "") -> N:
    """Load the weights of a run into a network, in float32, for inference.

    Args:
        net: receives them.
        path: a safetensors file.
        lacks: the error of a file of other tensors: "does not hold a matcher".
        first: the training that makes the file.
        prefix: of the network's names in a file that holds more; names without it are read, too.

    Raises:
        InputError: the file is missing or holds other tensors.
    """
    from safetensors.torch import load_file

    if not path.exists():
        raise InputError(f"train: {path} is missing; train {first} first")
    state = {name: value.float() for name, value in load_file(path).items()}
    own = {name.removeprefix(prefix): value for name, value in state.items() if prefix and name.startswith(prefix)}
    try:
        net.load_state_dict(own or state)
    except RuntimeError as error:
        raise InputError(f"train: {path} {lacks}: {str(error).splitlines()[0]}") from error
    return net.eval()


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write under a temporary name, then rename."""
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    torch.save(content, scratch)
    scratch.replace(path)


def load_checkpoint(path: Path, training: Training) -> None:
    """Undo `save_checkpoint`; reads the checkpoints of older versions as well.

    Raises:
        InputError: the checkpoint is of another architecture.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    for old, new in (("apart", "average_offsets"), ("spent", "seconds")):
        if old in content:
            content[new] = content.pop(old)
    try:
        architecture = Architecture.from_json(content["architecture"])
    except (ValueError, TypeError) as error:
        raise InputError(f"train: {path} cannot be resumed: {error}; choose another --out") from error
    if architecture != training.net.architecture:
        raise InputError(f"train: {path} holds a network of another size than --model; choose another --out")
    values, offsets = current_names(content["net"]), current_names(content["average_offsets"])
    training.net.load_state_dict(values)
    with torch.no_grad():
        for name, value in training.average.items():
            value.copy_(values[name] + offsets[name].float())
        for parameter, small in zip(training.net.parameters(), content["moments"], strict=True):
            if small is not None:
                training.optimiser.state[parameter] = {
                    "step": small["step"],
                    "exp_avg": small["exp_avg"].to(parameter),
                    "exp_avg_sq": small["exp_avg_sq"].to(parameter).square(),
                }
    training.step, training.seconds, training.best = (content[name] for name in ("step", "seconds", "best"))
