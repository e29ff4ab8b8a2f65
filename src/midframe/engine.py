"""Gaps in, frames out: the only place that knows devices, precision and memory, and the only one that keeps caches.

A slot that coincides with a source frame passes that frame's planes through untouched; at a scene change and at the
end a frame is held; two neighbours that are equal sample by sample are duplicated. The rest is interpolated by a
model: planes become RGB on the device, the model works, RGB becomes planes again with the same matrix and range; models
that support planes get them directly. Features are cached by frame, motion by gap, so every frame is encoded once and
every gap matched once, however many frames are rendered in it.

The engine knows no file and no rate; a model knows none of this.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from midframe import colour, confidence, ops, overlays, shutter
from midframe.confidence import Confidence
from midframe.errors import DeviceError, InputError
from midframe.models.base import Features, Model, Motion, RenderRequest
from midframe.models.tiled import Tiled
from midframe.types import Frame, Gap, PixelFormat, Slot

log = logging.getLogger(__name__)

Planes = tuple[Tensor, ...]

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Pixels of all frames that are rendered at once: larger batches save no time and cost memory (100 MB per 8 MP).
_RENDER_PIXELS = 8_500_000
# Allocators without a type of their own for it: the CPU's, OpenCV's, cuBLAS, cuDNN, CUDA outside torch's own, Metal's.
_MEMORY_WORDS = (
    "can't allocate memory", "Failed to allocate", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory", "MPS backend out of memory",
)  # fmt: skip
# Sides of the tiles that are tried, one after the other, when memory does not suffice; pixels.
_TILES = (1024, 512, 256)


def pick_device(name: str = "auto") -> torch.device:
    """The device for "auto", "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        DeviceError: it is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda:0")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r} is not known; allowed: auto, cpu, cuda, cuda:0 ..., mps") from None
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            there = f"there {'is' if count == 1 else 'are'} {count} of them" if count else "there is none"
            raise DeviceError(f"CUDA device {name} was asked for and {there}; try --device cpu")
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device mps was asked for and this machine has none; try --device cpu")
    return device


def pick_precision(name: str, model: Model, device: torch.device) -> str:
    """ "fp32", "bf16" or "fp16"; "auto" chooses half precision where it was measured to be faster."""
    if name != "auto":
        if name not in _TYPES:
            raise InputError(f"precision {name!r} is not known; allowed: auto, {', '.join(_TYPES)}")
        return name
    if device.type not in model.fast_half:
        return "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if device.type == "cpu":
        return "bf16" if _cpu_multiplies_bf16() else "fp32"
    return "fp16"


