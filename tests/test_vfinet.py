"""vfinet against recordings of the published network and against its plain twin; its methods; its cut rule."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import clips
import midframe
import vfinet_reference as reference
from clips import Clip
from midframe import ops
from midframe.engine import Engine
from midframe.errors import InputError
from midframe.models import raft
from midframe.models.base import RenderRequest
from midframe.models.tiled import Tiled
from midframe.models.vfinet import Features, Flows, VFINet, names
from midframe.models.vfinet.motion import reverse

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import vfinet_twin

TIMES = (0.25, 0.5, 0.8)


@pytest.fixture(scope="module", autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def build(large: str = "area") -> VFINet:
    network = VFINet(large)
    flow = raft.from_original(reference.named_weights(reference.shapes("flownet")))
    state = {f"raft.{name}": value for name, value in flow.items()}
    network.load_state_dict(state | names.from_original(reference.named_weights(reference.shapes("internet"))))
    return network.eval()


@pytest.fixture(scope="module")
def network() -> VFINet:
    return build()


@pytest.fixture(scope="module")
def twin() -> vfinet_twin.Twin:
    return vfinet_twin.Twin().load(*(reference.named_weights(reference.shapes(p)) for p in ("flownet", "internet")))


@dataclass
class Recorded:
    """The recorded frames, encoded and matched."""

    features: list[Features]
    flows: list[Flows]


@pytest.fixture(scope="module")
def recorded(network: VFINet) -> Recorded:
    with torch.no_grad():
        images = reference.frames().flip(1)  # the recordings were fed as they are stored; `encode` turns RGB to BGR
        features = [network.encode(image[None]) for image in images]
        return Recorded(features, [network.match(features[i], features[i + 1]) for i in range(3)])


def off(value: Tensor, name: str) -> tuple[float, float]:
    """Mean and largest difference from a recorded array."""
    apart = (reference.reduce(value) - reference.recorded(name)).abs()
    return float(apart.mean()), float(apart.max())


def near(value: Tensor, name: str, mean: float, largest: float) -> None:
    got = off(value, name)
    assert got[0] < mean, f"{name}: mean {got[0]:.2e}"
    assert got[1] < largest, f"{name}: largest {got[1]:.2e}"


def test_names_and_shapes_are_the_published_ones() -> None:
    published = reference.shapes("internet")
    assert names.original_shapes() == {n: s for n, s in published.items() if not names.is_constant(n)}


def test_flows_are_the_recorded_ones(recorded: Recorded) -> None:
    before, middle, after = recorded.flows
    for value, name in (
        (middle.raw_forward, "raft_12"),
        (middle.raw_backward, "raft_21"),
        (before.raw_backward, "raft_10"),
        (after.raw_forward, "raft_23"),
        (middle.forward, "refined_12"),
        (middle.backward, "refined_21"),
    ):
        near(value, name, 1e-3, 0.02)  # pixels


def test_low_flow_is_the_recorded_one(network: VFINet) -> None:
    _, one, two, _ = reference.frames()
    low, _ = network.raft.flow_pyramid(one[None], two[None])
    assert (low - reference.recorded("raft_low_12")).abs().max() < 2e-3


@pytest.mark.parametrize("kind", ["quadratic", "linear"])
def test_frames_are_the_recorded_ones(network: VFINet, recorded: Recorded, kind: str) -> None:
    """From frames to frames, as a user gets them.

    Reversal of the flows is a step function: where a pixel's target lies within rounding of a whole number, 1e-4 px
    of flow decide which four pixels it lands on, and the frame is up to 0.05 apart there. Hence the float64 of small
    frames: with it the flows are the network's own, and not those of one machine's rounding.
    """
    before, middle, after = recorded.flows if kind == "quadratic" else (None, recorded.flows[1], None)
    a, b = recorded.features[1:3]
    made = network.render(RenderRequest(a, b, middle, torch.tensor(TIMES), before, after)).flip(1)
    for t, image in zip(TIMES, made, strict=True):
        near(image[None], f"{kind}_{t}", 1e-5, 1e-3)


def test_flows_in_float32_are_the_recorded_ones(network: VFINet, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of frames too large for float64."""
    monkeypatch.setattr(raft, "EXACT_AREA", 0)
    a, b = (network.encode(image[None]) for image in reference.frames().flip(1)[1:3])
    assert a.encoded.features.dtype == torch.float32
    flows = network.match(a, b)
    for value, name in (
        (flows.raw_forward, "raft_12"),
        (flows.raw_backward, "raft_21"),
        (flows.forward, "refined_12"),
        (flows.backward, "refined_21"),
    ):
        near(value, name, 2e-4, 0.02)  # pixels


