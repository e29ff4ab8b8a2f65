"""The tests of the C++ kernels once more, built with AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_kernels_under_sanitizers(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None or shutil.which("cmake") is None:
        pytest.skip("needs g++ and cmake")
    build, package = tmp_path / "build", tmp_path / "package"
    configure = ["cmake", "-S", ROOT, "-B", build, f"-DPython_EXECUTABLE={sys.executable}", "-DMIDFRAME_SANITIZE=ON"]
    for command in (configure, ["cmake", "--build", build, "--parallel", "2"]):
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "CXX": compiler})
    (module,) = build.glob("_native*.so")
    shutil.copytree(
        ROOT / "src/midframe", package / "midframe", ignore=shutil.ignore_patterns("_native*.so", "__pycache__")
    )
    shutil.copy(module, package / "midframe")
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}.so"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan", "libubsan", "libstdc++")  # the last, for the first looks up what it replaces
    ]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter's own
        "PYTHONPATH": str(package),
    }
    tests = [ROOT / "tests/test_native.py", ROOT / "tests/test_midnet.py"]
    pick = (
        "native or torch or nan or variants or warp or spline or shape or thread or stays or search or background or "
        "importance"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", pick, *tests],
        env=environment, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    assert " passed" in done.stdout
