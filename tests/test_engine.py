"""The engine with a fake model: what passes, what is held, repeated and made; caches, batches, memory, precision."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from fractions import Fraction as Fr
from typing import Any

import pytest
import torch
from torch import Tensor

from midframe import timeline
from midframe.engine import Engine, pick_device, pick_precision
from midframe.errors import DeviceError, InputError
from midframe.models.base import Model, RenderRequest
from midframe.models.blend import Blend
from midframe.types import Frame, PixelFormat
from model_fakes import RgbBlend

FORMATS = {
    "yuv420p": PixelFormat("yuv420p", "yuv", 8, 1, 1),
    "yuv420p 601 full": PixelFormat("yuvj420p", "yuv", 8, 1, 1, matrix="smpte170m", full_range=True),
    "yuv422p10le": PixelFormat("yuv422p10le", "yuv", 10, 1, 0),
    "yuv420p10le 2020": PixelFormat("yuv420p10le", "yuv", 10, 1, 1, matrix="bt2020nc"),
    "yuv444p": PixelFormat("yuv444p", "yuv", 8),
    "gbrp": PixelFormat("gbrp", "rgb", 8, matrix="rgb", full_range=True),
    "gray": PixelFormat("gray", "gray", 8),
    "yuva420p": PixelFormat("yuva420p", "yuv", 8, 1, 1, alpha=True),
}
YUV = FORMATS["yuv420p"]


def planes(format: PixelFormat, height: int, width: int, seed: int) -> tuple[Tensor, ...]:
    """Noise over the whole range of code values."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for n in range(format.plane_count):
        chroma = format.layout == "yuv" and n in (1, 2)
        h = -(-height >> format.chroma_h) if chroma else height
        w = -(-width >> format.chroma_w) if chroma else width
        out.append(torch.randint(0, 1 << format.depth, (h, w), generator=generator).to(format.dtype))
    return tuple(out)


def video(
    count: int, format: PixelFormat = YUV, height: int = 18, width: int = 22, cuts: tuple[int, ...] = ()
) -> list[Frame]:
    return [
        Frame(planes(format, height, width, n), format, Fr(n, 24), Fr(1, 24), n, sum(n >= c for c in cuts))
        for n in range(count)
    ]


def interpolate(frames: list[Frame], fps: int, engine: Engine) -> list[Frame]:
    return list(engine.run(timeline.gaps(frames, Fr(fps), context=engine.context)))


class Counting(RgbBlend):
    """Blends, and counts the calls of each method."""

    name = "counting"

    def __init__(self, context: int = 0) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.context = context  # type: ignore[misc]
        self.around: list[tuple[bool, bool]] = []

    def encode(self, image: Tensor) -> Any:
        self.calls["encode"] += 1
        return image

    def match(self, a: Any, b: Any) -> Any:
        self.calls["match"] += 1
        return "motion"

    def render(self, request: RenderRequest) -> Tensor:
        self.calls["render"] += 1
        self.calls["slots"] += len(request.t)
        self.around.append((request.before is not None, request.after is not None))
        return super().render(request)


def test_source_frames_pass_untouched_and_times_are_the_slots() -> None:
    frames = video(4)
    out = interpolate(frames, 60, Engine(Blend()))
    assert [f.pts for f in out] == [Fr(k, 60) for k in range(10)]
    assert {f.duration for f in out} == {Fr(1, 60)} and [f.index for f in out] == list(range(10))
    kinds = "".join(f.kind[0] for f in out)
    assert kinds == "siiiisiihh"  # frames 0 and 2 fall on the grid of 60 outputs a second, 1 and 3 do not
    assert out[0].planes is frames[0].planes and out[5].planes is frames[2].planes
    assert out[8].planes is frames[3].planes


@pytest.mark.parametrize("model", [Blend, RgbBlend])
@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_equal_frames_in_all_but_one_sample_stay_within_one_level(format: PixelFormat, model: type[Blend]) -> None:
    """Acceptance test 4 at its hardest: noise in all planes; one sample differs, so the model is asked."""
    frames = video(1, format) * 2
    changed = [plane.clone() for plane in frames[0].planes]
    changed[0].view(torch.int16 if format.depth > 8 else torch.uint8)[0, 0] ^= 1
    second = Frame(tuple(changed), format, Fr(1, 24), Fr(1, 24), 1)
    out = interpolate([frames[0], second], 72, Engine(model()))
    assert [f.kind for f in out[:4]] == ["source", "interpolated", "interpolated", "source"]
    for made in out[1:3]:
        for got, source in zip(made.planes, frames[0].planes, strict=True):
            assert got.dtype == source.dtype and got.shape == source.shape
            assert (got.int() - source.int()).abs().max() <= 1


