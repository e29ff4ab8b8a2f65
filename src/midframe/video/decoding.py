"""Packets of one video stream to frames, with an account of every packet.

libav decodes several frames at a time, one thread each, and then loses errors: a packet that fails yields neither a
frame nor an exception, and neighbours that one thread decodes are lost with it. So the account compares the time
stamps of packets with those of frames. At the first frame that is missing or damaged, the packets since the last key
frames are decoded again by one thread, which also decodes the rest: the frames and the damage do not depend on the
number of cores.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import av.error

MAX_REPLAY_BYTES = 256 << 20  # of packets kept to be decoded again; a group of pictures of 4K video takes 5 to 60 MB
N_VOP_BYTES = 8  # a packet of MPEG-4 Part 2 this small holds no frame: it stands for one packed with another


class _Sent(NamedTuple):
    """A packet that was given to the decoder."""

    packet: Any
    skip: bool  # frames to which no other frame refers are left out
    counted: bool  # it comes with the first key frame or later: an error is damage


class StreamDecoder:
    """Decode the packets of one stream.

    Args:
        codec: libav's name of the codec.
        open_decoder: opens a decoder for the stream; the argument says whether to decode with several threads.
        single: decode with one thread from the start, for sources that cannot be opened again.
    """

    def __init__(self, codec: str, open_decoder: Callable[[bool], Any], single: bool = False) -> None:
        self._codec = codec
        self._open_decoder = open_decoder
        self._decoder = open_decoder(not single)
        self._single = single  # one thread decodes
        self._sent: deque[_Sent] = deque()
        self._sent_bytes = 0
        self._first: int | None = None  # time stamp of the first key frame: what is shown earlier is not promised
        self._open: list[int] = []  # sorted time stamps of packets whose frames have not come yet
        self._last: Any = None  # the last frame that was handed out
        self._promised = 0  # frames
        self._in_order = True  # time stamps of frames rise, as they do not where they are those of decoding (AVI, VC-1)
        self.frames = 0  # handed out
        self.missing: list[int] = []  # time stamps of promised frames that never came, of one thread's decoding
        self.failed_packets = 0  # rejected with an error
        self.concealed = 0  # frames decoded with errors
        self.broken_packets = 0  # marked by the demuxer as incomplete

    def decode(self, packet: Any, skip: bool = False) -> list[Any]:
        """Frames that are complete once `packet` is decoded, in order of display.

        Args:
            packet: the next packet; an empty one ends the stream.
            skip: leave out frames to which no other frame refers, without a promise of them.
        """
        self._promise(packet, skip)
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
            self._arrived(frame)
        if not packet.size and self._never_came():
            return found + self._replay()
        return found

    def finish(self) -> None:
        """Count frames that were promised and have not come as missing; call at the end of the stream."""
        self.missing = sorted(self.missing + self._never_came())
        if not self._in_order:
            del self.missing[max(0, self._promised - self.frames) :]

    def _never_came(self) -> list[int]:
        """Time stamps for which no frame came by the end of the stream."""
        last = self._last
        if last is None or not last.interlaced_frame or not last.duration or last.pts is None:
            return list(self._open)
        return [stamp for stamp in self._open if stamp > last.pts + last.duration * 1.25]  # its second field

    def _holds_frame(self, packet: Any) -> bool:
        """Whether a frame to be shown is in a packet."""
        if self._codec == "vp8":
            return bool(memoryview(packet)[0] & 0x10)  # show_frame, RFC 6386 section 9.1
        return self._codec != "mpeg4" or packet.size > N_VOP_BYTES

    def _promise(self, packet: Any, skip: bool) -> None:
        if not packet.size:
            return
        self.broken_packets += packet.is_corrupt
        if packet.pts is None:
            if self._first is None and packet.is_keyframe:
                # without time stamps no missing frame can be recognised: one thread from the start
                self._first = -1
                if not self._sent and not self._single:
                    self._restart()
            return
        if self._first is None:
            if not packet.is_keyframe:
                return
            self._first = packet.pts
        if packet.pts < self._first or packet.is_discard or skip or not self._holds_frame(packet):
            return
        self._promised += 1
        at = bisect.bisect_left(self._open, packet.pts)
        if at == len(self._open) or self._open[at] != packet.pts:
            self._open.insert(at, packet.pts)

    def _restart(self) -> None:
        self._decoder = self._open_decoder(False)
        self._single = True

    def _keep(self, packet: Any, skip: bool) -> None:
        """Remember the packets from the key frame before the last one whose frame was handed out."""
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
                self.failed_packets += 1
            return []
        for frame in found:
            self._miss(self._overdue(frame))
            if self._first is not None and frame.is_corrupt:
                self.concealed += 1
            self._arrived(frame)
        return found

    def _replay(self) -> list[Any]:
        """Decode the remembered packets with one thread; frames that were not handed out yet."""
        last = self._last.pts if self._last is not None else None
        self._restart()
        found = []
        for packet, skip, counted in self._sent:
            try:
                frames = self._send(packet, skip)
            except av.error.EOFError:
                continue
            except (av.error.FFmpegError, ValueError):
                self.failed_packets += counted
                continue
            for frame in frames:
                if last is not None and frame.pts is not None and frame.pts <= last:
                    continue
                self._miss(self._overdue(frame))
                if frame.is_corrupt:
                    self.concealed += 1
                self._arrived(frame)
                found.append(frame)
        self._sent.clear()
        return found

    def _overdue(self, frame: Any) -> list[int]:
        """Time stamps before this frame's for which no frame came."""
        if frame.pts is None:
            return []
        early = self._open[: bisect.bisect_left(self._open, frame.pts)]
        last = self._last
        if len(early) == 1 and last is not None and last.pts is not None and last.interlaced_frame:
            # two packets hold a field each, and the frame has the time stamp of the first
            share = (early[0] - last.pts) / (frame.pts - last.pts)
            if 0.4 < share < 0.6:
                return []
        return early

    def _miss(self, stamps: list[int]) -> None:
        if stamps:
            self.missing += stamps
            gone = set(stamps)
            self._open = [stamp for stamp in self._open if stamp not in gone]

    def _arrived(self, frame: Any) -> None:
        self.frames += 1
        last = self._last.pts if self._last is not None else None
        if frame.pts is not None:
            if last is not None and frame.pts < last:
                self._in_order = False
                self.missing = [stamp for stamp in self.missing if stamp != frame.pts]
            del self._open[: bisect.bisect_right(self._open, frame.pts)]
        self._last = frame
