"""360-degree and stereo metadata: in the output, byte for byte, or announced as lost before the work."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

import midframe
from clips import Clip, make
from midframe.video import ebml
from midframe.video.ebml import unsigned
from midframe.video.immersive import projection_elements
from midframe.video.matroska_header import with_video_elements
from midframe.video.probe import probe

SMALL = Clip(width=64, height=48, frames=6, audio=1)


def mapping(projection: int, *rest: int) -> bytes:
    """libav's AVSphericalMapping: angles in 1/65536 degree, then bounds and padding."""
    angles = (45 << 16, 10 << 16, -5 << 16)
    return struct.pack("<4i5I", projection, *angles, *(rest or (0, 0, 0, 0, 0)))


def stereo(kind: int, inverted: int = 0) -> bytes:
    """libav's AVStereo3D, as demuxers fill it in."""
    return struct.pack("<9i", kind, inverted, 0, 0, 0, 0, 1, 0, 1)


def source(path: Path, spherical: bytes | None, layout: bytes | None, clip: Clip = SMALL) -> Path:
    """A Matroska file with these metadata."""
    elements = projection_elements(spherical, layout)
    assert elements is not None
    patched = with_video_elements(make(path, clip).read_bytes(), elements)
    assert patched is not None
    path.write_bytes(patched)
    info = probe(path)
    assert (info.spherical, info.stereo) == (spherical, layout)
    return path


def run(clip: Path, target: Path, codec: str = "auto") -> tuple[midframe.Result, list[str]]:
    notes: list[str] = []
    result = midframe.interpolate(
        clip,
        target,
        model="blend",
        device="cpu",
        codec=codec,
        on_plan=lambda plan: notes.extend(plan.to_json()["notes"]),
    )
    return result, notes


@pytest.mark.parametrize(
    ("spherical", "layout"),
    [
        (mapping(0), None),
        (mapping(0), stereo(2)),
        (mapping(2, 1 << 28, 1 << 29, 1 << 28, 1 << 29, 0), stereo(1)),
        (mapping(1, 0, 0, 0, 0, 4), None),
    ],
    ids=["360", "360-top-bottom", "tile-side-by-side", "cubemap"],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_the_output_has_the_metadata_of_the_source(
    tmp_path: Path, suffix: str, spherical: bytes, layout: bytes | None
) -> None:
    result, notes = run(source(tmp_path / "in.mkv", spherical, layout), tmp_path / f"out{suffix}")
    made = probe(result.path)
    assert (made.spherical, made.stereo) == (spherical, layout)
    assert (made.width, made.height, made.sample_aspect, made.header_frames) == (64, 48, 1, 12)
    assert notes == []


@pytest.mark.parametrize("layout", [stereo(1, 1), stereo(2, 1), stereo(6)], ids=["right-left", "bottom-top", "rows"])
def test_stereo_layouts_in_matroska(tmp_path: Path, layout: bytes) -> None:
    result, _ = run(source(tmp_path / "in.mkv", None, layout), tmp_path / "out.mkv")
    assert probe(result.path).stereo == layout


@pytest.mark.parametrize("codec", ["libx265", "libsvtav1", "libvpx-vp9"])
def test_every_usual_codec(tmp_path: Path, codec: str) -> None:
    clip = source(tmp_path / "in.mkv", mapping(0), stereo(2), replace(SMALL, width=320, height=256))
    for suffix in (".mp4", ".mkv"):
        made = probe(run(clip, tmp_path / f"out{suffix}", codec)[0].path)
        assert (made.spherical, made.stereo) == (mapping(0), stereo(2)), suffix


@pytest.mark.parametrize("name", ["out.mov", "out.avi", "out.webm"])
def test_a_loss_is_announced(tmp_path: Path, name: str) -> None:
    result, notes = run(source(tmp_path / "in.mkv", mapping(0), None), tmp_path / name)
    assert probe(result.path).spherical is None
    assert any(note.startswith("360-degree metadata cannot be kept here; .mp4 and .mkv") for note in notes)


def test_an_unknown_projection_is_announced(tmp_path: Path) -> None:
    assert projection_elements(mapping(5), None) is None  # fisheye: no element of Matroska


def test_an_ordinary_video_marked_as_flat_is_not_stereo(tmp_path: Path) -> None:
    """StereoMode 0 of Matroska, as libvpx's tools write it."""
    head = make(tmp_path / "in.mkv", SMALL).read_bytes()
    marked = with_video_elements(head, unsigned(ebml.STEREO_MODE, 0))
    assert marked is not None
    (tmp_path / "in.mkv").write_bytes(marked)
    assert probe(tmp_path / "in.mkv").stereo is None
