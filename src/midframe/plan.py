"""Plan a run before it starts: rates, counts, segments, names.

Segment borders depend only on the source and the options, so that resumed runs and cluster workers find the same ones.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from midframe import compat, timeline
from midframe.errors import InputError, MediaError
from midframe.journal import segments_to_json
from midframe.options import HIGHEST_RATE, MOST_SAMPLES, Options
from midframe.speed import SpeedMap, written
from midframe.types import Segment, VideoInfo
from midframe.video.encoders import GIF_FASTEST, Encoding, choose_encoder
from midframe.video.images import SUFFIXES
from midframe.video.immersive import lost_immersive
from midframe.video.probe import probe
from midframe.video.reader import deinterlaced
from midframe.video.scaling import Scaling
from midframe.video.streams import plan_streams, stream_notes

SEGMENT_OUTPUTS = 480  # minimum per segment, at most lost in a crash; x264 sets a key frame every 250 anyway
NAME_BYTES = 255  # of a file name, if the system does not report its limit
LONGEST_SUFFIX = ".json.part"  # appended to the name of a target
# Suffixes that a target keeps from its source; all others (.ts, .avi, .flv ...) become Matroska, which holds all of
# their streams.
SAME_SUFFIX = (".mp4", ".mkv", ".mov", ".webm", ".m4v")


@dataclass(frozen=True, slots=True)
class Plan:
    """Rates, counts, segments, encoder and names of a run."""

    source: str
    target: Path
    info: VideoInfo
    options: Options
    rate: Fraction  # frames per second of the output
    slowmo: Fraction  # how many times longer the output lasts
    keep: int | None  # output frames per source frame if source timestamps are kept, else None
    start: Fraction  # seconds; pts of the video's first frame, from which the output grid counts
    end: Fraction | None  # seconds; where the video ends; None: unknown
    segments: tuple[Segment, ...]  # cover the requested range once, in order
    frames_in: int | None  # source frames of the requested range; None: unknown
    frames_out: int | None
    model: str
    device: str
    precision: str
    encoding: Encoding
    notes: tuple[str, ...] = ()  # for the user before the run: streams that cannot be kept, ...
    seconds: float | None = None  # estimated duration of the run

    def __str__(self) -> str:
        """Summarise the plan in one line."""
        info, delivered = self.info, self.delivered
        fields = f" interlaced ({delivered.rate} fields/s)" if info.rate and delivered.rate != info.rate else ""
        parts = [f"{info.rate or 'rate unknown'}{fields} -> {'variable' if self.keep else self.rate} fps"]
        if delivered.rate:
            parts.append(f"x{self.rate * self.slowmo / delivered.rate}")
        if self.slowmo != 1:
            parts.append(f"{float(self.slowmo):g} times slower")
        if self.options.speed:
            parts.append(f"speed {written(self.options.speed)}")
        if self.options.loop:
            parts.append("seamless loop")
        if self.options.shutter:
            opening = self.shutter / self.rate
            parts.append(
                f"shutter {float(self.options.shutter):g} degrees ({float(1000 * opening):.3g} ms), "
                f"up to {MOST_SAMPLES} samples per frame"
            )
        parts.append(f"{_count(self.frames_in)} -> {_count(self.frames_out)} frames")
        parts.append(str(self.scaling))
        if info.vfr:
            parts.append("variable frame rate")
        if info.interlaced and self.options.deinterlace == "auto":
            parts.append("deinterlaced to the field rate")
        if info.hdr:
            parts.append(f"HDR {info.hdr} {info.format.depth}-bit kept")
        parts.append(str(self.encoding))
        parts.append(f"{self.model} on {self.device} {self.precision}")
        if len(self.segments) > 1:
            parts.append(f"{len(self.segments)} segments")
        if self.seconds is not None:
            parts.append(f"about {duration_text(self.seconds)}")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the report."""
        return {
            "source": self.source,
            "target": str(self.target),
            "rate_in": None if self.delivered.rate is None else str(self.delivered.rate),
            "rate": str(self.rate),
            "size": f"{self.scaling.width}x{self.scaling.height}",
            "slowmo": str(self.slowmo),
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "segments": segments_to_json(self.segments),
            "model": self.model,
            "device": self.device,
            "precision": self.precision,
            "codec": str(self.encoding),
            "options": self.options.to_json(),
            "notes": [*self.info.warnings, *self.notes],
        }

    @property
    def delivered(self) -> VideoInfo:
        """Description of the source as delivered: deinterlaced to the field rate if the options ask for it."""
        return delivered_info(self.info, self.options)

    @property
    def scaling(self) -> Scaling:
        """Size of the output, and the point at which frames are scaled."""
        return Scaling.of(self.info, self.options)

    @property
    def tick(self) -> Fraction:
        """Seconds that divide all output times from `start` exactly."""
        if self.keep is None:
            return 1 / self.rate
        step = (
            self.delivered.time_base if self.delivered.vfr or self.delivered.rate is None else 1 / self.delivered.rate
        )
        return step / self.keep

    @property
    def speed(self) -> SpeedMap:
        """Speed of the source in the output, from its first frame."""
        return speed_map(self.options, self.start)

    @property
    def shutter(self) -> Fraction:
        """Fraction of the output frame interval during which the shutter is open, 0 to 1."""
        return (self.options.shutter or Fraction(0)) / 360

    def instant(self, pts: Fraction) -> Fraction:
        """Return the source time, in seconds, of an output frame at `pts`."""
        if self.options.speed:
            return self.start + self.speed.source(pts - self.start)
        return self.start + (pts - self.start) / self.slowmo


