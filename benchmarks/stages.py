"""Where the time of a model goes: encode, match, render, each on its own; eager, compiled, and as CUDA graphs.

    python benchmarks/stages.py --models midnet-m --sizes 720p 1080p
    python benchmarks/stages.py --models vfinet --device cuda --modes eager compiled graphed --precision bf16

On a GPU stages are timed by events, elsewhere by the clock. "graphed" is `torch.compile(mode="reduce-overhead")`,
which captures a CUDA graph for each stage and shape; it needs a GPU. A stage that cannot be compiled is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

import cv2
import rig
import torch

from midframe import ops
from midframe.engine import Engine
from midframe.errors import MidframeError
from midframe.models import load_model
from midframe.models.base import RenderRequest

COMPILE = {"compiled": "default", "graphed": "reduce-overhead"}


def timed(call: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    """Milliseconds of each of `repeats` calls, after three that do not count."""
    for _ in range(3):
        call()
    found = []
    for _ in range(repeats):
        if device.type == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            call()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end))
        else:
            start = time.perf_counter()
            call()
            found.append(1000 * (time.perf_counter() - start))
    return found


def measure(model: str, size: str, mode: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Median milliseconds of the three methods, and of seven frames rendered at once."""
    engine = Engine(load_model(model), arguments.device, arguments.precision)
    net, device = engine.model, engine.device
    width, height = rig.SIZES[size]
    a, b = (
        ops.pad(
            torch.from_numpy(p[..., ::-1].copy()).to(device).permute(2, 0, 1)[None].float() / 255,
            *net.padded_size(height, width),
            mode=net.pad_mode,
        )
        for p in rig.frames_of(width, height, 2)
    )
    methods = {"encode": net.encode, "match": net.match, "render": net.render}
    if mode in COMPILE:
        torch._dynamo.reset()
        methods = {name: torch.compile(call, mode=COMPILE[mode], dynamic=False) for name, call in methods.items()}
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[engine.precision]
    row: dict[str, Any] = {
        "model": model, "size": size, "mode": mode, "precision": engine.precision, "commit": rig.commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device), "milliseconds": {},
    }  # fmt: skip
    with torch.inference_mode(), torch.autocast(device.type, kind, enabled=kind != torch.float32):
        features = net.encode(a), net.encode(b)
        motion = net.match(*features)
        one = torch.tensor([0.5], device=device)
        seven = torch.arange(1, 8, device=device) / 8
        calls = {
            "encode": lambda: methods["encode"](a),
            "match": lambda: methods["match"](*features),
            "render": lambda: methods["render"](RenderRequest(*features, motion, one)),
            "render 7": lambda: methods["render"](RenderRequest(*features, motion, seven)),
        }
        for name, call in calls.items():
            try:
                row["milliseconds"][name] = timed(call, device, arguments.repeats)
            except Exception as error:  # a compiler may raise anything
                print(f"{model} {size} {mode} {name} is left out: {str(error).splitlines()[0][:200]}", file=sys.stderr)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["dis", "midnet-s", "midnet-m", "vfinet"])
    parser.add_argument("--sizes", nargs="+", choices=rig.SIZES, default=["720p", "1080p"])
    parser.add_argument("--modes", nargs="+", choices=["eager", *COMPILE], default=["eager"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cv2.setNumThreads(arguments.threads)
    stored = rig.load("stages")
    key = ("model", "size", "mode", "precision", "device")
    rows = {tuple(r[k] for k in key): r for r in stored.get("rows", [])}
    for model in arguments.models:
        with contextlib.ExitStack() as stack:
            stack.callback(torch._dynamo.reset)
            for size in arguments.sizes:
                for mode in arguments.modes:
                    try:
                        row = measure(model, size, mode, arguments)
                    except MidframeError as error:
                        print(f"{model} is left out: {error}", file=sys.stderr)
                        continue
                    rows[tuple(row[k] for k in key)] = row
                    stored = {"rows": [rows[k] for k in sorted(rows)], "machine": rig.machine(arguments.threads)}
                    rig.store("stages", stored)
    if stored:
        print(show(stored))


def show(stored: dict[str, Any]) -> str:
    rows = []
    for r in stored["rows"]:
        each = {name: rig.median(values) for name, values in r["milliseconds"].items()}
        cells = [f"{each[n]:.1f}" if n in each else "-" for n in ("encode", "match", "render", "render 7")]
        fps = ["-", "-"]
        if len(each) == 4:  # a gap costs one encode, one match and its frames
            shared = each["encode"] + each["match"]
            fps = [f"{1000 / (shared + each['render']):.2f}", f"{7000 / (shared + each['render 7']):.2f}"]
        rows.append([r["model"], r["size"], r["mode"], r["precision"], r["device"], *cells, *fps])
    head = ["model", "size", "mode", "precision", "device", "encode, ms", "match, ms", "render 1, ms", "render 7, ms"]
    return rig.table([*head, "new fps at 2x", "at 8x"], rows)


if __name__ == "__main__":
    main()
