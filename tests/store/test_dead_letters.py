"""What an engine's death counts for, and what becomes of a generation that an engine has died of twice."""

import asyncio

import pytest

from tests.store.conftest import MODEL, SPEC, Bench
from tests.store.test_life_of_a_generation import until_reaped
from tokenrelay.errors import GenerationNotFoundError, IdempotencyConflictError, QueueFullError
from tokenrelay.store import dead_letters, keys
from tokenrelay.store.assembly import assemble
from tokenrelay.store.dead_letters import DeadLetters
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import Claim, Outcome, Requeue, StoreLimits
from tokenrelay.store.worker_directory import WorkerDirectory
from tokenrelay.v1 import generation_pb2, model_service_pb2

FAILED = store_pb2.Terminal(state=generation_pb2.GENERATION_STATE_FAILED)


async def engine_died(bench: Bench, claim: Claim, *, alone: bool = True) -> Outcome:
    """What a worker says whose engine has died: for a suspect that ran alone with what becomes of it."""
    record, death = claim.record, Requeue(claim.record.generation_id, claim.fence, engine_died=True)
    if record.is_suspect and alone:
        letter = store_pb2.DeadLetter(generation_id=record.generation_id, job=record.job, spec=record.spec)
        death = death._replace(terminal=FAILED, letter=letter)
    (outcome,) = await bench.store.attempts.requeue(MODEL, [death])
    return outcome


async def engine_deaths(bench: Bench, generation_id: str) -> int:
    return (await bench.store.generations.read_record(generation_id)).engine_deaths


@pytest.fixture
async def letters(bench: Bench) -> DeadLetters:
    announcement = store_pb2.WorkerAnnouncement(worker_id="w1", model=model_service_pb2.Model(name=MODEL))
    await WorkerDirectory(bench.store.connection).announce(announcement)
    return DeadLetters(bench.store)


async def dead(bench: Bench) -> str:
    """A generation that has become a dead letter."""
    generation_id = await bench.submit()
    assert await engine_died(bench, await bench.take()) is Outcome.OK
    assert await engine_died(bench, await bench.take()) is Outcome.DEAD
    return generation_id


async def test_the_first_death_makes_a_suspect_and_the_second_a_dead_letter(bench: Bench, letters: DeadLetters) -> None:
    generation_id = await bench.submit()
    (entry,) = await bench.read()
    assert not entry.is_suspect
    claim = await bench.claim(entry)
    assert claim is not None
    assert await engine_died(bench, claim) is Outcome.OK
    assert await engine_deaths(bench, generation_id) == 1

    (entry,) = await bench.read()
    assert entry.is_suspect
    claim = await bench.claim(entry)
    assert claim is not None
    assert claim.record.is_suspect
    assert await engine_died(bench, claim) is Outcome.DEAD
    assert await bench.state(generation_id) == "FAILED"
    (item,) = await bench.store.log.read(generation_id, 0)
    assert item.terminal == FAILED
    (letter,) = await letters.all()
    assert (letter.generation_id, letter.content.spec, letter.model) == (generation_id, SPEC, MODEL)
    assert await bench.read() == [], "it is in no queue any more"
    assert (await bench.store.queue.depth(MODEL)).generations == 0


async def test_a_death_among_others_counts_and_is_no_verdict(bench: Bench) -> None:
    generation_id = await bench.submit()
    for deaths in (1, 2, 3):
        assert await engine_died(bench, await bench.take(), alone=False) is Outcome.OK
        assert await engine_deaths(bench, generation_id) == deaths
    (entry,) = await bench.read()
    assert entry.engine_deaths == 3
    claim = await bench.claim(entry)
    assert claim is not None
    assert await engine_died(bench, claim) is Outcome.DEAD


async def test_a_death_after_a_token_does_not_count(bench: Bench) -> None:
    generation_id = await bench.submit()
    for last in range(4):
        claim = await bench.take()
        assert await bench.append(claim, last, last + 1) is Outcome.OK
        assert await engine_died(bench, claim) is Outcome.OK
        assert await engine_deaths(bench, generation_id) == 0
    (entry,) = await bench.read()
    assert not entry.is_suspect


async def test_a_token_clears_a_suspect(bench: Bench) -> None:
    generation_id = await bench.submit()
    await engine_died(bench, await bench.take())
    claim = await bench.take()
    assert await bench.append(claim, 0, 1) is Outcome.OK
    assert await engine_deaths(bench, generation_id) == 0
    await engine_died(bench, claim)
    assert await engine_died(bench, await bench.take()) is Outcome.OK, "it is the first death in a row again"
    assert await engine_deaths(bench, generation_id) == 1


