"""Measure processes: clips in memory-backed storage, pinned processes, interleaved repeats, tables, JSON.

A method is run as a process of its own, so that its peak memory is its own and its start is part of what
a user waits for. Methods take turns, A B C A B C, after one warm-up each, so that a machine that slows down slows
all of them. Reports give the median; all repeats are kept in the JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from midframe.process import environment as process_environment

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SIZES = {"540p": (960, 540), "720p": (1280, 720), "1080p": (1920, 1080), "1440p": (2560, 1440), "2160p": (3840, 2160)}
DISTURBED = 0.15  # processors kept busy by others during a run, from which on it is repeated
CLIP_RATE = 24  # frames per second of all clips
RATES = {"2x": Fraction(2), "4x": Fraction(4), "8x": Fraction(8), "24-60": Fraction(5, 2)}


def storage() -> Path:
    """A folder in memory where there is one, so that no disk is measured."""
    shared = Path("/dev/shm")
    base = shared if shared.is_dir() and os.access(shared, os.W_OK) else Path(tempfile.gettempdir())
    folder = base / f"midframe-bench-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return folder


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Fractal noise with hard-edged patches, (H, W, 3) uint8: something for every block size to match."""
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(6):
        cells = 4 * 2**octave
        noise = rng.random((cells * 9 // 16 + 2, cells, 3), dtype=np.float32)
        total += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * 0.6**octave
    total = (total - total.min()) / (total.max() - total.min())
    for _ in range(40):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        w, h = int(rng.integers(width // 40, width // 8)), int(rng.integers(height // 40, height // 6))
        total[y : y + h, x : x + w] = total[y : y + h, x : x + w] * 0.5 + rng.random(3, dtype=np.float32) * 0.5
    return (total * 255).astype(np.uint8)


def frames_of(width: int, height: int, count: int) -> list[np.ndarray]:
    """BGR frames of a pan of 6 px a frame (at 720p) behind two objects that move otherwise; always the same."""
    rng = np.random.default_rng(7)
    scale = height / 720
    behind = _texture(rng, height + 64, width * 2)
    fronts = [_texture(rng, height // 3, width // 5) for _ in range(2)]
    out = []
    for k in range(count):
        shift = np.float32([[1, 0, -6 * scale * k], [0, 1, -20 + 8 * np.sin(k / 6)]])
        frame = cv2.warpAffine(behind, shift, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        for j, front in enumerate(fronts):
            h, w = front.shape[:2]
            x = (0.15 + 0.5 * j) * width + (9 - 14 * j) * scale * k
            y = (0.2 + 0.3 * j) * height + 5 * scale * k * (1 - 2 * j)
            place = np.float32([[1, 0, x], [0, 1, y]])
            mask = cv2.warpAffine(np.ones((h, w), np.float32), place, (width, height))[..., None]
            moved = cv2.warpAffine(front, place, (width, height))
            frame = (frame * (1 - mask) + moved * mask).astype(np.uint8)
        out.append(frame)
    return out


def clip(size: str, frames: int) -> Path:
    """A y4m file (4:2:0, 8 bits) of so many frames, written once per start of the machine."""
    width, height = SIZES[size]
    path = storage() / f"{size}-{frames}.y4m"
    if path.exists():
        return path
    aside = path.with_suffix(".part")
    with aside.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{CLIP_RATE}:1 Ip A1:1 C420mpeg2\n".encode())
        for frame in frames_of(width, height, frames):
            file.write(b"FRAME\n" + cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420).tobytes())
    aside.replace(path)
    return path


def outputs(frames: int, ratio: Fraction) -> int:
    """Count the output frames of a clip at a ratio; its duration is kept."""
    return -(-frames * ratio.numerator // ratio.denominator)


def new_frames(frames: int, ratio: Fraction) -> int:
    """Count the output frames between two source frames: those to be interpolated."""
    return sum((k / ratio).denominator > 1 and k / ratio < frames - 1 for k in range(outputs(frames, ratio)))


@dataclass(frozen=True)
class Run:
    """Measurements of one process."""

    seconds: float  # wall, from start to end of the process
    cpu_seconds: float  # of all its threads
    others: float  # processors that others kept busy meanwhile, on average: disturbance of the timing
    peak_bytes: int
    answer: dict[str, Any] = field(default_factory=dict)  # the JSON on the last line of its output, if any


def busy_seconds() -> float:
    """Processor seconds that all processes together have used since the machine started; 0 where /proc is not."""
    with contextlib.suppress(OSError), open("/proc/stat") as file:
        fields = [int(v) for v in file.readline().split()[1:9]]
        idle = fields[3] + fields[4]
        return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK")
    return 0.0


def run(command: Sequence[str], threads: int, timeout: float = 900) -> Run:
    """One process pinned to the first `threads` processors; raises with its last words if it fails."""
    allowed = sorted(os.sched_getaffinity(0))[:threads]
    environment = {
        **os.environ,
        **process_environment(),  # as the command line has it; for all methods
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start, busy = time.perf_counter(), busy_seconds()
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        )
        deadline = start + timeout
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.perf_counter() > deadline:
                process.kill()
                os.wait4(process.pid, 0)
                raise RuntimeError(f"{command[0]}: not done after {timeout:.0f} s")
            time.sleep(0.005)
        seconds, busy = time.perf_counter() - start, busy_seconds() - busy
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            said = err.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(f"exit {process.returncode}: {said[-1] if said else 'no word'}")
        lines = out.read().decode(errors="replace").strip().splitlines()
    answer = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    cpu = usage.ru_utime + usage.ru_stime
    return Run(seconds, cpu, max(0.0, (busy - cpu) / seconds), usage.ru_maxrss * 1024, answer)


def child(mode: str, **what: Any) -> list[str]:
    """The command that runs `child.py` in one of its modes."""
    return [sys.executable, str(HERE / "child.py"), mode, json.dumps(what)]


@dataclass(frozen=True)
class Rounds:
    """How often methods take turns."""

    repeats: int
    warm_up: bool = True
    budget_seconds: float | None = None  # no round is begun that would probably end later


def interleave(commands: dict[str, list[str]], plan: Rounds, threads: int) -> dict[str, list[Run]]:
    """Run a warm-up of each, then A B C A B C; a method that fails is left out and says why.

    A round in which others kept more than `DISTURBED` processors busy is repeated, up to twice as many rounds in all;
    the least disturbed runs of each method are kept, in their order.
    """
    start, longest, repeats = time.perf_counter(), 0.0, plan.repeats
    alive = dict(commands)
    found: dict[str, list[Run]] = {name: [] for name in commands}
    for k in range(0 if plan.warm_up else 1, 2 * repeats + 1):
        begun = time.perf_counter()
        if plan.budget_seconds is not None and k > 1 and begun - start + longest > plan.budget_seconds:
            break
        if k > repeats and all(sum(r.others <= DISTURBED for r in found[n]) >= repeats for n in alive):
            break
        for name, command in list(alive.items()):
            try:
                done = run(command, threads)
            except RuntimeError as error:
                print(f"  {name} is left out: {error}", file=sys.stderr)
                del alive[name]
                continue
            what = "warm-up" if k == 0 else f"repeat {k}"
            said = f", others {done.others:.2f}" if done.others > DISTURBED else ""
            print(f"  {what} {name}: {done.seconds:.2f} s, cpu {done.cpu_seconds:.2f} s{said}", file=sys.stderr)
            if k:
                found[name].append(done)
        longest = max(longest, time.perf_counter() - begun)
    for name, runs in found.items():
        least = sorted(range(len(runs)), key=lambda i: runs[i].others)[:repeats]
        found[name] = [runs[i] for i in sorted(least)]
    return {name: runs for name, runs in found.items() if runs}


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def machine(threads: int) -> dict[str, Any]:
    """Describe the machine."""
    import torch

    from midframe.evaluation.evaluate import processor

    flags = ""
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text()
    ffmpeg = (
        subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=False)
        if shutil.which("ffmpeg")
        else None
    )
    return {
        "processor": processor(),
        "bf16": "avx512_bf16" in flags or "amx_bf16" in flags,
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "ffmpeg": ffmpeg.stdout.split()[2] if ffmpeg and ffmpeg.returncode == 0 else None,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit(),
    }


def commit() -> str:
    """Return the short name of the measured commit, or "" outside a checkout."""
    done = subprocess.run(
        ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def load(name: str) -> dict[str, Any]:
    """Read results/<name>.json; {} without it."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def store(name: str, data: dict[str, Any]) -> None:
    """Write results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")
    aside.replace(path)
    print(f"written: {path.relative_to(HERE.parent)}", file=sys.stderr)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns padded so that it reads in a terminal too."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[k]) for row in cells) for k in range(len(head))]
    lines = [
        "| "
        + " | ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 2) if k == 0 else "-" * (w + 1) + ":" for k, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
