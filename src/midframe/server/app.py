"""The web application: routes about the server itself, errors as JSON, and the page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from midframe.errors import JobError, MidframeError
from midframe.server import paths, routes_jobs, routes_server, routes_sources, security
from midframe.server.backend import Backend
from midframe.server.responses import problem
from midframe.server.schemas import HTTPError, Problem
from midframe.server.services import Services
from midframe.server.settings import Settings
from midframe.server.store import ConflictError, NotFoundError

STATIC = Path(__file__).with_name("static")


def create_app(settings: Settings, backend: Backend) -> FastAPI:
    """Create the ASGI application. Raises JobError if another server uses the same folder.

    The store is opened, and the workers are started, when the application starts.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        services = await asyncio.to_thread(Services, settings, backend)
        app.state.services = services
        services.events.start()
        services.start()
        try:
            yield
        finally:
            await services.events.close()
            await asyncio.to_thread(services.close)

    guesses = security.GuessLimiter()
    app = FastAPI(
        title="midframe",
        version="1",
        summary="Video frame interpolation: upload, preview, run, download.",
        description=(
            'Errors are {"error": {"code", "message"}}: the code is stable, the message is for people. Times are '
            "seconds. HEAD works wherever GET does. With a token every request needs Authorization: Bearer TOKEN."
        ),
        docs_url=None, redoc_url=None, openapi_url="/api/v1/openapi.json", lifespan=lifespan,
        responses={code: {"model": Problem} for code in (400, 401, 403, 404, 409, 413, 421, 422, 429)},
    )  # fmt: skip
    app.state.guesses = guesses
    app.add_middleware(
        security.SecurityMiddleware,
        token=settings.token,
        hosts=settings.hosts,
        guesses=guesses,
        counted_paths=("/content", "/mask"),
    )
    app.add_exception_handler(HTTPError, _on_http_error)
    app.add_exception_handler(MidframeError, _on_midframe_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    for part in (routes_server.router, routes_sources.router, routes_jobs.router):
        app.include_router(part)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/docs", include_in_schema=False)
    def docs() -> FileResponse:
        return FileResponse(STATIC / "docs.html")

    return app


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPError)
    return problem(error.status, error.code, str(error))


async def _on_midframe_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, NotFoundError):
        return problem(404, "not_found", str(error))
    if isinstance(error, paths.ForbiddenError):
        return problem(403, "forbidden", str(error))
    if isinstance(error, ConflictError):
        return problem(409, "conflict", str(error))
    return problem(409 if isinstance(error, JobError) else 422, "invalid", str(error))


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    text = first["msg"]
    if first["type"] == "string_pattern_mismatch" and first["loc"][-1] in ("fps", "ratio", "slowmo"):
        text = f"{str(first['input'])[:40]!r} is not a number; give 60, 59.94 or 60000/1001"
    return problem(422, "invalid", f"{where}: {text}")


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status_code, "invalid")
    return problem(error.status_code, code, str(error.detail), dict(error.headers or {}))


async def _on_bug(request: Request, error: Exception) -> JSONResponse:
    return problem(500, "internal", "the server failed to answer this request; its log says why")