@pytest.mark.skipif(reference.FULL is None, reason="set MIDFRAME_REFERENCE to the folder with the whole recordings")
def test_every_recorded_array_is_met_from_frames(network: VFINet, recorded: Recorded) -> None:
    """Each whole array, within the bounds of a second run of the original."""
    with np.load(reference.FULL / "vfinet_parity.npz") as file:  # type: ignore[operator]
        truth = {name: torch.from_numpy(file[name]) for name in file.files if "frames" not in name}
    before, middle, after = recorded.flows
    a, b = recorded.features[1:3]
    frames = reference.frames()
    found = {
        "raft_low_12": network.raft.flow_pyramid(frames[1:2], frames[2:3])[0],
        "raft_12": middle.raw_forward,
        "raft_21": middle.raw_backward,
        "raft_10": before.raw_backward,
        "raft_23": after.raw_forward,
        "refined_12": middle.forward,
        "refined_21": middle.backward,
    }
    for name, flow in found.items():
        assert (flow - truth[name]).abs().mean() < 1e-3
        assert (flow - truth[name]).abs().max() < 0.02
    for kind, around in (("quadratic", (before, after)), ("linear", (None, None))):
        made = network.render(RenderRequest(a, b, middle, torch.tensor(TIMES), *around)).flip(1)
        for t, image in zip(TIMES, made, strict=True):
            apart = (image - truth[f"{kind}_{t}"]).abs()
            assert apart.mean() < 1e-5
            assert apart.max() < 1e-3


def full_flows(name: str) -> Flows:
    """Whole recorded flows as the motion of a gap."""
    with np.load(reference.FULL / "vfinet_parity.npz") as file:  # type: ignore[operator]
        flow = {k: torch.from_numpy(file[k]) for k in file.files if k.startswith(("raft_", "refined_"))}
    none = torch.empty(0)
    return {
        "before": Flows(none, none, none, flow["raft_10"]),
        "middle": Flows(flow["refined_12"], flow["refined_21"], flow["raft_12"], flow["raft_21"]),
        "after": Flows(none, none, flow["raft_23"], none),
    }[name]


@pytest.mark.skipif(reference.FULL is None, reason="set MIDFRAME_REFERENCE to the folder with the whole recordings")
def test_every_stage_from_the_recorded_input_of_it(network: VFINet, recorded: Recorded) -> None:
    """Each stage fed with what was recorded before it, so that no rounding is handed on."""
    with np.load(reference.FULL / "vfinet_parity.npz") as file:  # type: ignore[operator]
        truth = {name: torch.from_numpy(file[name]) for name in file.files}
    a, b = recorded.features[1:3]
    refined = network.refine(a.image, b.image, truth["raft_12"], truth["raft_21"])
    for value, name in zip(refined, ("refined_12", "refined_21"), strict=True):
        assert (value - truth[name]).abs().mean() < 1e-4
        assert (value - truth[name]).abs().max() < 1e-3
    before, middle, after = (full_flows(name) for name in ("before", "middle", "after"))
    for t in TIMES:
        for kind, around in (("quadratic", (before, after)), ("linear", (None, None))):
            made = network.render(RenderRequest(a, b, middle, torch.tensor([t]), *around)).flip(1)
            apart = (made - truth[f"{kind}_{t}"]).abs()
            assert float(apart.mean()) < 1e-5
            assert float(apart.max()) < 1e-3


@pytest.mark.skipif(reference.FULL is None, reason="set MIDFRAME_REFERENCE to the folder with the whole recordings")
def test_the_large_path_is_the_recorded_one() -> None:
    with np.load(reference.FULL / "vfinet_parity.npz") as file:  # type: ignore[operator]
        frames = torch.from_numpy(file["large_frames"]).permute(0, 3, 1, 2).float().flip(1) / 255
        truth = torch.from_numpy(file["large_linear_0.5"])
    network = build()
    network.flow_scale = 0.5
    a, b = (network.encode(frame[None]) for frame in frames)
    made = network.render(RenderRequest(a, b, network.match(a, b), torch.tensor([0.5]))).flip(1)
    assert (made - truth).abs().mean() < 1e-5
    assert (made - truth).abs().max() < 1e-3


