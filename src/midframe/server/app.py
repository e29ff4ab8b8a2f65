"""The web application: routes about the server itself, errors as JSON, and the page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from midframe.errors import JobError, MidframeError
from midframe.server import guard, paths, runs, sources
from midframe.server.events import event
from midframe.server.house import Bench, House, InHouse, Settings, source_state
from midframe.server.jobs import ConflictError, NotFoundError
from midframe.server.wire import Deny, NewSession, Problem, ServerState

STATIC = Path(__file__).with_name("static")

router = APIRouter(prefix="/api/v1", tags=["server"])


@router.get("/server")
def server(h: InHouse) -> ServerState:
    """Version, models, devices, limits, and how many jobs are in each state."""
    settings, limits = h.settings, h.limits
    return ServerState(
        version=version("midframe"), models=list(settings.models), model=settings.model, devices=list(settings.devices),
        paths_allowed=bool(settings.folders), counts=h.store.counts(),
        limits={"upload_bytes": limits.upload_bytes, "duration_seconds": limits.duration_seconds,
                "pixels": limits.pixels, "frames": limits.frames, "jobs_per_client": limits.jobs_per_client,
                "keep_seconds": limits.keep_seconds},
    )  # fmt: skip


@router.post("/session", status_code=204)
def open_session(h: InHouse, new: NewSession, request: Request) -> Response:
    """Trade the token for a cookie, which pictures, films and event streams need in a browser."""
    if h.settings.token is None:
        return Response(status_code=204)
    if not guard.same(new.token, h.settings.token):
        raise Deny(401, "token_needed", "this is not the server's token")
    response = Response(status_code=204)
    response.set_cookie(
        guard.COOKIE, guard.session_value(h.settings.token), max_age=30 * 86400, httponly=True, samesite="strict",
        secure=request.url.scheme == "https",
    )  # fmt: skip
    return response


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def events(h: InHouse, follow: bool = True) -> StreamingResponse:
    """Server-sent events. First every source and job (`source`, `job`), then `ready`, then changes, and `gone`.

    With `follow=false` the stream ends after `ready`.
    """
    if h.hub.full:
        raise Deny(429, "too_many_listeners", "too many event streams are open")

    def snapshot() -> list[str]:
        first = ["retry: 1000\n\n"]
        first += [event("source", source_state(source).model_dump_json()) for source in h.store.sources()]
        first += [event("job", h.job_state(job).model_dump_json()) for job in reversed(h.store.jobs())]
        return [*first, event("ready", "{}")]

    return StreamingResponse(h.hub.stream(snapshot, follow), media_type="text/event-stream")


def create_app(settings: Settings, bench: Bench) -> FastAPI:
    """The server as an ASGI application. Raises JobError where another server uses the same folder.

    The store is opened, and the workers are started, when the application starts.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        house = await asyncio.to_thread(House, settings, bench)
        app.state.house = house
        house.hub.start()
        house.start()
        try:
            yield
        finally:
            await house.hub.close()
            await asyncio.to_thread(house.close)

    app = FastAPI(
        title="midframe",
        version="1",
        summary="Smoother films at any rate: upload, look at a few seconds, run, fetch.",
        description="Errors are `{\"error\": {\"code\", \"message\"}}`. Times are seconds.",
        docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json", lifespan=lifespan,
        responses={code: {"model": Problem} for code in (400, 401, 403, 404, 409, 413, 421, 422, 429)},
    )  # fmt: skip
    app.add_middleware(guard.Guard, token=settings.token, hosts=settings.hosts, counted_paths=("/content", "/mask"))
    app.add_exception_handler(Deny, _on_deny)
    app.add_exception_handler(MidframeError, _on_midframe_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    for part in (router, sources.router, runs.router):
        app.include_router(part)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    return app


async def _on_deny(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Deny)
    return _problem(error.status, error.code, str(error))


async def _on_midframe_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, NotFoundError):
        return _problem(404, "not_found", str(error))
    if isinstance(error, paths.ForbiddenError):
        return _problem(403, "forbidden", str(error))
    if isinstance(error, ConflictError):
        return _problem(409, "conflict", str(error))
    return _problem(409 if isinstance(error, JobError) else 422, "invalid", str(error))


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return _problem(422, "invalid", f"{where}: {first['msg']}")


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status_code, "invalid")
    return JSONResponse(
        {"error": {"code": code, "message": str(error.detail)}}, error.status_code, headers=dict(error.headers or {})
    )


def _problem(status: int, code: str, message: str) -> JSONResponse:
    message = message.encode("utf-8", "replace").decode()  # a lone surrogate from the request cannot be sent back
    return JSONResponse({"error": {"code": code, "message": message}}, status)
