"""ModelScope's clock, row by row; its cut rule; its facade, with a model that needs no weights."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch

import vfinet_reference as reference
from midframe import compat, pipeline
from midframe.engine import Engine
from midframe.errors import InputError, MediaError
from midframe.metrics import psnr_modelscope, ssim_modelscope
from midframe.models.blend import Blend
from midframe.models.vfinet import Memoising, VFINet
from midframe.models.vfinet.cuts import is_cut
from midframe.modelscope import (
    Model,
    OutputKeys,
    Tasks,
    VideoFrameInterpolationDataset,
    build_trainer,
)
from midframe.modelscope import pipeline as make_pipeline
from midframe.types import Frame, Gap, PixelFormat
from model_fakes import RgbBlend

GRAY = PixelFormat("gray", "gray", 8, full_range=True)


def video(count: int, cuts_after: list[int], rate: Fraction) -> Iterator[Frame]:
    """Frames whose one level is their number."""
    for i in range(count):
        shot = sum(i > cut for cut in cuts_after)
        plane = torch.full((4, 4), 10 * i, dtype=torch.uint8)
        yield Frame((plane,), GRAY, i / rate, 1 / rate, i, shot)


def positions(gaps: list[Gap]) -> tuple[list[float], list[list[Any]]]:
    """Source positions of the outputs and the model's calls, as the recordings have them."""
    places, calls = [], []
    for gap in gaps:
        for slot in gap.slots:
            places.append(gap.a.index + (0.0 if gap.cut else float(slot.t)))
            if slot.t > 0:
                four = gap.before is not None and gap.after is not None
                calls.append([gap.a.index, float(slot.t), "hold" if gap.cut else "quadratic" if four else "linear"])
    return places, calls


@pytest.mark.parametrize(
    "row", reference.schedules(), ids=lambda row: f"{row['frames']}f-{row['fps']}-{row['out_fps']}"
)
def test_every_recorded_schedule_is_met(row: dict[str, Any]) -> None:
    rate = Fraction(row["out_fps"]).limit_denominator(1001)
    frames = video(row["frames"], row.get("cuts_after", []), Fraction(row["fps"]).limit_denominator(1001))
    gaps = list(compat.gaps(frames, row["fps"], row["out_fps"], rate=rate))
    places, calls = positions(gaps)
    instants = [slot.pts for gap in gaps for slot in gap.slots]
    assert instants == [k / rate for k in range(len(instants))]
    assert compat.count(row["frames"], row["fps"], row["out_fps"]) == len(places)
    if "error" in row:  # too few frames for the original; the same rule goes on here
        n = row["frames"]
        assert places == [k / 2 for k in range(2 * n - 1)]
        assert calls == [[i, 0.5, "linear"] for i in range(n - 1)]
        return
    assert len(places) == row["outputs"]
    assert places == pytest.approx(row["source_position"])
    assert calls == [[a, pytest.approx(t), kind] for a, t, kind in row["calls"]]


def test_one_frame_in_one_frame_out() -> None:
    (gap,) = compat.gaps(video(1, [], Fraction(25)), 25, 50, rate=Fraction(50))
    assert (gap.a.index, gap.b, len(gap.slots)) == (0, None, 1)
    assert compat.count(1, 25, 50) == 1
    assert compat.count(0, 25, 50) == 0


def test_the_clock_is_a_stream() -> None:
    """A video without end is not gathered."""
    taken = 0

    def counted() -> Iterator[Frame]:
        nonlocal taken
        for i in range(10**6):
            taken += 1
            yield Frame((torch.zeros(4, 4, dtype=torch.uint8),), GRAY, Fraction(i, 25), Fraction(1, 25), i)

    gaps = compat.gaps(counted(), 25, 50, rate=Fraction(50))
    for _ in range(10):
        next(gaps)
    assert taken < 12


def test_copies_are_the_source_bit_for_bit() -> None:
    frames = list(video(5, [], Fraction(24)))
    made = list(Engine(Blend()).run(compat.gaps(iter(frames), 24, 60, rate=Fraction(60))))
    copies = [frame for frame in made if frame.kind in ("source", "held")]
    assert len(copies) == len(made) - sum(frame.kind == "interpolated" for frame in made) > 0
    assert all(any(torch.equal(c.planes[0], f.planes[0]) for f in frames) for c in copies)


def image(seed: int, level: float = 128.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 20, 28, generator=generator)
    return (torch.nn.functional.interpolate(coarse, size=(160, 224), mode="bicubic") * 2 * level).clamp(0, 255).round()


def test_cut_rule() -> None:
    a, zero = image(1), torch.zeros(1, 2, 160, 224)

    def never() -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError("the histograms decide")

    assert is_cut(a, image(2, 20.0), never)
    wild = torch.full((1, 2, 160, 224), 9.0)
    assert not is_cut(a, a, lambda: (zero, zero))
    # flows that miss each other, and frames that differ where they point
    assert is_cut(a, image(3), lambda: (wild, wild))
    assert not is_cut(a, image(3), lambda: (wild, -wild))  # flows agree
    shifted = torch.roll(a, (9, 9), dims=(2, 3))
    assert not is_cut(a, shifted, lambda: (wild, wild))  # frames agree
    assert not is_cut(a[..., :128, :], image(3)[..., :128, :], lambda: (zero, zero))  # no room for the grid


