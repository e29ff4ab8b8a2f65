"""What a type checker sees of the package: a program of a user, strict."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import midframe
from midframe.options import OptionKeywords, Options

GOOD = """
import midframe

def show(progress: midframe.Progress) -> None:
    print(progress.frames, progress.remaining)

result = midframe.interpolate("in.mkv", "out.mkv", fps="60000/1001", scene="off", crf=18, on_progress=show)
worst = [low.confidence for low in result.low_confidence]
kinds: str = result.kinds
info: midframe.VideoInfo = midframe.probe("in.mkv")
again = midframe.interpolate("in.mkv", options=midframe.Options(model="dis"))
"""
BAD = {
    'midframe.interpolate("in.mkv", fbs=60)': 'Unexpected keyword argument "fbs"',
    'midframe.interpolate("in.mkv", scene="of")': 'Argument "scene" to "interpolate" has incompatible type',
    'midframe.interpolate("in.mkv", resume="no")': 'Argument "resume" to "interpolate" has incompatible type',
}


def test_a_program_of_a_user_passes_mypy_strict_and_slips_are_found(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("\n".join([GOOD, *BAD]))
    package = Path(midframe.__file__).parent
    assert (package / "py.typed").is_file()
    words = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file=", str(program)]
    ended = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=_environment(package.parent))
    found = [line.partition(" error: ")[2] for line in ended.stdout.splitlines() if " error: " in line]
    assert len(found) == len(BAD), ended.stdout
    for said, wanted in zip(found, BAD.values(), strict=True):
        assert said.startswith(wanted), said


def test_keywords_are_the_options_and_the_docstring_lists_them() -> None:
    names = {field.name for field in dataclasses.fields(Options)}
    assert set(OptionKeywords.__annotations__) == names | {"options", "preview"}
    said = inspect.getdoc(midframe.interpolate) or ""
    assert [name for name in OptionKeywords.__annotations__ if f"\n    {name}: " not in said] == []


def _environment(source: Path) -> dict[str, str]:
    import os

    return {**os.environ, "MYPYPATH": str(source)}
