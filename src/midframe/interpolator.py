"""Interpolate between frames in memory, for notebooks and programs that bring their own frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from midframe import shots, timeline
from midframe.engine import Engine
from midframe.errors import InputError
from midframe.models import load_model
from midframe.models.base import Model
from midframe.options import DEFAULT_MODEL, Options, parse_rate
from midframe.types import Frame, Gap

Picture = np.ndarray[Any, Any] | Tensor
Instant = float | Fraction

_LEVELS = {torch.uint8: 255, torch.uint16: 65535}


class Interpolator:
    """A model on a device, ready to interpolate between frames.

        it = Interpolator()
        middle = it.between(a, b)
        images = it.between(a, b, t=[0.25, 0.5, 0.75])

    Frames are RGB: numpy (H, W, 3) or torch (3, H, W); uint8, uint16, or float in 0..1. What goes in comes out:
    same kind, same type, same size, for torch the same device; float in gives float out, neither rounded nor clamped.
    """

    def __init__(
        self,
        model: str | Model = DEFAULT_MODEL,
        device: str = "auto",
        precision: str = "auto",
        weights: str | Path | None = None,
    ) -> None:
        """Load the model.

        Args:
            model: a name (`midframe models list`), or a model of your own.
            device: "auto", "cpu", "cuda", "cuda:1", "mps".
            precision: "auto", "fp32", "bf16", "fp16".
            weights: a local folder or file in place of the shipped weights.

        Raises:
            InputError: a name or value that is not known.
            WeightsError: weights missing, damaged or of another architecture.
            DeviceError: the device is not there.
        """
        network = load_model(model, weights) if isinstance(model, str) else model
        self._engine = Engine(network, device, precision)

    @overload
    def between(
        self, a: Picture, b: Picture, t: Instant = ..., before: Picture | None = ..., after: Picture | None = ...
    ) -> Picture: ...
    @overload
    def between(
        self, a: Picture, b: Picture, t: Sequence[Instant], before: Picture | None = ..., after: Picture | None = ...
    ) -> list[Picture]: ...
    def between(
        self,
        a: Picture,
        b: Picture,
        t: Instant | Sequence[Instant] = 0.5,
        before: Picture | None = None,
        after: Picture | None = None,
    ) -> Picture | list[Picture]:
        """The frame at instant t between a and b, or the frames at several instants.

        Args:
            a: the left frame.
            b: the right one, of the same kind, type and size.
            t: within 0 (a itself) to 1 (b itself); a list gives a list, and motion is sought once.
            before: the frame as long before a as b is after it, for models that use four.
            after: the frame as long after b.

        Raises:
            InputError: frames of unequal kind, type or size, or t outside 0..1.
        """
        given = {"a": a, "b": b, "before": before, "after": after}
        pictures = {name: _to_tensor(p, name) for name, p in given.items() if p is not None}
        for name, picture in given.items():
            if picture is not None and (
                type(picture) is not type(a) or picture.dtype != a.dtype or picture.shape != a.shape
            ):
                raise InputError(
                    f"frames of one call are of one kind, type and size; a is {_said(a)}, {name} is {_said(picture)}"
                )
        times = [t] if isinstance(t, (int, float, Fraction)) else list(t)
        made = self._engine.between(
            pictures["a"], pictures["b"], times, before=pictures.get("before"), after=pictures.get("after")
        )
        out = [_from_tensor(picture, a) for picture in made]
        return out[0] if isinstance(t, (int, float, Fraction)) else out

    def fill(self, gap: Gap) -> list[Frame]:
        """The frames of one gap, in the order of its slots; for hosts with random access to frames."""
        return list(self._engine.run([gap]))

    def stream(self, frames: Iterable[Frame], fps: Fraction | float | str, cuts: bool = True) -> Iterator[Frame]:
        """Frames at another rate, as they come: a generator that holds only a few frames.

        Args:
            frames: in order of pts, all of one size and format.
            fps: output frames per second.
            cuts: detect scene changes and never blend two shots.
        """
        rate = Options.parse(fps=parse_rate(fps)).fps
        assert rate is not None
        stream = shots.label(frames, shots.Thumbnails() if cuts else None)
        yield from self._engine.run(timeline.gaps(stream, rate, context=self._engine.context))


def _said(picture: object) -> str:
    shape = "x".join(str(side) for side in getattr(picture, "shape", ()))
    return f"{type(picture).__name__} {shape} {getattr(picture, 'dtype', '')}".strip()


def _to_tensor(picture: Picture, name: str) -> Tensor:
    """(3, H, W) float32, 0..1. The caller's frame is not touched."""
    if isinstance(picture, np.ndarray):
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise InputError(f"{name} is {_said(picture)}; a numpy frame is (height, width, 3), RGB")
        if picture.dtype not in (np.uint8, np.uint16) and not np.issubdtype(picture.dtype, np.floating):
            raise InputError(f"{name} is {_said(picture)}; allowed are uint8, uint16 and float in 0..1")
        top = np.iinfo(picture.dtype).max if np.issubdtype(picture.dtype, np.integer) else 1
        values = np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float32)
        return torch.from_numpy(values / np.float32(top) if top > 1 else values.copy())
    if isinstance(picture, Tensor):
        if picture.ndim != 3 or picture.shape[0] != 3:
            raise InputError(f"{name} is {_said(picture)}; a torch frame is (3, height, width), RGB")
        if picture.dtype in _LEVELS:
            return picture.to(torch.float32) / _LEVELS[picture.dtype]
        if not picture.is_floating_point():
            raise InputError(f"{name} is {_said(picture)}; allowed are uint8, uint16 and float in 0..1")
        return picture.to(torch.float32, copy=True)
    raise InputError(f"{name} is a {type(picture).__name__}; a frame is a numpy array or a torch tensor")


def _from_tensor(made: Tensor, like: Picture) -> Picture:
    """An interpolated frame (3, H, W) float32 in the kind and type of the caller's."""
    if isinstance(like, np.ndarray):
        values = made.detach().cpu().permute(1, 2, 0).numpy()
        if np.issubdtype(like.dtype, np.integer):
            top = np.iinfo(like.dtype).max
            values = np.rint(values * top).clip(0, top)
        return np.ascontiguousarray(values.astype(like.dtype))
    if like.dtype in _LEVELS:
        top = _LEVELS[like.dtype]
        made = (made * top).round().clamp(0, top).to(torch.int32)
    return made.to(like.device).to(like.dtype)
