"""How a run is told: a bar on a terminal, plain lines in a log, JSON lines for programs."""

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
MOST_LOW = 5  # frames of low confidence shown; the report has more


class Teller:
    """Says nothing: the base of the others, and what `-q` uses. A context manager around one run."""

    def __enter__(self) -> Teller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is held."""

    def plan(self, plan: Plan | StreamPlan) -> None:
        """Before the work."""

    def progress(self, progress: Progress) -> None:
        """After every frame."""

    def result(self, result: Result) -> None:
        """After the work."""

    def note(self, text: str) -> None:
        """Something the user should know meanwhile."""

    def failure(self, source: str, error: Exception) -> None:
        """One of several inputs failed; the others go on."""
        click.echo(f"midframe: {said(error)}", err=True)


class Plain(Teller):
    """Lines: the plan, how far it is now and then, the result."""

    def __init__(self, seconds: float = PLAIN_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._last: float | None = None
        self._said: set[str] = set()

    def plan(self, plan: Plan | StreamPlan) -> None:
        """The plan, and what is to be known first."""
        self.note(f"{plan.source} -> {plan.target}")
        self.note(str(plan))
        for text in (*plan.info.warnings, *getattr(plan, "notes", ())):
            self.note(f"note: {text}")

    def progress(self, progress: Progress) -> None:
        """A line every few seconds."""
        now = self._clock()
        if self._last is None:
            self._last = now
        if now - self._last < self._seconds:
            return
        self._last = now
        self.note(progress_text(progress))

    def result(self, result: Result) -> None:
        """What was made, what was lost."""
        for text in result.warnings:
            if text not in self._said:
                self.note(f"warning: {text}")
        for text in result.dropped:
            if text not in self._said:
                self.note(f"note: {text}")
        self.note(result_text(result))

    def note(self, text: str) -> None:
        """One line on stderr."""
        self._said.add(text.removeprefix("note: "))
        click.echo(text, err=True)


class Bar(Plain):
    """A bar with rate and remaining time, on a terminal."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as Columns

        self._bar = Columns(
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[said]}"),
            console=Console(stderr=True), transient=True, refresh_per_second=5,
        )  # fmt: skip
        self._task: Any = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self._bar.stop()

    def progress(self, progress: Progress) -> None:
        """Move the bar."""
        if self._task is None:
            self._task = self._bar.add_task("", total=progress.total, said="")
            self._bar.start()
        self._bar.update(
            self._task,
            completed=progress.frames,
            description="joining" if progress.stage == "joining" else f"{progress.frames:,}".replace(",", " "),
            said=details(progress),
        )

    def result(self, result: Result) -> None:
        """Take the bar away, then say it."""
        self._bar.stop()
        super().result(result)

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._said.add(text.removeprefix("note: "))
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Json(Teller):
    """One JSON object a line on stdout: {"event": "plan" | "progress" | "note" | "result" | "error", ...}."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None

    def plan(self, plan: Plan | StreamPlan) -> None:
        """The plan as it is in the report, and as one line."""
        self._say("plan", text=str(plan), **plan.to_json())

    def progress(self, progress: Progress) -> None:
        """Twice a second at most; the first and the joining always."""
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
        """Where the video and its report are."""
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
            low_confidence=[{"frame": low.frame, "confidence": low.confidence} for low in result.low_confidence],
        )

    def note(self, text: str) -> None:
        """A note."""
        self._say("note", text=text)

    def failure(self, source: str, error: Exception) -> None:
        """An error, with its exit code."""
        self._say("error", source=source, text=said(error), code=getattr(error, "exit_code", 1))

    def _say(self, event: str, **what: Any) -> None:
        click.echo(json.dumps({"event": event, **what}, ensure_ascii=True))


def said(error: BaseException, text: str = "") -> str:
    """An error, in other words if given, and what was noted with it: how much of the work is kept."""
    return "; ".join([text or str(error), *getattr(error, "__notes__", ())])


def teller(how: str) -> Teller:
    """The teller for `--progress`: auto, plain, json or off."""
    if how == "json":
        return Json()
    if how == "off":
        return Teller()
    if how == "auto" and sys.stderr.isatty():
        return Bar()
    return Plain()


def details(progress: Progress) -> str:
    """Rate, remaining time, scene changes: "12.3 fps, 4 min left, 3 scene changes"."""
    from midframe.plan import duration_text

    parts = [f"{progress.fps:.1f} fps"]
    if progress.remaining is not None:
        parts.append(f"{duration_text(progress.remaining)} left")
    if progress.cuts:
        parts.append(f"{progress.cuts} scene change{'s' if progress.cuts > 1 else ''}")
    return ", ".join(parts)


def progress_text(progress: Progress) -> str:
    """One plain line: how far, how fast, how long."""
    if progress.stage == "joining":
        return "joining"
    share = f" ({100 * progress.frames // progress.total} %)" if progress.total else ""
    of = f" of {progress.total}" if progress.total else ""
    return f"{progress.frames}{of} frames{share}, {details(progress)}"


def stream_text(result: StreamResult) -> str:
    """The last line of a run through a pipe."""
    from midframe.plan import duration_text

    where = "the standard output" if result.target == "-" else result.target
    end = "; its reader has closed it" if result.closed else ""
    return f"wrote {where}: {result.frames_out} frames, {duration_text(result.seconds)}{end}"


def result_text(result: Result) -> str:
    """The last lines: what was made, how long it took, and where to look first."""
    from midframe.plan import duration_text

    if result.finished_before:
        return f"{result.path} is finished already, by the same command; -y makes it again"
    seconds = result.statistics.get("seconds", 0.0)
    made = result.kinds.count("i")
    text = (
        f"wrote {result.path}: {result.frames_out} frames ({made} new), {len(result.cuts)} "
        f"scene change{'' if len(result.cuts) == 1 else 's'}, {duration_text(seconds)}"
    )
    worst = [
        f"{float(low.frame / result.rate):.2f} s ({100 * low.confidence:.0f} %)"
        for low in result.low_confidence[:MOST_LOW]
    ]
    return f"{text}\nlow confidence at {', '.join(worst)}" if worst else text
