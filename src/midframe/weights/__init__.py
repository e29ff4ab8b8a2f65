"""Weights of the models: records of where they come from, finding, fetching, verifying, loading tensors only.

Beside this file lie the weights that midframe ships. Others are found, in this order, in the folder that the user
names, in midframe's cache (`$MIDFRAME_CACHE`, else `~/.cache/midframe`), in ModelScope's cache, if its users have them
there. A checkpoint in PyTorch's format is read once, without running any code in it, checked name by name, and
kept as safetensors with its sha256; from then on that copy is read.

Nothing here knows a network: what a checkpoint should hold is handed in.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from midframe.errors import WeightsError
from midframe.extras import install_command

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent
SUMS = "SHA256SUMS"  # of shipped and fetched files, as sha256sum writes and checks it
TIMEOUT_SECONDS = 30.0  # without a byte from a download


Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Record:
    """Published weights: what they are and where to get them."""

    name: str  # of the model in midframe, ":" and a version where there are several
    files: tuple[str, ...]
    licence: str
    trained_on: str
    scores: str  # as published, with the protocol they belong to
    hub: str = ""  # ModelScope's id
    downloads: str = ""  # address of the folder that serves the files, where that is not ModelScope's hub
    page: str = ""  # address of a page about them, likewise
    sha256: tuple[str, ...] = ()  # of each file, where published

    @property
    def address(self) -> str:
        """Page that tells more."""
        return self.page or f"https://modelscope.cn/models/{self.hub}"

    @property
    def model(self) -> str:
        """Name of the model that the weights are for."""
        return self.name.partition(":")[0]


_SCORES = "ModelScope's own protocol, 4 inputs, PSNR/SSIM/LPIPS: "


def _rife(name: str, file: str) -> Record:
    """One RIFE version as vs-rife serves it: the original's file under a name of its own."""
    return Record(
        name=name,
        files=(file,),
        licence="MIT, hzwer and others",
        trained_on="Vimeo90K and further video, as its authors say",
        scores="",
        downloads="https://github.com/HolyWu/vs-rife/releases/download/model",
        page="https://github.com/hzwer/Practical-RIFE",
    )


RIFE_VERSIONS = (
    "4.4", "4.5", "4.6", "4.7", "4.8", "4.9", "4.10", "4.11", "4.12", "4.12.lite", "4.13", "4.13.lite", "4.14",
    "4.14.lite", "4.15", "4.15.lite", "4.16.lite", "4.17", "4.17.lite", "4.18", "4.19", "4.20", "4.21", "4.22",
    "4.22.lite", "4.23", "4.24", "4.25", "4.25.lite", "4.25.heavy", "4.26", "4.26.heavy",
)  # fmt: skip
RECORDS = {
    record.name: record
    for record in (
        Record(
            name="vfinet",
            hub="damo/cv_raft_video-frame-interpolation_practical",
            files=("raft-sintel.pt", "interpnet.pt"),
            licence="Apache-2.0 (raft-sintel.pt after princeton-vl/RAFT, BSD-3-Clause)",
            trained_on="Vimeo90K septuplets, then an internal set",
            scores=_SCORES + "UCF101 32.37/0.966/0.036, Middlebury 34.44/0.971/0.035, DAVIS 27.51/0.888/0.094",
        ),
        Record(
            name="vfinet-first",
            hub="damo/cv_raft_video-frame-interpolation",
            files=("raft-sintel.pt", "interpnet.pt"),
            licence="Apache-2.0 (raft-sintel.pt after princeton-vl/RAFT, BSD-3-Clause)",
            trained_on="Vimeo90K septuplets",
            scores=_SCORES + "UCF101 32.66/0.967/0.025, Middlebury 35.34/0.975/0.017, DAVIS 28.05/0.896/0.073",
        ),
        _rife("rife", "flownet_v4.26.pkl"),
        *(_rife(f"rife:{version}", f"flownet_v{version}.pkl") for version in RIFE_VERSIONS),
    )
}


