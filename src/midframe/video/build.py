"""Versions and encoders of the installed libav build, for `midframe doctor`."""

from __future__ import annotations

from collections.abc import Iterable

import av
from av import library_versions as libav_versions

from midframe.video.encoders import opens_here


def library_versions() -> dict[str, str]:
    """Return the versions of PyAV and its libraries by name: {"av": "18.1.0", "libavcodec": "62.11.100", ...}."""
    found = {"av": av.__version__}
    for name, version in libav_versions.items():
        if name in ("libavcodec", "libavformat", "libavutil"):
            found[name] = ".".join(str(part) for part in version)
    return found


def encoders(names: Iterable[str]) -> list[str]:
    """Return the named encoders that this build has and this machine can open."""
    return [name for name in names if opens_here(name)]
