"""Interpolate between frames in memory, for notebooks and programs that bring their own frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from numbers import Real
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

Image = np.ndarray[Any, Any] | Tensor
Instant = float | Fraction

LARGEST_FLOAT = 2.0  # of float samples, which are 0..1
_LARGEST_CODES = {torch.uint8: 255, torch.uint16: 65535}


class Interpolator:
    """A model on a device, ready to interpolate between frames.

        it = Interpolator()
        middle = it.between(a, b)
        images = it.between(a, b, t=[0.25, 0.5, 0.75])

    Frames are RGB: numpy (H, W, 3) or torch (3, H, W); uint8, uint16, or float in 0..1. The output has the container,
    dtype, size and device of the input; float output is neither rounded nor clamped.
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
            model: a name (see `midframe models list`) or a `Model`.
            device: "auto", "cpu", "cuda", "cuda:1", "mps".
            precision: "auto", "fp32", "bf16", "fp16".
            weights: a local folder or file in place of the shipped weights.

        Raises:
            InputError: unknown name or value.
            WeightsError: weights are missing, damaged or of another architecture.
            DeviceError: the device is not available.
        """
        network = load_model(model, weights) if isinstance(model, str) else model
        self._engine = Engine(network, device, precision)

    @overload
    def between(
        self, a: Image, b: Image, t: Instant = ..., before: Image | None = ..., after: Image | None = ...
    ) -> Image: ...
    @overload
    def between(
        self, a: Image, b: Image, t: Sequence[Instant], before: Image | None = ..., after: Image | None = ...
    ) -> list[Image]: ...
    def between(
        self,
        a: Image,
        b: Image,
        t: Instant | Sequence[Instant] = 0.5,
        before: Image | None = None,
        after: Image | None = None,
    ) -> Image | list[Image]:
        """Interpolate between a and b at the instant t, or at several instants.

        Args:
            a: the earlier frame.
            b: the later frame, of the same container, dtype and size.
            t: 0 (a) to 1 (b); a list returns a list from one motion estimation.
            before: the frame one interval before a, for four-frame models.
            after: the frame one interval after b.

        Raises:
            InputError: frames differ in container, dtype or size, or t is outside 0..1.
        """
        given = {"a": a, "b": b, "before": before, "after": after}
        images = {name: _to_tensor(p, name) for name, p in given.items() if p is not None}
        for name, image in given.items():
            if image is not None and (type(image) is not type(a) or image.dtype != a.dtype or image.shape != a.shape):
                raise InputError(
                    "the frames of one call must have the same container, dtype and size; "
                    f"a is {_described(a)}, {name} is {_described(image)}"
                )
        single = isinstance(t, Real) or getattr(t, "ndim", None) == 0  # a scalar of Python, numpy or torch
        try:
            times = [_instant(t)] if single else [_instant(one) for one in t]  # type: ignore[union-attr]
        except (TypeError, ValueError):
            raise InputError(f"t = {t!r} is not an instant; give a number within 0..1, or a list of them") from None
        interpolated = self._engine.between(
            images["a"], images["b"], times, before=images.get("before"), after=images.get("after")
        )
        out = [_from_tensor(image, a) for image in interpolated]
        return out[0] if single else out

    def fill(self, gap: Gap) -> list[Frame]:
        """Return the frames of one gap, in the order of its slots; for hosts with random access to frames."""
        return list(self._engine.run([gap]))

    def stream(self, frames: Iterable[Frame], fps: Fraction | float | str, cuts: bool = True) -> Iterator[Frame]:
        """Convert the frame rate of a stream; a generator that buffers only a few frames.

        Args:
            frames: in order of pts, all of the same size and format.
            fps: output frames per second.
            cuts: detect scene changes and never interpolate across them.
        """
        rate = Options.parse(fps=parse_rate(fps)).fps
        assert rate is not None
        stream = shots.label(frames, shots.Thumbnails() if cuts else None)
        yield from self._engine.run(timeline.gaps(stream, rate, context=self._engine.context))


def _instant(t: Any) -> Instant:
    """Return one instant as a number of Python. Raises TypeError or ValueError."""
    if isinstance(t, str):
        raise TypeError
    return t if isinstance(t, Fraction) else float(t)


def _described(image: object) -> str:
    shape = "x".join(str(side) for side in getattr(image, "shape", ()))
    return f"{type(image).__name__} {shape} {getattr(image, 'dtype', '')}".strip()


def _to_tensor(image: Image, name: str) -> Tensor:
    """Convert to (3, H, W) float32, 0..1, without sharing memory."""
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"{name} is {_described(image)}; a numpy frame must be (height, width, 3), RGB")
        if image.dtype not in (np.uint8, np.uint16) and not np.issubdtype(image.dtype, np.floating):
            raise InputError(f"{name} is {_described(image)}; allowed are uint8, uint16 and float in 0..1")
        top = np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1
        values = np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32)
        if top == 1:
            _check_range(float(values.max(initial=0)), image, name)
        return torch.from_numpy(values / np.float32(top) if top > 1 else values.copy())
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise InputError(f"{name} is {_described(image)}; a torch frame must be (3, height, width), RGB")
        if image.dtype in _LARGEST_CODES:
            return image.to(torch.float32) / _LARGEST_CODES[image.dtype]
        if not image.is_floating_point():
            raise InputError(f"{name} is {_described(image)}; allowed are uint8, uint16 and float in 0..1")
        if image.numel():
            _check_range(float(image.max()), image, name)
        return image.to(torch.float32, copy=True)
    raise InputError(
        f"{name} is of type {type(image).__name__}; a frame must be a numpy array or a torch tensor; "
        "numpy.asarray(image) makes one of a Pillow image"
    )


def _check_range(largest: float, image: Image, name: str) -> None:
    """Refuse float samples of 0..255, whose frames would be wrong; a little beyond 1 is what filters leave."""
    if largest > LARGEST_FLOAT:
        raise InputError(
            f"{name} is {_described(image)} with values up to {largest:g}; float frames are 0..1: divide them"
        )


def _from_tensor(image: Tensor, like: Image) -> Image:
    """Convert (3, H, W) float32 to the container, dtype and device of `like`."""
    if isinstance(like, np.ndarray):
        values = image.detach().cpu().permute(1, 2, 0).numpy()
        if np.issubdtype(like.dtype, np.integer):
            top = np.iinfo(like.dtype).max
            values = np.rint(values * top).clip(0, top)
        return np.ascontiguousarray(values.astype(like.dtype))
    if like.dtype in _LARGEST_CODES:
        top = _LARGEST_CODES[like.dtype]
        image = (image * top).round().clamp(0, top).to(torch.int32)
    return image.to(like.device).to(like.dtype)
