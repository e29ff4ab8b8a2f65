"""The models by name.

A builder imports its module when it is called, so that one model does not load the libraries of another.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from midframe.errors import InputError, WeightsError

if TYPE_CHECKING:
    from midframe.models.base import Model


def _dis(weights: Path | None) -> Model:
    from midframe.models.dis import Dis

    if weights is not None:
        raise InputError("model dis needs no weights; leave --weights out")
    return Dis()


def _blend(weights: Path | None) -> Model:
    from midframe.models.blend import Blend

    if weights is not None:
        raise InputError("model blend needs no weights; leave --weights out")
    return Blend()


def _vfinet(weights: Path | None) -> Model:
    from midframe.models.vfinet import load
    from midframe.weights import RECORDS

    return load(RECORDS["vfinet"], weights)


def _vfinet_first(weights: Path | None) -> Model:
    from midframe.models.vfinet import load
    from midframe.weights import RECORDS

    return load(RECORDS["vfinet-first"], weights)


def _rife(weights: Path | None) -> Model:
    from midframe.models.rife import load

    return load(weights)


def _midnet(name: str) -> Callable[[Path | None], Model]:
    def build(weights: Path | None) -> Model:
        from midframe.models.midnet import load_midnet
        from midframe.weights import shipped

        path = weights or shipped(name)
        if path is None:
            raise WeightsError(f"{name} has no weights here; train them (midframe train) and name them with --weights")
        return load_midnet(path, name)

    return build


BUILDERS: dict[str, Callable[[Path | None], Model]] = {
    "dis": _dis,
    "blend": _blend,
    "midnet-s": _midnet("midnet-s"),
    "midnet-m": _midnet("midnet-m"),
    "vfinet": _vfinet,
    "vfinet-first": _vfinet_first,
    "rife": _rife,
}


# shown by `midframe models list`
ABOUT = {
    "dis": "Classical flow (DIS), frames by warping; any t in (0, 1)",
    "blend": "Cross-fade without motion; needs no weights",
    "midnet-s": "Classical flow, motion hypotheses at t, small learned fusion; the fastest network",
    "midnet-m": "Classical flow, motion hypotheses at t, learned fusion; the default",
    "vfinet": "ModelScope's network: RAFT, quadratic motion, Swin refinement",
    "vfinet-first": "ModelScope's network, its first weights",
    "rife": "RIFE 4: intermediate flow estimation",
}
BUILT_IN = ("dis", "blend", "midnet-s", "midnet-m")  # need no further files


def check_name(name: str) -> None:
    """Check the name of a model.

    Raises:
        InputError: no model of that name.
    """
    if name not in BUILDERS:
        close = difflib.get_close_matches(name, BUILDERS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"no model is called {name!r}; there are {', '.join(BUILDERS)}{hint}")


def load_model(name: str, weights: str | Path | None = None) -> Model:
    """Load a model by name, in evaluation mode, on the CPU.

    An engine gives it scratch memory of its own. On a CPU midnet computes no gradients as it comes from here; see
    `Midnet.with_backend`.

    Args:
        name: one of `BUILDERS`.
        weights: a local folder or file to take the weights from instead of the shipped or cached ones.

    Raises:
        InputError: no model of that name.
        WeightsError: weights missing, damaged or of another architecture.
    """
    check_name(name)
    import torch

    model = BUILDERS[name](Path(weights) if weights is not None else None).eval()
    return model.on_device(torch.device("cpu"))