async def test_no_token_of_an_earlier_attempt_clears_a_later_one(bench: Bench) -> None:
    generation_id = await bench.submit()
    claim = await bench.take()
    await bench.append(claim, 0, 3)
    await engine_died(bench, claim)
    await engine_died(bench, await bench.take())
    assert await engine_deaths(bench, generation_id) == 1
    assert await engine_died(bench, await bench.take()) is Outcome.DEAD
    assert await bench.sequences(generation_id) == [3, 3], "the terminal record stands after the tokens"


async def test_a_death_that_is_told_twice_counts_once(bench: Bench) -> None:
    generation_id = await bench.submit()
    claim = await bench.take()
    assert await engine_died(bench, claim) is Outcome.OK
    assert await engine_died(bench, claim) is Outcome.FENCED
    assert await engine_deaths(bench, generation_id) == 1
    other = await bench.take("w2")
    assert await engine_died(bench, claim) is Outcome.FENCED, "not even when another worker has it"
    assert await engine_deaths(bench, generation_id) == 1
    assert await engine_died(bench, other) is Outcome.DEAD


async def test_a_dead_letter_that_is_told_twice_is_one(bench: Bench, letters: DeadLetters) -> None:
    generation_id = await bench.submit()
    await engine_died(bench, await bench.take())
    claim = await bench.take()
    assert [await engine_died(bench, claim) for _ in range(3)] == [Outcome.DEAD] * 3
    assert len(await letters.all()) == 1
    assert len(await bench.store.log.read(generation_id, 0)) == 1


async def test_one_that_failed_otherwise_is_no_dead_letter(bench: Bench, letters: DeadLetters) -> None:
    await bench.submit()
    claim = await bench.take()
    await bench.store.generations.cancel(claim.record.generation_id)
    await bench.finish(claim, 0)
    assert await engine_died(bench, claim) is Outcome.FENCED
    assert await letters.all() == []


async def test_a_lost_worker_counts_for_nothing_and_clears_nothing(bench: Bench) -> None:
    generation_id = await bench.submit()
    for _ in range(3):
        await bench.take()
        await until_reaped(bench, "taken_over")
    assert await engine_deaths(bench, generation_id) == 0
    await engine_died(bench, await bench.take())
    for _ in range(2):
        await bench.take()
        await until_reaped(bench, "taken_over")
        assert await engine_deaths(bench, generation_id) == 1
    (entry,) = await bench.read()
    assert entry.is_suspect, "a takeover leaves it a suspect"


async def test_a_suspect_stays_one_when_it_is_handed_back(bench: Bench) -> None:
    await bench.submit()
    await engine_died(bench, await bench.take())
    (entry,) = await bench.read("w1")
    assert await bench.store.queue.still_waits(entry)
    await bench.store.queue.requeue(MODEL, [entry])
    assert not await bench.store.queue.still_waits(entry), "another worker may have it now"
    (entry,) = await bench.read("w2")
    claim = await bench.claim(entry, "w2")
    assert claim is not None
    assert not await bench.store.queue.still_waits(entry), "it runs"
    await bench.store.attempts.requeue(MODEL, [Requeue(claim.record.generation_id, claim.fence)])
    await bench.read("w3")
    (pending,) = await bench.store.queue.look_up(MODEL, 0, await bench.store.queue.pending_names(MODEL, 0, "w3", 0))
    assert pending.entry.is_suspect


async def test_a_dead_letter_is_written_when_redis_is_full(bench: Bench, letters: DeadLetters) -> None:
    await bench.submit()
    await engine_died(bench, await bench.take())
    claim = await bench.take()
    client = bench.client
    try:
        await client.config_set("maxmemory", 1)
        assert await engine_died(bench, claim) is Outcome.DEAD
    finally:
        await client.config_set("maxmemory", 0)
    assert len(await letters.all()) == 1


async def test_dead_letters_outlive_their_generation(bench: Bench, letters: DeadLetters) -> None:
    generation_id = await dead(bench)
    client = bench.client
    await client.delete(keys.record(generation_id, 0), keys.log(generation_id, 0))
    assert await client.ttl(keys.dead(MODEL, 0)) == -1
    assert (await letters.find(generation_id)).content.spec == SPEC


