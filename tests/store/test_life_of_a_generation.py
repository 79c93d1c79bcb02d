"""The scripts, one rule a test, on every Redis that the machine has."""

import asyncio
from dataclasses import replace

import pytest
import structlog

from tests.store.conftest import MODEL, SPEC, Bench, append_of, submission
from tests.support.waiting import eventually
from tokenrelay.errors import (
    GenerationNotFoundError,
    IdempotencyConflictError,
    QueueFullError,
    StoreFullError,
)
from tokenrelay.store import keys
from tokenrelay.store.assembly import assemble
from tokenrelay.store.redis import streams as streams_module
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import Claim, Depth, Outcome, Requeue, StoreLimits
from tokenrelay.v1 import generation_pb2


async def test_goes_from_queued_to_finished(bench: Bench) -> None:
    generation_id = await bench.submit()
    assert await bench.state(generation_id) == "QUEUED"
    assert (await bench.store.queue.depth(MODEL)).generations == 1

    claim = await bench.take()
    assert claim.record.generation_id == generation_id
    assert claim.record.spec == SPEC
    assert (claim.epoch, claim.record.epoch) == (1, 1)
    assert await bench.state(generation_id) == "RUNNING"
    assert await bench.store.queue.depth(MODEL) == Depth(0, 0)

    assert await bench.append(claim, 0, 1) is Outcome.OK
    assert await bench.append(claim, 1, 3) is Outcome.OK
    assert await bench.finish(claim, 3) is Outcome.OK

    assert await bench.state(generation_id) == "FINISHED"
    items = await bench.store.log.read(generation_id, 0)
    assert [item.sequence for item in items] == [1, 3, 3]
    assert items[-1].terminal is not None
    assert [item.sequence for item in await bench.store.log.read(generation_id, 1)] == [3, 3]
    assert [item.sequence for item in await bench.store.log.read(generation_id, 2)] == [3, 3], "the event that contains 3"
    assert [item.terminal is not None for item in await bench.store.log.read(generation_id, 3)] == [True]


async def test_leaves_nothing_behind_but_what_expires(bench: Bench) -> None:
    generation_id = await bench.submit(idempotency_key="k")
    claim = await bench.take()
    await bench.append(claim, 0, 1)
    await bench.finish(claim, 1)
    client = bench.client
    for name in (
        keys.record(generation_id, 0),
        keys.log(generation_id, 0),
        f"{keys.prefix(0)}idempotency:{keys.idempotency_hash('k', '')}",
    ):
        assert 0 < await client.pttl(name) <= 60_000, name
    for queue in (keys.JOBS, keys.RETURNED):
        stream = keys.queue(queue, MODEL, 0)
        assert await client.xlen(stream) == 0
        assert (await client.xpending(stream, keys.GROUP))["pending"] == 0
    assert await client.zcard(f"{keys.prefix(0)}due") == 0


async def test_nothing_expires_before_it_is_finished(bench: Bench) -> None:
    generation_id = await bench.submit(idempotency_key="k")
    client = bench.client
    claim = await bench.take()
    await bench.append(claim, 0, 1)
    assert await client.pttl(keys.record(generation_id, 0)) == -1
    assert await client.pttl(keys.log(generation_id, 0)) == -1


async def test_a_retried_submit_is_the_same_generation(bench: Bench) -> None:
    wanted = submission()
    first = await bench.store.generations.submit(wanted)
    again = await bench.store.generations.submit(wanted)
    assert first == again
    assert (await bench.store.queue.depth(MODEL)).generations == 1


async def test_an_idempotency_key_joins_the_same_request_and_refuses_another(bench: Bench) -> None:
    first = await bench.submit_whole(idempotency_key="k", request_hash="a")
    joined = await bench.submit_whole(idempotency_key="k", request_hash="a")
    assert (joined.generation_id, first.created, joined.created) == (first.generation_id, True, False)
    with pytest.raises(IdempotencyConflictError):
        await bench.submit(idempotency_key="k", request_hash="b")


async def test_the_queue_is_bounded_in_generations_and_in_bytes(bench: Bench) -> None:
    bounded = assemble(bench.store.connection, StoreLimits(queued_generations=2, queued_bytes=100)).generations
    await bounded.submit(submission())
    with pytest.raises(QueueFullError, match=r"1 of 2 generations, \d+ of 100 bytes"):
        await bounded.submit(submission(spec=b"x" * 100))
    await bounded.submit(submission())
    with pytest.raises(QueueFullError, match="2 of 2 generations") as caught:
        await bounded.submit(submission())
    assert caught.value.retry_after == 1.0
    await bench.take()
    await bounded.submit(submission())


