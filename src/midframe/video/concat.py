"""Encoded segments and everything else of the source into one file, at packet level: nothing is encoded again.

A segment is a Matroska file whose clock counts output ticks instead of milliseconds, so that no time stamp is ever
rounded on the way; how long a tick is, and where the ticks start, stand in its tags. `join` puts segments one behind
the other with exact times and, in the same go, copies sound, subtitles, chapters, attachments, cover art and tags
from the source. It holds a few packets, whatever the length of the film.

`plan_streams` says beforehand, by trying, what a container holds as it is, what is converted, and what it cannot
hold. A stream that fails later on costs that stream, never the film.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import av.codec
import av.error
import av.filter
import av.stream

from midframe.errors import MediaError, UnsupportedError
from midframe.options import Options
from midframe.types import VideoInfo
from midframe.video import image_writer
from midframe.video.files import OPEN_SECONDS, is_cover, named, open_source, packets_of, witness, write_error
from midframe.video.writer import DecodingTimes, check_target, container_of, muxer_options, timescale

SEGMENT_SUFFIX = ".mkv"
TRIAL_PACKETS = 4  # of each stream, written to memory to see whether a container takes it
TRIAL_READ = 4000  # packets looked through to find them
_TEXT_SUBTITLES = ("subrip", "ass", "ssa", "mov_text", "webvtt", "text", "srt")
# What text subtitles become where they cannot stay what they are.
_TEXT_OF = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}
# Codecs of cover art that Matroska keeps as attachments, and their media types.
_COVER_TYPES = {"png": "image/png", "mjpeg": "image/jpeg", "bmp": "image/bmp", "gif": "image/gif", "webp": "image/webp"}
# What stretched sound is encoded as.
_SOUND_OF = {"mp4": "aac", "mov": "aac", "matroska": "aac", "webm": "libopus", "avi": "libmp3lame", "mpegts": "aac"}
# Tags that were true of the source's encoding, not of ours.
_STALE = (
    "encoder", "duration", "number_of_frames", "number_of_bytes", "bps", "major_brand", "minor_version",
    "compatible_brands", "_statistics_tags", "_statistics_writing_app", "_statistics_writing_date_utc", "source_id",
    "vendor_id",
)  # fmt: skip
# Errors of the disk, not of a stream.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.ENOENT, errno.ESTALE)


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What becomes of one stream of the source."""

    index: int
    kind: str  # "audio", "subtitle" ...
    codec: str
    action: str  # "copy", "convert" (subtitles), "encode" (sound), "drop", "none" (nothing of its own)
    target: str = ""  # codec in the output, where it is another
    why: str = ""  # of a drop or a conversion

    def __str__(self) -> str:
        said = f"stream {self.index} ({self.kind}, {self.codec})"
        if self.action == "drop":
            return f"{said} is left out: {self.why}"
        if self.target:
            return f"{said} becomes {self.target}: {self.why}"
        return f"{said} is copied"


def plan_streams(info: VideoInfo, target: str | os.PathLike[str], options: Options) -> tuple[StreamPlan, ...]:
    """What will become of every stream of the source but the one that is interpolated. Read-only and quick.

    Args:
        info: the source, as `probe` described it.
        target: path of the output; its suffix decides the container.
        options: sound, subtitles and slow motion as wished.

    Raises:
        MediaError: the source cannot be opened.
        UnsupportedError: the container is not known.
    """
    container = container_of(target)
    if info.container == "pictures":
        return ()
    others = [stream for stream in info.streams if stream.index != info.video_index]
    if container == "pictures":
        return tuple(
            StreamPlan(s.index, s.kind, s.codec, "drop", why="a folder of pictures holds pictures only") for s in others
        )
    if not others:
        return ()
    with open_source(info.path) as source:
        if len(source.streams) < len(info.streams):
            raise MediaError(f"{named(info.path)} has changed since it was looked at")
        taken = {plan.index: plan for plan in unwanted(info, options)}
        samples = _samples(source, [s.index for s in others if s.index not in taken])
        suffix = Path(target).suffix or container
        for stream in others:
            if stream.index not in taken:
                taken[stream.index] = _fate(source.streams[stream.index], samples, container, suffix, options)
    return tuple(taken[stream.index] for stream in others)


def dropped(plans: Sequence[StreamPlan]) -> list[str]:
    """One line for every stream that is lost or changed, for the plan and the result; MKV offered where it helps."""
    return [str(plan) for plan in plans if plan.action not in ("copy", "none")]


