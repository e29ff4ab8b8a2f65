"""Shards: what is drawn is right after every change, the same for the same seed and position, and bounded on disk."""

from __future__ import annotations

import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from midframe import ops
from midframe.errors import InputError, JobError
from midframe.scenes import Mix, Textures, compose, render, stack
from midframe.training.shards import (
    FLOW_NAMES,
    FRAMES,
    MASK_NAMES,
    Augmentation,
    Batches,
    SceneSource,
    Shards,
    Share,
    augment,
    collate,
    draw_augmentation,
    one_thread,
    pack,
    shard_path,
)

CLEAN = Mix(overlay=0, blur=0, drift=0, shadow=0, noise=0, compressed=0, halved_chroma=0, duplicate=0, static_scene=0)


@dataclass(frozen=True)
class Numbers:
    """A source whose frames tell where they come from: level = 10 shard + place."""

    size: int = 12
    broken: bool = False

    def make(self, number: int, samples: int) -> dict[str, NDArray[Any]]:
        if self.broken:
            raise ValueError("cannot be made")
        levels = 10 * number + np.arange(samples)
        frames = np.broadcast_to(levels[:, None, None, None, None], (samples, 3, self.size, self.size, 3))
        return {"frames": frames.astype(np.uint8)}

    def sample(self, arrays: Mapping[str, NDArray[Any]], index: int, rng: Generator) -> dict[str, NDArray[Any]]:
        a, target, b = arrays["frames"][index]
        return {"a": a, "target": target, "b": b, "t": np.float32(0.5)}


@pytest.fixture(scope="module")
def scene_sample() -> dict[str, NDArray[Any]]:
    """A drawn scene with motion, as a shard hands it out."""
    scene = render(compose(4, Textures(), (96, 128), mix=CLEAN))
    return SceneSource().sample(pack([stack([scene])]), 0, np.random.default_rng(0))


def test_a_shard_keeps_what_was_drawn() -> None:
    drawn = render(compose(4, Textures(), (64, 64)))
    sample = SceneSource().sample(pack([stack([drawn])]), 0, np.random.default_rng(0))
    for name in FRAMES:
        assert np.array_equal(sample[name], getattr(drawn, name))
    for name in FLOW_NAMES:
        assert np.abs(sample[name].astype(np.float32) - getattr(drawn, name)).max() < 0.07
    for name in MASK_NAMES:
        assert np.array_equal(sample[name].astype(bool), getattr(drawn, name)), name
    without = render(compose(4, Textures(), (64, 64)), neighbours=False)
    small = SceneSource().sample(pack([stack([without])]), 0, np.random.default_rng(0))
    assert "before" not in small and "flow_a_before" not in small and np.array_equal(small["a"], drawn.a)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("backwards", [False, True])
def test_changes_keep_flows_true(
    scene_sample: dict[str, NDArray[Any]], mirrored: bool, turns: int, backwards: bool
) -> None:
    """After any change b warped by the flow is a, and a wrong sign or order would not be."""
    out = augment(scene_sample, Augmentation(10, 30, 64, mirrored, turns, backwards))
    moved = 0
    for flow, one, two in (("ab", "a", "b"), ("ba", "b", "a"), ("ta", "target", "a"), ("tb", "target", "b"),
                           ("a_before", "a", "before"), ("b_after", "b", "after")):  # fmt: skip
        seen = ~out[f"hidden_{flow}"]
        apart = (ops.warp(out[two][None], out[f"flow_{flow}"][None])[0] - out[one]).abs().mean(0)
        blind = (out[two] - out[one]).abs().mean(0)
        wrong = (ops.warp(out[two][None], -out[f"flow_{flow}"][None])[0] - out[one]).abs().mean(0)
        if float(blind[seen[0]].mean()) < 0.02:
            continue
        moved += 1
        assert apart[seen[0]].mean() < 0.45 * blind[seen[0]].mean()
        assert apart[seen[0]].mean() < 0.45 * wrong[seen[0]].mean()
    assert moved >= 3
    t = float(scene_sample["t"])
    assert float(out["t"]) == pytest.approx(1 - t if backwards else t)


