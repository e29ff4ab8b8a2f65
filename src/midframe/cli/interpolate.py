"""`midframe interpolate`: the main command."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from midframe.cli import PathCommand, take
from midframe.cli.signals import stop_events

if TYPE_CHECKING:
    import threading

    from midframe.cli.progress import Reporter
    from midframe.cluster import ClusterConfig
    from midframe.options import Options
    from midframe.plan import Plan

# suffixes of the videos in a folder
FOLDER_VIDEOS = (
    ".mp4", ".mkv", ".mov", ".webm", ".m4v", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".wmv", ".flv",
    ".ogv", ".3gp", ".3g2", ".mxf", ".y4m", ".gif", ".f4v", ".asf", ".rm", ".divx",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunFlags:
    """Options of the run itself: what is shown, and whether anything is written."""

    profile: str | None
    dry_run: bool
    progress: str
    quiet: bool
    verbose: bool


@dataclass(frozen=True, slots=True)
class ClusterFlags:
    """Options of the cluster, as `interpolate` and `batch` have them."""

    ray: str | None
    workers: int | None
    gpus_per_worker: float | None
    work: str | None


class Section(PathCommand):
    """A command whose help lists its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Format one block for each heading, in the order of `HEADINGS`."""
        params = {param.name: param for param in self.get_params(ctx)}
        for heading, names in HEADINGS.items():
            rows = [row for name in names if name in params and (row := params[name].get_help_record(ctx)) is not None]
            with formatter.section(heading):
                formatter.write_dl(rows)


HEADINGS = {
    "Rate": ("fps", "ratio", "slowmo", "speed", "slow_audio", "shutter", "loop", "in_fps"),
    "Scene changes and duplicates": ("scene", "scene_threshold", "scene_fill", "dedup"),
    "Static overlays": ("static", "mask"),
    "Model": ("model", "weights", "flow_scale"),
    "Machine": ("device", "precision", "runtime", "tile"),
    "Cluster": ("ray", "workers", "gpus_per_worker", "work"),
    "Range": ("start", "end", "preview"),
    "Output": (
        "output", "format_", "overwrite", "codec", "crf", "preset", "pix_fmt", "encoder", "audio", "subtitles",
        "chapters", "scale", "max_size", "deinterlace", "vfr", "compat",
    ),
    "Run": ("profile", "resume", "strict", "dry_run", "progress", "quiet", "verbose", "help"),
}  # fmt: skip


@click.command(cls=Section, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--output", metavar="OUT|DIR", help="Output file or folder. Default: beside the input.")
@click.option(
    "--format", "format_", type=click.Choice(["y4m", "mkv", "nut"]), help="Format for -o - or a FIFO. Default: y4m."
)
@click.option("--fps", metavar="RATE", help="Output rate: 60, 59.94, 60000/1001. Keeps the duration.")
@click.option("--ratio", metavar="X", help="Output rate over input rate: 2, 2.5, 5/2. Default: 2.")
@click.option("--slowmo", metavar="X", help="Slow motion, X times slower, at the source rate or --fps.")
@click.option("--speed", metavar="RANGES", help="Speed ramps: '0-2:1, 2-4:1>0.25, 4-:0.25'.")
@click.option("--slow-audio", type=click.Choice(["drop", "stretch"]),
              help="Audio where the speed changes; stretch keeps its pitch. Default: drop with --slowmo, stretch with "
              "--speed.")  # fmt: skip
@click.option("--shutter", metavar="ANGLE", help="Motion blur: shutter angle, 0 to 360; 180 as in cinema. Default: 0.")
@click.option("--loop", is_flag=True, default=None, help="Seamless loop: the last frame leads to the first.")
@click.option("--in-fps", metavar="RATE", help="Rate of an image sequence. Default: 24.")
@click.option(
    "--scene",
    type=click.Choice(["auto", "off", "modelscope"]),
    help="Scene-change detection. modelscope: ModelScope's rule, with vfinet. Default: auto.",
)
@click.option("--scene-threshold", metavar="X", help="0 to 1; lower finds more scene changes.")
@click.option(
    "--scene-fill", type=click.Choice(["hold", "nearest", "blend"]), help="Frames across a scene change. Default: hold."
)
@click.option(
    "--dedup", type=click.Choice(["off", "auto"]), help="Replace duplicate frames by interpolated ones. Default: off."
)
@click.option(
    "--static", type=click.Choice(["auto", "off"]), help="Keep static overlays: logo, subtitle, HUD. Default: auto."
)
@click.option("--mask", metavar="PNG", help="Image; white areas are kept from the nearest source frame.")
@click.option("--model", metavar="NAME", help="See: midframe models list. Default: midnet-m. Faster: midnet-s, dis.")
@click.option("--weights", metavar="PATH", help="Local folder or file with the model's weights.")
@click.option(
    "--flow-scale",
    type=click.Choice(["auto", "1", "0.5", "0.25"]),
    help="Scale of the frame at which optical flow is estimated. Default: auto.",
)
@click.option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1, mps; cuda:0,cuda:1 uses both. Default: auto.")
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="Precision of convolutions. Default: auto."
)
@click.option("--runtime", type=click.Choice(["auto", "torch", "openvino"]),
              help="Runtime of the network. auto: openvino for rife on Intel CPUs, if installed.")  # fmt: skip
@click.option("--tile", metavar="N", help="auto (if memory runs out), off, or a side in pixels. Default: auto.")
@click.option("--ray", metavar="ADDRESS", help="Spread over a Ray cluster: auto, local, HOST:PORT, ray://HOST:PORT.")
@click.option("--workers", type=int, metavar="N",
              help="Segments in parallel on the cluster. Default: as many as CPUs, GPUs and memory allow.")  # fmt: skip
@click.option("--gpus-per-worker", type=float, metavar="X", help="0.5 lets two workers share a GPU. Default: 1.")
@click.option("--work", metavar="DIR|URL", help="Storage shared by coordinator and workers, for sources and segments.")
@click.option("--profile", metavar="NAME", help="Bundle of options: anime, film, game, screen, phone, or your own.")
@click.option("--start", metavar="T", help="Start time: 90, 1:30, 01:02:03.5.")
@click.option("--end", metavar="T", help="End time, on the same clock.")
@click.option("--preview", metavar="N@T", help="A short sample: 5@00:10 is five seconds from 0:10.")
@click.option("-c", "--codec", metavar="NAME", help="Encoder: auto, libx264, libx265, libsvtav1 ...")
@click.option("--crf", metavar="N", help="Quality: lower is better and larger. Default: 16.")
@click.option("--preset", metavar="NAME", help="Preset of the encoder: fast, slow, 8 ...")
@click.option("--pix-fmt", metavar="NAME", help="Pixel format. Default: the source's.")
@click.option("-e", "--encoder", multiple=True, metavar="KEY=VALUE", help="Further encoder options.")
@click.option("--audio/--no-audio", default=None, help="Keep audio. Default: yes.")
@click.option("--subtitles/--no-subtitles", default=None, help="Keep subtitles. Default: yes.")
@click.option("--chapters/--no-chapters", default=None, help="Keep chapters. Default: yes.")
@click.option("--scale", metavar="WxH", help="Size as displayed: 1280x720, or 1280:-2 to keep the shape.")
@click.option("--max-size", metavar="N", help="Longer side at most N pixels; smaller videos are left as they are.")
@click.option("--deinterlace", type=click.Choice(["auto", "off"]), help="Deinterlace to the field rate. Default: auto.")
@click.option(
    "--vfr",
    type=click.Choice(["cfr", "keep"]),
    help="keep: keep source timestamps and interpolate between them. Default: cfr.",
)
@click.option(
    "--compat", type=click.Choice(["off", "modelscope"]), help="Timestamps and frame count of ModelScope's pipeline."
)
@click.option("--resume/--no-resume", default=None, help="Continue unfinished work. Default: yes.")
@click.option("--strict", is_flag=True, default=None, help="Refuse damaged sources instead of warning.")
@click.option("-y", "--overwrite", is_flag=True, default=None, help="Replace existing files.")
@click.option("--dry-run", is_flag=True, help="Show the plan only.")
@click.option(
    "--progress",
    type=click.Choice(["auto", "plain", "json", "off"]),
    default="auto",
    help="Progress output format. Default: auto.",
)
@click.option("-q", "--quiet", is_flag=True, help="Errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def command(inputs: tuple[str, ...], output: str | None, format_: str | None, **keywords: Any) -> None:
    """Interpolate video to a higher frame rate or into slow motion; audio, subtitles, metadata and colour are kept.

    INPUT is a video file, a folder of videos, a folder of images or a pattern such as shot_%04d.png (with --in-fps),
    several of these, two images to interpolate between, or - for the standard input.

    \b
    midframe interpolate clip.mp4                       twice the rate
    midframe interpolate clip.mp4 --fps 60 -o out.mkv
    midframe interpolate clip.mp4 --slowmo 4
    midframe interpolate clip.mp4 --preview 5@00:10     look before a long run
    midframe interpolate a.png b.png -o middle.png
    ffmpeg -i in.mkv -f yuv4mpegpipe - | midframe interpolate - -o - --fps 60 | ffmpeg -i - out.mkv
    """
    from midframe.options import Options
    from midframe.profiles import with_profile

    flags, cluster = take(RunFlags, keywords), take(ClusterFlags, keywords)
    keywords["encoder"] = list(keywords["encoder"]) or None
    if flags.profile is not None:
        keywords, text = with_profile(flags.profile, keywords)
        if not flags.quiet and flags.progress != "json":
            click.echo(text, err=True)
    config = cluster_config_of(cluster, keywords)
    options = Options.parse(**keywords)
    _log_to_stderr(flags.verbose)
    progress = "off" if flags.quiet else flags.progress
    if any(is_stream(name, output) for name in inputs) or format_ is not None:
        through_pipe(inputs, output, options, format_, progress, flags.dry_run or config is not None)
        return
    run(inputs, output, options, dry_run=flags.dry_run, progress=progress, config=config)


def cluster_config_of(flags: ClusterFlags, keywords: dict[str, Any]) -> ClusterConfig | None:
    """Return the configuration of the cluster, or None; a list of devices in `keywords` becomes the first one's kind.

    Raises:
        InputError: options of a cluster without --ray.
    """
    from midframe.errors import InputError

    devices: tuple[str, ...] = ()
    if "," in (keywords.get("device") or ""):
        devices = tuple(name.strip() for name in keywords["device"].split(","))
        keywords["device"] = devices[0].split(":")[0]
    if flags.ray is None and not devices:
        for name in ("workers", "gpus_per_worker", "work"):
            if getattr(flags, name) is not None:
                raise InputError(f"--{name.replace('_', '-')} is for a cluster; add --ray auto, or leave it out")
        return None
    from midframe.cluster import ClusterConfig

    return ClusterConfig(
        address="local" if flags.ray is None else flags.ray,
        workers=flags.workers,
        gpus_per_worker=1.0 if flags.gpus_per_worker is None else flags.gpus_per_worker,
        devices=devices,
        work=flags.work,
    )


def run(
    inputs: Sequence[str],
    output: str | None,
    options: Options,
    *,
    dry_run: bool,
    progress: str,
    config: ClusterConfig | None = None,
) -> None:
    """Process the inputs one after the other; the exit code is that of the first failure."""
    from midframe.cli.progress import open_reporter
    from midframe.errors import InputError, Interrupted, MidframeError
    from midframe.storage import is_url
    from midframe.video.files import refuse_unread_image

    if any(is_url(name) for name in (*inputs, output or "")):
        if config is None:
            raise InputError("a URL needs a cluster; add --ray auto or --ray local")
        if dry_run:
            raise InputError("--dry-run is for local files; a video at a URL would have to be copied first")
        urls(inputs, output, options, progress, config)
        return
    sources = [Path(name) for name in inputs]
    if all(is_image(source) for source in sources):
        between_images(sources, output, options)
        return
    check_names(sources, output)
    for source in sources:
        if source.is_file():
            refuse_unread_image(source)
    jobs, skipped = find_jobs(sources)
    several = len(jobs) > 1 or jobs != sources
    target = target_for(output, several=several)
    targets = names_of(jobs, target, options)
    first: MidframeError | None = None
    for source, name in zip(jobs, targets, strict=True):
        with open_reporter(progress) as reporter:
            for text in skipped:
                reporter.note(text)
            skipped = []
            try:
                one(source, name, options, reporter, dry_run=dry_run, config=config, several=several)
            except Interrupted:
                raise
            except MidframeError as error:
                if len(jobs) == 1 and progress != "json":
                    raise
                reporter.failure(str(source), error)
                first = first or error
    if first is not None:
        sys.exit(first.exit_code)


def names_of(jobs: Sequence[Path], target: Path | None, options: Options) -> list[Path | None]:
    """Return the output of every input: its default name, in the target folder or beside the input.

    An input that cannot be read has None, and fails with its own error when it is processed.

    Raises:
        InputError: two inputs would be written to one file, or one over another input.
    """
    from midframe.errors import InputError, MidframeError
    from midframe.plan import output_name

    if target is not None and not target.is_dir():
        return [target]
    found: list[Path | None] = []
    owners: dict[Path, Path] = {}
    inputs = {Path(os.path.abspath(job)) for job in jobs}
    for job in jobs:
        try:
            name = output_name(job, options)
        except MidframeError:
            found.append(None)
            continue
        name = name if target is None else target / name.name
        key = Path(os.path.abspath(name))
        if (other := owners.setdefault(key, job)) is not job:
            raise InputError(
                f"'{other}' and '{job}' would both be written to '{name}'; give them one at a time, each with its -o. "
                "Nothing was done"
            )
        if key in inputs:
            raise InputError(f"'{job}' would be written over the input '{name}'; give another -o. Nothing was done")
        found.append(name)
    return found


def one(
    source: Path,
    target: Path | None,
    options: Options,
    reporter: Any,
    *,
    dry_run: bool,
    config: ClusterConfig | None = None,
    several: bool = False,
) -> None:
    """Interpolate one video, locally or on a cluster; of `several`, finished ones are not repeated by `-y`."""
    if dry_run:
        from midframe.cli.plans import plan_of

        reporter.plan(plan_of(source, target, options))
        return
    planned = None if config is not None else checked_plan(source, target, options)
    from midframe.torch_import import quick_import

    with quick_import():
        from midframe import pipeline

    with stop_events(reporter.note) as (drain, cancel):
        if several and options.overwrite and (done := pipeline.finished(source, target, options)) is not None:
            reporter.result(done)
            return
        report_run(reporter, (source, target), options, config, (drain, cancel), planned)


def checked_plan(source: Path, target: Path | None, options: Options) -> Plan | None:
    """Plan a run before torch is imported, so that wrong input fails at once; None where that needs torch.

    Raises:
        MidframeError: as `pipeline.interpolate` before its run.
    """
    from midframe.journal import folder_of
    from midframe.plan import check_target, report_of
    from midframe.planning import plan_without_torch

    plan = plan_without_torch(source, target, options)
    if plan is not None and not report_of(plan.target).exists() and not folder_of(plan.target).exists():
        check_target(plan.target, source, options.overwrite)  # no earlier run to recognise or resume
    return plan


def report_run(
    reporter: Reporter,
    paths: tuple[str | Path, str | Path | None],
    options: Options,
    config: ClusterConfig | None,
    events: tuple[threading.Event, threading.Event],
    planned: Plan | None = None,
) -> None:
    """Interpolate the first path into the second, here or on a cluster, and report progress and result.

    Args:
        reporter: progress output.
        paths: source and target; the target is chosen beside the source if it is None.
        options: of the run.
        config: of the cluster; None: this machine.
        events: `drain` and `cancel`, see `stop_events`.
        planned: the plan of a run on this machine, if made before.
    """
    drain, cancel = events
    reporter.result(
        maker(config, planned)(
            *paths,
            options=options,
            on_plan=reporter.plan,
            on_progress=reporter.progress,
            cancel=cancel,
            drain=drain,
        )
    )


def is_stream(source: str, target: str | None) -> bool:
    """Return whether a run goes through a pipe, without importing torch."""
    from midframe.video.files import is_pipe

    return is_pipe(source) or (target is not None and (is_pipe(target) or target.lower().endswith(".y4m")))


def through_pipe(
    inputs: Sequence[str], output: str | None, options: Options, format: str | None, progress: str, planned: bool
) -> None:
    """Interpolate one stream, from or to a pipe; messages go to standard error.

    Raises:
        InputError: several inputs, no output, or an option that a pipe does not support.
    """
    from midframe.cli.progress import open_reporter, stream_text
    from midframe.errors import InputError
    from midframe.torch_import import quick_import

    if len(inputs) != 1 or output is None:
        raise InputError("a pipe needs one input and one -o: a file, or - for the standard output")
    if planned:
        raise InputError("a pipe is read once, on this machine; leave out --dry-run, --ray and lists of devices")
    if output == "-" and progress == "json":
        raise InputError("--progress json and the video would both go to the standard output; use --progress plain")
    with quick_import():
        import midframe.planning  # noqa: F401  # before torch, while its library is loaded
        from midframe.streaming import interpolate_stream

    with (
        open_reporter(progress) as reporter,
        stop_events(reporter.note, "stopping behind the current frame") as (drain, _),
    ):
        result = interpolate_stream(
            inputs[0], output, options, format=format, on_plan=reporter.plan, on_progress=reporter.progress, stop=drain
        )
        reporter.note(stream_text(result))
    if result.closed:
        sys.exit(0)


def maker(config: ClusterConfig | None, planned: Plan | None = None) -> Callable[..., Any]:
    """Return the function that processes a video: on this machine, by a plan if made before, or on the cluster."""
    if config is None:
        from midframe import pipeline

        return functools.partial(pipeline.interpolate, planned=planned)
    from midframe import cluster

    return functools.partial(cluster.interpolate, config=config)


def urls(inputs: Sequence[str], output: str | None, options: Options, progress: str, config: ClusterConfig) -> None:
    """Interpolate one video at a URL, on a cluster.

    Raises:
        InputError: several inputs, or no -o.
    """
    from midframe.cli.progress import open_reporter
    from midframe.errors import InputError

    if len(inputs) != 1 or output is None:
        raise InputError("one URL per run, with -o FILE|URL; midframe batch takes a list of URLs")
    with open_reporter(progress) as reporter, stop_events(reporter.note) as (drain, cancel):
        report_run(reporter, (inputs[0], output), options, config, (drain, cancel))


def is_image(source: Path) -> bool:
    """Return whether a path is one image file, not a pattern."""
    from midframe.video.images import SUFFIXES

    return source.suffix.lower() in SUFFIXES and source.is_file()


def between_images(sources: Sequence[Path], output: str | None, options: Options) -> None:
    """Interpolate between two images.

    Raises:
        InputError: not two.
    """
    from midframe.errors import InputError
    from midframe.torch_import import quick_import
    from midframe.video.containers import IMAGE_SUFFIXES

    if len(sources) != 2:
        given = "one image was given" if len(sources) == 1 else f"{len(sources)} images were given"
        raise InputError(
            f"{given}; give two to interpolate between; for a sequence give its folder, or a pattern in quotes such "
            "as 'shot_%04d.png' or 'IMG_*.jpg', with --in-fps"
        )
    a, b = sources
    kind = a.suffix if a.suffix.lower() in IMAGE_SUFFIXES else ".png"  # BMP is only read
    name = a.with_name(f"{a.stem}.{b.stem}.between{kind}")
    target = target_for(output, several=False) or name
    if target.is_dir():
        target = target / (name.name if options.ratio in (None, 2) else f"%06d{kind}")
    with quick_import():
        import midframe.planning  # noqa: F401  # before torch, while its library is loaded
        from midframe import pipeline

    for path in pipeline.between_files(a, b, target, options):
        click.echo(f"wrote {path}")


def check_names(sources: Sequence[Path], output: str | None) -> None:
    """Report missing inputs before any video is processed.

    Raises:
        MediaError: one is missing; patterns of images are checked later.
    """
    from midframe.errors import MediaError

    missing = [source for source in sources if not os.path.exists(source) and "%" not in source.name]
    if not missing or len(sources) == 1:
        return
    name = missing[-1]
    hint = f"; to write to it, say -o {name}" if output is None and name == sources[-1] else "; check the name"
    raise MediaError(f"'{name}' does not exist{hint}. Nothing was done")


def find_jobs(sources: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Find the videos of the inputs: files, folders of images as one video, all videos of other folders.

    Returns:
        The videos, and one line for each that is skipped as output of midframe: in a folder, or of another input.

    Raises:
        MediaError: a folder that holds neither.
    """
    from midframe.errors import MediaError
    from midframe.plan import origins_of
    from midframe.video.files import refuse_unread_image

    jobs: list[Path] = []
    skipped: list[str] = []
    given = {os.path.realpath(source) for source in sources}
    for source in sources:
        if not source.is_dir():
            origins = origins_of(source) if len(sources) > 1 else ()
            if any(os.path.realpath(origin) in given for origin in origins):
                skipped.append(f"note: skipped '{source}', which midframe wrote from another of these inputs")
            else:
                jobs.append(source)
            continue
        entries = sorted(entry for entry in source.iterdir() if entry.is_file() and not entry.name.startswith("."))
        videos = [entry for entry in entries if entry.suffix.lower() in FOLDER_VIDEOS]
        made = [video for video in videos if origins_of(video)]
        skipped += [f"note: skipped '{video}', which midframe wrote" for video in made]
        if videos:
            jobs += [video for video in videos if video not in made]
        elif any(is_image(entry) for entry in entries):
            jobs.append(source)
        else:
            refuse_unread_image(source)
            raise MediaError(f"the folder '{source}' holds neither videos nor images")
    return jobs, skipped


def target_for(output: str | None, several: bool) -> Path | None:
    """Return the target; several videos or a trailing slash create a folder.

    Raises:
        InputError: several videos into one file.
        MediaError: the folder cannot be created.
    """
    from midframe.errors import InputError, MediaError

    if output is None:
        return None
    from midframe.video.containers import CONTAINERS, IMAGE_SUFFIXES

    target = Path(output)
    if several and target.suffix.lower() in (*FOLDER_VIDEOS, *CONTAINERS, *IMAGE_SUFFIXES) and not target.is_dir():
        raise InputError(f"several videos cannot be written to one file '{target}'; give a folder with -o")
    if several or output.endswith(("/", "\\")):
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MediaError(f"the folder '{target}' cannot be created: {error.strerror}") from error
    return target


def _log_to_stderr(verbose: bool) -> None:
    import logging

    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr
    )
