"""A film in, a smoother film out: the one visible loop, segments that survive any end, the result.

The output is made in segments of some hundred pictures, each a file of its own in `OUT.midframe/`. When the last is
whole they are joined at packet level, sound and all else is copied from the source, and the film gets its name by one
rename. One reader runs through the whole film; only the writer changes files at the borders, so segments cost no
decoding, and a run that goes on after a crash starts reading a little before the first border that is left.
"""

from __future__ import annotations

import bisect
import contextlib
import copy
import errno
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from midframe import __version__, compat, shots, timeline
from midframe.engine import Engine
from midframe.errors import InputError, Interrupted, JobError, MediaError, MidframeError
from midframe.journal import Journal, fingerprint, segments_from_json, segments_to_json, write_whole
from midframe.models import load_model
from midframe.models.base import Model
from midframe.models.tiled import Tiled
from midframe.models.vfinet import FlowCuts, Remembering, VFINet
from midframe.options import Options
from midframe.plan import Plan, check_target, make_plan, report_of
from midframe.types import Frame, Gap, Segment, Slot
from midframe.video import concat
from midframe.video.images import probe_sequence, read_sequence
from midframe.video.probe import key_times, probe
from midframe.video.reader import LONGEST_STEP, Reader, open_reader
from midframe.video.writer import Writer, choose_encoder, open_writer

LETTERS = {"source": "s", "made": "m", "held": "h", "repeated": "r"}  # kind of a frame, in `Result.kinds`
ESTIMATE_SIDE = 192  # pixels; of the picture that is made to estimate how long a run takes
SECONDS_PER_PIXEL = 1.5e-8  # decoding, colour and encoding of one output: 30 ms at 1080p on two cores
# Read before the first border of a run: neighbours, the cut detector's window, runs of duplicates, bwdif's fields.
LEAD_FRAMES = 16
LEAD_SECONDS = Fraction(1, 2)
# Made pictures less certain than this are noted, one for each moment; their PSNR was 25 dB in the median.
DOUBTFUL = 0.98
MOMENT_SECONDS = Fraction(1, 2)  # of the output: who looks at one picture sees its neighbours too
MOST_DOUBTS = 500

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is; handed to `on_progress` after every picture."""

    frames: int  # output pictures finished, those of an earlier run included
    total: int | None  # output pictures there will be; None: unknown
    seconds: float  # of work in this run
    fps: float  # output pictures per second of work in this run
    remaining: float | None  # seconds
    segment: int  # 0-based; the one at hand
    segments: int
    cuts: int  # met so far in this run
    pts: Fraction  # seconds; where the latest picture is shown
    stage: str = "frames"  # "frames", then "joining"
    latest: Frame | None = None  # the latest picture; None while joining


@dataclass(frozen=True, slots=True)
class Doubt:
    """A made picture that its neighbours bear out little: where to look first."""

    picture: int  # 0-based, of the output
    certainty: float  # share of it that both neighbours bear out, 0..1


@dataclass(frozen=True, slots=True)
class Result:
    """What a run made. The same stands beside the output as JSON."""

    path: Path
    report: Path  # the JSON file
    frames_in: int
    frames_out: int
    rate: Fraction
    kinds: str  # one letter for every output picture: s source, m made, h held, r repeated
    cuts: tuple[Fraction, ...]  # seconds of the source at which a new shot begins
    warnings: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()  # streams that could not be kept, and why
    statistics: Mapping[str, float] = field(default_factory=dict)  # seconds, fps, resumed pictures
    doubts: tuple[Doubt, ...] = ()  # the least certain picture of each half second that has one below 0.98, worst first


OnPlan = Callable[[Plan], None]
OnProgress = Callable[[Progress], None]


def interpolate(
    src: PathLike,
    dst: PathLike | None = None,
    *,
    network: Model | None = None,
    on_plan: OnPlan | None = None,
    on_progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
    drain: threading.Event | None = None,
    **wishes: Any,
) -> Result:
    """Make a film smoother: read `src`, write `dst` at another rate, everything else kept.

    A run that was ended by anything goes on where it was when it is called again in the same way.

    Args:
        src: a video file.
        dst: the file to make; `clip.60fps.mp4` beside the source if None.
        network: a model of your own in place of the one that `model=` names.
        on_plan: called with the `Plan` before the work.
        on_progress: called with a `Progress` after every picture, in this thread.
        cancel: set it to stop at once; the segment at hand is lost, finished ones stay.
        drain: set it to stop when the segment at hand is finished.
        wishes: options by name, loosely typed (`fps="59.94"`, `start="1:30"`), or `options=Options(...)`.

    Raises:
        InputError: a wish that cannot be meant, or a target that exists.
        MediaError: a file that cannot be read or written.
        WeightsError, DeviceError: the model or the device is not to be had.
        JobError: another run on the same target, or unfinished work that was made otherwise.
        Interrupted: stopped by `cancel` or `drain`; the same call goes on.
    """
    options = options_of(wishes)
    engine = make_engine(options, network)
    plan = _plan_here(src, dst, options, engine)
    check_target(plan.target, Path(src), options.overwrite)
    if on_plan is not None:
        on_plan(plan)
    with disk_trouble(plan.target), Journal(plan.target) as journal:
        run = Run(enter(journal, plan, engine.model), journal, engine, on_progress, cancel, drain)
        try:
            run.make()
            return run.join()
        except (MidframeError, MemoryError) as error:
            if (done := journal.finished(len(run.plan.segments))) and not isinstance(error, Interrupted):
                error.add_note(kept(done, len(run.plan.segments)))
            raise


def options_of(wishes: dict[str, Any]) -> Options:
    """The options from keywords: `options=Options(...)`, or wishes one by one."""
    given = wishes.pop("options", None)
    if given is None:
        return Options.parse(**wishes)
    if wishes:
        raise InputError(f"options= was given, and beside it {', '.join(wishes)}; put all into one")
    if not isinstance(given, Options):
        raise InputError(f"options= takes an Options, not a {type(given).__name__}")
    return given


def make_engine(options: Options, network: Model | None = None) -> Engine:
    """The engine that the options ask for, with a model of the caller's own if there is one."""
    network = network if network is not None else load_model(options.model, options.weights)
    flow_cuts = _cuts_by_flow(options, network)
    if options.compat == "modelscope" and isinstance(network, VFINet):
        network = copy.copy(network)  # shares the weights; the caller's stays as it is
        network.large = "reference"
    engine = Engine(
        network,
        options.device,
        options.precision,
        tile=int(options.tile) if options.tile.isdigit() else options.tile,
        fill=options.scene_fill,
        flow_scale=None if options.flow_scale == "auto" else float(options.flow_scale),
        static=options.static,
        mask=options.mask,
    )
    if flow_cuts and isinstance(engine.model, VFINet):
        engine.model = Remembering(engine.model)  # so that flows are found once for cuts and pictures
    return engine


