"""The options of a run, checked once, before any work.

All entry points use `Options`: the command line, Python, web jobs, cluster workers. Checks that depend on the source,
the device or the models are done elsewhere, also before the work.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from fractions import Fraction
from numbers import Real
from typing import Any, Literal, TypedDict

from midframe.errors import InputError
from midframe.speed import Stretch, written
from midframe.speed import parse as parse_speed

NUMBER_OPTIONS = "fps", "in_fps", "ratio", "slowmo", "shutter", "start", "end"  # options that are numbers
HIGHEST_RATE = Fraction(1000)  # frames per second; beyond any display, probably a typing error
LOWEST_RATE = Fraction(1, 10)  # frames per second
DEFAULT_MODEL = "midnet-m"  # better than dis by 0.7 dB and more on every set we have; dis is many times as fast
HIGHEST_RATIO = Fraction(64)  # outputs per source frame; more is probably a typing error
MOST_SAMPLES = 32  # of motion blur, per output frame

_SCALE = r"-?\d+:-?\d+"
_SIDES = range(16, 16385)  # pixels

# Rates that broadcasting writes as decimals and means as n * 1000/1001 (SMPTE ST 318). The tolerance takes 23.98.
_NTSC = {n: Fraction(n * 1000, 1001) for n in (15, 24, 30, 48, 60, 72, 90, 96, 120, 144, 180, 240)}
_ROUNDED_RATE_TOLERANCE = Fraction(5, 1000)

CHOICES: dict[str, tuple[str, ...]] = {
    "slow_audio": ("auto", "drop", "stretch"),
    "scene": ("auto", "off", "modelscope"),
    "scene_fill": ("hold", "nearest", "blend"),
    "dedup": ("off", "auto"),
    "static": ("auto", "off"),
    "flow_scale": ("auto", "1", "0.5", "0.25"),
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "runtime": ("auto", "torch", "openvino"),
    "deinterlace": ("auto", "off"),
    "vfr": ("cfr", "keep"),
    "compat": ("off", "modelscope"),
}

Rate = Fraction | float | str  # 60, 59.94, "59.94", "60000/1001"
Time = Fraction | float | str  # seconds, or "1:30", "01:02:03.5"


class OptionKeywords(TypedDict, total=False):
    """The options as keywords of `interpolate`, `plan` and `Options.parse`; see `Options` for their meaning."""

    options: Options  # all of them in one value, instead of the others
    fps: Rate | None
    ratio: Fraction | float | str | None
    slowmo: Fraction | float | str | None
    speed: str | Sequence[Stretch] | None
    slow_audio: Literal["auto", "drop", "stretch"]
    shutter: Fraction | float | str | None
    loop: bool
    in_fps: Rate | None
    scene: Literal["auto", "off", "modelscope"]
    scene_threshold: float | None
    scene_fill: Literal["hold", "nearest", "blend"]
    dedup: Literal["off", "auto"]
    static: Literal["auto", "off"]
    mask: str | os.PathLike[str] | None
    model: str
    weights: str | os.PathLike[str] | None
    flow_scale: Literal["auto", "1", "0.5", "0.25"] | float
    device: str
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    runtime: Literal["auto", "torch", "openvino"]
    tile: str | int
    start: Time | None
    end: Time | None
    preview: str | None
    codec: str
    crf: float | None
    preset: str | None
    pix_fmt: str
    encoder: Mapping[str, str] | Sequence[str] | Sequence[tuple[str, str]]
    audio: bool
    subtitles: bool
    chapters: bool
    deinterlace: Literal["auto", "off"]
    vfr: Literal["cfr", "keep"]
    compat: Literal["off", "modelscope"]
    scale: str | None
    max_size: int | None
    resume: bool
    overwrite: bool
    strict: bool


# Options that do not affect the output: a resumed run may change them.
_CONDUCT = frozenset({"resume", "overwrite", "strict"})


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run. Times are seconds of the source, exact; `None` means "as the source"."""

    # rate: at most one of fps, ratio; neither is 2x
    fps: Fraction | None = None  # frames per second of the output; the duration is kept
    ratio: Fraction | None = None  # output rate over input rate; over the field rate of an interlaced source
    slowmo: Fraction | None = None  # the output lasts this many times longer; the rate is kept
    speed: tuple[Stretch, ...] = ()  # stretches of the source and their speeds; 1 elsewhere
    slow_audio: str = "auto"  # audio where the speed changes: "drop", "stretch" (pitch kept); auto: stretch with speed
    shutter: Fraction | None = None  # degrees, 0 to 360; motion blur over that share of the frame interval
    loop: bool = False  # the last frame leads to the first, for seamless loops
    in_fps: Fraction | None = None  # rate of an image sequence; None: 24
    # scene changes and duplicates
    scene: str = "auto"
    scene_threshold: float | None = None  # 0..1; lower finds more scene changes; None: the detector's own
    scene_fill: str = "hold"  # frames across a scene change
    dedup: str = "off"
    # static overlays
    static: str = "auto"
    mask: str | None = None  # path of an image: white is protected, black is not
    # model
    model: str = DEFAULT_MODEL
    weights: str | None = None  # folder or file
    flow_scale: str = "auto"
    # run
    device: str = "auto"
    precision: str = "auto"
    runtime: str = "auto"  # of the networks; "auto": openvino for rife on a CPU if installed
    tile: str = "auto"  # "auto", "off" or the side of a tile in pixels
    # range, half-open
    start: Fraction | None = None
    end: Fraction | None = None
    # media
    codec: str = "auto"
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str = "auto"
    encoder: tuple[tuple[str, str], ...] = field(default=())  # further (key, value) for the encoder
    audio: bool = True
    subtitles: bool = True
    chapters: bool = True
    deinterlace: str = "auto"
    scale: str | None = None  # size as displayed, "1280:720"; "1280:-2" keeps the shape, to an even height
    max_size: int | None = None  # pixels of the longer side at most
    vfr: str = "cfr"
    compat: str = "off"  # "modelscope": clock, frame count and scene change rule of its pipeline, see `midframe.compat`
    # job
    resume: bool = True
    overwrite: bool = False
    strict: bool = False  # refuse a damaged source

    def __post_init__(self) -> None:
        """Refuse invalid options with one line: the value given, the values allowed, a suggestion."""
        for name, allowed in CHOICES.items():
            given = getattr(self, name)
            if given not in allowed:
                raise InputError(
                    f"{_flag(name)} {given} is not known; allowed: {', '.join(allowed)}{_near(given, allowed)}"
                )
        for name in NUMBER_OPTIONS:
            given = getattr(self, name)
            if not isinstance(given, Real | None):
                raise InputError(f"Options({name}={given!r}): give a number; Options.parse reads text such as '60'")
        if self.fps is not None and self.ratio is not None:
            raise InputError(
                f"both --fps {self.fps} and --ratio {self.ratio} were given; one decides the rate: drop the other"
            )
        if self.slowmo is not None and self.ratio is not None:
            raise InputError("--slowmo keeps the rate and --ratio changes it; use --slowmo with --fps, or one alone")
        for name in ("fps", "in_fps"):
            _within(name, getattr(self, name), LOWEST_RATE, HIGHEST_RATE, "frames per second")
        for name in ("ratio", "slowmo"):
            _within(name, getattr(self, name), Fraction(1, 64), HIGHEST_RATIO, "")
        if self.shutter is not None and not 0 <= self.shutter <= 360:
            raise InputError(
                f"--shutter {float(self.shutter):g} is not within 0 to 360 degrees; 180 is usual, 0 is no motion blur"
            )
        if self.speed and (self.slowmo is not None or self.ratio is not None):
            other = "--slowmo" if self.slowmo is not None else "--ratio"
            raise InputError(f"--speed and {other} both change the pace; drop one of them (--fps sets the output rate)")
        if self.speed and self.vfr == "keep":
            raise InputError("--speed needs a constant output rate; drop --vfr keep")
        if self.loop and (self.start is not None or self.end is not None):
            raise InputError("--loop joins the end of the video to its start; drop --start and --end")
        if self.shutter and self.vfr == "keep":
            raise InputError("--shutter needs a constant output rate; use it with --fps or --ratio, not --vfr keep")
        if self.vfr == "keep" and (self.fps is not None or self.slowmo is not None):
            raise InputError("--vfr keep keeps the source's timestamps; use it with --ratio")
        if self.vfr == "keep" and self.ratio is not None and self.ratio.denominator != 1:
            raise InputError(f"--vfr keep takes a whole --ratio (2, 3 ...); {float(self.ratio):g} was given")
        if self.compat != "off":
            against: dict[str, object] = {
                "slowmo": self.slowmo,
                "shutter": self.shutter,
                "speed": self.speed or None,
                "loop": self.loop or None,
                "start": self.start,
                "end": self.end,
            }
            against["vfr"] = "keep" if self.vfr == "keep" else None
            for name, given in against.items():
                if given is not None:
                    raise InputError(f"--compat {self.compat} knows no {_flag(name)}; drop one of the two")
        if self.scale is not None and self.max_size is not None:
            raise InputError(f"both --scale {self.scale} and --max-size {self.max_size} were given; drop one of them")
        if self.scale is not None:
            sides = [int(side) for side in self.scale.split(":")] if re.fullmatch(_SCALE, self.scale) else []
            if len(sides) != 2 or max(sides) < 0 or not all(side in _SIDES or -2 <= side <= -1 for side in sides):
                raise InputError(
                    f"--scale {self.scale} is not a size; try 1280x720, or 1280:-2 to keep the shape; sides have "
                    f"{_SIDES[0]} to {_SIDES[-1]} pixels"
                )
        if self.max_size is not None and self.max_size not in _SIDES:
            raise InputError(f"--max-size {self.max_size} is not within {_SIDES[0]} to {_SIDES[-1]} pixels; try 1920")
        if self.scene_threshold is not None and not 0 <= self.scene_threshold <= 1:
            raise InputError(
                f"--scene-threshold {self.scene_threshold:g} is not within 0 to 1; lower finds more scene changes"
            )
        if self.tile not in ("auto", "off") and not (self.tile.isdigit() and 64 <= int(self.tile) <= 16384):
            raise InputError(f"--tile {self.tile} is not known; allowed: auto, off, or a side of 64 to 16384 pixels")
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise InputError(f"--device {self.device} is not known; allowed: auto, cpu, cuda, cuda:0 ..., mps")
        for name in ("start", "end"):
            if (given := getattr(self, name)) is not None and given < 0:
                raise InputError(f"--{name} {float(given):g} is negative; times count from the start of the video")
        if self.end is not None and self.end <= (self.start or 0):
            raise InputError(f"--end {float(self.end):g} s is not after --start {float(self.start or 0):g} s")
        if self.crf is not None and not (math.isfinite(self.crf) and 0 <= self.crf <= 63):
            raise InputError(f"--crf {self.crf:g} is not within 0 (largest file) to 63 (smallest); 16 is usual")

    @property
    def stretches_audio(self) -> bool:
        """Whether audio is stretched where the speed changes; else it is dropped."""
        return self.slow_audio == "stretch" or (self.slow_audio == "auto" and bool(self.speed))

    @classmethod
    def parse(cls, **keywords: Any) -> Options:
        """Parse options from loose values: numbers and text for rates and times; None is the default.

        Besides the fields it takes `preview="5@00:10"` (seconds @ start) instead of start and end.

        Raises:
            InputError: an unknown name, or an invalid value.
        """
        known = [f.name for f in fields(cls)]
        given = {name: value for name, value in keywords.items() if value is not None}
        if (preview := given.pop("preview", None)) is not None:
            if "start" in given or "end" in given:
                raise InputError("--preview says where it starts and ends; drop --start and --end, or --preview")
            given["start"], given["end"] = parse_preview(preview)
        for name in given:
            if name not in known:
                raise InputError(f"there is no option {name!r}{_near(name, known)}")
        for name in ("fps", "in_fps"):
            if name in given:
                given[name] = parse_rate(given[name], _flag(name))
        for name in ("ratio", "slowmo", "shutter"):
            if name in given:
                given[name] = parse_number(given[name], _flag(name))
        for name in ("start", "end"):
            if name in given:
                given[name] = parse_time(given[name], _flag(name))
        for name in ("flow_scale", "tile", "mask", "weights"):
            if name in given:
                given[name] = f"{given[name]:g}" if isinstance(given[name], float) else str(given[name])
        if "scale" in given:
            given["scale"] = str(given["scale"]).strip().lower().replace("x", ":")
        if "max_size" in given:
            size = parse_number(given["max_size"], "--max-size")
            if size.denominator != 1:
                raise InputError(f"--max-size {given['max_size']} is not a whole number of pixels; try 1920")
            given["max_size"] = int(size)
        for name in ("crf", "scene_threshold"):
            if name in given:
                given[name] = float(parse_number(given[name], _flag(name)))
        if "speed" in given and isinstance(given["speed"], str):
            try:
                given["speed"] = parse_speed(given["speed"])
            except (ValueError, ZeroDivisionError) as error:
                raise InputError(f"--speed {given['speed']}: {error}; try '0-2:1, 2-4:1>0.25, 4-:0.25'") from error
        if "encoder" in given:
            given["encoder"] = _pairs(given["encoder"])
        try:
            return cls(**given)
        except (TypeError, AttributeError) as error:
            raise InputError(f"an option has a value of the wrong kind: {error}") from error

    def output_size(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of the output as displayed, from those of the source as displayed."""
        shown = width, height
        if self.scale is not None:
            given = [int(part) for part in self.scale.split(":")]
            for n in (0, 1):
                if given[n] < 0:  # keep the shape, to a multiple of this
                    unit = -given[n]
                    given[n] = max(unit, unit * round(Fraction(given[1 - n] * shown[n], shown[1 - n] * unit)))
            return given[0], given[1]
        if self.max_size is None or max(shown) <= self.max_size:
            return shown
        factor = Fraction(self.max_size // 2, max(shown))
        return max(2, 2 * round(width * factor)), max(2, 2 * round(height * factor))

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; fractions as text ("60000/1001")."""
        plain = {name: _plain(value) for name, value in asdict(self).items() if name != "speed"}
        return {**plain, "speed": written(self.speed) or None}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Options:
        """Return the options that `to_json` wrote."""
        return cls.parse(**record)

    def fingerprint(self) -> str:
        """Return a hash of all options that affect the output; equal across processes and machines."""
        affecting = {name: value for name, value in self.to_json().items() if name not in _CONDUCT}
        return hashlib.sha256(json.dumps(affecting, sort_keys=True).encode()).hexdigest()[:16]

    def differences(self, record: Mapping[str, Any]) -> list[str]:
        """List differences from options recorded by `to_json`, as "crf 16, now 20"; `_CONDUCT` is ignored."""
        mine = self.to_json()
        names = [n for n in mine if n not in _CONDUCT and mine[n] != record.get(n)]

        def shown(value: object) -> object:
            return "default" if value is None else value

        return [f"{n.replace('_', '-')} {shown(record.get(n))}, now {shown(mine[n])}" for n in names]


def parse_number(given: object, name: str = "the number") -> Fraction:
    """An exact positive number from "2.5", "5/2", 2.5 or a Fraction.

    Raises:
        InputError: not a finite number.
    """
    try:
        value = Fraction(str(given).strip())
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"{name} {given} is not a number; try 2, 2.5 or 5/2") from error
    return value


