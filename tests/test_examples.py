"""The examples run as they stand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import clips
import vfinet_reference
from clips import Clip

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.make(tmp_path_factory.mktemp("video") / "in.mp4", Clip(frames=12))


def run(name: str, *words: object) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, words)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    source = Path(__file__).read_text()
    # client.py speaks to a running server: test_server.py runs it
    assert all(f'run("{name}"' in source for name in names - {"client.py"})


def test_interpolate_file(video: Path, tmp_path: Path) -> None:
    assert "new frames" in run("interpolate_file.py", video, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").exists()


def test_frames_between(tmp_path: Path) -> None:
    a, b = clips.png(tmp_path / "a.png", 0, 64, 48), clips.png(tmp_path / "b.png", 1, 64, 48)
    run("frames_between.py", a, b, tmp_path / "made")
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == ["1.png", "2.png", "3.png"]


def test_stream_frames(video: Path) -> None:
    lines = run("stream_frames.py", video).splitlines()
    assert len(lines) == 30
    assert [line.split()[2] for line in lines[:6]] == ["source", *["interpolated"] * 4, "source"]


def test_own_model(video: Path, tmp_path: Path) -> None:
    assert "48 frames" in run("own_model.py", video, tmp_path / "out.mp4")


def test_score_on_video(video: Path) -> None:
    assert run("score_on_video.py", video).startswith("5 frames: ")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as ModelScope's hub has them, with weights that follow from the tensors' names."""
    folder = tmp_path_factory.mktemp("weights")
    for part, name in (("flownet", "raft-sintel.pt"), ("internet", "interpnet.pt")):
        torch.save(vfinet_reference.named_weights(vfinet_reference.shapes(part)), folder / name)
    return folder


def test_modelscope_interpolation(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDFRAME_CACHE", str(tmp_path / "cache"))
    video = clips.make(tmp_path / "in.mp4", Clip(frames=2))
    assert run("modelscope_interpolation.py", video, "--weights", weights).count("_interpolated.mp4") == 3


def test_modelscope_evaluation(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDFRAME_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    for i, part in enumerate(("frame1", "frame2", "framet", "frame3", "frame4")):
        cv2.imwrite(str(tmp_path / "set" / f"{part}.png"), np.full((64, 64, 3), 40 * i, np.uint8))
    assert "'psnr'" in run("modelscope_evaluation.py", tmp_path, "--weights", weights)
