"""Routes about the server itself: its state, sessions, and the event stream."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from midframe.server import security
from midframe.server.event_broker import event
from midframe.server.responses import EventStreamResponse
from midframe.server.schemas import HTTPError, NewSession, ServerState
from midframe.server.services import InServices, source_state

router = APIRouter(prefix="/api/v1", tags=["server"])


@router.get("/server")
def server(services: InServices) -> ServerState:
    """Return version, models, devices, limits, and how many jobs are in each state."""
    settings, limits = services.settings, services.limits
    return ServerState(
        version=version("midframe"), models=list(settings.models), model=settings.model, devices=list(settings.devices),
        paths_allowed=bool(settings.folders), counts=services.store.counts(),
        limits={"upload_bytes": limits.upload_bytes, "duration_seconds": limits.duration_seconds,
                "pixels": limits.pixels, "frames": limits.frames, "jobs_per_client": limits.jobs_per_client,
                "keep_seconds": limits.keep_seconds},
    )  # fmt: skip


@router.post("/session", status_code=204)
async def open_session(services: InServices, new: NewSession, request: Request) -> Response:
    """Exchange the token for a cookie, which images, videos and event streams need in a browser."""
    if services.settings.token is None:
        return Response(status_code=204)
    if not security.same(new.token, services.settings.token):
        if not await request.app.state.guesses.admit():
            raise HTTPError(429, "too_many_guesses", "too many wrong tokens are being tried; wait a minute")
        raise HTTPError(401, "token_needed", "this is not the server's token")
    response = Response(status_code=204)
    response.set_cookie(
        security.COOKIE, security.session_value(services.settings.token), max_age=30 * 86400, httponly=True,
        samesite="strict", secure=request.url.scheme == "https",
    )  # fmt: skip
    return response


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def events(services: InServices, follow: bool = True) -> Response:
    """Stream server-sent events. First every source and job (`source`, `job`), then `ready`, then changes, and `gone`.

    With `follow=false` the stream ends after `ready`.
    """

    def snapshot() -> list[str]:
        first = ["retry: 1000\n\n"]
        first += [event("source", source_state(source).model_dump_json()) for source in services.store.sources()]
        first += [event("job", services.job_state(job).model_dump_json()) for job in reversed(services.store.jobs())]
        return [*first, event("ready", "{}")]

    return EventStreamResponse(services.events, snapshot, follow)
