"""Tasks and files that coordinator and workers exchange."""

from __future__ import annotations

import hashlib
import os
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from midframe import storage
from midframe.cluster.config import ClusterConfig, cache_folder
from midframe.errors import MediaError
from midframe.journal import fingerprint
from midframe.plan import Plan
from midframe.video import images

MAX_PENDING_CHUNKS = 4  # of a worker: 32 MiB of the object store; then it waits for the coordinator


@dataclass(frozen=True, slots=True)
class SegmentTask:
    """All that a worker needs to process a segment; sent once per segment."""

    plan: Plan
    source: str  # path or URL that the worker opens
    mark: str  # `source_mark` of the coordinator's source
    folder: str  # the coordinator's journal
    token: str  # name of a file in it: a worker that finds it shares the folder
    work: str | None
    threads: int
    progress_frames: int  # frames between two progress messages


def source_mark(source: Path) -> str:
    """Identify a source on another machine: by size and samples of a file, by the names of an image sequence."""
    if source.is_file():
        facts = source.stat()
        return _fingerprint(source, facts.st_size, facts.st_mtime_ns)
    try:
        return short_hash("\0".join(file.name for file in images.files_of(source)))
    except (MediaError, OSError):
        return "nothing"


@lru_cache(maxsize=16)
def _fingerprint(source: Path, size_bytes: int, changed: int) -> str:
    """Return the fingerprint of a file, memoised by size and modification time."""
    return str(fingerprint(source, size_bytes)["sha256"])


def pack(folder: Path) -> Path:
    """Pack a folder of images into one file beside it."""
    packed = folder.with_suffix(".tar")
    with tarfile.open(packed, "w") as tar:
        for entry in sorted(folder.iterdir()):
            tar.add(entry, entry.name)
    return packed


def unpack(part: Path) -> None:
    """Undo `pack`: replace the file by the folder it holds."""
    packed = part.with_name(part.name + ".in")
    os.replace(part, packed)
    part.mkdir()
    with tarfile.open(packed) as tar:
        tar.extractall(part, filter="data")
    packed.unlink()


def work_folder(config: ClusterConfig) -> Path:
    """Return the folder for copies of sources and journals of targets that are URLs. Raises MediaError."""
    if config.work is not None and not storage.is_url(config.work):
        home = Path(config.work)
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MediaError(f"the work folder '{home}' cannot be created: {error.strerror}") from error
        return home
    return cache_folder()


def short_hash(text: str) -> str:
    """Return twelve hexadecimal digits that identify a text such as a URL."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]
