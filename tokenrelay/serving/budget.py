"""How many bytes of requests this process holds at a time, those of all open calls together."""

from collections.abc import Iterator
from contextlib import contextmanager

from tokenrelay.errors import UnavailableError


class Budget:
    """Bytes of requests, from which calls take and to which they give back.

    Args:
        most: how many there are. One request alone may be larger than all of them.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    def take(self, size: int, own: int = 0) -> None:
        """Takes some bytes.

        Args:
            size: how many.
            own: how many the same request has taken already.

        Raises:
            UnavailableError: so many are not left.
        """
        if self._held > own and self._held + size > self._most:
            raise UnavailableError(f"too many bytes of requests in flight (limit {self._most})", retry_after=1.0)
        self._held += size

    def give_back(self, size: int) -> None:
        """Gives bytes back that were taken."""
        self._held -= size

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Takes some bytes for a while.

        Raises:
            UnavailableError: so many are not left.
        """
        self.take(size)
        try:
            yield
        finally:
            self.give_back(size)
