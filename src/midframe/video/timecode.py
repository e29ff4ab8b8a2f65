"""SMPTE timecode of the first frame: from the frame rate of the source to that of the output."""

from __future__ import annotations

import re
from fractions import Fraction

from midframe.options import Options
from midframe.types import VideoInfo

_TIMECODE = re.compile(r"^(\d\d):(\d\d):(\d\d)([:;.])(\d\d\d?)$")
# Containers that keep a timecode: in a track (QuickTime, MP4), in the header (MXF), as a tag (Matroska).
KEEPING = ("mov", "mp4", "mxf", "matroska")


def source_timecode(info: VideoInfo) -> str | None:
    """Return the timecode in the tags of the video stream, of its timecode track or of the file."""
    own = [stream.tags for stream in info.streams if stream.index == info.video_index]
    tracks = [stream.tags for stream in info.streams if stream.kind == "data"]
    for tags in (*own, info.tags, *tracks):
        if _TIMECODE.match(tags.get("timecode", "")):
            return tags["timecode"]
    return None


def output_timecode(info: VideoInfo, options: Options, container: str, rate: Fraction) -> str | None:
    """Return the timecode of the first output frame; None if there is none, or the output cannot have one.

    Slow motion, speed changes and variable frame rates have no timecode: its seconds would not be those of the scene.

    Args:
        info: the source.
        options: range and speed.
        container: libav's muxer of the output.
        rate: frames per second of the output.
    """
    text = source_timecode(info)
    slow = options.speed or (options.slowmo is not None and options.slowmo != 1)
    if text is None or container not in KEEPING or slow or options.vfr == "keep" or info.rate is None:
        return None
    found = _TIMECODE.match(text)
    assert found is not None
    hours, minutes, seconds, frames = (int(found[n]) for n in (1, 2, 3, 5))
    counted = round(rate)
    # hours, minutes and seconds stay, frames are counted at the new rate
    number = ((hours * 60 + minutes) * 60 + seconds) * counted + frames * counted // max(1, round(info.rate))
    drops = found[4] != ":" and rate.denominator == 1001 and counted % 30 == 0
    if drops:  # two numbers of 30 are left out each minute, but not each tenth
        minutes += hours * 60
        number -= counted // 15 * (minutes - minutes // 10)
    return _text(number + round((options.start or 0) * rate), counted, drops)


def _text(number: int, counted: int, drops: bool) -> str:
    """Format a number of frames as a timecode, within 24 hours."""
    dropped = counted // 15
    per_ten_minutes = counted * 600 - 9 * dropped
    number %= per_ten_minutes * 144 if drops else counted * 86_400
    if drops:
        tens, rest = divmod(number, per_ten_minutes)
        number += 9 * dropped * tens
        if rest >= counted * 60:
            number += dropped * (1 + (rest - counted * 60) // (counted * 60 - dropped))
    seconds, frames = divmod(number, counted)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{';' if drops else ':'}{frames:02d}"
