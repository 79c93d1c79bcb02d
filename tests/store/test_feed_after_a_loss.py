"""Followers of a log whose end a new primary of Redis lacked: it grows again, and not with the same entries."""

from typing import Any

import pytest

from tests.store.conftest import Bench
from tests.store.test_feed import feed_of
from tests.support.redis_server import RedisServer
from tokenrelay.errors import DataLossError
from tokenrelay.store import keys
from tokenrelay.store.values import Claim


async def lose(redis: RedisServer, claim: Claim, last: int) -> None:
    """Takes back all that was appended after a sequence, as the promotion of a replica that lacks it does."""
    name = claim.record.generation_id
    key = keys.log(name, 0)
    client: Any = redis.client()
    kept = client.xrange(key, "-", str(last))
    client.delete(key)
    for entry, fields in kept:
        client.xadd(key, fields, id=entry)
    client.hset(keys.record(name, 0), "last", last)
    client.close()


@pytest.mark.parametrize("joined_at", [0, 2])
async def test_who_has_read_what_is_lost_is_told_so_and_gets_no_token_twice(
    bench: Bench, redis: RedisServer, joined_at: int
) -> None:
    name = await bench.submit()
    claim = await bench.take()
    await bench.append(claim, 0, 2)
    await bench.append(claim, 2, 8)
    follower = feed_of(bench).follow(name, joined_at, from_log=True)
    assert (await follower.next_items())[-1].sequence == 8
    await lose(redis, claim, 2)
    await bench.append(claim, 2, 9)
    follower.reread()
    with pytest.raises(DataLossError):
        await follower.next_items()


async def test_who_has_read_no_more_than_there_is_goes_on(bench: Bench, redis: RedisServer) -> None:
    name = await bench.submit()
    claim = await bench.take()
    await bench.append(claim, 0, 2)
    follower = feed_of(bench).follow(name, 0, from_log=True)
    assert (await follower.next_items())[-1].sequence == 2
    await bench.append(claim, 2, 8)
    await lose(redis, claim, 2)
    await bench.append(claim, 2, 9)
    follower.reread()
    assert [item.sequence for item in await follower.next_items()] == [9]


async def test_who_joins_in_the_middle_of_an_entry_gets_all_of_it(bench: Bench) -> None:
    name = await bench.submit()
    claim = await bench.take()
    await bench.append(claim, 0, 9)
    follower = feed_of(bench).follow(name, 5, from_log=True)
    assert [item.sequence for item in await follower.next_items()] == [9]
