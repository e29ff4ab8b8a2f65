"""Flow between two frames, both ways: estimate, restart, re-match small objects, extrapolate.

DIS follows gradients from coarse to fine. It loses objects that move farther than its coarsest patches reach or that
are too small to be seen there, and its wrong answers are as smooth as right ones. So mismatched patches are searched in
the whole frame and DIS restarts from them (`large_displacement`); of two flows the one with the lower matching cost is
kept per pixel (`consistency`); unmatched residual regions are matched by themselves (`small_objects`); flow that leaves
the frame continues the background motion (`extrapolation`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from midframe.models.flow import dis_flow
from midframe.models.flow.consistency import select_flows
from midframe.models.flow.extrapolation import active_area, extrapolate
from midframe.models.flow.frame import FlowFrame
from midframe.models.flow.large_displacement import dense_flow, restart_initialisation
from midframe.models.flow.sampling import reduce, resize_flow, select
from midframe.models.flow.small_objects import alternative_flows, rematched_regions
from midframe.models.flow.types import DisConfig, Flow, FlowPair, Gray

if TYPE_CHECKING:
    from midframe._native import Workspace

MAX_RESTARTS = 2
MAX_GRID_AREA = 20_000  # grid pixels at most, of the grid on which flow is extrapolated


def estimate_bidirectional(
    first: FlowFrame,
    second: FlowFrame,
    config: DisConfig,
    grid: int,
    small_objects: bool = False,
    workspace: Workspace | None = None,
) -> FlowPair:
    """Estimate the flow from one frame to another and back.

    Args:
        first: frame (h, w), already reduced by `config.downscale`.
        second: like `first`.
        config: of DIS.
        grid: frame pixels per grid pixel at which matching costs are compared.
        small_objects: whether `FlowPair.alternative` is wanted.
        workspace: scratch memory and threads of the C++ kernels; None: by OpenCV and NumPy, slower.

    Returns:
        Flows (h, w, 2) and the active area.
    """
    frames = first.gray, second.gray
    pyramids = first.pyramid, second.pyramid
    small = first.matching, second.matching
    flows = dis_flow.estimate(pyramids, config, workspace)
    for _ in range(MAX_RESTARTS):
        vectors = restart_initialisation(*small, flows)
        if not vectors:
            break
        initial = [dense_flow(each, frames[0].shape, small[0].shape) for each in vectors]
        flows = select_flows(*frames, flows, dis_flow.estimate(pyramids, config, workspace, initial), grid)
    alternative: Sequence[Flow] = flows
    if small_objects:
        regions = rematched_regions(*small, flows)
        alternative = alternative_flows(frames, flows, regions, config, grid, workspace)
    return _extrapolated(frames, flows, alternative, grid, workspace)


def _extrapolated(
    frames: tuple[Gray, Gray],
    flows: Sequence[Flow],
    alternative: Sequence[Flow],
    grid: int,
    workspace: Workspace | None,
) -> FlowPair:
    """Both flows extrapolated; the alternative ones where they differ from the flows."""
    grid = max(grid, math.ceil(math.sqrt(frames[0].size / MAX_GRID_AREA)))
    rows, columns = (max(1, length // grid) for length in frames[0].shape)
    a, b = reduce(frames, rows, columns)
    area = active_area(a, b)
    forward, backward = (resize_flow(flow, rows, columns) for flow in flows)
    ways = ((a, b), (forward, backward), flows[0]), ((b, a), (backward, forward), flows[1])
    # one after the other: two threads are slower at so many small operations
    forward, backward = (extrapolate(planes, pair, flow, grid, area, workspace) for planes, pair, flow in ways)
    if alternative is flows:
        return FlowPair(forward, backward, area)
    both = [
        select((new != flow).any(2), resize_flow(new, *old.shape[:2]), old)
        for old, new, flow in zip((forward, backward), alternative, flows, strict=True)
    ]
    return FlowPair(forward, backward, area, (both[0], both[1]))