def cache_folder() -> Path:
    """Where fetched and converted weights are kept: `$MIDFRAME_CACHE`, else `~/.cache/midframe`."""
    named = os.environ.get("MIDFRAME_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "midframe"


def shipped(name: str) -> Path | None:
    """The weights file of this model that came with midframe, checked against `SHA256SUMS` beside it, or None.

    Raises:
        WeightsError: it is not the file that was shipped.
    """
    path = SHIPPED / f"{name}.safetensors"
    if not path.is_file():
        return None
    check_sum(path, "install midframe again")
    return path


def note_sum(path: Path) -> None:
    """Bring the line of a file in the `SHA256SUMS` of its folder up to date, where there is such a line."""
    sums = path.parent / SUMS
    if not sums.is_file():
        return
    lines = sums.read_text(encoding="utf-8").splitlines()
    new = [f"{sha256(path)}  {path.name}" if line.endswith(f"  {path.name}") else line for line in lines]
    if new != lines:
        sums.write_text("".join(f"{line}\n" for line in new), encoding="utf-8")


def check_sum(path: Path, advice: str) -> None:
    """Compare a file with its line in the `SHA256SUMS` of its folder, if there is one.

    Raises:
        WeightsError: the file has another checksum.
    """
    with contextlib.suppress(OSError):
        lines = (path.parent / SUMS).read_text(encoding="utf-8").splitlines()
        known = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        if known.get(path.name, sha256(path)) != sha256(path):
            raise WeightsError(f"'{path}' is damaged: its SHA-256 is not the one in {path.parent / SUMS}; {advice}")


def find(record: Record, folder: Path | None = None) -> tuple[Path, ...]:
    """The files of a record, in its order.

    Args:
        record: what is looked for.
        folder: look only there; otherwise in midframe's and ModelScope's caches.

    Raises:
        WeightsError: they are not there; says which files go where.
    """
    if folder is not None and folder.is_file() and folder.name in record.files:
        folder = folder.parent  # one of the files was named
    places = [folder] if folder is not None else [_home(record), *_hub_caches(record)]
    for place in places:
        if all((place / name).is_file() for name in record.files):
            for name in record.files:
                check_sum(place / name, f"`midframe models fetch {record.name}` gets it again")
            return tuple(place / name for name in record.files)
    wanted = " and ".join(record.files)
    if folder is not None:
        there = [name for name in record.files if (folder / name).is_file()]
        missing = " and ".join(name for name in record.files if name not in there)
        what = f"'{folder}' is no folder" if not folder.is_dir() else f"'{folder}' has no {missing}"
        raise WeightsError(f"{what}; {record.name} needs {wanted} of {record.address} in it")
    raise WeightsError(
        f"{record.name} has no weights here: `midframe models fetch {record.name}` gets them, or put {wanted} of "
        f"{record.address} into {_home(record)} or a folder given with --weights"
    )


def _home(record: Record) -> Path:
    return cache_folder() / record.model


def _hub_caches(record: Record) -> list[Path]:
    """Where ModelScope's own library keeps this model, in its older and newer layouts."""
    if not record.hub:
        return []
    root = Path(os.environ.get("MODELSCOPE_CACHE") or Path.home() / ".cache" / "modelscope")
    owner, _, model = record.hub.partition("/")
    owners = (owner, "iic") if owner == "damo" else (owner,)  # the hub has renamed damo
    tops = (root, root / "hub", root / "models", root / "hub" / "models")
    return [top / one / model.replace(".", "___") for top in tops for one in owners]


def fetch(record: Record) -> tuple[Path, ...]:
    """Get the files of a record into midframe's cache, from its address or by ModelScope's own client.

    Raises:
        WeightsError: the client is not installed, the address cannot be reached, or what came is something else.
    """
    download = _download if record.downloads else _hub_client(record)
    home = _home(record)
    home.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(record.files):
        with tempfile.TemporaryDirectory(dir=home, prefix=".fetching-") as scratch:
            try:
                got = download(record, name, Path(scratch))
            except Exception as error:  # the client raises its own, requests', and plain ones
                raise WeightsError(
                    f"{name} could not be fetched from {record.downloads or record.hub} ({_reason(error)}); try again, "
                    f"or get it from {record.address} and put it into {home}"
                ) from error
            if record.sha256 and sha256(got) != record.sha256[number]:
                raise WeightsError(f"{name} from {record.downloads or record.hub} has another sha256 than published")
            os.replace(got, home / name)  # whole or not at all
    (home / SUMS).write_text("".join(f"{sha256(home / name)}  {name}\n" for name in record.files), encoding="utf-8")
    return tuple(home / name for name in record.files)


def _hub_client(record: Record) -> Callable[[Record, str, Path], Path]:
    try:
        from modelscope.hub.file_download import model_file_download
    except ImportError:
        raise WeightsError(
            f"fetching {record.name} needs ModelScope's hub client: {install_command('hub')}; or put "
            f"{' and '.join(record.files)} of {record.address} into {_home(record)}"
        ) from None
    return lambda record, name, folder: Path(
        model_file_download(model_id=record.hub, file_path=name, local_dir=str(folder))
    )


def _download(record: Record, name: str, folder: Path) -> Path:
    """A file over HTTPS; a page in its place is an error."""
    import urllib.request

    address = f"{record.downloads}/{name}"
    with urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as answer, (folder / name).open("wb") as file:
        if "html" in (answer.headers.get("Content-Type") or ""):
            raise OSError("the address answers with a web page")
        shutil.copyfileobj(answer, file)
    return folder / name


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(
    path: Path, expected: Shapes | Callable[[Shapes], Shapes], constant: Callable[[str], bool] = lambda name: False
) -> dict[str, Tensor]:
    """The tensors of a checkpoint, float ones as float32, checked, `module.` taken off their names.

    Args:
        path: `.safetensors`, or a file that `torch.save` wrote; of the latter a checked copy is kept.
        expected: name -> shape of every tensor there must be; or what returns that for the shapes in the file, and
            raises WeightsError where they are of no known architecture.
        constant: names of further tensors that may be there, and are left out.

    Raises:
        WeightsError: missing, damaged, more than tensors, or of another architecture.
    """
    if not path.is_file():
        raise WeightsError(f"'{path}' is no file")
    if path.suffix == ".safetensors":
        return check(read_safetensors(path), expected, path, constant)
    digest = sha256(path)
    copy = cache_folder() / "converted" / f"{digest}.safetensors"
    kept = _read_copy(copy)
    if kept is not None:
        return check(kept, expected, path, constant)
    state = check(_read_pytorch(path), expected, path, constant)
    _keep_copy(copy, state, path, digest)
    return state


def check(
    state: Mapping[str, Tensor],
    expected: Shapes | Callable[[Shapes], Shapes],
    path: Path,
    constant: Callable[[str], bool] = lambda name: False,
) -> dict[str, Tensor]:
    """Names and shapes against what there must be; `module.` is taken off, constants are left out.

    Raises:
        WeightsError: of another architecture, or with numbers that are none.
    """
    if callable(expected):
        try:
            expected = expected({given.removeprefix("module."): tuple(value.shape) for given, value in state.items()})
        except WeightsError as error:
            raise WeightsError(f"'{path}' holds {error}") from error
    out: dict[str, Tensor] = {}
    for given, value in state.items():
        name = given.removeprefix("module.")
        if name not in expected:
            if constant(name):
                continue
            raise WeightsError(f"'{path}' is of another architecture: it holds '{name}', which this model lacks")
        if tuple(value.shape) != expected[name]:
            raise WeightsError(
                f"'{path}' is of another architecture: '{name}' is {_said(tuple(value.shape))}, "
                f"not {_said(expected[name])}"
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(f"'{path}' is damaged: '{name}' holds numbers that are not finite")
        out[name] = value.float() if value.is_floating_point() else value
    # a counter of training steps decides nothing
    missing = [name for name in expected if name not in out and not name.endswith("num_batches_tracked")]
    if missing:
        raise WeightsError(f"'{path}' is of another architecture: it lacks '{missing[0]}' and {len(missing) - 1} more")
    return out


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        WeightsError: damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the file is no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"'{path}' is damaged or no safetensors file ({_reason(error)}); fetch it again") from error


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself.

    Raises:
        WeightsError: damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"'{path}' is damaged or no safetensors file ({_reason(error)}); fetch it again") from error


