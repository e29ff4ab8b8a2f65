"""The command line: what it says, where, and with which exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest

import clips
from clips import Clip
from commands import Call
from midframe import plan
from midframe.cli.progress import Json, Plain, details, result_text
from midframe.pipeline import interpolate
from midframe.result import Progress


def test_interpolate_says_the_plan_and_where_the_result_is(tmp_path: Path, call: Call) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(audio=1))
    done = call("interpolate", source, "--fps", "60", "--model", "blend")
    assert done.code == 0, done.err
    assert f"{source} -> {tmp_path / 'in.60fps.mp4'}" in done.err
    assert "24 -> 60 fps, x5/2, 24 -> 60 frames" in done.err
    assert f"wrote {tmp_path / 'in.60fps.mp4'}: 60 frames" in done.err
    assert done.out == ""


def test_quiet_says_nothing(tmp_path: Path, call: Call) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=4))
    done = call("interpolate", source, "--model", "blend", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert (tmp_path / "in.48fps.mp4").exists()


def test_json_is_one_object_a_line(tmp_path: Path, call: Call) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=6))
    done = call("interpolate", source, "--model", "blend", "--progress", "json")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert events[0]["event"] == "plan"
    assert events[-1]["event"] == "result"
    assert events[-1]["frames_out"] == 12
    assert all(e["event"] == "progress" for e in events[1:-1])
    assert events[-2]["stage"] == "joining"
    missing = call("interpolate", tmp_path / "no.mp4", "--progress", "json")
    assert missing.code == 3
    assert json.loads(missing.out)["event"] == "error"


def test_a_missing_name_among_several_is_reported_before_any_work(tmp_path: Path, call: Call) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=6))
    done = call("interpolate", source, tmp_path / "out.mp4", "--model", "blend")  # as other programs have it
    assert done.code == 3
    assert f"to write to it, say -o {tmp_path / 'out.mp4'}" in done.err
    typo = call("interpolate", tmp_path / "im.mp4", source, "--model", "blend")
    assert typo.code == 3
    assert "check the name" in typo.err
    assert list(tmp_path.iterdir()) == [source]


def test_dry_run_writes_nothing(tmp_path: Path, call: Call) -> None:
    source = clips.make(tmp_path / "in.mp4")
    done = call("interpolate", source, "--model", "blend", "--dry-run", "--ratio", "5/2")
    assert done.code == 0
    assert "24 -> 60 frames" in done.err
    assert list(tmp_path.iterdir()) == [source]


def test_several_videos_and_folders(tmp_path: Path, call: Call) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("b.mp4", "a.mkv"):
        clips.make(videos / name, Clip(frames=3))
    (videos / "notes.txt").write_text("no video")
    (videos / "broken.mp4").write_text("no video either")
    done = call("interpolate", videos, "-o", tmp_path / "out", "--model", "blend")
    assert done.code == 3, "that of the broken one"
    assert "broken.mp4' is not a video" in done.err
    made = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert made == ["a.48fps.mkv", "a.48fps.mkv.json", "b.48fps.mp4", "b.48fps.mp4.json"]
    into_one = call("interpolate", videos / "b.mp4", videos / "a.mkv", "-o", tmp_path / "x.mp4")
    assert into_one.code == 2
    assert "give a folder with -o" in into_one.err


def test_an_output_folder_keeps_the_default_name(tmp_path: Path, call: Call) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=3))
    assert call("interpolate", source, "-o", f"{tmp_path}/new/", "--model", "blend").code == 0
    assert (tmp_path / "new" / "in.48fps.mp4").exists()


@pytest.mark.parametrize(
    "name", ["with space.mp4", 'it\'s "quoted".mp4', "грибы 日本 é.mp4", "100% sure.mp4", "a;b&c$(x).mp4", "-dash.mp4"]
)
def test_any_name_is_a_name(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    os.rename(clips.make(tmp_path / "plain.mp4", Clip(frames=4, audio=1)), name)
    done = call("interpolate", name, "--model", "blend")
    assert done.code == 0, done.err
    out = Path(name.removesuffix(".mp4") + ".48fps.mp4")
    with av.open(f"file:{out}") as container:
        assert container.streams.video[0].frames == 8
    assert call("probe", name).code == 0
    assert call("interpolate", name, "--model", "blend", "-o", f"./{name}.out.mkv").code == 0


def test_mistyped_words_are_suggested(call: Call) -> None:
    assert "Did you mean 'interpolate'?" in call("interpolat").err
    assert "'--fps'" in call("interpolate", "--fsp", "60", "x.mp4").err
    done = call("interpolate", __file__, "--model", "blnd")
    assert (done.code, "did you mean blend?" in done.err) == (2, True)


def test_a_video_in_place_of_a_command_gets_a_hint(tmp_path: Path, call: Call) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=2))
    done = call(source)
    assert done.code == 2
    assert f"midframe interpolate '{source}'" in done.err


def test_probe_says_what_a_file_is(tmp_path: Path, call: Call) -> None:
    source = clips.make(tmp_path / "in.mkv", Clip(audio=2, rotation=90, rate=clips.NTSC_24, subtitles=("ass",)))
    done = call("probe", source, "--count")
    assert done.code == 0, done.err
    for words in ("24000/1001 (23.976)", "64x48", "frames counted  24", "ass", "24 -> 48 frames"):
        assert words in done.out
    facts = json.loads(call("probe", source, "--json").out)
    assert facts["rate"].startswith("24000/1001")
    assert [s["kind"] for s in facts["streams"]] == ["video", "audio", "audio", "subtitle"]


@pytest.mark.parametrize("how", ["side", "difference", "slider"])
def test_compare_videos(tmp_path: Path, call: Call, how: str) -> None:
    a = clips.make(tmp_path / "a.mp4", Clip(frames=12))
    b = clips.make(tmp_path / "b.mp4", Clip(frames=24, rate=Fraction(48), width=32, height=24))
    out = tmp_path / "c.mp4"
    assert call("compare", a, b, "-o", out, "--how", how).code == 0
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert (stream.frames, stream.width) == (24, 130 if how == "side" else 64)
        assert stream.average_rate == 48
    assert call("compare", a, b, "-o", out).code == 2, "it exists"


def test_compare_equal_videos_differ_nowhere(tmp_path: Path, call: Call) -> None:
    a = clips.make(tmp_path / "a.mp4", Clip(frames=3))
    call("compare", a, a, "-o", tmp_path / "c.mkv", "--how", "difference")
    with av.open(str(tmp_path / "c.mkv")) as container:
        assert max(int(f.to_ndarray(format="rgb24").max()) for f in container.decode(video=0)) <= 2


def test_compare_stills(tmp_path: Path, call: Call) -> None:
    a, b = clips.png(tmp_path / "a.png", 0), clips.png(tmp_path / "b.png", 3)
    done = call("compare", a, b)
    assert done.code == 0, done.err
    with av.open(str(tmp_path / "a.vs.b.png")) as container:
        assert container.streams.video[0].width == 66


def test_models_list(call: Call) -> None:
    done = call("models", "list", "--json")
    rows = {row["name"]: row for row in json.loads(done.out)}
    assert rows["blend"]["state"] == "ready"
    assert "dis" in call("models", "list").out


def test_doctor(call: Call) -> None:
    found = json.loads(call("doctor", "--json", "--model", "blend").out)
    assert "libx264" in found["encoders"]
    assert found["devices"][0] == "cpu"
    assert "new frames" in found["speed"]


INTERRUPTED = """
import sys
from midframe import plan
from midframe.cli import main
plan.SEGMENT_OUTPUTS = 20
main()
"""


def test_an_error_after_the_kernels_were_loaded_is_all_that_is_printed(tmp_path: Path) -> None:
    sources = [clips.make(tmp_path / name, Clip(frames=3)) for name in ("a.mp4", "b.mp4")]
    made = [tmp_path / "out" / f"{source.stem}.48fps.mp4" for source in sources]
    made[0].parent.mkdir()
    for path in made:
        path.write_bytes(b"\0")
        path.with_name(path.name + ".json").write_text("{}")  # as of another run
    words = ["interpolate", *map(str, sources), "-o", str(made[0].parent), "--model", "midnet-s"]
    ended = subprocess.run([sys.executable, "-m", "midframe", *words], capture_output=True, text=True)
    assert ended.returncode == 2
    assert [line.endswith("or give another -o") for line in ended.stderr.splitlines()] == [True, True], ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_with_130_and_the_same_command_goes_on(tmp_path: Path, call: Call, number: int) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=400, options={"g": "10"}))
    target = tmp_path / "out.mp4"
    words = ["interpolate", str(source), "-o", str(target), "--model", "blend", "--progress", "json"]
    ended = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert ended.stdout is not None
    while '"progress"' not in ended.stdout.readline():
        assert ended.poll() is None
    ended.send_signal(number)
    _, err = ended.communicate(timeout=120)
    assert ended.returncode == 130, err
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert not target.exists()
    assert (tmp_path / "out.mp4.midframe" / "00000.json").exists(), "the segment at hand was finished"
    plan_small = plan.SEGMENT_OUTPUTS
    try:
        plan.SEGMENT_OUTPUTS = 20
        done = call(*words)
    finally:
        plan.SEGMENT_OUTPUTS = plan_small
    assert done.code == 0
    assert json.loads(done.out.splitlines()[-1])["statistics"]["resumed_frames"] >= 20


def test_two_signals_stop_at_once(tmp_path: Path) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=400))
    words = ["interpolate", str(source), "--model", "blend", "--progress", "json"]
    ended = subprocess.Popen(
        [sys.executable, "-m", "midframe", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert ended.stdout is not None
    while '"progress"' not in ended.stdout.readline():
        assert ended.poll() is None
    ended.send_signal(signal.SIGINT)
    time.sleep(0.05)  # two equal signals at once would be delivered as one
    ended.send_signal(signal.SIGINT)
    out, err = ended.communicate(timeout=120)
    assert ended.returncode == 130, err
    assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]
    assert len(out.splitlines()) < 300


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_the_second_signal_ends_a_run_that_waits_for_a_fifo(tmp_path: Path) -> None:
    """The main thread waits in open(2), where no handler of Python runs."""
    os.mkfifo(tmp_path / "in.y4m")
    words = ["interpolate", str(tmp_path / "in.y4m"), "-o", str(tmp_path / "out.mkv"), "--model", "blend"]
    ended = subprocess.Popen([sys.executable, "-m", "midframe", *words], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and ended.poll() is None:
        ended.send_signal(signal.SIGTERM)  # one before the handlers are there ends it by itself
        time.sleep(0.5)
    ended.communicate(timeout=30)
    assert ended.returncode in (130, -signal.SIGTERM)


def test_two_inputs_with_one_output_are_refused_before_the_work(tmp_path: Path, call: Call) -> None:
    for name in ("A", "B"):
        (tmp_path / name).mkdir()
        clips.make(tmp_path / name / "clip.mp4", Clip(frames=4))
    words = ["interpolate", tmp_path / "A" / "clip.mp4", tmp_path / "B" / "clip.mp4", "--model", "blend", "-y"]
    done = call(*words, "-o", tmp_path / "out")
    assert done.code == 2 and "would both be written" in done.err
    assert list((tmp_path / "out").iterdir()) == []
    assert call(*words).code == 0, "beside their sources they have places of their own"


def test_an_output_over_another_input_is_refused(tmp_path: Path, call: Call) -> None:
    clips.make(tmp_path / "clip.mp4", Clip(frames=4))
    clips.make(tmp_path / "clip.48fps.mp4", Clip(frames=4))
    done = call("interpolate", tmp_path / "clip.mp4", tmp_path / "clip.48fps.mp4", "--model", "blend", "-y")
    assert done.code == 2 and "over the input" in done.err


def test_a_folder_given_twice_does_not_interpolate_its_own_results(tmp_path: Path, call: Call) -> None:
    clips.make(tmp_path / "one.mp4", Clip(frames=4, rate=Fraction(20)))
    clips.make(tmp_path / "two.mp4", Clip(frames=4, rate=Fraction(20)))
    assert call("compare", tmp_path / "one.mp4", tmp_path / "two.mp4").code == 0
    for more in ([], [], ["-y"]):
        done = call("interpolate", tmp_path, "--model", "blend", *more)
        assert done.code == 0, done.err
        assert sorted(p.name for p in tmp_path.glob("*.mp4")) == [
            "one.40fps.mp4", "one.mp4", "one.vs.two.mp4", "two.40fps.mp4", "two.mp4",
        ]  # fmt: skip
    assert "skipped" in done.err and done.err.count("is complete") == 2
    done = call("interpolate", *sorted(tmp_path.glob("*.40fps.mp4")), *tmp_path.glob("???.mp4"), "--model", "blend")
    assert done.code == 0 and done.err.count("wrote from another of these inputs") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux")
def test_a_name_that_is_not_utf8(tmp_path: Path, call: Call) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=4))
    odd = os.fsdecode(bytes(tmp_path) + b"/f\xfflm.mp4")
    os.rename(source, odd)
    words = [sys.executable, "-m", "midframe", "interpolate", odd, "--model", "blend"]
    for said in (b"wrote", b"is complete"):
        ended = subprocess.run(words, capture_output=True)
        assert ended.returncode == 0 and said in ended.stderr, ended.stderr
    assert b"f\xfflm.48fps.mp4" in [os.fsencode(name) for name in os.listdir(tmp_path)]
    ended = subprocess.run([sys.executable, "-m", "midframe", "probe", odd, "--json"], capture_output=True)
    assert json.loads(ended.stdout)["file"] == odd


def test_a_name_too_long_for_our_own_files_is_refused_before_the_work(tmp_path: Path, call: Call) -> None:
    source = clips.make(tmp_path / f"{'n' * 251}.mp4", Clip(frames=4))
    done = call("interpolate", source, "--model", "blend")
    assert done.code == 2 and "bytes, 245 are allowed; give a shorter -o" in done.err
    assert call("interpolate", source, "--model", "blend", "-o", tmp_path / f"{'o' * 241}.mp4").code == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("words", [["probe"], ["probe", "--json"], ["--help"]])
def test_a_full_standard_output_is_one_line(tmp_path: Path, words: list[str]) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=4))
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "midframe", *words, *([source] if "probe" in words else [])],
            stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert ended.returncode == 3
    assert ended.stderr.splitlines() == ["midframe: the standard output cannot be written: No space left on device"]


def test_plain_progress_is_a_line_now_and_then(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    reporter = Plain(seconds=10, clock=lambda: now[0])
    progress = Progress(120, 480, 10.0, 12.0, 30.0, 0, 1, 2, Fraction(2))
    for seconds in (0, 5, 11, 15, 22):
        now[0] = seconds
        reporter.progress(progress)
    line = "120 of 480 frames (25 %), 12.0 fps, 30 s left, 2 scene changes"
    assert capsys.readouterr().err.splitlines() == [line] * 2
    assert details(replace(progress, remaining=None, cuts=0)) == "12.0 fps"
    told = Json(clock=lambda: now[0])
    for seconds in (0.0, 0.1, 0.6):
        now[0] = seconds
        told.progress(progress)
    assert len(capsys.readouterr().out.splitlines()) == 2
    source = clips.make(tmp_path / "in.mp4", Clip(frames=2))
    assert "4 frames (1 interpolated), 0 scene changes" in result_text(interpolate(source, model="blend"))
