"""Options: one place for keywords; loose values in, exact values or one clear line out."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from midframe.errors import InputError
from midframe.options import Options, parse_preview, parse_rate, parse_time


@pytest.mark.parametrize(
    ("given", "exact"),
    [
        ("23.976", Fraction(24000, 1001)),
        ("23.98", Fraction(24000, 1001)),
        ("29.97", Fraction(30000, 1001)),
        ("59.94", Fraction(60000, 1001)),
        ("119.88", Fraction(120000, 1001)),
        (59.94, Fraction(60000, 1001)),
        ("60000/1001", Fraction(60000, 1001)),
        ("60", Fraction(60)),
        (25, Fraction(25)),
        ("12.5", Fraction(25, 2)),
        (Fraction(24), Fraction(24)),
    ],
)
def test_rates_are_exact(given: object, exact: Fraction) -> None:
    assert parse_rate(given) == exact


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("90", 90), ("1:30", 90), ("01:02:03.5", Fraction(7447, 2)), (0.5, Fraction(1, 2)), ("00:10", 10)],
)
def test_times(given: object, seconds: Fraction) -> None:
    assert parse_time(given) == seconds


def test_preview_is_a_range() -> None:
    assert parse_preview("5@00:10") == (10, 15)
    assert parse_preview("2.5") == (0, Fraction(5, 2))
    options = Options.parse(preview="5@1:00")
    assert (options.start, options.end) == (60, 65)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"fps": 0}, ["--fps 0", "0.1 to 1000"]),
        ({"fps": -24}, ["--fps -24"]),
        ({"fps": float("nan")}, ["--fps nan", "try 60"]),
        ({"fps": "inf"}, ["--fps inf"]),
        ({"fps": 1e9}, ["--fps 1e+09"]),
        ({"fps": "fast"}, ["--fps fast", "60000/1001"]),
        ({"fps": "60/0"}, ["--fps 60/0"]),
        ({"fps": 60, "ratio": 2}, ["--fps", "--ratio", "drop the other"]),
        ({"slowmo": 4, "ratio": 2}, ["--slowmo", "--ratio"]),
        ({"ratio": 0}, ["--ratio 0"]),
        ({"ratio": 1000}, ["--ratio 1000", "to 64"]),
        ({"scene": "automatic"}, ["--scene automatic", "auto, off"]),
        ({"scene_fill": "hodl"}, ["did you mean hold?"]),
        ({"device": "gpu"}, ["--device gpu", "cuda"]),
        ({"tile": "7"}, ["--tile 7"]),
        ({"start": -1}, ["--start -1"]),
        ({"start": "5", "end": "00:02"}, ["--end 2 s is not after --start 5 s"]),
        ({"end": 0}, ["--end 0 s"]),
        ({"start": "soon"}, ["--start soon", "1:30"]),
        ({"preview": "5@1", "end": 3}, ["--preview"]),
        ({"preview": "0@1"}, ["no length"]),
        ({"preview": "@"}, ["5@00:10"]),
        ({"crf": 99}, ["--crf 99", "0 (largest"]),
        ({"crf": "good"}, ["--crf good"]),
        ({"encoder": ["tune"]}, ["-e tune", "key=value"]),
        ({"scene_threshold": 2}, ["--scene-threshold 2"]),
        ({"vfr": "keep", "fps": 60}, ["--vfr keep"]),
        ({"vfr": "keep", "ratio": 2.5}, ["--vfr keep", "2.5"]),
        ({"framerate": 60}, ["framerate"]),
        ({"prescale": 1, "preste": "fast"}, ["prescale"]),
        ({"preste": "fast"}, ["did you mean preset?"]),
    ],
)
def test_an_invalid_option_is_one_line(keywords: dict[str, object], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Options.parse(**keywords)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("name", ["fps", "in_fps", "ratio", "slowmo", "shutter", "start", "end"])
def test_text_where_a_number_belongs_is_one_line(name: str) -> None:
    with pytest.raises(InputError, match=rf"^Options\({name}='60'\): give a number; Options.parse reads text"):
        Options(**{name: "60"})  # type: ignore[arg-type]


def test_json_round_trip() -> None:
    options = Options.parse(
        fps="59.94",
        start="0:01",
        end=Fraction(7, 3),
        encoder={"tune": "film"},
        crf=18,
        scene_threshold=0.3,
        mask="m.png",
    )
    assert Options.from_json(json.loads(json.dumps(options.to_json()))) == options


def test_fingerprint_distinguishes_outputs_and_ignores_conduct() -> None:
    base = Options.parse(fps=60)
    assert base.fingerprint() == Options.parse(fps="60").fingerprint()
    assert base.fingerprint() == Options.parse(fps=60, overwrite=True, resume=False).fingerprint()
    assert base.fingerprint() != Options.parse(fps=60, crf=17).fingerprint()
    assert base.differences(Options.parse(fps=60, crf=17).to_json()) == ["crf 17.0, now default"]