def unwanted(info: VideoInfo, options: Options) -> Iterator[StreamPlan]:
    """Streams that the user does not want, or that slow motion leaves behind."""
    slow = options.slowmo is not None and options.slowmo != 1
    for stream in info.streams:
        if stream.index == info.video_index:
            continue
        why = ""
        if stream.kind == "audio" and not options.audio:
            why = "--no-audio"
        elif stream.kind == "audio" and slow and options.slow_audio == "drop":
            why = "slow motion; --slow-audio stretch keeps it"
        elif stream.kind == "subtitle" and not options.subtitles:
            why = "--no-subtitles"
        elif stream.kind == "video" and "attached_pic" not in stream.disposition and slow:
            why = "slow motion slows one video stream only"
        elif stream.kind == "data" and slow:
            why = "slow motion"
        if why:
            yield StreamPlan(stream.index, stream.kind, stream.codec, "drop", why=why)


def _samples(source: Any, wanted: Sequence[int]) -> dict[int, list[Any]]:
    """The first packets of each stream, as far as they come early in the file."""
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
            # subtitles and data may start late: they are tried by their header alone
            late = {i for i in missing if source.streams[i].type in ("subtitle", "data", "attachment")}
            if not missing - late or count >= TRIAL_READ:
                break
    return found


def _fate(stream: Any, samples: dict[int, list[Any]], container: str, suffix: str, options: Options) -> StreamPlan:
    context = stream.codec_context
    codec = context.codec.canonical_name if context is not None else getattr(stream, "name", None) or "unknown"
    kind = stream.type
    cover = is_cover(stream)
    plan = StreamPlan(stream.index, "cover picture" if cover else kind, codec, "copy")
    slow = options.slowmo is not None and options.slowmo != 1
    if kind == "audio" and slow:
        made = _sound_codec(codec, container)
        if context is None:
            return _drop(plan, "no decoder for it is in this build")
        return StreamPlan(stream.index, kind, codec, "encode", made, "stretched, its pitch kept")
    if kind == "data" and codec == "bin_data" and stream.container.chapters():
        # the text track in which QuickTime keeps the names of chapters, which are copied as chapters
        return StreamPlan(stream.index, kind, codec, "none")
    if kind == "attachment":
        if container == "matroska":
            return plan
        return _drop(plan, f"{suffix} cannot hold attachments; .mkv can")
    if cover and container == "matroska" and codec in _COVER_TYPES:
        return plan  # becomes an attachment, which is how Matroska keeps covers
    if _trial(stream, samples.get(stream.index, []), container):
        return plan
    if kind == "subtitle" and codec in _TEXT_SUBTITLES and container in _TEXT_OF:
        styles = " (its styles are lost; .mkv keeps them)" if codec in ("ass", "ssa") else ""
        return StreamPlan(
            stream.index, kind, codec, "convert", _TEXT_OF[container], f"{suffix} cannot hold {codec}{styles}"
        )
    if kind == "data" and codec in ("unknown", "none"):
        return _drop(plan, "data of an unknown kind cannot be copied")
    mkv = container != "matroska" and (
        (cover and codec in _COVER_TYPES) or _trial(stream, samples.get(stream.index, []), "matroska")
    )
    if kind == "audio" and context is not None and container in _SOUND_OF:
        hint = "; .mkv keeps it as it is" if mkv else ""
        return StreamPlan(
            stream.index, kind, codec, "encode", _sound_codec(codec, container), f"{suffix} cannot hold {codec}{hint}"
        )
    hint = "; .mkv can" if mkv else ""
    if not hint and container != "mpegts" and _trial(stream, samples.get(stream.index, []), "mpegts"):
        hint = "; .ts can"
    return _drop(plan, f"{suffix} cannot hold {codec}{hint}")


def _drop(plan: StreamPlan, why: str) -> StreamPlan:
    return StreamPlan(plan.index, plan.kind, plan.codec, "drop", why=why)


def _trial(stream: Any, packets: Sequence[Any], container: str) -> bool:
    """Whether a container takes a stream: its header and its first packets are written to memory."""
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            made = trial.add_stream_from_template(stream, opaque=True)
            made.disposition = stream.disposition
            if is_cover(stream):  # belongs to a film, which some containers insist on
                _placeholder(trial, container)
            trial.start_encoding()
            for n, packet in enumerate(packets):
                copy = av.Packet(bytes(packet))
                copy.pts = copy.dts = n * max(1, packet.duration or 0)  # any will do, and Matroska's first have none
                copy.duration = packet.duration or 0
                copy.time_base = packet.time_base
                copy.is_keyframe = packet.is_keyframe
                copy.stream = made
                trial.mux(copy)
    except (av.error.FFmpegError, ValueError, OSError, NotImplementedError):
        return False
    return True


