"""Publish finished output by renames that the same command completes after a kill at any moment.

The intent is written first, to `commit.json` in the journal: the renames, the files that they replace, and the report.
Every rename may be repeated; a later process that finds an intent completes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from midframe.errors import InputError
from midframe.journal import Journal, fingerprint, write_whole

Move = tuple[str, str]  # (path inside the journal's folder, name inside the target's folder)


def content_mark(paths: Sequence[Path], names: Sequence[str]) -> dict[str, Any]:
    """Return the size and hash that identify an output: from samples of one file, or names and sizes of several.

    Raises:
        OSError: one is missing.
    """
    if len(paths) == 1:
        return fingerprint(paths[0])
    digest, total = hashlib.sha256(), 0
    for path, name in zip(paths, names, strict=True):
        size = path.stat().st_size
        digest.update(f"{name}\0{size}\0".encode(errors="surrogateescape"))
        total += size
    return {"size": total, "sha256": digest.hexdigest()}


def record_intent(
    journal: Journal, moves: Sequence[Move], *, remove: Sequence[str], report: tuple[Path, str], mark: dict[str, Any]
) -> None:
    """Record the renames for `carry_out`.

    Args:
        journal: journal with the finished files.
        moves: the files and their new names.
        remove: names in the target's folder that the output replaces.
        report: its path and text.
        mark: `content_mark` of the output.
    """
    journal.intend(
        {
            "moves": [list(move) for move in moves],
            "remove": list(remove),
            "report": str(report[0]),
            "report_text": report[1],
            "mark": mark,
        }
    )


def carry_out(journal: Journal, overwrite: bool) -> bool:
    """Complete the recorded intent; return True if the output and its report are then complete.

    Args:
        journal: with or without an intent.
        overwrite: whether new files under the names of the target may be replaced.

    Raises:
        InputError: such a file exists and `overwrite` is false; nothing is changed.
        OSError: a rename failed; the intent stays.
    """
    intent = journal.intent()
    if intent is None:
        return False
    folder = journal.target.parent
    moves = [(journal.folder / source, folder / name) for source, name in intent["moves"]]
    replaced = {folder / name for name in intent["remove"]}
    for source, target in moves:
        if not overwrite and target not in replaced and source.exists() and target.exists():
            raise InputError(
                f"'{target}' has appeared since the run began; move it away, or give -y to replace it, and give the "
                f"same command again: the finished output waits in '{journal.folder}'"
            )
    for source, target in moves:
        if source.exists():
            os.replace(source, target)
    kept = {target for _, target in moves}
    for path in replaced - kept:
        path.unlink(missing_ok=True)
    try:
        complete = content_mark([target for _, target in moves], [target.name for _, target in moves]) == intent["mark"]
    except OSError:
        complete = False
    if not complete:  # removed or replaced since: continue from the segments
        journal.drop_intent()
        return False
    _sync_folder(folder)
    write_whole(Path(intent["report"]), intent["report_text"])
    return True


def _sync_folder(folder: Path) -> None:
    """Sync renames to the disk, if the system can sync a folder."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
