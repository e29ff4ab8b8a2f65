"""Animated images (GIF, APNG, WebP), encoded from lossless segments when they are joined.

A GIF needs one palette for all of its frames, so the frames pass twice: libav's palettegen, then paletteuse and the
encoder. The loop count of an animated source is kept; other sources loop for ever.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import av.filter

from midframe.errors import MediaError
from midframe.video.encoders import Encoding
from midframe.video.files import named
from midframe.video.segment_files import open_segment, segment_clock, segment_end, segment_stamps, ticks_per_unit

_ANIMATION_HEAD_BYTES = 1 << 16  # of a source, searched for its loop count
_TICKS_PER_SECOND = {"gif": 100, "apng": 1000, "webp": 1000}  # of delays between frames


def lossless(encoding: Encoding) -> Encoding:
    """Return the encoding of segments for an animated image: FFV1 with the samples of its frames."""
    options = (("level", "3"), ("slices", "4"), ("slicecrc", "1"))
    name = "bgra" if encoding.format.alpha else "bgr0"
    return replace(encoding, codec="ffv1", container="matroska", options=options, pixel_name=name)


def loop_count(path: str | os.PathLike[str] | None) -> int | None:
    """Return how often a GIF, APNG or WebP source plays: 0 is for ever; None if it is none of these.

    A GIF without a loop count plays once.
    """
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            head = file.read(_ANIMATION_HEAD_BYTES)
    except OSError:
        return None
    if head.startswith(b"GIF8"):
        at = head.find(b"NETSCAPE2.0\x03\x01")
        if at < 0:
            return 1
        repeats: int = struct.unpack_from("<H", head, at + 13)[0] if len(head) >= at + 15 else 0
        return repeats + 1 if repeats else 0
    if head.startswith(b"\x89PNG") and (at := head.find(b"acTL")) >= 0:
        return int(struct.unpack_from(">I", head, at + 8)[0])
    if head.startswith(b"RIFF") and (at := head.find(b"ANIM")) >= 0:
        return int(struct.unpack_from("<H", head, at + 12)[0])
    return None


def write_animation(
    segments: Sequence[str | os.PathLike[str]],
    part: Path,
    container: str,
    source: str | os.PathLike[str] | None,
    options: Sequence[tuple[str, str]] = (),
) -> None:
    """Encode lossless segments into one animated image.

    Args:
        segments: files that `open_writer(..., segment=True)` wrote with an encoding of `ANIMATIONS`.
        part: the file to write.
        container: "gif", "apng" or "webp".
        source: file whose loop count is kept; None: loop for ever.
        options: further (key, value) pairs for the encoder.

    Raises:
        MediaError: a segment is damaged.
    """
    per_second = _TICKS_PER_SECOND[container]
    plays = loop_count(source) or 0
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(open_segment(segments[0]))
        tick, _ = segment_clock(first, segments[0])
        shown = first.streams.video[0].codec_context
        alpha = shown.pix_fmt == "bgra"
        palette = _palette(segments, alpha) if container == "gif" else None
        end = _end(segments[-1], tick)
        loop = {"gif": -1 if plays == 1 else max(0, plays - 1), "apng": plays, "webp": plays}[container]
        settings = {"plays" if container == "apng" else "loop": str(loop)}
        own = ({"quality": "90"} if container == "webp" else {}) | dict(options)
        out = stack.enter_context(av.open(f"file:{part}", "w", format=container, options=settings))
        stream: Any = out.add_stream(
            "libwebp_anim" if container == "webp" else container,
            rate=min(Fraction(per_second), 1 / tick),
            options=own,
        )
        stream.width, stream.height = shown.width, shown.height
        stream.pix_fmt = _pixels(container, alpha)
        stream.codec_context.time_base = stream.time_base = Fraction(1, per_second)
        frames = _frames(segments, tick)
        waiting: tuple[Any, int] | None = None
        for frame, at in _with_palette(frames, palette) if palette is not None else frames:
            stamp = round(at * tick * per_second)
            if waiting is not None:
                _encode(out, stream, *waiting, stamp - waiting[1])
            waiting = frame if palette is not None else frame.reformat(format=stream.pix_fmt), stamp
        if waiting is not None:
            _encode(out, stream, *waiting, max(1, round(end * tick * per_second) - waiting[1]))
        out.mux(stream.encode(None))


def _pixels(container: str, alpha: bool) -> str:
    """Return the pixel format of an encoder."""
    if container == "gif":
        return "pal8"
    if container == "webp":
        return "bgra"
    return "rgba" if alpha else "rgb24"


def _encode(out: Any, stream: Any, frame: Any, stamp: int, duration: int) -> None:
    if duration <= 0:
        raise MediaError(f"two frames fall on one instant of the {stream.codec_context.name} clock; lower --fps")
    frame.pts, frame.time_base, frame.duration = stamp, stream.codec_context.time_base, duration
    out.mux(stream.encode(frame))


def _end(segment: str | os.PathLike[str], tick: Fraction) -> int:
    with open_segment(segment) as opened:
        return segment_end(opened, segment_stamps(segment), ticks_per_unit(opened, tick))


def _frames(segments: Sequence[str | os.PathLike[str]], tick: Fraction) -> Iterator[tuple[Any, int]]:
    """Yield the decoded frames of all segments with their pts in ticks."""
    for segment in segments:
        with open_segment(segment) as opened:
            ticks = ticks_per_unit(opened, tick)
            try:
                for frame in opened.decode(video=0):
                    yield frame, int(frame.pts * ticks)
            except av.error.FFmpegError as error:
                raise MediaError(f"the segment {named(segment)} is damaged; remove it and run again") from error


def _palette(segments: Sequence[str | os.PathLike[str]], alpha: bool) -> Any:
    """Return the palette of all frames, as libav's palettegen finds it."""
    graph: Any = None
    feed: Any = None
    for frame, _ in _frames(segments, Fraction(1)):
        if graph is None:
            graph = av.filter.Graph()
            feed = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format,
                                    time_base=Fraction(1, 1000))  # fmt: skip
            generate = graph.add("palettegen", f"reserve_transparent={int(alpha)}:stats_mode=full")
            graph.link_nodes(feed, graph.add("format", "pix_fmts=bgra"), generate, graph.add("buffersink"))
            graph.configure()
        frame.time_base = Fraction(1, 1000)
        feed.push(frame)
    if graph is None:
        raise MediaError("there are no frames for the animation")
    feed.push(None)
    return graph.pull()


