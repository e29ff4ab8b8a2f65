"""The main path with the plain blend for a model: counts, segments, resume, refusals, the report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor

import clips
import midframe
from clips import Clip
from midframe import confidence, pipeline, plan
from midframe.errors import InputError, Interrupted, JobError, MediaError
from midframe.journal import folder_of
from midframe.models.base import RenderRequest
from midframe.options import Options
from midframe.plan import plan_segments
from midframe.result import LowConfidence, Progress
from midframe.types import Segment
from model_fakes import RgbBlend


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SEGMENT_OUTPUTS", 20)


def run(source: Path, target: Path | None = None, **options: Any) -> midframe.Result:
    return midframe.interpolate(source, target, **{"model": "blend", "device": "cpu", **options})


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        base = container.streams.video[0].time_base
        assert base is not None
        return sorted(packet.pts * base for packet in container.demux(video=0) if packet.pts is not None)


def hashes(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [hash(frame.to_ndarray().tobytes()) for frame in container.decode(video=0)]


def test_a_video_is_interpolated_and_everything_else_is_kept(tmp_path: Path) -> None:
    source = clips.make(
        tmp_path / "in.mkv",
        Clip(frames=48, audio=3, subtitles=("ass",), chapters=2, attachment=True, tags={"title": "A video"}),
    )
    result = run(source, tmp_path / "out.mkv", fps="60")
    assert (result.frames_in, result.frames_out, result.rate) == (48, 120, 60)
    got = times(result.path)
    assert len(got) == 120
    assert all(abs(at - Fraction(n, 60)) <= Fraction(1, 1000) for n, at in enumerate(got))
    with av.open(str(source)) as before, av.open(str(result.path)) as after:
        kinds = [stream.type for stream in before.streams]
        assert [stream.type for stream in after.streams] == kinds
        assert kinds.count("audio") == 3
        assert [s.metadata.get("language") for s in after.streams.audio] == ["eng", "fra", "deu"]
        assert len(after.chapters()) == 2
        assert after.metadata["title"] == "A video"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mkv", "out.mkv", "out.mkv.json"]


def test_the_report_says_the_kind_of_every_frame(tmp_path: Path) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=6))
    result = run(source)
    assert result.path == tmp_path / "in.48fps.mp4"
    assert result.kinds == "sisisisisish"
    report = json.loads(result.report.read_text())
    assert report["kinds"] == result.kinds
    assert report["letters"] == {"s": "source", "i": "interpolated", "h": "held", "d": "duplicate"}
    assert Options.from_json(report["plan"]["options"]) == Options.parse(model="blend", device="cpu")


def test_segments_change_nothing(tmp_path: Path, small_segments: None) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=60, audio=1, options={"g": "10"}))
    result = run(source, tmp_path / "many.mp4", fps=50)
    assert len(json.loads(result.report.read_text())["plan"]["segments"]) > 2
    assert result.frames_out == 125
    assert times(result.path) == [Fraction(n, 50) for n in range(125)]
    plan.SEGMENT_OUTPUTS = 10_000  # undone by the fixture
    whole = run(source, tmp_path / "one.mp4", fps=50)
    assert whole.kinds == result.kinds
    assert times(whole.path) == times(result.path)


def paused(path: Path, seconds: int) -> Path:
    """A screen recording at 30 fps with audio: no frame for so many seconds after frame 29."""
    pts = [n if n < 30 else n + 30 * seconds for n in range(60)]
    coding = {"g": "60", "bf": "0"}
    return clips.make(path, Clip(rate=Fraction(30), frames=60, pts=pts, tick=Fraction(1, 30), audio=1, options=coding))


@pytest.mark.parametrize("seconds", [4, 70])
def test_a_pause_is_held_and_reported(tmp_path: Path, small_segments: None, seconds: int) -> None:
    source = paused(tmp_path / "in.mkv", seconds)
    result = run(source, tmp_path / "out.mkv", fps=60, codec="ffv1")
    assert result.frames_out == 60 * (seconds + 2)
    # to one thirtieth of a second before the next frame
    assert result.kinds == "si" * 29 + "s" + "h" * (60 * seconds) + "i" + "si" * 29 + "sh"
    (held,) = result.held
    assert abs(held.start - Fraction(29, 30)) < Fraction(1, 1000)
    assert abs(held.end - held.start - seconds) < Fraction(1, 1000)
    told = json.loads(result.report.read_text())["held"]
    assert told == [{"start": float(held.start), "end": float(held.end)}]
    assert len(json.loads(result.report.read_text())["plan"]["segments"]) > 2
    plan.SEGMENT_OUTPUTS = 10**6  # undone by the fixture
    whole = run(source, tmp_path / "whole.mkv", fps=60, codec="ffv1")
    assert hashes(whole.path) == hashes(result.path) and whole.held == result.held


def test_a_pause_does_not_lengthen_the_video(tmp_path: Path) -> None:
    result = run(paused(tmp_path / "in.mp4", 12), tmp_path / "out.mkv", fps=60)
    assert result.frames_out == 60 * 14 and result.kinds.endswith("sish")


def test_vfr_keep_holds_a_pause(tmp_path: Path) -> None:
    result = run(paused(tmp_path / "in.mkv", 4), tmp_path / "out.mkv", vfr="keep")
    got = times(result.path)
    assert len(got) == result.frames_out == 119
    steps = [b - a for a, b in pairwise(got[58:62])]
    assert [round(float(step), 2) for step in steps] == [4.02, 0.02, 0.02]


def test_missing_numbers_of_a_sequence_are_no_pause(tmp_path: Path) -> None:
    frames = [n for n in range(1, 40) if not 5 < n < 25]
    for n in frames:
        clips.png(tmp_path / f"shot_{n:04d}.png", n)
    result = run(tmp_path / "shot_%04d.png", tmp_path / "out.mkv", in_fps=24, ratio=2, scene="off")
    assert result.held == () and "hh" not in result.kinds
    assert result.frames_out == 2 * 39 and "i" * 39 in result.kinds


def test_motion_blur_is_in_the_plan_and_knows_no_segments(tmp_path: Path, small_segments: None) -> None:
    source = clips.make(tmp_path / "in.mkv", Clip(rate=Fraction(60), frames=150, options={"g": "20"}))
    wanted = {"fps": 24, "shutter": 180, "codec": "ffv1"}
    said: list[str] = []
    result = run(source, tmp_path / "out.mkv", on_plan=lambda made: said.append(str(made)), **wanted)
    assert "shutter 180 degrees (20.8 ms), up to 32 samples per frame" in said[0]
    assert (result.frames_out, set(result.kinds)) == (60, {"i"})
    assert len(json.loads(result.report.read_text())["plan"]["segments"]) > 2
    plan.SEGMENT_OUTPUTS = 10**6  # undone by the fixture
    whole = run(source, tmp_path / "whole.mkv", **wanted)
    assert hashes(whole.path) == hashes(result.path)
    assert hashes(run(source, tmp_path / "sharp.mkv", fps=24, codec="ffv1").path) != hashes(whole.path)


@pytest.mark.parametrize(
    "options",
    [
        {"fps": 24, "shutter": 180},
        {"shutter": 270, "loop": True},
        {"speed": "0-1:2, 1-2:1>0.5, 2-4:1", "fps": 30},
        {"speed": "0-2:1, 2-4:0.5", "fps": 30, "shutter": 360},
    ],
    ids=["shutter", "loop-shutter", "speed", "speed-shutter"],
)
def test_an_interrupted_run_resumes_with_blur_loop_and_speed(
    tmp_path: Path, small_segments: None, options: dict[str, Any]
) -> None:
    source = clips.make(tmp_path / "in.mkv", Clip(rate=Fraction(30), frames=96, options={"g": "10"}))
    wanted = {"codec": "ffv1", **options}
    straight = run(source, tmp_path / "straight.mkv", **wanted)
    runs = 0
    while True:
        cancel = threading.Event()

        def stop(progress: Progress, until: int = 27 + 30 * runs, cancel: threading.Event = cancel) -> None:
            if progress.frames == until:
                cancel.set()

        try:
            result = run(source, tmp_path / "out.mkv", on_progress=stop, cancel=cancel, **wanted)
            break
        except Interrupted:
            runs += 1
    assert runs >= 2
    assert (result.kinds, result.cuts, result.frames_in) == (straight.kinds, straight.cuts, straight.frames_in)
    assert times(result.path) == times(straight.path)
    assert hashes(result.path) == hashes(straight.path)


def planes(path: Path) -> list[np.ndarray[Any, Any]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray().astype(int) for frame in container.decode(video=0)]


@pytest.mark.parametrize("shutter", [0, 180])
def test_a_loop_leads_from_the_last_frame_to_the_first(tmp_path: Path, small_segments: None, shutter: int) -> None:
    source = clips.make(tmp_path / "in.mkv", Clip(frames=32, options={"g": "8"}))  # its motion repeats after 32 frames
    wanted = {"loop": True, "shutter": shutter, "codec": "ffv1"}
    result = run(source, tmp_path / "out.mkv", **wanted)
    assert result.frames_in == 32 and result.cuts == ()
    assert result.kinds == ("ii" if shutter else "si") * 32
    assert len(json.loads(result.report.read_text())["plan"]["segments"]) == 2
    seen = planes(result.path)
    if not shutter:
        first, last = seen[0], seen[-2]
        assert np.abs(seen[-1] - (first + last) / 2).max() <= 1
    plan.SEGMENT_OUTPUTS = 10**6  # undone by the fixture
    assert hashes(run(source, tmp_path / "whole.mkv", **wanted).path) == hashes(result.path)
    kept = run(source, tmp_path / "kept.mkv", vfr="keep", loop=True)
    assert kept.frames_out == 64 and kept.kinds[-2:] == "si"
    with pytest.raises(InputError, match="--loop joins the end"):
        run(source, tmp_path / "part.mkv", loop=True, end=1)


def test_a_speed_ramp_in_exact_time(tmp_path: Path, small_segments: None) -> None:
    source = clips.make(
        tmp_path / "in.mkv", Clip(frames=96, audio=1, subtitles=("subrip",), chapters=2, options={"g": "12"})
    )
    wanted = {"speed": "0-1:1, 1-2:1>0.25, 2-3:0.25", "fps": 48, "codec": "ffv1"}
    said: list[midframe.Plan] = []
    result = run(source, tmp_path / "out.mkv", on_plan=said.append, **wanted)
    seconds = 1 + Fraction(8, 5) + 4 + 1
    assert "speed 0-1:1, 1-2:1>1/4, 2-3:1/4" in str(said[0])
    assert result.frames_out == said[0].frames_out == -(-seconds * 48 // 1)
    assert all(abs(at - Fraction(n, 48)) <= Fraction(1, 1000) for n, at in enumerate(times(result.path)))
    assert len(said[0].segments) > 2
    with av.open(str(result.path)) as made, av.open(str(source)) as before:
        assert [stream.type for stream in made.streams] == ["video", "audio", "subtitle"]

        def starts(video: Any) -> list[Fraction]:
            return [packet.pts * packet.time_base for packet in video.demux(subtitles=0) if packet.pts is not None]

        pace = said[0].speed
        for one, other in zip(starts(before), starts(made), strict=True):
            assert abs(pace.output(one) - other) <= Fraction(1, 500)
    plan.SEGMENT_OUTPUTS = 10**6  # undone by the fixture
    assert hashes(run(source, tmp_path / "whole.mkv", **wanted).path) == hashes(result.path)


class Stumbling(RgbBlend):
    """Holds still, and in two gaps of the video it draws part of the frame wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.gaps = 0

    def match(self, a: Tensor, b: Tensor) -> int:
        self.gaps += a.shape[-1] == 64  # the plan's estimate uses a larger frame
        return self.gaps

    def flow(self, motion: int) -> Tensor:
        return torch.zeros(1, 2, 12, 16)

    def render(self, request: RenderRequest) -> Tensor:
        made = request.a.expand(len(request.t), -1, -1, -1).clone()
        made[..., : {10: 24, 31: 12}.get(request.motion, 0), :] = 0
        return made


