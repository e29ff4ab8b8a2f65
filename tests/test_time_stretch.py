"""Audio follows the speed of the video: pitch, length, and where each audio is heard."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

import midframe
from midframe.speed import SpeedMap, parse
from midframe.video.time_stretch import TimeStretch

Samples = NDArray[np.float32]


def sine(rate: int, seconds: float, hertz: float = 440.0) -> Samples:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)[None]


def pitch(samples: Samples, rate: int) -> float:
    """The strongest frequency, in Hz, to a fiftieth of a hertz."""
    part = samples * np.hanning(len(samples))
    return float(np.argmax(np.abs(np.fft.rfft(part, 50 * rate))) / 50)


def envelope(samples: Samples) -> Samples:
    """The amplitude of a tone at every sample, by the analytic signal."""
    spectrum = np.fft.fft(samples)
    spectrum[len(samples) // 2 :] = 0
    return np.abs(2 * np.fft.ifft(spectrum)).astype(np.float32)


def stretched(source: Samples, rate: int, source_of: Callable[[int], float], end: int, block: int = 1024) -> Samples:
    stretch = TimeStretch(rate, 0, 0, source_of)
    made = [stretch.push(source[:, at : at + block]) for at in range(0, source.shape[1], block)]
    return np.concatenate([*made, stretch.finish(end)], axis=1)


@pytest.mark.parametrize("rate", [8000, 48000])
@pytest.mark.parametrize("speed", [1 / 16, 0.5, 0.9, 1.5, 4.0])
def test_a_sine_stays_a_sine_of_its_frequency(rate: int, speed: float) -> None:
    source = sine(rate, 2 * max(1.0, speed))
    end = round(source.shape[1] / speed)
    made = stretched(source, rate, lambda sample: sample * speed, end)[0]
    assert made.shape == (end,)
    middle = made[rate // 10 : -rate // 10]
    assert abs(pitch(middle, rate) - 440) < 0.5
    assert abs(envelope(middle)[rate // 20 : -rate // 20] - 0.5).max() < 0.03


def test_own_speed_is_exact_whatever_the_blocks() -> None:
    source = np.random.default_rng(1).normal(0, 0.2, (2, 30_001)).astype(np.float32)
    for block in (1, 1024, 40_000):
        made = stretched(source[:, :3000] if block == 1 else source, 8000, float, 3000 if block == 1 else 30_001, block)
        assert np.abs(made - source[:, : made.shape[1]]).max() < 1e-6


def test_blocks_do_not_matter() -> None:
    source = sine(8000, 2.0) + np.random.default_rng(2).normal(0, 0.1, (1, 16_000)).astype(np.float32)
    one, two = (stretched(source, 8000, lambda sample: sample * 0.37, 43_000, block) for block in (160, 16_000))
    assert (one == two).all()


def recording(path: Path, samples: Samples, late: Iterable[tuple[int, int]] = ()) -> Path:
    """Video of 4 s at 24 fps with audio at 48 kHz; `late` moves all blocks from an index on by so many samples."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=24)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        audio = out.add_stream("pcm_s16le", rate=48000, layout="mono")
        for n in range(96):
            frame = av.VideoFrame(32, 32, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([16 + n]) * plane.buffer_size)
            frame.pts = n
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for at in range(0, samples.shape[1], 1200):
            block = av.AudioFrame.from_ndarray(
                np.round(samples[:, at : at + 1200] * 32767).astype(np.int16), "s16", "mono"
            )
            block.sample_rate, block.time_base = 48000, Fraction(1, 48000)
            block.pts = at + sum(by for begin, by in late if at >= begin)
            out.mux(audio.encode(block))
    return path


def heard(path: Path) -> Samples:
    with av.open(str(path)) as opened:
        parts = [frame.to_ndarray() for frame in opened.decode(audio=0)]
    return (np.concatenate(parts, axis=1)[0] / 32767).astype(np.float32)


def run(source: Path, target: Path, **options: Any) -> midframe.Result:
    return midframe.interpolate(source, target, model="blend", device="cpu", **options)


RAMP = "0-1:1, 1-2:1>0.25, 2-3:0.25"


def test_audio_follows_a_ramp_to_the_sample(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.mkv", sine(48000, 4.0))
    said: list[Any] = []
    result = run(source, tmp_path / "out.mkv", speed=RAMP, on_plan=said.append)
    assert any("stretched, its pitch kept" in note for note in said[0].notes)
    made = heard(result.path)
    expected = SpeedMap.of(parse(RAMP)).output(Fraction(4)) * 48000  # 1 + 1.6 + 4 + 1 seconds
    assert abs(len(made) - expected) <= 1
    assert abs(Fraction(len(made), 48000) - Fraction(result.frames_out) / 24) < Fraction(1, 24)
    for begin, end in ((0.1, 0.9), (1.1, 2.5), (2.7, 6.5), (6.7, 7.5)):
        assert abs(pitch(made[round(begin * 48000) : round(end * 48000)], 48000) - 440) < 0.5
    assert abs(envelope(made)[4800:-4800] - 0.5).max() < 0.03, "no click and no dip at the seams"
    run(source, tmp_path / "silent.mkv", speed=RAMP, slow_audio="drop")
    with av.open(str(tmp_path / "silent.mkv")) as opened:
        assert not opened.streams.audio


def test_every_tone_is_heard_when_its_frame_is_shown(tmp_path: Path) -> None:
    samples = np.zeros((1, 4 * 48000), np.float32)
    tone, instants = sine(48000, 0.1, 1000.0), [Fraction(n, 8) for n in range(1, 31, 3)]
    for at in instants:
        samples[:, int(at * 48000) : int(at * 48000) + 4800] = tone
    source = recording(tmp_path / "in.mkv", samples)
    for options in ({"speed": RAMP}, {"slowmo": 3, "slow_audio": "stretch"}):
        made = heard(run(source, tmp_path / "out.mkv", overwrite=True, **options).path)
        pace = SpeedMap.of(parse(RAMP)) if "speed" in options else SpeedMap.constant(Fraction(1, 3))
        loud = np.abs(made) > 0.05
        quiet_before = np.cumsum(np.concatenate([[0], loud]))
        begins = [n for n in np.flatnonzero(loud) if quiet_before[n] == quiet_before[max(0, n - 960)]]
        assert len(begins) == len(instants)
        for begin, at in zip(begins, instants, strict=True):
            # a window is moved by at most 10 ms, and reaches 20 ms to either side
            assert abs(begin / 48000 - float(pace.output(at))) < 0.03


def test_missing_audio_is_silence_when_it_is_stretched(tmp_path: Path) -> None:
    source = recording(tmp_path / "in.mkv", sine(48000, 2.0), late=[(48000, 24000), (72000, 24000)])
    made = heard(run(source, tmp_path / "out.mkv", slowmo=2, slow_audio="stretch").path)
    assert abs(len(made) - 2 * 3 * 48000) <= 1
    loud = envelope(made)
    for begin, end, level in ((0.2, 1.8, 0.5), (2.2, 2.8, 0.0), (3.2, 3.8, 0.5), (4.2, 4.8, 0.0), (5.2, 5.8, 0.5)):
        assert abs(loud[round(begin * 48000) : round(end * 48000)] - level).max() < 0.03, (begin, end)
