"""Every kind of bad input: a typed error with its exit code, one line, no partial file, nothing lost."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
import torch

import clips
import midframe
from clips import Clip
from commands import Call, Done
from midframe import journal, models
from midframe.errors import DeviceError, MediaError
from midframe.video import files, images
from model_fakes import RgbBlend


@pytest.fixture
def refused(tmp_path: Path, call: Call) -> Callable[..., Done]:
    """Runs `interpolate` and checks what holds for every refusal."""

    def run(*words: object, code: int) -> Done:
        target = tmp_path / "out.mp4"
        target.write_text("what was there before")
        before = sorted(p.name for p in tmp_path.iterdir())
        done = call("interpolate", *words, "-o", target, "-y", "--model", "blend")
        assert done.code == code, done.err
        lines = [line for line in done.err.splitlines() if line.startswith("midframe: ")]
        assert len(lines) == 1, done.err
        assert "Traceback" not in done.err
        assert target.read_text() == "what was there before"
        assert sorted(p.name for p in tmp_path.iterdir()) == before
        return Done(code, done.out, lines[0])

    return run


Refused = Callable[..., Done]


def test_a_missing_file(tmp_path: Path, refused: Refused) -> None:
    assert "no such.mp4' does not exist" in refused(tmp_path / "no such.mp4", code=3).err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.y4m")
    for read in (files.check_path, midframe.probe):
        with pytest.raises(MediaError, match="is a pipe"):
            read(tmp_path / "a.y4m")


def test_a_folder_without_images(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "empty").mkdir()
    assert "neither videos nor images" in refused(tmp_path / "empty", code=3).err


@pytest.mark.parametrize("name", ["shots/a_0001.exr", "shots/a_%04d.exr", "shots"])
def test_images_of_floating_point_samples(tmp_path: Path, refused: Refused, name: str) -> None:
    (tmp_path / "shots").mkdir()
    (tmp_path / "shots" / "a_0001.exr").write_bytes(b"v/1\x01")
    assert "floating-point samples" in refused(tmp_path / name, code=4).err
    source = clips.make(tmp_path / "in.mp4", Clip(frames=2))
    with pytest.raises(MediaError, match=r"ffmpeg -apply_trc iec61966_2_1 -i %04d\.exr"):
        midframe.interpolate(source, tmp_path / "out" / "%04d.exr", model="blend", device="cpu")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"Dear reader, this is not a video.\n" * 50, "text"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "HTML"),
        (b"", "empty"),
        (bytes(range(256)) * 64, "not a video"),
        (b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n", "playlist"),
    ],
)
def test_no_video_at_all(tmp_path: Path, refused: Refused, content: bytes, words: str) -> None:
    source = tmp_path / "video.mp4"
    source.write_bytes(content)
    done = refused(source, code=4 if words == "playlist" else 3)
    assert words in done.err


def test_audio_only(tmp_path: Path, refused: Refused) -> None:
    source = tmp_path / "audio.m4a"
    with av.open(str(source), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=48000)
        for start in range(0, 48000, 1024):
            chunk = av.AudioFrame(format="fltp", layout="stereo", samples=1024)
            chunk.sample_rate, chunk.pts = 48000, start
            for plane in chunk.planes:
                plane.update(bytes(plane.buffer_size))
            out.mux(stream.encode(chunk))
        out.mux(stream.encode(None))
    assert "audio only" in refused(source, code=3).err


def test_zero_frames(tmp_path: Path, refused: Refused) -> None:
    source = tmp_path / "none.mkv"
    with av.open(str(source), "w") as out:
        stream = out.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.start_encoding()
    refused(source, code=3)


@pytest.mark.parametrize("fps", ["0", "-24", "nan", "1e9", "inf", "fast", "24/0"])
def test_rates_that_cannot_be(tmp_path: Path, refused: Refused, fps: str) -> None:
    done = refused(clips.make(tmp_path / "in.mp4", Clip(frames=2)), "--fps", fps, code=2)
    assert "--fps" in done.err and "try 60" in done.err


def test_two_rates(tmp_path: Path, refused: Refused) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=2))
    assert "drop the other" in refused(source, "--fps", "60", "--ratio", "2", code=2).err


def test_images_of_different_sizes(tmp_path: Path, refused: Refused) -> None:
    folder = tmp_path / "shots"
    folder.mkdir()
    for n in range(4):
        clips.png(folder / f"{n}.png", n, width=32 if n < 3 else 40)
    done = refused(folder, "--in-fps", "12", code=3)
    assert "40x24" in done.err and "32x24" in done.err


def test_a_damaged_image(tmp_path: Path, refused: Refused) -> None:
    folder = tmp_path / "shots"
    folder.mkdir()
    for n in range(3):
        clips.png(folder / f"{n}.png", n)
    (folder / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n not really")
    assert "1.png" in refused(folder, "--in-fps", "12", code=3).err


def test_a_truncated_video_is_a_shorter_video(tmp_path: Path, call: Call) -> None:
    whole = clips.make(tmp_path / "whole.mkv", Clip(frames=120, options={"g": "12"}, audio=1))
    source = tmp_path / "cut.mkv"
    source.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    done = call("interpolate", source, "--model", "blend")
    assert done.code == 0, done.err
    assert "the file is cut off" in done.err
    with av.open(str(tmp_path / "cut.48fps.mkv")) as container:
        assert 60 < sum(1 for _ in container.decode(video=0)) < 230
    strict = call("interpolate", source, "--model", "blend", "--strict", "-o", tmp_path / "strict.mkv")
    assert strict.code == 3
    assert not (tmp_path / "strict.mkv").exists()


def test_places_that_cannot_be_written(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=2))
    no_folder = call("interpolate", source, "--model", "blend", "-o", tmp_path / "no" / "out.mp4")
    assert (no_folder.code, "does not exist" in no_folder.err) == (3, True)
    in_a_file = call("interpolate", source, "--model", "blend", "-o", source / "out.mp4")
    assert in_a_file.code == 3, in_a_file.err
    monkeypatch.setattr(os, "access", lambda path, mode, **_: mode != os.W_OK | os.X_OK)
    closed = call("interpolate", source, "--model", "blend")
    assert (closed.code, "is not writable" in closed.err) == (3, True)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path, call: Call) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=2))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert call("interpolate", source, "--model", "blend", "-o", closed / "out.mp4").code == 3


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=4))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(journal.os, "fsync", full)
    with pytest.raises(MediaError, match=r"is full; finished segments are kept: free some space"):
        midframe.interpolate(source, tmp_path / "out.mp4", model="blend")
    monkeypatch.undo()
    midframe.interpolate(source, tmp_path / "out.mp4", model="blend")


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """The system stops the encoder's file at 20 kB, as a full disk does."""
    source = clips.make(tmp_path / "in.mp4", Clip(width=320, height=240, frames=48))
    limit = 20_000

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    words = [sys.executable, "-m", "midframe", "interpolate", str(source), "--model", "blend", "--crf", "1"]
    ended = subprocess.run(words, preexec_fn=small, capture_output=True, text=True)
    assert ended.returncode == 3, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("midframe: ")
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting takes root")
def test_a_truly_full_disk(tmp_path: Path, call: Call) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("no right to mount here")
    try:
        source = clips.make(tmp_path / "in.mp4", Clip(width=320, height=240, frames=48))
        done = call("interpolate", source, "--model", "blend", "--crf", "1", "-o", disk / "out.mp4")
        assert done.code == 3, done.err
        assert "disk" in done.err and "Traceback" not in done.err
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_codec_that_is_not_there(tmp_path: Path, refused: Refused) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=2))
    assert "libx265" in refused(source, "-c", "libx266", code=4).err
    assert ".mkv" in refused(source, "-c", "prores_ks", code=4).err