def test_crops_hide_what_they_cut_off(scene_sample: dict[str, NDArray[Any]]) -> None:
    whole = augment(scene_sample, Augmentation(0, 0, 96, False, 0, False))
    part = augment(scene_sample, Augmentation(0, 0, 48, False, 0, False))
    extra = part["hidden_ab"] & ~whole["hidden_ab"][:, :48, :48]
    where = ops.coordinates(48, 48)[0] + part["flow_ab"]
    outside = (where < -0.5).any(0) | (where > 47.5).any(0)
    assert torch.equal(part["hidden_ab"][0] | ~outside, torch.ones(48, 48, dtype=torch.bool))
    assert not bool((extra[0] & ~outside).any())


def test_colours_change_alike_in_all_frames(scene_sample: dict[str, NDArray[Any]]) -> None:
    plain = augment(scene_sample, Augmentation(0, 0, 48, False, 0, False))
    tinted = augment(scene_sample, Augmentation(0, 0, 48, False, 0, False, (1.1, 0.9, 1.0), 0.02, (2, 0, 1)))
    for name in FRAMES:
        expected = plain[name][[2, 0, 1]] * torch.tensor([1.1, 0.9, 1.0]).view(3, 1, 1) + 0.02
        assert torch.allclose(tinted[name], expected.clamp(0, 1), atol=1e-6)
    assert torch.equal(tinted["flow_ab"], plain["flow_ab"])


@pytest.mark.parametrize("backwards", [False, True])
def test_a_fade_is_even_in_time(scene_sample: dict[str, NDArray[Any]], backwards: bool) -> None:
    scene = scene_sample | {"t": np.float32(0.25)}
    plain = augment(scene, Augmentation(0, 0, 48, False, 0, backwards))
    t = float(plain["t"])
    assert t == (0.75 if backwards else 0.25)
    for gain, lights in ((0.5, (1.0, 0.5)), (2.0, (0.5, 1.0))):
        faded = augment(scene, Augmentation(0, 0, 48, False, 0, backwards, fade=math.log(gain)))
        for name, time in (("a", 0.0), ("target", t), ("b", 1.0)):
            light = lights[0] + (lights[1] - lights[0]) * time
            torch.testing.assert_close(faded[name], light * plain[name])
        for name in FRAMES:
            assert 0.0 <= faded[name].min() <= faded[name].max() <= 1.0


def test_drawn_changes_reach_everything() -> None:
    drawn = [draw_augmentation(np.random.default_rng(k), 80, 100, 64) for k in range(300)]
    assert {c.turns for c in drawn} == {0, 1, 2, 3} and {c.mirrored for c in drawn} == {c.reverse_time for c in drawn}
    assert min(c.top for c in drawn) == 0 and max(c.top for c in drawn) == 16
    assert min(c.left for c in drawn) == 0 and max(c.left for c in drawn) == 36
    assert 0.35 < np.mean([c.gain != (1.0, 1.0, 1.0) for c in drawn]) < 0.65


def test_draws_repeat_and_resume(tmp_path: Path) -> None:
    """A run from the start, and one that begins in its middle elsewhere, see the same samples."""
    shards = [Shards(tmp_path / str(k), Numbers(), samples=5, reuse=2, window=2, workers=0) for k in range(2)]
    with Batches([Share(shards[0], 1)], 4, crop=8, seed=3) as first:
        whole = [next(first) for _ in range(12)]
    with Batches([Share(shards[1], 1)], 4, crop=8, seed=3, position=20) as second:
        assert second.position == 20
        for k in range(5, 12):
            again = next(second)
            assert torch.equal(again["a"], whole[k]["a"]) and torch.equal(again["t"], whole[k]["t"])
    with Batches([Share(Shards(tmp_path / "c", Numbers(), 5, 2, 2, workers=0), 1)], 4, crop=8, seed=4) as other:
        assert not all(torch.equal(next(other)["a"], batch["a"]) for batch in whole)


def test_shards_rendered_in_batches_are_the_same() -> None:
    one, two = (SceneSource(size=48, mix=CLEAN, device=device).make(1, 5) for device in ("", "cpu"))
    assert {name: (a.shape, a.dtype) for name, a in one.items()} == {n: (a.shape, a.dtype) for n, a in two.items()}
    assert np.abs(one["frames"].astype(float) - two["frames"]).mean() < 1
    assert np.array_equal(one["t"], two["t"]) and (one["masks"] != two["masks"]).mean() < 0.02


