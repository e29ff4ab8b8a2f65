"""The protocol of back ends: prepare frames, warp them under every hypothesis, fuse and blend them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from midframe.models.midnet.fusion import FusionNetwork
from midframe.models.midnet.types import FlowFields, FrameFeatures, WarpedFrames, WarpRequest
from midframe.types import PixelFormat

if TYPE_CHECKING:
    from midframe._native import Workspace

Warped = Any  # frames warped under every hypothesis, as a back end keeps them


class Backend(Protocol):
    """Computes for one engine. Features and warped frames belong to the kind of back end that made them."""

    @property
    def workspace(self) -> Workspace | None:
        """Scratch memory and threads of the C++ kernels, which estimate flow on the CPU; None without them."""

    def prepare(self, image: Tensor) -> FrameFeatures:
        """Prepare RGB frames (B, 3, H, W) for warping."""

    def supports_planes(self, format: PixelFormat) -> bool:
        """Whether `prepare_planes` and `blend_planes` take frames of this format."""

    def prepare_planes(self, planes: Sequence[Tensor], format: PixelFormat, size: tuple[int, int]) -> FrameFeatures:
        """Prepare the planes of one frame, their edges repeated up to a size (height, width)."""

    def inconsistency(self, flow: Tensor, backward: Tensor) -> Tensor:
        """Forward-backward inconsistency (B, 1, h, w), in full-size pixels, of flows (B, 2, h, w) at 1/4."""

    def flow_fields(
        self,
        flows: tuple[Tensor, Tensor],
        inconsistency: tuple[Tensor, Tensor],
        area: Tensor,
        background: tuple[Tensor, Tensor],
    ) -> FlowFields:
        """Both flows with occlusion and splatting importance, see `occlusion.flow_fields`."""

    def filter_flow(self, flow: Tensor, block_means: Tensor, confidence: Tensor) -> Tensor:
        """Filter unreliable flow vectors by a confidence-weighted joint bilateral filter (7x7).

        Args:
            flow: (B, 2, h, w).
            block_means: (B, 3, h, w), mean colours of the frame the flow leads from.
            confidence: (B, 1, h, w), 0..1; confident vectors are kept.
        """

    def confirm_acceleration(self, own: Tensor, other: Tensor, flow: Tensor) -> Tensor:
        """Mean of the accelerations at both ends of a flow, (B, 2, h, w), less the more they disagree.

        Args:
            own: at the places of the flow, (B, 2, h, w).
            other: at the places it leads to.
            flow: also caps the result, at half of its length.
        """

    def local_correlation(self, a: Tensor, b: Tensor) -> Tensor:
        """Dot products of two feature maps, see `matcher.correlate`."""

    def batch_limit(self, pixels: int) -> int:
        """How many frames of so many pixels `warp` takes at once."""

    def warp(self, request: WarpRequest, names: Sequence[str]) -> Warped:
        """Warp both frames to t under every hypothesis where it is active, and compute their matching features."""

    def as_tensors(self, warped: Warped) -> WarpedFrames:
        """Warped frames as RGB tensors. An inactive hypothesis is the primary one; trivial tiles have no detail."""

    def hypothesis_flows(self, warped: Warped) -> Tensor:
        """Flows of the hypotheses (N, K, 4, h, w), from t to a and to b, pixels of that size."""

    def fuse(self, network: FusionNetwork, warped: Warped, t: Tensor) -> Tensor:
        """Fusion weights (N, 2K, h, w) of warped frames."""

    def blend(self, warped: Warped, weights: Tensor) -> Tensor:
        """RGB (N, 3, H, W): warped frames, weighted."""

    def blend_planes(self, warped: Warped, weights: Tensor) -> tuple[Tensor, ...]:
        """As `blend`, of one frame that came by `prepare_planes`, rounded to the code values of its format."""
