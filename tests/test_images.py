"""Sequences of frames, in and out."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from clips import Clip, make, png
from midframe.errors import InputError, MediaError
from midframe.types import Frame, PixelFormat
from midframe.video import formats, images
from midframe.video.encoders import choose_encoder
from midframe.video.probe import probe
from midframe.video.reader import open_reader
from midframe.video.writer import open_writer
from test_writer import PLAIN, flat, info_of, left

RGB = PixelFormat("gbrp", "rgb", 8, full_range=True, matrix="rgb")


def write(target: str | Path, frames: list[Frame], **more: object) -> None:
    info = replace(info_of(frames[0].format, frames[0].width, frames[0].height), **more)
    with open_writer(target, info, choose_encoder(info, target), rate=Fraction(24)) as writer:
        for frame in frames:
            writer.write(frame)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("kind", ["gbrp", "gbrap", "gray"])
def test_lossless_images_come_back(tmp_path: Path, suffix: str, depth: int, kind: str) -> None:
    torch.manual_seed(0)
    name = kind + ("" if depth == 8 else "16le")
    format = PixelFormat(name, "gray" if kind == "gray" else "rgb", depth, alpha=kind == "gbrap", full_range=True)
    frames = [
        Frame(tuple(torch.randint(0, 1 << depth, (7, 9)).to(torch.int32).to(format.dtype)
                    for _ in range(format.plane_count)), format, Fraction(n, 24), Fraction(1, 24), n)
        for n in range(3)
    ]  # fmt: skip
    write(tmp_path / f"p%03d{suffix}", frames)
    assert left(tmp_path) == [f"p{n:03d}{suffix}" for n in (1, 2, 3)]
    with open_reader(tmp_path / f"p%03d{suffix}", in_rate=Fraction(24)) as reader:
        found = list(reader)
    assert [frame.pts for frame in found] == [Fraction(n, 24) for n in range(3)]
    for mine, theirs in zip(found, frames, strict=True):
        assert mine.format.depth == depth and mine.format.alpha == format.alpha
        assert all(torch.equal(a, b) for a, b in zip(mine.planes, theirs.planes, strict=True))


def test_deep_video_gives_deep_images(tmp_path: Path) -> None:
    deep = replace(PLAIN, name="yuv420p10le", depth=10)
    write(f"{tmp_path / 'out'}/", [flat(deep, 0)])
    with av.open(str(tmp_path / "out" / "000001.png")) as opened:
        assert next(opened.decode(video=0)).format.name == "rgb48be"


def test_jpeg_and_webp(tmp_path: Path) -> None:
    planes = tuple(torch.full((16, 16), level, dtype=torch.uint8) for level in (200, 100, 50))
    frame = Frame(planes, RGB, Fraction(0), Fraction(1), 0)
    for name, close in (("a.jpg", 3), ("a.webp", 0)):
        write(tmp_path / name, [frame])
        with open_reader(tmp_path / name) as reader:
            seen = next(reader)
        from midframe import colour

        rgb = colour.to_rgb(seen.planes, seen.format) * 255
        assert (rgb - torch.tensor([200.0, 100, 50]).view(3, 1, 1)).abs().max() <= close + 0.5


def test_a_rotated_video_gives_upright_images(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mov", Clip(rotation=90, frames=1))
    info = probe(source)
    with open_reader(source, info=info) as reader:
        frame = next(reader)
    for name, turned in (("up.png", info), ("flat.png", replace(info, rotation=0))):
        with open_writer(tmp_path / name, turned, choose_encoder(turned, tmp_path / name), rate=Fraction(24)) as writer:
            writer.write(frame)
    up = next(av.open(str(tmp_path / "up.png")).decode(video=0)).to_ndarray()
    lying = next(av.open(str(tmp_path / "flat.png")).decode(video=0)).to_ndarray()
    assert np.array_equal(up, np.rot90(lying, -1))  # clockwise


def test_one_image_takes_one_frame(tmp_path: Path) -> None:
    write(tmp_path / "a.png", [flat(PLAIN, 1)])
    assert left(tmp_path) == ["a.png"]
    with pytest.raises(InputError, match="is one image"):
        write(tmp_path / "b.png", [flat(PLAIN, 1), flat(PLAIN, 2)])
    assert left(tmp_path) == ["a.png"]


def test_a_failure_leaves_no_folder(tmp_path: Path) -> None:
    info = info_of()
    encoding = choose_encoder(info, f"{tmp_path}/out/")
    with pytest.raises(KeyError), open_writer(tmp_path / "out", info, encoding, rate=Fraction(24)) as writer:
        writer.write(flat(PLAIN, 0))
        raise KeyError
    assert left(tmp_path) == []


def test_an_existing_folder_keeps_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    write(tmp_path / "out", [flat(PLAIN, 0)])
    assert left(tmp_path / "out") == ["000001.png", "notes.txt"]


def test_order_and_choice_of_files(tmp_path: Path) -> None:
    for n in (1, 2, 10, 9):
        png(tmp_path / f"shot {n}.png", n)
    (tmp_path / "notes.txt").write_text("no frame")
    (tmp_path / ".hidden.png").write_bytes(b"")
    png(tmp_path / "cover.jpg.txt")
    assert [p.name for p in images.files_of(tmp_path)] == [f"shot {n}.png" for n in (1, 2, 9, 10)]
    assert [p.name for p in images.files_of(tmp_path / "shot %d.png")] == [f"shot {n}.png" for n in (1, 2, 9, 10)]
    assert [p.name for p in images.files_of(tmp_path / "shot ?.png")] == [f"shot {n}.png" for n in (1, 2, 9)]
    with pytest.raises(MediaError, match="no image matches"):
        images.files_of(tmp_path / "other_%d.png")


def test_a_missing_or_broken_image_is_named(tmp_path: Path) -> None:
    for n in range(3):
        png(tmp_path / f"{n}.png", n)
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(MediaError, match=r"1\.png.* is not an image"), open_reader(tmp_path) as reader:
        list(reader)


def test_few_bits_of_rgb_reach_white() -> None:
    frame = av.VideoFrame(16, 16, "rgb555le")
    for plane in frame.planes:
        plane.update(b"\xff\x7f" * (plane.buffer_size // 2))
    made = formats.describe(formats.planar_name("rgb555le"), matrix="rgb", full_range=True, siting="left")
    planes = formats.planes_of(formats.to_planar(frame, made, 16, 16), made)
    assert all(int(plane.min()) == 255 for plane in planes)
