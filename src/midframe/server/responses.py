"""Responses beyond plain JSON: errors in the documented form, files with ranges, the event stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from midframe.server.event_broker import EventBroker

# set in the scope of a HEAD request, which is routed as GET and answered without a body
HEAD_ONLY = "midframe.head_only"


def problem(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error as `{"error": {"code", "message"}}`."""
    message = message.encode("utf-8", "replace").decode()  # a lone surrogate from the request cannot be sent back
    return JSONResponse({"error": {"code": code, "message": message}}, status, headers=headers)


class RangeFileResponse(FileResponse):
    """Return a file, or the parts that a Range header requests; invalid ranges are refused as JSON."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file."""
        refusal: Response | None = None

        async def send_checked(message: Message) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and message["status"] in (400, 416):
                found = {key.decode(): value.decode() for key, value in message["headers"]}
                kept = {"content-range": found["content-range"]} if "content-range" in found else {}
                text = "the Range header is malformed; give bytes=FIRST-LAST"
                if message["status"] == 416:
                    text = f"the range lies outside the file, whose size is {kept['content-range'].split('/')[1]} bytes"
                code = "bad_range" if message["status"] == 400 else "range_not_satisfiable"
                refusal = problem(message["status"], code, text, kept)
            elif refusal is None:
                await send(message)

        if scope.get(HEAD_ONLY):
            scope = {**scope, "method": "HEAD"}  # so that the file is not read
        await super().__call__(scope, receive, send_checked)
        if refusal is not None:
            await refusal(scope, receive, send)


class EventStreamResponse(Response):
    """A server-sent event stream, or 429 when too many are open. It takes its place when it begins to be sent."""

    def __init__(self, broker: EventBroker, snapshot: Callable[[], list[str]], follow: bool) -> None:
        super().__init__()
        self._broker, self._snapshot, self._follow = broker, snapshot, follow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the client leaves or the server closes."""
        subscriber = self._broker.subscribe()
        if subscriber is None:
            await problem(429, "too_many_listeners", "too many event streams are open")(scope, receive, send)
            return
        follow = self._follow and not scope.get(HEAD_ONLY)
        texts: AsyncIterator[str] = self._broker.stream(subscriber, self._snapshot, follow)
        try:
            await StreamingResponse(texts, media_type="text/event-stream")(scope, receive, send)
        finally:
            self._broker.unsubscribe(subscriber)
