"""ModelScope's way of asking for frame interpolation: its published snippets run with the import changed.

    from midframe.modelscope import pipeline, Tasks, OutputKeys

    interpolate = pipeline(Tasks.video_frame_interpolation, 'damo/cv_raft_video-frame-interpolation_practical')
    result = interpolate({'video': 'clip.mp4', 'interp_ratio': 4})[OutputKeys.OUTPUT_VIDEO]

What differs, on purpose: a CPU works; films of any number of frames and any length; sound and the rest are kept;
the clock is exact, unless `compat=True`. After modelscope/pipelines (Apache-2.0); nothing of it is imported.
"""

from __future__ import annotations

import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, overload

import numpy as np
import torch
from torch import Tensor

from midframe import metrics, ops
from midframe.engine import Engine
from midframe.errors import InputError, MediaError
from midframe.models import vfinet
from midframe.models.vfinet import VFINet
from midframe.pipeline import interpolate
from midframe.weights import RECORDS

DEFAULT_MODEL = "damo/cv_raft_video-frame-interpolation"
EXTENSION = "_interpolated.mp4"


class Tasks:
    """The one task of ModelScope's that midframe does."""

    video_frame_interpolation: ClassVar[str] = "video-frame-interpolation"


class OutputKeys:
    """Keys of a result."""

    OUTPUT_VIDEO: ClassVar[str] = "output_video"


class Model:
    """A network with its weights, to be handed to `pipeline`."""

    def __init__(self, network: VFINet, name: str) -> None:
        """Take a network; `Model.from_pretrained` finds one."""
        self.network, self.name = network, name

    @classmethod
    def from_pretrained(cls, model: str) -> Model:
        """The network of a hub id (`damo/...`, `iic/...`), of a midframe name, or of a folder with the two checkpoints.

        Raises:
            InputError: neither of them.
            WeightsError: weights missing, damaged or of another architecture.
        """
        for record in RECORDS.values():
            ids = {record.hub, record.hub.replace("damo/", "iic/"), record.name}
            if model in ids:
                return cls(vfinet.load(record), model)
        if Path(model).is_dir():
            return cls(vfinet.load(RECORDS["vfinet"], Path(model)), model)
        known = ", ".join(record.hub for record in RECORDS.values())
        raise InputError(f"no model is called '{model}'; there are {known}, or give a folder with the two checkpoints")


class Pipeline:
    """Interpolates films; `pipeline` makes one."""

    def __init__(self, model: Model, compat: bool = False, **wishes: Any) -> None:
        """Keep what every call shall use; see `pipeline`."""
        self.model, self.compat, self.wishes = model, compat, wishes

    @overload
    def __call__(self, input: str | Mapping[str, Any], **wishes: Any) -> dict[str, str]: ...
    @overload
    def __call__(self, input: Sequence[str | Mapping[str, Any]], **wishes: Any) -> list[dict[str, str]]: ...
    def __call__(
        self, input: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]], **wishes: Any
    ) -> dict[str, str] | list[dict[str, str]]:
        """Interpolate a film, or each of a list.

        Args:
            input: path or URL of a film, or a dict with `video` and either of `interp_ratio` and `out_fps`; the ratio
                wins, 2x if neither is given. A list gives a list.
            wishes: `output_video=` names the result (a temporary file if not given); `demo_service`, ModelScope's
                switch for its lossy second step, which is not done here, is taken and changes nothing; anything else is
                an option of `midframe.interpolate`.

        Returns:
            {OutputKeys.OUTPUT_VIDEO: path}.

        Raises:
            InputError, MediaError: a wish that cannot be meant, or a film that cannot be read.
        """
        if isinstance(input, Sequence) and not isinstance(input, str):
            if wishes.get("output_video") is not None and len(input) > 1:
                raise InputError("output_video= names one file, and several films were given; call once for each")
            return [self._one(one, **wishes) for one in input]
        return self._one(input, **wishes)

    def _one(
        self,
        given: str | Mapping[str, Any],
        output_video: str | None = None,
        compat: bool | None = None,
        demo_service: bool = True,
        **wishes: Any,
    ) -> dict[str, str]:
        del demo_service
        asked: Mapping[str, Any] = {"video": given} if isinstance(given, str | Path) else given
        if not isinstance(asked, Mapping) or "video" not in asked:
            raise InputError(
                "the input is a path, or a dict with the keys video, interp_ratio or out_fps; no video given"
            )
        unknown = set(asked) - {"video", "interp_ratio", "out_fps"}
        if unknown:
            raise InputError(
                f"the input has keys video, interp_ratio and out_fps; {', '.join(sorted(unknown))} is none"
            )
        rate: dict[str, Any] = {}
        if asked.get("interp_ratio") is not None:
            rate["ratio"] = Fraction(str(asked["interp_ratio"]))
        elif asked.get("out_fps") is not None:
            rate["fps"] = asked["out_fps"]
        options = {**self.wishes, **wishes, **rate, "model": "vfinet"}
        if self.compat if compat is None else compat:
            options = {"compat": "modelscope", "static": "off", **options}
        with tempfile.TemporaryDirectory(prefix="midframe-") as folder:
            source = _local(str(asked["video"]), Path(folder))
            if output_video is None:
                target = Path(tempfile.mkdtemp(prefix="midframe-")) / f"{source.stem}{EXTENSION}"
            else:
                target = Path(output_video)
                options.setdefault("overwrite", True)  # as the original does with a name that it was given
            result = interpolate(source, target, network=self.model.network, **options)
        return {OutputKeys.OUTPUT_VIDEO: str(result.path)}


