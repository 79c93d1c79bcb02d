"""Finds queue entries that were read but will not be claimed where they are, and puts them back to the front.

That happens when a worker dies, when Redis hands entries to a connection that breaks, and when one worker has read ahead
while another one has room. Suspects, which run alone, are left to live workers until this one is idle, and then taken as they
are: put back to the front, they would go to a busy worker again.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from tokenrelay.errors import StoreUnavailableError
from tokenrelay.store.queue import Queue
from tokenrelay.store.values import QueueEntry
from tokenrelay.store.worker_directory import WorkerDirectory

log = structlog.get_logger(__name__)

INTERVAL = 1.0  # seconds between looks
OWN_IDLE_MS = 2_000  # after which an entry of our own that we do not know is lost
OTHERS_IDLE_MS = 1_000  # after which we take what another one has read ahead, if we have room


class Recovery:
    """Looks after the entries that are pending on a model's consumers.

    Args:
        knows: whether a generation is in this worker's hands.
        has_room: whether it could begin more.
        is_idle: whether it has nothing at all.
        adopt: takes suspects that another worker has read.
    """

    def __init__(
        self,
        worker_id: str,
        queue: Queue,
        registry: WorkerDirectory,
        knows: Callable[[str], bool],
        has_room: Callable[[], bool],
        is_idle: Callable[[], bool],
        adopt: Callable[[Sequence[QueueEntry]], None],
    ) -> None:
        self._worker_id = worker_id
        self._queue = queue
        self._registry = registry
        self._knows = knows
        self._has_room = has_room
        self._is_idle = is_idle
        self._adopt = adopt

    async def run(self, model: str) -> None:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                for shard in self._queue.shards:
                    await self.recover_once(model, shard)
                await self.adopt_once(model)
            except StoreUnavailableError:
                log.warning("redis is away; nothing is recovered")

    async def adopt_at_first(self, model: str) -> None:
        """Takes suspects before this worker has begun anything else: an engine that was just started is the best for them."""
        with suppress(StoreUnavailableError):
            await self.adopt_once(model)

    async def recover_once(self, model: str, shard: int) -> int:
        """Requeues what is pending where it should not be; returns how many entries."""
        live = await self._registry.live_workers()
        someone_waits = (await self._queue.depth(model)).generations > 0
        recovered = 0
        for consumer, pending in (await self._queue.pending(model, shard)).items():
            dead = consumer != self._worker_id and consumer not in live
            if pending and someone_waits:
                recovered += await self._recover_from(model, shard, consumer, dead=dead)
            if dead:
                await self._queue.forget_consumer(model, shard, consumer)
        return recovered

    async def adopt_once(self, model: str) -> int:
        """Takes the suspects that other live workers have read, if this one is idle; returns how many."""
        if not self._is_idle() or (await self._queue.depth(model)).generations == 0:
            return 0
        live = await self._registry.live_workers() - {self._worker_id}
        found = [
            entry
            for shard in self._queue.shards
            for consumer, pending in (await self._queue.pending(model, shard)).items()
            if pending and consumer in live
            for entry in await self._queue.pending_entries(model, shard, consumer, 0)
            if entry.is_suspect and await self._queue.still_waits(entry)
        ]
        if found:
            self._adopt(found)
            log.info("suspects taken from busy workers", entries=len(found))
        return len(found)

    async def _recover_from(self, model: str, shard: int, consumer: str, *, dead: bool) -> int:
        if consumer == self._worker_id:
            idle_ms = OWN_IDLE_MS
        elif dead:
            idle_ms = 0
        elif self._has_room():
            idle_ms = OTHERS_IDLE_MS
        else:
            return 0
        entries = await self._queue.pending_entries(model, shard, consumer, idle_ms)
        lost = [entry for entry in entries if not self._knows(entry.generation_id)]
        if consumer != self._worker_id and not dead:
            lost = [entry for entry in lost if not entry.is_suspect]
        # Those that are claimed are refused by the script; only waiting ones go back.
        outcomes = await self._queue.requeue(model, lost) if lost else []
        recovered = sum(outcome == "OK" for outcome in outcomes)
        if recovered:
            log.info("unclaimed entries recovered", consumer=consumer, entries=recovered)
        return recovered
