"""The public list: short, complete, and free until it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import midframe
from clips import Clip, make


def test_every_public_name_is_there() -> None:
    assert set(midframe.__all__) == {*midframe._MODULES, "__version__"}
    assert dir(midframe) == sorted(midframe.__all__)
    for name in midframe.__all__:
        assert getattr(midframe, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'interpolat'"):
        _ = midframe.interpolat  # type: ignore[attr-defined]


def test_errors_are_one_tree_with_exit_codes() -> None:
    codes = {
        midframe.InputError: 2,
        midframe.MediaError: 3,
        midframe.WeightsError: 3,
        midframe.UnsupportedError: 4,
        midframe.DeviceError: 5,
        midframe.Interrupted: 130,
    }
    for error, code in codes.items():
        assert issubclass(error, midframe.MidframeError)
        assert error.exit_code == code


@pytest.mark.parametrize("code", ["import midframe", "import midframe.cli", "from midframe.options import Options"])
def test_importing_loads_nothing_heavy(code: str) -> None:
    heavy = "{'torch', 'av', 'cv2', 'numpy', 'rich'}"
    check = f"import sys; {code}; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words", [["probe", "{clip}"], ["interpolate", "{clip}", "--dry-run", "--device", "cpu"], ["models", "list"]]
)
def test_what_needs_no_torch_does_not_import_it(tmp_path: Path, words: list[str]) -> None:
    clip = str(make(tmp_path / "clip.mp4", Clip(frames=4)))
    check = (
        f"import sys; from midframe.cli import main; sys.argv = {['midframe', *(w.format(clip=clip) for w in words)]}\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "sys.exit('torch is imported' if 'torch' in sys.modules else 0)"
    )
    environment = {**os.environ, "MIDFRAME_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "midnet-m" in done.stdout + done.stderr


def test_help_loads_nothing_heavy() -> None:
    check = (
        "import sys; from midframe.cli import main; sys.argv = ['midframe', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "found = {'torch', 'av', 'cv2', 'numpy', 'rich'} & set(sys.modules); sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "interpolate" in done.stdout
