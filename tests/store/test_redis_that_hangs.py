"""A real Redis that stands still: it takes connections and bytes, and answers nothing."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually
from tokenrelay.errors import StoreUnavailableError
from tokenrelay.store.redis import link as link_module
from tokenrelay.store.redis import pipe as pipe_module
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.redis.pipe import RedisPipe
from tokenrelay.store.redis.scripts import Script

CALLERS = 200
PATIENCE = 1.0
NOTHING = Script("nothing", "return {1}", "0" * 40)


@pytest.fixture
async def connection(own_redis: RedisServer) -> AsyncIterator[RedisConnection]:
    connection = RedisConnection(own_redis.url, patience=PATIENCE)
    await connection.wait_until_ready()
    yield connection
    await connection.close()


async def longest_answer(connection: RedisConnection) -> float:
    """Has many call at once; returns after how many seconds the last of them was told that Redis is away."""

    async def call(number: int) -> float:
        started = time.monotonic()
        with pytest.raises(StoreUnavailableError):
            if number % 2:
                await connection.run(NOTHING, "tokenrelay:{0}:")
            else:
                await connection.hash("tokenrelay:{0}:generation:none")
        return time.monotonic() - started

    return max(await asyncio.gather(*(call(number) for number in range(CALLERS))))


async def test_all_who_call_are_answered_within_their_patience(connection: RedisConnection, own_redis: RedisServer) -> None:
    own_redis.signal(signal.SIGSTOP)
    on_open_connections = await longest_answer(connection)
    connection._link.leave()
    while_connecting = await longest_answer(connection)
    # On a quiet machine within the patience and a second. Callers that wait for one another need ten seconds and more.
    assert max(on_open_connections, while_connecting) < PATIENCE + 6
    own_redis.signal(signal.SIGCONT)
    assert await connection.hash("tokenrelay:{0}:generation:none", patience=60.0) == {}


async def test_one_connection_is_opened_for_all_who_wait_for_it(
    connection: RedisConnection, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = 0
    original = link_module.Link.open

    async def counted(self: link_module.Link) -> RedisPipe:
        nonlocal opened
        opened += 1
        return await original(self)

    monkeypatch.setattr(connection._scripts, "_open_pipe", lambda: counted(connection._link))
    connection._link.leave()
    replies = await asyncio.gather(*(connection.run(NOTHING, "tokenrelay:{0}:") for _ in range(CALLERS)))
    assert replies == [[]] * CALLERS
    assert opened == 1


async def test_a_call_that_was_waiting_goes_on_when_redis_does(connection: RedisConnection, own_redis: RedisServer) -> None:
    own_redis.signal(signal.SIGSTOP)
    waiting = [asyncio.create_task(connection.run(NOTHING, "tokenrelay:{0}:", patience=60.0)) for _ in range(CALLERS)]
    await asyncio.sleep(0.2)
    own_redis.signal(signal.SIGCONT)
    assert await asyncio.gather(*waiting) == [[]] * CALLERS


async def test_a_connection_that_died_while_redis_stood_still_is_replaced(
    connection: RedisConnection, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe_module, "LOOK_INTERVAL", 0.05)
    monkeypatch.setattr(link_module, "ANSWER_TIMEOUT", 0.3)
    monkeypatch.setattr(link_module, "CONNECT_TIMEOUT", 0.3)
    connection._link.leave()
    await connection.run(NOTHING, "tokenrelay:{0}:")
    pipe = await connection._scripts.get()
    own_redis.signal(signal.SIGSTOP)
    waiting = asyncio.create_task(connection.run(NOTHING, "tokenrelay:{0}:", patience=60.0))
    await eventually(lambda: pipe.closed, "it is given up")
    own_redis.signal(signal.SIGCONT)
    assert await waiting == []


async def test_who_leaves_while_a_connection_is_opened_takes_it_from_nobody(
    connection: RedisConnection, own_redis: RedisServer
) -> None:
    connection._link.leave()
    own_redis.signal(signal.SIGSTOP)
    first, second = (asyncio.create_task(connection.run(NOTHING, "tokenrelay:{0}:", patience=60.0)) for _ in range(2))
    await asyncio.sleep(0.1)
    first.cancel()
    own_redis.signal(signal.SIGCONT)
    assert await second == []
    assert first.cancelled()


async def test_nothing_is_left_unlooked_at_when_all_leave_while_a_connection_is_opened(
    connection: RedisConnection, own_redis: RedisServer
) -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    connection._link.leave()
    own_redis.kill()
    calls = [asyncio.create_task(connection.run(NOTHING, "tokenrelay:{0}:")) for _ in range(3)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await eventually(lambda: connection._scripts._opening is None, "the try has ended")
    assert told == []
