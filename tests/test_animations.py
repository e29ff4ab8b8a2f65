"""GIF and APNG out: palette, loop count, last delay, transparency."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import clips
import midframe
from midframe.errors import InputError, UnsupportedError
from midframe.video.encoders import choose_encoder
from midframe.video.probe import probe

SIZE = 48


def make(path: Path, loop: int, delays: list[int], transparent: bool = False) -> Path:
    """A square that moves by 4 px per frame; `delays` in hundredths of a second; `loop` as libav's muxers take it."""
    if path.suffix == ".gif":
        settings = {"loop": str(loop), "final_delay": str(delays[-1])}
    else:
        settings = {"plays": str(loop), "final_delay": f"{delays[-1]}/100"}
    with av.open(str(path), "w", options=settings) as out:
        name = path.suffix[1:]
        stream = out.add_stream(name, rate=100)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "bgr8" if name == "gif" else "rgba"
        stream.codec_context.time_base = Fraction(1, 100)
        for n in range(len(delays)):
            pixels = np.zeros((SIZE, SIZE, 4), np.uint8)
            pixels[..., 3] = 0 if transparent else 255
            pixels[16:32, 4 * n : 4 * n + 16] = (224, 64, 64, 255)
            frame = av.VideoFrame.from_ndarray(pixels, "rgba").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base, frame.duration = sum(delays[:n]), Fraction(1, 100), delays[n]
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def look(path: Path) -> tuple[list[float], list[np.ndarray]]:
    """Delays in seconds, and frames as RGBA."""
    with av.open(str(path)) as opened:
        delays = [float(p.duration * p.time_base) for p in opened.demux(video=0) if p.size]
    with av.open(str(path)) as opened:
        return delays, [frame.to_ndarray(format="rgba") for frame in opened.decode(video=0)]


def interpolate(source: Path, target: Path, **options: object) -> None:
    midframe.interpolate(source, target, model="blend", **options)


@pytest.mark.parametrize("suffix", [".gif", ".apng"])
def test_a_gif_becomes_an_animation_of_equal_length(tmp_path: Path, suffix: str) -> None:
    source = make(tmp_path / "a.gif", 0, [10] * 5)
    target = tmp_path / f"b{suffix}"
    interpolate(source, target)
    delays, frames = look(target)
    assert delays == [0.05] * 10
    for n, before in enumerate(look(source)[1]):  # every second frame is one of the source
        difference = np.abs(frames[2 * n].astype(int) - before.astype(int))
        assert difference.max() <= (24 if suffix == ".gif" else 1)
    assert frames[0].shape == (SIZE, SIZE, 4)


@pytest.mark.parametrize("name", ["b.gif", "b.apng", "b.webp", "b%02d.png", "b%02d.jpg"])
def test_the_lost_sample_aspect_is_announced(tmp_path: Path, name: str) -> None:
    for aspect, announced in ((Fraction(4, 3), 1), (Fraction(1), 0)):
        info = probe(clips.make(tmp_path / "a.mkv", clips.Clip(frames=2, aspect=aspect)))
        notes = choose_encoder(info, tmp_path / name).notes
        assert sum("cannot keep the sample aspect ratio 4:3; .mkv can" in note for note in notes) == announced


@pytest.mark.parametrize(("loop", "plays"), [(0, b"\x00\x00"), (3, b"\x03\x00")])
def test_the_loop_count_is_kept(tmp_path: Path, loop: int, plays: bytes) -> None:
    interpolate(make(tmp_path / "a.gif", loop, [10] * 4), tmp_path / "b.gif")
    data = (tmp_path / "b.gif").read_bytes()
    at = data.index(b"NETSCAPE2.0")
    assert data[at + 13 : at + 15] == plays


def test_a_gif_that_plays_once_stays_so(tmp_path: Path) -> None:
    interpolate(make(tmp_path / "a.gif", -1, [10] * 4), tmp_path / "b.gif")
    assert b"NETSCAPE" not in (tmp_path / "b.gif").read_bytes()
    interpolate(tmp_path / "a.gif", tmp_path / "b.apng")
    data = (tmp_path / "b.apng").read_bytes()
    at = data.index(b"acTL")
    assert data[at + 8 : at + 12] == b"\0\0\0\1"


def test_the_last_delay_is_kept(tmp_path: Path) -> None:
    interpolate(make(tmp_path / "a.gif", 0, [10, 10, 10, 30]), tmp_path / "b.gif", fps=20)
    assert sum(look(tmp_path / "b.gif")[0]) == pytest.approx(0.6)


@pytest.mark.parametrize("suffix", [".gif", ".apng"])
def test_transparency_is_kept(tmp_path: Path, suffix: str) -> None:
    source = make(tmp_path / "a.apng", 0, [10] * 4, transparent=True)
    target = tmp_path / f"b{suffix}"
    interpolate(source, target)
    first = look(target)[1][0]
    assert first[40, 40, 3] == 0 and first[20, 8, 3] == 255
    assert np.abs(first[20, 8, :3].astype(int) - (224, 64, 64)).max() <= 4


def test_webp_is_animated_and_loops_as_the_source(tmp_path: Path) -> None:
    interpolate(make(tmp_path / "a.apng", 3, [10] * 4, transparent=True), tmp_path / "b.webp")
    data = (tmp_path / "b.webp").read_bytes()
    at = data.index(b"ANIM")
    assert data[at + 12 : at + 14] == b"\x03\x00"
    starts = [found.start() for found in re.finditer(b"ANMF", data)]
    delays = [int.from_bytes(data[at + 20 : at + 23], "little") for at in starts]
    assert delays == [50] * 6 + [100]  # the last frame is held, which the encoder sees


def test_an_avif_sequence_goes_out_and_in(tmp_path: Path) -> None:
    interpolate(make(tmp_path / "a.gif", 0, [10] * 4), tmp_path / "b.avif")
    info = probe(tmp_path / "b.avif")
    assert (info.codec, info.rate, info.header_frames) == ("av1", 20, 8)
    interpolate(tmp_path / "b.avif", tmp_path / "c.apng")
    delays, frames = look(tmp_path / "c.apng")
    assert delays == [0.025] * 16 and frames[0].shape == (SIZE, SIZE, 4)


def test_a_rate_that_no_player_shows_is_refused_before_the_work(tmp_path: Path) -> None:
    source = make(tmp_path / "a.gif", 0, [3] * 5)
    with pytest.raises(InputError, match="at most 50 frames per second"):
        interpolate(source, tmp_path / "b.gif")
    with pytest.raises(UnsupportedError, match="holds gif only"):
        interpolate(source, tmp_path / "b.gif", fps=50, codec="libx264")
    assert not (tmp_path / "b.gif").exists()
    interpolate(source, tmp_path / "b.gif", fps=50)
    assert set(look(tmp_path / "b.gif")[0]) == {0.02}
