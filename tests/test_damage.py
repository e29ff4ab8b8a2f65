"""Damaged and incomplete videos: every missing frame is counted, on any number of cores, and never in silence."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest

import fuzz_damage
import midframe
from clips import Clip, make
from midframe import plan
from midframe.errors import Interrupted, MediaError
from midframe.types import Segment
from midframe.video.pipes import PipeReader
from midframe.video.probe import probe
from midframe.video.reader import open_reader

LONG = Clip(frames=240, options={"g": "24", "keyint_min": "24"})
SCRIPT = Path(fuzz_damage.__file__)


def read(path: Path) -> tuple[int, tuple[str, ...]]:
    with open_reader(path) as reader:
        return sum(1 for _ in reader), reader.warnings


def strict(path: Path) -> str:
    with pytest.raises(MediaError, match="--strict refuses") as refusal, open_reader(path, strict=True) as reader:
        for _ in reader:
            pass
    return str(refusal.value)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_file_without_its_last_bytes(tmp_path: Path, name: str) -> None:
    """1.5 % of the bytes are far less than 2 % of the duration: each frame of them is counted."""
    whole = make(tmp_path / name, replace(LONG, muxer={"movflags": "faststart"} if name == "a.mp4" else {}))
    cut = tmp_path / f"cut-{name}"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.985)])
    frames, warnings = read(cut)
    assert 200 < frames < 240
    assert len(warnings) == 1
    missing = 240 - frames
    assert f"{missing} of 240 frames {'is' if missing == 1 else 'are'} missing" in warnings[0]
    assert "cut off" in warnings[0]
    assert "cut off" in strict(cut)


def test_a_hole_in_matroska(tmp_path: Path) -> None:
    """libav goes on at the next cluster without a word; the frames between are counted."""
    whole = make(tmp_path / "a.mkv", replace(LONG, muxer={"cluster_time_limit": "1000"}))
    data = bytearray(whole.read_bytes())
    at = data.index(b"\x1f\x43\xb6\x75", len(data) // 2)  # the head of a cluster
    data[at : at + 300] = bytes(300)
    holed = tmp_path / "holed.mkv"
    holed.write_bytes(data)
    frames, warnings = read(holed)
    assert frames < 240
    assert f"{240 - frames} of 240 frames are missing (the first at " in warnings[0]
    assert "broken at 1 place" in warnings[0]
    strict(holed)


def test_frames_after_a_hole_in_avi_keep_their_instants(tmp_path: Path) -> None:
    """libav numbers the chunks that it meets; the index says which are lost, also when it reads from the middle."""
    whole = make(tmp_path / "a.avi", replace(LONG, codec="mpeg4"))
    with av.open(str(whole)) as opened:
        places = [packet.pos for packet in opened.demux(video=0) if packet.size]
    data = bytearray(whole.read_bytes())
    for number in (30, 100):
        data[places[number] - 8 : places[number] + 20] = b"\xff" * 28
    holed = tmp_path / "holed.avi"
    holed.write_bytes(data)
    with open_reader(holed) as reader:
        times = [frame.pts * 24 for frame in reader]
        assert f"{240 - len(times)} of 240 frames are missing (the first at 1.250 s)" in reader.warnings[0]
    assert times[-1] == 239
    assert {30, 100} == set(range(240)) - set(times)
    with open_reader(holed, Segment(Fraction(5))) as reader:
        assert [frame.pts * 24 for frame in reader] == list(range(120, 240))


def test_the_same_frames_on_one_core_and_on_all(tmp_path: Path) -> None:
    """Several threads lose neighbours of what is damaged, and the errors; the rest is then decoded by one."""
    whole = make(tmp_path / "a.mp4", replace(LONG, muxer={"movflags": "faststart"}))
    begin, end = fuzz_damage.media(whole)
    data = bytearray(whole.read_bytes())
    data[(begin + end) // 2 : (begin + end) // 2 + 60] = b"\xff" * 60
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    oracle = fuzz_damage.decode(broken)
    assert oracle.complaints
    for cores in ({0}, set(range(os.cpu_count() or 1))):
        frames, said = fuzz_damage.read(broken, cores)
        assert frames == oracle.frames
        assert "the video is damaged: " in said


def test_the_clips_of_the_suite_are_whole(tmp_path: Path) -> None:
    """No warning where nothing is wrong: B frames, open groups of frames, fields, late starts, variable rates."""
    plain = Clip(frames=40)
    clips = {
        "b.mp4": replace(plain, options={"bf": "4", "g": "10", "flags": "-cgop", "x264-params": "open-gop=1"}),
        "hevc.mkv": replace(plain, codec="libx265", options={"x265-params": "log-level=none:keyint=10:open-gop=1"}),
        "fields.mp4": replace(plain, interlaced=True, options={"x264-params": "interlaced=1"}),
        "fields.ts": replace(plain, codec="mpeg2video", interlaced=True),
        "late.mkv": replace(plain, pts=[n + 30 for n in range(40)]),
        "vfr.mkv": replace(plain, pts=[n + (n > 10) * 5 + (n > 30) * 3 for n in range(40)]),
        "audio.mov": replace(plain, audio=2),
        "mpeg4.avi": replace(plain, codec="mpeg4", options={"bf": "2"}),
        "vp9.webm": replace(plain, codec="libvpx-vp9", options={"cpu-used": "8", "auto-alt-ref": "1"}),
        "vp8.webm": replace(
            plain, codec="libvpx", options={"cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "9"}
        ),
    }
    for name, clip in clips.items():
        assert read(make(tmp_path / name, clip)) == (40, ()), name


def test_what_is_refused_is_refused_before_the_work(tmp_path: Path) -> None:
    whole = make(tmp_path / "a.mkv", LONG)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[:-4000])
    info = probe(cut)
    with pytest.raises(MediaError, match="cut off"), open_reader(cut, info=info, strict=True) as reader:
        next(reader)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_damage_in_a_pipe(tmp_path: Path) -> None:
    """A packet that cannot be decoded does not end a stream, and is said."""
    whole = make(tmp_path / "a.mkv", LONG)
    with av.open(str(whole)) as container:
        keys = [packet for packet in container.demux(video=0) if packet.is_keyframe and packet.size > 150]
        place = keys[len(keys) // 2].pos + 60  # inside one packet: encodings on a busy machine differ by some bytes
    data = bytearray(whole.read_bytes())
    data[place : place + 60] = b"\xff" * 60
    (tmp_path / "broken.mkv").write_bytes(data)
    os.mkfifo(tmp_path / "pipe")
    feeder = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(bytes(data),))
    feeder.start()
    with PipeReader(tmp_path / "pipe") as reader:
        assert sum(1 for _ in reader) == fuzz_damage.decode(tmp_path / "broken.mkv").frames
        assert any("the video is damaged" in text for text in reader.warnings)
    feeder.join()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_an_interrupted_run_reports_the_damage_of_all_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The result warns of the same faults, in the same lines, wherever the run was interrupted and resumed."""
    monkeypatch.setattr(plan, "SEGMENT_OUTPUTS", 20)
    clip = replace(fuzz_damage.SMALL, frames=96, codec="mpeg4" if name == "a.avi" else "libx264")
    whole = make(tmp_path / name, replace(clip, muxer={"movflags": "faststart"} if name == "a.mp4" else {}))
    begin, end = fuzz_damage.media(whole)
    data = bytearray(whole.read_bytes())
    for place in range(1, 6):
        at = begin + (end - begin) * place // 6
        data[at : at + 60] = b"\xff" * 60
    broken = tmp_path / f"broken-{name}"
    broken.write_bytes(data[: int(len(data) * 0.985)])
    wanted = {"model": "blend", "device": "cpu", "static": "off"}
    result = midframe.interpolate(broken, tmp_path / "whole.mkv", **wanted)
    assert any("the video is damaged: " in text for text in result.warnings)
    target = tmp_path / "out.mkv"
    runs = 0
    while True:
        stop = threading.Event()
        stop.set()  # ends the run when a segment is finished
        with contextlib.suppress(Interrupted):
            resumed = midframe.interpolate(broken, target, drain=stop, **wanted)
            break
        runs += 1
    assert runs >= 5
    assert resumed.warnings == result.warnings
    assert (resumed.frames_out, resumed.kinds) == (result.frames_out, result.kinds)


