"""Join encoded segments and the other streams of the source into one file, at packet level: nothing is encoded again.

`join` appends segments with exact timestamps and, in the same pass, copies audio, subtitles, chapters, attachments,
cover art and tags from the source. It holds a few packets, whatever the length of the video. A stream that fails
midway is cut short; the video is complete.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import av.stream

from midframe.errors import MediaError, UnsupportedError
from midframe.options import Options
from midframe.types import VideoInfo
from midframe.video import image_writer
from midframe.video.animations import write_animation
from midframe.video.containers import container_of, counts_frames, muxer_options
from midframe.video.encoders import ANIMATIONS, APPLE_HEVC_TAG
from midframe.video.files import named, open_source, packets_of, witness, write_error
from midframe.video.immersive import HOLDERS, drop_apple_projection, immersive_template
from midframe.video.matroska_header import write_sample_aspect
from midframe.video.reader import LONGEST_PAUSE, LONGEST_STEP, plausible_end
from midframe.video.segment_files import (
    min_frame_spacing,
    open_segment,
    restore_parameters,
    segment_clock,
    segment_end,
    segment_reorder_depth,
    segment_stamps,
    ticks_per_unit,
)
from midframe.video.stream_writers import StreamCopier, kept_tags, stream_writer
from midframe.video.streams import StreamPlan, drop, plan_streams, stream_notes
from midframe.video.timecode import output_timecode
from midframe.video.timestamps import AffineMap, DecodingTimes, common_timescale, timestamp_map
from midframe.video.writer import check_target

# Errors of the disk, not of a stream.
_DISK_ERRORS = (
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.ENOENT, errno.ESTALE,
)  # fmt: skip

AUDIO_JUMP = Fraction(1, 2)  # seconds; shorter steps back are left to the muxer

# Codecs whose tag names the profile or the pixel format.
_TAGGED = ("prores", "rawvideo", "utvideo", "magicyuv")


def join(
    segments: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    source: str | os.PathLike[str] | None,
    info: VideoInfo,
    options: Options | None = None,
    counts: Sequence[int | None] | None = None,
) -> list[str]:
    """Join segments, and the streams of the source that `plan_streams` keeps, into one file.

    Args:
        segments: files that `open_writer(..., segment=True)` wrote, or folders of images if the target is one.
        target: the file to write, under exactly this name; its suffix decides the container.
        source: the file that provides the other streams; None: video stream only.
        info: the source, as `probe` described it.
        options: range, slow motion, audio, subtitles, chapters.
        counts: packets of each segment, as counted when it was written; None where that is not known.

    Returns:
        One line for each stream that is not in the output as it was in the source, with the reason.

    Raises:
        MediaError: a segment is damaged, the source is lost midway, or the target cannot be written. Nothing is left at
            the target then.
    """
    options = options if options is not None else Options()
    path = Path(target)
    if not segments:
        raise MediaError(f"there are no frames for {named(path)}: the given range holds none")
    container = container_of(target)
    if container == "images":
        image_writer.join_folders([Path(one) for one in segments], path)
        return stream_notes(plan_streams(info, path, options))
    check_target(path)
    plans: tuple[StreamPlan, ...] = ()
    lines: list[str] = []
    if source is not None and info.container != "images":
        try:
            plans = plan_streams(info, path, options)
        except (MediaError, UnsupportedError) as error:  # without the source the video alone is written
            lines.append(f"audio and all other streams are left out: {error}")
    lines += stream_notes(plans)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    # A header with all streams may fail although each passed its trial mux: then the least important ones are left out.
    for without in ((), ("data",), ("data", "attachment", "cover art"), ("data", "attachment", "cover art",
                    "subtitle"), ("data", "attachment", "cover art", "subtitle", "video", "audio")):  # fmt: skip
        wanted = [plan for plan in plans if plan.action not in ("drop", "none")]
        kept = tuple(plan for plan in wanted if plan.kind not in without)
        try:
            if container in ANIMATIONS:
                write_animation(segments, part, container, source, options.encoder)
                os.replace(part, path)
                return lines
            problems = Muxer(segments, part, container, source, info, options, kept, counts).run()
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
        lines += [str(drop(plan, f"{path.suffix} does not take it together with the others")) for plan in lost]
        return lines + problems
    raise AssertionError("unreachable: without other streams the header is written or the error raised")


class _HeaderError(Exception):
    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Muxer:
    """Write the whole file once."""

    def __init__(
        self,
        segments: Sequence[str | os.PathLike[str]],
        part: Path,
        container: str,
        source: str | os.PathLike[str] | None,
        info: VideoInfo,
        options: Options,
        plans: Sequence[StreamPlan],
        counts: Sequence[int | None] | None = None,
    ) -> None:
        self.segments = segments
        self.part = part
        self.container = container
        self.source = source
        self.info = info
        self.options = options
        self.plans = plans
        self.counts = counts if counts is not None else [None] * len(segments)
        self.timestamps = timestamp_map(info, options)
        self.problems: list[str] = []
        self.writers: dict[int, StreamCopier] = {}

    def run(self) -> list[str]:
        """Write the file; return one line for every stream that failed midway."""
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(open_source(self.source)) if self.source is not None and self.plans else None
            first = stack.enter_context(open_segment(self.segments[0]))
            tick, start = segment_clock(first, self.segments[0])
            offset = start - self.timestamps.shift
            unit = tick if counts_frames(self.container) else Fraction(1, common_timescale(tick, offset))
            settings = muxer_options(self.container, unit)
            if self.container in ("mp4", "mov"):
                settings["movflags"] = "+faststart" + ("+use_metadata_tags" if _has_quicktime_tags(self.info) else "")
            template = None
            if self.container in HOLDERS:
                template = stack.enter_context(immersive_template(self.segments[0], self.info))
            apple = template is not None and self.container == "mp4"
            if apple:
                settings["strict"] = "unofficial"  # the boxes of 360-degree and stereo video
            out = av.open(f"file:{self.part}", "w", format=self.container, options=settings)
            try:
                self._add_streams(out, source, first, template or first.streams.video[0], unit, 1 / tick)
                self._write(out, source, tick, offset, unit)
                self._finish(out)
            finally:
                _close(out)
            if apple:
                drop_apple_projection(self.part)
            write_sample_aspect(self.part, self.info.sample_aspect, self.container, self.video_number)
        return self.problems

    def _add_streams(self, out: Any, source: Any, first: Any, template: Any, unit: Fraction, rate: Fraction) -> None:
        """Add all streams, tags and chapters, then write the header."""
        try:
            by_index = {plan.index: plan for plan in self.plans}
            order = [s.index for s in self.info.streams] if source is not None else []
            for index in order or [self.info.video_index]:
                if index == self.info.video_index:
                    self.video = self._add_video(out, first, template, unit, rate)
                elif index in by_index:
                    self.writers[index] = stream_writer(
                        out, source.streams[index], by_index[index], self.container, self.timestamps
                    )
            out.metadata.update(kept_tags(self.info.tags, self.container))
            out.metadata.pop("timecode", None)
            if source is not None or self.source is not None:
                self._chapters(out)
            out.start_encoding()
        except (av.error.FFmpegError, ValueError, NotImplementedError) as error:
            if getattr(error, "errno", None) in _DISK_ERRORS:
                raise
            raise _HeaderError(error) from error

    def _add_video(self, out: Any, first: Any, template: Any, unit: Fraction, rate: Fraction) -> Any:
        made = out.add_stream_from_template(template, opaque=True)
        self.video_number = len(out.streams.video) - 1
        made.time_base = unit
        context = made.codec_context
        codec = context.codec.canonical_name
        if codec == "hevc" and self.container in ("mp4", "mov"):
            context.codec_tag = APPLE_HEVC_TAG
        elif codec in _TAGGED:
            context.codec_tag = template.codec_context.codec_tag
        if counts_frames(self.container):
            made.rate = 1 / unit
        restore_parameters(first, context)
        context.sample_aspect_ratio = self.info.sample_aspect
        if alpha := {k.lower(): v for k, v in template.metadata.items()}.get("alpha_mode"):
            made.metadata["alpha_mode"] = alpha  # decoders ignore the alpha of VP9 without it
        if self.info.display_matrix is not None:
            made.set_display_matrix(self.info.display_matrix)
        of_source = next((s for s in self.info.streams if s.index == self.info.video_index), None)
        if of_source is not None:
            made.metadata.update(kept_tags(of_source.tags, self.container))
        made.metadata.pop("timecode", None)
        if timecode := output_timecode(self.info, self.options, self.container, rate):
            made.metadata["timecode"] = timecode
            made.rate = rate  # libav's muxers count its frames at this rate
        if of_source is not None:
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
                if end <= self.timestamps.begin or (self.timestamps.end is not None and begin >= self.timestamps.end):
                    continue
                begin = max(begin, self.timestamps.begin)
                end = end if self.timestamps.end is None else min(end, self.timestamps.end)
                found.append(
                    {
                        "id": chapter["id"],
                        "start": max(0, round(self.timestamps.out(begin) * 1000)),
                        "end": max(0, round(self.timestamps.out(end) * 1000)),
                        "time_base": Fraction(1, 1000),
                        "metadata": chapter["metadata"],
                    }
                )
        out.set_chapters(found)

    def _write(self, out: Any, source: Any, tick: Fraction, offset: Fraction, unit: Fraction) -> None:
        """Write all packets interleaved by time."""
        others = self._source_packets(source) if source is not None else iter(())
        waiting = next(others, None)
        for packet, at in self._video_packets(tick, offset, unit):
            while waiting is not None and waiting[0] <= at:
                self._mux_source_packet(out, waiting[1], waiting[2])
                waiting = next(others, None)
            out.mux(packet)
        while waiting is not None:
            self._mux_source_packet(out, waiting[1], waiting[2])
            waiting = next(others, None)

    def _video_packets(self, tick: Fraction, offset: Fraction, unit: Fraction) -> Iterator[tuple[Any, Fraction]]:
        """Yield the packets of all segments with exact pts and increasing dts, and the output time of each."""
        step = tick / unit  # output units per tick; whole unless the offset forced a rounding
        times = DecodingTimes(0)
        delay: int | None = None  # output units from the first dts to the first pts
        extradata: bytes | None = None
        for number, segment in enumerate(self.segments):
            if number == 0:
                times = DecodingTimes(segment_reorder_depth(segment), min_frame_spacing(segment, step))
            stamps = segment_stamps(segment) if number == len(self.segments) - 1 else []
            latest = max(stamps, default=None)
            place = 0
            with open_segment(segment, look=False) as opened:
                if segment_clock(opened, segment)[0] != tick:
                    raise MediaError(f"{named(segment)} has another tick than the first segment")
                stream = opened.streams.video[0]
                if number == 0:
                    extradata = stream.codec_context.extradata
                elif stream.codec_context.extradata != extradata:
                    raise MediaError(f"{named(segment)} was encoded with other settings than the first segment")
                own = segment_clock(opened, segment)[1] - self.timestamps.shift - offset
                ticks = ticks_per_unit(opened, tick)
                end = segment_end(opened, stamps, ticks)
                shown, base = AffineMap.of(step, (offset + own) / unit), unit
                lasts = AffineMap.of(step, Fraction(0))
                for packet in opened.demux(stream):
                    if packet.pts is None or not packet.size:
                        continue
                    # a Matroska block has no duration; that of the last one follows from the duration of the file
                    stamp = int(packet.pts * ticks)
                    length = end - stamp if stamp == latest else int((packet.duration or 0) * ticks) or 1
                    pts = shown.nearest(stamp)
                    dts = times(pts)
                    if dts > pts:
                        raise MediaError(f"{named(segment)} has frames in an order that cannot be joined")
                    delay = pts - dts if delay is None else delay
                    packet.pts, packet.dts = pts, dts
                    packet.duration = max(1, lasts.nearest(length))
                    place += 1
                    if place == len(stamps) and self.container in ("mp4", "mov"):
                        # QuickTime sums up durations in decoding order; the last one corrects the sum
                        packet.duration = max(1, shown.nearest(end) - delay - dts)
                    packet.time_base = base
                    packet.stream = self.video
                    yield packet, dts * base
            if self.counts[number] not in (None, place):
                raise MediaError(f"{named(segment)} has {place} frames, and {self.counts[number]} were written")

    def _source_packets(self, source: Any) -> Iterator[tuple[Fraction, int, Any]]:
        """Yield (output time, stream index, packet) of all kept source streams in the range."""
        wanted = [source.streams[index] for index, writer in self.writers.items() if writer.has_packets]
        keep = {stream.index for stream in wanted}
        for stream in source.streams:
            if stream.index not in keep:
                stream.discard = av.stream.Discard.all
        if not wanted or self.source is None:
            return
        begin, end = self.options.start, self.timestamps.end
        if begin is not None and begin > 30:  # seconds; an earlier start is reached by reading
            with contextlib.suppress(av.error.FFmpegError, OverflowError):
                source.seek(int((begin + self.info.origin - 10) * av.time_base), backward=True)
        with witness(self.source) as check_still_there:
            done: set[int] = set()
            clocks = {stream.index: AudioClock(self.info) for stream in wanted if stream.type == "audio"}
            packets = packets_of(source, wanted)
            while True:
                try:
                    packet = next(packets)
                except StopIteration:
                    check_still_there()
                    return
                except (av.error.FFmpegError, OSError) as error:
                    check_still_there()
                    self.problems.append(f"the source breaks off ({error.strerror or error}); other streams end there")
                    return
                index = packet.stream_index
                stamp = packet.dts if packet.dts is not None else packet.pts
                if not packet.size or index not in keep or index in done:
                    continue
                writer = self.writers[index]
                if stamp is None or writer.cover:
                    yield Fraction(0), index, packet
                    continue
                base = packet.time_base
                if (clock := clocks.get(index)) is not None:
                    if (jump := clock.correct(packet)) is not None:
                        self.problems.append(
                            f"the clock of stream {index} (audio) jumps at {float(jump):.2f} s; it goes on"
                        )
                    stamp = packet.dts if packet.dts is not None else packet.pts
                if end is not None and stamp * base - self.info.origin >= end:
                    done.add(index)
                    if len(done) >= len(keep):
                        return
                    continue
                if begin is not None:
                    shown = (stamp if packet.pts is None else packet.pts) * base - self.info.origin
                    if not writer.includes(shown, (packet.duration or 0) * base, begin, packet):
                        continue
                yield writer.affine_maps(base, self.info.origin)[0].exact(stamp), index, packet

    def _mux_source_packet(self, out: Any, index: int, packet: Any) -> None:
        writer = self.writers[index]
        if writer.broken:
            return
        try:
            for made in writer.packets(packet, self.info.origin):
                out.mux(made)
        except (av.error.FFmpegError, ValueError, OSError) as error:
            if getattr(error, "errno", None) in _DISK_ERRORS:
                raise
            writer.broken = True
            self.problems.append(
                f"stream {index} ({writer.plan.kind}, {writer.plan.codec}) ends early: "
                f"{getattr(error, 'strerror', None) or error}"
            )

    def _finish(self, out: Any) -> None:
        for index, writer in self.writers.items():
            if writer.broken:
                continue
            try:
                for made in writer.flush():
                    out.mux(made)
            except (av.error.FFmpegError, ValueError) as error:
                if getattr(error, "errno", None) in _DISK_ERRORS:
                    raise
                self.problems.append(f"the end of stream {index} ({writer.plan.kind}) is lost: {error}")
        out.close()


class AudioClock:
    """Keep an audio stream continuous where the clock of its file jumps, as the reader does with video."""

    def __init__(self, info: VideoInfo) -> None:
        self._plausible_end = plausible_end(info)
        self._origin = info.origin
        self._shift = Fraction(0)  # seconds added to the clock of the file
        self._end: Fraction | None = None  # of the latest packet
        self._before_gap: Fraction | None = None  # end of the packet before the latest gap
        self._jumped = False

    def correct(self, packet: Any) -> Fraction | None:
        """Move a packet behind the latest one if the clock has jumped; the time of the first jump, else None."""
        base, stamp = packet.time_base, packet.dts if packet.dts is not None else packet.pts
        if stamp is None:
            return None
        seconds = stamp * base - self._origin + self._shift
        found = None
        if self._end is not None:
            ahead = seconds - self._end
            back = self._before_gap is not None and abs(seconds - self._before_gap) < AUDIO_JUMP
            if (ahead < -AUDIO_JUMP and not back) or ahead > (
                LONGEST_STEP if seconds > self._plausible_end else LONGEST_PAUSE
            ):
                self._shift -= ahead
                seconds = self._end
                found, self._jumped = (None if self._jumped else seconds), True
            elif ahead > AUDIO_JUMP:
                self._before_gap = self._end  # a single wrong timestamp comes back to it
        self._end = seconds + (packet.duration or 0) * base
        units = round(self._shift / base)
        packet.pts = None if packet.pts is None else packet.pts + units
        packet.dts = None if packet.dts is None else packet.dts + units
        return found


def _has_quicktime_tags(info: VideoInfo) -> bool:
    return any(key.startswith("com.") for key in info.tags)


def _close(container: Any) -> None:
    with contextlib.suppress(av.error.FFmpegError, ValueError, OSError):
        container.close()
