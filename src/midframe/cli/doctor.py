"""`midframe doctor`: what this machine offers, and what would be missing."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from typing import Any

import click

from midframe.options import DEFAULT_MODEL

CHECKED_ENCODERS = ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "prores_ks", "ffv1")
HARDWARE_ENCODERS = tuple(
    f"{codec}_{kind}" for codec in ("h264", "hevc", "av1") for kind in ("nvenc", "qsv", "amf", "videotoolbox")
)
SIDE = (720, 1280)  # frame of the speed test


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, metavar="NAME", help="Model of the speed test.")
def command(as_json: bool, model: str) -> None:
    """Versions, devices, encoders, half precision, disk, and a hint of the speed."""
    found = examine(model)
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        click.echo(f"{name.replace('_', ' '):18}{shown}")


def examine(model: str) -> dict[str, Any]:
    """Return everything by name, in the order in which it is shown."""
    import torch

    from midframe import __version__, kernels
    from midframe.engine import pick_device, pick_precision
    from midframe.models import load_model
    from midframe.video.build import encoders, library_versions

    network = load_model(model)
    device = pick_device("auto")
    devices = ["cpu"]
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(number)
        devices.append(f"cuda:{number} ({about.name}, {about.total_memory / 2**30:.0f} GiB)")
    if torch.backends.mps.is_available():
        devices.append("mps")
    have = encoders(CHECKED_ENCODERS)
    return {
        "midframe": __version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "torch": str(torch.__version__),
        "kernels": kernels.description(),
        "ffmpeg_libraries": ", ".join(f"{name} {version}" for name, version in library_versions().items()),
        "processors": f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} usable, "
        f"torch uses {torch.get_num_threads()}",
        "memory": _memory(),
        "disk": f"{shutil.disk_usage('.').free / 2**30:.1f} GiB free here",
        "devices": devices,
        "encoders": have,
        "hardware_encoders": encoders(HARDWARE_ENCODERS) or ["none that this machine can open"],
        "encoders_missing": [name for name in CHECKED_ENCODERS if name not in have],
        "picked": f"{device}, {pick_precision('auto', network, device)} for {model}",
        "speed": speed(model),
    }


def speed(model: str) -> str:
    """Measure new frames per second of a model alone at 1280x720, from a few seconds of work."""
    import torch

    from midframe.engine import Engine
    from midframe.models import load_model

    engine = Engine(load_model(model), "auto", "auto")
    base = torch.nn.functional.interpolate(
        torch.rand(1, 3, 45, 80, generator=torch.Generator().manual_seed(0)), size=SIDE, mode="bicubic"
    )[0].clamp(0, 1)
    moved = torch.roll(base, (3, 9), (1, 2))
    engine.between(base, moved, [0.5])  # the first call sets things up
    began, count = time.perf_counter(), 0
    while count < 3 or time.perf_counter() - began < 1.0:
        engine.between(base, moved, [0.5])
        count += 1
        if time.perf_counter() - began > 10:
            break
    rate = count / (time.perf_counter() - began)
    return f"{model} makes about {rate:.1f} new frames of {SIDE[1]}x{SIDE[0]} a second on {engine.device}"


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "unknown"
    return f"{total / 2**30:.1f} GiB"
