"""The timecode of the output: the same time of day, frames counted at its own rate."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest

import midframe
from midframe.options import Options
from midframe.video.probe import probe
from midframe.video.streams import plan_streams, stream_notes

NTSC = Fraction(30000, 1001)
NTSC_24 = Fraction(24000, 1001)


def make(path: Path, timecode: str, rate: Fraction, frames: int = 45) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.metadata["timecode"] = timecode
        for n in range(frames):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts, frame.time_base = n, 1 / rate
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def timecodes(path: Path) -> set[str]:
    """Of the file and all streams: the tag of the video stream, and the track's own."""
    with av.open(str(path)) as opened:
        found = [opened.metadata, *(stream.metadata for stream in opened.streams)]
        tags = [{key.lower(): value for key, value in one.items()} for one in found]
    return {tag["timecode"] for tag in tags if "timecode" in tag}


@pytest.mark.parametrize(
    ("given", "rate", "options", "expected"),
    [
        ("16:37:10;02", NTSC, {}, "16:37:10;04"),
        ("16:37:10;02", NTSC, {"start": 1}, "16:37:11;04"),
        ("16:37:59;29", NTSC, {"fps": NTSC, "start": 1}, "16:38:01;01"),
        ("10:00:00:12", NTSC_24, {}, "10:00:00:24"),
        ("10:00:00:12", NTSC_24, {"fps": "59.94"}, "10:00:00:30"),
        ("16:37:10;02", NTSC, {"fps": 25}, "16:37:10:01"),
        ("23:59:59;28", NTSC, {"start": 1}, "00:00:00;56"),
    ],
)  # fmt: skip
def test_a_timecode_counts_at_the_rate_of_the_output(
    tmp_path: Path, given: str, rate: Fraction, options: dict[str, object], expected: str
) -> None:
    source = make(tmp_path / "a.mov", given, rate)
    midframe.interpolate(source, tmp_path / "b.mov", model="blend", **options)
    assert timecodes(tmp_path / "b.mov") == {expected}


@pytest.mark.parametrize("name", ["b.mp4", "b.mkv", "b.mxf"])
def test_containers_that_keep_it(tmp_path: Path, name: str) -> None:
    source = make(tmp_path / "a.mov", "01:00:00:00", Fraction(25))
    midframe.interpolate(source, tmp_path / name, model="blend")
    assert timecodes(tmp_path / name) == {"01:00:00:00"}
    assert stream_notes(plan_streams(probe(source), tmp_path / name, Options())) == []


@pytest.mark.parametrize(
    ("name", "options", "words"), [("b.avi", {}, "has no timecode"), ("b.mov", {"slowmo": 2}, "slow motion")]
)
def test_note_and_file_agree_where_it_is_lost(
    tmp_path: Path, name: str, options: dict[str, object], words: str
) -> None:
    source = make(tmp_path / "a.mov", "01:00:00:00", Fraction(25))
    result = midframe.interpolate(source, tmp_path / name, model="blend", **options)
    assert timecodes(tmp_path / name) == set()
    assert any(words in line for line in result.dropped)
