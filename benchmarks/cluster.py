"""A cluster: what it costs beside a plain run, how long a thousand segments take to join, and how far it carries.

    python benchmarks/cluster.py costs                    CPU seconds a frame, for the sizing table; minutes
    python benchmarks/cluster.py simulate                 the video on up to 1,000 workers; seconds
    python benchmarks/cluster.py head                     cost of a message with 1,000 tasks; needs Ray
    python benchmarks/cluster.py join                     1,000 segments into one video: time and peak memory
    python benchmarks/cluster.py overhead                 plain run against one worker; needs Ray; a pair more each time
    python benchmarks/cluster.py scaling                  two workers on two cores against one on one; likewise

The simulation drives the rules of a run (`midframe.cluster.scheduler`) with simulated workers. Its assumptions stand in
`Assumptions`, and are printed with its table.
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import rig

from midframe.process import configure

DOCS = rig.HERE.parent / "docs" / "cluster.md"
BEGIN, END = "<!-- numbers: written by benchmarks/cluster.py -->", "<!-- /numbers -->"
WORKERS = (1, 8, 32, 100, 300, 1000)


@dataclass(frozen=True)
class Assumptions:
    """What the simulation takes for granted; change them to your own cluster's."""

    video_hours: float = 2.0
    rate: float = 60.0  # output frames a second
    worker_fps: float = 10.0  # output frames a second of one worker, encoding included
    spread: float = 0.2  # of the workers' speeds: standard deviation over mean
    stragglers: float = 0.01  # of attempts: a worker that is slowed down to a quarter
    deaths_per_hour: float = 0.05  # of each worker's node
    start_seconds: float = 2.0  # of a segment: seek, lead-in frames, network warm-up
    frame_mbytes: float = 0.042  # of the result: 1080p60 at 20 Mbit/s
    line_mbytes_per_second: float = 1000.0  # into the head, or into the shared store: 10 Gbit/s
    head_seconds_per_message: float = 0.001  # `head` measures it
    join_seconds_per_segment: float = 0.0015  # `join` measures it
    back_seconds: float = 60.0  # until a dead node's place is filled again


def simulate(workers: int, a: Assumptions, seed: int = 1) -> dict[str, float]:
    """One video on so many workers, by the scheduler's own rules. Times in seconds."""
    from midframe.cluster.coordinator import PROGRESS_FRAMES, PROGRESS_WORKERS
    from midframe.cluster.scheduler import SegmentScheduler, segment_outputs_for
    from midframe.plan import SEGMENT_OUTPUTS

    rng = random.Random(seed)
    total = round(a.video_hours * 3600 * a.rate)
    outputs = segment_outputs_for(total, workers, SEGMENT_OUTPUTS)
    count = max(1, total // outputs)
    messages = 3 + outputs // (
        PROGRESS_FRAMES * -(-workers // PROGRESS_WORKERS)
    )  # begun, so far ..., through; and its record
    scheduler = SegmentScheduler([float(outputs)] * count)
    speeds = [max(0.2, rng.gauss(1, a.spread)) for _ in range(workers)]
    events: list[tuple[float, int, int, str, int]] = []  # time, order, worker, kind, ticket
    order, idle, now, wasted, doubled = 0, list(range(workers)), 0.0, 0.0, 0
    looking = False
    line_free = head_free = 0.0  # when the network into the coordinator, and the coordinator itself, are free again
    began: dict[int, float] = {}

    def at(when: float, worker: int, kind: str, ticket: int = 0) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (when, order, worker, kind, ticket))

    while not scheduler.over:
        while idle and (handed := scheduler.next(now)) is not None:
            ticket, attempt = handed
            worker = idle.pop()
            doubled += attempt.copy
            # all messages of a segment are counted when it is submitted
            head_free = max(head_free, now) + messages * a.head_seconds_per_message
            slow = 4.0 if rng.random() < a.stragglers else 1.0
            seconds = a.start_seconds + slow * outputs / (a.worker_fps * speeds[worker])
            death = rng.expovariate(a.deaths_per_hour / 3600) if a.deaths_per_hour else float("inf")
            began[ticket] = head_free
            scheduler.started(ticket, head_free)
            if death < seconds:
                at(head_free + death, worker, "dies", ticket)
            else:
                at(head_free + seconds, worker, "sends", ticket)
        if not events:
            break
        if idle and not looking:  # someone waits for a straggler to become one
            at(now + 1.0, -1, "looks")
            looking = True
        now, _, worker, kind, ticket = heapq.heappop(events)
        if kind == "looks":
            looking = False
        elif kind == "dies":
            scheduler.lost(ticket)
            wasted += now - began[ticket]
            at(now + a.back_seconds, worker, "back")
        elif kind == "back":
            idle.append(worker)
        elif kind == "sends":  # one line into the head: transfers queue there
            line_free = max(line_free, now) + outputs * a.frame_mbytes / a.line_mbytes_per_second
            at(line_free, worker, "done", ticket)
        elif kind == "done":
            if not scheduler.finished(ticket, now):
                wasted += now - began[ticket]
            idle.append(worker)
    join = count * a.join_seconds_per_segment
    work = count * (a.start_seconds + outputs / a.worker_fps)
    return {
        "workers": workers,
        "segments": count,
        "outputs": outputs,
        "hours": (now + join) / 3600,
        "join_share": join / (now + join),
        "efficiency": total / a.worker_fps / (now + join) / sum(speeds),
        "head_share": count * messages * a.head_seconds_per_message / now,
        "line_mbytes_per_second": total * a.frame_mbytes / now,
        "wasted_share": wasted / (work + wasted),
        "doubled": doubled,
    }