def _placeholder(container: Any, name: str) -> None:
    made = container.add_stream("libvpx-vp9" if name == "webm" else "mpeg4", rate=25)
    made.width = made.height = 16
    made.pix_fmt = "yuv420p"


def _sound_codec(codec: str, container: str) -> str:
    """What to encode stretched sound as: the same codec where it can be, losslessly kept lossless."""
    lossless = {"flac": "flac", "alac": "alac"}
    if codec in lossless and container in ("matroska", "mov", "mp4"):
        return lossless[codec]
    if codec.startswith("pcm_") and container in ("matroska", "mov", "avi"):
        return codec
    return _SOUND_OF.get(container, "aac")


# Joining


@dataclass
class _Clock:
    """Film time to time in the output file."""

    begin: Fraction  # film time of the range's first instant
    end: Fraction | None
    start: Fraction  # pts of the film's first picture: slow motion stretches from here
    slowmo: Fraction
    shift: Fraction  # output time that becomes 0 in the file

    def out(self, instant: Fraction) -> Fraction:
        return self.start + (instant - self.start) * self.slowmo - self.shift

    def rulers(self, base: Fraction, origin: Fraction) -> tuple[_Ruler, _Ruler]:
        """(seconds of output time, the same in units of `base`) from stamps of a stream whose film begins at origin."""
        zero = self.out(-origin)
        return _Ruler.of(base * self.slowmo, zero), _Ruler.of(self.slowmo, zero / base)


@dataclass(frozen=True, slots=True)
class _Ruler:
    """stamp * slope + offset, exactly and in whole numbers, because every packet of a film is measured with it."""

    slope: int
    offset: int
    whole: int  # what both are parts of

    @classmethod
    def of(cls, slope: Fraction, offset: Fraction) -> _Ruler:
        whole = math.lcm(slope.denominator, offset.denominator)
        return cls(int(slope * whole), int(offset * whole), whole)

    def exact(self, stamp: int) -> Fraction:
        return Fraction(stamp * self.slope + self.offset, self.whole)

    def nearest(self, stamp: int) -> int:
        """Rounded as `round` does: halves to the even side."""
        down, rest = divmod(stamp * self.slope + self.offset, self.whole)
        return down + (2 * rest > self.whole or (2 * rest == self.whole and down % 2 == 1))


def _clock(info: VideoInfo, options: Options) -> _Clock:
    slowmo = options.slowmo if options.slowmo is not None else Fraction(1)
    begin = options.start if options.start is not None else min(Fraction(0), info.start)
    # the range's first instant becomes 0; of a whole film at its own speed nothing moves
    shift = Fraction(0)
    if options.start is not None or slowmo != 1:
        shift = info.start + ((options.start or 0) - info.start) * slowmo
    return _Clock(begin, options.end, info.start, slowmo, shift)


def join(
    segments: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    source: str | os.PathLike[str] | None,
    info: VideoInfo,
    options: Options | None = None,
) -> list[str]:
    """Segments in order into one file, with all that `plan_streams` promises of the source.

    Args:
        segments: files that `open_writer(..., segment=True)` wrote, or folders of pictures if the target is one.
        target: the file to write, under exactly this name; its suffix decides the container.
        source: the film that sound and the rest are taken from; None: pictures only.
        info: what `probe` said of the source.
        options: range, slow motion, sound, subtitles, chapters.

    Returns:
        One line for each stream that is not in the output as it was in the source, and why.

    Raises:
        MediaError: a segment is damaged, the source is lost midway, or the target cannot be written. Nothing is left at
            the target then.
    """
    options = options if options is not None else Options()
    path = Path(target)
    if not segments:
        raise MediaError(f"there are no pictures for {named(path)}: the wished range holds none")
    container = container_of(target)
    if container == "pictures":
        image_writer.join_folders([Path(one) for one in segments], path)
        return dropped(plan_streams(info, path, options))
    check_target(path)
    plans: tuple[StreamPlan, ...] = ()
    said: list[str] = []
    if source is not None and info.container != "pictures":
        try:
            plans = plan_streams(info, path, options)
        except (MediaError, UnsupportedError) as error:  # the source is gone: the film is made all the same
            said.append(f"sound and all else are left out: {error}")
    said += dropped(plans)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    # The header is written with all streams at once, which may fail where each alone is taken: then without some.
    for without in ((), ("data",), ("data", "attachment", "cover picture"), ("data", "attachment", "cover picture",
                    "subtitle"), ("data", "attachment", "cover picture", "subtitle", "video", "audio")):  # fmt: skip
        wanted = [plan for plan in plans if plan.action not in ("drop", "none")]
        kept = tuple(plan for plan in wanted if plan.kind not in without)
        try:
            problems = _Join(segments, part, container, source, info, options, kept).run()
            os.replace(part, path)
        except _HeaderError as error:
            part.unlink(missing_ok=True)
            if not kept:
                raise write_error(path, error.cause) from error.cause
            continue
        except (av.error.FFmpegError, OSError) as error:
            part.unlink(missing_ok=True)
            raise write_error(path, error) from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        lost = [plan for plan in wanted if plan not in kept]
        said += [str(_drop(plan, f"{path.suffix} does not take it together with the others")) for plan in lost]
        return said + problems
    raise AssertionError("unreachable: without other streams the header is written or the error raised")


