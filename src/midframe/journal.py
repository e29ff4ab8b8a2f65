"""Keep the state of a run in the folder `OUT.midframe/`, so that it can be resumed after any interruption.

The folder holds a lock, a manifest (source, options, segments) and the finished segments. A segment is first written
under a `.part` name; its record is written when it is complete, and only segments with a record count. A segment is a
file (or a folder of images) and a record is plain JSON; this module does not depend on codecs or networks.

    OUT.midframe/
      lock             held by the running process; the system releases it when the process ends
      manifest.json    source, options, segments, the video's first instant
      00000.mkv        a finished segment
      00000.json       its record, written after it
      remarks.json     warnings that concern no segment
      commit.json      the output is complete and being renamed, see `commit.py`
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from midframe.errors import JobError
from midframe.types import Segment

# A source is recognised by samples spread evenly over it: 8 MiB of a video, 64 kB of each of many images.
_SAMPLES = 128
_SAMPLES_PER_IMAGE = 4
_SAMPLE_BYTES = 1 << 16


def folder_of(target: Path) -> Path:
    """Return the folder of the journal of a target."""
    return target.with_name(target.name + ".midframe")


def fingerprint(source: Path, size_bytes: int | None = None) -> dict[str, Any]:
    """Return the size of a source and a hash of samples spread over it.

    Modification times are not used: a copy, a move to another disk or a restored backup is the same video. For a folder
    of images the hash includes names and sizes; for a pattern the folder is used.

    Args:
        source: a file, a folder or a pattern.
        size_bytes: leading bytes of a file that count; it may have grown since if it is still being recorded.
    """
    digest = hashlib.sha256()
    if not source.exists():
        source = source.parent
    if not source.is_dir():
        size = _sample(source, _SAMPLES, digest, size_bytes)
        return {"size": size, "sha256": digest.hexdigest()}
    total = 0
    for entry in sorted(os.scandir(source), key=lambda e: e.name):
        digest.update(f"{entry.name}\0".encode(errors="surrogateescape"))
        if entry.is_file():
            total += _sample(Path(entry.path), _SAMPLES_PER_IMAGE, digest)
    return {"size": total, "sha256": digest.hexdigest()}


def signature(source: Path) -> object:
    """Return file metadata that changes when a source is written; cheap, but only a hint."""
    if not source.exists():
        source = source.parent
    if not source.is_dir():
        facts = source.stat()
        return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
    entries = sorted(os.scandir(source), key=lambda e: e.name)
    return tuple((e.name, facts.st_size, facts.st_mtime_ns) for e in entries if (facts := e.stat()))


def _sample(path: Path, count: int, digest: Any, most: int | None = None) -> int:
    """Hash the size of a file and `count` samples, including the first and the last; all of a small file.

    Returns:
        The size in bytes, at most `most`.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None:
            size = min(size, most)
        digest.update(f"{size}\0".encode())
        if size <= count * _SAMPLE_BYTES:
            digest.update(file.read(size))
            return size
        for n in range(count):
            file.seek((size - _SAMPLE_BYTES) * n // (count - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return size


class Journal:
    """The folder beside one target, held by one run at a time. A context manager.

    Leaving it without `discard` keeps the folder if a segment is finished, and removes it otherwise.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = folder_of(target)
        self._lock: IO[str] | None = None
        self._discard = False

    def __enter__(self) -> Journal:
        """Make the folder and take the lock.

        Raises:
            JobError: another run holds it.
        """
        while True:
            self.folder.mkdir(exist_ok=True)
            lock = open(self.folder / "lock", "a+")  # held for the life of the run
            if not _take(lock):
                lock.close()
                raise JobError(f"another run is writing {self.target.name}; wait for it, or give another -o")
            # The holder before us may have removed the folder between our open and our lock.
            if _same_file(lock, self.folder / "lock"):
                self._lock = lock
                self._sweep()  # files of a killed run
                return self
            lock.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock; remove the folder if no segment is finished."""
        with contextlib.suppress(OSError):
            self._sweep()
            if (self._discard and error is None) or not any(self.folder.glob("[0-9]*.json")):
                self._remove_all()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def manifest(self) -> dict[str, Any] | None:
        """Return the manifest of an earlier run, or None if it is missing or unreadable."""
        return _read(self.folder / "manifest.json")

    def begin(self, manifest: Mapping[str, Any]) -> None:
        """Start a new run with this manifest; files of an earlier run are removed."""
        for entry in self.folder.iterdir():
            if entry.name != "lock":
                _remove(entry)
        _write(self.folder / "manifest.json", manifest)

    def part(self, number: int, suffix: str) -> Path:
        """Return the path of segment `number` while it is incomplete."""
        return self.folder / f"{number:05d}.part{suffix}"

    def finish(self, number: int, suffix: str, record: Mapping[str, Any]) -> None:
        """Rename the complete segment `number`, then write its record. A segment without frames has no file."""
        part, whole = self.part(number, suffix), self.folder / f"{number:05d}{suffix}"
        _remove(whole)
        if not part.exists():
            _write(self.folder / f"{number:05d}.json", {**record, "file": None})
            return
        if part.is_file():
            sync(part)
        os.replace(part, whole)
        known = {"file": whole.name, "size": _size(whole), "sha256": _digest(whole)}
        _write(self.folder / f"{number:05d}.json", {**record, **known})

    def record(self, number: int) -> dict[str, Any] | None:
        """Return the record of segment `number` if it is finished and its size unchanged, else None."""
        record = _read(self.folder / f"{number:05d}.json")
        if record is None or "file" not in record:
            return None
        if record["file"] is not None and _size(self.folder / str(record["file"])) != record.get("size"):
            return None
        return record

    def intact(self, number: int) -> bool:
        """Return whether a finished segment matches its checksum; reads all of it."""
        record = self.record(number)
        if record is None:
            return False
        if record["file"] is None or "sha256" not in record:  # without frames, or of an earlier version
            return True
        return bool(_digest(self.folder / record["file"]) == record["sha256"])

    def drop(self, number: int) -> None:
        """Drop segment `number`, so that it is written again."""
        (self.folder / f"{number:05d}.json").unlink(missing_ok=True)

    def remark(self, text: str) -> None:
        """Keep a warning for the result, also if another run finishes the work."""
        if text not in (known := self.remarks()):
            _write(self.folder / "remarks.json", {"remarks": [*known, text]})

    def remarks(self) -> list[str]:
        """Return the warnings that `remark` kept."""
        return list((_read(self.folder / "remarks.json") or {}).get("remarks", []))

    def intend(self, intent: Mapping[str, Any]) -> None:
        """Record that the output is complete, and the renames that publish it."""
        _write(self.folder / "commit.json", intent)

    def intent(self) -> dict[str, Any] | None:
        """Return the intent that `intend` recorded, or None."""
        return _read(self.folder / "commit.json")

    def drop_intent(self) -> None:
        """Forget the recorded intent."""
        (self.folder / "commit.json").unlink(missing_ok=True)

    def finished(self, count: int) -> int:
        """Count the finished segments before the first unfinished one, of `count` in all."""
        for number in range(count):
            if self.record(number) is None:
                return number
        return count

    def held(self, count: int) -> set[int]:
        """Return the finished ones of the first `count` segments; parallel workers leave holes."""
        return {number for number in range(count) if self.record(number) is not None}

    def discard(self) -> None:
        """Remove the folder on exit, because the target is complete."""
        self._discard = True

    def _remove_all(self) -> None:
        """Remove the folder; the intent last, so that a run killed meanwhile is recognised as complete."""
        last = [self.folder / "commit.json", self.folder / "lock"]
        for entry in self.folder.iterdir():
            if entry not in last:
                _remove(entry)
        for entry in last:
            _remove(entry)
        self.folder.rmdir()

    def _sweep(self) -> None:
        """Remove unfinished files."""
        for entry in self.folder.glob("*.part*"):
            _remove(entry)


def segments_to_json(segments: Sequence[Segment]) -> list[list[str | None]]:
    """Return plain pairs for a manifest."""
    return [[None if at is None else str(at) for at in (s.start, s.end)] for s in segments]


def segments_from_json(pairs: Sequence[Sequence[str | None]]) -> tuple[Segment, ...]:
    """Return the segments that `segments_to_json` wrote."""
    return tuple(Segment(*(None if at is None else Fraction(at) for at in pair)) for pair in pairs)


def write_whole(path: Path, text: str) -> None:
    """Write a text file under a temporary name, sync it to the disk, then rename it."""
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _write(path: Path, record: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(record, indent=1))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(entry.stat().st_size for entry in os.scandir(path))
    return path.stat().st_size if path.is_file() else -1


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of names and contents of the files in a folder."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for entry in sorted(path.iterdir()):
        digest.update(f"{entry.name}\0{_digest(entry)}\0".encode())
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Sync a file to the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _same_file(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _take(lock: IO[str]) -> bool:
    """Try to take the lock; the system releases it when the process ends, even by kill -9."""
    try:
        if os.name == "nt":
            import msvcrt  # pragma: no cover

            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # pragma: no cover
        else:
            import fcntl

            fcntl.flock(lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
