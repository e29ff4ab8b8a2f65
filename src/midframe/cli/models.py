"""`midframe models`: which there are and can run here; fetch weights that others publish; verify what is here."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from midframe.weights import Record


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """The models by name."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def list_models(as_json: bool) -> None:
    """Name, size, state of the weights, and what each is."""
    from midframe.errors import MidframeError, WeightsError
    from midframe.models import ABOUT, BUILDERS
    from midframe.weights import RECORDS

    rows: list[dict[str, Any]] = []
    for name in BUILDERS:
        row: dict[str, Any] = {"name": name, "parameters": 0, "state": "ready", "about": ABOUT[name]}
        rows.append(row)
        try:
            row["parameters"] = _parameters(name)
        except WeightsError as error:
            absent = name in RECORDS and "has no weights here" in str(error)
            row["state"] = f"absent; get it: midframe models fetch {name}" if absent else str(error)
        except MidframeError as error:
            row["state"] = str(error)
        if name in RECORDS:
            row["licence"] = RECORDS[name].licence
            row["address"] = RECORDS[name].address
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False))
        return
    for row in rows:
        parameters = int(row["parameters"])
        about = row["about"] if row["state"] == "ready" else ""
        size_text = f"{parameters / 1e6:.1f} M" if parameters else "-"
        click.echo(f"{row['name']:14}{size_text:>8}  {row['state']:8}{about}")


@command.command()
@click.argument("name", metavar="NAME")
def fetch(name: str) -> None:
    """Get published weights, check them, and keep them in the cache; NAME:VERSION for one of several (rife:4.6)."""
    from midframe.models import load_model
    from midframe.weights import fetch as fetch_files
    from midframe.weights import sha256

    record = _record(name)
    click.echo(f"{record.name} from {record.address} ({record.licence})", err=True)
    files = fetch_files(record)
    load_model(record.model, files[0] if ":" in name else None)  # refuses a damaged download, or another network
    for path in files:
        click.echo(f"{sha256(path)}  {path}")


@command.command()
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--weights", type=click.Path(path_type=Path), metavar="PATH", help="A folder or file, not the cache.")
def verify(name: str | None, weights: Path | None) -> None:
    """Read weights tensor by tensor and check them against their model; without NAME, all that are here."""
    from midframe.errors import InputError, WeightsError
    from midframe.models import BUILDERS, load_model
    from midframe.weights import RECORDS, find, sha256, shipped

    if weights is not None and name is None:
        raise InputError("--weights needs the NAME of the model that the weights are for")
    failed: WeightsError | None = None
    for one in [name] if name is not None else list(BUILDERS):
        try:
            if one in RECORDS:
                files: tuple[Path, ...] = find(RECORDS[one], weights)
            else:
                files = tuple(path for path in (weights or shipped(one),) if path is not None)
        except WeightsError:
            if name is not None:
                raise
            continue  # not here, so nothing to verify
        try:
            load_model(one, weights)
        except WeightsError as error:
            click.echo(f"{one}: {error}", err=True)
            failed = error
            continue
        for path in files:
            click.echo(f"{one}: good  {sha256(path) if path.is_file() else ''}  {path}")
    if failed is not None:
        sys.exit(failed.exit_code)


def _parameters(name: str) -> int:
    """Return how many parameters a model has; torch is imported only for weights that others publish, if they are here.

    Raises:
        WeightsError: missing or damaged.
    """
    from midframe.models import BUILT_IN, load_model
    from midframe.weights import RECORDS, count_parameters, find, shipped

    if name in BUILT_IN:
        return 0 if (path := shipped(name)) is None else count_parameters(path)
    find(RECORDS[name])
    return sum(p.numel() for p in load_model(name).parameters())


def _record(name: str) -> Record:
    from midframe.errors import InputError
    from midframe.models import BUILDERS
    from midframe.weights import RECORDS

    if name in RECORDS:
        return RECORDS[name]
    if name in BUILDERS:
        raise InputError(f"{name} needs no fetching; these do: {', '.join(RECORDS)}")
    raise InputError(f"no published weights are called {name!r}; there are {', '.join(RECORDS)}")