def _with_palette(frames: Iterator[tuple[Any, int]], palette: Any) -> Iterator[tuple[Any, int]]:
    """Yield the frames in the colours of a palette, dithered."""
    graph: Any = None
    feed: Any = None
    sink: Any = None
    stamps: list[int] = []
    for frame, at in frames:
        if graph is None:
            graph = av.filter.Graph()
            base = Fraction(1, 1000)
            feed = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=base)
            colours = graph.add_buffer(
                width=palette.width, height=palette.height, format=palette.format, time_base=base, name="palette"
            )
            use = graph.add("paletteuse", "dither=sierra2_4a:diff_mode=rectangle")
            convert = graph.add("format", "pix_fmts=bgra")
            sink = graph.add("buffersink")
            feed.link_to(convert)
            convert.link_to(use, 0, 0)
            colours.link_to(use, 0, 1)
            use.link_to(sink)
            graph.configure()
            palette.pts, palette.time_base = 0, base
            colours.push(palette)
            colours.push(None)
        frame.pts, frame.time_base = len(stamps), Fraction(1, 1000)
        stamps.append(at)
        feed.push(frame)
        yield from _pulled(sink, stamps)
    if feed is not None:
        feed.push(None)
        yield from _pulled(sink, stamps)


def _pulled(sink: Any, stamps: Sequence[int]) -> Iterator[tuple[Any, int]]:
    while True:
        try:
            frame = sink.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        yield frame, stamps[frame.pts]
