"""A `Rife` from a published weights file."""

from __future__ import annotations

from pathlib import Path

from midframe import weights
from midframe.errors import WeightsError
from midframe.models.rife.architecture import Shapes, recognise
from midframe.models.rife.model import Rife
from midframe.models.rife.network import Network, folded

# Names under which a weights file is looked for in a folder, in this order.
_PATTERNS = ("flownet.pkl", "flownet*.pkl", "*.safetensors", "*.pth", "*.pkl")


def load(path: Path | None = None) -> Rife:
    """The network with the weights of a file; its version is recognised by names and shapes.

    Args:
        path: a file as RIFE is published (`flownet.pkl`), a safetensors file with the same names, or a folder that
            holds one; None: weights fetched earlier.

    Raises:
        WeightsError: weights missing, damaged, not of RIFE, or of a version that is not supported.
    """
    file = find(path)
    state = weights.load(file, _expected, lambda name: name.startswith("block_tea"))  # a teacher, for training only
    network = Network(recognise({name: tuple(value.shape) for name, value in state.items()}))
    network.load_state_dict(folded(state))
    return Rife(network.requires_grad_(False)).eval()


def find(path: Path | None = None) -> Path:
    """The weights file of a path; without one that of the default version, else the only one in the cache.

    Raises:
        WeightsError: there is none, or a folder holds several without one named `flownet.pkl`.
    """
    if path is None:
        try:
            return weights.find(weights.RECORDS["rife"])[0]
        except WeightsError:
            home = weights.cache_folder() / "rife"
            if not any(file for pattern in _PATTERNS for file in home.glob(pattern)):
                raise
            return find(home)  # another version, or a file that the user put there
    if not path.is_dir():
        return path
    for pattern in _PATTERNS:
        found = sorted(path.glob(pattern))
        if len(found) > 1:
            names = ", ".join(file.name for file in found[:4])
            raise WeightsError(f"'{path}' holds several weights files ({names}); name one with --weights")
        if found:
            return found[0]
    raise WeightsError(f"'{path}' has no weights file; RIFE's is called flownet.pkl or flownet_v4.26.pkl")


def _expected(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    return Network.expected(recognise(shapes))
