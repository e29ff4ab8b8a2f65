"""Importing torch quickly: its library comes by itself, and nothing of the process is left changed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clips import Clip, make


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="the library is loaded ahead on Linux only")
def test_the_library_is_loaded_without_importing_torch() -> None:
    code = """
import sys
from midframe.torch_import import quick_import
with quick_import():
    pass
print("libtorch_cpu" in open("/proc/self/maps").read(), "torch" in sys.modules)
"""
    assert run(code).split() == ["True", "False"]


@pytest.mark.parametrize("fails", [False, True])
def test_torch_works_and_garbage_is_collected_afterwards(fails: bool) -> None:
    code = f"""
import contextlib, gc
from midframe.torch_import import quick_import
with contextlib.suppress(ZeroDivisionError), quick_import():
    import torch
    waiting = not gc.isenabled()
    1 / {int(not fails)}
ones = torch.ones(1, 8, 16, 16)
print(waiting, gc.isenabled(), gc.get_freeze_count() > 100_000, int(torch.conv2d(ones, ones[..., :3, :3]).sum()))
"""
    assert run(code).split() == ["True", "True", "True", str(8 * 9 * 14 * 14)]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["-", "-o", "-", "--progress", "json"], "use --progress plain"),
        (["a.png"], "one image was given"),
        (["none.mp4", "--device", "cpu"], "does not exist"),
        (["text.mp4", "--device", "cpu"], "is not a video"),
        (["clip.mp4", "-o", "text.mp4", "--device", "cpu"], "exists already"),
        (["clip.mp4", "--crf", "99", "--device", "cpu"], "crf"),
    ],
)
def test_wrong_arguments_are_reported_without_importing_torch(tmp_path: Path, arguments: list[str], error: str) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "text.mp4").write_text("no video")
    make(tmp_path / "clip.mp4", Clip(frames=4))
    code = f"""
import sys
from midframe.cli import main
sys.argv = ["midframe", "interpolate", *{arguments}]
try:
    main()
except SystemExit as end:
    print(end.code, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() in (["2", "False"], ["3", "False"], ["4", "False"]) and error in done.stderr
