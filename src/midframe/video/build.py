"""What the installed build of libav brings: for `midframe doctor`."""

from __future__ import annotations

from collections.abc import Iterable

import av
import av.codec
import av.error
from av import library_versions as libav_versions


def library_versions() -> dict[str, str]:
    """PyAV and the libraries in it, by name: {"av": "18.1.0", "libavcodec": "62.11.100", ...}."""
    found = {"av": av.__version__}
    for name, version in libav_versions.items():
        if name in ("libavcodec", "libavformat", "libavutil"):
            found[name] = ".".join(str(part) for part in version)
    return found


def encoders(names: Iterable[str]) -> list[str]:
    """Those of the named encoders that are in the build. A hardware encoder may still lack its hardware."""
    found = []
    for name in names:
        try:
            av.codec.Codec(name, "w")
        except (av.error.FFmpegError, ValueError):
            continue
        found.append(name)
    return found
