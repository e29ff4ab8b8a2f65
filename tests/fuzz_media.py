"""Damaged videos, one after the other, in a process of their own: `python fuzz_media.py FOLDER FIRST COUNT`.

Each case takes a real video, damages it by a recipe that its number decides, then probes and reads it. What may come
is a `MediaError` or a video; anything else is written to standard output as "BAD number: what". Before each case its
number is written to FOLDER/at, so that the parent knows which one took the process down.
"""

from __future__ import annotations

import random
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch

from clips import Clip, make, png
from midframe.errors import MediaError
from midframe.options import Options
from midframe.types import Segment
from midframe.video.probe import key_times, probe
from midframe.video.reader import open_reader
from midframe.video.streams import plan_streams

MOST_FRAMES = 2000  # of a video that had 10
MOST_SECONDS = 20.0

SMALL = Clip(width=64, height=32, frames=10)
SILENT = {"x265-params": "log-level=none"}
SOURCES: dict[str, Clip | None] = {
    "h264.mp4": replace(SMALL, audio=1, chapters=2, subtitles=("mov_text",)),
    "hevc.mkv": replace(SMALL, codec="libx265", pixels="yuv420p10le", options=SILENT, subtitles=("ass",)),
    "vp9.webm": replace(SMALL, codec="libvpx-vp9", options={"cpu-used": "8"}),
    "mpeg4.avi": replace(SMALL, codec="mpeg4"),
    "mpeg2.ts": replace(SMALL, codec="mpeg2video", rate=Fraction(25), audio=1),
    "mpeg2.mpg": replace(SMALL, codec="mpeg2video", rate=Fraction(25)),
    "prores.mov": replace(SMALL, codec="prores_ks", pixels="yuv422p10le", frames=4),
    "ffv1.mkv": replace(SMALL, codec="ffv1", frames=4, attachment=True),
    "mjpeg.nut": replace(SMALL, codec="mjpeg", pixels="yuvj420p"),
    "h264.flv": SMALL,
    "wmv2.wmv": replace(SMALL, codec="wmv2"),
    "still.png": None,
}


def damage(data: bytes, chance: random.Random) -> bytes:
    """One to three kinds of damage; headers, where sizes and counts are, are hit as often as all the rest."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        size = len(out)
        if size < 16:
            break
        near = chance.choice((64, 1024, size, size))
        at = (
            chance.randrange(min(near, size)) if chance.random() < 0.7 else size - 1 - chance.randrange(min(near, size))
        )
        kind = chance.randrange(8)
        if kind == 0:
            for _ in range(chance.randint(1, 40)):
                out[chance.randrange(size)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            del out[at:]
        elif kind == 2:
            out[at : at + chance.randint(1, 200)] = bytes(chance.randint(1, 200))
        elif kind == 3:
            out[at : at + 4] = chance.choice(
                (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80\0\0\0", b"\0\0\0\1")
            )
        elif kind == 4:
            out[at:at] = out[at : at + chance.randint(1, 500)]
        elif kind == 5:
            del out[at : at + chance.randint(1, 300)]
        elif kind == 6:
            other = chance.randrange(size)
            length = chance.randint(1, 64)
            out[at : at + length], out[other : other + length] = out[other : other + length], out[at : at + length]
        else:
            out[at] = chance.randrange(256)
    return bytes(out)


def run(folder: Path, number: int, names: list[str], originals: dict[str, bytes]) -> str | None:
    """One case; the words say what should not have been."""
    chance = random.Random(number)
    name = names[number % len(names)]
    path = folder / f"case-{name}"
    path.write_bytes(damage(originals[name], chance))
    begin = time.monotonic()
    bad = None
    try:
        info = probe(path)
        key_times(path, info)
        if number % 5 == 0:
            plan_streams(info, "out.mp4", Options())
        segment = Segment(Fraction(1, 5), Fraction(2, 5)) if number % 7 == 0 else None
        with open_reader(path, segment, info=info) as reader:
            last = None
            for count, frame in enumerate(reader):
                if last is not None and frame.pts <= last:
                    bad = f"time goes back from {last} to {frame.pts}"
                last = frame.pts
                if count > MOST_FRAMES:
                    bad = f"more than {MOST_FRAMES} frames"
                    break
    except MediaError as error:
        if "\n" in str(error):
            bad = f"an error of several lines: {error}"
    except Exception as error:
        bad = f"{type(error).__name__}: {error}"
    took = time.monotonic() - begin
    if took > MOST_SECONDS:
        bad = f"{took:.1f} s"
    return f"{name}: {bad}" if bad else None


def main() -> None:
    torch.set_num_threads(1)
    folder, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    names = list(SOURCES)
    for name in names:
        if not (folder / name).exists():
            clip = SOURCES[name]
            make(folder / name, clip) if clip else png(folder / name)
    originals = {name: (folder / name).read_bytes() for name in names}
    for number in range(first, first + count):
        (folder / "at").write_text(str(number))
        words = run(folder, number, names, originals)
        if words:
            print(f"BAD {number}: {words}", flush=True)
    (folder / "at").write_text("done")


if __name__ == "__main__":
    main()