def test_frames_of_low_confidence_are_reported(tmp_path: Path, small_segments: None) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=48, options={"g": "10"}))
    result = midframe.interpolate(source, tmp_path / "out.mp4", network=Stumbling(), device="cpu", ratio=2)
    (worst, second), rest = result.low_confidence[:2], result.low_confidence[2:]
    assert (worst.frame, second.frame) == (19, 61)  # the tenth gap, the 31st; counted through the segments
    assert worst.confidence < second.confidence < min((low.confidence for low in rest), default=1)
    assert second.confidence < 0.1, "a quarter of it is inconsistent"
    half_seconds = [low.frame // 24 for low in result.low_confidence]
    assert len(half_seconds) <= 96 // 24 + 5, "one of a moment, and segments begin anew"
    told = json.loads(result.report.read_text())["low_confidence"]
    assert worst.region is not None and worst.region[1] == 0 and worst.region[3] <= 0.55, "the upper half is wrong"
    assert told[0] == {
        "frame": 19,
        "seconds": 19 / 48,
        "confidence": worst.confidence,
        "region": pytest.approx(list(worst.region), abs=1e-4),
    }
    turned = clips.make(tmp_path / "turned.mp4", Clip(frames=48, rotation=90))
    result = midframe.interpolate(turned, tmp_path / "out2.mp4", network=Stumbling(), device="cpu", ratio=2)
    region = result.low_confidence[0].region
    assert region is not None and region[2] == 1 and region[0] >= 0.45, "the right half, as it is displayed"
    assert run(source, tmp_path / "blend.mp4").low_confidence == ()


class Failing(Stumbling):
    """Every frame is half black."""

    def render(self, request: RenderRequest) -> Tensor:
        made = request.a.expand(len(request.t), -1, -1, -1).clone()
        made[..., 24:, :] = 0
        return made


def test_only_the_regions_that_are_reported_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, looked_for, find = clips.make(tmp_path / "in.mp4", Clip(frames=48)), [], confidence.densest_region
    monkeypatch.setattr(confidence, "densest_region", lambda *given: looked_for.append(given) or find(*given))
    result = midframe.interpolate(source, tmp_path / "out.mp4", network=Failing(), device="cpu", ratio=2)
    assert result.kinds.count("i") == 47
    assert len(result.low_confidence) == len(looked_for) == 4  # of two seconds
    assert all(low.region is not None and low.region[1] >= 0.45 for low in result.low_confidence)


@pytest.mark.parametrize("stop_at", [1, 33, 71])
def test_a_cancelled_run_goes_on_where_it_was(tmp_path: Path, small_segments: None, stop_at: int) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=48, audio=1, options={"g": "12"}))
    straight = run(source, tmp_path / "straight.mp4")
    target = tmp_path / "out.mp4"
    cancel = threading.Event()

    def stop(progress: Progress) -> None:
        if progress.frames == stop_at:
            cancel.set()

    with pytest.raises(Interrupted, match="the same command goes on"):
        run(source, target, on_progress=stop, cancel=cancel)
    assert not target.exists()
    assert folder_of(target).exists() == (stop_at > 24)
    seen: list[int] = []
    result = run(source, target, on_progress=lambda p: seen.append(p.frames))
    assert seen[0] > stop_at - 30, "finished segments are not made again"
    assert hashes(target) == hashes(straight.path)
    assert result.kinds == straight.kinds
    assert not folder_of(target).exists()