def smooth(height: int, width: int, seed: int) -> Tensor:
    """(3, H, W) RGB, 0..1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 16 + 4, width // 16 + 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)[0]


def as_twin(network: VFINet, twin: vfinet_twin.Twin, images: list[Tensor], t: float) -> None:
    """Every stage and the plain twin's on the same input, for frames of any size, zeros at right and bottom."""
    size = network.padded_size(*images[0].shape[-2:])
    padded = [ops.pad(p[None], *size, mode="zeros") for p in images]
    features = [network.encode(p) for p in padded]
    flows = [network.match(a, b) for a, b in pairwise(features)]
    full = [p.flip(1) - vfinet_twin.MEAN for p in padded]
    fed = [255 * (p.flip(1) if network.flow_scale is None else vfinet_twin.zoom(p.flip(1), 0.5)) for p in padded]
    low = [p / 255 - vfinet_twin.MEAN for p in fed]
    i = len(flows) // 2  # the gap in the middle
    raw = twin.flownet(fed[i], fed[i + 1])[1]
    assert (flows[i].raw_forward - raw).abs().mean() < 1e-3  # pixels
    assert (flows[i].raw_forward - raw).abs().max() < 0.02
    refined = twin.interpnet.ifnet(low[i], low[i + 1], flows[i].raw_forward, flows[i].raw_backward)
    for ours, theirs in zip((flows[i].forward, flows[i].backward), refined, strict=True):
        assert (ours - theirs).abs().mean() < 1e-4
        assert (ours - theirs).abs().max() < 1e-3
    around = (flows[0], flows[2]) if len(flows) == 3 else (None, None)
    past, future = (None, None) if len(flows) == 1 else (flows[0].raw_backward, flows[2].raw_forward)
    large = () if network.flow_scale is None else (full[i], full[i + 1])
    expected = twin.interpnet.internet(past, flows[i].forward, flows[i].backward, future, low[i], low[i + 1], t, *large)
    made = network.render(RenderRequest(features[i], features[i + 1], flows[i], torch.tensor([t]), *around))
    apart = (made.flip(1) - expected - vfinet_twin.MEAN).abs()
    assert apart.mean() < 1e-5
    assert apart.max() < 1e-3


@pytest.mark.parametrize(("height", "width", "t"), [(16, 16, 0.37), (131, 99, 0.9)])
def test_small_and_odd_sizes_are_as_the_twin_has_them(
    network: VFINet, twin: vfinet_twin.Twin, height: int, width: int, t: float
) -> None:
    as_twin(network, twin, [smooth(height, width, seed) for seed in range(2)], t)


def test_large_frames_with_four_frames_are_as_the_twin_has_them(twin: vfinet_twin.Twin) -> None:
    network = build()
    network.flow_scale = 0.5
    as_twin(network, twin, [smooth(250, 251, seed) for seed in range(4)], 0.3)


def test_one_neighbour_is_not_enough_for_a_curve(network: VFINet, recorded: Recorded) -> None:
    before, middle, after = recorded.flows
    a, b = recorded.features[1:3]
    t = torch.tensor([0.4])
    straight = network.render(RenderRequest(a, b, middle, t))
    assert torch.equal(network.render(RenderRequest(a, b, middle, t, before, None)), straight)
    assert torch.equal(network.render(RenderRequest(a, b, middle, t, None, after)), straight)
    assert not torch.equal(network.render(RenderRequest(a, b, middle, t, before, after)), straight)


def test_batches_are_their_frames(network: VFINet) -> None:
    firsts, seconds = (torch.stack([smooth(128, 128, s), smooth(128, 128, s + 1)]) for s in (3, 9))
    a, b = network.encode(firsts), network.encode(seconds)
    t = torch.tensor([0.3, 0.6])
    many = network.render(RenderRequest(a, b, network.match(a, b), t))
    for i in range(2):
        one_a, one_b = network.encode(firsts[i : i + 1]), network.encode(seconds[i : i + 1])
        one = network.render(RenderRequest(one_a, one_b, network.match(one_a, one_b), t[i : i + 1]))
        assert (many[i : i + 1] - one).abs().mean() < 5e-5


def test_two_threads_share_a_network(network: VFINet) -> None:
    pairs = [(smooth(128, 128, i), smooth(128, 128, i + 5)) for i in range(2)]
    alone = [Engine(network).between(a, b, [0.5]) for a, b in pairs]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda pair: Engine(network).between(*pair, [0.5]), pairs))
    for one, other in zip(alone, together, strict=True):
        assert (one - other).abs().mean() < 1e-5


def gentle() -> VFINet:
    """Weights that find little motion: what is far apart has nothing to do with it."""
    network = build()
    for layer in (network.raft.update.head[1], *(stage.out for stage in network.refine.stages)):
        for parameter in layer.parameters():
            parameter.mul_(0.02)
    network.fuse.residuals.out.weight.mul_(0.02)
    return network


def test_tiles_agree_with_the_whole() -> None:
    """Instance norm sees a tile in place of the frame, so the two are near but not equal."""
    network = gentle()
    a = smooth(192, 256, 1)
    b = torch.roll(a, 2, dims=2)
    whole = Engine(network).between(a, b, [0.5])[0]
    tiled = Engine(network, tile=160)
    assert isinstance(tiled.model, Tiled)
    made = tiled.between(a, b, [0.5])[0]
    assert (made - whole).abs().mean() < 1 / 255
    assert (whole - a).abs().mean() > 2 / 255


