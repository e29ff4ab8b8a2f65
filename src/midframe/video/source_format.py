"""Find the pixel format and colour of decoded frames, and the fields that the file leaves unspecified."""

from __future__ import annotations

import re
import threading
from fractions import Fraction
from typing import Any

import av.filter
import av.logging

from midframe.types import PixelFormat
from midframe.video import formats

# Codecs that do not signal chroma siting and put it half-way between luma samples.
_CENTRED = ("mjpeg", "jpegls", "jpeg2000", "mpeg1video", "theora", "vp8", "webp", "png", "svq1", "svq3", "h263")
_IMAGE_CODECS = ("png", "mjpeg", "tiff", "webp", "bmp", "gif", "apng", "jpeg2000", "jpegls", "libjxl", "targa", "dpx")
_log_level = threading.Lock()  # libav has one for the whole process


def format_of(frame: Any, context: Any, codec: str) -> tuple[PixelFormat, frozenset[str]]:
    """Return the format in which frames are delivered, and its fields that the file leaves unspecified."""
    source = frame.format.name
    name = formats.planar_name(source)
    if name == "gbrap" and (codec == "mjpeg" or ((source == "pal8" or codec == "gif") and not _uses_alpha(frame))):
        name = "gbrp"  # CMYK in JPEG is decoded with an opaque alpha plane
    untagged = set()
    matrix = formats.MATRICES.get(frame.colorspace) or formats.MATRICES.get(context.colorspace)
    if matrix is None or (matrix == "rgb") == name.startswith(("yuv", "gray")):
        untagged.add("matrix")
        large = frame.width >= 1280 or frame.height > 576
        matrix = "bt709" if large and codec not in _IMAGE_CODECS else "smpte170m"
    full = source.startswith("yuvj") or frame.color_range == formats.RANGE_FULL
    if not full and frame.color_range == 0 and not source.startswith("yuvj"):
        untagged.add("full_range")
        full = codec in _IMAGE_CODECS and name.startswith("gray")
    primaries = formats.PRIMARIES.get(frame.color_primaries, "unknown")
    transfer = formats.TRANSFERS.get(frame.color_trc, "unknown")
    if reported := _reported_siting(frame):
        siting = reported
    elif codec in _CENTRED or (source.startswith("yuvj") and codec not in ("h264", "hevc", "av1")):
        siting = "center"
    elif codec == "av1" and primaries == "bt2020":
        siting = "topleft"  # as on UHD discs and in broadcasts (ITU-T H.273 type 2)
    else:
        siting = "left"
    made = formats.describe(name, matrix=matrix, full_range=full, primaries=primaries, transfer=transfer, siting=siting)
    return made, frozenset(untagged)


def _reported_siting(frame: Any) -> str | None:
    """Return the chroma siting that the decoder reports; None if it reports none.

    PyAV does not expose it; libav's filter showinfo writes it to the log.
    """
    graph = av.filter.Graph()
    feed = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000))
    sink = graph.add("buffersink")
    graph.link_nodes(feed, graph.add("showinfo", "checksum=0"), sink)
    graph.configure()
    with _log_level:
        level = av.logging.get_level()
        av.logging.set_level(av.logging.INFO)
        try:
            with av.logging.Capture(local=True) as lines:
                graph.push(frame)
                graph.pull()
        finally:
            av.logging.set_level(level)
    for _, _, line in lines:
        if found := re.search(r" cl:(\w+)", line):
            return found[1] if found[1] in ("left", "center", "topleft", "top", "bottomleft", "bottom") else None
    return None


def _uses_alpha(frame: Any) -> bool:
    opaque = frame.reformat(format="rgba").planes[0]
    pixels = bytes(opaque)
    step = opaque.line_size
    return any(set(pixels[y * step + 3 : y * step + 4 * frame.width : 4]) != {255} for y in range(frame.height))