def test_a_container_that_is_not_there(tmp_path: Path, call: Call) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=2))
    done = call("interpolate", source, "--model", "blend", "-o", tmp_path / "out.xyz")
    assert (done.code, ".mp4" in done.err) == (4, True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(tmp_path: Path, refused: Refused) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=2))
    assert "--device cpu" in refused(source, "--device", "cuda", code=5).err


class Greedy(RgbBlend):
    """A model that never has enough."""

    def render(self, *_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("can't allocate memory")


def test_not_enough_memory_after_every_step_down(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=4))
    with pytest.raises(DeviceError, match="memory"):
        midframe.interpolate(source, tmp_path / "out.mp4", network=Greedy())
    monkeypatch.setitem(models.BUILDERS, "greedy", lambda _: Greedy())
    done = call("interpolate", source, "--model", "greedy")
    assert done.code == 5
    assert done.err.splitlines()[-1].startswith("midframe: ")
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_weights_that_are_not_there_or_damaged(tmp_path: Path, call: Call) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=2))
    nowhere = call("interpolate", source, "--model", "vfinet", "--weights", tmp_path / "nowhere")
    assert (nowhere.code, "Traceback" in nowhere.err) == (3, False)
    folder = tmp_path / "weights"
    folder.mkdir()
    for name in ("raft-sintel.pt", "interpnet.pt"):
        (folder / name).write_bytes(b"not weights")
    damaged = call("interpolate", source, "--model", "vfinet", "--weights", folder)
    assert (damaged.code, "Traceback" in damaged.err) == (3, False)
    unwanted = call("interpolate", source, "--model", "blend", "--weights", folder)
    assert unwanted.code == 2


@pytest.mark.parametrize("when", ["while it is asked after", "before it is opened"])
def test_what_vanishes_between_two_questions_does_not_exist(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name was there a moment ago: the answer is that of one that never was."""
    if when == "before it is opened":
        for module in (files, images):
            monkeypatch.setattr(module, "check_path", lambda path: None)
    else:
        monkeypatch.setattr(Path, "exists", lambda self: True)
        monkeypatch.setattr(Path, "is_file", lambda self: True)
    with pytest.raises(MediaError, match="does not exist"):
        images.read_image(tmp_path / "gone.png")
    with pytest.raises(MediaError, match="does not exist"), files.open_source(tmp_path / "gone.mp4"):
        pass


def test_the_source_vanishes_midway(tmp_path: Path) -> None:
    """Frames are read one by one: one that is gone is one clear line, and finished work stays."""
    folder = tmp_path / "shots"
    folder.mkdir()
    for n in range(30):
        clips.png(folder / f"{n}.png", n)

    def lose(progress: midframe.Progress) -> None:
        if progress.frames == 10:
            shutil.rmtree(folder)

    with pytest.raises(MediaError, match="does not exist"):
        midframe.interpolate(folder, tmp_path / "out.mp4", model="blend", in_fps=12, on_progress=lose)
    assert list(tmp_path.iterdir()) == []
