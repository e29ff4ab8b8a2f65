"""Segments: Matroska files whose clock counts output ticks instead of milliseconds, so no timestamp is ever rounded.

The length of a tick and the output time of tick 0 are written in the tags of the file.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import av.error

from midframe.errors import MediaError
from midframe.video.files import OPEN_SECONDS, named

SEGMENT_SUFFIX = ".mkv"


@contextlib.contextmanager
def open_segment(path: str | os.PathLike[str], look: bool = True) -> Iterator[Any]:
    """Open a segment for reading.

    Args:
        path: of the segment.
        look: decode its first frames to find stream parameters; unnecessary after the first segment.

    Raises:
        MediaError: it is damaged or missing.
    """
    options = {} if look else {"probesize": "32", "analyzeduration": "1"}
    try:
        container = av.open(f"file:{os.fspath(path)}", format="matroska", options=options, timeout=(OPEN_SECONDS, None))
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise MediaError(f"the segment {named(path)} is damaged or missing; remove it and run again") from error
    try:
        if not container.streams.video:
            raise MediaError(f"the segment {named(path)} holds no frames; remove it and run again")
        yield container
    finally:
        container.close()


def segment_clock(container: Any, path: str | os.PathLike[str]) -> tuple[Fraction, Fraction]:
    """Return the seconds per tick of a segment and the output time of tick 0.

    Raises:
        MediaError: the file is not one of our segments.
    """
    tags = {key.upper(): value for key, value in container.metadata.items()}
    try:
        return Fraction(tags["MIDFRAME_TICK"]), Fraction(tags["MIDFRAME_START"])
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise MediaError(f"{named(path)} is not a segment of midframe; remove it and run again") from error


def segment_stamps(path: str | os.PathLike[str]) -> list[int]:
    """Return the pts of all packets of a segment, in ticks, in decoding order."""
    with open_segment(path, look=False) as container:
        stream = container.streams.video[0]
        return [packet.pts for packet in container.demux(stream) if packet.pts is not None and packet.size]


def segment_reorder_depth(path: str | os.PathLike[str]) -> int:
    """Return the largest number of packets that precede, in decoding order, one that is shown before them."""
    with open_segment(path) as container:
        declared: int = container.streams.video[0].codec_context.reorder_depth
    stamps = segment_stamps(path)
    place = {stamp: n for n, stamp in enumerate(sorted(stamps))}
    return max([declared, *(n - place[stamp] for n, stamp in enumerate(stamps))])


def min_frame_spacing(path: str | os.PathLike[str], step: Fraction) -> int:
    """Return the minimum spacing of the first frames of a segment, in output units."""
    stamps = sorted(segment_stamps(path)[:50])
    return max(1, math.floor(min((b - a for a, b in pairwise(stamps)), default=1) * step))