KILLED = """
import os, signal, sys
import midframe
from midframe import plan
plan.SEGMENT_OUTPUTS = 20
def on_progress(progress):
    if progress.frames == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
midframe.interpolate(sys.argv[1], sys.argv[2], model="blend", device="cpu", on_progress=on_progress)
"""


def test_kill_9_and_again_gives_the_same_frames(tmp_path: Path, small_segments: None) -> None:
    source = clips.make(tmp_path / "in.mkv", Clip(frames=48, audio=2, options={"g": "12"}))
    target = tmp_path / "out.mkv"
    for at in (31, 70):
        ended = subprocess.run([sys.executable, "-c", KILLED, str(source), str(target), str(at)], check=False)
        assert ended.returncode == -signal.SIGKILL
        assert not target.exists()
    result = run(source, target)
    assert result.statistics["resumed_frames"] > 30
    straight = run(source, tmp_path / "straight.mkv")
    assert hashes(target) == hashes(straight.path)
    assert times(target) == times(straight.path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "in.mkv", "out.mkv", "out.mkv.json", "straight.mkv", "straight.mkv.json",
    ]  # fmt: skip


def test_equal_frames_are_encoded_equally(tmp_path: Path, small_segments: None) -> None:
    """Larger frames, so that the encoder uses all that it has."""
    source = clips.make(tmp_path / "in.mkv", Clip(width=320, height=240, frames=60, options={"g": "12"}))
    first = hashes(run(source, tmp_path / "0.mp4").path)
    for n in range(1, 4):
        assert hashes(run(source, tmp_path / f"{n}.mp4").path) == first


