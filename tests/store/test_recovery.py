"""Who takes over what another worker has read and not begun."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from broker_worker.recovery import Recovery
from tests.store.conftest import MODEL, Bench
from tests.support.waiting import eventually
from tokenrelay.store import keys
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import Claim, QueueEntry
from tokenrelay.store.worker_directory import WorkerDirectory
from tokenrelay.v1 import model_service_pb2


@dataclass
class Worker:
    """One that has room, and perhaps nothing at all to do."""

    bench: Bench
    idle: bool
    fingerprint: str = "f1"
    name: str = "w2"
    has_room: bool = True
    adopted: list[QueueEntry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.recovery = Recovery(
            worker_id=self.name,
            queue=self.bench.store.queue,
            directory=WorkerDirectory(self.bench.store.connection),
            fingerprint=self.fingerprint,
            knows=lambda _: False,
            has_room=lambda: self.has_room,
            is_idle=lambda: self.idle,
            adopt=self.adopted.extend,
        )


async def announce(bench: Bench, worker: str, fingerprint: str = "") -> None:
    model = model_service_pb2.Model(name=MODEL, fingerprint=fingerprint)
    announcement = store_pb2.WorkerAnnouncement(worker_id=worker, model=model)
    await WorkerDirectory(bench.store.connection).announce(announcement)


async def let_time_pass(bench: Bench, worker: str, entries: Sequence[QueueEntry]) -> None:
    client = bench.client
    for entry in entries:
        stream = keys.queue(entry.queue, MODEL, 0)
        await client.xclaim(stream, keys.GROUP, worker, 0, [entry.entry], idle=60_000, justid=True)


async def read_long_ago(bench: Bench, worker: str) -> list[QueueEntry]:
    """Has a worker read everything, some time ago."""
    entries = await bench.read(worker, count=100)
    await let_time_pass(bench, worker, entries)
    return entries


async def begun_elsewhere(bench: Bench) -> QueueEntry:
    """Returns the entry of a generation that has tokens of an engine with fingerprint f1, and that w1 has read since."""
    await bench.submit()
    claim = await bench.take("w0")
    await bench.append(claim, 0, 3)

    async def requeued() -> bool:
        return (await bench.reap()).taken_over == 1

    await eventually(requeued, "the lease has run out")
    (entry,) = await read_long_ago(bench, "w1")
    return entry


async def test_suspects_are_left_to_live_workers_and_the_others_put_back(bench: Bench) -> None:
    await announce(bench, "w1")
    ordinary, _ = await bench.submit(), await bench.submit(suspect=True)
    await read_long_ago(bench, "w1")
    for idle in (False, True):
        await Worker(bench, idle).recovery.recover_once(MODEL, 0)
    assert [entry.generation_id for entry in await bench.read("w2")] == [ordinary]


async def test_an_idle_worker_takes_suspects_from_live_ones_and_one_of_both_gets_them(bench: Bench) -> None:
    await announce(bench, "w1")
    suspects = [await bench.submit(suspect=True) for _ in range(2)]
    await bench.submit()
    entries = await read_long_ago(bench, "w1")
    running = await bench.claim(entries[0], "w1")
    assert running is not None
    busy, idle = Worker(bench, idle=False), Worker(bench, idle=True)
    assert await busy.recovery.adopt_once(MODEL) == 0
    assert await idle.recovery.adopt_once(MODEL) == 1, "neither what runs nor what is no suspect"
    assert (idle.adopted, busy.adopted) == ([entries[1]], [])
    assert entries[1].generation_id == suspects[1]
    claim = await bench.claim(idle.adopted[0], "w2")
    assert isinstance(claim, Claim)
    assert await bench.claim(entries[1], "w1") is None
    assert not await bench.store.queue.still_waits(entries[1]), "so the busy one forgets it"


async def test_a_suspect_of_a_dead_worker_is_put_back(bench: Bench) -> None:
    suspect = await bench.submit(suspect=True)
    await bench.read("w1")
    busy = Worker(bench, idle=False).recovery

    async def recovered() -> bool:
        return await busy.recover_once(MODEL, 0) == 1

    await eventually(recovered, "what is pending on a dead worker is recovered")
    assert [(entry.generation_id, entry.is_suspect) for entry in await bench.read("w2")] == [(suspect, True)]


@pytest.mark.parametrize(("fingerprint", "is_adopted"), [("f1", True), ("f2", False)])
async def test_what_has_tokens_goes_to_an_engine_like_the_one_they_came_from(
    bench: Bench, fingerprint: str, is_adopted: bool
) -> None:
    await announce(bench, "w1")
    entry = await begun_elsewhere(bench)
    worker = Worker(bench, idle=False, fingerprint=fingerprint)
    assert await worker.recovery.recover_once(MODEL, 0) == is_adopted
    assert worker.adopted == ([entry] if is_adopted else [])
    assert await bench.store.queue.still_waits(entry), "it is where it was, so that whoever claims first has it"


async def test_what_runs_is_looked_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await announce(bench, "w1")
    for _ in range(30):
        await bench.submit()
    entries = await read_long_ago(bench, "w1")
    for entry in entries:
        assert isinstance(await bench.claim(entry, "w1"), Claim)
    waiting = await bench.submit(suspect=True)  # so that each look is worth its while
    await read_long_ago(bench, "w1")
    streams = bench.store.connection.streams
    asked: list[str] = []
    read = streams.entries

    async def counted(stream: str, ids: Sequence[str]) -> Any:
        asked.extend(ids)
        return await read(stream, ids)

    monkeypatch.setattr(streams, "entries", counted)
    recovery = Worker(bench, idle=False).recovery
    for _ in range(5):
        assert await recovery.recover_once(MODEL, 0) == 0
    assert len(asked) == 30 + 5, "those that run once, the one that waits each time"
    assert (await bench.store.generations.read_record(waiting)).is_suspect


async def test_an_entry_of_what_is_gone_is_cleaned_up_with_its_dead_worker(bench: Bench) -> None:
    generation_id = await bench.submit()
    await read_long_ago(bench, "w1")
    await bench.submit()
    await bench.client.delete(keys.record(generation_id, 0))
    recovery = Worker(bench, idle=False).recovery

    async def forgotten() -> bool:
        await recovery.recover_once(MODEL, 0)
        return await bench.store.queue.pending(MODEL, 0) == {}

    await eventually(forgotten, "nothing is left of it")
