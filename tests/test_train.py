"""Training: exact resume, a clean stop, what lies in the folder of a run, several processes, the quick look."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.random import Generator

from midframe.errors import InputError
from midframe.models.midnet import SIZES, Midnet, load_midnet
from midframe.training import train as page
from midframe.training.curves import draw_curves
from midframe.training.feed import Feed
from midframe.training.mixtures import Mixtures, MixtureSource, missed, products
from midframe.training.quick import find_triplets, quick_score
from midframe.training.shards import Arrays, Batches, Change, Shards, Share, Source, changed, collate


@dataclass(frozen=True)
class Sliding:
    """Shards of one smooth picture that slides; the flow is known and nothing is hidden."""

    size: int = 72

    def make(self, number: int, samples: int) -> Arrays:
        return {"seed": np.arange(samples) + number * samples}

    def sample(self, arrays: Mapping[str, Any], index: int, rng: Generator) -> Arrays:
        drawn = np.random.default_rng(int(arrays["seed"][index]))
        noise = drawn.random((30, 30, 3)).astype(np.float32)
        wide = cv2.resize(noise, (self.size + 32, self.size + 32), interpolation=cv2.INTER_CUBIC).clip(0, 1)
        wide = (wide * 255).round().astype(np.uint8)
        dx, dy = (int(v) * 2 for v in drawn.integers(-4, 5, 2))
        out: Arrays = {"t": np.float32(0.5)}
        for name, step in (("a", 0.0), ("target", 0.5), ("b", 1.0)):
            x, y = 16 - int(dx * step), 16 - int(dy * step)
            out[name] = wide[y : y + self.size, x : x + self.size]
        whole = np.ones((self.size, self.size, 1), np.float32)
        for name, share in (("flow_ab", 1.0), ("flow_ba", -1.0), ("flow_ta", -0.5), ("flow_tb", 0.5)):
            out[name] = np.concatenate([whole * dx * share, whole * dy * share], -1)
            out[name.replace("flow", "hidden")] = np.zeros((self.size, self.size), np.uint8)
        return out


SAME = Change(0, 0, 64, mirrored=False, turns=0, backwards=False)


@pytest.fixture
def sliding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Batches of sliding pictures in the place of scenes; every step written down; a checkpoint after every step."""

    def open_batches(recipe: page.Recipe, everything: bool, position: int, rank: int, world: int) -> Batches:
        source: Source = Sliding()
        if recipe.matcher == "dis":
            source = MixtureSource(source, 64, page.architecture_of(recipe))
        shards = Shards(tmp_path / f"shards{rank}", source, samples=4, window=1, workers=0)
        kind = Mixtures if recipe.matcher == "dis" else Batches
        return kind([Share(shards, 1.0)], recipe.batch, recipe.size, recipe.seed, position)

    monkeypatch.setattr(page, "open_batches", open_batches)
    monkeypatch.setattr(page.Diary, "EVERY", 1)
    monkeypatch.setattr(page, "KEEP", -1.0)


def recipe(out: Path, **changes: Any) -> page.Recipe:
    plain = page.Recipe(out, "midnet-s", "learned", steps=4, batch=1, size=64, flow_share=0.5, precision="fp32")
    return replace(plain, **{"device": "cpu", **changes})


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    sliding: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    page.train(recipe(whole))

    plain_add = page.Diary.add

    def stop_after_two(self: page.Diary, step: int, *rest: Any) -> str | None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain_add(self, step, *rest)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(page.Diary, "add", stop_after_two)
    page.train(recipe(parted))
    assert torch.load(parted / "checkpoint.pt", weights_only=True)["step"] == 2
    monkeypatch.setattr(page.Diary, "add", plain_add)
    lines: list[str] = []
    page.train(recipe(parted), lines.append)
    assert lines[0].startswith("resumed at step 2")
    assert signal.getsignal(signal.SIGTERM) is before

    one, two = (torch.load(x / "checkpoint.pt", weights_only=True) for x in (whole, parted))
    assert one["step"] == two["step"] == 4
    for name, value in one["net"].items():
        assert torch.equal(value, two["net"][name]), name
        assert torch.equal(one["apart"][name], two["apart"][name]), name
    for a, b in zip(one["moments"], two["moments"], strict=True):
        assert torch.equal(a["exp_avg"], b["exp_avg"])
        assert torch.equal(a["exp_avg_sq"], b["exp_avg_sq"])
    notes = [[json.loads(line) for line in (x / "log.jsonl").read_text().splitlines()] for x in (whole, parted)]
    assert [n["loss"] for n in notes[0]] == [n["loss"] for n in notes[1]]
    assert ["psnr" in n for n in notes[0]] == [False, False, True, True]  # flow alone, then everything

    # what a run leaves
    assert cv2.imread(str(whole / "curves.png")) is not None
    assert load_midnet(whole / "last.safetensors").architecture == SIZES["midnet-s"]
    assert find_spec("tensorboard") is None or any((whole / "events").iterdir())
    # and what another can begin with
    again = page.train(recipe(tmp_path / "again", start=whole / "last.safetensors", steps=1, flow_share=0.0))
    assert again.is_file()
    with pytest.raises(InputError, match="another size"):
        page.train(recipe(parted, model="midnet-m"))


