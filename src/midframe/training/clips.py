"""Training windows from real video: crops of a few consecutive frames that move, with quality checks.

Accepted folders: video files; Vimeo septuplets (`sequences/00001/0001/im1.png` to `im7.png`, listed in
`sep_trainlist.txt`); X-TRAIN and other folders of numbered images. A window is kept if its motion is steady and neither
too slow nor too fast, if it has no scene change or duplicate, and if motion compensation predicts the middle frame,
which rejects flashes, decoding errors and titles that appear.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from midframe.colour import to_rgb
from midframe.errors import InputError, MediaError
from midframe.shots import near_duplicate
from midframe.types import Frame, Segment
from midframe.video.probe import probe
from midframe.video.reader import open_reader

log = logging.getLogger(__name__)

Sample = TypeVar("Sample")

Image = NDArray[np.uint8]
Flow = NDArray[np.float32]

VIDEO_SUFFIXES = {
    ".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv",
    ".264", ".265", ".h264", ".hevc", ".y4m", ".ogv", ".mxf",
}  # fmt: skip
CLIP_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}

FRAMES_PER_RUN = 28  # consecutive frames
MAX_FAILED_RUNS = 40  # in a row
MAX_GAP_MOTION = 60.0  # between a and b, pixels, 95th percentile


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for windows. Motion is the 95th percentile of the flow between neighbouring frames, pixels."""

    min_motion: float = 0.4
    max_motion: float = 28.0
    max_step_ratio: float = 1.7  # of the motion of two neighbouring gaps
    min_psnr: float = 20.0  # dB, of the motion-compensated mean of both neighbours against the middle frame


@dataclass(frozen=True, slots=True)
class Clip:
    """A video file, or an ordered list of images."""

    path: Path
    images: tuple[Path, ...] = ()
    duration: Fraction = Fraction(0)  # of a video, seconds
    rate: Fraction = Fraction(30)  # of a video, approximate frames per second

    @property
    def length(self) -> int:
        """Approximate number of frames."""
        return len(self.images) or int(self.duration * self.rate)


def find_clips(folders: Sequence[Path], length: int = 7) -> list[Clip]:
    """Find all clips of at least `length` frames, in a fixed order.

    Unreadable files are skipped with a warning.

    Raises:
        InputError: a folder is missing or holds no usable clip; the message says how many clips were found.
    """
    clips: list[Clip] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"clips: {folder} is no folder")
        septuplets = folder / "sep_trainlist.txt"
        if septuplets.is_file():
            found = _septuplets(folder, septuplets.read_text().split())
        else:
            found = [*_videos(folder), *_sequences(folder)]
        kept = [clip for clip in found if clip.length >= length]
        if not kept:
            raise InputError(
                f"clips: {len(found)} clips under {folder}, none of {length} frames or more; looked for video files, "
                "sequences/*/*/im1.png with sep_trainlist.txt (Vimeo septuplets), and folders of numbered images"
            )
        clips += kept
    return clips


def _septuplets(folder: Path, names: Sequence[str]) -> list[Clip]:
    found = []
    for name in names:
        place = folder / "sequences" / name
        images = tuple(place / f"im{k}.png" for k in range(1, 8))
        if images[0].is_file() and images[6].is_file():
            found.append(Clip(place, images))
    return found


def _videos(folder: Path) -> Iterator[Clip]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in VIDEO_SUFFIXES or not path.is_file():
            continue
        try:
            info = probe(path)
        except MediaError as error:
            log.warning("clips: %s is left out: %s", path.name, error)
            continue
        rate = info.rate or Fraction(30)
        duration = info.duration
        if duration is None:
            duration = Fraction(info.counted_frames or info.header_frames or FRAMES_PER_RUN) / rate
        yield Clip(path, (), duration, rate)


def _sequences(folder: Path) -> Iterator[Clip]:
    """Folders with images whose names end in numbers (X-TRAIN: train/002/occ008.320_f2881/0000.png and on)."""
    for place in sorted([folder, *(p for p in folder.rglob("*") if p.is_dir())]):
        numbered = []
        for path in place.iterdir():
            match = re.search(r"(\d+)$", path.stem)
            if match and path.suffix.lower() in CLIP_IMAGES:
                numbered.append((int(match[1]), path.name, path))
        if len(numbered) >= 3:
            numbered.sort()
            yield Clip(place, tuple(path for _, _, path in numbered))


