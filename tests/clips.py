"""Small videos made at test time, whose every instant is known.

The frame says which frame it is: luma is a ramp that moves, and its mean rises with the number. Nothing here needs
a file or a program that is not in the repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import av.codec.context
import av.subtitles.subtitle
import numpy as np

NTSC_24 = Fraction(24000, 1001)


@dataclass(frozen=True)
class Clip:
    """How a video is made; the defaults give one second of plain 24 fps video."""

    width: int = 64
    height: int = 48
    pixels: str = "yuv420p"
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    rate: Fraction = Fraction(24)
    frames: int = 24
    pts: Sequence[int] | None = None  # in ticks of 1/rate; None: 0, 1, 2 ...
    tick: Fraction | None = None  # seconds per unit of `pts`; None: 1/rate
    matrix: int = 1  # H.273
    primaries: int = 1
    transfer: int = 1
    full_range: bool = False
    aspect: Fraction | None = None
    rotation: int = 0  # degrees clockwise
    audio: int = 0  # audio tracks, each with a tone of its own
    audio_codec: str = "aac"
    subtitles: Sequence[str] = ()  # codecs: "ass", "subrip", "mov_text"
    chapters: int = 0
    attachment: bool = False
    cover: bool = False
    interlaced: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    muxer: dict[str, str] = field(default_factory=dict)  # options of the container

    def instants(self) -> list[Fraction]:
        """When each frame is shown, in seconds."""
        tick = self.tick or 1 / self.rate
        return [n * tick for n in (self.pts if self.pts is not None else range(self.frames))]


def image(number: int, width: int, height: int, pixels: str = "yuv420p") -> av.VideoFrame:
    """Frame `number` of every clip: a moving ramp in all planes."""
    frame = av.VideoFrame(width, height, pixels)
    for index, plane in enumerate(frame.planes):
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        y, x = np.mgrid[0 : plane.height, 0 : plane.width]
        wave = (x * 2 + y + number * 5 + index * 40) % 160 + 40
        depth = max(part.bits for part in frame.format.components)
        if depth > 8:
            rows.view(np.uint16)[:, : plane.width] = wave * (1 << (depth - 8)) + number % 4
        elif len(frame.planes) == 1 and len(frame.format.components) > 1:  # packed: RGB, RGBA or Y Cb Y Cr
            count = 2 if pixels == "yuyv422" else len(frame.format.components)
            rows[:, : plane.width * count] = np.repeat(wave, count, axis=1)
        else:
            rows[:, : plane.width] = wave
    return frame


_ASS = "\n".join(
    (
        "[Script Info]",
        "ScriptType: v4.00+",
        "",
        "[V4+ Styles]",
        "Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, "
        "Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, "
        "MarginR, MarginV, Encoding",
        "Style: Default,Demo,20,&H00FFFFFF,&H00FFFFFF,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1",
        "",
        "[Events]",
        "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text",
        "",
    )
).encode()


def make(path: Path, clip: Clip | None = None) -> Path:
    """Write a clip; its suffix decides the container."""
    clip = clip or Clip()
    tick = clip.tick or 1 / clip.rate
    # without these QuickTime's clocks round edit lists to milliseconds
    exact = str(tick.denominator * max(1, 12000 // tick.denominator))
    options = {"movie_timescale": exact, "video_track_timescale": exact} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options={**options, **clip.muxer}) as out:
        out.metadata.update(clip.tags)
        quality = {"crf": "12"} if "x26" in clip.codec else {}
        video = out.add_stream(clip.codec, rate=clip.rate, options={**quality, **clip.options})
        video.width, video.height, video.pix_fmt = clip.width, clip.height, clip.pixels
        context = video.codec_context
        context.time_base = video.time_base = tick
        context.colorspace, context.color_primaries, context.color_trc = clip.matrix, clip.primaries, clip.transfer
        context.color_range = 2 if clip.full_range else 1
        context.flags |= av.codec.context.Flags.frame_duration
        if clip.aspect:
            context.sample_aspect_ratio = clip.aspect
        if clip.interlaced:
            context.flags |= av.codec.context.Flags.interlaced_dct
            context.field_order = 2
        if clip.rotation:
            video.set_display_rotation(-clip.rotation)
        tracks = []
        for n in range(clip.audio):
            track = out.add_stream(clip.audio_codec, rate=48000)
            track.metadata["language"] = ("eng", "fra", "deu")[n % 3]
            track.metadata["title"] = f"track {n}"
            track.disposition = 1 if n == 1 or clip.audio == 1 else 0
            tracks.append(track)
        texts = []
        for name in clip.subtitles:
            text = out.add_stream(name)
            text.codec_context.subtitle_header = _ASS
            text.codec_context.time_base = Fraction(1, 1000)
            text.time_base = Fraction(1, 1000)
            text.metadata["language"] = "eng"
            texts.append(text)
        if clip.attachment:
            out.add_attachment("Demo.ttf", "font/ttf", b"\0\1\0\0not really a font" * 20)
        art = None
        if clip.cover and path.suffix == ".mkv":
            out.add_attachment("cover.png", "image/png", png_bytes(3))
        elif clip.cover:
            art = out.add_stream("png", rate=1)
            art.width, art.height, art.pix_fmt = 32, 24, "rgb24"
            art.disposition = 1024
        if clip.chapters:
            length = 1000 * clip.frames // clip.chapters
            out.set_chapters(
                [
                    {"id": n, "start": round(n * length / clip.rate), "end": round((n + 1) * length / clip.rate),
                     "time_base": Fraction(1, 1000), "metadata": {"title": f"part {n}"}}
                    for n in range(clip.chapters)
                ]
            )  # fmt: skip
        stamps = list(clip.pts) if clip.pts is not None else list(range(clip.frames))
        out.start_encoding()
        if art is not None:
            cover = av.Packet(png_bytes(3))
            cover.pts = cover.dts = 0
            cover.time_base, cover.stream, cover.is_keyframe = Fraction(1, 1000), art, True
            out.mux(cover)
        for number, text in enumerate(texts):
            for line in range(2):
                words = f"{line},0,Default,,0,0,0,,line {line} of {number}".encode()
                packet = text.codec_context.encode_subtitle(av.subtitles.subtitle.SubtitleSet.create(words, 0, 300))
                packet.pts = packet.dts = 100 + 400 * line
                packet.duration = 300
                packet.time_base = Fraction(1, 1000)
                packet.stream = text
                packet.is_keyframe = True
                out.mux(packet)
        for n, stamp in enumerate(stamps):
            frame = image(n, clip.width, clip.height, clip.pixels)
            frame.pts, frame.time_base = stamp, tick
            frame.duration = (stamps[n + 1] - stamp) if n + 1 < len(stamps) else (stamp - stamps[n - 1] if n else 1)
            frame.colorspace, frame.color_range = clip.matrix, 2 if clip.full_range else 1
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        seconds = float(clip.instants()[-1] + 1 / clip.rate) if stamps else 1.0
        for n, track in enumerate(tracks):
            for start in range(0, int(48000 * seconds), 1024):
                at = (start + np.arange(1024)) / 48000
                wave = (0.2 * np.sin(2 * np.pi * 220 * (n + 1) * at)).astype(np.float32)
                chunk = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
                chunk.sample_rate, chunk.pts, chunk.time_base = 48000, start, Fraction(1, 48000)
                out.mux(track.encode(chunk))
            out.mux(track.encode(None))
    return path


def png_bytes(number: int = 0, width: int = 32, height: int = 24, pixels: str = "rgb24") -> bytes:
    """A frame as a PNG file holds it."""
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt, context.time_base = width, height, pixels, Fraction(1, 25)
    frame = image(number, width, height, pixels)
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def png(path: Path, number: int = 0, width: int = 32, height: int = 24, pixels: str = "rgb24") -> Path:
    """One frame file."""
    path.write_bytes(png_bytes(number, width, height, pixels))
    return path
