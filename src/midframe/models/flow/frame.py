"""A frame as flow is estimated in it: made once, for the gaps on both sides of it."""

from __future__ import annotations

from dataclasses import dataclass

from midframe.models.flow import dis_flow
from midframe.models.flow.patches import matching_frame
from midframe.models.flow.types import Gray, Plane


@dataclass(frozen=True, slots=True)
class FlowFrame:
    """What the steps of the estimation see of one frame."""

    pyramid: tuple[Gray, ...]  # of `dis_flow.pyramid`
    matching: Plane  # of `patches.matching_frame`

    @property
    def gray(self) -> Gray:
        """The frame itself, (h, w)."""
        return self.pyramid[0]

    @classmethod
    def of(cls, gray: Gray) -> FlowFrame:
        """Prepare a frame (h, w), already reduced by `DisConfig.downscale`."""
        return cls(dis_flow.pyramid(gray), matching_frame(gray))