class _HeaderError(Exception):
    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class _Join:
    """One attempt at writing the whole file."""

    def __init__(
        self,
        segments: Sequence[str | os.PathLike[str]],
        part: Path,
        container: str,
        source: str | os.PathLike[str] | None,
        info: VideoInfo,
        options: Options,
        plans: Sequence[StreamPlan],
    ) -> None:
        self.segments = segments
        self.part = part
        self.container = container
        self.source = source
        self.info = info
        self.options = options
        self.plans = plans
        self.clock = _clock(info, options)
        self.problems: list[str] = []
        self.lines: dict[int, _Line] = {}

    def run(self) -> list[str]:
        """Write the file; the lines say what went wrong with single streams."""
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(open_source(self.source)) if self.source is not None and self.plans else None
            first = stack.enter_context(_open_segment(self.segments[0]))
            tick, start = _ticks(first, self.segments[0])
            offset = start - self.clock.shift
            scale = _scale(tick, offset)
            settings = muxer_options(self.container, Fraction(1, scale))
            if self.container in ("mp4", "mov"):
                settings["movflags"] = "+faststart" + ("+use_metadata_tags" if _quicktime_tags(self.info) else "")
            out = av.open(f"file:{self.part}", "w", format=self.container, options=settings)
            try:
                self._declare(out, source, first, scale)
                self._write(out, source, tick, offset, scale)
                self._finish(out)
            finally:
                _close(out)
        return self.problems

    def _declare(self, out: Any, source: Any, first: Any, scale: int) -> None:
        """All streams, tags and chapters, then the header."""
        try:
            by_index = {plan.index: plan for plan in self.plans}
            order = [s.index for s in self.info.streams] if source is not None else []
            for index in order or [self.info.video_index]:
                if index == self.info.video_index:
                    self.video = self._add_video(out, first, scale)
                elif index in by_index:
                    self.lines[index] = _line(out, source.streams[index], by_index[index], self.container, self.clock)
            out.metadata.update(_kept_tags(self.info.tags, self.container))
            if source is not None or self.source is not None:
                self._chapters(out)
            out.start_encoding()
        except (av.error.FFmpegError, ValueError, NotImplementedError) as error:
            if getattr(error, "errno", None) in _DISK:
                raise
            raise _HeaderError(error) from error

    def _add_video(self, out: Any, first: Any, scale: int) -> Any:
        template = first.streams.video[0]
        made = out.add_stream_from_template(template, opaque=True)
        made.time_base = Fraction(1, scale)
        if alpha := {k.lower(): v for k, v in template.metadata.items()}.get("alpha_mode"):
            made.metadata["alpha_mode"] = alpha  # without it nobody looks for the transparency of VP9
        if self.info.display_matrix is not None:
            made.set_display_matrix(self.info.display_matrix)
        of_source = next((s for s in self.info.streams if s.index == self.info.video_index), None)
        if of_source is not None:
            made.metadata.update(_kept_tags(of_source.tags, self.container))
            flags = av.stream.Disposition(0)
            for name in of_source.disposition:
                flags |= getattr(av.stream.Disposition, name)
            made.disposition = flags
        return made

    def _chapters(self, out: Any) -> None:
        if not self.options.chapters or not self.info.chapters or self.source is None:
            return
        found = []
        with open_source(self.source) as source:
            for chapter in source.chapters():
                base = chapter["time_base"] or Fraction(1, 1000)
                begin = chapter["start"] * base - self.info.origin
                end = chapter["end"] * base - self.info.origin
                if end <= self.clock.begin or (self.clock.end is not None and begin >= self.clock.end):
                    continue
                begin = max(begin, self.clock.begin)
                end = end if self.clock.end is None else min(end, self.clock.end)
                found.append(
                    {
                        "id": chapter["id"],
                        "start": max(0, round(self.clock.out(begin) * 1000)),
                        "end": max(0, round(self.clock.out(end) * 1000)),
                        "time_base": Fraction(1, 1000),
                        "metadata": chapter["metadata"],
                    }
                )
        out.set_chapters(found)

    def _write(self, out: Any, source: Any, tick: Fraction, offset: Fraction, scale: int) -> None:
        """Pictures and everything else, in order of time, so that the file can be played while it is read."""
        others = self._others(source) if source is not None else iter(())
        waiting = next(others, None)
        for packet, at in self._pictures(tick, offset, scale):
            while waiting is not None and waiting[0] <= at:
                self._mux_other(out, waiting[1], waiting[2])
                waiting = next(others, None)
            out.mux(packet)
        while waiting is not None:
            self._mux_other(out, waiting[1], waiting[2])
            waiting = next(others, None)

    def _pictures(self, tick: Fraction, offset: Fraction, scale: int) -> Iterator[tuple[Any, Fraction]]:
        """Packets of all segments with exact pts and rising dts, and when each is due."""
        step = tick * scale  # output units per tick; whole unless the offset forced a rounding
        times = DecodingTimes(0)
        delay: int | None = None  # output units from the first dts to the first pts
        extradata: bytes | None = None
        for number, segment in enumerate(self.segments):
            if number == 0:
                times = DecodingTimes(_reorder_depth(segment), _beat(segment, step))
            stamps = _stamps(segment) if number == len(self.segments) - 1 else []
            latest = max(stamps, default=None)
            place = 0
            with _open_segment(segment, look=False) as opened:
                if _ticks(opened, segment)[0] != tick:
                    raise MediaError(f"{named(segment)} has another tick than the first segment")
                stream = opened.streams.video[0]
                if number == 0:
                    extradata = stream.codec_context.extradata
                elif stream.codec_context.extradata != extradata:
                    raise MediaError(f"{named(segment)} was encoded with other settings than the first segment")
                own = _ticks(opened, segment)[1] - self.clock.shift - offset
                end = round((opened.duration or 0) / 1000)  # microseconds of a clock that counts ticks as milliseconds
                shown, base = _Ruler.of(step, (offset + own) * scale), Fraction(1, scale)
                lasts = _Ruler.of(step, Fraction(0))
                for packet in opened.demux(stream):
                    if packet.pts is None or not packet.size:
                        continue
                    # a block of Matroska does not say how long it lasts, but the file says where it ends
                    length = end - packet.pts if packet.pts == latest else packet.duration or 1
                    pts = shown.nearest(packet.pts)
                    dts = times(pts)
                    if dts > pts:
                        raise MediaError(f"{named(segment)} has pictures in an order that cannot be joined")
                    delay = pts - dts if delay is None else delay
                    packet.pts, packet.dts = pts, dts
                    packet.duration = max(1, lasts.nearest(length))
                    place += 1
                    if place == len(stamps) and self.container in ("mp4", "mov"):
                        # QuickTime adds up distances in order of decoding; the last one makes the sum right
                        packet.duration = max(1, shown.nearest(end) - delay - dts)
                    packet.time_base = base
                    packet.stream = self.video
                    yield packet, dts * base

    def _others(self, source: Any) -> Iterator[tuple[Fraction, int, Any]]:
        """(when due, stream index, packet of the source) for all packets of copied streams in the range."""
        wanted = [source.streams[index] for index, line in self.lines.items() if line.flows]
        keep = {stream.index for stream in wanted}
        for stream in source.streams:
            if stream.index not in keep:
                stream.discard = av.stream.Discard.all
        if not wanted or self.source is None:
            return
        begin, end = self.options.start, self.clock.end
        if begin is not None and begin > 30:  # seconds; nearer starts are read up to
            with contextlib.suppress(av.error.FFmpegError, OverflowError):
                source.seek(int((begin + self.info.origin - 10) * av.time_base), backward=True)
        with witness(self.source) as check_still_there:
            done: set[int] = set()
            packets = packets_of(source, wanted)
            while True:
                try:
                    packet = next(packets)
                except StopIteration:
                    check_still_there()
                    return
                except (av.error.FFmpegError, OSError) as error:
                    check_still_there()
                    self.problems.append(f"the source breaks off ({error.strerror or error}); sound ends there")
                    return
                index = packet.stream_index
                stamp = packet.dts if packet.dts is not None else packet.pts
                if not packet.size or index not in keep or index in done:
                    continue
                line = self.lines[index]
                if stamp is None or line.cover:
                    yield Fraction(0), index, packet
                    continue
                base = packet.time_base
                if end is not None and stamp * base - self.info.origin >= end:
                    done.add(index)
                    if len(done) >= len(keep):
                        return
                    continue
                if begin is not None:
                    shown = (stamp if packet.pts is None else packet.pts) * base - self.info.origin
                    if not line.takes(shown, (packet.duration or 0) * base, begin, packet):
                        continue
                yield line.rulers(base, self.info.origin)[0].exact(stamp), index, packet

    def _mux_other(self, out: Any, index: int, packet: Any) -> None:
        line = self.lines[index]
        if line.broken:
            return
        try:
            for made in line.packets(packet, self.info.origin):
                out.mux(made)
        except (av.error.FFmpegError, ValueError, OSError) as error:
            if getattr(error, "errno", None) in _DISK:
                raise
            line.broken = True
            self.problems.append(
                f"stream {index} ({line.plan.kind}, {line.plan.codec}) ends early: "
                f"{getattr(error, 'strerror', None) or error}"
            )

    def _finish(self, out: Any) -> None:
        for index, line in self.lines.items():
            if line.broken:
                continue
            try:
                for made in line.rest():
                    out.mux(made)
            except (av.error.FFmpegError, ValueError) as error:
                if getattr(error, "errno", None) in _DISK:
                    raise
                self.problems.append(f"the end of stream {index} ({line.plan.kind}) is lost: {error}")
        out.close()


