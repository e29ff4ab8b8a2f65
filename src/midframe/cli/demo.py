"""`midframe demo`: a short scene, rendered and interpolated; works offline."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import click

from midframe.cli import PathCommand
from midframe.options import DEFAULT_MODEL

if TYPE_CHECKING:
    from midframe.cli.scene import Scene
    from midframe.result import Result
    from midframe.types import Frame

DEMO_RATE = Fraction(24)
DEMO_CRF = 8  # crf


@click.command(cls=PathCommand, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", default="midframe-demo")
@click.option("--model", default=DEFAULT_MODEL, show_default=True, metavar="NAME", help="See: midframe models list.")
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.25, 10), help="Length of the video.")
def command(folder: str, model: str, seconds: float) -> None:
    """Render a short scene, interpolate it at 2x and from 24 to 60 frames per second, and compare.

    A camera that moves, a ball and posts in front, a repeated texture, a logo and a subtitle. The videos go into
    FOLDER, with the source and the result side by side. Since the scene is rendered, the true frames are known, and
    the interpolated ones are measured against them.
    """
    from midframe.cli.scene import Scene
    from midframe.errors import MediaError

    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"the folder '{place}' cannot be created: {error.strerror}") from error
    run(place, Scene(seconds=seconds), model)


def run(place: Path, scene: Scene, model: str) -> None:
    """Write the videos and print the scores."""
    from midframe import pipeline
    from midframe.cli.compare import compare
    from midframe.cli.progress import result_text

    source = place / "scene.24fps.mp4"
    render(scene, source)
    click.echo(f"wrote {source}: {scene.width}x{scene.height}, {scene.seconds:g} s at {DEMO_RATE} fps")
    for rate in (48, 60):
        target = place / f"scene.{rate}fps.mp4"
        # nearly lossless: the scores are those of the frames, not of their compression
        result = pipeline.interpolate(source, target, fps=rate, model=model, crf=DEMO_CRF, overwrite=True, resume=False)
        click.echo(result_text(result))
        click.echo(f"  {scores(scene, source, result)}")
        side = place / f"side-by-side.{rate}fps.mp4"
        compare(source, target, side)
        click.echo(f"wrote {side}: left {DEMO_RATE} fps, right {rate} fps")
    image = place / "between.png"
    still(scene, place / "scene.48fps.mp4", image)
    click.echo(f"wrote {image}: the frame before, the new frame, and how far each is from the true one")


def still(scene: Scene, video: Path, target: Path, number: int = 33) -> None:
    """Write an image: the repeated frame and the interpolated frame `number`, each above its difference from the truth.

    Differences are four times brighter.
    """
    import cv2
    import numpy as np

    from midframe.colour import to_rgb
    from midframe.video.reader import open_reader

    number = min(number, 2 * int(scene.seconds * DEMO_RATE) - 3) | 1
    columns = []
    truth = scene.frame(float(number / (2 * DEMO_RATE))).astype(np.int16)
    with open_reader(video) as frames:
        for at, frame in enumerate(frames):
            if at in (number - 1, number):
                rgb = (to_rgb(frame.planes, frame.format).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
                columns.append(np.vstack([rgb, np.minimum(4 * abs(rgb - truth), 255).astype(np.uint8)]))
    cv2.imwrite(str(target), np.hstack(columns)[..., ::-1])


def render(scene: Scene, target: Path, rate: Fraction = DEMO_RATE) -> None:
    """Write the scene as a video."""
    from midframe.types import PixelFormat, VideoInfo
    from midframe.video.encoders import choose_encoder
    from midframe.video.writer import open_writer

    form = PixelFormat("gbrp", "rgb", 8, matrix="rgb", full_range=True)
    info = VideoInfo(
        path="", container="", codec="", width=scene.width, height=scene.height, format=form, rate=rate,
        time_base=1 / rate, start=Fraction(0), duration=None, header_frames=None,
    )  # fmt: skip
    encoding = choose_encoder(info, target, crf=DEMO_CRF)
    with open_writer(target, info, encoding, rate=rate) as writer:
        for number in range(int(scene.seconds * rate)):
            writer.write(rendered(scene, number / rate, number, 1 / rate))


def rendered(scene: Scene, at: Fraction, number: int, duration: Fraction) -> Frame:
    """Return the true frame at an instant."""
    import torch

    from midframe.types import Frame, PixelFormat

    form = PixelFormat("gbrp", "rgb", 8, matrix="rgb", full_range=True)
    planes = tuple(torch.from_numpy(scene.frame(float(at))[..., channel].copy()) for channel in range(3))
    return Frame(planes, form, at, duration, number)


def scores(scene: Scene, source: Path, result: Result) -> str:
    """Format the PSNR of interpolated frames, and of repeated source frames in their place, against the true frames."""
    import torch

    from midframe.colour import to_rgb
    from midframe.metrics import psnr
    from midframe.video.reader import open_reader

    def level(error: list[float]) -> float:
        return sum(min(each, 99.0) for each in error) / len(error) if error else 99.0

    interpolated: list[float] = []
    repeated: list[float] = []
    overlay: list[float] = []
    where = torch.from_numpy(scene.overlay())
    with open_reader(result.path) as frames, open_reader(source) as originals:
        shown = next(originals)
        following = next(originals, None)
        for number, frame in enumerate(frames):
            while following is not None and following.pts <= frame.pts:
                shown, following = following, next(originals, None)
            if result.kinds[number] != "i" or following is None:
                continue
            truth = torch.from_numpy(scene.frame(float(number / result.rate))).permute(2, 0, 1) / 255
            image, before = to_rgb(frame.planes, frame.format), to_rgb(shown.planes, shown.format)
            interpolated.append(psnr(image, truth))
            repeated.append(psnr(before, truth))
            overlay.append(psnr(image, before, where))
    return (
        f"new frames against the true ones: {level(interpolated):.2f} dB (repeating the last frame: "
        f"{level(repeated):.2f} dB); logo against the source: {level(overlay):.1f} dB"
    )
