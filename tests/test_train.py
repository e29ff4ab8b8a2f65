"""Training: exact resume, a clean stop, the folder of a run, several processes, quick evaluation."""

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
from midframe.models.base import RenderRequest
from midframe.models.midnet import SIZES, Midnet, load_midnet
from midframe.training import processes
from midframe.training import train as page
from midframe.training.checkpoint import Training, load_checkpoint, save_checkpoint
from midframe.training.curves import draw_curves
from midframe.training.error_forms import ErrorFormBatches, ErrorFormSource, error_forms, mean_squared_error
from midframe.training.quick_evaluation import find_triplets, quick_evaluation
from midframe.training.recipe import LAST_RATE_SHARE, WARM_UP, Recipe, learning_rate
from midframe.training.run_log import RunLog
from midframe.training.shards import Arrays, Augmentation, Shards, Share, augment, collate


@dataclass(frozen=True)
class Sliding:
    """Shards of one smooth frame that slides; the flow is known and nothing is hidden."""

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


SAME = Augmentation(0, 0, 64, mirrored=False, turns=0, reverse_time=False)


@pytest.fixture
def sliding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Batches of sliding frames in place of scenes; every step logged; a checkpoint after every step."""

    def open_batches(recipe: Recipe, position: int, rank: int) -> ErrorFormBatches:
        source = ErrorFormSource(Sliding(), 64, SIZES[recipe.model])
        shards = Shards(tmp_path / f"shards{rank}", source, samples=4, window=1, workers=0)
        return ErrorFormBatches([Share(shards, 1.0)], recipe.batch, recipe.size, recipe.seed, position)

    monkeypatch.setattr(page, "open_batches", open_batches)
    monkeypatch.setattr(RunLog, "EVERY", 1)
    monkeypatch.setattr(page, "CHECKPOINT_SECONDS", -1.0)


def recipe(out: Path, **changes: Any) -> Recipe:
    plain = Recipe(out, "midnet-s", steps=4, batch=1, size=64, precision="fp32", device="cpu")
    return replace(plain, **changes)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    sliding: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    page.train(recipe(whole))

    plain_add = RunLog.add

    def stop_after_two(self: RunLog, step: int, *rest: Any) -> str | None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain_add(self, step, *rest)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(RunLog, "add", stop_after_two)
    page.train(recipe(parted))
    assert torch.load(parted / "checkpoint.pt", weights_only=True)["step"] == 2
    monkeypatch.setattr(RunLog, "add", plain_add)
    lines: list[str] = []
    page.train(recipe(parted), lines.append)
    assert lines[0].startswith("resumed at step 2")
    assert signal.getsignal(signal.SIGTERM) is before

    one, two = (torch.load(x / "checkpoint.pt", weights_only=True) for x in (whole, parted))
    assert one["step"] == two["step"] == 4
    for name, value in one["net"].items():
        assert torch.equal(value, two["net"][name]), name
        assert torch.equal(one["average_offsets"][name], two["average_offsets"][name]), name
    for a, b in zip(one["moments"], two["moments"], strict=True):
        assert torch.equal(a["exp_avg"], b["exp_avg"])
        assert torch.equal(a["exp_avg_sq"], b["exp_avg_sq"])
    notes = [[json.loads(line) for line in (x / "log.jsonl").read_text().splitlines()] for x in (whole, parted)]
    assert [n["loss"] for n in notes[0]] == [n["loss"] for n in notes[1]]
    assert all("psnr" in n for n in notes[0])

    # what a run leaves
    assert cv2.imread(str(whole / "curves.png")) is not None
    assert load_midnet(whole / "last.safetensors").architecture == SIZES["midnet-s"]
    assert find_spec("tensorboard") is None or any((whole / "events").iterdir())
    # and what another can begin with
    again = page.train(recipe(tmp_path / "again", start=whole / "last.safetensors", steps=1))
    assert again.is_file()
    with pytest.raises(InputError, match="another size"):
        page.train(recipe(parted, model="midnet-m"))


def test_a_few_steps_lower_the_loss_of_a_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Midnet(SIZES["midnet-m"]).train()
    shards = Shards(tmp_path, ErrorFormSource(Sliding(), 64, net.architecture), samples=4, window=1, workers=0)
    batch = next(ErrorFormBatches([Share(shards, 1.0)], 2, 64))
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        loss, _ = page.objective(net, batch)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert losses[-1] < losses[0] - 0.3  # dB
    unreached = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not unreached


def test_an_error_form_gives_the_error_of_the_blended_frame() -> None:
    torch.manual_seed(1)
    net = Midnet().eval()
    made = collate(
        [augment(Sliding().sample({"seed": np.arange(3)}, k, np.random.default_rng(0)), SAME) for k in range(2)]
    )
    with torch.no_grad():
        a, b = net.encode(made["a"]), net.encode(made["b"])
        warped = net.warp(RenderRequest(a, b, net.match(a, b), made["t"]))
        forms = error_forms(warped, made["target"])
    weights = torch.rand(2, 2 * len(net.architecture.hypotheses), 16, 16).softmax(1)
    wide = torch.nn.functional.interpolate(weights, scale_factor=4, mode="nearest")
    blended = sum(wide[:, k : k + 1] * frame for k, frame in enumerate((*warped.a, *warped.b)))
    error = ((blended - made["target"]) * 255).square().mean(1, keepdim=True)
    error = torch.nn.functional.avg_pool2d(error, 4)[:, 0]
    torch.testing.assert_close(mean_squared_error(weights, forms), error, rtol=1e-3, atol=1e-2)


def training(net: Midnet) -> Training:
    average = {name: value.clone() for name, value in net.state_dict().items()}
    return Training(net, average, torch.optim.AdamW(net.parameters(), 1e-3))


def test_the_rounding_of_a_checkpoint_is_that_of_the_run(tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = training(Midnet())
    for parameter in run.net.parameters():
        parameter.grad = torch.randn_like(parameter)
    run.optimiser.step()
    run.step, run.seconds, run.best = 5, 60.0, 30.0
    run.update_average()
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, run)
    other = training(Midnet())
    load_checkpoint(path, other)
    assert (other.step, other.seconds, other.best) == (5, 60.0, 30.0)
    for name, value in run.average.items():
        assert torch.equal(value, other.average[name])
    for one, two in zip(run.net.parameters(), other.net.parameters(), strict=True):
        assert torch.equal(one, two)
        for moment in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(run.optimiser.state[one][moment], other.optimiser.state[two][moment])


def test_schedule() -> None:
    assert learning_rate(1.0, 0, 0.0) == pytest.approx(1 / WARM_UP)
    assert learning_rate(1.0, 10_000, 0.5) == pytest.approx(0.51)
    assert learning_rate(1.0, 10_000, 1.0) == pytest.approx(LAST_RATE_SHARE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "dis"}, "cannot be trained"),
        ({"steps": None}, "steps or minutes"),
        ({"size": 100}, "multiple of 32"),
        ({"rate": 0.0}, "above 0"),
    ],
)
def test_impossible_recipes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe(Path("x"), **changes)


def _share(rank: int, port: int, results: Any) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    _, world, device = processes.join("cpu")
    net = torch.nn.Linear(3, 2)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, float(rank))
    processes.all_reduce_gradients(net, world)
    stop = processes.any_of_all(rank == 1, device, world)
    results.put((rank, net.weight.grad.mean().item(), stop))
    processes.tear_down(world)


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


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


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


def test_quick_evaluation_is_of_other_weights_and_restores_its_own(triplets: Path) -> None:
    torch.manual_seed(0)
    net = Midnet(SIZES["midnet-s"]).train()
    own = {name: value.clone() for name, value in net.state_dict().items()}
    assert quick_evaluation(net, own, find_triplets(triplets / "m"), False) > 45  # nothing moves
    second = triplets / "m/input/Still/frame11.png"
    cv2.imwrite(str(second), np.zeros_like(cv2.imread(str(second))))
    halved = quick_evaluation(net, own, find_triplets(triplets / "m"), False)
    believes_a = {name: value.clone() for name, value in own.items()}
    believes_a["fusion.context_decoder.bias"][-3:-1] += torch.tensor([20.0, -20.0])
    assert quick_evaluation(net, believes_a, find_triplets(triplets / "m"), False) > halved + 10
    assert net.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, own[name])


def test_curves_are_drawn_to_scale(tmp_path: Path) -> None:
    run_log = tmp_path / "log.jsonl"
    run_log.write_text("\n".join(json.dumps({"step": k, "loss": 1.0 / k}) for k in range(1, 50)))
    draw_curves(run_log, tmp_path / "curves.png")
    image = cv2.imread(str(tmp_path / "curves.png")).astype(int)
    blue = (image[..., 0] - image[..., 2]) > 60
    left, right = blue[:, 36:80].nonzero()[0].min(), blue[:, 400:444].nonzero()[0].min()
    assert left < right  # falls


def test_the_command_asks_for_what_is_missing(tmp_path: Path) -> None:
    from midframe.cli.train import command

    assert "Missing option '--out'" in CliRunner().invoke(command, ["--minutes", "1"]).output
    result = CliRunner().invoke(command, ["--out", str(tmp_path / "x")])
    assert isinstance(result.exception, InputError)
    assert not (tmp_path / "x").exists()
