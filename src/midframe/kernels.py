"""Whether the C++ kernels are installed. Everything works without them: midnet then runs on PyTorch's operations."""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from midframe._native import Workspace

SLOWER = 10  # times, measured at 1280x720 with one thread
INTERFACE = 4  # of the extension module that this version calls; a checkout may hold one built from older sources


@cache
def missing() -> str:
    """Return one line if the extension module is not installed, or built from other sources; else an empty string."""
    if find_spec("midframe._native") is not None:
        from midframe import _native

        if getattr(_native, "interface", 1) == INTERFACE:
            return ""
        return (
            f"midframe's C++ kernels were built from other sources: midnet is about {SLOWER} times slower on a CPU; "
            "build them again (in a checkout: scripts/build-native; otherwise install midframe again)"
        )
    return (
        f"midframe's C++ kernels are not installed: midnet is about {SLOWER} times slower on a CPU; "
        "install a C++ compiler (g++ 12 or newer), then midframe again (in a checkout: scripts/build-native)"
    )


@cache
def warn_if_missing() -> None:
    """Log `missing` once per process."""
    if missing():
        logging.getLogger(__name__).warning(missing())


def workspace(threads: int) -> Workspace | None:
    """Create worker threads and scratch memory for one engine; None if the kernels are missing."""
    if missing():
        return None
    from midframe import _native

    return _native.Workspace(threads)


def description() -> str:
    """Describe the kernels in use, or return the line of `missing`."""
    if missing():
        return missing()
    from midframe import _native

    return f"C++, {_native.simd_variant()}"
