"""The token logs, as their readers see them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from tokenrelay.store import keys
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.redis.errors import UnexpectedReplyError
from tokenrelay.store.shards import Shards, damaged
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import LogItem

PAGE = 512  # log entries read at a time


@dataclass(frozen=True)
class Extent:
    """How far a log is known to go, as a record says.

    Attributes:
        last: the last sequence, at least.
        is_ended: whether the terminal record is there.
    """

    last: int = 0
    is_ended: bool = False


class TokenLog:
    """Reads all token logs. Errors are those of RedisConnection; DataLossError if a log is not as we write it."""

    def __init__(self, connection: RedisConnection, shards: Shards) -> None:
        self._connection = connection
        self._shards = shards

    async def read(self, generation_id: str, after: int) -> list[LogItem]:
        """Reads a page of a token log after a sequence, the terminal record included. Shorter than PAGE: there is no more."""
        key = keys.log(generation_id, self._shards.of(generation_id))
        try:
            found = await self._connection.streams.range(key, f"{after}-0", PAGE)
            return [_log_item(entry, fields) for entry, fields in found]
        except (UnexpectedReplyError, KeyError, ValueError, DecodeError) as error:
            raise damaged(generation_id) from error

    async def read_whole(self, generation_id: str, extent: Extent | None = None) -> list[LogItem]:
        """Reads a token log as far as it goes.

        Raises:
            DataLossError: it does not go as far as it is known to, or something is missing in it.
        """
        items: list[LogItem] = []
        while True:
            after = items[-1].sequence if items else 0
            page = await self.read(generation_id, after)
            check(generation_id, page, after, extent or Extent())
            items += page
            if len(page) < PAGE:
                return items

    async def ahead(self, positions: Mapping[str, int]) -> set[str]:
        """Returns the ids of the generations whose logs have more than a sequence."""
        by_log = {keys.log(name, self._shards.of(name)): (name, position) for name, position in positions.items()}
        ahead: set[str] = set()
        for shard in self._shards:
            prefix = keys.prefix(shard)
            streams = {key: f"{position}-0" for key, (_, position) in by_log.items() if key.startswith(prefix)}
            if streams:
                ahead |= {by_log[key][0] for key in await self._connection.streams.newer(streams)}
        return ahead


def check(generation_id: str, page: Sequence[LogItem], after: int, extent: Extent, *, may_begin_before: bool = False) -> None:
    """Looks whether a page of a log leads on from a sequence without a gap, and whether the last one goes far enough.

    Args:
        generation_id: whose log it is.
        page: what was read.
        after: the sequence after which it was read.
        extent: how far the log is known to go.
        may_begin_before: whether the first entry may begin before that, as it may after a number that a client chose.

    Raises:
        DataLossError: something is missing.
    """
    position = after
    for item in page:
        begins = item.sequence - (item.entry.token_count if item.entry is not None else 0)
        if begins != position and not (may_begin_before and begins < position):
            raise damaged(generation_id)
        position, may_begin_before = item.sequence, False
    is_ended = bool(page) and page[-1].terminal is not None
    if len(page) < PAGE and (position < extent.last or (extent.is_ended and not is_ended)):
        raise damaged(generation_id)


def _log_item(entry_id: str, fields: Mapping[bytes, bytes]) -> LogItem:
    sequence = int(entry_id.partition("-")[0])
    if b"t" in fields:
        return LogItem(sequence, None, store_pb2.Terminal.FromString(fields[b"t"]), int(fields[b"at"]))
    return LogItem(sequence, store_pb2.LogEntry.FromString(fields[b"e"]))
