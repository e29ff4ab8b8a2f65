"""Models for tests of the engine and what stands on it."""

from __future__ import annotations

from midframe.models.blend import Blend
from midframe.types import PixelFormat


class RgbBlend(Blend):
    """A cross-fade that goes through RGB and the three methods of a model, as the networks do."""

    def supports_planes(self, format: PixelFormat, height: int, width: int) -> bool:
        """Nothing."""
        return False
