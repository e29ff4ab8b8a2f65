"""Write the output in segments, keep them if a run ends early, and join them into the target.

A segment is a file in `OUT.midframe/`. One reader decodes the whole video, so segments need no extra decoding.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch

from midframe import __version__, commit, confidence
from midframe.errors import InputError, Interrupted, JobError, MediaError
from midframe.journal import Journal, fingerprint, folder_of, segments_from_json, segments_to_json, signature, sync
from midframe.models.base import Model
from midframe.options import Options
from midframe.plan import Plan, is_pattern, numbered, report_of
from midframe.result import (
    KIND_LETTERS,
    OLD_LETTERS,
    LowConfidence,
    Result,
    confidence_score,
    read_report,
    report_text,
)
from midframe.types import Frame, Gap, Segment
from midframe.video import mux
from midframe.video.damage import Findings
from midframe.video.images import natural_order
from midframe.video.segment_files import segment_stamps, segment_suffix
from midframe.video.streams import excluded_streams, plan_streams, stream_notes
from midframe.video.writer import Writer, open_writer

MOMENT_SECONDS = Fraction(1, 2)  # of the output; one report covers neighbouring frames
KEPT_LOW = 500


Region = tuple[float, float, float, float]  # left, top, right, bottom, as fractions of the frame


class _Low(NamedTuple):
    """The frame of lowest confidence of a moment."""

    moment: int  # of its segment
    frame: int  # likewise
    share: float
    find_region: Callable[[], Region] | None


class SegmentWriter:
    """Write frames to the file of their segment; a new file begins at each border.

    It also records, for the report, the kinds of frames, scene changes and source frames of each segment.
    """

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        span: range,
        drain: threading.Event,
        source: SourceWatch | None = None,
        findings: Callable[[], Findings] | None = None,
    ) -> None:
        """Prepare to write segments.

        Args:
            plan: plan of the run.
            journal: journal of the target.
            span: numbers of the segments.
            drain: set it to stop when the current segment is finished.
            source: checked before each segment is finished.
            findings: returns the faults of the source that were found so far.
        """
        self.plan = plan
        self.journal = journal
        self.number = span.start
        self._end = span.stop
        self._source = source
        self._findings = findings
        self._recorded = Findings()  # in the records of finished segments
        self.cuts_met = 0
        self._drain = drain
        self._suffix = segment_suffix(plan.encoding)
        self._borders = [s.end for s in plan.segments[:-1] if s.end is not None]
        self._open = contextlib.ExitStack()  # holds the writer of the current segment
        self._writer: Writer | None = None
        self._kinds: list[str] = []
        self._lowest: _Low | None = None  # of the moment at hand
        self._low: list[tuple[int, float, Region | None]] = []  # frame, score and region of earlier moments
        self._cuts: dict[int, list[Fraction]] = {}
        self._decoded: dict[int, int] = {}
        self._sources: dict[int, int] = {}
        self._held: dict[int, list[tuple[Fraction, Fraction]]] = {}

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close an incomplete file."""
        self._open.__exit__(kind, error, trace)

    def count(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Pass the reader's frames through and count them."""
        requested = Segment(self.plan.segments[0].start, self.plan.segments[-1].end)
        for frame in frames:
            if frame.pts in requested:
                home = self._home(frame.pts)
                self._decoded[home] = self._decoded.get(home, 0) + 1
            yield frame

    def watch(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """Pass frames through; count them and record scene changes."""
        requested = Segment(self.plan.segments[0].start, self.plan.segments[-1].end)
        shot: int | None = None
        for frame in frames:
            if frame.pts in requested:
                home = self._home(frame.pts)
                self._sources[home] = self._sources.get(home, 0) + 1
                if shot is not None and frame.shot != shot:
                    self._cuts.setdefault(home, []).append(frame.pts)
                    self.cuts_met += 1
            shot = frame.shot
            yield frame

    def watch_gaps(self, gaps: Iterable[Gap]) -> Iterator[Gap]:
        """Pass gaps through and record the stretches of the source in which a frame is held."""
        requested = Segment(self.plan.segments[0].start, self.plan.segments[-1].end)
        for gap in gaps:
            if gap.held and gap.a.pts in requested:
                held = self._held.setdefault(self._home(gap.a.pts), [])
                stretch = (gap.a.pts, gap.a.pts + gap.held)
                if stretch not in held[-1:]:  # a long gap comes in several pieces
                    held.append(stretch)
            yield gap

    def write(self, frame: Frame) -> None:
        """Write one frame; frames come in order of pts."""
        home = self._home(self.plan.instant(frame.pts))
        while self.number < home:
            self._close_segment()
        if self._writer is None:
            plan, part = self.plan, self.journal.part(self.number, self._suffix)
            self._writer = self._open.enter_context(
                open_writer(
                    part,
                    plan.scaling.output,
                    plan.encoding,
                    rate=plan.rate,
                    tick=plan.tick,
                    start=plan.start,
                    segment=True,
                )
            )
        self._writer.write(frame)
        if frame.confidence is not None and frame.confidence < confidence.LOW:
            moment = int(len(self._kinds) / (self.plan.rate * MOMENT_SECONDS))
            if self._lowest is not None and self._lowest.moment != moment:
                self._end_moment()
            if self._lowest is None or frame.confidence < self._lowest.share:
                self._lowest = _Low(moment, len(self._kinds), frame.confidence, frame.find_region)
        self._kinds.append(KIND_LETTERS[frame.kind])

    def _end_moment(self) -> None:
        """Record the frame of lowest confidence; only then is its region found."""
        if self._lowest is None:
            return
        _, frame, share, find_region = self._lowest
        region = None if find_region is None else displayed(find_region(), self.plan.info.rotation)
        self._low.append((frame, round(confidence_score(share), 4), region))
        self._lowest = None

    def finish(self) -> None:
        """Finish the current segment at the end of the video; later ones stay empty."""
        while self.number < self._end:
            self._close_segment(last=self.number == self._end - 1)

    def _home(self, instant: Fraction) -> int:
        """Return the segment that contains a time of the source."""
        return bisect.bisect_right(self._borders, instant)

    def _close_segment(self, last: bool = False) -> None:
        number = self.number
        self._open.close()  # ends the file; raises errors of its thread
        self._writer = None
        if self._source is not None:
            self._source.check()
        part = self.journal.part(number, self._suffix)
        self._end_moment()
        record: dict[str, Any] = {
            "frames_decoded": self._decoded.pop(number, 0),
            "frames_in": self._sources.pop(number, 0),
            "frames_out": len(self._kinds),
            "packets": len(segment_stamps(part)) if self._suffix and part.exists() else None,
            "kinds": "".join(self._kinds),
            "cuts": [str(at) for at in self._cuts.pop(number, [])],
            "held": [[str(start), str(end)] for start, end in self._held.pop(number, [])],
            "low_confidence": self._low.copy(),
        }
        if self._findings is not None:
            # the reader is ahead: frames that are missing after the segment may only be late
            found = self._findings().without(self._recorded, self.plan.segments[number].end)
            if found:
                record["findings"] = found.to_json()
                self._recorded = self._recorded.merged(found)
        self.journal.finish(number, self._suffix, record)
        self._kinds.clear()
        self._low.clear()
        self.number += 1
        if self._drain.is_set() and not last:
            count = len(self.plan.segments)
            raise Interrupted(f"stopped; {kept(len(self.journal.held(count)), count)}")


def displayed(region: Region, rotation: int) -> Region:
    """Turn a region of the coded frame as a player turns the frame: by so many degrees clockwise."""
    left, top, right, bottom = region
    turned = {90: (1 - bottom, left, 1 - top, right), 180: (1 - right, 1 - bottom, 1 - left, 1 - top),
              270: (top, 1 - right, bottom, 1 - left)}  # fmt: skip
    return turned.get(rotation, region)


def segment_record(journal: Journal, number: int) -> dict[str, Any]:
    """Return the record of a finished segment.

    Raises:
        JobError: it is not.
    """
    record = journal.record(number)
    if record is None:
        raise JobError(f"segment {number} of '{journal.target}' has vanished; give the same command again")
    # records of version 0.1 before November 2026 have other letters and names
    doubts = [[n, round(confidence_score(share), 4)] for n, share in record.get("doubts", [])]
    low = record.get("low_confidence", doubts)
    return {**record, "kinds": str(record["kinds"]).translate(OLD_LETTERS), "low_confidence": low}


class SourceWatch:
    """Detect changes of the source while it is read."""

    def __init__(self, source: Path, known: Mapping[str, Any]) -> None:
        """Compare with `known`, the fingerprint that was recorded when the run began."""
        self._source, self._known = source, known
        self._seen: object = None  # signature of the last version that matched the fingerprint

    def check(self, needed_for: str | None = None) -> None:
        """Raise MediaError if the source has changed, or if it is missing and still `needed_for` something.

        A source that is still being recorded may grow; only its content at the start of the run counts.
        """
        if not os.path.lexists(self._source) and not (is_pattern(self._source) and self._source.parent.is_dir()):
            if needed_for is None:
                return
            raise MediaError(
                f"'{self._source}' is gone since its frames were read, and its {needed_for} is still to be copied; "
                "bring it back and give the same command again"
            )
        seen = signature(self._source)
        if seen == self._seen:
            return
        if fingerprint(self._source, self._known.get("size")) != self._known:
            rest = "" if needed_for is None else f", and its {needed_for} is still to be copied"
            raise MediaError(
                f"'{self._source}' has changed since its frames were read{rest}; bring the earlier version back and "
                "give the same command again, or --no-resume to begin with the new one"
            )
        self._seen = seen


def damaged(plan: Plan, journal: Journal) -> list[int]:
    """Return the numbers of damaged segments and drop them from the journal, so that they are written again."""
    found = [n for n in range(len(plan.segments)) if not journal.intact(n)]
    for number in found:
        journal.drop(number)
    return found


def join(plan: Plan, journal: Journal, seconds: float, made: int, resumed: int, **statistics: float) -> Result:
    """Join finished segments into the target, with a report beside it, and discard the journal.

    Args:
        plan: plan whose segments are all finished, and not `damaged`.
        journal: journal of the segments.
        seconds: duration of this run, for the statistics.
        made: output frames of this run.
        resumed: output frames of earlier runs.
        statistics: further figures for the report.

    Raises:
        JobError: a segment is missing.
        MediaError: a segment is damaged, the source has changed or lacks audio, or the target cannot be written.
        InputError: a file has appeared under the target's name.
    """
    records = [segment_record(journal, n) for n in range(len(plan.segments))]
    files = [journal.folder / r["file"] for r in records if r["file"]]
    images = plan.encoding.container == "images"
    left = {plan.info.video_index, *(stream.index for stream in excluded_streams(plan.info, plan.options))}
    beside = [s.kind for s in plan.info.streams if s.index not in left]
    source = SourceWatch(Path(plan.source), (journal.manifest() or {}).get("source", {}))
    source.check(beside[0] if beside and not images else None)
    if images:
        dropped = stream_notes(plan_streams(plan.info, plan.target, plan.options))
        moves, replaced = _image_moves(files, plan.target)
    else:
        whole = journal.folder / f"whole{plan.target.suffix}"
        counts = [r.get("packets") for r in records if r["file"]]
        dropped = mux.join(files, whole, plan.source, plan.scaling.output, plan.options, counts)
        source.check()
        sync(whole)
        moves, replaced = [(whole.name, plan.target.name)], [plan.target.name] if plan.target.exists() else []
    result = Result(
        path=plan.target,
        report=report_of(plan.target),
        frames_in=sum(r["frames_in"] for r in records),
        frames_out=sum(r["frames_out"] for r in records),
        rate=plan.rate,
        kinds="".join(r["kinds"] for r in records),
        cuts=tuple(Fraction(at) for r in records for at in r["cuts"]),
        held=tuple(Segment(Fraction(a), Fraction(b)) for r in records for a, b in r.get("held", ())),
        warnings=tuple(dict.fromkeys([*plan.info.warnings, *plan.notes, *_warnings(plan, journal, records)])),
        dropped=tuple(dropped),
        low_confidence=_low_confidence(records),
        statistics={
            "seconds": round(seconds, 3),
            "frames_per_second": round(made / seconds, 3),
            "resumed_frames": resumed,
            **statistics,
        },
    )
    mark = commit.content_mark([journal.folder / source for source, _ in moves], [name for _, name in moves])
    text = report_text(plan.to_json(), result, made_from=journal.manifest() or {}, content=mark)
    commit.record_intent(
        journal,
        moves,
        remove=replaced if plan.options.overwrite else [],
        report=(result.report, text),
        mark=mark,
    )
    if not commit.carry_out(journal, plan.options.overwrite):
        raise MediaError(f"'{plan.target}' was changed while it got its name; give the same command again")
    journal.discard()
    return result


def _warnings(plan: Plan, journal: Journal, records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the warnings of all runs that took part in the work."""
    found, frames = Findings(), 0
    for record in records:
        found = found.merged(Findings.from_json(record.get("findings", {})))
        frames += record.get("frames_decoded", record["frames_in"])
    if plan.delivered is not plan.info:  # two fields of each frame
        frames //= 2
    requested = Segment(plan.segments[0].start, plan.segments[-1].end)
    return [*found.texts(plan.info, frames, requested), *journal.remarks()]


def _image_moves(folders: Sequence[Path], target: Path) -> tuple[list[commit.Move], list[str]]:
    """Return the moves of all images to their names, numbered from 1, and earlier images of the same pattern.

    Raises:
        InputError: several images, and the target is one.
    """
    images = [image for folder in folders for image in _images_of(folder)]
    if not is_pattern(target):
        if len(images) != 1:
            raise InputError(f"'{target}' is one image, and {len(images)} were made; try -o '{target.stem}/%06d.png'")
        names = [target.name]
    else:
        names = [target.name % number for number in range(1, len(images) + 1)]
    moves = [
        (f"{image.parent.name}/{image.name}" if image.parent in folders else image.name, name)
        for image, name in zip(images, names, strict=True)
    ]
    return moves, numbered(target)


def _images_of(part: Path) -> list[Path]:
    """Return the images of a segment in order: files in a folder, or one file."""
    return sorted(part.iterdir(), key=natural_order) if part.is_dir() else [part]


def finished_before(plan: Plan, model: Model | None = None) -> Result | None:
    """Return the result of a completed earlier run of the same command; completes its renames if necessary.

    Args:
        plan: plan of this command.
        model: model whose weights must match those of the earlier run; None: not compared.

    Returns:
        None if there is work to do: no output, output of other options, output changed since, or `-y` or
        `--no-resume`.

    Raises:
        JobError: another run holds the target.
        InputError: another file has taken the name of the finished output.
    """
    completed = False
    if folder_of(plan.target).exists():  # leaving the journal removes a folder without finished segments
        with Journal(plan.target) as journal:
            completed = commit.carry_out(journal, plan.options.overwrite)
            if completed:
                journal.discard()
    if not plan.options.resume or (plan.options.overwrite and not completed):
        return None
    try:
        result, report = read_report(report_of(plan.target))
        names = [plan.target.name % n for n in range(1, result.frames_out + 1)] if is_pattern(plan.target) else []
        paths = [plan.target.with_name(name) for name in names] or [plan.target]
        same = report["content"] == commit.content_mark(paths, [path.name for path in paths])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not same or changes(report.get("made_from", {}), identity(plan, model), plan.options, ("midframe", "model")):
        return None
    return result


def _low_confidence(records: Iterable[Mapping[str, Any]]) -> tuple[LowConfidence, ...]:
    """Return the low-confidence frames of all segments, numbered through the video, worst first."""
    found, first = [], 0
    for record in records:
        for frame, score, *region in record["low_confidence"]:  # records of earlier versions have no region
            found.append(LowConfidence(first + frame, score, tuple(region[0]) if region and region[0] else None))
        first += record["frames_out"]
    return tuple(sorted(found, key=lambda low: low.confidence)[:KEPT_LOW])


def weights_digest(model: Model) -> str:
    """Return a hash of all tensors of a model."""
    digest = hashlib.sha256()
    for name, values in model.state_dict().items():
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def identity(plan: Plan, model: Model | None) -> dict[str, Any]:
    """Return all that determines the output of a run, as JSON: source, mask, model, weights, options, segments."""
    source = Path(plan.source)
    return {
        "midframe": __version__,
        "source": fingerprint(source),
        "mask": None if plan.options.mask is None else fingerprint(Path(plan.options.mask))["sha256"],
        "model": [plan.model, plan.device, plan.precision],
        "weights": None if model is None else weights_digest(model),
        "options": plan.options.to_json(),
        "segments": segments_to_json(plan.segments),
    }


def changes(
    theirs: Mapping[str, Any], mine: Mapping[str, Any], options: Options, ignored: Sequence[str] = ()
) -> list[str]:
    """Describe the differences between the identities of two runs; keys in `ignored` are not compared."""
    found = options.differences(theirs.get("options", {}))
    if theirs.get("source") != mine["source"]:
        found.append("the source has changed")
    if theirs.get("mask") != mine["mask"]:
        found.append("the mask has changed")
    if "midframe" not in ignored and theirs.get("midframe") != mine["midframe"]:
        found.append(f"midframe {theirs.get('midframe')}, now {mine['midframe']}")
    if "model" not in ignored and not any(text.startswith("model") for text in found):
        then, now = theirs.get("model") or [None] * 3, mine["model"]
        # on a cluster the workers choose the device, and the plan has auto
        if any(a != b and "auto" not in (a, b) for a, b in zip(then, now, strict=True)):
            found.append(f"on {then}, now {now}")
    if mine["weights"] and theirs.get("weights") and theirs["weights"] != mine["weights"]:
        found.append("other weights")
    return found


def enter(journal: Journal, plan: Plan, model: Model | None = None) -> Plan:
    """Resume the work of an earlier run, or begin a new one.

    Args:
        journal: journal of the target.
        plan: plan of this run.
        model: model whose weights must match those of the earlier run; None if workers load their own.

    Raises:
        JobError: the finished segments are of another source or other options.
    """
    mine = identity(plan, model)
    theirs = journal.manifest()
    left = 0 if theirs is None else len(journal.held(len(theirs.get("segments", ()))))
    if theirs is None or left == 0 or not plan.options.resume:
        journal.begin(mine)
        return plan
    if changed := changes(theirs, mine, plan.options):
        raise JobError(
            f"'{journal.folder}' holds {left} finished segments of another run ({'; '.join(changed)}); give the "
            "command of that run to go on with it, or --no-resume to begin afresh"
        )
    return replace(plan, segments=segments_from_json(theirs["segments"]))


def kept(done: int, segments: int) -> str:
    """Describe the finished segments of a run that ends early."""
    return f"{done} of {segments} segments are finished and kept: the same command goes on from there"


@contextlib.contextmanager
def disk_trouble(target: Path) -> Iterator[None]:
    """Turn disk errors of the block into one clear line.

    Raises:
        MediaError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise MediaError(
                f"the disk of '{target.parent}' is full; finished segments are kept: free some space and give the same "
                "command again"
            ) from error
        raise MediaError(f"'{target}' cannot be written: {error.strerror or error}") from error
