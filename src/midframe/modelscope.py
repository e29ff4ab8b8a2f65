"""ModelScope's interface for video frame interpolation: its published snippets run with only the import changed.

    from midframe.modelscope import pipeline, Tasks, OutputKeys

    interpolate = pipeline(Tasks.video_frame_interpolation, 'damo/cv_raft_video-frame-interpolation_practical')
    result = interpolate({'video': 'clip.mp4', 'interp_ratio': 4})[OutputKeys.OUTPUT_VIDEO]

Differences: a CPU suffices; videos may have any number of frames; audio and all other streams are kept; timestamps are
exact unless `compat=True`. After modelscope/pipelines (Apache-2.0), without importing it.
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

DEFAULT_PIPELINE_MODEL = "damo/cv_raft_video-frame-interpolation"
EXTENSION = "_interpolated.mp4"


class Tasks:
    """The ModelScope task that midframe supports."""

    video_frame_interpolation: ClassVar[str] = "video-frame-interpolation"


class OutputKeys:
    """Keys of a result."""

    OUTPUT_VIDEO: ClassVar[str] = "output_video"


class Model:
    """A network with its weights, for `pipeline`."""

    def __init__(self, network: VFINet, name: str) -> None:
        """Wrap a network; see `Model.from_pretrained`."""
        self.network, self.name = network, name

    @classmethod
    def from_pretrained(cls, model: str) -> Model:
        """Load the network of a hub id (`damo/...`, `iic/...`), a midframe name, or a folder with the two checkpoints.

        Raises:
            InputError: unknown model.
            WeightsError: weights are missing, damaged or of another architecture.
        """
        for record in RECORDS.values():
            ids = {record.hub, record.hub.replace("damo/", "iic/"), record.name}
            if model in ids:
                return cls(vfinet.load(record), model)
        if Path(model).is_dir():
            return cls(vfinet.load(RECORDS["vfinet"], Path(model)), model)
        known = ", ".join(record.hub for record in RECORDS.values())
        raise InputError(f"unknown model '{model}'; use {known}, or a folder with the two checkpoints")


class Pipeline:
    """A callable that interpolates videos; see `pipeline`."""

    def __init__(self, model: Model, compat: bool = False, **options: Any) -> None:
        """Store the model and the options of every call; see `pipeline`."""
        self.model, self.compat, self.options = model, compat, options

    @overload
    def __call__(self, input: str | Mapping[str, Any], **options: Any) -> dict[str, str]: ...
    @overload
    def __call__(self, input: Sequence[str | Mapping[str, Any]], **options: Any) -> list[dict[str, str]]: ...
    def __call__(
        self, input: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]], **options: Any
    ) -> dict[str, str] | list[dict[str, str]]:
        """Interpolate one video or a list of videos.

        Args:
            input: path or URL of a video, or a dict with `video` and `interp_ratio` or `out_fps`; the ratio takes
                precedence; default: 2x. A list returns a list.
            options: `output_video=` is the path of the result (default: a temporary file); `demo_service`,
                which selects a lossy second step in ModelScope, is accepted and ignored; all others are options of
                `midframe.interpolate`.

        Returns:
            {OutputKeys.OUTPUT_VIDEO: path}.

        Raises:
            InputError: invalid option.
            MediaError: the video cannot be read.
        """
        if isinstance(input, Sequence) and not isinstance(input, str):
            if options.get("output_video") is not None and len(input) > 1:
                raise InputError("output_video= is one file, but several videos are given; call once for each video")
            return [self._one(one, **options) for one in input]
        return self._one(input, **options)

    def _one(
        self,
        given: str | Mapping[str, Any],
        output_video: str | None = None,
        compat: bool | None = None,
        demo_service: bool = True,
        **options: Any,
    ) -> dict[str, str]:
        del demo_service
        request: Mapping[str, Any] = {"video": given} if isinstance(given, str | Path) else given
        if not isinstance(request, Mapping) or "video" not in request:
            raise InputError("no video is given; the input is a path, or a dict with video and interp_ratio or out_fps")
        unknown = set(request) - {"video", "interp_ratio", "out_fps"}
        if unknown:
            raise InputError(
                f"unknown input key {', '.join(sorted(unknown))}; allowed are video, interp_ratio and out_fps"
            )
        rate: dict[str, Any] = {}
        if request.get("interp_ratio") is not None:
            rate["ratio"] = Fraction(str(request["interp_ratio"]))
        elif request.get("out_fps") is not None:
            rate["fps"] = request["out_fps"]
        merged = {**self.options, **options, **rate, "model": "vfinet"}
        if self.compat if compat is None else compat:
            merged = {"compat": "modelscope", "static": "off", **merged}
        with tempfile.TemporaryDirectory(prefix="midframe-") as folder:
            source = _local(str(request["video"]), Path(folder))
            if output_video is None:
                target = Path(tempfile.mkdtemp(prefix="midframe-")) / f"{source.stem}{EXTENSION}"
            else:
                target = Path(output_video)
                merged.setdefault("overwrite", True)  # as ModelScope does
            result = interpolate(source, target, network=self.model.network, **merged)
        return {OutputKeys.OUTPUT_VIDEO: str(result.path)}


def pipeline(
    task: str = Tasks.video_frame_interpolation,
    model: str | Model | None = None,
    compat: bool = False,
    device: str = "auto",
    **options: Any,
) -> Pipeline:
    """Return a callable that interpolates videos, like ModelScope's `pipeline`.

    Args:
        task: `Tasks.video_frame_interpolation`.
        model: hub id, folder or `Model`; default: the first published model, as in ModelScope.
        compat: reproduce ModelScope's timestamps, frame count, scene-change rule and size rule.
        device: "auto", "cpu", "cuda", "gpu" (ModelScope's name for cuda), "cuda:1" ...
        options: options of `midframe.interpolate` for every call.

    Raises:
        InputError: unknown task or model.
        WeightsError: weights are missing, damaged or of another architecture.
    """
    if task != Tasks.video_frame_interpolation:
        raise InputError(f"task {task!r} is not supported; use {Tasks.video_frame_interpolation!r}")
    loaded = model if isinstance(model, Model) else Model.from_pretrained(model or DEFAULT_PIPELINE_MODEL)
    return Pipeline(loaded, compat, device=device.replace("gpu", "cuda"), **options)


def _local(video: str, folder: Path) -> Path:
    """Return a local path; a URL is downloaded into `folder`."""
    parts = urllib.parse.urlsplit(video)
    if parts.scheme not in ("http", "https"):
        return Path(video)
    target = folder / (Path(urllib.parse.unquote(parts.path)).name or "video.mp4")
    try:
        with urllib.request.urlopen(video, timeout=60) as answer:
            if "html" in answer.headers.get_content_type():
                raise MediaError(f"'{video}' returned a web page, not a video")
            with target.open("wb") as file:
                while block := answer.read(1 << 20):
                    file.write(block)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise MediaError(f"'{video}' cannot be downloaded: {getattr(error, 'reason', error)}") from error
    return target


# The published evaluation ---------------------------------------------------------------------------------------


class VideoFrameInterpolationDataset:
    """Sets of four input frames and the target frame, listed in ModelScope's form.

    Item: {'Input1:FILE': path, ..., 'Input4:FILE': path, 'Output:FILE': path}.
    """

    def __init__(self, dataset: Iterable[Mapping[str, str]], opt: Mapping[str, Any] | None = None) -> None:
        """Store the items; `opt`, ModelScope's configuration, is accepted and ignored."""
        self.items = [dict(item) for item in dataset]
        self.opt = opt

    @classmethod
    def from_folder(cls, folder: str | Path) -> VideoFrameInterpolationDataset:
        """Find folders with `frame1` to `frame4` and `framet`, or with im1, im3, im5, im7 and im4.

        Raises:
            MediaError: there is none.
        """
        items = []
        for one in sorted(path for path in Path(folder).glob("**") if path.is_dir()):
            files = {path.stem: str(path) for path in sorted(one.iterdir()) if path.is_file()}
            for names in (("frame1", "frame2", "frame3", "frame4", "framet"), ("im1", "im3", "im5", "im7", "im4")):
                if all(name in files for name in names):
                    keys = [*(f"Input{i}:FILE" for i in range(1, 5)), "Output:FILE"]
                    items.append({key: files[name] for key, name in zip(keys, names, strict=True)})
        if not items:
            raise MediaError(f"'{folder}' contains no folder with frame1 ... frame4 and framet, or im1 ... im7")
        return cls(items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """{'input': (4, 3, H, W), 'target': (3, H, W)}: RGB float32, 0..1."""
        item = self.items[index]
        frames = [_read(item[f"Input{i}:FILE"]) for i in range(1, 5)]
        return {"input": torch.stack(frames), "target": _read(item["Output:FILE"])}


def _read(path: str) -> Tensor:
    import cv2

    data = np.fromfile(path, np.uint8) if Path(path).is_file() else np.empty(0, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise MediaError(f"'{path}' is not a readable image")
    return torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1).float() / 255


class Trainer:
    """ModelScope's trainer, limited to `evaluate`: there is no published training for this task."""

    def __init__(self, model: Model, eval_dataset: VideoFrameInterpolationDataset, device: str = "auto") -> None:
        """Prepare a model and a data set."""
        self.engine, self.dataset = Engine(model.network, device), eval_dataset

    def evaluate(self) -> dict[str, float]:
        """Return the means over the data set, by ModelScope's definitions: {'psnr': dB, 'ssim': ..., 'lpips': ...}.

        The frame midway between the second and third of four frames is interpolated from inputs zero-padded to
        multiples of 32, without rounding or clamping. 'lpips' is omitted if its package or weights are missing.
        """
        distance = metrics.load_lpips()
        rows: list[dict[str, float]] = []
        for i in range(len(self.dataset)):
            item = self.dataset[i]
            before, a, b, after = item["input"]
            interpolated = self.engine.between(a, b, [0.5], before, after)[0].cpu()
            target = item["target"]
            interpolated = ops.crop(interpolated, *target.shape[-2:])
            row = {
                "psnr": metrics.psnr_modelscope(interpolated, target),
                "ssim": metrics.ssim_modelscope(interpolated, target),
            }
            if distance is not None:
                row["lpips"] = distance.modelscope(interpolated, target)
            rows.append(row)
        if not rows:
            raise InputError("the evaluation set is empty")
        return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def build_trainer(name: str | None = None, default_args: Mapping[str, Any] | None = None) -> Trainer:
    """Return a trainer for evaluation, like ModelScope's `build_trainer`.

    Args:
        name: of the trainer; ignored, since there is only one.
        default_args: `model` (hub id, folder or `Model`), `eval_dataset` (its dataset class or a folder),
            `device`; `train_dataset` must be None; `work_dir` is ignored.

    Raises:
        InputError: `train_dataset` is given, or `eval_dataset` is missing.
    """
    given = dict(default_args or {})
    if given.get("train_dataset") is not None:
        raise InputError("ModelScope publishes no training for this model; see `midframe train` for our own network")
    dataset = given.get("eval_dataset")
    if isinstance(dataset, str | Path):
        dataset = VideoFrameInterpolationDataset.from_folder(dataset)
    if not isinstance(dataset, VideoFrameInterpolationDataset):
        raise InputError("build_trainer needs eval_dataset=, a VideoFrameInterpolationDataset or a folder")
    model = given.get("model", DEFAULT_PIPELINE_MODEL)
    loaded = model if isinstance(model, Model) else Model.from_pretrained(str(model))
    return Trainer(loaded, dataset, str(given.get("device", "auto")))
