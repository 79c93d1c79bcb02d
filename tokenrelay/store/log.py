"""The token logs, as their readers see them."""

from collections.abc import Mapping

from tokenrelay.store import keys
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.shards import Shards
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import LogItem

PAGE = 512  # log entries read at a time


class TokenLog:
    """Reads all token logs. Errors are those of RedisConnection."""

    def __init__(self, connection: RedisConnection, shards: Shards) -> None:
        self._connection = connection
        self._shards = shards

    async def read(self, generation_id: str, after: int) -> list[LogItem]:
        """Reads a page of a token log after a sequence, the terminal record included. Shorter than PAGE: there is no more."""
        key = keys.log(generation_id, self._shards.of(generation_id))
        found = await self._connection.streams.range(key, f"{after}-0", PAGE)
        return [_log_item(entry, fields) for entry, fields in found]

    async def read_whole(self, generation_id: str) -> list[LogItem]:
        """Reads a token log as far as it goes."""
        items: list[LogItem] = []
        while True:
            page = await self.read(generation_id, items[-1].sequence if items else 0)
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


def _log_item(entry_id: str, fields: Mapping[bytes, bytes]) -> LogItem:
    sequence = int(entry_id.partition("-")[0])
    if b"t" in fields:
        return LogItem(sequence, None, store_pb2.Terminal.FromString(fields[b"t"]), int(fields[b"at"]))
    return LogItem(sequence, store_pb2.LogEntry.FromString(fields[b"e"]))
