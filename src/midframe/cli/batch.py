"""`midframe batch`: many videos, one table, one report."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from midframe.cli import PathCommand, take

if TYPE_CHECKING:
    from midframe.batch import Entry

VIDEOS_AT_ONCE = 4  # on a cluster: the end of one video leaves no worker idle
TABLE_SECONDS = 0.5  # between two refreshes of the table


@click.command(cls=PathCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("listing", metavar="LIST.csv|FOLDER")
@click.option("-o", "--output", metavar="DIR|URL", help="Output folder. Default for a list: beside each video.")
@click.option(
    "--report", metavar="JSON", help="JSON report. Default: batch.json in the output folder, else LIST.csv.json."
)
@click.option("--fps", metavar="RATE", help="Output rate of videos whose line gives none.")
@click.option("--ratio", metavar="X", help="Output rate over input rate. Default: 2.")
@click.option("--model", metavar="NAME", help="See: midframe models list.")
@click.option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:0,cuda:1 ...")
@click.option("-y", "--overwrite", is_flag=True, default=None, help="Replace existing files.")
@click.option("--ray", metavar="ADDRESS", help="Spread over a Ray cluster: auto, local, HOST:PORT.")
@click.option("--workers", type=int, metavar="N", help="Segments in parallel on the cluster.")
@click.option("--gpus-per-worker", type=float, metavar="X", help="0.5 lets two workers share a GPU.")
@click.option("--work", metavar="DIR|URL", help="Storage shared by coordinator and workers.")
def command(listing: str, output: str | None, report: str | None, **keywords: Any) -> None:
    """Interpolate many videos, from a list or a folder.

    A list is CSV with a header line: source, optionally target and any options of
    `midframe interpolate` by name (fps, ratio, slowmo, model, codec, crf ...).

    Repeating the command skips finished videos, resumes interrupted ones and retries failed ones.
    """
    from midframe import batch
    from midframe.cli.interpolate import ClusterFlags, cluster_config_of, maker
    from midframe.cli.signals import stop_events
    from midframe.errors import InputError, MediaError
    from midframe.options import Options
    from midframe.storage import is_url

    config = cluster_config_of(take(ClusterFlags, keywords), keywords)
    if config is None and output is not None and is_url(output):
        raise InputError(f"the URL '{output}' is for a cluster; add --ray auto or --ray local")
    options = Options.parse(**keywords)
    source = Path(listing)
    if source.is_dir() and output is None:
        raise InputError(f"results cannot go into '{listing}' itself; give another folder with -o")
    where = source.absolute().with_name(source.absolute().name + ".json")
    if output is not None and not is_url(output):
        where = Path(output) / "batch.json"
        try:
            where.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MediaError(f"the folder '{output}' cannot be created: {error.strerror}") from error
    entries = _entries(source, output, options)
    table = _Table()

    def note(text: str) -> None:
        click.echo(text, err=True)

    work_list = batch.Batch(
        entries,
        Path(report) if report is not None else where,
        maker(config),
        at_once=1 if config is None else VIDEOS_AT_ONCE,
        on_change=table.show,
    )
    with _connection(config), table, stop_events(note) as (drain, cancel):
        done = work_list.run(cancel, drain)
    failed = [entry for entry in done if entry.state == "failed"]
    click.echo(f"{len(done) - len(failed)} of {len(done)} videos are done; report: {work_list.report}")
    for entry in failed:
        click.echo(f"midframe: {entry.source}: {entry.error}", err=True)
    if failed:
        sys.exit(1)


def _entries(source: Path, folder: str | None, options: Any) -> list[Entry]:
    """Return the videos of a list or a folder, each with its target.

    Raises:
        MediaError: there is neither.
        InputError: two videos have one target.
    """
    from midframe import batch
    from midframe.cli.interpolate import find_jobs
    from midframe.errors import InputError

    if source.is_dir():
        entries = [batch.Entry(str(video), None, options.to_json()) for video in find_jobs([source])[0]]
    else:
        entries = batch.read_list(source, options)
    if folder is not None:
        entries = [
            entry if entry.target else batch.Entry(entry.source, _target(entry, folder), entry.options)
            for entry in entries
        ]
    owners: dict[str, str] = {}
    for entry in entries:
        if entry.target and owners.setdefault(os.path.abspath(entry.target), entry.source) != entry.source:
            other = owners[os.path.abspath(entry.target)]
            raise InputError(
                f"'{other}' and '{entry.source}' would both be written to '{entry.target}'; give each its "
                "own target in a list. Nothing was done"
            )
    return entries


def _target(entry: Entry, folder: str) -> str:
    """Return the target in the folder of the batch; a source that cannot be probed keeps its name, and fails later."""
    from midframe.errors import MidframeError
    from midframe.options import Options
    from midframe.plan import output_name
    from midframe.storage import name_in

    try:
        return name_in(folder, output_name(Path(entry.source), Options.from_json(entry.options)).name)
    except MidframeError:
        return name_in(folder, Path(entry.source).name)


def _connection(config: Any) -> Any:
    import contextlib

    if config is None:
        return contextlib.nullcontext()
    from midframe import cluster

    return cluster.session(config)


class _Table:
    """Progress of all videos: a live table on a terminal, otherwise a line for each state."""

    def __init__(self) -> None:
        self._live: Any = None
        self._shown = 0.0
        self._states: dict[int, str] = {}

    def __enter__(self) -> _Table:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.__enter__()
        return self

    def __exit__(self, *trace: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*trace)

    def show(self, entries: Sequence[Entry]) -> None:
        """Show a change."""
        if self._live is not None:
            now = time.monotonic()
            if now - self._shown >= TABLE_SECONDS or all(entry.state in ("done", "failed") for entry in entries):
                self._shown = now
                self._live.update(_table(entries), refresh=True)
            return
        for number, entry in enumerate(entries):
            if entry.state != self._states.get(number) and entry.state in ("running", "done", "failed"):
                self._states[number] = entry.state
                click.echo(f"{entry.state}: {entry.source}" + (f" -> {entry.target}" if entry.target else ""))


def _table(entries: Sequence[Entry]) -> Any:
    from rich.table import Table

    table = Table("video", "state", "frames", "result")
    for entry in entries:
        frames = f"{entry.frames}/{entry.total}" if entry.total else str(entry.frames or "")
        table.add_row(Path(entry.source).name, entry.state, frames, entry.error or Path(entry.target or "").name)
    return table
