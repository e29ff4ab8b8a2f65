"""Interpolate a video: plan, read, interpolate, write; the one visible loop.

The output is written in segments of some hundred frames, each a file in `OUT.midframe/` (`segments.py`). Complete
segments are joined at packet level, audio and other streams are copied from the source, and one rename publishes the
video. One reader decodes the whole video, so segments need no extra decoding; a resumed run starts reading a little
before the first missing segment.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Unpack, cast

import torch

from midframe import compat, machine_speed, shots, timeline
from midframe.engine import Engine
from midframe.errors import InputError, Interrupted, MediaError, MidframeError
from midframe.journal import Journal
from midframe.models import load_model
from midframe.models.base import Model
from midframe.options import OptionKeywords, Options
from midframe.plan import Plan, check_target, is_pattern, pattern_of
from midframe.planning import estimate, plan_run, run_speed
from midframe.result import OnProgress, Progress, Result
from midframe.segments import (
    SegmentWriter,
    SourceWatch,
    damaged,
    disk_trouble,
    enter,
    finished_before,
    join,
    kept,
    segment_record,
)
from midframe.types import Frame, Gap, Segment, Slot, VideoInfo
from midframe.video.containers import container_of
from midframe.video.encoders import choose_encoder
from midframe.video.images import probe_sequence, read_sequence
from midframe.video.reader import LONGEST_STEP, Reader, open_reader
from midframe.video.scaling import Scaling
from midframe.video.writer import open_writer

# Read before the first border of a run: neighbours, the window of the scene-change detector, runs of duplicates,
# bwdif's fields.
LEAD_FRAMES = 16
LEAD_SECONDS = Fraction(1, 2)

REPAIRS = 3  # attempts to rewrite damaged segments before the disk is considered faulty

PathLike = str | os.PathLike[str]


OnPlan = Callable[[Plan], None]


def interpolate(
    src: PathLike,
    dst: PathLike | None = None,
    *,
    network: Model | None = None,
    planned: Plan | None = None,
    on_plan: OnPlan | None = None,
    on_progress: OnProgress | None = None,
    cancel: threading.Event | None = None,
    drain: threading.Event | None = None,
    **keywords: Unpack[OptionKeywords],
) -> Result:
    """Interpolate a video: write `src` to `dst` at another frame rate and keep everything else.

    An interrupted run resumes when it is called again with the same arguments; a finished one is recognised and returns
    at once (`Result.finished_before`).

    Args:
        src: a video file, a folder of images, or a pattern such as `shot_%04d.png`.
        dst: the file to write; `clip.60fps.mp4` beside the source if None.
        network: a model of your own that replaces `model`.
        planned: the plan of this run, of `planning.plan_without_torch`; made here if None.
        on_plan: called with the `Plan` before the run.
        on_progress: called with a `Progress` after every frame, in this thread.
        cancel: set it to stop at once; the current segment is lost, finished ones stay.
        drain: set it to stop when the current segment is finished.
        options: an `Options`, instead of the keywords below.
        fps: output rate; 60, "59.94", "60000/1001". The duration is kept.
        ratio: output rate over input rate; 2 if neither is given.
        slowmo: slow-motion factor, at the rate of the source or at `fps`.
        speed: ranges of the source and their speeds: "0-2:1, 2-4:1>0.25, 4-:0.25".
        slow_audio: "drop" or "stretch" (pitch kept) audio where the speed changes; "auto" drops it with `slowmo` and
            stretches it with `speed`.
        shutter: motion blur over so many degrees of the frame interval, 0 to 360.
        loop: the last frame leads to the first.
        in_fps: rate of an image sequence; 24 if None.
        scene: detect scene changes: "auto", "off", or "modelscope" (its rule, with vfinet).
        scene_threshold: 0 to 1; lower finds more.
        scene_fill: frames across a scene change: "hold", "nearest", "blend".
        dedup: "auto" replaces duplicates by interpolated frames; "off".
        static: "auto" finds static overlays (logo, subtitle, HUD) and keeps them; "off".
        mask: path of an image; white is kept as in the nearest source frame.
        model: name; see `midframe models list`.
        weights: local folder or file with the model's weights.
        flow_scale: scale at which optical flow is estimated: "auto", "1", "0.5", "0.25".
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: of the convolutions: "auto", "fp32", "bf16", "fp16".
        runtime: of the network: "auto", "torch", "openvino" (rife on Intel CPUs).
        tile: "auto" (if memory runs out), "off", or the side in pixels.
        start: where to begin; seconds or "1:30".
        end: where to stop, on the same clock; the range is half-open.
        preview: "5@00:10" is five seconds from 0:10 on, in place of `start` and `end`.
        codec: encoder: "auto", "libx264", "libx265", "libsvtav1" ...
        crf: quality; lower is better and larger.
        preset: speed of the encoder, by its own names.
        pix_fmt: pixel format; "auto" keeps the source's.
        encoder: further options of the encoder, as a mapping or "key=value" texts.
        audio: keep audio.
        subtitles: keep subtitles.
        chapters: keep chapters.
        scale: size of the output as displayed: "1280x720", or "1280:-2" to keep the shape.
        max_size: pixels of the longer side at most.
        deinterlace: "auto" (to the field rate) or "off".
        vfr: "cfr", or "keep" to keep source timestamps and interpolate between them.
        compat: "modelscope" for its clock and frame count; "off".
        resume: continue unfinished work.
        overwrite: replace an existing file.
        strict: refuse a damaged source.

    Raises:
        InputError: an invalid option, or a target that exists.
        MediaError: a file that cannot be read or written.
        WeightsError, DeviceError: the model or the device is not available.
        JobError: another run on the same target, or unfinished work of other options.
        Interrupted: stopped by `cancel` or `drain`; the same call resumes.
    """
    options = options_of(cast(dict[str, Any], keywords))
    engine = make_engine(options, network)
    plan = planned or _plan_here(src, dst, options, engine)
    with disk_trouble(plan.target):
        if (finished := finished_before(plan, engine.model)) is not None:
            return finished
    check_target(plan.target, Path(src), options.overwrite)
    if on_plan is not None:
        on_plan(plan)
    with disk_trouble(plan.target), Journal(plan.target) as journal:
        run = Run(enter(journal, plan, engine.model), journal, engine, on_progress, cancel, drain)
        try:
            run.make()
            return run.join()
        except (MidframeError, MemoryError) as error:
            if (done := journal.held(len(run.plan.segments))) and not isinstance(error, Interrupted):
                error.add_note(kept(len(done), len(run.plan.segments)))
            raise


def options_of(keywords: dict[str, Any]) -> Options:
    """Return the options given as `options=Options(...)` or as keywords."""
    given = keywords.pop("options", None)
    if given is None:
        return Options.parse(**keywords)
    if keywords:
        raise InputError(f"options= was given together with {', '.join(keywords)}; put all into one")
    if not isinstance(given, Options):
        raise InputError(f"options= takes an Options, not a {type(given).__name__}")
    return given


def make_engine(options: Options, network: Model | None = None) -> Engine:
    """Create the engine for these options, with `network` as its model if given."""
    network = network if network is not None else load_model(options.model, options.weights)
    by_model = _scene_rule_of_model(options, network)
    if options.compat == "modelscope":
        network = network.as_published()
    engine = Engine(
        network,
        options.device,
        options.precision,
        tile=int(options.tile) if options.tile.isdigit() else options.tile,
        fill=options.scene_fill,
        flow_scale=None if options.flow_scale == "auto" else float(options.flow_scale),
        runtime=options.runtime,
        static=options.static,
        mask=options.mask,
    )
    if by_model:
        engine.model = engine.model.memoised()  # flows are estimated once for scene changes and frames
    return engine


def _scene_rule_of_model(options: Options, network: Model) -> bool:
    """Return whether the model's own rule finds scene changes, instead of `shots.Thumbnails`.

    Raises:
        InputError: a rule that this model does not have.
    """
    if options.scene == "auto":
        return options.compat != "off" and network.scene_rule == options.compat
    if options.scene == "off" or network.scene_rule == options.scene:
        return options.scene != "off"
    raise InputError(f"--scene {options.scene} is a rule that model {network.name} does not have; try --scene auto")


def _plan_here(src: PathLike, dst: PathLike | None, options: Options, engine: Engine) -> Plan:
    name, device = engine.model.name, str(engine.device)
    made = plan_run(src, dst, options, model=name, device=device, precision=engine.precision)
    return replace(made, seconds=estimate(made))


def plan(
    src: PathLike, dst: PathLike | None = None, *, network: Model | None = None, **keywords: Unpack[OptionKeywords]
) -> Plan:
    """Plan the run that `interpolate` would do with the same arguments. Writes nothing.

    Raises:
        InputError, MediaError, WeightsError, DeviceError: as `interpolate` before its run.
    """
    options = options_of(cast(dict[str, Any], keywords))
    return _plan_here(src, dst, options, make_engine(options, network))


def finished(src: PathLike, dst: PathLike | None, options: Options) -> Result | None:
    """Return the result of an earlier run with these arguments if it is complete and unchanged, else None.

    Weights are compared by the name of the model alone.
    """
    asked = replace(options, overwrite=False)
    made = plan_run(src, dst, asked, model=options.model, device=options.device, precision=options.precision)
    return finished_before(made)


def between_files(a: Path, b: Path, dst: Path, options: Options, *, network: Model | None = None) -> list[Path]:
    """Interpolate one image between two; with `ratio` N, a folder or pattern of N - 1 images.

    Returns:
        The files or the folder written.

    Raises:
        InputError: the target exists, or several images for one file.
        MediaError: an image cannot be read, or sizes differ.
    """
    ratio = options.ratio or Fraction(2)
    if ratio.denominator != 1 or ratio < 2:
        raise InputError(f"between two images --ratio is a whole number from 2 on; {float(ratio):g} was given")
    if ratio > 2 and container_of(dst) == "images" and not is_pattern(dst) and not dst.is_dir():
        count = int(ratio) - 1
        raise InputError(f"'{dst}' is one image, and --ratio {int(ratio)} gives {count}; try -o '{pattern_of(dst)}'")
    check_target(dst, a, options.overwrite)
    check_target(dst, b, options.overwrite)
    info = probe_sequence([a, b], Fraction(1))
    scaling = Scaling.of(info, options)
    left, right = scaling.before(iter(read_sequence(info, [a, b], Segment())))
    count = int(ratio) - 1
    slots = tuple(Slot(Fraction(i, count + 1), Fraction(i, count + 1)) for i in range(1, count + 1))
    encoding = choose_encoder(scaling.output, dst, options.codec)
    with open_writer(dst, scaling.output, encoding, rate=ratio) as writer:
        for frame in scaling.after(make_engine(options, network).run([Gap(left, right, slots)])):
            writer.write(frame)
    return [dst]


class Run:
    """Process the unfinished segments of a plan."""

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
        self.source = SourceWatch(Path(plan.source), (journal.manifest() or {}).get("source", {}))
        self.resumed = sum(segment_record(journal, n)["frames_out"] for n in journal.held(len(plan.segments)))
        self.made = 0
        self.computing = 0.0  # seconds in which frames were made

    def make(self) -> None:
        """Write all missing segments."""
        for span in missing_spans(self.journal.held(len(self.plan.segments)), len(self.plan.segments)):
            self._make_span(span)

    def _make_span(self, span: range) -> None:
        plan = self.plan
        todo = Segment(plan.segments[span.start].start, plan.segments[span.stop - 1].end)
        with (
            reading(plan, todo.start) as frames,
            SegmentWriter(plan, self.journal, span, self.drain, self.source, frames.findings) as writer,
        ):
            source = labelled(writer.count(frames), frames.info, plan, self.engine)
            gaps = gaps_of(writer.watch(source), plan, self.engine.context, todo)
            began = time.monotonic()
            for frame in plan.scaling.after(self.engine.run(writer.watch_gaps(gaps))):
                writer.write(frame)
                self.report(frame, writer)
            writer.finish()
            self.computing += time.monotonic() - began

    def report(self, frame: Frame, writer: SegmentWriter) -> None:
        """Count a frame, report progress, and stop if `cancel` is set."""
        self.made += 1
        if self.on_progress is not None:
            self.on_progress(self._progress("frames", frame.pts, writer.number, writer.cuts_met, frame))
        if self.cancel.is_set():
            count = len(self.plan.segments)
            raise Interrupted(f"stopped; {kept(len(self.journal.held(count)), count)}")

    def join(self) -> Result:
        """Join the segments into the target, with a report beside it; damaged ones are rewritten first.

        Raises:
            MediaError: segments are damaged again and again.
        """
        if self.on_progress is not None:
            self.on_progress(self._progress("joining", self.plan.start, len(self.plan.segments), 0, None))
        for _ in range(REPAIRS):
            lost = damaged(self.plan, self.journal)
            if not lost:
                break
            names = ", ".join(f"{number:05d}" for number in lost)
            self.journal.remark(f"damaged after it was written, and written again: segment {names}")
            self.make()
            self.resumed = max(0, sum(self._frames(n) for n in range(len(self.plan.segments))) - self.made)
        else:
            raise MediaError(
                f"segment {lost[0]:05d} of '{self.journal.folder}' is damaged on the disk again and again; check the "
                "disk, or give another -o"
            )
        seconds = time.monotonic() - self.began
        result = join(self.plan, self.journal, seconds, self.made, self.resumed)
        if self.made:
            speed = run_speed(self.plan, self.computing / self.made)
            machine_speed.record(speed, round(self.made * speed.interpolated))
        return result

    def _frames(self, number: int) -> int:
        return int(segment_record(self.journal, number)["frames_out"])

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


def missing_spans(held: set[int], count: int) -> Iterator[range]:
    """Yield ranges of consecutive segments, of `count` in all, that are not in `held`."""
    first: int | None = None
    for number in range(count + 1):
        missing = number < count and number not in held
        if missing and first is None:
            first = number
        elif not missing and first is not None:
            yield range(first, number)
            first = None


@contextlib.contextmanager
def reading(plan: Plan, start: Fraction | None) -> Iterator[Reader]:
    """Open a reader that starts before `start`, early enough for neighbours and the scene-change detector."""
    options, info = plan.options, plan.info
    segment = Segment()
    if start is not None:
        lead = max(LEAD_FRAMES / (info.rate or Fraction(25)), LEAD_SECONDS)
        lead += plan.shutter / plan.rate  # an opening begins before its output
        if info.vfr:  # frames may last: lead by time
            lead += max(LONGEST_STEP, 2 * timeline.NEIGHBOURHOOD)
        segment = Segment(start - lead) if start - lead > plan.start else Segment()
    with open_reader(
        plan.source, segment, info=info, strict=options.strict, deinterlace=options.deinterlace == "auto"
    ) as frames:
        yield frames


def gaps_of(frames: Iterator[Frame], plan: Plan, context: int, todo: Segment) -> Iterator[Gap]:
    """Yield the gaps between source frames with their output times."""
    if plan.options.compat == "modelscope":
        assert plan.delivered.rate is not None  # or there would be no plan
        rates = float(plan.delivered.rate), float(plan.rate)
        return compat.gaps(frames, *rates, rate=plan.rate, context=context, start=plan.start)
    return timeline.gaps(
        _looped(frames, plan) if plan.options.loop else frames,
        plan.rate,
        slowmo=plan.speed if plan.options.speed else plan.slowmo,
        keep=plan.keep,
        context=context,
        segment=todo,
        start=plan.start,
        playback=timeline.Playback(_holds(plan.delivered), plan.shutter, plan.options.loop),
    )


def _looped(frames: Iterator[Frame], plan: Plan) -> Iterator[Frame]:
    """Append the first frame of the source to its last ones."""
    options = plan.options

    def same_shot(recent: Sequence[Frame]) -> bool:
        if options.scene == "off":
            return True
        return not [begins for _, begins in shots.Thumbnails(options.scene_threshold).mark(recent)][-1]

    with reading(plan, None) as start:
        first = next(plan.scaling.before(start))
    yield from timeline.looped(frames, first, same_shot)


def _holds(video: VideoInfo) -> timeline.Holds | None:
    """Return how long gaps of a source are detected; missing numbers of an image sequence are always interpolated."""
    if video.numbered:
        return None
    constant = None if video.vfr or video.rate is None else 1 / video.rate
    return timeline.Holds(constant, video.time_base)


def _detector(options: Options, engine: Engine) -> shots.Detector | None:
    """Return the scene-change detector for these options."""
    if options.scene == "off":
        return None
    if _scene_rule_of_model(options, engine.model):
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(engine.precision)
        return engine.model.scene_detector(engine.device, half)
    return shots.Thumbnails(options.scene_threshold)


def labelled(stream: Iterator[Frame], info: VideoInfo, plan: Plan, engine: Engine) -> Iterator[Frame]:
    """Yield frames with regular timestamps and shot numbers; `info` describes the frames as the reader yields them."""
    options = plan.options
    stream = plan.scaling.before(stream)
    if info.rate is not None:  # also with dropped frames: the others lie on the grid
        stream = timeline.regular(stream, info.rate, info.time_base, plan.start)
    stream = shots.label(stream, _detector(options, engine))
    return shots.dedup(stream) if options.dedup == "auto" else stream
