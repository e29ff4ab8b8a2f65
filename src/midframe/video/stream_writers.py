"""Stream writers: packets of one source stream into the output, copied, converted or transcoded."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import av.error
import av.filter

from midframe.video.files import is_cover, open_source, packets_of
from midframe.video.streams import COVER_MEDIA_TYPES, StreamPlan
from midframe.video.time_stretch import TimeStretch
from midframe.video.timestamps import DecodingTimes, StampMap, TimestampMap

_LONGEST_JITTER = Fraction(1, 20)  # seconds; later timestamps mean missing audio, which becomes silence

# Tags that describe the encoding of the source, not ours.
_STALE_TAGS = (
    "encoder", "duration", "number_of_frames", "number_of_bytes", "bps", "major_brand", "minor_version",
    "compatible_brands", "_statistics_tags", "_statistics_writing_app", "_statistics_writing_date_utc", "source_id",
    "vendor_id",
)  # fmt: skip


def stream_writer(out: Any, stream: Any, plan: StreamPlan, container: str, timestamps: TimestampMap) -> StreamCopier:
    """Return the writer for a stream, by its disposition; the stream is added to the output."""
    if is_cover(stream) and container == "matroska":
        return CoverAttachment(out, stream, plan, timestamps)
    kinds = {"copy": StreamCopier, "convert": SubtitleConverter, "encode": AudioTranscoder}
    return kinds[plan.action](out, stream, plan, timestamps)


class StreamCopier:
    """Copy one stream of the source, packet by packet."""

    def __init__(self, out: Any, stream: Any, plan: StreamPlan, timestamps: TimestampMap) -> None:
        self.plan = plan
        self.timestamps = timestamps
        self.broken = False
        self.cover = is_cover(stream)
        self.has_packets = stream.type != "attachment"
        self.last: int | None = None
        self._base: Fraction | None = None  # seconds per unit of the latest packet
        self.begun = False
        self.video = stream.type == "video"
        self.depth: int = stream.codec_context.reorder_depth if self.video and stream.codec_context is not None else 0
        self.times: DecodingTimes | None = None
        self.made = self.declare(out, stream)
        if self.has_packets:
            self.made.metadata.update(kept_tags(stream.metadata, out.format.name))
            if stream.disposition:
                self.made.disposition = stream.disposition

    def declare(self, out: Any, stream: Any) -> Any:
        """Add the stream to the output and return it."""
        if stream.type == "attachment":
            kind = stream.mimetype or "application/octet-stream"
            return out.add_attachment(stream.name or f"attachment-{stream.index}", kind, stream.data)
        return out.add_stream_from_template(stream, opaque=True)

    def includes(self, shown: Fraction, length: Fraction, begin: Fraction, packet: Any) -> bool:
        """Return whether a packet belongs to a range that begins at `begin`."""
        if self.plan.kind == "subtitle":
            return shown + length > begin
        if self.video:  # another video stream: from its next key frame on
            self.begun = self.begun or (packet.is_keyframe and shown >= begin)
            return self.begun
        return shown + length / 2 >= begin

    def packets(self, packet: Any, origin: Fraction) -> Iterator[Any]:
        """Yield the output packets of one source packet."""
        if not self.cover:
            if self.video and packet.dts is None and packet.pts is not None and self.last is None:
                self.times = DecodingTimes(self.depth)  # Matroska has no dts for the first packets
            if self.times is not None and packet.pts is not None:
                packet.dts = min(self.times(packet.pts), packet.pts)
            self.retime(packet, origin)
        packet.stream = self.made
        yield packet

    def affine_maps(self, base: Fraction, origin: Fraction) -> tuple[StampMap, StampMap]:
        """Return `TimestampMap.affine_maps` for this unit, cached: a stream hardly ever changes its time base."""
        if base != self._base:
            self._base, self._maps = base, self.timestamps.affine_maps(base, origin)
        return self._maps

    def retime(self, packet: Any, origin: Fraction) -> None:
        """Move a packet to output time, in its own units; dts keep increasing."""
        _, units = self.affine_maps(packet.time_base, origin)
        if self.timestamps.speed is not None and packet.pts is not None and packet.duration:
            packet.duration = units.nearest(packet.pts + packet.duration) - units.nearest(packet.pts)
        if packet.pts is not None:
            packet.pts = units.nearest(packet.pts)
        if packet.dts is not None:
            packet.dts = units.nearest(packet.dts)
        if self.plan.kind == "subtitle" and packet.pts is not None and packet.pts < 0:
            packet.duration = max(0, (packet.duration or 0) + packet.pts)
            packet.pts = packet.dts = 0
        if self.timestamps.slowmo != 1 and packet.duration:
            packet.duration = round(packet.duration * self.timestamps.slowmo)
        if packet.dts is not None and self.last is not None and packet.dts <= self.last:
            # two subtitles may share a timestamp, which muxers refuse
            ahead = self.last + 1 - packet.dts
            packet.dts += ahead
            if packet.pts is not None and packet.pts < packet.dts:
                packet.pts = packet.dts
        if packet.dts is not None:
            self.last = packet.dts

    def flush(self) -> Iterator[Any]:
        """Yield the packets that remain at the end."""
        return iter(())


class CoverAttachment(StreamCopier):
    """Write cover art as an attachment, as Matroska keeps it."""

    def declare(self, out: Any, stream: Any) -> Any:
        """Attach the first packet of the stream."""
        self.has_packets = False
        kind = stream.metadata.get("mimetype") or COVER_MEDIA_TYPES[self.plan.codec]
        name = stream.metadata.get("filename") or f"cover.{kind.rpartition('/')[2].replace('jpeg', 'jpg')}"
        data = b""
        with open_source(stream.container.name.removeprefix("file:")) as source:
            for packet in packets_of(source, source.streams[stream.index]):
                if packet.size:
                    data = bytes(packet)
                    break
        return out.add_attachment(name, kind, data)


class SubtitleConverter(StreamCopier):
    """Convert text subtitles to the codec that the container holds."""

    def declare(self, out: Any, stream: Any) -> Any:
        """Add the target stream with the header of the source."""
        stream.codec_context.open(strict=False)
        made = out.add_stream(self.plan.target)
        header = stream.codec_context.subtitle_header
        made.codec_context.subtitle_header = header or _PLAIN_ASS
        made.codec_context.time_base = Fraction(1, 1000)
        made.time_base = Fraction(1, 1000)
        self.stream = stream
        return made

    def packets(self, packet: Any, origin: Fraction) -> Iterator[Any]:
        """Yield the subtitle, decoded and encoded again."""
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


class AudioTranscoder(StreamCopier):
    """Transcode audio: stretched with the video and its pitch kept, or to a codec that the container holds."""

    def declare(self, out: Any, stream: Any) -> Any:
        """Add the target stream in the sample rate and layout of the source."""
        context = stream.codec_context
        self.rate = context.sample_rate
        rate = 48000 if self.plan.target == "libopus" else self.rate
        made = out.add_stream(self.plan.target, rate=rate)
        count = context.layout.nb_channels
        # an unspecified channel layout is taken for the usual one
        usual = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
        said = "channels" not in context.layout.name
        made.codec_context.layout = context.layout if said else usual.get(count, "stereo")
        if made.codec_context.codec.name in ("aac", "libopus", "libmp3lame"):
            made.codec_context.bit_rate = 96_000 * max(1, context.layout.nb_channels)
        self.out_rate = rate
        self.stream = stream
        self.samples: AudioConverter | None = None  # to the samples that are stretched
        self.stretch: TimeStretch | None = None
        self.output: AudioConverter | None = None  # to the samples of the encoder
        self.heard = 0  # index of the next source sample, counted from source time 0
        self.at: int | None = None  # index of the next output sample, from output time 0
        return made

    def packets(self, packet: Any, origin: Fraction) -> Iterator[Any]:
        """Yield what the encoder returns for the samples of one packet."""
        base = Fraction(packet.time_base)
        try:
            frames = self.stream.decode(packet)
        except (av.error.FFmpegError, ValueError):  # a damaged packet is skipped
            return
        for frame in frames:
            stamp = frame.pts if frame.pts is not None else packet.pts if self.at is None else None
            begin = self.heard if stamp is None else round((stamp * base - origin) * self.rate)
            if self.at is None:
                self._begin(frame, begin)
            if begin - self.heard > self.rate * _LONGEST_JITTER:
                while self.heard < begin:
                    yield from self._heard(silence(frame, min(begin - self.heard, frame.samples)))
            yield from self._heard(frame)

    def _begin(self, frame: Any, begin: int) -> None:
        """Set the clocks by the first frame, whose first sample has index `begin` in the source."""
        times, rate = self.timestamps, self.rate
        self.heard = begin
        self.at = round(times.out(Fraction(begin, rate)) * self.out_rate)
        if times.changes_speed:
            layout = self.made.codec_context.layout.name
            self.samples = AudioConverter("fltp", rate, layout)

            def source_of(sample: int) -> float:
                return float(times.source(Fraction(sample, rate)) * rate)

            self.stretch = TimeStretch(rate, begin, round(times.out(Fraction(begin, rate)) * rate), source_of)
        context = self.made.codec_context
        self.output = AudioConverter(context.format.name, self.out_rate, context.layout.name)

    def _heard(self, frame: Any) -> Iterator[Any]:
        """Yield the packets for the next frame of the source."""
        frame.pts = None
        self.heard += frame.samples
        if self.stretch is None or self.samples is None:
            yield from self._encoded(frame)
            return
        for part in self.samples.push(frame):
            yield from self._stretched(self.stretch.push(part.to_ndarray()))

    def _stretched(self, samples: Any) -> Iterator[Any]:
        if samples.shape[1]:
            made = av.AudioFrame.from_ndarray(samples, "fltp", self.made.codec_context.layout.name)
            made.sample_rate = self.rate
            yield from self._encoded(made)

    def _encoded(self, frame: Any) -> Iterator[Any]:
        """Yield the packets for one frame of the output, or with None for the rest."""
        assert self.output is not None
        context = self.made.codec_context
        for made in self.output.push(frame, context):
            made.pts = self.at
            made.time_base = Fraction(1, self.out_rate)
            self.at = (self.at or 0) + made.samples
            yield from self.made.encode(made)

    def flush(self) -> Iterator[Any]:
        """Yield what remains in the stretch, the converters and the encoder."""
        if self.output is None:
            return
        if self.stretch is not None and self.samples is not None:
            for part in self.samples.push(None):
                yield from self._stretched(self.stretch.push(part.to_ndarray()))
            end = round(self.timestamps.out(Fraction(self.heard, self.rate)) * self.rate)
            yield from self._stretched(self.stretch.finish(end))
        yield from self._encoded(None)
        yield from self.made.encode(None)


class AudioConverter:
    """Convert frames of audio to a sample format, rate and channel layout, with a filter graph of libav."""

    def __init__(self, format: str, rate: int, layout: str) -> None:
        self._wanted = f"sample_fmts={format}:sample_rates={rate}:channel_layouts={layout}"
        self._graph: Any = None

    def push(self, frame: Any, context: Any = None) -> Iterator[Any]:
        """Yield what is ready after a frame, or with None the rest; in the frame size of an encoder if one is given."""
        if self._graph is None:
            if frame is None:
                return
            self._open(frame)
        self._graph.push(frame)
        while True:
            try:
                made = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            if context is not None:
                context.open(strict=False)
                if context.frame_size:
                    self._graph.set_audio_frame_size(context.frame_size)
            yield made

    def _open(self, frame: Any) -> None:
        graph = av.filter.Graph()
        said = "channels" not in frame.layout.name
        source = graph.add_abuffer(
            sample_rate=frame.sample_rate,
            format=frame.format.name,
            layout=frame.layout.name if said else None,
            channels=None if said else frame.layout.nb_channels,
            time_base=Fraction(1, frame.sample_rate),
        )
        graph.link_nodes(source, graph.add("aformat", self._wanted), graph.add("abuffersink"))
        graph.configure()
        self._graph = graph


def silence(like: Any, samples: int) -> Any:
    """Return a silent frame of so many samples, in the format of another frame."""
    made = av.AudioFrame(format=like.format.name, layout=like.layout.name, samples=samples)
    quiet = 0x80 if like.format.name.startswith("u8") else 0
    for plane in made.planes:
        plane.update(bytes([quiet]) * plane.buffer_size)
    made.sample_rate = like.sample_rate
    return made


def kept_tags(tags: Any, container: str) -> dict[str, str]:
    """Return the source tags that still hold for the output; handler names only in QuickTime containers."""
    stale: tuple[str, ...] = ("_statistics", "bps-", "duration-", "number_of_")
    if container not in ("mp4", "mov"):
        stale = (*stale, "handler_name")
    kept = {k: v for k, v in tags.items() if k.lower() not in _STALE_TAGS and not k.lower().startswith(stale)}
    if "name" in kept:  # QuickTime's title of a track
        kept.setdefault("title", kept.pop("name"))
    return kept
