"""Wakes the tasks that wait until there is something to read or to claim."""

import asyncio
from collections.abc import Callable


class Changes:
    """Says that something has changed which others may wait for, until it is closed."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._closed = False

    def notify(self) -> None:
        """Has everybody who waits look again."""
        self._changed.set()

    def close(self) -> None:
        """Ends all waiting, now and later."""
        self._closed = True
        self._changed.set()

    async def wait_until(self, is_so: Callable[[], bool]) -> bool:
        """Returns True as soon as something is so, False once this is closed."""
        while not self._closed:
            if is_so():
                return True
            # No await between the look and clear(): a change in between would be lost, and we would sleep over it.
            self._changed.clear()
            await self._changed.wait()
        return False