def delivered_info(info: VideoInfo, options: Options) -> VideoInfo:
    """Describe a source as delivered with these options; rates are relative to it."""
    return deinterlaced(info) if options.deinterlace == "auto" else info


def output_rate(delivered: VideoInfo, options: Options) -> Fraction:
    """Return the frames per second of the output of a source described by `delivered_info`.

    Raises:
        InputError: the rate of the source is unknown and needed.
    """
    if options.fps is not None:
        return options.fps
    if delivered.rate is None:
        raise InputError(f"'{delivered.path}' has no known frame rate; give --fps")
    return delivered.rate if options.slowmo is not None or options.speed else delivered.rate * (options.ratio or 2)


def output_name(source: Path, options: Options) -> Path:
    """Return the default target of a source; reads its header.

    Raises:
        InputError, MediaError: as `make_plan` and `probe` do.
    """
    delivered = delivered_info(probe(source, in_rate=options.in_fps), options)
    return default_target(source, options, output_rate(delivered, options))


def origins_of(path: Path) -> tuple[str, ...]:
    """Return the sources of a file that midframe wrote, from the report beside it; empty for all others."""
    try:
        report = json.loads(report_of(path).read_text(encoding="utf-8"))
        if "midframe" not in report or Path(report["output"]).name != path.name:
            return ()
        return tuple(report["comparison"]) if "comparison" in report else (str(report["plan"]["source"]),)
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def check_image_rate(info: VideoInfo, options: Options) -> None:
    """Refuse --in-fps with a video, which has a rate of its own. Raises InputError."""
    if options.in_fps is not None and not info.numbered:
        raise InputError(f"--in-fps is for sequences of images, and '{info.path}' has a rate of its own; leave it out")


def speed_map(options: Options, start: Fraction) -> SpeedMap:
    """Return the speed that options ask for, of a source whose first frame is at `start` seconds."""
    if options.speed:
        return SpeedMap.of(options.speed, start)
    return SpeedMap.constant(1 / (options.slowmo or Fraction(1)))