class _Line:
    """One stream of the source on its way to the output: copied as it is."""

    def __init__(self, out: Any, stream: Any, plan: StreamPlan, clock: _Clock) -> None:
        self.plan = plan
        self.clock = clock
        self.broken = False
        self.cover = is_cover(stream)
        self.flows = stream.type != "attachment"
        self.last: int | None = None
        self._base: Fraction | None = None  # seconds per unit of the latest packet
        self.begun = False
        self.video = stream.type == "video"
        self.depth: int = stream.codec_context.reorder_depth if self.video and stream.codec_context is not None else 0
        self.times: DecodingTimes | None = None
        self.made = self.declare(out, stream)
        if self.flows:
            self.made.metadata.update(_kept_tags(stream.metadata, out.format.name))
            if stream.disposition:
                self.made.disposition = stream.disposition

    def declare(self, out: Any, stream: Any) -> Any:
        """Add the stream to the output."""
        if stream.type == "attachment":
            kind = stream.mimetype or "application/octet-stream"
            return out.add_attachment(stream.name or f"attachment-{stream.index}", kind, stream.data)
        return out.add_stream_from_template(stream, opaque=True)

    def takes(self, shown: Fraction, length: Fraction, begin: Fraction, packet: Any) -> bool:
        """Whether a packet belongs to a range that begins at `begin`."""
        if self.plan.kind == "subtitle":
            return shown + length > begin
        if self.video:  # another video stream: from its next key frame on
            self.begun = self.begun or (packet.is_keyframe and shown >= begin)
            return self.begun
        return shown + length / 2 >= begin

    def packets(self, packet: Any, origin: Fraction) -> Iterator[Any]:
        """What is written for one packet of the source."""
        if not self.cover:
            if self.video and packet.dts is None and packet.pts is not None and self.last is None:
                self.times = DecodingTimes(self.depth)  # Matroska does not say when its first pictures are decoded
            if self.times is not None and packet.pts is not None:
                packet.dts = min(self.times(packet.pts), packet.pts)
            self.retime(packet, origin)
        packet.stream = self.made
        yield packet

    def rulers(self, base: Fraction, origin: Fraction) -> tuple[_Ruler, _Ruler]:
        """`_Clock.rulers` for stamps in this unit; made once, for a stream hardly ever changes it."""
        if base != self._base:
            self._base, self._rulers = base, self.clock.rulers(base, origin)
        return self._rulers

    def retime(self, packet: Any, origin: Fraction) -> None:
        """Film time to output time, in the packet's own units; dts kept rising."""
        _, units = self.rulers(packet.time_base, origin)
        if packet.pts is not None:
            packet.pts = units.nearest(packet.pts)
        if packet.dts is not None:
            packet.dts = units.nearest(packet.dts)
        if self.plan.kind == "subtitle" and packet.pts is not None and packet.pts < 0:
            packet.duration = max(0, (packet.duration or 0) + packet.pts)
            packet.pts = packet.dts = 0
        if self.clock.slowmo != 1 and packet.duration:
            packet.duration = round(packet.duration * self.clock.slowmo)
        if packet.dts is not None and self.last is not None and packet.dts <= self.last:
            # Subtitles may share an instant; a muxer takes none twice.
            ahead = self.last + 1 - packet.dts
            packet.dts += ahead
            if packet.pts is not None and packet.pts < packet.dts:
                packet.pts = packet.dts
        if packet.dts is not None:
            self.last = packet.dts

    def rest(self) -> Iterator[Any]:
        """What is left at the end."""
        return iter(())


