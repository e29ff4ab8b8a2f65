"""`midframe compare`: two videos or two images in one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import click

from midframe.cli import PathCommand

if TYPE_CHECKING:
    from torch import Tensor

    from midframe.types import Frame, VideoInfo

DIFFERENCE_GAIN = 4  # a difference of 1 level in 256 is not seen; times four, 10 levels are
LINE = 2  # pixels of white between both sides
SLIDE_SECONDS = 4  # the slider goes once across in this time


@click.command(cls=PathCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("a")
@click.argument("b")
@click.option("-o", "--output", metavar="OUT", help="Default: A.vs.B beside A, as MP4 or PNG.")
@click.option(
    "--how",
    type=click.Choice(["side", "difference", "slider"]),
    default="side",
    show_default=True,
    help="Side by side; |A - B| times four on black; A left of a moving line, B right of it.",
)
@click.option("-y", "--overwrite", is_flag=True, help="Replace an existing file.")
def command(a: str, b: str, output: str | None, how: str, overwrite: bool) -> None:
    """Compare A and B in one video or image; videos of unequal rate play on the clock of the faster one."""
    from midframe import __version__
    from midframe.journal import write_whole
    from midframe.plan import check_target, report_of
    from midframe.video.images import is_sequence

    first, second = Path(a), Path(b)
    stills = is_sequence(first) and is_sequence(second) and not (first.is_dir() or second.is_dir())
    suffix = ".png" if stills else ".mp4"
    target = Path(output) if output is not None else first.with_name(f"{first.stem}.vs.{second.stem}{suffix}")
    check_target(target, first, overwrite)
    check_target(target, second, overwrite)
    compare(first, second, target, how)
    if not stills:  # by which a later run over the folder knows that this is no source
        known = {"midframe": __version__, "output": str(target), "comparison": [str(first), str(second)]}
        write_whole(report_of(target), json.dumps(known, indent=1))
    click.echo(f"wrote {target}")


def compare(a: Path, b: Path, target: Path, how: str = "side") -> None:
    """Write A and B in one video or image.

    Args:
        a: the left one.
        b: the right one; scaled to the size of a where it has another.
        target: what to write; its suffix decides the container.
        how: "side", "difference" or "slider".
    """
    from midframe.colour import to_rgb
    from midframe.types import PixelFormat
    from midframe.video.encoders import choose_encoder
    from midframe.video.reader import open_reader
    from midframe.video.writer import open_writer

    with open_reader(a) as left, open_reader(b) as right:
        one, two = left.info, right.info
        rate = max(one.rate or Fraction(25), two.rate or Fraction(25))
        width = one.width * 2 + LINE if how == "side" else one.width
        form = PixelFormat("gbrp", "rgb", 8, full_range=True, matrix="rgb")
        info: VideoInfo = replace(
            one, width=width, format=form, hdr=None, mastering=None, content_light=None, rotation=0,
            display_matrix=None, sample_aspect=Fraction(1),
        )  # fmt: skip
        encoding = choose_encoder(info, target)
        with open_writer(target, info, encoding, rate=rate) as writer:
            for number, (p, q) in enumerate(paired(left, right, one.start, two.start, rate)):
                share = (float(number / rate) % SLIDE_SECONDS) / SLIDE_SECONDS if number or one.duration else 0.5
                joined = together(to_rgb(p.planes, p.format), to_rgb(q.planes, q.format), how, share)
                frame = replace(p, planes=tuple(joined), format=form, pts=number / rate, duration=1 / rate)
                writer.write(frame)
                if encoding.container == "images" and target.suffix:
                    break


def paired(
    left: Iterator[Frame], right: Iterator[Frame], start_left: Fraction, start_right: Fraction, rate: Fraction
) -> Iterator[tuple[Frame, Frame]]:
    """Yield the frames of both videos at 0, 1 / rate, 2 / rate ... seconds from their first frames, while both last."""
    sides = [_Shown(left, start_left), _Shown(right, start_right)]
    number = 0
    while True:
        # in the middle of the instant: rounded time stamps must not show the frame before
        shown = [side.at((number + Fraction(1, 2)) / rate) for side in sides]
        if shown[0] is None or shown[1] is None:
            return
        yield shown[0], shown[1]
        number += 1


class _Shown:
    """Return the frame of a video at an instant; instants only grow."""

    def __init__(self, frames: Iterator[Frame], start: Fraction) -> None:
        self._frames, self._start = frames, start
        self._now = next(frames, None)
        self._next = next(frames, None)

    def at(self, seconds: Fraction) -> Frame | None:
        """Return None after the last frame's end."""
        while self._next is not None and self._next.pts - self._start <= seconds:
            self._now, self._next = self._next, next(self._frames, None)
        if self._now is not None and self._next is None and self._now.pts + self._now.duration - self._start <= seconds:
            return None
        return self._now


def together(a: Tensor, b: Tensor, how: str, share: float) -> Tensor:
    """Make one frame (3, H, W) uint8 of two (3, H, W) float 0..1; `share` of the width is where the slider stands."""
    import torch
    import torch.nn.functional as F

    if b.shape != a.shape:
        b = F.interpolate(b[None], size=a.shape[-2:], mode="bilinear", antialias=True, align_corners=False)[0]
    if how == "difference":
        out = (a - b).abs() * DIFFERENCE_GAIN
    elif how == "slider":
        at = round(share * a.shape[-1])
        out = torch.cat([a[..., :at], b[..., at:]], dim=-1)
        out[..., max(0, at - LINE) : at] = 1.0
    else:
        out = torch.cat([a, a.new_ones(3, a.shape[-2], LINE), b], dim=-1)
    return (out * 255).round().clamp(0, 255).to(torch.uint8)
