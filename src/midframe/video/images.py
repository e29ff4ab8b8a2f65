"""Read images as a video: a folder, a pattern, a list, or one image; and animated WebP files.

A sequence is a folder (all its images of the most frequent kind, in natural order: 9 before 10), a pattern
(`shot_%04d.png`, or a glob such as `shot_*.png`) or a list of files. It has no rate of its own; the caller gives one.
Where numbers of a `%04d` pattern are missing, the frame before lasts until the next one. All images must have the same
size after EXIF orientation is applied; the pixel format of the first is used for all.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from glob import escape, glob
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np

from midframe.errors import InputError, MediaError
from midframe.types import Frame, PixelFormat, Segment, VideoInfo
from midframe.video import formats, still_metadata, webp_animation
from midframe.video.files import check_path, missing, named, refuse_unread_image
from midframe.video.source_format import format_of

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
DEFAULT_RATE = Fraction(24)  # frames per second, if the caller gives none
# First bytes -> libav's demuxer of one image. Its own choice fails for JPEG files above 2 KB and for names with %d,
# which it takes for numbered sequences.
_PIPES = (
    (b"\x89PNG", "png_pipe"), (b"\xff\xd8\xff\xf7", "jpegls_pipe"), (b"\xff\xd8\xff", "jpeg_pipe"),
    (b"II*\0", "tiff_pipe"), (b"MM\0*", "tiff_pipe"), (b"II+\0", "tiff_pipe"), (b"MM\0+", "tiff_pipe"),
    (b"RIFF", "webp_pipe"), (b"BM", "bmp_pipe"),
    (b"\0\0\0\x0cjP  ", "j2k_pipe"), (b"\xff\x4f\xff\x51", "j2k_pipe"), (b"SDPX", "dpx_pipe"), (b"XPDS", "dpx_pipe"),
)  # fmt: skip
_TILE_WIDTH, _COMPRESSION, _JPEG_IN_TIFF = 0x142, 0x103, (6, 7)  # tags of TIFF 6.0
# channels and type of an image of OpenCV -> libav's pixel format
_CV_FORMATS = {
    (1, "uint8"): "gray", (3, "uint8"): "bgr24", (4, "uint8"): "bgra",
    (1, "uint16"): "gray16le", (3, "uint16"): "bgr48le", (4, "uint16"): "bgra64le",
}  # fmt: skip
COUNTER = re.compile(r"%0?\d*d")
_DIGITS = re.compile(r"(\d+)")


def is_sequence(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a folder of images, a pattern, or one image. An animated PNG is a video."""
    text = os.fspath(path)
    if os.path.isdir(text):
        return True
    if Path(text).suffix.lower() not in SUFFIXES or still_metadata.is_animated_png(text):
        return False
    return os.path.isfile(text) or bool(COUNTER.search(Path(text).name)) or any(c in Path(text).name for c in "*?")


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Return a sort key that compares digits as numbers: 9 before 10."""
    parts = _DIGITS.split(path.name.lower())
    return [(0, int(part), "") if part.isdigit() and part.isascii() else (1, 0, part) for part in parts]


def _in_folder(folder: Path) -> list[Path]:
    found = [entry for entry in folder.iterdir() if entry.suffix.lower() in SUFFIXES and entry.is_file()]
    return [entry for entry in found if not entry.name.startswith(".")]


def _kind_of(path: Path) -> str:
    """Return the suffix of an image, one for .jpg and .jpeg and one for .tif and .tiff."""
    suffix = path.suffix.lower()
    return {".jpeg": ".jpg", ".tiff": ".tif"}.get(suffix, suffix)


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """Return the images of a sequence, in order.

    Raises:
        MediaError: there is none.
    """
    text = os.fspath(path)
    here = Path(text)
    if os.path.isdir(text):
        found = _in_folder(here)
        if not found:
            refuse_unread_image(path)
            raise MediaError(f"the folder {named(text)} holds no images; allowed: {' '.join(SUFFIXES)}")
        kind = Counter(map(_kind_of, found)).most_common(1)[0][0]
        return sorted((entry for entry in found if _kind_of(entry) == kind), key=natural_order)
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
        raise MediaError(f"no image matches {named(text)}")
    return found


def positions(path: str | os.PathLike[str], files: Sequence[Path]) -> list[int]:
    """Return the position of each image in frames from the first; missing numbers of a `%04d` pattern leave gaps."""
    match = COUNTER.search(Path(path).name)
    if match is None or os.path.isfile(path):
        return list(range(len(files)))
    before, after = len(Path(path).name[: match.start()]), len(Path(path).name[match.end() :])
    numbers = [int(file.name[before : len(file.name) - after]) for file in files]
    return [number - numbers[0] for number in numbers]


def read_image(path: str | os.PathLike[str]) -> Any:
    """Decode one image file with libav.

    Returns:
        An `av.VideoFrame`.

    Raises:
        MediaError: it is missing or not an image.
    """
    check_path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(max(len(mark) for mark, _ in _PIPES))
        form = next((name for mark, name in _PIPES if head.startswith(mark)), None)
        if form is None:
            raise MediaError(f"{named(path)} is not an image that can be read")
        if form == "tiff_pipe" and _beyond_libav(path):
            return _read_tiff(path)
        options = {"format_whitelist": form, "protocol_whitelist": "file"}
        with av.open(f"file:{os.fspath(path)}", format=form, options=options, metadata_errors="replace") as container:
            for frame in container.decode(video=0):
                return frame
    except FileNotFoundError as error:
        raise missing(path) from error
    except (av.error.FFmpegError, ValueError, OSError, IndexError) as error:
        raise MediaError(f"{named(path)} is not an image that can be read") from error
    raise MediaError(f"{named(path)} holds no image")


def _beyond_libav(path: str | os.PathLike[str]) -> bool:
    """Return whether libav's decoder returns black for a TIFF file, or refuses it: tiles, JPEG inside, BigTIFF."""
    tags = still_metadata.tiff_tags(path)
    return not tags or _TILE_WIDTH in tags or tags.get(_COMPRESSION) in _JPEG_IN_TIFF


