"""VFINet: the network of ModelScope's cv_raft_video-frame-interpolation, behind the three methods of a model.

RAFT gives flows, `refine` corrects them, `motion` brings them to the instant, `fuse` makes the image. The
arithmetic is the original's (github.com/modelscope/modelscope, Apache-2.0), met to rounding; see docs/vfinet.md.
Images enter and leave as RGB; inside they are BGR, as the network was trained.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from midframe import ops
from midframe.errors import InputError
from midframe.models import raft
from midframe.models.base import Model, RenderRequest, SceneDetector
from midframe.models.raft import Encoded, Raft
from midframe.models.vfinet import motion as instants
from midframe.models.vfinet.cuts import FlowCuts, Memoising
from midframe.models.vfinet.fuse import Fuse
from midframe.models.vfinet.refine import Refine

MEAN = (0.429, 0.431, 0.397)  # taken from B, G and R (the original's numbers, in its order)
RAFT_ITERATIONS = 12

# From here on flows are found at half the resolution: 2560x1440.
LARGE_AREA = 2560 * 1440  # pixels
LARGE_HEIGHT, LARGE_WIDTH = 1440, 2560  # the original's rule: either of them
RULES = ("area", "reference")

# Images of more pixels than this are rendered one instant at a time.
BATCH_AREA = 512 * 512


@dataclass(frozen=True)
class Features:
    """Features of an image."""

    image: Tensor  # (B, 3, h, w) BGR less the mean, at the resolution of the flows
    full: Tensor | None  # (B, 3, 2h, 2w) the same at twice that, for large images
    encoded: Encoded


@dataclass(frozen=True)
class Flows:
    """Motion of a gap, at the resolution of the flows: (B, 2, h, w) float32."""

    forward: Tensor  # a -> b, refined
    backward: Tensor  # b -> a, refined
    raw_forward: Tensor  # of RAFT, unrefined: for the acceleration in neighbouring gaps
    raw_backward: Tensor
    halved: bool = False  # whether that is half the resolution of the images


class VFINet(Model):
    """The ModelScope network; four frames where there are four, two at ends and beside cuts.

    Of large images flows are found at half the resolution, and only the last warp is at full size; `flow_scale`
    1 or 0.5 decides it for all images.

    Args:
        large: which images are large: "area", from 2560x1440 pixels on whatever the shape, or "reference", from 1440
            rows or 2560 columns on as the original has it.
    """

    name: ClassVar[str] = "vfinet"
    context: ClassVar[int] = 1
    stride: ClassVar[int] = 32
    min_side: ClassVar[int] = 128
    pad_mode: ClassVar[str] = "zeros"
    # Half precision is faster, but taken only when asked for: vfinet is for being the published network to rounding.
    fast_half: ClassVar[tuple[str, ...]] = ()
    flow_scales: ClassVar[tuple[float, ...]] = (1.0, 0.5)
    scale_frees_memory: ClassVar[bool] = True
    scene_rule: ClassVar[str | None] = "modelscope"

    def __init__(self, large: str = "area") -> None:
        super().__init__()
        if large not in RULES:
            raise InputError(f"large {large!r} is none of {', '.join(RULES)}")
        self.large = large
        self.raft = Raft()
        self.refine = Refine()
        self.fuse = Fuse()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def as_published(self) -> Model:
        """Large frames told by the original's rule; the caller's model stays as it is."""
        model = copy.copy(self)
        model.large = "reference"
        return model

    def memoised(self) -> Model:
        """Flows of recent frames are estimated once."""
        return Memoising(self)

    def scene_detector(self, device: torch.device, half: torch.dtype | None) -> SceneDetector:
        """ModelScope's rule, by the refined flows."""
        return FlowCuts(self, device, half)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Zeros at right and bottom up to multiples of 32; of 64 for large images."""
        size = self._multiple(height, width, 1)
        if self._is_large(height, width, size):
            return self._multiple(height, width, 2)
        if self.flow_scale is None and self.large == "reference" and size[1] == LARGE_WIDTH:
            # 2529..2559 columns are not large, and must not look so to `encode`
            return size[0], size[1] + self.stride
        return size

    def _multiple(self, height: int, width: int, factor: int) -> tuple[int, int]:
        s, low = self.stride * factor, self.min_side * factor
        return -(-max(height, low) // s) * s, -(-max(width, low) // s) * s

    def _is_large(self, height: int, width: int, padded: tuple[int, int]) -> bool:
        """Whether an image's flows are found at half its resolution."""
        if self.flow_scale is not None:
            return self.flow_scale == 0.5
        if self.large == "area":  # of the padded image, so that `encode` can decide by its input
            return padded[0] * padded[1] >= LARGE_AREA
        return height >= LARGE_HEIGHT or width >= LARGE_WIDTH

    def encode(self, image: Tensor) -> Features:
        """Normalised images and RAFT's features; sides as `padded_size` gives them."""
        height, width = image.shape[-2:]
        if (height, width) != self._multiple(height, width, 1):
            raise InputError(f"{width}x{height} is no size that vfinet takes; pad to {self.padded_size(height, width)}")
        # a size that only padding has made 1440 rows is no multiple of 64, so it is not mistaken for a large one
        is_large = (height, width) == self._multiple(height, width, 2) and self._is_large(
            height, width, (height, width)
        )
        image = image.float().flip(1)
        mean = image.new_tensor(MEAN).view(1, 3, 1, 1)
        full = image - mean if is_large else None
        if is_large:
            image = F.avg_pool2d(image, 2)  # equals bilinear halving
        return Features(image - mean, full, self.raft.encode(image))

    def match(self, a: Features, b: Features) -> Flows:
        """RAFT both ways, then the refinement."""
        raw = self.raft.match_unrounded(a.encoded, b.encoded, RAFT_ITERATIONS)
        if raw[0].dtype == torch.float64:
            mean = raw[0].new_tensor(MEAN).view(1, 3, 1, 1)
            images = [raft.exact(x.image.double() + mean) - mean for x in (a, b)]
            refined = raft.doubled(self.refine)(*images, *raw)
        else:
            refined = self.refine(a.image, b.image, *raw)
        forward, backward, raw_forward, raw_backward = (flow.float() for flow in (*refined, *raw))
        return Flows(forward, backward, raw_forward, raw_backward, a.full is not None)

    def flow(self, motion: Flows) -> Tensor:
        """The refined flow a -> b, (B, 2, H, W), pixels of the padded images."""
        if not motion.halved:
            return motion.forward
        return ops.resize_flow(motion.forward, 2 * motion.forward.shape[-2], 2 * motion.forward.shape[-1])

    def render(self, request: RenderRequest) -> Tensor:
        """Images at t: quadratic motion where both neighbouring gaps are given, even motion otherwise."""
        a, b, motion, t = request.a, request.b, request.motion, request.t
        before, after = request.before, request.after
        if len(t) > 1 and len(a.image) == 1 and a.image.shape[-2] * a.image.shape[-1] > BATCH_AREA:
            return torch.cat([self.render(replace(request, t=one)) for one in torch.split(t, 1)])
        n = max(len(t), len(a.image))
        t = t.float().view(-1, 1, 1, 1)
        flows = torch.stack([motion.forward, motion.backward])  # (2, B, 2, h, w)
        if before is not None and after is not None:
            to_t = instants.quadratic(flows[0], flows[1], before.raw_backward, after.raw_forward, t)
        else:
            to_t = instants.linear(flows[0], flows[1], t)
        reversed_flows = torch.stack(instants.reverse(torch.cat(to_t)).chunk(2))
        images = torch.stack([a.image, b.image]).expand(-1, n, -1, -1, -1)
        full = None
        if a.full is not None and b.full is not None:
            full = torch.stack([a.full, b.full]).expand(-1, n, -1, -1, -1)
        out: Tensor = self.fuse(images, flows.expand(-1, n, -1, -1, -1), reversed_flows, t, full)
        return (out + out.new_tensor(MEAN).view(1, 3, 1, 1)).flip(1)