async def test_nothing_is_accepted_above_the_memory_watermark_but_the_accepted_finishes(bench: Bench) -> None:
    generation_id = await bench.submit()
    client = bench.client
    used = (await client.info("memory"))["used_memory"]
    try:
        await client.config_set("maxmemory", used)
        with pytest.raises(StoreFullError, match=r"Redis uses \d+ of \d+ bytes; new work is accepted below 90%"):
            await bench.submit()
        claim = await bench.take()
        assert await bench.append(claim, 0, 1) is Outcome.OK
        assert await bench.store.attempts.renew([(generation_id, claim.fence)]) == [Outcome.OK]
        assert await bench.finish(claim, 1) is Outcome.OK
    finally:
        await client.config_set("maxmemory", 0)
    assert await bench.state(generation_id) == "FINISHED"


async def test_a_queue_that_is_there_needs_no_memory(bench: Bench) -> None:
    client = bench.client
    try:
        await client.config_set("maxmemory", 1)
        await bench.store.queue.prepare(MODEL)
    finally:
        await client.config_set("maxmemory", 0)


async def test_a_thousand_calls_share_a_few_connections(bench: Bench) -> None:
    client = bench.client
    await asyncio.gather(*(bench.store.connection.command("TIME") for _ in range(1000)))
    assert len(await client.client_list()) < 100


async def test_more_entries_than_a_page_are_pending_on_a_consumer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "PENDING_PAGE", 3)
    ids = [await bench.submit() for _ in range(8)]
    await bench.read("w1")
    names = await bench.store.queue.pending_names(MODEL, 0, "w1", 0)
    assert [one.entry.generation_id for one in await bench.store.queue.look_up(MODEL, 0, names)] == ids


async def test_only_one_of_many_claims_wins(bench: Bench) -> None:
    await bench.submit()
    (entry,) = await bench.read()
    claims = await asyncio.gather(*(bench.claim(entry, f"w{number}") for number in range(8)))
    assert len([claim for claim in claims if claim]) == 1


async def test_the_same_nonce_gets_the_same_fence_again(bench: Bench) -> None:
    await bench.submit()
    (entry,) = await bench.read()
    first, again = await bench.claim(entry, nonce="n"), await bench.claim(entry, nonce="n")
    assert first is not None
    assert again is not None
    assert (first.fence, first.epoch) == (again.fence, again.epoch) == ("1:n", 1)


async def test_append_refuses_gaps_and_overlaps_and_ignores_repeats(bench: Bench) -> None:
    generation_id = await bench.submit()
    claim = await bench.take()
    assert await bench.append(claim, 1, 2) is Outcome.GAP
    assert await bench.append(claim, 0, 2) is Outcome.OK
    assert await bench.append(claim, 0, 2) is Outcome.OK
    assert await bench.append(claim, 1, 3) is Outcome.GAP
    assert await bench.sequences(generation_id) == [2]


async def test_one_stale_item_does_not_fail_a_frame(bench: Bench) -> None:
    ids = [await bench.submit() for _ in range(3)]
    claims = [await bench.take() for _ in range(3)]
    entry = store_pb2.LogEntry(token_count=1).SerializeToString()
    fences = [claims[0].fence, "9:stale", claims[2].fence]
    frame = [append_of(generation_id, fence, 0, 1, entry) for generation_id, fence in zip(ids, fences, strict=True)]
    assert (await bench.store.attempts.write(frame)).appended == [Outcome.OK, Outcome.FENCED, Outcome.OK]


async def test_a_taken_over_worker_can_write_nothing(bench: Bench) -> None:
    generation_id = await bench.submit()
    old = await bench.take("w1")
    await bench.append(old, 0, 1)
    assert await bench.store.attempts.requeue(MODEL, [Requeue(generation_id, old.fence)]) == [Outcome.OK]
    assert await bench.append(old, 1, 2) is Outcome.FENCED
    new = await bench.take("w2")
    assert (new.epoch, new.record.last) == (2, 1)
    assert await bench.append(old, 1, 2) is Outcome.FENCED
    assert await bench.finish(old, 1) is Outcome.FENCED
    assert await bench.store.attempts.renew([(generation_id, old.fence)]) == [Outcome.FENCED]
    assert await bench.store.attempts.requeue(MODEL, [Requeue(generation_id, old.fence)]) == [Outcome.FENCED]
    assert await bench.append(new, 1, 2) is Outcome.OK
    assert [
        len(new.record.lost_attempts),
        new.record.lost_attempts[0].appended_us > new.record.lost_attempts[0].claimed_us,
    ] == [1, True]