def head(segments: int = 1000) -> dict[str, float]:
    """CPU seconds of the coordinator for a message, with so many tasks: real Ray, workers that only send messages."""
    import logging

    import ray

    from midframe import cluster, plan
    from midframe.cluster import coordinator, worker

    plan.SEGMENT_OUTPUTS = 8
    heard = 0
    take = coordinator.Coordinator._handle_message

    def talk(job: Any, number: int) -> Any:
        yield {"kind": "began", "node": ""}
        for frames in range(16):
            yield {"kind": "frames", "frames": frames, "pts": "0"}
        record = {"frames_in": 0, "frames_out": 8, "kinds": "i" * 8, "cuts": [], "file": None}
        yield {"kind": "done", "record": record, "warnings": [], "packed": False, "where": "nowhere"}

    def count(one: Any, ticket: int, news: Any) -> None:
        nonlocal heard
        heard += 1
        take(one, ticket, news)

    worker.make_segment, coordinator.Coordinator._handle_message = talk, count
    coordinator.Coordinator.join = lambda one: one  # there is nothing to join
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    begun = {}

    def on_plan(made: Any) -> None:
        begun.update(seconds=time.process_time(), segments=len(made.segments))

    cluster.interpolate(
        long_clip("540p", segments * 4 // 24),
        rig.storage() / "head-out.mkv",
        config=cluster.ClusterConfig(workers=segments),
        on_plan=on_plan,
        on_progress=lambda progress: None,
        **OPTIONS,
    )
    seconds = time.process_time() - begun["seconds"]
    ray.shutdown()
    shutil.rmtree(rig.storage() / "head-out.mkv.midframe")
    return {"tasks": begun["segments"], "messages": heard, "seconds_per_message": seconds / heard}


def join(segments: int = 1000) -> dict[str, Any]:
    """Join so many one-second segments of 320x180 and copy a track of audio."""
    from dataclasses import replace
    from fractions import Fraction

    import av
    import numpy as np

    from midframe.options import Options
    from midframe.video import mux
    from midframe.video.encoders import choose_encoder
    from midframe.video.probe import probe
    from midframe.video.reader import open_reader
    from midframe.video.writer import open_writer

    folder = rig.storage() / "cluster-join"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    source = folder / "source.mkv"
    with av.open(str(source), "w") as out:
        video = out.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 320, 180, "yuv420p"
        audio = out.add_stream("aac", rate=48000)
        for k in range(12):
            frame = av.VideoFrame.from_ndarray(np.full((270, 320), 16 + 8 * k, np.uint8), format="yuv420p")
            frame.pts = k
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for k in range(48000 * segments // 1024 + 1):
            chunk = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            chunk.sample_rate, chunk.pts = 48000, 1024 * k
            out.mux(audio.encode(chunk))
        out.mux(audio.encode(None))
    info = probe(source)
    with open_reader(source) as frames:
        image = next(iter(frames))
    encoding = choose_encoder(info, folder / "out.mkv", "auto")
    files = []
    for n in range(segments):
        path = folder / f"{n:05d}.mkv"
        with open_writer(path, info, encoding, rate=Fraction(24), segment=True) as writer:
            for k in range(24):
                writer.write(replace(image, pts=Fraction(24 * n + k, 24), duration=Fraction(1, 24)))
        files.append(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    mux.join(files, folder / "joined.mkv", source, info, Options())
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with av.open(str(folder / "joined.mkv")) as joined:
        frames = sum(1 for packet in joined.demux(video=0) if packet.pts is not None)
    shutil.rmtree(folder)
    assert frames == 24 * segments, frames
    return {
        "segments": segments,
        "seconds": seconds,
        "peak_mbytes": peak / 1024,
        "grown_mbytes": (peak - before) / 1024,
    }


OPTIONS: dict[str, Any] = {"ratio": "2", "model": "blend", "device": "cpu", "overwrite": True, "preset": "ultrafast"}


def long_clip(size: str, seconds: int) -> Path:
    """An H.264 video of so many seconds at 24 fps: two seconds that run to and fro. Made once."""
    import av
    import cv2

    path = rig.storage() / f"clip-{size}-{seconds}.mkv"
    if path.exists():
        return path
    width, height = rig.SIZES[size]
    there = [cv2.cvtColor(one, cv2.COLOR_BGR2YUV_I420) for one in rig.frames_of(width, height, 48)]
    loop = [*there, *there[-2:0:-1]]
    aside = path.with_suffix(".part")
    with av.open(str(aside), "w", format="matroska") as out:
        stream = out.add_stream("libx264", rate=24, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for k in range(24 * seconds):
            frame = av.VideoFrame.from_ndarray(loop[k % len(loop)], format="yuv420p")
            frame.pts = k
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    aside.replace(path)
    return path


def timed(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def processor_seconds() -> float:
    """Of this process and all that it has started and that run now: of Ray too, whatever else the machine does."""
    parents, spent = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
            spent[int(entry.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    family, found = {os.getpid()}, 0
    while len(family) > found:
        found = len(family)
        family |= {pid for pid, parent in parents.items() if parent in family}
    return sum(spent.get(pid, 0.0) for pid in family)


def started(cores: int, short: Path, target: Path) -> dict[str, float]:
    """Start Ray here and its first worker: seconds of each."""
    import logging

    import ray

    from midframe import cluster

    quiet = {"include_dashboard": False, "logging_level": logging.ERROR, "log_to_driver": False}
    init = timed(lambda: ray.init(address="local", num_cpus=cores, **quiet))
    first, second = (
        timed(lambda: cluster.interpolate(short, target, config=cluster.ClusterConfig(workers=1), **OPTIONS))
        for _ in range(2)
    )
    return {"ray": init, "worker": first - second}


def overhead(size: str, seconds: int, swapped: bool, model: str) -> dict[str, Any]:
    """Wall seconds of a video by a plain run and by one worker with all cores; the start of Ray is measured apart."""
    import ray

    from midframe import cluster, pipeline

    source, target = long_clip(size, seconds), rig.storage() / "cluster-out.mkv"
    start = started(2, long_clip(size, 2), target)
    options = OPTIONS | {"model": model}
    pipeline.interpolate(long_clip(size, 2), target, **options)  # warm-up
    runs = {
        "plain": lambda: pipeline.interpolate(source, target, **options),
        "cluster": lambda: cluster.interpolate(source, target, config=cluster.ClusterConfig(workers=1), **options),
    }
    found: dict[str, float] = {}
    for name in reversed(runs) if swapped else runs:
        spent = processor_seconds()
        found[name] = timed(runs[name])
        found[f"{name} processor"] = processor_seconds() - spent
    ray.shutdown()
    target.unlink()
    return {"start": start, **found}


def scaling(size: str, seconds: int, swapped: bool) -> dict[str, float]:
    """Wall seconds of a video by one worker held to one core, and by two held to one core each."""
    import ray

    from midframe import cluster
    from midframe.cluster import worker

    source, target, claims = long_clip(size, seconds), rig.storage() / "cluster-out.mkv", rig.storage() / "claims"
    make = worker.make_segment

    def pinned(job: Any, number: int) -> Any:
        import contextlib
        from dataclasses import replace

        for core in sorted(os.sched_getaffinity(0)):
            with contextlib.suppress(FileExistsError):
                (claims / str(core)).mkdir()
                break
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), {core})
        yield from make(replace(job, threads=1), number)

    worker.make_segment = pinned
    found = {}
    for workers in (2, 1) if swapped else (1, 2):
        shutil.rmtree(claims, ignore_errors=True)
        claims.mkdir()
        started(workers, long_clip(size, 2), target)
        cluster.interpolate(
            long_clip(size, 20), target, config=cluster.ClusterConfig(workers=workers), **OPTIONS
        )  # wakes the second
        found[str(workers)] = timed(
            lambda n=workers: cluster.interpolate(source, target, config=cluster.ClusterConfig(workers=n), **OPTIONS)
        )
        ray.shutdown()
    target.unlink()
    shutil.rmtree(claims)
    return found


COSTS = [
    ("blend", "720p"),
    ("dis", "720p"),
    ("blend", "1080p"),
    ("dis", "1080p"),
    ("dis", "2160p"),
    ("midnet-m", "720p"),
]
CORES = 4  # of a worker in the sizing table, as cluster.resources.CORES_PER_WORKER
CORES_USED = 0.85  # of them, on average: decoding, model and encoding overlap, and not quite


def costs(which: Sequence[tuple[str, str]], frames: int = 8) -> list[dict[str, Any]]:
    """CPU seconds of a plain run for one output frame, without start-up: a video against one twice as long."""
    from midframe import pipeline

    found = []
    target = rig.storage() / "costs-out.mkv"
    for model, size in which:
        options: dict[str, Any] = {"ratio": "2", "model": model, "device": "cpu", "overwrite": True}
        spent = []
        for count in (frames, frames, 2 * frames):  # the first is the warm-up
            source = rig.clip(size, count)
            start = time.process_time()
            pipeline.interpolate(source, target, **options)
            spent.append(time.process_time() - start)
        found.append({"model": model, "size": size, "seconds": (spent[2] - spent[1]) / (2 * frames)})
        print(found[-1], file=sys.stderr)
    target.unlink()
    return found


def sizing(measured: list[dict[str, Any]], a: Assumptions) -> str:
    """Hours of the simulated video with so many workers of four cores, by measured costs."""
    from dataclasses import replace

    rows = []
    for one in measured:
        fps = CORES * CORES_USED / one["seconds"]
        # bits grow with pixels; 1080p is what is assumed
        pixels = rig.SIZES[one["size"]][0] * rig.SIZES[one["size"]][1] / (1920 * 1080)
        mine = replace(a, worker_fps=fps, frame_mbytes=a.frame_mbytes * pixels)
        hours = [simulate(workers, mine)["hours"] for workers in (1, 8, 32, 100)]
        needed = -(-a.rate // fps)
        rows.append(
            [f"{one['model']}, {one['size']}", f"{one['seconds']:.3f}", f"{fps:.1f}"]
            + [f"{h:.1f}" if h < 100 else f"{h:.0f}" for h in hours]
            + [f"{needed:.0f}"]
        )
    return rig.table(
        ["model, size", "CPU s a frame", "frames/s of a worker", "hours with 1", "8", "32", "100 workers",
         "workers for the speed it plays at"],
        rows,
    )  # fmt: skip


def show(stored: dict[str, Any]) -> str:
    """All that is known, as Markdown."""
    parts = []
    if h := stored.get("head"):
        parts.append(
            f"The head, with {h['tasks']} tasks before it: {1000 * h['seconds_per_message']:.2f} ms of processor time "
            f"for a message ({h['messages']} counted)."
        )
    if rows := stored.get("simulation"):
        a = stored["assumptions"]
        parts.append(
            f"**Simulated**: a video of {a['video_hours']:g} h at {a['rate']:g} frames a second; "
            + "; ".join(f"{k.replace('_', ' ')} {v:.3g}" for k, v in a.items() if k not in ("video_hours", "rate"))
            + "."
        )
        parts.append(
            rig.table(
                ["workers", "hours", "efficiency", "segments", "of frames", "traffic, MB/s", "coordinator busy",
                 "join, share", "work lost", "doubled"],
                [
                    [f"{r['workers']:g}", f"{r['hours']:.2f}", f"{r['efficiency']:.0%}", f"{r['segments']:g}",
                     f"{r['outputs']:g}", f"{r['line_mbytes_per_second']:.0f}", f"{r['head_share']:.1%}",
                     f"{r['join_share']:.1%}", f"{r['wasted_share']:.1%}", f"{r['doubled']:g}"]
                    for r in rows
                ],
            )
        )  # fmt: skip
    if c := stored.get("costs"):
        parts.append(
            f"**Sizing**, the same video by measured costs (CPU seconds of a plain run for an output frame at "
            f"twice the rate, H.264), for workers of {CORES} cores at {CORES_USED:.0%} load:"
        )
        parts.append(sizing(c, Assumptions(**stored["assumptions"])))
    if j := stored.get("join"):
        parts.append(
            f"Joining {j['segments']} segments with one track of audio: {j['seconds']:.1f} s, peak resident memory of "
            f"the process {j['peak_mbytes']:.0f} MB, {j['grown_mbytes']:.0f} MB of it for the join."
        )
    for model, o in stored.get("overhead", {}).items():
        ratios = sorted(run["cluster"] / run["plain"] for run in o["runs"])
        spent = [run["cluster processor"] / run["plain processor"] for run in o["runs"]]
        ray, worker = (statistics.median(run["start"][what] for run in o["runs"]) for what in ("ray", "worker"))
        plain = statistics.median(run["plain"] for run in o["runs"])
        parts.append(
            f"{o['seconds']} s of {o['size']} at 24 to 48 a second with {model} on two cores: a plain run "
            f"takes {plain:.0f} s, one worker {100 * statistics.median(ratios) - 100:+.1f} % of that (median of "
            f"{len(ratios)} pairs, {100 * ratios[0] - 100:+.1f} to {100 * ratios[-1] - 100:+.1f} %). Apart from it the "
            f"start of Ray, {ray:.1f} s, and of the first worker, {worker:.1f} s. In processor time, which others on "
            f"the machine disturb less, {100 * statistics.median(spent) - 100:+.1f} % ({100 * min(spent) - 100:+.1f} "
            f"to {100 * max(spent) - 100:+.1f} %), Ray's own processes included."
        )
    if o := stored.get("scaling"):
        ratios = sorted(run["1"] / run["2"] for run in o["runs"])
        parts.append(
            f"{o['seconds']} s of {o['size']} with the blend model: two workers on a core each are "
            f"{statistics.median(ratios):.2f} times as fast as one on one core (median of {len(ratios)} pairs, "
            f"{ratios[0]:.2f} to {ratios[-1]:.2f})."
        )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["simulate", "join", "head", "costs", "overhead", "scaling"])
    parser.add_argument("--worker-fps", type=float, default=Assumptions.worker_fps)
    parser.add_argument("--segments", type=int, default=1000)
    parser.add_argument("--size", choices=rig.SIZES, default="720p")
    parser.add_argument("--seconds", type=int, default=60, help="of the video, for overhead and scaling")
    parser.add_argument("--only", nargs="*", default=[], metavar="MODEL:SIZE", help="of the costs: dis:720p ...")
    parser.add_argument("--model", choices=["blend", "dis"], default="dis", help="of overhead")
    parser.add_argument("--anew", action="store_true", help="forget earlier pairs; else one more is added")
    arguments = parser.parse_args()
    stored = rig.load("cluster")
    if arguments.what == "simulate":
        measured = {}
        if known := stored.get("head"):
            measured["head_seconds_per_message"] = known["seconds_per_message"]
        if known := stored.get("join"):
            measured["join_seconds_per_segment"] = known["seconds"] / known["segments"]
        assumed = Assumptions(worker_fps=arguments.worker_fps, **measured)
        stored["assumptions"] = asdict(assumed)
        stored["simulation"] = [simulate(n, assumed) for n in WORKERS]
    elif arguments.what == "join":
        stored["join"] = join(arguments.segments)
    elif arguments.what == "costs":
        which = [tuple(one.split(":")) for one in arguments.only] or COSTS
        known = {(c["model"], c["size"]): c for c in (*stored.get("costs", []), *costs(which))}
        stored["costs"] = [known[one] for one in COSTS if one in known]
    elif arguments.what == "head":
        stored["head"] = head(arguments.segments)
    else:
        what = {"size": arguments.size, "seconds": arguments.seconds}
        place, key = stored, arguments.what
        if key == "overhead":
            place, key = stored.setdefault(key, {}), arguments.model
        old = {} if arguments.anew else place.get(key, {})
        runs = old["runs"] if old and {k: old[k] for k in what} == what else []
        swapped = len(runs) % 2 == 1
        if arguments.what == "overhead":
            runs.append(overhead(arguments.size, arguments.seconds, swapped, arguments.model))
        else:
            runs.append(scaling(arguments.size, arguments.seconds, swapped))
        place[key] = {**what, "runs": runs}
    stored["machine"] = rig.machine(2)
    rig.store("cluster", stored)
    text = show(stored)
    print(text)
    if DOCS.exists():
        page = DOCS.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        DOCS.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    configure()
    main()
