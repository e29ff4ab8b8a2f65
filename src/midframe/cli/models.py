"""`midframe models list`: the models, and which of them can run here."""

from __future__ import annotations

import json
from typing import Any

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """The models by name."""


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def list_models(as_json: bool) -> None:
    """Name, size, state of the weights, and what each is."""
    from midframe.errors import MidframeError
    from midframe.models import BUILDERS, load_model

    rows: list[dict[str, Any]] = []
    for name in BUILDERS:
        try:
            model = load_model(name)
            state = "ready"
            size = sum(p.numel() for p in model.parameters())
            about = (type(model).__doc__ or "").strip().splitlines()[0].rstrip(".")
        except MidframeError as error:
            state, size, about = str(error), 0, ""
        rows.append({"name": name, "parameters": size, "state": state, "about": about})
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False))
        return
    for row in rows:
        parameters = int(row["parameters"])
        size_text = f"{parameters / 1e6:.1f} M" if parameters else "-"
        click.echo(f"{row['name']:12}{size_text:>8}  {row['state']:8}{row['about']}")
