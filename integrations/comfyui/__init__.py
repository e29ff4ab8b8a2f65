"""ComfyUI node: frames between the images of a batch.

Copy or link this folder to `ComfyUI/custom_nodes/midframe` and install midframe into ComfyUI's Python environment.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any

import torch


@lru_cache(maxsize=2)
def _interpolator(model: str, device: str) -> Any:
    from midframe import Interpolator

    return Interpolator(model, device)


class MidframeInterpolate:
    """A batch of images in, a batch with frames between them out."""

    CATEGORY = "midframe"
    RETURN_TYPES = ("IMAGE", "FLOAT")
    RETURN_NAMES = ("images", "factor")
    FUNCTION = "interpolate"
    DESCRIPTION = "Video frame interpolation: new frames between the images of a batch."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Inputs as ComfyUI asks for them."""
        return {
            "required": {
                "images": ("IMAGE",),
                "factor": ("FLOAT", {"default": 2.0, "min": 1.0, "max": 64.0, "step": 0.5}),
                "model": (["midnet-m", "midnet-s", "dis"],),
            },
            "optional": {
                "rates": (
                    "STRING",
                    {"default": "", "tooltip": "Factor of each gap, e.g. '2, 4, 1'; replaces factor."},
                ),
                "loop": ("BOOLEAN", {"default": False, "tooltip": "The last gap leads back to the first image."}),
                "device": (["auto", "cpu", "cuda"],),
            },
        }

    def interpolate(
        self, images: torch.Tensor, factor: float, model: str, rates: str = "", loop: bool = False, device: str = "auto"
    ) -> tuple[torch.Tensor, float]:
        """Insert frames.

        Args:
            images: (N, H, W, 3) float32 in 0..1.
            factor: output images per input image; 2.5 gives five for every two.
            model: a model of midframe.
            rates: a whole factor for each gap in place of `factor`; the last one repeats.
            loop: the last image leads back to the first.
            device: auto, cpu or cuda.

        Returns:
            Images (M, H, W, 3) float32 in 0..1, M = ceil(N factor) (without `rates`), and M / N.
        """
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images {tuple(images.shape)}: a batch (N, H, W, 3) is needed")
        count = len(images)
        gaps = count if loop else count - 1
        times = _by_gap(rates, gaps) if rates.strip() else _by_factor(Fraction(str(factor)), count, gaps)
        times += [[0.0]] * (count - len(times))  # the last image, which no gap follows
        planes = images.permute(0, 3, 1, 2)
        between, out = _interpolator(model, device), []
        for k, instants in enumerate(times):
            inner = [t for t in instants if t > 0]
            made = iter(between.between(planes[k], planes[(k + 1) % count], t=inner) if inner and k < gaps else ())
            out += [planes[k] if t == 0 else next(made, planes[k]) for t in instants]
        result = torch.stack(out).clamp(0, 1).permute(0, 2, 3, 1).contiguous()
        return result, len(result) / count


def _by_factor(factor: Fraction, count: int, gaps: int) -> list[list[float]]:
    """Instants in each gap when output m lies at m / factor input frames; after the last gap the last image is held."""
    total = -int(-(count * factor) // 1)
    times: list[list[float]] = [[] for _ in range(count)]
    for m in range(total):
        at = Fraction(m) / factor
        k = int(at)
        times[k].append(float(at - k) if k < gaps else 0.0)
    return times


def _by_gap(rates: str, gaps: int) -> list[list[float]]:
    """Instants in each gap by whole factors."""
    try:
        wanted = [int(word) for word in rates.replace(",", " ").split()]
    except ValueError as error:
        raise ValueError(f"rates {rates!r}: whole numbers with commas are needed, e.g. '2, 4, 1'") from error
    if not wanted or min(wanted) < 1:
        raise ValueError(f"rates {rates!r}: every factor must be 1 or more")
    wanted = (wanted + [wanted[-1]] * gaps)[:gaps]
    return [[j / n for j in range(n)] for n in wanted]


NODE_CLASS_MAPPINGS = {"MidframeInterpolate": MidframeInterpolate}
NODE_DISPLAY_NAME_MAPPINGS = {"MidframeInterpolate": "Frame interpolation (midframe)"}