def _cpu_multiplies_bf16() -> bool:
    """Whether this processor has instructions for bf16 products; without them bf16 is slower than float32."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii", errors="ignore") as info:
        for line in info:
            if line.startswith("flags"):
                return "avx512_bf16" in line or "amx_bf16" in line
    return False


class Engine:
    """A model on a device, ready to run.

    One engine serves one thread at a time; the model in it may be shared with other engines.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        *,
        tile: int | str = "auto",
        max_batch: int = 8,
        fill: str = "hold",
        flow_scale: float | None = None,
        static: str = "off",
        mask: str | Path | None = None,
        runtime: str = "torch",
    ) -> None:
        """Put the model on the device.

        Args:
            model: any `Model`, in evaluation mode.
            device: where to work; "auto" picks.
            precision: type of the convolutions: "fp32", "bf16", "fp16" or "auto". Flow is float32 always.
            tile: "off", "auto" (only when memory does not suffice) or the side of a tile in pixels.
            max_batch: frames of one gap that are rendered at once, at most.
            fill: frames across a scene change: "hold" the left one, "nearest", or "blend" both.
            flow_scale: side of the frames in which flow is estimated over that of the frames; None: the model's
                own choice.
            static: "auto" finds static overlays (logos, subtitles, HUDs) over moving content, and copies them from
                the nearest source frame.
            mask: path of an image of the pixels that are copied like that: white is protected, black is not.
            runtime: of the networks: "torch", "openvino" (rife on Intel CPUs), or "auto".

        Raises:
            InputError: an option that the model does not support.
            DeviceError: the device is not there.
        """
        if fill not in ("hold", "nearest", "blend"):
            raise InputError(f"scene fill {fill!r} is not known; allowed: hold, nearest, blend")
        if static not in ("auto", "off"):
            raise InputError(f"static {static!r} is not known; allowed: auto, off")
        if max_batch < 1:
            raise InputError(f"max_batch is {max_batch}; 1 is the minimum")
        if flow_scale is not None and flow_scale != model.flow_scale:
            if flow_scale not in model.flow_scales:
                able = ", ".join(f"{scale:g}" for scale in model.flow_scales)
                raise InputError(f"model {model.name} cannot estimate flow at scale {flow_scale:g}; allowed: {able}")
            model = copy.copy(model)  # shares the weights; another engine's setting stays as it is
            model.flow_scale = flow_scale
        self.device = pick_device(device) if isinstance(device, str) else device
        self.model = model.on_device(self.device).on_runtime(runtime, self.device)
        self.precision = pick_precision(precision, model, self.device)
        self.fill = fill
        self.max_batch = max_batch
        self.static = static
        self._mask = None if mask is None else overlays.load_mask(mask)
        self._tile = tile
        self._may_rescale = flow_scale is None  # a scale that was asked for is kept
        if isinstance(tile, int):
            self._use_tiles(tile)
        elif tile not in ("auto", "off"):
            raise InputError(f"tile {tile!r} is not known; allowed: auto, off, or a side in pixels")

    @property
    def context(self) -> int:
        """Neighbour frames on each side of a gap that are used: the `context` for `timeline.gaps`."""
        return max(self.model.context, 1 if self.static == "auto" else 0)

    def run(self, gaps: Iterable[Gap], prefetch: bool = True) -> Iterator[Frame]:
        """Fill every slot of every gap, in order.

        Args:
            gaps: in order.
            prefetch: take the following gap before the slots of one are made, so that it is prepared meanwhile.

        Yields:
            Frames with the pts and duration of their slots, numbered from 0. The origin of each is its `kind`:
            "source" (planes of a, untouched), "interpolated" (those have a `confidence`), "held", "duplicate".

        Raises:
            DeviceError: out of memory after every step down.
        """
        memory = _Memory()
        index = 0
        try:
            for gap, following in _with_next(gaps) if prefetch else ((gap, None) for gap in gaps):
                memory.keep(gap, following)
                for slot, planes, kind, value in self._fill_gap(gap, memory):
                    yield replace(
                        gap.a,
                        planes=planes,
                        pts=slot.pts,
                        duration=slot.duration,
                        index=index,
                        kind=kind,
                        confidence=None if value is None else value.share,
                        find_region=None if value is None else value.find_region,
                    )
                    index += 1
        finally:
            memory.close()

    def between(
        self,
        a: Tensor,
        b: Tensor,
        times: Sequence[float | Fraction] | Tensor,
        before: Tensor | None = None,
        after: Tensor | None = None,
    ) -> Tensor:
        """Interpolate frames between two.

        Args:
            a: (3, H, W) float RGB, 0..1, on any device.
            b: the same.
            times: instants in [0, 1]; 0 is a itself, 1 is b itself, copied.
            before: the frame as long before a as b is after it, for models with `context` 1.
            after: the frame as long after b, likewise.

        Returns:
            (N, 3, H, W) float32 on the engine's device, neither rounded nor clamped.
        """
        for given in (image for image in (a, b, before, after) if image is not None):
            if given.ndim != 3 or given.shape[0] != 3 or not given.is_floating_point():
                raise InputError(f"an image is (3, H, W) float; {tuple(given.shape)} {given.dtype} was given")
            if given.shape != a.shape:
                raise InputError(f"images of one call have one size; {tuple(given.shape)}, {tuple(a.shape)} given")
        instants = [float(t) for t in times]
        for t in instants:
            if not 0 <= t <= 1:
                raise InputError(f"t = {t:g} is not within 0..1")
        a, b = a.to(self.device, torch.float32), b.to(self.device, torch.float32)
        out = torch.empty((len(instants), *a.shape), dtype=torch.float32, device=self.device)
        inner = []
        same = torch.equal(a, b)
        for i, t in enumerate(instants):
            if t == 0 or same:
                out[i] = a
            elif t == 1:
                out[i] = b
            else:
                inner.append(i)
        around = (before, a, b, after) if self.model.context else (None, a, b, None)
        memory = _Memory()
        while inner:
            batch = inner[: self._batch(*a.shape[-2:])]
            try:
                with self._arithmetic():
                    for key, image in enumerate(around):
                        if image is not None and key not in memory.features:
                            memory.features[key] = self._encode(image.to(self.device, torch.float32))
                    rendered = self.model.render(self._request(memory, (0, 1, 2, 3), [instants[i] for i in batch]))
                    out[batch] = ops.crop(rendered, *a.shape[-2:])
            except Exception as error:
                self._step_down(error)
                memory.clear()
                continue
            inner = inner[len(batch) :]
        self._protect(out, instants, (before, a, b, after))
        return out

    def _protect(self, out: Tensor, instants: Sequence[float], images: Sequence[Tensor | None]) -> None:
        """Copy overlays into frames (N, 3, H, W) from the nearer of the middle two of four."""
        if self._mask is None and self.static == "off":
            return
        frames = [None if p is None else _frame_of(p, index) for index, p in enumerate(images)]
        _, a, b, _ = frames
        assert a is not None and b is not None
        for protection in self._protections(Gap(a, b, (), frames[0], frames[3]), _Memory()):
            alpha = protection.full.to(self.device).float().div_(255)
            for frame, t in zip(out, instants, strict=True):
                source = images[1 if 2 * t < 1 else 2]
                assert source is not None
                frame.lerp_(source.to(self.device, torch.float32), alpha)

    def _fill_gap(self, gap: Gap, memory: _Memory) -> Iterator[_Filled]:
        """Fill every slot of a gap, in order."""
        a, b = gap.a, gap.b
        if gap.slots and gap.slots[0].opening is not None:
            yield from self._expose(gap, memory)
            return
        slots = []
        for slot in gap.slots:
            if slot.held or slot.t == 0:
                yield _Filled(slot, a.planes, "held" if slot.held else "source")
            else:
                slots.append(slot)
        if not slots:
            return
        if _is_interpolated(gap):
            yield from self._interpolate(gap, slots, memory)
        elif b is None or not _alike(a, b):
            yield from (_Filled(slot, a.planes, "held") for slot in slots)
        elif gap.cut:
            yield from (_Filled(slot, self._across(a, b, slot.t), "held") for slot in slots)
        else:
            yield from (_Filled(slot, a.planes, "duplicate") for slot in slots)

    def _expose(self, gap: Gap, memory: _Memory) -> Iterator[_Filled]:
        """Sample the parts of openings that lie in a gap; yields the outputs that are complete."""
        interpolated = _is_interpolated(gap)
        for slot in gap.slots:
            opening = slot.opening
            assert opening is not None
            if opening.first:
                memory.exposure = shutter.Exposure(gap.a.format, self.device)
                memory.exposed, memory.confidence = "source", None
            exposure, share = memory.exposure, float(opening.share)
            assert exposure is not None, "the first part of an opening comes first"
            if interpolated and opening.end > slot.t:
                memory.exposed = "interpolated"
                count = shutter.sample_count(self._motion_of(gap, slot, memory), share)
                span = opening.end - slot.t
                instants = [Slot(slot.pts, slot.t + span * (2 * i + 1) / (2 * count)) for i in range(count)]
                for sample in self._interpolate(gap, instants, memory):
                    exposure.add(sample.planes, share / count)
                    if sample.confidence is not None:
                        lowest = memory.confidence or sample.confidence
                        memory.confidence = min(sample.confidence, lowest, key=lambda found: found.share)
            else:
                exposure.add(self._between_shots(gap, slot.t) if gap.cut else gap.a.planes, share)
            if opening.last:
                planes, blurred = exposure.frame()
                kind = "interpolated" if blurred else "held" if slot.held else memory.exposed
                yield _Filled(slot, planes, kind, memory.confidence)

    def _between_shots(self, gap: Gap, t: Fraction) -> Planes:
        """Planes that an opening sees in the gap before a scene change."""
        assert gap.b is not None
        return self._across(gap.a, gap.b, t) if _alike(gap.a, gap.b) else gap.a.planes

    def _motion_of(self, gap: Gap, slot: Slot, memory: _Memory) -> float | None:
        """Pixels that fast parts of the frame move during a part of an opening; None for a model without flow."""
        a, b = gap.a, gap.b
        assert b is not None and slot.opening is not None
        key = (a.index, b.index)
        while key not in memory.speed:
            try:
                with self._arithmetic():
                    self._prepare(gap, memory)
                    flow = self.model.flow(memory.motion[key])
                    size = self.model.padded_size(a.height, a.width)
                    memory.speed[key] = None if flow is None else shutter.fast_motion(flow, *size)
            except Exception as error:
                memory.wait()
                self._step_down(error)
                memory.clear()
        speed = memory.speed[key]
        return None if speed is None else speed * float(slot.opening.end - slot.t)

    def _across(self, a: Frame, b: Frame, t: Fraction) -> Planes:
        """Planes shown between two shots."""
        if self.fill == "hold" or (self.fill == "nearest" and 2 * t < 1):
            return a.planes
        if self.fill == "nearest":
            return b.planes
        return tuple(ops.blend(p, q, float(t)) for p, q in zip(a.planes, b.planes, strict=True))

    def _interpolate(self, gap: Gap, slots: list[Slot], memory: _Memory) -> Iterator[_Filled]:
        """Let the model fill the slots of a gap, a batch at a time, with less memory at each failure."""
        assert gap.b is not None
        protections = self._protections(gap, memory)
        while slots:
            batch = slots[: self._batch(gap.a.height, gap.a.width)]
            try:
                times = [float(slot.t) for slot in batch]
                with self._arithmetic():
                    frames = self._rendered(gap, times, memory)
            except Exception as error:
                memory.wait()
                self._step_down(error)
                memory.clear()
                continue
            try:
                with self._arithmetic():
                    values = self._confidence(gap, times, frames, memory)
            except Exception as error:  # no reason to lose the frames
                log.warning("no confidence of the frames at %.3f s: %s", float(gap.a.pts), error)
                values = [None] * len(frames)
            for slot, planes, value in zip(batch, frames, values, strict=True):
                for protection in protections:
                    overlays.protect(planes, gap.a if 2 * slot.t < 1 else gap.b, protection)
                yield _Filled(slot, planes, "interpolated", value)
            slots = slots[len(batch) :]

    def _protections(self, gap: Gap, memory: _Memory) -> list[overlays.Protection]:
        """Masks of static overlays, once per gap."""
        assert gap.b is not None
        found = []
        if self._mask is not None:
            found.append(overlays.from_mask(self._mask, gap.a))
        if self.static == "auto":
            found.append(overlays.find(gap.before, gap.a, gap.b, gap.after, memory.changes))
        return [protection for protection in found if protection is not None]

    def _rendered(self, gap: Gap, times: list[float], memory: _Memory) -> list[Planes]:
        a, b = gap.a, gap.b
        assert b is not None
        request = self._request(memory, self._prepare(gap, memory), times)
        self._prefetch(memory)
        if self.model.supports_planes(a.format, a.height, a.width):
            return self.model.render_planes(request)
        rgb = ops.crop(self.model.render(request), a.height, a.width)
        frames = [tuple(plane.cpu() for plane in colour.from_rgb(image, a.format)) for image in rgb]
        if a.format.alpha:
            frames = [(*planes, alpha) for planes, alpha in zip(frames, self._alpha(a, b, times, memory), strict=True)]
        return frames

    def _prepare(self, gap: Gap, memory: _Memory) -> list[int | None]:
        """Compute missing features and motion of a gap; the keys of its four frames."""
        a = gap.a
        as_planes = self.model.supports_planes(a.format, a.height, a.width)
        around = (gap.before, a, gap.b, gap.after) if self.model.context else (None, a, gap.b, None)
        keys = [frame.index if frame is not None and _alike(frame, a) else None for frame in around]
        for key, frame in zip(keys, around, strict=True):
            if key is None or frame is None or key in memory.features:
                continue
            if as_planes:
                memory.features[key] = self.model.encode_planes(frame.planes, frame.format)
            else:
                memory.features[key] = self._encode(colour.to_rgb(frame.planes, frame.format, self.device))
        for left, right in pairwise(keys):
            self._match(memory, left, right)
        return keys

    def _prefetch(self, memory: _Memory) -> None:
        """Let another thread prepare the following gap while this one renders: neither keeps all processors busy."""
        gap, memory.following = memory.following, None
        if gap is None or not self.model.prefetch or self.device.type != "cpu" or torch.get_num_threads() == 1:
            return
        if memory.pool is None:
            memory.pool = ThreadPoolExecutor(1, "prefetch")
        memory.pending = memory.pool.submit(self._prepare_following, gap, memory)

    def _prepare_following(self, gap: Gap, memory: _Memory) -> None:
        if all(slot.t == 0 and slot.opening is None for slot in gap.slots) or not _is_interpolated(gap):
            return
        try:
            with self._arithmetic():
                self._prepare(gap, memory)
        except Exception as error:  # occurs again, and is handled, when it is this gap's turn
            log.debug("prefetch of the gap at %.3f s failed: %s", float(gap.a.pts), error)

    def _confidence(
        self, gap: Gap, times: list[float], frames: list[Planes], memory: _Memory
    ) -> list[Confidence | None]:  # fmt: skip
        """Confidence of each frame; None for a model that has no flow."""
        a, b = gap.a, gap.b
        assert b is not None
        flow = self.model.flow(memory.motion[a.index, b.index])
        if flow is None:
            return [None] * len(frames)
        for frame in (a, b):
            if frame.index not in memory.thumbnails:
                memory.thumbnails[frame.index] = confidence.thumbnail(frame.planes, frame.format)
        height, width = self.model.padded_size(a.height, a.width)  # covered by the flow
        rows, columns = round(flow.shape[-2] * a.height / height), round(flow.shape[-1] * a.width / width)
        flow = flow[..., : max(1, rows), : max(1, columns)]
        neighbours = confidence.align(memory.thumbnails[a.index], memory.thumbnails[b.index], flow)
        thumbnails = (confidence.thumbnail(planes, a.format) for planes in frames)
        return [neighbours.confidence(thumbnail, t) for thumbnail, t in zip(thumbnails, times, strict=True)]

    def _alpha(self, a: Frame, b: Frame, times: list[float], memory: _Memory) -> list[Tensor]:
        """Alpha follows the motion of its frame: rendered like a gray one."""
        if _equal(a.planes[-1:], b.planes[-1:]):
            return [a.planes[-1].clone() for _ in times]
        gray = PixelFormat("gray", "gray", a.format.depth, full_range=True)
        for frame in (a, b):
            if frame.index not in memory.alpha:
                memory.alpha[frame.index] = self._encode(colour.to_rgb(frame.planes[-1:], gray, self.device))
        motion = memory.motion[a.index, b.index]
        t = torch.tensor(times, dtype=torch.float32, device=self.device)
        rendered = self.model.render(RenderRequest(memory.alpha[a.index], memory.alpha[b.index], motion, t))
        return [colour.from_rgb(p, gray)[0].cpu() for p in ops.crop(rendered, a.height, a.width)]

    def _encode(self, rgb: Tensor) -> Features:
        """Features of one frame (3, H, W), padded as the model requires."""
        size = self.model.padded_size(rgb.shape[-2], rgb.shape[-1])
        return self.model.encode(ops.pad(rgb[None], *size, mode=self.model.pad_mode))

    def _request(self, memory: _Memory, keys: Sequence[int | None], times: list[float]) -> RenderRequest:
        """The request for frames between the second and the third of four; the outer two may be missing."""
        before, a, b, after = keys
        t = torch.tensor(times, dtype=torch.float32, device=self.device)
        motion = self._match(memory, a, b)
        outer = self._match(memory, before, a), self._match(memory, b, after)
        return RenderRequest(memory.features[a], memory.features[b], motion, t, *outer)  # type: ignore[index]

    def _match(self, memory: _Memory, a: int | None, b: int | None) -> Motion | None:
        if a is None or b is None or a not in memory.features or b not in memory.features:
            return None
        if (a, b) not in memory.motion:
            memory.motion[a, b] = self.model.match(memory.features[a], memory.features[b])
        return memory.motion[a, b]

    @contextlib.contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """No gradients; convolutions in the requested type."""
        kind = _TYPES[self.precision]
        with torch.inference_mode(), torch.autocast(self.device.type, kind, enabled=kind != torch.float32):
            yield

    def _step_down(self, error: Exception) -> None:
        """After running out of memory: smaller batches, flow of smaller frames, then smaller tiles.

        Any other error is raised again.
        """
        if not _out_of_memory(error):
            raise error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.max_batch > 1:
            self.max_batch //= 2
            log.warning("out of memory on %s; continuing with batches of %d", self.device, self.max_batch)
            return
        if (scale := self._smaller_scale()) is not None:
            log.warning("out of memory on %s; continuing with flow at scale %g", self.device, scale)
            self._use_scale(scale)
            return
        smaller = [side for side in _TILES if not isinstance(self._tile, int) or side < self._tile]
        if self._tile == "off" or not smaller:
            advice = (
                "tiles are off; try --tile auto"
                if self._tile == "off"
                else "try --model dis, a smaller frame size, or --device cpu"
            )
            raise DeviceError(f"out of memory on {self.device} after every step down; {advice}") from error
        log.warning("out of memory on %s; continuing with tiles of %d pixels", self.device, smaller[0])
        self._use_tiles(smaller[0])

    def _batch(self, height: int, width: int) -> int:
        """Frames of this size to render at once."""
        return max(1, min(self.max_batch, _RENDER_PIXELS // (height * width)))

    def _use_tiles(self, side: int) -> None:
        self.model = Tiled(self._whole_model(), side)
        self._tile = side

    def _smaller_scale(self) -> float | None:
        """The next smaller scale of flow that the model supports, if none was requested and it saves memory."""
        model = self._whole_model()
        if not model.scale_frees_memory:
            return None
        smaller = [scale for scale in model.flow_scales if scale < (model.flow_scale or 1.0)]
        return max(smaller) if smaller and self._may_rescale else None

    def _use_scale(self, scale: float) -> None:
        model = copy.copy(self._whole_model())  # shares the weights; another engine's setting stays as it is
        model.flow_scale = scale
        self.model = Tiled(model, self.model.side) if isinstance(self.model, Tiled) else model

    def _whole_model(self) -> Model:
        """The model without its tiles."""
        return self.model.inner if isinstance(self.model, Tiled) else self.model


class _Filled(NamedTuple):
    """A slot and its frame."""

    slot: Slot
    planes: Planes
    kind: str
    confidence: Confidence | None = None


class _Memory:
    """Caches of the frames around the current gap. Keys are frame indexes."""

    def __init__(self) -> None:
        self.features: dict[int, Features] = {}
        self.alpha: dict[int, Features] = {}
        self.motion: dict[tuple[int, int], Motion] = {}
        self.changes: dict[tuple[int, int], overlays.Change] = {}
        self.thumbnails: dict[int, confidence.Array] = {}
        self.speed: dict[tuple[int, int], float | None] = {}  # pixels from a to b of fast parts of the frame
        self.exposure: shutter.Exposure | None = None  # of the output at hand, over the gaps that its shutter sees
        self.exposed = "source"  # kind of the frames that it saw
        self.confidence: Confidence | None = None  # lowest of its samples
        self.following: Gap | None = None  # to be prefetched
        self.pending: Future[None] | None = None  # its preparation, by another thread, which writes here
        self.pool: ThreadPoolExecutor | None = None

    def wait(self) -> None:
        """Wait until no other thread writes here."""
        if self.pending is not None:
            self.pending.result()
            self.pending = None

    def close(self) -> None:
        """End the other thread."""
        if self.pool is not None:
            self.pool.shutdown()

    def keep(self, gap: Gap, following: Gap | None) -> None:
        """Drop all but the frames of this gap."""
        self.wait()
        self.following = following
        kept = {frame.index for frame in (gap.before, gap.a, gap.b, gap.after) if frame is not None}
        self.features = {key: value for key, value in self.features.items() if key in kept}
        self.alpha = {key: value for key, value in self.alpha.items() if key in kept}
        self.motion = {pair: value for pair, value in self.motion.items() if kept.issuperset(pair)}
        self.speed = {pair: value for pair, value in self.speed.items() if kept.issuperset(pair)}
        self.changes = {pair: value for pair, value in self.changes.items() if kept.issuperset(pair)}
        self.thumbnails = {key: value for key, value in self.thumbnails.items() if key in kept}

    def clear(self) -> None:
        """Drop all: the model works differently from here on."""
        self.features.clear()
        self.alpha.clear()
        self.motion.clear()


def _frame_of(image: Tensor, index: int) -> Frame:
    """An image (3, H, W) float RGB as a frame of 8 bits, for detection only."""
    planes = image.detach().cpu().clamp(0, 1).mul(255).round().to(torch.uint8)
    format = PixelFormat("gbrp", "rgb", 8, matrix="rgb", full_range=True)
    return Frame(tuple(planes), format, Fraction(index), Fraction(1), index)


def _with_next(gaps: Iterable[Gap]) -> Iterator[tuple[Gap, Gap | None]]:
    """Every gap and the one after it."""
    last: Gap | None = None
    for gap in gaps:
        if last is not None:
            yield last, gap
        last = gap
    if last is not None:
        yield last, None


def _is_interpolated(gap: Gap) -> bool:
    """Whether a model fills a gap; otherwise frames are held or duplicated."""
    a, b = gap.a, gap.b
    return b is not None and _alike(a, b) and not gap.cut and not _equal(a.planes, b.planes)


def _alike(a: Frame, b: Frame) -> bool:
    """Whether two frames are of one format and size."""
    return b.format == a.format and (b.height, b.width) == (a.height, a.width)


def _equal(a: Planes, b: Planes) -> bool:
    """Whether all samples are the same; most that are not differ in their middle row already."""
    middle = len(a[0]) // 2
    if not torch.equal(_signed(a[0])[middle], _signed(b[0])[middle]):
        return False
    return all(torch.equal(_signed(p), _signed(q)) for p, q in zip(a, b, strict=True))


def _signed(plane: Tensor) -> Tensor:
    """The same bits in a type that every operation knows: uint16 is young in torch."""
    return plane.view(torch.int16) if plane.dtype == torch.uint16 else plane


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in _MEMORY_WORDS)
