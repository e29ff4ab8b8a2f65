"""A moving frame whose truth is known at every instant, and methods that move it well or badly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from midframe import ops
from midframe.evaluation.datasets import Case, DataSet, FlowTruth, Target

HEIGHT, WIDTH = 48, 64
STEP = 4.0  # pixels from a to b
THIRDS = (Fraction(1, 3), Fraction(2, 3))


def scene(shift_x: float, seed: int = 0, logo: bool = True) -> Tensor:
    """A frame of waves, drawn at moved coordinates: (3, H, W), 0..1. Rows 0 to 9 stand still under `logo`."""
    y, x = torch.meshgrid(torch.arange(float(HEIGHT)), torch.arange(float(WIDTH)), indexing="ij")
    x = torch.where((y < 10) & logo, x, x - shift_x)
    generator = torch.Generator().manual_seed(seed)
    out = torch.full((3, HEIGHT, WIDTH), 0.5)
    for _ in range(10):  # many waves of unlike lengths: nothing repeats
        kx, ky = ((torch.rand(2, generator=generator) - 0.5) * 1.2).tolist()
        phase = torch.rand(3, 1, 1, generator=generator) * 6.3
        out = out + 0.07 * torch.sin(kx * x + ky * y + phase)
    return out.clamp(0, 1)


def case(index: int, times: Sequence[Fraction] = (Fraction(1, 2),), logo: bool = True) -> Case:
    step = STEP + index
    still = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    if logo:
        still[:10] = True
    flow = torch.zeros(2, HEIGHT, WIDTH)
    flow[0, ~still] = step
    regions = {"logo": still, "pan": ~still}  # an empty region where there is no logo
    return Case(
        f"case{index}",
        scene(0, index, logo),
        scene(step, index, logo),
        tuple(Target(t, scene(float(t) * step, index, logo), regions) for t in times),
        group="even" if index % 2 == 0 else "odd",
        kind="slow" if index < 2 else "fast",
        motion=step,
        pan=not logo,
        flow=FlowTruth(flow, seen=~still),
    )


def moving_set(count: int = 6, name: str = "moving", logo: bool = True) -> DataSet:
    def cases() -> Iterator[Case]:
        for k in range(count):
            yield case(k, THIRDS, logo)

    return DataSet(name, "a pan" + " under a logo" * logo, count, cases)


class Mover:
    """Warps a along the true flow times `scale`: 1 is near the truth, 0.5 is a crippled model."""

    def __init__(self, scale: float, name: str):
        self.scale = scale
        self.name = name

    def flow(self, a: Tensor, b: Tensor) -> Tensor | None:
        for index in range(12):
            for logo in (True, False):
                truth = case(index, (), logo)
                if torch.equal(truth.a, a) and torch.equal(truth.b, b):
                    assert truth.flow is not None
                    return truth.flow.flow * self.scale
        raise AssertionError("not one of the cases above")

    def between(
        self, a: Tensor, b: Tensor, times: Sequence[Fraction], before: Tensor | None, after: Tensor | None
    ) -> Tensor:
        flow = self.flow(a, b)
        assert flow is not None
        # backward from the frames at t: the pan is the same everywhere, so its flow is too
        return torch.stack(
            [
                (1 - float(t)) * ops.warp(a[None], -float(t) * flow[None])[0]
                + float(t) * ops.warp(b[None], (1 - float(t)) * flow[None])[0]
                for t in times
            ]
        )