def read_run(clip: Clip, rng: Generator, count: int = FRAMES_PER_RUN) -> list[Image]:
    """Read up to `count` consecutive frames (H, W, 3) from a random position of a clip, without duplicates.

    Raises:
        MediaError: the file cannot be decoded there.
    """
    if clip.images:
        first = int(rng.integers(max(len(clip.images) - count, 0) + 1))
        images = []
        for path in clip.images[first : first + count]:
            raw = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR_RGB)
            if raw is None:
                raise MediaError(f"clips: {path} cannot be decoded")
            images.append(np.asarray(raw, np.uint8))
        return [p for k, p in enumerate(images) if not k or not np.array_equal(p, images[k - 1])]
    span = Fraction(count) / clip.rate
    latest = max(clip.duration - span, Fraction(0))
    start = latest * Fraction(int(rng.integers(1 << 16)), 1 << 16)
    frames: list[Frame] = []
    with open_reader(clip.path, Segment(start, start + span), in_rate=None) as reader:
        for frame in reader:
            if not frames or not near_duplicate(frames[-1], frame):
                frames.append(frame)
            if len(frames) == count:
                break
    return [_bytes(frame) for frame in frames]


def _bytes(frame: Frame) -> Image:
    # limited range has codes beyond black and white
    rgb = (to_rgb(frame.planes, frame.format) * 255).round().clamp(0, 255).byte()
    return np.ascontiguousarray(rgb.permute(1, 2, 0).numpy())


