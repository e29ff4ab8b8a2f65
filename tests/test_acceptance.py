"""The acceptance tests of the whole program that are not those of one room: media in, media out.

Numbers are those of the list in docs/architecture.md. Frames go through FFV1 where their samples are compared.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

import clips
import midframe
from clips import Clip
from midframe.types import Frame, PixelFormat, VideoInfo
from midframe.video.encoders import choose_encoder
from midframe.video.writer import open_writer

GRAY = PixelFormat("gray", "gray", 8, full_range=True)


def run(source: Path, target: Path | None = None, **options: Any) -> midframe.Result:
    return midframe.interpolate(source, target, **{"model": "blend", "device": "cpu", **options})


def video_of(path: Path, images: Sequence[np.ndarray[Any, Any]], rate: int = 24) -> Path:
    """A lossless video of gray frames."""
    height, width = images[0].shape
    info = VideoInfo(
        path="", container="", codec="", width=width, height=height, format=GRAY, rate=Fraction(rate),
        time_base=Fraction(1, rate), start=Fraction(0), duration=None, header_frames=None,
    )  # fmt: skip
    encoding = choose_encoder(info, path, "ffv1")
    with open_writer(path, info, encoding, rate=Fraction(rate)) as writer:
        for n, image in enumerate(images):
            planes = (torch.from_numpy(np.ascontiguousarray(image)),)
            writer.write(Frame(planes, GRAY, Fraction(n, rate), Fraction(1, rate), n))
    return path


def frames_of(path: Path) -> list[np.ndarray[Any, Any]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]


def texture(seed: int, height: int = 96, width: int = 128) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(20, 235, (height // 8, width // 8))
    return np.kron(coarse, np.ones((8, 8))).astype(np.uint8)


def span(path: Path, kind: str) -> tuple[Fraction, Fraction]:
    """First and last instant of a kind of stream, in seconds."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams if s.type == kind)
        stamps = [p.pts for p in container.demux(stream) if p.pts is not None and p.size]
        base = stream.time_base
        assert base is not None
        return min(stamps) * base, max(stamps) * base


# 3


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_3_variable_rate_keeps_audio_and_image_together(tmp_path: Path, suffix: str) -> None:
    pts = [n for n in range(96) if n % 3 != 1]  # every third frame dropped
    source = clips.make(tmp_path / f"in{suffix}", Clip(frames=len(pts), pts=pts, audio=1))
    result = run(source, tmp_path / f"out{suffix}", fps=60)
    step = Fraction(1, 60)
    for kind in ("video", "audio"):
        before, after = span(source, kind), span(result.path, kind)
        assert abs(after[0] - before[0]) <= step
        assert abs(after[1] - before[1]) <= 2 * step + Fraction(1, 24)
    got, end = span(result.path, "video"), Fraction(97, 24)  # the last one is shown twice as long
    assert abs(got[1] + step - end) <= step


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_3_a_late_start_stays_late(tmp_path: Path, suffix: str) -> None:
    source = clips.make(tmp_path / f"in{suffix}", Clip(pts=range(12, 60), frames=48, audio=1))
    result = run(source, tmp_path / f"out{suffix}", fps=60)
    for kind in ("video", "audio"):
        before, after = span(source, kind), span(result.path, kind)
        assert abs(after[0] - before[0]) <= Fraction(1, 60)
        assert abs(after[1] - before[1]) <= Fraction(1, 24) + Fraction(1, 60)


# 5


def test_5_at_a_cut_nothing_is_mixed_and_the_switch_is_on_time(tmp_path: Path) -> None:
    cut = 13
    left, right = texture(1), texture(2)
    scene = [np.roll(left, n, 1) for n in range(cut)] + [np.roll(right, -n, 0) for n in range(cut, 24)]
    source = video_of(tmp_path / "in.mkv", scene)
    result = run(source, tmp_path / "out.mkv", fps=60, codec="ffv1")
    assert result.cuts == (Fraction(cut, 24),)
    made = frames_of(result.path)
    assert len(made) == 60
    for k, image in enumerate(made):
        at = Fraction(k, 60)
        if Fraction(cut - 1, 24) < at < Fraction(cut, 24):
            assert result.kinds[k] == "h"
            assert np.array_equal(image, scene[cut - 1]), f"frame {k} mixes both shots"
        elif (at * 24).denominator == 1:
            assert np.array_equal(image, scene[int(at * 24)]), f"frame {k} is not the source's"


