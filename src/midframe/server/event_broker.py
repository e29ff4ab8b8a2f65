"""Server-sent events: every change goes to every open page, at most four times a second.

Changes are published from any thread. Only the newest state of each thing is sent, so a slow subscriber misses steps,
never the end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

BEAT_SECONDS = 0.25
SILENCE_SECONDS = 15.0  # a comment line after this long keeps proxies from closing the connection
MAX_SUBSCRIBERS = 200


class EventBroker:
    """Gathers changes and hands them out."""

    def __init__(self, render: Callable[[str, str], str | None]) -> None:
        """Create a broker; `render(kind, id)`, called in a thread, gives the JSON of a thing, None if it is gone."""
        self._render = render
        self._lock = threading.Lock()
        self._changed: dict[tuple[str, str], None] = {}  # a dict keeps the order
        self._subscribers: set[Subscriber] = set()
        self._pump: asyncio.Task[None] | None = None

    def publish(self, kind: str, id: str) -> None:
        """Announce a change of kind "job", "source" or "gone" with its id, from any thread."""
        with self._lock:
            self._changed[kind, id] = None

    def start(self) -> None:
        """Start handing events out, within a running loop."""
        self._pump = asyncio.create_task(self._beat())

    async def close(self) -> None:
        """End every subscriber's stream."""
        if self._pump is not None:
            self._pump.cancel()
        for subscriber in list(self._subscribers):
            subscriber.close()

    @property
    def subscribers(self) -> int:
        """Number of open event streams."""
        return len(self._subscribers)

    def subscribe(self) -> Subscriber | None:
        """Add a subscriber; None when there are MAX_SUBSCRIBERS."""
        if len(self._subscribers) >= MAX_SUBSCRIBERS:
            return None
        subscriber = Subscriber()
        self._subscribers.add(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Free the place of a subscriber."""
        self._subscribers.discard(subscriber)

    async def stream(
        self, subscriber: Subscriber, snapshot: Callable[[], list[str]], follow: bool = True
    ) -> AsyncIterator[str]:
        """Yield the text of an event stream: the texts of `snapshot`, called in a thread, then changes if `follow`."""
        for text in await asyncio.to_thread(snapshot):
            yield text
        while follow and not subscriber.closed:
            texts = await subscriber.wait(SILENCE_SECONDS)
            yield "".join(texts) or ": still here\n\n"

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            with self._lock:
                changed, self._changed = list(self._changed), {}
            if not changed or not self._subscribers:
                continue
            texts = await asyncio.to_thread(self._all, changed)
            for subscriber in self._subscribers:
                subscriber.put(texts)

    def _all(self, changed: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
        texts = {(kind, id): self._render(kind, id) for kind, id in changed}
        return {(kind, id): event(kind, text) for (kind, id), text in texts.items() if text is not None}


def event(kind: str, text: str) -> str:
    """Format one event of the stream; `text` is JSON and has no line ends."""
    return f"event: {kind}\ndata: {text}\n\n"


class Subscriber:
    """One open page."""

    def __init__(self) -> None:
        self._pending: dict[tuple[str, str], str] = {}
        self._news = asyncio.Event()
        self.closed = False

    def put(self, texts: dict[tuple[str, str], str]) -> None:
        """Queue a state in place of an older one not yet sent."""
        self._pending.update(texts)
        self._news.set()

    def close(self) -> None:
        """End the stream."""
        self.closed = True
        self._news.set()

    async def wait(self, seconds: float) -> list[str]:
        """Return new events; none after `seconds` without one."""
        try:
            await asyncio.wait_for(self._news.wait(), seconds)
        except TimeoutError:
            return []
        self._news.clear()
        texts, self._pending = list(self._pending.values()), {}
        return texts
