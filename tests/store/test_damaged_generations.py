"""Generations whose record or log is not as we write them: their readers are told, and no other generation notices."""

from contextlib import suppress
from typing import Any

import pytest

from tests.store.conftest import MODEL, Bench, append_of
from tests.support.waiting import eventually
from tokenrelay.errors import DataLossError, GenerationNotFoundError
from tokenrelay.store import keys
from tokenrelay.store.feed import Feed
from tokenrelay.store.log import Extent
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import Claim, Finish, Outcome, Requeue
from tokenrelay.v1 import generation_pb2


async def delete_log(client: Any, name: str) -> None:
    await client.delete(keys.log(name, 0))


async def cut_front(client: Any, name: str) -> None:
    await client.xtrim(keys.log(name, 0), minid="2-0", approximate=False)


async def cut_middle(client: Any, name: str) -> None:
    await client.xdel(keys.log(name, 0), "2-0")


async def cut_end(client: Any, name: str) -> None:
    await client.xdel(keys.log(name, 0), "3-0", "3-1")


async def be_a_string(client: Any, name: str) -> None:
    await client.set(keys.log(name, 0), "foreign")


async def hold_garbage(client: Any, name: str) -> None:
    await client.delete(keys.log(name, 0))
    await client.xadd(keys.log(name, 0), {"e": b"\xff\xff\xff"}, id="3-0")


async def hold_other_fields(client: Any, name: str) -> None:
    await client.delete(keys.log(name, 0))
    await client.xadd(keys.log(name, 0), {"foo": "bar"}, id="3-0")


LOG_DAMAGES = (delete_log, cut_front, cut_middle, cut_end, be_a_string, hold_garbage, hold_other_fields)


async def three_tokens(bench: Bench) -> Claim:
    await bench.submit(gateway="g1", lease_ms=15_000)
    claim = await bench.take()
    for sequence in range(3):
        assert await bench.append(claim, sequence, sequence + 1) is Outcome.OK
    return claim


def feed_of(bench: Bench) -> Feed:
    store = bench.store
    return Feed(connection=store.connection, store=store.generations, token_log=store.log, gateway="g1", lease_ms=15_000)


@pytest.mark.parametrize("is_over", [True, False])
@pytest.mark.parametrize("damage", LOG_DAMAGES, ids=lambda one: one.__name__)
async def test_who_reads_a_damaged_log_is_told(bench: Bench, damage: Any, is_over: bool) -> None:
    claim = await three_tokens(bench)
    name = claim.record.generation_id
    if is_over:
        await bench.finish(claim, 3)
    await damage(bench.client, name)
    feed = feed_of(bench)
    follower = feed.follow(name, 0, from_log=True)
    await feed.join(follower, "", 5.0)
    with pytest.raises(DataLossError):
        await follower.next_items()
    with pytest.raises(DataLossError):
        await bench.store.log.read_whole(name, Extent(3, is_over))


@pytest.mark.parametrize("damage", [delete_log, be_a_string], ids=lambda one: one.__name__)
async def test_who_waits_for_an_end_that_was_lost_is_told(bench: Bench, damage: Any) -> None:
    claim = await three_tokens(bench)
    feed = feed_of(bench)
    follower = feed.follow(claim.record.generation_id, 3, from_log=False)
    follower.is_accepted = True
    await damage(bench.client, claim.record.generation_id)
    await bench.finish(claim, 3)
    await damage(bench.client, claim.record.generation_id)
    await feed.renew_once()
    with pytest.raises(DataLossError):
        await follower.next_items()


@pytest.mark.parametrize("damage", LOG_DAMAGES, ids=lambda one: one.__name__)
async def test_a_damaged_log_is_not_continued(bench: Bench, damage: Any) -> None:
    claim = await three_tokens(bench)
    name = claim.record.generation_id
    await bench.store.attempts.requeue(MODEL, [_requeue(claim)])
    await damage(bench.client, name)
    (entry,) = await bench.read("w2")
    again = await bench.claim(entry, "w2")
    if again is not None:  # the script looks at the log's end alone; the worker reads it all
        with pytest.raises(DataLossError):
            await bench.store.log.read_whole(name, Extent(again.record.last))
        return
    record = await bench.store.generations.read_record(name)
    assert record.state == generation_pb2.GENERATION_STATE_FAILED
    assert await bench.read("w2") == []


