"""redis-py repeats by itself what got no answer, and an append that comes twice is appended twice."""

import inspect
from collections.abc import Sequence
from typing import Any

import redis.asyncio
from redis.exceptions import NoScriptError

from drills.broken import scripts
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.redis.link import ANSWER_TIMEOUT
from tokenrelay.store.redis.scripts import Reply, ScriptCall


def install() -> None:
    begin = RedisConnection.__init__
    its_own = inspect.signature(redis.asyncio.Redis.__init__).parameters["retry"].default
    assert its_own.get_retries() > 0
    clients: dict[RedisConnection, redis.asyncio.Redis] = {}

    def begin_with_redis_py(self: RedisConnection, url: str, **options: Any) -> None:
        begin(self, url, **options)
        clients[self] = redis.asyncio.Redis.from_url(url, protocol=3, retry=its_own)

    async def repeated_by_redis_py(
        self: RedisConnection, calls: Sequence[ScriptCall], patience: float | None = None
    ) -> list[Reply]:
        # Not by us, so that what comes twice is redis-py's doing.
        replies: list[Reply] = await self._tries.once(lambda: through_redis_py(self, calls), ANSWER_TIMEOUT)
        return replies

    async def through_redis_py(self: RedisConnection, calls: Sequence[ScriptCall]) -> list[Reply]:
        client = clients[self]
        try:
            async with client.pipeline(transaction=False) as pipeline:
                for script, prefix, arguments in calls:
                    pipeline.evalsha(script.digest, 1, prefix, *arguments)
                replies = await pipeline.execute()
        except NoScriptError:  # of a script that is not altered
            replies = [await client.eval(script.source, 1, prefix, *arguments) for script, prefix, arguments in calls]
        return [Reply(int(reply[0]), reply[1:]) for reply in replies]

    RedisConnection.__init__ = begin_with_redis_py  # type: ignore[method-assign]
    RedisConnection.run_together = repeated_by_redis_py  # type: ignore[method-assign]
    scripts.alter(append=[scripts.APPEND_AT_THE_END], finish=[scripts.FINISH_ANYWHERE])