def _cuts_by_flow(options: Options, network: Model) -> bool:
    """Whether cuts are found by ModelScope's rule, which takes vfinet's flows."""
    if options.scene == "modelscope" and not isinstance(network, VFINet):
        raise InputError(
            f"--scene modelscope goes by vfinet's flows, and the model is {network.name}; try --scene auto"
        )
    return options.scene == "modelscope" or (
        options.scene == "auto" and options.compat == "modelscope" and isinstance(network, VFINet)
    )


def plan_run(
    src: PathLike,
    dst: PathLike | None,
    options: Options,
    *,
    model: str,
    device: str,
    precision: str,
    segment_outputs: int | None = None,
) -> Plan:
    """What a run with this model, on this device in this precision, would do. Writes nothing."""
    info = probe(src, in_rate=options.in_fps)
    return make_plan(
        info,
        dst,
        options,
        keys=partial(key_times, src, info),
        model=model,
        device=device,
        precision=precision,
        segment_outputs=segment_outputs,
    )


def _plan_here(src: PathLike, dst: PathLike | None, options: Options, engine: Engine) -> Plan:
    name, device = engine.model.name, str(engine.device)
    made = plan_run(src, dst, options, model=name, device=device, precision=engine.precision)
    return replace(made, seconds=estimate(made, engine))


