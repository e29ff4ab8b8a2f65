"""Hosts that call midframe frame by frame: VapourSynth (where it is installed) and ComfyUI."""

import importlib.util
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from midframe.errors import InputError
from midframe.vapoursynth import Clock

ROOT = Path(__file__).resolve().parent.parent


# ComfyUI calls a node as `getattr(Node(), Node.FUNCTION)(**inputs)` with the inputs that INPUT_TYPES names


@pytest.fixture(scope="module")
def node() -> Any:
    spec = importlib.util.spec_from_file_location("comfyui_midframe", ROOT / "integrations" / "comfyui" / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.NODE_CLASS_MAPPINGS["MidframeInterpolate"]


def call(node: Any, images: torch.Tensor, **changed: Any) -> tuple[torch.Tensor, float]:
    inputs = {name: kind[1].get("default") for name, kind in node.INPUT_TYPES()["required"].items() if len(kind) > 1}
    inputs |= {"images": images, "model": "dis", **changed}
    return getattr(node(), node.FUNCTION)(**inputs)  # type: ignore[no-any-return]


def pan(count: int, step: int = 4) -> torch.Tensor:
    """(N, H, W, 3): a texture that moves to the left."""
    rng = np.random.default_rng(0)
    wide = torch.from_numpy(rng.random((3, 24, 60), dtype=np.float32))[None]
    wide = torch.nn.functional.interpolate(wide, scale_factor=4.0, mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    return torch.stack([wide[:, k * step : k * step + 160] for k in range(count)])


def test_comfyui_node_doubles_a_batch(node: Any) -> None:
    images = pan(3)
    out, factor = call(node, images)
    assert out.shape == (6, 96, 160, 3) and factor == 2.0
    assert all(torch.equal(out[2 * k], images[k]) for k in range(3)) and torch.equal(out[5], images[2])
    truth = pan(6, 2)
    inner = np.s_[8:-8, 16:-16]
    assert (out[1][inner] - truth[1][inner]).abs().mean() < 0.02


def test_comfyui_node_takes_a_factor_for_each_gap_and_loops(node: Any) -> None:
    images = pan(3)
    out, _ = call(node, images, rates="3, 1")
    assert len(out) == 5 and torch.equal(out[3], images[1]) and torch.equal(out[4], images[2])
    both, _ = call(node, images, rates="3, 1, 2", loop=True)
    assert len(both) == 6 and not torch.equal(both[5], images[0]) and torch.equal(both[4], images[2])
    looped, _ = call(node, images, loop=True)
    assert len(looped) == 6 and not torch.equal(looped[5], images[2])
    slower, factor = call(node, images, factor=1.5)
    assert len(slower) == 5 and factor == pytest.approx(5 / 3)


def test_comfyui_node_refuses_what_is_no_list_of_factors(node: Any) -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        call(node, pan(2), rates="2, x")
    with pytest.raises(ValueError, match="a batch"):
        call(node, pan(2)[0])


# The clock of the VapourSynth filter needs no VapourSynth


def test_clock_of_a_constant_rate() -> None:
    rate = Fraction(24000, 1001)
    clock = Clock(tuple(k / rate for k in range(48)), 48 / rate, Fraction(60000, 1001))
    assert clock.count == 120
    first, slots = clock.slots(1)
    assert first == 3 and [slot.t for slot in slots] == [Fraction(1, 5), Fraction(3, 5)]
    seen = [clock.slots(k) for k in range(48)]
    assert [n for n, s in seen for n in range(n, n + len(s))] == list(range(120))


def test_clock_of_a_variable_rate_covers_every_output_once() -> None:
    starts = tuple(Fraction(n, 10) for n in (0, 1, 4, 5, 9))
    clock = Clock(starts, Fraction(1), Fraction(7))
    numbers = [n + i for n, s in (clock.slots(k) for k in range(5)) for i in range(len(s))]
    assert numbers == list(range(7)) and all(clock.gap(n) == k for k in range(5) for n in range(*_span(clock, k)))


def _span(clock: Clock, k: int) -> tuple[int, int]:
    first, slots = clock.slots(k)
    return first, first + len(slots)


# VapourSynth itself


@pytest.fixture(scope="module")
def vs() -> Any:
    reason = "VapourSynth is not installed (pip install vapoursynth, Python 3.12)"
    return pytest.importorskip("vapoursynth", reason=reason)


def moving(vs: Any, name: str, length: int = 4, fps: tuple[int, int] = (24, 1), **props: Any) -> Any:
    """A clip of noise that moves by 4 pixels a frame."""
    form = getattr(vs, name)
    size = {"width": 160, "height": 96}
    blank = vs.core.std.BlankClip(format=form, length=length, fpsnum=fps[0], fpsden=fps[1], keep=True, **size)
    frames = pan(length).numpy()

    def fill(n: int, f: Any) -> Any:
        out = f.copy()
        top = (1 << out.format.bits_per_sample) - 1
        for plane in range(len(out)):
            view = np.asarray(out[plane])
            value = frames[n][:: 96 // view.shape[0], :: 160 // view.shape[1], plane]
            np.copyto(view, np.rint(value * top).astype(view.dtype))
        for key, value in props.items():
            if (found := value(n)) is not None:
                out.props[key] = found
        return out

    return vs.core.std.ModifyFrame(blank, blank, fill)


@pytest.mark.parametrize("name", ["YUV420P8", "YUV422P10", "YUV444P16", "RGB24", "RGB48", "GRAY8"])
def test_vapoursynth_doubles_the_rate_and_keeps_source_frames(vs: Any, name: str) -> None:
    from midframe.vapoursynth import interpolate

    clip = moving(vs, name)
    out = interpolate(clip, factor=2, model="dis", device="cpu", scene_changes="off")
    assert len(out) == 8 and out.fps == Fraction(48) and out.format.id == clip.format.id
    order = [5, 0, 3, 7, 1, 2, 6, 4]  # random access
    frames = {n: out.get_frame(n) for n in order}
    for k in range(4):
        source = clip.get_frame(k)
        assert all(np.array_equal(np.asarray(source[p]), np.asarray(frames[2 * k][p])) for p in range(len(source)))
        assert frames[2 * k].props["MidframeKind"] == "source"
    assert frames[1].props["MidframeKind"] == "interpolated" and frames[7].props["MidframeKind"] == "held"
    assert Fraction(frames[1].props["_DurationNum"], frames[1].props["_DurationDen"]) == Fraction(1, 48)


def test_vapoursynth_scene_changes_are_held(vs: Any) -> None:
    from midframe.vapoursynth import interpolate

    clip = moving(vs, "YUV420P8", _SceneChangeNext=lambda n: int(n == 1))
    kinds = [f.props["MidframeKind"] for f in interpolate(clip, model="dis", device="cpu").frames()]
    assert kinds[3] == "held" and kinds[1] == kinds[5] == "interpolated"
    ignored = interpolate(clip, model="dis", device="cpu", scene_changes="off")
    assert ignored.get_frame(3).props["MidframeKind"] == "interpolated"


def test_vapoursynth_variable_rate(vs: Any) -> None:
    from midframe.vapoursynth import interpolate

    clip = moving(vs, "GRAY8")
    parts = [vs.core.std.AssumeFPS(clip[k], fpsnum=10, fpsden=den) for k, den in enumerate((1, 3, 1, 1))]
    varying = vs.core.std.Splice(parts)
    assert varying.fps_num == 0
    out = interpolate(varying, fps=20, model="dis", device="cpu")
    kinds = [f.props["MidframeKind"] for f in out.frames()]
    assert len(out) == 12  # 0.6 s at 20 fps
    assert [k for k, kind in enumerate(kinds) if kind == "source"] == [0, 2, 8, 10]


def test_vapoursynth_refuses_floating_point(vs: Any) -> None:
    from midframe.vapoursynth import interpolate

    with pytest.raises(InputError, match="not possible"):
        interpolate(vs.core.std.BlankClip(format=vs.RGBS, length=1), model="dis")