def test_a_damaged_block_header_in_matroska(tmp_path: Path) -> None:
    """Laces that do not fit into a block: libav leaves the cluster without a word."""
    whole = make(tmp_path / "a.mkv", replace(fuzz_damage.SMALL, muxer={"cluster_time_limit": "500"}))
    with av.open(str(whole)) as opened:
        packets = [(packet.pos, bytes(packet)) for packet in opened.demux(video=0) if packet.size]
    data = bytearray(whole.read_bytes())
    place = data.index(packets[5][1], packets[5][0])
    data[place - 1 : place + 1] = b"\x02\xff"  # flags: Xiph lacing; 256 laces
    check_announced(tmp_path / "broken.mkv", bytes(data))


def test_a_fragment_in_an_unknown_box(tmp_path: Path) -> None:
    whole = make(tmp_path / "a.mp4", fuzz_damage.SOURCES["fragments.mp4"])
    data = whole.read_bytes()
    place = data.index(b"moof", data.index(b"moof") + 4)
    check_announced(tmp_path / "broken.mp4", data[:place] + b"mo/n" + data[place + 4 :])


def test_blocks_inside_an_integer_of_matroska(tmp_path: Path) -> None:
    """An integer longer than eight bytes: libav skips it, and the blocks in it, without a word."""
    whole = make(tmp_path / "a.mkv", replace(fuzz_damage.SMALL, codec="mpeg4", options={"g": "1"}))
    with av.open(str(whole)) as opened:
        places = [packet.pos for packet in opened.demux(video=0) if packet.size]
    data = bytearray(whole.read_bytes())
    begin, end = (data.rindex(b"\xa3", 0, places[n]) for n in (5, 8))  # two blocks, from their IDs on
    size = end - begin - 3
    data[begin : begin + 3] = b"\xab" + (size | 0x4000).to_bytes(2, "big")
    check_announced(tmp_path / "broken.mkv", bytes(data))


