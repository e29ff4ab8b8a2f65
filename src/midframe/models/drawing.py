"""midnet on a CPU: the stages of the extension module, between tensors.

The same stands in midnet.py as tensor operations, which GPUs and training use and which are the oracle of the tests.
There each operation passes whole frames through memory; here a few rows at a time go through all of them, which takes
a fifth of the time. Rows do not depend on how they are shared among threads.

A frame is luma and chroma, as videos are: warping and blending are linear, so nothing is lost by it, and chroma of a
video is warped at its own size, which is less than half of the samples of RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from midframe import _native
from midframe.colour import levels, matrix_to_rgb
from midframe.types import PixelFormat

if TYPE_CHECKING:
    from midframe.models.midnet import Motion

Array = NDArray[Any]  # of float32

# Names of hypotheses in the metadata of weights.
HYPOTHESES = {
    "carried": "splatted", "alone_a": "one_sided_a", "alone_b": "one_sided_b", "smooth": "filtered",
    "below": "shifted_down", "above": "shifted_up", "right": "shifted_right", "left": "shifted_left", "rest": "zero",
}  # fmt: skip

_WORKSPACE = _native.Workspace()


def workspace() -> _native.Workspace:
    """Worker threads, as many as PyTorch has, and reused memory."""
    if _WORKSPACE.threads != torch.get_num_threads():
        _WORKSPACE.threads = torch.get_num_threads()
    return _WORKSPACE


@dataclass(frozen=True, slots=True)
class Layers:
    """A frame: planes with spline coefficients. Sides are multiples of 16."""

    planes: _native.Planes
    format: PixelFormat | None = None  # of the planes it was made of, and their sizes
    sizes: tuple[tuple[int, int], ...] = ()

    @property
    def light(self) -> Array:
        """Luma (H, W), 0..1."""
        return self.planes.luma

    @property
    def tones(self) -> Array:
        """Mean R, G and B of blocks (3, H / 4, W / 4)."""
        return self.planes.block_means


def layers_of_rgb(image: Tensor) -> Layers:
    """Of RGB (3, H, W)."""
    rgb = np.ascontiguousarray(image.numpy(), np.float32)
    return Layers(workspace().planes_of_rgb(rgb, _matrix("smpte170m")))


def layers_of_planes(planes: Sequence[Tensor], format: PixelFormat, height: int, width: int) -> Layers:
    """Of planes as decoders make them, without alpha, their edges repeated up to a size."""
    codes = [plane.contiguous().numpy() for plane in planes]
    chroma = height >> format.chroma_h, width >> format.chroma_w
    matrix = _matrix(format.matrix) if len(codes) == 3 else (0.0,) * 6
    made = workspace().planes_of_codes(codes, _ranges(format), (height, width), chroma, matrix)
    return Layers(made, format, tuple((len(plane), plane.shape[1]) for plane in codes))


def _matrix(name: str) -> tuple[float, ...]:
    """What Cb and Cr add to luma for R, G and B: (3, 2), flat."""
    return tuple(float(x) for row in matrix_to_rgb(name) for x in row[1:])


def _ranges(format: PixelFormat) -> list[tuple[float, float]]:
    """Of each plane the code value of 0, and how many make 1."""
    black, span, zero, chroma_span = levels(format)
    return [(black, span), *[(zero, chroma_span)] * (format.plane_count - 1)]


@dataclass(frozen=True, slots=True)
class Guessed:
    """Hypotheses of the flows at an instant."""

    made: _native.MotionHypotheses

    @property
    def evidence(self) -> Array:
        """(K, EVIDENCE, h, w), of which the flows to a and to b are set: the primary's where not active."""
        return self.made.features

    @property
    def present(self) -> Array:
        """Active hypotheses (K, h / 4, w / 4), bool."""
        return self.made.active

    @property
    def seen(self) -> Array:
        """Splat coverage (3, h, w), see `midnet.carry`."""
        return self.made.coverage


@dataclass(frozen=True, slots=True)
class Drawn:
    """Two frames warped to an instant under K hypotheses.

    What a hypothesis has in tiles where it is not active is not to be read, nor what zero motion has, nor features 11
    and on where nothing is evaluated.
    """

    made: _native.Warped
    a: Layers
    b: Layers

    @property
    def seen(self) -> Array:
        """Splat coverage (3, h, w), see `midnet.carry`."""
        return self.made.coverage


def smoothed(colour: Tensor, flow: Tensor, trust: Tensor, reach: int, alike: float, sure: float) -> Tensor:
    """`midnet.smoothed` of (B, 2, h, w), given mean colours and confidence at its places."""
    padded = F.pad(torch.cat([flow, colour, trust], 1).float(), (reach,) * 4, mode="replicate")
    return _stacked([workspace().filtered_flow(x.numpy(), reach, 0.5 / alike**2, sure) for x in padded])


def missed(flow: Tensor, back: Tensor) -> Tensor:
    """`midnet.missed`."""
    pairs = zip(_members(flow), _members(back), strict=True)
    return _stacked([workspace().forward_backward_error(*pair)[None] for pair in pairs])


def agreed(own: Tensor, other: Tensor, flow: Tensor) -> Tensor:
    """`midnet._agreed` of an acceleration and of the one at the other end of a flow."""
    parts = zip(_members(own), _members(other), _members(flow), strict=True)
    return _stacked([workspace().confirmed_acceleration(*each) for each in parts])


