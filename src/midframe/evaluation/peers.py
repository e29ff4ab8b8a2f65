"""Interpolation filters of VapourSynth as methods: MVTools and open-svpflow.

`vspipe` runs them in a separate environment created by `benchmarks/peers/setup`. The filters work on 8-bit 4:2:0 BT.709
video: compare their luma PSNR, since their RGB figures include the loss of chroma subsampling.
"""

from __future__ import annotations

import math
import subprocess
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from midframe import colour
from midframe.errors import InputError, MediaError
from midframe.types import PixelFormat

_BLOCKS = "blksize=16, overlap=8, search=3, truemotion=True"
_FINER = "blksize=8, overlap=4, search=3, truemotion=True"
# Name -> (settings shown in reports, script that converts `clip` to `out` of frame rate `rate`, a Fraction).
PEERS = {
    "mvtools-high": (
        "MVTools: pel 2, sharp 2, blocks 16 overlap 8, search 3, truemotion, recalculated 8/4, FlowFPS mask 2",
        f"""sup = core.mv.Super(clip, pel=2, sharp=2)
to_left = core.mv.Recalculate(sup, core.mv.Analyse(sup, isb=True, {_BLOCKS}), {_FINER})
to_right = core.mv.Recalculate(sup, core.mv.Analyse(sup, isb=False, {_BLOCKS}), {_FINER})
out = core.mv.FlowFPS(clip, sup, to_left, to_right, num=rate.numerator, den=rate.denominator, mask=2)""",
    ),
    "mvtools-fast": (
        "MVTools: pel 1, blocks 16, FlowFPS",
        """sup = core.mv.Super(clip, pel=1)
to_left = core.mv.Analyse(sup, isb=True, blksize=16)
to_right = core.mv.Analyse(sup, isb=False, blksize=16)
out = core.mv.FlowFPS(clip, sup, to_left, to_right, num=rate.numerator, den=rate.denominator)""",
    ),
    "svpflow": (
        "open-svpflow: on the CPU (gpu:0), otherwise defaults, algo 13",
        """sup = core.svp1.Super(clip, "{gpu:0}")
found = core.svp1.Analyse(sup["clip"], sup["data"], clip, "{}")
settings = "{rate:{num:%d,den:%d,abs:true},algo:13}" % (rate.numerator, rate.denominator)
out = core.svp2.SmoothFps(clip, sup["clip"], sup["data"], found["clip"], found["data"], settings)""",
    ),
}
_LARGEST_FACTOR = 64
_PEER_RATE = 10  # frames per second of the clips that are written
_PEER_FORMAT = PixelFormat("yuv420p", "yuv", 8, chroma_w=1, chroma_h=1)


def script(name: str, source: Path, rate: Fraction) -> str:
    """Return the VapourSynth script by which one of `PEERS` converts a video to a frame rate."""
    return (
        "from fractions import Fraction\nimport vapoursynth as vs\ncore = vs.core\n"
        f"rate = Fraction({rate.numerator}, {rate.denominator})\n"
        f"clip = core.bs.VideoSource({str(source)!r}, cachemode=0)\n{PEERS[name][1]}\nout.set_output()\n"
    )


class VapourSynth:
    """One of `PEERS`."""

    def __init__(self, name: str, environment: Path | None) -> None:
        """Find `vspipe`.

        Raises:
            InputError: no environment is given, or it has no vspipe.
        """
        self.name = name
        self.settings, _ = PEERS[name]
        if environment is None or not (environment / "bin" / "vspipe").is_file():
            where = "none is given" if environment is None else f"'{environment}' has no bin/vspipe"
            raise InputError(
                f"{name} needs the environment created by benchmarks/peers/setup: {where}; "
                "set it with --peers DIR or MIDFRAME_PEERS"
            )
        self._vspipe = environment / "bin" / "vspipe"

    def between(
        self, a: Tensor, b: Tensor, times: Sequence[Fraction], before: Tensor | None, after: Tensor | None
    ) -> Tensor:
        """Run the filter once over a, b and the available neighbours."""
        factor = math.lcm(*(Fraction(t).denominator for t in times))
        if factor > _LARGEST_FACTOR:
            raise MediaError(f"{self.name} cannot interpolate at {', '.join(map(str, times))}: no common step")
        height, width = a.shape[-2:]
        high, wide = height + height % 2, width + width % 2
        around = [frame for frame in (before, a, b, after) if frame is not None]
        size = high * wide * 3 // 2
        with tempfile.TemporaryDirectory(prefix="midframe-peer-") as folder:
            source, path = Path(folder) / "in.y4m", Path(folder) / "filter.vpy"
            with source.open("wb") as file:
                file.write(b"YUV4MPEG2 W%d H%d F%d:1 Ip A1:1 C420mpeg2\n" % (wide, high, _PEER_RATE))
                for frame in around:
                    file.write(b"FRAME\n")
                    for plane in colour.from_rgb(_even(frame, high, wide), _PEER_FORMAT):
                        file.write(plane.contiguous().numpy().tobytes())
            path.write_text(script(self.name, source, Fraction(_PEER_RATE * factor)))
            run = subprocess.run([self._vspipe, path, "-"], capture_output=True, check=False)
        if run.returncode != 0:
            raise MediaError(f"{self.name} failed: {run.stderr.decode(errors='replace').strip()[-300:]}")
        first = 0 if before is None else factor  # index of a among the output frames
        index = [first + int(Fraction(t) * factor) for t in times]
        count = len(run.stdout) // size
        if max(index) >= count:
            raise MediaError(f"{self.name} gave {count} frames; {max(index) + 1} are needed")
        frames = []
        for k in index:
            raw = torch.from_numpy(np.frombuffer(run.stdout, np.uint8, size, k * size).copy())
            luma, blue, red = torch.tensor_split(raw, [high * wide, high * wide * 5 // 4])
            planes = luma.view(high, wide), blue.view(high // 2, -1), red.view(high // 2, -1)
            frames.append(colour.to_rgb(planes, _PEER_FORMAT, torch.device("cpu"))[:, :height, :width])
        return torch.stack(frames)

    def flow(self, a: Tensor, b: Tensor) -> Tensor | None:
        """Return None: the filters do not expose their flow."""
        return None


def _even(frame: Tensor, height: int, width: int) -> Tensor:
    """Pad to even height and width by replicating the last row and column, as 4:2:0 requires."""
    down, right = height - frame.shape[-2], width - frame.shape[-1]
    return F.pad(frame[None].float(), (0, right, 0, down), mode="replicate")[0]