def make_plan(
    info: VideoInfo,
    dst: str | os.PathLike[str] | None,
    options: Options,
    *,
    keys: Callable[[], Iterable[Fraction]],
    model: str,
    device: str,
    precision: str,
    segment_outputs: int | None = None,
) -> Plan:
    """Decide everything that can be decided before the work.

    Args:
        info: description of the source.
        dst: the target; a name beside the source if None.
        options: the options.
        keys: returns the times of the key frames of the source, in seconds, at which segments may begin; called only
            for videos long enough for several segments.
        model: name of the model; with device and precision as chosen by the engine.
        device: see `model`.
        precision: see `model`.
        segment_outputs: minimum frames per segment; `SEGMENT_OUTPUTS` if None.

    Raises:
        InputError: an option that does not apply to this source.
        UnsupportedError: a codec or container that this build of PyAV does not support.
    """
    check_image_rate(info, options)
    slowmo = options.slowmo or Fraction(1)
    keep = None
    # rates are relative to the delivered frames: 25 interlaced frames per second are 50 fields
    delivered = delivered_info(info, options)
    rate = output_rate(delivered, options)
    if options.vfr == "keep":
        keep = int(options.ratio or 2)
    if rate > HIGHEST_RATE:
        raise InputError(f"{float(rate):g} frames per second exceeds the limit of {HIGHEST_RATE}; give a lower rate")

    start = info.start
    end = None if info.duration is None else start + info.duration
    requested = Segment(options.start or None, options.end)
    if end is not None and requested.start is not None and requested.start >= end:
        raise InputError(f"--start {float(requested.start):g} s is beyond the end of the video at {float(end):.6g} s")
    first = start if requested.start is None else max(start, requested.start)
    last = end if requested.end is None else requested.end if end is None else min(end, requested.end)
    if last is not None and last <= first:
        raise InputError(f"--end {float(last):g} s is not after {float(first):.6g} s, the time of the first frame")
    outputs = segment_outputs or SEGMENT_OUTPUTS
    pace = speed_map(options, start)
    density = rate / pace.slowest  # outputs per second of the source, at most
    short = last is not None and (last - first) * density < 2 * outputs
    segments = plan_segments(() if short else keys(), first, last, density, outputs)
    # the outer ends are those requested, or open
    segments = (replace(segments[0], start=requested.start), *segments[1:])
    segments = (*segments[:-1], replace(segments[-1], end=requested.end))

    frames_in = frames_out = None
    if last is not None:
        if delivered.rate is not None:
            frames_in = timeline.segment_count(Segment(first, last), start, last, delivered.rate)
        if requested == Segment() and info.header_frames and not info.interlaced:
            frames_in = info.header_frames
        if keep is None:
            frames_out = timeline.segment_count(
                Segment(first, last), start, last, rate, pace if options.speed else slowmo
            )
        elif frames_in is not None:
            frames_out = frames_in * keep - (0 if options.loop else keep - 1)
    if options.compat == "modelscope":
        if delivered.rate is None:
            raise InputError(f"'{info.path}' has no known frame rate, which --compat modelscope needs")
        segments = (Segment(),)  # its clock counts from the first frame on
        frames_out = None if frames_in is None else compat.count(frames_in, float(delivered.rate), float(rate))
    target = Path(dst) if dst is not None else default_target(Path(info.path), options, rate)
    check_name_length(target)
    encoding = choose_encoder(
        Scaling.of(info, options).output,
        target,
        options.codec,
        crf=options.crf,
        preset=options.preset,
        pix_fmt=options.pix_fmt,
        options=options.encoder,
    )
    if encoding.container == "gif" and rate > GIF_FASTEST:
        raise InputError(
            f"a GIF holds at most {GIF_FASTEST} frames per second, and {float(rate):g} come out; try --fps 50 or .apng"
        )
    if encoding.container == "images" and not is_pattern(target) and frames_out != 1:
        raise InputError(
            f"'{target}' is one image, and {_count(frames_out)} frames come out; try -o '{pattern_of(target)}'"
        )
    notes = stream_notes(plan_streams(info, target, options))
    return Plan(
        source=info.path,
        target=target,
        info=info,
        options=options,
        rate=rate,
        slowmo=slowmo,
        keep=keep,
        start=start,
        end=end,
        segments=segments,
        frames_in=frames_in,
        frames_out=frames_out,
        model=model,
        device=device,
        precision=precision,
        encoding=encoding,
        notes=(*encoding.notes, *lost_immersive(info, encoding), *notes),
    )


def plan_segments(
    keys: Iterable[Fraction],
    start: Fraction,
    end: Fraction | None,
    outputs_per_second: Fraction,
    outputs: int | None = None,
) -> tuple[Segment, ...]:
    """Divide a range of source time into segments of at least `outputs` frames, at key frames if there are any.

    Deterministic: resumed runs and cluster workers find the same borders.

    Args:
        keys: times of the key frames of the source, in seconds, in order. Those outside the range are ignored.
        start: seconds; begin of the range.
        end: seconds; end of the range; None: unknown, and the last segment is open.
        outputs_per_second: outputs for each second of the source.
        outputs: minimum per segment; `SEGMENT_OUTPUTS` if None.

    Returns:
        Segments in order. The first has no start and the last no end: they reach to the ends of the range.
    """
    least = (outputs or SEGMENT_OUTPUTS) / outputs_per_second
    borders: list[Fraction] = []
    at = start

    def fill(until: Fraction) -> None:
        """Add borders if key frames are very far apart, to limit the length of segments."""
        nonlocal at
        while until - at > 3 * least:
            at += 2 * least
            borders.append(at)

    for key in keys:
        if key - at < least or (end is not None and end - key < least / 2):
            continue
        fill(key)
        if key - at >= least:
            borders.append(key)
            at = key
    if end is not None:
        fill(end)
    ends = [None, *borders, None]
    return tuple(Segment(a, b) for a, b in pairwise(ends))