def count_parameters(path: Path) -> int:
    """Numbers in all tensors of a safetensors file, by its header.

    Raises:
        WeightsError: damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"'{path}' is damaged or no safetensors file ({_reason(error)}); fetch it again") from error


def _read_pytorch(path: Path) -> dict[str, Tensor]:
    """Tensors of a file that `torch.save` wrote, without running anything in it."""
    import torch

    try:
        with _quiet():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            starts = file.read(2)
        if starts == b"PK" or starts[:1] == b"\x80":  # an archive or a pickle, and it asks for more than tensors
            raise WeightsError(
                f"'{path}' holds more than tensors, which could be harmful code; it was not run"
            ) from error
        raise WeightsError(f"'{path}' is damaged or no PyTorch file; fetch it again") from error
    except Exception as error:  # a broken archive raises whatever its reader stumbles over
        raise WeightsError(
            f"'{path}' is damaged or cut short ({path.stat().st_size:,} bytes); fetch it again"
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsError(f"'{path}' holds a {type(content).__name__}, not a table of tensors")
    return {str(name): value for name, value in content.items()}


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
    """Torch warns of pickles of unknown protocols before it refuses them."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read_copy(copy: Path) -> dict[str, Tensor] | None:
    """The kept copy, if it is whole."""
    try:
        record = json.loads(copy.with_suffix(".json").read_text())
        if sha256(copy) == record["sha256"]:
            return read_safetensors(copy)
        log.warning("%s has changed since it was written; converting anew", copy)
    except (OSError, ValueError, KeyError, WeightsError):
        pass  # not there, or not whole: it is made anew
    return None


def save_half(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors in float16 as `.safetensors`, under a temporary name first."""
    from safetensors.torch import save_file

    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    half = {name: value.detach().half().contiguous().cpu() for name, value in state.items()}
    save_file(half, scratch, dict(metadata or {}))
    scratch.chmod(0o644)  # safetensors makes it readable by its owner alone
    scratch.replace(path)


def _keep_copy(copy: Path, state: Mapping[str, Tensor], source: Path, digest: str) -> None:
    """Write the copy and its record under temporary names, then rename; a cache that cannot be written is none."""
    from safetensors.torch import save_file

    scratch = copy.with_name(f".{copy.name}.{os.getpid()}")
    try:
        copy.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in state.items()}, scratch, {"source_sha256": digest})
        record = {"source": str(source), "source_sha256": digest, "sha256": sha256(scratch), "tensors": len(state)}
        os.replace(scratch, copy)
        note = scratch.with_suffix(".json")
        note.write_text(json.dumps(record, indent=1))
        os.replace(note, copy.with_suffix(".json"))
    except (OSError, SafetensorError) as error:
        log.warning("weights could not be kept as safetensors in %s: %s", copy.parent, error)
        with contextlib.suppress(OSError):
            scratch.unlink()


def _said(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape) or "a single number"


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
