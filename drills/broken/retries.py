"""redis-py repeats by itself what got no answer, and an append that comes twice is appended twice."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import redis.asyncio
from redis.exceptions import NoScriptError

from drills.broken import scripts
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.redis.scripts import Reply, ScriptCall


def install() -> None:
    from_url = redis.asyncio.Redis.from_url
    its_own = inspect.signature(redis.asyncio.Redis.__init__).parameters["retry"].default

    def with_its_own_retries(_: type[redis.asyncio.Redis], /, url: str, **options: Any) -> redis.asyncio.Redis:
        assert options["retry"].get_retries() == 0 < its_own.get_retries()
        return from_url(url, **{**options, "retry": its_own})

    async def once(self: RedisConnection, call: Callable[[], Awaitable[Any]], *_: Any) -> Any:
        return await self._once(call)

    async def through_redis_py(self: RedisConnection, calls: Sequence[ScriptCall]) -> list[Reply]:
        try:
            async with self._commands.pipeline(transaction=False) as pipeline:
                for script, prefix, arguments in calls:
                    pipeline.evalsha(script.digest, 1, prefix, *arguments)
                replies = await pipeline.execute()
        except NoScriptError:  # of a script that is not altered
            replies = [await self._commands.eval(script.source, 1, prefix, *arguments) for script, prefix, arguments in calls]
        return [Reply(int(reply[0]), reply[1:]) for reply in replies]

    RedisConnection._evaluate = through_redis_py  # type: ignore[method-assign]
    redis.asyncio.Redis.from_url = classmethod(with_its_own_retries)  # type: ignore[method-assign, assignment]
    # Ours are off, so that what comes twice is redis-py's doing.
    RedisConnection._retried = once  # type: ignore[method-assign, assignment]
    scripts.alter(append=[scripts.APPEND_AT_THE_END], finish=[scripts.FINISH_ANYWHERE])
