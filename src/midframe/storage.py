"""Read and write files by path or fsspec URL (`s3://bucket/video.mkv`, `file:///mnt/video.mkv`).

A path needs no library; a URL needs `fsspec` and, for most schemes, a driver (`s3fs` for `s3://`). A file appears under
its name only when it is complete.
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
    """Return whether a name is a URL."""
    return _URL.match(os.fspath(name)) is not None


def name_in(folder: str, name: str) -> str:
    """Join a folder, path or URL, and a name."""
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else str(Path(folder) / name)


def suffix(name: str | os.PathLike[str]) -> str:
    """Return the suffix of a path or URL: ".mkv"."""
    return Path(os.fspath(name).split("?")[0]).suffix


def fetch(url: str, folder: Path) -> Path:
    """Download a URL and return the local copy; a version that is already there is not transferred again.

    Args:
        url: the file to copy.
        folder: the folder of the copies; created if missing.

    Raises:
        MediaError: the file does not exist or cannot be read.
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
    """Upload a local file to a URL under a temporary name, then rename it.

    Raises:
        MediaError: the URL cannot be written.
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
    """Return whether a URL exists."""
    files, path = _open(url)
    return bool(files.exists(path))


def remove(url: str) -> None:
    """Remove the file or folder at a URL, if it exists."""
    files, path = _open(url)
    if files.exists(path):
        files.rm(path, recursive=True)


def _open(url: str) -> tuple[Any, str]:
    """Return (file system, path in it)."""
    try:
        import fsspec
    except ImportError as error:
        raise InputError(f"'{url}' needs fsspec: {install_command('cluster')}") from error
    try:
        files, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"'{url}' cannot be opened: {error}") from error
    return files, str(path)
