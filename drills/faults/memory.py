"""Redis without memory for more: it refuses what would need some, until it is given back."""

from typing import Any

import redis.asyncio

NONE_LEFT = -200_000  # clients' buffers come and go, and count: so far below what is used, nothing more fits for certain


class RedisMemory:
    """The memory of a running Redis.

    Args:
        client: of the caller, who closes it; it must not be one whose calls wait behind the stack's.
    """

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._client: Any = client  # its annotations are for both of redis-py's clients at once
        self._limit_before: str | None = None

    async def used(self) -> int:
        """Returns how many bytes are used, of those that Redis compares with its limit."""
        memory = await self._client.info("memory")
        return int(memory["used_memory"]) - int(memory["mem_not_counted_for_evict"])

    async def exhaust(self, headroom: int = NONE_LEFT) -> None:
        """Leaves so many bytes above what is used now; without a number, all that needs memory is refused at once."""
        if self._limit_before is None:
            self._limit_before = (await self._client.config_get("maxmemory"))["maxmemory"]
        # Zero would mean no limit at all.
        await self._client.config_set("maxmemory", max(1, await self.used() + headroom))

    async def heal(self) -> None:
        """Gives back the limit that was found."""
        if self._limit_before is not None:
            await self._client.config_set("maxmemory", self._limit_before)
            self._limit_before = None
