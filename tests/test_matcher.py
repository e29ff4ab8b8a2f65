"""The matcher, intermediate flow, their scenes, labels and training."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from midframe.cli import cli
from midframe.errors import InputError
from midframe.models.flow.intermediate import (
    CANDIDATES,
    CandidateFlow,
    IntermediateFlow,
    Refiner,
    double,
    matched_candidate,
    splat_to,
    synthesise,
)
from midframe.models.flow.matcher import FlowAtLevel, LocalCorrelation, Matched, Matcher, upsample_convex
from midframe.ops import warp
from midframe.scenes import Mix, Textures, compose, render
from midframe.training import motion
from midframe.training.clip_flows import compose_flows, consistent_pixels, label_crop, longest_shot
from midframe.training.matcher import EVALUATION_MIX, flow_scores, load_matcher, matcher_flow, objective
from midframe.training.motion import MotionRecipe, train_motion
from midframe.training.refiner import CandidateBatches, CandidateSource
from midframe.training.shards import Arrays, Shards, Share
from midframe.weights import save_half


def test_local_correlation_equals_unfolded_products() -> None:
    a, b = (torch.randn(2, 5, 7, 9, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found = LocalCorrelation.apply(a, b, 2)
    windows = F.unfold(F.pad(b, (2,) * 4), 5).view(2, 5, 25, 7, 9)
    torch.testing.assert_close(found, (a[:, :, None] * windows).sum(1))
    assert torch.autograd.gradcheck(lambda x, y: LocalCorrelation.apply(x, y, 1), (a, b))


def test_convex_upsampling_doubles_a_constant_flow() -> None:
    flow = torch.tensor([3.0, -1.5]).view(1, 2, 1, 1).expand(1, 2, 4, 6)
    doubled = upsample_convex(flow, torch.randn(1, 36, 4, 6))
    torch.testing.assert_close(doubled, 2 * F.interpolate(flow, scale_factor=2.0))


def test_matcher_has_at_most_half_a_million_parameters_and_the_refiner_half_of_that() -> None:
    count = [sum(p.numel() for p in net.parameters()) for net in (Matcher(), Refiner())]
    assert count[0] <= 550_000 and count[1] <= 275_000


def test_matcher_is_symmetric_in_the_order_of_its_frames() -> None:
    torch.manual_seed(0)
    net, a, b = Matcher().eval(), torch.rand(1, 3, 64, 96), torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        one, two = net(a, b), net(b, a)
    torch.testing.assert_close(one.flow[:1], two.flow[1:], atol=1e-4, rtol=1e-4)
    assert one.flow.shape == (2, 2, 32, 48) and one.occlusion.shape == (2, 1, 16, 24)


def _known(flow: torch.Tensor) -> Matched:
    """A match that knows the flow (2B, 2, h, w) at half size."""
    occlusion = torch.full((len(flow), 1, flow.shape[2] // 2, flow.shape[3] // 2), -8.0)
    coarse = F.avg_pool2d(flow, 2) / 2
    return Matched(torch.zeros(len(flow), 1, 1), (FlowAtLevel(coarse, occlusion, 4), FlowAtLevel(flow, None, 2)))


def test_a_known_translation_is_synthesised_exactly_before_any_training() -> None:
    torch.manual_seed(0)
    image = F.interpolate(torch.rand(1, 3, 24, 32), scale_factor=4.0, mode="bicubic", align_corners=False).clamp(0, 1)
    a, b, truth = image, image.roll(8, 3), image.roll(2, 3)
    flow = torch.zeros(2, 2, 48, 64)
    flow[0, 0], flow[1, 0] = 4.0, -4.0  # pixels of half size
    t = torch.full((1, 1, 1, 1), 0.25)
    refiner, net = Refiner(), Matcher()
    for head in (refiner.coarse_head, refiner.fine_head):
        torch.nn.init.zeros_(head.weight)
    with torch.inference_mode():
        stems = net.stem_features(torch.cat([a, b]))
        known = matched_candidate(_known(flow))
        motion = refiner((a, b), (stems[:1], stems[1:]), [splat_to(known, t)] * len(CANDIDATES), t)
        out = synthesise(a, b, motion, t)
    inner = (slice(None), slice(None), slice(8, -8), slice(16, -16))
    assert (out - truth)[inner].abs().max() < 0.02
    assert splat_to(known, t).coverage.min() >= 0


@pytest.mark.parametrize(
    "mix", [Mix(articulated=1.0, overlay=0.0), Mix(perspective=1.0, overlay=0.0)], ids=["figures", "camera"]
)
def test_flow_of_new_scenes_leads_from_a_to_b(mix: Mix) -> None:
    plain = replace(
        mix,
        static_scene=0.0, blur=0.0, noise=0.0, compressed=0.0, halved_chroma=0.0, drift=0.0, shadow=0.0, duplicate=0.0,
    )  # fmt: skip
    errors = []
    for seed in range(4):
        drawn = render(compose(seed, Textures(), (128, 160), "evaluation", plain), False)
        assert mix.articulated == 0 or "articulated" in drawn.tags
        a, b = (torch.from_numpy(x).permute(2, 0, 1)[None].float() for x in (drawn.a, drawn.b))
        flow = torch.from_numpy(drawn.flow_ab).permute(2, 0, 1)[None]
        off = (warp(b, flow) - a).abs().mean(1)[0].numpy()
        errors.append(float(np.median(off[~drawn.hidden_ab])))
        # exact both ways: forward and backward flow cancel where a pixel is seen in both
        back = warp(torch.from_numpy(drawn.flow_ba).permute(2, 0, 1)[None], flow)
        apart = (flow + back).norm(dim=1)[0].numpy()
        assert np.median(apart[~drawn.hidden_ab]) < 0.1
    assert np.median(errors) < 4.0


def test_scenes_without_the_new_kinds_are_those_of_before() -> None:
    """The evaluation suites rest on seeds: new kinds must not shift their random numbers."""
    scene = compose(5, Textures(), (96, 96), "evaluation", EVALUATION_MIX)
    assert scene.tags == compose(5, Textures(), (96, 96), "evaluation", EVALUATION_MIX).tags
    assert not {"articulated", "perspective"} & set(scene.tags)


def _pan(frames: int, step: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    wide = cv2.resize(rng.integers(0, 255, (30, 120, 3), dtype=np.uint8), (960, 240), interpolation=cv2.INTER_CUBIC)
    return [np.ascontiguousarray(wide[:, k * step : k * step + 320]) for k in range(frames)]


def test_composed_flow_is_the_sum_of_its_steps_and_unknown_where_it_leaves_the_frame() -> None:
    flow = np.zeros((240, 320, 2), np.float32)
    flow[..., 0] = -6.0
    total = compose_flows([flow] * 4)
    assert np.isnan(total[:, :23]).all() and np.allclose(total[:, 25:, 0], -24.0)
    frames = _pan(5, 6)
    known = consistent_pixels(frames[0], frames[4], total, compose_flows([-flow] * 4))
    assert known[20:-20, 60:-60].mean() > 0.95 and known[:, :20].mean() == 0


def test_a_wrong_chain_gives_no_labels() -> None:
    frames, wrong = _pan(5, 6), np.full((240, 320, 2), 5.0, np.float32)
    assert label_crop(frames, [wrong] * 4, [-wrong] * 4, (0, 4), np.random.default_rng(1), 224) is None


def test_runs_end_at_a_cut() -> None:
    bright = [np.full((240, 320, 3), 220, np.uint8)] * 2
    assert len(longest_shot([*_pan(4, 6), *bright])) == 4


def test_unknown_flow_has_no_say_in_the_loss() -> None:
    torch.manual_seed(0)
    net = Matcher()
    batch = {name: torch.rand(1, 3, 64, 64) for name in ("a", "b")}
    batch |= {name: torch.zeros(1, 2, 64, 64) for name in ("flow_ab", "flow_ba")}
    batch |= {name: torch.zeros(1, 1, 64, 64, dtype=torch.bool) for name in ("hidden_ab", "hidden_ba")}
    found = net(batch["a"], batch["b"])
    batch["flow_ab"][..., 32:] = float("nan")
    one, _ = objective(found, batch)
    changed = dict(batch, flow_ab=torch.where(batch["flow_ab"].isnan(), float("nan"), batch["flow_ab"]))
    two, notes = objective(found, changed)
    assert torch.isfinite(one) and one == two and torch.isfinite(notes["epe"])
    everything_unknown = {
        **batch,
        "flow_ab": batch["flow_ab"] * float("nan"),
        "flow_ba": batch["flow_ba"] * float("nan"),
    }
    assert objective(found, everything_unknown)[0] < 1e-3


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    def weights(folder: str, *stops: int) -> dict[str, torch.Tensor]:
        for stop in stops:
            train_motion(MotionRecipe(tmp_path / folder, samples=8, stop_after=stop, batch=2, size=64, workers=0))
        return torch.load(tmp_path / folder / "matcher.pt", weights_only=True)["net"]  # type: ignore[no-any-return]

    whole, parts = weights("whole", 8), weights("parts", 4, 8)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_refiner_begins_with_the_matcher_and_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(motion, "SAMPLES_PER_SHARD", 8)

    def run(folder: str, stage: str, *stops: int) -> None:
        for stop in stops:
            train_motion(
                MotionRecipe(tmp_path / folder, samples=8, stop_after=stop, batch=2, size=64, workers=0, stage=stage)
            )

    with pytest.raises(InputError, match="train the matcher first"):
        run("none", "refiner", 2)
    for folder, stops in (("whole", (4,)), ("parts", (2, 4))):
        run(folder, "matcher", 2)
        run(folder, "refiner", *stops)
    whole, parts = (torch.load(tmp_path / f / "refiner.pt", weights_only=True)["net"] for f in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    log = [json.loads(line) for line in (tmp_path / "whole").glob("refiner-log.jsonl") for line in line.open()]
    assert all(np.isfinite(line["psnr"]) for line in log)


class _Pan:
    """A source of panning frames; 8 px from a to b, t is 1/4."""

    def make(self, number: int, samples: int) -> Arrays:
        """Nothing needs storing."""
        return {"t": np.full(samples, 0.25, np.float32)}

    def sample(self, arrays: Mapping[str, np.ndarray], index: int, rng: np.random.Generator) -> Arrays:
        """Frames at 0, 1/4 and 1, and the flow at t."""
        smooth = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 255, (40, 200, 3), dtype=np.uint8), (0, 0), 1)
        wide = cv2.resize(smooth, (800, 160), interpolation=cv2.INTER_CUBIC)
        a, target, b = (np.ascontiguousarray(wide[:, 100 - x : 292 - x]) for x in (0, 2, 8))
        flow = np.zeros((160, 192, 2), np.float32)
        to_a, to_b = flow + np.float32([-2, 0]), flow + np.float32([6, 0])
        none = np.zeros((160, 192), np.uint8)
        return {"t": np.float32(0.25), "a": a, "target": target, "b": b, "flow_ta": to_a, "flow_tb": to_b,
                "hidden_ta": none, "hidden_tb": none}  # fmt: skip


def test_stored_candidates_lead_to_the_target_however_a_sample_is_cropped_and_turned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_half(tmp_path / "matcher.safetensors", Matcher().state_dict())
    source = CandidateSource(_Pan(), 160, tmp_path / "matcher.safetensors")
    shards = Shards(tmp_path / "shards", source, 4, 16.0, 1, 0, 0)
    batch = next(CandidateBatches([Share(shards, 1.0)], 12, 128))
    classical = CANDIDATES.index("classical")
    splatted = splat_to(CandidateFlow(batch["candidates"][classical], batch["importances"][classical]), batch["t"])
    to_a, to_b = double(splatted.flow).chunk(2, 1)
    out = synthesise(batch["a"], batch["b"], IntermediateFlow(to_a, to_b, torch.zeros_like(to_a[:, :1])), batch["t"])
    inner = (slice(None), slice(None), slice(24, -24), slice(24, -24))
    assert (out - batch["target"])[inner].abs().mean((1, 2, 3)).max() < 0.01
    middle = (slice(None), slice(None), slice(16, -16), slice(16, -16))
    assert (to_a - batch["flow_ta"])[middle].abs().max() < 0.5 and (to_b - batch["flow_tb"])[middle].abs().max() < 0.5
    assert set(batch["t"].flatten().tolist()) == {0.25, 0.75}


def test_crops_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="multiple of 16"):
        MotionRecipe(tmp_path, size=200)


def test_the_command_trains_stops_and_measures(tmp_path: Path) -> None:
    words = [
        "train",
        "motion",
        "--out",
        str(tmp_path),
        "--samples",
        "2",
        "--batch",
        "2",
        "--size",
        "64",
        "--workers",
        "0",
    ]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0 and (tmp_path / "matcher.safetensors").exists(), done.output
    assert matcher_flow(load_matcher(tmp_path / "matcher.safetensors"), *torch.rand(2, 3, 64, 64)).shape == (64, 64, 2)
    with pytest.raises(InputError, match="is missing"):
        load_matcher(tmp_path / "none.safetensors")


def test_scores_of_zero_flow_are_the_length_of_the_truth() -> None:
    scores = flow_scores(lambda a, b: np.zeros((*a.shape[1:], 2), np.float32), 2)
    assert scores.everything == scores.zero and scores.fast > 20
    untrained = flow_scores(lambda a, b: matcher_flow(Matcher().eval(), a, b), 1)
    assert np.isfinite(untrained.everything)