async def test_finish_is_idempotent_and_final(bench: Bench) -> None:
    generation_id = await bench.submit()
    claim = await bench.take()
    await bench.append(claim, 0, 1)
    assert await bench.finish(claim, 2) is Outcome.GAP
    assert await bench.finish(claim, 1) is Outcome.OK
    assert await bench.finish(claim, 1) is Outcome.OK
    assert await bench.append(claim, 0, 1) is Outcome.OK, "what a lost reply makes a worker send again"
    assert await bench.append(claim, 1, 2) is Outcome.FENCED
    assert await bench.store.generations.cancel(generation_id) == generation_pb2.GENERATION_STATE_FINISHED
    assert await bench.sequences(generation_id) == [1, 1]


async def test_handed_back_ones_come_before_new_ones(bench: Bench) -> None:
    first = await bench.submit()
    claim = await bench.take()
    second = await bench.submit()
    await bench.store.attempts.requeue(MODEL, [Requeue(first, claim.fence)])
    assert [entry.generation_id for entry in await bench.read()] == [first, second]


async def test_an_unclaimed_entry_can_be_handed_back(bench: Bench) -> None:
    generation_id = await bench.submit()
    (entry,) = await bench.read("w1")
    assert await bench.store.queue.requeue(MODEL, [entry]) == [Outcome.OK]
    assert await bench.claim(entry, "w1") is None, "the old entry is worth nothing any more"
    assert (await bench.store.queue.depth(MODEL)).generations == 1
    claim = await bench.take("w2")
    assert (claim.record.generation_id, claim.epoch) == (generation_id, 1)


async def test_a_cancel_ends_a_waiting_generation_at_once(bench: Bench) -> None:
    generation_id = await bench.submit()
    assert await bench.store.generations.cancel(generation_id) == generation_pb2.GENERATION_STATE_CANCELLED
    assert await bench.state(generation_id) == "CANCELLED"
    assert (await bench.store.queue.depth(MODEL)).generations == 0
    assert await bench.read() == []
    (item,) = await bench.store.log.read(generation_id, 0)
    assert item.terminal is not None
    assert item.terminal.error.message == "the generation was cancelled"


async def test_a_cancel_of_a_running_one_reaches_its_owner(bench: Bench) -> None:
    generation_id = await bench.submit()
    claim = await bench.take("w1")
    messages = bench.store.connection.subscribe(keys.worker_channel("w1"))
    assert await anext(messages) is None
    assert await bench.store.generations.cancel(generation_id) == generation_pb2.GENERATION_STATE_RUNNING
    assert await anext(messages) == [generation_id.encode()]
    await messages.aclose()  # type: ignore[attr-defined]
    assert await bench.store.attempts.renew([(generation_id, claim.fence)]) == [Outcome.CANCEL]
    assert await bench.append(claim, 0, 1) is Outcome.CANCEL


async def test_the_last_watcher_s_leaving_cancels_by_policy(bench: Bench) -> None:
    cancel, detach = generation_pb2.DISCONNECT_POLICY_CANCEL, generation_pb2.DISCONNECT_POLICY_DETACH
    gone = await bench.submit(policy=cancel, gateway="g1", lease_ms=60_000)
    stays = await bench.submit(policy=detach, gateway="g1", lease_ms=60_000)
    shared = await bench.submit(policy=cancel, gateway="g1", lease_ms=60_000)
    await bench.store.generations.renew_readers("g2", 60_000, [shared])
    await bench.store.generations.renew_readers("g1", 0, [gone, stays, shared])
    assert [await bench.state(one) for one in (gone, stays, shared)] == ["CANCELLED", "QUEUED", "QUEUED"]


async def test_an_attach_within_the_grace_keeps_a_generation_alive(bench: Bench) -> None:
    policy = generation_pb2.DISCONNECT_POLICY_CANCEL_AFTER_GRACE
    generation_id = await bench.submit(policy=policy, grace_ms=50, gateway="g1", lease_ms=60_000)
    claim = await bench.take()
    await bench.store.generations.renew_readers("g1", 0, [generation_id])
    assert await bench.store.attempts.renew([(generation_id, claim.fence)]) == [Outcome.OK]
    await bench.store.generations.renew_readers("g2", 60_000, [generation_id])
    await asyncio.sleep(0.06)
    assert await bench.store.attempts.renew([(generation_id, claim.fence)]) == [Outcome.OK]
    await bench.store.generations.renew_readers("g2", 0, [generation_id])
    await until_unwanted(bench, claim)


