"""`midframe eval`: models on data sets, beside the baselines; JSON, Markdown and one HTML page."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from midframe.evaluation.cvvdp import Cvvdp
    from midframe.evaluation.datasets import DataSet
    from midframe.evaluation.evaluate import Report
    from midframe.evaluation.methods import Method

LINE_SECONDS = 5.0  # between two lines of progress in a log


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """The arguments and options of `midframe eval`, as `command` declares them."""

    models: tuple[str, ...]
    data: tuple[str, ...]
    suites: tuple[str, ...]
    photos: tuple[str, ...]
    out: str | None
    limit: int | None
    partial: bool
    alone: bool
    weights: tuple[str, ...]
    device: str
    precision: str
    flow_scale: str
    peers: Path | None
    against: tuple[Path, ...]
    cvvdp: Path | None
    max_rows: int | None
    middle: bool
    worst: int
    list_sets: bool
    quiet: bool


@click.command("eval", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("models", nargs=-1, metavar="MODELS...")
@click.option(
    "--data", "data", multiple=True, metavar="SET=DIR", help="A data set and its folder; several may be given."
)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME",
    help="rendered, motion or stress: rendered scenes; no data set needed.",
)
@click.option(
    "--photos", multiple=True, metavar="DIR", help="Photographs for the surfaces of the suites; held-out ones are used."
)
@click.option("--out", "out", metavar="DIR", help="Folder for report.json, report.md, report.html; default: eval.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N cases of each set, evenly spread.")
@click.option("--partial", is_flag=True, help="Accept incomplete data sets; the report notes it.")
@click.option("--alone", is_flag=True, help="Only MODELS, without baselines.")
@click.option("--weights", multiple=True, metavar="MODEL=PATH", help="Local weights for a model.")
@click.option("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), default="fp32", help="Default: fp32.")
@click.option(
    "--flow-scale", type=click.Choice(["auto", "1", "0.5", "0.25"]), default="auto", help="As in interpolate."
)
@click.option("--peers", type=click.Path(path_type=Path), envvar="MIDFRAME_PEERS", metavar="DIR",
              help="Environment of mvtools-high, mvtools-fast, svpflow, made by benchmarks/peers/setup.")  # fmt: skip
@click.option("--against", type=click.Path(path_type=Path), multiple=True, metavar="DIR",
              help="Frames of another program: CASE.png, or CASE/1.png ... for several targets.")  # fmt: skip
@click.option("--cvvdp", type=click.Path(path_type=Path), envvar="MIDFRAME_CVVDP", metavar="PYTHON",
              help="Python with the package cvvdp, for scores in JOD. Default: this one if it has it.")  # fmt: skip
@click.option("--max-rows", type=click.IntRange(min=16), metavar="N",
              help="Scale taller frames of the data sets down to N rows.")  # fmt: skip
@click.option("--middle", is_flag=True, help="Interpolate only the middle target of every case of the data sets.")
@click.option("--worst", type=click.IntRange(min=0), default=4, metavar="N", help="Worst cases to show. Default: 4.")
@click.option("--sets", "list_sets", is_flag=True, help="List the data sets and the layouts they are read in.")
@click.option("-q", "--quiet", is_flag=True, help="No progress; the table only.")
def command(**given: Any) -> None:
    """Evaluate models against true frames, beside holding, blending, ffmpeg's minterpolate and dis.

    MODELS are names as in `midframe models list`, minterpolate-best, mvtools-high, mvtools-fast or svpflow; the worst
    cases of the first are shown. Nothing is downloaded: a data set is a folder on this machine.

    \b
    midframe eval dis --data middlebury-other=DIR --out report
    midframe eval midnet-m --suite rendered --suite stress
    midframe eval midnet-m --data vimeo90k-triplet=DIR --data videos:4=VIDEOS
    """
    from midframe.errors import InputError
    from midframe.evaluation import datasets, report
    from midframe.evaluation.evaluate import evaluate
    from midframe.evaluation.methods import Frames, Minterpolate, make_method
    from midframe.evaluation.peers import VapourSynth
    from midframe.metrics import load_lpips

    options = EvalOptions(**given)
    if options.list_sets:
        click.echo((datasets.__doc__ or "").split("\n\n", 2)[2].rstrip())
        return
    if not options.models and not options.against:
        raise InputError("no model was named; try: midframe eval dis --data middlebury-other=DIR")
    sets = _sets(options)
    make = functools.partial(make_method, device=options.device, precision=options.precision, peers=options.peers)
    methods, notes = _methods(options, make)
    methods += [Frames(folder) for folder in options.against]
    notes += [f"{one.name}: {one.settings}" for one in methods if isinstance(one, VapourSynth | Minterpolate)]
    scorer, absence = _cvvdp(options.cvvdp)
    with _ProgressLine(options.quiet) as line:
        measured = evaluate(
            methods,
            sets,
            options.models[0] if options.models else methods[-1].name,
            lpips=load_lpips(),
            exhibits=options.worst,
            on_progress=line.show,
            cvvdp=scorer,
        )
    if scorer is not None:
        scorer.close()
    notes += absence
    if notes:
        measured = replace(measured, notes=(*measured.notes, *notes))
    paths = report.write(measured, options.out or "eval")
    click.echo(_table(measured))
    for note in notes:
        click.echo(note, err=True)
    click.echo(f"written: {', '.join(str(path) for path in paths.values())}", err=True)


def _pair(text: str, option: str, shape: str) -> tuple[str, str]:
    from midframe.errors import InputError

    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise InputError(f"{option} {text!r} is not of the form {shape}")
    return name, value


def _cvvdp(python: Path | None) -> tuple[Cvvdp | None, list[str]]:
    """Start cvvdp, or say why it is absent; a Python that was named must have it."""
    from importlib.util import find_spec

    from midframe.errors import InputError
    from midframe.evaluation.cvvdp import Cvvdp
    from midframe.extras import install_command

    if python is None and find_spec("pycvvdp") is None:
        return None, [f"no cvvdp: package absent ({install_command('perceptual')}, or --cvvdp PYTHON)"]
    try:
        return Cvvdp(python), []
    except InputError as error:
        if python is not None:
            raise
        return None, [f"no cvvdp: {error}"]


def _sets(options: EvalOptions) -> list[DataSet]:
    """Open all sets before the evaluation, so that a missing folder is reported at once."""
    from midframe.errors import InputError
    from midframe.evaluation.datasets import middle_only, open_set, scaled_down
    from midframe.evaluation.suites import open_suite

    if not options.data and not options.suites:
        raise InputError(
            "nothing to measure on; try --suite rendered, --data middlebury-other=DIR, --sets for the list"
        )
    if options.photos and not options.suites:
        raise InputError("--photos are the surfaces of the suites; name one with --suite")
    if options.max_rows is not None and not options.data:
        raise InputError("--max-rows is for the frames of --data; the suites have one size")
    found = [
        open_set(*_pair(text, "--data", "SET=DIR"), limit=options.limit, partial=options.partial)
        for text in options.data
    ]
    if options.middle:
        found = [middle_only(one) for one in found]
    if options.max_rows is not None:
        found = [scaled_down(one, options.max_rows) for one in found]
    photos = [Path(folder) for folder in options.photos]
    return found + [open_suite(name, photos, options.limit) for name in options.suites]


def _methods(options: EvalOptions, make: Callable[..., Method]) -> tuple[list[Method], list[str]]:
    """Return the requested methods, which must be available, and the baselines that are."""
    from midframe.errors import InputError, MidframeError
    from midframe.evaluation.methods import METHODS

    models = options.models
    weights = dict(_pair(text, "--weights", "MODEL=PATH") for text in options.weights)
    scale = None if options.flow_scale == "auto" else float(options.flow_scale)
    stray = set(weights) - set(models)
    if stray:
        raise InputError(f"--weights names {', '.join(sorted(stray))}, but MODELS does not")
    beside = () if options.alone else ("hold", "blend", "minterpolate", "dis")
    wanted = [*METHODS, *(name for name in models if name not in METHODS)]
    found: list[Method] = []
    notes = []
    for name in wanted:
        if name in models:
            found.append(make(name, weights.get(name), flow_scale=scale))
        elif name in beside:
            try:
                found.append(make(name, None))
            except MidframeError as error:
                notes.append(f"without {name}: {error}")
    return found, notes


def _table(report: Report) -> str:
    """Format the PSNR of every method on every set, for the terminal."""
    names = [s["name"] for s in report.sets]
    first = max(len(name) for name in report.methods) + 2
    lines = ["PSNR, dB".ljust(first) + "".join(name.rjust(max(len(name), 8) + 2) for name in names)]
    for method in report.methods:
        cells = []
        for name in names:
            result = report.result(name, method)
            value = result.summary.get("psnr") if result else None
            flow = (result.summary.get("flow") or {}).get("all") if result else None
            text = f"{value:.2f}" if value is not None else f"{flow:.2f} px" if flow is not None else "-"
            cells.append(text.rjust(max(len(name), 8) + 2))
        lines.append(method.ljust(first) + "".join(cells))
    return "\n".join(lines)


class _ProgressLine:
    """Progress of the evaluation: a bar on a terminal, otherwise a line every few seconds."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._last = time.monotonic()
        self._set = ""
        self._bar = None
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> _ProgressLine:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, set_name: str, case: str, done: int, total: int | None) -> None:
        """Show a case before it is measured."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"{set_name}: {case}", completed=done, total=total)
            return
        now = time.monotonic()
        if self._quiet or (set_name == self._set and now - self._last < LINE_SECONDS):
            return
        self._last, self._set = now, set_name
        click.echo(f"{set_name}: {done}{f' of {total}' if total else ''}, {case}", err=True)
