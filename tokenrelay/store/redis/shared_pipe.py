"""A connection that many callers share, opened once for all of them."""

import asyncio
from collections.abc import Awaitable, Callable

from tokenrelay.backoff import Backoff
from tokenrelay.store.redis.pipe import RedisPipe

FIRST_DELAY, LONGEST_DELAY = 0.02, 0.5  # seconds between two tries to open it


class SharedPipe:
    """Opens a connection when it is first needed and whenever the last one has ended.

    Args:
        open_pipe: opens one; is expected to give up by itself.
    """

    def __init__(self, open_pipe: Callable[[], Awaitable[RedisPipe]]) -> None:
        self._open_pipe = open_pipe
        self._pipe: RedisPipe | None = None
        self._opening: asyncio.Task[RedisPipe] | None = None
        self._backoff = Backoff(FIRST_DELAY, LONGEST_DELAY)
        self._failed = False

    async def get(self) -> RedisPipe:
        """Returns the connection, or raises what the try to open it raised; the same for all who waited for that try."""
        if self._pipe is not None and not self._pipe.closed:
            return self._pipe
        if self._opening is None:
            # One try for all: if each caller made its own behind a lock, the hundredth would wait a hundred timeouts.
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(self._opened)
        # Shielded: the first caller may be cancelled or out of patience while others still wait for this try.
        return await asyncio.shield(self._opening)

    async def _open(self) -> RedisPipe:
        if self._failed:
            await asyncio.sleep(self._backoff.next_delay())
        return await self._open_pipe()

    def _opened(self, opening: "asyncio.Task[RedisPipe]") -> None:
        self._opening = None
        # The exception is looked at here, since all who waited may have left.
        self._failed = opening.cancelled() or opening.exception() is not None
        if not self._failed:
            self._pipe = opening.result()
            self._backoff.reset()

    def close(self) -> None:
        """Closes the connection, and breaks off a try to open one."""
        if self._opening is not None:
            self._opening.cancel()
        if self._pipe is not None:
            self._pipe.close()
