"""What a gateway's followers are told of generations that are there, not there yet, or gone."""

import asyncio

import pytest

from tests.store.conftest import Bench
from tests.support.redis_server import RedisServer
from tokenrelay.errors import DataLossError
from tokenrelay.store import keys
from tokenrelay.store.feed import Feed
from tokenrelay.store.follower import BUFFER_BYTES, ITEM_BYTES, Follower
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import LogItem


def feed_of(bench: Bench) -> Feed:
    store = bench.store
    return Feed(connection=store.connection, store=store.generations, token_log=store.log, gateway="g1", lease_ms=15_000)


async def failure_of(follower: Follower) -> Exception | None:
    """Returns what a follower raises at once, None if it goes on waiting."""
    reading = asyncio.ensure_future(follower.next_items())
    await asyncio.sleep(0)  # as far as it comes without waiting
    if not reading.done():
        reading.cancel()
        return None
    error = reading.exception()
    assert isinstance(error, Exception), f"it raised nothing, or something else: {error!r}"
    return error


async def test_a_generation_that_is_being_submitted_is_not_lost(bench: Bench) -> None:
    feed = feed_of(bench)
    follower = feed.follow(keys.new_generation_id(0), 0, from_log=False)
    await feed.renew_once()
    assert await failure_of(follower) is None


@pytest.mark.parametrize("by", ["submit", "attach"])
async def test_an_accepted_generation_that_is_gone_is_lost(bench: Bench, redis: RedisServer, by: str) -> None:
    feed = feed_of(bench)
    name = await bench.submit(gateway="g1", lease_ms=15_000)
    follower = feed.follow(name, 0, from_log=False)
    if by == "submit":
        follower.is_accepted = True
    else:
        assert await feed.join(follower, "", 5.0) is not None
    await feed.renew_once()
    assert await failure_of(follower) is None
    client = redis.client()
    client.flushall()
    client.close()
    await feed.renew_once()
    assert isinstance(await failure_of(follower), DataLossError)


async def test_a_reader_that_is_far_behind_is_not_kept_up_with(bench: Bench) -> None:
    follower = feed_of(bench).follow(keys.new_generation_id(0), 0, from_log=False)
    most = BUFFER_BYTES // ITEM_BYTES  # an item of one token has next to nothing beside what it takes itself
    for sequence in range(1, most + 1):
        follower.push(LogItem(sequence, store_pb2.LogEntry(token_count=1)), 0)
    assert len(follower._buffer) == most
    follower.push(LogItem(most + 1, store_pb2.LogEntry(token_count=1)), 0)
    assert follower._buffer == [], "it forgets what it held, and reads the log again"
    assert follower._must_read


async def test_a_lost_end_is_found_for_readers_of_the_end_alone(bench: Bench) -> None:
    feed = feed_of(bench)
    name = await bench.submit(gateway="g1", lease_ms=15_000)
    follower = feed.follow(name, 0, from_log=False, end_only=True)
    follower.is_accepted = True
    reading = asyncio.create_task(follower.next_items())
    claim = await bench.take()
    await bench.append(claim, 0, 5)
    await bench.finish(claim, 5)
    assert not reading.done(), "nothing of it has come over the feed"
    await feed.renew_once()
    assert (await asyncio.wait_for(reading, 60))[-1].terminal is not None


@pytest.mark.parametrize("what", ["an entry", "a reason to read again", "a failure"])
async def test_what_comes_while_the_log_is_read_is_not_slept_over(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    follower = feed_of(bench).follow(keys.new_generation_id(0), 0, from_log=True)

    async def read_log(generation_id: str, after: int) -> list[LogItem]:
        monkeypatch.undo()
        match what:
            case "an entry":
                follower.push(LogItem(1, store_pb2.LogEntry(token_count=1)), 0)
            case "a reason to read again":
                follower.reread()
                monkeypatch.setattr(bench.store.log, "read", lambda *_: asyncio.sleep(0, [later]))
            case _:
                follower.fail(DataLossError("gone"))
        return []

    later = LogItem(1, store_pb2.LogEntry(token_count=1))
    monkeypatch.setattr(bench.store.log, "read", read_log)
    reading = asyncio.wait_for(follower.next_items(), 60)
    if what == "a failure":
        with pytest.raises(DataLossError):
            await reading
    else:
        assert [item.sequence for item in await reading] == [1]


async def test_who_is_behind_at_two_looks_reads_the_log_and_who_is_at_one_does_not(bench: Bench) -> None:
    feed = feed_of(bench)
    name = await bench.submit(gateway="g1", lease_ms=15_000)
    claim = await bench.take()
    lost, late = (feed.follow(name, 0, from_log=False) for _ in range(2))
    await bench.append(claim, 0, 1)
    await feed.check_once()
    assert not lost._must_read, "what is missing may be on its way"
    late.push(LogItem(1, store_pb2.LogEntry(token_count=1)), 0)
    assert len(await late.next_items()) == 1
    await feed.check_once()
    assert (lost._must_read, late._must_read) == (True, False)
    assert [item.sequence for item in await lost.next_items()] == [1]
