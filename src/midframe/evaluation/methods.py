"""Methods to evaluate: the baselines, frames of other programs, and any model run by an engine.

hold repeats the previous frame, blend cross-fades, minterpolate is ffmpeg's motion compensation (if ffmpeg is on the
PATH). All implement the interface of `engine.Engine.between`; none depends on data sets or metrics.
"""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from midframe import ops
from midframe.engine import Engine
from midframe.errors import InputError, MediaError
from midframe.evaluation.datasets import Case, read_image
from midframe.evaluation.peers import PEERS, VapourSynth
from midframe.metrics import to_levels
from midframe.models import BUILDERS, load_model


class Method(Protocol):
    """An algorithm that interpolates between two frames."""

    @property
    def name(self) -> str:
        """Return the name shown in tables."""

    def between(
        self, a: Tensor, b: Tensor, times: Sequence[Fraction], before: Tensor | None, after: Tensor | None
    ) -> Tensor:
        """Return (N, 3, H, W) RGB float, about 0..1, at the instants `times` (0 < t < 1) between (3, H, W) a and b."""

    def flow(self, a: Tensor, b: Tensor) -> Tensor | None:
        """Return the flow (2, H, W) float32 from a to b in pixels, or None."""


class Hold:
    """Repeat the previous frame, as a player does."""

    name = "hold"

    def between(
        self, a: Tensor, b: Tensor, times: Sequence[Fraction], before: Tensor | None, after: Tensor | None
    ) -> Tensor:
        """Return `a` once for each instant."""
        return a.expand(len(times), *a.shape)

    def flow(self, a: Tensor, b: Tensor) -> Tensor | None:
        """Return None: there is no flow."""
        return None


class Minterpolate:
    """Run ffmpeg's minterpolate filter on full-range 4:4:4 video without its scene detector.

    The filter needs two frames on either side of a gap; missing neighbours are replaced by the ends. All instants must
    be multiples of one 1/n because the filter outputs n - 1 evenly spaced frames. The conversion to 8-bit Y'CbCr and
    back costs about 0.01 dB at 33 dB.
    """

    LARGEST_FACTOR = 64

    def __init__(self, name: str = "minterpolate", settings: str = "mi_mode=mci", program: str = "ffmpeg"):
        found = shutil.which(program)
        if found is None:
            raise MediaError(f"{program} is not on the PATH; install ffmpeg or leave minterpolate out")
        self.name = name
        self.settings = settings
        self.program = found

    def between(
        self, a: Tensor, b: Tensor, times: Sequence[Fraction], before: Tensor | None, after: Tensor | None
    ) -> Tensor:
        """Run the filter once over four frames."""
        factor = math.lcm(*(Fraction(t).denominator for t in times))
        if factor > self.LARGEST_FACTOR:
            raise MediaError(
                f"minterpolate cannot interpolate at {', '.join(map(str, times))}: "
                f"no common step of at least 1/{self.LARGEST_FACTOR}"
            )
        height, width = a.shape[-2:]
        raw = b"".join(
            to_levels(p).to(torch.uint8).permute(1, 2, 0).contiguous().numpy().tobytes()
            for p in (a if before is None else before, a, b, b if after is None else after)
        )
        exact = "flags=accurate_rnd+full_chroma_int+full_chroma_inp+bicubic"
        chain = (
            f"scale=out_color_matrix=bt709:out_range=pc:{exact},format=yuv444p,"
            f"minterpolate=fps={10 * factor}:{self.settings}:scd=none,"
            f"scale=in_color_matrix=bt709:in_range=pc:{exact},format=rgb24"
        )
        frame = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
        size = ["-s", f"{width}x{height}", "-r", "10", "-i", "-"]
        command = [self.program, "-v", "error", *frame, *size, "-vf", chain, *frame, "-"]
        run = subprocess.run(command, input=raw, capture_output=True, check=False)
        if run.returncode != 0:
            raise MediaError(f"minterpolate failed: {run.stderr.decode(errors='replace').strip()[-300:]}")
        frames = np.frombuffer(run.stdout, np.uint8).reshape(-1, height, width, 3)
        # output k lies at k / factor input steps; a is input 1
        index = [factor + int(Fraction(t) * factor) for t in times]
        if max(index) >= len(frames):
            raise MediaError(f"minterpolate gave {len(frames)} frames; {max(index) + 1} are needed")
        return torch.from_numpy(frames[index].transpose(0, 3, 1, 2).astype(np.float32) / 255)

    def flow(self, a: Tensor, b: Tensor) -> Tensor | None:
        """Return None: the filter does not expose its flow."""
        return None


