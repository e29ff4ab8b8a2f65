"""What `probe` says of videos whose every property is known, and of files that are none."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from clips import NTSC_24, Clip, make, png, png_bytes
from midframe.errors import MediaError, MidframeError, UnsupportedError
from midframe.video.files import open_source
from midframe.video.probe import key_times, probe
from midframe.video.rates import header_rates, measure_rate
from midframe.video.reader import open_reader

MASTER = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"


@pytest.mark.parametrize(
    ("rate", "suffix"),
    [(Fraction(24), ".mp4"), (NTSC_24, ".mkv"), (2 * NTSC_24, ".mkv"), (5 * NTSC_24, ".mkv"),
     (Fraction(30000, 1001), ".mp4"), (Fraction(25), ".avi"),
     (Fraction(60000, 1001), ".mkv"), (Fraction(50), ".ts"), (Fraction(10), ".mov")],
)  # fmt: skip
def test_rates_survive_every_time_base(tmp_path: Path, rate: Fraction, suffix: str) -> None:
    codec = "mpeg4" if suffix == ".avi" else "libx264"  # AVI has no place for the order of B frames
    info = probe(make(tmp_path / f"a{suffix}", Clip(rate=rate, codec=codec)))
    assert (info.rate, info.vfr) == (rate, False)
    assert info.start == 0


@pytest.mark.parametrize("rate", [Fraction(10), NTSC_24, Fraction(60000, 1001)])
def test_a_raw_stream_has_the_rate_of_its_bitstream(tmp_path: Path, rate: Fraction) -> None:
    path = tmp_path / "a.h264"
    with av.open(path, "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64), 20 * shade, np.uint8), "gray")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode())
    info = probe(path)
    assert (info.rate, info.vfr) == (rate, False)
    with open_reader(path) as reader:
        assert [frame.pts for frame in reader] == [n / rate for n in range(12)]


def test_a_variable_rate_is_seen(tmp_path: Path) -> None:
    info = probe(make(tmp_path / "a.mp4", Clip(pts=[n for n in range(36) if n % 3], tick=Fraction(1, 24))))
    assert info.vfr and info.rate == 24
    # late in the video, behind the first look: the index tells
    late = [*range(700), *range(702, 760)]
    info = probe(make(tmp_path / "b.mp4", Clip(width=16, height=16, frames=len(late), pts=late)))
    assert info.vfr


def test_late_start_and_duration(tmp_path: Path) -> None:
    info = probe(make(tmp_path / "a.mp4", Clip(pts=range(12, 36), audio=1)))
    assert info.start == Fraction(1, 2)
    assert info.duration == 1
    assert info.origin == 0
    # a broadcast clock starts anywhere
    info = probe(make(tmp_path / "b.ts", Clip(pts=range(48, 72))))
    assert (info.start, info.origin) == (0, 2)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_is_clockwise(tmp_path: Path, degrees: int) -> None:
    assert probe(make(tmp_path / "a.mov", Clip(rotation=degrees))).rotation == degrees


def test_aspect_size_and_frames(tmp_path: Path) -> None:
    info = probe(make(tmp_path / "a.mp4", Clip(width=48, height=64, aspect=Fraction(16, 15))), count=True)
    assert (info.width, info.height, info.sample_aspect) == (48, 64, Fraction(16, 15))
    assert (info.header_frames, info.counted_frames) == (24, 24)


def test_colour_is_read_and_guessed_only_where_it_is_not_said(tmp_path: Path) -> None:
    said = probe(make(tmp_path / "a.mkv", Clip(matrix=6, primaries=6, transfer=6)))
    assert (said.format.matrix, said.format.primaries, said.format.transfer) == ("smpte170m",) * 3
    assert said.untagged == frozenset()
    small = probe(make(tmp_path / "b.mkv", Clip(matrix=2, primaries=2, transfer=2)))
    assert (small.format.matrix, small.untagged) == ("smpte170m", {"matrix"})
    large = probe(make(tmp_path / "c.mkv", Clip(matrix=2, width=1280, height=720, frames=2)))
    assert large.format.matrix == "bt709"
    full = probe(make(tmp_path / "d.mkv", Clip(full_range=True)))
    assert full.format.full_range


def test_hdr(tmp_path: Path) -> None:
    clip = Clip(codec="libx265", pixels="yuv420p10le", matrix=9, primaries=9, transfer=16,
                options={"x265-params": f"log-level=none:chromaloc=2:{MASTER}"}, frames=4)  # fmt: skip
    info = probe(make(tmp_path / "a.mkv", clip))
    assert (info.hdr, info.format.depth, info.format.siting) == ("PQ", 10, "topleft")
    assert info.content_light == (1000, 400)
    assert info.mastering is not None
    assert info.mastering.red == (Fraction(68, 100), Fraction(32, 100))
    assert (info.mastering.brightest, info.mastering.darkest) == (1000, Fraction(1, 10000))
    hlg = probe(make(tmp_path / "b.mkv", replace(clip, transfer=18, options={"x265-params": "log-level=none"})))
    assert (hlg.hdr, hlg.mastering, hlg.format.siting) == ("HLG", None, "left")


@pytest.mark.parametrize(
    ("clip", "name", "expected"),
    [
        (Clip(codec="ffv1", pixels="yuv422p10le"), "a.mkv", "yuv422p10le"),
        (Clip(codec="ffv1", pixels="yuv444p12le"), "a.mkv", "yuv444p12le"),
        (Clip(codec="ffv1", pixels="bgra"), "a.mkv", "gbrap"),
        (Clip(codec="ffv1", pixels="gray"), "a.mkv", "gray"),
        (Clip(codec="rawvideo", pixels="nv12"), "a.nut", "yuv420p"),
        (Clip(codec="rawvideo", pixels="yuyv422"), "a.nut", "yuv422p"),
        (Clip(codec="rawvideo", pixels="rgb24"), "a.nut", "gbrp"),
        (Clip(codec="mjpeg", pixels="yuvj420p", full_range=True), "a.avi", "yuv420p"),
        (Clip(codec="prores_ks", pixels="yuva444p10le", options={"profile": "4444"}), "a.mov", "yuva444p12le"),
        (Clip(codec="libvpx-vp9", width=33, height=17), "a.webm", "yuv420p"),
    ],
)
def test_pixel_formats(tmp_path: Path, clip: Clip, name: str, expected: str) -> None:
    info = probe(make(tmp_path / name, replace(clip, frames=2)))
    assert info.format.name == expected
    assert info.format.alpha == (expected[:4] in ("yuva", "gbra"))
    if clip.codec == "mjpeg":
        assert info.format.full_range and info.format.siting == "center"


def test_interlaced(tmp_path: Path) -> None:
    assert probe(make(tmp_path / "a.mkv", Clip(interlaced=True, height=64))).interlaced
    assert not probe(make(tmp_path / "b.mkv", Clip(height=64))).interlaced


def test_cover_art_is_not_the_video(tmp_path: Path) -> None:
    for suffix in (".mp4", ".mkv"):
        info = probe(make(tmp_path / f"a{suffix}", Clip(cover=True, audio=1)))
        assert (info.codec, info.width) == ("h264", 64)
        assert any("attached_pic" in stream.disposition for stream in info.streams)
        assert not info.warnings


def test_all_streams_are_listed(tmp_path: Path) -> None:
    clip = Clip(audio=3, subtitles=("ass", "subrip"), chapters=2, attachment=True, tags={"title": "A video"})
    info = probe(make(tmp_path / "a.mkv", clip))
    assert [s.kind for s in info.streams] == ["video", "audio", "audio", "audio", "subtitle", "subtitle", "attachment"]
    assert [s.language for s in info.streams if s.kind == "audio"] == ["eng", "fra", "deu"]
    assert ["default" in s.disposition for s in info.streams if s.kind == "audio"] == [False, True, False]
    assert (info.chapters, info.tags["title"]) == (2, "A video")


def test_key_times(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mkv", Clip(options={"g": "8", "sc_threshold": "0"}, pts=range(2, 26)))
    info = probe(path)
    found = key_times(path, info)
    assert [round((t - info.start) * 24) for t in found] == [0, 8, 16]


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts", "avi"])
def test_a_video_longer_than_the_look_is_not_taken_for_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """The look ends amid frames that are decoded before those that are shown before them."""
    b_frames = {} if suffix == "avi" else {"bf": "3", "b-adapt": "0"}
    path = make(tmp_path / f"video.{suffix}", Clip(frames=72, options={"g": "9", **b_frames}))
    for packets in range(40, 48):
        monkeypatch.setattr("midframe.video.probe.SCAN_PACKETS", packets)
        info = probe(path)
        assert (info.vfr, info.rate) == (False, 24), packets


def test_rates_of_headers() -> None:
    """libav reads 48000/1001 from Matroska as 7001/146; 59.94 in yuv4mpeg2 means 59.94."""
    read = (Fraction(7001, 146), Fraction(19001, 317), Fraction(29011, 242), Fraction(24000, 1001))
    assert header_rates(*read) == [2 * NTSC_24, Fraction(60000, 1001), 5 * NTSC_24, NTSC_24]
    assert header_rates(Fraction(5994, 100), None, 25, 0, Fraction(90000)) == [Fraction(5994, 100), 25]


def test_measured_rates() -> None:
    ms = Fraction(1, 1000)
    video = [round(n / NTSC_24 / ms) for n in range(200)]
    assert measure_rate(video, ms, [Fraction(2397, 100)]) == (NTSC_24, False)
    assert measure_rate(video, ms, []) == (NTSC_24, False)
    assert measure_rate([0], ms, [Fraction(25)]) == (25, False)
    assert measure_rate([], ms, []) == (None, False)
    # a screen recording: 30 fps with long holds
    held = [n for n in range(300) if n % 50 < 40]
    rate, variable = measure_rate([round(n * 1000 / 30) for n in held], ms, [Fraction(24)])
    assert (rate, variable) == (30, True)
    # a rate that no video has is taken as measured where it is constant
    odd = [n * 3003 for n in range(50)]
    assert measure_rate(odd, Fraction(1, 90000), []) == (Fraction(30000, 1001), False)
    assert measure_rate([n * 37 for n in range(50)], ms, []) == (Fraction(1000, 37), False)


def refused(path: Path | str, *words: str, kind: type[MidframeError] = MediaError) -> None:
    with pytest.raises(kind) as caught:
        probe(path)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    refused(tmp_path / "missing.mp4", "does not exist")
    (tmp_path / "empty.mp4").touch()
    refused(tmp_path / "empty.mp4", "is empty")
    (tmp_path / "text.mp4").write_text("This is not a video.\n" * 50)
    refused(tmp_path / "text.mp4", "holds text")
    (tmp_path / "page.mp4").write_text("<!DOCTYPE html><html><body>Not found</body></html>")
    refused(tmp_path / "page.mp4", "HTML")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")
    refused(tmp_path / "list.mp4", "playlist", kind=UnsupportedError)
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 64)
    refused(tmp_path / "noise.mp4", "not a video")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "no images")
    refused("a" * 5000 + ".mp4", "cannot be opened")
    refused("null\0character.mp4")


def test_audio_alone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w", format="mp4") as out:
        audio = out.add_stream("aac", rate=48000)
        chunk = av.AudioFrame(format="fltp", layout="stereo", samples=1024)
        chunk.sample_rate, chunk.pts = 48000, 0
        for plane in chunk.planes:
            plane.update(bytes(plane.buffer_size))
        out.mux([*audio.encode(chunk), *audio.encode(None)])
    refused(path, "audio only")


def test_a_header_without_frames_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as out:
        out.add_stream("libx264", rate=24)
        out.start_encoding()
    with pytest.raises(MediaError):
        probe(path)


def test_frames_that_do_not_decode_are_no_part_of_the_length(tmp_path: Path) -> None:
    """As in a broadcast that was recorded from anywhere on: the first key frame comes half a second late."""
    whole = make(tmp_path / "a.ts", Clip(frames=72, options={"g": "12", "bf": "0", "x264-params": "scenecut=0"}))
    with av.open(str(whole)) as container, av.open(str(tmp_path / "b.ts"), "w") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        for n, packet in enumerate(container.demux(video=0)):
            if n > 5 and packet.size:
                packet.stream = stream
                out.mux(packet)
    info = probe(tmp_path / "b.ts")
    assert info.duration is not None
    assert abs(info.duration - Fraction(60, 24)) <= Fraction(1, 12)


def test_half_a_file(tmp_path: Path) -> None:
    # an MP4 whose index is at the end and lost; a Matroska file has what it needs at the start
    whole = make(tmp_path / "a.mp4", Clip()).read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "half.mp4", "damaged")
    whole = make(tmp_path / "a.mkv", Clip()).read_bytes()
    (tmp_path / "half.mkv").write_bytes(whole[: len(whole) // 2])
    assert probe(tmp_path / "half.mkv").rate == 24


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4")
    path.chmod(0)
    refused(path, "permissions")


@pytest.mark.parametrize(
    "name",
    ["with space.mp4", "quote's \"double\".mp4", "unicode-ü-日本-🎬.mp4", "-dash.mp4", "colon:file.mp4", "%03d.mp4",
     "http:.mp4", "a*b?[c].mp4", "semi;rm -rf.mp4", "new\nline.mp4"],
)  # fmt: skip
def test_odd_names(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(make(tmp_path / "plain.mp4", Clip(frames=2)), tmp_path / name)
    assert probe(tmp_path / name).width == 64
    monkeypatch.chdir(tmp_path)
    assert probe(name).width == 64


def test_only_the_named_file_is_opened(tmp_path: Path) -> None:
    # a concat script and a playlist naming a real video next to them: neither may be followed
    make(tmp_path / "real.mp4")
    (tmp_path / "script.mp4").write_text("ffconcat version 1.0\nfile real.mp4\n")
    refused(tmp_path / "script.mp4")
    (tmp_path / "list.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-VERSION:3\n#EXTINF:1,\nreal.mp4\n#EXT-X-ENDLIST\n"
    )
    refused(tmp_path / "list.m3u8", "playlist", kind=UnsupportedError)
    with pytest.raises(MediaError), open_source(tmp_path / "script.mp4"):
        pass


def test_frames(tmp_path: Path) -> None:
    for n in range(12):
        png(tmp_path / f"shot_{n}.png", n)
    info = probe(tmp_path, in_rate=Fraction(12))
    assert (info.container, info.header_frames, info.rate, info.duration) == ("images", 12, 12, 1)
    assert info.format.name == "gbrp"
    assert any("--in-fps" in warning for warning in probe(tmp_path).warnings)
    assert probe(tmp_path / "shot_%d.png").header_frames == 12
    assert probe(tmp_path / "shot_1*.png").header_frames == 3
    (tmp_path / "broken.png").write_bytes(png_bytes()[:40])
    refused(tmp_path / "broken.png", "not an image")


@pytest.mark.skipif("MIDFRAME_DATA" not in os.environ, reason="needs MIDFRAME_DATA")
def test_no_file_of_the_collection_breaks_it() -> None:
    for path in sorted((Path(os.environ["MIDFRAME_DATA"]) / "edge").iterdir()):
        try:
            info = probe(path)
        except MediaError as error:
            assert "\n" not in str(error)
        else:
            assert info.width > 0 and info.rate is not None


def hdr10_plus() -> bytes:
    """A prefix SEI unit of HEVC with HDR10+ metadata (SMPTE ST 2094-40, one window, no curve)."""
    fields = [(0xB5, 8), (0x3C, 16), (1, 16), (4, 8), (1, 8), (1, 2), (1000, 27), (0, 1)]
    fields += [(5, 17), (5, 17), (5, 17), (3, 17), (0, 4), (0, 10), (0, 1), (0, 1), (0, 1)]
    bits = "".join(f"{value:0{length}b}" for value, length in fields)
    bits += "0" * (-len(bits) % 8)
    payload = int(bits, 2).to_bytes(len(bits) // 8, "big")
    unit = bytearray(b"\x4e\x01")
    for byte in bytes([4, len(payload)]) + payload + b"\x80":
        if unit[-2:] == b"\0\0" and byte <= 3:
            unit.append(3)  # emulation prevention
        unit.append(byte)
    return len(unit).to_bytes(4, "big") + bytes(unit)


def test_hdr10_plus_is_announced(tmp_path: Path) -> None:
    options = {"x265-params": "log-level=none"}
    clip = Clip(width=64, height=48, frames=4, codec="libx265", pixels="yuv420p10le", options=options)
    plain = make(tmp_path / "a.mkv", clip)
    assert probe(plain).warnings == ()
    target = tmp_path / "b.mkv"
    with av.open(str(plain)) as source, av.open(str(target), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                made = av.Packet(hdr10_plus() + bytes(packet))
                made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
                made.is_keyframe, made.stream = packet.is_keyframe, stream
                out.mux(made)
    assert probe(target).warnings == ("HDR10+ dynamic metadata cannot be kept; static HDR metadata is kept",)
