"""Takes generations from the queue: as many as the engine has room for, and a few more that stay unclaimed."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog

from broker_worker.admission_queue import AdmissionQueue, Candidate, Load, slots_of
from broker_worker.session_driver import SessionDriver
from tokenrelay.errors import StoreUnavailableError
from tokenrelay.metrics import WorkerMetrics
from tokenrelay.store.protocols import WorkerStore
from tokenrelay.store.queue import Queue
from tokenrelay.store.values import QueueEntry

log = structlog.get_logger(__name__)

LOOK_INTERVAL = 1.0  # seconds between looks at waiting suspects
PAUSE = 0.5  # seconds after Redis could not be reached, or the engine service refused
MOST_AT_ONCE = 64  # entries in one read or claim


class Intake:
    """Reads ahead, claims when there is room, and hands what it claimed to the shift.

    Args:
        is_serving: asks the engine service whether it takes generations.
    """

    def __init__(
        self,
        worker_id: str,
        store: WorkerStore,
        queue: Queue,
        prefetch: int,
        metrics: WorkerMetrics,
        is_serving: Callable[[], Awaitable[bool]],
    ) -> None:
        self._worker_id = worker_id
        self._store = store
        self._queue = queue
        self._prefetch = prefetch
        self._metrics = metrics
        self._is_serving = is_serving
        self._entries = AdmissionQueue()
        self._claiming: list[QueueEntry] = []
        self._late: set[asyncio.Future[None]] = set()
        self._changed = asyncio.Event()
        self._closed = False
        self._refused = False

    def changed(self) -> None:
        """To be called when slots become free."""
        self._changed.set()

    def knows(self, generation_id: str) -> bool:
        """Tells whether a generation was read and is not yet in the shift's hands."""
        return any(entry.generation_id == generation_id for entry in (*self._entries, *self._claiming))

    @property
    def wants_more(self) -> bool:
        """Whether all that was read has been claimed, except for suspects that let others pass."""
        return not self._entries.ordinary and not self._entries.holds_back

    @property
    def is_idle(self) -> bool:
        """Whether nothing was read that is still to be claimed, or is being claimed."""
        return not self._entries and not self._claiming

    def adopt(self, entries: Sequence[QueueEntry]) -> None:
        """Takes entries that another worker has read; who claims first has them."""
        self._entries.add(entry for entry in entries if not self.knows(entry.generation_id))
        self._report()

    def refused(self) -> None:
        """Claims nothing until the engine service says that it serves; others may take what is handed back."""
        self._refused = True

    def close(self) -> None:
        """Takes nothing more; run returns once the reads that are under way have ended."""
        self._closed = True
        self._changed.set()

    async def run(self, shift: SessionDriver) -> None:
        """Feeds a shift until closed, then hands back what was not claimed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._claim_all(shift))
                for shard in self._queue.shards:
                    tasks.create_task(self._read_all(shift, shard))
        finally:
            await asyncio.shield(self._hand_back(shift))

    async def _read_all(self, shift: SessionDriver, shard: int) -> None:
        """Reads one shard's queue. Never cancel a read: what Redis assigns to us then stays pending until it is recovered."""
        model = shift.model.model
        while await self._wait_until(lambda: self._wanted(shift) > 0):
            reading = asyncio.ensure_future(self._queue.read(model, self._worker_id, self._wanted(shift), shard, block=True))
            try:
                found = await asyncio.shield(reading)
            except asyncio.CancelledError:
                self._late.add(late := asyncio.ensure_future(self._give_back_late(model, reading)))
                late.add_done_callback(self._late.discard)
                raise
            except StoreUnavailableError:
                await asyncio.sleep(PAUSE)
                continue
            self._entries.add(found)
            self._report()

    async def _give_back_late(self, model: str, reading: asyncio.Future[list[QueueEntry]]) -> None:
        """Returns what a read brings after this intake's end. Else it stays pending until it is recovered."""
        with suppress(StoreUnavailableError):
            if found := await reading:
                await self._queue.requeue(model, found)

    async def _claim_all(self, shift: SessionDriver) -> None:
        """Claims what fits, in the queue's order, several in one script call."""
        while await self._wait_until(lambda: self._entries.has_next(self._load(shift))):
            if self._refused:
                await asyncio.sleep(PAUSE)
                self._refused = not await self._is_serving()
                continue
            wanted = self._next_batch(shift)
            try:
                claims = await self._store.claim(
                    *(shift.model.model, shift.model.fingerprint, self._worker_id),
                    [(candidate.entry, candidate.nonce) for candidate in wanted],
                )
            except StoreUnavailableError:
                # The outcome is unknown; the same nonces will tell.
                self._entries.put_back(wanted)
                self._claiming = []
                await asyncio.sleep(PAUSE)
                continue
            await asyncio.gather(*(shift.begin(claim) for claim in claims if claim is not None))
            self._claiming = []
            self._report()

    async def _wait_until(self, is_so: Callable[[], bool]) -> bool:
        """Returns True as soon as something is so, False when the intake is closed."""
        while not self._closed:
            if is_so():
                return True
            self._changed.clear()
            await self._changed.wait()
        return False

    def _wanted(self, shift: SessionDriver) -> int:
        """Returns how many generations to read: what free slots could take, and the prefetch."""
        if self._entries.holds_back:
            return 0
        free = max(0, shift.model.slots - self._taken(shift))
        return min(MOST_AT_ONCE, free + self._prefetch - self._entries.ordinary)

    def _taken(self, shift: SessionDriver) -> int:
        return shift.used_slots + sum(slots_of(entry, shift.model.slots) for entry in self._claiming)

    def _load(self, shift: SessionDriver) -> Load:
        return Load(self._taken(shift), shift.model.slots, shift.has_only_cleared and not self._claiming)

    def _next_batch(self, shift: SessionDriver) -> list[Candidate]:
        batch = self._entries.take(self._load(shift), MOST_AT_ONCE)
        self._claiming = [candidate.entry for candidate in batch]
        return batch

    async def look_after_suspects(self) -> None:
        """Forgets suspects that another worker took or that have ended, and sees when one has waited for long enough."""
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            suspects = self._entries.suspects
            for entry in suspects:
                try:
                    still_waits = await self._queue.still_waits(entry)
                except StoreUnavailableError:
                    break  # the others tell of it
                if not still_waits:
                    self._entries.forget(entry)
            if suspects:
                self._report()

    async def _hand_back(self, shift: SessionDriver) -> None:
        left = self._entries.clear()
        self._report()
        if left:
            try:
                await self._queue.requeue(shift.model.model, left)
            except StoreUnavailableError:
                log.warning("redis is away; unclaimed entries are found by other workers", entries=len(left))

    def _report(self) -> None:
        self._metrics.prefetched.set(len(self._entries))
        self._changed.set()