def _requeue(claim: Claim) -> Any:
    return Requeue(claim.record.generation_id, claim.fence)


async def record_is_a_string(client: Any, name: str) -> None:
    await client.set(keys.record(name, 0), "foreign")


def without(field: str) -> Any:
    async def damage(client: Any, name: str) -> None:
        await client.hdel(keys.record(name, 0), field)

    damage.__name__ = f"without_{field}"
    return damage


def with_garbage(field: str) -> Any:
    async def damage(client: Any, name: str) -> None:
        await client.hset(keys.record(name, 0), field, b"\xff\xfegarbage")

    damage.__name__ = f"garbage_in_{field}"
    return damage


NEEDED = ("state", "job", "last", "epoch", "model", "size", "queue", "entry", "n", "spec", "submitted_us")
NUMBERS = ("state", "job", "last", "epoch", "size", "spec", "submitted_us", "deadline", "engine_deaths", "history")
RECORD_DAMAGES = (record_is_a_string, *map(without, NEEDED), *map(with_garbage, NUMBERS))


@pytest.mark.parametrize("damage", RECORD_DAMAGES, ids=lambda one: one.__name__)
async def test_a_damaged_record_ends_nothing_but_its_generation(bench: Bench, damage: Any) -> None:
    name = await bench.submit(gateway="g1", lease_ms=15_000)
    await damage(bench.client, name)
    healthy = await bench.submit()
    claims = [await bench.claim(entry) for entry in await bench.read()]
    assert healthy in {claim.record.generation_id for claim in claims if claim is not None}
    await bench.store.generations.renew_readers("g1", 15_000, [name, healthy])
    await bench.client.zadd(f"{keys.prefix(0)}due", {name: 0})
    await bench.reap()
    for call in (bench.store.generations.read_record(name), bench.store.generations.cancel(name)):
        with suppress(DataLossError, GenerationNotFoundError):  # which of them depends on what has been noticed so far
            await call
    assert [entry for entry in await bench.read("w2") if entry.generation_id == name] == []


FRAME_DAMAGES = (record_is_a_string, without("last"), with_garbage("last"), be_a_string)


@pytest.mark.parametrize("damage", FRAME_DAMAGES, ids=lambda one: one.__name__)
async def test_one_damaged_generation_does_not_fail_a_frame(bench: Bench, damage: Any) -> None:
    names = [await bench.submit() for _ in range(3)]
    claims = [await bench.take() for _ in names]
    await damage(bench.client, names[1])
    entry = store_pb2.LogEntry(token_count=1).SerializeToString()
    appends = [append_of(claim.record.generation_id, claim.fence, 0, 1, entry) for claim in claims]
    written = await bench.store.attempts.write(appends)
    assert written.appended == [Outcome.OK, Outcome.FENCED, Outcome.OK]
    owned = [(claim.record.generation_id, claim.fence) for claim in claims]
    assert (await bench.store.attempts.renew(owned))[::2] == [Outcome.OK] * 2
    terminal = store_pb2.Terminal(state=generation_pb2.GENERATION_STATE_FINISHED)
    finishes = [Finish(claim.record.generation_id, claim.fence, 1, terminal) for claim in claims]
    assert (await bench.store.attempts.write([], finishes)).finished[::2] == [Outcome.OK] * 2


async def test_a_queued_generation_whose_entry_vanished_is_queued_again(bench: Bench) -> None:
    name = await bench.submit(gateway="g1", lease_ms=15_000)
    await bench.client.delete(keys.queue("jobs", MODEL, 0))
    await bench.store.queue.prepare(MODEL)
    assert await bench.read() == []
    await bench.store.generations.renew_readers("g1", 15_000, [name])
    assert [entry.generation_id for entry in await bench.read()] == [name]
    assert (await bench.store.queue.depth(MODEL)).generations == 1


async def test_a_damaged_generation_is_looked_at_once(bench: Bench) -> None:
    name = await bench.submit()
    await record_is_a_string(bench.client, name)
    await bench.client.zadd(f"{keys.prefix(0)}due", {name: 0})
    assert (await bench.reap()).looked_at == 1
    assert (await bench.reap()).looked_at == 0

    async def expires() -> bool:
        return bool(await bench.client.pttl(keys.record(name, 0)) > 0)

    await eventually(expires, "it does not stay for ever")
