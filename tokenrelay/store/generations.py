"""Generations in Redis: accept, watch, claim, append, finish, hand back, cancel, reap. One method a script.

Every method may be called again with the same arguments after an unknown outcome.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import structlog

from tokenrelay.errors import GenerationNotFoundError, IdempotencyConflictError, QueueFullError, StoreFullError
from tokenrelay.store import keys, terminals
from tokenrelay.store.records import Record, as_mapping
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.redis.errors import NoSuchGroupError
from tokenrelay.store.redis.scripts import Reply, Script, ScriptCall
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import (
    Accepted,
    Addition,
    Claim,
    Depth,
    Ending,
    HandBack,
    LogItem,
    Outcome,
    QueueEntry,
    Reaped,
    Standing,
    StoreLimits,
    Submission,
    Written,
)
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)

PAGE = 512  # log entries read at a time

Item = tuple[str, Sequence[Any]]  # a generation's id and its part of a script's arguments
Read = TypeVar("Read")


REAPED = len(Reaped._fields)


class GenerationStore:
    """The scripts as typed calls. Errors are those of RedisConnection unless a method names others."""

    def __init__(self, connection: RedisConnection, limits: StoreLimits, shards: int = 1) -> None:
        self.connection = connection
        self.limits = limits
        self.shards = range(shards)
        self._scripts = {
            name: Script.load(name)
            for name in ("submit", "watch", "claim", "renew", "append", "finish", "release", "cancel", "reap", "forget")
        }
        self._cancelled = terminals.cancelled().SerializeToString()
        self._past_deadline = terminals.past_deadline().SerializeToString()
        self._past_queue_timeout = terminals.past_queue_timeout().SerializeToString()

    async def submit(self, submission: Submission, gateway: str, watch_ms: int, patience: float | None = None) -> Accepted:
        """Accepts a generation, watched by a gateway if watch_ms is not 0.

        Raises:
            IdempotencyConflictError: the key stands for another request.
            QueueFullError: the model's queue has reached a bound.
            StoreFullError: Redis is above its watermark.
        """
        limits, job = self.limits, submission.job.SerializeToString()
        idempotency = keys.idempotency_hash(submission.idempotency_key) if submission.idempotency_key else ""
        status, *details = await self.connection.run(
            self._scripts["submit"],
            keys.prefix(_shard(submission.generation_id)),
            *(submission.generation_id, submission.job.model, submission.job.n),
            *(job, submission.spec, len(job) + len(submission.spec)),
            *(submission.request_hash, idempotency, submission.queue_timeout_ms, submission.time_limit_ms),
            *(submission.policy, submission.grace_ms, gateway if watch_ms else "", watch_ms),
            *(limits.queued_generations, limits.queued_bytes, limits.accept_below, 1 if submission.suspect else ""),
            patience=patience,
        )
        if status in (b"CREATED", b"JOINED"):
            return Accepted(details[0].decode(), status == b"CREATED")
        if status == b"CONFLICT":
            raise IdempotencyConflictError("idempotency_key: it belongs to another request")
        if status == b"FULL":
            raise _queue_full(details[0], details[1], limits)
        raise StoreFullError(
            f"Redis uses {details[0]} of {details[1]} bytes; new work is accepted below {limits.accept_below:.0%}",
            retry_after=5.0,
        )

    async def watch(
        self, gateway: str, watch_ms: int, ids: Sequence[str], patience: float | None = None
    ) -> list[Standing | None]:
        """Sets a gateway's watch on generations, or takes it away with watch_ms 0; None for what is gone."""
        standings: list[Standing | None] = await self._per_shard(
            "watch",
            (gateway, watch_ms, self.limits.retention_ms, self._cancelled),
            [(generation_id, (generation_id,)) for generation_id in ids],
            lambda reply: None if reply == b"GONE" else Standing(*reply),
            patience,
        )
        for generation_id, standing in zip(ids, standings, strict=True):
            if standing is not None and standing.ended_here:
                _tell_end(generation_id, standing.state)
        return standings

    async def claim(
        self, model: str, fingerprint: str, worker: str, wanted: Sequence[tuple[QueueEntry, str]]
    ) -> list[Claim | None]:
        """Makes a worker the owner of read entries, each with a nonce; None for what it may not have."""
        limits = self.limits
        replies = await self._per_shard(
            "claim",
            (
                *(model, fingerprint, worker, limits.lease_ms, limits.retention_ms),
                *(self._cancelled, self._past_deadline, self._past_queue_timeout),
            ),
            [(entry.generation_id, (entry.generation_id, nonce, entry.queue, entry.entry)) for entry, nonce in wanted],
            lambda reply: reply,
        )
        for (entry, _), reply in zip(wanted, replies, strict=True):
            if reply[0] == b"OVER" and reply[1]:
                _tell_end(entry.generation_id, reply[1])
        return [
            Claim(reply[1].decode(), reply[2], Record.parse(entry.generation_id, as_mapping(reply[3])))
            if reply[0] == b"CLAIMED"
            else None
            for (entry, _), reply in zip(wanted, replies, strict=True)
        ]

    async def write(self, additions: Sequence[Addition], endings: Sequence[Ending] = ()) -> Written:
        """Appends a frame, then ends owned generations, over one round trip."""
        if not additions and not endings:
            return Written([], [], 0)
        appends = self._batches("append", (self.limits.lease_ms,), _addition_items(additions))
        finishes = self._batches("finish", (self.limits.retention_ms,), _ending_items(endings))
        replies = await self.connection.run_together([batch.call for batch in (*appends, *finishes)])
        return Written(
            _in_order(appends, replies[: len(appends)], len(additions), _outcome),
            _in_order(finishes, replies[len(appends) :], len(endings), _outcome),
            replies[-1].at_us,
        )

    async def renew(self, owned: Sequence[tuple[str, str]]) -> list[Outcome]:
        """Renews the leases on generations, each with its fence."""
        return await self._per_shard("renew", (self.limits.lease_ms,), _owned_items(owned), _outcome)

    def renewals(self, owned: Sequence[tuple[str, str]]) -> list[ScriptCall]:
        """Returns what renew would run, for a thread that runs it by itself."""
        return [batch.call for batch in self._batches("renew", (self.limits.lease_ms,), _owned_items(owned))]

    async def release(self, model: str, owned: Sequence[HandBack]) -> list[Outcome]:
        """Hands owned generations back to the front of the model's queue; DEAD for one that became a dead letter instead."""
        return await self._hand_back(model, [(one.generation_id, _hand_back_arguments(one)) for one in owned])

    async def return_unclaimed(self, model: str, entries: Sequence[QueueEntry]) -> list[Outcome]:
        """Hands entries that were read but never claimed back to the front of the model's queue."""
        return await self._hand_back(
            model,
            [(one.generation_id, (one.generation_id, "", one.queue, one.entry, "", "", "")) for one in entries],
        )

    async def _hand_back(self, model: str, items: Sequence[Item]) -> list[Outcome]:
        return await self._per_shard("release", (model, self.limits.retention_ms), items, _outcome)

    async def cancel(self, generation_id: str, patience: float | None = None) -> generation_pb2.GenerationState.ValueType:
        """Cancels a generation and returns where it stands; RUNNING means that its owner was told.

        Raises:
            GenerationNotFoundError: there is none, or no longer.
        """
        state, ended_here = await self.connection.run(
            self._scripts["cancel"],
            keys.prefix(self.shard(generation_id)),
            *(generation_id, self.limits.retention_ms, self._cancelled),
            patience=patience,
        )
        if state == 0:
            raise not_found(generation_id)
        if ended_here:
            _tell_end(generation_id, state)
        return generation_pb2.GenerationState.ValueType(state)

    async def reap(self, shard: int, limit: int = 200) -> Reaped:
        """Decides what time has decided in a shard."""
        limits = self.limits
        reply = await self.connection.run(
            self._scripts["reap"],
            keys.prefix(shard),
            *(limit, limits.lease_ms, limits.retention_ms),
            *(self._cancelled, self._past_deadline, self._past_queue_timeout, limits.drop_above, limits.keep_ms),
        )
        counts, ended = reply[:REAPED], reply[REAPED:]
        for generation_id, state in zip(ended[::2], ended[1::2], strict=True):
            _tell_end(generation_id.decode(), state)
        return Reaped(*counts)

    async def read_record(self, generation_id: str, patience: float | None = None) -> Record:
        """Raises GenerationNotFoundError if there is none, or no longer."""
        fields = await self.connection.hash(keys.record(generation_id, self.shard(generation_id)), patience)
        if not fields:
            raise not_found(generation_id)
        return Record.parse(generation_id, fields)

    async def read_log(self, generation_id: str, after: int) -> list[LogItem]:
        """Reads a page of a token log after a sequence, the terminal record included. Shorter than PAGE: there is no more."""
        key = keys.log(generation_id, self.shard(generation_id))
        found = await self.connection.streams.range(key, f"{after}-0", PAGE)
        return [_log_item(entry, fields) for entry, fields in found]

    async def read_whole_log(self, generation_id: str) -> list[LogItem]:
        """Reads a token log as far as it goes."""
        items: list[LogItem] = []
        while True:
            page = await self.read_log(generation_id, items[-1].sequence if items else 0)
            items += page
            if len(page) < PAGE:
                return items

    async def logs_ahead(self, positions: Mapping[str, int]) -> set[str]:
        """Returns the ids of the generations whose logs have more than a sequence."""
        by_log = {keys.log(name, self.shard(name)): (name, position) for name, position in positions.items()}
        ahead: set[str] = set()
        for shard in self.shards:
            prefix = keys.prefix(shard)
            streams = {key: f"{position}-0" for key, (_, position) in by_log.items() if key.startswith(prefix)}
            if streams:
                ahead |= {by_log[key][0] for key in await self.connection.streams.newer(streams)}
        return ahead

    async def depth(self, model: str) -> Depth:
        """Returns how much waits for a model, over all shards."""
        generations = size = 0
        for shard in self.shards:
            fields = await self.connection.hash(keys.depth(model, shard))
            generations += int(fields.get(b"generations", 0))
            size += int(fields.get(b"bytes", 0))
        return Depth(generations, size)

    async def queue_age(self, model: str) -> float:
        """Returns for how many seconds the oldest generation has waited that no worker has read yet."""
        oldest = 0.0
        for shard in self.shards:
            for name in (keys.RETURNED, keys.JOBS):
                entry = await self.connection.streams.first_unread(keys.queue(name, model, shard), keys.GROUP)
                if entry is not None:
                    added_ms = int(entry.partition("-")[0])
                    oldest = max(oldest, self.connection.clock.now() / 1e9 - added_ms / 1e3)
        return oldest

    async def prepare_queues(self, model: str) -> None:
        """Makes sure that a model's queues and their consumer groups exist."""
        for shard in self.shards:
            for name in (keys.RETURNED, keys.JOBS):
                await self.connection.streams.ensure_group(keys.queue(name, model, shard), keys.GROUP)

    async def read_queue(self, model: str, worker: str, count: int, shard: int, *, block: bool) -> list[QueueEntry]:
        """Reads waiting generations, handed-back ones first; empty after about a second without any."""
        streams = [keys.queue(name, model, shard) for name in (keys.RETURNED, keys.JOBS)]
        try:
            found = await self.connection.streams.read_group(keys.GROUP, worker, streams, count, block=block)
        except NoSuchGroupError:
            await self.prepare_queues(model)
            return []
        return [
            _queue_entry(keys.RETURNED if stream == streams[0] else keys.JOBS, entry, fields) for stream, entry, fields in found
        ]

    async def still_waits(self, entry: QueueEntry) -> bool:
        """Tells whether an entry that was read may still be claimed: it was not claimed, handed on or ended meanwhile."""
        key = keys.record(entry.generation_id, _shard(entry.generation_id))
        state, name = await self.connection.fields(key, "state", "entry")
        return state == b"%d" % generation_pb2.GENERATION_STATE_QUEUED and name == entry.entry.encode()

    async def hanging(self, model: str, shard: int) -> dict[str, int]:
        """Returns the consumers of a model's queues, each with how many entries hang on it, the claimed ones included."""
        counts: dict[str, int] = {}
        for name in (keys.RETURNED, keys.JOBS):
            for consumer, pending in await self.connection.streams.consumers(keys.queue(name, model, shard), keys.GROUP):
                counts[consumer] = counts.get(consumer, 0) + pending
        return counts

    async def hanging_entries(self, model: str, shard: int, consumer: str, idle_ms: int) -> list[QueueEntry]:
        """Returns entries that a consumer has read some time ago, the claimed ones included."""
        entries = []
        for name in (keys.RETURNED, keys.JOBS):
            stream = keys.queue(name, model, shard)
            found = await self.connection.streams.pending(stream, keys.GROUP, consumer, idle_ms)
            entries += [_queue_entry(name, entry, fields) for entry, fields in found]
        return entries

    async def forget_consumer(self, model: str, shard: int, consumer: str) -> None:
        """Deletes a consumer on which no entry hangs."""
        await self.connection.run(self._scripts["forget"], keys.prefix(shard), model, consumer)

    def shard(self, generation_id: str) -> int:
        """Returns the shard of an id from outside.

        Raises:
            GenerationNotFoundError: it is no id of ours.
        """
        shard = keys.shard_of(generation_id)
        if shard is None or shard not in self.shards:
            raise not_found(generation_id)
        return shard

    async def _per_shard(
        self,
        script: str,
        shared: Sequence[Any],
        items: Sequence[Item],
        read: Callable[[Any], Read],
        patience: float | None = None,
    ) -> list[Read]:
        """Runs a batch script once per shard and returns the replies in the items' order."""
        batches = self._batches(script, shared, items)
        replies = await self.connection.run_together([batch.call for batch in batches], patience)
        return _in_order(batches, replies, len(items), read)

    def _batches(self, script: str, shared: Sequence[Any], items: Sequence[Item]) -> list["_Batch"]:
        by_shard: dict[int, list[int]] = {}
        for position, (generation_id, _) in enumerate(items):
            by_shard.setdefault(_shard(generation_id), []).append(position)
        return [
            _Batch(
                (
                    self._scripts[script],
                    keys.prefix(shard),
                    [*shared, *chain.from_iterable(items[position][1] for position in positions)],
                ),
                positions,
            )
            for shard, positions in by_shard.items()
        ]


