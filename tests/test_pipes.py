"""Streams in and out: yuv4mpeg2 and containers through pipes, with ffmpeg at both ends where it is installed."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import clips
from clips import Clip
from commands import Call
from midframe import streaming
from midframe.errors import InputError, MediaError, UnsupportedError
from midframe.options import Options
from midframe.types import PixelFormat
from midframe.video.encoders import choose_encoder
from midframe.video.pipes import PipeReader, StreamWriter, y4m_format
from midframe.video.probe import probe
from test_writer import PLAIN as PLAIN_FORMAT
from test_writer import flat, info_of

MIDFRAME = [sys.executable, "-m", "midframe"]
PLAIN = ["--model", "blend", "--device", "cpu"]
QUICK = [*PLAIN, "--scene", "off", "--static", "off"]
FFMPEG = shutil.which("ffmpeg")
VSPIPE = os.environ.get("MIDFRAME_VSPIPE") or shutil.which("vspipe")


def y4m(frames: int, chroma: str = "420jpeg", rate: str = "24:1", bits: int = 8, scale: int = 1) -> bytes:
    """A stream of gray frames, each 8 levels brighter than the one before."""
    width, height = 32 * scale, 16 * scale
    samples = {"420": 3 * width * height // 2, "422": 2 * width * height, "444": 3 * width * height}[chroma[:3]]
    sample = np.uint8 if bits == 8 else np.dtype("<u2")
    head = f"YUV4MPEG2 W{width} H{height} F{rate} Ip A4:3 C{chroma}\n".encode()
    return head + b"".join(
        b"FRAME\n" + np.full(samples, (40 + 8 * n) << (bits - 8), sample).tobytes() for n in range(frames)
    )


def through(data: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*MIDFRAME, "interpolate", "-", "-o", "-", *words], input=data, capture_output=True)


def decoded(data: bytes) -> list[np.ndarray[Any, Any]]:
    with av.open(io.BytesIO(data)) as opened:
        return [frame.to_ndarray() for frame in opened.decode(video=0)]


@pytest.mark.parametrize(
    ("chroma", "bits"), [("420jpeg", 8), ("422", 8), ("444", 8), ("420p10", 10), ("422p12", 12), ("444p16", 16)]
)
def test_y4m_keeps_depth_subsampling_rate_and_aspect(chroma: str, bits: int) -> None:
    ended = through(y4m(4, chroma, rate="24000:1001", bits=bits), *QUICK)
    assert ended.returncode == 0, ended.stderr
    head = ended.stdout.split(b"\n", 1)[0].decode().split()
    assert head[:6] == ["YUV4MPEG2", "W32", "H16", "F48000:1001", "Ip", "A4:3"] and head[6] == f"C{chroma}"
    size = len(y4m(1, chroma, bits=bits)) - len(y4m(0, chroma))
    body = ended.stdout.split(b"\n", 1)[1]
    assert len(body) == 8 * size
    sample = np.uint8 if bits == 8 else np.dtype("<u2")
    first = [int(np.frombuffer(body[n * size + 6 : n * size + 8], sample)[0]) for n in range(8)]
    assert first == [(40 + 4 * min(n, 6)) << (bits - 8) for n in range(8)], "passed and interpolated in turn"
    assert b"no resume" in ended.stderr


@pytest.mark.parametrize("kind", ["mkv", "nut"])
def test_containers_in_and_out(tmp_path: Path, kind: str) -> None:
    source = clips.make(tmp_path / "in.mkv", Clip(frames=10, rate=Fraction(25), aspect=Fraction(4, 3), audio=1))
    ended = through(source.read_bytes(), *PLAIN, "--format", kind, "--fps", "59.94")
    assert ended.returncode == 0, ended.stderr
    assert b"audio and all streams but the video are left out" in ended.stderr
    with av.open(io.BytesIO(ended.stdout)) as made:
        stream = made.streams.video[0]
        assert stream.sample_aspect_ratio == Fraction(4, 3)
        tick = stream.time_base
        assert tick is not None
        times = [frame.pts * tick for frame in made.decode(stream)]
    assert len(times) == 24
    # NUT has no negative decoding times: it begins by the depth of reordering later
    assert all(abs(at - times[0] - n * Fraction(1001, 60000)) < Fraction(1, 900) for n, at in enumerate(times))


@pytest.mark.parametrize("codec", ["libx264", "ffv1", "libvpx-vp9"])
def test_aspect_and_rate_in_the_header_of_a_piped_matroska(tmp_path: Path, codec: str) -> None:
    """libav's muxer gets no aspect from PyAV, and writes the rate as the length of a frame in nanoseconds."""
    rate, info = Fraction(48000, 1001), info_of(sample_aspect=Fraction(16, 11))
    encoding = choose_encoder(info, "x.mkv", codec)
    with (
        open(tmp_path / "x.mkv", "wb") as file,
        StreamWriter(file, "mkv", info, encoding, rate, 1 / rate) as writer,
    ):
        for n in range(8):
            writer.write(flat(PLAIN_FORMAT, n, step=1 / rate))
    found = probe(tmp_path / "x.mkv")
    assert (found.rate, found.vfr, found.sample_aspect, found.header_frames) == (rate, False, Fraction(16, 11), 8)
    with PipeReader(tmp_path / "x.mkv") as reader:
        assert (reader.info.rate, reader.info.sample_aspect) == (rate, Fraction(16, 11))