def test_a_few_steps_lower_the_loss_of_a_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Midnet(SIZES["midnet-s"]).train()
    batch = next(Batches([Share(Shards(tmp_path, Sliding(), samples=4, window=1, workers=0), 1.0)], 2, 64))
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
    told = []
    for _ in range(5):
        loss, _ = page.objective(net, batch, page.Weights(), True)
        told.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert told[-1] < 0.9 * told[0]
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not still, "parameters that no loss reaches"


def test_the_judge_is_trained_on_stored_mixtures(sliding: None, tmp_path: Path) -> None:
    out = tmp_path / "run"
    net = load_midnet(page.train(recipe(out, steps=12, batch=2, matcher="dis", rate=1e-2)))
    assert net.architecture.matcher == "dis"
    told = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert all("psnr" in line and "epe" not in line for line in told)  # there is no phase of flow alone
    assert net.judge.verdict.weight.abs().max() > 0
    # weights know their matcher: nobody has to name it to train them further
    again = page.train(recipe(tmp_path / "again", start=out / "last.safetensors", steps=1, matcher="auto"))
    assert load_midnet(again).architecture.matcher == "dis"
    with pytest.raises(InputError, match="has the matcher dis"):
        page.train(recipe(tmp_path / "other", start=out / "last.safetensors", steps=1))
    with pytest.raises(InputError, match="leave --loaders out"):
        page.train(recipe(tmp_path / "loaders", matcher="auto", loaders=2))  # on a CPU nothing else is asked for


def test_what_is_stored_of_mixtures_tells_the_error_of_the_mixed_picture() -> None:
    torch.manual_seed(1)
    net = Midnet(replace(SIZES["midnet-m"], matcher="dis")).eval()
    made = collate(
        [changed(Sliding().sample({"seed": np.arange(3)}, k, np.random.default_rng(0)), SAME) for k in range(2)]
    )
    a, b = net.encode(made["a"]), net.encode(made["b"])  # as tensors: nothing is compiled where gradients are kept
    with torch.no_grad():
        found = net.candidates(a, b, net.sought(a, b), made["t"].view(-1, 1, 1, 1))
        stored = products(found, made["target"])
    shares = torch.rand(2, 2 * len(net.architecture.guesses), 16, 16).softmax(1)
    wide = torch.nn.functional.interpolate(shares, scale_factor=4, mode="nearest")
    mixed = sum(wide[:, k : k + 1] * picture for k, picture in enumerate((*found.a, *found.b)))
    error = ((mixed - made["target"]) * 255).square().mean(1, keepdim=True)
    error = torch.nn.functional.avg_pool2d(error, 4)[:, 0]
    torch.testing.assert_close(missed(shares, stored), error, rtol=1e-3, atol=1e-2)


def test_the_checkpoint_of_m_is_small_and_its_rounding_is_that_of_the_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Midnet()
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)
    average = {name: value.clone() for name, value in net.state_dict().items()}
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimiser.step()
    page.follow(average, net, 0.9)
    path = tmp_path / "checkpoint.pt"
    page.keep(path, net, average, optimiser, 5, 60.0, 30.0)
    assert path.stat().st_size <= 16 * 2**20
    other, other_average = Midnet(), {name: value.clone() for name, value in net.state_dict().items()}
    other_optimiser = torch.optim.AdamW(other.parameters(), 1e-3)
    assert page.resume(path, other, other_average, other_optimiser) == (5, 60.0, 30.0)
    for name, value in average.items():
        assert torch.equal(value, other_average[name])
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(optimiser.state[one]["exp_avg_sq"], other_optimiser.state[two]["exp_avg_sq"])
        assert torch.equal(optimiser.state[one]["exp_avg"], other_optimiser.state[two]["exp_avg"])


def test_schedule() -> None:
    assert page.rate_at(1.0, 0, 0.0) == pytest.approx(1 / page.WARM_UP)
    assert page.rate_at(1.0, 10_000, 0.5) == pytest.approx(0.51)
    assert page.rate_at(1.0, 10_000, 1.0) == pytest.approx(page.FLOOR)
    early, late = page.weights_at(0.1, 0.35), page.weights_at(0.99, 0.35)
    assert early.flow > late.flow
    assert early.sharpness == 0 < late.sharpness


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "dis"}, "cannot be trained"),
        ({"steps": None}, "steps or minutes"),
        ({"size": 100}, "multiple of 32"),
        ({"rate": 0.0}, "above 0"),
        ({"matcher": "sift"}, "none of auto, learned, dis"),
    ],
)
def test_wishes_that_cannot_be_trained(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe(Path("x"), **changes)


def _share(rank: int, port: int, results: Any) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    _, world, device = page.join(recipe(Path("x")))
    net = torch.nn.Linear(3, 2)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, float(rank))
    page.share_gradients(net, world)  # type: ignore[arg-type]
    stop = page.agree(rank == 1, device, world)
    results.put((rank, net.weight.grad.mean().item(), stop))
    page.leave(world)


