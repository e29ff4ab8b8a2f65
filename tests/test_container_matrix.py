"""Joined segments equal one direct mux for every encoder and container: tag, profile, headers, aspect, frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from midframe.errors import UnsupportedError
from midframe.types import Frame
from midframe.video import mux
from midframe.video.encoders import Encoding, choose_encoder
from midframe.video.reader import open_reader
from midframe.video.writer import open_writer
from test_writer import PLAIN, flat, info_of

CONTAINERS = ("mp4", "mov", "mkv", "webm", "avi", "ts", "nut", "mxf", "flv")
ENCODERS = (
    "libx264", "libx265", "libsvtav1", "libvpx-vp9", "libvpx", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg", "ffv1",
    "prores_ks", "dnxhd", "cfhd", "libx264rgb", "huffyuv", "ffvhuff", "utvideo", "magicyuv", "qtrle", "png", "rawvideo",
    "snow", "jpeg2000", "v210", "h263p", "msmpeg4", "wmv2", "flv", "zmbv", "jpegls",
)  # fmt: skip
ASPECT = Fraction(16, 11)
INFO = info_of(width=256, height=128, sample_aspect=ASPECT)
FRAMES = [replace(flat(PLAIN, n, 256, 128), pts=Fraction(n, 24)) for n in range(8)]


def write(path: Path, encoding: Encoding, frames: Sequence[Frame], segment: bool) -> Path:
    with open_writer(path, INFO, encoding, rate=Fraction(24), segment=segment) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def facts(path: Path) -> dict[str, Any]:
    """What a player sees of a file."""
    with av.open(str(path)) as opened:
        stream = opened.streams.video[0]
        context = stream.codec_context
        found: dict[str, Any] = {
            "codec": context.codec.canonical_name,
            "tag": context.codec_tag,
            "profile": context.profile,
            "pixels": context.pix_fmt,
            "colour": [getattr(context, f"color_{name}") for name in ("range", "primaries", "trc")],
            "matrix": context.colorspace,
            "bits": context.bits_per_coded_sample,
            "aspect": stream.sample_aspect_ratio or Fraction(1),
        }
        if "mpegts" not in opened.format.name:  # whose rate is a guess from eight timestamps
            found["rate"] = stream.average_rate
    with open_reader(path) as reader:
        found["levels"] = [int(frame.planes[0][60, 60]) for frame in reader]
    return found


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("codec", ENCODERS)
def test_joined_segments_equal_a_direct_mux(tmp_path: Path, codec: str, container: str) -> None:
    target = tmp_path / f"direct.{container}"
    try:
        encoding = choose_encoder(INFO, target, codec)
    except UnsupportedError as error:  # before the work, and with advice
        assert "choose another codec with -c" in str(error)
        return
    direct = facts(write(target, encoding, FRAMES, segment=False))
    parts = [write(tmp_path / f"{n}.part", encoding, FRAMES[n : n + 4], segment=True) for n in (0, 4)]
    mux.join(parts, tmp_path / f"joined.{container}", None, INFO)
    joined = facts(tmp_path / f"joined.{container}")
    assert len(joined["levels"]) == 8
    assert all(abs(a - b) <= 3 for a, b in zip(direct.pop("levels"), joined.pop("levels"), strict=True))
    assert joined == direct
    announced = any("cannot keep the sample aspect ratio 16:11" in note for note in encoding.notes)
    assert announced == (abs(joined["aspect"] / ASPECT - 1) > Fraction(1, 100))


@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_hevc_has_the_tag_that_apple_plays(tmp_path: Path, name: str) -> None:
    encoding = choose_encoder(INFO, tmp_path / name, "libx265")
    mux.join([write(tmp_path / "0.mkv", encoding, FRAMES, segment=True)], tmp_path / name, None, INFO)
    assert facts(tmp_path / name)["tag"] == "hvc1"


@pytest.mark.parametrize(
    ("format", "options", "tag"),
    [
        (replace(PLAIN, name="yuv422p10le", depth=10, chroma_h=0), (), "apch"),
        (replace(PLAIN, name="yuv422p10le", depth=10, chroma_h=0), (("profile", "proxy"),), "apco"),
        (replace(PLAIN, name="yuva444p10le", depth=10, chroma_w=0, chroma_h=0, alpha=True), (), "ap4h"),
    ],
)
@pytest.mark.parametrize("container", ["mov", "mkv"])
def test_prores_has_the_tag_of_its_profile(tmp_path: Path, format: Any, options: Any, tag: str, container: str) -> None:
    info = info_of(format, width=256, height=128)
    target = tmp_path / f"a.{container}"
    encoding = choose_encoder(info, target, "prores_ks", options=options)
    with open_writer(tmp_path / "0.part", info, encoding, rate=Fraction(24), segment=True) as writer:
        for n in range(3):
            writer.write(flat(format, n, 256, 128))
    mux.join([tmp_path / "0.part"], target, None, info)
    found = facts(target)
    assert found["tag"] == tag
    assert found["pixels"] == ("yuva444p12le" if format.alpha else "yuv422p10le")
