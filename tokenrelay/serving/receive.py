"""The step that reads a call's request: in time, within a size, as a message, and within a budget for all calls."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import DecodeError, Message

from tokenrelay.errors import InvalidRequestError, MessageTooLargeError
from tokenrelay.serving.budget import Budget
from tokenrelay.serving.exchange import Exchange, Proceed
from tokenrelay.settings import ServerSettings


class Receive:
    """Reads the request of a call that has one, and each request of a call that has many.

    Args:
        settings: how large and how slow a request may be.
        budget: the bytes of all requests.
    """

    def __init__(self, settings: ServerSettings, budget: Budget) -> None:
        self._settings = settings
        self._budget = budget

    async def __call__(self, exchange: Exchange, proceed: Proceed) -> Any:
        if exchange.takes_stream:
            exchange.request = self._each(exchange)
            return await proceed(exchange)
        raw = await self._first(exchange)
        # Until the call ends, since the handler may keep the request for as long.
        with self._budget.holding(len(raw)):
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
            with self._budget.holding(len(raw)):
                yield self._parse(raw, exchange)

    def _parse(self, raw: bytes, exchange: Exchange) -> Message:
        most = self._settings.max_message_bytes
        if len(raw) > most:
            raise MessageTooLargeError(f"the request has {len(raw)} bytes; at most {most} are allowed")
        try:
            return exchange.parse(raw)
        except DecodeError:
            raise InvalidRequestError("the request is not a valid protobuf message of its type") from None