def parse_rate(given: object, name: str = "the rate") -> Fraction:
    """An exact rate from "60", "59.94", "60000/1001". 23.976, 29.97, 59.94, 119.88 mean n * 1000/1001.

    Raises:
        InputError: not a finite number.
    """
    try:
        value = Fraction(str(given).strip())
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"{name} {given} is not a rate; try 60, 59.94 or 60000/1001") from error
    if value.denominator > 1 and "/" not in str(given):
        for exact in _NTSC.values():
            if abs(value - exact) <= _ROUNDED_RATE_TOLERANCE:
                return exact
    return value


def parse_time(given: object, name: str = "the time") -> Fraction:
    """Exact seconds from 90, "90.5", "1:30" or "01:02:03.5".

    Raises:
        InputError: not a time.
    """
    parts = str(given).strip().split(":")
    try:
        if len(parts) > 3 or any(not re.fullmatch(r"\d+", part) for part in parts[:-1]):
            raise ValueError(given)
        seconds = Fraction(parts[-1])
        for power, part in enumerate(reversed(parts[:-1]), start=1):
            seconds += int(part) * 60**power
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"{name} {given} is not a time; try 90, 1:30 or 01:02:03.5") from error
    return seconds


def parse_preview(given: object) -> tuple[Fraction, Fraction]:
    """(start, end) in seconds from "5@00:10": five seconds from 0:10 on; "5" starts at 0.

    Raises:
        InputError: not a preview.
    """
    length, _, at = str(given).partition("@")
    try:
        start, seconds = parse_time(at or 0), parse_time(length)
    except InputError as error:
        raise InputError(f"--preview {given} is not seconds@start; try 5@00:10") from error
    if seconds <= 0 or start < 0:
        raise InputError(f"--preview {given} has no length; try 5@00:10")
    return start, start + seconds


def _within(name: str, value: Fraction | None, low: Fraction, high: Fraction, unit: str) -> None:
    if value is not None and not low <= value <= high:
        allowed = f"{float(low):g} to {float(high):g}{' ' + unit if unit else ''}"
        raise InputError(f"{_flag(name)} {float(value):g} is not within {allowed}; try {'60' if unit else '2'}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _near(given: object, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(given), list(allowed), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _pairs(given: object) -> tuple[tuple[str, str], ...]:
    """(("tune", "film"),) from a mapping, from "tune=film" texts or from pairs."""
    if isinstance(given, Mapping):
        return tuple((str(k), str(v)) for k, v in given.items())
    pairs = []
    items: Iterable[Any] = given if isinstance(given, (list, tuple)) else [given]
    for item in items:
        key, found, value = item.partition("=") if isinstance(item, str) else (item[0], "=", item[1])
        if not found or not key:
            raise InputError(f"-e {item} is not key=value; try -e tune=film")
        pairs.append((str(key), str(value)))
    return tuple(pairs)


def _plain(value: Any) -> Any:
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, tuple):
        return [list(item) for item in value]
    return value
