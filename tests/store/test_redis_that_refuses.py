"""A real Redis that answers with errors for a while: what callers get, and that they go on as soon as it is over."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from tests.support.redis_server import RedisServer, servers
from tests.support.waiting import eventually
from tokenrelay.errors import StoreFullError, StoreUnavailableError
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.redis.errors import NoSuchGroupError, UnexpectedReplyError
from tokenrelay.store.redis.scripts import Script

PREFIX = "tokenrelay:{0}:"
WRITE = "redis.call('SET', KEYS[1] .. 'written', '1') return {1, 'done'}"
FORGET = "redis.call('XGROUP', 'DELCONSUMER', ARGV[1], 'workers', 'w') return {1}"
CHANNEL = "tokenrelay:feed:g1"


def script(source: str) -> Script:
    return Script("of_a_test", source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@pytest.fixture(params=servers())
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "dump.rdb").mkdir()  # so that a save fails
    server = RedisServer(servers()[request.param], tmp_path).start()
    yield server
    server.kill()


@pytest.fixture
async def operator(server: RedisServer) -> AsyncIterator[Any]:
    client = Redis.from_url(server.url)
    yield client
    await client.aclose()


@pytest.fixture
async def impatient(server: RedisServer) -> AsyncIterator[RedisConnection]:
    connection = RedisConnection(server.url, patience=0.2)
    await connection.wait_until_ready()
    yield connection
    await connection.close()


async def write(connection: RedisConnection, patience: float | None = None) -> list[Any]:
    return await connection.run(script(WRITE), PREFIX, patience=patience)


async def demote(operator: Any) -> None:
    await operator.execute_command("REPLICAOF", "127.0.0.1", "1")


async def demote_without_old_data(operator: Any) -> None:
    await operator.config_set("replica-serve-stale-data", "no")
    await demote(operator)


async def promote(operator: Any) -> None:
    await operator.execute_command("REPLICAOF", "NO", "ONE")


async def want_a_replica(operator: Any) -> None:
    await operator.config_set("min-replicas-to-write", 1)


async def want_no_replica(operator: Any) -> None:
    await operator.config_set("min-replicas-to-write", 0)


async def fail_to_save(operator: Any) -> None:
    await operator.config_set("save", "3600 1")
    await operator.bgsave()
    await eventually(lambda: _save_failed(operator), "the save has failed")


async def _save_failed(operator: Any) -> bool:
    return (await operator.info("persistence"))["rdb_last_bgsave_status"] == "err"


async def save_no_more(operator: Any) -> None:
    await operator.config_set("save", "")


TIMES = {
    "READONLY": (demote, promote),
    "MASTERDOWN": (demote_without_old_data, promote),
    "NOREPLICAS": (want_a_replica, want_no_replica),
    "MISCONF": (fail_to_save, save_no_more),
}


@pytest.mark.parametrize("code", TIMES)
async def test_a_write_waits_until_redis_takes_writes_again(
    impatient: RedisConnection, server: RedisServer, operator: Any, code: str
) -> None:
    begin, end = TIMES[code]
    assert await write(impatient) == [b"done"]
    await begin(operator)
    with pytest.raises(StoreUnavailableError) as caught:
        await write(impatient)
    assert type(caught.value) is StoreUnavailableError
    waiting = asyncio.create_task(write(impatient, patience=60.0))
    starting = RedisConnection(server.url, patience=0.2)
    ready = asyncio.create_task(starting.wait_until_ready())
    try:
        await asyncio.sleep(0.2)
        assert not waiting.done()
        assert not ready.done(), "who starts meanwhile waits, too"
        await end(operator)
        assert await waiting == [b"done"]
        await ready
    finally:
        await starting.close()


async def test_redis_that_is_busy_with_a_script_is_waited_for(impatient: RedisConnection, operator: Any) -> None:
    await operator.config_set("busy-reply-threshold", 50)
    busy = asyncio.create_task(operator.eval("while true do end", 0))
    await eventually(lambda: _is_busy(operator), "the script runs for too long")
    with pytest.raises(StoreUnavailableError):
        await write(impatient)
    waiting = asyncio.create_task(write(impatient, patience=60.0))
    await operator.script_kill()
    assert await waiting == [b"done"]
    with pytest.raises(Exception, match="killed"):
        await busy


async def _is_busy(operator: Any) -> bool:
    try:
        await operator.ping()
    except Exception as error:
        return "BUSY" in str(error)
    return False


async def test_what_is_too_much_for_the_memory_is_told_at_once(impatient: RedisConnection, operator: Any) -> None:
    await operator.config_set("maxmemory", 1)
    with pytest.raises(StoreFullError):
        await write(impatient, patience=60.0)


async def test_a_permission_that_is_taken_away_is_waited_for_and_told_once(server: RedisServer, operator: Any) -> None:
    await operator.execute_command("ACL", "SETUSER", "u", "on", ">secret", "~tokenrelay:*", "&tokenrelay:*", "+@all")
    connection = RedisConnection(f"unix://u:secret@{server.socket}", patience=0.2)
    await connection.wait_until_ready()
    try:
        await operator.execute_command("ACL", "SETUSER", "u", "-set")
        with structlog.testing.capture_logs() as lines:
            with pytest.raises(StoreUnavailableError) as in_a_script:
                await write(connection)
            await operator.execute_command("ACL", "SETUSER", "u", "-evalsha")
            with pytest.raises(StoreUnavailableError):
                await write(connection)
        assert "secret" not in in_a_script.value.message
        assert len([line for line in lines if line["log_level"] == "error"]) == 1
        waiting = asyncio.create_task(write(connection, patience=60.0))
        await operator.execute_command("ACL", "SETUSER", "u", "+@all")
        assert await waiting == [b"done"]
    finally:
        await connection.close()


async def test_a_user_that_is_gone_is_waited_for(server: RedisServer, operator: Any) -> None:
    await operator.execute_command("ACL", "SETUSER", "u", "on", ">secret", "~*", "&*", "+@all")
    connection = RedisConnection(f"unix://u:secret@{server.socket}", patience=0.2)
    await connection.wait_until_ready()
    try:
        await operator.execute_command("ACL", "DELUSER", "u")
        with pytest.raises(StoreUnavailableError):
            await write(connection)
        waiting = asyncio.create_task(write(connection, patience=60.0))
        await operator.execute_command("ACL", "SETUSER", "u", "on", ">secret", "~*", "&*", "+@all")
        assert await waiting == [b"done"]
    finally:
        await connection.close()


async def test_foreign_data_is_told_at_once_and_not_as_an_absence(impatient: RedisConnection, operator: Any) -> None:
    await operator.set(PREFIX + "foreign", "text")
    with pytest.raises(UnexpectedReplyError):
        await impatient.hash(PREFIX + "foreign", patience=60.0)
    with pytest.raises(UnexpectedReplyError):
        await impatient.run(script("redis.call('HGET', KEYS[1] .. 'foreign', 'f') return {1}"), PREFIX, patience=60.0)


async def test_a_missing_group_is_none_wherever_it_is_looked_for(impatient: RedisConnection, operator: Any) -> None:
    streams = impatient.streams
    for stream in ("tokenrelay:missing", "tokenrelay:without"):
        if stream.endswith("without"):
            await operator.xadd(stream, {"f": "v"})
        assert await streams.consumers(stream, "workers") == []
        assert await streams.pending(stream, "workers", "w", 0) == []
        assert await streams.first_unread(stream, "workers") is None
        with pytest.raises(NoSuchGroupError):
            await streams.read_group("workers", "w", [stream], 1, block=False)
        with pytest.raises(NoSuchGroupError):
            await impatient.run(script(FORGET), PREFIX, stream)
    await operator.set("tokenrelay:foreign", "text")
    with pytest.raises(UnexpectedReplyError):
        await streams.consumers("tokenrelay:foreign", "workers")
    with pytest.raises(UnexpectedReplyError):
        await streams.ensure_group("tokenrelay:foreign", "workers")


async def test_a_group_that_another_process_makes_at_the_same_time_is_fine(impatient: RedisConnection) -> None:
    await asyncio.gather(*(impatient.streams.ensure_group("tokenrelay:s", "workers") for _ in range(20)))


async def test_no_more_is_read_from_several_streams_than_was_asked_for(impatient: RedisConnection, operator: Any) -> None:
    for stream in ("tokenrelay:first", "tokenrelay:second"):
        await impatient.streams.ensure_group(stream, "workers")
        for number in range(4):
            await operator.xadd(stream, {"n": number})
    names = ["tokenrelay:first", "tokenrelay:second"]
    found = await impatient.streams.read_group("workers", "w", names, 5, block=True)
    assert [(stream.split(":")[1], fields[b"n"]) for stream, _, fields in found] == [
        *(("first", b"%d" % number) for number in range(4)),
        ("second", b"0"),
    ]


async def test_scripts_that_are_forgotten_are_sent_again(impatient: RedisConnection, operator: Any) -> None:
    await write(impatient)
    await operator.script_flush()
    assert await write(impatient) == [b"done"]


async def test_a_blocked_read_of_a_demoted_server_is_a_lost_connection(impatient: RedisConnection, operator: Any) -> None:
    await impatient.streams.ensure_group("tokenrelay:s", "workers")
    impatient.streams._block = 60.0
    reading = asyncio.create_task(impatient.streams.read_group("workers", "w", ["tokenrelay:s"], 1, block=True))
    await eventually(lambda: _is_blocked(operator), "it blocks")
    await demote(operator)
    with pytest.raises(StoreUnavailableError) as caught:
        await reading
    assert not isinstance(caught.value, NoSuchGroupError)


async def _is_blocked(operator: Any) -> bool:
    return int((await operator.info("clients"))["blocked_clients"]) == 1


async def test_all_connections_to_a_demoted_server_are_left(impatient: RedisConnection, operator: Any) -> None:
    messages = impatient.subscribe(CHANNEL)
    assert await anext(messages) is None
    next_message = asyncio.ensure_future(anext(messages))
    await impatient.streams.ensure_group("tokenrelay:s", "workers")
    await impatient.streams.read_group("workers", "w", ["tokenrelay:s"], 1, block=False)
    await write(impatient)
    old = await _ids(operator)
    assert len(old) == 4, "for scripts, for reads, for what blocks, for the subscription"
    await demote(operator)
    with pytest.raises(StoreUnavailableError):
        await write(impatient)
    await eventually(lambda: _all_left(operator, old), "all are left")
    await promote(operator)
    assert await next_message is None, "some messages may be lost"


async def test_a_subscription_alone_finds_out_that_its_server_is_demoted(
    impatient: RedisConnection, operator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokenrelay.store.redis.subscription.PROBE_INTERVAL", 0.05)
    messages = impatient.subscribe(CHANNEL)
    assert await anext(messages) is None
    old = await _ids(operator)
    next_message = asyncio.ensure_future(anext(messages))
    await demote(operator)
    await eventually(lambda: _all_left(operator, old), "it is left")
    await promote(operator)
    assert await next_message is None


async def _ids(operator: Any) -> set[str]:
    own = await operator.client_id()
    listed = await operator.client_list()
    return {one["id"] for one in listed if one["id"] != str(own)}


async def _all_left(operator: Any, old: set[str]) -> bool:
    return not old & {one["id"] for one in await operator.client_list()}
