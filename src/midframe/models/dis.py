"""The classical model: OpenCV DIS flow, splat, occlusion-aware blend. Needs no weights."""

from __future__ import annotations

from midframe.models.base import Model


class Dis(Model):
    """Placeholder until the classical model lands in this file."""

    name = "dis"