def test_a_stream_to_a_file_and_a_file_to_a_stream(tmp_path: Path, call: Call) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=6))
    assert call("interpolate", source, "-o", tmp_path / "out.y4m", *PLAIN).code == 0
    assert len(decoded((tmp_path / "out.y4m").read_bytes())) == 12
    assert call("interpolate", source, "-o", tmp_path / "out.y4m", *PLAIN).code == 2, "it exists"
    with open(tmp_path / "out.y4m", "rb") as stream:
        words = [*MIDFRAME, "interpolate", "-", "-o", str(tmp_path / "again.mkv"), *PLAIN]
        assert subprocess.run(words, stdin=stream, capture_output=True).returncode == 0
    with av.open(str(tmp_path / "again.mkv")) as again:
        assert sum(1 for _ in again.decode(video=0)) == 24
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.mkv", "in.mp4", "out.y4m"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_fifo_is_read_as_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in.y4m")
    writer = threading.Thread(target=lambda: (tmp_path / "in.y4m").write_bytes(y4m(5)))
    writer.start()
    result = streaming.interpolate_stream(
        tmp_path / "in.y4m", tmp_path / "out.y4m", Options.parse(model="blend", device="cpu")
    )
    writer.join()
    assert result.frames_out == 10 == len(decoded((tmp_path / "out.y4m").read_bytes()))


def test_an_endless_stream_has_a_latency_of_one_gap_and_ends_when_nobody_reads() -> None:
    """Every frame that goes in gives the outputs of the gap that it closes; the reader of the output then leaves."""
    words = [*MIDFRAME, "interpolate", "-", "-o", "-", *QUICK]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, bufsize=0, **pipes) as running:  # type: ignore[call-overload]
        watchdog = threading.Timer(120, running.kill)
        watchdog.start()
        first = y4m(1, scale=6)  # libav looks at 2 kB before anything else
        frame = first.split(b"\n", 1)[1]
        running.stdin.write(first)
        out = io.BufferedReader(running.stdout)
        for number in range(100):
            running.stdin.write(frame)
            if number == 0:
                out.readline()
            assert len(out.read(2 * len(frame))) == 2 * len(frame), "waits for no later frame"
        out.close()
        with pytest.raises(BrokenPipeError):
            while True:
                running.stdin.write(frame)
        said = running.stderr.read().decode()
        watchdog.cancel()
    assert running.returncode == 0, said
    assert "Traceback" not in said and "its reader has closed it" in said


def test_what_a_pipe_cannot_have_is_refused(tmp_path: Path, call: Call) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=4))
    for words in (["--start", "1"], ["--compat", "modelscope"], ["--dry-run"], ["--progress", "json"]):
        assert call("interpolate", source, "-o", "-", "--model", "blend", *words).code == 2
    assert call("interpolate", "-", "--model", "blend").code == 2, "where to?"
    assert call("interpolate", source, "-o", tmp_path / "x.mkv", "--format", "nut").code == 2
    assert call("interpolate", source, "-o", "-", "--vfr", "keep", "--model", "blend").code == 2
    odd = PixelFormat("yuv411p", "yuv", 8, chroma_w=2)
    with pytest.raises(UnsupportedError, match="y4m cannot hold yuv411p"):
        y4m_format(odd)
    assert y4m_format(PixelFormat("gbrap", "rgb", 8, alpha=True)).name == "yuv444p"


