"""The journal: what counts as finished, who holds it, what is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from midframe.errors import JobError
from midframe.journal import Journal, fingerprint, folder_of, segments_from_json, segments_to_json, write_whole
from midframe.types import Segment

HOLD = """
import sys, time
from pathlib import Path
from midframe.journal import Journal
with Journal(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_only_a_segment_with_a_true_record_counts(tmp_path: Path) -> None:
    target = tmp_path / "video.mp4"
    with Journal(target) as journal:
        journal.begin({"what": 1})
        journal.part(0, ".mkv").write_bytes(b"abc")
        journal.finish(0, ".mkv", {"frames": 3})
        journal.part(1, ".mkv").write_bytes(b"half")
    with Journal(target) as journal:
        assert journal.manifest() == {"what": 1}
        assert journal.finished(3) == 1
        whole = journal.folder / "00000.mkv"
        assert whole.read_bytes() == b"abc"
        assert not list(journal.folder.glob("*.part*")), "what was not whole is swept away"
        whole.write_bytes(b"abcd")
        assert journal.finished(3) == 0, "a segment that changed does not count"


def test_a_segment_without_frames_is_finished_too(tmp_path: Path) -> None:
    with Journal(tmp_path / "video.mp4") as journal:
        journal.begin({})
        journal.finish(0, ".mkv", {"frames": 0})
        assert journal.finished(2) == 1
        assert journal.record(0) == {"frames": 0, "file": None}


def test_a_folder_with_nothing_finished_goes(tmp_path: Path) -> None:
    target = tmp_path / "video.mp4"
    with Journal(target) as journal:
        journal.begin({})
        journal.part(0, ".mkv").write_bytes(b"half")
    assert not folder_of(target).exists()


def test_discard_removes_finished_segments(tmp_path: Path) -> None:
    target = tmp_path / "video.mp4"
    with Journal(target) as journal:
        journal.begin({})
        journal.part(0, ".mkv").write_bytes(b"abc")
        journal.finish(0, ".mkv", {})
        journal.discard()
    assert list(tmp_path.iterdir()) == []


def test_the_second_run_is_refused_and_a_killed_holder_lets_go(tmp_path: Path) -> None:
    target = tmp_path / "video.mp4"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(target)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(JobError, match=r"another run is writing video\.mp4"), Journal(target):
            pass
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout:
            holder.stdout.close()
    with Journal(target) as journal:
        assert journal.manifest() is None


def test_a_changed_source_is_noticed(tmp_path: Path) -> None:
    source = tmp_path / "video.bin"
    source.write_bytes(bytes(5_000_000))
    before = fingerprint(source)
    assert fingerprint(source) == before
    with open(source, "r+b") as file:
        file.seek(2_600_000)
        file.write(b"x")
    assert fingerprint(source) != before


def test_a_time_of_change_is_no_change(tmp_path: Path) -> None:
    """A copy, a restored backup, a touched file: the same video. Any other frame in a folder is another sequence."""
    source = tmp_path / "video.bin"
    source.write_bytes(bytes(20_000_000))
    folder = tmp_path / "shots"
    folder.mkdir()
    for n in range(3):
        (folder / f"{n}.png").write_bytes(bytes([n]) * 500_000)
    known, shots = fingerprint(source), fingerprint(folder)
    for path in (source, *folder.iterdir()):
        os.utime(path, (1, 1))
    assert fingerprint(source) == known
    assert fingerprint(folder) == shots
    with open(source, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    assert fingerprint(source) != known
    (folder / "1.png").write_bytes(b"y" * 500_000)
    assert fingerprint(folder) != shots
    (folder / "1.png").write_bytes(bytes([1]) * 500_000)
    (folder / "1.png").rename(folder / "4.png")
    assert fingerprint(folder) != shots


def test_segments_round_trip() -> None:
    segments = (Segment(None, Fraction(1001, 24000)), Segment(Fraction(1001, 24000), None))
    assert segments_from_json(segments_to_json(segments)) == segments


def test_write_whole_leaves_the_old_text_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]
