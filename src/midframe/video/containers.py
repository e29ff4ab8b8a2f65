"""Containers by the suffix of a target, and their muxer options."""

from __future__ import annotations

import os
import re
from fractions import Fraction
from pathlib import Path

import av
import av.format

from midframe.errors import UnsupportedError
from midframe.video.files import named, refuse_unread_image
from midframe.video.timestamps import timescale

# Suffix of a target -> libav's muxer.
CONTAINERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".qt": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi",
    ".ts": "mpegts", ".m2ts": "mpegts", ".mts": "mpegts", ".nut": "nut", ".mxf": "mxf", ".gif": "gif", ".flv": "flv",
    ".apng": "apng", ".avif": "avif",
}  # fmt: skip
_GLOBAL_HEADER: int = av.format.Flags.global_header.value  # type: ignore[assignment]
IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp")


def container_of(path: str | os.PathLike[str]) -> str:
    """Return libav's muxer for a target, by its suffix; "images" for a folder or a pattern of images.

    Raises:
        UnsupportedError: no muxer is known for the suffix.
    """
    text = os.fspath(path)
    suffix = Path(text).suffix.lower()
    if suffix == ".webp" and not re.search(r"%0?\d*d|[*?]", Path(text).name) and not Path(text).is_dir():
        return "webp"  # one file of many frames
    if suffix in IMAGE_SUFFIXES or text.endswith(("/", os.sep)) or Path(text).is_dir():
        return "images"
    if suffix not in CONTAINERS:
        refuse_unread_image(path)
        known = " ".join(name for name in CONTAINERS if name in (".mp4", ".mkv", ".mov", ".webm", ".avi"))
        given = f"{named(path)} has no suffix"
        if suffix:
            given = f"the suffix {suffix} of {named(path)} is not a known container"
        raise UnsupportedError(f"{given}; allowed: {known}, and for images .png .jpg .webp .tif")
    return CONTAINERS[suffix]


def wants_global_header(container: str) -> bool:
    """Return whether the muxer wants codec headers once per file instead of in the stream."""
    return bool(av.ContainerFormat(container, "w").flags & _GLOBAL_HEADER)


def counts_frames(container: str) -> bool:
    """Return whether a container has a frame rate in place of timestamps: its time base is one frame."""
    return container in ("avi", "mxf")


def muxer_options(muxer: str, tick: Fraction) -> dict[str, str]:
    """Muxer options that keep timestamps exact and put the index at the start of the file."""
    if muxer in ("mp4", "mov"):
        scale = str(timescale(tick))
        return {"video_track_timescale": scale, "movie_timescale": scale, "movflags": "+faststart"}
    return {}