class _CoverLine(_Line):
    """A cover picture, kept as an attachment."""

    def declare(self, out: Any, stream: Any) -> Any:
        self.flows = False
        kind = stream.metadata.get("mimetype") or _COVER_TYPES[self.plan.codec]
        name = stream.metadata.get("filename") or f"cover.{kind.rpartition('/')[2].replace('jpeg', 'jpg')}"
        data = b""
        with open_source(stream.container.name.removeprefix("file:")) as source:
            for packet in packets_of(source, source.streams[stream.index]):
                if packet.size:
                    data = bytes(packet)
                    break
        return out.add_attachment(name, kind, data)


class _TextLine(_Line):
    """Text subtitles, converted to the kind that the container holds."""

    def declare(self, out: Any, stream: Any) -> Any:
        stream.codec_context.open(strict=False)
        made = out.add_stream(self.plan.target)
        header = stream.codec_context.subtitle_header
        made.codec_context.subtitle_header = header or _PLAIN_ASS
        made.codec_context.time_base = Fraction(1, 1000)
        made.time_base = Fraction(1, 1000)
        self.stream = stream
        return made

    def packets(self, packet: Any, origin: Fraction) -> Iterator[Any]:
        text = self.stream.codec_context.decode2(packet)
        if text is None or packet.pts is None:
            return
        base = Fraction(packet.time_base)
        made = self.made.codec_context.encode_subtitle(text)
        made.time_base = Fraction(1, 1000)
        made.pts = made.dts = round((packet.pts * base) * 1000)
        made.duration = round((packet.duration or 0) * base * 1000)
        self.retime(made, origin)
        made.is_keyframe = True
        made.stream = self.made
        yield made


