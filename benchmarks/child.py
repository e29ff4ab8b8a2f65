"""The work of a measured process; `rig.child` starts it. The last line it prints is JSON.

file      file in, file out, as `midframe interpolate` does it
model     the methods of a model alone, on RGB frames in memory
overhead  everything but encoder and model: reader, scene changes, overlays, timeline, engine with the blend model
"""

from __future__ import annotations

import json
import sys
import time
from fractions import Fraction
from typing import Any


def file(clip: str, target: str, model: str, ratio: str, precision: str = "auto", **options: Any) -> dict[str, Any]:
    from midframe import pipeline

    start = time.perf_counter()
    done = pipeline.interpolate(
        clip, target, model=model, ratio=ratio, precision=precision, overwrite=True, resume=False, **options
    )
    seconds = time.perf_counter() - start
    done.report.unlink(missing_ok=True)
    return {"seconds": seconds, "frames": done.frames_out, "interpolated": done.kinds.count("i")}


def model(
    clip: str, model: str, ratio: str, precision: str = "auto", limit: int = 0, weights: str | None = None
) -> dict[str, Any]:
    import torch

    from midframe import colour, ops
    from midframe.engine import Engine
    from midframe.models import load_model
    from midframe.models.base import RenderRequest
    from midframe.video.reader import open_reader

    engine = Engine(load_model(model, weights), "auto", precision)
    net = engine.model
    with open_reader(clip) as frames:
        rgb = []
        for frame in frames:
            rgb.append(colour.to_rgb(frame.planes, frame.format, engine.device))
            if limit and len(rgb) >= limit:
                break
    step = Fraction(ratio)
    size = net.padded_size(*rgb[0].shape[-2:])
    padded = [ops.pad(frame[None], *size, mode=net.pad_mode) for frame in rgb]
    plans = []
    for k in range(len(rgb) - 1):
        # output n lies at n / step source frames
        inside = [n / step - k for n in range(int(k * step), int((k + 1) * step) + 2)]
        plans.append([float(t) for t in inside if 0 < t < 1])

    def once() -> tuple[int, float]:
        count = 0
        start = time.perf_counter()
        with engine._arithmetic():
            motions: dict[int, Any] = {}
            features = {0: net.encode(padded[0])}

            def match(k: int) -> Any:
                if k < 0 or k + 1 >= len(padded):
                    return None
                for j in (k, k + 1):
                    if j not in features:
                        features[j] = net.encode(padded[j])
                if k not in motions:
                    motions[k] = net.match(features[k], features[k + 1])
                return motions[k]

            for k, times in enumerate(plans):
                if not times:
                    continue
                here = match(k)
                beside = (match(k - 1), match(k + 1)) if net.context else (None, None)
                for first in range(0, len(times), engine.max_batch):
                    t = torch.tensor(times[first : first + engine.max_batch], device=engine.device)
                    count += len(net.render(RenderRequest(features[k], features[k + 1], here, t, *beside)))
                features.pop(k - 1, None)
                motions.pop(k - 1, None)
        if engine.device.type == "cuda":
            torch.cuda.synchronize()
        return count, time.perf_counter() - start

    plans_all, plans = plans, plans[:2]
    once()  # warm-up inside the process: allocator, compiled graphs
    plans = plans_all
    count, seconds = once()
    return {"seconds": seconds, "interpolated": count, "precision": engine.precision, "device": str(engine.device)}


def overhead(clip: str, ratio: str) -> dict[str, Any]:
    from midframe import shots, timeline
    from midframe.engine import Engine
    from midframe.models import load_model
    from midframe.video.reader import open_reader

    engine = Engine(load_model("blend"), static="auto")  # as a run has it if nothing is said
    count = 0
    start = time.perf_counter()
    with open_reader(clip) as frames:
        assert frames.info.rate is not None
        rate = frames.info.rate * Fraction(ratio)
        for _ in engine.run(timeline.gaps(shots.label(frames, shots.Thumbnails()), rate, context=engine.context)):
            count += 1
    return {"seconds": time.perf_counter() - start, "frames": count}


if __name__ == "__main__":
    import os

    from midframe.process import configure

    configure()

    import cv2
    import torch

    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    answer = {"file": file, "model": model, "overhead": overhead}[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps(answer))
