"""Source, page, tests, examples and scripts use the terms of the field: retired words stay out of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "midframe"

# Single words, also as parts of names, and what replaced them.
RETIRED = {
    "film": "video", "films": "videos", "picture": "frame, image", "pictures": "frames, images",
    "wish": "option", "wishes": "options", "wished": "requested", "contestant": "method", "contestants": "methods",
    "diary": "run log", "certainty": "confidence", "certainties": "confidence", "door": "method, entry point",
    "doors": "methods, entry points", "farm": "cluster", "ladder": "baselines", "grey": "gray", "teller": "reporter",
    "telling": "progress", "sound": "audio", "sounds": "audio tracks",
    "remembering": "memoising", "poisoned": "permanently failed", "dearest": "longest first",
}  # fmt: skip
# Where motion and synthesis are computed.
RETIRED_IN_MODELS = RETIRED | {
    "guess": "motion hypothesis", "guesses": "hypotheses", "guessed": "hypotheses", "carried": "splatted",
    "judge": "fusion network", "judged": "evaluated", "judges": "fusion network", "verdict": "head",
    "evidence": "matching features", "clue": "input", "clues": "inputs", "calm": "trivial", "calmer": "trivial",
    "unevenness": "local flow variation", "sought": "estimated", "seek": "estimate", "astray": "mismatched",
    "witness": "photometric consistency", "witnesses": "photometric consistency", "lively": "moving",
    "restless": "changing", "mixture": "blend, error form", "mixtures": "blends, error forms",
    "storey": "layer batch", "storeys": "layer batches", "ripple": "deformation", "ripples": "deformations",
}  # fmt: skip
MODELS = (
    "colour.py",
    "confidence.py",
    "engine.py",
    "kernels.py",
    "models",
    "ops.py",
    "overlays.py",
    "scenes",
    "training",
)
PHRASES = r"\b(is told|are told|bears? out|borne out|of which)\b"

# Genuine uses, and names in files of versions that are still read.
ALLOWED = {
    "evaluation/datasets.py": {"film"},  # SNU-FILM
    "evaluation/evaluate.py": {"contestant", "contestants", "pictures"},  # keys of reports of format 1
    "models/midnet/architecture.py": {"carried", "judge", "guesses"},
    "models/midnet/checkpoint.py": {"judge", "verdict"},
    "cli/interpolate.py": {"film"},  # a profile
    "options.py": {"film"},  # tune=film of x264
    "profiles.py": {"film"},  # the profile for video shot on film
    "server/routes_jobs.py": {"picture"},  # former names in the HTTP API
    "server/schemas.py": {"picture"},
    "server/store.py": {"wish"},  # column of the first version of the database
    "scenes/script.py": {"film"},  # film grain
    "scenes/textures.py": {"film"},
    "server/static/page.js": {"film"},  # links of earlier versions
    "benchmarks/quality.py": {"film", "pictures"},  # SNU-FILM; results of before 2026-11-30
    "tests/test_datasets.py": {"film"},
    "tests/test_evaluate.py": {"contestant", "contestants", "pictures"},
    "tests/test_options.py": {"film"},  # tune=film of x264
    "tests/test_profiles.py": {"film"},
    "tests/test_server_api.py": {"picture", "wish"},  # former names
    "video/formats.py": {"film"},  # primaries of ITU-T H.273
}

FILES = sorted([*SOURCE.rglob("*.py"), *(SOURCE / "server" / "static").iterdir()])
# Outside the package; the two tests of words hold the words themselves.
FOLDERS = ("benchmarks", "examples", "integrations", "scripts", "tests")
OTHERS = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.is_file()
    and path.suffix in ("", ".py", ".ps1", ".ipynb", ".md")
    and path.name not in ("test_vocabulary.py", "test_docs.py")
)


def words_of(name: str) -> dict[str, str]:
    return RETIRED_IN_MODELS if name.split("/")[0] in MODELS else RETIRED


def retired_in(text: str, retired: dict[str, str]) -> set[str]:
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)}
    return (words & retired.keys()) | {match.lower() for match in re.findall(PHRASES, text)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_retired_words(path: Path) -> None:
    name = path.relative_to(SOURCE).as_posix()
    found = retired_in(path.read_text(), words_of(name)) - ALLOWED.get(name, set())
    assert not found, {word: words_of(name).get(word, "rephrase") for word in found}


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_retired_words_outside_the_package(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    found = retired_in(path.read_text(), RETIRED) - ALLOWED.get(name, set())
    assert not found, {word: RETIRED.get(word, "rephrase") for word in found}


def test_words_are_found_inside_names_and_sentences() -> None:
    text = "class FilmReader: ...\nmade_pictures = 1  # a wish that\nis told of itself; GREY seek"
    assert retired_in(text, RETIRED) == {"film", "pictures", "wish", "is told", "grey"}
    assert "seek" in retired_in(text, words_of("models/dis.py"))
