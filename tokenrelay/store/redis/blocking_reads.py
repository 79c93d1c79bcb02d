"""Commands that block: each has a connection of its own while it waits, or those behind it would wait too."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tokenrelay.store.redis.pipe import RedisPipe


class BlockingReads:
    """Keeps connections for the next call, as many as blocked at a time.

    Args:
        connect: opens a connection.
    """

    def __init__(self, connect: Callable[[], Awaitable[RedisPipe]]) -> None:
        self._connect = connect
        self._free: list[RedisPipe] = []
        self._busy: set[RedisPipe] = set()

    async def call(self, *arguments: Any) -> Any:
        """Sends a command and returns its reply, an error reply as an exception.

        Raises:
            PipeClosedError: the connection has ended; the command may have been executed.
        """
        pipe = self._take() or await self._connect()
        self._busy.add(pipe)
        try:
            return await pipe.call(*arguments)
        except asyncio.CancelledError:
            pipe.close()  # what comes yet is nobody's
            raise
        finally:
            self._busy.discard(pipe)
            if not pipe.closed:
                self._free.append(pipe)

    def _take(self) -> RedisPipe | None:
        while self._free:
            pipe = self._free.pop()
            if not pipe.closed:
                return pipe
        return None

    def close(self) -> None:
        """Closes the connections; calls that still block end with PipeClosedError."""
        for pipe in (*self._free, *self._busy):
            pipe.close()