def default_target(source: Path, options: Options, rate: Fraction) -> Path:
    """Return a name beside the source with the kind of conversion: `clip.60fps.mp4`, `clip.slow4x.mkv`."""
    if options.speed:
        mark = "ramp"
    elif options.slowmo is not None:
        mark = f"slow{float(options.slowmo):g}x"
    elif options.vfr == "keep":
        mark = f"{options.ratio or 2}x"
    else:
        mark = f"{float(rate):.3f}".rstrip("0").rstrip(".") + "fps"
    if options.start is not None or options.end is not None:
        mark += f".{float(options.start or 0):g}-{'end' if options.end is None else f'{float(options.end):g}s'}"
    if is_pattern(source):  # named by its folder
        source = source.absolute().parent
    suffix = source.suffix.lower()
    return source.with_name(f"{source.stem}.{mark}{suffix if suffix in SAME_SUFFIX else '.mkv'}")


def report_of(target: Path) -> Path:
    """Return the path of the JSON report, beside the target."""
    folder = target.absolute().parent
    if is_pattern(target) and folder.name and folder != Path.cwd():  # beside the folder of images
        return folder.with_name(folder.name + ".json")
    return target.with_name(target.name + ".json")


def is_pattern(path: Path) -> bool:
    """Return whether a path means numbered images (`shot_%04d.png`) or a glob of them (`shot_*.png`), not one file."""
    text = path.name
    return path.suffix.lower() in SUFFIXES and bool(re.search(r"%0?\d*d|[*?]", text)) and not path.is_file()


def numbered(target: Path) -> list[str]:
    """Return the existing file names that match a pattern such as `dir/%05d.png`, or a single name."""
    found = re.search(r"%0?\d*d", target.name)
    if found is None or target.is_file():
        return [target.name] if target.exists() else []
    shape = re.compile(re.escape(target.name[: found.start()]) + r"\d+" + re.escape(target.name[found.end() :]))
    return [name for name in os.listdir(target.parent) if shape.fullmatch(name)] if target.parent.is_dir() else []


def pattern_of(target: Path) -> Path:
    """Return a pattern of numbered images for a single name: `out/%06d.png` for `out.png`."""
    return target.with_suffix("") / f"%06d{target.suffix}"


def check_target(target: Path, source: Path, overwrite: bool) -> None:
    """Refuse a target that must not be written, before the run. Creates the folder of a pattern of images.

    Raises:
        InputError: it exists, or it is the source.
        MediaError: its folder is missing or may not be written.
    """
    try:
        if target.exists() and source.exists() and target.samefile(source):
            raise InputError(f"'{target}' is the source itself; give another -o")
        folder = target.parent
        images = is_pattern(target)
        check_name_length(target)
        if images and folder.parent.is_dir():
            folder.mkdir(exist_ok=True)
        there = bool(numbered(target)) if images else target.exists()
        if there and not overwrite:
            reason = f"'{folder}' holds images named like '{target.name}'" if images else f"'{target}' exists"
            raise InputError(f"{reason} already; -y replaces {'them' if images else 'it'}, or give another -o")
        if not folder.is_dir():
            raise MediaError(f"the folder '{folder}' of the target does not exist; make it, or give another -o")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise MediaError(f"the folder '{folder}' is not writable; give another one with -o")
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise MediaError(f"'{target}' cannot be a file name: {error}") from error
    except OSError as error:
        raise MediaError(f"'{target}' cannot be written: {error.strerror}") from error


def check_name_length(target: Path) -> None:
    """Refuse a name that is too long for the suffixes of temporary files and reports.

    Raises:
        InputError: it is too long for the file system.
    """
    longest = NAME_BYTES
    with contextlib.suppress(OSError, AttributeError, ValueError):  # no pathconf on Windows; a folder that is missing
        longest = os.pathconf(target.parent, "PC_NAME_MAX")
    size, most = len(os.fsencode(target.name)), longest - len(LONGEST_SUFFIX)
    if size > most:
        raise InputError(f"the name '{target.name[:40]}...' has {size} bytes, {most} are allowed; give a shorter -o")


def duration_text(seconds: float) -> str:
    """Format a duration: "40 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _count(frames: int | None) -> str:
    """ "71 928", or "?" where it is not known."""
    return "?" if frames is None else f"{frames:,}".replace(",", " ")
