"""Who takes over a suspect that another worker has read and not begun."""

from dataclasses import dataclass, field

from broker_worker.recovery import Recovery
from tests.store.conftest import MODEL, Bench
from tests.support.waiting import eventually
from tokenrelay.store import keys
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import QueueEntry
from tokenrelay.store.worker_directory import WorkerDirectory
from tokenrelay.v1 import model_service_pb2


@dataclass
class Worker:
    """One that has room, and perhaps nothing at all to do."""

    bench: Bench
    idle: bool
    adopted: list[QueueEntry] = field(default_factory=list)

    @property
    def recovery(self) -> Recovery:
        registry = WorkerDirectory(self.bench.store.connection)
        return Recovery(
            "w2", self.bench.store.queue, registry, lambda _: False, lambda: True, lambda: self.idle, self.adopted.extend
        )


async def announce(bench: Bench, worker: str) -> None:
    announcement = store_pb2.WorkerAnnouncement(worker_id=worker, model=model_service_pb2.Model(name=MODEL))
    await WorkerDirectory(bench.store.connection).announce(announcement)


async def read_long_ago(bench: Bench, worker: str) -> list[QueueEntry]:
    """Has a worker read everything, some time ago."""
    client, entries = bench.client, await bench.read(worker)
    for entry in entries:
        stream = keys.queue(entry.queue, MODEL, 0)
        await client.xclaim(stream, keys.GROUP, worker, 0, [entry.entry], idle=60_000, justid=True)
    return entries


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
    assert claim is not None
    assert await bench.claim(entries[1], "w1") is None
    assert not await bench.store.queue.still_waits(entries[1]), "so the busy one forgets it"


async def test_a_suspect_of_a_dead_worker_is_put_back(bench: Bench) -> None:
    suspect = await bench.submit(suspect=True)
    await bench.read("w1")
    busy = Worker(bench, idle=False).recovery

    async def recovered() -> bool:
        return await busy.recover_once(MODEL, 0) == 1

    await eventually(recovered, "what hangs on a dead worker is recovered")
    assert [(entry.generation_id, entry.is_suspect) for entry in await bench.read("w2")] == [(suspect, True)]
