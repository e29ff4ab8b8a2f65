"""Our own sets: what their masks mean, that they are the same everywhere, that worse models show as worse in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from midframe import metrics, ops
from midframe.errors import InputError
from midframe.evaluation import suites
from midframe.evaluation.datasets import DataSet
from midframe.evaluation.evaluate import evaluate
from midframe.evaluation.suites import KINDS, RATIOS, Sample, open_suite, rendered, stress, wrong_period
from midframe.scenes import Textures, held_out


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """A quarter of the pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "SIZE", (128, 192))
        yield


@pytest.fixture(scope="module")
def textures() -> Textures:
    return Textures()


@pytest.fixture(scope="module")
def ordeal(small: None, textures: Textures) -> list[Sample]:
    """One or two samples of every kind of the stress suite."""
    kept = {kind: 1 if count < 20 else 6 for kind, (_, count) in KINDS.items()}
    before = dict(KINDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suites, "KINDS", {kind: (before[kind][0], kept[kind]) for kind in before})
        return list(stress(textures))


class Warping:
    """A plain interpolator: DIS flow, times a factor that is 1 for a healthy one; or a blend for factor 0."""

    def __init__(self, name: str, factor: float):
        self.name, self.factor = name, factor
        self.dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def flow(self, a: Tensor, b: Tensor) -> Tensor | None:
        gray = [cv2.cvtColor(x.permute(1, 2, 0).mul(255).byte().numpy(), cv2.COLOR_RGB2GRAY) for x in (a, b)]
        return torch.from_numpy(self.dis.calc(*gray, None)).permute(2, 0, 1) * self.factor

    def between(
        self, a: Tensor, b: Tensor, times: Sequence[Fraction], before: Tensor | None, after: Tensor | None
    ) -> Tensor:
        forth, back = self.flow(a, b), self.flow(b, a)
        assert forth is not None and back is not None
        out = []
        for t in map(float, times):
            left = ops.warp(a[None], t * back[None])
            right = ops.warp(b[None], (1 - t) * forth[None])
            out.append((1 - t) * left[0] + t * right[0])
        return torch.stack(out)


def compared(samples: Sequence[Sample]) -> dict[str, dict[str, dict[str, object]]]:
    data = DataSet("set", "", len(samples), lambda: (sample.case() for sample in samples))
    rows = [Warping("healthy", 1.0), Warping("halved", 0.5), Warping("blend", 0.0)]
    report = evaluate(rows, [data], exhibits=0)  # type: ignore[arg-type]
    return {result.method: dict(result.summary) for result in report.results}


def test_the_rendered_suite_notices_a_crippled_model(textures: Textures) -> None:
    """Halved flow and no flow at all: worse in the mean, where seen in both, and in the flow."""
    found = compared(list(islice(rendered(textures), 12)))
    for worse in ("halved", "blend"):
        assert found[worse]["psnr"] < found["healthy"]["psnr"] - 0.5
        assert found[worse]["regions"]["seen in two"] < found["healthy"]["regions"]["seen in two"] - 1
        assert found[worse]["flow"]["all"] > found["healthy"]["flow"]["all"] + 1
    assert found["healthy"]["regions"]["seen in one"] < found["healthy"]["regions"]["seen in two"]


def test_the_stress_suite_notices_a_crippled_model(ordeal: list[Sample]) -> None:
    found = compared(ordeal)
    assert found["halved"]["psnr"] < found["healthy"]["psnr"]
    assert found["halved"]["flow"]["all"] > found["healthy"]["flow"]["all"]
    for kind in ("brightness ramp", "steady pan", "repeated 0.25"):
        assert found["halved"]["kinds"][kind] < found["healthy"]["kinds"][kind] - 0.5, kind
    assert found["halved"]["steps"]["deviation_percent"] > found["healthy"]["steps"]["deviation_percent"]
    # and what warping breaks: a logo that is dragged along by the pan is worse than a blend's
    assert found["healthy"]["regions"]["static logo"] < found["blend"]["regions"]["static logo"]


