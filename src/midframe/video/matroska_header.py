"""Change the header of Matroska files: what libav's muxer writes from fields of a stream that PyAV cannot set.

The elements are those of RFC 9559, section 5.1.4.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

from midframe.video import ebml
from midframe.video.ebml import Span, element, find, unsigned

MUXERS = ("matroska", "webm")
_HEADER_BYTES = 4 << 20  # of a file, to its tracks: extradata, and no attachments
_DISPLAY = (ebml.DISPLAY_WIDTH, ebml.DISPLAY_HEIGHT, ebml.DISPLAY_UNIT)
_ASPECT_UNIT = 3  # DisplayWidth and DisplayHeight are the display aspect ratio


def with_video_elements(head: bytes, elements: bytes) -> bytes | None:
    """Return the head of a Matroska file with further elements in its first video track; None if it has none.

    The head grows: the positions in the rest of the file are wrong afterwards.
    """
    segment = find(head, Span(0, 0, len(head)), ebml.SEGMENT)
    tracks = None if segment is None else find(head, segment, ebml.TRACKS)
    if segment is None or tracks is None or (made := _tracks(head, tracks, 0, lambda video: video + elements)) is None:
        return None
    width = segment.content - segment.begin - 4  # bytes of its size, which becomes "unknown"
    unknown = ((1 << (7 * width + 1)) - 1).to_bytes(width, "big")
    out = head[: segment.content - width] + unknown + head[segment.content : tracks.begin]
    out += element(ebml.TRACKS, made) + head[tracks.end :]
    seek = find(out, Span(segment.begin, segment.content, tracks.begin), ebml.SEEK_HEAD)
    if seek is not None:  # its positions are wrong now
        out = out[: seek.begin] + _void(seek.end - seek.begin) + out[seek.end :]
    return out


def with_sample_aspect(head: bytes, aspect: Fraction, muxer: str, number: int = 0) -> bytes | None:
    """Return the head of a Matroska file with the sample aspect ratio of a video track, at its length.

    Matroska gets the exact display aspect ratio, WebM the display width in whole pixels.

    Args:
        head: from the begin of the file to the end of its tracks, or more.
        aspect: width over height of a pixel.
        muxer: "matroska" or "webm".
        number: of the track, among the video tracks.

    Returns:
        None if there is no such track, or no space: the checksum and the padding of sizes give way.
    """
    segment = find(head, Span(0, 0, len(head)), ebml.SEGMENT)
    tracks = None if segment is None else find(head, segment, ebml.TRACKS)
    if tracks is None:
        return None
    for zeros in (0, 1):  # one byte of space is too small for an element
        made = _tracks(head, tracks, number, partial(_with_display, aspect=aspect, muxer=muxer, zeros=zeros))
        space = -1 if made is None else tracks.end - tracks.content - len(made)
        if made is not None and (space == 0 or space > 1):
            return head[: tracks.content] + made + (_void(space) if space else b"") + head[tracks.end :]
    return None


def write_sample_aspect(path: Path, aspect: Fraction, muxer: str, number: int = 0) -> None:
    """Set the sample aspect ratio of a video track of a finished file; other muxers and square pixels need nothing.

    Raises:
        OSError: the file cannot be read or written.
    """
    if muxer not in MUXERS or aspect == 1:
        return
    with open(path, "r+b") as file:
        head = with_sample_aspect(file.read(_HEADER_BYTES), aspect, muxer, number)
        if head is not None:
            file.seek(0)
            file.write(head)


def _with_display(video: bytes, aspect: Fraction, muxer: str, zeros: int) -> bytes:
    """Return the content of Video with the elements of a display size, in place of others."""
    inside = ebml.children(video, Span(0, 0, len(video)))
    size = {name: int.from_bytes(video[place.content : place.end], "big") for name, place in inside}
    width, height = size[ebml.PIXEL_WIDTH], size[ebml.PIXEL_HEIGHT]
    kept = b"".join(video[place.begin : place.end] for name, place in inside if name not in _DISPLAY)
    if muxer == "webm":  # which knows no other unit than pixels; the display height is that of the frame by default
        return kept + unsigned(ebml.DISPLAY_WIDTH, max(1, round(width * aspect)), zeros)
    shape = Fraction(width, height) * aspect
    shown = unsigned(ebml.DISPLAY_WIDTH, shape.numerator, zeros) + unsigned(ebml.DISPLAY_HEIGHT, shape.denominator)
    return kept + shown + unsigned(ebml.DISPLAY_UNIT, _ASPECT_UNIT)


def _tracks(head: bytes, tracks: Span, number: int, change: Callable[[bytes], bytes]) -> bytes | None:
    """Return the content of Tracks with the content of one Video changed, without the checksum; None without it."""
    out, seen, done = b"", 0, False
    for name, place in ebml.children(head, tracks):
        if name == ebml.CRC_32:
            continue
        video = find(head, place, ebml.VIDEO) if name == ebml.TRACK_ENTRY else None
        if video is None or seen != number:
            out += head[place.begin : place.end]
        else:
            made = element(ebml.VIDEO, change(head[video.content : video.end]))
            out += element(name, head[place.content : video.begin] + made + head[video.end : place.end])
            done = True
        seen += video is not None
    return out if done else None


def _void(count: int) -> bytes:
    """Return an element without meaning, of at least 2 bytes."""
    return element(ebml.VOID, bytes(count - 2), 1) if count < 128 else element(ebml.VOID, bytes(count - 9), 8)
