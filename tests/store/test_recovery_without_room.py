"""What a worker with a backlog takes over all the same: what its holder cannot go on with, and its own engine can."""

import pytest

from tests.store.conftest import MODEL, Bench
from tests.store.test_recovery import Worker, announce, begun_elsewhere, read_long_ago
from tokenrelay.store.values import Claim, Outcome, QueueEntry, Requeue


async def suspect_begun_elsewhere(bench: Bench) -> QueueEntry:
    """Returns the same as begun_elsewhere, but the engine of its second attempt has died of it."""
    claim = await bench.claim(await begun_elsewhere(bench), "w1")
    assert isinstance(claim, Claim)
    requeue = Requeue(claim.record.generation_id, claim.fence, engine_died=True)
    assert await bench.store.attempts.requeue(MODEL, [requeue]) == [Outcome.OK]
    (entry,) = await read_long_ago(bench, "w1")
    assert entry.is_suspect
    return entry


@pytest.mark.parametrize(("holder", "is_adopted"), [("f2", True), ("f1", False)])
async def test_a_worker_without_room_takes_what_its_holder_cannot_go_on_with(
    bench: Bench, holder: str, is_adopted: bool
) -> None:
    entry = await begun_elsewhere(bench)
    await bench.submit()
    await bench.read("w1")  # what any engine may begin is left to who has room
    await announce(bench, "w1", holder)
    full = Worker(bench, idle=False, has_room=False)
    assert await full.recovery.recover_once(MODEL, 0) == is_adopted
    assert full.adopted == ([entry] if is_adopted else [])
    assert await bench.store.queue.still_waits(entry)


async def test_one_of_the_busy_workers_takes_a_suspect_that_its_holder_cannot_go_on_with(bench: Bench) -> None:
    entry = await suspect_begun_elsewhere(bench)
    for name, fingerprint in (("w1", "f2"), ("w2", "f1"), ("w3", "f1")):
        await announce(bench, name, fingerprint)
    workers = [Worker(bench, idle=False, name=name, has_room=False) for name in ("w2", "w3")]
    for worker in workers:
        await worker.recovery.recover_once(MODEL, 0)
    assert [worker.adopted for worker in workers] == [[entry], []]