def _read_tiff(path: str | os.PathLike[str]) -> Any:
    """Decode a TIFF file with OpenCV's libtiff: gray or RGB, with or without alpha, of 8 or 16 bits."""
    import cv2

    pixels: Any = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    kind = None if pixels is None else (pixels.shape[2] if pixels.ndim == 3 else 1, str(pixels.dtype))
    if pixels is None or kind not in _CV_FORMATS:
        raise MediaError(f"{named(path)} is a TIFF file of a kind that cannot be read; convert it to PNG")
    return av.VideoFrame.from_ndarray(pixels, _CV_FORMATS[kind])


def _codec_of(path: Path) -> str:
    return {".jpg": "mjpeg", ".jpeg": "mjpeg", ".tif": "tiff", ".tiff": "tiff", ".webp": "webp", ".bmp": "bmp"}.get(
        path.suffix.lower(), "png"
    )


class _NoContext:
    """Stand in for the codec context of an image."""

    colorspace = formats.UNSPECIFIED


def _stored_format(frame: Any, path: Path) -> tuple[PixelFormat, frozenset[str]]:
    """Return the planar format of an image as stored, and the fields that the file does not specify."""
    return format_of(frame, _NoContext, _codec_of(path))


def _upright_format(format: PixelFormat, orientation: int) -> PixelFormat:
    """Return the format after EXIF rotation: 4:2:2 becomes 4:4:0 when width and height swap."""
    if not still_metadata.swaps_sides(orientation) or format.chroma_w == format.chroma_h:
        return format
    turned = replace(format, chroma_w=format.chroma_h, chroma_h=format.chroma_w)
    return replace(turned, name=formats.name_of(turned))


