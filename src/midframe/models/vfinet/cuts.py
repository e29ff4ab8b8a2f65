"""ModelScope's cut rule, as a detector for `shots.label`: histograms first, then whether flows agree.

After modelscope/models/cv/video_frame_interpolation/utils/scene_change_detection.py (Apache-2.0). The rule needs the
refined flows of every pair; `Memoising` lets the engine use them again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from midframe import colour, ops
from midframe.models.base import Features, Model, Motion, RenderRequest, SceneDetector
from midframe.types import Frame

BT601_LUMA = (0.299, 0.587, 0.114)  # of B, G and R: the original weighs its BGR frames with the weights for RGB
BINS = 64
HISTOGRAM_NOISE = 0.01  # of all pixels; differences of histograms below are none
ALTOGETHER, SINGLE = 0.8, 0.4  # of all pixels; above either, the histograms tell of a cut
CUT_MARGIN, CUT_STEP = 64, 8  # pixels; of the grid on which flows are compared
CUT_BLOCK = 8  # pixels; side of the blocks whose mean difference counts
DIFFERENT = 5.0  # 8-bit levels
HALF_SCALE = 0.5  # of the grid's points


def is_cut(a: Tensor, b: Tensor, flows: Callable[[], tuple[Tensor, Tensor]]) -> bool:
    """Whether a shot ends between two frames.

    Args:
        a: (1, 3, H, W) BGR in 8-bit levels.
        b: the same.
        flows: gives a -> b and b -> a, (1, 2, H, W); asked only if the histograms do not decide.
    """
    weights = a.new_tensor(BT601_LUMA).view(1, 3, 1, 1)
    gray_a, gray_b = (((p * weights).sum(1, keepdim=True)).clamp(0, 255).floor() for p in (a, b))
    histograms = [torch.histc(gray.cpu(), BINS, 0, 255) / gray.numel() for gray in (gray_a, gray_b)]
    apart = (histograms[0] - histograms[1]).abs()
    apart[apart < HISTOGRAM_NOISE] = 0
    if float(apart.sum()) > ALTOGETHER or float(apart.max()) > SINGLE:
        return True
    height, width = a.shape[-2:]
    if height <= 2 * CUT_MARGIN or width <= 2 * CUT_MARGIN:
        return False  # the grid has no points
    there, back = flows()
    place = ops.coordinates(height, width, a.device)[0] + there[0] + 0.5
    x = place[0].clamp(0, width - 1).long()
    y = place[1].clamp(0, height - 1).long()
    grid = (slice(CUT_MARGIN, height - CUT_MARGIN, CUT_STEP), slice(CUT_MARGIN, width - CUT_MARGIN, CUT_STEP))
    go = there[0][:, grid[0], grid[1]]
    come = back[0][:, y[grid], x[grid]]
    miss = (go + come).square().sum(0).sqrt()
    length = torch.maximum(go[0].abs() * (width / 1920), go[1].abs() * (height / 1080))
    allowed = (0.1 * length + 4).clamp(5, 14)
    difference = (gray_a[0, 0] - gray_b[0, 0][y, x]).abs()
    block = F.avg_pool2d(difference[None, None], CUT_BLOCK, stride=1, padding=CUT_BLOCK // 2)[0, 0][grid]
    return float(((miss > allowed) & (block > DIFFERENT)).float().mean()) > HALF_SCALE


class FlowCuts:
    """Detector: marks the frames that begin a shot by ModelScope's rule."""

    def __init__(self, model: Model, device: torch.device, half: torch.dtype | None = None) -> None:
        """Take a vfinet (best in `Memoising`), its device, and the half precision of its convolutions, if any."""
        self.model, self.device, self.half = model, device, half

    def mark(self, frames: Iterable[Frame]) -> Iterator[tuple[Frame, bool]]:
        """See `shots.Detector`."""
        last: Frame | None = None
        for frame in frames:
            same = last is not None and (last.height, last.width) == (frame.height, frame.width)
            yield frame, last is not None and (not same or self._cut(last, frame))
            last = frame

    def _cut(self, a: Frame, b: Frame) -> bool:
        autocast = torch.autocast(self.device.type, self.half or torch.bfloat16, enabled=self.half is not None)
        with torch.inference_mode(), autocast:
            size = self.model.padded_size(a.height, a.width)
            padded = [
                ops.pad(colour.to_rgb(f.planes, f.format, self.device)[None], *size, mode=self.model.pad_mode)
                for f in (a, b)
            ]
            encoded = [self.model.encode(image) for image in padded]
            scale = size[0] // encoded[0].image.shape[-2]  # 2 for large frames
            height, width = a.height // scale, a.width // scale
            levels = [(255 * p).round() for p in padded]
            if scale > 1:
                levels = [F.avg_pool2d(p, scale) for p in levels]
            first, second = (ops.crop(p, height, width).flip(1) for p in levels)

            def flows() -> tuple[Tensor, Tensor]:
                found = self.model.match(encoded[0], encoded[1])
                return ops.crop(found.forward, height, width), ops.crop(found.backward, height, width)

            return is_cut(first, second, flows)


class Memoising(Model):
    """Memoising wrapper: a scene detector and an engine share the work of a model.

    It holds the images and features of the last few frames; one for each run.
    """

    def __init__(self, inner: Model, frames: int = 6) -> None:
        """Remember this many frames: the engine follows the detector by three."""
        super().__init__()
        self.inner, self.frames = inner, frames
        # constants of a class; a wrapper has those of its model
        self.name, self.context, self.pad_mode = inner.name, inner.context, inner.pad_mode  # type: ignore[misc]
        self.stride, self.min_side, self.fast_half = inner.stride, inner.min_side, inner.fast_half  # type: ignore[misc]
        self.scene_rule = inner.scene_rule  # type: ignore[misc]
        self.flow_scale = inner.flow_scale  # constant: memoised motion was estimated at it
        self._seen: list[tuple[Tensor, Features]] = []
        self._matched: OrderedDict[tuple[int, int], tuple[Features, Features, Motion]] = OrderedDict()
        self._lock = threading.Lock()

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """That of the model."""
        return self.inner.padded_size(height, width)

    def encode(self, image: Tensor) -> Features:
        """Features of the model, memoised by image."""
        with self._lock:
            for known, features in reversed(self._seen):
                if torch.equal(known, image):
                    return features
            features = self.inner.encode(image)
            self._seen = [*self._seen[1 - self.frames :], (image, features)]
            return features

    def match(self, a: Features, b: Features) -> Motion:
        """Motion of the model, memoised by features."""
        key = id(a), id(b)
        with self._lock:
            if key not in self._matched:
                self._matched[key] = a, b, self.inner.match(a, b)  # the features are held, so the ids stay theirs
                while len(self._matched) > self.frames:
                    self._matched.popitem(last=False)
            return self._matched[key][2]

    def scene_detector(self, device: torch.device, half: torch.dtype | None) -> SceneDetector:
        """Scene changes by the flows that are kept here."""
        return FlowCuts(self, device, half)

    def flow(self, motion: Motion) -> Tensor | None:
        """That of the model."""
        return self.inner.flow(motion)

    def render(self, request: RenderRequest) -> Tensor:
        """That of the model."""
        return self.inner.render(request)
