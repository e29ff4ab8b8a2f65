"""One contract for every model: shapes, types, sizes, batches, tiles, threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from midframe.engine import Engine
from midframe.errors import InputError, MidframeError
from midframe.models import BUILDERS, load_model
from midframe.models.base import Model, RenderRequest
from midframe.models.tiled import Tiled


@pytest.fixture(scope="module", params=list(BUILDERS))
def model(request: pytest.FixtureRequest) -> Model:
    try:
        return load_model(request.param)
    except MidframeError as error:  # weights that are neither shipped nor cached
        pytest.skip(f"{request.param}: {error}")


def clouds(seed: int, height: int, width: int) -> Tensor:
    """A smooth random frame (3, height, width), 0..1."""
    generator = torch.Generator().manual_seed(seed)
    out = torch.zeros(1, 3, height, width)
    for cells, strength in ((4, 0.2), (12, 0.15), (40, 0.1)):
        noise = torch.randn(1, 3, cells, cells, generator=generator)
        out += strength * F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=False)
    return (out[0] + 0.5).clamp(0, 1)


def moved(seed: int, pixels: int, height: int = 128, width: int = 160) -> tuple[Tensor, Tensor, Tensor]:
    """Three frames of a view that moves to the right by `pixels` from each to the next."""
    wide = clouds(seed, height, width + 2 * pixels)
    a, m, b = (wide[:, :, n * pixels : n * pixels + width].contiguous() for n in (2, 1, 0))
    return a, m, b


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


def test_states_what_it_is(model: Model) -> None:
    assert model.name in BUILDERS and model.context in (0, 1) and not model.training
    height, width = model.padded_size(37, 61)
    assert height >= 37 and width >= 61 and height % model.stride == 0 == width % model.stride
    assert min(model.padded_size(1, 1)) >= model.min_side


def test_methods_take_and_give_what_they_say(model: Model) -> None:
    a, _, b = moved(1, 3)
    kept = a.clone(), b.clone()
    with torch.inference_mode():
        first, second = model.encode(a[None]), model.encode(b[None])
        motion = model.match(first, second)
        many = model.render(RenderRequest(first, second, motion, torch.tensor([0.25, 0.5, 0.9])))
        single = model.render(RenderRequest(first, second, motion, torch.tensor([0.5])))
    assert many.shape == (3, 3, 128, 160) and many.dtype == torch.float32
    assert many.isfinite().all() and many.min() > -0.2 and many.max() < 1.2
    assert (many[1] - single[0]).abs().max() < 2e-4  # many at once = one by one
    assert torch.equal(a, kept[0]) and torch.equal(b, kept[1])


def test_a_batch_of_pairs_equals_single_pairs(model: Model) -> None:
    pairs = [moved(n, 2 + n) for n in range(2)]
    times = torch.tensor([0.3, 0.6])
    with torch.inference_mode():
        left = model.encode(torch.stack([a for a, _, _ in pairs]))
        right = model.encode(torch.stack([b for _, _, b in pairs]))
        batch = model.render(RenderRequest(left, right, model.match(left, right), times))
        for n, (a, _, b) in enumerate(pairs):
            p, q = model.encode(a[None]), model.encode(b[None])
            one = model.render(RenderRequest(p, q, model.match(p, q), times[n : n + 1]))
            assert (batch[n] - one[0]).abs().mean() < 1e-4


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (16, 16), (33, 17), (65, 130)], ids=str)
def test_any_size(model: Model, size: tuple[int, int]) -> None:
    a, b = clouds(1, *size), clouds(2, *size)
    out = Engine(model).between(a, b, [0.5])
    assert out.shape == (1, 3, *size) and out.isfinite().all()


def test_what_stands_still_stays(model: Model) -> None:
    """But for one corner that changes, both frames are one: so is the one between."""
    a = clouds(3, 96, 96)
    b = a.clone()
    b[:, :4, :4] = 1 - b[:, :4, :4]
    out = Engine(model).between(a, b, [0.5])[0]
    assert (out - a)[:, 48:, 48:].abs().max() < 1.5 / 255


def test_tiles_give_what_the_whole_gives(model: Model) -> None:
    a, _, b = moved(5, 2, 192, 320)
    whole = Engine(model).between(a, b, [0.5])
    tiled = Engine(model, tile=128).between(a, b, [0.5])
    assert isinstance(Engine(model, tile=128).model, Tiled)
    # mean over the frame; where motion leaves a tile the two may differ more
    assert (whole - tiled).abs().mean() < 4e-3


def test_two_threads_share_a_model(model: Model) -> None:
    pairs = [moved(n, 2 + n, 64, 96) for n in range(2)]
    engines = [Engine(model) for _ in pairs]
    alone = [engine.between(a, b, [0.5]) for engine, (a, _, b) in zip(engines, pairs, strict=True)]
    together: dict[int, Tensor] = {}

    def work(n: int) -> None:
        together[n] = engines[n].between(pairs[n][0], pairs[n][2], [0.5])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((together[n] - alone[n]).abs().max() < 1e-5 for n in range(2))


def test_names_and_suggestions() -> None:
    with pytest.raises(InputError, match="did you mean dis"):
        load_model("diss")
    for name in ("dis", "blend"):
        with pytest.raises(InputError, match="needs no weights"):
            load_model(name, weights="somewhere")


def test_tiled_passes_context_through() -> None:
    seen: list[tuple[object, object]] = []

    class Watching(Model):
        name = "watching"
        context = 1
        stride = 8

        def encode(self, image: Tensor) -> Tensor:
            return image

        def match(self, a: Tensor, b: Tensor) -> str:
            return "motion"

        def render(self, request: RenderRequest) -> Tensor:
            seen.append((request.before, request.after))
            return request.a.expand(len(request.t), -1, -1, -1)  # type: ignore[no-any-return]

    images = torch.from_numpy(np.random.default_rng(0).random((4, 3, 40, 72), np.float32))
    tiled = Tiled(Watching(), 32)
    assert tiled.context == 1 and tiled.stride == 8
    before, a, b, after = (tiled.encode(p[None]) for p in images)
    out = tiled.render(
        RenderRequest(a, b, tiled.match(a, b), torch.tensor([0.5]), tiled.match(before, a), tiled.match(b, after))
    )
    assert torch.allclose(out[0], images[1], atol=1e-5)
    assert set(seen) == {("motion", "motion")}
    tiled.render(RenderRequest(a, b, tiled.match(a, b), torch.tensor([0.5])))
    assert seen[-1] == (None, None)