async def test_letters_are_listed_by_model_and_age(bench: Bench, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "PAGE", 2)
    ids = [await dead(bench) for _ in range(5)]
    assert [letter.generation_id for letter in await letters.all()] == ids
    assert [letter.generation_id for letter in await letters.all(MODEL)] == ids
    assert await letters.all("other") == []


async def test_a_dropped_letter_is_gone(bench: Bench, letters: DeadLetters) -> None:
    kept, dropped = await dead(bench), await dead(bench)
    letter = await letters.find(dropped)
    await letters.drop(letter)
    await letters.drop(letter)
    with pytest.raises(GenerationNotFoundError, match=f"there is no dead letter of a generation '{dropped}'"):
        await letters.find(dropped)
    assert [letter.generation_id for letter in await letters.all()] == [kept]


@pytest.mark.parametrize("name", ["", "x", "7-" + "0" * 32, "0-" + "0" * 32])
async def test_what_is_no_letter_is_not_found(letters: DeadLetters, name: str) -> None:
    with pytest.raises(GenerationNotFoundError, match="there is no dead letter"):
        await letters.find(name)


async def test_a_requeued_letter_is_a_new_generation_that_begins_as_a_suspect(bench: Bench, letters: DeadLetters) -> None:
    old = await dead(bench)
    accepted = await letters.requeue(await letters.find(old))
    assert accepted.created
    assert accepted.generation_id != old
    assert await letters.all() == []
    (entry,) = await bench.read()
    assert (entry.generation_id, entry.is_suspect) == (accepted.generation_id, True)
    claim = await bench.claim(entry)
    assert claim is not None
    assert (claim.record.spec, claim.record.job.model, claim.epoch, claim.record.lost_attempts) == (SPEC, MODEL, 1, ())
    assert await engine_died(bench, claim) is Outcome.DEAD, "once more is enough"


async def test_a_requeue_that_broke_off_is_not_done_twice(
    bench: Bench, letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter = await letters.find(await dead(bench))

    async def break_off(_: object) -> None:
        raise asyncio.CancelledError

    with monkeypatch.context() as patched:
        patched.setattr(letters, "drop", break_off)
        with pytest.raises(asyncio.CancelledError):
            await letters.requeue(letter)
    (waiting,) = await bench.read()
    again = await letters.requeue(await letters.find(letter.generation_id))
    assert (again.generation_id, again.created) == (waiting.generation_id, False)
    assert await letters.all() == []
    assert await bench.read() == []


async def test_a_requeue_that_is_refused_keeps_the_letter(bench: Bench, letters: DeadLetters) -> None:
    letter = await letters.find(await dead(bench))
    full = DeadLetters(assemble(bench.store.connection, StoreLimits(queued_generations=0)))
    with pytest.raises(QueueFullError):
        await full.requeue(letter)
    taken = assemble(bench.store.connection, StoreLimits())
    other = f"dead-letter {letter.generation_id}"
    await bench.submit(idempotency_key=other, request_hash="another")
    with pytest.raises(IdempotencyConflictError):
        await DeadLetters(taken).requeue(letter)
    assert len(await letters.all()) == 1


async def test_a_history_tells_where_each_attempt_ended(bench: Bench) -> None:
    await bench.submit()
    first = await bench.take("w1")
    await bench.append(first, 0, 2)
    await bench.append(first, 2, 3)
    await bench.store.attempts.requeue(MODEL, [Requeue(first.record.generation_id, first.fence)])
    second = await bench.take("w2")
    await bench.store.attempts.requeue(MODEL, [Requeue(second.record.generation_id, second.fence)])
    lost = (await bench.take("w3")).record.lost_attempts
    assert [attempt.sequence for attempt in lost] == [3, 3]
    assert lost[0].claimed_us < lost[0].appended_us < lost[1].claimed_us == lost[1].appended_us


async def test_a_history_of_the_version_before_can_be_read(bench: Bench) -> None:
    generation_id = await bench.submit()
    claim = await bench.take("w1")
    await bench.append(claim, 0, 2)
    client = bench.client
    await client.hset(keys.record(generation_id, 0), "history", "10,11;20,21;")
    await bench.store.attempts.requeue(MODEL, [Requeue(generation_id, claim.fence)])
    lost = (await bench.take("w2")).record.lost_attempts
    assert [(attempt.claimed_us, attempt.appended_us, attempt.sequence) for attempt in lost[:2]] == [(10, 11, 0), (20, 21, 0)]
    assert lost[2].sequence == 2
    assert (await bench.store.generations.read_record(generation_id)).lost_attempts == lost