def estimate(plan: Plan, engine: Engine) -> float | None:
    """Seconds that a plan will take here, roughly: one small picture is made, and pixels are counted."""
    if plan.frames_out is None or plan.frames_in is None:
        return None
    side = max(ESTIMATE_SIDE, engine.model.min_side)
    dice = torch.Generator().manual_seed(0)
    a = torch.rand(3, side, side, generator=dice)
    b = a.roll(2, 2)
    took = 0.0
    for _ in range(2):  # the first call sets things up
        began = time.perf_counter()
        engine.between(a, b, [0.5])
        took = time.perf_counter() - began
    pixels = plan.info.width * plan.info.height
    made = max(0, plan.frames_out - plan.frames_in)
    return (took * made / (side * side) + SECONDS_PER_PIXEL * plan.frames_out) * pixels


def plan(src: PathLike, dst: PathLike | None = None, *, network: Model | None = None, **wishes: Any) -> Plan:
    """What `interpolate` would do with the same arguments. Writes nothing.

    Raises:
        InputError, MediaError, WeightsError, DeviceError: as `interpolate` would before its work.
    """
    options = options_of(wishes)
    return _plan_here(src, dst, options, make_engine(options, network))


def between_files(a: Path, b: Path, dst: Path, options: Options, *, network: Model | None = None) -> list[Path]:
    """Two pictures in, the one in the middle out; with `ratio` N, a folder or pattern of N - 1 pictures.

    Returns:
        The files or the folder written.

    Raises:
        InputError: the target exists, or several pictures shall go into one file.
        MediaError: a picture cannot be read, or sizes differ.
    """
    ratio = options.ratio or Fraction(2)
    if ratio.denominator != 1 or ratio < 2:
        raise InputError(f"between two pictures --ratio is a whole number from 2 on; {float(ratio):g} was given")
    check_target(dst, a, options.overwrite)
    check_target(dst, b, options.overwrite)
    info = probe_sequence([a, b], Fraction(1))
    left, right = read_sequence(info, [a, b], Segment())
    count = int(ratio) - 1
    slots = tuple(Slot(Fraction(i, count + 1), Fraction(i, count + 1)) for i in range(1, count + 1))
    encoding = choose_encoder(info, dst, options.codec)
    with open_writer(dst, info, encoding, rate=ratio) as writer:
        for frame in make_engine(options, network).run([Gap(left, right, slots)]):
            writer.write(frame)
    return [dst]


class Run:
    """One pass over what is left of a plan."""

    def __init__(
        self,
        plan: Plan,
        journal: Journal,
        engine: Engine,
        on_progress: OnProgress | None,
        cancel: threading.Event | None,
        drain: threading.Event | None,
    ) -> None:
        self.plan = plan
        self.journal = journal
        self.engine = engine
        self.on_progress = on_progress
        self.cancel = cancel if cancel is not None else threading.Event()
        self.drain = drain if drain is not None else threading.Event()
        self.began = time.monotonic()
        self.first = journal.finished(len(plan.segments))  # the segments before this one are done
        self.resumed = sum(segment_record(journal, n)["frames_out"] for n in range(self.first))
        self.made = 0
        self.warnings: list[str] = []

    def make(self) -> None:
        """Make the segments that are not there yet: the heart of the program."""
        plan = self.plan
        if self.first == len(plan.segments):
            return
        todo = Segment(plan.segments[self.first].start, plan.segments[-1].end)
        with reading(plan, todo.start) as frames, SegmentWriter(plan, self.journal, self.first, self.drain) as writer:
            gaps = gaps_of(writer.watch(labelled(frames, plan, self.engine)), plan, self.engine.context, todo)
            for frame in self.engine.run(gaps):
                writer.write(frame)
                self.report(frame, writer)
            writer.finish()
            self.warnings += frames.warnings

    def report(self, frame: Frame, writer: SegmentWriter) -> None:
        """Count a picture, tell who listens, and stop where that is wished."""
        self.made += 1
        if self.on_progress is not None:
            self.on_progress(self._progress("frames", frame.pts, writer.number, writer.cuts_met, frame))
        if self.cancel.is_set():
            raise Interrupted(f"stopped; {kept(writer.number, len(self.plan.segments))}")

    def join(self) -> Result:
        """The segments become one film under its own name, with a report beside it."""
        if self.on_progress is not None:
            self.on_progress(self._progress("joining", self.plan.start, len(self.plan.segments), 0, None))
        return join(self.plan, self.journal, self.warnings, time.monotonic() - self.began, self.made, self.resumed)

    def _progress(self, stage: str, pts: Fraction, segment: int, cuts: int, latest: Frame | None) -> Progress:
        seconds = time.monotonic() - self.began
        frames, total = self.resumed + self.made, self.plan.frames_out
        fps = self.made / seconds if seconds > 0 else 0.0
        remaining = (total - frames) / fps if total is not None and fps > 0 else None
        return Progress(
            frames=frames,
            total=total,
            seconds=seconds,
            fps=fps,
            remaining=None if remaining is None else max(0.0, remaining),
            segment=segment,
            segments=len(self.plan.segments),
            cuts=cuts,
            pts=pts,
            stage=stage,
            latest=latest,
        )


