"""Checks before any route: who may send requests, from where, and how large they may be.

Four checks, each against something real: the Host header (a hostile page that points its own name at 127.0.0.1), the
Sec-Fetch-Site and Origin headers (a hostile page that posts to 127.0.0.1), the token, the size of a request's body.
Every answer carries headers that let a page of this server load nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from midframe.errors import InputError
from midframe.server.responses import HEAD_ONLY

COOKIE = "midframe_session"
BODY_BYTES = 256 * 1024  # a JSON body; videos and masks come through routes that count for themselves
MIN_TOKEN = 16  # letters; shorter ones can be guessed
GUESS_SECONDS = 1.0  # between two answers to wrong tokens, whoever sends them
MAX_GUESSES_WAITING = 20

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


def session_value(token: str) -> str:
    """Return the value of the cookie: proof of the token, not the token."""
    return hmac.new(token.encode(), b"midframe session 1", hashlib.sha256).hexdigest()


def same(given: str, right: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), right.encode())


def is_loopback(host: str) -> bool:
    """Return whether an address is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, token: str | None) -> None:
    """Refuse to listen to the network without a token. Raises InputError."""
    if token is not None and len(token) < MIN_TOKEN:
        raise InputError(
            f"--token has {len(token)} letters; give at least {MIN_TOKEN}, such as from `openssl rand -hex 16`"
        )
    if token is None and not is_loopback(host):
        raise InputError(
            f"--host {host} can be reached from other machines, so it needs a --token; or leave --host away to listen "
            "on 127.0.0.1 alone"
        )


class GuessLimiter:
    """Answers wrong tokens one after the other, `GUESS_SECONDS` apart, so that parallel guesses gain nothing."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def admit(self) -> bool:
        """Wait for a turn; False at once when too many guesses wait already. Right tokens never come here."""
        if self._waiting >= MAX_GUESSES_WAITING:
            return False
        self._waiting += 1
        try:
            async with self._turn:
                await asyncio.sleep(GUESS_SECONDS)
        finally:
            self._waiting -= 1
        return True


class SecurityMiddleware:
    """ASGI middleware with the four checks."""

    def __init__(
        self,
        app: ASGIApp,
        token: str | None,
        hosts: Iterable[str],
        guesses: GuessLimiter,
        counted_paths: tuple[str, ...] = (),
    ) -> None:
        """Wrap an application.

        Args:
            app: the application.
            token: secret that every request must carry, None for a server on loopback.
            hosts: names of this server beside the loopback ones.
            guesses: slows down wrong tokens.
            counted_paths: suffixes of paths whose routes count the bytes of a body themselves.
        """
        self._app, self._token, self._guesses, self._counted = app, token, guesses, counted_paths
        self._hosts = {host.lower() for host in hosts} | {"localhost", "127.0.0.1", "::1"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        head_only = scope["method"] == "HEAD"
        if head_only:  # every GET route answers HEAD too
            scope = {**scope, "method": "GET", HEAD_ONLY: True}

        async def send_guarded(message: Message) -> None:
            if head_only and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            if message["type"] == "http.response.start":
                own = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    own[name] = value
                if "cache-control" not in own:
                    own["cache-control"] = "no-store" if scope["path"].startswith("/api/") else "no-cache"
            await send(message)

        problem = self._problem(scope, headers)
        if problem is not None:
            offered = problem[0] == 401 and (headers.get("authorization") or headers.get("cookie"))
            if offered and not await self._guesses.admit():
                problem = 429, "too_many_guesses", "too many wrong tokens are being tried; wait a minute"
            await _refuse(send_guarded, *problem)
            return
        if self._counts_itself(scope, headers):
            await self._app(scope, receive, send_guarded)
            return
        seen = 0

        async def receive_counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > BODY_BYTES:
                raise HTTPException(413, f"a request body may have at most {BODY_BYTES} bytes")
            return message

        await self._app(scope, receive_counted, send_guarded)

    def _problem(self, scope: Scope, headers: Headers) -> tuple[int, str, str] | None:
        host = headers.get("host", "")
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            name = ""
        # with a token a foreign name does no harm: the cookie is not sent under it
        if self._token is None and name not in self._hosts:
            return 421, "wrong_host", "this server does not go by that name; start it with --name to allow one"
        if not scope["path"].startswith("/api/"):
            return None
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "cross_origin", "another site's page may not use this server"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return 403, "cross_origin", "another site's page may not use this server"
        length = headers.get("content-length", "0")
        if not self._counts_itself(scope, headers) and length.isdigit() and int(length) > BODY_BYTES:
            return 413, "too_large", f"a request body may have at most {BODY_BYTES} bytes"
        opening = scope["path"] == "/api/v1/session" and scope["method"] == "POST"
        if self._token is not None and not opening and not self._known(headers):
            return 401, "token_needed", "this server needs its token: Authorization: Bearer TOKEN"
        return None

    def _counts_itself(self, scope: Scope, headers: Headers) -> bool:
        """Return whether the route of a request limits the size of its body itself."""
        if scope["method"] == "PUT":
            return bool(scope["path"].endswith(self._counted))
        multipart = headers.get("content-type", "").lower().startswith("multipart/form-data")
        return multipart and scope["method"] == "POST" and scope["path"] == "/api/v1/jobs"

    def _known(self, headers: Headers) -> bool:
        assert self._token is not None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return same(given.strip(), self._token)
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and same(cookie.value, session_value(self._token))


async def _refuse(send: Send, status: int, code: str, message: str) -> None:
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    head = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if status == 401:
        head.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