@pytest.mark.parametrize("data", [b"", b"not a video at all" * 100, y4m(0)])
def test_a_stream_without_video_is_one_line(data: bytes) -> None:
    ended = through(data, *QUICK)
    assert ended.returncode == MediaError.exit_code and ended.stdout == b""
    assert ended.stderr.splitlines()[-1].startswith(b"midframe: the standard input")
    assert b"Traceback" not in ended.stderr


def test_stopping_keeps_what_was_written(tmp_path: Path) -> None:
    stop = threading.Event()
    source = clips.make(tmp_path / "in.mp4", Clip(frames=20))
    with pytest.raises(InputError, match="--format is for"):
        streaming.interpolate_stream(source, tmp_path / "o.y4m", Options(), format="y4m")
    seen: list[int] = []

    def on_progress(progress: Any) -> None:
        seen.append(progress.frames)
        if progress.frames == 7:
            stop.set()

    with pytest.raises(Exception, match="stopped after 7 frames"):
        streaming.interpolate_stream(
            source, tmp_path / "o.y4m", Options.parse(model="blend"), on_progress=on_progress, stop=stop
        )
    assert len(decoded((tmp_path / "o.y4m").read_bytes())) == 7


@pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize(
    ("pixels", "rate"), [("yuv420p", "25"), ("yuv422p10le", "24000/1001"), ("yuv444p12le", "30"), ("gray", "25")]
)
def test_recipe_ffmpeg_midframe_ffmpeg(tmp_path: Path, pixels: str, rate: str) -> None:
    """The recipe of the guide; ffmpeg writes more than 8 bits into y4m with -strict -1."""
    source = f"{FFMPEG} -v error -f lavfi -i testsrc2=s=64x48:r={rate}:d=0.5 -pix_fmt {pixels} -vf setsar=4/3"
    midframe = f"{sys.executable} -m midframe interpolate - -o - {' '.join(PLAIN)}"
    target = tmp_path / "out.nut"
    line = f"{source} -strict -1 -f yuv4mpegpipe - | {midframe} | {FFMPEG} -v error -i - -c:v ffv1 {target}"
    ended = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    shown = subprocess.run(
        [str(shutil.which("ffprobe")), "-v", "error", "-count_frames", "-of", "json", "-show_streams", str(target)],
        capture_output=True, check=True,
    )  # fmt: skip
    stream = json.loads(shown.stdout)["streams"][0]
    assert (stream["pix_fmt"], stream["sample_aspect_ratio"]) == (pixels, "4:3")
    assert Fraction(stream["r_frame_rate"]) == 2 * Fraction(rate)
    assert int(stream["nb_read_frames"]) in (2 * round(Fraction(rate) / 2), 2 * round(Fraction(rate) / 2) + 2)


@pytest.mark.skipif(VSPIPE is None, reason="vspipe is not installed (pip install vapoursynth, Python 3.12)")
def test_recipe_vspipe_midframe(tmp_path: Path) -> None:
    script = tmp_path / "in.vpy"
    script.write_text(
        "import vapoursynth as vs\n"
        "plain = vs.core.std.BlankClip(format=vs.YUV420P10, width=64, height=48, length=1, fpsnum=24000, fpsden=1001)\n"
        "steps = [vs.core.std.BlankClip(plain, color=[200 + 40 * n, 512, 512]) for n in range(6)]\n"
        "vs.core.std.Splice(steps).set_output()\n"
    )
    assert VSPIPE is not None
    out = tmp_path / "out.mkv"
    with subprocess.Popen([VSPIPE, "-c", "y4m", script, "-"], stdout=subprocess.PIPE) as source:
        ended = subprocess.run(
            [*MIDFRAME, "interpolate", "-", "-o", out, "-c", "ffv1", *QUICK], stdin=source.stdout, capture_output=True
        )
    assert source.returncode == 0 and ended.returncode == 0, ended.stderr
    with av.open(str(out)) as opened:
        stream = opened.streams.video[0]
        assert stream.codec_context.pix_fmt == "yuv420p10le"
        frames = [*opened.decode(stream)]
    assert [int(frame.to_ndarray()[0, 0]) for frame in frames] == [200 + 20 * min(n, 10) for n in range(12)]
    assert all(abs(float(frame.time) - n * 1001 / 48000) < 0.001 for n, frame in enumerate(frames))  # Matroska's ticks
