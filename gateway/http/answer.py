"""One answer on its way to the client."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from gateway.http.errors import HttpError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

CALLER = "tokenrelay.caller"  # where a scope has the Caller of its request
UNREAD_SECONDS = 1.0  # for what nobody will look at to arrive


class ClientLeftError(Exception):
    """Nobody is there to read the answer."""


class Answer:
    """Passes ASGI's events on, and knows how far the request and its answer are.

    Args:
        scope: the request's.
        receive: ASGI's.
        send: ASGI's. Its OSError means that the client has left.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_head = scope["method"] == "HEAD"
        self._is_read = False
        self._reading: asyncio.Task[None] | None = None
        self.is_begun = False

    async def receive(self) -> MutableMapping[str, Any]:
        """Returns the next event of the request."""
        event = await self._receive()
        self._is_read = event["type"] != "http.request" or not event.get("more_body", False)
        return event

    async def send(self, event: MutableMapping[str, Any]) -> None:
        """Sends an event; of the answer to HEAD the headers alone.

        Raises:
            ClientLeftError: the client has left.
        """
        if event["type"] == "http.response.start":
            await self._read_the_rest()
            self.is_begun = True
        elif self._is_head:
            event = {**event, "body": b""}  # Envoy would send it, and the next answer on that connection be misread
        try:
            await self._send(event)
        except OSError:
            raise ClientLeftError from None

    async def _read_the_rest(self) -> None:
        # Envoy resets an HTTP/2 stream whose request is still on its way when its answer ends, and some clients then throw
        # the answer away. Whoever sends for longer than this is not waited for.
        if not self._is_read:
            # Not cancelled when the time is over: Envoy's module says at the end of the request that it is over, and logs
            # an error if nobody is there to hear it.
            self._reading = asyncio.create_task(self._read_all())
            await asyncio.wait({self._reading}, timeout=UNREAD_SECONDS)

    async def _read_all(self) -> None:
        while not self._is_read:
            await self.receive()

    async def refuse(self, error: HttpError) -> None:
        """Answers with an error."""
        await self.whole(error.status, error.body, {"content-type": "application/json", **error.headers})

    async def whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Answers at once."""
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        if status != 204:  # which has no body, and must not say so
            raw.append((b"content-length", b"%d" % len(body)))
        await self.send({"type": "http.response.start", "status": status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})
