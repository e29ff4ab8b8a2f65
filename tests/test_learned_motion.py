"""The learned motion inside midnet: its scale, where it is used, weights."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import pytest
import torch
from torch import Tensor, nn

from midframe import kernels
from midframe.errors import InputError, WeightsError
from midframe.models.base import RenderRequest
from midframe.models.flow.intermediate import IntermediateFlow, LearnedMotion
from midframe.models.flow.matcher import FlowAtLevel, Matched, stride_of
from midframe.models.midnet import SIZES, Architecture, Midnet, load_midnet, save_midnet
from midframe.models.midnet.checkpoint import widened
from midframe.models.midnet.learned_motion import prepare_learned_motion, refine
from midframe.models.midnet.model import backend_for
from midframe.models.midnet.torch_backend import TorchBackend
from midframe.models.midnet.types import FeatureChannel, LearnedMotionInput
from midframe.training.recipe import Recipe
from midframe.training.refiner import load_motion
from midframe.training.train import initial_network
from midframe.weights import save_half


class KnownMotion(nn.Module):
    """Stands for perfect learned motion of frames that move by (x, y) pixels; notes the matcher's inputs."""

    def __init__(self, x: float, y: float, downscale: int) -> None:
        super().__init__()
        self.vector = torch.tensor([x, y]).view(1, 2, 1, 1) / downscale
        self.inputs: list[Tensor] = []
        self.matcher = SimpleNamespace(stem_features=self._stem, pyramid=lambda stem: [stem], match=self._match)
        self.refiner = self._refine

    def _stem(self, image: Tensor) -> Tensor:
        self.inputs.append(image)
        return image[:, :, ::2, ::2]

    def _match(self, one: list[Tensor], two: list[Tensor], *_: Any) -> Matched:
        height, width = one[0].shape[-2:]
        flow = torch.cat([0.5 * self.vector, -0.5 * self.vector]).expand(2, 2, height, width)
        occlusion = torch.full((2, 1, height // 2, width // 2), -4.0)
        return Matched(torch.zeros(2, 1, 1), (FlowAtLevel(flow, occlusion, 4), FlowAtLevel(flow, None, 2)))

    def _refine(self, images: tuple[Tensor, Tensor], stems: Any, candidates: Any, t: Tensor) -> IntermediateFlow:
        shape = len(t), 2, *images[0].shape[-2:]
        logit = torch.full((len(t), 1, *shape[2:]), 3.0)
        return IntermediateFlow((-t * self.vector).expand(shape), ((1 - t) * self.vector).expand(shape), logit)


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(1, 3, height // 4 + 2, width // 4 + 2, generator=generator)
    return torch.nn.functional.interpolate(rough, size=(height, width), mode="bilinear", align_corners=False)


def prepared(motion: KnownMotion, image: Tensor, downscale: int | None = None) -> LearnedMotionInput:
    net = Midnet(SIZES["midnet-m"]).eval()
    features = net.encode(image)
    fields = net.match(features, features).primary
    places = torch.ones(1, 1, image.shape[-2] // 4, image.shape[-1] // 4)
    return prepare_learned_motion(motion, (features, features), fields, (places, places), downscale)  # type: ignore[arg-type]


@pytest.mark.parametrize("downscale", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(96, 160), (112, 176)])
def test_refined_flow_is_in_pixels_at_a_quarter_of_the_frame(downscale: int, size: tuple[int, int]) -> None:
    image, motion = noise(*size), KnownMotion(24.0, -8.0, downscale)
    learned = prepared(motion, image, downscale)
    assert all(candidate.flow.shape == learned.candidates[1].flow.shape for candidate in learned.candidates)
    assert all(candidate.importance.shape[2:] == candidate.flow.shape[2:] for candidate in learned.candidates)
    found = refine(motion, learned, torch.tensor([0.25, 0.5]))  # type: ignore[arg-type]
    assert found.flow.shape == (2, 4, size[0] // 4, size[1] // 4)
    truth = torch.tensor([[-1.5, 0.5, 4.5, -1.5], [-3.0, 1.0, 3.0, -1.0]]).view(2, 4, 1, 1)
    torch.testing.assert_close(found.flow, truth.expand_as(found.flow))
    assert found.used.shape == found.visibility.shape == (2, 1, size[0] // 4, size[1] // 4) and found.used.all()
    # the matcher sees the frame itself, reduced, with the edges repeated
    seen = motion.inputs[0][..., : size[0] // downscale, : size[1] // downscale]
    luma = image.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    reduced = torch.nn.functional.avg_pool2d(image, downscale)
    torch.testing.assert_close((seen * luma).sum(1), (reduced * luma).sum(1), atol=1e-5, rtol=0)
    assert (seen - reduced).abs().mean() < 0.1  # colour is coarser
    assert all(length % stride_of(*motion.inputs[0].shape[-2:]) == 0 for length in motion.inputs[0].shape[-2:])


@pytest.mark.parametrize(
    ("size", "seen"),
    [((256, 448), (128, 224)), ((480, 640), (240, 320)), ((720, 1280), (180, 320)), ((1088, 1920), (136, 240))],
)
def test_the_matcher_sees_a_small_frame(size: tuple[int, int], seen: tuple[int, int]) -> None:
    motion = KnownMotion(0.0, 0.0, 1)
    prepared(motion, torch.zeros(1, 3, *size))
    height, width = motion.inputs[0].shape[-2:]
    stride = stride_of(height, width)
    assert (height, width) == tuple(-(-length // stride) * stride for length in seen)


def jump(net: Midnet) -> tuple[Any, Any]:
    """Features of two frames: a textured square jumps by 136 pixels over still ground and makes a quarter turn."""
    ground, square = noise(160, 288), noise(56, 56, 1)
    frames = []
    for left, turned in ((32, square), (168, torch.rot90(square, 1, (2, 3)))):
        frame = ground.clone()
        frame[..., 52:108, left : left + 56] = turned
        frames.append(net.encode(frame))
    return frames[0], frames[1]


def test_the_matcher_runs_only_where_classical_flow_fails() -> None:
    net = Midnet(SIZES["midnet-l"]).eval()
    net.motion = motion = KnownMotion(0.0, 0.0, 1)  # type: ignore[assignment]
    image = cv2.GaussianBlur(noise(164, 292)[0].permute(1, 2, 0).numpy(), (0, 0), 2.0)
    wide = torch.from_numpy(image).permute(2, 0, 1)[None]
    one, two = net.encode(wide[..., :160, :288]), net.encode(wide[..., 1:161, 2:290])
    assert net.match(one, one).learned is None and net.match(one, two).learned is None
    assert not motion.inputs
    assert net.match(*jump(net)).learned is not None and motion.inputs


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_the_refined_flow_is_the_hypothesis_where_the_search_fails(backend: str) -> None:
    net = Midnet(SIZES["midnet-l"]).eval()
    if backend == "native":
        net = net.on_device(torch.device("cpu"))
    net.motion = KnownMotion(136.0, 0.0, 1)  # type: ignore[assignment]
    a, b = jump(net)
    warped = net.warp(RenderRequest(a, b, net.match(a, b), torch.tensor([0.5])))
    names = net.architecture.hypotheses
    features = warped.features[0, names.index("refined")]
    primary = warped.features[0, names.index("splatted")]
    square = features[:, 15:25, 27:37]  # at t: 100 to 156 px from the left
    torch.testing.assert_close(square[FeatureChannel.FLOW_TO_A_X], torch.full((10, 10), -17.0))
    torch.testing.assert_close(square[FeatureChannel.FLOW_TO_B_X], torch.full((10, 10), 17.0))
    torch.testing.assert_close(square[FeatureChannel.OCCLUSION_A], torch.full((10, 10), 3.0))
    torch.testing.assert_close(square[FeatureChannel.OCCLUSION_B], torch.full((10, 10), -3.0))
    corner = slice(None), slice(0, 6), slice(0, 6)
    torch.testing.assert_close(features[corner], primary[corner])


@pytest.mark.parametrize("shape", [(1, 1, 1), (48, 12, 20), (5, 9, 33), (7, 3, 80)])
def test_native_correlation_is_that_of_torch(shape: tuple[int, int, int]) -> None:
    if reason := kernels.missing():
        pytest.skip(reason)
    generator = torch.Generator().manual_seed(5)
    a, b = (torch.randn(2, *shape, generator=generator) for _ in "ab")
    found, truth = (backend.local_correlation(a, b) for backend in (backend_for(torch.device("cpu")), TorchBackend()))
    assert truth.shape == (2, 49, *shape[1:])
    torch.testing.assert_close(found, truth, atol=2e-5, rtol=1e-5)


def test_a_network_is_widened_by_a_hypothesis() -> None:
    narrow = Midnet(SIZES["midnet-m"])
    torch.nn.init.normal_(narrow.fusion.hypothesis_bias)
    wide = widened(narrow, SIZES["midnet-l"])
    rows = dict(zip(wide.architecture.hypotheses, wide.fusion.hypothesis_bias, strict=True))
    own = dict(zip(narrow.architecture.hypotheses, narrow.fusion.hypothesis_bias, strict=True))
    assert all(torch.equal(rows[name], row) for name, row in own.items())
    assert torch.equal(rows["refined"], own["filtered"])
    assert torch.equal(wide.fusion.head.weight, narrow.fusion.head.weight)
    with pytest.raises(WeightsError, match="cannot become"):
        widened(wide, SIZES["midnet-m"])
    with pytest.raises(WeightsError, match="cannot become"):
        widened(narrow, Architecture((8, 16, 24), SIZES["midnet-l"].hypotheses))


def test_training_takes_the_motion_from_its_run_or_from_the_weights_to_begin_with(tmp_path: Path) -> None:
    motion, narrow, wide = tmp_path / "motion.safetensors", tmp_path / "m.safetensors", tmp_path / "l.safetensors"
    trained = LearnedMotion()
    save_half(motion, trained.state_dict())
    save_midnet(narrow, Midnet(SIZES["midnet-m"]).state_dict(), SIZES["midnet-m"], {})
    recipe = Recipe(tmp_path / "run", "midnet-l", start=narrow, minutes=1.0)
    with pytest.raises(InputError, match="give --motion"):
        initial_network(recipe)
    net = initial_network(Recipe(recipe.out, "midnet-l", start=narrow, motion=motion, minutes=1.0))
    assert net.motion is not None
    assert torch.equal(net.motion.refiner.fine_head.weight, trained.refiner.fine_head.weight.half().float())
    save_midnet(wide, net.state_dict(), net.architecture, {})
    again = initial_network(Recipe(recipe.out, "midnet-l", start=wide, minutes=1.0))
    assert again.motion is not None
    assert torch.equal(again.motion.matcher.key.weight, trained.matcher.key.weight.half().float())
    assert torch.equal(load_motion(wide).matcher.key.weight, net.motion.matcher.key.weight)
    with pytest.raises(InputError, match="holds no learned motion"):
        load_motion(narrow)
    assert load_midnet(wide, "midnet-l").architecture == SIZES["midnet-l"]
    wide.rename(tmp_path / "midnet-l.safetensors")
    of_folder = Recipe(recipe.out, "midnet-l", start=tmp_path, minutes=1.0)
    assert of_folder.start_file == tmp_path / "midnet-l.safetensors"
    assert initial_network(of_folder).motion is not None
