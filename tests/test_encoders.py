"""The encoder of a run: equal quality whatever its name, refusals before the work, advice that helps."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from midframe import colour
from midframe.errors import InputError, UnsupportedError
from midframe.types import Frame
from midframe.video.build import encoders
from midframe.video.encoders import choose_encoder, is_hardware, opens_here
from midframe.video.reader import open_reader
from midframe.video.writer import open_writer
from test_writer import PLAIN, flat, info_of


@pytest.mark.parametrize(
    ("alias", "encoder", "quality"),
    [("h264", "libx264", "crf 16"), ("hevc", "libx265", "crf 17"), ("av1", "libsvtav1", "crf 20"),
     ("vp9", "libvpx-vp9", "crf 22")],
)  # fmt: skip
def test_a_codec_means_its_encoder_at_equal_quality(tmp_path: Path, alias: str, encoder: str, quality: str) -> None:
    encoding = choose_encoder(info_of(), tmp_path / "a.mkv", alias)
    assert (encoding.codec, encoding.quality) == (encoder, quality)
    assert str(encoding) == f"{encoder} {quality}, yuv420p"
    assert encoding == choose_encoder(info_of(), tmp_path / "a.mkv", encoder)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mp4", "libx265"), ("a.mkv", "libsvtav1"), ("a.webm", "libvpx-vp9"), ("a.webm", "libvpx"),
     ("a.mp4", "mpeg4"), ("a.ts", "mpeg2video"), ("a.avi", "mjpeg"), ("a.mov", "dnxhd"), ("a.mov", "cfhd"),
     ("a.mov", "prores_ks"), ("a.mkv", "libx264rgb"), ("a.mov", "qtrle")],
)  # fmt: skip
def test_no_encoder_lowers_quality(tmp_path: Path, name: str, codec: str) -> None:
    info = info_of(width=256, height=128)
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 1, 16, 32, generator=generator)
    texture = 60 + 90 * torch.nn.functional.interpolate(coarse, size=(128, 256), mode="bicubic")[0, 0].clamp(0, 1)
    frames = []
    for n in range(6):
        luma = texture.roll(3 * n, 1).round().to(torch.uint8)
        planes = (luma, *(torch.full((64, 128), level, dtype=torch.uint8) for level in (120, 136)))
        frames.append(Frame(planes, PLAIN, Fraction(n, 24), Fraction(1, 24), n))
    with open_writer(tmp_path / name, info, choose_encoder(info, tmp_path / name, codec), rate=Fraction(24)) as writer:
        for frame in frames:
            writer.write(frame)
    with open_reader(tmp_path / name) as reader:
        for mine, theirs in zip(reader, frames, strict=True):
            planes = colour.convert(mine.planes, mine.format, PLAIN)
            for a, b in zip(planes, theirs.planes, strict=True):
                error = (a.float() - b.float()).square().mean()
                assert error < 255**2 / 10**4, f"{codec}: {10 * torch.log10(255**2 / error):.1f} dB"


@pytest.mark.parametrize(
    ("codec", "crf", "options"),
    [("libx264", 20, {"crf": "20"}), ("libvpx-vp9", 60, {"crf": "60", "b": "0"}),
     ("mpeg4", 28, {"qmin": "8", "qmax": "8"}),
     ("mpeg2video", 16, {"qmin": "2", "qmax": "2"}), ("libvpx", 30, {"crf": "30", "b": "100M"})],
)  # fmt: skip
def test_crf_becomes_the_option_of_the_encoder(tmp_path: Path, codec: str, crf: float, options: dict[str, str]) -> None:
    encoding = choose_encoder(info_of(), tmp_path / "a.mkv", codec, crf=crf)
    assert options.items() <= dict(encoding.options).items()


@pytest.mark.parametrize(
    ("codec", "crf", "words"),
    [("libx264", 52, "--crf 52 is not within 0 to 51 of libx264"), ("hevc", 63, "0 to 51 of libx265"),
     ("libvpx", 2, "4 to 63 of libvpx"), ("mpeg4", 45, "0 to 39 of mpeg4")],
)  # fmt: skip
def test_a_crf_beyond_the_scale_of_an_encoder(tmp_path: Path, codec: str, crf: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        choose_encoder(info_of(), tmp_path / "a.mkv", codec, crf=crf)


def test_a_bit_rate_of_the_user_replaces_the_quality(tmp_path: Path) -> None:
    encoding = choose_encoder(info_of(), tmp_path / "a.mp4", options=[("b", "2M")])
    assert encoding.quality == "b 2M" and "crf" not in dict(encoding.options)


def test_advice_after_a_refusal_names_another_encoder(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as refused:
        choose_encoder(info_of(), tmp_path / "a.mp4", "libx264", options=[("tune", "nonsense")])
    advice = str(refused.value).partition("; try ")[2]
    assert advice and "libx264" not in advice
    for name in ("h264_nvenc", "hevc_qsv", "h264_v4l2m2m"):  # whichever this build has without hardware
        try:
            choose_encoder(info_of(width=320, height=240), tmp_path / "a.mp4", name)
        except UnsupportedError as error:
            assert name not in str(error).partition("try ")[2]


def test_encoder_libraries_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    encoders(["libx264", "libx265", "hevc", "libsvtav1", "libvpx-vp9"])
    for codec in ("libx264", "libx265", "libsvtav1", "libvpx-vp9"):
        encoding = choose_encoder(info_of(), tmp_path / "a.mkv", codec)
        with open_writer(tmp_path / "a.mkv", info_of(), encoding, rate=Fraction(24)) as writer:
            writer.write(flat(PLAIN, 0))
    assert capfd.readouterr() == ("", "")


def test_listed_encoders_open_on_this_machine() -> None:
    listed = encoders(["libx264", "h264_nvenc", "hevc_nvenc", "hevc_qsv", "h264_v4l2m2m", "h264_amf", "nonsense"])
    assert "libx264" in listed and "nonsense" not in listed
    for name in listed:
        encoding = choose_encoder(info_of(width=320, height=240), "a.mp4", name)  # raises where it cannot be opened
        assert encoding.codec == name
    assert all(name in listed or name == "nonsense" or is_hardware(name) for name in ("libx264", "h264_nvenc"))


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no scheduling policies")
def test_opening_an_encoder_keeps_the_scheduling_of_the_process() -> None:
    """SVT-AV1 makes itself and its caller real-time threads where it may (as root)."""
    if not opens_here("libsvtav1"):
        pytest.skip("this build has no SVT-AV1")
    assert {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")} == {os.SCHED_OTHER}