def test_bf16_is_near_float32() -> None:
    network = gentle()
    a = smooth(128, 128, 1)
    b = torch.roll(a, 2, dims=2)
    exact, rough = (Engine(network, precision=p).between(a, b, [0.5])[0] for p in ("fp32", "bf16"))
    assert rough.dtype == torch.float32
    assert (exact - rough).abs().mean() < 1 / 255


def test_flow_is_float32_under_autocast() -> None:
    network = gentle()
    a, b = network.encode(smooth(128, 128, 1)[None]), network.encode(smooth(128, 128, 2)[None])
    with torch.autocast("cpu", torch.bfloat16):
        flows = network.match(a, b)
    assert flows.forward.dtype == flows.raw_forward.dtype == torch.float32


@pytest.mark.parametrize(
    ("large", "height", "width", "padded", "halved"),
    [
        ("area", 720, 1280, (736, 1280), False),
        ("area", 16, 16, (128, 128), False),
        ("area", 1440, 2560, (1472, 2560), True),
        ("area", 2560, 1440, (2560, 1472), True),  # portrait as landscape
        ("area", 1920, 1080, (1920, 1088), False),
        ("reference", 1920, 1080, (1920, 1088), True),
        ("reference", 1439, 1000, (1440, 1024), False),
        ("reference", 1440, 1000, (1472, 1024), True),
        ("reference", 1080, 2560, (1088, 2560), True),
        ("reference", 1080, 2559, (1088, 2592), False),
    ],
)
def test_sizes(large: str, height: int, width: int, padded: tuple[int, int], halved: bool) -> None:
    with torch.device("meta"):
        network = VFINet(large)
    assert network.padded_size(height, width) == padded
    sides = padded if not halved else (padded[0] // 2, padded[1] // 2)
    network.raft.encode = lambda image: tuple(image.shape[-2:])  # type: ignore[assignment, method-assign, return-value]
    features = network.encode(torch.empty(1, 3, *padded, device="meta"))
    assert features.encoded == sides
    assert (features.full is not None) == halved


def test_flow_of_a_large_frame_is_in_its_pixels() -> None:
    ones = torch.ones(1, 2, 4, 6)
    flows = Flows(ones, ones, ones, ones, halved=True)
    with torch.device("meta"):
        network = VFINet()
    assert torch.equal(network.flow(flows), 2 * torch.ones(1, 2, 8, 12))


def test_errors_say_what_is_wanted(network: VFINet) -> None:
    with pytest.raises(InputError, match="area, reference"):
        VFINet(large="always")
    with pytest.raises(InputError, match="pad to"):
        network.encode(torch.zeros(1, 3, 100, 128))


def test_a_flow_is_turned_round() -> None:
    """A uniform flow lands whole; what it leaves behind is filled with its negative, smoothed."""
    flow = torch.zeros(1, 2, 48, 96)
    flow[:, 0], flow[:, 1] = 6.0, -3.0  # two and minus one pixels at a third
    back = reverse(flow)
    assert torch.allclose(back[:, 0, :-3, 6:], torch.full((1, 45, 90), -6.0))
    assert torch.allclose(back[:, 1, :-3, 6:], torch.full((1, 45, 90), 3.0))
    assert bool(torch.isfinite(reverse(1e6 * torch.randn(1, 2, 48, 96))).all())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_gpu_gives_the_same(precision: str) -> None:
    network = gentle()
    a = smooth(128, 192, 1)
    b = torch.roll(a, 2, dims=2)
    here = Engine(network).between(a, b, [0.5])[0]
    there = Engine(network, "cuda", precision).between(a, b, [0.5])[0].cpu()
    assert (here - there).abs().mean() < (1e-4 if precision == "fp32" else 1 / 255)


def test_recordings_are_whole() -> None:
    assert len(reference.schedules()) == 12
    if "MIDFRAME_REFERENCE" in os.environ:
        with np.load(Path(os.environ["MIDFRAME_REFERENCE"]) / "vfinet_parity.npz") as file:
            for name in ("raft_12", "refined_21", "quadratic_0.5"):
                assert np.array_equal(reference.reduce(torch.from_numpy(file[name])), reference.recorded(name))


@pytest.mark.parametrize("frames", [2, 3])
def test_videos_too_short_for_four_frames(network: VFINet, tmp_path: Path, frames: int) -> None:
    """Two frames have no neighbours, three have one side of them: linear motion, and every frame is there."""
    source = clips.make(tmp_path / "in.mkv", Clip(frames=frames))
    made = midframe.interpolate(source, tmp_path / "out.mkv", network=network, device="cpu", scene="off")
    assert made.kinds == "si" * (frames - 1) + "sh"
    assert made.frames_out == 2 * frames
