"""Scoring, summing up, the baselines; and that a worse model shows as worse everywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from evaluation_fakes import HEIGHT, WIDTH, Mover, case, moving_set, scene
from midframe import metrics
from midframe.engine import Engine
from midframe.errors import InputError, MediaError
from midframe.evaluation import evaluate as scoring
from midframe.evaluation import report as reports
from midframe.evaluation.cvvdp import Cvvdp
from midframe.evaluation.datasets import Case, DataSet, Target
from midframe.evaluation.evaluate import Report, Row, evaluate, region_psnr
from midframe.evaluation.methods import Frames, Hold, Method, Minterpolate, ModelMethod, make_method
from midframe.evaluation.suites import open_suite
from midframe.models.blend import Blend
from model_fakes import RgbBlend

HALF = Fraction(1, 2)


@pytest.fixture(scope="module")
def report() -> Report:
    good, crippled = Mover(1.0, "good"), Mover(0.5, "crippled")
    sets = [moving_set(), moving_set(2, "pan", logo=False)]
    return evaluate([Hold(), ModelMethod(Engine(Blend())), crippled, good], sets, focus="good", exhibits=2)


def summary(report: Report, name: str, set_name: str = "moving") -> dict[str, object]:
    result = report.result(set_name, name)
    assert result is not None
    assert not result.failure
    return dict(result.summary)


def test_worse_shows_as_worse_in_every_measure(report: Report) -> None:
    good, bad = summary(report, "good"), summary(report, "crippled")
    for key in ("psnr", "ssim", "worst", "psnr_div", "psnr_modelscope", "ssim_modelscope"):
        assert good[key] > bad[key], key  # type: ignore[operator]
    assert good["ie"] < bad["ie"]  # type: ignore[operator]
    assert good["regions"]["pan"] > bad["regions"]["pan"] + 3  # type: ignore[index]
    assert good["flow"]["all"] < bad["flow"]["all"]  # type: ignore[index]
    assert good["flow"]["masked"] == pytest.approx(0, abs=1e-5)  # type: ignore[index]
    for kind in ("slow", "fast"):
        assert good["kinds"][kind] > bad["kinds"][kind]  # type: ignore[index]


def test_methods_are_in_order(report: Report) -> None:
    psnr = [summary(report, name)["psnr"] for name in ("hold", "blend", "crippled", "good")]
    assert psnr[0] < min(psnr[1:])  # type: ignore[type-var,operator]
    assert psnr[3] > max(psnr[:3])  # type: ignore[type-var,operator]


def test_rows_are_the_measures_themselves(report: Report) -> None:
    result = report.result("moving", "blend")
    assert result is not None
    row = next(r for r in result.rows if r.case == "case1" and r.t == "1/3")
    asked = case(1, [Fraction(1, 3)])
    made = torch.lerp(asked.a, asked.b, 1 / 3)
    truth = asked.targets[0].truth
    assert row.psnr == pytest.approx(metrics.psnr(made, truth), abs=1e-4)
    assert row.ssim == pytest.approx(metrics.ssim(made, truth), abs=1e-5)
    assert row.ie == pytest.approx(metrics.interpolation_error(made, truth), abs=1e-3)
    assert row.lpips is None
    assert set(row.regions) == {"logo", "pan"}
    assert region_psnr([row.regions["pan"]]) == pytest.approx(
        metrics.psnr(made, truth, asked.targets[0].regions["pan"]), abs=1e-4
    )
    assert (row.group, row.kind, row.motion) == ("odd", "slow", 5.0)
    assert row.static is not None
    assert row.static["psnr"] == scoring.PSNR_CAP  # the logo stands still under a blend


def test_logo_and_steps(report: Report) -> None:
    assert summary(report, "hold")["regions"]["logo"] == scoring.PSNR_CAP  # type: ignore[index]
    assert summary(report, "hold")["steps"] is None  # only pans are stepped
    worst = {n: summary(report, n, "pan")["steps"]["worst_percent"] for n in report.methods}  # type: ignore[index]
    assert worst["hold"] > 80  # it steps once in three
    assert worst["good"] < 10
    assert worst["crippled"] > 3 * worst["good"]


def test_summary_counts_and_parts(report: Report) -> None:
    told = summary(report, "good")
    assert told["frames"] == 12
    assert list(told["instants"]) == ["1/3", "2/3"]  # type: ignore[call-overload]
    motion = told["motion"]
    assert isinstance(motion, list)
    assert [len(motion), motion[0]["low"], motion[-1]["high"]] == [2, 4.0, 9.0]


def test_methods_are_compared_with_the_focus_frame_by_frame() -> None:
    def clips() -> Iterator[Case]:
        for k in range(4):
            yield replace(case(k, (HALF,)), group=f"clip {k}")

    found = evaluate([Mover(0.5, "crippled"), Mover(1.0, "good")], [DataSet("s", "p", 4, clips)], focus="good")
    rows = {r.method: r.rows for r in found.results}
    paired = summary(found, "crippled", "s")["paired"]
    difference = paired["psnr_luma"]  # type: ignore[index]
    each = [bad.psnr_luma - good.psnr_luma for bad, good in zip(rows["crippled"], rows["good"], strict=True)]  # type: ignore[operator]
    assert difference["mean"] == pytest.approx(fmean(each))
    assert min(each) <= difference["low"] < difference["mean"] < difference["high"] <= max(each) < 0
    assert difference["clips"] == 4
    assert summary(found, "good", "s")["paired"] == {}
    assert "cvvdp" not in paired  # type: ignore[operator]
    assert "Difference from good" in reports.markdown(found)


def test_group_means_come_first() -> None:
    def lopsided() -> Iterator[Case]:
        yield replace(case(0), group="x")
        for k in (1, 2, 3):
            yield replace(case(k), group="y")

    flat = evaluate([Hold()], [DataSet("s", "p", 4, lopsided)])
    grouped = evaluate([Hold()], [DataSet("s", "p", 4, lopsided, grouped=True)])
    rows = flat.results[0].rows
    assert flat.results[0].summary["psnr"] == pytest.approx(fmean(r.psnr for r in rows))
    by_group = (rows[0].psnr + fmean(r.psnr for r in rows[1:])) / 2
    assert grouped.results[0].summary["psnr"] == pytest.approx(by_group)
    assert abs(by_group - fmean(r.psnr for r in rows)) > 0.1


def test_region_psnr_weighs_pixels() -> None:
    assert region_psnr([(1, 0.0), (3, 4.0)]) == pytest.approx(
        10 * torch.log10(torch.tensor(255.0**2 / 3)).item(), abs=1e-4
    )
    assert region_psnr([(5, 0.0)]) == scoring.PSNR_CAP


def test_identical_frames_do_not_make_means_infinite() -> None:
    def still() -> Iterator[Case]:
        yield Case("still", scene(0), scene(0), (Target(HALF, scene(0)),))

    told = evaluate([Hold()], [DataSet("still", "p", 1, still)]).results[0].summary
    assert (told["psnr"], told["worst"]) == (100.0, 100.0)


def test_worst_cases_are_kept_worst_first(report: Report) -> None:
    assert [e.set for e in report.exhibits] == ["moving", "moving", "pan", "pan"]
    good = report.result("moving", "good")
    assert good is not None
    worst_of_case = sorted(
        {r.case: r.psnr for r in sorted(good.rows, key=lambda r: -r.psnr)}.items(), key=lambda i: i[1]
    )
    assert [e.case for e in report.exhibits] == [*(name for name, _ in worst_of_case[:2]), "case1", "case0"]
    shown = report.exhibits[0]
    assert shown.truth.shape == (HEIGHT, WIDTH, 3)
    assert set(shown.interpolated) == {"hold", "blend", "crippled", "good"}
    assert set(shown.flow) == {"crippled", "good"}
    assert shown.psnr["good"] == pytest.approx(worst_of_case[0][1])
    assert shown.where == ""


def test_an_empty_region_says_nothing(report: Report) -> None:
    assert list(summary(report, "good", "pan")["regions"]) == ["pan"]  # type: ignore[call-overload]


def test_large_frames_are_shown_where_they_are_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "EXHIBIT_WIDTH", 16)
    monkeypatch.setattr(scoring, "EXHIBIT_HEIGHT", 12)

    def spotted() -> Iterator[Case]:
        truth = torch.zeros(3, HEIGHT, WIDTH)
        truth[:, 40:44, 50:56] = 1.0  # hold does not have it
        yield Case("spot", torch.zeros(3, HEIGHT, WIDTH), torch.zeros(3, HEIGHT, WIDTH), (Target(HALF, truth),))

    (shown,) = evaluate([Hold()], [DataSet("s", "p", 1, spotted)]).exhibits
    assert shown.truth.shape == (12, 16, 3)
    assert int((shown.truth == 255).sum()) == 4 * 6 * 3
    assert shown.where.startswith("16x12 of 64x48, from column")


class Failing:
    name = "failing"

    def between(
        self, a: Tensor, b: Tensor, times: Sequence[Fraction], before: Tensor | None, after: Tensor | None
    ) -> Tensor:
        raise MediaError("cannot do this one")

    def flow(self, a: Tensor, b: Tensor) -> Tensor | None:
        return None


def test_a_method_that_fails_is_left_out_with_its_reason() -> None:
    told = evaluate([Hold(), Failing()], [moving_set(2)], focus="hold")
    result = told.result("moving", "failing")
    assert result is not None
    assert (result.failure, result.rows, result.summary) == ("cannot do this one", (), {})
    assert told.results[0].summary["frames"] == 4


def test_methods_are_checked() -> None:
    with pytest.raises(InputError, match="at least one"):
        evaluate([], [moving_set(1)])
    with pytest.raises(InputError, match="each name once"):
        evaluate([Hold(), Hold()], [moving_set(1)])
    with pytest.raises(InputError, match="must be one of"):
        evaluate([Hold()], [moving_set(1)], focus="other")
    with pytest.raises(InputError, match="no model"):
        make_method("nosuch")


def test_json_round_trip(report: Report) -> None:
    text = json.dumps(report.as_json(), allow_nan=False)
    again = Report.from_json(json.loads(text))
    assert json.dumps(again.as_json(), allow_nan=False) == text
    older = text.replace('"methods": [', '"contestants": [').replace('"method": ', '"contestant": ')
    older = older.replace("midframe evaluation 2", "midframe evaluation 1").replace('"environment": ', '"made": ')
    older = re.sub(r'"frames": (\d+), "psnr"', r'"pictures": \1, "psnr"', older)
    assert '"pictures"' in older
    assert older != text and Report.from_json(json.loads(older)) == again
    assert isinstance(again.results[0].rows[0], Row)
    with pytest.raises(InputError, match="not an evaluation report"):
        Report.from_json({"format": "something else"})


def test_progress_is_reported_before_each_case() -> None:
    said: list[tuple[str, str, int, int | None]] = []
    evaluate([Hold()], [moving_set(2)], on_progress=lambda *what: said.append(what))
    assert said == [("moving", "case0", 0, 2), ("moving", "case1", 1, 2)]


def test_lpips_column() -> None:
    perceptual = metrics.Lpips(lambda x, y: (x - y).abs().mean())
    row = evaluate([Hold()], [moving_set(1)], lpips=perceptual).results[0].rows[0]
    truth = case(0, [Fraction(1, 3)]).targets[0].truth
    assert row.lpips_modelscope == pytest.approx(float((scene(0) - truth).abs().mean() * 2), rel=1e-4)
    assert row.lpips == pytest.approx(row.lpips_modelscope, rel=0.02)


def with_fake_cvvdp(folder: Path, body: str) -> Path:
    """A Python whose package `pycvvdp` is `body`."""
    (folder / "pycvvdp.py").write_text(body)
    start = "import runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={folder} exec {sys.executable} -c "{start}" "$@"\n')
    program.chmod(0o755)
    return program


FAKE_CVVDP = """
import numpy, torch
class cvvdp:
    def __init__(self, display_name, heatmap, device):
        assert display_name == "standard_fhd"
        print("a word that is no score")
    def predict(self, test, reference, dim_order):
        assert dim_order == "HWC" and test.shape == reference.shape and test.dtype == numpy.uint8
        return torch.tensor(10 - numpy.abs(test.astype(float) - reference).mean()), None
