"""Audio stays beside its video where the clock of a file jumps."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import av
import pytest

import midframe
from clips import Clip, make
from midframe.video.mux import AudioClock


def audio_stamps(path: Path) -> list[float]:
    with av.open(path) as container:
        stream = container.streams.audio[0]
        return [float(packet.pts * packet.time_base) for packet in container.demux(stream) if packet.size]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_recording_in_two_parts_keeps_all_its_audio(tmp_path: Path, suffix: str) -> None:
    part = make(tmp_path / "part.ts", Clip(frames=48, audio=1))
    whole = tmp_path / "whole.ts"
    whole.write_bytes(part.read_bytes() * 2)
    once, twice = tmp_path / f"once{suffix}", tmp_path / f"twice{suffix}"
    for source, target in ((part, once), (whole, twice)):
        result = midframe.interpolate(source, target, model="blend", device="cpu")
    assert any("clock of stream 1 (audio) jumps" in note for note in result.dropped), result.dropped
    first, both = audio_stamps(once), audio_stamps(twice)
    assert len(both) == 2 * len(first)
    steps = [b - a for a, b in pairwise(both)]
    assert min(steps) > 0.015 and max(steps) < 0.03
    assert abs(both[-1] - 2 * first[-1]) < 0.1


def corrected(stamps: list[int], duration: Fraction = Fraction(60)) -> list[int]:
    """Timestamps of packets of 20 ms, in milliseconds, as `AudioClock` corrects them."""
    clock = AudioClock(SimpleNamespace(duration=duration, start=Fraction(0), origin=Fraction(0)))  # type: ignore[arg-type]
    packets = [SimpleNamespace(pts=x, dts=x, duration=20, time_base=Fraction(1, 1000)) for x in stamps]
    for packet in packets:
        clock.correct(packet)
    return [packet.dts for packet in packets]


def test_the_audio_clock_follows_jumps_but_no_single_wrong_timestamp() -> None:
    steady = [20 * n for n in range(200)]
    assert corrected(steady) == steady
    assert corrected(steady[:100] + steady[:100]) == steady
    assert corrected([*steady[:100], *(x + 10_000_000 for x in steady[100:])]) == steady  # far beyond the end
    pause = [*steady[:100], *(x + 5000 for x in steady[100:])]
    assert corrected(pause) == pause  # audio may be missing
    wrong = [*steady[:100], steady[100] + 5000, *steady[101:]]
    assert corrected(wrong)[101:] == steady[101:]
