"""Reads a model's queue, one task a shard."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from broker_worker.changes import Changes
from tokenrelay.errors import StoreFullError, StoreUnavailableError, TokenrelayError
from tokenrelay.store.queue import Queue
from tokenrelay.store.values import QueueEntry

log = structlog.get_logger(__name__)

PAUSE = 0.5  # seconds after Redis could not be reached
STREAMS = 2  # new and requeued generations; Redis takes a read's COUNT for each of its streams


class QueueReader:
    """Reads entries as long as some are wanted.

    Args:
        wanted: returns how many entries there is use for.
        take: gets what was read.
    """

    def __init__(
        self,
        *,
        worker_id: str,
        queue: Queue,
        changes: Changes,
        wanted: Callable[[], int],
        take: Callable[[Sequence[QueueEntry]], None],
    ) -> None:
        self._worker_id = worker_id
        self._queue = queue
        self._changes = changes
        self._wanted = wanted
        self._take = take
        self._late: set[asyncio.Task[None]] = set()

    async def read_all(self, model: str, shard: int) -> None:
        """Reads one shard's queue until closed."""
        is_drained = False
        while await self._changes.wait_until(lambda: self._wanted() > 0):
            asked = self._share()
            # What has just given less than it was asked for is empty. To look before waiting would be two round trips for
            # every generation of a worker that is not busy.
            reading = asyncio.ensure_future(
                self._queue.read(model, self._worker_id, asked, shard, block=True, look=not is_drained)
            )
            is_drained = False
            try:
                # Never cancel a pending read: Redis may already have assigned entries to this consumer, and they would stay
                # pending until recovery finds them.
                found = await asyncio.shield(reading)
            except asyncio.CancelledError:
                self._give_back_later(model, reading)
                raise
            except (StoreUnavailableError, StoreFullError) as error:
                log.debug("the queue cannot be read", shard=shard, reason=str(error))
                await asyncio.sleep(PAUSE)
                continue
            is_drained = len(found) < asked
            if found:
                log.debug("entries read", shard=shard, generation_ids=[entry.generation_id for entry in found])
            self._take(found)

    def _share(self) -> int:
        """Returns what one shard's reader may ask for, so that all shards' readers together get about as much as is wanted."""
        return max(1, self._wanted() // (len(self._queue.shards) * STREAMS))

    def _give_back_later(self, model: str, reading: "asyncio.Future[list[QueueEntry]]") -> None:
        late = asyncio.create_task(self._give_back(model, reading))
        self._late.add(late)  # the event loop itself holds tasks weakly
        late.add_done_callback(self._late.discard)

    async def _give_back(self, model: str, reading: "asyncio.Future[list[QueueEntry]]") -> None:
        """Returns what a read brings after its reader's end. Otherwise it would be pending here until recovery finds it."""
        try:
            if found := await reading:
                await self._queue.requeue(model, found)
        except TokenrelayError as error:
            log.debug("entries of a late read are left to recovery", reason=str(error))
