"""Whether this machine can have a GPU for torch, found without importing torch."""

from __future__ import annotations

import re
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# Device files of NVIDIA's drivers (desktop, Tegra, WSL) and of AMD's.
_LINUX_DEVICES = "nvidia*", "nvhost*", "nvmap", "dxg", "kfd"


@cache
def accelerator_possible() -> bool:
    """Return whether torch may find a GPU. False is certain; True only means that torch has to be asked."""
    built_with_gpu = _torch_built_with_gpu()
    if sys.platform == "darwin" or built_with_gpu is None:
        return True
    if not built_with_gpu:
        return False
    return sys.platform != "linux" or any(True for name in _LINUX_DEVICES for _ in Path("/dev").glob(name))


def _torch_built_with_gpu() -> bool | None:
    """Return whether the installed torch was built for CUDA or ROCm, by its version file; None if that is unknown."""
    spec = find_spec("torch")
    try:
        assert spec is not None and spec.origin is not None
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except (AssertionError, OSError):
        return None
    found = dict(re.findall(r"^(cuda|hip)\b[^=\n]*=\s*(.+?)\s*$", text, re.MULTILINE))
    return any(value != "None" for value in found.values()) if "cuda" in found else None
