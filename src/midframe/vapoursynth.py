"""VapourSynth filter: `midframe.vapoursynth.interpolate(clip, fps=...)` returns a clip at another rate.

    import vapoursynth as vs
    from midframe.vapoursynth import interpolate

    clip = vs.core.bs.VideoSource("in.mkv")
    interpolate(clip, fps="60000/1001").set_output()

Frames go through the same engine as files do, plane by plane in the clip's own format. Random access works: a gap
between two source frames is rendered when one of its frames is first requested, and kept for the others.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from midframe import shots
from midframe.errors import InputError
from midframe.interpolator import Interpolator
from midframe.options import DEFAULT_MODEL, parse_rate
from midframe.types import Frame, Gap, PixelFormat, Slot

KEPT_GAPS = 8  # rendered gaps held in memory; vspipe asks for as many frames at once as it has threads
VAPOURSYNTH_MATRICES = {
    0: "rgb",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    9: "bt2020nc",
    10: "bt2020c",
}
SD_ROWS = 576  # up to this height an unspecified matrix means BT.601


@dataclass(frozen=True)
class Clock:
    """Instants of source frames, exact, and the output frames between them."""

    starts: tuple[Fraction, ...]  # seconds, of every source frame
    end: Fraction
    rate: Fraction  # output frames per second

    @property
    def count(self) -> int:
        """Output frames."""
        return -int(-(self.end * self.rate) // 1)

    def gap(self, n: int) -> int:
        """Number of the source frame that output frame n comes from or follows."""
        return bisect_right(self.starts, Fraction(n) / self.rate) - 1

    def slots(self, k: int) -> tuple[int, tuple[Slot, ...]]:
        """First output frame of gap k, and its slots."""
        start = self.starts[k]
        last = k + 1 == len(self.starts)
        end = self.end if last else self.starts[k + 1]
        first = -int(-(start * self.rate) // 1)
        slots = []
        n = first
        while n < self.count and Fraction(n) / self.rate < end:
            at = Fraction(n) / self.rate
            t = Fraction(0) if last else (at - start) / (end - start)
            slots.append(Slot(at, t, 1 / self.rate, held=last and at > start))
            n += 1
        return first, tuple(slots)


def interpolate(
    clip: Any,
    fps: Fraction | float | str | None = None,
    factor: Fraction | float | str = 2,
    model: str = DEFAULT_MODEL,
    device: str = "auto",
    precision: str = "auto",
    weights: str | None = None,
    scene_changes: str = "auto",
) -> Any:
    """Interpolate a VapourSynth clip to another frame rate.

    Args:
        clip: YUV, RGB or GRAY with integer samples of 8 to 16 bits. A variable rate is read from `_DurationNum` and
            `_DurationDen` of all frames, once, at the start.
        fps: output frames per second: 60, "59.94", "60000/1001".
        factor: output rate over input rate, if `fps` is not given.
        model: a name of `midframe models list`.
        device: "auto", "cpu", "cuda", ...
        precision: "auto", "fp32", "bf16", "fp16".
        weights: file or folder in place of the shipped weights.
        scene_changes: "auto" takes `_SceneChangeNext` where a frame has it and detects scene changes elsewhere;
            "props" takes the property alone; "off" none.

    Returns:
        A clip of constant rate. Frames have `_DurationNum`, `_DurationDen`, and `MidframeKind` ("source",
        "interpolated", "held", "duplicate").

    Raises:
        InputError: a format, rate or value that cannot be used.
    """
    import vapoursynth

    core = vapoursynth.core
    layout = _layout(clip)
    if scene_changes not in ("auto", "props", "off"):
        raise InputError(f"scene_changes {scene_changes!r}: auto, props or off are possible")
    clock = _clock(clip, fps, factor)
    gaps = _Gaps(Interpolator(model, device, precision, weights), clock, layout, scene_changes)
    rate = clock.rate
    blank = core.std.BlankClip(clip, length=clock.count, fpsnum=rate.numerator, fpsden=rate.denominator, keep=True)

    def shifted(offset: int) -> Any:
        last = len(clip) - 1
        return core.std.FrameEval(blank, lambda n: clip[min(max(clock.gap(n) + offset, 0), last)], clip_src=[clip])

    return core.std.ModifyFrame(blank, [shifted(offset) for offset in (0, -1, 1, 2)], gaps.frame)


class _Gaps:
    """Renders gaps and keeps the latest ones."""

    def __init__(self, interpolator: Interpolator, clock: Clock, layout: str, scene_changes: str) -> None:
        self.interpolator, self.clock, self.layout, self.scene_changes = interpolator, clock, layout, scene_changes
        self.kept: OrderedDict[int, list[Frame]] = OrderedDict()
        self.lock = threading.Lock()

    def frame(self, n: int, f: Sequence[Any]) -> Any:
        """Output frame n as a VapourSynth frame."""
        k = self.clock.gap(n)
        first, slots = self.clock.slots(k)
        with self.lock:
            if k not in self.kept:
                self.kept[k] = self._render(k, slots, f)
                if len(self.kept) > KEPT_GAPS:
                    self.kept.popitem(last=False)
            made = self.kept[k][n - first]
        out = f[0].copy()
        for plane, values in enumerate(made.planes):
            np.copyto(np.asarray(out[plane]), values.numpy())
        duration = 1 / self.clock.rate
        out.props["_DurationNum"], out.props["_DurationDen"] = duration.numerator, duration.denominator
        out.props["MidframeKind"] = made.kind
        return out

    def _render(self, k: int, slots: tuple[Slot, ...], f: Sequence[Any]) -> list[Frame]:
        count = len(self.clock.starts)
        numbers = {"a": k, "before": k - 1, "b": k + 1, "after": k + 2}
        given = {
            name: self._frame(frame, number)
            for (name, number), frame in zip(numbers.items(), f, strict=True)
            if 0 <= number < count
        }
        order = [name for name in ("before", "a", "b", "after") if name in given]
        if self.scene_changes == "auto" and not any("_SceneChangeNext" in frame.props for frame in f):
            labelled = shots.label((given[name] for name in order), shots.Thumbnails())
            given = dict(zip(order, labelled, strict=True))
        elif self.scene_changes != "off":
            following = dict(zip(numbers, f, strict=True))
            shot = 0
            for name in order:
                given[name] = replace(given[name], shot=shot)
                shot += int(bool(following[name].props.get("_SceneChangeNext", 0)))
        a, b = given["a"], given.get("b")
        cut = b is None or b.shot != a.shot
        before, after = given.get("before"), given.get("after")
        if cut or (before is not None and before.shot != a.shot):
            before = None
        if cut or (after is not None and b is not None and after.shot != b.shot):
            after = None
        return self.interpolator.fill(Gap(a, b, slots, before, after))

    def _frame(self, frame: Any, number: int) -> Frame:
        starts, end = self.clock.starts, self.clock.end
        after = starts[number + 1] if number + 1 < len(starts) else end
        planes = tuple(torch.from_numpy(np.array(frame[plane])) for plane in range(len(frame)))
        return Frame(planes, _pixel_format(frame, self.layout), starts[number], after - starts[number], number)


def _layout(clip: Any) -> str:
    """yuv, rgb or gray; refuses what midframe does not take."""
    import vapoursynth as vs

    form = clip.format
    if form is None or clip.width == 0:
        raise InputError("interpolate: the clip has frames of several formats or sizes; make it constant first")
    layouts = {vs.YUV: "yuv", vs.RGB: "rgb", vs.GRAY: "gray"}
    if form.color_family not in layouts or form.sample_type != vs.INTEGER or not 8 <= form.bits_per_sample <= 16:
        raise InputError(
            f"interpolate: {form.name} is not possible; YUV, RGB and GRAY with integer samples of 8 to 16 bits are: "
            "core.resize.Bicubic(clip, format=vs.YUV420P16)"
        )
    return layouts[form.color_family]


def _pixel_format(frame: Any, layout: str) -> PixelFormat:
    form, props = frame.format, frame.props
    matrix = VAPOURSYNTH_MATRICES.get(int(props.get("_Matrix", 2)))
    if matrix is None or (layout == "yuv" and matrix == "rgb"):
        matrix = "smpte170m" if frame.height <= SD_ROWS else "bt709"
    full = props.get("_ColorRange", 0 if layout == "rgb" else 1) == 0
    if "_Range" in props:
        full = props["_Range"] == 1
    return PixelFormat(
        name=str(form.name).lower(),
        layout=layout,
        depth=form.bits_per_sample,
        chroma_w=form.subsampling_w,
        chroma_h=form.subsampling_h,
        matrix="rgb" if layout == "rgb" else matrix,
        full_range=full,
        siting={0: "left", 1: "center", 2: "topleft"}.get(int(props.get("_ChromaLocation", 0)), "left"),
    )


def _clock(clip: Any, fps: Fraction | float | str | None, factor: Fraction | float | str) -> Clock:
    if clip.fps_num:
        rate = Fraction(clip.fps_num, clip.fps_den)
        starts = [k / rate for k in range(len(clip))]
        end = len(clip) / rate
    else:
        durations = []
        for frame in clip.frames(close=True):
            if "_DurationNum" not in frame.props or not frame.props["_DurationNum"]:
                raise InputError(
                    "interpolate: a clip of variable rate needs _DurationNum and _DurationDen on every frame"
                )
            durations.append(Fraction(int(frame.props["_DurationNum"]), int(frame.props["_DurationDen"])))
        *starts, end = accumulate(durations, initial=Fraction(0))
        rate = len(durations) / end
    wanted = parse_rate(fps) if fps is not None else rate * Fraction(str(factor))
    if not isinstance(wanted, Fraction) or wanted <= 0:
        raise InputError(f"interpolate: fps {fps!r}, factor {factor!r}: a rate above 0 is needed")
    return Clock(tuple(starts), end, wanted)
