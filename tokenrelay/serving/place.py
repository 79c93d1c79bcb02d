"""The step that bounds how many calls are open at a time."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tokenrelay.errors import UnavailableError
from tokenrelay.serving.exchange import Exchange, Proceed
from tokenrelay.settings import ServerSettings

EVERY_METHOD = ""  # all methods share one number of places


class Place:
    """Takes one of the places for open calls, or refuses the call.

    Args:
        most: how many places there are.
        per_method: whether every method has so many, instead of all together.
        stream_seconds: how long a call with a stream of requests may keep its place; None: as long as it likes.
    """

    def __init__(self, most: int, *, per_method: bool, stream_seconds: float | None = None) -> None:
        self._most = most
        self._per_method = per_method
        self._stream_seconds = stream_seconds
        self._open: dict[str, int] = defaultdict(int)

    @classmethod
    def for_ours(cls, settings: ServerSettings) -> "Place":
        """Returns the places of our own services: one number for all."""
        return cls(settings.max_calls, per_method=False)

    @classmethod
    def for_standard(cls, settings: ServerSettings) -> "Place":
        """Returns the places of health and reflection.

        They are apart from those of our own services, and one method's apart from another's: a Watch and a reflection
        stream that somebody leaves open take no place from a generation, nor from a probe's Check.
        """
        return cls(settings.max_standard_calls, per_method=True, stream_seconds=settings.reflection_seconds)

    async def __call__(self, exchange: Exchange, proceed: Proceed) -> Any:
        with self._taken(exchange.method if self._per_method else EVERY_METHOD):
            if not exchange.takes_stream or self._stream_seconds is None:
                return await proceed(exchange)
            try:
                # Around reading and writing both: a client may stop at either.
                async with asyncio.timeout(self._stream_seconds):
                    return await proceed(exchange)
            except TimeoutError:
                raise UnavailableError(f"the stream was open for {self._stream_seconds:g} s; open another one") from None

    @contextmanager
    def _taken(self, name: str) -> Iterator[None]:
        if self._open[name] >= self._most:
            raise UnavailableError(f"too many open calls (limit {self._most})", retry_after=1.0)
        self._open[name] += 1
        try:
            yield
        finally:
            self._open[name] -= 1