# Windows


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive frames (N, H, W, 3) uint8 and their motion per frame, pixels."""

    frames: Image
    motion: float


def cut_windows(
    images: Sequence[Image], rng: Generator, size: int, length: int, limits: Limits, most: int = 3
) -> list[Window]:
    """Cut up to `most` windows of `length` frames, size x size pixels, from a run of frames at full or half scale."""
    found: list[Window] = []
    starts = list(range(len(images) - length + 1))
    rng.shuffle(starts)
    used: list[int] = []
    for start in starts[: 3 * most]:
        if len(found) == most:
            break
        if any(abs(start - other) < length for other in used):
            continue
        frames = list(images[start : start + length])
        height, width = frames[0].shape[:2]
        if any(f.shape != frames[0].shape for f in frames):
            continue
        room = min(height, width) / size  # large videos are shown at half their size more often
        if room >= 2 and rng.random() < (0.6 if room < 3 else 0.75):
            frames = [np.asarray(cv2.resize(f, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)) for f in frames]
            height, width = frames[0].shape[:2]
        if min(height, width) < size:
            continue
        middle = length // 2
        top, left = most_changing_crop(frames[middle - 1], frames[middle], rng, size)
        cut = np.stack([f[top : top + size, left : left + size] for f in frames])
        motion = window_motion(cut, limits)
        if motion is not None:
            found.append(Window(cut, motion))
            used.append(start)
    return found


def most_changing_crop(one: Image, two: Image, rng: Generator, size: int) -> tuple[int, int]:
    """Return top and left of a crop: the one of four random crops with the greatest frame difference."""
    height, width = one.shape[:2]
    places = [(int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))) for _ in range(4)]
    change = cv2.absdiff(one[::4, ::4], two[::4, ::4]).sum(-1, dtype=np.int64)
    quarter = size // 4

    def life(place: tuple[int, int]) -> float:
        top, left = place[0] // 4, place[1] // 4
        return float(change[top : top + quarter, left : left + quarter].sum())

    return max(places, key=life)


def window_motion(frames: Image, limits: Limits) -> float | None:
    """Return the motion per frame, pixels, of a window (N, H, W, 3); None if it fails a check."""
    gray = [np.asarray(cv2.cvtColor(f, cv2.COLOR_RGB2GRAY), np.uint8) for f in frames]
    small = [np.asarray(cv2.resize(g, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8) for g in gray]
    fastest = 0.0
    for k in range(1, len(small) - 1):
        back, forth = _flow(small[k], small[k - 1]), _flow(small[k], small[k + 1])
        steps = [float(np.percentile(np.hypot(f[..., 0], f[..., 1]), 95)) * 2 for f in (back, forth)]
        fastest = max(fastest, *steps)
        if fastest > limits.max_motion:
            return None
        if max(steps) > 1.5 and max(steps) > limits.max_step_ratio * min(steps):
            return None
        compensated = (_warped(small[k - 1], back).astype(np.float32) + _warped(small[k + 1], forth)) / 2
        if _psnr(compensated, small[k]) < limits.min_psnr:
            return None
        if np.array_equal(gray[k], gray[k - 1]):
            return None
    return fastest if fastest >= limits.min_motion else None


@lru_cache(maxsize=1)
def _dis() -> Any:
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)


def _flow(one: Image, two: Image) -> Flow:
    flow: Flow = np.asarray(_dis().calc(one, two, None), np.float32)
    return flow


def _warped(image: Image, flow: Flow) -> Image:
    height, width = flow.shape[:2]
    x = flow[..., 0] + np.arange(width, dtype=np.float32)[None]
    y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def _psnr(one: NDArray[Any], two: Image) -> float:
    error = float(np.mean((one - two.astype(np.float32)) ** 2))
    return 10 * float(np.log10(255**2 / max(error, 1e-3)))


def collect(
    clips: Sequence[Clip],
    rng: Generator,
    count: int,
    cut: Callable[[Clip], list[Sample]],
    wanted: str,
    tries: int = MAX_FAILED_RUNS,
) -> list[Sample]:
    """Cut `count` samples from random clips.

    Args:
        clips: to cut from.
        rng: random generator.
        count: of samples.
        cut: returns samples from one random position of a clip; empty if it is unusable.
        wanted: description of a sample, for the error.
        tries: unusable positions in a row before giving up.

    Raises:
        InputError: the clips hold no usable frames.
    """
    # longer clips are drawn more often, but their frames are more alike
    weight = np.sqrt([clip.length for clip in clips])
    weight /= weight.sum()
    kept: list[Sample] = []
    barren = 0
    while len(kept) < count:
        clip = clips[int(rng.choice(len(clips), p=weight))]
        try:
            new = cut(clip)
        except MediaError as error:
            log.warning("clips: %s: %s", clip.path.name, error)
            new = []
        kept += new
        barren = 0 if new else barren + 1
        if barren > tries:
            raise InputError(f"clips: {barren} positions in a row without {wanted}")
    return kept[:count]


# Source of shards


@dataclass(frozen=True)
class ClipSource:
    """Source of shards: windows of real clips. The content of shard k depends only on k and the folders."""

    folders: tuple[Path, ...]
    size: int = 256  # pixels; smaller clips are not used
    length: int = 7  # frames of a window: 5 or 7
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Check the length."""
        if self.length not in (5, 7):
            raise InputError(f"clips: windows have 5 or 7 frames, not {self.length}")

    def make(self, number: int, samples: int) -> dict[str, NDArray[Any]]:
        """Cut a shard.

        Raises:
            InputError: the clips hold no usable window.
        """
        rng = np.random.default_rng([11, number])
        kept = collect(
            found_clips(self.folders, self.length),
            rng,
            samples,
            lambda clip: cut_windows(read_run(clip, rng), rng, self.size, self.length, self.limits),
            f"a usable window of {self.length} frames of {self.size} px; clips need motion and at least that size",
        )
        return {
            "frames": np.stack([w.frames for w in kept]),
            "motion": np.array([w.motion for w in kept], np.float32),
        }

    def sample(self, arrays: Mapping[str, NDArray[Any]], index: int, rng: Generator) -> dict[str, NDArray[Any]]:
        """Return a and b at distance 2, 3, 4 or 6, a target between them, and neighbours where the window has them."""
        frames, motion = arrays["frames"][index], float(arrays["motion"][index])
        count = len(frames)
        gaps = [gap for gap in (2, 3, 4, 6) if gap < count and (gap == 2 or motion * gap <= MAX_GAP_MOTION)]
        chance = np.array([{2: 0.45, 3: 0.15, 4: 0.2, 6: 0.2}[gap] for gap in gaps])
        gap = int(rng.choice(gaps, p=chance / chance.sum()))
        # at distance 2, the middle of seven frames has neighbours on both sides
        centred = gap == 2 and count == 7 and rng.random() < 0.7
        first = 2 if centred else int(rng.integers(count - gap))
        between = int(rng.integers(1, gap))
        out = {"a": frames[first], "target": frames[first + between], "b": frames[first + gap]}
        if first >= gap and first + 2 * gap < count:
            out |= {"before": frames[first - gap], "after": frames[first + 2 * gap]}
        return out | {"t": np.float32(between / gap)}


@lru_cache(maxsize=2)
def found_clips(folders: tuple[Path, ...], length: int) -> list[Clip]:
    """Cache `find_clips` per process."""
    return find_clips(folders, length)
