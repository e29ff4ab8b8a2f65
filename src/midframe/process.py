"""How a process of midframe uses the machine: memory that is kept between frames, threads that do not spin.

Settings that must be there before torch is loaded, or better before the process starts; this module imports nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

# Settings of glibc's malloc: their number for mallopt(3), and the bytes. Left alone it gives a frame's memory back to
# the system when the frame is done and takes it again for the next one, page by page: at 1080p 4,300 page faults and
# a third of the pipeline's own processor time for every output; with these, 1,900 and a fifth.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": (-1, 512 << 20), "MALLOC_MMAP_THRESHOLD_": (-3, 32 << 20)}


def environment() -> dict[str, str]:
    """Variables for a process that is to be started; what is set here already stays as it is.

    Threads that spin while they wait take the processors that decoder, encoder and other programs need: on two busy
    cores dis at 720p took 12.5 s of processor time spinning and 5.8 s so.
    """
    wished = {"OMP_WAIT_POLICY": "PASSIVE"} | {name: str(size_bytes) for name, (_, size_bytes) in MALLOC.items()}
    return {name: os.environ.get(name, value) for name, value in wished.items()}


def settle() -> None:
    """Bring this process and those it starts to these settings; to be called before torch is loaded."""
    for name, (number, size_bytes) in MALLOC.items():
        if name not in os.environ:  # is read by processes when they start; this one has
            with contextlib.suppress(AttributeError, TypeError, OSError):  # another C library
                ctypes.CDLL(None).mallopt(number, size_bytes)
    os.environ.update(environment())