_PLAIN_ASS = (
    b"[Script Info]\r\nScriptType: v4.00+\r\n\r\n[V4+ Styles]\r\nFormat: Name, Fontname, Fontsize, PrimaryColour, "
    b"SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, "
    b"BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\r\nStyle: Default,Arial,16,&Hffffff,"
    b"&Hffffff,&H0,&H0,0,0,0,0,100,100,0,0,1,1,0,2,10,10,10,1\r\n\r\n[Events]\r\nFormat: Layer, Start, End, Style, "
    b"Name, MarginL, MarginR, MarginV, Effect, Text\r\n"
)


class _SoundLine(_Line):
    """Sound, encoded anew: stretched to the length of a slowed film with its pitch kept, or for a choosy container."""

    def declare(self, out: Any, stream: Any) -> Any:
        context = stream.codec_context
        self.rate = context.sample_rate
        rate = 48000 if self.plan.target == "libopus" else self.rate
        made = out.add_stream(self.plan.target, rate=rate)
        count = context.layout.nb_channels
        # an order of channels that is not said is the usual one
        usual = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
        said = "channels" not in context.layout.name
        made.codec_context.layout = context.layout if said else usual.get(count, "stereo")
        if made.codec_context.codec.name in ("aac", "libopus", "libmp3lame"):
            made.codec_context.bit_rate = 96_000 * max(1, context.layout.nb_channels)
        self.out_rate = rate
        self.stream = stream
        self.graph: Any = None
        self.at: int | None = None  # samples written so far, from output time 0
        return made

    def _open(self, frame: Any) -> None:
        """A chain of atempo filters: each goes down to half speed."""
        graph = av.filter.Graph()
        said = "channels" not in frame.layout.name
        nodes = [
            graph.add_abuffer(
                sample_rate=frame.sample_rate,
                format=frame.format.name,
                layout=frame.layout.name if said else None,
                channels=None if said else frame.layout.nb_channels,
                time_base=Fraction(1, frame.sample_rate),
            )
        ]
        speed = 1 / self.clock.slowmo
        while speed < Fraction(1, 2):
            nodes.append(graph.add("atempo", "0.5"))
            speed *= 2
        if speed != 1:
            nodes.append(graph.add("atempo", f"{float(speed):.9f}"))
        context = self.made.codec_context
        wanted = f"sample_fmts={context.format.name}:sample_rates={self.out_rate}:channel_layouts={context.layout.name}"
        nodes.append(graph.add("aformat", wanted))
        nodes.append(graph.add("abuffersink"))
        graph.link_nodes(*nodes)
        graph.configure()
        self.graph = graph

    def packets(self, packet: Any, origin: Fraction) -> Iterator[Any]:
        base = Fraction(packet.time_base)
        try:
            frames = self.stream.decode(packet)
        except (av.error.FFmpegError, ValueError):  # a damaged packet costs itself
            return
        for frame in frames:
            if self.graph is None:
                self._open(frame)
                stamp = frame.pts if frame.pts is not None else packet.pts or 0
                self.at = round(self.clock.out(stamp * base - origin) * self.out_rate)
            frame.pts = None
            self.graph.push(frame)
            yield from self._encoded()

    def _encoded(self) -> Iterator[Any]:
        context = self.made.codec_context
        while True:
            try:
                frame = self.graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            context.open(strict=False)
            if context.frame_size:
                self.graph.set_audio_frame_size(context.frame_size)
            frame.pts = self.at
            frame.time_base = Fraction(1, self.out_rate)
            self.at = (self.at or 0) + frame.samples
            yield from self.made.encode(frame)

    def rest(self) -> Iterator[Any]:
        if self.graph is None:
            return
        self.graph.push(None)
        yield from self._encoded()
        yield from self.made.encode(None)


