"""Bidirectional flow of batches of frames, at 1/4 of their size; the configuration of DIS by image area."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from midframe.models.base import scale_by_size
from midframe.models.flow.bidirectional import estimate_bidirectional
from midframe.models.flow.frame import FlowFrame
from midframe.models.flow.sampling import resize_flow
from midframe.models.flow.types import AREA_LIMITS, DisConfig, Flow, Gray, largest_downscale, select_by_area
from midframe.models.midnet.types import BLOCK, FrameFeatures

if TYPE_CHECKING:
    from midframe._native import Workspace

# Untrained, Middlebury: 35.68 dB down to full size, 35.07 down to half size, at a third of the time. On 30 triplets of
# clips of 720p FAIR has 34.61 dB; a quarter of the size 34.51, at half of the time. Variational refinement takes as
# long as the search and is worth nothing in interpolated frames, but faint grain is followed better (end-point error of
# the rendered suite 0.48 instead of 0.61 px): frames so small that time does not matter have it.
# See docs/training-log.md.
FINEST, FINE, FAIR, QUICK = (
    DisConfig(1, 4, 25, 5),
    DisConfig(1, 4, 25, 0),
    DisConfig(2, 5, 25, 0),
    DisConfig(4, 4, 25, 0),
)
TINY_AREA = 120_000  # pixels, up to which a frame has the finest


@dataclass(frozen=True, slots=True)
class FlowConfig:
    """How the flow of frames of one size is estimated."""

    dis: DisConfig
    factor: int  # by which the frames are reduced

    @classmethod
    def of(cls, height: int, width: int, scale: float | None = None, dis: DisConfig | None = None) -> FlowConfig:
        """The configuration for frames of a size.

        Args:
            height: of the frames, in pixels.
            width: likewise.
            scale: side of the frames in which flow is estimated: 1, 0.5 or 0.25; by area if not given.
            dis: configuration of DIS; by area if not given.
        """
        area = height * width
        downscale = round(1 / (scale or scale_by_size(area)))
        dis = dis or select_by_area(area // downscale**2, (FINEST, FINE, FAIR, QUICK), (TINY_AREA, *AREA_LIMITS))
        return cls(dis, largest_downscale(downscale * dis.downscale, height, width))


def flow_frames(luma: Tensor, config: FlowConfig) -> tuple[FlowFrame, ...]:
    """Frames of luma (B, 1, H, W), 0..1, as `estimate_flow` takes them."""
    return tuple(FlowFrame.of(_gray(x, config.factor)) for x in luma.detach().float()[:, 0].cpu().numpy())


def estimate_flow(
    a: FrameFeatures, b: FrameFeatures, config: FlowConfig, small_objects: bool, workspace: Workspace | None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    """Bidirectional flow of every pair, on the CPU.

    Args:
        a: B frames with their `flow_frames`.
        b: like `a`.
        config: the one of the `flow_frames`.
        small_objects: whether the alternative flows with small fast objects are wanted.
        workspace: see `estimate_bidirectional`.

    Returns:
        Flows a to b and b to a, (B, 2, H/4, W/4) float32, pixels of that size; the alternative flows, the same ones if
        there are none; active areas (B, 4).
    """
    height, width = a.luma.shape[-2:]
    grid = max(1, BLOCK // config.factor)
    pairs = [
        estimate_bidirectional(one, two, config.dis, grid, small_objects, workspace)
        for one, two in zip(a.flow_frames, b.flow_frames, strict=True)
    ]

    def batch(flows: Sequence[Flow]) -> Tensor:
        resized = [resize_flow(flow, height // BLOCK, width // BLOCK) for flow in flows]
        return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous().to(a.luma.device)

    areas = torch.tensor([pair.active_area for pair in pairs], dtype=torch.float32, device=a.luma.device)
    flows = batch([pair.forward for pair in pairs]), batch([pair.backward for pair in pairs])
    alternative = flows
    if any(pair.alternative for pair in pairs):
        chosen = [pair.alternative or (pair.forward, pair.backward) for pair in pairs]
        alternative = batch([forward for forward, _ in chosen]), batch([backward for _, backward in chosen])
    return flows, alternative, areas


def _gray(luma: NDArray[np.float32], factor: int) -> Gray:
    """Luma 0..1 as 8-bit levels, reduced by a factor."""
    height, width = luma.shape
    if factor > 1:
        size = width // factor, height // factor
        luma = np.asarray(cv2.resize(luma, size, interpolation=cv2.INTER_AREA), np.float32)
    return np.asarray(cv2.addWeighted(luma, 255.0, luma, 0.0, 0.0, dtype=cv2.CV_8U))
