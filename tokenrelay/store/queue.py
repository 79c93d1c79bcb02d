"""The queues of waiting generations: one a model and shard, as a stream of new and one of requeued entries."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto
from functools import partial
from typing import NamedTuple

import structlog

from tokenrelay.store import keys
from tokenrelay.store.foreign import BROKEN, SharedKeys
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.redis.errors import NoSuchGroupError, UnexpectedReplyError
from tokenrelay.store.scripting import NamedScript, Scripts
from tokenrelay.store.values import DAMAGED, Depth, Outcome, QueueEntry, outcome_of
from tokenrelay.v1 import generation_pb2

STREAMS = (keys.RETURNED, keys.JOBS)  # in the order in which they are read

log = structlog.get_logger(__name__)


class PendingName(NamedTuple):
    """Which entry of a model's queues: in JOBS or RETURNED, and its id there."""

    queue: str
    entry: str


class EntryState(Enum):
    """What has become of an entry that was read."""

    WAITING = auto()  # it may be claimed
    BEGUN = auto()  # its generation was claimed by it and runs
    OBSOLETE = auto()  # its generation has another entry by now, has ended, or is gone


STATES = {
    b"%d" % generation_pb2.GENERATION_STATE_QUEUED: EntryState.WAITING,
    b"%d" % generation_pb2.GENERATION_STATE_RUNNING: EntryState.BEGUN,
}


