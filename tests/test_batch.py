"""Many videos: done ones are remembered, failed ones do not stop the others, an interrupted batch goes on."""

from __future__ import annotations

import json
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import clips
from clips import Clip
from midframe import result
from midframe.batch import Batch, Entry, read_list
from midframe.errors import InputError, Interrupted, MediaError
from midframe.options import Options


class Maker:
    """Makes no video; writes a file, or fails where the name says so."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, src: Any, dst: Any, *, options: Options, **rest: Any) -> result.Result:
        if "bad" in str(src):
            raise MediaError(f"'{src}' is not a video")
        self.made.append(Path(src).name)
        Path(dst).write_text("video")
        return result.Result(
            Path(dst), Path(f"{dst}.json"), frames_in=1, frames_out=2, rate=Fraction(60), kinds="si", cuts=()
        )


def entries(folder: Path, *names: str) -> list[Entry]:
    for name in names:
        (folder / name).write_text(name)
    options = Options(ratio=Fraction(2)).to_json()
    return [Entry(str(folder / name), str(folder / f"{name}.out"), options) for name in names]


def go(batch: Batch) -> list[str]:
    return [entry.state for entry in batch.run(threading.Event(), threading.Event())]


def test_a_video_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path: Path) -> None:
    make, videos = Maker(), entries(tmp_path, "a", "bad", "c")
    assert go(Batch(videos, tmp_path / "batch.json", make)) == ["done", "failed", "done"]
    report = json.loads((tmp_path / "batch.json").read_text())
    assert [record["state"] for record in report] == ["done", "failed", "done"]
    assert "is not a video" in report[1]["error"]
    (tmp_path / "bad").rename(tmp_path / "good")
    again = [videos[0], Entry(str(tmp_path / "good"), videos[1].target, videos[1].options), videos[2]]
    assert go(Batch(again, tmp_path / "batch.json", make)) == ["done", "done", "done"]
    assert make.made == ["a", "c", "good"], "what was done is not made twice"


@pytest.mark.parametrize("change", ["source", "target", "options"])
def test_what_has_changed_is_made_again(tmp_path: Path, change: str) -> None:
    make, videos = Maker(), entries(tmp_path, "a")
    go(Batch(videos, tmp_path / "batch.json", make))
    if change == "source":
        (tmp_path / "a").write_text("another video")
    elif change == "target":
        (tmp_path / "a.out").unlink()
    else:
        videos = [Entry(videos[0].source, videos[0].target, Options(ratio=Fraction(3)).to_json())]
    go(Batch(videos, tmp_path / "batch.json", make))
    assert make.made == ["a", "a"]


def test_a_stopped_batch_goes_on(tmp_path: Path) -> None:
    make, videos = Maker(), entries(tmp_path, "a", "b")
    drain = threading.Event()

    def stop(now: Any) -> None:
        if now[0].state == "done":
            drain.set()

    with pytest.raises(Interrupted, match="1 of 2 videos"):
        Batch(videos, tmp_path / "batch.json", make, on_change=stop).run(threading.Event(), drain)
    assert go(Batch(videos, tmp_path / "batch.json", make)) == ["done", "done"]
    assert make.made == ["a", "b"]


def test_a_list_gives_the_options_of_each_video(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("source,target,fps,crf\na.mp4,,60,\nsub/b.mkv,out/b.mkv,,20\n")
    one, two = read_list(tmp_path / "list.csv", Options(ratio=Fraction(3)))
    assert one.source == str(tmp_path / "a.mp4") and one.target is None
    assert Options.from_json(one.options) == Options(fps=Fraction(60))
    assert two.target == str(tmp_path / "out/b.mkv")
    assert Options.from_json(two.options) == Options(ratio=Fraction(3), crf=20)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("video\na.mp4\n", "has no videos"),
        ("", "has no videos"),
        ("source,fps\na.mp4,-3\n", "line 2"),
        ("source,speed\na.mp4,3\n", "line 2"),
        ("source\na.mp4,b,c\n", "more cells"),
        ("source,fps\n,60\n", "source is empty"),
    ],
)
def test_a_bad_list_is_refused_before_the_work(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        read_list(tmp_path / "list.csv", Options())


def test_real_videos_from_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from click.testing import CliRunner

    from midframe.cli import cli

    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("one", "two"):
        clips.make(folder / f"{name}.mp4", Clip(frames=6))
    arguments = ["batch", str(folder), "-o", str(tmp_path / "out"), "--model", "blend", "--device", "cpu"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "2 of 2 videos are done" in done.output
    assert sorted(p.name for p in (tmp_path / "out").glob("*.mp4")) == ["one.48fps.mp4", "two.48fps.mp4"]
    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 0 and "running" not in again.output
    assert isinstance(CliRunner().invoke(cli, ["batch", str(folder)]).exception, InputError)
