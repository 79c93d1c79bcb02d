"""A worker whose event loop does not get to renewing."""

import time

from broker_worker.lease_keeper import LeaseKeeper
from tests.store.conftest import MODEL, Bench
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually
from tokenrelay.store.assembly import assemble
from tokenrelay.store.redis.thread_connection import ThreadConnection
from tokenrelay.store.values import Outcome, StoreLimits

LEASE, HUNG_AFTER = 1.0, 3.0  # seconds


async def test_a_busy_loop_keeps_its_leases_and_a_hung_one_does_not(bench: Bench, redis: RedisServer) -> None:
    store = assemble(bench.store.connection, StoreLimits(lease_ms=round(LEASE * 1000)))
    worker = Bench(store, bench.client)
    generation_id = await worker.submit()
    claim = await worker.take()
    connection = ThreadConnection(redis.url)
    keeper = LeaseKeeper(
        store=store.attempts,
        connection=connection,
        owned=lambda: [(generation_id, claim.fence)],
        interval=LEASE / 5,
        hung_after=HUNG_AFTER,
    )
    keeper.start()  # and after that the loop does not tick
    started = time.monotonic()

    async def taken_over() -> bool:
        return (await worker.reap()).taken_over == 1

    try:
        await eventually(taken_over, "the leases of a hung loop run out")
    finally:
        keeper.close()
    assert time.monotonic() - started > HUNG_AFTER - LEASE / 2, "the thread has renewed until then"
    assert await store.attempts.renew([(generation_id, claim.fence)]) == [Outcome.FENCED]


async def test_a_loop_that_ticks_renews_by_itself(bench: Bench, redis: RedisServer) -> None:
    await bench.submit()
    claim = await bench.take()
    keeper = LeaseKeeper(
        store=bench.store.attempts,
        connection=ThreadConnection(redis.url),
        owned=lambda: [(claim.record.generation_id, claim.fence)],
        interval=0.02,
        hung_after=HUNG_AFTER,
    )
    keeper.start()

    async def taken_over() -> bool:
        keeper.tick()
        return (await bench.reap()).taken_over == 1

    try:
        await eventually(taken_over, "nobody renews, since the thread leaves that to a loop that ticks")
    finally:
        keeper.close()
    assert (await bench.store.queue.depth(MODEL)).generations == 1
