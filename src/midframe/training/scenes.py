"""Rendered scenes for training: which seeds, which photographs; and the contact sheet.

The renderer itself stands below, in `midframe.scenes`, where the evaluation finds it too. Every scene made here
is of the domain "training".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from midframe.scenes import Mix, Rendered, Textures, compose, find_photos, render
from midframe.scenes.sheet import contact_sheet


def training_textures(photos: Sequence[Path] = ()) -> Textures:
    """Textures from folders of photographs, less those held out for evaluation; procedural ones if none are given."""
    return Textures(find_photos(photos)) if photos else Textures()


def scenes(
    textures: Textures,
    first: int = 0,
    size: tuple[int, int] = (256, 256),
    mix: Mix | None = None,
    t: float | None = None,
    neighbours: bool = True,
    stride: int = 1,
) -> Iterator[Rendered]:
    """Training scenes without end, seeds `first`, `first + stride` and so on.

    Args:
        textures: of the surfaces.
        first: the first seed; with `stride` the number of workers, each worker starts at its own number.
        size: height and width, pixels.
        mix: how often things happen; the training mix if not given.
        t: where the truth lies; drawn for each scene if not given.
        neighbours: also render the frames before a and after b.
        stride: distance between seeds.
    """
    seed = first
    while True:
        yield render(compose(seed, textures, size, "training", mix, t), neighbours)
        seed += stride


def sheet(
    path: Path, seed: int = 0, rows: int = 12, photos: Sequence[Path] = (), size: int = 256, mix: Mix | None = None
) -> None:
    """Write a contact sheet (PNG) of `rows` training scenes from `seed` on.

    Raises:
        InputError: a folder of photographs is missing or empty.
        MediaError: the file cannot be written.
    """
    drawn = scenes(training_textures(photos), seed, (size, size), mix)
    contact_sheet(path, [next(drawn) for _ in range(rows)])
