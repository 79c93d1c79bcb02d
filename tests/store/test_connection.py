"""What the connection makes of errors that are not Redis'."""

from collections.abc import Awaitable

import pytest

from tokenrelay.errors import StoreUnavailableError
from tokenrelay.store.redis.connection import RedisConnection


async def fail_with(error: Exception) -> Awaitable[None]:
    raise error


async def test_uvloops_word_for_a_connection_that_was_just_reset_means_that_redis_is_away(connection: RedisConnection) -> None:
    told = RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
    with pytest.raises(StoreUnavailableError):
        await connection._once(lambda: fail_with(told))


async def test_another_runtime_error_stays_what_it_is(connection: RedisConnection) -> None:
    with pytest.raises(RuntimeError, match="a fault of ours"):
        await connection._once(lambda: fail_with(RuntimeError("a fault of ours")))