"""


def test_cvvdp_scores_the_middle_target_in_another_python(tmp_path: Path) -> None:
    scorer = Cvvdp(with_fake_cvvdp(tmp_path, FAKE_CVVDP))
    try:
        found = evaluate([Hold()], [moving_set(4)], cvvdp=scorer)
    finally:
        scorer.close()
    result = found.results[0]
    for row in result.rows:
        if row.t == "2/3":  # the middle one of two
            assert row.cvvdp == pytest.approx(10 - row.ie, abs=1e-4)
        else:
            assert row.cvvdp is None
    scores = [row.cvvdp for row in result.rows if row.cvvdp is not None]
    assert result.summary["cvvdp"] == pytest.approx(fmean(scores))
    assert result.summary["cvvdp_worst"] == pytest.approx(min(scores))
    assert result.summary["cvvdp_frames"] == 4
    assert result.summary["cvvdp_interval"] is None  # two clips are too few


def test_a_python_without_cvvdp_is_refused_before_the_work(tmp_path: Path) -> None:
    from midframe.cli import cli

    program = with_fake_cvvdp(tmp_path, "raise ImportError('operator torchvision::nms does not exist')")
    refused = CliRunner().invoke(cli, ["eval", "blend", "--suite", "stress", "--cvvdp", str(program)])
    assert isinstance(refused.exception, InputError)
    assert "torchvision::nms does not exist" in str(refused.exception)
    assert "another Python with --cvvdp" in str(refused.exception)
    with pytest.raises(InputError, match="cannot be started"):
        Cvvdp(tmp_path / "none")


def test_cvvdp_that_dies_says_why(tmp_path: Path) -> None:
    dies = FAKE_CVVDP.replace("return ", "raise MemoryError('too large')\n        return ")
    scorer = Cvvdp(with_fake_cvvdp(tmp_path, dies))
    with pytest.raises(MediaError, match="too large"):
        scorer.score(scene(0), scene(1))
    scorer.close()


@pytest.mark.skipif("MIDFRAME_CVVDP" not in os.environ, reason="needs a Python with cvvdp in MIDFRAME_CVVDP")
def test_the_real_cvvdp_prefers_the_truth() -> None:
    scorer = Cvvdp(Path(os.environ["MIDFRAME_CVVDP"]))
    assert scorer.score(scene(2), scene(2)) == 10
    assert scorer.score((scene(0) + scene(4)) / 2, scene(2)) < 9
    scorer.close()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg on the PATH")
def test_minterpolate_is_at_the_right_instants() -> None:
    a, b, before, after = (scene(shift, logo=False) for shift in (0, 6, -6, 12))
    made = Minterpolate().between(a, b, [Fraction(1, 6), HALF, Fraction(5, 6)], before, after)
    assert made.shape == (3, 3, HEIGHT, WIDTH)
    for image, shift in zip(made, (1, 3, 5), strict=True):
        scores = {other: metrics.psnr(image, scene(other, logo=False)) for other in range(7)}
        assert max(scores, key=scores.__getitem__) == shift
    again = Minterpolate().between(a, b, [HALF], None, None)[0]
    middle = scene(3, logo=False)
    assert metrics.psnr(again, middle) > metrics.psnr((a + b) / 2, middle) + 3
    with pytest.raises(MediaError, match="no common step"):
        Minterpolate().between(a, b, [Fraction(1, 97)], None, None)


def test_minterpolate_without_ffmpeg_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MediaError, match="not on the PATH"):
        make_method("minterpolate")


def test_flow_of_a_model_comes_back_in_the_frames_size() -> None:
    class Shifted(RgbBlend):
        stride = 32

        def match(self, a: Tensor, b: Tensor) -> Tensor:
            return torch.ones(1, 2, a.shape[-2] // 2, a.shape[-1] // 4)  # a coarser grid, in pixels of its own

        def flow(self, motion: Tensor) -> Tensor | None:
            return motion

    model: Method = ModelMethod(Engine(Shifted()), "shifted")
    flow = model.flow(scene(0), scene(1))
    assert flow is not None
    assert flow.shape == (2, HEIGHT, WIDTH)
    assert (flow[0] == 4).all()
    assert (flow[1] == 2).all()
    assert ModelMethod(Engine(Blend())).flow(scene(0), scene(1)) is None


def test_command_line(tmp_path: Path) -> None:
    import cv2

    from midframe.cli import cli

    for k, shift in enumerate((0, 2, 4)):
        pixels = (scene(shift).permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype("uint8")
        (tmp_path / "set/one").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / f"set/one/im{k + 1}.png"), pixels)
    command = ["eval", "blend", "--alone", "--data", f"triplets={tmp_path / 'set'}", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    data = json.loads((tmp_path / "out/report.json").read_text())
    assert data["methods"] == ["blend"]
    assert f"{data['results'][0]['summary']['psnr']:.2f}" in done.stdout
    assert (tmp_path / "out/report.html").stat().st_size > 10_000
    for wrong, message in (
        (["eval"], "no model was named"),
        (["eval", "blend"], "nothing to measure on"),
        (["eval", "blend", "--suite", "rendred"], "there are rendered"),
        (["eval", "blend", "--data", "triplets=x", "--photos", "y"], "name one with --suite"),
        (["eval", "blend", "--data", "triplets"], "not of the form SET=DIR"),
        (["eval", "blend", "--data", "triplets=x", "--weights", "dis=y"], "no folder x"),
        (["eval", "blend", "--data", f"triplets={tmp_path}", "--weights", "dis=y"], "but MODELS does not"),
    ):
        refused = CliRunner().invoke(cli, wrong)
        assert refused.exception is not None
        assert message in str(refused.exception)
    listed = CliRunner().invoke(cli, ["eval", "--sets"])
    assert "middlebury-other" in listed.stdout


class Crippled(ModelMethod):
    """dis with its flow halved: what every suite must notice."""

    def __init__(self) -> None:
        from midframe.models.dis import Dis

        class Half(Dis):
            def match(self, a: Any, b: Any) -> Any:
                return [replace(m, forward=m.forward / 2, backward=m.backward / 2) for m in super().match(a, b)]

        super().__init__(Engine(Half()), "crippled")


@pytest.mark.parametrize("suite", ["rendered", "stress"])
def test_every_suite_notices_a_halved_flow(suite: str) -> None:
    limit = 5 if suite == "rendered" else 9
    told = evaluate([make_method("dis", device="cpu"), Crippled()], [open_suite(suite, limit=limit)], exhibits=0)
    good, bad = summary(told, "dis", suite), summary(told, "crippled", suite)
    assert good["psnr"] > bad["psnr"] + 0.5  # type: ignore[operator]
    assert good["regions"]["seen in two"] > bad["regions"]["seen in two"] + 0.5  # type: ignore[index]
    assert good["flow"]["masked"] < 0.8 * bad["flow"]["masked"]  # type: ignore[index]
    assert good["flow"]["all"] < bad["flow"]["zero"]  # type: ignore[index]


def test_frames_of_another_program_are_judged(tmp_path: Path) -> None:
    """A folder with the truth itself has nothing wrong; one that lacks a frame or has another size says which."""
    a, b, truth = torch.rand(3, 3, 32, 40, generator=torch.Generator().manual_seed(1)).mul(255).round().div(255)
    cases = [Case("one", a, b, (Target(HALF, truth),))]
    data = DataSet("tiny", "", 1, lambda: iter(cases))
    image = (truth.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    (tmp_path / "theirs").mkdir()
    cv2.imwrite(str(tmp_path / "theirs" / "one.png"), image[..., ::-1])
    told = evaluate([Frames(tmp_path / "theirs")], [data])
    assert told.results[0].summary["psnr"] > 90 and not told.results[0].failure
    cv2.imwrite(str(tmp_path / "theirs" / "one.png"), image[:-2, :, ::-1])
    assert "one.png' is" in evaluate([Frames(tmp_path / "theirs")], [data]).results[0].failure
    (tmp_path / "theirs" / "one.png").unlink()
    assert "has no 'one.png'" in evaluate([Frames(tmp_path / "theirs")], [data]).results[0].failure
    with pytest.raises(InputError, match="not a folder"):
        Frames(tmp_path / "nothing")


def fake_vspipe(folder: Path, body: str) -> Path:
    """An environment whose vspipe is a shell script; $1 is the script it is given."""
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "vspipe"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return folder


def test_a_peer_gets_and_gives_yuv_frames(tmp_path: Path) -> None:
    """A vspipe that gives back every frame it is given twice, cut out of the y4m file."""
    body = """source=$(sed -n "s/.*VideoSource('\\([^']*\\)'.*/\\1/p" "$1")
for n in 0 1; do for twice in 1 2; do
  tail -c $((2 * 6 + 2 * 1296)) "$source" | tail -c +$((n * (6 + 1296) + 7)) | head -c 1296  # 36x24 in 4:2:0
done; done"""
    peer = make_method("mvtools-fast", peers=fake_vspipe(tmp_path / "env", body))
    a, b = torch.full((3, 23, 36), 0.25), torch.full((3, 23, 36), 0.75)
    made = peer.between(a, b, [HALF], None, None)
    assert made.shape == (1, 3, 23, 36) and torch.allclose(made[0], a, atol=2 / 255)
    broken = make_method("svpflow", peers=fake_vspipe(tmp_path / "broken", "echo no such filter >&2; exit 1"))
    with pytest.raises(MediaError, match="svpflow failed: no such filter"):
        broken.between(a, b, [HALF], None, None)
    with pytest.raises(InputError, match="benchmarks/peers/setup"):
        make_method("mvtools-high", peers=tmp_path)
