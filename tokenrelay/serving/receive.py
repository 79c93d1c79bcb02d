"""The step that reads a call's request: in time, within a size, as a message, and within a budget for all calls."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from google.protobuf.message import DecodeError, Message

from tokenrelay.errors import InvalidRequestError, MessageTooLargeError, UnavailableError
from tokenrelay.serving.exchange import Exchange, Proceed
from tokenrelay.settings import ServerSettings


class Receive:
    """Reads the request of a call that has one, and each request of a call that has many.

    Args:
        settings: how large and how slow a request may be, and how many bytes of them this process holds.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._held = 0  # bytes of the requests of all open calls

    async def __call__(self, exchange: Exchange, proceed: Proceed) -> Any:
        if exchange.takes_stream:
            exchange.request = self._each(exchange)
            return await proceed(exchange)
        raw = await self._first(exchange)
        # Until the call ends, since the handler may keep the request for as long.
        with self._budget(len(raw)):
            exchange.request = self._parse(raw, exchange)
            del raw
            return await proceed(exchange)

    async def _first(self, exchange: Exchange) -> bytes:
        """Returns the call's request as soon as it is there."""
        seconds = self._settings.request_seconds
        try:
            async with asyncio.timeout(seconds):
                async for raw in exchange.messages:
                    return raw
        except TimeoutError:
            raise InvalidRequestError(f"the request did not arrive within {seconds:g} s") from None
        raise InvalidRequestError("the call has no whole request message")

    async def _each(self, exchange: Exchange) -> AsyncIterator[Message]:
        async for raw in exchange.messages:
            with self._budget(len(raw)):
                yield self._parse(raw, exchange)

    @contextmanager
    def _budget(self, size: int) -> Iterator[None]:
        """Holds some bytes of the budget for requests; one alone may be larger than all of it."""
        most = self._settings.max_request_bytes
        if self._held and self._held + size > most:
            raise UnavailableError(f"too many bytes of requests in flight (limit {most})", retry_after=1.0)
        self._held += size
        try:
            yield
        finally:
            self._held -= size

    def _parse(self, raw: bytes, exchange: Exchange) -> Message:
        most = self._settings.max_message_bytes
        if len(raw) > most:
            raise MessageTooLargeError(f"the request has {len(raw)} bytes; at most {most} are allowed")
        try:
            return exchange.parse(raw)
        except DecodeError:
            raise InvalidRequestError("the request is not a valid protobuf message of its type") from None
