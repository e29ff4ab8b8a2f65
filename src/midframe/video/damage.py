"""Damage of a video file: frames that its container announces against frames that were decoded.

`Findings` lists faults by time, so that passes over parts of a file can be merged: each fault counts once, also where
two passes overlap. `Damage` counts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from midframe.types import Segment, VideoInfo


@dataclass(frozen=True, slots=True)
class Damage:
    """Missing and damaged frames and packets of a range of a file."""

    frames: int = 0  # decoded
    missing: int = 0  # announced by the container, not decoded
    first_missing: Fraction | None = None  # seconds of video time
    failed_packets: int = 0  # rejected by the decoder
    broken_packets: int = 0  # marked as incomplete by the demuxer
    concealed: int = 0  # frames that were decoded with errors
    holes: int = 0  # places at which the structure of the container is broken
    cut_bytes: int = 0  # bytes announced by the container beyond the end of the file

    def __bool__(self) -> bool:
        return replace(self, frames=0, first_missing=None) != Damage()

    def __str__(self) -> str:
        """One line for warnings and errors."""
        parts = []
        if self.missing:
            at = "" if self.first_missing is None else f" (the first at {float(self.first_missing):.3f} s)"
            total = self.frames + self.missing
            verb = "is" if self.missing == 1 else "are"
            parts.append(f"{self.missing:,} of {total:,} frames {verb} missing{at}")
        if self.failed_packets:
            parts.append(f"{_count(self.failed_packets, 'packet')} could not be decoded")
        if self.broken_packets:
            verb = "is" if self.broken_packets == 1 else "are"
            parts.append(f"{_count(self.broken_packets, 'packet')} {verb} incomplete")
        if self.concealed:
            verb = "was" if self.concealed == 1 else "were"
            parts.append(f"{_count(self.concealed, 'frame')} {verb} decoded with errors")
        if self.holes:
            parts.append(f"the container is broken at {_count(self.holes, 'place')}")
        if self.cut_bytes:
            parts.append(f"the file is cut off ({_count(self.cut_bytes, 'byte')} are missing at its end)")
        return "the video is damaged: " + ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Findings:
    """Faults that were found while a file was read. Times are seconds of video time."""

    missing: frozenset[Fraction] = frozenset()  # announced frames that were not decoded
    absent: frozenset[Fraction] = frozenset()  # decoding times of frames in the index of the file without a packet
    failed: frozenset[Fraction] = frozenset()  # packets that the decoder rejected
    broken: frozenset[Fraction] = frozenset()  # packets that the demuxer marked as incomplete
    concealed: frozenset[Fraction] = frozenset()  # frames that were decoded with errors
    reordered: frozenset[Fraction] = frozenset()  # frames whose timestamp was corrected
    jumps: frozenset[Fraction] = frozenset()  # frames before which the clock of the file jumps
    steps: frozenset[tuple[Fraction, int]] = frozenset()  # (frame, frames left out before it) at a constant rate
    remarks: Mapping[str, tuple[Fraction, str]] = field(default_factory=dict)  # topic -> time and text of the first
    untimed: int = 0  # frames in the index of the file without a packet, at unknown times
    late: Fraction = Fraction(0)  # seconds by which the video ends before the end that is announced
    promised_end: Fraction | None = None  # seconds; announced by the header of a truncated file
    holes: int = 0  # places at which the structure of the container is broken
    cut_bytes: int = 0  # bytes announced by the container beyond the end of the file

    def __bool__(self) -> bool:
        return self != Findings()

    def merged(self, other: Findings) -> Findings:
        """Return the faults of two passes; those that both have found count once."""
        remarks = dict(self.remarks)
        for topic, remark in other.remarks.items():
            remarks[topic] = min(remark, remarks.get(topic, remark))
        ends = [end for end in (self.promised_end, other.promised_end) if end is not None]
        sets = {name: getattr(self, name) | getattr(other, name) for name in _COMPARED}
        return Findings(
            **sets,
            remarks=remarks,
            untimed=max(self.untimed, other.untimed),
            late=max(self.late, other.late),
            promised_end=max(ends, default=None),
            holes=max(self.holes, other.holes),
            cut_bytes=max(self.cut_bytes, other.cut_bytes),
        )

    def without(self, known: Findings, end: Fraction | None = None) -> Findings:
        """Return the faults that are not `known` and lie before `end`, in seconds; those of the whole file stay."""

        def new(at: Fraction) -> bool:
            return end is None or at < end

        sets: dict[str, Any] = {
            name: frozenset(at for at in getattr(self, name) - getattr(known, name) if new(at)) for name in _TIMES
        }
        steps = frozenset(step for step in self.steps - known.steps if new(step[0]))
        remarks = {key: remark for key, remark in self.remarks.items() if new(remark[0]) and key not in known.remarks}
        return replace(self, **sets, steps=steps, remarks=remarks)

    def damage(self, source: VideoInfo, frames: int, segment: Segment | None = None) -> Damage:
        """Count the faults.

        Args:
            source: description of the file.
            frames: frames that were decoded.
            segment: range in which missing frames count; None: everywhere.
        """
        times = sorted(at for at in (*self.missing, *self.absent) if segment is None or at in segment)
        missing = len(times) + self.untimed
        first = times[0] if times else None
        # a step of several frames is a fault only where the file is broken; with more of them the rate is variable
        places = self.holes + len(self.broken)
        if places and (not source.vfr or len(self.steps) <= places):
            for pts, left_out in sorted(self.steps):
                # frames of the step that are counted already
                known = sum(pts - (left_out + 1) / source.rate < at < pts for at in times) if source.rate else 0
                missing += max(0, left_out - known)
                first = pts if first is None else min(first, pts)
        if self.late and source.rate and not source.vfr and not (self.absent or self.untimed):
            end = self._end(source)
            known = sum(end - self.late <= at for at in times)
            missing += max(0, round(self.late * source.rate) - known)
            first = end - self.late if first is None else first
        # damaged timestamps may lie anywhere, and behind a jump the clock of the file is not that of the video
        begin, last = min(source.start, Fraction(0)), [*self.jumps]
        if source.duration is not None or self.promised_end is not None:
            last.append(self._end(source))
        if first is not None and (first < begin or any(first > at for at in last)):
            first = None
        return Damage(
            frames=frames,
            missing=missing,
            first_missing=first,
            failed_packets=len(self.failed),
            broken_packets=len(self.broken),
            concealed=len(self.concealed),
            holes=self.holes,
            cut_bytes=self.cut_bytes,
        )

    def _end(self, source: VideoInfo) -> Fraction:
        return self.promised_end or source.start + (source.duration or 0)

    def texts(self, source: VideoInfo, frames: int, segment: Segment | None = None) -> tuple[str, ...]:
        """Describe the faults, one line each; arguments as of `damage`."""
        lines = [text for _, text in sorted(self.remarks.values())]
        if self.reordered:
            lines.append(reordered_text(len(self.reordered)))
        if self.jumps:
            lines.append(jumps_text(len(self.jumps)))
        if damage := self.damage(source, frames, segment):
            lines.append(str(damage))
        return tuple(lines)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; without those that are empty."""
        made: dict[str, Any] = {name: [str(at) for at in sorted(getattr(self, name))] for name in _TIMES}
        made["steps"] = [[str(pts), left_out] for pts, left_out in sorted(self.steps)]
        made["remarks"] = {topic: [str(at), text] for topic, (at, text) in self.remarks.items()}
        made |= {name: getattr(self, name) for name in _COUNTS}
        made["late"] = str(self.late) if self.late else ""
        made["promised_end"] = "" if self.promised_end is None else str(self.promised_end)
        return {name: value for name, value in made.items() if value}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Findings:
        """Return the findings that `to_json` wrote."""
        times: dict[str, Any] = {name: _times(record.get(name, ())) for name in _TIMES}
        counts: dict[str, Any] = {name: record.get(name, 0) for name in _COUNTS}
        return cls(
            **times,
            **counts,
            steps=frozenset((Fraction(pts), left_out) for pts, left_out in record.get("steps", ())),
            remarks={topic: (Fraction(at), text) for topic, (at, text) in record.get("remarks", {}).items()},
            late=Fraction(record.get("late", 0)),
            promised_end=Fraction(record["promised_end"]) if "promised_end" in record else None,
        )


_TIMES = ("missing", "absent", "failed", "broken", "concealed", "reordered", "jumps")
_COMPARED = (*_TIMES, "steps")
_COUNTS = ("untimed", "holes", "cut_bytes")


def _times(texts: Iterable[str]) -> frozenset[Fraction]:
    return frozenset(Fraction(text) for text in texts)


def reordered_text(frames: int) -> str:
    """Say that timestamps were corrected."""
    return f"{frames} frame(s) had timestamps out of order, which were corrected"


def jumps_text(jumps: int) -> str:
    """Say that the clock of a file jumps."""
    return f"the clock of the file jumps {jumps} time(s); the video goes on without a gap"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