def _line(out: Any, stream: Any, plan: StreamPlan, container: str, clock: _Clock) -> _Line:
    if is_cover(stream) and container == "matroska":
        return _CoverLine(out, stream, plan, clock)
    kinds = {"copy": _Line, "convert": _TextLine, "encode": _SoundLine}
    return kinds[plan.action](out, stream, plan, clock)


def _kept_tags(tags: Any, container: str) -> dict[str, str]:
    """Tags of the source that are still true of the output; names of QuickTime's handlers only where it has them."""
    stale: tuple[str, ...] = ("_statistics", "bps-", "duration-", "number_of_")
    if container not in ("mp4", "mov"):
        stale = (*stale, "handler_name")
    kept = {k: v for k, v in tags.items() if k.lower() not in _STALE and not k.lower().startswith(stale)}
    if "name" in kept:  # the title of a track, as QuickTime calls it
        kept.setdefault("title", kept.pop("name"))
    return kept


def _quicktime_tags(info: VideoInfo) -> bool:
    return any(key.startswith("com.") for key in info.tags)


@contextlib.contextmanager
def _open_segment(path: str | os.PathLike[str], look: bool = True) -> Iterator[Any]:
    """A segment, opened for reading; without a look at its pictures where its stream is known already."""
    options = {} if look else {"probesize": "32", "analyzeduration": "1"}
    try:
        container = av.open(f"file:{os.fspath(path)}", format="matroska", options=options, timeout=(OPEN_SECONDS, None))
    except (av.error.FFmpegError, ValueError, OSError) as error:
        raise MediaError(f"the segment {named(path)} is damaged or missing; remove it and run again") from error
    try:
        if not container.streams.video:
            raise MediaError(f"the segment {named(path)} holds no pictures; remove it and run again")
        yield container
    finally:
        container.close()


def _ticks(container: Any, path: str | os.PathLike[str]) -> tuple[Fraction, Fraction]:
    """Seconds per tick of a segment, and the output time of tick 0."""
    tags = {key.upper(): value for key, value in container.metadata.items()}
    try:
        return Fraction(tags["MIDFRAME_TICK"]), Fraction(tags["MIDFRAME_START"])
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise MediaError(f"{named(path)} is no segment of midframe's; remove it and run again") from error


def _stamps(path: str | os.PathLike[str]) -> list[int]:
    """When the packets of a segment are shown, in ticks, in order of decoding."""
    with _open_segment(path, look=False) as container:
        stream = container.streams.video[0]
        return [packet.pts for packet in container.demux(stream) if packet.pts is not None and packet.size]


def _reorder_depth(path: str | os.PathLike[str]) -> int:
    """How many pictures at most wait in decoding order for one that is shown before them."""
    with _open_segment(path) as container:
        declared: int = container.streams.video[0].codec_context.reorder_depth
    stamps = _stamps(path)
    place = {stamp: n for n, stamp in enumerate(sorted(stamps))}
    return max([declared, *(n - place[stamp] for n, stamp in enumerate(stamps))])


def _beat(path: str | os.PathLike[str], step: Fraction) -> int:
    """The smallest distance of two pictures at the start of a segment, in output units."""
    stamps = sorted(_stamps(path)[:50])
    return max(1, math.floor(min((b - a for a, b in pairwise(stamps)), default=1) * step))


def _scale(tick: Fraction, offset: Fraction) -> int:
    """Units per second in which ticks, and the offset of the first if possible, are whole."""
    both = math.lcm(tick.denominator, offset.denominator)
    return timescale(Fraction(1, both)) if both <= 10_000_000 else timescale(tick)


def _close(container: Any) -> None:
    with contextlib.suppress(av.error.FFmpegError, ValueError, OSError):
        container.close()
