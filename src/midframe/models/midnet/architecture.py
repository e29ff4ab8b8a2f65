"""Sizes of midnet, and their JSON in the metadata of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Names of hypotheses in files written before they were called by the field's terms.
_OLD_NAMES = {
    "carried": "splatted", "alone_a": "one_sided_a", "alone_b": "one_sided_b", "smooth": "filtered",
    "below": "shifted_down", "above": "shifted_up", "right": "shifted_right", "left": "shifted_left", "rest": "zero",
}  # fmt: skip
SHIFTS = {"shifted_right": (1, 0), "shifted_left": (-1, 0), "shifted_down": (0, 1), "shifted_up": (0, -1)}
HYPOTHESES = ("splatted", "one_sided_a", "one_sided_b", "filtered", "refined", *SHIFTS, "zero")
PRIMARY, REFINED, ZERO = "splatted", "refined", "zero"


def refined_index(hypotheses: Sequence[str]) -> int | None:
    """Index of the refined hypothesis, if it is among these."""
    return list(hypotheses).index(REFINED) if REFINED in hypotheses else None


@dataclass(frozen=True, slots=True)
class Architecture:
    """Size of a midnet; stored in the metadata of its weights."""

    # Channels of the fusion network: of each hypothesis, of the context at 1/4, at 1/8 and 1/16.
    fusion: tuple[int, int, int] = (16, 24, 32)
    # The first is the primary one; see `hypotheses.propose`.
    hypotheses: tuple[str, ...] = (
        "splatted", "one_sided_a", "one_sided_b", "filtered", "shifted_down", "shifted_right", "zero",
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Check the hypotheses.

        Raises:
            ValueError: an unknown one, or the first is not the primary one, or zero motion is missing.
        """
        unknown = set(self.hypotheses) - set(HYPOTHESES)
        if unknown or self.hypotheses[0] != PRIMARY or ZERO not in self.hypotheses:
            raise ValueError(f"hypotheses {', '.join(self.hypotheses)}; the first is {PRIMARY}, {ZERO} is among them")

    @property
    def filtered(self) -> bool:
        """Whether the filtered flow is among the hypotheses."""
        return "filtered" in self.hypotheses

    @property
    def refined(self) -> bool:
        """Whether learned intermediate flow is among the hypotheses."""
        return REFINED in self.hypotheses

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {name: list(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Architecture:
        """Undo `to_json`; reads the JSON of older versions as well.

        Raises:
            ValueError: not the JSON of an architecture, or of a network with learned features.
        """
        if "judge" in data:
            if data.get("matcher") != "dis":
                raise ValueError("their flow is learned, and this version has classical flow only")
            data = {"fusion": data["judge"], "hypotheses": [_OLD_NAMES[name] for name in data["guesses"]]}
        return cls(**{name: tuple(value) for name, value in data.items()})


SIZES = {
    "midnet-s": Architecture((8, 16, 24), ("splatted", "one_sided_a", "one_sided_b", "zero")),
    "midnet-m": Architecture(),
    "midnet-l": Architecture(hypotheses=(*Architecture().hypotheses[:-1], REFINED, ZERO)),
}
