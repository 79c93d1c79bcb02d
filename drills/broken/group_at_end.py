"""The consumer group begins at `$`: with what is queued after it was made."""

from collections.abc import Awaitable
from typing import Any

import redis.asyncio


def install() -> None:
    create = redis.asyncio.Redis.xgroup_create

    def create_at_end(self: redis.asyncio.Redis, stream: str, group: str, **options: Any) -> Awaitable[Any]:
        assert options["id"] == "0"
        return create(self, stream, group, **{**options, "id": "$"})

    redis.asyncio.Redis.xgroup_create = create_at_end  # type: ignore[method-assign, assignment]
