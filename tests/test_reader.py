"""Frames come with exact times, from anywhere in a video, whatever its container; damage costs what is damaged."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from clips import NTSC_24, Clip, image, make, png
from midframe.errors import MediaError
from midframe.types import Frame, Segment
from midframe.video import formats
from midframe.video.probe import probe
from midframe.video.reader import open_reader, sorted_stamps

LOSSLESS = Clip(codec="ffv1")


def frames_of(path: Path, segment: Segment | None = None, **more: object) -> list[Frame]:
    with open_reader(path, segment, **more) as reader:
        return list(reader)


def equal(a: Frame, b: Frame) -> bool:
    return a.pts == b.pts and all(torch.equal(p, q) for p, q in zip(a.planes, b.planes, strict=True))


@pytest.mark.parametrize(
    ("clip", "name"),
    [
        (Clip(), "a.mp4"),
        (Clip(rate=NTSC_24), "a.mp4"),
        (Clip(pts=[n for n in range(36) if n % 3]), "vfr.mp4"),
        (Clip(pts=range(12, 36), audio=1), "late.mp4"),
        (Clip(codec="libx265", pixels="yuv420p10le", options={"x265-params": "log-level=none"}), "ten.mp4"),
        (Clip(frames=1), "one.mp4"),
        (Clip(frames=2), "two.mp4"),
        (Clip(codec="libvpx-vp9", width=33, height=17, rate=Fraction(20), options={"cpu-used": "8"}), "odd.webm"),
        (Clip(pts=range(5, 29), rate=Fraction(25)), "late.mkv"),
    ],
)
def test_every_frame_with_its_exact_time(tmp_path: Path, clip: Clip, name: str) -> None:
    found = frames_of(make(tmp_path / name, clip))
    assert [frame.pts for frame in found] == clip.instants()
    assert [frame.index for frame in found] == list(range(len(found)))
    for a, b in pairwise(found):
        assert a.pts + a.duration == b.pts
    assert found[-1].duration > 0
    for frame in (found[0], found[-1]):
        assert (frame.width, frame.height) == (clip.width, clip.height)
        assert frame.planes[0].dtype == frame.format.dtype


def test_planes_are_the_encoded_ones(tmp_path: Path) -> None:
    for pixels in ("yuv420p", "yuv422p10le", "gray", "yuv444p12le", "yuva420p"):
        path = make(tmp_path / f"{pixels}.mkv", replace(LOSSLESS, pixels=pixels, frames=3))
        for n, frame in enumerate(frames_of(path)):
            expected = image(n, 64, 48, pixels)
            assert frame.format.name == pixels
            for mine, theirs in zip(frame.planes, expected.planes, strict=True):
                samples = np.frombuffer(memoryview(theirs), np.uint8).reshape(theirs.height, theirs.line_size)
                samples = samples.view(np.uint16) if frame.format.depth > 8 else samples
                assert np.array_equal(mine.numpy(), samples[:, : theirs.width])


@pytest.mark.parametrize(
    ("pixels", "planar"),
    [("nv12", "yuv420p"), ("yuyv422", "yuv422p"), ("rgb24", "gbrp"), ("bgra", "gbrap"), ("bgr0", "gbrp"),
     ("p010le", "yuv420p10le"), ("gray16be", "gray16le"), ("rgb48be", "gbrp16le"), ("nv24", "yuv444p"),
     ("yuv420p10be", "yuv420p10le"), ("rgba64le", "gbrap16le"), ("uyvy422", "yuv422p"), ("p210le", "yuv422p10le")],
)  # fmt: skip
def test_repacking_loses_nothing(pixels: str, planar: str) -> None:
    # there and back again through libswscale, which is exact for both directions of a mere repacking
    rng = np.random.default_rng(1)
    frame = av.VideoFrame(32, 16, pixels)
    for plane in frame.planes:
        plane.update(rng.integers(0, 256, plane.buffer_size, dtype=np.uint8).tobytes())
    if pixels.startswith(("p010", "p210")):  # ten bits at the top
        for plane in frame.planes:
            plane.update((np.frombuffer(memoryview(plane), np.uint16) & 0xFFC0).tobytes())
    if pixels == "yuv420p10be":
        for plane in frame.planes:
            plane.update((np.frombuffer(memoryview(plane), ">u2") & 0x3FF).astype(">u2").tobytes())
    assert formats.planar_name(pixels) == planar
    made = formats.describe(planar, matrix="bt709", full_range=False, siting="left")
    there = formats.to_planar(frame, made, 32, 16)
    planes = formats.planes_of(there, made)
    assert len(planes) == made.plane_count and planes[0].dtype == made.dtype
    if pixels in ("rgb24", "bgra"):
        packed = np.frombuffer(memoryview(frame.planes[0]), np.uint8).reshape(16, -1)[
            :, : 32 * len(frame.format.components)
        ]
        packed = packed.reshape(16, 32, -1)
        order = (0, 1, 2) if pixels == "rgb24" else (2, 1, 0, 3)
        for plane, channel in zip(planes, order, strict=True):
            assert np.array_equal(plane.numpy(), packed[..., channel])
        return
    again = formats.video_frame(planes, made, pixels)
    for index, (before, after) in enumerate(zip(frame.planes, again.planes, strict=True)):
        a = np.frombuffer(memoryview(before), np.uint8).reshape(before.height, -1)
        b = np.frombuffer(memoryview(after), np.uint8).reshape(after.height, -1)
        used = {"yuyv422": 64, "uyvy422": 64, "bgr0": 128, "rgb48be": 192, "rgba64le": 256}.get(pixels)
        width = used or before.width * (2 if made.depth > 8 else 1) * (2 if index and pixels[0] in "np" else 1)
        if pixels == "bgr0":  # the fourth byte means nothing
            a, b = a[:, :128].reshape(16, 32, 4)[..., :3], b[:, :128].reshape(16, 32, 4)[..., :3]
            assert np.array_equal(a, b)
        else:
            assert np.array_equal(a[:, :width], b[:, :width])


@pytest.mark.parametrize(
    ("clip", "name"),
    [
        (Clip(frames=60, options={"g": "12", "bf": "3"}), "a.mp4"),
        (Clip(frames=60, options={"g": "12", "x264-params": "open-gop=1"}), "open.mkv"),
        (Clip(frames=60, options={"g": "250"}), "one-key.mkv"),
        (Clip(frames=60, pts=range(20, 80), audio=1), "late.ts"),
        (Clip(frames=40, codec="mpeg4", options={"g": "10"}), "a.avi"),
        (Clip(frames=40, pts=[n * n for n in range(40)]), "vfr.mp4"),
        (Clip(frames=40, codec="mpeg2video", options={"bf": "2", "g": "9"}), "a.mpg"),
    ],
)
def test_a_segment_is_a_cut_of_the_video(tmp_path: Path, clip: Clip, name: str) -> None:
    path = make(tmp_path / name, clip)
    info = probe(path)
    whole = frames_of(path, info=info)
    for first, last in ((0, 5), (7, 8), (11, 14), (12, 30), (13, 40), (25, 26), (39, 40)):
        if last > len(whole):
            continue
        end = whole[last].pts if last < len(whole) else None
        part = frames_of(path, Segment(whole[first].pts, end), info=info)
        assert len(part) == last - first
        assert all(equal(a, b) for a, b in zip(part, whole[first:last], strict=True))
        assert [f.duration for f in part] == [f.duration for f in whole[first:last]]
        # a start within a frame gives the frame that is shown then
        part = frames_of(path, Segment(whole[first].pts + whole[first].duration / 2, end), info=info)
        assert equal(part[0], whole[first]) and len(part) == last - first
    assert frames_of(path, Segment(whole[-1].pts + 100, None), info=info)[-1].pts == whole[-1].pts


def test_what_lies_well_before_a_segment_is_decoded_only_as_far_as_others_need_it(tmp_path: Path) -> None:
    b_frames = {"bf": "3", "b-adapt": "0", "g": "240", "keyint_min": "240"}
    path = make(tmp_path / "video.mp4", Clip(frames=120, options=b_frames))
    whole = [frame for frame in frames_of(path) if frame.pts >= 4]
    part = frames_of(path, Segment(Fraction(4)))
    assert [f.pts for f in part] == [f.pts for f in whole]
    assert all(equal(a, b) for a, b in zip(part, whole, strict=True))
    assert part[0].index < whole[0].index - 15, "B frames that nobody refers to were decoded too"


def test_a_hole_before_a_segment_shows_the_frame_that_is_held(tmp_path: Path) -> None:
    """The last frame before the hole is one that no other refers to: it must not have been left out."""
    b_frames = {"bf": "3", "b-adapt": "0", "g": "240", "keyint_min": "240", "b-pyramid": "none"}
    pts = [*range(40), *range(140, 180)]  # four seconds are missing
    path = make(tmp_path / "video.mp4", Clip(frames=80, pts=pts, options=b_frames))
    info = replace(probe(path), vfr=False)  # a longer video has such a hole where the probe does not look
    start = Fraction(130, 24)
    first = frames_of(path, Segment(start), info=info)[0]
    held = [frame for frame in frames_of(path, info=info) if frame.pts <= start][-1]
    assert first.pts == held.pts == Fraction(39, 24)
    assert equal(first, held)


def test_edit_lists(tmp_path: Path) -> None:
    # the muxer puts the negative part of a stream before an edit list; it is not shown
    path = make(tmp_path / "a.mp4", Clip(pts=range(-6, 18)))
    found = frames_of(path)
    assert [frame.pts for frame in found] == [Fraction(n, 24) for n in range(18)]


def test_without_time_stamps_the_rate_counts(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.h264"), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(10):
            frame = image(n, 64, 48)
            frame.pts = n
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    found = frames_of(tmp_path / "a.h264")
    assert [frame.pts for frame in found] == [Fraction(n, 25) for n in range(10)]


def stamped(path: Path, stamps: list[int]) -> Path:
    """Intra frames with any time stamps, in milliseconds, in order of the file."""
    with av.open(str(path), "w", format="nut") as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        packets = []
        for n, _ in enumerate(stamps):
            frame = image(n, 32, 32, "yuvj420p")
            frame.pts, frame.time_base = n, Fraction(1, 1000)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for n, (packet, stamp) in enumerate(zip(packets, stamps, strict=True)):
            packet.pts, packet.dts = stamp, n - 10_000_000
            out.mux(packet)
    return path


def test_stamps_out_of_order_are_put_right(tmp_path: Path) -> None:
    path = stamped(tmp_path / "a.nut", [0, 40, 80, 80, 120, 200, 240])
    with open_reader(path) as reader:
        found = list(reader)
        assert len(found) == 7
        assert all(a.pts < b.pts for a, b in pairwise(found))
        assert any("out of order" in text for text in reader.warnings)
    with pytest.raises(MediaError, match="strict"):
        frames_of(path, strict=True)


def test_a_jump_of_the_clock_leaves_no_gap(tmp_path: Path) -> None:
    for far in (50_000_000, 1 << 40):
        path = stamped(tmp_path / "a.nut", [0, 40, 80, 80 + far, 120 + far, 160 + far])
        with open_reader(path) as reader:
            found = list(reader)
            assert found[-1].pts < 1
            assert any("jump" in text for text in reader.warnings)


def test_a_truncated_file_gives_what_it_has(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mkv", Clip(frames=96, options={"g": "12"}))
    with av.open(str(path)) as whole:
        assert whole.duration > 3_900_000
    data = path.read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) * 2 // 3])
    with open_reader(tmp_path / "cut.mkv") as reader:
        found = list(reader)
        assert 24 < len(found) < 96
        assert any(f"{96 - len(found)} of 96 frames are missing" in text for text in reader.warnings)
    with pytest.raises(MediaError, match="strict"):
        frames_of(tmp_path / "cut.mkv", strict=True)


def test_damage_in_the_middle_costs_little(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", Clip(frames=96, options={"g": "12"}))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    (tmp_path / "hurt.mp4").write_bytes(data)
    assert len(frames_of(tmp_path / "hurt.mp4")) > 60


def test_a_change_of_size_is_scaled_to_the_first(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.nut"), "w") as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        small = av.CodecContext.create("mjpeg", "w")
        small.width, small.height, small.pix_fmt, small.time_base = 32, 32, "yuvj420p", Fraction(1, 25)
        for n in range(4):
            frame = image(n, *((64, 48) if n < 2 else (32, 32)), "yuvj420p")
            frame.pts = n
            for packet in stream.encode(frame) if n < 2 else small.encode(frame):
                packet.stream = stream
                packet.pts = packet.dts = n
                packet.time_base = Fraction(1, 25)
                out.mux(packet)
    with open_reader(tmp_path / "a.nut") as reader:
        assert [(f.width, f.height) for f in reader] == [(64, 48)] * 4
        assert any("changes from 64x48 to 32x32" in text for text in reader.warnings)


def test_fields_become_frames(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mkv", Clip(interlaced=True, height=64, rate=Fraction(25), frames=25))
    info = probe(path)
    plain = frames_of(path, info=info)
    with open_reader(path, info=info, deinterlace=True) as reader:
        assert (reader.info.rate, reader.info.interlaced) == (50, False)
        found = list(reader)
    assert len(found) == 2 * len(plain)
    assert all(frame.duration == Fraction(1, 50) for frame in found[:-1])
    # a segment gives the same frames
    part = frames_of(path, Segment(found[20].pts, found[30].pts), info=info, deinterlace=True)
    assert all(equal(a, b) for a, b in zip(part, found[20:30], strict=True))
    # a progressive video is left alone
    other = make(tmp_path / "b.mkv", Clip())
    assert len(frames_of(other, deinterlace=True)) == 24


def test_packed_b_frames_in_avi(tmp_path: Path) -> None:
    """DivX and Xvid put two frames into one packet and an empty one after it; times of neighbours change places."""
    stamps = iter([(n, stamp) for n, stamp in enumerate([1, 2, 4, 3, 5, 7, 6, None, 9, 8])])
    found = [(n, stamp) for n, stamp, _ in sorted_stamps((n, stamp, Fraction(1)) for n, stamp in stamps)]
    assert found == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, None), (8, 8), (9, 9)]
    path = make(tmp_path / "a.avi", Clip(codec="mpeg4", options={"bf": "2"}, frames=24))
    times = [frame.pts for frame in frames_of(path)]
    assert len(times) == 24
    assert [b - a for a, b in pairwise(times)] == [Fraction(1, 24)] * 23


def test_leaving_early_joins_the_thread(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", Clip(frames=60))
    before = threading.active_count()
    for stop in (0, 1, 5):
        with open_reader(path) as reader:
            for n, _ in enumerate(reader):
                if n == stop:
                    break
        assert threading.active_count() == before
    with pytest.raises(ZeroDivisionError), open_reader(path) as reader:
        next(iter(reader))
        _ = 1 / 0
    assert threading.active_count() == before


def test_decoding_does_not_run_far_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queues: list[Any] = []

    class Watched(queue.Queue):  # type: ignore[type-arg]
        def __init__(self, maxsize: int = 0) -> None:
            super().__init__(maxsize)
            queues.append(self)

    monkeypatch.setattr(queue, "Queue", Watched)
    with open_reader(make(tmp_path / "a.mp4", Clip(frames=100))) as reader:
        next(reader)
        (frames,) = queues
        assert 0 < frames.maxsize <= 4
        while not frames.full():  # a decoder that has 98 more frames fills it
            time.sleep(0.01)


def test_errors_come_up_where_frames_are_read(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4")
    info = probe(path)
    path.unlink()
    with open_reader(path, info=info) as reader, pytest.raises(MediaError, match="does not exist"):
        next(reader)
    with pytest.raises(RuntimeError, match="with"):
        next(open_reader(make(path), info=info))


def test_buffers_are_not_used_again(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", Clip(frames=60))
    with open_reader(path) as reader:
        first = next(reader)
        copy = first.planes[0].clone()
        rest = list(reader)
    assert len(rest) == 59
    assert torch.equal(first.planes[0], copy)


def test_alpha(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mkv", replace(LOSSLESS, pixels="yuva420p", frames=2))
    frame = frames_of(path)[0]
    assert frame.format.alpha and len(frame.planes) == 4
    assert frame.planes[3].shape == (48, 64)


@pytest.mark.parametrize("pixels", ["rgb24", "rgba", "rgb48be", "gray", "gray16be", "ya8"])
def test_frames(tmp_path: Path, pixels: str) -> None:
    for n in range(12):
        png(tmp_path / f"p{n}.png", n, pixels=pixels)
    found = frames_of(tmp_path, in_rate=Fraction(10))
    assert [frame.pts for frame in found] == [Fraction(n, 10) for n in range(12)]
    # natural order: 9 before 10
    assert int(found[9].planes[0][0, 0]) != int(found[10].planes[0][0, 0])
    assert found[0].format.alpha == (pixels in ("rgba", "ya8"))
    assert found[0].format.depth == (16 if "16" in pixels or "48" in pixels else 8)
    part = frames_of(tmp_path, Segment(Fraction(3, 10), Fraction(7, 10)), in_rate=Fraction(10))
    assert all(equal(a, b) for a, b in zip(part, found[3:7], strict=True)) and len(part) == 4


def test_frames_of_unequal_size_are_refused(tmp_path: Path) -> None:
    png(tmp_path / "a1.png", 0)
    png(tmp_path / "a2.png", 1, width=40)
    with pytest.raises(MediaError, match="one size"):
        frames_of(tmp_path)


def test_frames_of_unequal_kind_follow_the_first(tmp_path: Path) -> None:
    png(tmp_path / "a1.png", 0)
    png(tmp_path / "a2.png", 1, pixels="rgb48be")
    png(tmp_path / "a3.png", 1, pixels="gray")
    found = frames_of(tmp_path)
    assert [frame.format.name for frame in found] == ["gbrp"] * 3
    assert found[1].planes[0].dtype == torch.uint8
