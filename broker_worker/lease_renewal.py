"""Renews the leases of what runs here, and learns from the answers what was cancelled, has expired or was taken over."""

import asyncio
from collections.abc import Sequence

import structlog

from broker_worker.endings import Endings
from broker_worker.execution import Execution
from broker_worker.roster import Roster
from tokenrelay.errors import TokenrelayError
from tokenrelay.store.protocols import WorkerStore
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.values import Outcome

log = structlog.get_logger(__name__)


class LeaseRenewal:
    """Renews on time, and at once for what the worker's channel names.

    run, listen and renew raise StoreUnavailableError if Redis stays away for longer than the patience; then the session's work
    is given up, because another worker may have it by now.

    Args:
        interval: seconds between renewals.
    """

    def __init__(
        self, *, store: WorkerStore, connection: RedisConnection, roster: Roster, endings: Endings, interval: float
    ) -> None:
        self._store = store
        self._connection = connection
        self._roster = roster
        self._endings = endings
        self._interval = interval
        self._checking: dict[Execution, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Renews all leases again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            await self.renew()

    async def listen(self, channel: str) -> None:
        """Renews the leases on whatever ids a channel brings, until cancelled."""
        async for messages in self._connection.subscribe(channel):
            # None says that messages may be lost: any generation may be meant.
            await self.renew(None if messages is None else [message.decode(errors="replace") for message in messages])

    async def renew(self, ids: Sequence[str] | None = None) -> None:
        """Renews the leases on some generations, by default on all, and acts on the answers."""
        owned = [(name, fence) for name, fence in self._roster.owned() if ids is None or name in ids]
        if not owned:
            return
        outcomes = await self._store.renew(owned)
        for (generation_id, fence), outcome in zip(owned, outcomes, strict=True):
            execution = self._roster.by_id(generation_id)
            # While we waited it may have ended, or been claimed again: the answer is about the old fence then.
            if execution is not None and execution.fence == fence:
                self._act_on(execution, outcome)

    def _act_on(self, execution: Execution, outcome: Outcome) -> None:
        if outcome is Outcome.CANCEL:
            self._endings.cancel(execution)
        elif outcome is Outcome.EXPIRED:
            # Our own timer has mostly been faster. It is not when it was set by a clock that has changed since.
            self._endings.expire(execution)
        elif outcome is Outcome.FENCED and execution not in self._checking:
            task = asyncio.create_task(self._check(execution))
            self._checking[execution] = task
            task.add_done_callback(lambda _: self._checking.pop(execution, None))

    async def _check(self, execution: Execution) -> None:
        try:
            await self._endings.lose_if_fenced(execution)
        except TokenrelayError as error:
            log.debug("the next renewal looks again", generation_id=execution.generation_id, reason=str(error))