class Frames:
    """Frames of another program in a folder: `CASE.png`, or `CASE/1.png`, `CASE/2.png` ... for several targets.

    CASE is the case's name in the report; a "/" in it separates folders.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(f"--against '{folder}' is not a folder; give one that holds CASE.png for every case")
        self.name = folder.name or "frames"
        self._folder = folder

    def of(self, case: Case) -> Tensor:
        """Return the frames (N, 3, H, W) of a case in the order of its targets.

        Raises:
            MediaError: a frame is missing or has another size.
        """
        count = len(case.targets)
        names = [f"{case.name}.png"] if count == 1 else [f"{case.name}/{n}.png" for n in range(1, count + 1)]
        frames = []
        for name in names:
            path = self._folder / name
            if not path.is_file():
                raise MediaError(
                    f"'{self._folder}' has no '{name}'; the folder needs one PNG for every target of the set"
                )
            frame = read_image(path)
            if frame.shape != case.a.shape:
                raise MediaError(f"'{path}' is {_size(frame)}; the set's frames are {_size(case.a)}")
            frames.append(frame)
        return torch.stack(frames)

    def between(
        self, a: Tensor, b: Tensor, times: Sequence[Fraction], before: Tensor | None, after: Tensor | None
    ) -> Tensor:
        """Raise MediaError: frames are found by case, not by content.

        Raises:
            MediaError: always.
        """
        raise MediaError(f"'{self._folder}' holds frames of the set's cases only")

    def flow(self, a: Tensor, b: Tensor) -> Tensor | None:
        """Return None: there is no flow."""
        return None


def _size(frame: Tensor) -> str:
    return f"{frame.shape[-1]}x{frame.shape[-2]}"


class ModelMethod:
    """A model run by an engine."""

    def __init__(self, engine: Engine, name: str = ""):
        self.engine = engine
        self.name = name or engine.model.name

    def between(
        self, a: Tensor, b: Tensor, times: Sequence[Fraction], before: Tensor | None, after: Tensor | None
    ) -> Tensor:
        """Interpolate with the engine."""
        return self.engine.between(a, b, times, before, after).cpu()

    def flow(self, a: Tensor, b: Tensor) -> Tensor | None:
        """Return the model's flow, cropped to the frame."""
        model = self.engine.model
        height, width = a.shape[-2:]
        size = model.padded_size(height, width)
        with torch.inference_mode():
            features = [
                model.encode(ops.pad(p[None].to(self.engine.device), *size, mode=model.pad_mode)) for p in (a, b)
            ]
            flow = model.flow(model.match(*features))
        return None if flow is None else ops.crop(ops.resize_flow(flow, *size), height, width)[0].float().cpu()


METHODS = ("hold", "blend", "minterpolate", "dis", "midnet-s", "midnet-m", "vfinet")
CLASSICAL = ("hold", "blend", "minterpolate")


def make_method(
    name: str,
    weights: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    flow_scale: float | None = None,
    peers: Path | None = None,
) -> Method:
    """Return a method by name: "hold", "minterpolate", "minterpolate-best", a peer, or any name of `load_model`.

    Raises:
        InputError: unknown name.
        MediaError: minterpolate without ffmpeg.
        WeightsError: the model's weights are missing.
    """
    if name == "hold":
        return Hold()
    if name == "minterpolate":
        return Minterpolate()
    if name in PEERS:
        return VapourSynth(name, peers)
    if name == "minterpolate-best":
        return Minterpolate(name, "mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1")
    # static overlays are preserved as in `interpolate`, so that the default output is measured
    static = "off" if name in CLASSICAL else "auto"
    return ModelMethod(Engine(load_model(name, weights), device, precision, flow_scale=flow_scale, static=static), name)


def known(name: str) -> bool:
    """Return whether `make_method` accepts the name."""
    return name in (*CLASSICAL, "minterpolate-best", *PEERS, *BUILDERS)
