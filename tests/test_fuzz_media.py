"""Bytes that no program wrote: a typed error or a shorter video, never a crash, a hang or a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("fuzz_media.py")


def damaged(folder: Path, first: int, count: int, seconds: float) -> list[str]:
    """Run cases in a process of their own; what went wrong, the process itself included."""
    bad: list[str] = []
    end = first + count
    while first < end:
        command = [sys.executable, str(SCRIPT), str(folder), str(first), str(end - first)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
            output, code = done.stdout + done.stderr, done.returncode
        except subprocess.TimeoutExpired as error:
            output, code = (error.stdout or b"").decode(errors="replace"), None
        bad += [line for line in output.splitlines() if line.startswith("BAD")]
        at = (folder / "at").read_text() if (folder / "at").exists() else str(first)
        if at == "done":
            return bad
        bad.append(f"case {at} took the process down ({code if code is not None else 'hangs'}): {output[-300:]}")
        first = int(at) + 1
    return bad


def test_damaged_videos(tmp_path: Path) -> None:
    assert damaged(tmp_path, 0, 500, 240) == []


@pytest.mark.slow
def test_twenty_thousand_damaged_videos(tmp_path: Path) -> None:
    assert damaged(tmp_path, 500, 20_000, 3600) == []