def pipeline(
    task: str = Tasks.video_frame_interpolation,
    model: str | Model | None = None,
    compat: bool = False,
    device: str = "auto",
    **wishes: Any,
) -> Pipeline:
    """A callable that interpolates films, as ModelScope's `pipeline` gives it.

    Args:
        task: `Tasks.video_frame_interpolation`.
        model: hub id, folder or `Model`; the first published model if None, as in ModelScope.
        compat: ModelScope's clock, frame count, cut rule and size rule in place of ours.
        device: "auto", "cpu", "cuda", "gpu" (ModelScope's word for cuda), "cuda:1" ...
        wishes: further options of `midframe.interpolate` for every call.

    Raises:
        InputError: another task, or no such model.
        WeightsError: weights missing, damaged or of another architecture.
    """
    if task != Tasks.video_frame_interpolation:
        raise InputError(f"midframe does {Tasks.video_frame_interpolation!r}, not {task!r}")
    loaded = model if isinstance(model, Model) else Model.from_pretrained(model or DEFAULT_MODEL)
    return Pipeline(loaded, compat, device=device.replace("gpu", "cuda"), **wishes)


def _local(video: str, folder: Path) -> Path:
    """A path as it is; a URL, fetched into `folder`."""
    parts = urllib.parse.urlsplit(video)
    if parts.scheme not in ("http", "https"):
        return Path(video)
    target = folder / (Path(urllib.parse.unquote(parts.path)).name or "video.mp4")
    try:
        with urllib.request.urlopen(video, timeout=60) as answer:
            if "html" in answer.headers.get_content_type():
                raise MediaError(f"'{video}' answers with a web page, not with a film")
            with target.open("wb") as file:
                while block := answer.read(1 << 20):
                    file.write(block)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise MediaError(f"'{video}' cannot be fetched: {getattr(error, 'reason', error)}") from error
    return target


# The published evaluation ---------------------------------------------------------------------------------------


