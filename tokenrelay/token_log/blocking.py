"""Commands that block: each has a connection of its own while it waits, or those behind it would wait too."""

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
        self._closed = False

    async def call(self, *arguments: Any) -> Any:
        """Sends a command and returns its reply, an error reply as an exception.

        Raises:
            WireClosedError: the connection has ended; the command may have been executed.
        """
        wire = self._take() or await self._connect()
        reply = None
        try:
            reply = wire.call(*arguments)
            return await reply
        finally:
            if reply is None or not reply.done() or reply.cancelled() or self._closed:
                wire.close()  # what comes yet is nobody's
            else:
                self._free.append(wire)

    def _take(self) -> Wire | None:
        while self._free:
            wire = self._free.pop()
            if not wire.closed:
                return wire
        return None

    def close(self) -> None:
        """Closes the connections; each call that still blocks closes its own when it ends."""
        self._closed = True
        while self._free:
            self._free.pop().close()
