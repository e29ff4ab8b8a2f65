"""Image sequences and animations as inputs: orientation, missing numbers, delays, loops, transparency."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

import midframe
from clips import Clip, make, png
from midframe.types import Frame
from midframe.video.probe import probe
from midframe.video.reader import open_reader


def frames_of(path: Path, rate: Fraction | None = None) -> list[Frame]:
    with open_reader(path, in_rate=rate) as reader:
        return list(reader)


def jpeg(path: Path, image: np.ndarray, orientation: int) -> None:
    """A JPEG whose EXIF says how it is to be turned."""
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    tiff = b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHHI", 0x112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp", ".webp"])
def test_images_of_every_size_are_read(tmp_path: Path, suffix: str) -> None:
    """Bytes of noise do not compress: libav looks at the first 2 KB of a file to tell what it is."""
    noise = np.random.default_rng(5).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    for side in (8, 480):
        path = tmp_path / f"a%d-{side}{suffix}"
        assert cv2.imwrite(str(path), noise[:side, :side])
        (frame,) = frames_of(path)
        assert (frame.height, frame.width) == (side, side)
    path.rename(tmp_path / "b.png")
    assert len(list(frames_of(tmp_path / "b.png"))) == 1  # the content decides over the name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpegs_come_upright(tmp_path: Path, orientation: int) -> None:
    """Against OpenCV, which turns images by their EXIF orientation as well."""
    image = np.zeros((32, 64, 3), np.uint8)
    image[:16, :32] = 255
    image[16:, :16] = 128
    jpeg(tmp_path / "a.jpg", image, orientation)
    info = probe(tmp_path / "a.jpg")
    upright = cv2.imread(str(tmp_path / "a.jpg"), cv2.IMREAD_GRAYSCALE)
    assert (info.height, info.width) == upright.shape
    (frame,) = frames_of(tmp_path / "a.jpg")
    assert (frame.height, frame.width) == upright.shape
    error = frame.planes[0].to(torch.int32) - torch.from_numpy(upright).to(torch.int32)
    assert error.abs().max() <= 2


def test_missing_numbers_are_time(tmp_path: Path) -> None:
    for n in (1, 2, 3, 6, 7):
        png(tmp_path / f"shot_{n:04d}.png", n)
    info = probe(tmp_path / "shot_%04d.png", in_rate=Fraction(10))
    assert (info.header_frames, info.duration, info.vfr) == (5, Fraction(7, 10), True)
    assert any("2 image number(s)" in text and "1 gap(s)" in text for text in info.warnings)
    frames = frames_of(tmp_path / "shot_%04d.png", Fraction(10))
    assert [frame.pts * 10 for frame in frames] == [0, 1, 2, 5, 6]
    assert [frame.duration * 10 for frame in frames] == [1, 1, 3, 1, 1]


def animation(path: Path, delays: list[int]) -> None:
    """An animated PNG or WebP with transparency."""
    made = cv2.Animation()
    made.frames = [np.dstack([np.full((24, 32, 3), 40 * n, np.uint8), np.full((24, 32), 200 - 40 * n, np.uint8)])
                   for n in range(len(delays))]  # fmt: skip
    made.durations = delays
    made.loop_count = 3
    assert cv2.imwriteanimation(str(path), made)


@pytest.mark.parametrize("name", ["a.apng.png", "a.webp"])
def test_animations_are_videos_by_whatever_name(tmp_path: Path, name: str) -> None:
    animation(tmp_path / name, [100, 100, 300, 100])
    info = probe(tmp_path / name)
    assert (info.duration, info.header_frames, info.vfr, info.loops) == (Fraction(6, 10), 4, True, 3)
    assert info.format.alpha
    frames = frames_of(tmp_path / name)
    assert [frame.pts * 10 for frame in frames] == [0, 1, 2, 5]
    assert frames[-1].duration == Fraction(1, 10)
    assert int(frames[1].planes[3][0, 0]) == 160


def test_gif_delays_and_loops(tmp_path: Path) -> None:
    made = cv2.Animation()
    made.frames = [np.full((24, 32, 3), 40 * n, np.uint8) for n in range(4)]
    made.durations = [100, 150, 100, 200]
    made.loop_count = 0
    assert cv2.imwriteanimation(str(tmp_path / "a.gif"), made)
    info = probe(tmp_path / "a.gif")
    assert (info.loops, info.header_frames, info.duration) == (0, 4, Fraction(55, 100))
    assert [frame.pts * 100 for frame in frames_of(tmp_path / "a.gif")] == [0, 10, 25, 35]


def test_a_motion_photo_says_what_it_is(tmp_path: Path) -> None:
    jpeg(tmp_path / "photo.jpg", np.zeros((32, 64, 3), np.uint8), 1)
    video = make(tmp_path / "v.mp4", Clip(frames=4))
    data = (tmp_path / "photo.jpg").read_bytes()
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x GCamera:MotionPhoto="1"/>'
    segment = b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp
    (tmp_path / "photo.jpg").write_bytes(data[:2] + segment + data[2:] + video.read_bytes())
    assert any("motion photo" in text for text in probe(tmp_path / "photo.jpg").warnings)


def test_the_index_is_right_where_the_header_is_wrong(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", Clip(frames=72))
    data = bytearray(path.read_bytes())
    at = data.index(b"mdhd")
    struct.pack_into(">I", data, at + 20, struct.unpack_from(">I", data, at + 16)[0] // 10)  # a tenth of a second
    path.write_bytes(data)
    info = probe(path)
    assert (info.duration, info.header_frames) == (3, 72)
    assert any("the index is used" in text for text in info.warnings)


def test_frames_of_a_variable_rate_are_counted(tmp_path: Path) -> None:
    for frames in (40, 700):  # the look reads 600 packets
        stamps = [n * 33 + (n % 3) + (n > 20) * 700 for n in range(frames)]
        info = probe(make(tmp_path / f"{frames}.mkv", Clip(pts=stamps, tick=Fraction(1, 1000), frames=frames)))
        assert info.vfr
        assert info.header_frames == frames


def test_a_change_of_pixel_format_is_said(tmp_path: Path) -> None:
    one = make(tmp_path / "one.ts", Clip(codec="mpeg2video", rate=Fraction(25), frames=10))
    two = make(tmp_path / "two.ts", Clip(codec="mpeg2video", rate=Fraction(25), frames=10, pixels="yuv422p"))
    (tmp_path / "both.ts").write_bytes(one.read_bytes() + two.read_bytes())
    with open_reader(tmp_path / "both.ts") as reader:
        frames = list(reader)
        assert {frame.format.name for frame in frames} == {"yuv420p"}
        assert any("changes from yuv420p to yuv422p" in text for text in reader.warnings)


def test_timecode_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.metadata["timecode"] = "10:00:00:05"
        for n in range(5):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = n
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    assert probe(path).timecode == "10:00:00:05"


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_an_animation_holds_its_pauses(tmp_path: Path, name: str) -> None:
    animation(tmp_path / name, [100, 100, 1500, 100, 100, 100])
    result = midframe.interpolate(tmp_path / name, tmp_path / "out.mkv", model="blend", device="cpu", scene="off")
    assert [(float(held.start), float(held.end)) for held in result.held] == [(0.2, 1.6)]
    assert result.kinds == "sisis" + "h" * 28 + "isisish"