class _Batch(NamedTuple):
    """A script call on one shard, and which items it is about."""

    call: ScriptCall
    positions: list[int]


def _in_order(batches: Sequence[_Batch], replies: Sequence[Reply], count: int, read: Callable[[Any], Read]) -> list[Read]:
    by_position = {
        position: read(one)
        for batch, reply in zip(batches, replies, strict=True)
        for position, one in zip(batch.positions, reply.items, strict=True)
    }
    return [by_position[position] for position in range(count)]


def _tell_end(generation_id: str, state: int) -> None:
    """Writes the log line of a generation that ended in the queue; what runs is told of by its worker."""
    name = generation_pb2.GenerationState.Name(generation_pb2.GenerationState.ValueType(state))
    log.warning("generation ended", generation_id=generation_id, state=name.removeprefix("GENERATION_STATE_"), unstarted=True)


def _queue_entry(queue: str, entry: str, fields: Mapping[bytes, bytes]) -> QueueEntry:
    return QueueEntry(fields[b"id"].decode(), queue, entry, int(fields[b"n"]), int(fields.get(b"engine_deaths", 0)))


def _owned_items(owned: Sequence[tuple[str, str]]) -> list[Item]:
    return [(generation_id, (generation_id, fence)) for generation_id, fence in owned]


