"""What a worker reads ahead, and what it leaves to others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from broker_worker.intake import Intake
from broker_worker.peers import Peers
from tests.store.conftest import MODEL, Bench
from tests.store.test_session_driver import Driven
from tests.support.waiting import eventually
from tokenrelay.metrics import WorkerMetrics
from tokenrelay.store import keys
from tokenrelay.store.assembly import assemble
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.values import StoreLimits
from tokenrelay.store.worker_directory import WorkerDirectory

SHARDS, PREFETCH = 4, 8


async def serves() -> bool:
    return True


def intake_of(bench: Bench) -> Intake:
    return Intake(
        worker_id="w1",
        store=bench.store.attempts,
        queue=bench.store.queue,
        prefetch=PREFETCH,
        metrics=WorkerMetrics(CollectorRegistry()),
        peers=Peers(WorkerDirectory(bench.store.connection), MODEL),
        is_serving=serves,
    )


@asynccontextmanager
async def running(bench: Bench, driven: Driven) -> AsyncIterator[Intake]:
    intake = intake_of(bench)
    driven.driver.roster._on_capacity = intake.on_capacity
    task = asyncio.create_task(intake.run(driven.driver))
    yield intake
    intake.close()
    await task
    driven._relaying.cancel()


async def test_all_shards_readers_together_read_about_what_is_wanted(connection: RedisConnection, client: Redis) -> None:
    bench = Bench(assemble(connection, StoreLimits(), SHARDS), client)
    await bench.store.queue.prepare(MODEL)
    driven = Driven(bench)
    for _ in range(driven.driver.model.slots):  # all slots are taken, so that nothing of what follows is claimed
        await bench.submit()
        driven.driver.take_up(await bench.take())
    for shard in range(SHARDS):
        for _ in range(3 * PREFETCH):
            await bench.submit(generation_id=keys.new_generation_id(shard))
    async with running(bench, driven) as intake:
        await eventually(lambda: intake.read_ahead.queue.ordinary >= PREFETCH, "the worker has read ahead")
        pending = [sum((await bench.store.queue.pending(MODEL, shard)).values()) for shard in range(SHARDS)]
        assert sum(pending) - driven.driver.model.slots < PREFETCH + 2 * SHARDS
    assert [sum((await bench.store.queue.pending(MODEL, shard)).values()) for shard in range(SHARDS)] == [4, 0, 0, 0]


async def test_what_is_granted_while_the_session_breaks_is_in_the_drivers_hands(bench: Bench) -> None:
    driven = Driven(bench)
    generation_id = await bench.submit()
    asked, answer, claim = asyncio.Event(), asyncio.Event(), bench.store.attempts.claim

    async def claim_late(*arguments: Any, **named: Any) -> Any:
        asked.set()
        await answer.wait()
        return await claim(*arguments, **named)

    intake = intake_of(bench)
    intake._store = SimpleNamespace(claim=claim_late)
    task = asyncio.create_task(intake.run(driven.driver))
    await asked.wait()
    task.cancel()
    await asyncio.sleep(0)  # the cancel arrives before Redis' answer
    answer.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [name for name, _ in driven.driver.roster.owned()] == [generation_id]
    driven._relaying.cancel()
