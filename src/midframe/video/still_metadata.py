"""Read metadata of image files: EXIF orientation, animation, loop count, an embedded video."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_METADATA_BYTES = 256 << 10  # EXIF and animation headers come before the pixels
_MOTION_PHOTO_BYTES = 32 << 20  # within which the video of a motion photo begins, behind the image
_ORIENTATION = 0x112  # tag of TIFF 6.0
UPRIGHT = 1


def _head(path: str | os.PathLike[str], length: int = _METADATA_BYTES) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(length)
    except OSError:
        return b""


def orientation(path: str | os.PathLike[str]) -> int:
    """Return the EXIF orientation of a JPEG, PNG or WebP file, 1 to 8; 1 if there is none."""
    head = _head(path)
    for mark in (b"Exif\0\0", b"eXIf", b"EXIF"):
        at = head.find(mark)
        if at < 0:
            continue
        tiff = next((p for order in (b"II*\0", b"MM\0*") if (p := head.find(order, at, at + 24)) >= 0), None)
        if tiff is not None:
            return _orientation_of(head[tiff:])
    return UPRIGHT


def _orientation_of(tiff: bytes) -> int:
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, at)
        for n in range(entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, at + 2 + 12 * n)
            if tag == _ORIENTATION and 1 <= value <= 8:
                return int(value)
    except struct.error:
        return UPRIGHT
    return UPRIGHT


def swaps_sides(orientation: int) -> bool:
    """Return whether this EXIF orientation swaps width and height."""
    return orientation >= 5


def upright(plane: Tensor, orientation: int) -> Tensor:
    """Rotate and flip a plane (H, W) by its EXIF orientation."""
    if orientation >= 5:
        plane = plane.T
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation)
    return plane.flip(flips) if flips else plane.contiguous()


def is_animated_png(path: str | os.PathLike[str]) -> bool:
    """Return whether a PNG file is an animation (it has an acTL chunk before its pixels)."""
    head = _head(path)
    if head[:8] != b"\x89PNG\r\n\x1a\n":
        return False
    at = 8
    while at + 8 <= len(head):
        length, kind = struct.unpack_from(">I4s", head, at)
        if kind in (b"acTL", b"IDAT"):
            return bool(kind == b"acTL")
        at += 12 + length
    return False


def is_animated_webp(path: str | os.PathLike[str]) -> bool:
    """Return whether a WebP file is an animation (the flag of its VP8X chunk)."""
    head = _head(path, 32)
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20] & 0x02)


def is_motion_photo(path: str | os.PathLike[str]) -> bool:
    """Return whether a JPEG file is a motion photo: a video follows the image."""
    head = _head(path)  # XMP comes before the pixels
    marked = head[:2] == b"\xff\xd8" and (b"MotionPhoto" in head or b"MicroVideo" in head)
    return marked and b"ftyp" in _head(path, _MOTION_PHOTO_BYTES)


def loops(path: str | os.PathLike[str]) -> int | None:
    """Return how often a GIF, APNG or animated WebP plays; 0 is forever, None unknown."""
    head = _head(path)
    if head[:4] == b"GIF8":
        at = head.find(b"NETSCAPE2.0\x03\x01")
        if at < 0 or at + 15 > len(head):
            return 1
        (again,) = struct.unpack_from("<H", head, at + 13)
        return 0 if again == 0 else int(again) + 1
    if head[:8] == b"\x89PNG\r\n\x1a\n" and (at := head.find(b"acTL")) > 0 and at + 12 <= len(head):
        return int(struct.unpack_from(">I", head, at + 8)[0])
    if head[8:12] == b"WEBP" and (at := head.find(b"ANIM")) > 0 and at + 14 <= len(head):
        return int(struct.unpack_from("<H", head, at + 12)[0])
    return None
