"""midframe: video frame interpolation and frame-rate conversion.

    import midframe

    result = midframe.interpolate("in.mkv", "out.mkv", fps=60)
    middle = midframe.Interpolator().between(a, b)

Public names are imported on first use, to keep `import midframe` fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from midframe.errors import (
        DeviceError,
        InputError,
        Interrupted,
        JobError,
        MediaError,
        MidframeError,
        UnsupportedError,
        WeightsError,
    )
    from midframe.interpolator import Interpolator
    from midframe.models import load_model
    from midframe.options import Options
    from midframe.pipeline import interpolate
    from midframe.plan import Plan
    from midframe.result import Progress, Result
    from midframe.types import Frame, VideoInfo
    from midframe.video.probe import probe

__version__ = "0.1.0.dev0"

# public name -> its module
_MODULES = {
    "interpolate": "pipeline",
    "Interpolator": "interpolator",
    "load_model": "models",
    "probe": "video.probe",
    "Options": "options",
    "Plan": "plan",
    "Progress": "result",
    "Result": "result",
    "Frame": "types",
    "VideoInfo": "types",
    "MidframeError": "errors",
    "InputError": "errors",
    "MediaError": "errors",
    "UnsupportedError": "errors",
    "WeightsError": "errors",
    "DeviceError": "errors",
    "JobError": "errors",
    "Interrupted": "errors",
}

__all__ = [
    "DeviceError",
    "Frame",
    "InputError",
    "Interpolator",
    "Interrupted",
    "JobError",
    "MediaError",
    "MidframeError",
    "Options",
    "Plan",
    "Progress",
    "Result",
    "UnsupportedError",
    "VideoInfo",
    "WeightsError",
    "__version__",
    "interpolate",
    "load_model",
    "probe",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module 'midframe' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"midframe.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
