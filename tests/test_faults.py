"""Faults in the middle of a whole run: decoder, encoder, input, disk, memory, a second run.

Each ends in one clear line and keeps what is finished; the same call then gives, packet by packet, the video of a run
without a fault.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import av
import av.error
import pytest
import torch

import clips
import midframe
from clips import Clip
from commands import Call
from midframe import pipeline, plan
from midframe.errors import DeviceError, JobError, MediaError
from midframe.journal import folder_of
from midframe.models.base import RenderRequest
from midframe.result import Progress
from midframe.video import formats, writer
from model_fakes import RgbBlend

SEGMENT = 20  # outputs
EXTERNAL = av.error.tag_to_code(b"EXT ")  # what a library that libav calls fails with
VIDEO = Clip(frames=60, audio=2, subtitles=("subrip",), chapters=2, options={"g": "10"})
LARGE = Clip(width=160, height=120, codec="ffv1", frames=60, audio=1, options={"g": "10"})  # 600 kB

# The command line with small segments, in a process of its own.
SMALL = f"""
import sys
from midframe import pipeline, plan
from midframe.cli import main
plan.SEGMENT_OUTPUTS = {SEGMENT}
main()
"""


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SEGMENT_OUTPUTS", SEGMENT)


def run(source: Path, target: Path, **options: Any) -> midframe.Result:
    return midframe.interpolate(source, target, **{"model": "blend", "device": "cpu", **options})


def content(path: Path) -> list[tuple[Any, ...]]:
    """All that a video holds: stream, instant and bytes of every packet, then the chapters."""
    found: list[tuple[Any, ...]] = []
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.pts is not None and packet.size:
                found.append((packet.stream_index, packet.pts * packet.time_base, bytes(packet)))
        chapters = [(c["start"] * c["time_base"], c["metadata"]) for c in container.chapters()]
    return [*sorted(found), *chapters]


def check_kept(target: Path, segments: int = 1) -> None:
    """What holds after every fault: no video under the target's name, finished segments, nothing half done."""
    assert not target.exists()
    assert len(list(folder_of(target).glob("[0-9]*.json"))) >= segments
    assert not list(folder_of(target).glob("*.part*"))


def check_goes_on(source: Path, target: Path, segments: int = 1, **options: Any) -> None:
    """The same call ends the work, and the video is that of a run without a fault."""
    result = run(source, target, **options)
    assert result.statistics["resumed_frames"] >= segments * SEGMENT
    straight = run(source, target.with_name(f"straight{target.suffix}"), **options)
    assert content(target) == content(straight.path)
    assert result.kinds == straight.kinds
    assert result.dropped == straight.dropped
    assert not folder_of(target).exists()


# Decoder and encoder


def dying(error: Exception) -> Callable[..., Any]:
    """In place of what takes a frame from the decoder: the 41st is its last."""
    images, to_planar = count(), formats.to_planar

    def take(*words: Any) -> Any:
        if next(images) == 40:
            raise error
        return to_planar(*words)

    return take


@pytest.mark.parametrize(
    "error", [MemoryError("no memory for a frame"), av.error.ExternalError(EXTERNAL, "gone", "decoder")]
)
def test_a_decoder_that_dies_midway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    source, target = clips.make(tmp_path / "in.mkv", VIDEO), tmp_path / "out.mkv"
    with monkeypatch.context() as fault:
        fault.setattr(formats, "to_planar", dying(error))
        with pytest.raises(type(error)):
            run(source, target)
    check_kept(target)
    check_goes_on(source, target)


def test_a_decoder_that_dies_midway_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    source, target = clips.make(tmp_path / "in.mkv", VIDEO), tmp_path / "out.mkv"
    with monkeypatch.context() as fault:
        fault.setattr(formats, "to_planar", dying(MemoryError()))
        done = call("interpolate", source, "-o", target, "--model", "blend", "--device", "cpu")
    assert done.code == 5
    last = done.err.splitlines()[-1]
    assert last.startswith("midframe: out of memory") and "are finished and kept" in last
    check_kept(target)


def test_an_encoder_that_fails_midway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call) -> None:
    source, target = clips.make(tmp_path / "in.mkv", VIDEO), tmp_path / "out.mkv"
    images, prepared = count(), writer.to_encoder_frame

    def failing(*words: Any) -> Any:
        if next(images) == 70:
            raise av.error.ExternalError(EXTERNAL, "Generic error in an external library", "libx264")
        return prepared(*words)

    with monkeypatch.context() as fault:
        fault.setattr(writer, "to_encoder_frame", failing)
        done = call("interpolate", source, "-o", target, "--model", "blend", "--device", "cpu")
    assert done.code == 3
    lines = [line for line in done.err.splitlines() if line.startswith("midframe: ")]
    assert len(lines) == 1 and "external library; 2 of 4 segments are finished and kept" in lines[0], done.err
    check_kept(target)
    check_goes_on(source, target)


# Input


