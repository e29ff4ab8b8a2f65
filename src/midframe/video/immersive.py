"""360-degree and stereo metadata of the output: given to libav's muxers through the header of a Matroska file.

libav's muxers write them from the parameters of a stream, which PyAV copies from another stream and cannot set. So the
elements are put into the header of the first segment, in memory, and that serves as the template of the output
stream. Elements are those of RFC 9559, sections 5.1.4.1.28.3 (StereoMode) and 5.1.4.1.28.41 (Projection); structures
are libav's AVSphericalMapping and AVStereo3D.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from midframe.types import VideoInfo
from midframe.video import ebml
from midframe.video.ebml import element, unsigned
from midframe.video.encoders import Encoding
from midframe.video.matroska_header import with_video_elements
from midframe.video.segment_files import segment_muxer

HOLDERS = ("mp4", "matroska")  # muxers that write what they are given
SEGMENT_HEAD_BYTES = 16 << 20  # of a segment: its header, and frames from which libav completes the parameters

_ANGLES = (ebml.PROJECTION_YAW, ebml.PROJECTION_PITCH, ebml.PROJECTION_ROLL)
_EQUIRECTANGULAR, _CUBEMAP, _TILED = 0, 1, 2  # AVSphericalProjection
# (AVStereo3DType, inverted) -> StereoMode
_STEREO_MODES = {
    (0, 0): 0, (1, 0): 1, (1, 1): 11, (2, 0): 3, (2, 1): 2, (3, 0): 13, (3, 1): 14, (4, 0): 5, (4, 1): 4, (6, 0): 7,
    (6, 1): 6, (7, 0): 9, (7, 1): 8,
}  # fmt: skip


# Boxes of ISO/IEC 14496-12 that contain the sample entry of a track, and the bytes of their fields before it.
_PATH = ((b"moov", 0), (b"trak", 0), (b"mdia", 0), (b"minf", 0), (b"stbl", 0), (b"stsd", 8))
_SAMPLE_ENTRY_BYTES = 78  # fields of a VisualSampleEntry before its boxes


def is_immersive(info: VideoInfo) -> bool:
    """Return whether a source has 360-degree or stereo metadata."""
    return info.spherical is not None or info.stereo is not None


def lost_immersive(info: VideoInfo, encoding: Encoding) -> tuple[str, ...]:
    """Return a note if the output cannot keep the 360-degree and stereo metadata of a source."""
    if not is_immersive(info):
        return ()
    what = " and ".join(n for n, d in (("360-degree", info.spherical), ("stereo", info.stereo)) if d is not None)
    if projection_elements(info.spherical, info.stereo) is None:
        return (f"{what} metadata of this kind cannot be kept; inject them again",)
    if encoding.container not in HOLDERS or segment_muxer(encoding) != "matroska":
        return (f"{what} metadata cannot be kept here; .mp4 and .mkv with H.264, H.265, AV1 or VP9 keep them",)
    return ()


def projection_elements(spherical: bytes | None, stereo: bytes | None) -> bytes | None:
    """Return the elements of a Matroska video track for libav's structures; None for a mapping that it cannot hold."""
    made = b""
    if stereo is not None:
        kind, flags = struct.unpack("<2i", stereo[:8])
        if (kind, flags & 1) not in _STEREO_MODES:
            return None
        if mode := _STEREO_MODES[kind, flags & 1]:
            made += unsigned(ebml.STEREO_MODE, mode)
    if spherical is not None:
        projection, *angles = struct.unpack("<4i", spherical[:16])
        left, top, right, bottom, padding = struct.unpack("<5I", spherical[16:36])
        if projection == _CUBEMAP:
            kind, private = 2, struct.pack(">3I", 0, 0, padding)
        elif projection in (_EQUIRECTANGULAR, _TILED):
            kind, private = 1, struct.pack(">5I", 0, top, bottom, left, right)
        else:
            return None
        inner = unsigned(ebml.PROJECTION_TYPE, kind) + element(ebml.PROJECTION_PRIVATE, private)
        for name, angle in zip(_ANGLES, angles, strict=True):
            inner += element(name, struct.pack(">d", angle / 65536))
        made += element(ebml.PROJECTION, inner)
    return made


@contextlib.contextmanager
def immersive_template(segment: str | os.PathLike[str], info: VideoInfo) -> Iterator[Any | None]:
    """Open the head of a Matroska segment with the 360-degree and stereo metadata of a source.

    Yields:
        Its video stream; None without such metadata, or if they or the file do not permit it.
    """
    elements = projection_elements(info.spherical, info.stereo) if is_immersive(info) else None
    if elements is None or Path(segment).suffix != ".mkv":
        yield None
        return
    with open(segment, "rb") as file:
        head = file.read(SEGMENT_HEAD_BYTES)
    patched = with_video_elements(head, elements)
    if patched is None:
        yield None
        return
    with av.open(io.BytesIO(patched), format="matroska") as container:
        yield container.streams.video[0]


def drop_apple_projection(path: Path) -> None:
    """Turn the `vexu` box of an MP4 file that libav has written into a free one.

    It lacks the angles and the layout of the frame, and readers take it instead of the complete boxes before it.
    """
    with open(path, "r+b") as file:
        place, end = 0, path.stat().st_size
        for name, skipped in _PATH:
            found = _box(file, place, end, name)
            if found is None:
                return
            place, end = found[0] + 8 + skipped, found[1]
        entry = _box(file, place, end, None)
        extension = None if entry is None else _box(file, entry[0] + 8 + _SAMPLE_ENTRY_BYTES, entry[1], b"vexu")
        if extension is not None:
            file.seek(extension[0] + 4)
            file.write(b"free")


def _box(file: Any, place: int, end: int, name: bytes | None) -> tuple[int, int] | None:
    """Return begin and end of the first box called `name` in a range; of any name if None."""
    while place + 8 <= end:
        file.seek(place)
        size, found = struct.unpack(">I4s", file.read(8))
        if size == 1:
            (size,) = struct.unpack(">Q", file.read(8))
        size = size or end - place
        if name is None or found == name:
            return place, place + size
        if size < 8:
            return None
        place += size
    return None