def _addition_items(additions: Sequence[Addition]) -> list[Item]:
    return [(addition.generation_id, addition) for addition in additions]


def _hand_back_arguments(one: HandBack) -> Sequence[Any]:
    terminal, letter = (part.SerializeToString() if part else "" for part in (one.terminal, one.letter))
    return (one.generation_id, one.fence, "", "", 1 if one.engine_died else "", terminal, letter)


def _ending_items(endings: Sequence[Ending]) -> list[Item]:
    return [
        (ending.generation_id, (*ending[:3], ending.terminal.state, ending.terminal.SerializeToString())) for ending in endings
    ]


def not_found(generation_id: str) -> GenerationNotFoundError:
    """Returns the error for an unknown and for an expired id alike."""
    return GenerationNotFoundError(f"generation_id: there is no generation {generation_id[:64]!r}, or no longer")


def _shard(generation_id: str) -> int:
    """Returns the shard of an id that is known to be ours."""
    return int(generation_id.partition("-")[0])


OUTCOMES = {outcome.encode(): outcome for outcome in Outcome}


def _outcome(reply: bytes) -> Outcome:
    return OUTCOMES[reply]


def _queue_full(generations: int, size: int, limits: StoreLimits) -> QueueFullError:
    return QueueFullError(
        f"the model's queue is full: {generations} of {limits.queued_generations} generations, "
        f"{size} of {limits.queued_bytes} bytes",
        retry_after=1.0,
    )


def _log_item(entry_id: str, fields: Mapping[bytes, bytes]) -> LogItem:
    sequence = int(entry_id.partition("-")[0])
    if b"t" in fields:
        return LogItem(sequence, None, store_pb2.Terminal.FromString(fields[b"t"]), int(fields[b"at"]))
    return LogItem(sequence, store_pb2.LogEntry.FromString(fields[b"e"]))
