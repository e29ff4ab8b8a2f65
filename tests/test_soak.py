"""Two hours through the whole program: memory stays flat, audio and frame stay together, every frame on time.

The frames are small, so that it takes minutes. Their rate is an eighth of 24000/1001 and becomes 4: a clock that
rounds anywhere is seconds late at the end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from statistics import median

import av
import numpy as np
import pytest

from midframe.types import Segment
from midframe.video.reader import open_reader

RATE = Fraction(3000, 1001)
FPS = 4
SECONDS = 7200
SIDE = 32  # pixels
HERTZ = 8000  # of the audio
EVERY = 600  # seconds between flashes of the frame that beeps go with; the last is 1 s before the end

# Prints what the process holds, in MiB, after every 500 frames.
SOAK = """
import json, os, sys
import midframe
held = []
def on_progress(progress):
    if progress.frames % 500 == 0:
        with open("/proc/self/statm") as file:
            held.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20)
result = midframe.interpolate(
    sys.argv[1], sys.argv[2], fps=int(sys.argv[3]), model="blend", device="cpu", preset="ultrafast",
    on_progress=on_progress,
)
print(json.dumps({"held": held, "frames": result.frames_out, "seconds": result.statistics["seconds"]}))
"""


def marks() -> list[int]:
    """Numbers of the frames that are white."""
    return [round(at * RATE) for at in (*range(EVERY, SECONDS, EVERY), SECONDS - 1)]


def long_video(path: Path) -> Path:
    """A moving ramp; white frames, and a beep that begins with each of them."""
    flashes = set(marks())
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    ramps = [((x * 3 + y + shift * 4) % 64 + 32).astype(np.uint8) for shift in range(16)]
    beeps = [round(n / RATE * HERTZ) for n in sorted(flashes)]
    tone = (8000 * np.sin(np.arange(HERTZ // 4) * 2 * np.pi * 440 / HERTZ)).astype(np.int16)
    wave = np.zeros(SECONDS * HERTZ, np.int16)
    for at in beeps:
        wave[at : at + len(tone)] = tone[: len(wave) - at]
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=RATE, options={"preset": "ultrafast", "g": "60"})
        video.width, video.height, video.pix_fmt = SIDE, SIDE, "gray"
        audio = out.add_stream("flac", rate=HERTZ, layout="mono")
        for second in range(SECONDS):
            chunk = av.AudioFrame.from_ndarray(
                wave[None, second * HERTZ : (second + 1) * HERTZ], format="s16", layout="mono"
            )
            chunk.sample_rate, chunk.pts, chunk.time_base = HERTZ, second * HERTZ, Fraction(1, HERTZ)
            out.mux(audio.encode(chunk))
            for n in range(-(-second * RATE // 1), -(-(second + 1) * RATE // 1)):
                plane = np.full((SIDE, SIDE), 255, np.uint8) if n in flashes else ramps[n % 16]
                frame = av.VideoFrame.from_ndarray(plane, format="gray")
                frame.pts, frame.time_base = n, 1 / RATE
                out.mux(video.encode(frame))
        out.mux(video.encode(None))
        out.mux(audio.encode(None))
    return path


def stamps(path: Path, kind: str) -> list[Fraction]:
    with av.open(str(path)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return sorted(p.pts * p.time_base for p in container.demux(stream) if p.pts is not None and p.size)


def audio_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]


def seen_at(path: Path, expected: Fraction) -> float:
    """When the flash near an instant is shown: the middle of its brightness, which rises and falls evenly."""
    dark = 96.0
    light = []
    with open_reader(path, Segment(expected - 1, expected + 1)) as frames:
        for frame in frames:
            light.append((float(frame.pts), max(0.0, frame.planes[0].float().mean().item() - dark)))
    return sum(at * bright for at, bright in light) / sum(bright for _, bright in light)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_two_hours(tmp_path: Path) -> None:
    source, target = long_video(tmp_path / "in.mkv"), tmp_path / "out.mp4"
    words = [sys.executable, "-c", SOAK, str(source), str(target), str(FPS)]
    said = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

    held = said["held"]
    tenth = len(held) // 10
    early, late = median(held[tenth : 2 * tenth]), median(held[-tenth:])
    drifts = [seen_at(target, n / RATE) - float(n / RATE) for n in marks()]
    print(
        f"{said['frames']} frames in {said['seconds']} s; {early:.0f} MiB held at a tenth, {late:.0f} at the end, "
        f"{max(held):.0f} at most; flashes off by {min(drifts) * 1000:.1f} to {max(drifts) * 1000:.1f} ms"
    )
    assert late - early < 16, f"{early:.0f} MiB at a tenth of the video, {late:.0f} MiB at the end"

    count = -(-SECONDS * RATE // 1)
    assert said["frames"] == -(-count * FPS // RATE)
    assert stamps(target, "video") == [Fraction(k, FPS) for k in range(said["frames"])]
    assert audio_of(target) == audio_of(source)
    assert all(
        abs(a - b) <= Fraction(1, 1000) for a, b in zip(*(stamps(p, "audio") for p in (source, target)), strict=True)
    )
    assert [round(drift * FPS) for drift in drifts] == [0] * len(drifts)
    assert max(drifts) - min(drifts) < 1 / FPS / 2