def half_done(source: Path, target: Path, **options: Any) -> None:
    drain = threading.Event()

    def stop(progress: Progress) -> None:
        if progress.frames == 5:
            drain.set()

    with pytest.raises(Interrupted, match=r"1 of \d+ segments"):
        run(source, target, on_progress=stop, drain=drain, **options)


def test_draining_finishes_the_segment_at_hand(tmp_path: Path, small_segments: None) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=48, options={"g": "12"}))
    half_done(source, tmp_path / "out.mp4")
    seen: list[int] = []
    run(source, tmp_path / "out.mp4", on_progress=lambda p: seen.append(p.frames))
    assert seen[0] >= 21


def test_changed_options_are_noticed(tmp_path: Path, small_segments: None) -> None:
    source, target = clips.make(tmp_path / "in.mp4", Clip(frames=48, options={"g": "12"})), tmp_path / "out.mp4"
    half_done(source, target)
    with pytest.raises(JobError, match=r"crf default, now 20.*--no-resume"):
        run(source, target, crf=20)
    assert folder_of(target).exists(), "finished work is not thrown away unasked"
    result = run(source, target, crf=20, resume=False)
    assert result.statistics["resumed_frames"] == 0


def test_a_changed_source_is_noticed(tmp_path: Path, small_segments: None) -> None:
    source, target = clips.make(tmp_path / "in.mp4", Clip(frames=48, options={"g": "12"})), tmp_path / "out.mp4"
    half_done(source, target)
    clips.make(source, Clip(frames=49, options={"g": "12"}))
    with pytest.raises(JobError, match="the source has changed"):
        run(source, target)