def probe_sequence(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], rate: Fraction | None) -> VideoInfo:
    """Describe a sequence of images as a video at a rate.

    Raises:
        MediaError: no images, or the first one cannot be read.
    """
    files = _listed(path)
    if len(files) == 1 and still_metadata.is_animated_webp(files[0]):
        return webp_animation.probe_animation(files[0])
    first = read_image(files[0])
    turn = still_metadata.orientation(files[0])
    stored, untagged = _stored_format(first, files[0])
    speed = rate if rate is not None else DEFAULT_RATE
    steps = positions(path, files) if isinstance(path, str | os.PathLike) else list(range(len(files)))
    missing = steps[-1] + 1 - len(files)
    warnings = []
    if rate is None and len(files) > 1:
        warnings.append(f"no rate was given; {speed} fps is assumed (--in-fps)")
    if missing:
        gaps = sum(b - a > 1 for a, b in pairwise(steps))
        warnings.append(
            f"{missing} image number(s) between {named(files[0].name)} and {named(files[-1].name)} are missing; "
            f"{gaps} gap(s) are interpolated over their whole time"
        )
    folder = Path(path) if isinstance(path, str | os.PathLike) and os.path.isdir(path) else None
    if folder is not None and (left := len(_in_folder(folder)) - len(files)) > 0:
        warnings.append(
            f"{left} of {left + len(files)} images in {named(folder)} have another suffix than {_kind_of(files[0])} "
            "and are left out; a pattern such as '*.png' chooses others"
        )
    if len(files) == 1 and still_metadata.is_motion_photo(files[0]):
        warnings.append(f"{named(files[0])} is a motion photo; its still image is read, not the video in it")
    width, height = first.width, first.height
    if still_metadata.swaps_sides(turn):
        width, height = height, width
    return VideoInfo(
        path=os.fspath(path) if isinstance(path, str | os.PathLike) else os.fspath(files[0]),
        container="images",
        codec=_codec_of(files[0]),
        width=width,
        height=height,
        format=_upright_format(stored, turn),
        rate=speed,
        time_base=1 / speed,
        start=Fraction(0),
        duration=(steps[-1] + 1) / speed,
        header_frames=len(files),
        counted_frames=len(files),
        vfr=bool(missing),
        numbered=True,
        colour_profile=still_metadata.colour_profile(files[0]),
        untagged=untagged,
        warnings=tuple(warnings),
    )


def _listed(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    if isinstance(path, str | os.PathLike):
        return files_of(path)
    files = [Path(one) for one in path]
    if not files:
        raise InputError("no images were given")
    return files


def read_sequence(info: VideoInfo, files: Sequence[Path], segment: Segment) -> Iterator[Frame]:
    """Yield the frames of a sequence, from the one shown at the start of the segment.

    Raises:
        MediaError: an image is missing, damaged, or of another size than the first.
    """
    if len(files) == 1 and still_metadata.is_animated_webp(files[0]):
        yield from webp_animation.read_animation(files[0], info, segment)
        return
    steps = [*positions(info.path, files), 0] if info.vfr else [*range(len(files)), 0]
    steps[-1] = steps[-2] + 1
    for number, path in enumerate(files):
        pts, end = steps[number] * info.time_base, steps[number + 1] * info.time_base
        if segment.end is not None and pts >= segment.end:
            return
        if segment.start is not None and end <= segment.start:
            continue
        planes = _planes_of(path, info)
        yield Frame(planes, info.format, pts, end - pts, number)


def _planes_of(path: Path, info: VideoInfo) -> tuple[Tensor, ...]:
    """Read the planes of an image, upright, in the format of the sequence."""
    image = read_image(path)
    turn = still_metadata.orientation(path)
    size = (image.height, image.width) if still_metadata.swaps_sides(turn) else (image.width, image.height)
    if size != (info.width, info.height):
        raise MediaError(
            f"{named(path)} is {size[0]}x{size[1]}, the first image {info.width}x{info.height}; "
            f"all images of a sequence must have one size"
        )
    stored, _ = _stored_format(image, path)
    planes = formats.planes_of(formats.to_planar(image, stored, image.width, image.height), stored)
    if turn != still_metadata.UPRIGHT:
        planes = tuple(still_metadata.upright(plane, turn) for plane in planes)
    found = _upright_format(stored, turn)
    if found == info.format:
        return planes
    from midframe import colour

    return colour.convert(planes, found, info.format)
