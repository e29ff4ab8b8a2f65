"""Stream plan: the disposition of every source stream in the output, found by trial muxes before the work."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import av.error
import av.stream

from midframe.errors import MediaError
from midframe.options import Options
from midframe.types import VideoInfo
from midframe.video.containers import container_of
from midframe.video.files import is_cover, named, open_source, packets_of
from midframe.video.timecode import KEEPING

TRIAL_PACKETS = 4  # per stream in a trial mux
TRIAL_SEARCH_PACKETS = 4000  # packets read at most to find them
_TEXT_SUBTITLES = ("subrip", "ass", "ssa", "mov_text", "webvtt", "text", "srt")
# Target codec of text subtitles that a container cannot hold as they are.
_TEXT_SUBTITLE_CODECS = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
# Codecs of cover art that Matroska keeps as attachments, with their media types.
COVER_MEDIA_TYPES = {
    "png": "image/png",
    "mjpeg": "image/jpeg",
    "bmp": "image/bmp",
    "gif": "image/gif",
    "webp": "image/webp",
}
# Target codec of transcoded audio.
_AUDIO_CODECS = {"mp4": "aac", "mov": "aac", "matroska": "aac", "webm": "libopus", "avi": "libmp3lame", "mpegts": "aac"}


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """Disposition of one stream of the source."""

    index: int
    kind: str  # "audio", "subtitle" ...
    codec: str
    action: str  # "copy", "convert" (subtitles), "encode" (audio), "drop", "none" (represented by something else)
    target: str = ""  # codec in the output, if it differs
    why: str = ""  # reason of a drop or a conversion

    def __str__(self) -> str:
        name = f"stream {self.index} ({self.kind}, {self.codec})"
        if self.action == "drop":
            return f"{name} is left out: {self.why}"
        if self.target:
            return f"{name} becomes {self.target}: {self.why}"
        return f"{name} is copied"


def plan_streams(info: VideoInfo, target: str | os.PathLike[str], options: Options) -> tuple[StreamPlan, ...]:
    """Plan the disposition of every source stream except the interpolated one. Reads only the start of the file.

    Args:
        info: the source, as `probe` described it.
        target: path of the output; its suffix decides the container.
        options: audio, subtitles and slow motion.

    Raises:
        MediaError: the source cannot be opened.
        UnsupportedError: the container is not known.
    """
    container = container_of(target)
    if info.container == "images":
        return ()
    others = [stream for stream in info.streams if stream.index != info.video_index]
    if container == "images":
        return tuple(
            StreamPlan(s.index, s.kind, s.codec, "drop", why="a folder of images holds images only") for s in others
        )
    if not others:
        return ()
    with open_source(info.path) as source:
        if len(source.streams) < len(info.streams):
            raise MediaError(f"{named(info.path)} has changed since it was probed")
        taken = {plan.index: plan for plan in excluded_streams(info, options)}
        samples = _first_packets(source, [s.index for s in others if s.index not in taken])
        suffix = Path(target).suffix or container
        for stream in others:
            if stream.index not in taken:
                taken[stream.index] = _disposition(source.streams[stream.index], samples, container, suffix, options)
    return tuple(taken[stream.index] for stream in others)


def stream_notes(plans: Sequence[StreamPlan]) -> list[str]:
    """Return one line for every stream that is lost or changed, for the plan and the result."""
    return [str(plan) for plan in plans if plan.action not in ("copy", "none")]


def excluded_streams(info: VideoInfo, options: Options) -> Iterator[StreamPlan]:
    """Yield the streams that options exclude: by the user, or because slow motion cannot keep them."""
    slow = bool(options.speed) or (options.slowmo is not None and options.slowmo != 1)
    for stream in info.streams:
        if stream.index == info.video_index:
            continue
        why = ""
        if stream.kind == "audio" and not options.audio:
            why = "--no-audio"
        elif stream.kind == "audio" and slow and not options.stretches_audio:
            why = "slow motion; --slow-audio stretch keeps it" if options.slow_audio == "auto" else "--slow-audio drop"
        elif stream.kind == "subtitle" and not options.subtitles:
            why = "--no-subtitles"
        elif stream.kind == "video" and "attached_pic" not in stream.disposition and slow:
            why = "the speed changes for one video stream only"
        elif stream.kind == "data" and slow:
            why = "--speed" if options.speed else "slow motion"
        if why:
            yield StreamPlan(stream.index, stream.kind, stream.codec, "drop", why=why)


def _first_packets(source: Any, wanted: Sequence[int]) -> dict[int, list[Any]]:
    """Return the first packets of each stream, if they are near the start of the file."""
    found: dict[int, list[Any]] = {index: [] for index in wanted}
    streams = [source.streams[index] for index in wanted]
    if not streams:
        return found
    for stream in source.streams:
        if stream.index not in found:
            stream.discard = av.stream.Discard.all
    missing = set(wanted)
    with contextlib.suppress(av.error.FFmpegError, OSError):
        for count, packet in enumerate(packets_of(source, streams)):
            if packet.size and packet.stream_index in missing:
                found[packet.stream_index].append(packet)
                if len(found[packet.stream_index]) >= TRIAL_PACKETS:
                    missing.discard(packet.stream_index)
            # subtitles and data may start late: a trial mux of the header has to do
            late = {i for i in missing if source.streams[i].type in ("subtitle", "data", "attachment")}
            if not missing - late or count >= TRIAL_SEARCH_PACKETS:
                break
    return found


def _disposition(
    stream: Any, samples: dict[int, list[Any]], container: str, suffix: str, options: Options
) -> StreamPlan:
    context = stream.codec_context
    codec = context.codec.canonical_name if context is not None else getattr(stream, "name", None) or "unknown"
    kind = stream.type
    cover = is_cover(stream)
    plan = StreamPlan(stream.index, "cover art" if cover else kind, codec, "copy")
    if kind == "audio" and (options.speed or (options.slowmo is not None and options.slowmo != 1)):
        made = _audio_codec(codec, container)
        if context is None:
            return drop(plan, "this build has no decoder for it")
        return StreamPlan(stream.index, kind, codec, "encode", made, "stretched, its pitch kept")
    if kind == "data" and codec == "bin_data" and stream.container.chapters():
        # QuickTime's text track of chapter names: chapters are copied as such
        return StreamPlan(stream.index, kind, codec, "none")
    if kind == "data" and "timecode" in stream.metadata:
        if container not in KEEPING:
            return drop(plan, f"{suffix} has no timecode; .mov can hold it")
        if options.vfr == "keep":
            return drop(plan, "a variable frame rate has no timecode")
        return StreamPlan(stream.index, kind, "timecode", "none")  # written anew, counted at the output rate
    if kind == "attachment":
        if container == "matroska":
            return plan
        return drop(plan, f"{suffix} cannot hold attachments; .mkv can")
    if cover and container == "matroska" and codec in COVER_MEDIA_TYPES:
        return plan  # becomes an attachment, as Matroska keeps cover art
    if trial_mux(stream, samples.get(stream.index, []), container):
        return plan
    if kind == "subtitle" and codec in _TEXT_SUBTITLES and container in _TEXT_SUBTITLE_CODECS:
        styles = " (its styles are lost; .mkv keeps them)" if codec in ("ass", "ssa") else ""
        return StreamPlan(
            stream.index,
            kind,
            codec,
            "convert",
            _TEXT_SUBTITLE_CODECS[container],
            f"{suffix} cannot hold {codec}{styles}",
        )
    if kind == "data" and codec in ("unknown", "none"):
        return drop(plan, "data of an unknown kind cannot be copied")
    mkv = container != "matroska" and (
        (cover and codec in COVER_MEDIA_TYPES) or trial_mux(stream, samples.get(stream.index, []), "matroska")
    )
    if kind == "audio" and context is not None and container in _AUDIO_CODECS:
        hint = "; .mkv keeps it as it is" if mkv else ""
        return StreamPlan(
            stream.index, kind, codec, "encode", _audio_codec(codec, container), f"{suffix} cannot hold {codec}{hint}"
        )
    hint = "; .mkv can" if mkv else ""
    if not hint and container != "mpegts" and trial_mux(stream, samples.get(stream.index, []), "mpegts"):
        hint = "; .ts can"
    return drop(plan, f"{suffix} cannot hold {codec}{hint}")


def drop(plan: StreamPlan, why: str) -> StreamPlan:
    """Return the same stream as dropped, with the reason."""
    return StreamPlan(plan.index, plan.kind, plan.codec, "drop", why=why)


def trial_mux(stream: Any, packets: Sequence[Any], container: str) -> bool:
    """Return whether a container accepts a stream: mux its header and first packets into memory."""
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            made = trial.add_stream_from_template(stream, opaque=True)
            made.disposition = stream.disposition
            if is_cover(stream):  # some containers require a video beside cover art
                _add_placeholder_video(trial, container)
            trial.start_encoding()
            for n, packet in enumerate(packets):
                copy = av.Packet(bytes(packet))
                # any value will do; Matroska has none at the start
                copy.pts = copy.dts = n * max(1, packet.duration or 0)
                copy.duration = packet.duration or 0
                copy.time_base = packet.time_base
                copy.is_keyframe = packet.is_keyframe
                copy.stream = made
                trial.mux(copy)
    except (av.error.FFmpegError, ValueError, OSError, NotImplementedError):
        return False
    return True


def _add_placeholder_video(container: Any, name: str) -> None:
    made = container.add_stream("libvpx-vp9" if name == "webm" else "mpeg4", rate=25)
    made.width = made.height = 16
    made.pix_fmt = "yuv420p"


def _audio_codec(codec: str, container: str) -> str:
    """Return the codec for transcoded audio: lossless stays lossless."""
    lossless = {"flac": "flac", "alac": "alac"}
    if codec in lossless and container in ("matroska", "mov", "mp4"):
        return lossless[codec]
    if codec.startswith("pcm_") and container in ("matroska", "mov", "avi"):
        return codec
    return _AUDIO_CODECS.get(container, "aac")