def test_a_segment_that_was_damaged_is_made_again(tmp_path: Path, small_segments: None) -> None:
    source, target = clips.make(tmp_path / "in.mp4", Clip(frames=48, options={"g": "12"})), tmp_path / "out.mp4"
    half_done(source, target)
    (folder_of(target) / "00000.mkv").write_bytes(b"short")
    assert run(source, target).statistics["resumed_frames"] == 0


def test_a_segment_damaged_in_its_place_is_made_again_by_name(tmp_path: Path, small_segments: None) -> None:
    """Bytes that change and leave the size as it was are found by the checksum."""
    source, target = clips.make(tmp_path / "in.mp4", Clip(frames=96, options={"g": "12"})), tmp_path / "out.mp4"
    straight = run(source, tmp_path / "straight.mp4")

    damaged: list[Path] = []

    def damage(progress: Progress) -> None:
        whole = folder_of(target) / "00001.mkv"
        if progress.stage == "joining" and not damaged:
            content = bytearray(whole.read_bytes())
            content[len(content) // 2] ^= 255
            whole.write_bytes(content)
            damaged.append(whole)

    result = run(source, target, on_progress=damage)
    assert "segment 00001" in result.warnings[-1]
    assert hashes(target) == hashes(straight.path)


def test_a_segment_that_holds_other_frames_than_recorded_is_not_joined(tmp_path: Path, small_segments: None) -> None:
    source, target = clips.make(tmp_path / "in.mp4", Clip(frames=96, options={"g": "12"})), tmp_path / "out.mp4"

    def lie(progress: Progress) -> None:
        if progress.stage == "joining":
            record = folder_of(target) / "00000.json"
            known = json.loads(record.read_text())
            record.write_text(json.dumps({**known, "packets": known["packets"] + 1}))

    with pytest.raises(MediaError, match=r"00000\.mkv.* has \d+ frames, and \d+ were written"):
        run(source, target, on_progress=lie)
    assert not target.exists()


def test_a_source_overwritten_during_the_run_is_noticed(tmp_path: Path, small_segments: None) -> None:
    """A mixture of two versions must not be finished, and the segments of the first version are kept."""
    source, target = clips.make(tmp_path / "in.mp4", Clip(frames=96, options={"g": "12"})), tmp_path / "out.mp4"
    first = source.read_bytes()
    straight = run(source, tmp_path / "straight.mp4")
    other = clips.make(tmp_path / "other.mp4", Clip(frames=96, options={"g": "12", "crf": "40"})).read_bytes()

    def overwrite(progress: Progress) -> None:
        if progress.frames == 60:
            source.write_bytes(other)

    with pytest.raises(MediaError, match=r"has changed since its frames were read.*--no-resume"):
        run(source, target, on_progress=overwrite)
    source.write_bytes(first)
    result = run(source, target)
    assert result.statistics["resumed_frames"] > 0
    assert hashes(target) == hashes(straight.path)


def test_a_file_that_appears_under_the_name_of_the_target_is_not_replaced(tmp_path: Path) -> None:
    source, target = clips.make(tmp_path / "in.mp4"), tmp_path / "out.mp4"

    def appear(progress: Progress) -> None:
        target.write_bytes(b"somebody else's")

    with pytest.raises(InputError, match="has appeared since the run began"):
        run(source, target, on_progress=appear)
    assert target.read_bytes() == b"somebody else's"
    target.unlink()
    assert run(source, target).path == target


def test_images_replace_those_of_an_earlier_run_and_nothing_else(tmp_path: Path) -> None:
    source, folder = clips.make(tmp_path / "in.mp4", Clip(frames=5)), tmp_path / "out"
    folder.mkdir()
    for name in ("00001.png", "00400.png", "photo.png"):
        (folder / name).write_bytes(b"earlier")

    def stop(progress: Progress) -> None:
        raise MediaError("stopped by the test")

    with pytest.raises(MediaError, match="stopped by the test"):
        run(source, folder / "%05d.png", overwrite=True, on_progress=stop)
    assert (folder / "00400.png").read_bytes() == b"earlier", "a run that fails loses nothing"
    run(source, folder / "%05d.png", overwrite=True)
    assert sorted(p.name for p in folder.iterdir()) == [*(f"{n:05d}.png" for n in range(1, 11)), "photo.png"]
    assert (folder / "photo.png").read_bytes() == b"earlier"


def test_the_same_command_sees_that_it_is_finished(tmp_path: Path) -> None:
    source, target = clips.make(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    first = run(source, target)
    before = target.stat().st_mtime_ns
    again = run(source, target)
    assert again.finished_before and (again.kinds, again.rate) == (first.kinds, first.rate)
    assert target.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="exists already"):
        run(source, target, ratio=3)
    with pytest.raises(InputError, match="exists already"):
        run(source, target, resume=False)
    assert not run(source, target, overwrite=True).finished_before
    target.write_bytes(target.read_bytes() + b"more")
    with pytest.raises(InputError, match="exists already"):
        run(source, target)


def test_a_second_run_on_one_target_is_refused(tmp_path: Path) -> None:
    source, target = clips.make(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    refused: list[JobError] = []

    def again(_: Progress) -> None:
        if not refused:
            with pytest.raises(JobError, match=r"another run is writing out\.mp4") as caught:
                run(source, target)
            refused.append(caught.value)

    run(source, target, on_progress=again)
    assert refused


def test_a_source_that_was_touched_or_copied_is_the_same(tmp_path: Path, small_segments: None) -> None:
    source, target = clips.make(tmp_path / "in.mp4", Clip(frames=48, options={"g": "12"})), tmp_path / "out.mp4"
    half_done(source, target)
    content = source.read_bytes()
    source.unlink()
    source.write_bytes(content)
    os.utime(source, (1, 1))
    assert run(source, target).statistics["resumed_frames"] >= 20


def test_an_interlaced_video_counts_by_its_fields(tmp_path: Path) -> None:
    """25 interlaced frames a second are 50 instants: twice of that is 100, with a new frame between any two."""
    source = clips.make(tmp_path / "in.mkv", Clip(interlaced=True, height=64, rate=Fraction(25), frames=25, audio=1))
    result = run(source)
    assert (result.rate, result.frames_in, result.frames_out) == (100, 50, 100)
    assert result.kinds == "si" * 49 + "sh"
    assert str(pipeline.plan(source)).startswith("25 interlaced (50 fields/s) -> 100 fps, x2, 50 -> 100 frames")
    at_field_rate = run(source, tmp_path / "fields.mkv", fps=50)
    assert at_field_rate.kinds == "s" * 50
    kept = run(source, tmp_path / "kept.mkv", vfr="keep")
    assert kept.kinds == "si" * 49 + "s"
    slow = run(source, tmp_path / "slow.mkv", slowmo=2)
    assert (slow.rate, slow.frames_out) == (50, 100)
    woven = run(source, tmp_path / "woven.mkv", deinterlace="off")
    assert (woven.rate, woven.frames_in) == (50, 25)


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    source, target = clips.make(tmp_path / "in.mp4", Clip(frames=4)), tmp_path / "out.mp4"
    target.write_text("mine")
    with pytest.raises(InputError, match="-y replaces it"):
        run(source, target)
    assert target.read_text() == "mine"
    with pytest.raises(InputError, match="the source itself"):
        run(source, source, overwrite=True)
    run(source, target, overwrite=True)
    assert len(times(target)) == 8


def test_an_error_midway_leaves_target_and_folder_as_they_were(tmp_path: Path) -> None:
    source, target = clips.make(tmp_path / "in.mp4"), tmp_path / "out.mp4"
    target.write_text("mine")

    def fail(progress: Progress) -> None:
        if progress.frames == 20:
            raise RuntimeError("fault")

    with pytest.raises(RuntimeError, match="fault"):
        run(source, target, overwrite=True, on_progress=fail)
    assert target.read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_progress_counts_up_to_the_end(tmp_path: Path) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=10))
    seen: list[Progress] = []
    run(source, tmp_path / "out.mp4", on_progress=seen.append)
    assert [p.frames for p in seen if p.stage == "frames"] == list(range(1, 21))
    assert seen[-1].stage == "joining"
    assert seen[-2].total == 20
    assert seen[-2].latest is not None and seen[-2].latest.pts == Fraction(19, 48)