def test_equal_frames_are_repeated_without_inference() -> None:
    model = Counting()
    frames = video(1)
    again = Frame(tuple(p.clone() for p in frames[0].planes), YUV, Fr(1, 24), Fr(1, 24), 1)
    out = interpolate([frames[0], again], 48, Engine(model))
    assert [f.kind for f in out] == ["source", "duplicate", "source", "held"]
    assert not model.calls and out[1].planes is frames[0].planes


def test_one_encode_a_frame_and_one_match_a_gap() -> None:
    model = Counting()
    interpolate(video(6), 24 * 8, Engine(model, max_batch=3))
    assert model.calls["encode"] == 6 and model.calls["match"] == 5
    assert model.calls["slots"] == 35 and model.calls["render"] == 5 * 3  # 7 slots in batches of 3, 3, 1


class Prefetching(Counting):
    """May be prepared while it renders; notes by which thread, and fails once where the test asks for it."""

    prefetch = True

    def __init__(self, context: int = 0, fails: bool = False) -> None:
        super().__init__(context)
        self.threads: set[str] = set()
        self.fails = fails

    def match(self, a: Any, b: Any) -> Any:
        name = threading.current_thread().name
        if self.fails and name.startswith("prefetch"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.threads.add(name.split("_")[0])
        return super().match(a, b)


@pytest.mark.parametrize("context", [0, 1])
@pytest.mark.parametrize("fails", [False, True])
def test_the_following_gap_is_prepared_by_another_thread(
    context: int, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    frames = video(9, cuts=(5,))
    frames[3] = Frame(frames[2].planes, YUV, Fr(3, 24), Fr(1, 24), 3)  # nothing is made of two that are equal
    plain, model = Counting(context), Prefetching(context, fails)
    want, got = (interpolate(frames, 24 * 3, Engine(each, max_batch=1)) for each in (plain, model))
    assert [f.kind for f in got] == [f.kind for f in want]
    for one, two in zip(got, want, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(one.planes, two.planes, strict=True))
    assert model.around == plain.around
    assert model.calls["match"] == plain.calls["match"]
    assert ("prefetch" in model.threads) != fails
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())


def test_large_frames_come_in_smaller_batches() -> None:
    model = Counting()
    a, b = torch.rand(3, 1080, 1920), torch.rand(3, 1080, 1920)
    Engine(model).between(a, b, [0.1, 0.2, 0.3, 0.4, 0.5])
    assert model.calls["render"] == 2  # four frames of 2 MP, then one


def test_context_gives_the_neighbours_motion_from_the_cache() -> None:
    model = Counting(context=1)
    interpolate(video(7, cuts=(4,)), 48, Engine(model))
    # gaps 0-1, 1-2, 2-3, (3-4 cut), 4-5, 5-6
    assert model.around == [(False, True), (True, True), (True, False), (False, True), (True, False)]
    assert model.calls["encode"] == 7 and model.calls["match"] == 5


@pytest.mark.parametrize("fill", ["hold", "nearest", "blend"])
def test_cuts(fill: str) -> None:
    """Acceptance test 5: no frame mixes both sides, and the switch falls on the cut's pts."""
    frames = video(4, cuts=(2,))
    out = interpolate(frames, 96, Engine(Blend(), fill=fill))
    cut = [f for f in out if frames[1].pts <= f.pts <= frames[2].pts]
    assert [f.kind for f in cut] == ["source", "held", "held", "held", "source"]
    if fill == "hold":
        assert all(f.planes is frames[1].planes for f in cut[:4])
    elif fill == "nearest":
        assert [f.planes is frames[1].planes for f in cut] == [True, True, False, False, False]
        assert all(f.planes is frames[2].planes for f in cut[2:])
    else:
        a, b = frames[1].planes[0].double(), frames[2].planes[0].double()
        assert (cut[1].planes[0].double() - (0.75 * a + 0.25 * b)).abs().max() <= 0.5
    assert cut[4].planes is frames[2].planes


def test_a_change_of_size_holds() -> None:
    frames = video(2)
    larger = Frame(planes(YUV, 20, 30, 9), YUV, Fr(2, 24), Fr(1, 24), 2)
    assert [f.kind for f in interpolate([*frames, larger], 48, Engine(Blend()))] == [
        "source", "interpolated", "source", "held", "source", "held",
    ]  # fmt: skip


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (17, 31), (64, 16)])
def test_any_size_is_padded_and_cropped(size: tuple[int, int]) -> None:
    class Strided(RgbBlend):
        stride = 16
        min_side = 48

        def encode(self, image: Tensor) -> Any:
            assert image.shape[-1] % 16 == 0 == image.shape[-2] % 16 and min(image.shape[-2:]) >= 48
            return image

    out = interpolate(video(2, height=size[0], width=size[1]), 48, Engine(Strided()))
    assert out[1].kind == "interpolated" and tuple(out[1].planes[0].shape) == size


