"""A farm: what it costs beside a plain run, how long a thousand segments take to join, and how far it carries.

    python benchmarks/farm.py simulate                 sizing table to 1,000 workers; seconds
    python benchmarks/farm.py join                     1,000 segments into one film: time and peak memory
    python benchmarks/farm.py overhead                 plain run, one worker, two workers; needs Ray; minutes

The simulation drives the very rules of the farm (`midframe.dispatch`) with simulated workers. Its assumptions stand in
`Assumptions`, and are printed with its table.
"""

from __future__ import annotations

import argparse
import heapq
import random
import resource
import shutil
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rig

DOCS = rig.HERE.parent / "docs" / "farm.md"
BEGIN, END = "<!-- numbers: written by benchmarks/farm.py -->", "<!-- /numbers -->"
WORKERS = (1, 8, 32, 100, 300, 1000)


@dataclass(frozen=True)
class Assumptions:
    """What the simulation takes for granted; change them to your own farm's."""

    film_hours: float = 2.0
    rate: float = 60.0  # output pictures a second
    segment_outputs: int = 480  # as plan.SEGMENT_OUTPUTS
    worker_fps: float = 10.0  # output pictures a second of one worker, encoding included
    spread: float = 0.2  # of the workers' speeds: standard deviation over mean
    stragglers: float = 0.01  # of attempts: a worker that is slowed down to a quarter
    deaths_per_hour: float = 0.05  # of each worker's node
    start_seconds: float = 2.0  # of a segment: seek, lead-in frames, network warm-up
    segment_mbytes: float = 20.0  # 8 s of 1080p60 at 20 Mbit/s
    head_mbytes_per_second: float = 1000.0  # what the head takes in, through a 10 Gbit/s line
    join_seconds_per_segment: float = 0.01  # measured by `join`, on two busy cores
    back_seconds: float = 60.0  # until a dead node's place is filled again


def simulate(workers: int, a: Assumptions, seed: int = 1) -> dict[str, float]:
    """One film on so many workers, by the farm's own rules. Times in seconds."""
    from midframe.dispatch import Dispatch

    rng = random.Random(seed)
    count = max(1, round(a.film_hours * 3600 * a.rate / a.segment_outputs))
    dispatch = Dispatch([float(a.segment_outputs)] * count)
    speeds = [max(0.2, rng.gauss(1, a.spread)) for _ in range(workers)]
    events: list[tuple[float, int, int, str, int]] = []  # time, order, worker, kind, ticket
    order, idle, now, line_free, wasted, doubled = 0, list(range(workers)), 0.0, 0.0, 0.0, 0
    began: dict[int, float] = {}

    def at(when: float, worker: int, kind: str, ticket: int = 0) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (when, order, worker, kind, ticket))

    while not dispatch.over:
        while idle and (handed := dispatch.next(now)) is not None:
            ticket, attempt = handed
            worker = idle.pop()
            doubled += attempt.copy
            slow = 4.0 if rng.random() < a.stragglers else 1.0
            seconds = a.start_seconds + slow * a.segment_outputs / (a.worker_fps * speeds[worker])
            death = rng.expovariate(a.deaths_per_hour / 3600) if a.deaths_per_hour else float("inf")
            began[ticket] = now
            if death < seconds:
                at(now + death, worker, "dies", ticket)
            else:
                at(now + seconds, worker, "sends", ticket)
        if not events:
            break
        if idle:  # someone waits for a straggler to become one
            at(now + 1.0, -1, "looks")
        now, _, worker, kind, ticket = heapq.heappop(events)
        if kind == "dies":
            dispatch.lost(ticket)
            wasted += now - began[ticket]
            at(now + a.back_seconds, worker, "back")
        elif kind == "back":
            idle.append(worker)
        elif kind == "sends":  # one line into the head: transfers queue there
            line_free = max(line_free, now) + a.segment_mbytes / a.head_mbytes_per_second
            at(line_free, worker, "done", ticket)
        elif kind == "done":
            if not dispatch.finished(ticket, now):
                wasted += now - began[ticket]
            idle.append(worker)
    join = count * a.join_seconds_per_segment
    work = count * (a.start_seconds + a.segment_outputs / a.worker_fps)
    return {
        "workers": workers,
        "segments": count,
        "hours": (now + join) / 3600,
        "join_share": join / (now + join),
        "efficiency": work / (now + join) / sum(speeds),
        "head_mbytes_per_second": count * a.segment_mbytes / now,
        "wasted_share": wasted / (work + wasted),
        "doubled": doubled,
    }


