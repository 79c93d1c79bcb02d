"""A URL or a Redis that will not do: one line that names the variable, and nothing of the password."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import structlog

from tests.support.redis_server import RedisServer
from tokenrelay.start_up import StartUpError
from tokenrelay.store.redis import server_check
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.redis.errors import StoreUnfitError

SECRET = "p@ss:w/rd#"
WRONG_URLS = [
    "127.0.0.1:6379",
    "localhost",
    "http://127.0.0.1:6379",
    "redis//127.0.0.1",
    f"redis://:{SECRET}@127.0.0.1:6379",
    "redis://127.0.0.1:port",
    "redis://127.0.0.1:99999999",
    "redis://127.0.0.1?socket_timeout=soon",
    "redis://127.0.0.1?unheard_of=1",
    "redis://127.0.0.1?protocol=2",
    "redis://127.0.0.1?db=none",
    "redis://[::1",
]


@pytest.mark.parametrize("url", WRONG_URLS)
def test_a_wrong_url_is_refused_without_a_word_of_it(url: str) -> None:
    with pytest.raises(StoreUnfitError, match=r"^TOKENRELAY_REDIS_URL: [^\n]*$") as caught:
        RedisConnection(url, patience=0.1)
    assert caught.value.status == 2
    assert isinstance(caught.value, StartUpError)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert "p@ss" not in str(caught.value)
    assert "w/rd" not in str(caught.value)


async def refusal(url: str) -> str:
    connection = RedisConnection(url, patience=0.1)
    try:
        with pytest.raises(StoreUnfitError, match=r"^TOKENRELAY_REDIS_URL: [^\n]*$") as caught:
            await asyncio.wait_for(connection.wait_until_ready(), 20)
        assert caught.value.status == 2
        assert "secret" not in str(caught.value)
        return str(caught.value)
    finally:
        await connection.close()


@pytest.fixture
async def user(redis: RedisServer, client: Any) -> AsyncIterator[Any]:
    """Gives a user permissions, and returns its URL."""

    async def allow(*rules: str) -> str:
        await client.execute_command("ACL", "SETUSER", "u", "reset", "on", ">secret", *rules)
        return f"unix://u:secret@{redis.socket}"

    yield allow
    await client.execute_command("ACL", "DELUSER", "u")


async def test_a_wrong_password(redis: RedisServer) -> None:
    assert "user name or password" in await refusal(f"unix://u:secret@{redis.socket}")


async def test_a_database_that_is_not_there(redis: RedisServer) -> None:
    assert "DB index is out of range" in await refusal(f"unix://{redis.socket}?db=99999")


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        (("~tokenrelay:*", "&tokenrelay:*", "+@all", "-@dangerous"), "info"),
        (("~tokenrelay:*", "&tokenrelay:*", "+@all", "-@scripting", "-xinfo", "-publish"), "eval, evalsha, xinfo groups"),
        (("~tokenrelay:*", "+@all"), "publish"),
        (("&tokenrelay:*", "+@all"), "persist"),
        (("~other:*", "&tokenrelay:*", "+@all"), "persist"),
        ((), "persist, time, info"),
    ],
)
async def test_a_missing_permission_is_named(user: Any, rules: tuple[str, ...], missing: str) -> None:
    assert missing in await refusal(await user(*rules))


async def test_the_documented_permissions_are_enough(user: Any) -> None:
    url = await user("~tokenrelay:*", "&tokenrelay:*", "+@all", "-@dangerous", "+info")
    connection = RedisConnection(url, patience=0.1)
    try:
        with structlog.testing.capture_logs() as lines:
            await connection.wait_until_ready()
    finally:
        await connection.close()
    assert [line["event"] for line in lines] == ["redis does not show its configuration; promises need these settings"]


async def test_a_redis_that_is_too_old(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_check, "OLDEST_VERSION", (99, 0))
    assert "99.0 or newer is needed" in await refusal(redis.url)


async def test_what_is_no_redis_is_waited_for_with_its_reason() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert "does not speak Redis' protocol" in await refusal(f"redis://127.0.0.1:{port}")


async def test_a_sentinel(connection: RedisConnection) -> None:
    pipe = await connection._scripts.get()
    with pytest.raises(StoreUnfitError, match=r"^TOKENRELAY_REDIS_URL: this is a Sentinel"):
        await server_check.check(pipe, {b"mode": b"sentinel", b"version": b"9.1.2"})