def segment_record(journal: Journal, number: int) -> dict[str, Any]:
    """The record of a segment that must be there.

    Raises:
        JobError: it is not.
    """
    record = journal.record(number)
    if record is None:
        raise JobError(f"segment {number} of '{journal.target}' has vanished; give the same command again")
    return record


def join(
    plan: Plan, journal: Journal, warnings: Iterable[str], seconds: float, made: int, resumed: int, **statistics: float
) -> Result:
    """Finished segments become one film under its own name, with a report beside it; the journal is done.

    Args:
        plan: whose segments are all finished.
        journal: that holds them.
        warnings: met while they were made.
        seconds: of work in this run, for the statistics.
        made: output pictures made in this run.
        resumed: output pictures that were there before.
        statistics: further figures for the report.

    Raises:
        JobError: a segment is missing.
        MediaError: a segment is damaged, the source's sound is gone, or the target cannot be written.
    """
    records = [segment_record(journal, n) for n in range(len(plan.segments))]
    pictures = plan.encoding.container == "pictures"
    left = {plan.info.video_index, *(stream.index for stream in concat.unwanted(plan.info, plan.options))}
    beside = [s for s in plan.info.streams if s.index not in left]
    if beside and not pictures:
        source, known = Path(plan.source), (journal.manifest() or {}).get("source", {})
        # one that is still being recorded has grown: what was there when the run began is what counts
        if not source.exists() or fingerprint(source, known.get("size")) != known:
            what = "has changed" if source.exists() else "is gone"
            raise MediaError(
                f"'{source}' {what} since its pictures were read, and its {beside[0].kind} is still to be copied; "
                "bring it back"
            )
    whole = plan.target if pictures else journal.folder / f"whole.part{plan.target.suffix}"
    dropped = concat.join(
        [journal.folder / r["file"] for r in records if r["file"]], whole, plan.source, plan.info, plan.options
    )
    result = Result(
        path=plan.target,
        report=report_of(plan.target),
        frames_in=sum(r["frames_in"] for r in records),
        frames_out=sum(r["frames_out"] for r in records),
        rate=plan.rate,
        kinds="".join(r["kinds"] for r in records),
        cuts=tuple(Fraction(at) for r in records for at in r["cuts"]),
        warnings=tuple(dict.fromkeys([*plan.info.warnings, *plan.notes, *warnings])),
        dropped=tuple(dropped),
        doubts=_doubts(records),
        statistics={
            "seconds": round(seconds, 3),
            "frames_per_second": round(made / seconds, 3),
            "resumed_frames": resumed,
            **statistics,
        },
    )
    if not pictures:
        os.replace(whole, plan.target)
    write_whole(result.report, report_text(plan, result))
    journal.discard()
    return result


def _doubts(records: Iterable[Mapping[str, Any]]) -> tuple[Doubt, ...]:
    """The doubts of all segments, counted through the film, worst first."""
    found, first = [], 0
    for record in records:
        found += [Doubt(first + picture, certainty) for picture, certainty in record.get("doubts", ())]
        first += record["frames_out"]
    return tuple(sorted(found, key=lambda doubt: doubt.certainty)[:MOST_DOUBTS])


