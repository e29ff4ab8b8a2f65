"""Report the progress of a run: a bar on a terminal, plain lines in a log, JSON lines for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from midframe.plan import Plan
    from midframe.result import Progress, Result
    from midframe.streaming import StreamPlan, StreamResult

PLAIN_SECONDS = 10.0  # between two plain lines
JSON_SECONDS = 0.5  # between two JSON lines
SHOWN_LOW = 5  # frames of low confidence shown; the report has more


class Reporter:
    """Print nothing (`-q`); base class of the reporters. A context manager around one run."""

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the terminal."""

    def plan(self, plan: Plan | StreamPlan) -> None:
        """Report the plan, before the run."""

    def progress(self, progress: Progress) -> None:
        """Report progress, after every frame."""

    def result(self, result: Result) -> None:
        """Report the result."""

    def note(self, text: str) -> None:
        """Show a note to the user."""

    def failure(self, source: str, error: Exception) -> None:
        """Report the failure of one of several inputs."""
        click.echo(f"midframe: {error_text(error)}", err=True)


class Plain(Reporter):
    """Print lines: the plan, progress every few seconds, the result."""

    def __init__(self, seconds: float = PLAIN_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._last: float | None = None
        self._shown: set[str] = set()

    def plan(self, plan: Plan | StreamPlan) -> None:
        """Print the plan and its notes."""
        self.note(f"{plan.source} -> {plan.target}")
        self.note(str(plan))
        for text in (*plan.info.warnings, *getattr(plan, "notes", ())):
            self.note(f"note: {text}")

    def progress(self, progress: Progress) -> None:
        """Print a line every few seconds."""
        now = self._clock()
        if self._last is None:
            self._last = now
        if now - self._last < self._seconds:
            return
        self._last = now
        self.note(progress_text(progress))

    def result(self, result: Result) -> None:
        """Print the result, warnings and dropped streams."""
        for text in result.warnings:
            if text not in self._shown:
                self.note(f"warning: {text}")
        for text in result.dropped:
            if text not in self._shown:
                self.note(f"note: {text}")
        self.note(result_text(result))

    def note(self, text: str) -> None:
        """Print one line on stderr."""
        self._shown.add(text.removeprefix("note: "))
        click.echo(text, err=True)


class Bar(Plain):
    """Show a bar with rate and remaining time, on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as Columns

        self._bar = Columns(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[details]}"),
            console=Console(stderr=True), transient=True, refresh_per_second=5,
        )  # fmt: skip
        self._task: Any = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self._bar.stop()

    def progress(self, progress: Progress) -> None:
        """Move the bar."""
        if self._task is None:
            self._task = self._bar.add_task("", total=progress.total, details="")
            self._bar.start()
        self._bar.update(
            self._task,
            completed=progress.frames,
            description="joining" if progress.stage == "joining" else f"{progress.frames:,}".replace(",", " "),
            details=details(progress),
        )

    def result(self, result: Result) -> None:
        """Remove the bar, then print the result."""
        self._bar.stop()
        super().result(result)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self._shown.add(text.removeprefix("note: "))
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Json(Reporter):
    """Print one JSON object per line on stdout: {"event": "plan" | "progress" | "note" | "result" | "error", ...}."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None

    def plan(self, plan: Plan | StreamPlan) -> None:
        """Print the plan as in the report, and as one line."""
        self._say("plan", text=str(plan), **plan.to_json())

    def progress(self, progress: Progress) -> None:
        """Print at most twice a second; always the first and the joining stage."""
        now = self._clock()
        if self._last is not None and now - self._last < JSON_SECONDS and progress.stage == "frames":
            return
        self._last = now
        self._say(
            "progress",
            stage=progress.stage,
            frames=progress.frames,
            total=progress.total,
            fps=round(progress.fps, 2),
            remaining=None if progress.remaining is None else round(progress.remaining, 1),
            segment=progress.segment,
            segments=progress.segments,
            cuts=progress.cuts,
            seconds=float(progress.pts),
        )

    def result(self, result: Result) -> None:
        """Print the paths and figures of the result."""
        self._say(
            "result",
            output=str(result.path),
            report=str(result.report),
            finished_before=result.finished_before,
            frames_in=result.frames_in,
            frames_out=result.frames_out,
            warnings=list(result.warnings),
            dropped=list(result.dropped),
            statistics=dict(result.statistics),
            low_confidence=[low.to_json() for low in result.low_confidence],
        )

    def note(self, text: str) -> None:
        """Print a note."""
        self._say("note", text=text)

    def failure(self, source: str, error: Exception) -> None:
        """Print an error with its exit code."""
        self._say("error", source=source, text=error_text(error), code=getattr(error, "exit_code", 1))

    def _say(self, event: str, **values: Any) -> None:
        click.echo(json.dumps({"event": event, **values}, ensure_ascii=True))


def error_text(error: BaseException, text: str = "") -> str:
    """Join the message of an error, or `text`, and its notes: the work that is kept."""
    return "; ".join([text or str(error), *getattr(error, "__notes__", ())])


def open_reporter(form: str) -> Reporter:
    """Return the reporter for `--progress`: auto, plain, json or off."""
    if form == "json":
        return Json()
    if form == "off":
        return Reporter()
    if form == "auto" and sys.stderr.isatty():
        return Bar()
    return Plain()


def details(progress: Progress) -> str:
    """Format rate, remaining time and scene changes: "12.3 fps, 4 min left, 3 scene changes"."""
    from midframe.plan import duration_text

    parts = [f"{progress.fps:.1f} fps"]
    if progress.remaining is not None:
        parts.append(f"{duration_text(progress.remaining)} left")
    if progress.cuts:
        parts.append(f"{progress.cuts} scene change{'s' if progress.cuts > 1 else ''}")
    return ", ".join(parts)


def progress_text(progress: Progress) -> str:
    """Format progress as one plain line."""
    if progress.stage == "joining":
        return "joining"
    share = f" ({100 * progress.frames // progress.total} %)" if progress.total else ""
    of = f" of {progress.total}" if progress.total else ""
    return f"{progress.frames}{of} frames{share}, {details(progress)}"


def stream_text(result: StreamResult) -> str:
    """Format the last line of a run through a pipe."""
    from midframe.plan import duration_text

    where = "standard output" if result.target == "-" else result.target
    end = "; its reader has closed it" if result.closed else ""
    return f"wrote {where}: {result.frames_out} frames, {duration_text(result.seconds)}{end}"


def result_text(result: Result) -> str:
    """Format the last lines: frames, duration, and the times of low confidence."""
    from midframe.plan import duration_text

    if result.finished_before:
        return f"{result.path} is complete, made by the same command before; -y makes it again"
    seconds = result.statistics.get("seconds", 0.0)
    made = result.kinds.count("i")
    text = (
        f"wrote {result.path}: {result.frames_out} frames ({made} interpolated), {len(result.cuts)} "
        f"scene change{'' if len(result.cuts) == 1 else 's'}, {duration_text(seconds)}"
    )
    worst = [
        f"{float(low.frame / result.rate):.2f} s ({100 * low.confidence:.0f} %)"
        for low in result.low_confidence[:SHOWN_LOW]
    ]
    return f"{text}\nlow confidence at {', '.join(worst)}" if worst else text
