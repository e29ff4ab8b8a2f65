"""The demo: its scene is drawn exactly, and the command writes what it says."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from commands import Call
from midframe.cli.scene import Scene


def test_the_scene_moves_but_for_the_overlay() -> None:
    scene = Scene()
    a, b = scene.frame(0.5), scene.frame(0.5 + 1 / 24)
    assert a.shape == (360, 640, 3) and a.dtype == np.uint8
    assert np.array_equal(a, scene.frame(0.5)), "the same instant is the same frame"
    logo = scene.overlay()
    assert np.array_equal(a[logo], b[logo])
    assert np.abs(a.astype(int) - b).mean() > 5
    # 1280 * 0.45 wall pixels a second at double size, less the zoom: about 12 pixels a frame
    strip = slice(300, 318)  # wall below the posts' tops, without subtitle
    moved = [np.abs(a[strip, d : d + 400].astype(int) - b[strip, :400]).mean() for d in range(30)]
    assert 9 <= int(np.argmin(moved)) <= 15


def test_the_demo_runs_and_says_where_things_are(tmp_path: Path, call: Call) -> None:
    folder = tmp_path / "demo folder"
    done = call("demo", folder, "--seconds", "0.25", "--model", "blend")
    assert done.code == 0, done.err
    counts = {}
    for name in ("scene.24fps", "scene.48fps", "scene.60fps", "side-by-side.48fps", "side-by-side.60fps"):
        assert f"{name}.mp4" in done.out
        with av.open(str(folder / f"{name}.mp4")) as container:
            counts[name] = container.streams.video[0].frames
    assert counts == {
        "scene.24fps": 6, "scene.48fps": 12, "scene.60fps": 15, "side-by-side.48fps": 12, "side-by-side.60fps": 15,
    }  # fmt: skip
    assert (folder / "between.png").exists()
    assert "dB" in done.out
    assert call("demo", folder, "--seconds", "0.25", "--model", "blend").code == 0, "it may be run again"


def test_a_place_that_cannot_be_made(tmp_path: Path, call: Call) -> None:
    (tmp_path / "file").write_text("")
    done = call("demo", tmp_path / "file" / "folder")
    assert (done.code, "cannot be created" in done.err) == (3, True)
