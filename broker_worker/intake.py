"""Takes generations from the queue: claims as many as the engine has room for, and reads a few more that stay unclaimed."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from broker_worker.admission_queue import Load, slots_of
from broker_worker.changes import Changes
from broker_worker.peers import Peers
from broker_worker.queue_reader import QueueReader
from broker_worker.read_ahead import ReadAhead
from broker_worker.session_driver import SessionDriver
from tokenrelay.errors import StoreFullError, StoreUnavailableError, TokenrelayError
from tokenrelay.metrics import WorkerMetrics
from tokenrelay.store.protocols import WorkerStore
from tokenrelay.store.queue import Queue
from tokenrelay.store.values import Claim, Elsewhere

log = structlog.get_logger(__name__)

PAUSE = 0.5  # seconds after Redis could not be reached, or the engine service refused
MOST_AT_ONCE = 64  # entries in one read or claim
LATE_CLAIM_SECONDS = 2.0  # for a claim that was under way when the session broke


class Intake:
    """Reads ahead, claims when there is room, and hands what it claimed to the session driver.

    Args:
        peers: knows which engines are served, for generations that only some of them can go on with.
        is_serving: asks the engine service whether it takes generations.
    """

    def __init__(
        self,
        *,
        worker_id: str,
        store: WorkerStore,
        queue: Queue,
        prefetch: int,
        metrics: WorkerMetrics,
        peers: Peers,
        is_serving: Callable[[], Awaitable[bool]],
    ) -> None:
        self._worker_id = worker_id
        self._store = store
        self._queue = queue
        self._prefetch = prefetch
        self._peers = peers
        self._is_serving = is_serving
        self._changes = Changes()
        self._refused = False
        self.read_ahead = ReadAhead(metrics, self._changes)

    def on_capacity(self) -> None:
        """To be called when slots become free."""
        self._changes.notify()

    def on_refusal(self) -> None:
        """Claims nothing until the engine service says that it serves; others may take what was requeued."""
        self._refused = True

    def close(self) -> None:
        """Takes nothing more; run returns once the reads that are under way have ended."""
        self._changes.close()

    async def run(self, driver: SessionDriver) -> None:
        """Feeds an engine session until closed, then requeues what was not claimed."""
        reader = QueueReader(
            worker_id=self._worker_id,
            queue=self._queue,
            changes=self._changes,
            wanted=lambda: self._wanted(driver),
            take=self.read_ahead.add,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._claim_all(driver))
                for shard in self._queue.shards:
                    tasks.create_task(reader.read_all(driver.model.model, shard))
        finally:
            # Shielded, because this is most needed when the session breaks and cancels us.
            await asyncio.shield(self._requeue_unclaimed(driver.model.model))

    async def _claim_all(self, driver: SessionDriver) -> None:
        """Claims what fits, in the queue's order, several in one script call."""
        while await self._changes.wait_until(lambda: self.read_ahead.queue.has_next(self._load(driver))):
            if self._refused:
                await asyncio.sleep(PAUSE)
                self._refused = not await self._is_serving()
                continue
            wanted = self.read_ahead.take(self._load(driver), MOST_AT_ONCE)
            claiming = asyncio.ensure_future(
                self._store.claim(
                    model=driver.model.model,
                    fingerprint=driver.model.fingerprint,
                    worker=self._worker_id,
                    wanted=[(candidate.entry, candidate.nonce) for candidate in wanted],
                    served=self._peers.fingerprints,
                )
            )
            try:
                claims = await asyncio.shield(claiming)
            except asyncio.CancelledError:
                await self._take_up_late(driver, claiming)
                raise
            except (StoreUnavailableError, StoreFullError) as error:
                log.debug("nothing can be claimed", reason=str(error))
                # The outcome is unknown; the same nonces will tell.
                self.read_ahead.put_back()
                await asyncio.sleep(PAUSE)
                continue
            # All are taken up before anything is awaited: if the session breaks now, only what is in the driver's hands is
            # requeued at once, and the rest would wait for its lease to run out.
            executions = [driver.take_up(claim) for claim in claims if isinstance(claim, Claim)]
            pairs = zip(wanted, claims, strict=True)
            self.read_ahead.settle([candidate for candidate, claim in pairs if isinstance(claim, Elsewhere)])
            await asyncio.gather(*(driver.start(execution) for execution in executions))

    async def _take_up_late(self, driver: SessionDriver, claiming: asyncio.Future[list[Claim | Elsewhere | None]]) -> None:
        """Takes up what Redis grants although the session broke meanwhile, so that it is requeued with all the rest.

        Dropped, it would wait for its lease to run out, since nobody would know that this worker owns it.
        """
        with suppress(TimeoutError, TokenrelayError):
            async with asyncio.timeout(LATE_CLAIM_SECONDS):
                for claim in await claiming:
                    if isinstance(claim, Claim):
                        driver.take_up(claim)

    def _wanted(self, driver: SessionDriver) -> int:
        """Returns how many generations to read: what free slots could take, and the prefetch."""
        if self.read_ahead.queue.holds_back:
            return 0
        free = max(0, driver.model.slots - self._load(driver).taken)
        return min(MOST_AT_ONCE, free + self._prefetch - self.read_ahead.queue.ordinary)

    def _load(self, driver: SessionDriver) -> Load:
        """Returns what the engine has to do, counting what is being claimed as if it ran."""
        slots, claiming = driver.model.slots, self.read_ahead.claiming
        taken = driver.roster.used_slots + sum(slots_of(entry, slots) for entry in claiming)
        return Load(taken, slots, only_cleared=driver.roster.has_only_cleared_suspects and not claiming)

    async def _requeue_unclaimed(self, model: str) -> None:
        left = self.read_ahead.clear()
        if left:
            try:
                await self._queue.requeue(model, left)
            except TokenrelayError as error:
                log.warning("unclaimed entries are left to other workers", entries=len(left), reason=str(error))
