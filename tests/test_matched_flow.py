"""The learned matcher inside midnet: scale of its flow, where it is used, weights."""

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
from midframe.models.flow.matcher import Matcher, stride_of
from midframe.models.midnet import SIZES, Architecture, Midnet, load_midnet, save_midnet
from midframe.models.midnet.checkpoint import widened
from midframe.models.midnet.matched_flow import matched_flow
from midframe.models.midnet.model import backend_for
from midframe.models.midnet.torch_backend import TorchBackend
from midframe.training.matcher import load_matcher
from midframe.training.recipe import Recipe
from midframe.training.train import initial_network
from midframe.weights import save_half


class KnownFlow(nn.Module):
    """Stands for a perfect matcher of frames that move by (x, y) pixels; notes the inputs."""

    def __init__(self, x: float, y: float, downscale: int) -> None:
        super().__init__()
        self.vector = torch.tensor([x, y]).view(1, 2, 1, 1) / (2.0 * downscale)  # at half of the input
        self.inputs: list[Tensor] = []

    def forward(self, a: Tensor, b: Tensor, *_: Any) -> Any:
        self.inputs += [a, b]
        half = a.shape[-2] // 2, a.shape[-1] // 2
        return SimpleNamespace(flow=torch.cat([self.vector, -self.vector]).expand(2, 2, *half))


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(1, 3, height // 4 + 2, width // 4 + 2, generator=generator)
    return torch.nn.functional.interpolate(rough, size=(height, width), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("downscale", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(96, 160), (112, 176)])
def test_matched_flow_is_in_pixels_at_a_quarter_of_the_frame(downscale: int, size: tuple[int, int]) -> None:
    net = Midnet(SIZES["midnet-l"]).eval()
    image = noise(*size)
    matcher = KnownFlow(24.0, -8.0, downscale)
    features = net.encode(image)
    forward, backward = matched_flow(matcher, features, features, downscale)  # type: ignore[arg-type]
    assert forward.shape == backward.shape == (1, 2, size[0] // 4, size[1] // 4)
    torch.testing.assert_close(forward, torch.tensor([6.0, -2.0]).view(1, 2, 1, 1).expand_as(forward))
    torch.testing.assert_close(backward, -forward)
    # the matcher sees the frame itself, reduced, with the edges repeated
    seen = matcher.inputs[0][..., : size[0] // downscale, : size[1] // downscale]
    luma = image.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    truth = torch.nn.functional.avg_pool2d(image, downscale)
    torch.testing.assert_close((seen * luma).sum(1), (truth * luma).sum(1), atol=1e-5, rtol=0)
    assert (seen - truth).abs().mean() < 0.1  # colour is coarser
    assert all(length % stride_of(*matcher.inputs[0].shape[-2:]) == 0 for length in matcher.inputs[0].shape[-2:])


@pytest.mark.parametrize(
    ("size", "seen"),
    [((256, 448), (128, 224)), ((480, 640), (240, 320)), ((720, 1280), (180, 320)), ((1088, 1920), (136, 240))],
)
def test_the_matcher_sees_a_small_frame(size: tuple[int, int], seen: tuple[int, int]) -> None:
    features = Midnet(SIZES["midnet-l"]).eval().encode(torch.zeros(1, 3, *size))
    matcher = KnownFlow(0.0, 0.0, 1)
    matched_flow(matcher, features, features)  # type: ignore[arg-type]
    height, width = matcher.inputs[0].shape[-2:]
    stride = stride_of(height, width)
    assert (height, width) == tuple(-(-length // stride) * stride for length in seen)


SIZE = 160, 288
CENTRES, MIDDLE, RADIUS = (60.0, 200.0), 80.0, 28


def turning_disc() -> tuple[Tensor, Tensor]:
    """Two frames: a textured disc jumps by 140 pixels over still ground and makes a quarter turn."""
    ground, disc = noise(*SIZE), noise(2 * RADIUS + 1, 2 * RADIUS + 1, 1)
    frames = []
    for centre, turned in zip(CENTRES, (disc, torch.rot90(disc, 1, (2, 3))), strict=True):
        place = (..., *(slice(int(c) - RADIUS, int(c) + RADIUS + 1) for c in (MIDDLE, centre)))
        frame, layer = ground.clone(), ground.clone()
        layer[place] = turned
        frames.append(torch.where(from_centre(centre, 1).square().sum(1, keepdim=True) < RADIUS**2, layer, frame))
    return frames[0], frames[1]


def from_centre(centre: float, downscale: int) -> Tensor:
    """Vectors (1, 2, h, w) in pixels of the frame from the centre of the disc to places of a reduced grid."""
    y, x = (torch.arange(length // downscale) * float(downscale) + 0.5 * (downscale - 1) for length in SIZE)
    y, x = torch.meshgrid(y - MIDDLE, x - centre, indexing="ij")
    return torch.stack([x, y])[None]


class Disc(nn.Module):
    """The flow of `turning_disc`, for an input of half of its size."""

    def forward(self, a: Tensor, b: Tensor, *_: Any) -> Any:
        flows = []
        for way, (one, two) in enumerate((CENTRES, CENTRES[::-1])):
            x, y = (offset := from_centre(one, 4)).unbind(1)
            turned = torch.stack([-y, x] if way else [y, -x], 1)
            inside = offset.square().sum(1, keepdim=True) < RADIUS**2
            flows.append(torch.where(inside, turned - offset + torch.tensor([two - one, 0.0]).view(1, 2, 1, 1), 0.0))
        return SimpleNamespace(flow=torch.cat(flows) / 4)


def test_the_matcher_runs_only_where_classical_flow_fails() -> None:
    net = Midnet(SIZES["midnet-l"]).eval()
    net.matcher = matcher = KnownFlow(0.0, 0.0, 1)  # type: ignore[assignment]
    image = cv2.GaussianBlur(noise(164, 292)[0].permute(1, 2, 0).numpy(), (0, 0), 2.0)
    wide = torch.from_numpy(image).permute(2, 0, 1)[None]
    one, two = net.encode(wide[..., :160, :288]), net.encode(wide[..., 1:161, 2:290])
    assert net.match(one, one).matched is None and net.match(one, two).matched is None
    assert not matcher.inputs
    a, b = (net.encode(x) for x in turning_disc())
    assert net.match(a, b).matched is not None
    assert matcher.inputs


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_motion_that_the_search_loses_is_taken_from_the_matcher(backend: str) -> None:
    net = Midnet(SIZES["midnet-l"]).eval()
    if backend == "native":
        net = net.on_device(torch.device("cpu"))
    net.matcher = Disc()  # type: ignore[assignment]
    a, b = (net.encode(x) for x in turning_disc())
    net.matcher_downscale = 2
    motion = net.match(a, b)
    truth = Disc()(a.luma, b.luma).flow
    assert motion.matched is not None
    for way, (name, centre) in enumerate(zip(("ab", "ba"), CENTRES, strict=True)):
        inside = from_centre(centre, 4)[0].norm(dim=0) < RADIUS - 6
        wrong = {
            kind: (4 * (getattr(pair, name).flow[0] - truth[way]).norm(dim=0))[inside] > 3.0
            for kind, pair in (("primary", motion.primary), ("filtered", motion.filtered), ("matched", motion.matched))
        }
        assert wrong["primary"].float().mean() > 0.6 and wrong["filtered"].float().mean() > 0.6
        assert wrong["matched"].float().mean() < 0.1


@pytest.mark.parametrize("shape", [(1, 1, 1), (48, 12, 20), (5, 9, 33), (7, 3, 80)])
def test_native_correlation_is_that_of_torch(shape: tuple[int, int, int]) -> None:
    if reason := kernels.missing():
        pytest.skip(reason)
    generator = torch.Generator().manual_seed(5)
    a, b = (torch.randn(2, *shape, generator=generator) for _ in "ab")
    found, truth = (backend.local_correlation(a, b) for backend in (backend_for(torch.device("cpu")), TorchBackend()))
    assert truth.shape == (2, 49, *shape[1:])
    torch.testing.assert_close(found, truth, atol=2e-5, rtol=1e-5)


def test_a_network_is_widened_by_a_hypothesis(tmp_path: Path) -> None:
    narrow = Midnet(SIZES["midnet-m"])
    torch.nn.init.normal_(narrow.fusion.hypothesis_bias)
    wide = widened(narrow, SIZES["midnet-l"])
    rows = dict(zip(wide.architecture.hypotheses, wide.fusion.hypothesis_bias, strict=True))
    own = dict(zip(narrow.architecture.hypotheses, narrow.fusion.hypothesis_bias, strict=True))
    assert all(torch.equal(rows[name], row) for name, row in own.items())
    assert torch.equal(rows["matched"], own["filtered"])
    assert torch.equal(wide.fusion.head.weight, narrow.fusion.head.weight)
    with pytest.raises(WeightsError, match="cannot become"):
        widened(wide, SIZES["midnet-m"])
    with pytest.raises(WeightsError, match="cannot become"):
        widened(narrow, Architecture((8, 16, 24), SIZES["midnet-l"].hypotheses))


def test_training_takes_the_matcher_from_its_run_or_from_the_weights_to_begin_with(tmp_path: Path) -> None:
    matcher = Matcher()
    save_half(tmp_path / "matcher.safetensors", matcher.state_dict())
    narrow, wide = tmp_path / "m.safetensors", tmp_path / "l.safetensors"
    save_midnet(narrow, Midnet(SIZES["midnet-m"]).state_dict(), SIZES["midnet-m"], {})
    recipe = Recipe(tmp_path / "run", "midnet-l", start=narrow, minutes=1.0)
    with pytest.raises(InputError, match="give --matcher"):
        initial_network(recipe)
    net = initial_network(
        Recipe(recipe.out, "midnet-l", start=narrow, matcher=tmp_path / "matcher.safetensors", minutes=1.0)
    )
    assert net.matcher is not None
    assert torch.equal(net.matcher.key.weight, matcher.key.weight.half().float())
    save_midnet(wide, net.state_dict(), net.architecture, {})
    again = initial_network(Recipe(recipe.out, "midnet-l", start=wide, minutes=1.0))
    assert again.matcher is not None and torch.equal(again.matcher.key.weight, net.matcher.key.weight)
    assert torch.equal(load_matcher(wide).key.weight, net.matcher.key.weight)
    assert load_midnet(wide, "midnet-l").architecture == SIZES["midnet-l"]
    wide.rename(tmp_path / "midnet-l.safetensors")
    of_folder = Recipe(recipe.out, "midnet-l", start=tmp_path, minutes=1.0)
    assert of_folder.start_file == tmp_path / "midnet-l.safetensors"
    assert initial_network(of_folder).matcher is not None