class VideoFrameInterpolationDataset:
    """Sets of four frames and the one in the middle, listed as ModelScope lists them.

    Item: {'Input1:FILE': path, ..., 'Input4:FILE': path, 'Output:FILE': path}.
    """

    def __init__(self, dataset: Iterable[Mapping[str, str]], opt: Mapping[str, Any] | None = None) -> None:
        """Take the listing; `opt` is what ModelScope's configuration says of it, which decides nothing here."""
        self.items = [dict(item) for item in dataset]
        self.opt = opt

    @classmethod
    def from_folder(cls, folder: str | Path) -> VideoFrameInterpolationDataset:
        """A folder with one folder a set, each with `frame1` to `frame4` and `framet` (or im1, im3, im5, im7 and im4).

        Raises:
            MediaError: no such sets in it.
        """
        items = []
        for one in sorted(path for path in Path(folder).glob("**") if path.is_dir()):
            files = {path.stem: str(path) for path in sorted(one.iterdir()) if path.is_file()}
            for names in (("frame1", "frame2", "frame3", "frame4", "framet"), ("im1", "im3", "im5", "im7", "im4")):
                if all(name in files for name in names):
                    keys = [*(f"Input{i}:FILE" for i in range(1, 5)), "Output:FILE"]
                    items.append({key: files[name] for key, name in zip(keys, names, strict=True)})
        if not items:
            raise MediaError(f"'{folder}' has no folders with frame1 ... frame4 and framet, or im1 ... im7")
        return cls(items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """{'input': (4, 3, H, W), 'target': (3, H, W)}: RGB float32, 0..1."""
        item = self.items[index]
        pictures = [_read(item[f"Input{i}:FILE"]) for i in range(1, 5)]
        return {"input": torch.stack(pictures), "target": _read(item["Output:FILE"])}


def _read(path: str) -> Tensor:
    import cv2

    data = np.fromfile(path, np.uint8) if Path(path).is_file() else np.empty(0, np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if picture is None:
        raise MediaError(f"'{path}' is no picture that can be read")
    return torch.from_numpy(picture[:, :, ::-1].copy()).permute(2, 0, 1).float() / 255


class Trainer:
    """Only the `evaluate` of ModelScope's trainer; it publishes no training for this task."""

    def __init__(self, model: Model, eval_dataset: VideoFrameInterpolationDataset, device: str = "auto") -> None:
        """Take a model and what to evaluate it on."""
        self.engine, self.dataset = Engine(model.network, device), eval_dataset

    def evaluate(self) -> dict[str, float]:
        """Means over the sets, by ModelScope's definitions: {'psnr': dB, 'ssim': ..., 'lpips': ...}.

        The picture half way between the second and third of four frames, zero-padded to multiples of 32, neither
        rounded nor clamped. 'lpips' is left out where its package or weights are absent.
        """
        distance = metrics.load_lpips()
        rows: list[dict[str, float]] = []
        for i in range(len(self.dataset)):
            item = self.dataset[i]
            before, a, b, after = item["input"]
            made = self.engine.between(a, b, [0.5], before, after)[0].cpu()
            target = item["target"]
            made = ops.crop(made, *target.shape[-2:])
            row = {"psnr": metrics.psnr_modelscope(made, target), "ssim": metrics.ssim_modelscope(made, target)}
            if distance is not None:
                row["lpips"] = distance.modelscope(made, target)
            rows.append(row)
        if not rows:
            raise InputError("the evaluation set is empty")
        return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def build_trainer(name: str | None = None, default_args: Mapping[str, Any] | None = None) -> Trainer:
    """As ModelScope's, for evaluation.

    Args:
        name: of the trainer; there is one.
        default_args: `model` (hub id, folder or `Model`), `eval_dataset` (its dataset class or a folder),
            `device`; `train_dataset` and `work_dir` are taken, and None is trained.

    Raises:
        InputError: a set to train on, or nothing to evaluate on.
    """
    given = dict(default_args or {})
    if given.get("train_dataset") is not None:
        raise InputError("ModelScope publishes no training for this model; see `midframe train` for our own network")
    dataset = given.get("eval_dataset")
    if isinstance(dataset, str | Path):
        dataset = VideoFrameInterpolationDataset.from_folder(dataset)
    if not isinstance(dataset, VideoFrameInterpolationDataset):
        raise InputError("build_trainer needs eval_dataset=, a VideoFrameInterpolationDataset or a folder")
    model = given.get("model", DEFAULT_MODEL)
    loaded = model if isinstance(model, Model) else Model.from_pretrained(str(model))
    return Trainer(loaded, dataset, str(given.get("device", "auto")))
