"""The connection that scripts share: replies in order, and an end that everybody learns of."""

import asyncio
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually
from tokenrelay.errors import StoreUnavailableError
from tokenrelay.store.redis import link as link_module
from tokenrelay.store.redis import pipe as pipe_module
from tokenrelay.store.redis import subscription as subscription_module
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.redis.pipe import PipeClosedError, RedisPipe


async def opened(connection: RedisConnection) -> RedisPipe:
    wire = await connection._scripts.get()
    assert await wire.call("ECHO", "here") == b"here"
    return wire


async def test_calls_do_not_wait_for_each_other_and_get_their_own_replies(connection: RedisConnection) -> None:
    wire = await opened(connection)
    replies = await asyncio.gather(*(wire.call("ECHO", f"{number}") for number in range(1000)))
    assert replies == [b"%d" % number for number in range(1000)]


async def test_who_does_not_wait_any_more_leaves_the_others_replies_in_order(connection: RedisConnection) -> None:
    wire = await opened(connection)
    first, second = wire.call("ECHO", "first"), wire.call("ECHO", "second")
    first.cancel()
    assert await second == b"second"


async def test_an_error_reply_is_its_callers_alone(connection: RedisConnection) -> None:
    wire = await opened(connection)
    wrong, right = wire.call("NOTHING"), wire.call("ECHO", "right")
    with pytest.raises(Exception, match="unknown command"):
        await wrong
    assert await right == b"right"


async def test_what_waits_learns_of_the_end(connection: RedisConnection, client: Redis) -> None:
    wire = await opened(connection)
    waiting = wire.call("BLPOP", "nothing", 0)
    await client.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(PipeClosedError):
        await waiting
    assert wire.closed
    with pytest.raises(PipeClosedError):
        wire.call("PING")
    assert not (await opened(connection)).closed, "another one is opened when it is needed"


async def test_a_connection_on_which_nothing_is_answered_is_given_up(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "ANSWER_TIMEOUT", 0.3)
    monkeypatch.setattr(pipe_module, "LOOK_INTERVAL", 0.05)
    connection = RedisConnection(redis.url, patience=0.1)
    try:
        wire = await opened(connection)
        waiting = wire.call("BLPOP", "nothing", 0)  # stands for a Redis that is there and says nothing
        with pytest.raises(PipeClosedError):
            await asyncio.wait_for(waiting, 10)
        await eventually(lambda: wire.closed, "it is closed")
    finally:
        await connection.close()


async def test_a_closed_connection_opens_no_other(connection: RedisConnection) -> None:
    await opened(connection)
    await connection.close()
    with pytest.raises(StoreUnavailableError):
        await connection.run_together([])


async def test_a_subscription_that_redis_refuses_is_there_once_it_is_allowed(redis: RedisServer, client: Any) -> None:
    await client.execute_command("ACL", "SETUSER", "deaf", "on", "nopass", "~*", "+@all", "resetchannels")
    connection = RedisConnection(f"unix://deaf@{redis.socket}?password=any", patience=0.1)
    try:
        with structlog.testing.capture_logs() as lines:
            first = asyncio.ensure_future(anext(connection.subscribe("tokenrelay:feed:g1")))
            await eventually(lambda: any(line["log_level"] == "error" for line in lines), "it is told")
        await client.execute_command("ACL", "SETUSER", "deaf", "&tokenrelay:*")
        assert await asyncio.wait_for(first, 10) is None
    finally:
        await connection.close()
        await client.execute_command("ACL", "DELUSER", "deaf")


async def test_a_subscription_that_is_cut_off_is_there_again_at_once(
    redis: RedisServer, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription_module, "PROBE_INTERVAL", 3600.0)  # so that no ping is what finds it out
    connection = RedisConnection(redis.url, patience=0.1)
    try:
        messages = connection.subscribe("tokenrelay:feed:g1")
        for _ in range(3):
            assert await asyncio.wait_for(anext(messages), 60) is None, "some may be lost"
            await client.publish("tokenrelay:feed:g1", "here")
            assert await asyncio.wait_for(anext(messages), 60) == [b"here"]
            await client.client_kill_filter(_type="pubsub")
    finally:
        await connection.close()


async def blocked(client: Redis, count: int) -> bool:
    clients = await client.client_list(_type="normal")
    return sum("b" in client["flags"] for client in clients) == count


async def test_calls_that_block_do_not_wait_for_each_other_and_use_connections_again(
    connection: RedisConnection, client: Redis
) -> None:
    blocking = connection._blocking
    first, second = (asyncio.create_task(blocking.call("BLPOP", name, 0)) for name in ("first", "second"))
    await eventually(lambda: blocked(client, 2), "both block")
    await client.rpush("second", "b")
    assert await second == [b"second", b"b"]
    assert not first.done()
    await client.rpush("first", "a")
    assert await first == [b"first", b"a"]
    with pytest.raises(Exception, match="unknown command"):
        await blocking.call("NOTHING")
    assert len(blocking._free) == 2, "an error reply is a reply"


async def test_a_call_that_blocks_ends_with_its_owner(connection: RedisConnection, client: Redis) -> None:
    waiting = asyncio.create_task(connection._blocking.call("BLPOP", "nothing", 0))
    await eventually(lambda: blocked(client, 1), "it blocks")
    connection._blocking.close()
    with pytest.raises(PipeClosedError):
        await waiting
    assert connection._blocking._free == []


async def test_a_connection_on_which_somebody_has_stopped_to_wait_is_not_used_again(
    connection: RedisConnection, client: Redis
) -> None:
    waiting = asyncio.create_task(connection._blocking.call("BLPOP", "nothing", 0))
    await eventually(lambda: blocked(client, 1), "it blocks")
    waiting.cancel()
    await eventually(lambda: blocked(client, 0), "its connection is closed")
    assert connection._blocking._free == []
