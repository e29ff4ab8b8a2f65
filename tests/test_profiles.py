"""Profiles: what they add, what wins over them, the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

import clips
from clips import Clip
from commands import Call
from midframe.errors import InputError
from midframe.options import Options
from midframe.profiles import PROFILES, user_file, with_profile


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    user_file().parent.mkdir(parents=True)
    return user_file()


@pytest.mark.parametrize("name", PROFILES)
def test_our_profiles_are_valid_options(name: str) -> None:
    options, text = with_profile(name, {"fps": None})
    assert Options.parse(**options) != Options(), "a profile changes something"
    assert text.startswith(f"profile {name}: ")


def test_given_options_win_and_a_given_rate_replaces_that_of_a_profile(own: Path) -> None:
    own.write_text('[tv]\nfps = "50"\ncrf = 18\nchapters = false\n')
    assert with_profile("tv", {"crf": 20, "ratio": 3}) == (
        {"chapters": False, "crf": 20, "ratio": 3},
        "profile tv: chapters False",
    )
    assert with_profile("tv", {})[0] == {"fps": "50", "crf": 18, "chapters": False}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[tv", "cannot be read as TOML"),
        ("tv = 1", "is no table"),
        ("[tv]\nfbs = 3", "no option 'fbs'; did you mean fps"),
        ("[tv]\nfps = -1", "--fps -1 is not within"),
    ],
)
def test_a_bad_file_is_one_line(own: Path, content: str, message: str) -> None:
    own.write_text(content)
    with pytest.raises(InputError, match=message):
        with_profile("tv", {})


def test_the_plan_of_a_profile_is_shown(tmp_path: Path, call: Call) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=6))
    words = ["interpolate", source, "--dry-run", "--model", "blend", "--profile"]
    done = call(*words, "film")
    assert done.code == 0 and "profile film: dedup auto, crf 14" in done.err and "libx264 crf 14" in done.err
    assert "libx264 crf 30" in call(*words, "film", "--crf", "30").err
    done = call(*words, "anme")
    assert done.code == 2 and "did you mean anime?" in done.err