def test_a_range_starts_and_ends_where_it_is_requested(tmp_path: Path) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=48, audio=1))
    result = run(source, tmp_path / "part.mp4", start="0.5", end="1.25")
    assert result.frames_out == 36
    got = times(result.path)
    assert (got[0], got[-1]) == (0, Fraction(35, 48))
    assert result.kinds.startswith("sisi")
    with pytest.raises(InputError, match=r"--start 9 s is beyond the end of the video at 2 s"):
        run(source, tmp_path / "none.mp4", start=9)


def test_an_end_before_the_first_frame_is_refused(tmp_path: Path) -> None:
    source = clips.make(tmp_path / "in.mkv", Clip(pts=range(24, 48)))
    with pytest.raises(InputError, match=r"--end 0\.5 s is not after 1 s, the time of the first frame"):
        run(source, end="0.5")


def test_painted_pixels_stay_as_they_are(tmp_path: Path) -> None:
    source = clips.make(tmp_path / "in.mkv", Clip(codec="ffv1", frames=6))
    mask = tmp_path / "mask.pgm"
    half = bytearray(64 * 48)
    for row in range(48):
        half[row * 64 : row * 64 + 32] = b"\xff" * 32
    mask.write_bytes(b"P5 64 48 255\n" + bytes(half))
    plain = run(source, tmp_path / "plain.mkv", codec="ffv1", static="off", ratio=4)
    masked = run(source, tmp_path / "masked.mkv", codec="ffv1", static="off", ratio=4, mask=str(mask))

    def luma(path: Path) -> list[Any]:
        with av.open(str(path)) as container:
            return [frame.to_ndarray(format="gray").astype(int) for frame in container.decode(video=0)]

    before, after = luma(plain.path), luma(masked.path)
    assert abs(after[1][:, :24] - after[0][:, :24]).max() == 0, "copied from the nearest source frame"
    assert abs(after[1][:, 40:] - before[1][:, 40:]).max() == 0, "made as without a mask"
    assert abs(before[1][:, :24] - before[0][:, :24]).max() > 0
    with pytest.raises(InputError, match="cannot be read as an image"):
        run(source, tmp_path / "no.mkv", mask=str(tmp_path / "none.png"))


