"""Decode the packets of one video stream and account for every packet.

libav's frame threading loses errors: a packet that fails yields neither a frame nor an exception, and frames of
neighbouring packets are lost with it. Therefore the timestamps of packets are compared with those of frames. At the
first missing or damaged frame, the packets since the last key frames are decoded again with one thread, which also
decodes the rest: frames and damage do not depend on the number of cores.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import av.error

MAX_REPLAY_BYTES = 256 << 20  # packets kept for replay; a GOP of 4K video takes 5 to 60 MB
RECENT_FRAMES = 64  # more than decoders reorder or delay
# MPEG-4 Part 2 threads hand out a frame before its errors are known, even where no frame is lost
ONE_THREAD = frozenset({"mpeg4"})
N_VOP_BYTES = 8  # MPEG-4 Part 2 packets up to this size are placeholders for packed B-frames


class _Sent(NamedTuple):
    """A packet that was given to the decoder."""

    packet: Any
    skip: bool  # non-reference frames are skipped
    counted: bool  # at or after the first expected frame: an error is damage


class StreamDecoder:
    """Decode the packets of one stream.

    Args:
        codec: libav's name of the codec.
        open_decoder: opens a decoder for the stream; the argument says whether to decode with several threads.
        single: decode with one thread from the start, for sources that cannot be opened again.
        from_start: the packets begin where the file does, and every one of them is expected to give a frame; elsewhere
            (after a seek, in broadcasts) those before the first key frame are not.
    """

    def __init__(
        self, codec: str, open_decoder: Callable[[bool], Any], single: bool = False, from_start: bool = False
    ) -> None:
        single = single or codec in ONE_THREAD
        self._codec = codec
        self._open_decoder = open_decoder
        self._decoder = open_decoder(not single)
        self._single = single  # one thread decodes
        self._sent: deque[_Sent] = deque()
        self._sent_bytes = 0
        self._from_start = from_start
        self._first: int | None = None  # timestamp of the first expected frame, a key frame unless `from_start`
        self._open: list[int] = []  # sorted timestamps of packets whose frames are outstanding
        self._recent: deque[int] = deque(maxlen=RECENT_FRAMES)  # timestamps of the last frames that were handed out
        self._last: Any = None  # the last frame that was handed out
        self._expected = 0  # frames
        self._in_order = True  # timestamps of frames increase; not where they are decoding times (AVI, VC-1)
        self.frames = 0  # handed out
        self.missing: list[int] = []  # timestamps of expected frames that were not decoded
        self.failed: set[int] = set()  # timestamps of packets rejected with an error
        self.concealed: set[int] = set()  # timestamps of frames decoded with errors
        self.broken: set[int] = set()  # timestamps of packets marked by the demuxer as incomplete
        self._packets = 0  # seen; the timestamp of packets without one

    def decode(self, packet: Any, skip: bool = False) -> list[Any]:
        """Decode `packet` and return the frames that are complete, in display order.

        Args:
            packet: the next packet; an empty one ends the stream.
            skip: skip non-reference frames, and do not expect them.
        """
        self._expect(packet, skip)
        if self._single:
            return self._decode_single(packet, skip)
        self._keep(packet, skip)
        if packet.is_corrupt and self._first is not None:
            return self._replay()
        try:
            found = self._send(packet, skip)
        except av.error.EOFError:
            found = []
        except (av.error.FFmpegError, ValueError):
            return self._replay()
        for number, frame in enumerate(found):
            if self._first is not None and (frame.is_corrupt or self._overdue(frame)):
                return found[:number] + self._replay()
            self._record_frame(frame)
        if not packet.size and self._outstanding():
            return found + self._replay()
        return found

    def finish(self) -> None:
        """Count expected frames that were not decoded as missing; call at the end of the stream."""
        self.missing = sorted(self.missing + self._outstanding())
        if not self._in_order:
            del self.missing[max(0, self._expected - self.frames) :]

    def _outstanding(self) -> list[int]:
        """Return the timestamps that have no frame at the end of the stream."""
        last = self._last
        if last is None or not last.interlaced_frame or not last.duration or last.pts is None:
            return list(self._open)
        return [stamp for stamp in self._open if stamp > last.pts + last.duration * 1.25]  # its second field

    def _holds_frame(self, packet: Any) -> bool:
        """Return whether a packet holds a frame that is displayed."""
        if self._codec == "vp8":
            return bool(memoryview(packet)[0] & 0x10)  # show_frame, RFC 6386 section 9.1
        return self._codec != "mpeg4" or packet.size > N_VOP_BYTES

    def _expect(self, packet: Any, skip: bool) -> None:
        if not packet.size:
            return
        self._packets += 1
        if packet.is_corrupt:
            self.broken.add(self._stamp(packet))
        if packet.pts is None:
            if self._first is None and (packet.is_keyframe or self._from_start):
                # without timestamps missing frames cannot be detected: one thread from the start
                self._first = -1
                if not self._sent and not self._single:
                    self._restart()
            return
        if self._first is None:
            if not (packet.is_keyframe or self._from_start):
                return
            self._first = packet.pts
        if packet.pts < self._first or packet.is_discard or skip or not self._holds_frame(packet):
            return
        if packet.pts in self._recent:  # a damaged timestamp
            return
        self._expected += 1
        at = bisect.bisect_left(self._open, packet.pts)
        if at == len(self._open) or self._open[at] != packet.pts:
            self._open.insert(at, packet.pts)

    def _restart(self) -> None:
        self._decoder = self._open_decoder(False)
        self._single = True

    def _keep(self, packet: Any, skip: bool) -> None:
        """Keep the packets from the second-last key frame on, for a replay."""
        self._sent.append(_Sent(packet, skip, self._first is not None))
        self._sent_bytes += packet.size
        if packet.is_keyframe and self._last is not None and self._last.pts is not None:
            keys = [
                n
                for n, sent in enumerate(self._sent)
                if sent.packet.is_keyframe and sent.packet.pts is not None and sent.packet.pts <= self._last.pts
            ]
            for _ in range(keys[-2] if len(keys) > 1 else 0):
                self._sent_bytes -= self._sent.popleft().packet.size
        while self._sent_bytes > MAX_REPLAY_BYTES and len(self._sent) > 1:
            self._sent_bytes -= self._sent.popleft().packet.size

    def _send(self, packet: Any, skip: bool) -> list[Any]:
        self._decoder.skip_frame = "NONREF" if skip else "DEFAULT"
        return list(self._decoder.decode(packet))

    def _decode_single(self, packet: Any, skip: bool) -> list[Any]:
        try:
            found = self._send(packet, skip)
        except av.error.EOFError:
            return []
        except (av.error.FFmpegError, ValueError):
            if self._first is not None:
                self.failed.add(self._stamp(packet))
            return []
        for frame in found:
            self._record_missing(self._overdue(frame))
            if self._first is not None and frame.is_corrupt:
                self.concealed.add(self._stamp(frame))
            self._record_frame(frame)
        return found

    def _stamp(self, item: Any) -> int:
        """Return the timestamp of a packet or frame, or the number of packets so far if it has none."""
        stamps = (item.pts, item.dts, self._packets)
        return next(int(stamp) for stamp in stamps if stamp is not None)

    def _replay(self) -> list[Any]:
        """Decode the kept packets with one thread and return the frames that were not returned yet."""
        last = self._last.pts if self._last is not None else None
        begin = self._sent[0].packet.pts if self._sent else None  # leading frames of an open GOP lack references
        self._restart()
        found = []
        for packet, skip, counted in self._sent:
            try:
                frames = self._send(packet, skip)
            except av.error.EOFError:
                continue
            except (av.error.FFmpegError, ValueError):
                if counted:
                    self.failed.add(self._stamp(packet))
                continue
            for frame in frames:
                if last is not None and frame.pts is not None and frame.pts <= last:
                    # returned before; threads may return a frame before its errors are known
                    if counted and frame.is_corrupt and begin is not None and frame.pts >= begin:
                        self.concealed.add(frame.pts)
                    continue
                self._record_missing(self._overdue(frame))
                if frame.is_corrupt:
                    self.concealed.add(self._stamp(frame))
                self._record_frame(frame)
                found.append(frame)
        self._sent.clear()
        return found

    def _overdue(self, frame: Any) -> list[int]:
        """Return the timestamps before that of this frame that have no frame."""
        if frame.pts is None:
            return []
        early = self._open[: bisect.bisect_left(self._open, frame.pts)]
        last = self._last
        if len(early) == 1 and last is not None and last.pts is not None and last.interlaced_frame:
            # each packet holds one field, and the frame has the timestamp of the first
            share = (early[0] - last.pts) / (frame.pts - last.pts)
            if 0.4 < share < 0.6:
                return []
        return early

    def _record_missing(self, stamps: list[int]) -> None:
        if stamps:
            self.missing += stamps
            gone = set(stamps)
            self._open = [stamp for stamp in self._open if stamp not in gone]

    def _record_frame(self, frame: Any) -> None:
        self.frames += 1
        last = self._last.pts if self._last is not None else None
        if frame.pts is not None:
            if last is not None and frame.pts < last:
                self._in_order = False
                self.missing = [stamp for stamp in self.missing if stamp != frame.pts]
            del self._open[: bisect.bisect_right(self._open, frame.pts)]
            self._recent.append(frame.pts)
        self._last = frame
