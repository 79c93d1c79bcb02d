"""Commands that block: each has a connection of its own while it waits, or those behind it would wait too."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tokenrelay.token_log.wire import Wire


class BlockingCalls:
    """Keeps connections for the next call, as many as blocked at a time.

    Args:
        connect: opens a connection.
    """

    def __init__(self, connect: Callable[[], Awaitable[Wire]]) -> None:
        self._connect = connect
        self._free: list[Wire] = []
        self._busy: set[Wire] = set()

    async def call(self, *arguments: Any) -> Any:
        """Sends a command and returns its reply, an error reply as an exception.

        Raises:
            WireClosedError: the connection has ended; the command may have been executed.
        """
        wire = self._take() or await self._connect()
        self._busy.add(wire)
        try:
            return await wire.call(*arguments)
        except asyncio.CancelledError:
            wire.close()  # what comes yet is nobody's
            raise
        finally:
            self._busy.discard(wire)
            if not wire.closed:
                self._free.append(wire)

    def _take(self) -> Wire | None:
        while self._free:
            wire = self._free.pop()
            if not wire.closed:
                return wire
        return None

    def close(self) -> None:
        """Closes the connections; calls that still block end with WireClosedError."""
        for wire in (*self._free, *self._busy):
            wire.close()
