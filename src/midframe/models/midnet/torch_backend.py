"""midnet's back end of tensor operations: for GPUs and training, and the oracle of the tests. Differentiable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from midframe import kernels
from midframe.models.flow.matcher import correlate
from midframe.models.midnet import hypotheses, occlusion
from midframe.models.midnet.architecture import ZERO, refined_index
from midframe.models.midnet.features import leading_features, matching_features
from midframe.models.midnet.fusion import FusionNetwork
from midframe.models.midnet.hypotheses import expand_tiles
from midframe.models.midnet.types import (
    BLOCK,
    EVALUATED,
    FLOW_TO_A,
    FLOW_TO_B,
    FLOWS,
    FlowFields,
    FrameFeatures,
    WarpedFrames,
    WarpRequest,
)
from midframe.ops import spline_coefficients, vector_length, warp, warp_spline
from midframe.types import PixelFormat

if TYPE_CHECKING:
    from midframe._native import Workspace

LUMA = (0.299, 0.587, 0.114)
FILTER_RADIUS = 3  # places at 1/4 to either side of the bilateral filter
COLOUR_SIGMA = 0.06  # of colours, 0..1: the standard deviation within a surface
KEPT_CONFIDENCE = 1.1  # inverse of the confidence from which a vector is kept: inconsistency below 0.1 pixel
WARP_PIXELS = 2_000_000  # of all frames that are warped together


@dataclass(frozen=True, slots=True)
class SplineImage:
    """RGB frames with their luma, and the spline coefficients of both."""

    rgb: Tensor  # (B, 3, H, W)
    luma: Tensor  # (B, 1, H, W)
    coefficients: Tensor  # (B, 4, H + 4, W + 4), see `ops.spline_coefficients`

    def __getitem__(self, members: slice) -> SplineImage:
        return SplineImage(self.rgb[members], self.luma[members], self.coefficients[members])

    def __len__(self) -> int:
        return len(self.rgb)

    def expand(self, count: int) -> SplineImage:
        """A batch of one as one of `count`."""
        return SplineImage(*(x.expand(count, *x.shape[1:]) for x in (self.rgb, self.luma, self.coefficients)))

    def channels(self) -> Tensor:
        """R, G, B and luma, (B, 4, H, W)."""
        return torch.cat([self.rgb, self.luma], 1)


class TorchBackend:
    """See `Backend`; on any device, with gradients where they are asked for."""

    def __init__(self) -> None:
        self._workspace = kernels.workspace(torch.get_num_threads())

    @property
    def workspace(self) -> Workspace | None:
        """See `Backend.workspace`."""
        return self._workspace

    def prepare(self, image: Tensor) -> FrameFeatures:
        """See `Backend.prepare`."""
        luma = (image * image.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
        coefficients = spline_coefficients(torch.cat([image, luma], 1))
        return FrameFeatures(luma, F.avg_pool2d(image, BLOCK), SplineImage(image, luma, coefficients))

    def supports_planes(self, format: PixelFormat) -> bool:
        """None: planes become RGB beforehand."""
        return False

    def prepare_planes(self, planes: Sequence[Tensor], format: PixelFormat, size: tuple[int, int]) -> FrameFeatures:
        """Not supported."""
        raise NotImplementedError("the torch back end takes RGB only")

    def flow_fields(
        self,
        flows: tuple[Tensor, Tensor],
        inconsistency: tuple[Tensor, Tensor],
        area: Tensor,
        background: tuple[Tensor, Tensor],
    ) -> FlowFields:
        """See `Backend.flow_fields`."""
        return occlusion.flow_fields(flows, inconsistency, area, background)

    def inconsistency(self, flow: Tensor, backward: Tensor) -> Tensor:
        """See `Backend.inconsistency`."""
        return 4.0 * vector_length(flow + warp(backward, flow))

    def filter_flow(self, flow: Tensor, block_means: Tensor, confidence: Tensor) -> Tensor:
        """See `Backend.filter_flow`."""
        height, width = flow.shape[-2:]
        radius = FILTER_RADIUS
        padded = F.pad(torch.cat([flow, block_means, confidence], 1).float(), (radius,) * 4, mode="replicate")
        total, weights = torch.zeros_like(flow), torch.zeros_like(confidence)
        for dy in range(-radius, radius + 1):
            for dx in range(-radius, radius + 1):
                there = padded[..., radius + dy : radius + dy + height, radius + dx : radius + dx + width]
                colour = (there[:, 2:5] - block_means).square().sum(1, keepdim=True) * (0.5 / COLOUR_SIGMA**2)
                weight = there[:, 5:] * torch.exp(-colour - (dx * dx + dy * dy) / (2.0 * radius**2))
                total, weights = total + weight * there[:, :2], weights + weight
        kept = (KEPT_CONFIDENCE * confidence).clamp(max=1.0)
        return flow * kept + total / weights * (1.0 - kept)

    def confirm_acceleration(self, own: Tensor, other: Tensor, flow: Tensor) -> Tensor:
        """See `Backend.confirm_acceleration`."""
        other = warp(other, flow)
        mean, difference = 0.5 * (own + other), vector_length(own - other)
        size = vector_length(mean)
        agreement = (1.0 - difference / (size + 1e-6)).clamp(0.0, 1.0)  # none where they differ by their own size
        cap = (0.5 * vector_length(flow) / (size + 1e-6)).clamp(max=1.0)
        return mean * agreement * cap

    def local_correlation(self, a: Tensor, b: Tensor) -> Tensor:
        """See `Backend.local_correlation`."""
        return correlate(a, b)

    def batch_limit(self, pixels: int) -> int:
        """As many as `WARP_PIXELS` hold."""
        return max(1, WARP_PIXELS // pixels)

    def warp(self, request: WarpRequest, names: Sequence[str]) -> WarpedFrames:
        """See `Backend.warp`; t may have more members than the frames, which are repeated then."""
        t, motion, acceleration = request.t.float().view(-1, 1, 1, 1), request.motion, request.acceleration
        a, b = _spline_image(request.a), _spline_image(request.b)
        if len(a) != len(t):
            a, b, motion = a.expand(len(t)), b.expand(len(t)), motion.expand(len(t))
            acceleration = None if acceleration is None else acceleration.expand(len(t))
        proposed = hypotheses.propose(motion, t, names, acceleration, request.refined)
        flows, zero = proposed.flows, list(names).index(ZERO)
        refined = refined_index(names)

        def warped(k: int) -> tuple[Tensor, Tensor]:
            if k == zero:
                return a.channels(), b.channels()
            to_a, to_b = (_upsampled(flow, 4.0) for flow in flows[:, k].chunk(2, 1))
            return warp_spline(a.coefficients, to_a), warp_spline(b.coefficients, to_b)

        primary, still = warped(0), warped(zero)
        with torch.no_grad():
            active = hypotheses.active_tiles(flows, names)
            trivial = hypotheses.trivial_tiles(
                leading_features(flows[:, 0], *primary), leading_features(flows[:, zero], *still), active, refined
            )
            active &= ~trivial
            active[:, [0, zero]] = True
            flows = torch.where(expand_tiles(active)[:, :, None], flows, flows[:, :1])
            pixels, not_trivial = expand_tiles(active, BLOCK)[:, :, None], ~expand_tiles(trivial, BLOCK)
        of_a, of_b = [primary[0]], [primary[1]]
        for k in range(1, len(names)):
            for made, own, leader in zip((of_a, of_b), still if k == zero else warped(k), primary, strict=True):
                made.append(torch.where(pixels[:, k], own, leader))
        with torch.no_grad():
            occlusion_a, occlusion_b = motion.primary.ab.occlusion, motion.primary.ba.occlusion
            occlusion = [
                (warp(occlusion_a, flow[:, FLOW_TO_A]), warp(occlusion_b, flow[:, FLOW_TO_B]))
                for flow in flows.unbind(1)
            ]
            if request.refined is not None and refined is not None:
                logit, used = request.refined.visibility, request.refined.used > 0.5
                learned = zip((logit, -logit), occlusion[refined], strict=True)
                visible_a, visible_b = (torch.where(used, own, elsewhere) for own, elsewhere in learned)
                occlusion[refined] = visible_a, visible_b
            features = matching_features(of_a, of_b, flows.unbind(1), occlusion)
            features = torch.where(expand_tiles(active)[:, :, None], features, features[:, :1])
            features[:, :, EVALUATED] *= ~expand_tiles(trivial)[:, :, None]
        for made in (of_a, of_b):
            made[zero] = torch.where(not_trivial, made[zero], made[0])
        return WarpedFrames([x[:, :3] for x in of_a], [x[:, :3] for x in of_b], features, proposed.coverage)

    def as_tensors(self, warped: WarpedFrames) -> WarpedFrames:
        """As they are."""
        return warped

    def hypothesis_flows(self, warped: WarpedFrames) -> Tensor:
        """See `Backend.hypothesis_flows`."""
        return warped.features[:, :, FLOWS]

    def fuse(self, network: FusionNetwork, warped: WarpedFrames, t: Tensor) -> Tensor:
        """See `Backend.fuse`."""
        weights: Tensor = network(warped.features, warped.coverage, t.float().view(-1, 1, 1, 1))
        return weights

    def blend(self, warped: WarpedFrames, weights: Tensor) -> Tensor:
        """See `Backend.blend`."""
        image = torch.zeros_like(warped.a[0])
        for k, frame in enumerate((*warped.a, *warped.b)):
            image = image + _upsampled(weights[:, k : k + 1]) * frame
        return image

    def blend_planes(self, warped: WarpedFrames, weights: Tensor) -> tuple[Tensor, ...]:
        """Not supported."""
        raise NotImplementedError("the torch back end makes RGB only")


def _spline_image(features: FrameFeatures) -> SplineImage:
    if not isinstance(features.planes, SplineImage):
        raise TypeError("these features come from another back end; encode the frames with the model that renders them")
    return features.planes


def _upsampled(x: Tensor, scale: float = 1.0) -> Tensor:
    """Bilinear, four times the size, times `scale`."""
    return F.interpolate(x, scale_factor=float(BLOCK), mode="bilinear", align_corners=False) * scale