def test_frames_in_the_decoder_where_reading_stops(tmp_path: Path) -> None:
    """A sample of half a gigabyte ends reading; frames before it that the decoder delays are kept, on any cores."""
    whole = make(tmp_path / "a.mp4", fuzz_damage.SOURCES["fragments.mp4"])
    data = bytearray(whole.read_bytes())
    data[data.rindex(b"trun") + 20 + 8 * 4] = 0x20  # size of the fifth sample: after 16 bytes, 8 for each
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    assert fuzz_damage.decode(broken).frames == 28
    for cores in ({0}, set(range(os.cpu_count() or 1))):
        frames, said = fuzz_damage.read(broken, cores)
        assert frames == 28 and "reading stops at a damaged place" in said
    assert probe(broken, count=True).counted_frames == 28


def test_an_avi_whose_first_frame_is_no_key_frame(tmp_path: Path) -> None:
    """The first frame says that it is a B-frame: it lacks references and is dropped, and libav does not complain."""
    whole = make(tmp_path / "a.avi", fuzz_damage.SOURCES["mpeg4.avi"])
    data = bytearray(whole.read_bytes())
    data[data.index(b"\0\0\1\xb6") + 4] |= 0x80  # vop_coding_type, its first two bits: B
    broken = tmp_path / "broken.avi"
    broken.write_bytes(data)
    frames, warnings = read(broken)
    assert frames == fuzz_damage.decode(broken).frames == 35
    assert any("1 of 36 frames is missing (the first at 0.000 s)" in text for text in warnings)
    strict(broken)


def test_a_damaged_fragment_time_is_no_place(tmp_path: Path) -> None:
    """The second fragment lies six hours away, the third in front of it: no instant outside the video is named."""
    whole = make(tmp_path / "a.mp4", fuzz_damage.SOURCES["fragments.mp4"])
    data = bytearray(whole.read_bytes())
    place = data.index(b"tfdt", data.index(b"tfdt") + 4) + 8  # after name, version and flags
    data[place : place + 8] = (1 << 28).to_bytes(8, "big")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data)
    frames, warnings = read(broken)
    assert frames == fuzz_damage.decode(broken).frames == 24
    assert "12 of 36 frames are missing" in warnings[-1] and "the first at" not in warnings[-1]


def check_announced(path: Path, data: bytes) -> None:
    """Frames that libav skips in silence are counted, and `strict` refuses the file."""
    path.write_bytes(data)
    frames, warnings = read(path)
    assert frames == fuzz_damage.decode(path).frames < 36
    assert any(f"{36 - frames} of 36 frames are missing" in text and "at 1 place" in text for text in warnings)
    strict(path)


def mutations(folder: Path, first: int, count: int) -> list[str]:
    """Damaged copies against libav with one thread, in a process of their own."""
    command = [sys.executable, str(SCRIPT), str(folder), str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=7200, check=False)
    bad = [line for line in done.stdout.splitlines() if line.startswith("BAD")]
    if (folder / "at").read_text() != "done":
        bad.append(f"case {(folder / 'at').read_text()} ended the process ({done.returncode}): {done.stderr[-300:]}")
    return bad


def test_three_hundred_damaged_copies(tmp_path: Path) -> None:
    assert mutations(tmp_path, 0, 300) == []


@pytest.mark.slow
def test_twenty_thousand_damaged_copies(tmp_path: Path) -> None:
    assert mutations(tmp_path, 1000, 20_000) == []
