"""Renews leases on a thread while the event loop is too busy to do so, but not for a loop that hangs.

The loop renews by itself and learns from the answers what it has lost and what is to be cancelled. This thread does nothing
as long as the loop ticks. When it is late, the thread renews in its place, so that no other worker takes over what is only
held up; and when it has not ticked for long, the thread stops, so that what hangs is taken over.
"""

import threading
import time
from collections.abc import Callable, Sequence

import structlog

from tokenrelay.errors import StoreUnavailableError
from tokenrelay.store.attempts import Attempts
from tokenrelay.store.redis.thread_connection import ThreadConnection

log = structlog.get_logger(__name__)

LATE_INTERVALS = 2  # without a tick


class LeaseKeeper:
    """The thread, from its start to its close.

    Args:
        attempts: knows the script and the lease.
        connection: the thread's own.
        owned: what to renew, ids with fences; called on the thread.
        interval: seconds between renewals.
        hung_after: seconds without a tick after which the loop counts as hung.
    """

    def __init__(
        self,
        attempts: Attempts,
        connection: ThreadConnection,
        owned: Callable[[], Sequence[tuple[str, str]]],
        interval: float,
        hung_after: float,
    ) -> None:
        self._attempts = attempts
        self._connection = connection
        self._owned = owned
        self._interval = interval
        self._hung_after = hung_after
        self._ticked = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        """Begins to look after the loop."""
        self.tick()
        self._thread.start()

    def tick(self) -> None:
        """Tells that the event loop runs."""
        self._ticked = time.monotonic()

    def close(self) -> None:
        """Ends the thread."""
        self._closed.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._closed.wait(self._interval):
            late = time.monotonic() - self._ticked
            if LATE_INTERVALS * self._interval < late < self._hung_after:
                self._renew(late)

    def _renew(self, late: float) -> None:
        owned = self._owned()
        if not owned:
            return
        log.warning("the event loop is late; its leases are renewed for it", seconds=round(late, 1), generations=len(owned))
        try:
            for call in self._attempts.renewals(owned):
                self._connection.run(*call)
        except StoreUnavailableError:
            log.warning("redis is away; leases are not renewed")