class SegmentWriter:
    """Puts pictures into the segment they belong to: the next file begins where a border is crossed.

    It also keeps what the report says of each segment: kinds of the pictures, cuts, source frames.
    """

    def __init__(self, plan: Plan, journal: Journal, first: int, drain: threading.Event) -> None:
        self.plan = plan
        self.journal = journal
        self.number = first
        self.cuts_met = 0
        self._drain = drain
        self._suffix = "" if plan.encoding.container == "pictures" else concat.SEGMENT_SUFFIX
        self._borders = [s.end for s in plan.segments[:-1] if s.end is not None]
        self._open = contextlib.ExitStack()  # holds the writer of the segment at hand
        self._writer: Writer | None = None
        self._kinds: list[str] = []
        self._doubts: dict[int, tuple[int, float]] = {}  # moment of the segment -> its least certain picture
        self._cuts: dict[int, list[Fraction]] = {}
        self._sources: dict[int, int] = {}

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of a file that is not whole."""
        self._open.__exit__(kind, error, trace)

    def watch(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The same frames; counts them and notes where shots begin."""
        wished = Segment(self.plan.segments[0].start, self.plan.segments[-1].end)
        shot: int | None = None
        for frame in frames:
            if frame.pts in wished:
                home = self._home(frame.pts)
                self._sources[home] = self._sources.get(home, 0) + 1
                if shot is not None and frame.shot != shot:
                    self._cuts.setdefault(home, []).append(frame.pts)
                    self.cuts_met += 1
            shot = frame.shot
            yield frame

    def write(self, frame: Frame) -> None:
        """Write one picture; pictures come in order of pts."""
        home = self._home(self.plan.instant(frame.pts))
        while self.number < home:
            self._close_segment()
        if self._writer is None:
            plan, part = self.plan, self.journal.part(self.number, self._suffix)
            self._writer = self._open.enter_context(
                open_writer(
                    part, plan.info, plan.encoding, rate=plan.rate, tick=plan.tick, start=plan.start, segment=True
                )
            )
        self._writer.write(frame)
        if frame.certainty is not None and frame.certainty < DOUBTFUL:
            moment = int(len(self._kinds) / (self.plan.rate * MOMENT_SECONDS))
            if moment not in self._doubts or frame.certainty < self._doubts[moment][1]:
                self._doubts[moment] = len(self._kinds), round(frame.certainty, 4)
        self._kinds.append(LETTERS[frame.kind])

    def finish(self) -> None:
        """The film is at its end: the segment at hand is whole, and those behind it stay empty."""
        while self.number < len(self.plan.segments):
            self._close_segment(last=True)

    def _home(self, instant: Fraction) -> int:
        """The segment that holds an instant of the source."""
        return bisect.bisect_right(self._borders, instant)

    def _close_segment(self, last: bool = False) -> None:
        number = self.number
        self._open.close()  # ends the file; raises what went wrong in it
        self._writer = None
        record = {
            "frames_in": self._sources.pop(number, 0),
            "frames_out": len(self._kinds),
            "kinds": "".join(self._kinds),
            "cuts": [str(at) for at in self._cuts.pop(number, [])],
            "doubts": list(self._doubts.values()),
        }
        self.journal.finish(number, self._suffix, record)
        self._kinds.clear()
        self._doubts.clear()
        self.number += 1
        if self._drain.is_set() and not last:
            raise Interrupted(f"stopped; {kept(self.number, len(self.plan.segments))}")


@contextlib.contextmanager
def reading(plan: Plan, start: Fraction | None) -> Iterator[Reader]:
    """A reader from a little before `start`: far enough for neighbours and the cut detector, but not from the film's
    first frame unless that is near.
    """
    options, info = plan.options, plan.info
    segment = Segment()
    if start is not None:
        # a variable rate may have a frame that lasts: lead by time, the longest hold the reader believes
        lead = max(LEAD_FRAMES / (info.rate or Fraction(25)), LEAD_SECONDS) + (LONGEST_STEP if info.vfr else 0)
        segment = Segment(start - lead) if start - lead > plan.start else Segment()
    with open_reader(
        plan.source, segment, info=info, strict=options.strict, deinterlace=options.deinterlace == "auto"
    ) as frames:
        yield frames


def gaps_of(frames: Iterator[Frame], plan: Plan, context: int, todo: Segment) -> Iterator[Gap]:
    """Gaps by the clock of the plan."""
    if plan.options.compat == "modelscope":
        assert plan.film.rate is not None  # or there would be no plan
        rates = float(plan.film.rate), float(plan.rate)
        return compat.gaps(frames, *rates, rate=plan.rate, context=context, start=plan.start)
    return timeline.gaps(
        frames, plan.rate, slowmo=plan.slowmo, keep=plan.keep, context=context, segment=todo, start=plan.start
    )


