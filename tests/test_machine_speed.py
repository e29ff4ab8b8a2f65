"""Time estimates from earlier runs on this machine."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

import midframe
from clips import Clip, make
from midframe import pipeline
from midframe.machine_speed import RunSpeed, record, recorded, seconds_per_frame, speed_file


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDFRAME_SPEED_FILE", str(tmp_path / "cache" / "speed.json"))


RUN = RunSpeed("midnet-m", "cpu", "fp32", "libx264", 1280 * 720, 0.5, 0.1)


def test_nothing_is_said_before_the_first_run() -> None:
    assert seconds_per_frame(RUN) is None


def test_speed_scales_with_the_size_of_frames_and_prefers_runs_alike() -> None:
    record(RUN, 100)
    assert seconds_per_frame(RUN) == pytest.approx(0.1)
    assert seconds_per_frame(replace(RUN, pixels=RUN.pixels // 4)) == pytest.approx(0.025)
    assert seconds_per_frame(replace(RUN, model="dis")) is None
    for seconds in (0.2, 0.2, 0.2):
        record(replace(RUN, interpolated=0.875, seconds=seconds), 100)
    assert seconds_per_frame(replace(RUN, interpolated=0.875)) == pytest.approx(0.2)


def test_motion_blur_is_estimated_from_its_own_runs() -> None:
    record(RUN, 100)
    blurred = replace(RUN, blurred=True, interpolated=1.0)
    assert seconds_per_frame(blurred) == pytest.approx(8 * 0.1 / 0.5)
    record(replace(blurred, seconds=0.7), 100)
    assert seconds_per_frame(blurred) == pytest.approx(0.7)
    assert seconds_per_frame(RUN) == pytest.approx(0.1)


def test_a_run_with_motion_blur_is_recorded(tmp_path: Path) -> None:
    """Also at a lower rate, where every output frame is sampled though there are fewer of them."""
    source = make(tmp_path / "in.mp4", Clip(rate=Fraction(60), frames=90))
    midframe.interpolate(source, tmp_path / "out.mp4", model="blend", fps=24, shutter=180)
    (run,) = recorded()
    assert run.blurred and run.interpolated == 1
    estimated = pipeline.plan(source, tmp_path / "other.mp4", model="blend", fps=24, shutter=180).seconds
    assert estimated == pytest.approx(run.seconds * 36)
    assert pipeline.plan(source, tmp_path / "other.mp4", model="blend").seconds is None


def test_short_runs_and_damaged_files_cost_only_the_estimate() -> None:
    record(RUN, 3)
    assert recorded() == []
    speed_file().parent.mkdir(parents=True)
    speed_file().write_text("{no json")
    assert recorded() == [] and seconds_per_frame(RUN) is None
    record(RUN, 100)
    assert recorded() == [RUN]


def test_a_plan_is_estimated_from_the_runs_before_it(tmp_path: Path) -> None:
    source = make(tmp_path / "in.mp4", Clip(frames=60))
    target = tmp_path / "out.mp4"
    assert pipeline.plan(source, target, model="blend").seconds is None
    result = midframe.interpolate(source, target, model="blend")
    (run,) = recorded()
    assert run.model == "blend" and run.interpolated == pytest.approx(0.5)
    estimated = pipeline.plan(source, tmp_path / "other.mp4", model="blend").seconds
    assert estimated is not None and estimated == pytest.approx(run.seconds * result.frames_out)
