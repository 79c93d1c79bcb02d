"""A response on its way: ASGI's events in their order, and what the next one waits for."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from gateway.edge.grpc_over_asgi import headers
from gateway.edge.grpc_over_asgi.headers import Header
from tokenrelay.serving.exchange import ClientGoneError

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Response:
    """Headers, pieces of a body, and trailers.

    A piece is on its way when `write` returns, and only the next one waits until Envoy's thread has taken it: to wait for it
    at once would be two switches of threads for each message of a client that reads.

    Args:
        send: ASGI's. Its OSError means that the client has left.

    Attributes:
        is_begun: whether it has headers.
    """

    def __init__(self, send: Send) -> None:
        self.is_begun = False
        self._send = send
        self._written: asyncio.Future[None] | None = None  # whether Envoy has taken the newest piece
        self._flushing: asyncio.Handle | None = None

    async def begin(self, extra: Sequence[Header], *, has_trailers: bool = True) -> None:
        """Gives it headers. Envoy's module holds them back until a first piece of the body, however small, follows."""
        self.is_begun = True
        first = [headers.CONTENT_TYPE, headers.ACCEPTED_ENCODINGS, *extra]
        await self._event({"type": "http.response.start", "status": 200, "headers": first, "trailers": has_trailers})

    def flush_soon(self) -> None:
        """Sends the headers on their own unless a piece of the body comes before the caller waits for something.

        Most handlers write their first message at once, and headers that go with it are one crossing into Envoy's thread
        instead of two.
        """
        self._flushing = asyncio.get_running_loop().call_soon(self._hand_over, b"")

    async def write(self, body: bytes) -> None:
        """Sends a piece of the body, as soon as the one before has been taken.

        Raises:
            ClientGoneError: the client has left.
        """
        if self._written is not None:
            try:
                # Shielded: the module sets its result whatever has become of this call, which a cancelled future refuses.
                await (self._written if self._written.done() else asyncio.shield(self._written))
            except OSError:
                raise ClientGoneError("the client has left") from None
        self._hand_over(body)

    async def end(self, trailers: Sequence[Header]) -> None:
        """Sends what comes last.

        Raises:
            ClientGoneError: the client has left.
        """
        self._stop_flushing()
        if not self.is_begun:
            # A response of headers alone, which gRPC calls Trailers-Only.
            await self.begin(trailers, has_trailers=False)
            await self._event({"type": "http.response.body", "body": b"", "more_body": False})
            return
        await self._event({"type": "http.response.body", "body": b"", "more_body": False})
        await self._event({"type": "http.response.trailers", "headers": trailers, "more_trailers": False})

    def close(self) -> None:
        """Sends nothing more. Whether the last piece was taken is of no interest to anybody any more."""
        self._stop_flushing()
        if self._written is not None:
            self._written.add_done_callback(_look_at)

    def _hand_over(self, body: bytes) -> None:
        self._stop_flushing()
        event = {"type": "http.response.body", "body": body, "more_body": True}
        # The module sends when it is called, and gives a future; a coroutine is sent by the task that this makes of it.
        self._written = asyncio.ensure_future(self._send(event))

    def _stop_flushing(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None

    async def _event(self, event: dict[str, Any]) -> None:
        try:
            await self._send(event)
        except OSError:
            raise ClientGoneError("the client has left") from None


def _look_at(written: asyncio.Future[None]) -> None:
    """Looks at an error that a future may bring, since asyncio would report one that nobody has looked at."""
    if not written.cancelled():
        written.exception()
