"""Describe video files and decode single frames as JPEG: the work of the probe subprocess."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from midframe.errors import MediaError

if TYPE_CHECKING:  # the server imports this file too, and needs no torch
    from midframe.types import Frame

JPEG_QUALITY = 80


def probe_video(path: str) -> Mapping[str, Any]:
    """Describe a video for the page and the predictions, as JSON. Raises MediaError."""
    from midframe.video.probe import probe
    from midframe.video.reader import deinterlaced

    info = probe(path)
    played = deinterlaced(info)  # rates refer to it
    frames = None if info.interlaced else info.counted_frames or info.header_frames  # headers may count fields
    duration = played.duration if played.duration else (frames / played.rate if frames and played.rate else None)
    return {
        "width": info.width, "height": info.height, "duration": None if duration is None else float(duration),
        "rate": None if played.rate is None else str(played.rate), "frames": frames, "container": info.container,
        "codec": info.codec, "pixels": info.format.name, "depth": info.format.depth, "vfr": info.vfr,
        "interlaced": info.interlaced, "hdr": info.hdr, "rotation": info.rotation,
        "streams": [{"kind": s.kind, "codec": s.codec, "language": s.language} for s in info.streams],
        "warnings": list(info.warnings),
    }  # fmt: skip


def make_still(path: str, seconds: float, width: int, upright: bool) -> bytes:
    """Return the frame at `seconds` from the start as JPEG, at most `width` wide, rotated as a player would."""
    from midframe.types import Segment
    from midframe.video.probe import probe
    from midframe.video.reader import open_reader

    info = probe(path)
    wanted = info.start + Fraction(seconds).limit_denominator(1000)
    for start in (wanted, info.start):  # damaged videos: the beginning rather than nothing
        with open_reader(path, Segment(start), info=info) as frames:
            frame = next(iter(frames), None)
        if frame is not None:
            return jpeg(frame, width, info.rotation if upright else 0)
    raise MediaError("nothing can be decoded there")


def jpeg(frame: Frame, width: int, rotation: int = 0) -> bytes:
    """Encode a frame as JPEG, at most `width` wide, rotated clockwise by `rotation` degrees."""
    import cv2
    import numpy as np

    from midframe.colour import to_rgb

    rgb = to_rgb(frame.planes, frame.format).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    if rgb.shape[1] > width:
        height = max(1, round(rgb.shape[0] * width / rgb.shape[1]))
        rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    rgb = np.rot90(rgb, k=-rotation // 90)
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise MediaError("this frame cannot be encoded as JPEG")
    return bytes(data)