@pytest.mark.slow
def test_two_processes_share_gradients_and_stop_together() -> None:
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=_share, args=(rank, port, results)) for rank in range(2)]
    for process in processes:
        process.start()
    told = sorted(results.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert told == [(0, 0.5, True), (1, 0.5, True)]


@pytest.mark.slow
def test_batches_are_the_same_however_many_processes_draw_them(tmp_path: Path) -> None:
    def shares(name: str) -> list[Share]:
        return [
            Share(Shards(tmp_path / name, Sliding(), 4, reuse=2, window=1, ahead=8, workers=int(name != "one")), 1.0)
        ]

    plain = Batches(shares("one"), 2, 64, seed=3, position=4)
    feed = Feed(shares("two"), 2, 64, seed=3, position=4, loaders=2)
    try:
        for _ in range(9):
            one, two = next(plain), next(feed)
            assert one.keys() == two.keys()
            assert all(torch.equal(one[name], two[name]) for name in one)
    finally:
        feed.close()


def _write(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture)


@pytest.fixture
def triplets(tmp_path: Path) -> Iterator[Path]:
    rng = np.random.default_rng(0)
    noise = (rng.random((12, 16, 3)) * 255).astype(np.uint8)
    still = cv2.resize(noise, (80, 70), interpolation=cv2.INTER_LINEAR)
    _write(tmp_path / "m/input/Still/frame10.png", still)
    _write(tmp_path / "m/input/Still/frame11.png", still)
    _write(tmp_path / "m/gt/Still/frame10i11.png", still)
    for k in range(1, 8):
        _write(tmp_path / f"v/0001/im{k}.png", still)
    for k in range(1, 4):
        _write(tmp_path / f"v/0002/im{k}.png", still)
    yield tmp_path


def test_triplets_of_three_layouts_are_found(triplets: Path) -> None:
    (middlebury,) = find_triplets(triplets / "m")
    assert (middlebury.a.name, middlebury.target.name, middlebury.b.name) == (
        "frame10.png",
        "frame10i11.png",
        "frame11.png",
    )
    assert [(t.a.name, t.target.name, t.b.name) for t in find_triplets(triplets / "v")] == [
        ("im3.png", "im4.png", "im5.png"),
        ("im1.png", "im2.png", "im3.png"),
    ]
    with pytest.raises(InputError, match="no triplets"):
        find_triplets(triplets / "m/input")


def test_quick_score_looks_at_other_weights_and_puts_the_own_back(triplets: Path) -> None:
    torch.manual_seed(0)
    net = Midnet(replace(SIZES["midnet-s"], matcher="dis")).train()
    own = {name: value.clone() for name, value in net.state_dict().items()}
    assert quick_score(net, own, find_triplets(triplets / "m"), False) > 45  # nothing moves
    second = triplets / "m/input/Still/frame11.png"
    cv2.imwrite(str(second), np.zeros_like(cv2.imread(str(second))))
    halved = quick_score(net, own, find_triplets(triplets / "m"), False)
    believes_a = {name: value.clone() for name, value in own.items()}
    believes_a["judge.spread.bias"][-3:-1] += torch.tensor([20.0, -20.0])
    assert quick_score(net, believes_a, find_triplets(triplets / "m"), False) > halved + 10
    assert net.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, own[name])


def test_curves_are_drawn_to_scale(tmp_path: Path) -> None:
    diary = tmp_path / "log.jsonl"
    diary.write_text("\n".join(json.dumps({"step": k, "loss": 1.0 / k}) for k in range(1, 50)))
    draw_curves(diary, tmp_path / "curves.png")
    picture = cv2.imread(str(tmp_path / "curves.png")).astype(int)
    blue = (picture[..., 0] - picture[..., 2]) > 60
    left, right = blue[:, 36:80].nonzero()[0].min(), blue[:, 400:444].nonzero()[0].min()
    assert left < right  # falls


def test_the_command_asks_for_what_is_missing(tmp_path: Path) -> None:
    from midframe.cli.train import command

    assert "Missing option '--out'" in CliRunner().invoke(command, ["--minutes", "1"]).output
    result = CliRunner().invoke(command, ["--out", str(tmp_path / "x")])
    assert isinstance(result.exception, InputError)
    assert not (tmp_path / "x").exists()