def test_every_kind_is_what_it_says(ordeal: list[Sample]) -> None:
    kinds: dict[str, list[Sample]] = {}
    for sample in ordeal:
        kinds.setdefault(sample.kind, []).append(sample)
    assert {k for k in kinds if not k.startswith("repeated")} == set(KINDS) - {"repeated"}
    assert {k for k in kinds if k.startswith("repeated")} == {f"repeated {ratio:.2f}" for ratio in RATIOS}
    for name in ("static logo", "subtitle"):
        for sample in kinds[name]:
            drawn, mask = sample.renderings[0], sample.regions[0][name]
            assert mask.sum() > 5 and mask.mean() < 0.2
            assert not drawn.flow_ta[mask].any() and not drawn.hidden_tb[mask].any()
            apart = np.abs(drawn.a[mask].astype(int) - drawn.b[mask])
            assert apart.max() <= 4  # holding would be right but for what shines through an opacity of 250 in 255
            assert np.abs(drawn.flow_ab[~mask]).max() > 2
    for sample in kinds["ticker"]:
        assert np.abs(sample.renderings[0].flow_ta[sample.regions[0]["ticker"]]).mean() > 0.1
    for ratio in RATIOS:
        drawn = kinds[f"repeated {ratio:.2f}"][0].renderings[0]
        assert np.abs(drawn.flow_ab[drawn.repeated & ~drawn.hidden_ab][:, 0]).mean() == pytest.approx(
            ratio * drawn.period, rel=0.01
        )
    for sample in kinds["thin lines"]:
        assert 0.001 < sample.regions[0]["thin lines"].mean() < 0.6
    assert max(np.abs(s.renderings[0].flow_ab[..., 0]).max() for s in kinds["large motion"]) > 0.09 * suites.SIZE[1]
    for sample in kinds["cut"]:
        assert np.array_equal(sample.renderings[0].target, sample.renderings[0].a)
    for sample in kinds["flash"]:
        drawn = sample.renderings[0]
        assert drawn.b.mean() > 1.2 * drawn.a.mean() and abs(drawn.target.mean() - drawn.a.mean()) < 8
    for sample in kinds["duplicate"]:
        drawn = sample.renderings[0]
        assert np.array_equal(drawn.a, drawn.b) and np.array_equal(drawn.a, drawn.target)
        assert drawn.after is not None and not np.array_equal(drawn.after, drawn.b)
    for sample in kinds["brightness ramp"]:
        levels = [
            sample.renderings[0].a.mean(),
            *(d.target.mean() for d in sample.renderings),
            sample.renderings[0].b.mean(),
        ]
        assert levels == sorted(levels) or levels == sorted(levels, reverse=True)
        assert abs(np.log(levels[-1] / levels[0])) > 0.1
    for sample in kinds["steady pan"]:
        flow = sample.renderings[0].flow_ab
        assert sample.pan and np.ptp(flow, axis=(0, 1)).max() < 1e-3 and len(sample.times) == 3


def test_regions_partition_the_frame(textures: Textures) -> None:
    """Each pixel of the truth is seen in two, one or none; where seen in two, warping by the true flow finds it."""
    better = 0
    for sample in islice(rendered(textures), 6):
        drawn = sample.renderings[0]
        parts = [sample.regions[0][name].astype(int) for name in ("seen in two", "seen in one", "seen in none")]
        assert np.array_equal(sum(parts), np.ones(suites.SIZE, int))
        case = sample.case()
        flow = torch.from_numpy(drawn.flow_tb).permute(2, 0, 1)[None]
        made, region = ops.warp(case.b[None], flow)[0], case.targets[0].regions["seen in two"]
        better += int(metrics.psnr(made, case.targets[0].truth, region) >= metrics.psnr(case.b, case.targets[0].truth))
        assert case.flow is not None and case.flow.seen is not None
        assert case.before is not None and case.after is not None and 0 < case.targets[0].t < 1
    assert better >= 5


def test_wrong_period_is_reported(ordeal: list[Sample]) -> None:
    sample = next(s for s in ordeal if s.kind == "repeated 1.00")
    drawn = sample.renderings[0]
    true = torch.from_numpy(drawn.flow_ab).permute(2, 0, 1)
    assert not wrong_period(sample, true)
    assert not wrong_period(sample, true + 0.3 * drawn.period * torch.tensor([1.0, 0.0]).view(2, 1, 1))
    assert wrong_period(sample, torch.zeros_like(true))
    with pytest.raises(InputError, match="no repeated texture"):
        wrong_period(next(s for s in ordeal if s.kind == "cut"), true)


def test_the_motion_suite_moves_far_in_both_kinds() -> None:
    """Figures and camera in turn; half of the scenes move somewhere by more than 40 px at 720 rows."""
    found = list(open_suite("motion", limit=12).cases())
    assert [case.kind for case in found] == ["articulated figures", "moving camera"] * 6
    assert len({case.name for case in found}) == 12
    fast = 0
    for case in found:
        assert case.flow is not None and case.flow.seen is not None
        assert case.targets[0].t == Fraction(1, 2)
        fast += bool((case.flow.flow.norm(dim=0) * 720 / case.a.shape[-2]).max() > 40)
    assert fast >= 6
    again = next(iter(open_suite("motion", limit=1).cases()))
    assert torch.equal(again.targets[0].truth, found[0].targets[0].truth)
    assert not torch.equal(again.a, next(iter(open_suite("rendered", limit=1).cases())).a)


def test_suites_are_the_same_every_time_and_cut_short_evenly() -> None:
    one, two = open_suite("stress", limit=5), open_suite("stress", limit=5)
    first, second = list(one.cases()), list(two.cases())
    assert [case.name for case in first] == [case.name for case in second] and len(first) == one.count == 5
    assert len({case.kind for case in first}) >= 4
    assert all(torch.equal(x.a, y.a) and torch.equal(x.b, y.b) for x, y in zip(first, second, strict=True))
    assert "procedural" in one.note and "5 of" in one.note
    assert open_suite("rendered").count == 200
    with pytest.raises(InputError, match="there are rendered, motion, stress"):
        open_suite("moving")


def test_photographs_of_a_suite_are_those_held_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for k in range(30):
        cv2.imwrite(str(tmp_path / f"p{k}.png"), rng.integers(0, 255, (40, 40, 3), np.uint8))
    kept = sum(held_out(path) for path in tmp_path.iterdir())
    assert 0 < kept < 15
    assert f"{kept} held-out photographs" in open_suite("rendered", [tmp_path], limit=1).note
    with pytest.raises(InputError, match="is no folder"):
        open_suite("stress", [tmp_path / "absent"])
