"""Streams and their consumer groups: what has been read, by whom, and what is there."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from tokenrelay.store.redis.errors import NoSuchGroupError, UnexpectedReplyError

GROUP_BEGINS_AT = "0"  # a new group reads all that is there; `$` would pass over what was added before it
BLOCK_MARGIN = 5.0  # seconds that a blocking read waits longer than Redis blocks
PENDING_PAGE = 200  # pending entries looked at in one go

Entry: TypeAlias = tuple[str, Mapping[bytes, bytes]]  # an entry's id and its fields
Send: TypeAlias = Callable[..., Awaitable[Any]]


class SendSeveral(Protocol):
    """Sends commands over one round trip."""

    async def __call__(self, several: Sequence[Sequence[Any]], /) -> list[Any]: ...


class Streams:
    """The streams of one Redis. Errors are those of RedisConnection unless a method names others.

    Args:
        command: sends a command that may be repeated.
        commands: the same for several.
        read: sends a command that may block, once, with seconds after which it is given up.
        block: seconds for which a blocking read blocks.
    """

    def __init__(
        self, command: Send, commands: SendSeveral, read: Callable[[Sequence[Any], float], Awaitable[Any]], block: float
    ) -> None:
        self._command = command
        self._commands = commands
        self._read = read
        self._block = block

    async def ensure_group(self, stream: str, group: str) -> None:
        """Creates a stream's consumer group at its beginning, so that no entry is passed over, unless it is there.

        Raises:
            StoreFullError: it is not there, and Redis is out of memory.
        """
        if await self._group(stream, group) is not None:
            return  # when Redis is out of memory it would refuse even to say so
        try:
            await self._command("XGROUP", "CREATE", stream, group, GROUP_BEGINS_AT, "MKSTREAM")
        except UnexpectedReplyError as error:
            if not str(error.__cause__).startswith("BUSYGROUP"):
                raise  # another process has not just made it

    async def _group(self, stream: str, group: str) -> Mapping[bytes, Any] | None:
        try:
            groups = await self._command("XINFO", "GROUPS", stream)
        except NoSuchGroupError:
            return None  # there is no such stream
        return next((found for found in groups if found[b"name"] == group.encode()), None)

    async def read_group(
        self, group: str, consumer: str, streams: Sequence[str], count: int, *, block: bool, look: bool = True
    ) -> list[tuple[str, str, Mapping[bytes, bytes]]]:
        """Reads entries that no consumer has, from the first stream first.

        Args:
            group: whose entries.
            consumer: who reads.
            streams: what is read, in this order.
            count: how many entries at most.
            block: whether to wait if there are none.
            look: whether to look into one stream after the other before that. A read that blocks at once is two round trips
                shorter and, if several streams have entries by then, takes up to `count` from each of them.

        Returns:
            (stream, entry id, fields) in reading order; empty if none came before Redis stopped blocking.

        Raises:
            NoSuchGroupError: a stream or its group has vanished.
            StoreUnavailableError: Redis is away. Entries may have been handed to the consumer all the same.
        """
        found: list[tuple[str, str, Mapping[bytes, bytes]]] = []
        # One stream at a time: COUNT holds for each stream of a call, so two streams would give twice as many.
        for stream in streams if look else ():
            if len(found) < count:
                found += await self._read_new(group, consumer, [stream], count - len(found), block=False)
        if found or not block:
            return found
        # Blocked on all of them, Redis answers with the one that gets an entry first.
        return await self._read_new(group, consumer, streams, count, block=True)

    async def _read_new(
        self, group: str, consumer: str, streams: Sequence[str], count: int, *, block: bool
    ) -> list[tuple[str, str, Mapping[bytes, bytes]]]:
        blocking = ("BLOCK", round(self._block * 1000)) if block else ()
        command = ("XREADGROUP", "GROUP", group, consumer, "COUNT", count, *blocking)
        reply = await self._read([*command, "STREAMS", *streams, *(">" for _ in streams)], self._block + BLOCK_MARGIN)
        return [
            (stream.decode(), *_entry(entry, fields)) for stream, entries in (reply or {}).items() for entry, fields in entries
        ]

    async def range(self, stream: str, after: str, count: int) -> list[Entry]:
        """Reads entries of a stream after an entry id."""
        reply = await self._command("XRANGE", stream, f"({after}", "+", "COUNT", count)
        return [_entry(*one) for one in reply]

    async def first_unread(self, stream: str, group: str) -> str | None:
        """Returns the id of a stream's first entry that no consumer of a group has read; None if there is none."""
        found = await self._group(stream, group)
        unread = await self.range(stream, found[b"last-delivered-id"].decode(), 1) if found else []
        return unread[0][0] if unread else None

    async def consumers(self, stream: str, group: str) -> list[tuple[str, int]]:
        """Returns a group's consumers, each with how many pending entries it has; empty if there is no such group."""
        try:
            found = await self._command("XINFO", "CONSUMERS", stream, group)
        except NoSuchGroupError:
            return []
        return [(consumer[b"name"].decode(), consumer[b"pending"]) for consumer in found]

    async def pending(self, stream: str, group: str, consumer: str, idle_ms: int) -> list[str]:
        """Returns the ids of the entries that have been pending with a consumer for some time.

        Empty if there is no such group: it may vanish between two looks.
        """
        ids: list[str] = []
        begin = "-"
        while True:
            command = ("XPENDING", stream, group, "IDLE", idle_ms, begin, "+", PENDING_PAGE, consumer)
            try:
                page = await self._command(*command)
            except NoSuchGroupError:
                return ids
            ids += [one[0].decode() for one in page]
            if len(page) < PENDING_PAGE:
                return ids
            begin = f"({ids[-1]}"

    async def entries(self, stream: str, ids: Sequence[str]) -> list[Entry]:
        """Reads entries by their ids, without those whose content is gone."""
        found: list[Entry] = []
        for begin in range(0, len(ids), PENDING_PAGE):
            commands = [("XRANGE", stream, entry, entry) for entry in ids[begin : begin + PENDING_PAGE]]
            found += [_entry(*one) for few in await self._commands(commands) for one in few]
        return found

    async def newer(self, positions: Mapping[str, str]) -> set[str]:
        """Returns which of some streams have entries after a position."""
        reply = await self._command("XREAD", "COUNT", 1, "STREAMS", *positions.keys(), *positions.values())
        return {stream.decode() for stream in reply or {}}


def _entry(entry: bytes, fields: Sequence[bytes]) -> Entry:
    return entry.decode(), dict(zip(fields[::2], fields[1::2], strict=True))
