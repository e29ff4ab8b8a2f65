"""Optional dependencies: the command that installs them, wherever midframe was installed from."""

from __future__ import annotations

import re
import shlex
import sys
from importlib import metadata
from pathlib import Path


def install_command(extra: str) -> str:
    """Return the command that adds the packages of an extra (`web`, `lpips`, `perceptual` ...) to this environment.

    In a checkout whose `.venv` is running it is `scripts/setup EXTRA`; anywhere else it names the packages, since
    midframe itself may not be on a package index.
    """
    root = Path(__file__).resolve().parents[2]
    if (root / "scripts" / "setup").is_file() and Path(sys.prefix).resolve() == (root / ".venv").resolve():
        return f"{shlex.quote(str(root / 'scripts' / 'setup'))} {extra}"
    packages = requirements(extra)
    return " ".join(["pip install", *(shlex.quote(package) for package in packages or [f"midframe[{extra}]"])])


def requirements(extra: str) -> list[str]:
    """Requirements of an extra by the installed metadata; empty if midframe runs from a source tree alone."""
    try:
        listed = metadata.requires("midframe") or []
    except metadata.PackageNotFoundError:
        return []
    found = []
    for line in listed:
        requirement, _, marker = line.partition(";")
        if re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", marker):
            found.append(requirement.strip())
    return found
