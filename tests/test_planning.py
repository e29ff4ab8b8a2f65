"""Plans without torch say what plans with the network say."""

from pathlib import Path

import pytest

from clips import Clip, make
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
