"""Output of another size: where frames are scaled, sizes, shape on the display, colour."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clips
import midframe
from clips import Clip
from midframe import plan
from midframe.errors import InputError
from midframe.options import Options
from midframe.types import Frame, VideoInfo
from midframe.video.formats import describe
from midframe.video.probe import probe
from midframe.video.reader import open_reader
from midframe.video.scaling import Scaling

HD = VideoInfo(
    "a.mkv", "matroska", "h264", 1920, 1080, describe("yuv420p", matrix="bt709", full_range=False, siting="left"),
    Fraction(24), Fraction(1, 1000), Fraction(0), Fraction(1), 24,
)  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "size", "turned", "aspect"),
    [
        ({"scale": "1280x720"}, (1280, 720), (720, 1280), 1),
        ({"scale": "1280:-2"}, (1280, 720), (2276, 1280), 1),
        ({"scale": "-2:480"}, (854, 480), (480, 270), 1),
        ({"scale": "-1:480"}, (853, 480), (480, 270), 1),
        ({"scale": "3840x1600"}, (3840, 1600), (1600, 3840), Fraction(1600 * 1920, 3840 * 1080)),
        ({"max_size": 1280}, (1280, 720), (1280, 720), 1),
        ({"max_size": 1001}, (1000, 562), (1000, 562), 1),
        ({"max_size": 4096}, (1920, 1080), (1920, 1080), 1),
        ({}, (1920, 1080), (1920, 1080), 1),
    ],
)
def test_sizes(wanted: dict[str, Any], size: tuple[int, int], turned: tuple[int, int], aspect: Fraction) -> None:
    scaling = Scaling.of(HD, Options.parse(**wanted))
    assert (scaling.width, scaling.height) == size
    assert scaling.output.sample_aspect == aspect
    assert scaling.shrinks == (size[0] * size[1] < 1920 * 1080)
    rotated = Scaling.of(replace(HD, rotation=90), Options.parse(**wanted))
    assert (rotated.width, rotated.height) == turned


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"scale": "half"}, "not a size; try 1280x720"),
        ({"scale": "-2:-2"}, "not a size"),
        ({"scale": "1280:-3"}, "not a size"),
        ({"scale": "8x8"}, "16 to 16384 pixels"),
        ({"max_size": "12.5"}, "whole number"),
        ({"max_size": 8}, "not within 16 to 16384"),
        ({"max_size": 640, "scale": "640:-2"}, "drop one of them"),
    ],
)
def test_sizes_that_are_refused(wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Options.parse(**wanted)


def test_fields_are_not_mixed() -> None:
    interlaced = replace(HD, interlaced=True)
    with pytest.raises(InputError, match="would mix the fields"):
        Scaling.of(interlaced, Options(scale="1280:720", deinterlace="off"))
    assert Scaling.of(interlaced, Options(scale="1280:720")).height == 720


def scaled(frame: Frame, size: tuple[int, int]) -> Frame:
    info = replace(HD, width=frame.width, height=frame.height, format=frame.format)
    scaling = Scaling.of(info, Options(scale=f"{size[0]}:{size[1]}"))
    (made,) = scaling.after(scaling.before(iter([frame])))
    return made


@pytest.mark.parametrize(
    ("name", "full"),
    [("yuv420p", False), ("yuv420p", True), ("yuva444p10le", False), ("yuv422p12le", False), ("gbrp", True),
     ("gbrap16le", True), ("gray", True), ("gray16le", False)],
)  # fmt: skip
@pytest.mark.parametrize("size", [(50, 36), (200, 160)])
def test_flat_colours_stay_as_they_are(name: str, full: bool, size: tuple[int, int]) -> None:
    form = describe(name, matrix="bt709", full_range=full, siting="left")
    top = (1 << form.depth) - 1
    for shares in ((0.0, 0.5, 0.5, 1.0), (1.0, 0.2, 0.9, 0.3), (0.06, 0.06, 0.06, 0.0)):
        planes = []
        for n, share in enumerate(shares[: form.plane_count]):
            chroma = form.layout == "yuv" and n in (1, 2)
            shape = (80 >> (form.chroma_h if chroma else 0), 100 >> (form.chroma_w if chroma else 0))
            planes.append(torch.full(shape, round(share * top), dtype=form.dtype))
        frame = Frame(tuple(planes), form, Fraction(0), Fraction(1, 24), 0)
        made = scaled(frame, size)
        assert (made.width, made.height) == size
        for before, after in zip(frame.planes, made.planes, strict=True):
            assert (after == before[0, 0]).all()


@pytest.mark.parametrize("siting", ["left", "center", "topleft"])
@pytest.mark.parametrize("size", [(80, 64), (320, 256)])
def test_colour_stays_where_it_is(siting: str, size: tuple[int, int]) -> None:
    """Ramps of chroma, whose value at every place follows from the siting."""
    form = describe("yuv420p16le", matrix="bt709", full_range=True, siting=siting)

    def ramps(width: int, height: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Chroma that rises to the right, and one that rises downwards; by place in units of the frame."""
        across = 0.5 if siting in ("left", "topleft") else 1.0  # luma samples from the edge to the first of chroma
        down = 0.5 if siting == "topleft" else 1.0
        x, y = (across + 2 * np.arange(width // 2)) / width, (down + 2 * np.arange(height // 2)) / height
        one, two = np.broadcast_arrays(x[None, :], y[:, None])
        return 8000 + 40000 * one, 8000 + 40000 * two

    planes = [np.full((128, 160), 30000.0), *ramps(160, 128)]
    frame = Frame(
        tuple(torch.from_numpy(np.round(p).astype(np.uint16)) for p in planes), form, Fraction(0), Fraction(1), 0
    )
    made = scaled(frame, size)
    for plane, expected in zip(made.planes[1:], ramps(*size), strict=True):
        inside = np.abs(plane.numpy().astype(float) - expected)[8:-8, 8:-8]
        assert inside.max() < 40  # of 65535; a wrong siting is off by 60 to 190


def run(source: Path, target: Path, **options: Any) -> midframe.Result:
    return midframe.interpolate(source, target, model="blend", device="cpu", **options)


def test_a_smaller_and_a_larger_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SEGMENT_OUTPUTS", 20)
    source = clips.make(
        tmp_path / "in.mkv", Clip(64, 48, frames=36, audio=1, aspect=Fraction(4, 3), options={"g": "12"})
    )
    said: list[Any] = []
    for size, where in (("32x24", "before"), ("128:-2", "after"), ("32x32", "before")):
        target = tmp_path / f"{size.replace(':', '_')}.mkv"
        result = run(source, target, scale=size, on_plan=said.append)
        assert f"64x48 -> {size.replace(':-2', 'x96')} {where} interpolation" in str(said[-1])
        assert len(said[-1].segments) > 1
        after = probe(target)
        assert f"{after.width}x{after.height}" == size.replace(":-2", "x96")
        assert after.sample_aspect * after.width / after.height == Fraction(4, 3) * 64 / 48
        assert (result.frames_out, result.kinds[:4]) == (72, "sisi")
        assert [s.kind for s in after.streams] == ["video", "audio"]
        with open_reader(source) as one, open_reader(target) as two:
            levels = [[float(frame.planes[0].float().mean()) for frame in frames] for frames in (one, two)]
        assert levels[1][::2] == pytest.approx(levels[0], abs=1.5)
        assert run(source, target, scale=size).finished_before
        with pytest.raises(InputError):
            run(source, target, scale="48x36")


def test_scaled_frames_do_not_depend_on_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clips.make(tmp_path / "in.mkv", Clip(64, 48, frames=36, options={"g": "12"}))
    frames = []
    for outputs in (20, 1000):
        monkeypatch.setattr(plan, "SEGMENT_OUTPUTS", outputs)
        result = run(source, tmp_path / f"{outputs}.mkv", max_size=40, loop=True, codec="ffv1")
        with open_reader(result.path) as read:
            frames.append([[plane.clone() for plane in frame.planes] for frame in read])
    assert all(torch.equal(a, b) for one, two in zip(*frames, strict=True) for a, b in zip(one, two, strict=True))


def test_a_rotated_video_is_scaled_as_it_is_displayed(tmp_path: Path) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(64, 48, frames=6, rotation=90))
    result = run(source, tmp_path / "out.mp4", scale="96:-2")
    after = probe(result.path)
    assert (after.width, after.height, after.rotation) == (128, 96, 90)
    upright = run(source, tmp_path / "one" / "%03d.png", scale="96:-2")
    assert probe(upright.path, in_rate=Fraction(24)).width == 96


def test_two_images_and_a_stream(tmp_path: Path) -> None:
    from midframe.pipeline import between_files
    from midframe.streaming import interpolate_stream

    a, b = clips.png(tmp_path / "a.png", 0, 64, 48), clips.png(tmp_path / "b.png", 1, 64, 48)
    between_files(a, b, tmp_path / "half.png", Options(model="blend", device="cpu", max_size=32))
    assert probe(tmp_path / "half.png", in_rate=Fraction(1)).width == 32
    source = clips.make(tmp_path / "in.mkv", Clip(64, 48, frames=6))
    said: list[Any] = []
    interpolate_stream(
        source, tmp_path / "out.y4m", Options(model="blend", device="cpu", scale="32:24"), on_plan=said.append
    )
    assert "64x48 -> 32x24 before interpolation" in str(said[0])
    assert (tmp_path / "out.y4m").read_bytes().startswith(b"YUV4MPEG2 W32 H24 ")
