"""When a worker's reader looks into a queue before it waits for it."""

import asyncio
from collections.abc import Sequence
from typing import Any

from broker_worker.changes import Changes
from broker_worker.queue_reader import QueueReader
from tokenrelay.store.values import QueueEntry

WANTED = 8  # of one shard's two streams: a read asks for half of it
ENTRY = QueueEntry("g", "jobs", "1-0", 1, 0)


class Queue:
    """Has what it is given, read after read, and notes how it is asked."""

    shards = (0,)

    def __init__(self, *reads: Sequence[QueueEntry]) -> None:
        self._reads = list(reads)
        self.looked: list[bool] = []
        self.is_empty = asyncio.Event()

    async def read(self, _model: str, _worker: str, count: int, _shard: int, *, block: bool, look: bool) -> Any:
        assert (count, block) == (WANTED // 2, True)
        self.looked.append(look)
        if not self._reads:
            self.is_empty.set()
            await asyncio.Event().wait()
        return self._reads.pop(0)


async def looks_at(*reads: Sequence[QueueEntry]) -> list[bool]:
    """Returns for each read, the one after the last included, whether it looked before it waited."""
    queue: Any = Queue(*reads)
    reader = QueueReader(worker_id="w", queue=queue, changes=Changes(), wanted=lambda: WANTED, take=lambda _: None)
    reading = asyncio.create_task(reader.read_all("m", 0))
    await asyncio.wait_for(queue.is_empty.wait(), 60)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    looked: list[bool] = queue.looked
    return looked


async def test_the_first_read_looks_since_the_queue_may_be_long() -> None:
    assert await looks_at() == [True]


async def test_after_a_read_that_took_all_there_was_the_next_one_waits_at_once() -> None:
    assert await looks_at([ENTRY], []) == [True, False, False]


async def test_after_a_full_read_there_may_be_more() -> None:
    assert await looks_at([ENTRY] * (WANTED // 2)) == [True, True]
