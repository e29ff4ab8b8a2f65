"""`midframe serve`: the page and the HTTP API, on this machine alone unless told otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import threading

    from midframe.extras import install_command
from midframe.server.subprocess_worker import Note

GRACE_SECONDS = 3  # open event streams get this long to end when the server stops


def default_data() -> Path:
    """Where uploads, jobs and results go unless --data says otherwise."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "midframe" / "server"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; any but loopback needs a token."
)
@click.option("--port", default=8642, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@click.option(
    "--token", envvar="MIDFRAME_TOKEN", help="Secret of 16 letters or more; better in MIDFRAME_TOKEN, unseen by ps."
)
@click.option("--name", "names", multiple=True, metavar="HOST", help="A further host name that browsers may use.")
@click.option("--allow", multiple=True, metavar="FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Films under this folder may be named by path. Several times.")  # fmt: skip
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder of uploads, jobs and results.")
@click.option(
    "--device", "devices", multiple=True, metavar="DEVICE", help="cpu, cuda:0 ...; one worker for each. [auto]"
)
@click.option("--ray", metavar="ADDRESS", help="Make the films on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT.")
@click.option("--workers", type=int, metavar="N", help="Segments at a time on the cluster. Default: as it carries.")
@click.option("--model", metavar="NAME", help="Model used when none is named.")
@click.option("--max-upload-gb", default=20.0, show_default=True, type=click.FloatRange(min=0, min_open=True))
@click.option("--max-hours", default=4.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="Longest film.")  # fmt: skip
@click.option(
    "--max-jobs", default=50, show_default=True, type=click.IntRange(1), help="Unfinished jobs of one address."
)
@click.option("--keep-days", default=7.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="Then finished jobs and unused films are deleted.")  # fmt: skip
@click.option("--keep-gb", default=100.0, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="Above it the oldest are deleted.")  # fmt: skip
def command(
    host: str, port: int, token: str | None, names: tuple[str, ...], allow: tuple[Path, ...], data: Path | None,
    devices: tuple[str, ...], ray: str | None, workers: int | None, model: str | None, max_upload_gb: float,
    max_hours: float, max_jobs: int,
    keep_days: float, keep_gb: float,
) -> None:  # fmt: skip
    """A page to drop films on, and an API for programs (see /api/v1/openapi.json)."""
    try:
        from midframe.server import security
    except ModuleNotFoundError as error:
        raise _no_web(error) from error
    from midframe.errors import InputError
    from midframe.options import Options

    security.check_address(host, token)
    for device in devices:
        Options(device=device)  # refuses what no device is called
    with ThreadPoolExecutor(1) as beside:  # torch is imported there while the web framework is imported here
        listing = beside.submit(runnable_models)
        try:
            import uvicorn

            from midframe.server import app, job_runner, video_inspection
            from midframe.server.backend import Backend
            from midframe.server.settings import Limits, Settings
        except ModuleNotFoundError as error:
            raise _no_web(error) from error
        models = listing.result()
    model = model or Options().model
    if model not in models:
        raise InputError(f"--model {model} cannot run here; {', '.join(models)} can")
    settings = Settings(
        data=(data or default_data()).absolute(), folders=allow, token=token, hosts=(host, *names),
        devices=devices or ("auto",), models=tuple(models), model=model,
        limits=Limits(
            upload_bytes=int(max_upload_gb * 1e9), duration_seconds=max_hours * 3600, jobs_per_client=max_jobs,
            keep_seconds=keep_days * 86400, keep_bytes=int(keep_gb * 1e9),
        ),
    )  # fmt: skip
    run_job = job_runner.run_job if ray is None else partial(job_runner.run_job, make=_on_cluster(ray, workers))
    web = app.create_app(settings, Backend(run_job, video_inspection.probe_video, video_inspection.make_still))
    server = uvicorn.Server(
        uvicorn.Config(
            web, host=host, port=port, log_level="warning", access_log=False, server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS, proxy_headers=False,
        )
    )  # fmt: skip
    sockets = [server.config.bind_socket()]
    shown = f"[{host}]" if ":" in host else host
    click.echo(
        f"midframe: http://{shown}:{sockets[0].getsockname()[1]}/  (Ctrl-C stops; running jobs go on at the next start)"
    )
    if token is not None:
        click.echo(
            "Every request needs the token; the page asks for it. Without TLS in front, anyone on the way can read it."
        )
    server.run(sockets=sockets)


def _on_cluster(address: str, workers: int | None) -> Callable[..., Any]:
    """What makes a film on a Ray cluster."""
    from midframe import cluster

    return partial(cluster.interpolate, config=cluster.ClusterConfig(address=address, workers=workers))


def _no_web(error: ModuleNotFoundError) -> click.ClickException:
    return click.ClickException(f"{error.name} is not installed; install what the page needs: {install_command('web')}")


def runnable_models() -> list[str]:
    """Names of the models that load here, found out in a process of its own, so that this one stays small."""
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
