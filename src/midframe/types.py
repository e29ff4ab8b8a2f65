"""The basic values: a frame, its timestamp, the gap to the next one, the video.

Frozen values, checked when born, without behaviour beyond that. Times are exact seconds (`Fraction`)
from the start of the video; ranges are half-open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # planes are tensors, but values without planes need no torch
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How the planes of a frame are to be read. Nothing of this is guessed later on.

    Colour fields hold the code points of ITU-T H.273 under ffmpeg's names.
    """

    name: str  # ffmpeg's name: "yuv420p", "yuv422p10le", "gbrp", "gray", "yuva420p" ...
    layout: str  # "yuv", "rgb" (planes in R, G, B order) or "gray"
    depth: int  # bits per sample that carry the frame, 8 to 16; above 8 planes are uint16
    chroma_w: int = 0  # log2 of horizontal chroma subsampling: 1 for 4:2:0 and 4:2:2
    chroma_h: int = 0  # log2 of vertical chroma subsampling: 1 for 4:2:0
    alpha: bool = False  # a last plane holds alpha, full range, full size
    matrix: str = "bt709"  # "bt709", "smpte170m" (BT.601), "bt2020nc", "rgb" ...
    full_range: bool = False  # True: 0..2^depth-1; False: studio range (16..235 at 8 bits)
    primaries: str = "unknown"
    transfer: str = "unknown"
    siting: str = "left"  # chroma location: "left", "center", "topleft", ...

    def __post_init__(self) -> None:
        """Refuse values that no decoder produces."""
        if self.layout not in ("yuv", "rgb", "gray"):
            raise ValueError(f"layout {self.layout!r} is none of yuv, rgb, gray")
        if not 8 <= self.depth <= 16:
            raise ValueError(f"depth {self.depth} is not within 8..16 bits")
        if self.layout != "yuv" and (self.chroma_w or self.chroma_h):
            raise ValueError(f"layout {self.layout!r} has no chroma to subsample")

    @property
    def dtype(self) -> torch.dtype:
        """Sample type of the planes: uint8 up to 8 bits, uint16 above."""
        import torch

        return torch.uint8 if self.depth == 8 else torch.uint16

    @property
    def plane_count(self) -> int:
        """How many planes a frame of this format has."""
        return (1 if self.layout == "gray" else 3) + int(self.alpha)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, as the decoder made it, and the instant at which it is first shown."""

    planes: tuple[Tensor, ...]  # (Y, Cb, Cr[, A]), (R, G, B[, A]) or (Y[, A]); each (H, W), uint8 or uint16
    format: PixelFormat
    pts: Fraction  # seconds from the start of the video, exact
    duration: Fraction  # seconds; how long it is shown
    index: int  # 0-based position in the stream
    shot: int = 0  # grows by one at each scene change
    kind: str = "source"  # "source", "interpolated", "held" (at a scene change, after the end), "duplicate"
    # 0..1, of an interpolated frame: the share of it that is photometrically consistent with both neighbours
    confidence: float | None = None
    # finds the region in which most of the rest lies: left, top, right, bottom, 0..1; None unless confidence is low
    find_region: Callable[[], tuple[float, float, float, float]] | None = None

    def __post_init__(self) -> None:
        """Check the planes against the format."""
        if len(self.planes) != self.format.plane_count:
            raise ValueError(f"{len(self.planes)} planes given, {self.format.name} has {self.format.plane_count}")
        if self.duration < 0:
            raise ValueError(f"duration {self.duration} is negative")

    @property
    def height(self) -> int:
        """Rows of the frame."""
        return int(self.planes[0].shape[0])

    @property
    def width(self) -> int:
        """Columns of the frame."""
        return int(self.planes[0].shape[1])


@dataclass(frozen=True, slots=True)
class Opening:
    """The part of a shutter's opening that lies in one gap; it begins at the slot's t."""

    end: Fraction  # t at which it ends; equal to its begin where a frame is held
    share: Fraction  # of the whole opening, 0..1
    first: bool  # nothing of the output frame was exposed before
    last: bool  # the output frame is complete after this part


@dataclass(frozen=True, slots=True)
class Slot:
    """One output frame still to be made."""

    pts: Fraction  # seconds; when it is shown
    t: Fraction  # 0 <= t < 1 from a to b; 0 is frame a itself, bit for bit
    duration: Fraction = Fraction(0)  # seconds; how long it is shown, to the next output
    opening: Opening | None = None  # None: an instant
    held: bool = False  # a is shown past its own instant, because the gap is long; t is 0

    def __post_init__(self) -> None:
        """Check that t lies in the half-open gap."""
        if not 0 <= self.t < 1:
            raise ValueError(f"t = {self.t} is not within [0, 1)")
        if self.held and self.t:
            raise ValueError(f"t = {self.t} of a held frame is not 0")


@dataclass(frozen=True, slots=True)
class Gap:
    """The unit of work: two neighbours, and the output instants that fall between them."""

    a: Frame
    b: Frame | None  # None after the last frame: slots hold a
    slots: tuple[Slot, ...]
    before: Frame | None = None  # neighbour for four-frame models; None at ends and across scene changes
    after: Frame | None = None
    held: Fraction = Fraction(0)  # seconds from a.pts during which a is held; motion to b fills the rest

    @property
    def cut(self) -> bool:
        """Whether a scene change lies between a and b."""
        return self.b is not None and self.b.shot != self.a.shot


@dataclass(frozen=True, slots=True)
class Segment:
    """A half-open range [start, end) of source time, in seconds; None reaches to that end of the video."""

    start: Fraction | None = None
    end: Fraction | None = None

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise ValueError(f"segment [{self.start}, {self.end}) is empty")

    def __contains__(self, pts: Fraction) -> bool:
        return (self.start is None or pts >= self.start) and (self.end is None or pts < self.end)


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """One stream of a file, as its header says."""

    index: int
    kind: str  # "video", "audio", "subtitle", "attachment", "data"
    codec: str
    language: str | None = None
    disposition: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mastering:
    """The display an HDR video was graded on (SMPTE ST 2086)."""

    red: tuple[Fraction, Fraction]  # CIE 1931 x, y
    green: tuple[Fraction, Fraction]
    blue: tuple[Fraction, Fraction]
    white: tuple[Fraction, Fraction]
    darkest: Fraction  # cd/m2
    brightest: Fraction


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a video file is. `header_*` repeats what the header says; `counted_*` was counted by us."""

    path: str
    container: str  # ffmpeg's name of the demuxer: "mov,mp4,m4a,3gp,3g2,mj2"
    codec: str
    width: int  # coded frame, before rotation
    height: int
    format: PixelFormat
    rate: Fraction | None  # frames per second to count with: the header's, or measured
    time_base: Fraction  # seconds per tick of the video stream
    start: Fraction  # seconds; pts of the first frame, from the start of the file
    duration: Fraction | None  # seconds, of the video stream
    header_frames: int | None  # as the header says
    counted_frames: int | None = None  # as counted, when counting was asked for
    vfr: bool = False  # frames do not come at equal distances
    interlaced: bool = False
    rotation: int = 0  # degrees clockwise that a player turns the frame: 0, 90, 180, 270
    sample_aspect: Fraction = Fraction(1)
    hdr: str | None = None  # "PQ", "HLG", "Dolby Vision" or None
    video_index: int = 0  # stream index of the video stream that is interpolated
    streams: tuple[StreamInfo, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    origin: Fraction = Fraction(0)  # seconds; the file's own time stamp that counts as 0 in `Frame.pts`
    untagged: frozenset[str] = frozenset()  # fields of `format` that the file does not say and probing chose
    display_matrix: tuple[int, ...] | None = None  # nine fixed-point numbers, row by row, as the file says
    mastering: Mastering | None = None
    content_light: tuple[int, int] | None = None  # brightest pixel, brightest frame average; cd/m2
    chapters: int = 0
    loops: int | None = None  # times that an animation plays; 0 is forever, None: no animation
    colour_profile: bytes | None = None  # ICC profile, of images
    numbered: bool = False  # a sequence of image files: a gap in time is missing frames, not a pause
    timecode: str | None = None  # of the first frame: "10:00:00:00", ";" before the frames if frames are dropped
    captions: bool = False  # closed captions (EIA-608, CEA-708) in the video stream
    spherical: bytes | None = None  # libav's AVSphericalMapping: 360-degree video
    stereo: bytes | None = None  # libav's AVStereo3D
    exact_duration: bool = False  # `duration` is that of the video stream to the frame, not that of the whole file
