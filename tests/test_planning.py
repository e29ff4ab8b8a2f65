"""Plans without torch say what plans with the network say."""

from pathlib import Path

import pytest

from clips import Clip, make
from commands import Call
from midframe import pipeline
from midframe.errors import InputError
from midframe.models import BUILT_IN
from midframe.options import Options
from midframe.planning import engine_facts, plan_without_torch


@pytest.mark.parametrize("model", BUILT_IN)
@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_a_plan_without_torch_is_that_of_the_engine(tmp_path: Path, model: str, precision: str) -> None:
    source = make(tmp_path / "in.mp4", Clip(frames=4))
    options = Options(model=model, device="cpu", precision=precision, shutter=None)
    plan = plan_without_torch(source, None, options)
    assert plan is not None
    assert str(plan) == str(pipeline.plan(source, options=options))
    assert plan.to_json() == pipeline.plan(source, options=options).to_json()


def test_what_only_a_network_can_check_is_left_to_it(tmp_path: Path) -> None:
    for options in (
        Options(model="rife"), Options(device="cuda"), Options(weights=str(tmp_path)), Options(flow_scale="0.5"),
        Options(runtime="openvino"), Options(scene="modelscope"), Options(mask="mask.png"),
        Options(compat="modelscope"),
    ):  # fmt: skip
        assert engine_facts(options) is None
    with pytest.raises(InputError, match="no model is called"):
        engine_facts(Options(model="midnet-n"))


def test_a_rate_of_images_is_not_for_videos(tmp_path: Path, call: Call) -> None:
    clip = make(tmp_path / "in.mp4", Clip(frames=4))
    done = call("interpolate", clip, "--in-fps", "16", "-o", tmp_path / "out.mp4")
    assert done.code == 2 and "--in-fps is for sequences of images" in done.err


@pytest.mark.parametrize(
    ("codec", "preset", "words"),
    [("libx264", "fastest", "ultrafast superfast"), ("libx265", "x", "placebo"), ("libsvtav1", "fast", "-1 (slowest"),
     ("libsvtav1", "14", "to 13 (fastest)"), ("libvpx-vp9", "9", "to 8 (fastest)")],
)  # fmt: skip
def test_a_wrong_preset_names_the_right_ones(tmp_path: Path, call: Call, codec: str, preset: str, words: str) -> None:
    clip = make(tmp_path / "in.mp4", Clip(frames=4))
    done = call("interpolate", clip, "-c", codec, "--preset", preset, "-o", tmp_path / "out.mkv", "--dry-run")
    assert done.code == 2 and words in done.err and len(done.err.splitlines()) == 1
    assert call("interpolate", clip, "-c", codec, "--preset", "5", "-o", tmp_path / "a.mkv", "--dry-run").code == 0


def test_coarser_chroma_is_said(tmp_path: Path, call: Call) -> None:
    clip = make(tmp_path / "in.mkv", Clip(frames=4, codec="ffv1", pixels="yuv444p10le"))
    planned = call("interpolate", clip, "-o", tmp_path / "out.webm", "--dry-run")
    assert "chroma becomes coarser, 4:4:4 to 4:2:0" in planned.out + planned.err
    kept = call("interpolate", clip, "-o", tmp_path / "out.mp4", "--dry-run")
    assert "becomes coarser" not in kept.out + kept.err
