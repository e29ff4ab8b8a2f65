"""Read animated WebP files with OpenCV; libav does not decode them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from midframe.errors import MediaError
from midframe.types import Frame, Segment, VideoInfo
from midframe.video import formats, still_metadata
from midframe.video.files import check_path, named
from midframe.video.rates import measure_rate

_TICK = Fraction(1, 1000)  # seconds; WebP counts milliseconds
_SHORTEST_DELAY = 11  # ms; browsers show frames with shorter delays for 100 ms
_BROWSER_DELAY = 100  # ms


class _Animation(NamedTuple):
    images: list[np.ndarray[Any, Any]]  # (H, W, 4) BGRA uint8
    delays: list[int]  # ms


def _load(path: str | os.PathLike[str]) -> _Animation:
    import cv2

    check_path(path)
    read = getattr(cv2, "imreadanimation", None)
    if read is None:
        raise MediaError(f"{named(path)} is an animated WebP, which needs OpenCV 4.11 or later")
    data = np.fromfile(os.fspath(path), np.uint8)
    found, animation = cv2.imdecodeanimation(data)
    if not found or not animation.frames:
        raise MediaError(f"{named(path)} is not an animated WebP that can be read")
    delays = [d if d >= _SHORTEST_DELAY else _BROWSER_DELAY for d in animation.durations]
    return _Animation(list(animation.frames), delays)


def probe_animation(path: Path) -> VideoInfo:
    """Describe an animated WebP file as a video.

    Raises:
        MediaError: it is missing or damaged.
    """
    animation = _load(path)
    times = [0, *accumulate(animation.delays)]
    rate, variable = measure_rate(times, _TICK, ())
    height, width = animation.images[0].shape[:2]
    alpha = any(image.shape[2] == 4 and bool((image[..., 3] != 255).any()) for image in animation.images)
    return VideoInfo(
        path=os.fspath(path),
        container="images",
        codec="webp",
        width=width,
        height=height,
        format=formats.describe("gbrap" if alpha else "gbrp", matrix="rgb", full_range=True, siting="center"),
        rate=rate,
        time_base=_TICK,
        start=Fraction(0),
        duration=times[-1] * _TICK,
        header_frames=len(animation.images),
        counted_frames=len(animation.images),
        vfr=variable,
        untagged=frozenset({"matrix", "full_range"}),
        loops=still_metadata.loops(path),
    )


def read_animation(path: Path, info: VideoInfo, segment: Segment) -> Iterator[Frame]:
    """Yield the frames of an animated WebP file, from the one shown at the start of the segment."""
    import torch

    animation = _load(path)
    start = 0
    for number, (image, delay) in enumerate(zip(animation.images, animation.delays, strict=True)):
        pts, end = start * _TICK, (start + delay) * _TICK
        start += delay
        if segment.end is not None and pts >= segment.end:
            return
        if segment.start is not None and end <= segment.start:
            continue
        order = (2, 1, 0, 3) if info.format.alpha else (2, 1, 0)
        planes = tuple(torch.from_numpy(np.ascontiguousarray(image[..., channel])) for channel in order)
        yield Frame(planes, info.format, pts, end - pts, number)
