"""EBML (RFC 8794), the format under Matroska and WebM: read and write elements and variable-size integers.

Knows the IDs of RFC 9559 that this package uses, and reads no files.
"""

from __future__ import annotations

from typing import NamedTuple

EBML, SEGMENT, SEEK_HEAD, CLUSTER, TRACKS = 0x1A45DFA3, 0x18538067, 0x114D9B74, 0x1F43B675, 0x1654AE6B
VOID, CRC_32 = 0xEC, 0xBF
TRACK_ENTRY, TRACK_NUMBER, VIDEO, PIXEL_WIDTH, PIXEL_HEIGHT = 0xAE, 0xD7, 0xE0, 0xB0, 0xBA
DISPLAY_WIDTH, DISPLAY_HEIGHT, DISPLAY_UNIT = 0x54B0, 0x54BA, 0x54B2
STEREO_MODE, PROJECTION, PROJECTION_TYPE, PROJECTION_PRIVATE = 0x53B8, 0x7670, 0x7671, 0x7672
PROJECTION_YAW, PROJECTION_PITCH, PROJECTION_ROLL = 0x7673, 0x7674, 0x7675
SIMPLE_BLOCK, BLOCK_GROUP, PLAIN_BLOCK = 0xA3, 0xA0, 0xA1

ELEMENT_HEAD_BYTES = 12  # most bytes of an ID and a size


class Head(NamedTuple):
    """ID and size of an element, and where its content begins."""

    id: int
    size: int | None  # bytes of the content; None if unknown
    content: int  # position


class Span(NamedTuple):
    """Where an element, its content and the next element begin."""

    begin: int
    content: int
    end: int


def read_integer(data: bytes, at: int = 0) -> tuple[int, int] | None:
    """Return a variable-size integer and its length in bytes; None if it is broken or cut off."""
    if at >= len(data) or data[at] == 0:
        return None
    length = 9 - data[at].bit_length()
    if at + length > len(data):
        return None
    return int.from_bytes(data[at : at + length], "big") & ((1 << (7 * length)) - 1), length


def read_head(data: bytes, at: int = 0, position: int = 0) -> Head | None:
    """Return the head of an element; None if it is broken or cut off.

    Args:
        data: bytes of a file, at least `ELEMENT_HEAD_BYTES` from the element on unless the file ends.
        at: where the element begins in `data`.
        position: of `data` in the file, added to the position of the content.
    """
    if at >= len(data) or data[at] < 0x10:  # IDs have at most four bytes
        return None
    id_length = 9 - data[at].bit_length()
    size = read_integer(data, at + id_length)
    if size is None:
        return None
    value, length = size
    unknown = value == (1 << (7 * length)) - 1
    name = int.from_bytes(data[at : at + id_length], "big")
    return Head(name, None if unknown else value, position + at + id_length + length)


def children(data: bytes, span: Span) -> list[tuple[int, Span]]:
    """Return ID and place of the elements inside one, up to the first that is broken or a cluster."""
    found, at = [], span.content
    while at < span.end and (head := read_head(data, at)) is not None and head.id != CLUSTER:
        end = span.end if head.size is None else min(span.end, head.content + head.size)
        found.append((head.id, Span(at, head.content, end)))
        at = end
    return found


def find(data: bytes, span: Span, *path: int) -> Span | None:
    """Return the first element with these IDs, each inside the one before; None if there is none."""
    for name in path:
        inner = next((place for found, place in children(data, span) if found == name), None)
        if inner is None:
            return None
        span = inner
    return span


def element(name: int, content: bytes, size_bytes: int | None = None) -> bytes:
    """Return an element; its size takes as few bytes as possible, or `size_bytes`."""
    length = size_bytes or next(n for n in range(1, 9) if len(content) < (1 << (7 * n)) - 1)
    size = (len(content) | 1 << (7 * length)).to_bytes(length, "big")
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + size + content


def unsigned(name: int, value: int, zeros: int = 0) -> bytes:
    """Return an element that holds an unsigned integer, with so many zero bytes before it."""
    return element(name, value.to_bytes(max(1, (value.bit_length() + 7) // 8) + zeros, "big"))
