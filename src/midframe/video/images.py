"""Folders and patterns of pictures as a film without a clock, and films as folders of pictures.

A sequence is a folder (all its pictures of the most frequent suffix, in natural order: 9 before 10), a pattern
(`shot_%04d.png`, or a glob such as `shot_*.png`) or a list of files. It has no rate of its own: the caller says one.
All pictures must have one size; the first one's pixel format is taken for all.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from glob import escape, glob
from pathlib import Path
from typing import Any

import av
import av.error
import torch

from midframe import colour
from midframe.errors import InputError, MediaError
from midframe.types import Frame, PixelFormat, Segment, VideoInfo
from midframe.video import formats
from midframe.video.files import check_path, missing, named
from midframe.video.source_format import format_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
DEFAULT_RATE = Fraction(24)  # frames per second, where the caller says none
# Suffix -> libav's demuxer of one picture; the content decides over the name, so this is only a first try.
_PIPES = ("png_pipe", "jpeg_pipe", "tiff_pipe", "webp_pipe", "bmp_pipe", "jpegls_pipe", "j2k_pipe", "dpx_pipe")
COUNTER = re.compile(r"%0?\d*d")
_DIGITS = re.compile(r"(\d+)")


def is_sequence(path: str | os.PathLike[str]) -> bool:
    """Whether a path means a sequence of pictures: a folder, a pattern, or one picture."""
    text = os.fspath(path)
    if os.path.isdir(text):
        return True
    if Path(text).suffix.lower() not in SUFFIXES:
        return False
    return os.path.isfile(text) or bool(COUNTER.search(Path(text).name)) or any(c in Path(text).name for c in "*?")


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """9 before 10: digits are compared as numbers."""
    parts = _DIGITS.split(path.name.lower())
    return [(0, int(part), "") if part.isdigit() and part.isascii() else (1, 0, part) for part in parts]


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """The pictures of a sequence, in order.

    Raises:
        MediaError: there is none.
    """
    text = os.fspath(path)
    here = Path(text)
    if os.path.isdir(text):
        found = [entry for entry in here.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file()]
        found = [entry for entry in found if not entry.name.startswith(".")]
        if not found:
            raise MediaError(f"the folder {named(text)} holds no pictures; allowed: {' '.join(SUFFIXES)}")
        kinds = Counter(entry.suffix.lower() for entry in found)
        kind = kinds.most_common(1)[0][0]
        return sorted((entry for entry in found if entry.suffix.lower() == kind), key=natural_order)
    if os.path.isfile(text):
        return [here]
    if match := COUNTER.search(here.name):
        before, after = here.name[: match.start()], here.name[match.end() :]
        shape = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
        folder = here.parent
        found = [e for e in folder.iterdir() if shape.fullmatch(e.name)] if folder.is_dir() else []
        found.sort(key=lambda e: int(shape.fullmatch(e.name)[1]))  # type: ignore[index]
    else:
        found = sorted(
            (Path(p) for p in glob(os.path.join(escape(os.fspath(here.parent)), here.name))), key=natural_order
        )
    if not found:
        raise MediaError(f"no picture matches {named(text)}")
    return found


def read_picture(path: str | os.PathLike[str]) -> Any:
    """Decode one picture file with libav.

    Returns:
        An `av.VideoFrame`.

    Raises:
        MediaError: it is missing or not a picture.
    """
    check_path(path)
    try:
        options = {"format_whitelist": ",".join(_PIPES), "protocol_whitelist": "file"}
        with av.open(f"file:{os.fspath(path)}", options=options, metadata_errors="replace") as container:
            for frame in container.decode(video=0):
                return frame
    except FileNotFoundError as error:
        raise missing(path) from error
    except (av.error.FFmpegError, ValueError, OSError, IndexError) as error:
        raise MediaError(f"{named(path)} is not a picture that can be read") from error
    raise MediaError(f"{named(path)} holds no picture")


def _codec_of(path: Path) -> str:
    return {".jpg": "mjpeg", ".jpeg": "mjpeg", ".tif": "tiff", ".tiff": "tiff", ".webp": "webp", ".bmp": "bmp"}.get(
        path.suffix.lower(), "png"
    )


class _NoContext:
    """Stands for a decoder's context where only a picture is known."""

    colorspace = formats.UNSPECIFIED


def picture_format(frame: Any, path: Path) -> tuple[PixelFormat, frozenset[str]]:
    """The planar format in which a picture is handed out, and what of it was not said."""
    made, untagged = format_of(frame, _NoContext, _codec_of(path))
    return made, untagged


def probe_sequence(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], rate: Fraction | None) -> VideoInfo:
    """What a sequence of pictures is, as a film at a rate.

    Raises:
        MediaError: no pictures, or the first one cannot be read.
    """
    files = _listed(path)
    first = read_picture(files[0])
    made, untagged = picture_format(first, files[0])
    speed = rate if rate is not None else DEFAULT_RATE
    warnings = () if rate is not None or len(files) == 1 else (f"no rate was given; {speed} fps is taken (--in-fps)",)
    return VideoInfo(
        path=os.fspath(path) if isinstance(path, str | os.PathLike) else os.fspath(files[0]),
        container="pictures",
        codec=_codec_of(files[0]),
        width=first.width,
        height=first.height,
        format=made,
        rate=speed,
        time_base=1 / speed,
        start=Fraction(0),
        duration=len(files) / speed,
        header_frames=len(files),
        counted_frames=len(files),
        untagged=untagged,
        warnings=warnings,
    )


def _listed(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    if isinstance(path, str | os.PathLike):
        return files_of(path)
    files = [Path(one) for one in path]
    if not files:
        raise InputError("no pictures were given")
    return files


def read_sequence(info: VideoInfo, files: Sequence[Path], segment: Segment) -> Iterator[Frame]:
    """Frames of a sequence, from the one that is shown at the segment's start.

    Raises:
        MediaError: a picture is missing, damaged, or of another size than the first.
    """
    step = info.time_base
    for number, path in enumerate(files):
        pts = number * step
        if segment.end is not None and pts >= segment.end:
            return
        if segment.start is not None and pts + step <= segment.start:
            continue
        picture = read_picture(path)
        if (picture.width, picture.height) != (info.width, info.height):
            raise MediaError(
                f"{named(path)} is {picture.width}x{picture.height}, the first picture {info.width}x{info.height}; "
                f"all pictures of a sequence must have one size"
            )
        yield Frame(planes_as(picture, path, info.format), info.format, pts, step, number)


def planes_as(picture: Any, path: Path, wanted: PixelFormat) -> tuple[torch.Tensor, ...]:
    """Planes of a decoded picture in a sequence's format, converted if this picture has another."""
    made, _ = picture_format(picture, path)
    planes = formats.planes_of(formats.to_planar(picture, made, picture.width, picture.height), made)
    if made == wanted:
        return planes
    return colour.convert(planes, made, wanted)


def with_rate(info: VideoInfo, rate: Fraction) -> VideoInfo:
    """A sequence's description at another rate."""
    frames = info.header_frames or 0
    return replace(info, rate=rate, time_base=1 / rate, duration=frames / rate)
