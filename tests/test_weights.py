"""Weights: found, fetched, read without running anything, checked, kept as safetensors; every trouble in one line."""

from __future__ import annotations

import json
import pickle
import sys
import types
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor

import vfinet_reference as reference
from midframe import weights
from midframe.errors import InputError, MidframeError, WeightsError
from midframe.models import load_model

EXPECTED = {"layer.weight": (2, 3), "layer.bias": (2,), "norm.num_batches_tracked": ()}


def tensors() -> dict[str, Tensor]:
    return {
        "module.layer.weight": torch.arange(6.0).view(2, 3),
        "module.layer.bias": torch.tensor([1.0, -1.0]),
        "module.norm.num_batches_tracked": torch.tensor(7),
    }


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIDFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "theirs"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["midnet-s", "midnet-m"])
def test_shipped_weights_are_those_of_their_checksums(name: str) -> None:
    known = dict(reversed(line.split()) for line in (weights.SHIPPED / weights.SUMS).read_text().splitlines())
    path = weights.shipped(name)
    assert path is not None and known[path.name] == weights.sha256(path)


def test_a_shipped_file_with_one_changed_byte_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (weights.SUMS, "midnet-s.safetensors"):
        (tmp_path / file).write_bytes((weights.SHIPPED / file).read_bytes())
    monkeypatch.setattr(weights, "SHIPPED", tmp_path)
    load_model("midnet-s")
    content = bytearray((tmp_path / "midnet-s.safetensors").read_bytes())
    content[-100] ^= 1
    (tmp_path / "midnet-s.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="is damaged: its SHA-256") as error:
        load_model("midnet-s")
    assert one_line(error)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    path = weights.shipped("midnet-s")
    assert path is not None
    state = load_file(path)
    name = sorted(state)[0]
    state[name] = torch.full_like(state[name], value)
    save_file(state, tmp_path / "mine.safetensors", weights.read_metadata(path))
    with pytest.raises(WeightsError, match="not finite") as error:
        load_model("midnet-s", tmp_path / "mine.safetensors")
    assert one_line(error)


def one_line(error: pytest.ExceptionInfo[MidframeError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_is_read_once_and_kept(tmp_path: Path, cache: Path, legacy: bool) -> None:
    path = tmp_path / "net.pt"
    torch.save(tensors(), path, _use_new_zipfile_serialization=not legacy)
    state = weights.load(path, EXPECTED)
    assert torch.equal(state["layer.weight"], torch.arange(6.0).view(2, 3))
    (copy,) = (cache / "converted").glob("*.safetensors")
    assert copy.stem == weights.sha256(path)
    record = json.loads(copy.with_suffix(".json").read_text())
    assert record["sha256"] == weights.sha256(copy)
    assert set(load_file(copy)) == set(EXPECTED)
    # the copy is what is read from now on
    save_file({**load_file(copy), "layer.bias": torch.zeros(2)}, copy)
    copy.with_suffix(".json").write_text(json.dumps({**record, "sha256": weights.sha256(copy)}))
    assert torch.equal(weights.load(path, EXPECTED)["layer.bias"], torch.zeros(2))


def test_a_copy_that_was_tampered_with_is_made_anew(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(tensors(), path)
    weights.load(path, EXPECTED)
    (copy,) = (cache / "converted").glob("*.safetensors")
    data = bytearray(copy.read_bytes())
    data[-1] ^= 0xFF
    copy.write_bytes(data)
    assert torch.equal(weights.load(path, EXPECTED)["layer.bias"], torch.tensor([1.0, -1.0]))
    assert json.loads(copy.with_suffix(".json").read_text())["sha256"] == weights.sha256(copy)


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MIDFRAME_CACHE", str(tmp_path / "file"))
    torch.save(tensors(), tmp_path / "net.pt")
    assert set(weights.load(tmp_path / "net.pt", EXPECTED)) == set(EXPECTED)


class Harm:
    """Unpickling it would write a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return open, ("harm-was-done", "w")  # type: ignore[return-value]


def damaged(kind: str, path: Path) -> None:
    state = tensors()
    if kind == "truncated":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:700])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "web page":
        path.write_text("<!doctype html><title>404</title>")
    elif kind == "pickled code":
        torch.save({**state, "x": Harm()}, path)
    elif kind == "bare pickle":
        path.write_bytes(pickle.dumps(Harm()))
    elif kind == "not a table":
        torch.save([1, 2], path)
    elif kind == "too much":
        torch.save({**state, "module.other": torch.zeros(1)}, path)
    elif kind == "too little":
        del state["module.layer.bias"]
        torch.save(state, path)
    elif kind == "other shape":
        torch.save({**state, "module.layer.weight": torch.zeros(3, 2)}, path)
    elif kind == "not finite":
        torch.save({**state, "module.layer.bias": torch.tensor([1.0, float("nan")])}, path)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "is no file"),
        ("truncated", "damaged"),
        ("empty", "damaged"),
        ("web page", "no PyTorch file"),
        ("pickled code", "more than tensors"),
        ("bare pickle", "more than tensors"),
        ("not a table", "not a table of tensors"),
        ("too much", "another architecture: it holds 'other'"),
        ("too little", "another architecture: it lacks 'layer.bias'"),
        ("other shape", "'layer.weight' is 3x2, not 2x3"),
        ("not finite", "not finite"),
    ],
)
def test_bad_weights_give_one_line(
    kind: str, said: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.pt"
    damaged(kind, path)
    with pytest.raises(WeightsError) as error:
        weights.load(path, EXPECTED)
    text = one_line(error)
    assert said in text
    assert str(path) in text
    assert not (tmp_path / "harm-was-done").exists()
    assert not list(cache.glob("converted/*"))


def test_damaged_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(WeightsError, match="damaged"):
        weights.load(path, EXPECTED)
    with pytest.raises(WeightsError, match="damaged"):
        weights.read_metadata(path)


def test_constants_may_be_there_or_not(tmp_path: Path) -> None:
    torch.save({**tensors(), "module.attn_mask": torch.zeros(5)}, tmp_path / "net.pt")
    assert set(weights.load(tmp_path / "net.pt", EXPECTED, lambda name: name == "attn_mask")) == set(EXPECTED)


def test_missing_weights_say_which_files_go_where(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as error:
        load_model("vfinet")
    text = one_line(error)
    for part in (
        "models fetch vfinet",
        "raft-sintel.pt",
        "interpnet.pt",
        str(cache / "vfinet"),
        "--weights",
        "damo/cv_",
    ):
        assert part in text
    (tmp_path / "raft-sintel.pt").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"has no interpnet\.pt;"):
        load_model("vfinet", tmp_path)
    with pytest.raises(WeightsError, match="is no folder"):
        load_model("vfinet", tmp_path / "nowhere")


def official(folder: Path) -> None:
    """Files as the hub has them, with weights that follow from their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, name in (("flownet", "raft-sintel.pt"), ("internet", "interpnet.pt")):
        state = reference.named_weights(reference.shapes(part))
        torch.save({f"module.{key}": value for key, value in state.items()}, folder / name)


def test_official_files_load_from_a_folder_and_from_modelscopes_cache(tmp_path: Path) -> None:
    official(tmp_path / "mine")
    model = load_model("vfinet", tmp_path / "mine")
    assert model.name == "vfinet"
    assert not model.training
    assert len(load_model("vfinet", tmp_path / "mine" / "interpnet.pt").state_dict()) == len(model.state_dict())
    official(tmp_path / "theirs" / "hub" / "iic" / "cv_raft_video-frame-interpolation_practical")
    again = load_model("vfinet")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(WeightsError):
        load_model("vfinet-first")  # the other published pair is not there


def hub(monkeypatch: pytest.MonkeyPatch, download: object) -> None:
    """A hub client that answers without a network."""
    module = types.ModuleType("modelscope.hub.file_download")
    module.model_file_download = download  # type: ignore[attr-defined]
    for name in ("modelscope", "modelscope.hub"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "modelscope.hub.file_download", module)


def test_fetch_gets_checks_and_keeps(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official(tmp_path / "remote")
    asked = []

    def download(model_id: str, file_path: str, local_dir: str) -> str:
        asked.append((model_id, file_path))
        target = Path(local_dir) / file_path
        target.write_bytes((tmp_path / "remote" / file_path).read_bytes())
        return str(target)

    hub(monkeypatch, download)
    from midframe.cli.models import command

    result = CliRunner().invoke(command, ["fetch", "vfinet"], catch_exceptions=False)
    assert result.exit_code == 0
    record = weights.RECORDS["vfinet"]
    assert asked == [(record.hub, name) for name in record.files]
    assert sorted(path.name for path in (cache / "vfinet").iterdir()) == sorted([weights.SUMS, *record.files])
    assert "ready" in CliRunner().invoke(command, ["list"], catch_exceptions=False).output.split("vfinet")[1]
    verified = CliRunner().invoke(command, ["verify", "vfinet"], catch_exceptions=False)
    assert verified.output.count("good") == 2
    assert weights.sha256(cache / "vfinet" / "interpnet.pt") in verified.output


def test_fetch_says_what_failed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(**asked: str) -> str:
        raise OSError("no route to host\nand much more")

    hub(monkeypatch, download)
    with pytest.raises(WeightsError) as error:
        weights.fetch(weights.RECORDS["vfinet"])
    assert "no route to host" in one_line(error)
    assert not list((cache / "vfinet").iterdir())
    monkeypatch.setitem(sys.modules, "modelscope.hub.file_download", None)
    with pytest.raises(WeightsError, match=r"pip install|scripts/setup hub"):
        weights.fetch(weights.RECORDS["vfinet"])


def test_verify_fails_on_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from midframe.cli.models import command

    official(tmp_path / "mine")
    (tmp_path / "mine" / "interpnet.pt").write_bytes(b"\x80\x02}q")
    result = CliRunner().invoke(command, ["verify", "vfinet", "--weights", str(tmp_path / "mine")])
    assert result.exit_code == WeightsError.exit_code
    assert "damaged" in result.output
    with pytest.raises(InputError, match="needs no fetching"):
        CliRunner().invoke(command, ["fetch", "blend"], catch_exceptions=False)
    with pytest.raises(InputError, match="there are vfinet"):
        CliRunner().invoke(command, ["fetch", "flownet"], catch_exceptions=False)
