"""OpenCV's dense inverse search (DIS; Kroeger et al. 2016): one call."""

from __future__ import annotations

import cv2
import numpy as np

from midframe.models.flow.types import DisConfig, Flow, Gray


def estimate(
    frames: tuple[Gray, Gray], config: DisConfig, initial: Flow | None = None, coarsest_scale: int | None = None
) -> Flow:
    """Estimate the flow from one frame to another, coarse to fine down to their full size.

    Args:
        frames: (h, w), already reduced by `config.downscale`.
        config: of the search.
        initial: flow (h, w, 2) at which the search starts; zero if not given.
        coarsest_scale: halvings at which it starts; by the size of the frame if not given.
    """
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    if coarsest_scale is not None:
        dis.setCoarsestScale(coarsest_scale)
    dis.setPatchStride(config.patch_stride)
    dis.setGradientDescentIterations(config.descent_steps)
    dis.setVariationalRefinementIterations(config.refinement_steps)
    return np.asarray(dis.calc(*frames, initial), np.float32)  # type: ignore[arg-type]
