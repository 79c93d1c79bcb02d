"""Takes generations from the queue: as many as the engine has room for, and a few more that stay unclaimed."""

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from broker_worker.shift import Shift
from tokenrelay.errors import StoreUnavailableError
from tokenrelay.metrics import WorkerMetrics
from tokenrelay.token_log.store import GenerationStore, QueueEntry

log = structlog.get_logger(__name__)

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
        store: GenerationStore,
        prefetch: int,
        metrics: WorkerMetrics,
        is_serving: Callable[[], Awaitable[bool]],
    ) -> None:
        self._worker_id = worker_id
        self._store = store
        self._prefetch = prefetch
        self._metrics = metrics
        self._is_serving = is_serving
        self._entries: deque[tuple[QueueEntry, str]] = deque()  # each with the nonce it will be claimed with
        self._claiming: list[QueueEntry] = []
        self._changed = asyncio.Event()
        self._closed = False
        self._refused = False

    def changed(self) -> None:
        """To be called when slots become free."""
        self._changed.set()

    def knows(self, generation_id: str) -> bool:
        """Tells whether a generation was read and is not yet in the shift's hands."""
        waiting = (entry for entry, _ in self._entries)
        return any(entry.generation_id == generation_id for entry in (*waiting, *self._claiming))

    @property
    def is_empty(self) -> bool:
        """Whether nothing was read that is still to be claimed."""
        return not self._entries

    def refused(self) -> None:
        """Claims nothing until the engine service says that it serves; others may take what is handed back."""
        self._refused = True

    def close(self) -> None:
        """Takes nothing more; run returns once the reads that are under way have ended."""
        self._closed = True
        self._changed.set()

    async def run(self, shift: Shift) -> None:
        """Feeds a shift until closed, then hands back what was not claimed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._claim_all(shift))
                for shard in self._store.shards:
                    tasks.create_task(self._read_all(shift, shard))
        finally:
            await asyncio.shield(self._hand_back(shift))

    async def _read_all(self, shift: Shift, shard: int) -> None:
        """Reads one shard's queue. A read is never cut off: what Redis hands over then would hang until it is found."""
        model = shift.model.model
        while await self._wait_until(lambda: self._wanted(shift) > 0):
            reading = asyncio.ensure_future(
                self._store.read_queue(model, self._worker_id, self._wanted(shift), shard, block=True)
            )
            # If this task ends first, what is read hangs on this consumer until recovery finds it.
            reading.add_done_callback(_forget_result)
            try:
                found = await asyncio.shield(reading)
            except StoreUnavailableError:
                await asyncio.sleep(PAUSE)
                continue
            self._entries += [(entry, secrets.token_hex(8)) for entry in found]
            self._report()

    async def _claim_all(self, shift: Shift) -> None:
        """Claims what fits, in the queue's order, several in one script call."""
        while await self._wait_until(lambda: bool(self._entries) and self._fits(shift, self._entries[0][0])):
            if self._refused:
                await asyncio.sleep(PAUSE)
                self._refused = not await self._is_serving()
                continue
            wanted = self._next_batch(shift)
            try:
                claims = await self._store.claim(shift.model.model, shift.model.fingerprint, self._worker_id, wanted)
            except StoreUnavailableError:
                # The outcome is unknown; the same nonces will tell.
                self._entries.extendleft(reversed(wanted))
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

    def _wanted(self, shift: Shift) -> int:
        """Returns how many generations to read: what free slots could take, and the prefetch."""
        free = max(0, shift.model.slots - self._taken(shift))
        return min(MOST_AT_ONCE, free + self._prefetch - len(self._entries))

    def _taken(self, shift: Shift) -> int:
        return shift.used_slots + sum(entry.choices for entry in self._claiming)

    def _fits(self, shift: Shift, entry: QueueEntry) -> bool:
        """Tells whether there is room; a generation larger than the engine has slots waits until it is alone."""
        taken = self._taken(shift)
        return taken + entry.choices <= shift.model.slots or taken == 0

    def _next_batch(self, shift: Shift) -> list[tuple[QueueEntry, str]]:
        batch: list[tuple[QueueEntry, str]] = []
        while self._entries and len(batch) < MOST_AT_ONCE and self._fits(shift, self._entries[0][0]):
            batch.append(self._entries.popleft())
            self._claiming = [entry for entry, _ in batch]
        return batch

    async def _hand_back(self, shift: Shift) -> None:
        left = [entry for entry, _ in self._entries]
        self._entries.clear()
        self._report()
        if left:
            try:
                await self._store.return_unclaimed(shift.model.model, left)
            except StoreUnavailableError:
                log.warning("redis is away; unclaimed entries are found by other workers", entries=len(left))

    def _report(self) -> None:
        self._metrics.prefetched.set(len(self._entries))
        self._changed.set()


def _forget_result(reading: asyncio.Future[list[QueueEntry]]) -> None:
    if not reading.cancelled():
        reading.exception()
