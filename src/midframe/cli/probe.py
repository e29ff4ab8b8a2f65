"""`midframe probe`: the properties of a file and the plan for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from midframe.cli import PathCommand

if TYPE_CHECKING:
    from midframe.types import VideoInfo


@click.command(cls=PathCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file")
@click.option("--count", is_flag=True, help="Decode all of it and count the frames.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(file: str, count: bool, as_json: bool) -> None:
    """Show the properties of FILE and the plan of `midframe interpolate FILE`."""
    from midframe.cli.plans import plan_of
    from midframe.errors import MidframeError
    from midframe.options import Options
    from midframe.video.probe import probe

    info = probe(file, count=count)
    try:
        plan = str(plan_of(file, None, Options()))
    except MidframeError as error:
        plan = f"not possible: {error}"
    if as_json:
        click.echo(json.dumps({**facts(info), "streams": streams(info), "plan": plan}, ensure_ascii=False))
        return
    for name, value in facts(info).items():
        if value not in (None, [], ""):
            shown = "; ".join(str(item) for item in value) if isinstance(value, list) else value
            click.echo(f"{name.replace('_', ' '):16}{shown}")
    for stream in streams(info):
        words = [
            f"{stream['index']}",
            stream["kind"],
            stream["codec"],
            stream["language"] or "",
            *stream["disposition"],
        ]
        click.echo(f"{'stream':16}{' '.join(word for word in words if word)}")
    click.echo(f"{'twice the rate':16}{plan}")


def facts(info: VideoInfo) -> dict[str, Any]:
    """Return the properties by name, in display order; seconds and rates as text."""
    form = info.format
    turned = f", rotated by {info.rotation} degrees" if info.rotation else ""
    aspect = f", pixel aspect {info.sample_aspect}" if info.sample_aspect != 1 else ""
    assumed = sorted(name.replace("_", " ") for name in info.untagged)
    return {
        "file": info.path,
        "container": info.container,
        "codec": info.codec,
        "size": f"{info.width}x{info.height}{aspect}{turned}",
        "pixels": f"{form.name}, {form.depth} bits, {'interlaced' if info.interlaced else 'progressive'}",
        "colour": f"{form.matrix}, {'full' if form.full_range else 'limited'} range, "
        f"primaries {form.primaries}, transfer {form.transfer}, chroma {form.siting}",
        "assumed": assumed,
        "hdr": info.hdr,
        "immersive": [
            name for name, data in (("360 degrees", info.spherical), ("stereo", info.stereo)) if data is not None
        ],
        "rate": "unknown"
        if info.rate is None
        else f"{info.rate} ({float(info.rate):.3f}){', variable' if info.vfr else ''}",
        "starts_at": f"{float(info.start):.6g} s" if info.start else None,
        "duration": "unknown" if info.duration is None else f"{float(info.duration):.3f} s",
        "frames_in_header": info.header_frames,
        "frames_counted": info.counted_frames,
        "chapters": info.chapters or None,
        "title": info.tags.get("title"),
        "warnings": list(info.warnings),
    }


def streams(info: VideoInfo) -> list[dict[str, Any]]:
    """Return index, kind, codec, language and disposition of every stream."""
    return [
        {
            "index": s.index,
            "kind": s.kind,
            "codec": s.codec,
            "language": s.language,
            "disposition": list(s.disposition),
        }
        for s in info.streams
    ]
