"""Predictions before a run: frames, length, size, time; and the same run as a command line and in Python.

Frames and length are exact if the header of the video is right. Size and time are estimated from earlier runs of this
video, else of others; without any, the size is that of a usual quality, and the time is unknown.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

from midframe.errors import InputError
from midframe.options import Options
from midframe.server.store import MeasuredSpeed
from midframe.speed import SpeedMap

USUAL_CRF = 16.0
USUAL_BITS_PER_PIXEL = (
    0.15  # libx264 at crf 16 on ordinary video; a flat drawing needs a fifth, grain four times as much
)
CRF_PER_HALVING = 6.0  # x264's rule of thumb: six steps of crf halve the bits

# options of the API that are not in Options
_NOT_OPTIONS = ("use_mask", "container")


@dataclass(frozen=True, slots=True)
class Prediction:
    """Output and cost of a run."""

    rate: Fraction  # output frames per second
    frames: int
    duration: Fraction  # seconds of output
    bytes: int
    work_seconds: float | None  # None until a run has been measured here
    basis: str  # "this video", "other videos" or "nothing": where size and time come from


def parse_options(options: Mapping[str, Any]) -> Options:
    """Parse the options of an API request. Raises InputError."""
    return Options.parse(**{name: value for name, value in options.items() if name not in _NOT_OPTIONS})


def pace_of(options: Options) -> SpeedMap:
    """Return the speed of the result, from the first frame of its range on."""
    if options.speed:
        return SpeedMap.of(options.speed, options.start or Fraction(0))
    return SpeedMap.constant(1 / (options.slowmo or Fraction(1)))


def preview_range(info: Mapping[str, Any], start: float, seconds: float) -> tuple[float, float]:
    """Return begin and end of a preview in seconds, moved into the video."""
    duration = float(info["duration"])
    begin = max(0.0, min(start, duration - seconds))
    return round(begin, 3), round(min(begin + seconds, duration), 3)


def predict(
    info: Mapping[str, Any], options: Mapping[str, Any], learned: MeasuredSpeed | None, basis: str
) -> Prediction:
    """Predict a run on a probed video. Raises InputError for invalid options."""
    given = parse_options(options)
    rate = Fraction(info["rate"])
    out = given.fps or rate * (given.ratio or (1 if given.slowmo or given.speed else 2))
    # N frames of a constant rate say it exactly; a duration in a header is rounded
    counted = info.get("frames") and not info.get("vfr")
    whole = Fraction(info["frames"]) / rate if counted else Fraction(str(info["duration"]))
    end = min(given.end, whole) if given.end is not None else whole
    start = given.start or Fraction(0)
    if start >= whole:
        raise InputError(f"start {float(start):g} s is after the end of the video at {float(whole):g} s")
    duration = pace_of(given).output(end - start)
    frames = max(1, math.ceil(duration * out))
    if given.vfr == "keep" and info.get("frames"):  # the frames of the range, and those between them
        inserted = given.ratio or 2
        frames = max(1, math.floor(info["frames"] * min(1, (end - start) / whole) * inserted) - int(inserted - 1))
    sides = int(info["width"]), int(info["height"])
    width, height = given.output_size(*(sides[::-1] if info.get("rotation") in (90, 270) else sides))
    pixels = frames * width * height
    bits = learned.bits_per_pixel if learned else USUAL_BITS_PER_PIXEL
    size = pixels * bits * 2 ** ((USUAL_CRF - (USUAL_CRF if given.crf is None else given.crf)) / CRF_PER_HALVING) / 8
    work = learned.start_seconds + pixels / learned.pixels_per_second if learned else None
    return Prediction(out, frames, duration, int(size), work, basis if learned else "nothing")


def at_crf_16(bits_per_pixel: float, crf: float | None) -> float:
    """Convert a measured size to the usual quality."""
    return bits_per_pixel * 2 ** (((USUAL_CRF if crf is None else crf) - USUAL_CRF) / CRF_PER_HALVING)


def measured_speed(outcome: Mapping[str, Any], crf: float | None) -> MeasuredSpeed:
    """Return speed and size of a finished run, from its outcome (see `backend.RunJob`).

    Loading a model takes as long for a preview as for a whole video, so it is separated from the time per frame.
    """
    seconds, pixels = float(outcome["seconds"]), float(outcome["pixels"])
    pixels_per_second = pixels / seconds
    if outcome.get("steady_seconds") and outcome.get("steady_pixels"):
        pixels_per_second = max(pixels_per_second, outcome["steady_pixels"] / outcome["steady_seconds"])
    bits = float(outcome.get("bits", 0)) / pixels
    return MeasuredSpeed(pixels_per_second, at_crf_16(bits, crf), max(0.0, seconds - pixels / pixels_per_second))


def output_name(name: str, options: Mapping[str, Any], rate: Fraction) -> str:
    """Return the name of the result, as `plan.default_target` makes it, in the chosen container."""
    given = parse_options(options)
    mark = f"{float(rate):.6g}fps" if given.slowmo is None else f"slow{float(given.slowmo):g}x"
    if given.start is not None or given.end is not None:
        mark += f".{float(given.start or 0):g}-{'end' if given.end is None else f'{float(given.end):g}s'}"
    return f"{PurePosixPath(name).stem or 'video'}.{mark}.{options.get('container') or 'mp4'}"


def command_line(name: str, options: Mapping[str, Any], rate: Fraction) -> str:
    """Return the run as a command line for a POSIX shell."""
    said = [
        f"--{key.replace('_', '-')} {value}" for key, value in _spoken(name, options) if not isinstance(value, bool)
    ]
    said += [f"--no-{key}" for key, value in _spoken(name, options) if value is False]
    source, target = (
        f"./{path}" if path.startswith("-") else path for path in (name, output_name(name, options, rate))
    )
    return " ".join(["midframe interpolate", shlex.quote(source), "-o", shlex.quote(target), *said])


def python_call(name: str, options: Mapping[str, Any], rate: Fraction) -> str:
    """Return the run as Python code."""
    said = "".join(f", {key}={value!r}" for key, value in _spoken(name, options, quote=str))
    return f"import midframe\n\nmidframe.interpolate({name!r}, {output_name(name, options, rate)!r}{said})\n"


def _spoken(name: str, options: Mapping[str, Any], quote: Any = shlex.quote) -> list[tuple[str, Any]]:
    """Return the options that differ from the default, as (name, text or bool)."""
    usual = Options().to_json()
    spoken: list[tuple[str, Any]] = []
    for key, value in parse_options(options).to_json().items():
        if value != usual[key]:
            spoken.append(
                (
                    key,
                    value
                    if isinstance(value, bool)
                    else quote(f"{value:g}" if isinstance(value, float) else str(value)),
                )
            )
    if options.get("use_mask"):
        spoken.append(("mask", quote(f"{PurePosixPath(name).stem}-mask.png")))
    return spoken
