"""Scale frames: before interpolation to smaller sizes, which saves work, and after it to larger ones.

libav's Lanczos filter with the chroma siting of the source. Planes of RGB are scaled one by one, because libswscale
would take them through Y'CbCr.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import av.filter

from midframe.errors import InputError
from midframe.options import Options
from midframe.types import Frame, PixelFormat, VideoInfo
from midframe.video import formats

if TYPE_CHECKING:
    from torch import Tensor

_FLAGS = "lanczos+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
_SITINGS = ("left", "center", "topleft", "top", "bottomleft", "bottom")
_SHAPE_TOLERANCE = 2  # pixels by which a shape may differ from that of the source and still count as the same


@dataclass(frozen=True, slots=True)
class Scaling:
    """Size of the output, and the point at which frames are scaled to it."""

    source: VideoInfo
    width: int  # of the coded frame, before rotation
    height: int

    @classmethod
    def of(cls, info: VideoInfo, options: Options) -> Scaling:
        """Return the scaling of a source that options ask for.

        Raises:
            InputError: fields of interlaced video would be mixed.
        """
        turned = info.rotation in (90, 270)
        shown = (info.height, info.width) if turned else (info.width, info.height)
        width, height = options.output_size(*shown)
        made = cls(info, height, width) if turned else cls(info, width, height)
        if made.changes and info.interlaced and options.deinterlace == "off":
            raise InputError("--scale and --max-size would mix the fields of interlaced video; drop --deinterlace off")
        return made

    @property
    def changes(self) -> bool:
        """Whether the size differs from that of the source."""
        return (self.width, self.height) != (self.source.width, self.source.height)

    @property
    def shrinks(self) -> bool:
        """Whether frames are scaled before interpolation."""
        return self.changes and self.width * self.height <= self.source.width * self.source.height

    @property
    def output(self) -> VideoInfo:
        """Description of the source at the size of the output; its shape on the display is kept."""
        info = self.source
        if not self.changes:
            return info
        aspect = info.sample_aspect
        if abs(self.width * info.height - self.height * info.width) >= _SHAPE_TOLERANCE * info.width:
            aspect *= Fraction(self.height * info.width, self.width * info.height)
        matrix = info.display_matrix
        if matrix is not None:  # entries 6 and 7 move the rotated frame back, in pixels
            turned = info.rotation in (90, 270)
            scale = (self.width / info.width, self.height / info.height)
            scale = scale[::-1] if turned else scale
            matrix = (*matrix[:6], round(matrix[6] * scale[0]), round(matrix[7] * scale[1]), *matrix[8:])
        return replace(info, width=self.width, height=self.height, sample_aspect=aspect, display_matrix=matrix)

    def before(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Scale source frames to a smaller size; larger ones are made by `after`."""
        return self._scaled(frames) if self.shrinks else frames

    def after(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Scale output frames to a larger size."""
        return self._scaled(frames) if self.changes and not self.shrinks else frames

    def __str__(self) -> str:
        """Describe the sizes: "1920x1080 -> 1280x720 before interpolation"."""
        text = f"{self.source.width}x{self.source.height}"
        if not self.changes:
            return text
        return f"{text} -> {self.width}x{self.height} {'before' if self.shrinks else 'after'} interpolation"

    def _scaled(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        scaler: _Scaler | None = None
        for frame in frames:
            if scaler is None or scaler.format != frame.format:
                scaler = _Scaler(frame.format, (frame.width, frame.height), (self.width, self.height))
            yield replace(frame, planes=scaler(frame.planes))


class _Scaler:
    """Scale planes of one format and size."""

    def __init__(self, format: PixelFormat, source: tuple[int, int], target: tuple[int, int]) -> None:
        self.format = format
        yuv = format.layout == "yuv"
        suffix = "" if format.depth == 8 else f"{format.depth}le"
        # every plane of RGB by itself
        self._single = None if yuv else formats.describe(
            f"gray{suffix}", matrix="bt709", full_range=format.full_range, siting="left"
        )  # fmt: skip
        graph = av.filter.Graph()
        feed = graph.add_buffer(
            width=source[0],
            height=source[1],
            format=av.VideoFormat(format.name if self._single is None else self._single.name),
            time_base=Fraction(1, 1000),
        )
        # equal on both sides, so that values are not converted
        wanted = f"w={target[0]}:h={target[1]}:flags={_FLAGS}:in_range=full:out_range=full"
        if yuv:
            wanted += ":in_color_matrix=bt709:out_color_matrix=bt709"
        if yuv and (format.chroma_w or format.chroma_h):
            siting = format.siting if format.siting in _SITINGS else "left"
            wanted += f":in_chroma_loc={siting}:out_chroma_loc={siting}"
        scale = graph.add("scale", wanted)
        graph.link_nodes(feed, scale, graph.add("buffersink"))
        graph.configure()
        self._graph: Any = graph
        self._count = 0

    def __call__(self, planes: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if self._single is None:
            return self._through(planes, self.format)
        return tuple(self._through((plane,), self._single)[0] for plane in planes)

    def _through(self, planes: tuple[Tensor, ...], format: PixelFormat) -> tuple[Tensor, ...]:
        frame = formats.video_frame(planes, format)
        frame.colorspace = frame.color_primaries = frame.color_trc = formats.UNSPECIFIED
        frame.color_range = formats.RANGE_FULL
        frame.pts, frame.time_base = self._count, Fraction(1, 1000)
        self._count += 1
        self._graph.push(frame)
        return formats.planes_of(self._graph.pull(), format)
