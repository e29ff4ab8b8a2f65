"""Frames in memory: type, range and layout of the input are those of the output."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from midframe import Frame, InputError, Interpolator
from midframe.types import PixelFormat


@pytest.fixture(scope="module")
def blend() -> Interpolator:
    return Interpolator("blend", device="cpu")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_numpy_in_numpy_out(blend: Interpolator, dtype: Any) -> None:
    top = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    a = np.zeros((20, 30, 3), dtype)
    b = np.full((20, 30, 3), top, dtype)
    kept = a.copy(), b.copy()
    out = blend.between(a, b, t=0.25)
    assert isinstance(out, np.ndarray)
    assert (out.shape, out.dtype) == (a.shape, a.dtype)
    assert np.allclose(out.astype(float), round(top * 0.25) if top > 1 else 0.25, atol=1e-3)
    assert np.array_equal(a, kept[0]) and np.array_equal(b, kept[1]), "the caller's frames are not touched"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float16, torch.float32, torch.float64])
def test_torch_in_torch_out(blend: Interpolator, dtype: torch.dtype) -> None:
    top = {torch.uint8: 255, torch.uint16: 65535}.get(dtype, 1)
    a, b = torch.zeros(3, 20, 30, dtype=dtype), torch.full((3, 20, 30), top, dtype=dtype)
    out = blend.between(a, b)
    assert isinstance(out, torch.Tensor)
    assert (out.shape, out.dtype) == (a.shape, a.dtype)
    middle = round(top * 0.5) if top > 1 else 0.5
    assert float((out.double() - middle).abs().max()) <= (1 if top > 1 else 1e-3)


def test_float_is_neither_rounded_nor_clamped(blend: Interpolator) -> None:
    a, b = np.full((8, 8, 3), -0.5, np.float32), np.full((8, 8, 3), 1.7003, np.float32)
    assert np.allclose(blend.between(a, b, t=0.5), 0.60015, atol=1e-6)
    assert np.allclose(blend.between(a, b, t=1), 1.7003, atol=1e-6)


def test_many_instants_give_a_list(blend: Interpolator) -> None:
    a, b = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 200, np.uint8)
    out = blend.between(a, b, t=[0, Fraction(1, 4), 0.5, 1])
    assert [int(p.mean()) for p in out] == [0, 50, 100, 200]
    assert blend.between(a, b, t=[]) == []


def test_channels_keep_their_order(blend: Interpolator) -> None:
    a = np.zeros((8, 8, 3), np.uint8)
    a[..., 0] = 250
    out = blend.between(a, a.copy(), t=0.5)
    assert out[0, 0].tolist() == [250, 0, 0]


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8), "8x9x3"),
        (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.float32), "float32"),
        (np.zeros((8, 8, 3), np.uint8), torch.zeros(3, 8, 8, dtype=torch.uint8), "Tensor"),
        (np.zeros((3, 8, 8), np.uint8), np.zeros((3, 8, 8), np.uint8), r"\(height, width, 3\)"),
        (torch.zeros(8, 8, 3), torch.zeros(8, 8, 3), r"\(3, height, width\)"),
        (np.zeros((8, 8, 3), np.int32), np.zeros((8, 8, 3), np.int32), "uint8, uint16 and float"),
        ("a.png", "b.png", "numpy array or a torch tensor"),
    ],
)
def test_frames_that_do_not_go_together(blend: Interpolator, a: Any, b: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        blend.between(a, b)


@pytest.mark.parametrize("t", [-0.1, 1.5, float("nan")])
def test_instants_outside(blend: Interpolator, t: float) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(InputError, match="not within"):
        blend.between(image, image, t=t)


def test_stream_is_a_generator_that_holds_few(blend: Interpolator) -> None:
    gray = PixelFormat("gray", "gray", 8, full_range=True)
    alive = 0

    def frames() -> Iterator[Frame]:
        nonlocal alive
        for n in range(100):
            alive = n
            yield Frame((torch.full((16, 16), n, dtype=torch.uint8),), gray, Fraction(n, 24), Fraction(1, 24), n)

    made = blend.stream(frames(), fps="60", cuts=False)
    first = [next(made) for _ in range(6)]
    assert [f.pts for f in first] == [Fraction(n, 60) for n in range(6)]
    assert [f.kind for f in first] == ["source", *["interpolated"] * 4, "source"]
    assert alive <= 6
    assert sum(1 for _ in made) == 244


def test_a_mistyped_model_is_suggested() -> None:
    with pytest.raises(InputError, match="did you mean blend"):
        Interpolator("blnd")


@pytest.mark.parametrize("t", [np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5), Fraction(1, 2)])
def test_scalars_of_every_library_are_instants(blend: Interpolator, t: Any) -> None:
    a = np.full((16, 16, 3), 100, np.uint8)
    assert np.array_equal(blend.between(a, a + 2, t=t), a + 1)


@pytest.mark.parametrize("t", ["0.5", None, ["0.5"], object()])
def test_other_things_are_no_instants(blend: Interpolator, t: Any) -> None:
    a = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(InputError, match="not an instant"):
        blend.between(a, a, t=t)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_float_of_0_to_255_is_refused(blend: Interpolator, library: str) -> None:
    a: Any = np.full((16, 16, 3), 200, np.float32)
    a = a if library == "numpy" else torch.from_numpy(a).permute(2, 0, 1)
    with pytest.raises(InputError, match="values up to 200"):
        blend.between(a, a)
