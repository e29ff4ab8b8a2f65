"""Read metadata of image files: EXIF orientation, colour profile, animation, loop count, an embedded video."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Literal

if TYPE_CHECKING:
    from torch import Tensor

_METADATA_BYTES = 256 << 10  # animation headers come before the pixels
_MOTION_PHOTO_BYTES = 32 << 20  # within which the video of a motion photo begins, behind the image
_ORIENTATION, _ICC_TAG = 0x112, 0x8773  # tags of TIFF 6.0 and of ICC.1:2022, annex B
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 9: 4, 10: 8, 12: 8}  # bytes of a value, by its type
_APP1, _APP2, _JPEG_PIXELS = b"\xe1", b"\xe2", (b"\xda", b"\xd9")  # markers of JPEG
_JPEG_ICC = b"ICC_PROFILE\0"
_ICC_HEADER = 128  # bytes; it begins with the size of the profile
_PROFILE_BYTES = 16 << 20  # more than any profile has
UPRIGHT = 1


def _head(path: str | os.PathLike[str], length: int = _METADATA_BYTES) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(length)
    except OSError:
        return b""


def orientation(path: str | os.PathLike[str]) -> int:
    """Return the EXIF orientation of a JPEG, PNG, TIFF or WebP file, 1 to 8; 1 if there is none."""
    with suppress(OSError), open(path, "rb") as file:
        for tags in _exif(file):
            value = tags.get(_ORIENTATION, 0)
            if 1 <= value <= 8:
                return value
    return UPRIGHT


def tiff_tags(path: str | os.PathLike[str]) -> dict[int, int]:
    """Return the first value of each tag of the first image of a TIFF file; empty if it is none, or a BigTIFF."""
    with suppress(OSError), open(path, "rb") as file:
        return _tags(file)
    return {}


def colour_profile(path: str | os.PathLike[str]) -> bytes | None:
    """Return the ICC profile of a JPEG, PNG, TIFF or WebP file; None if there is none, or none that is whole."""
    parts: list[bytes] = []
    with suppress(OSError, zlib.error), open(path, "rb") as file:
        for name, length in _blocks(file):
            if name == b"iCCP":  # name, 0, method of compression
                packed = file.read(length).partition(b"\0")[2][1:]
                parts.append(zlib.decompressobj().decompress(packed, _PROFILE_BYTES))
            elif name == b"ICCP":
                parts.append(file.read(length))
            elif name == _APP2 and file.read(len(_JPEG_ICC)) == _JPEG_ICC:  # then number and count of the segment
                parts.append(file.read(length - len(_JPEG_ICC))[2:])
        if (found := _entries(file).get(_ICC_TAG)) is not None:
            length, at = found
            file.seek(at)
            parts.append(file.read(min(length, _PROFILE_BYTES)))
    profile = b"".join(parts)
    whole = len(profile) >= _ICC_HEADER and int.from_bytes(profile[:4], "big") == len(profile)
    return profile if whole else None


def _blocks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield name and length of each block of a JPEG, PNG or WebP file, which then stands at the block's content.

    WebP, and PNG of some programs, keep EXIF behind the pixels.
    """
    file.seek(0)
    head = file.read(12)
    jpeg, png = head[:2] == b"\xff\xd8", head[:4] == b"\x89PNG"
    if not (jpeg or png or head[8:] == b"WEBP"):
        return
    at = 2 if jpeg else 8 if png else 12
    while True:
        file.seek(at)
        mark = file.read(8)
        if len(mark) < 8:
            return
        if jpeg:
            if mark[0] != 0xFF or mark[1:2] in _JPEG_PIXELS:
                return
            name, length, begin = mark[1:2], max(0, int.from_bytes(mark[2:4], "big") - 2), at + 4
            end = begin + length
        elif png:
            name, length, begin = mark[4:], int.from_bytes(mark[:4], "big"), at + 8
            end = begin + length + 4  # the checksum
        else:
            name, length, begin = mark[:4], int.from_bytes(mark[4:], "little"), at + 8
            end = begin + length + length % 2
        file.seek(begin)
        yield name, length
        at = end


def _exif(file: BinaryIO) -> Iterator[dict[int, int]]:
    """Yield the tags of each EXIF block of an image file, and of a TIFF file itself."""
    for name, length in _blocks(file):
        if name in (_APP1, b"eXIf", b"EXIF") and length <= _METADATA_BYTES:
            block = file.read(length)
            if name != _APP1 or block.startswith(b"Exif\0\0"):
                yield _tags(BytesIO(block.removeprefix(b"Exif\0\0")))
    yield _tags(file)


def _tags(file: BinaryIO) -> dict[int, int]:
    """Return the first value of each tag of the first directory of a TIFF stream; right for values of two bytes."""
    file.seek(0)
    order: Literal["little", "big"] = "little" if file.read(1) == b"I" else "big"
    values = {}
    for tag, (_, at) in _entries(file).items():
        file.seek(at)
        values[tag] = int.from_bytes(file.read(2), order)
    return values


def _entries(file: BinaryIO) -> dict[int, tuple[int, int]]:
    """Return count and position of the values of each tag of the first directory of a TIFF stream."""
    file.seek(0)
    head = file.read(8)
    if len(head) < 8 or head[:4] not in (b"II*\0", b"MM\0*"):
        return {}
    order = "<" if head[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", head, 4)
    file.seek(at)
    entries = {}
    with suppress(struct.error):  # it ends too early
        (number,) = struct.unpack(order + "H", file.read(2))
        table = file.read(12 * number)
        for n in range(number):
            tag, kind, count, value = struct.unpack_from(order + "HHII", table, 12 * n)
            inline = count * _TIFF_SIZES.get(kind, 1) <= 4
            entries[tag] = count, at + 2 + 12 * n + 8 if inline else value
    return entries


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
