"""vfinet on the processor: seconds per new frame, GFLOP/s and peak memory, beside its slow twin.

    python benchmarks/vfinet.py                      all sizes, float32 and bf16, twin at 720p
    python benchmarks/vfinet.py --sizes 720p --ratios 2 8 --precisions fp32

Each case is a process of its own: encode a frame, match a gap, render an instant, once to warm up (counting
multiply-adds) and once by the clock. A steady video costs one encode and one match a gap, and one render a new
frame. The twin (`vfinet_twin.py`) finds four flows anew for every frame, as the original's network does when it
is called frame by frame. Weights are the initial random ones: no step but the tiled look-ups depends on them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from rig import RESULTS, frames_of, run
from torch.utils.flop_counter import FlopCounterMode

SIZES = {"480p": (854, 480), "720p": (1280, 720), "1080p": (1920, 1080)}


def frames(size: str, count: int) -> list[torch.Tensor]:
    """(1, 3, H, W) RGB float32, 0..1."""
    width, height = SIZES[size]
    return [
        torch.from_numpy(p[:, :, ::-1].copy()).permute(2, 0, 1)[None].float() / 255
        for p in frames_of(width, height, count)
    ]


def child_ours(size: str, precision: str) -> dict[str, object]:
    from midframe import ops
    from midframe.models.base import RenderRequest
    from midframe.models.vfinet import VFINet

    torch.manual_seed(0)
    network = VFINet().eval()
    before, a, b, after = (ops.pad(f, *network.padded_size(*f.shape[-2:]), mode="zeros") for f in frames(size, 4))
    t = torch.tensor([0.5])
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}
    gflop: dict[str, float] = {}

    def timed(stage: str, work):
        begin, used = time.perf_counter(), time.process_time()
        made = work()
        seconds[stage], cpu[stage] = time.perf_counter() - begin, time.process_time() - used
        return made

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        held = [network.encode(f) for f in (before, a, b)]
        with FlopCounterMode(display=False) as counter:
            held.append(network.encode(after))
        gflop["encode"] = counter.get_total_flops() / 1e9
        flows = [None, None, None]
        with FlopCounterMode(display=False) as counter:
            flows[0] = network.match(held[0], held[1])
        gflop["match"] = counter.get_total_flops() / 1e9
        flows[2] = flows[0]  # neighbours of the right shape: their values change nothing of the cost
        flows[1] = timed("match", lambda: network.match(held[1], held[2]))
        timed("encode", lambda: network.encode(after))
        with FlopCounterMode(display=False) as counter:
            network.render(RenderRequest(held[1], held[2], flows[1], t, flows[0], flows[2]))
        gflop["render"] = counter.get_total_flops() / 1e9
        timed("render", lambda: network.render(RenderRequest(held[1], held[2], flows[1], t, flows[0], flows[2])))
    return {"seconds": seconds, "cpu_seconds": cpu, "gflop": gflop}


def child_twin(size: str) -> dict[str, object]:
    from vfinet_twin import Twin

    torch.manual_seed(0)
    network = Twin().eval()
    height, width = SIZES[size][1], SIZES[size][0]
    pad = (0, -width % 32, 0, -height % 32)
    four = [255 * torch.nn.functional.pad(f, pad) for f in frames(size, 4)]
    begin, used = time.perf_counter(), time.process_time()
    with FlopCounterMode(display=False) as counter:
        network(four, 0.5)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - used
    return {"seconds": seconds, "cpu_seconds": cpu, "gflop": counter.get_total_flops() / 1e9}


def per_frame(stages: dict[str, float], ratio: int) -> float:
    """Cost of one new frame of a steady video."""
    return (stages["encode"] + stages["match"]) / (ratio - 1) + stages["render"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--ratios", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--twin", nargs="*", choices=SIZES, default=["720p"], help="sizes at which the twin runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "vfinet.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        torch.set_num_threads(given.threads)
        what, size, precision = given.child.split(",")
        print(json.dumps(child_twin(size) if what == "twin" else child_ours(size, precision)))
        return
    cases = [f"twin,{size},fp32" for size in given.twin]
    cases += [f"ours,{size},{precision}" for size in given.sizes for precision in given.precisions]
    given.out.parent.mkdir(exist_ok=True)
    rows = json.loads(given.out.read_text()) if given.out.exists() else {}
    for case in cases:
        done = run([sys.executable, __file__, "--child", case, "--threads", str(given.threads)], given.threads, 1500)
        rows[case] = {**done.answer, "peak_bytes": done.peak_bytes, "others": done.others, "threads": given.threads}
        given.out.write_text(json.dumps(rows, indent=1))
    print(f"{'case':22}{'s/image':>10}{'GFLOP':>8}{'GFLOP/s':>9}{'peak GB':>9}{'of twin':>9}{'cpu s':>8}")
    for case, row in rows.items():
        what, size, _ = case.split(",")
        peak = row["peak_bytes"] / 1e9
        twin = rows.get(f"twin,{size},fp32")
        if what == "twin":
            seconds, gflop, cpu = row["seconds"], row["gflop"], row["cpu_seconds"]
            print(f"{case:22}{seconds:10.2f}{gflop:8.0f}{gflop / seconds:9.0f}{peak:9.2f}{'1':>9}{cpu:8.1f}")
            continue
        for ratio in given.ratios:
            seconds, gflop = per_frame(row["seconds"], ratio), per_frame(row["gflop"], ratio)
            faster = "" if twin is None else f"{twin['seconds'] / seconds:.1f}x"
            cpu = per_frame(row["cpu_seconds"], ratio)
            name = f"{case},{ratio}x"
            print(f"{name:22}{seconds:10.2f}{gflop:8.0f}{gflop / seconds:9.0f}{peak:9.2f}{faster:>9}{cpu:8.1f}")


if __name__ == "__main__":
    main()
