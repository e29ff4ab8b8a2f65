"""Small objects that move farther than their own size, through the public engine."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch

from midframe.engine import Engine
from midframe.models import load_model
from midframe.models.midnet.model import Midnet
from midframe.models.midnet.torch_backend import TorchBackend

HEIGHT, WIDTH = 192, 320
RADIUS = 12
START, MOTION = np.array([110.0, 80.0]), np.array([96.0, 24.0])  # of the disc: four times its diameter
PAN = np.array([5.0, -2.0])  # of the ground

Image = np.ndarray


def ground() -> Image:
    rng = np.random.default_rng(3)
    noise = [
        cv2.resize(rng.random((n * 3, n * 5, 3), np.float32), (480, 320), interpolation=cv2.INTER_CUBIC)
        for n in (4, 12, 40)
    ]
    return np.clip(0.5 * noise[0] + 0.3 * noise[1] + 0.2 * noise[2], 0, 1)


def scene(t: float, disc: Callable[[Image, Image], Image] | None, size: int = RADIUS) -> Image:
    """An RGB frame (H, W, 3), 0..1: panning ground, and a disc in front of it."""
    shift = np.array([[1, 0, PAN[0] * t - 60], [0, 1, PAN[1] * t - 60]], float)
    frame = cv2.warpAffine(ground(), shift, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
    if disc is None:
        return frame
    x, y = START + t * MOTION
    columns, rows = np.meshgrid(np.arange(WIDTH) - x, np.arange(HEIGHT) - y)
    alpha = np.clip(size + 0.5 - np.hypot(columns, rows), 0, 1)[..., None]
    return frame * (1 - alpha) + disc(columns / size, rows / size) * alpha


def flat(columns: Image, rows: Image) -> Image:
    return np.broadcast_to(np.array([0.9, 0.1, 0.15]), (*columns.shape, 3))


def shaded(columns: Image, rows: Image) -> Image:
    return np.array([0.1, 1.0, 1.0]) * np.clip(1.1 - 0.4 * np.hypot(columns + 0.3, rows + 0.3), 0.5, 1)[..., None]


def striped(columns: Image, rows: Image) -> Image:
    return np.where((np.floor(0.8 * (columns + rows) + 0.5) % 2 == 0)[..., None], [0.95, 0.9, 0.2], [0.1, 0.1, 0.5])


def tensor(image: Image) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(load_model("midnet-m"), "cpu", "fp32")


def near(place: np.ndarray, image: Image) -> Image:
    columns, rows = np.meshgrid(np.arange(WIDTH) - place[0], np.arange(HEIGHT) - place[1])
    return image[np.hypot(columns, rows) < RADIUS]


@pytest.mark.parametrize("disc", [flat, shaded, striped])
@pytest.mark.parametrize("t", [0.25, 0.5])
def test_a_disc_is_drawn_once_and_on_its_path(engine: Engine, disc: Callable[[Image, Image], Image], t: float) -> None:
    """Not half of it at either end, as where flow follows the ground."""
    frames = [tensor(scene(instant, disc)) for instant in (0.0, 1.0)]
    found = engine.between(*frames, [t])[0].permute(1, 2, 0).numpy()
    truth = scene(t, disc)
    for end in (0.0, 1.0):
        place = START + end * MOTION
        shown, empty = near(place, scene(end, disc)), near(place, truth)
        assert np.abs(near(place, found) - empty).mean() < 0.15 * np.abs(shown - empty).mean()
    place = START + t * MOTION
    drawn, bare = near(place, truth), near(place, scene(t, None))
    assert np.abs(near(place, found) - drawn).mean() < 0.5 * np.abs(drawn - bare).mean()


def test_two_discs_are_both_found(engine: Engine) -> None:
    """Of one size and of two colours, on opposite ways."""

    def frame(t: float) -> torch.Tensor:
        below = np.roll(scene(1.0 - t, shaded), 65, 0)
        return tensor(np.where(np.arange(HEIGHT)[:, None, None] < 120, scene(t, flat), below))

    with torch.inference_mode():
        a, b = (engine.model.encode(frame(t)[None]) for t in (0.0, 1.0))
        (objects,) = engine.model.match(a, b).fast
    rows, columns = np.nonzero(np.abs(objects.flows[0] * 4 - MOTION).max(2) < 4)
    others = np.nonzero(np.abs(objects.flows[0] * 4 + MOTION).max(2) < 4)
    assert len(rows) > 10 and len(others[0]) > 10
    assert abs(4 * columns.mean() - START[0]) < 8 and abs(4 * rows.mean() - START[1]) < 8


def test_both_back_ends_draw_it_alike(engine: Engine) -> None:
    frames = [tensor(scene(instant, flat)) for instant in (0.0, 1.0)]
    model = load_model("midnet-m")
    assert isinstance(model, Midnet)
    slow = Engine(model, "cpu", "fp32")
    slow.model = model.with_backend(TorchBackend())
    one, two = (each.between(*frames, [0.4, 0.5]) for each in (engine, slow))
    assert (one - two).abs().max() < 0.02


@pytest.mark.parametrize("size", [RADIUS, 60])
def test_what_appears_or_is_large_is_no_fast_object(engine: Engine, size: int) -> None:
    """An object in one frame only, and one that moves by less than its size, change no flow."""
    model = engine.model
    frames = [scene(0.0, flat if size > RADIUS else None, size), scene(1.0 if size == RADIUS else 0.3, flat, size)]
    with torch.inference_mode():
        a, b = (model.encode(tensor(frame)[None]) for frame in frames)
        assert model.match(a, b).fast == ()
