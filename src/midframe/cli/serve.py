"""`midframe serve`: the page and the HTTP API, by default for this machine only."""

from __future__ import annotations

import os
import threading
import time
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from midframe.extras import install_command

if TYPE_CHECKING:
    from midframe.server.settings import Settings
    from midframe.server.subprocess_worker import Note

SHUTDOWN_SECONDS = 3  # open event streams get this long to end when the server stops


def default_data() -> Path:
    """Return the default folder of uploads, jobs and results."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "midframe" / "server"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The options of `midframe serve`, as `command` declares them."""

    host: str
    port: int
    token: str | None
    open_page: bool
    names: tuple[str, ...]
    allow: tuple[Path, ...]
    data: Path | None
    devices: tuple[str, ...]
    ray: str | None
    workers: int | None
    model: str | None
    max_upload_gb: float
    max_hours: float
    max_jobs: int
    keep_days: float
    keep_gb: float


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; any but loopback needs a token."
)
@click.option("--port", default=8642, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@click.option(
    "--token",
    envvar="MIDFRAME_TOKEN",
    help="Secret of at least 16 characters; in MIDFRAME_TOKEN it stays out of the process list.",
)
@click.option("--open", "open_page", is_flag=True, help="Open the page in the browser.")
@click.option(
    "--name", "names", multiple=True, metavar="HOST", help="Further host name under which the server is reached."
)
@click.option("--allow", multiple=True, metavar="FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder whose videos may be used by path. May be repeated.")  # fmt: skip
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder of uploads, jobs and results.")
@click.option(
    "--device", "devices", multiple=True, metavar="DEVICE", help="cpu, cuda:0 ...; one job at a time on each. [auto]"
)
@click.option("--ray", metavar="ADDRESS", help="Run jobs on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT.")
@click.option(
    "--workers",
    type=int,
    metavar="N",
    help="Segments in parallel on the cluster. Default: as many as CPUs, GPUs and memory allow.",
)
@click.option("--model", metavar="NAME", help="Default model.")
@click.option("--max-upload-gb", default=20.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="Largest upload.")  # fmt: skip
@click.option("--max-hours", default=4.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="Longest video.")  # fmt: skip
@click.option(
    "--max-jobs", default=50, show_default=True, type=click.IntRange(1), help="Unfinished jobs of one address."
)
@click.option("--keep-days", default=7.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="Age at which finished jobs and unused videos are deleted.")  # fmt: skip
@click.option("--keep-gb", default=100.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="Total size above which the oldest jobs and videos are deleted.")  # fmt: skip
def command(**given: Any) -> None:
    """Serve a page that interpolates videos in the browser, and an HTTP API for programs (see /docs on it)."""
    options = ServeOptions(**given)
    try:
        from midframe.server import security
    except ModuleNotFoundError as error:
        raise _no_web(error) from error
    from midframe.options import Options

    security.check_address(options.host, options.token)
    for device in options.devices:
        Options(device=device)  # raises InputError for an unknown device
    with ThreadPoolExecutor(1) as beside:  # it imports torch while this thread imports the web framework
        listing = beside.submit(runnable_models)
        try:
            import uvicorn

            from midframe.server import app, job_runner, video_inspection
            from midframe.server.backend import Backend
        except ModuleNotFoundError as error:
            raise _no_web(error) from error
        models = listing.result()
    settings = _settings(options, models)
    run_job = job_runner.run_job
    if options.ray is not None:
        run_job = partial(run_job, make=on_cluster(options.ray, options.workers))
    web = app.create_app(settings, Backend(run_job, video_inspection.probe_video, video_inspection.make_still))
    host, token = options.host, options.token
    server = uvicorn.Server(
        uvicorn.Config(
            web, host=host, port=options.port, log_level="warning", access_log=False, server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS, proxy_headers=False,
        )
    )  # fmt: skip
    sockets = [server.config.bind_socket()]
    address = f"http://{f'[{host}]' if ':' in host else host}:{sockets[0].getsockname()[1]}/"
    click.echo(f"midframe: {address}  (Ctrl-C stops; running jobs resume at the next start)")
    if token is not None:
        click.echo(
            "Every request needs the token; the page asks for it. Without TLS, the token can be read on the way."
        )
    if options.open_page:
        page = address if token is None else f"{address}#token={quote(token, safe='')}"
        threading.Thread(target=_open_when_started, args=(server, page), daemon=True, name="open page").start()
    server.run(sockets=sockets)


def _settings(options: ServeOptions, models: Sequence[str]) -> Settings:
    """Return the server's settings.

    Raises:
        InputError: the default model cannot run here.
    """
    from midframe.errors import InputError
    from midframe.options import Options
    from midframe.server.settings import Limits, Settings

    model = options.model or Options().model
    if model not in models:
        raise InputError(f"--model {model} cannot run here; {', '.join(models)} can")
    limits = Limits(
        upload_bytes=int(options.max_upload_gb * 1e9),
        duration_seconds=options.max_hours * 3600,
        jobs_per_client=options.max_jobs,
        keep_seconds=options.keep_days * 86400,
        keep_bytes=int(options.keep_gb * 1e9),
    )
    return Settings(
        data=(options.data or default_data()).absolute(),
        folders=options.allow,
        token=options.token,
        hosts=(options.host, *options.names),
        devices=options.devices or ("auto",),
        models=tuple(models),
        model=model,
        limits=limits,
    )


def _open_when_started(server: Any, page: str) -> None:
    while not server.started:
        if server.should_exit:
            return
        time.sleep(0.05)
    if not webbrowser.open(page):
        click.echo("no browser could be opened; open the address above", err=True)


def on_cluster(address: str, workers: int | None) -> Callable[..., Any]:
    """Return `cluster.interpolate` for a Ray cluster."""
    from midframe import cluster

    return partial(cluster.interpolate, config=cluster.ClusterConfig(address=address, workers=workers))


def _no_web(error: ModuleNotFoundError) -> click.ClickException:
    return click.ClickException(f"{error.name} is not installed; install what the page needs: {install_command('web')}")


def runnable_models() -> list[str]:
    """Return the names of the models that load here, found in a subprocess so that this process loads no torch."""
    from midframe.server.subprocess_worker import SubprocessWorker

    subprocess = SubprocessWorker("midframe models", _list_models)
    try:
        answer, _ = subprocess.request({}, seconds=120)
    finally:
        subprocess.kill()
    return list(answer["models"])


def _list_models(request: Mapping[str, Any], note: Note, cancel: threading.Event) -> tuple[Mapping[str, Any], None]:
    from midframe.errors import MidframeError
    from midframe.models import BUILDERS, load_model

    found = []
    for name in BUILDERS:
        try:
            load_model(name)
        except (MidframeError, ImportError):  # no weights, or a library that is an extra
            continue
        found.append(name)
    return {"models": found}, None