def join(segments: int = 1000) -> dict[str, Any]:
    """Join so many one-second segments of 320x180 and copy a track of sound."""
    from dataclasses import replace
    from fractions import Fraction

    import av
    import numpy as np

    from midframe.options import Options
    from midframe.video import concat
    from midframe.video.probe import probe
    from midframe.video.reader import open_reader
    from midframe.video.writer import choose_encoder, open_writer

    folder = rig.storage() / "farm-join"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    source = folder / "source.mkv"
    with av.open(str(source), "w") as out:
        video = out.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 320, 180, "yuv420p"
        sound = out.add_stream("aac", rate=48000)
        for k in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((270, 320), 16 + 8 * k, np.uint8), format="yuv420p")
            frame.pts = k
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for k in range(48000 * segments // 1024 + 1):
            chunk = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            chunk.sample_rate, chunk.pts = 48000, 1024 * k
            out.mux(sound.encode(chunk))
        out.mux(sound.encode(None))
    info = probe(source)
    with open_reader(source) as frames:
        picture = next(iter(frames))
    encoding = choose_encoder(info, folder / "out.mkv", "auto")
    files = []
    for n in range(segments):
        path = folder / f"{n:05d}.mkv"
        with open_writer(path, info, encoding, rate=Fraction(24), segment=True) as writer:
            for k in range(24):
                writer.write(replace(picture, pts=Fraction(24 * n + k, 24), duration=Fraction(1, 24)))
        files.append(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    concat.join(files, folder / "joined.mkv", source, info, Options())
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with av.open(str(folder / "joined.mkv")) as film:
        pictures = sum(1 for packet in film.demux(video=0) if packet.pts is not None)
    shutil.rmtree(folder)
    assert pictures == 24 * segments, pictures
    return {
        "segments": segments,
        "seconds": seconds,
        "peak_mbytes": peak / 1024,
        "grown_mbytes": (peak - before) / 1024,
    }


def overhead(size: str, frames: int, repeats: int) -> dict[str, Any]:
    """Wall seconds of the same film by a plain run, by one worker with all cores, and by two with half each."""
    import logging

    import ray

    from midframe import cluster, pipeline

    ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    source, target = rig.clip(size, frames), rig.storage() / "farm-out.mkv"
    wishes: dict[str, Any] = {"fps": "60", "model": "blend", "device": "cpu", "overwrite": True, "preset": "ultrafast"}
    contestants = {
        "plain": lambda: pipeline.interpolate(source, target, **wishes),
        "one worker": lambda: cluster.interpolate(source, target, farm=cluster.Farm(workers=1), **wishes),
        "two workers": lambda: cluster.interpolate(source, target, farm=cluster.Farm(workers=2), **wishes),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            if turn:  # the first is the warm-up
                times[name].append(time.perf_counter() - start)
    ray.shutdown()
    target.unlink(missing_ok=True)
    return {"size": size, "frames": frames, "seconds": times}


def show(stored: dict[str, Any]) -> str:
    """All that is known, as Markdown."""
    parts = []
    if rows := stored.get("simulation"):
        a = stored["assumptions"]
        parts.append(
            f"A film of {a['film_hours']:g} h at {a['rate']:g} pictures a second, {rows[0]['segments']} segments; "
            + "; ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in a.items() if k not in ("film_hours", "rate"))
            + "."
        )
        parts.append(
            rig.table(
                ["workers", "hours", "efficiency", "into the head, MB/s", "join, share", "work lost", "doubled"],
                [
                    [f"{r['workers']:g}", f"{r['hours']:.2f}", f"{r['efficiency']:.0%}",
                     f"{r['head_mbytes_per_second']:.0f}", f"{r['join_share']:.1%}", f"{r['wasted_share']:.1%}",
                     f"{r['doubled']:g}"]
                    for r in rows
                ],
            )
        )  # fmt: skip
    if j := stored.get("join"):
        parts.append(
            f"Joining {j['segments']} segments with one track of sound: {j['seconds']:.1f} s, peak resident memory of "
            f"the process {j['peak_mbytes']:.0f} MB, {j['grown_mbytes']:.0f} MB of it for the join."
        )
    if o := stored.get("overhead"):
        medians = {name: statistics.median(times) for name, times in o["seconds"].items()}
        parts.append(
            f"{o['frames']} frames of {o['size']} to 60 a second with the blend model on 2 cores, medians of "
            f"{len(o['seconds']['plain'])} interleaved runs: plain {medians['plain']:.1f} s; one worker "
            f"{medians['one worker'] / medians['plain']:.2f} of that; two workers are "
            f"{medians['one worker'] / medians['two workers']:.2f} times as fast as one."
        )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["simulate", "join", "overhead"])
    parser.add_argument("--worker-fps", type=float, default=Assumptions.worker_fps)
    parser.add_argument("--segments", type=int, default=1000)
    parser.add_argument("--size", choices=rig.SIZES, default="720p")
    parser.add_argument("--frames", type=int, default=1440)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    stored = rig.load("farm")
    if arguments.what == "simulate":
        assumed = Assumptions(worker_fps=arguments.worker_fps)
        stored["assumptions"] = asdict(assumed)
        stored["simulation"] = [simulate(n, assumed) for n in WORKERS]
    elif arguments.what == "join":
        stored["join"] = join(arguments.segments)
    else:
        stored["overhead"] = overhead(arguments.size, arguments.frames, arguments.repeats)
    stored["machine"] = rig.machine(2)
    rig.store("farm", stored)
    text = show(stored)
    print(text)
    if DOCS.exists():
        page = DOCS.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        DOCS.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
