"""Damage of a video file: frames that its container announces against frames that were decoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction


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


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
