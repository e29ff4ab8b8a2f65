"""Dense inverse search (DIS; Kroeger et al. 2016), both ways: by the C++ kernels, or by OpenCV without them.

The kernels compute what OpenCV computes, up to rounding, in less than half of the time. Variational refinement is
OpenCV's alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import cv2
import numpy as np

from midframe.models.flow.types import DisConfig, Flow, Gray

if TYPE_CHECKING:
    from midframe._native import Workspace

DIS_PATCH = 8  # pixels
RELAXATION = 0.125  # part of a Gauss-Newton step that is taken: OpenCV's gradients are eight times as large


def pyramid(frame: Gray) -> tuple[Gray, ...]:
    """The frame (h, w), and halved as often as the search may begin at smaller ones; finest first."""
    height, width = frame.shape
    coarsest = min(
        int(math.log2(max(height, width) / (4 * DIS_PATCH)) + 0.5), int(math.log2(min(height, width) / DIS_PATCH))
    )
    levels = [np.ascontiguousarray(frame)]
    for _ in range(coarsest):
        height, width = levels[-1].shape
        half = cv2.resize(levels[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        levels.append(np.asarray(half, np.uint8))
    return tuple(levels)


def estimate(
    pyramids: tuple[Sequence[Gray], Sequence[Gray]],
    config: DisConfig,
    workspace: Workspace | None,
    initial: Sequence[Flow] | None = None,
    coarsest_scale: int | None = None,
) -> list[Flow]:
    """Estimate the flows between two frames, both ways, coarse to fine down to their full size.

    Args:
        pyramids: of both frames (h, w), already reduced by `config.downscale`.
        config: of the search.
        workspace: scratch memory and threads of the kernels; None: by OpenCV.
        initial: flows (h, w, 2), forward and backward, at which the search starts; zero if not given.
        coarsest_scale: halvings at which it starts; by the size of the frame if not given.

    Returns:
        Flows (h, w, 2), forward and backward.
    """
    if config.refinement_steps or workspace is None or min(pyramids[0][0].shape) < DIS_PATCH:
        frames = pyramids[0][0], pyramids[1][0]
        starts = initial or (None, None)
        with ThreadPoolExecutor(2) as pool:  # OpenCV releases the GIL
            pairs = frames, frames[::-1]
            flows = pool.map(lambda pair, start: estimate_by_opencv(pair, start, config, coarsest_scale), pairs, starts)
            return [*flows]
    first, second = (levels[: None if coarsest_scale is None else coarsest_scale + 1] for levels in pyramids)
    begun = None if initial is None else tuple(_flow_pyramid(flow, first) for flow in initial)
    settings = config.patch_stride, config.descent_steps, RELAXATION
    return [*workspace.inverse_search(first, second, begun, *settings)]


def estimate_by_opencv(
    frames: tuple[Gray, Gray], initial: Flow | None, config: DisConfig, coarsest_scale: int | None
) -> Flow:  # fmt: skip
    """Estimate one flow as `estimate` does, by OpenCV."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    if coarsest_scale is not None:
        dis.setCoarsestScale(coarsest_scale)
    dis.setPatchStride(config.patch_stride)
    dis.setGradientDescentIterations(config.descent_steps)
    dis.setVariationalRefinementIterations(config.refinement_steps)
    start = None if initial is None else initial.copy()  # OpenCV writes its result there
    return np.asarray(dis.calc(*frames, start), np.float32)  # type: ignore[arg-type]


def _flow_pyramid(flow: Flow, levels: Sequence[Gray]) -> list[Flow]:
    """The flow at every level, in pixels of that level."""
    found = [np.ascontiguousarray(flow, np.float32)]
    for halvings, level in enumerate(levels[1:], start=1):
        resized = cv2.resize(found[0], level.shape[::-1], interpolation=cv2.INTER_LINEAR)
        found.append(np.asarray(resized * np.float32(0.5**halvings), np.float32))
    return found