async def test_a_dead_gateway_s_reader_lease_runs_out(bench: Bench) -> None:
    cancel = generation_pb2.DISCONNECT_POLICY_CANCEL
    await bench.reap()  # so that somebody is known to have been there before, and the lease counts
    generation_id = await bench.submit(policy=cancel, gateway="g1", lease_ms=300)
    assert (await bench.reap()).cancelled == 0
    await until_reaped(bench, "cancelled")
    assert await bench.state(generation_id) == "CANCELLED"


async def test_what_waits_too_long_expires_unstarted(bench: Bench) -> None:
    queue_timeout = await bench.submit(queue_timeout_ms=20)
    time_limit = await bench.submit(time_limit_ms=20)
    await asyncio.sleep(0.03)
    assert (await bench.reap()).expired == 2
    texts = [(await bench.store.log.read(one, 0))[0].terminal.error.message for one in (queue_timeout, time_limit)]  # type: ignore[union-attr]
    assert texts == [
        "queue_timeout passed before a worker took the generation",
        "the call's deadline or time_limit passed before the generation was finished",
    ]


async def test_every_end_in_the_queue_has_its_log_line(bench: Bench) -> None:
    with structlog.testing.capture_logs() as lines:
        by_cancel = await bench.submit()
        await bench.store.generations.cancel(by_cancel)
        by_leaving = await bench.submit(policy=generation_pb2.DISCONNECT_POLICY_CANCEL, gateway="g1", lease_ms=60_000)
        await bench.store.generations.renew_readers("g1", 0, [by_leaving])
        by_reap = await bench.submit(queue_timeout_ms=1)
        await until_reaped(bench, "expired")
        by_claim = await bench.submit(time_limit_ms=20)
        (entry,) = await bench.read()
        await asyncio.sleep(0.03)
        await bench.claim(entry)
        await bench.store.generations.cancel(by_claim)
    told = [(line["generation_id"], line["state"]) for line in lines if line["event"] == "generation ended"]
    assert told == [(by_cancel, "CANCELLED"), (by_leaving, "CANCELLED"), (by_reap, "EXPIRED"), (by_claim, "EXPIRED")]


async def test_an_overdue_one_is_not_claimed(bench: Bench) -> None:
    generation_id = await bench.submit(queue_timeout_ms=20)
    (entry,) = await bench.read()
    await asyncio.sleep(0.03)
    assert await bench.claim(entry) is None
    assert await bench.state(generation_id) == "EXPIRED"


async def test_reap_hands_back_what_a_dead_worker_held(bench: Bench) -> None:
    generation_id = await bench.submit()
    claim = await bench.take("w1")
    await bench.append(claim, 0, 1)
    await until_reaped(bench, "taken_over")
    assert await bench.state(generation_id) == "QUEUED"
    taken = await bench.take("w2")
    assert (taken.epoch, taken.record.last) == (2, 1)


async def until_reaped(bench: Bench, what: str) -> None:
    """Reaps as often as a process does, until it has done something."""

    async def done() -> bool:
        return bool(getattr(await bench.reap(), what))

    await eventually(done, f"reap counts as {what}")


async def test_a_cancel_holds_though_somebody_goes_on_watching(bench: Bench) -> None:
    policy = generation_pb2.DISCONNECT_POLICY_CANCEL_AFTER_GRACE
    generation_id = await bench.submit(policy=policy, grace_ms=60_000, gateway="g1", lease_ms=60_000)
    claim = await bench.take()
    await bench.store.generations.cancel(generation_id)
    await bench.store.generations.renew_readers("g1", 60_000, [generation_id])
    await bench.store.generations.renew_readers("g1", 0, [generation_id])
    assert await bench.store.attempts.renew([(generation_id, claim.fence)]) == [Outcome.CANCEL]
    await bench.store.attempts.requeue(MODEL, [Requeue(generation_id, claim.fence)])
    (entry,) = await bench.read("w2")
    assert await bench.claim(entry, "w2") is None, "a takeover does not bring it back"
    assert await bench.state(generation_id) == "CANCELLED"


async def test_a_cancelled_one_whose_worker_is_dead_ends_without_another(bench: Bench) -> None:
    generation_id = await bench.submit()
    await bench.take()
    await bench.store.generations.cancel(generation_id)
    await until_reaped(bench, "cancelled")
    assert await bench.state(generation_id) == "CANCELLED"


