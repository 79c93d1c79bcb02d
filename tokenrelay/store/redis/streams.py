"""Streams and their consumer groups: what has been read, by whom, and what is there."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from redis.exceptions import ResponseError

from tokenrelay.store.redis.errors import NoSuchGroupError

if TYPE_CHECKING:
    from tokenrelay.store.redis.connection import RedisConnection

BLOCK_MARGIN = 5.0  # seconds that a blocking read waits longer than Redis blocks
PENDING_PAGE = 200  # pending entries looked at in one go


class Streams:
    """The streams of one Redis. Errors are those of RedisConnection unless a method names others."""

    def __init__(self, connection: "RedisConnection") -> None:
        self._redis = connection

    async def ensure_group(self, stream: str, group: str) -> None:
        """Creates a stream's consumer group at its beginning, so that no entry is passed over, unless it is there.

        Raises:
            StoreFullError: it is not there, and Redis is out of memory.
        """
        if await self._group(stream, group) is not None:
            return  # when Redis is out of memory it would refuse even to say so
        try:
            await self._redis._retried(lambda: self._redis._commands.xgroup_create(stream, group, id="0", mkstream=True))
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    async def _group(self, stream: str, group: str) -> Mapping[str, Any] | None:
        try:
            groups = await self._redis._retried(lambda: self._redis._commands.xinfo_groups(stream))
        except ResponseError:
            return None  # there is no such stream
        return next((found for found in groups if found["name"] == group.encode()), None)

    async def read_group(
        self, group: str, consumer: str, streams: Sequence[str], count: int, *, block: bool
    ) -> list[tuple[str, str, Mapping[bytes, bytes]]]:
        """Reads entries that no consumer has, from the first stream first.

        Returns:
            (stream, entry id, fields) in reading order; empty if none came before Redis stopped blocking.

        Raises:
            NoSuchGroupError: a stream or its group has vanished.
            StoreUnavailableError: Redis is away. Entries may have been handed to the consumer all the same.
        """
        blocking = ("BLOCK", round(self._redis._block * 1000)) if block else ()
        command = ("XREADGROUP", "GROUP", group, consumer, "COUNT", count, *blocking)
        reply = await self._redis._now(
            lambda: self._redis._blocking.call(*command, "STREAMS", *streams, *(">" for _ in streams)),
            self._redis._block + BLOCK_MARGIN,
        )
        return [
            (stream.decode(), entry.decode(), dict(zip(fields[::2], fields[1::2], strict=True)))
            for stream, entries in (reply or {}).items()
            for entry, fields in entries
        ]

    async def range(self, stream: str, after: str, count: int) -> list[tuple[str, Mapping[bytes, bytes]]]:
        """Reads entries of a stream after an entry id."""
        reply = await self._redis._retried(lambda: self._redis._commands.xrange(stream, min=f"({after}", count=count))
        return [(entry.decode(), fields) for entry, fields in reply]

    async def first_unread(self, stream: str, group: str) -> str | None:
        """Returns the id of a stream's first entry that no consumer of a group has read; None if there is none."""
        found = await self._group(stream, group)
        unread = await self.range(stream, found["last-delivered-id"].decode(), 1) if found else []
        return unread[0][0] if unread else None

    async def consumers(self, stream: str, group: str) -> list[tuple[str, int]]:
        """Returns a group's consumers, each with how many entries hang on it; empty if there is no such group."""
        try:
            found = await self._redis._retried(lambda: self._redis._commands.xinfo_consumers(stream, group))
        except (ResponseError, NoSuchGroupError):
            return []
        return [(consumer["name"].decode(), consumer["pending"]) for consumer in found]

    async def pending(self, stream: str, group: str, consumer: str, idle_ms: int) -> list[tuple[str, Mapping[bytes, bytes]]]:
        """Returns entries that hang on a consumer for some time, without those whose content is gone."""
        entries: list[tuple[str, Mapping[bytes, bytes]]] = []
        begin = "-"
        while True:
            page = await self._redis._retried(partial(self._pending_page, stream, group, consumer, idle_ms, begin))
            names = [one["message_id"] for one in page]
            found = await self._redis._retried(partial(self._entries, stream, names))
            entries += [(entry.decode(), fields) for (entry, fields) in chain.from_iterable(found)]
            if len(page) < PENDING_PAGE:
                return entries
            begin = f"({names[-1].decode()}"

    async def _pending_page(self, stream: str, group: str, consumer: str, idle_ms: int, begin: str) -> Any:
        return await self._redis._commands.xpending_range(
            stream, group, min=begin, max="+", count=PENDING_PAGE, consumername=consumer, idle=idle_ms
        )

    async def _entries(self, stream: str, names: Sequence[bytes]) -> list[Any]:
        async with self._redis._commands.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.xrange(stream, name, name)
            found: list[Any] = await pipeline.execute()
            return found

    async def newer(self, positions: Mapping[str, str]) -> set[str]:
        """Returns which of some streams have entries after a position."""
        reply = await self._redis._retried(lambda: self._redis._commands.xread(cast("dict[Any, Any]", positions), count=1))
        found = reply.keys() if isinstance(reply, dict) else [stream for stream, _ in reply or []]
        return {stream.decode() for stream in found}