class PendingEntry(NamedTuple):
    """An entry that was read, and what has become of it.

    Attributes:
        fingerprint: of the engine that its tokens come from; None if it has none yet.
    """

    entry: QueueEntry
    state: EntryState
    fingerprint: str | None


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
        self._shared = SharedKeys(connection)
        self._remove = NamedScript.load("remove")
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

    async def read(
        self, model: str, worker: str, count: int, shard: int, *, block: bool, look: bool = True
    ) -> list[QueueEntry]:
        """Reads waiting generations, requeued ones first; empty after about a second without any.

        What is read is pending on the worker until the generation ends, or is requeued. Without a look, which is for queues
        that were empty a moment ago, up to `count` new ones may come beside as many requeued ones.
        """
        streams = _streams(model, shard)
        try:
            found = await self._shared.read(
                keys.prefix(shard),
                dict.fromkeys(streams, "stream"),
                lambda: self._connection.streams.read_group(keys.GROUP, worker, list(streams), count, block=block, look=look),
            )
        except NoSuchGroupError:
            await self.prepare(model)
            return []
        return await self._parsed(model, shard, ((streams[stream], entry, fields) for stream, entry, fields in found or []))

    async def _parsed(
        self, model: str, shard: int, found: Iterable[tuple[str, str, Mapping[bytes, bytes]]]
    ) -> list[QueueEntry]:
        """Returns the entries that were found, and takes those out of the queue that are none of ours."""
        entries = []
        for queue, name, fields in found:
            try:
                entries.append(_queue_entry(queue, name, fields))
            except BROKEN as error:
                log.error("a foreign entry is removed", queue=keys.queue(queue, model, shard), entry=name, reason=repr(error))  # noqa: TRY400
                await self._scripts.run(self._remove, shard, {"queue": queue, "model": model, "entry": name})
        return entries

    async def requeue(self, model: str, entries: Sequence[QueueEntry]) -> list[Outcome]:
        """Puts entries that were read but never claimed back to the front of the model's queue."""
        arguments = {"model": model, "retention_ms": self._retention_ms}
        nothing = {"fence": "", "died": "", "terminal": "", "letter": ""}
        items = [{"id": one.generation_id, "queue": one.queue, "entry": one.entry, **nothing} for one in entries]
        replies = await self._scripts.run_batch(self._requeue, arguments, items)
        for one, reply in zip(entries, replies, strict=True):
            if reply == DAMAGED:  # or it would be found again and again
                shard = keys.shard_of_ours(one.generation_id)
                await self._scripts.run(self._remove, shard, {"queue": one.queue, "model": model, "entry": one.entry})
        return [outcome_of(reply, one.generation_id) for one, reply in zip(entries, replies, strict=True)]

    async def still_waits(self, entry: QueueEntry) -> bool:
        """Tells whether an entry that was read may still be claimed: it was not claimed, requeued or ended meanwhile."""
        return (await self._state_of(entry)).state is EntryState.WAITING

    async def depth(self, model: str) -> Depth:
        """Returns how much waits for a model, over all shards."""
        generations = size = 0
        for shard in self.shards:
            key = keys.depth(model, shard)
            fields = await self._shared.read(keys.prefix(shard), {key: "hash"}, partial(self._connection.hash, key)) or {}
            generations += self._count(key, b"generations", fields)
            size += self._count(key, b"bytes", fields)
        return Depth(generations, size)

    def _count(self, key: str, name: bytes, fields: Mapping[bytes, bytes]) -> int:
        try:
            return max(0, int(fields.get(name, 0)))
        except ValueError as error:
            self._shared.report_once(key, name, error)  # the next change counts anew
            return 0

    async def age(self, model: str) -> float:
        """Returns for how many seconds the oldest generation has waited that no worker has read yet."""
        oldest = 0.0
        for shard in self.shards:
            for name in STREAMS:
                key = keys.queue(name, model, shard)
                entry = await self._shared.read(
                    keys.prefix(shard), {key: "stream"}, partial(self._connection.streams.first_unread, key, keys.GROUP)
                )
                if entry is not None:
                    added_ms = int(entry.partition("-")[0])
                    oldest = max(oldest, self._connection.clock.now() / 1e9 - added_ms / 1e3)
        return oldest

    async def pending(self, model: str, shard: int) -> dict[str, int]:
        """Returns how many entries are pending on each consumer of a model's queues, the claimed ones included."""
        counts: dict[str, int] = {}
        for name in STREAMS:
            key = keys.queue(name, model, shard)
            read = partial(self._connection.streams.consumers, key, keys.GROUP)
            for consumer, pending in await self._shared.read(keys.prefix(shard), {key: "stream"}, read) or []:
                counts[consumer] = counts.get(consumer, 0) + pending
        return counts

    async def pending_names(self, model: str, shard: int, consumer: str, idle_ms: int) -> list[PendingName]:
        """Returns the names of the entries that a consumer has read some time ago, the claimed ones included."""
        names = []
        for stream, name in _streams(model, shard).items():
            read = partial(self._connection.streams.pending, stream, keys.GROUP, consumer, idle_ms)
            found = await self._shared.read(keys.prefix(shard), {stream: "stream"}, read) or []
            names += [PendingName(name, entry) for entry in found]
        return names

    async def _entries(self, model: str, shard: int, names: Sequence[PendingName]) -> list[QueueEntry]:
        found = []
        for stream, queue in _streams(model, shard).items():
            ids = [name.entry for name in names if name.queue == queue]
            found += [(queue, *one) for one in await self._connection.streams.entries(stream, ids)]
        return await self._parsed(model, shard, found)

    async def look_up(self, model: str, shard: int, names: Sequence[PendingName]) -> list[PendingEntry]:
        """Returns entries with what has become of them, without those that are gone."""
        entries = await self._entries(model, shard, names)
        return list(await asyncio.gather(*(self._state_of(entry) for entry in entries)))

    async def _state_of(self, entry: QueueEntry) -> PendingEntry:
        key = keys.record(entry.generation_id, keys.shard_of_ours(entry.generation_id))
        try:
            state, name, last, fingerprint = await self._connection.fields(key, "state", "entry", "last", "fingerprint")
        except UnexpectedReplyError:
            state = name = last = fingerprint = None  # what is there is no record; requeueing takes the entry out
        asked = fingerprint.decode() if fingerprint and last not in (None, b"0") else None
        found = STATES.get(state or b"", EntryState.OBSOLETE) if name == entry.entry.encode() else EntryState.OBSOLETE
        return PendingEntry(entry, found, asked)

    async def forget_consumer(self, model: str, shard: int, consumer: str) -> None:
        """Deletes a consumer on which no entry is pending."""
        await self._scripts.run(self._forget, shard, {"model": model, "consumer": consumer})


def _streams(model: str, shard: int) -> dict[str, str]:
    """Returns the names of a queue's two streams by their keys."""
    return {keys.queue(name, model, shard): name for name in STREAMS}


def _queue_entry(queue: str, entry: str, fields: Mapping[bytes, bytes]) -> QueueEntry:
    """Raises one of BROKEN if it is none of ours."""
    generation_id = fields[b"id"].decode()
    if keys.shard_of(generation_id) is None:
        raise ValueError("its id is none of ours")
    return QueueEntry(generation_id, queue, entry, int(fields[b"n"]), int(fields.get(b"engine_deaths", 0)))
