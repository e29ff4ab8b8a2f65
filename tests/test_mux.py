"""Segments and the streams of the source in one file: exact times, nothing lost in silence."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clips import NTSC_24, Clip, make
from midframe.errors import MediaError
from midframe.options import Options
from midframe.types import Frame, VideoInfo
from midframe.video import mux
from midframe.video.encoders import choose_encoder
from midframe.video.probe import probe
from midframe.video.reader import open_reader
from midframe.video.stream_writers import StreamCopier
from midframe.video.streams import plan_streams, stream_notes
from midframe.video.timestamps import TimestampMap
from midframe.video.writer import open_writer
from test_writer import PLAIN, disk_of, flat, info_of, left

NOTHING = Options()


def cut(
    folder: Path, info: VideoInfo, target: Path, frames: Sequence[Frame], size: int, rate: Fraction, tick: Fraction
) -> list[Path]:
    """Frames as segments of `size` frames each."""
    encoding = choose_encoder(info, target)
    folder.mkdir(exist_ok=True)
    paths = []
    for n in range(0, len(frames), size):
        paths.append(folder / f"{n:06d}.mkv")
        with open_writer(paths[-1], info, encoding, rate=rate, tick=tick, start=frames[0].pts, segment=True) as writer:
            for frame in frames[n : n + size]:
                writer.write(frame)
    return paths


def through(source: Path, target: Path, options: Options = NOTHING, size: int = 10) -> list[str]:
    """A video cut into segments and put together again, frame by frame as it is."""
    info = probe(source)
    with open_reader(source, info=info) as reader:
        frames = [f for f in reader if options.start is None or f.pts >= options.start]
    frames = [f for f in frames if options.end is None or f.pts < options.end]
    slow = options.slowmo or Fraction(1)
    frames = [replace(f, pts=info.start + (f.pts - info.start) * slow, duration=f.duration * slow) for f in frames]
    rate = info.rate or Fraction(25)
    tick = (info.time_base if info.vfr else 1 / rate) * slow
    paths = cut(target.parent / "segments", info, target, frames, size, rate, tick)
    return mux.join(paths, target, source, info, options)


def stamps(path: Path) -> list[Fraction]:
    with open_reader(path) as reader:
        return [frame.pts for frame in reader]


def packets(path: Path, kind: str) -> dict[int, list[tuple[float, bytes]]]:
    """(seconds, data) of every packet of the streams of a kind."""
    with av.open(str(path)) as opened:
        streams = [s for s in opened.streams if s.type == kind]
        found: dict[int, list[tuple[float, bytes]]] = {s.index: [] for s in streams}
        for packet in opened.demux(streams):
            if packet.size:
                found[packet.stream_index].append((float((packet.pts or 0) * packet.time_base), bytes(packet)))
    return found


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm", "a.ts"])
@pytest.mark.parametrize("rate", [Fraction(60000, 1001), Fraction(144)])
def test_the_join_is_exact(tmp_path: Path, name: str, rate: Fraction) -> None:
    info = info_of(width=64, height=64)
    frames = [flat(PLAIN, n % 40, 64, 64, 1 / rate) for n in range(100)]
    frames = [replace(frame, pts=n / rate) for n, frame in enumerate(frames)]
    paths = cut(tmp_path / "s", info, tmp_path / name, frames, 17, rate, 1 / rate)
    assert mux.join(paths, tmp_path / name, None, info) == []
    made = probe(tmp_path / name)
    assert made.rate == rate and not made.vfr
    found = [at - made.start for at in stamps(tmp_path / name)]
    allowed = {".mkv": Fraction(1, 2000), ".webm": Fraction(1, 2000), ".ts": Fraction(1, 90000)}
    exact = allowed.get((tmp_path / name).suffix, Fraction(0))
    assert len(found) == 100
    assert all(abs(at - n / rate) <= exact for n, at in enumerate(found))
    assert left(tmp_path) == [name, "s"]


def test_segment_borders_do_not_change_the_order_of_frames(tmp_path: Path) -> None:
    info = info_of()
    frames = [flat(PLAIN, n % 30) for n in range(60)]
    frames = [replace(frame, pts=Fraction(n, 24)) for n, frame in enumerate(frames)]
    for size in (60, 1, 7):
        paths = cut(tmp_path / f"s{size}", info, tmp_path / "a.mp4", frames, size, Fraction(24), Fraction(1, 24))
        mux.join(paths, tmp_path / f"{size}.mp4", None, info)
        with open_reader(tmp_path / f"{size}.mp4") as reader:
            found = list(reader)
        assert [frame.pts for frame in found] == [frame.pts for frame in frames]
        for mine, theirs in zip(found, frames, strict=True):
            assert abs(int(mine.planes[0][0, 0]) - int(theirs.planes[0][0, 0])) <= 2


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_variable_rate_and_a_late_start(tmp_path: Path, name: str) -> None:
    info = replace(info_of(), start=Fraction(1, 3))
    at = [0, 3, 4, 9, 10, 11, 20, 22, 23]
    tick = Fraction(1, 90)
    frames = [
        replace(flat(PLAIN, n), pts=Fraction(1, 3) + stamp * tick, duration=5 * tick) for n, stamp in enumerate(at)
    ]
    paths = cut(tmp_path / "s", info, tmp_path / name, frames, 4, Fraction(30), tick)
    mux.join(paths, tmp_path / name, None, info)
    with open_reader(tmp_path / name) as reader:
        found = list(reader)
    exact = Fraction(1, 2000) if name == "a.mkv" else Fraction(0)
    assert all(abs(mine.pts - theirs.pts) <= exact for mine, theirs in zip(found, frames, strict=True))
    assert abs(found[-1].duration - 5 * tick) <= 2 * exact


FULL = Clip(
    audio=3, subtitles=("ass", "subrip"), chapters=2, attachment=True, cover=True, frames=48,
    tags={"title": "A video", "comment": "with all there is"},
)  # fmt: skip


def test_matroska_keeps_everything(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mkv", FULL)
    target = tmp_path / "b.mkv"
    assert through(source, target) == []
    before, after = probe(source), probe(target)
    assert [(s.kind, s.codec, s.language, s.disposition) for s in after.streams] == [
        (s.kind, s.codec, s.language, s.disposition) for s in before.streams
    ]
    assert [s.tags.get("title") for s in after.streams] == [s.tags.get("title") for s in before.streams]
    assert (after.chapters, after.tags["title"], after.tags["COMMENT"]) == (2, "A video", "with all there is")
    for kind in ("audio", "subtitle"):
        a, b = packets(source, kind), packets(target, kind)
        assert [[data for _, data in one] for one in a.values()] == [[data for _, data in one] for one in b.values()]
        for one, other in zip(a.values(), b.values(), strict=True):
            assert all(abs(x[0] - y[0]) < 0.0011 for x, y in zip(one, other, strict=True))
    with av.open(str(source)) as a, av.open(str(target)) as b:
        assert [s.data for s in a.streams.attachments] == [s.data for s in b.streams.attachments]
        assert [(c["start"], c["end"], c["metadata"]) for c in a.chapters()] == [
            (c["start"], c["end"], c["metadata"]) for c in b.chapters()
        ]
    assert stamps(source) == stamps(target)


def test_a_second_video_with_b_frames_is_copied(tmp_path: Path) -> None:
    """Matroska says nothing of when the first frames of such a stream are decoded."""
    options = {"bf": "2", "x264-params": "b-adapt=0"}
    parts = [make(tmp_path / f"{n}.mp4", Clip(frames=24, width=64 - 32 * n, options=options)) for n in range(2)]
    source = tmp_path / "a.mkv"
    with av.open(str(parts[0])) as one, av.open(str(parts[1])) as two, av.open(str(source), "w") as out:
        made = [out.add_stream_from_template(video.streams.video[0]) for video in (one, two)]
        for video, stream in zip((one, two), made, strict=True):
            for packet in video.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
    with av.open(str(source)) as video:
        assert next(video.demux(video.streams.video[1])).dts is None
    assert through(source, tmp_path / "b.mkv") == []

    def second(path: Path) -> list[tuple[int | None, bytes]]:
        with av.open(str(path)) as container:
            return [
                (packet.pts, bytes(packet)) for packet in container.demux(container.streams.video[1]) if packet.size
            ]

    assert len(second(source)) == 24
    assert second(tmp_path / "b.mkv") == second(source)


def test_what_mp4_cannot_hold_is_said_before_the_work(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mkv", FULL)
    target = tmp_path / "b.mp4"
    lines = stream_notes(plan_streams(probe(source), target, NOTHING))
    assert len(lines) == 3
    assert "ass) becomes mov_text" in lines[0] and ".mkv keeps them" in lines[0]
    assert "subrip) becomes mov_text" in lines[1]
    assert "attachments; .mkv can" in lines[2]
    assert through(source, target) == lines
    after = probe(target)
    assert [s.codec for s in after.streams if s.kind != "data"] == ["h264", *["aac"] * 3, *["mov_text"] * 2, "png"]
    assert after.chapters == 2
    with av.open(str(target)) as opened:
        texts = []
        for packet in opened.demux(opened.streams.subtitles[0]):
            for line in packet.decode() if packet.size > 2 else ():
                texts.append((float(packet.pts * packet.time_base), line.dialogue))
    assert texts == [(0.1, b"line 0 of 0"), (0.5, b"line 1 of 0")]


def test_mp4_to_mkv_and_webm(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mp4", Clip(audio=2, subtitles=("mov_text",), chapters=2, cover=True, frames=48))
    assert [line.split(":")[0] for line in through(source, tmp_path / "b.mkv")] == [
        "stream 3 (subtitle, mov_text) becomes subrip"
    ]
    after = probe(tmp_path / "b.mkv")
    assert [s.codec for s in after.streams] == ["h264", "aac", "aac", "subrip", "png"]
    assert after.chapters == 2
    lines = through(source, tmp_path / "c.webm")
    assert sum("libopus" in line and ".mkv keeps it" in line for line in lines) == 2
    after = probe(tmp_path / "c.webm")
    assert [s.codec for s in after.streams] == ["vp9", "opus", "opus", "webvtt"]
    with av.open(str(tmp_path / "c.webm")) as opened:
        heard = sum(frame.samples for frame in opened.decode(audio=0))
    assert abs(heard - 96_000) < 2500


def test_options_decide_what_is_copied(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mkv", FULL)
    lines = through(source, tmp_path / "b.mkv", Options(audio=False, subtitles=False, chapters=False))
    assert sum("--no-audio" in line for line in lines) == 3
    assert sum("--no-subtitles" in line for line in lines) == 2
    after = probe(tmp_path / "b.mkv")
    assert {s.kind for s in after.streams} == {"video", "attachment"}
    assert after.chapters == 0


def onset(path: Path) -> Fraction:
    """When the tone begins, in seconds of video time."""
    info = probe(path)
    with av.open(str(path)) as opened:
        for frame in opened.decode(audio=0):
            loud = np.abs(frame.to_ndarray()).max(0) > 0.05
            if loud.any():
                return frame.pts * Fraction(frame.time_base) + Fraction(int(loud.argmax()), 48000) - info.origin
    raise AssertionError("no audio")


def with_onset(path: Path, at: float) -> Path:
    """Two seconds of video; the audio begins at `at`, and at the same instant the frame turns bright."""
    with av.open(str(path), "w", options={"movie_timescale": "12000"} if path.suffix == ".mp4" else {}) as out:
        video = out.add_stream("libx264", rate=NTSC_24)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio = out.add_stream("aac", rate=48000)
        for n in range(96):
            frame = av.VideoFrame(32, 32, "yuv420p")
            bright = n / NTSC_24 + Fraction(1, 2) >= at
            for index, plane in enumerate(frame.planes):
                plane.update(bytes([128 if index else 220 if bright else 20]) * plane.buffer_size)
            frame.pts, frame.time_base = n + 12, 1 / NTSC_24
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for begin in range(0, 48000 * 4, 1024):
            t = (begin + np.arange(1024)) / 48000
            wave = (np.where(t >= at, 0.5, 0) * np.sin(2 * np.pi * 1000 * t)).astype(np.float32)
            chunk = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
            chunk.sample_rate, chunk.pts, chunk.time_base = 48000, begin, Fraction(1, 48000)
            out.mux(audio.encode(chunk))
        out.mux(audio.encode(None))
    return path


def flash(path: Path) -> Fraction:
    with open_reader(path) as reader:
        return next(frame.pts for frame in reader if int(frame.planes[0][0, 0]) > 120)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("target", ["b.mp4", "b.mkv", "b.mov"])
def test_audio_and_video_stay_in_sync(tmp_path: Path, suffix: str, target: str) -> None:
    source = with_onset(tmp_path / f"a{suffix}", 3.0)
    apart = flash(source) - onset(source)
    for options in (Options(), Options(start=Fraction(2)), Options(start=Fraction(5, 4), end=Fraction(7, 2))):
        through(source, tmp_path / target, options)
        assert abs(flash(tmp_path / target) - onset(tmp_path / target) - apart) < Fraction(3, 1000), options
        if options.start:
            assert abs(flash(tmp_path / target) - (flash(source) - options.start)) < Fraction(30, 1000)
            assert probe(tmp_path / target).duration < 3


def test_slow_motion(tmp_path: Path) -> None:
    source = with_onset(tmp_path / "a.mp4", 2.0)
    lines = through(source, tmp_path / "b.mp4", Options(slowmo=Fraction(4)))
    assert lines == ["stream 1 (audio, aac) is left out: slow motion; --slow-audio stretch keeps it"]
    assert [s.kind for s in probe(tmp_path / "b.mp4").streams] == ["video"]
    for slow in (Fraction(4), Fraction(3, 2), Fraction(1, 2)):
        through(source, tmp_path / "c.mp4", Options(slowmo=slow, slow_audio="stretch"))
        expected = onset(source) * slow
        # windows of 40 ms are moved by at most 10 ms, and those of AAC reach 21 ms back
        assert abs(onset(tmp_path / "c.mp4") - expected) < Fraction(1, 20), slow
        assert abs(onset(tmp_path / "c.mp4") - flash(tmp_path / "c.mp4")) < Fraction(1, 20) + slow / 24, slow
        with av.open(str(tmp_path / "c.mp4")) as opened:
            heard = Fraction(sum(frame.samples for frame in opened.decode(audio=0)), 48000)
        assert abs(heard - 4 * slow) < Fraction(2, 10)


def test_ranges_of_chapters_and_subtitles(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mkv", replace(FULL, frames=48))
    through(source, tmp_path / "b.mkv", Options(start=Fraction(1, 2), end=Fraction(3, 2)))
    with av.open(str(tmp_path / "b.mkv")) as opened:
        found = [(c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in opened.chapters()]
        assert found == [(0, Fraction(1, 2)), (Fraction(1, 2), 1)]
    lines = packets(tmp_path / "b.mkv", "subtitle")
    assert all(len(one) == 1 and abs(one[0][0]) < 0.03 for one in lines.values())


def test_rotation_aspect_and_tags_come_through(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mov", Clip(rotation=270, aspect=Fraction(4, 3), tags={"com.apple.quicktime.make": "X"}))
    for name in ("b.mp4", "b.mov", "b.mkv"):
        through(source, tmp_path / name)
        after = probe(tmp_path / name)
        assert (after.rotation, after.sample_aspect) == (270, Fraction(4, 3)), name


@pytest.mark.parametrize("name", ["b.webm", "b.mov", "b.mkv"])
def test_transparency_comes_through(tmp_path: Path, name: str) -> None:
    source = make(tmp_path / "a.mkv", Clip(codec="ffv1", pixels="yuva420p"))
    through(source, tmp_path / name)
    with open_reader(source) as before, open_reader(tmp_path / name) as after:
        assert after.info.format.alpha
        for a, b in zip(before, after, strict=True):
            scale = ((1 << b.format.depth) - 1) / 255
            apart = a.planes[3].float() - b.planes[3].float() / scale
            assert apart.abs().mean() < 3


def test_a_lost_source_costs_the_audio_and_not_the_video(tmp_path: Path) -> None:
    source = make(tmp_path / "a.mkv", Clip(audio=1))
    info = probe(source)
    with open_reader(source) as reader:
        frames = list(reader)
    paths = cut(tmp_path / "s", info, tmp_path / "b.mkv", frames, 10, Fraction(24), Fraction(1, 24))
    source.unlink()
    lines = mux.join(paths, tmp_path / "b.mkv", source, info)
    assert len(lines) == 1 and "left out" in lines[0]
    assert len(stamps(tmp_path / "b.mkv")) == 24


def test_a_stream_that_fails_costs_that_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(tmp_path / "a.mkv", Clip(audio=2, subtitles=("subrip",)))
    packets_of = StreamCopier.packets

    def broken(self: StreamCopier, packet: object, origin: Fraction) -> object:
        if self.plan.kind == "subtitle":
            raise ValueError("cannot be muxed")
        return packets_of(self, packet, origin)

    monkeypatch.setattr(StreamCopier, "packets", broken)
    lines = through(source, tmp_path / "b.mkv")
    assert len(lines) == 1 and "ends early: cannot be muxed" in lines[0]
    assert len(stamps(tmp_path / "b.mkv")) == 24


def test_damaged_segments_are_named(tmp_path: Path) -> None:
    info = info_of()
    frames = [replace(flat(PLAIN, n), pts=Fraction(n, 24)) for n in range(20)]
    paths = cut(tmp_path / "s", info, tmp_path / "b.mp4", frames, 10, Fraction(24), Fraction(1, 24))
    paths[1].write_bytes(b"nothing")
    with pytest.raises(MediaError, match="damaged or missing"):
        mux.join(paths, tmp_path / "b.mp4", None, info)
    other = cut(tmp_path / "o", info_of(width=32), tmp_path / "b.mp4",
                [flat(PLAIN, 0, 32)], 10, Fraction(24), Fraction(1, 24))  # fmt: skip
    with pytest.raises(MediaError, match="other settings"):
        mux.join([paths[0], *other], tmp_path / "b.mp4", None, info)
    plain = make(tmp_path / "plain.mkv")
    with pytest.raises(MediaError, match="not a segment of midframe"):
        mux.join([plain], tmp_path / "b.mp4", None, info)
    with pytest.raises(MediaError, match="no frames"):
        mux.join([], tmp_path / "b.mp4", None, info)
    assert left(tmp_path) == ["o", "plain.mkv", "s"]


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    info = info_of(width=256, height=256)
    torch.manual_seed(0)
    noise = [
        Frame(tuple(torch.randint(0, 255, s, dtype=torch.uint8) for s in ((256, 256), (128, 128), (128, 128))),
              PLAIN, Fraction(n, 24), Fraction(1, 24), n)
        for n in range(12)
    ]  # fmt: skip
    paths = cut(tmp_path / "s", info, tmp_path / "b.mp4", noise, 12, Fraction(24), Fraction(1, 24))
    (tmp_path / "b.mp4").write_bytes(b"precious")
    with pytest.raises(MediaError, match="larger than its disk"), disk_of(100_000):
        mux.join(paths, tmp_path / "b.mp4", None, info)
    assert left(tmp_path) == ["b.mp4", "s"] and (tmp_path / "b.mp4").read_bytes() == b"precious"


def test_images_are_renumbered(tmp_path: Path) -> None:
    info = info_of()
    target = tmp_path / "out"
    encoding = choose_encoder(info, f"{target}/")
    parts = []
    for n in (0, 4):
        parts.append(tmp_path / f"part{n}")
        with open_writer(parts[-1], info, encoding, rate=Fraction(24), segment=True) as writer:
            for k in range(n, n + 4):
                writer.write(flat(PLAIN, k))
    mux.join(parts, f"{target}/", None, info)
    assert left(target) == [f"{n:06d}.png" for n in range(1, 9)]
    with open_reader(target, in_rate=Fraction(24)) as reader:
        levels = [int(frame.planes[1][0, 0]) for frame in reader]  # green
    assert all(a < b for a, b in pairwise(levels))


def test_many_segments_need_few_open_files(tmp_path: Path) -> None:
    info = info_of(width=32, height=32)
    frames = [replace(flat(PLAIN, n % 30, 32, 32), pts=Fraction(n, 24)) for n in range(80)]
    paths = cut(tmp_path / "s", info, tmp_path / "a.mp4", frames, 1, Fraction(24), Fraction(1, 24))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)  # the limit counts numbers, which are given from the lowest on
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 12, hard))
    try:
        mux.join(paths, tmp_path / "a.mp4", None, info)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(stamps(tmp_path / "a.mp4")) == 80


@pytest.mark.slow
def test_a_thousand_segments_join_in_seconds(tmp_path: Path) -> None:
    info = info_of(width=32, height=32)
    frames = [replace(flat(PLAIN, n % 30, 32, 32), pts=Fraction(n, 24)) for n in range(2000)]
    paths = cut(tmp_path / "s", info, tmp_path / "a.mp4", frames, 2, Fraction(24), Fraction(1, 24))
    begin = time.monotonic()
    mux.join(paths, tmp_path / "a.mp4", None, info)
    assert time.monotonic() - begin < 10
    assert len(stamps(tmp_path / "a.mp4")) == 2000


@given(
    base=st.sampled_from([Fraction(1, 1000), Fraction(1, 90_000), Fraction(1001, 24_000), Fraction(1, 3)]),
    origin=st.fractions(-50, 50, max_denominator=1000),
    slowmo=st.fractions(1, 8, max_denominator=30),
    stamp=st.integers(-(10**9), 10**9),
)
def test_whole_numbers_give_what_fractions_give(base: Fraction, origin: Fraction, slowmo: Fraction, stamp: int) -> None:
    clock = TimestampMap(Fraction(0), None, Fraction(1, 7), slowmo, Fraction(-3, 11))
    seconds, units = clock.affine_maps(base, origin)
    assert seconds.exact(stamp) == clock.out(stamp * base - origin)
    assert units.nearest(stamp) == round(clock.out(stamp * base - origin) / base)
