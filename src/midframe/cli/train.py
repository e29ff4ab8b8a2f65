"""`midframe train`: train or fine-tune midnet on rendered scenes and clips; show scenes."""

from __future__ import annotations

from pathlib import Path

import click

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the run; an existing run is resumed."
)
@click.option("--model", default="midnet-m", show_default=True, help="midnet-s, midnet-m or midnet-l.")
@click.option("--photos", type=FOLDER, multiple=True, help="Photographs for the surfaces of rendered scenes.")
@click.option("--clips", type=FOLDER, multiple=True, help="Real clips: videos, Vimeo septuplets, folders of images.")
@click.option("--from", "start", type=click.Path(exists=True, path_type=Path), help="Initial weights.")
@click.option(
    "--motion",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Weights of the learned motion, of midframe train motion; for midnet-l.",
)
@click.option("--minutes", type=float, help="Length of the run; this or --steps.")
@click.option("--steps", type=int, help="Length of the run in steps; makes it exactly repeatable.")
@click.option("--batch", type=int, default=16, show_default=True, help="Samples in a step, per process.")
@click.option("--size", type=int, default=192, show_default=True, help="Side of the crops, pixels.")
@click.option("--rate", type=float, default=2e-3, show_default=True, help="Highest learning rate.")
@click.option("--clip-share", type=float, default=0.4, show_default=True, help="Share of clips in the samples.")
@click.option("--reuse", type=float, default=5.0, show_default=True, help="Times each rendered sample is used.")
@click.option("--workers", type=int, default=1, show_default=True, help="Processes that render, and that cut clips.")
@click.option("--gpu-render", is_flag=True, help="Render scenes in batches on the GPU that trains.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True)
@click.option("--eval", "evaluate", type=FOLDER, help="Triplets for evaluation; never trained on.")
@click.option("--eval-minutes", "evaluate_minutes", type=float, default=10.0, show_default=True)
@click.pass_context
def command(ctx: click.Context, /, out: Path | None, **options: object) -> None:
    """Train midnet, or fine-tune it, and write weights for --weights.

    \b
    midframe train --clips MY/CLIPS --photos MY/PHOTOS --model midnet-m --out runs/x --minutes 60
    midframe train --clips MY/CLIPS --out runs/mine --from midnet-m.safetensors --minutes 30
    torchrun --nproc-per-node=4 -m midframe train ...      several GPUs

    The same command resumes a run that was stopped.
    """
    if ctx.invoked_subcommand is not None:
        return
    if out is None:
        raise click.UsageError("Missing option '--out'.")
    from midframe.training.recipe import Recipe
    from midframe.training.train import train

    result = train(Recipe(out=out, **options), click.echo)  # type: ignore[arg-type]
    click.echo(f"weights: {result}")


@command.command("motion")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the run.")
@click.option(
    "--stage",
    type=click.Choice(["matcher", "refiner"]),
    default="matcher",
    show_default=True,
    help="matcher: flow between frames; then refiner: flow at t, by the interpolated frame.",
)
@click.option("--photos", type=FOLDER, multiple=True, help="Photographs for the surfaces of rendered scenes.")
@click.option(
    "--clips", type=FOLDER, multiple=True, help="Real clips; classical flow composed over frames labels them."
)
@click.option("--samples", type=int, default=200_000, show_default=True, help="Length of the learning-rate schedule.")
@click.option("--minutes", type=float, help="Stop after this time; the same command resumes.")
@click.option("--batch", type=int, default=8, show_default=True)
@click.option("--size", type=int, default=160, show_default=True, help="Side of the crops, pixels.")
@click.option("--rate", type=float, default=1e-3, show_default=True, help="Highest learning rate.")
@click.option("--clip-share", type=float, default=0.4, show_default=True, help="Share of clips in the samples.")
@click.option("--reuse", type=float, default=4.0, show_default=True, help="Times each rendered sample is used.")
@click.option("--workers", type=int, default=1, show_default=True, help="Processes that render, and that cut clips.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1.")
@click.option("--scores", is_flag=True, help="Only measure the run's matcher on 128 held-out scenes.")
def motion(out: Path, scores: bool, **options: object) -> None:
    """Train the learned motion network: large motion that classical flow loses.

    Stop it at any time (Ctrl-C, SIGTERM): the same command resumes exactly.
    """
    from midframe.training import matcher
    from midframe.training.motion import MotionRecipe, train_motion

    if scores:
        net = matcher.load_matcher(out / "matcher.safetensors")
        click.echo(str(matcher.flow_scores(lambda a, b: matcher.matcher_flow(net, a, b))))
        return
    click.echo(f"weights: {train_motion(MotionRecipe(out, **options), click.echo)}")  # type: ignore[arg-type]


@command.command("scenes")
@click.option("--sheet", "path", type=click.Path(dir_okay=False, path_type=Path), required=True, help="PNG to write.")
@click.option("--photos", type=FOLDER, multiple=True, help="Photographs for the surfaces.")
@click.option("--rows", type=int, default=12, show_default=True, help="Scenes on the sheet.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--size", type=int, default=256, show_default=True, help="Side of a scene, pixels.")
@click.option("--figures", type=float, default=0.0, show_default=True, help="Share of scenes with articulated figures.")
@click.option("--camera", type=float, default=0.0, show_default=True, help="Share of one camera over many planes.")
def scenes(
    path: Path, photos: tuple[Path, ...], rows: int, seed: int, size: int, figures: float, camera: float
) -> None:
    """Draw training scenes on a sheet: frames, flows, occlusions."""
    from midframe.scenes import Mix
    from midframe.training.scenes import sheet

    sheet(path, seed, rows, photos, size, Mix(articulated=figures, perspective=camera))
    click.echo(str(path))