def test_5_a_flash_is_no_cut(tmp_path: Path) -> None:
    left = texture(1)
    scene = [np.roll(left, n, 1) for n in range(24)]
    scene[11] = np.full_like(left, 255)
    result = run(video_of(tmp_path / "in.mkv", scene), tmp_path / "out.mkv")
    assert result.cuts == ()


# 7


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_7_very_short_videos(tmp_path: Path, frames: int) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=frames))
    result = run(source)
    assert (result.frames_in, result.frames_out) == (frames, 2 * frames)
    assert result.kinds == "si" * (frames - 1) + "sh"


@pytest.mark.parametrize(
    ("clip", "suffix"),
    [
        (Clip(width=16, height=16), ".mp4"),
        (Clip(width=16, height=16, pixels="yuv444p"), ".mkv"),
        (Clip(width=33, height=17, pixels="yuv444p"), ".mkv"),
        (Clip(width=48, height=128), ".mp4"),
        (Clip(rotation=90), ".mp4"),
        (Clip(rotation=180), ".mov"),
        (Clip(aspect=Fraction(4, 3)), ".mkv"),
        (Clip(pixels="yuv420p10le", codec="libx265", options={"x265-params": "log-level=none"}), ".mkv"),
        (Clip(pixels="yuv422p"), ".mkv"),
        (Clip(pixels="yuva420p", codec="ffv1"), ".mkv"),
        (Clip(full_range=True), ".mp4"),
        (Clip(matrix=6, primaries=6, transfer=6), ".mp4"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.width}x{value.height}-{value.pixels}",
)
def test_7_shapes_and_formats_are_kept(tmp_path: Path, clip: Clip, suffix: str) -> None:
    source = clips.make(tmp_path / f"in{suffix}", replace(clip, frames=6))
    result = run(source, tmp_path / f"out{suffix}")
    assert result.frames_out == 12
    before, after = midframe.probe(source), midframe.probe(result.path)
    for name in ("width", "height", "rotation", "sample_aspect", "hdr"):
        assert getattr(after, name) == getattr(before, name), name
    for name in ("depth", "alpha", "full_range"):
        assert getattr(after.format, name) == getattr(before.format, name), name
    if before.format.layout == "yuv":
        assert (after.format.chroma_w, after.format.chroma_h) == (before.format.chroma_w, before.format.chroma_h)
        assert after.format.matrix == before.format.matrix


@pytest.mark.parametrize(("number", "siting"), [(0, "left"), (1, "center"), (2, "topleft")])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_7_chroma_stays_where_it_is(tmp_path: Path, codec: str, number: int, siting: str) -> None:
    deep = codec == "libx265"
    parameters = {f"{codec[3:]}-params": f"chromaloc={number}" + (":log-level=none" if deep else "")}
    clip = Clip(codec=codec, pixels="yuv420p10le" if deep else "yuv420p", frames=4, options=parameters)
    source = clips.make(tmp_path / "in.mkv", clip)
    result = run(source)
    assert midframe.probe(source).format.siting == midframe.probe(result.path).format.siting == siting


def test_7_odd_sizes_in_420_are_said(tmp_path: Path) -> None:
    source = clips.make(tmp_path / "in.mkv", Clip(width=33, height=17, codec="ffv1", frames=4))
    result = run(source, tmp_path / "out.mp4")
    assert any("even sizes only" in text for text in result.warnings)
    kept = run(source, tmp_path / "kept.mp4", pix_fmt="yuv444p")
    assert (midframe.probe(kept.path).width, midframe.probe(kept.path).height) == (33, 17)


RICH = Clip(audio=3, subtitles=("ass",), chapters=3, attachment=True, tags={"title": "T", "comment": "C"})


def test_7_many_streams_in_mkv(tmp_path: Path) -> None:
    source = clips.make(tmp_path / "in.mkv", RICH)
    result = run(source, tmp_path / "out.mkv")
    assert result.dropped == ()
    before, after = midframe.probe(source), midframe.probe(result.path)
    assert [(s.kind, s.language) for s in after.streams] == [(s.kind, s.language) for s in before.streams]
    assert after.chapters == 3
    assert [("default" in s.disposition) for s in after.streams] == [
        ("default" in s.disposition) for s in before.streams
    ]
    with av.open(str(source)) as a, av.open(str(result.path)) as b:
        for one, other in zip(a.streams.audio, b.streams.audio, strict=True):
            assert one.metadata["title"] == other.metadata["title"]
    assert audio_packets(source) == audio_packets(result.path), "audio is copied, not encoded again"


def test_7_many_streams_into_mp4_say_what_is_lost(tmp_path: Path) -> None:
    source = clips.make(tmp_path / "in.mkv", RICH)
    notes: list[str] = []
    result = run(source, tmp_path / "out.mp4", on_plan=lambda plan: notes.extend(plan.notes))
    assert any("attachment" in text and ".mkv" in text for text in notes), "said before the work"
    assert any("attachment" in text for text in result.dropped)
    with av.open(str(result.path)) as container:
        assert len(container.streams.audio) == 3
        assert [s.codec_context.name for s in container.streams.subtitles] == ["mov_text"]
        assert len(container.chapters()) == 3


def audio_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]


