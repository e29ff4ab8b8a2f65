"""A run that is killed at any file-system event: the same command finishes the work, or sees that it is finished."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

import clips
from clips import Clip

SCRIPT = Path(__file__).with_name("kill_at_events.py")
FILES = {
    "video": ["out.mkv", "out.mkv.json"],
    "overwrite": ["out.mkv", "out.mkv.json"],
    "images": ["shots.json", *(f"shots/{n:03d}.png" for n in range(1, 21))],
    "replaced_images": ["shots.json", *(f"shots/{n:03d}.png" for n in range(1, 21)), "shots/notes.txt"],
    "batch_of_two": ["a.mkv", "a.mkv.json", "b.mkv", "b.mkv.json", "batch.json"],
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="attempts are forks of one process")
@pytest.mark.parametrize(
    "job", [pytest.param(job, marks=() if job in ("overwrite", "images") else pytest.mark.slow) for job in FILES]
)
def test_killed_at_every_file_system_event(tmp_path: Path, job: str) -> None:
    clip = Clip(frames=10, rate=Fraction(10), options={"g": "4", "bf": "0"}, audio=0 if "images" in job else 1)
    source = clips.make(tmp_path / "in.mkv", clip)
    words = [sys.executable, str(SCRIPT), job, str(source), str(tmp_path)]
    ended = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": "0"})
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.splitlines()[-1])
    assert told["files"] == FILES[job]
    assert told["events"] > 20, "fewer would mean that the events are not seen"
    assert told["failures"] == [], ended.stderr[-2000:]
