"""Run a model of your own through the whole pipeline: `python examples/own_model.py in.mp4 out.mp4`.

This one estimates no motion and shows the nearer neighbour. A real one works per frame in `encode`, per pair of frames
in `match` and per output frame in `render`; 8 output frames of one pair share a single `match`.
"""

import sys

import torch
from torch import Tensor

import midframe
from midframe.models.base import Features, Model, Motion, RenderRequest


class Nearest(Model):
    """The nearer of the two frames."""

    name = "nearest"

    def encode(self, image: Tensor) -> Features:
        """Nothing to prepare."""
        return image

    def match(self, a: Features, b: Features) -> Motion:
        """Nothing moves."""
        return None

    def render(self, request: RenderRequest) -> Tensor:
        """(N, 3, H, W): for each t the nearer one."""
        return torch.where(request.t.view(-1, 1, 1, 1) < 0.5, request.a, request.b)


if __name__ == "__main__":
    result = midframe.interpolate(sys.argv[1], sys.argv[2], network=Nearest(), ratio=4)
    print(f"{result.path}: {result.frames_out} frames")