def test_slow_motion_lasts_longer(tmp_path: Path) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(frames=24, audio=1))
    result = run(source, slowmo=4)
    assert result.path.name == "in.slow4x.mp4"
    assert times(result.path) == [Fraction(n, 24) for n in range(96)]
    assert any("--slow-audio stretch" in text for text in result.dropped)
    with av.open(str(run(source, tmp_path / "s.mp4", slowmo=2, slow_audio="stretch").path)) as container:
        audio = container.streams.audio[0]
        assert audio.duration is not None and audio.time_base is not None
        assert abs(float(audio.duration * audio.time_base) - 2) < 0.1


def test_images_in_and_out(tmp_path: Path) -> None:
    folder = tmp_path / "shots"
    folder.mkdir()
    for n in range(5):
        clips.png(folder / f"shot_{n}.png", n)
    video = run(folder, in_fps=12)
    assert (video.path.name, video.frames_out) == ("shots.24fps.mkv", 10)
    out = run(folder / "shot_%d.png", tmp_path / "more" / "%03d.png", in_fps=12)
    assert [p.name for p in sorted((tmp_path / "more").iterdir())] == [f"{n:03d}.png" for n in range(1, 11)]
    assert out.report == tmp_path / "more.json"
    assert run(folder / "shot_%d.png", tmp_path / "more" / "%03d.png", in_fps=12).finished_before
    with pytest.raises(InputError, match="holds images named like"):
        run(folder, tmp_path / "more" / "%03d.png", in_fps=12, ratio=3)
    with pytest.raises(InputError, match=r"one image.*%06d\.png"):
        run(folder, tmp_path / "one.png", in_fps=12)


