"""A store on a real Redis, and a worker's and a gateway's part as short calls."""

from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from tokenrelay.metrics import ReaperMetrics
from tokenrelay.store import keys
from tokenrelay.store.assembly import Store, assemble
from tokenrelay.store.reaper import Reaper
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import Accepted, Append, Claim, Finish, Outcome, QueueEntry, Reaped, StoreLimits, Submission
from tokenrelay.v1 import generation_pb2

MODEL = "demo"
SPEC = generation_pb2.GenerationSpec(model=MODEL).SerializeToString()


def submission(**changes: object) -> Submission:
    values: dict[str, object] = {
        "generation_id": keys.new_generation_id(0),
        "job": store_pb2.Job(model=MODEL, n=1),
        "spec": SPEC,
        "request_hash": "h",
        "idempotency_key": "",
        "queue_timeout_ms": None,
        "time_limit_ms": None,
        "policy": generation_pb2.DISCONNECT_POLICY_DETACH,
        "grace_ms": 0,
    }
    return Submission(**{**values, **changes})  # type: ignore[arg-type]


def append_of(generation_id: str, fence: str, before: int, after: int, entry: bytes) -> Append:
    """Returns what appends a log entry."""
    feed = store_pb2.FeedEntry(generation_id=generation_id, sequence=after, log_entry=entry)
    serialized = store_pb2.FeedFrame(entries=[feed]).SerializeToString()
    return Append(generation_id, fence, before, after, serialized, len(entry))


@dataclass
class Bench:
    """The store, with what a gateway and a worker do to it as one call each."""

    store: Store
    client: Redis  # another client of the same server
    nonces: int = field(default=0)

    async def submit(self, *, gateway: str | None = None, lease_ms: int = 0, **changes: object) -> str:
        return (await self.submit_whole(gateway=gateway, lease_ms=lease_ms, **changes)).generation_id

    async def submit_whole(self, *, gateway: str | None = None, lease_ms: int = 0, **changes: object) -> Accepted:
        return await self.store.generations.submit(submission(**changes), reader=gateway, lease_ms=lease_ms)

    async def read(self, worker: str = "w1", count: int = 10) -> list[QueueEntry]:
        return await self.store.queue.read(MODEL, worker, count, 0, block=False)

    async def claim(self, entry: QueueEntry, worker: str = "w1", nonce: str | None = None) -> Claim | None:
        self.nonces += 1
        (claim,) = await self.store.attempts.claim(MODEL, "f1", worker, [(entry, nonce or f"n{self.nonces}")])
        return claim if isinstance(claim, Claim) else None

    async def take(self, worker: str = "w1") -> Claim:
        (entry,) = await self.read(worker, 1)
        claim = await self.claim(entry, worker)
        assert claim is not None
        return claim

    async def append(self, claim: Claim, before: int, after: int, text: str = "x") -> Outcome:
        delta = generation_pb2.Delta(text=text, token_ids=range(before, after)).SerializeToString()
        entry = store_pb2.LogEntry(delta=delta, token_count=after - before, epoch=claim.epoch).SerializeToString()
        written = await self.store.attempts.write([append_of(claim.record.generation_id, claim.fence, before, after, entry)])
        return written.appended[0]

    async def finish(self, claim: Claim, last: int) -> Outcome:
        terminal = store_pb2.Terminal(state=generation_pb2.GENERATION_STATE_FINISHED, exact=True)
        written = await self.store.attempts.write([], [Finish(claim.record.generation_id, claim.fence, last, terminal)])
        return written.finished[0]

    async def reap(self, shard: int = 0) -> Reaped:
        return await Reaper(self.store.scripts, self.store.limits, ReaperMetrics(CollectorRegistry())).reap_once(shard)

    async def state(self, generation_id: str) -> str:
        record = await self.store.generations.read_record(generation_id)
        return generation_pb2.GenerationState.Name(record.state).removeprefix("GENERATION_STATE_")

    async def sequences(self, generation_id: str, after: int = 0) -> list[int]:
        return [item.sequence for item in await self.store.log.read(generation_id, after)]


@pytest.fixture
async def bench(connection: RedisConnection, client: Redis) -> Bench:
    store = assemble(connection, StoreLimits(lease_ms=200, retention_ms=60_000))
    await store.queue.prepare(MODEL)
    return Bench(store, client)