def test_alpha_moves_with_the_frame() -> None:
    """A model that shifts everything by its motion shifts alpha too, by the motion found in the frame."""

    class Shift(RgbBlend):
        def match(self, a: Any, b: Any) -> Any:
            return round(float(a.mean()) * 0) + 3

        def render(self, request: RenderRequest) -> Tensor:
            return torch.roll(request.a, request.motion, -1).expand(len(request.t), -1, -1, -1)

    frames = video(2, FORMATS["yuva420p"])
    made = interpolate(frames, 48, Engine(Shift()))[1]
    assert torch.equal(made.planes[3], torch.roll(frames[0].planes[3], 3, -1))


def test_between() -> None:
    a, b = torch.rand(3, 5, 7), torch.rand(3, 5, 7)
    kept = a.clone()
    out = Engine(Blend(), max_batch=2).between(a, b, [0, 0.25, Fr(1, 2), 0.75, 1])
    assert out.shape == (5, 3, 5, 7) and torch.equal(a, kept)
    assert torch.equal(out[0], a) and torch.equal(out[4], b)
    for n, t in enumerate((0.25, 0.5, 0.75), 1):
        assert torch.allclose(out[n], (1 - t) * a + t * b, atol=1e-6)
    model = Counting(context=1)
    Engine(model).between(a, b, [0.5], before=b, after=a)
    assert model.around == [(True, True)] and model.calls["encode"] == 4 and model.calls["match"] == 3
    assert torch.equal(Engine(model).between(a, a, [0.5])[0], a)
    for bad in ([1.5], [float("nan")], [-0.1]):
        with pytest.raises(InputError, match="within"):
            Engine(model).between(a, b, bad)
    with pytest.raises(InputError, match="size"):
        Engine(model).between(a, b[:, :4], [0.5])


