"""Elements of Matroska headers: read, written, and changed so that libav reads the change and all else is as before."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import pytest

from clips import Clip, make
from midframe.video import ebml
from midframe.video.ebml import Span, element, unsigned
from midframe.video.matroska_header import with_sample_aspect, write_sample_aspect


def read(data: bytes) -> tuple[Fraction | None, list[int], list[bytes]]:
    """Sample aspect ratio of the first video track, stamps of its frames, and packets of all streams."""
    with av.open(io.BytesIO(data)) as opened:
        stamps = [int(frame.pts or 0) for frame in opened.decode(video=0)]
        aspect = opened.streams.video[0].sample_aspect_ratio
    with av.open(io.BytesIO(data)) as opened:
        return aspect, stamps, [bytes(packet) for packet in opened.demux()]


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
@pytest.mark.parametrize("size", [(64, 48), (66, 50)])
@pytest.mark.parametrize("aspect", [Fraction(16, 11), Fraction(8, 9), Fraction(2)])
def test_the_aspect_goes_into_the_header(tmp_path: Path, name: str, size: tuple[int, int], aspect: Fraction) -> None:
    codec = "libvpx" if name.endswith("webm") else "ffv1"
    path = make(tmp_path / name, Clip(*size, codec=codec, frames=6, audio=int(name == "a.mkv")))
    before = path.read_bytes()
    square, stamps, packets = read(before)
    assert square in (None, 1)
    write_sample_aspect(path, aspect, Path(name).suffix[1:].replace("mkv", "matroska"))
    after = path.read_bytes()
    assert len(after) == len(before)
    found, *rest = read(after)
    assert rest == [stamps, packets]
    if name.endswith("mkv"):
        assert found == aspect
    else:
        assert found is not None and abs(found * size[0] - aspect * size[0]) <= Fraction(1, 2)  # whole pixels


def tracks(width: int, padding: int) -> bytes:
    """A Segment whose tracks have a text, a video of these columns, and so many bytes that may go."""
    video = element(ebml.VIDEO, unsigned(ebml.PIXEL_WIDTH, width) + unsigned(ebml.PIXEL_HEIGHT, 48))
    entry = element(ebml.TRACK_ENTRY, unsigned(ebml.TRACK_NUMBER, 2) + video)
    other = element(ebml.TRACK_ENTRY, unsigned(ebml.TRACK_NUMBER, 1))
    checksum = element(ebml.CRC_32, bytes(padding - 2)) if padding else b""
    return element(ebml.SEGMENT, element(ebml.TRACKS, checksum + other + entry))


@pytest.mark.parametrize("padding", range(6, 24))
def test_every_amount_of_space(padding: int) -> None:
    head = tracks(64, padding)
    made = with_sample_aspect(head, Fraction(3, 2), "matroska")
    assert made is None if padding < 12 else made is not None and len(made) == len(head)
    if made is None:
        return
    whole = Span(0, 0, len(made))
    video = ebml.find(made, whole, ebml.SEGMENT, ebml.TRACKS)
    assert video is not None
    entries = [place for name, place in ebml.children(made, video) if name == ebml.TRACK_ENTRY]
    assert len(entries) == 2
    inside = ebml.find(made, entries[1], ebml.VIDEO)
    assert inside is not None
    values = {
        name: int.from_bytes(made[place.content : place.end], "big") for name, place in ebml.children(made, inside)
    }
    assert values == {
        ebml.PIXEL_WIDTH: 64, ebml.PIXEL_HEIGHT: 48, ebml.DISPLAY_WIDTH: 2, ebml.DISPLAY_HEIGHT: 1,
        ebml.DISPLAY_UNIT: 3,
    }  # fmt: skip


def test_tracks_that_are_absent() -> None:
    assert with_sample_aspect(b"no Matroska", Fraction(2), "matroska") is None
    assert with_sample_aspect(tracks(64, 20), Fraction(2), "matroska", number=1) is None, "there is one video"


def test_integers_and_heads() -> None:
    assert ebml.read_integer(b"\x81") == (1, 1)
    assert ebml.read_integer(b"\x40\x02") == (2, 2)
    assert ebml.read_integer(b"\x01" + bytes(6) + b"\x07") == (7, 8)
    assert (
        ebml.read_integer(b"\x00\x81") is None and ebml.read_integer(b"\x40") is None and ebml.read_integer(b"") is None
    )
    assert ebml.read_head(b"\xec\x83abc", position=100) == (ebml.VOID, 3, 102)
    assert ebml.read_head(b"\x18\x53\x80\x67\x01" + b"\xff" * 7) == (ebml.SEGMENT, None, 12)
    assert ebml.read_head(b"\x08\x81") is None and ebml.read_head(b"\x18\x53\x80") is None
    for count in (0, 126, 127, 16382, 16383):
        data = element(ebml.VOID, bytes(count))
        head = ebml.read_head(data)
        assert head is not None and (head.size, head.content + count) == (count, len(data))