def test_an_input_that_is_cut_off_while_it_is_read(tmp_path: Path) -> None:
    """As when a mount breaks: libav sees the end of the file; a video half as long must not pass for the whole."""
    source, target = clips.make(tmp_path / "in.mkv", LARGE), tmp_path / "out.mkv"
    whole = source.read_bytes()

    def cut(progress: Progress) -> None:
        if progress.frames == SEGMENT + 5:
            os.truncate(source, len(whole) // 2)

    with pytest.raises(MediaError, match=r"was lost while it was read .* have become"):
        run(source, target, on_progress=cut)
    check_kept(target)
    source.write_bytes(whole)  # with another time of change
    check_goes_on(source, target)


@pytest.mark.parametrize("how", ["gone", "cut off"])
def test_an_input_that_is_lost_before_its_audio_is_copied(tmp_path: Path, how: str) -> None:
    source, target = clips.make(tmp_path / "in.mkv", LARGE), tmp_path / "out.mkv"
    aside = tmp_path / "aside"
    whole = source.read_bytes()

    def lose(progress: Progress) -> None:
        if progress.stage == "joining":
            if how == "gone":
                source.rename(aside)
            else:
                os.truncate(source, len(whole) // 2)

    with pytest.raises(MediaError, match=r"(is gone|has changed) since .* its audio is still to be copied"):
        run(source, target, on_progress=lose)
    source.write_bytes(whole)
    segments = len(pipeline.plan(source, target, model="blend").segments)
    check_kept(target, segments)
    check_goes_on(source, target, segments)


def test_an_input_of_which_nothing_more_is_wanted_may_go(tmp_path: Path) -> None:
    source, target = clips.make(tmp_path / "in.mkv", LARGE), tmp_path / "out.mkv"

    def lose(progress: Progress) -> None:
        if progress.stage == "joining":
            source.unlink()

    assert run(source, target, on_progress=lose, audio=False, subtitles=False).path == target


def test_an_input_that_is_still_being_recorded(tmp_path: Path) -> None:
    """It has grown when its audio is copied; what was there at the start is the video."""
    source, target = clips.make(tmp_path / "in.mkv", LARGE), tmp_path / "out.mkv"

    def grow(progress: Progress) -> None:
        if progress.stage == "joining":
            with source.open("ab") as file:
                file.write(bytes(5000))

    assert run(source, target, on_progress=grow).path == target


def test_a_video_without_audio_needs_its_source_no_more(tmp_path: Path) -> None:
    source = clips.make(tmp_path / "in.mkv", Clip(frames=20))

    def lose(progress: Progress) -> None:
        if progress.stage == "joining":
            source.unlink()

    assert run(source, tmp_path / "out.mkv", on_progress=lose).frames_out == 40


# Disk


def test_a_disk_that_is_full_midway(tmp_path: Path) -> None:
    """A disk of its own, filled on purpose, then emptied."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = "size=300k"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no right to mount here")
    try:
        source, target = clips.make(tmp_path / "in.mkv", VIDEO), disk / "out.mkv"
        ballast = disk / "ballast"

        def fill(progress: Progress) -> None:
            if progress.frames == 2 * SEGMENT:
                with pytest.raises(OSError, match="No space"), open(ballast, "wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))

        with pytest.raises(MediaError, match=r"no space is left|is full"):
            run(source, target, on_progress=fill)
        check_kept(target)
        ballast.unlink()
        check_goes_on(source, target)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_full_when_segments_are_joined(tmp_path: Path) -> None:
    """Files may grow to the size of a segment and not to that of the video."""
    source, target = clips.make(tmp_path / "in.mkv", VIDEO), tmp_path / "out.mkv"
    limit = run(source, tmp_path / "whole.mkv").path.stat().st_size // 2

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    words = [sys.executable, "-c", SMALL, "interpolate", str(source), "-o", str(target), "--model", "blend"]
    ended = subprocess.run([*words, "--device", "cpu"], preexec_fn=small, capture_output=True, text=True)
    assert ended.returncode == 3, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("midframe: ")
    assert "Traceback" not in ended.stderr
    segments = len(pipeline.plan(source, target, model="blend").segments)
    check_kept(target, segments)
    check_goes_on(source, target, segments)


# Memory of the device


class Starved(RgbBlend):
    """Memory suffices for so many frames; then it never does again."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.left = images

    def render(self, request: RenderRequest) -> torch.Tensor:
        self.left -= len(request.t)
        if self.left < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return super().render(request)


def test_memory_that_runs_out_midway(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, target = clips.make(tmp_path / "in.mkv", VIDEO), tmp_path / "out.mkv"
    with pytest.raises(DeviceError, match="out of memory on cpu after every step down; try"):
        run(source, target, network=Starved(36))
    assert [record.message.split()[-3:] for record in caplog.records][-1] == ["of", "256", "pixels"]
    check_kept(target)
    check_goes_on(source, target, network=RgbBlend())


# A second run


def test_a_second_command_on_one_target_is_refused_and_harms_nothing(tmp_path: Path, call: Call) -> None:
    source, target = clips.make(tmp_path / "in.mkv", VIDEO), tmp_path / "out.mkv"
    words = ["interpolate", str(source), "-o", str(target), "--model", "blend", "--device", "cpu"]
    first = subprocess.Popen(
        [sys.executable, "-c", SMALL, *words, "--progress", "json"], stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    while '"progress"' not in first.stdout.readline():
        assert first.poll() is None
    first.send_signal(signal.SIGSTOP)  # so that it is midway for sure
    try:
        for more in ([], ["-y", "--no-resume"]):
            done = call(*words, *more)
            assert done.code == JobError.exit_code
            assert done.err.splitlines()[-1].startswith("midframe: another run is writing out.mkv")
    finally:
        first.send_signal(signal.SIGCONT)
    first.communicate(timeout=120)
    assert first.returncode == 0
    straight = run(source, tmp_path / "straight.mkv")
    assert content(target) == content(straight.path)