def test_old_shards_go_and_new_ones_come(tmp_path: Path) -> None:
    shards = Shards(tmp_path, Numbers(), samples=5, reuse=2, window=2, workers=0)
    levels = []
    with Batches([Share(shards, 1)], 5, crop=8) as batches:
        for _ in range(12):
            next(batches)
            levels.append(len(list(tmp_path.glob("shard-*"))))
    assert levels[0] == 1 and max(levels) <= 3  # one is enough to begin
    assert not shard_path(tmp_path, 0).exists() and shard_path(tmp_path, 5).exists()
    # each sample is used about `reuse` times: 60 draws from 6 shards of 5
    assert (shards.first_shard(59), shards.last_shard(59)) == (4, 5)


def test_workers_fill_the_folder_ahead(tmp_path: Path) -> None:
    shards = Shards(tmp_path, SceneSource(size=32, neighbours=False, mix=CLEAN), samples=2, window=2, ahead=1)
    with Batches([Share(shards, 1)], 2, crop=24) as batches:
        batch = next(batches)
        assert batch["a"].shape == (2, 3, 24, 24) and bool(batch["has_flow"].all())
        arrays = shards.arrays(1)
        expected = SceneSource(size=32, neighbours=False, mix=CLEAN).make(1, 2)
        assert all(np.array_equal(arrays[name], expected[name]) for name in expected)
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (
        Shards(tmp_path, Numbers(broken=True), samples=2) as shards,
        pytest.raises(JobError, match=r"shard 0 .* ended with code 1"),
    ):
        shards.start()
        shards.arrays(0)
    assert "cannot be made" in capfd.readouterr().err


def test_a_half_written_shard_does_not_count(tmp_path: Path) -> None:
    (tmp_path / ".shard-000000-1").mkdir()
    shards = Shards(tmp_path, Numbers(), samples=3, workers=0)
    assert shards.arrays(0)["frames"].shape[0] == 3


def test_sources_are_mixed_by_their_shares(tmp_path: Path) -> None:
    scenes = Shards(tmp_path / "s", SceneSource(size=32, neighbours=False, mix=CLEAN), samples=2, window=1, workers=0)
    plain = Shards(tmp_path / "n", Numbers(size=32), samples=8, window=1, reuse=50, workers=0)
    with Batches([Share(scenes, 1), Share(plain, 3)], 8, crop=16) as batches:
        batch = [next(batches) for _ in range(8)]
    share = torch.cat([b["has_flow"] for b in batch]).float().mean()
    assert 0.1 < share < 0.42
    for one in batch:
        without = ~one["has_flow"]
        assert not one["flow_ab"][without].any() and not one["hidden_ab"][without].any()
        assert torch.equal(one["before"][without], one["a"][without])
        assert not one["has_neighbours"].any()


def test_wrong_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="samples 0"):
        Shards(tmp_path, Numbers(), samples=0)
    with pytest.raises(InputError, match="0 sources"):
        Batches([], 4)
    with pytest.raises(InputError, match="larger than the samples"):
        next(Batches([Share(Shards(tmp_path, Numbers(), workers=0), 1)], 1, crop=16))


def test_collate_stands_in_for_what_is_absent() -> None:
    image = torch.rand(3, 8, 8)
    bare = {"a": image, "b": image / 2, "target": image, "t": torch.tensor(0.5)}
    full = {**bare, **{name: torch.rand(3, 8, 8) for name in ("before", "after")}, "flow_ab": torch.rand(2, 8, 8)}
    batch = collate([bare, full])
    assert batch["has_neighbours"].tolist() == [False, True] and batch["has_flow"].tolist() == [False, True]
    assert torch.equal(batch["after"][0], image / 2) and set(FLOW_NAMES) | set(MASK_NAMES) | set(FRAMES) <= set(batch)


def test_workers_compute_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    tell = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['OPENBLAS_NUM_THREADS'])"
    with one_thread():
        told = subprocess.run([sys.executable, "-c", tell], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1", "1"]
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "OPENBLAS_NUM_THREADS" not in os.environ
