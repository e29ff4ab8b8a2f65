"""Segments: Matroska files whose clock counts output ticks instead of milliseconds, so no timestamp is ever rounded.

NUT or QuickTime, whose time bases are exact, replace Matroska for codecs that Matroska cannot hold unchanged and for
targets with codec headers in the stream. The tags of the file hold the length of a tick, the output time of tick 0 and
parameters that NUT lacks.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
import av.codec
import av.error

from midframe.errors import MediaError
from midframe.video.encoders import ANIMATIONS, Encoding, holds
from midframe.video.files import OPEN_SECONDS, named

_MATROSKA_ALTERS = ("prores", "rawvideo")  # codecs whose tag or pixel format Matroska does not keep
_INTO_MATROSKA_LIKE = ("mp4", "mov", "matroska", "webm", "flv", "avif")


def segment_muxer(encoding: Encoding) -> str:
    """Return libav's muxer for the segments of an encoding."""
    if encoding.container in ANIMATIONS:
        return "matroska"
    codec = av.codec.Codec(encoding.codec, "w").canonical_name
    matroska = encoding.container in _INTO_MATROSKA_LIKE and codec not in _MATROSKA_ALTERS
    order = ("matroska", "nut", "mov") if matroska else ("nut", "mov", "matroska")
    return next(name for name in order if holds(name, encoding.codec))


def segment_suffix(encoding: Encoding) -> str:
    """Return the suffix of segment files; a segment of images is a folder without one."""
    if encoding.container == "images":
        return ""
    return {"matroska": ".mkv", "nut": ".nut", "mov": ".mov"}[segment_muxer(encoding)]


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
        options["format_whitelist"] = "matroska,webm,nut,mov"
        container = av.open(f"file:{os.fspath(path)}", options=options, timeout=(OPEN_SECONDS, None))
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
        MediaError: the file is not a segment of midframe.
    """
    tags = {key.upper(): value for key, value in container.metadata.items()}
    try:
        return Fraction(tags["MIDFRAME_TICK"]), Fraction(tags["MIDFRAME_START"])
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise MediaError(f"{named(path)} is not a segment of midframe; remove it and run again") from error


_PARAMETERS = ("color_range", "colorspace", "color_primaries", "color_trc", "bits_per_coded_sample")


def parameters_tag(context: Any) -> str:
    """Format the parameters of an opened encoder that some segments lose, for their tags."""
    return " ".join(str(int(getattr(context, name))) for name in _PARAMETERS)


def restore_parameters(container: Any, context: Any) -> None:
    """Set the parameters in the tags of a segment on the stream that it becomes."""
    tags = {key.upper(): value for key, value in container.metadata.items()}
    for name, value in zip(_PARAMETERS, tags.get("MIDFRAME_PARAMETERS", "").split(), strict=False):
        if int(value):
            setattr(context, name, int(value))


def ticks_per_unit(container: Any, tick: Fraction) -> int | Fraction:
    """Return the ticks per unit of the timestamps of a segment: 1 in Matroska, whose milliseconds stand for ticks."""
    if "matroska" in container.format.name:
        return 1
    return Fraction(container.streams.video[0].time_base) / tick


def segment_stamps(path: str | os.PathLike[str]) -> list[int]:
    """Return the pts of all packets of a segment, in ticks, in decoding order."""
    with open_segment(path, look=False) as container:
        stream = container.streams.video[0]
        ticks = ticks_per_unit(container, segment_clock(container, path)[0])
        return [int(packet.pts * ticks) for packet in container.demux(stream) if packet.pts is not None and packet.size]


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


def segment_end(container: Any, stamps: Sequence[int], ticks: int | Fraction) -> int:
    """Return where the last frame of a segment ends, in ticks.

    NUT does not say: there the last frame lasts as long as the one before.

    Args:
        container: the opened segment.
        stamps: pts of all its packets, in ticks; needed for the last segment only.
        ticks: of `ticks_per_unit`.
    """
    if ticks == 1 and "matroska" in container.format.name:
        return round((container.duration or 0) / 1000)  # microseconds, of a clock that counts ticks as milliseconds
    if duration := container.streams.video[0].duration:
        return int(((container.streams.video[0].start_time or 0) + duration) * ticks)
    latest = sorted(stamps)[-2:]
    return latest[-1] + (latest[-1] - latest[0] or 1) if latest else 0
