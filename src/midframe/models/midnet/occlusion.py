"""Occlusion logits, splatting importance and foreground ordering from forward-backward inconsistency."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from midframe.models.flow import extrapolation
from midframe.models.midnet.types import FlowField, FlowFields
from midframe.ops import box_mean, coordinates, vector_length, warp

if TYPE_CHECKING:
    from midframe._native import Workspace

IMPORTANCE_PER_PIXEL = 0.5  # log importance lost per pixel of inconsistency
LENGTH_TOLERANCE = 0.05  # of a vector's length, above 20 pixels: inconsistency that counts as one pixel
MAX_FOREGROUND_INCONSISTENCY = 2.0  # pixels, scaled like that, up to which a foreground pixel is trusted
FOREGROUND_IMPORTANCE = 6.0  # log importance of foreground, see `foreground`
INDEPENDENT_MOTION = 16.0  # pixels by which motion must differ from the background's; certain from twice that
DISOCCLUSION = 0.3  # of that difference: inconsistency of disoccluded pixels; certain from twice that
OUT_OF_FRAME_WEIGHT = 4.0  # pixels of inconsistency to which a pixel beyond the edge counts, for occlusion
MAX_INCONSISTENCY = 8.0  # pixels above which inconsistency tells nothing more
OCCLUSION_BIAS = -2.0  # occlusion logit of a consistent flow


def flow_fields(
    flows: tuple[Tensor, Tensor], inconsistency: tuple[Tensor, Tensor], area: Tensor, background: tuple[Tensor, Tensor]
) -> FlowFields:
    """Both flows with occlusion and importance.

    Content that leaves the active area is occluded, but its flow may be as good as any. For the importance,
    inconsistency counts relative to the length of the vector (Sundaram, Brox & Keutzer 2010): blurred objects in
    flight, whose surface the flows follow less exactly, would come out in shreds otherwise; foreground is above all
    else.

    Args:
        flows: a to b and b to a, (B, 2, h, w).
        inconsistency: of each, (B, 1, h, w), full-size pixels.
        area: (B, 4), active areas.
        background: background motion of each, (B, 2, h, w).
    """
    fields = []
    for way, flow in enumerate(flows):
        error = inconsistency[way]
        occlusion = torch.maximum(error, OUT_OF_FRAME_WEIGHT * out_of_frame_distance(flow, area))
        relative = error / (4.0 * LENGTH_TOLERANCE * vector_length(flow)).clamp(min=1.0)
        relative = relative.clamp(max=MAX_INCONSISTENCY)
        importance = -relative * IMPORTANCE_PER_PIXEL
        front = foreground(flow, background[way], inconsistency[1 - way])
        importance = importance + FOREGROUND_IMPORTANCE * front * (relative < MAX_FOREGROUND_INCONSISTENCY)
        fields.append(FlowField(flow, occlusion.clamp(max=MAX_INCONSISTENCY) + OCCLUSION_BIAS, importance))
    return FlowFields(*fields)


def background_motion(flow: Tensor, inconsistency: Tensor, workspace: Workspace | None = None) -> Tensor:
    """Local affine motion around each place (B, 2, h, w), see `extrapolation.background_of_planes`; on the CPU.

    Args:
        flow: (B, 2, h, w).
        inconsistency: (B, 1, h, w); where it is large the flow is not used.
        workspace: scratch memory of the kernels; None: by NumPy.
    """
    weight = (torch.exp(-0.5 * inconsistency * inconsistency) + 1e-4).detach().cpu()
    found = [
        extrapolation.background_of_planes(vectors.numpy(), own.numpy(), workspace)
        for vectors, own in zip(flow.detach().float().cpu(), weight[:, 0], strict=True)
    ]
    return torch.from_numpy(np.stack(found)).to(flow.device)


def foreground(flow: Tensor, background: Tensor, inconsistency_there: Tensor) -> Tensor:
    """Confidence, 0..1, that a pixel lies in front of the background; (B, 1, h, w).

    Foreground is recognised by the disocclusions around it: pixels that it uncovers in the other frame are not
    visible in this one, so flows are inconsistent there. Objects that pass behind uncover nothing. Objects that move
    by more than their own width need this: at t they lie over ground that both frames show, where both flows are
    equally consistent.

    Args:
        flow: (B, 2, h, w), pixels of that size.
        background: background motion, likewise.
        inconsistency_there: (B, 1, h, w), in full-size pixels, at the places of the other frame.
    """
    difference = 4.0 * vector_length(flow - background)
    independent = (difference / INDEPENDENT_MOTION - 1.0).clamp(0.0, 1.0)
    if not independent.any():
        return independent
    uncovered = warp(inconsistency_there, background) / (DISOCCLUSION * difference).clamp(min=1e-3) - 1.0
    return independent * F.max_pool2d(box_mean(uncovered.clamp(0.0, 1.0) * independent, 3), 3, 1, 1)


def out_of_frame_distance(flow: Tensor, area: Tensor) -> Tensor:
    """Distance in full-size pixels by which a flow at 1/4 leads out of the active area (B, 4); (B, 1, h, w)."""
    height, width = flow.shape[-2:]
    x, y = (coordinates(height, width, flow.device) + flow).chunk(2, 1)
    left, top, right, bottom = area.view(-1, 4, 1, 1, 1).unbind(1)
    across = torch.maximum(left * width - x, x - (right * width - 1))
    down = torch.maximum(top * height - y, y - (bottom * height - 1))
    return 4.0 * torch.maximum(across, down).clamp(min=0.0)