class Hungry(RgbBlend):
    """Fails for want of memory above a number of pixels at once."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    def render(self, request: RenderRequest) -> Tensor:
        if request.a[0, 0].numel() * len(request.t) > self.pixels:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().render(request)


def test_out_of_memory_steps_down_and_gives_the_same_frames() -> None:
    frames = video(2, height=300, width=640)
    whole = interpolate(frames, 24 * 8, Engine(Blend()))
    engine = Engine(Hungry(256 * 256))
    made = interpolate(frames, 24 * 8, engine)
    assert engine.max_batch == 1
    assert [f.kind for f in made] == [f.kind for f in whole]
    for got, want in zip(made, whole, strict=True):
        assert all((p.int() - q.int()).abs().max() <= 1 for p, q in zip(got.planes, want.planes, strict=True))
    engine = Engine(Hungry(256 * 256))
    a, b = torch.rand(3, 300, 640), torch.rand(3, 300, 640)
    assert torch.allclose(engine.between(a, b, [0.5, 0.6]), Engine(Blend()).between(a, b, [0.5, 0.6]), atol=1e-5)


class Seeking(Hungry):
    """Seeks motion: half the scale needs a quarter of the memory."""

    flow_scales = (1.0, 0.5)
    scale_frees_memory = True

    def render(self, request: RenderRequest) -> Tensor:
        side = self.flow_scale or 1.0
        if request.a[0, 0].numel() * len(request.t) * side * side > self.pixels:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Blend.render(self, request)


def test_steps_down_are_batch_then_scale_then_tiles(caplog: pytest.LogCaptureFixture) -> None:
    frames = video(2, height=300, width=640)
    model = Seeking(130 * 130)
    engine = Engine(model, max_batch=4)
    made = interpolate(frames, 24 * 8, engine)
    assert len(made) == 16
    steps = [record.message.partition("continuing with ")[2] for record in caplog.records]
    assert steps == [
        "batches of 2", "batches of 1", "flow at scale 0.5", "tiles of 1024 pixels", "tiles of 512 pixels",
        "tiles of 256 pixels",
    ]  # fmt: skip
    assert model.flow_scale is None, "another engine's setting stays as it is"
    asked = Engine(Seeking(130 * 130), max_batch=1, flow_scale=1.0)
    with pytest.raises(DeviceError, match="every step down"):
        interpolate(frames, 24 * 8, asked)
    assert asked.model.inner.flow_scale == 1.0, "a scale that was asked for is kept"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_all_allocators_are_understood(error: Exception) -> None:
    class Once(RgbBlend):
        def render(self, request: RenderRequest) -> Tensor:
            if len(request.t) > 1:
                raise error
            return super().render(request)

    assert len(interpolate(video(2), 24 * 4, Engine(Once()))) == 8


def test_out_of_memory_ends_in_one_clear_line() -> None:
    frames = video(2, height=64, width=64)
    with pytest.raises(DeviceError, match="every step down"):
        interpolate(frames, 48, Engine(Hungry(10)))
    with pytest.raises(DeviceError, match="--tile auto"):
        interpolate(frames, 48, Engine(Hungry(10), tile="off"))


def test_other_errors_go_on_their_way() -> None:
    class Broken(RgbBlend):
        def match(self, a: Any, b: Any) -> Any:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        interpolate(video(2), 48, Engine(Broken()))


def test_tiles_on_request() -> None:
    frames = video(2, height=200, width=330)
    whole, tiled = (interpolate(frames, 48, Engine(Blend(), tile=tile))[1] for tile in ("off", 64))
    for got, want in zip(tiled.planes, whole.planes, strict=True):
        assert (got.int() - want.int()).abs().max() <= 1


def test_one_model_serves_two_threads() -> None:
    model = Blend()
    videos = [video(12, height=40 + n, width=50) for n in range(2)]
    alone = [interpolate(frames, 60, Engine(model)) for frames in videos]
    together: dict[int, list[Frame]] = {}
    threads = [
        threading.Thread(target=lambda n=n: together.update({n: interpolate(videos[n], 60, Engine(model))}))
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(2):
        for got, want in zip(together[n], alone[n], strict=True):
            assert all(torch.equal(p, q) for p, q in zip(got.planes, want.planes, strict=True))


def test_precision_reaches_the_convolutions_and_auto_asks_the_model() -> None:
    class Convolving(Model):
        name = "convolving"

        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 1)
            self.seen: list[torch.dtype] = []

        def encode(self, image: Tensor) -> Any:
            out = self.conv(image)
            self.seen.append(out.dtype)
            return out

        def match(self, a: Any, b: Any) -> Any:
            return None

        def render(self, request: RenderRequest) -> Tensor:
            assert not request.a.requires_grad
            return request.a.float()

    for precision, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = Convolving()
        interpolate(video(2), 48, Engine(model, precision=precision))
        assert model.seen == [kind, kind]
    assert torch.is_grad_enabled()
    assert pick_precision("auto", Blend(), torch.device("cpu")) == "fp32"
    with pytest.raises(InputError, match="fp32"):
        pick_precision("fp8", Blend(), torch.device("cpu"))


def test_flow_scale_is_set_on_a_copy() -> None:
    class Scaled(RgbBlend):
        name = "scaled"
        flow_scales = (1.0, 0.5)

    model = Scaled()
    assert Engine(model, flow_scale=0.5).model.flow_scale == 0.5
    assert model.flow_scale is None
    with pytest.raises(InputError, match="scale 0"):
        Engine(model, flow_scale=0.25)


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(DeviceError, match="cuda:99"):
        pick_device("cuda:99")
    with pytest.raises(InputError, match="allowed"):
        pick_device("tpu9000")


def test_options_are_checked() -> None:
    for option in ({"fill": "cross"}, {"tile": "big"}, {"max_batch": 0}):
        with pytest.raises(InputError):
            Engine(Blend(), **option)  # type: ignore[arg-type]


def test_memory_holds_only_the_frames_of_the_gap() -> None:
    """Features of long-gone frames are let go: a video of any length needs the same memory."""
    import weakref

    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    class Box:
        def __init__(self, image: Tensor) -> None:
            self.image = image

    class Boxed(RgbBlend):
        def encode(self, image: Tensor) -> Any:
            box = Box(image)
            alive.add(box)
            return box

        def render(self, request: RenderRequest) -> Tensor:
            return super().render(replace(request, a=request.a.image, b=request.b.image))

    most = 0
    for _ in Engine(Boxed()).run(timeline.gaps(iter(video(20)), Fr(48))):
        most = max(most, len(alive))
    assert most == 2