def _detector(options: Options, engine: Engine) -> shots.Detector | None:
    """What finds the cuts."""
    if options.scene == "off":
        return None
    model = engine.model.inner if isinstance(engine.model, Tiled) else engine.model
    network = model.inner if isinstance(model, Remembering) else model
    if _cuts_by_flow(options, network):
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(engine.precision)
        return FlowCuts(model, engine.device, half)
    return shots.Thumbnails(options.scene_threshold)


def labelled(frames: Reader, plan: Plan, engine: Engine) -> Iterator[Frame]:
    """Frames with their clock put right, numbered by shot."""
    info, options = frames.info, plan.options
    stream: Iterator[Frame] = frames
    if info.rate is not None:  # also where frames are left out: those that are there fall on the grid
        stream = timeline.regular(stream, info.rate, info.time_base, plan.start)
    stream = shots.label(stream, _detector(options, engine))
    return shots.dedup(stream) if options.dedup == "auto" else stream


def report_text(plan: Plan, result: Result) -> str:
    """The JSON that stands beside the output."""
    return json.dumps(
        {
            "midframe": __version__,
            "plan": plan.to_json(),
            "output": str(result.path),
            "frames_in": result.frames_in,
            "frames_out": result.frames_out,
            "rate": str(result.rate),
            "statistics": dict(result.statistics),
            "warnings": list(result.warnings),
            "dropped": list(result.dropped),
            "cuts": [str(at) for at in result.cuts],
            "letters": {letter: kind for kind, letter in LETTERS.items()},
            "kinds": result.kinds,
            "doubts": [
                {"picture": d.picture, "seconds": float(d.picture / result.rate), "certainty": d.certainty}
                for d in result.doubts
            ],
        },
        indent=1,
        ensure_ascii=False,
    )


def weights_digest(model: Model) -> str:
    """What tells one set of weights from another: a hash over all tensors of a model."""
    digest = hashlib.sha256()
    for name, values in model.state_dict().items():
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def enter(journal: Journal, plan: Plan, model: Model | None = None) -> Plan:
    """Go on with what an earlier run left, or begin.

    Args:
        journal: the target's.
        plan: what shall be made.
        model: the model at hand, whose weights must be those of the earlier run; None where workers load their own.

    Raises:
        JobError: what is there was made from another source or with other wishes.
    """
    mine = {
        "midframe": __version__,
        "source": fingerprint(Path(plan.source)),
        "mask": None if plan.options.mask is None else fingerprint(Path(plan.options.mask))["sha256"],
        "model": [plan.model, plan.device, plan.precision],
        "weights": None if model is None else weights_digest(model),
        "options": plan.options.to_json(),
        "segments": segments_to_json(plan.segments),
    }
    theirs = journal.manifest()
    left = 0 if theirs is None else len(journal.held(len(theirs.get("segments", ()))))
    if theirs is None or left == 0 or not plan.options.resume:
        journal.begin(mine)
        return plan
    changed = plan.options.differences(theirs.get("options", {}))
    if theirs.get("source") != mine["source"]:
        changed.append("the source has changed")
    if theirs.get("mask") != mine["mask"]:
        changed.append("the mask has changed")
    if theirs.get("midframe") != mine["midframe"]:
        changed.append(f"midframe {theirs.get('midframe')}, now {mine['midframe']}")
    if theirs.get("model") != mine["model"] and not any(text.startswith("model") for text in changed):
        changed.append(f"on {theirs.get('model')}, now {mine['model']}")
    if mine["weights"] and theirs.get("weights") and theirs["weights"] != mine["weights"]:
        changed.append("other weights")
    if changed:
        raise JobError(
            f"'{journal.folder}' holds {left} finished segments of another run ({'; '.join(changed)}); give the "
            "command of that run to go on with it, or --no-resume to begin afresh"
        )
    return replace(plan, segments=segments_from_json(theirs["segments"]))


def kept(done: int, segments: int) -> str:
    """What is said of the work when a run ends before its time."""
    return f"{done} of {segments} segments are finished and kept: the same command goes on from there"


@contextlib.contextmanager
def disk_trouble(target: Path) -> Iterator[None]:
    """What the system says of a disk inside becomes one clear line.

    Raises:
        MediaError: in place of an OSError.
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
