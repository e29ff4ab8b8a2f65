"""Frames into files: the right encoder, exact times, the source's tags, and nothing left of a failure."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from clips import NTSC_24, Clip, make
from midframe.errors import InputError, MediaError, UnsupportedError
from midframe.types import Frame, PixelFormat, VideoInfo
from midframe.video.encoder_settings import mastering_text
from midframe.video.encoders import choose_encoder
from midframe.video.files import write_error
from midframe.video.probe import probe
from midframe.video.reader import open_reader
from midframe.video.timestamps import DecodingTimes
from midframe.video.writer import open_writer

PLAIN = PixelFormat("yuv420p", "yuv", 8, 1, 1)


def info_of(format: PixelFormat = PLAIN, width: int = 64, height: int = 48, **more: object) -> VideoInfo:
    return VideoInfo(
        path="source.mkv", container="matroska,webm", codec="h264", width=width, height=height, format=format,
        rate=Fraction(24), time_base=Fraction(1, 1000), start=Fraction(0), duration=Fraction(1), header_frames=24,
        **more,
    )  # fmt: skip


def flat(format: PixelFormat, n: int, width: int = 64, height: int = 48, step: Fraction = Fraction(1, 24)) -> Frame:
    """Frame n: a brightness of its own."""
    small = (-(-height >> format.chroma_h), -(-width >> format.chroma_w))
    sizes = [(height, width)] * format.plane_count
    if format.layout == "yuv":
        sizes[1:3] = [small, small]
    scale = 1 << (format.depth - 8)
    planes = tuple(torch.full(size, (40 + 5 * n) * scale, dtype=torch.int32).to(format.dtype) for size in sizes)
    return Frame(planes, format, n * step, step, n)


def write(path: Path, info: VideoInfo, frames: int = 6, rate: Fraction = Fraction(24), **more: object) -> VideoInfo:
    encoding = choose_encoder(info, path, **more)
    with open_writer(path, info, encoding, rate=rate) as writer:
        for n in range(frames):
            writer.write(flat(info.format, n, info.width, info.height, 1 / rate))
    return probe(path)


@pytest.mark.parametrize(
    ("rate", "name"),
    [(Fraction(60), "a.mp4"), (Fraction(60000, 1001), "a.mp4"), (Fraction(48000, 1001), "a.mov"),
     (Fraction(144), "a.mp4"), (Fraction(25), "a.avi"), (Fraction(120), "a.mkv")],
)  # fmt: skip
def test_times_are_exact(tmp_path: Path, rate: Fraction, name: str) -> None:
    made = write(tmp_path / name, info_of(), 20, rate)
    assert (made.rate, made.vfr) == (rate, False)
    with open_reader(tmp_path / name) as reader:
        found = [frame.pts - made.start for frame in reader]
    exact = [n / rate for n in range(20)]
    if name.endswith(".mkv"):  # whole milliseconds
        assert all(abs(a - b) <= Fraction(1, 2000) for a, b in zip(found, exact, strict=True))
    else:
        assert found == exact


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4", "libvpx-vp9", "libsvtav1"])
@pytest.mark.parametrize("frames", [1, 2, 3, 8])
def test_videos_of_a_few_frames(tmp_path: Path, codec: str, frames: int) -> None:
    # x265 makes up decoding times where it got fewer frames than it delays
    info = info_of(width=64, height=64)
    for segment in (False, True):
        encoding = choose_encoder(info, tmp_path / "a.mkv", codec)
        with open_writer(tmp_path / "a.mkv", info, encoding, rate=Fraction(24), segment=segment) as writer:
            for n in range(frames):
                writer.write(flat(PLAIN, n, 64, 64))
        assert probe(tmp_path / "a.mkv", count=True).counted_frames == frames


def test_decoding_times() -> None:
    times = DecodingTimes(2, 10)
    shown = [0, 40, 20, 10, 30, 80, 60, 50, 70]
    found = [times(pts) for pts in shown]
    assert found == [-20, -10, 0, 10, 20, 30, 40, 50, 60]
    assert all(dts <= pts for dts, pts in zip(found, shown, strict=True))


def test_a_variable_rate_is_kept(tmp_path: Path) -> None:
    info = info_of()
    stamps = [0, 3, 4, 9, 10, 11, 20]
    with open_writer(tmp_path / "a.mp4", info, rate=Fraction(24), tick=Fraction(1, 90)) as writer:
        for n, stamp in enumerate(stamps):
            writer.write(replace(flat(PLAIN, n), pts=Fraction(stamp, 90), duration=Fraction(3, 90)))
    with open_reader(tmp_path / "a.mp4") as reader:
        found = list(reader)
    assert [frame.pts for frame in found] == [Fraction(stamp, 90) for stamp in stamps]


@pytest.mark.parametrize(
    ("pixels", "name", "codec", "made"),
    [
        (PLAIN, "a.mp4", "libx264", "yuv420p"),
        (replace(PLAIN, name="yuv422p", chroma_h=0), "a.mkv", "libx264", "yuv422p"),
        (replace(PLAIN, name="yuv444p", chroma_h=0, chroma_w=0), "a.mov", "libx264", "yuv444p"),
        (replace(PLAIN, name="yuv440p", chroma_w=0), "a.mp4", "libx264", "yuv444p"),
        (replace(PLAIN, name="yuv420p10le", depth=10), "a.mp4", "libx265", "yuv420p10le"),
        (replace(PLAIN, name="yuv422p10le", depth=10, chroma_h=0), "a.mkv", "libx265", "yuv422p10le"),
        (replace(PLAIN, name="yuv444p12le", depth=12, chroma_h=0, chroma_w=0), "a.mkv", "libx265", "yuv444p12le"),
        (replace(PLAIN, name="yuva420p", alpha=True), "a.webm", "libvpx-vp9", "yuva420p"),
        (replace(PLAIN, name="yuva420p", alpha=True), "a.mov", "prores_ks", "yuva444p10le"),
        (replace(PLAIN, name="yuva420p", alpha=True), "a.mkv", "ffv1", "yuva420p"),
        (PixelFormat("gbrap", "rgb", 8, alpha=True, full_range=True), "a.mkv", "ffv1", None),
        (
            replace(PLAIN, name="yuva444p12le", depth=12, chroma_w=0, chroma_h=0, alpha=True),
            "a.webm",
            "libvpx-vp9",
            None,
        ),
        (PixelFormat("gbrp", "rgb", 8, full_range=True), "a.mp4", "libx264", "yuv420p"),
        (PixelFormat("gray", "gray", 8), "a.mp4", "libx264", "yuv420p"),
        (PLAIN, "a.webm", "libvpx-vp9", "yuv420p"),
        (replace(PLAIN, name="yuv420p10le", depth=10), "a.webm", "libsvtav1", "yuv420p10le"),
    ],
)
def test_auto_takes_what_loses_least(
    tmp_path: Path, pixels: PixelFormat, name: str, codec: str, made: str | None
) -> None:
    info = info_of(pixels)
    encoding = choose_encoder(info, tmp_path / name)
    assert encoding.codec == codec
    if made:
        assert encoding.format.name == made
    done = write(tmp_path / name, info, 3)
    assert (done.width, done.height) == (64, 48)
    # the decoder of FFmpeg gives ProRes 4444 as 12 bits, VP9 with its alpha in a stream aside
    assert done.format.depth == encoding.format.depth or codec == "prores_ks"
    assert done.format.alpha == pixels.alpha


def test_vp9_alpha_is_in_the_file(tmp_path: Path) -> None:
    import av

    write(tmp_path / "a.webm", info_of(replace(PLAIN, name="yuva420p", alpha=True)), 3)
    with av.open(str(tmp_path / "a.webm")) as opened:
        stream = opened.streams.video[0]
        assert {k.lower(): v for k, v in stream.metadata.items()}.get("alpha_mode") == "1"
        packets = [packet for packet in opened.demux(stream) if packet.size]
        assert all(packet.has_sidedata("matroska_block_additional") for packet in packets)


def test_alpha_is_not_lost_in_silence(tmp_path: Path) -> None:
    info = info_of(replace(PLAIN, name="yuva420p", alpha=True))
    with pytest.raises(UnsupportedError, match=r"\.mov .*\.webm .*\.mkv"):
        choose_encoder(info, tmp_path / "a.mp4")
    encoding = choose_encoder(info, tmp_path / "a.mp4", pix_fmt="yuv420p")
    assert "transparency" in encoding.notes[0]
    assert not write(tmp_path / "a.mp4", info, pix_fmt="yuv420p").format.alpha


@pytest.mark.parametrize(("width", "height"), [(33, 17), (2, 2), (16, 16), (1, 1), (31, 32)])
def test_odd_and_tiny_sizes(tmp_path: Path, width: int, height: int) -> None:
    info = info_of(width=width, height=height)
    for name in ("a.mkv", "a.webm"):
        encoding = choose_encoder(info, tmp_path / name)
        done = write(tmp_path / name, info, 3)
        even = name == "a.mkv"
        assert done.width == width + (width % 2 if even else 0)
        assert done.height == height + (height % 2 if even else 0)
        assert bool(encoding.notes) == (even and bool(width % 2 or height % 2))
    done = write(tmp_path / "b.mkv", info, 3, pix_fmt="yuv444p")
    assert (done.width, done.height) == (width, height)


@pytest.mark.parametrize(("width", "height"), [(48, 48), (34, 64), (16, 16), (8, 8), (2, 2)])
def test_small_deep_frames(tmp_path: Path, width: int, height: int) -> None:
    # x265 4.2 damages its memory at widths of 33 to 48, and refuses less than 16
    deep = replace(PLAIN, name="yuv420p10le", depth=10)
    info = info_of(deep, width, height)
    encoding = choose_encoder(info, tmp_path / "a.mkv")
    assert encoding.codec == ("libx265" if width >= 16 else "libx264")
    if width >= 16:
        assert "cutree=0" in dict(encoding.options)["x265-params"]
    done = write(tmp_path / "a.mkv", info, 12)
    assert (done.width, done.height, done.format.depth) == (width, height, 10)


def test_tags_of_the_source_are_kept(tmp_path: Path) -> None:
    format = replace(PLAIN, matrix="smpte170m", primaries="smpte170m", transfer="smpte170m", full_range=True)
    info = info_of(format, sample_aspect=Fraction(16, 15), rotation=90,
                   display_matrix=(0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30))  # fmt: skip
    done = write(tmp_path / "a.mp4", info)
    assert (done.format.matrix, done.format.primaries, done.format.transfer) == ("smpte170m",) * 3
    assert done.format.full_range
    assert (done.sample_aspect, done.rotation) == (Fraction(16, 15), 90)
    untold = info_of(untagged=frozenset({"matrix", "full_range"}))
    assert {"matrix", "full_range"} <= write(tmp_path / "b.mp4", untold).untagged


def test_hdr_is_carried(tmp_path: Path) -> None:
    master = "G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
    clip = Clip(codec="libx265", pixels="yuv420p10le", matrix=9, primaries=9, transfer=16, frames=4,
                options={"x265-params": f"log-level=none:master-display={master}:max-cll=1000,400"})  # fmt: skip
    info = probe(make(tmp_path / "hdr.mkv", clip))
    assert info.mastering is not None and mastering_text(info.mastering) == master
    for name in ("a.mp4", "a.mkv", "b.mkv"):
        done = write(tmp_path / name, info, codec="libsvtav1" if name == "b.mkv" else "auto")
        assert (done.hdr, done.format.depth) == ("PQ", 10)
        assert done.content_light == (1000, 400)
        assert done.mastering is not None
        assert abs(done.mastering.red[0] - info.mastering.red[0]) < Fraction(1, 1000)
        assert done.mastering.brightest == 1000
    hlg = info_of(replace(PLAIN, name="yuv420p10le", depth=10, matrix="bt2020nc", primaries="bt2020",
                          transfer="arib-std-b67"))  # fmt: skip
    done = write(tmp_path / "hlg.mp4", hlg)
    assert (done.hdr, done.mastering) == ("HLG", None)


def test_frames_come_out_as_they_went_in(tmp_path: Path) -> None:
    for format in (
        replace(PLAIN, name="yuva420p10le", depth=10, alpha=True),
        PixelFormat("gbrp12le", "rgb", 12, full_range=True),
        replace(PLAIN, name="yuv411p", chroma_w=2, chroma_h=0),
    ):
        info = info_of(format)
        write(tmp_path / "a.mkv", info, 3, codec="ffv1")
        with open_reader(tmp_path / "a.mkv") as reader:
            for n, frame in enumerate(reader):
                assert frame.format.name == format.name
                expected = flat(format, n)
                assert all(torch.equal(a, b) for a, b in zip(frame.planes, expected.planes, strict=True))


def test_impossible_options(tmp_path: Path) -> None:
    info = info_of()
    for target, words, more in (
        ("a.xyz", "not a known container", {}),
        ("a", "no suffix", {}),
        ("a.mp4", "no encoder 'h264x'", {"codec": "h264x"}),
        ("a.mp4", "encodes audio", {"codec": "aac"}),
        ("a.webm", "cannot hold h264", {"codec": "libx264"}),
        ("a.mp4", "takes no gbrp", {"pix_fmt": "gbrp"}),
        ("a.webm", "name the output .mkv", {"codec": "libx264"}),
    ):
        with pytest.raises(UnsupportedError, match=words):
            choose_encoder(info, tmp_path / target, **more)
    with pytest.raises(UnsupportedError, match=r"libx264 refuses .*tune=nonsense"):
        choose_encoder(info, tmp_path / "a.mp4", options=[("tune", "nonsense")])
    with pytest.raises(UnsupportedError, match="libx265 refuses 8x8"):
        choose_encoder(info_of(width=8, height=8), tmp_path / "a.mp4", "libx265")
    with pytest.raises(InputError, match="no option 'colour'"):
        choose_encoder(info, tmp_path / "a.mp4", options=[("colour", "1")])
    with pytest.raises(InputError, match="no --crf"):
        choose_encoder(info, tmp_path / "a.mov", "prores_ks", crf=20)
    with pytest.raises(InputError, match="no --preset"):
        choose_encoder(info, tmp_path / "a.mkv", "ffv1", preset="fast")


def test_options_reach_the_encoder(tmp_path: Path) -> None:
    info = info_of(width=256, height=256)
    sizes = []
    for crf in (10, 45):
        encoding = choose_encoder(info, tmp_path / "a.mp4", crf=crf, preset="ultrafast", options=[("tune", "grain")])
        own = {key: value for key, value in encoding.options if key != "x264-params"}  # that depends on the processor
        assert own == {"crf": str(crf), "preset": "ultrafast", "tune": "grain"}
        with open_writer(tmp_path / "a.mp4", info, encoding, rate=Fraction(24)) as writer:
            torch.manual_seed(0)
            for n in range(4):
                planes = tuple(
                    torch.randint(0, 255, s, dtype=torch.uint8) for s in ((256, 256), (128, 128), (128, 128))
                )
                writer.write(Frame(planes, PLAIN, Fraction(n, 24), Fraction(1, 24), n))
        sizes.append((tmp_path / "a.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]


def left(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_failure_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"precious")
    threads = threading.active_count()
    with pytest.raises(KeyError), open_writer(tmp_path / "a.mp4", info_of(), rate=Fraction(24)) as writer:
        writer.write(flat(PLAIN, 0))
        raise KeyError
    assert left(tmp_path) == ["a.mp4"] and (tmp_path / "a.mp4").read_bytes() == b"precious"
    assert threading.active_count() == threads


def test_a_failure_of_the_encoder_comes_up(tmp_path: Path) -> None:
    with (
        pytest.raises(MediaError, match="not later"),
        open_writer(tmp_path / "a.mp4", info_of(), rate=Fraction(24)) as writer,
    ):
        for _ in range(50):
            writer.write(flat(PLAIN, 3))
    assert left(tmp_path) == []


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    info = info_of(width=256, height=256)
    torch.manual_seed(0)
    with (
        pytest.raises(MediaError, match="larger than its disk") as caught,
        disk_of(100_000),
        open_writer(tmp_path / name, info, rate=Fraction(24)) as writer,
    ):
        for n in range(100):
            planes = tuple(torch.randint(0, 255, s, dtype=torch.uint8) for s in ((256, 256), (128, 128), (128, 128)))
            writer.write(Frame(planes, PLAIN, Fraction(n, 24), Fraction(1, 24), n))
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == []


def test_errors_of_the_disk_have_words() -> None:
    for number, words in ((errno.ENOSPC, "no space"), (errno.EROFS, "is not writable"), (errno.EIO, "is lost")):
        assert words in str(write_error("a.mp4", OSError(number, os.strerror(number))))


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(MediaError, match="does not exist"),
        open_writer(tmp_path / "no" / "a.mp4", info_of(), rate=Fraction(24)),
    ):
        pass
    # a folder that vanishes before the end
    (tmp_path / "gone").mkdir()
    with pytest.raises(MediaError), open_writer(tmp_path / "gone" / "a.mp4", info_of(), rate=Fraction(24)) as writer:
        writer.write(flat(PLAIN, 0))
        shutil.rmtree(tmp_path / "gone")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["with space.mp4", 'quote\'s "double".mkv', "ü-日本-🎬.mp4", "-dash.mp4", "co:lon.mp4", "a%03d.mp4"]
)
def test_odd_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_writer(name, info_of(), rate=NTSC_24) as writer:
        for n in range(3):
            writer.write(flat(PLAIN, n, step=1 / NTSC_24))
    assert left(tmp_path) == [name]
    assert probe(name).width == 64
