"""Redis' clock is set back: nobody waits until the old time has come round again."""

from tests.store.conftest import Bench
from tests.store.test_life_of_a_generation import until_reaped
from tests.support.redis_server import RedisServer
from tokenrelay.store import keys

HOUR_MS = 3_600_000


def set_back(redis: RedisServer, generation_id: str) -> None:
    """Leaves the instants as they would be if they had been written an hour ahead of now."""
    client = redis.client()
    prefix, record = keys.prefix(0), keys.record(generation_id, 0)
    client.hincrby(f"{prefix}server", "seen", HOUR_MS)
    client.zincrby(f"{prefix}due", HOUR_MS, generation_id)
    client.hincrby(record, "lease", HOUR_MS)
    client.close()


async def test_a_dead_owners_generation_is_taken_over_all_the_same(bench: Bench, redis: RedisServer) -> None:
    name = await bench.submit()
    await bench.take("w1")
    await bench.reap()
    set_back(redis, name)
    await until_reaped(bench, "taken_over")
    assert (await bench.take("w2")).epoch == 2


async def test_a_live_owner_keeps_what_it_has(bench: Bench, redis: RedisServer) -> None:
    name = await bench.submit()
    claim = await bench.take("w1")
    await bench.reap()
    set_back(redis, name)
    for _ in range(3):
        assert (await bench.reap()).taken_over == 0
        assert await bench.store.attempts.renew([(name, claim.fence)]) == ["OK"]
