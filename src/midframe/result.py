"""What a run reports: its progress, its result, and the JSON file beside the output."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from midframe import __version__
from midframe.types import Frame

LETTERS = {"source": "s", "made": "m", "held": "h", "repeated": "r"}  # kind of a frame, in `Result.kinds`


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; handed to `on_progress` after every picture."""

    frames: int  # output pictures finished, those of an earlier run included
    total: int | None  # output pictures there will be; None: unknown
    seconds: float  # of work in this run
    fps: float  # output pictures per second of work in this run
    remaining: float | None  # seconds
    segment: int  # 0-based; the one at hand
    segments: int
    cuts: int  # met so far in this run
    pts: Fraction  # seconds; where the latest picture is shown
    stage: str = "frames"  # "frames", then "joining"
    latest: Frame | None = None  # the latest picture; None while joining


@dataclass(frozen=True, slots=True)
class Doubt:
    """A made picture that its neighbours bear out little: where to look first."""

    picture: int  # 0-based, of the output
    certainty: float  # share of it that both neighbours bear out, 0..1


@dataclass(frozen=True, slots=True)
class Result:
    """What a run made. The same stands beside the output as JSON."""

    path: Path
    report: Path  # the JSON file
    frames_in: int
    frames_out: int
    rate: Fraction
    kinds: str  # one letter for every output picture: s source, m made, h held, r repeated
    cuts: tuple[Fraction, ...]  # seconds of the source at which a new shot begins
    warnings: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()  # streams that could not be kept, and why
    statistics: Mapping[str, float] = field(default_factory=dict)  # seconds, fps, resumed pictures
    doubts: tuple[Doubt, ...] = ()  # the least certain picture of each half second that has one below 0.98, worst first


OnProgress = Callable[[Progress], None]


def report_text(plan: Mapping[str, Any], result: Result) -> str:
    """The JSON that stands beside the output; `plan` as `Plan.to_json` wrote it."""
    return json.dumps(
        {
            "midframe": __version__,
            "plan": dict(plan),
            "output": str(result.path),
            "frames_in": result.frames_in,
            "frames_out": result.frames_out,
            "rate": str(result.rate),
            "statistics": dict(result.statistics),
            "warnings": list(result.warnings),
            "dropped": list(result.dropped),
            "cuts": [str(at) for at in result.cuts],
            "letters": {letter: kind for kind, letter in LETTERS.items()},
            "kinds": result.kinds,
            "doubts": [
                {"picture": d.picture, "seconds": float(d.picture / result.rate), "certainty": d.certainty}
                for d in result.doubts
            ],
        },
        indent=1,
        ensure_ascii=False,
    )
