"""The queues of waiting generations: one a model and shard, as a stream of new and one of requeued entries."""

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import NamedTuple

from tokenrelay.store import keys
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.redis.errors import NoSuchGroupError
from tokenrelay.store.scripting import NamedScript, Scripts
from tokenrelay.store.values import Depth, Outcome, QueueEntry, outcome_of
from tokenrelay.v1 import generation_pb2

STREAMS = (keys.RETURNED, keys.JOBS)  # in the order in which they are read


class PendingName(NamedTuple):
    """An entry that is pending on a consumer: which of the two streams it is in, and its id there."""

    queue: str
    entry: str


class EntryState(Enum):
    """What has become of an entry that was read."""

    WAITING = auto()  # it may be claimed
    BEGUN = auto()  # it was claimed; it stays pending until the generation ends or is requeued with a new entry
    OBSOLETE = auto()  # its generation has ended, is gone, or has a newer entry


class PendingEntry(NamedTuple):
    """An entry that was read, with what has become of it.

    Attributes:
        fingerprint: that of the engine whose tokens a waiting generation has; None if it has none, so that any may begin it.
    """

    entry: QueueEntry
    state: EntryState
    fingerprint: str | None = None


class Queue:
    """Reads the queues, and looks after what was read and not claimed. Errors are those of RedisConnection.

    Args:
        connection: to Redis.
        scripts: runs the scripts there.
        retention_ms: how long a generation that ends here stays.
    """

    def __init__(self, connection: RedisConnection, scripts: Scripts, retention_ms: int) -> None:
        self._connection = connection
        self._scripts = scripts
        self._retention_ms = retention_ms
        self._forget = NamedScript.load("forget")
        self._requeue = NamedScript.load("requeue")
        self.shards = scripts.shards

    async def prepare(self, model: str) -> None:
        """Makes sure that a model's queues and their consumer groups exist.

        Raises:
            StoreFullError: they do not, and Redis is out of memory.
        """
        for shard in self.shards:
            for name in STREAMS:
                await self._connection.streams.ensure_group(keys.queue(name, model, shard), keys.GROUP)

    async def read(self, model: str, worker: str, count: int, shard: int, *, block: bool) -> list[QueueEntry]:
        """Reads waiting generations, requeued ones first; empty after about a second without any.

        What is read is pending on the worker until the generation ends, or is requeued.
        """
        streams = [keys.queue(name, model, shard) for name in STREAMS]
        try:
            found = await self._connection.streams.read_group(keys.GROUP, worker, streams, count, block=block)
        except NoSuchGroupError:
            await self.prepare(model)
            return []
        return [_queue_entry(STREAMS[streams.index(stream)], entry, fields) for stream, entry, fields in found]

    async def requeue(self, model: str, entries: Sequence[QueueEntry]) -> list[Outcome]:
        """Puts entries that were read but never claimed back to the front of the model's queue."""
        arguments = {"model": model, "retention_ms": self._retention_ms}
        nothing = {"fence": "", "died": "", "terminal": "", "letter": ""}
        items = [{"id": one.generation_id, "queue": one.queue, "entry": one.entry, **nothing} for one in entries]
        return [outcome_of(reply) for reply in await self._scripts.run_batch(self._requeue, arguments, items)]

    async def still_waits(self, entry: QueueEntry) -> bool:
        """Tells whether an entry that was read may still be claimed: it was not claimed, requeued or ended meanwhile."""
        key = keys.record(entry.generation_id, keys.shard_of_ours(entry.generation_id))
        state, name = await self._connection.fields(key, "state", "entry")
        return state == b"%d" % generation_pb2.GENERATION_STATE_QUEUED and name == entry.entry.encode()

    async def depth(self, model: str) -> Depth:
        """Returns how much waits for a model, over all shards."""
        generations = size = 0
        for shard in self.shards:
            fields = await self._connection.hash(keys.depth(model, shard))
            generations += int(fields.get(b"generations", 0))
            size += int(fields.get(b"bytes", 0))
        return Depth(generations, size)

    async def age(self, model: str) -> float:
        """Returns for how many seconds the oldest generation has waited that no worker has read yet."""
        oldest = 0.0
        for shard in self.shards:
            for name in STREAMS:
                entry = await self._connection.streams.first_unread(keys.queue(name, model, shard), keys.GROUP)
                if entry is not None:
                    added_ms = int(entry.partition("-")[0])
                    oldest = max(oldest, self._connection.clock.now() / 1e9 - added_ms / 1e3)
        return oldest

    async def pending(self, model: str, shard: int) -> dict[str, int]:
        """Returns how many entries are pending on each consumer of a model's queues, the claimed ones included."""
        counts: dict[str, int] = {}
        for name in STREAMS:
            for consumer, pending in await self._connection.streams.consumers(keys.queue(name, model, shard), keys.GROUP):
                counts[consumer] = counts.get(consumer, 0) + pending
        return counts

    async def pending_names(self, model: str, shard: int, consumer: str, idle_ms: int) -> list[PendingName]:
        """Returns the names of the entries that a consumer has read some time ago, the claimed ones included."""
        return [
            PendingName(name, entry)
            for name in STREAMS
            for entry in await self._connection.streams.pending(keys.queue(name, model, shard), keys.GROUP, consumer, idle_ms)
        ]

    async def look_up(self, model: str, shard: int, names: Sequence[PendingName]) -> list[PendingEntry]:
        """Returns what has become of entries that were read, without those whose content is gone."""
        entries: list[QueueEntry] = []
        for queue in STREAMS:
            wanted = [name.entry for name in names if name.queue == queue]
            found = await self._connection.streams.entries(keys.queue(queue, model, shard), wanted)
            entries += [_queue_entry(queue, entry, fields) for entry, fields in found]
        return [await self._state_of(entry) for entry in entries]

    async def _state_of(self, entry: QueueEntry) -> PendingEntry:
        key = keys.record(entry.generation_id, keys.shard_of_ours(entry.generation_id))
        state, name, last, fingerprint = await self._connection.fields(key, "state", "entry", "last", "fingerprint")
        if name != entry.entry.encode():
            return PendingEntry(entry, EntryState.OBSOLETE)
        if state == b"%d" % generation_pb2.GENERATION_STATE_RUNNING:
            return PendingEntry(entry, EntryState.BEGUN)
        if state != b"%d" % generation_pb2.GENERATION_STATE_QUEUED:
            return PendingEntry(entry, EntryState.OBSOLETE)
        has_tokens = last not in (None, b"0")
        return PendingEntry(entry, EntryState.WAITING, (fingerprint or b"").decode() if has_tokens else None)

    async def forget_consumer(self, model: str, shard: int, consumer: str) -> None:
        """Deletes a consumer on which no entry is pending."""
        await self._scripts.run(self._forget, shard, {"model": model, "consumer": consumer})


def _queue_entry(queue: str, entry: str, fields: Mapping[bytes, bytes]) -> QueueEntry:
    return QueueEntry(fields[b"id"].decode(), queue, entry, int(fields[b"n"]), int(fields.get(b"engine_deaths", 0)))
