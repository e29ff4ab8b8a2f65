"""Profiles: named bundles of options, built in or from `~/.config/midframe/profiles.toml`.

    [tv]
    fps = "50"
    crf = 18

A profile of the user replaces a built-in one of the same name. Options on the command line override the profile.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midframe.errors import InputError
from midframe.options import Options

PROFILES: dict[str, dict[str, Any]] = {
    "anime": {"dedup": "auto"},  # drawings held for two or three frames
    "film": {"dedup": "auto", "crf": 14.0},  # pulldown; grain
    "game": {"dedup": "auto", "model": "midnet-s"},  # dropped frames; long captures
    "screen": {"scene_threshold": 0.3, "crf": 12.0},  # switched windows; sharp text
    "phone": {"codec": "libx265", "crf": 20.0},  # small files
}
# alternatives: giving one of them removes the others from a profile
_RATES = ("fps", "ratio", "slowmo", "speed")


def user_file() -> Path:
    """Return the path of the user's profiles: `$XDG_CONFIG_HOME/midframe/profiles.toml`."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "midframe" / "profiles.toml"


def user_profiles() -> dict[str, dict[str, Any]]:
    """Read the user's profiles; empty if there is no file.

    Raises:
        InputError: it is not TOML, or holds an option or value that is not valid.
    """
    path = user_file()
    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"'{path}' cannot be read as TOML: {error}") from error
    for name, bundle in found.items():
        try:
            if not isinstance(bundle, dict):
                raise InputError("it is no table; write [name] and options below it")
            Options.parse(**bundle)
        except InputError as error:
            raise InputError(f"profile {name} in '{path}': {error}") from error
    return found


def with_profile(name: str, given: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Combine the options of a profile with the given ones, which take precedence; None is not given.

    Returns:
        The options by name, and a line with the options of the profile: "profile anime: dedup auto".

    Raises:
        InputError: no profile has this name.
    """
    profiles = {**PROFILES, **user_profiles()}
    if name not in profiles:
        close = difflib.get_close_matches(name, profiles, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; others go into '{user_file()}'"
        raise InputError(f"--profile {name} is not known; there are {', '.join(profiles)}{hint}")
    said = {key: value for key, value in given.items() if value is not None}
    rate_given = any(key in said for key in _RATES)
    added = {
        key: value for key, value in profiles[name].items() if key not in said and not (rate_given and key in _RATES)
    }
    text = ", ".join(f"{key.replace('_', '-')} {value:g}" if isinstance(value, float) else
                     f"{key.replace('_', '-')} {value}" for key, value in added.items())  # fmt: skip
    return {**added, **said}, f"profile {name}: {text or 'nothing beside the given options'}"