def test_work_for_cuts_is_not_done_twice() -> None:
    class Counting(RgbBlend):
        encoded = matched = 0

        def encode(self, image: torch.Tensor) -> Any:
            Counting.encoded += 1
            return super().encode(image)

        def match(self, a: Any, b: Any) -> Any:
            Counting.matched += 1
            return object()

    model = Memoising(Counting())
    images = [torch.full((1, 3, 4, 4), i / 9) for i in range(9)]
    for first, second in pairwise(images):
        for _ in range(2):  # detector, then engine
            features = model.encode(first.clone()), model.encode(second.clone())
            assert model.match(*features) is model.match(*features)
    assert (Counting.encoded, Counting.matched) == (9, 8)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    write_clip(path, 6)
    return path


def write_clip(path: Path, frames: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(frames):
            ramp = (np.add.outer(np.arange(48), np.arange(64) + 4 * i) * 2 % 256).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.stack([ramp] * 3, -1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def counted(path: str) -> tuple[int, Fraction]:
    with av.open(path) as container:
        rate = container.streams.video[0].average_rate
        return sum(1 for _ in container.decode(video=0)), Fraction(rate)


@pytest.fixture
def blend() -> Model:
    return Model(Blend(), "blend")  # type: ignore[arg-type]


def test_the_published_examples(clip: Path, blend: Model) -> None:
    ask = make_pipeline(Tasks.video_frame_interpolation, blend, device="cpu")
    for given, frames, rate in (
        ({"video": str(clip), "interp_ratio": 4}, 24, 100),
        ({"video": str(clip), "out_fps": 50}, 12, 50),
        ({"video": str(clip)}, 12, 50),
        ({"video": str(clip), "out_fps": 30, "interp_ratio": 2}, 12, 50),  # the ratio wins
    ):
        assert counted(ask(given)[OutputKeys.OUTPUT_VIDEO]) == (frames, rate)


def test_strings_lists_and_a_named_output(clip: Path, blend: Model, tmp_path: Path) -> None:
    ask = make_pipeline(Tasks.video_frame_interpolation, blend, device="cpu")
    target = tmp_path / "named.mp4"
    for _ in range(2):  # a name that was given is written again
        assert ask(str(clip), output_video=str(target)) == {OutputKeys.OUTPUT_VIDEO: str(target)}
    several = ask([str(clip), {"video": str(clip), "interp_ratio": 3}])
    assert [counted(one[OutputKeys.OUTPUT_VIDEO])[0] for one in several] == [12, 18]
    with pytest.raises(InputError, match="one file"):
        ask([str(clip), str(clip)], output_video=str(target))


@pytest.mark.parametrize(("frames", "expected"), [(1, 1), (2, 3), (3, 5), (6, 11)])
def test_compat_has_modelscopes_count(frames: int, expected: int, blend: Model, tmp_path: Path) -> None:
    write_clip(tmp_path / "video.mp4", frames)
    ask = make_pipeline(Tasks.video_frame_interpolation, blend, compat=True, device="cpu")
    assert counted(ask({"video": str(tmp_path / "video.mp4")})[OutputKeys.OUTPUT_VIDEO])[0] == expected


def test_compat_takes_the_reference_rules_and_leaves_the_network_as_it_was() -> None:
    with torch.device("meta"):
        network = VFINet()
    options = pipeline.options_of({"compat": "modelscope", "device": "cpu"})
    with torch.device("meta"):
        engine = pipeline.make_engine(options, network.to_empty(device="cpu"))
    assert isinstance(engine.model, Memoising)
    assert engine.model.inner.large == "reference"
    assert network.large == "area"


def test_scene_modelscope_needs_vfinet() -> None:
    with pytest.raises(InputError, match="a rule that model blend does not have"):
        pipeline.make_engine(pipeline.options_of({"scene": "modelscope", "model": "blend"}))


def test_errors_say_what_is_wanted(clip: Path, blend: Model) -> None:
    ask = make_pipeline(Tasks.video_frame_interpolation, blend, device="cpu")
    with pytest.raises(InputError, match="video"):
        ask({"interp_ratio": 2})
    with pytest.raises(InputError, match="unknown input key ratio"):
        ask({"video": str(clip), "ratio": 2})
    with pytest.raises(MediaError):
        ask("nowhere.mp4")
    with pytest.raises(InputError, match="'image-matting' is not supported"):
        make_pipeline("image-matting", blend)
    with pytest.raises(InputError, match="unknown model"):
        make_pipeline(Tasks.video_frame_interpolation, "damo/another")
    with pytest.raises(InputError, match="no training"):
        build_trainer(default_args={"model": blend, "train_dataset": object()})
    with pytest.raises(InputError, match="eval_dataset"):
        build_trainer(default_args={"model": blend})


def test_published_evaluation(tmp_path: Path, blend: Model) -> None:
    generator = np.random.default_rng(1)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for part in ("frame1", "frame2", "frame3", "frame4", "framet"):
            cv2.imwrite(str(tmp_path / name / f"{part}.png"), generator.integers(0, 256, (40, 56, 3), dtype=np.uint8))
    dataset = VideoFrameInterpolationDataset.from_folder(tmp_path)
    trainer = build_trainer(default_args={"model": blend, "eval_dataset": dataset, "device": "cpu", "work_dir": "x"})
    found = trainer.evaluate()
    mixed = [((d["input"][1] + d["input"][2]) / 2, d["target"]) for d in (dataset[0], dataset[1])]
    assert found["psnr"] == pytest.approx(np.mean([psnr_modelscope(*pair) for pair in mixed]), abs=1e-4)
    assert found["ssim"] == pytest.approx(np.mean([ssim_modelscope(*pair) for pair in mixed]), abs=1e-4)
    with pytest.raises(MediaError, match="no folder with frame1"):
        VideoFrameInterpolationDataset.from_folder(tmp_path / "empty")
