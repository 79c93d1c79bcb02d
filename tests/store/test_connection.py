"""What the connection makes of errors that are not Redis'."""

from collections.abc import Awaitable
from typing import Any

import pytest

from tokenrelay.errors import StoreUnavailableError
from tokenrelay.store.redis.connection import RedisConnection


async def fail_with(error: Exception) -> Awaitable[None]:
    raise error


async def test_uvloops_word_for_a_connection_that_was_just_reset_means_that_redis_is_away(
    connection: RedisConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = await connection._reads.get()

    class Reset:
        def is_closing(self) -> bool:
            return False

        def write(self, _: Any) -> None:
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    with monkeypatch.context() as patch:
        patch.setattr(pipe, "_transport", Reset())
        with pytest.raises(StoreUnavailableError):
            await connection.command("TIME", patience=0)


async def test_another_runtime_error_stays_what_it_is(connection: RedisConnection) -> None:
    with pytest.raises(RuntimeError, match="a fault of ours"):
        await connection._tries.once(lambda: fail_with(RuntimeError("a fault of ours")), 1.0)
