"""Damaged videos against an oracle, in a process of their own: `python fuzz_damage.py FOLDER FIRST COUNT`.

The oracle decodes with libav and one thread. The reader must yield the same number of frames, on one core and on all,
and must say so whenever a frame is missing or the decoder complained. Only media data is damaged or cut off, so that
the promises of the headers stand. Prints "BAD number: reason" and counts; writes each number to FOLDER/at first.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import av
import av.error
import av.stream
import torch

from clips import Clip, make
from midframe.errors import MediaError
from midframe.video.probe import probe
from midframe.video.reader import open_reader

SMALL = Clip(width=64, height=48, frames=36, options={"g": "12", "keyint_min": "12"})
SOURCES = {
    "h264.mp4": replace(SMALL, muxer={"movflags": "faststart"}),
    "h264.mkv": SMALL,
    "hevc.mp4": replace(
        SMALL, codec="libx265", options={"x265-params": "log-level=none:keyint=12"}, muxer={"movflags": "faststart"}
    ),
    "vp9.webm": replace(SMALL, codec="libvpx-vp9", options={"cpu-used": "8", "g": "12"}),
    "mpeg4.avi": replace(SMALL, codec="mpeg4"),
    "prores.mov": replace(SMALL, codec="prores_ks", pixels="yuv422p10le", frames=8),
    "audio.mkv": replace(SMALL, audio=1),
    "fragments.mp4": replace(SMALL, muxer={"movflags": "frag_keyframe+empty_moov"}),
}


@dataclass(frozen=True)
class Decoded:
    """What one thread of libav makes of a file."""

    frames: int  # with a timestamp of their own: damage makes decoders repeat a frame
    complaints: int  # errors, and frames marked as damaged


def drained(packets: Iterator[av.Packet]) -> Iterator[av.Packet | None]:
    """Yield the packets, and None if they end in an error: the decoder still holds frames, which ffmpeg writes."""
    try:
        yield from packets
    except (av.error.FFmpegError, ValueError, IndexError, OSError):
        yield None


def decode(path: Path) -> Decoded:
    frames = complaints = 0
    seen = set()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for other in container.streams:
                if other.index != stream.index:
                    other.discard = av.stream.Discard.all
            for packet in drained(container.demux(stream)):
                complaints += packet is None
                packet = packet or av.Packet()
                complaints += bool(packet.size and packet.is_corrupt)
                try:
                    for frame in stream.codec_context.decode(packet):
                        frames += frame.pts is None or frame.pts not in seen
                        seen.add(frame.pts)
                        complaints += frame.is_corrupt
                except av.error.EOFError:
                    break
                except (av.error.FFmpegError, ValueError):
                    complaints += 1
    except (av.error.FFmpegError, ValueError, IndexError, OSError):
        complaints += 1
    return Decoded(frames, complaints)


def media(path: Path) -> tuple[int, int]:
    """The bytes from the first to the last packet of video, half-open."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size and p.pos is not None and p.pos >= 0]
    return min(p.pos for p in packets), max(p.pos + p.size for p in packets)


def damage(data: bytes, begin: int, end: int, chance: random.Random) -> bytes:
    """Zeroed, flipped or removed bytes of media data, or no end."""
    out = bytearray(data)
    at = chance.randrange(begin + 1, end)
    length = min(chance.choice((1, 8, 100, 1000)), end - at)
    kind = chance.randrange(4)
    if kind == 0:
        del out[at:]
    elif kind == 1:
        out[at : at + length] = bytes(length)
    elif kind == 2:
        for place in range(at, at + length):
            out[place] ^= 1 << chance.randrange(8)
    else:
        out[at : at + length] = chance.randbytes(length)
    return bytes(out)


def read(path: Path, cores: set[int]) -> tuple[int, str]:
    """Frames and warnings of the reader on these cores."""
    everywhere = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if everywhere is not None:
        os.sched_setaffinity(0, cores & everywhere or everywhere)
    try:
        info = probe(path)
        with open_reader(path, info=info) as reader:
            frames = sum(1 for _ in reader)
            return frames, "; ".join((*info.warnings, *reader.warnings))
    except MediaError as error:
        return 0, str(error)
    finally:
        if everywhere is not None:
            os.sched_setaffinity(0, everywhere)


def check(path: Path, whole: int) -> str | None:
    """What is wrong with the reader's view of a damaged file; None if nothing."""
    oracle = decode(path)
    one, said = read(path, {0})
    many, said_many = read(path, set(range(os.cpu_count() or 1)))
    if one != oracle.frames:
        return f"{one} frames, libav decodes {oracle.frames} ({said})"
    if (many, said_many) != (one, said):
        return f"on one core {one} frames ({said}), on all {many} ({said_many})"
    if not said and oracle.frames < whole:
        return f"{whole - oracle.frames} of {whole} frames are missing, and nothing is said"
    if not said and oracle.complaints:
        return f"libav complains {oracle.complaints} times, and nothing is said"
    return None


def main() -> None:
    torch.set_num_threads(1)
    folder, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    names = list(SOURCES)
    for name in names:
        if not (folder / name).exists():
            make(folder / name, SOURCES[name])
    originals = {name: (folder / name).read_bytes() for name in names}
    spans = {name: media(folder / name) for name in names}
    wholes = {name: decode(folder / name) for name in names}
    for name in names:
        if (found := read(folder / name, {0})) != (wholes[name].frames, ""):
            print(f"BAD {first}: undamaged {name} gives {found}", flush=True)
    for number in range(first, first + count):
        (folder / "at").write_text(str(number))
        name = names[number % len(names)]
        path = folder / f"case-{name}"
        path.write_bytes(damage(originals[name], *spans[name], random.Random(number)))
        if reason := check(path, wholes[name].frames):
            print(f"BAD {number}: {name}: {reason}", flush=True)
    (folder / "at").write_text("done")


if __name__ == "__main__":
    main()