async def test_a_queue_timeout_ends_with_the_first_claim(bench: Bench) -> None:
    generation_id = await bench.submit(queue_timeout_ms=300)
    claim = await bench.take("w1")
    await asyncio.sleep(0.4)
    await bench.store.attempts.requeue(MODEL, [Requeue(generation_id, claim.fence)])
    assert (await bench.reap()).expired == 0
    assert (await bench.take("w2")).epoch == 2


async def test_nobody_s_silence_counts_while_redis_was_away(bench: Bench) -> None:
    cancel = generation_pb2.DISCONNECT_POLICY_CANCEL
    generation_id = await bench.submit(policy=cancel, gateway="g1", lease_ms=150)
    claim = await bench.take()
    await bench.reap()
    await asyncio.sleep(0.25)  # nobody has reaped, renewed or watched meanwhile: all were cut off
    assert await bench.append(claim, 0, 1) is Outcome.OK
    await bench.store.generations.renew_readers("g1", 150, [generation_id])
    assert (await bench.reap()).taken_over == 0
    assert await bench.store.attempts.renew([(generation_id, claim.fence)]) == [Outcome.OK]


async def test_the_time_of_grace_begins_anew_after_an_outage(bench: Bench) -> None:
    policy = generation_pb2.DISCONNECT_POLICY_CANCEL_AFTER_GRACE
    generation_id = await bench.submit(policy=policy, grace_ms=400, gateway="g1", lease_ms=60_000)
    claim = await bench.take()
    await bench.store.generations.renew_readers("g1", 0, [generation_id])
    await bench.reap()
    await asyncio.sleep(0.5)  # its reader could not come back: all were cut off
    assert await bench.append(claim, 0, 1) is Outcome.OK
    assert await bench.store.attempts.renew([(generation_id, claim.fence)]) == [Outcome.OK]
    await until_unwanted(bench, claim)


async def until_unwanted(bench: Bench, claim: Claim) -> None:
    async def unwanted() -> bool:
        await bench.reap()
        return await bench.store.attempts.renew([(claim.record.generation_id, claim.fence)]) == [Outcome.CANCEL]

    await eventually(unwanted, "the owner is told to cancel it")


async def test_a_gateway_that_stays_away_after_an_outage_is_dead(bench: Bench) -> None:
    generation_id = await bench.submit(policy=generation_pb2.DISCONNECT_POLICY_CANCEL, gateway="g1", lease_ms=50)
    await bench.reap()
    await asyncio.sleep(0.25)
    await until_reaped(bench, "cancelled")
    assert await bench.state(generation_id) == "CANCELLED"


async def test_a_late_renewal_succeeds_if_nobody_took_over(bench: Bench) -> None:
    generation_id = await bench.submit()
    claim = await bench.take()
    await asyncio.sleep(0.25)
    assert await bench.store.attempts.renew([(generation_id, claim.fence)]) == [Outcome.OK]
    assert (await bench.reap()).taken_over == 0


@pytest.mark.parametrize(("keep_ms", "dropped"), [(0, 10), (10_000, 0)], ids=["long ended", "just ended"])
async def test_the_oldest_finished_go_early_when_memory_is_short(bench: Bench, keep_ms: int, dropped: int) -> None:
    bench.store = replace(bench.store, limits=replace(bench.store.limits, keep_ms=keep_ms))
    ids = []
    for _ in range(15):
        ids.append(await bench.submit())
        claim = await bench.take()
        await bench.append(claim, 0, 1, "x" * 20_000)
        await bench.finish(claim, 1)
    client = bench.client
    used = (await client.info("memory"))["used_memory"]
    try:
        await client.config_set("maxmemory", round(used / 0.8) - 50_000)
        assert (await bench.reap()).dropped_early == dropped
    finally:
        await client.config_set("maxmemory", 0)
    if dropped:
        with pytest.raises(GenerationNotFoundError):
            await bench.store.generations.read_record(ids[0])
    assert await bench.state(ids[-1]) == "FINISHED"


@pytest.mark.parametrize(
    "name", ["", "x", "0-", "0-" + "g" * 32, "7-" + "0" * 32, "0-" + "0" * 32, "-1-" + "0" * 32, "0-" + "A" * 32]
)
async def test_unknown_and_malformed_ids_are_told_alike(bench: Bench, name: str) -> None:
    with pytest.raises(GenerationNotFoundError, match="there is no generation"):
        await bench.store.generations.read_record(name)
    with pytest.raises(GenerationNotFoundError, match="there is no generation"):
        await bench.store.generations.cancel(name)


async def test_a_vanished_group_is_made_again(bench: Bench) -> None:
    await bench.client.flushall()
    assert await bench.read() == []
    generation_id = await bench.submit()
    assert (await bench.take()).record.generation_id == generation_id
