"""Finds entries that a worker has read and will not claim, and puts them back to the front of the queue.

There are three such cases:

- a worker died after it had read entries;
- Redis assigned entries to a connection that broke before they arrived;
- a worker has read ahead while another one has room.

Two kinds of entries of live workers are not requeued but adopted: they stay where they are, and whoever claims first has them.
Suspects, which run alone, are adopted only by a worker that is idle; requeueing them could hand them to another busy worker.
Generations whose tokens come from an engine with a certain fingerprint are adopted by workers whose engine has it; requeueing
them could hand them to the wrong one again. If they are pending on a worker with another engine, nobody else will ever claim
them, so they are adopted by busy workers, too: those with a backlog may never have room.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from tokenrelay.errors import TokenrelayError
from tokenrelay.store.queue import EntryState, PendingEntry, PendingName, Queue
from tokenrelay.store.values import Outcome, QueueEntry
from tokenrelay.store.worker_directory import WorkerDirectory

log = structlog.get_logger(__name__)

INTERVAL = 1.0  # seconds between looks
OWN_IDLE_MS = 2_000  # after which an entry of our own that we do not know is lost
OTHERS_IDLE_MS = 1_000  # after which we take what another one has read ahead, if we have room
BEGUN_AGAIN = 10.0  # seconds after which what was seen to run is looked at again
UNCOUNTED = 10.0  # seconds after which we look although nothing is counted as waiting


class Recovery:
    """Looks after the entries that are pending on a model's consumers.

    Args:
        fingerprint: that of this worker's engine.
        knows: whether a generation is in this worker's hands.
        has_room: whether it could begin more.
        is_idle: whether it has nothing at all.
        adopt: takes entries that another worker has read.
    """

    def __init__(
        self,
        *,
        worker_id: str,
        queue: Queue,
        directory: WorkerDirectory,
        fingerprint: str,
        knows: Callable[[str], bool],
        has_room: Callable[[], bool],
        is_idle: Callable[[], bool],
        adopt: Callable[[Sequence[QueueEntry]], None],
    ) -> None:
        self._worker_id = worker_id
        self._queue = queue
        self._directory = directory
        self._fingerprint = fingerprint
        self._knows = knows
        self._has_room = has_room
        self._is_idle = is_idle
        self._adopt = adopt
        self._begun: dict[tuple[int, str], dict[PendingName, float]] = {}  # what runs, and when it was last seen to
        self._looked: dict[int, float] = {}  # shards, and when we looked at what is pending there

    async def run(self, model: str) -> None:
        """Looks until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                for shard in self._queue.shards:
                    await self.recover_once(model, shard)
                await self.adopt_once(model)
            except TokenrelayError as error:
                log.warning("nothing is recovered", reason=str(error))
            except Exception:
                # What one entry's data does to this look, it would do to the session of everything that runs.
                log.exception("nothing is recovered")

    async def adopt_at_first(self, model: str) -> None:
        """Takes suspects before this worker has begun anything else: an engine that was just started is the best for them."""
        try:
            await self.adopt_once(model)
        except TokenrelayError as error:
            log.debug("no suspects are adopted yet", reason=str(error))

    async def recover_once(self, model: str, shard: int) -> int:
        """Requeues or adopts what is pending where it should not be; returns how many entries."""
        live = await self._directory.live_workers()
        someone_waits = (await self._queue.depth(model)).generations > 0
        # What waits is counted anew, from nothing, after the count was damaged; so it is not believed for ever.
        looks = someone_waits or time.monotonic() - self._looked.get(shard, -UNCOUNTED) >= UNCOUNTED
        if looks:
            self._looked[shard] = time.monotonic()
        recovered = 0
        pending = await self._queue.pending(model, shard)
        for gone in [key for key in self._begun if key[0] == shard and key[1] not in pending]:
            del self._begun[gone]
        for consumer, entries in pending.items():
            is_dead = consumer != self._worker_id and consumer not in live
            if entries and looks:
                recovered += await self._recover_from(model, shard, consumer, live)
            if is_dead:
                await self._queue.forget_consumer(model, shard, consumer)
        return recovered

    async def adopt_once(self, model: str) -> int:
        """Takes the suspects that other live workers have read, if this one is idle; returns how many."""
        if not self._is_idle() or (await self._queue.depth(model)).generations == 0:
            return 0
        live = (await self._directory.live_workers()).keys() - {self._worker_id}
        found = [
            one.entry
            for shard in self._queue.shards
            for consumer, pending in (await self._queue.pending(model, shard)).items()
            if pending and consumer in live
            for one in await self._unclaimed(model, shard, consumer, 0)
            if one.state is EntryState.WAITING and one.entry.is_suspect and one.fingerprint in (None, self._fingerprint)
        ]
        if found:
            self._adopt(found)
            log.info("suspects adopted from busy workers", entries=len(found))
        return len(found)

    async def _recover_from(self, model: str, shard: int, consumer: str, live: Mapping[str, str]) -> int:
        is_own, is_dead, has_room = consumer == self._worker_id, consumer not in live, self._has_room()
        is_unlike = not (is_own or is_dead) and live[consumer] != self._fingerprint
        if is_own:
            idle_ms = OWN_IDLE_MS
        elif is_dead:
            idle_ms = 0
        elif has_room or is_unlike:
            idle_ms = OTHERS_IDLE_MS
        else:
            return 0
        unclaimed = await self._unclaimed(model, shard, consumer, idle_ms)
        found = [one for one in unclaimed if not self._knows(one.entry.generation_id)]
        if is_own or is_dead:
            # The obsolete ones, too: the script takes them out, so that nothing is left that keeps a dead consumer.
            return await self._requeue(model, consumer, [one.entry for one in found])
        waiting = [one for one in found if one.state is EntryState.WAITING]
        # Whoever has a suspect begins nothing else after a while, so one busy worker is enough to have it.
        takes_suspects = is_unlike and self._worker_id == self._first_alike(live)
        ours = [
            one.entry
            for one in waiting
            if one.fingerprint == self._fingerprint and (takes_suspects or not one.entry.is_suspect)
        ]
        self._adopt(ours)
        for entry in ours:
            log.debug("entry adopted", generation_id=entry.generation_id, consumer=consumer)
        if not has_room:
            return len(ours)
        others = [one.entry for one in waiting if one.fingerprint is None and not one.entry.is_suspect]
        return len(ours) + await self._requeue(model, consumer, others)

    def _first_alike(self, live: Mapping[str, str]) -> str:
        """Returns one of the workers whose engines are like this one's; all of them agree on which."""
        return min({worker for worker, fingerprint in live.items() if fingerprint == self._fingerprint} | {self._worker_id})

    async def _requeue(self, model: str, consumer: str, entries: Sequence[QueueEntry]) -> int:
        # What was claimed since we looked is refused by the script; only waiting ones go back.
        outcomes = await self._queue.requeue(model, entries) if entries else []
        recovered = sum(outcome is Outcome.OK for outcome in outcomes)
        if recovered:
            log.info("unclaimed entries requeued", consumer=consumer, entries=recovered)
        return recovered

    async def _unclaimed(self, model: str, shard: int, consumer: str, idle_ms: int) -> list[PendingEntry]:
        """Returns the entries that have been pending on a consumer for some time and that nobody has claimed."""
        pending = await self._queue.pending_names(model, shard, consumer, idle_ms)
        # What runs is pending, too, until its end, and most of what is pending runs. So it is looked at seldom and not each
        # second. Not only once: a failover may lose a claim, and the same entry waits again then.
        now = time.monotonic()
        seen = self._begun.get((shard, consumer), {})
        begun = {name: seen[name] for name in pending if name in seen and now - seen[name] < BEGUN_AGAIN}
        self._begun[shard, consumer] = begun
        found = await self._queue.look_up(model, shard, [name for name in pending if name not in begun])
        begun |= {PendingName(one.entry.queue, one.entry.entry): now for one in found if one.state is EntryState.BEGUN}
        return [one for one in found if one.state is not EntryState.BEGUN]
