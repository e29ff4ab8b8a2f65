"""Cross-fade (1 - t) a + t b: the baseline above holding, and the fake model of the engine's tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from midframe import ops
from midframe.models.base import Features, Model, Motion, RenderRequest
from midframe.types import PixelFormat


class Blend(Model):
    """Cross-fade without motion; needs no weights."""

    name = "blend"
    fast_half: ClassVar[tuple[str, ...]] = ()

    def encode(self, image: Tensor) -> Features:
        """The frame itself."""
        return image

    def match(self, a: Features, b: Features) -> Motion:
        """Nothing."""
        return None

    def render(self, request: RenderRequest) -> Tensor:
        """(N, 3, H, W): `a + t (b - a)`."""
        return torch.lerp(request.a, request.b, request.t.to(request.a).view(-1, 1, 1, 1))

    def supports_planes(self, format: PixelFormat, height: int, width: int) -> bool:
        """Every format: a cross-fade is the same in Y'CbCr and in RGB."""
        return True

    def encode_planes(self, planes: Sequence[Tensor], format: PixelFormat) -> Features:
        """The planes themselves."""
        return tuple(planes)

    def render_planes(self, request: RenderRequest) -> list[tuple[Tensor, ...]]:
        """Every plane blended, alpha too."""
        pairs = [*zip(request.a, request.b, strict=True)]
        return [tuple(ops.blend(p, q, t) for p, q in pairs) for t in request.t.tolist()]
