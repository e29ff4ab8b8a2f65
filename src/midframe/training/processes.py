"""Several training processes: the group that torchrun sets up, all-reduce of gradients and of requests to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from midframe.errors import DeviceError


def join(name: str) -> tuple[int, int, torch.device]:
    """Rank, number of processes and device; joins the group that torchrun has set up, if any.

    Args:
        name: of the device, or "auto".

    Raises:
        DeviceError: the device is not there.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise DeviceError(f"train: device {name} is not available; try --device cpu")
        if world > 1:
            name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
            torch.cuda.set_device(name)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if name.startswith("cuda") else "gloo")
    return rank, world, torch.device(name)


def all_reduce_gradients(net: nn.Module, world: int) -> None:
    """Replace gradients by their mean over all processes, in one message."""
    if world == 1:
        return
    parameters = [p for p in net.parameters() if p.requires_grad]
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= world
    for p, mean in zip(parameters, torch.split(flat, [g.numel() for g in grads]), strict=True):
        p.grad = mean.view_as(p).clone()


def any_of_all(value: bool, device: torch.device, world: int) -> bool:
    """Whether a value is true in any process."""
    if world == 1:
        return value
    flag = torch.tensor(float(value), device=device)
    dist.all_reduce(flag)
    return bool(flag > 0)


def tear_down(world: int) -> None:
    """Leave the group of processes."""
    if world > 1 and dist.is_initialized():
        dist.destroy_process_group()


@dataclass
class Stop:
    """Set by SIGTERM or SIGINT: finish the step, write a checkpoint, end."""

    is_set: bool = False


@contextmanager
def on_request_to_stop() -> Iterator[Stop]:
    """Catch SIGTERM and SIGINT while inside; not in threads other than the main one, where they cannot be caught."""
    stop = Stop()

    def handle(*_: Any) -> None:
        stop.is_set = True

    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:
        before = {}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
