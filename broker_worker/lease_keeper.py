"""Renews leases from a thread while the event loop is blocked.

Normally the event loop renews its leases, and learns from the answers which generations it lost and which were cancelled. If
the loop is late, because it is busy with something else, this thread renews in its place, so that no other worker takes over
generations that are only delayed. If the loop has been late for longer than TOKENRELAY_LOOP_HUNG_SECONDS it counts as hung,
and the thread stops renewing, so that other workers do take over.
"""

import asyncio
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
        store: makes the calls that renew; this class runs them.
        connection: the thread's own, because the loop's connection needs the loop.
        owned: returns what to renew, ids with fences; called on the thread.
        interval: seconds between renewals.
        hung_after: seconds without a tick after which the loop counts as hung.
    """

    def __init__(
        self,
        *,
        store: Attempts,
        connection: ThreadConnection,
        owned: Callable[[], Sequence[tuple[str, str]]],
        interval: float,
        hung_after: float,
    ) -> None:
        self._store = store
        self._connection = connection
        self._owned = owned
        self._interval = interval
        self._hung_after = hung_after
        self._ticked = time.monotonic()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self.tick()
        self._thread.start()

    def tick(self) -> None:
        """Notes that the event loop runs."""
        # A float is replaced in one step, so the thread needs no lock to read it.
        self._ticked = time.monotonic()

    async def tick_on(self) -> None:
        """Ticks as long as the event loop runs it, until cancelled."""
        while True:
            self.tick()
            await asyncio.sleep(self._interval)

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
            for call in self._store.renewals(owned):
                self._connection.run(*call)
        except StoreUnavailableError:
            log.warning("redis is away; leases are not renewed")
        except Exception:
            # Whatever it is, the thread must live: without it, the next delay of the loop costs this worker its leases.
            log.exception("leases are not renewed")