# 8

KILLED = """
import sys
import midframe
from midframe import plan
plan.SEGMENT_OUTPUTS = 24
begun = lambda progress: print(progress.stage, flush=True)
midframe.interpolate(sys.argv[1], sys.argv[2], model="blend", device="cpu", fps=60, on_progress=begun)
"""


@pytest.mark.slow
def test_8_kill_9_at_random_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed up to twenty times, wherever it is after its first frame: reading, encoding, joining, renaming."""
    monkeypatch.setattr("midframe.plan.SEGMENT_OUTPUTS", 24)
    source = clips.make(tmp_path / "in.mkv", Clip(width=320, height=240, frames=240, audio=2, options={"g": "24"}))
    straight = run(source, tmp_path / "straight.mkv", fps=60)
    target = tmp_path / "out.mkv"
    dice = random.Random(5)
    kills = 0
    while not target.exists() and kills < 20:
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(source), str(target)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None and child.stdout.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.communicate(timeout=dice.uniform(0.0, 1.0))
        child.kill()
        kills += child.wait() != 0
        child.stdout.close()
    if not target.exists():
        run(source, target, fps=60)
    assert kills > 1
    assert frames_equal(target, straight.path)
    assert audio_packets(target) == audio_packets(straight.path)
    assert not (tmp_path / "out.mkv.midframe").exists()


def frames_equal(a: Path, b: Path) -> bool:
    def decoded(path: Path) -> Iterator[bytes]:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray().tobytes()

    return all(p == q for p, q in zip(decoded(a), decoded(b), strict=True))


# 9

PEAK = """
import resource, sys
import midframe
midframe.interpolate(sys.argv[1], sys.argv[2], model="blend", device="cpu")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def peak_mebibytes(folder: Path, frames: int) -> int:
    source = clips.make(
        folder / f"{frames}.mp4", Clip(width=640, height=360, frames=frames, options={"preset": "ultrafast"})
    )
    words = [sys.executable, "-c", PEAK, str(source), str(folder / f"{frames}.out.mp4")]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_9_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    """1,800 more frames of 640x360 would be 600 MiB if they were kept."""
    short, long = peak_mebibytes(tmp_path, 200), peak_mebibytes(tmp_path, 2000)
    assert long - short < 60, f"{short} MiB at 200 frames, {long} MiB at 2,000"


@pytest.mark.parametrize("runs", [[2, 3] * 6, [1, 3, 2, 4, 1, 2, 3, 2, 4, 1], [3, 1, 1, 4, 2, 2, 3, 4]])
def test_irregular_duplicates_become_even_motion(tmp_path: Path, runs: list[int]) -> None:
    """On twos and threes mixed, as from a screen capture: the scene moves 9 px a frame, and duplicates hide it."""
    dice = np.random.default_rng(5)
    wide = np.kron(dice.integers(20, 236, (12, 200)), np.ones((16, 16))).astype(np.uint8)
    shown, at = [], 0
    for run_length in runs:
        shown += [wide[:, 9 * at : 9 * at + 320]] * run_length
        at += run_length
    result = run(video_of(tmp_path / "in.mkv", shown), tmp_path / "out.mkv", fps=24, dedup="auto", codec="ffv1")
    assert result.cuts == ()
    moved = result.kinds[: len(shown) - runs[-1]]
    assert set(moved) == {"s", "i"} and moved.count("s") == len(runs) - 1