def _members(batch: Tensor) -> list[Array]:
    return [np.ascontiguousarray(x.numpy(), np.float32) for x in batch]


def _stacked(arrays: Sequence[Array]) -> Tensor:
    """As a batch; one of them without being copied."""
    return torch.from_numpy(arrays[0])[None] if len(arrays) == 1 else torch.from_numpy(np.stack(arrays))


def guessed(
    motion: Motion, t: float, names: Sequence[str], bend: tuple[Tensor, Tensor] | None, around: int, apart: float
) -> Guessed:
    """`midnet.carry` and `midnet.present` of one gap.

    Args:
        motion: batch 1.
        t: the instant.
        names: of the hypotheses, "carried" and "rest" among them.
        bend: acceleration at a and b, if known.
        around: blocks from which flows are borrowed.
        apart: by how many blocks a hypothesis has to differ somewhere in a tile to be active.
    """
    flows = [motion.ab, motion.ba]
    importances = [motion.ab_sure, motion.ba_sure]
    if "smooth" in names:
        flows += [motion.smooth_ab, motion.smooth_ba]
        importances += [motion.smooth_ab_sure, motion.smooth_ba_sure]
    made = workspace().hypotheses(
        [x[0].contiguous().numpy() for x in flows],
        [x[0, 1].contiguous().numpy() for x in importances],
        None if bend is None else (bend[0][0].contiguous().numpy(), bend[1][0].contiguous().numpy()),
        t,
        [HYPOTHESES[name] for name in names],
        around,
        apart,
    )
    return Guessed(made)


def drawn(
    a: Layers, b: Layers, guessed: Guessed, hidden: tuple[Tensor, Tensor], rest: int, limits: Sequence[float]
) -> Drawn:
    """Both frames warped to t under every hypothesis, and their matching features.

    Args:
        a: the left frame.
        b: the right one.
        guessed: the flows.
        hidden: logits (h, w) that a pixel of a is not visible in b, and the other way round.
        rest: index of the hypothesis of zero motion.
        limits: of trivial tiles: flow, residual, residual where another hypothesis is active, colour, and by how much
            zero motion is worse.
    """
    ab, ba = (x.contiguous().numpy() for x in hidden)
    return Drawn(workspace().warp_hypotheses(guessed.made, a.planes, b.planes, ab, ba, tuple(limits)), a, b)


def completed(found: Drawn) -> tuple[Array, Array]:
    """Images (2K, 3, H, W) and evidence of `layers_of_rgb`; the primary's where another is not active."""
    made = found.made
    kinds, rest = len(made.active), made.zero
    present, judged = (x.repeat(4, 1).repeat(4, 2)[:, None] for x in (made.active, made.evaluated))
    there = judged.repeat(4, 2).repeat(4, 3)
    matrix = np.array(made.a.matrix, np.float32).reshape(3, 2)
    sides = []
    for n, still in enumerate((made.a, made.b)):
        own = slice(n * kinds, (n + 1) * kinds)
        light, chroma = made.luma[own].copy(), made.chroma[own].copy()
        light[rest], chroma[rest] = still.luma, still.chroma
        light, chroma = (np.where(there, x, x[:1]) for x in (light, chroma))
        sides.append(light + np.einsum("kn,pnyx->pkyx", matrix, chroma))
    evidence = np.where(present, made.features, made.features[:1])
    evidence[:, 11:] = np.where(judged[0], evidence[:, 11:], 0.0)
    return np.concatenate(sides), evidence


def mixed(found: Drawn, shares: Tensor) -> tuple[Array, Array | None]:
    """Luma (H, W) and chroma: of every image the weight that it has in every block (2K, h, w), sum 1."""
    return workspace().blend(found.made, shares.numpy())


def rgb_of(light: Array, chroma: Array | None, like: Layers) -> Tensor:
    """RGB (3, H, W) of luma and chroma that come of `layers_of_rgb`."""
    assert chroma is not None
    return torch.from_numpy(workspace().rgb_of(light, chroma, like.planes.matrix))


def planes_of(light: Array, chroma: Array | None, like: Layers) -> tuple[Tensor, ...]:
    """Planes like those of a frame, rounded to the code values of its format."""
    assert like.format is not None
    whole = [light] if chroma is None else [light, *chroma]
    most, made = (1 << like.format.depth) - 0.5, []
    for plane, range_, size in zip(whole, _ranges(like.format), like.sizes, strict=True):
        codes = torch.empty(size, dtype=like.format.dtype)
        workspace().write_codes(plane, range_, most, codes.numpy())
        made.append(codes)
    return tuple(made)


def look(found: Drawn, t: float, network: _native.FusionNetwork) -> _native.FusionState:
    """The fusion network's first layers."""
    return workspace().encode(found.made, network, t)


def decide(looked: _native.FusionState, found: Drawn, far: Tensor, t: float, network: _native.FusionNetwork) -> Tensor:
    """The fusion network's last layers: weights (2K, h, w).

    Args:
        looked: of `look`.
        found: of `drawn`.
        far: (each + 3, h / 2, w / 2), context of coarser layers; the last three are logits of a, of b and of zero
            motion.
        t: the instant.
        network: its layers.
    """
    return torch.from_numpy(workspace().decode(found.made, looked, network, far.numpy(), t))