def test_two_images_give_the_one_between(tmp_path: Path) -> None:
    a, b = clips.png(tmp_path / "a.png", 0), clips.png(tmp_path / "b.png", 4)
    middle = tmp_path / "m.png"
    assert pipeline.between_files(a, b, middle, Options.parse(model="blend")) == [middle]
    values = []
    for path in (a, middle, b):
        with av.open(str(path)) as image:
            values.append(next(image.decode(video=0)).to_ndarray(format="rgb24").astype(int))
    assert abs(values[1] - (values[0] + values[2]) / 2).max() <= 0.5
    with pytest.raises(InputError, match="exists"):
        pipeline.between_files(a, b, middle, Options.parse(model="blend"))
    clips.png(b, 4, width=40)
    with pytest.raises(MediaError, match="one size"):
        pipeline.between_files(a, b, tmp_path / "n.png", Options.parse(model="blend"))


def test_the_plan_is_said_first_and_writes_nothing(tmp_path: Path) -> None:
    source = clips.make(tmp_path / "in.mp4", Clip(rate=clips.NTSC_24))
    said = str(pipeline.plan(source, fps="59.94", model="blend", device="cpu"))
    assert said.startswith("24000/1001 -> 60000/1001 fps, x5/2, 24 -> 60 frames, 64x48, libx264")
    assert "blend on cpu fp32" in said and "variable" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]
    uneven = clips.make(tmp_path / "uneven.mkv", Clip(frames=20, pts=[n + n // 3 for n in range(20)]))
    assert ", variable frame rate, " in str(pipeline.plan(uneven, model="blend", device="cpu"))


class TestSegments:
    def test_borders_are_key_frames_far_enough_apart(self) -> None:
        keys = [Fraction(n) for n in range(60)]
        got = plan_segments(keys, Fraction(0), Fraction(60), Fraction(48))
        assert got == (
            Segment(None, Fraction(10)), Segment(Fraction(10), Fraction(20)), Segment(Fraction(20), Fraction(30)),
            Segment(Fraction(30), Fraction(40)), Segment(Fraction(40), Fraction(50)), Segment(Fraction(50), None),
        )  # fmt: skip

    def test_a_short_video_is_one_segment(self) -> None:
        assert plan_segments([Fraction(0)], Fraction(0), Fraction(4), Fraction(60)) == (Segment(),)

    def test_no_segment_grows_without_limit(self) -> None:
        got = plan_segments([Fraction(0)], Fraction(0), Fraction(600), Fraction(48))
        lengths = [s.end - (s.start or 0) for s in got if s.end is not None]
        assert len(got) > 20 and max(lengths) <= 30

    def test_an_unknown_end_leaves_the_last_open(self) -> None:
        got = plan_segments([Fraction(0), Fraction(11)], Fraction(0), None, Fraction(48))
        assert got == (Segment(None, Fraction(11)), Segment(Fraction(11), None))


def test_a_journal_with_the_names_of_earlier_versions_goes_on(tmp_path: Path, small_segments: None) -> None:
    """Kinds m and r, and `doubts`, are what records held before; they are read for one version."""
    source, target = clips.make(tmp_path / "in.mp4", Clip(frames=48)), tmp_path / "out.mp4"
    straight = run(source, tmp_path / "straight.mp4")
    drain = threading.Event()
    drain.set()
    with pytest.raises(Interrupted):
        run(source, target, drain=drain)
    record = folder_of(target) / "00000.json"
    written = json.loads(record.read_text())
    written["kinds"] = written["kinds"].translate(str.maketrans("id", "mr"))
    written["doubts"] = [[3, 0.5]]
    del written["low_confidence"]
    record.write_text(json.dumps(written))
    result = run(source, target)
    assert result.kinds == straight.kinds
    assert result.low_confidence[0] == LowConfidence(3, 0.0196), "the share of then as the score of now"
