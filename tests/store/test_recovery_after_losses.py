"""Who goes on with what a failover of Redis has set back, and with what is not counted any more."""

import pytest

from broker_worker import recovery
from tests.store.conftest import MODEL, Bench
from tests.store.test_recovery import Worker, announce, let_time_pass, read_long_ago
from tokenrelay.store import keys
from tokenrelay.store.values import Claim


async def test_an_entry_whose_claim_is_lost_after_it_was_seen_to_run_is_put_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "BEGUN_AGAIN", 0.0)
    await announce(bench, "w1")
    lost, _ = await bench.submit(), await bench.submit()
    entry, _ = await read_long_ago(bench, "w1")
    names = [keys.record(lost, 0), keys.depth(MODEL, 0)]
    before = [await bench.client.dump(name) for name in names]
    assert isinstance(await bench.claim(entry, "w1"), Claim)
    worker = Worker(bench, idle=False).recovery
    await worker.recover_once(MODEL, 0)
    for name, value in zip(names, before, strict=True):
        assert value is not None
        await bench.client.restore(name, 0, value, replace=True)
    await let_time_pass(bench, "w1", [entry])
    assert await worker.recover_once(MODEL, 0) == 1
    assert lost in {entry.generation_id for entry in await bench.read("w2", count=10)}


async def test_what_waits_uncounted_on_a_dead_worker_is_put_back(bench: Bench) -> None:
    generation_id = await bench.submit()
    await read_long_ago(bench, "w1")
    await bench.client.hset(keys.depth(MODEL, 0), "generations", "no number")
    assert await Worker(bench, idle=False).recovery.recover_once(MODEL, 0) == 1
    assert [entry.generation_id for entry in await bench.read("w2")] == [generation_id]


async def test_a_count_that_began_anew_is_right_once_all_has_begun(bench: Bench) -> None:
    for _ in range(3):
        await bench.submit()
    await bench.client.hset(keys.depth(MODEL, 0), mapping={"generations": "no number", "bytes": "no number"})
    for _ in range(3):
        await bench.take()
    await bench.submit()
    depth = await bench.store.queue.depth(MODEL)
    assert depth.generations == 1
    assert depth.bytes > 0
