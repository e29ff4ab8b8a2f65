"""RIFE architectures, recognised by names and shapes of the tensors in a file.

RIFE (Huang et al., "Real-Time Intermediate Flow Estimation for Video Frame Interpolation", ECCV 2022, arXiv:2011.06294)
is a chain of blocks from coarse to fine. Versions differ in the number and width of the blocks, in their output
channels, and in the encoder; all of that is visible in the shapes. Versions of equal graph have one name here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from midframe.errors import WeightsError

Shapes = Mapping[str, tuple[int, ...]]

READ = "3.x (HDv3) and 4.4 to 4.26 with their lite and heavy forms"
# Output channels of a block of version 4 before the pixel shuffle -> features; the others are flow, mask, one unused.
_OUTPUTS = {24: 0, 52: 8}
# The last block of 4.25-lite: narrower than any other fifth block, and its chain starts twice as coarse.
_LITE_WIDTH = 24
# Names of the encoder's layers in a file; the last one is a transposed convolution.
_ENCODERS = (("cnn0", "cnn1", "cnn2", "cnn3"), ("0", "2", "4", "6"), ("0", "1"))


@dataclass(frozen=True, slots=True)
class Architecture:
    """What distinguishes one RIFE version from another."""

    version: str  # "3.x", "4.6", "4.25" ...: the best known version of this graph
    widths: tuple[int, ...]  # channels of each block, coarse to fine
    scales: tuple[int, ...]  # each block works at 1 / scale of the image
    encoder: tuple[str, ...] = ()  # names of the encoder's layers; none before 4.7
    encoder_width: int = 0
    encoded: int = 0  # channels per encoded image
    features: int = 0  # channels that a block hands to the next one, from 4.21 on

    @property
    def any_time(self) -> bool:
        """Whether t is an input; version 3 knows t = 1/2 only."""
        return self.version != "3.x"

    @property
    def stride(self) -> int:
        """Sides of images are multiples of this: the coarsest scale times the two strides of a block."""
        return 32 if not self.any_time else 4 * self.scales[0]

    def inputs(self, block: int) -> int:
        """Input channels of a block, flow included."""
        images = 2 * (3 + self.encoded)
        if not self.any_time:
            return images + 1 + 4
        return images + 1 if block == 0 else images + 2 + self.features + 4


def recognise(shapes: Shapes) -> Architecture:
    """Find the architecture of a file.

    Args:
        shapes: shape of every tensor by name, `module.` removed.

    Raises:
        WeightsError: no RIFE network, or a version that is not supported.
    """
    count = sum(f"block{n}.conv0.1.0.weight" in shapes for n in range(8))
    if count == 0:
        raise WeightsError(f"no RIFE network: it has no 'block0.conv0.1.0.weight'; supported are {READ}")
    widths = tuple(shapes[f"block{n}.conv0.1.0.weight"][0] for n in range(count))
    if "block0.conv1.2.weight" in shapes and "block0.convblock0.0.0.weight" in shapes and count == 3:
        return Architecture("3.x", widths, (4, 2, 1))
    outputs = shapes.get("block0.lastconv.0.weight", (0, 0))[1]
    if outputs not in _OUTPUTS or "block0.convblock.0.beta" not in shapes or count not in (4, 5):
        raise WeightsError(f"an unsupported RIFE version ({count} blocks of {widths} channels); supported are {READ}")
    encoder = next((e for e in _ENCODERS if all(f"encode.{name}.weight" in shapes for name in e)), ())
    last = shapes[f"encode.{encoder[-1]}.weight"] if encoder else (0, 0)
    scales = (8, 4, 2, 1) if count == 4 else (16, 8, 4, 2, 1)
    if count == 5 and widths[-1] == _LITE_WIDTH:
        scales = (32, 16, 8, 4, 1)
    version = _version(widths, _OUTPUTS[outputs], encoder, last[1])
    return Architecture(version, widths, scales, encoder, last[0], last[1], _OUTPUTS[outputs])


def _version(widths: tuple[int, ...], features: int, encoder: tuple[str, ...], encoded: int) -> str:
    """The name by which a graph is known; equal graphs share one."""
    if len(widths) == 5:
        if widths[-1] == _LITE_WIDTH:
            return "4.25-lite"
        if widths[0] > 192:
            return "4.25-heavy"
        return "4.26-heavy" if encoded > 8 else "4.26"  # 4.25 and 4.26 are one graph
    if not encoder:
        return "4.6"
    lite = widths[-1] < 64 and not (features and widths[0] >= 256)
    if features:
        return "4.22-lite" if lite else "4.22"
    if lite:
        return "4.17-lite"
    return "4.9" if len(encoder) == 2 else "4.18"
