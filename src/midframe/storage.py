"""Files that may lie elsewhere: paths and fsspec URLs (`s3://bucket/film.mkv`, `file:///mnt/film.mkv`).

A plain path needs no library; a URL needs `fsspec` and, for most schemes, its driver (`s3fs` for `s3://`). What is
written appears under its name only when it is whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

from midframe.errors import InputError, MediaError
from midframe.extras import install_command

CHUNK_BYTES = 8 << 20

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")


def is_url(name: str | os.PathLike[str]) -> bool:
    """Whether a name is a URL, not a path."""
    return _URL.match(os.fspath(name)) is not None


def name_in(folder: str, name: str) -> str:
    """A name inside a folder that is a path or a URL."""
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else str(Path(folder) / name)


def suffix(name: str | os.PathLike[str]) -> str:
    """The suffix of a path or URL: ".mkv"."""
    return Path(os.fspath(name).split("?")[0]).suffix


def fetch(url: str, folder: Path) -> Path:
    """A local copy of a file behind a URL, made once: the second call for the same version costs no transfer.

    Args:
        url: what to copy.
        folder: where copies are kept; made if absent.

    Raises:
        MediaError: there is nothing, or it cannot be had.
    """
    files, path = _open(url)
    try:
        size = files.info(path)["size"]
        version = str(files.ukey(path)) if hasattr(files, "ukey") else str(size)
    except (OSError, ValueError, KeyError) as error:
        raise MediaError(f"'{url}' cannot be read: {str(error) or type(error).__name__}") from error
    mark = hashlib.sha256(f"{url}\0{version}".encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    local = folder / f"{mark}{suffix(url)}"
    if local.is_file() and local.stat().st_size == size:
        return local
    part = local.with_name(f"{local.name}.{uuid.uuid4().hex}.part")
    try:
        with files.open(path, "rb") as source, open(part, "wb") as target:
            shutil.copyfileobj(source, target, CHUNK_BYTES)
        os.replace(part, local)
    except OSError as error:
        raise MediaError(f"'{url}' cannot be copied: {str(error) or type(error).__name__}") from error
    finally:
        part.unlink(missing_ok=True)
    return local


def store(local: Path, url: str) -> None:
    """Put a local file behind a URL: under a temporary name, then renamed.

    Raises:
        MediaError: it cannot be written.
    """
    files, path = _open(url)
    part = f"{path}.{uuid.uuid4().hex}.part"
    try:
        parent = path.rsplit("/", 1)[0]
        if parent:
            files.makedirs(parent, exist_ok=True)
        with open(local, "rb") as source, files.open(part, "wb") as target:
            shutil.copyfileobj(source, target, CHUNK_BYTES)
        files.mv(part, path)
    except OSError as error:
        raise MediaError(f"'{url}' cannot be written: {str(error) or type(error).__name__}") from error


def exists(url: str) -> bool:
    """Whether there is a file behind a URL."""
    files, path = _open(url)
    return bool(files.exists(path))


def remove(url: str) -> None:
    """Remove a file or folder behind a URL, if it is there."""
    files, path = _open(url)
    if files.exists(path):
        files.rm(path, recursive=True)


def _open(url: str) -> tuple[Any, str]:
    """(file system, path in it)."""
    try:
        import fsspec
    except ImportError as error:
        raise InputError(f"'{url}' needs fsspec: {install_command('cluster')}") from error
    try:
        files, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"'{url}' cannot be opened: {error}") from error
    return files, str(path)
