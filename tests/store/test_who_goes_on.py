"""Who goes on with what runs: an engine of another kind, an owner past the deadline, a full Redis, readers that leave."""

import asyncio
from typing import Any

import pytest

from tests.store.conftest import MODEL, Bench
from tests.store.test_life_of_a_generation import until_reaped
from tokenrelay.store.feed import RENEWED_TOGETHER, Feed
from tokenrelay.store.scripting import NamedScript
from tokenrelay.store.values import Claim, Elsewhere, Outcome, Requeue
from tokenrelay.v1 import generation_pb2


async def begun(bench: Bench) -> str:
    """A requeued generation with a token of an engine with fingerprint f1."""
    generation_id = await bench.submit()
    claim = await bench.take("w1")
    await bench.append(claim, 0, 1)
    await bench.store.attempts.requeue(MODEL, [Requeue(generation_id, claim.fence)])
    return generation_id


@pytest.mark.parametrize(("served", "kind"), [({"f1", "f2"}, Elsewhere), ({"f2"}, Claim), (set(), Claim)])
async def test_what_an_engine_began_is_left_to_its_kind_while_that_is_served(bench: Bench, served: Any, kind: Any) -> None:
    generation_id = await begun(bench)
    (entry,) = await bench.read("w2")
    (claim,) = await bench.store.attempts.claim(MODEL, "f2", "w2", [(entry, "n")], served)
    assert isinstance(claim, kind)
    if kind is Elsewhere:
        assert claim == Elsewhere("f1")
        assert await bench.store.queue.still_waits(entry), "its entry stays where it is"
        (other,) = await bench.store.attempts.claim(MODEL, "f1", "w1", [(entry, "m")], served)
        assert isinstance(other, Claim)
        assert other.record.generation_id == generation_id


async def test_what_has_no_token_is_begun_by_any_engine(bench: Bench) -> None:
    await bench.submit()
    (entry,) = await bench.read("w2")
    (claim,) = await bench.store.attempts.claim(MODEL, "f2", "w2", [(entry, "n")], {"f1"})
    assert isinstance(claim, Claim)


async def test_an_owner_that_goes_on_past_the_deadline_is_told_and_then_fenced_off(bench: Bench) -> None:
    generation_id = await bench.submit(time_limit_ms=150)
    claim = await bench.take()
    owned = [(generation_id, claim.fence)]
    told: list[Outcome] = []

    async def go_on() -> None:
        while Outcome.FENCED not in told:
            told.extend(await bench.store.attempts.renew(owned))
            await asyncio.sleep(0.02)

    going_on = asyncio.create_task(go_on())
    await until_reaped(bench, "expired")
    await asyncio.wait_for(going_on, 10)
    assert Outcome.EXPIRED in told
    assert await bench.state(generation_id) == "EXPIRED"


@pytest.mark.parametrize(
    "name", ["cancel", "claim", "discard", "finish", "forget", "reap", "renew", "requeue", "remove", "set_aside"]
)
async def test_every_script_but_submit_may_write_when_redis_is_full(name: str) -> None:
    assert "allow_out_of_memory()" in NamedScript.load(name).script.source.split("-- Arguments: ")[1]


async def test_a_dead_consumer_is_forgotten_when_redis_is_full_and_when_there_is_none(bench: Bench) -> None:
    await bench.submit()
    claim = await bench.take("dead")
    await bench.finish(claim, 0)
    try:
        await bench.client.config_set("maxmemory", 1)
        await bench.store.queue.forget_consumer(MODEL, 0, "dead")
    finally:
        await bench.client.config_set("maxmemory", 0)
    assert await bench.store.queue.pending(MODEL, 0) == {}
    await bench.client.flushall()
    await bench.store.queue.forget_consumer(MODEL, 0, "dead")


def feed_of(bench: Bench, store: Any = None) -> Feed:
    of = bench.store
    return Feed(connection=of.connection, store=store or of.generations, token_log=of.log, gateway="g1", lease_ms=15_000)


class Watched:
    """A gateway's store whose renewals wait for a word; notes what was asked, in order."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, int]] = []
        self.may_go_on = asyncio.Event()
        self.is_asked = asyncio.Event()

    async def renew_readers(self, reader: str, lease_ms: int, ids: list[str], patience: float | None = None) -> list[Any]:
        self.is_asked.set()
        await self.may_go_on.wait()
        self.asked.append((reader, lease_ms, len(ids)))
        return [None for _ in ids]

    async def leave(self, reader: str, generation_id: str) -> None:
        self.asked.append((reader, 0, 1))


async def test_a_renewal_under_way_does_not_undo_a_leave(bench: Bench) -> None:
    store = Watched()
    feed = feed_of(bench, store)
    follower = feed.follow("0-" + "1" * 32, 0, from_log=False)
    follower.is_accepted = True
    renewing = asyncio.create_task(feed.renew_once())
    await store.is_asked.wait()
    assert feed.unfollow(follower)
    leaving = asyncio.create_task(feed.leave(follower))
    await asyncio.sleep(0)
    store.may_go_on.set()
    await asyncio.gather(renewing, leaving)
    assert store.asked == [("g1", 15_000, 1), ("g1", 0, 1)]


async def test_who_left_before_its_part_is_renewed_is_not_renewed(bench: Bench) -> None:
    store = Watched()
    feed = feed_of(bench, store)
    first = feed.follow("0-" + "1" * 32, 0, from_log=False)
    second = feed.follow("0-" + "2" * 32, 0, from_log=False, end_only=True)
    first.is_accepted = second.is_accepted = True
    renewing = asyncio.create_task(feed.renew_once())
    await store.is_asked.wait()
    feed.unfollow(second)
    store.may_go_on.set()
    await renewing
    assert store.asked == [("g1", 15_000, 1)], "the second's reader has another name and comes later"


async def test_reader_leases_are_renewed_in_parts(bench: Bench) -> None:
    store = Watched()
    store.may_go_on.set()
    feed = feed_of(bench, store)
    for number in range(2 * RENEWED_TOGETHER + 1):
        feed.follow(f"0-{number:032x}", 0, from_log=False).is_accepted = True
    await feed.renew_once()
    assert [count for _, _, count in store.asked] == [RENEWED_TOGETHER, RENEWED_TOGETHER, 1]


async def test_an_entry_that_vanished_is_found_by_its_readers(bench: Bench) -> None:
    policy = generation_pb2.DISCONNECT_POLICY_CANCEL
    generation_id = await bench.submit(gateway="g1", lease_ms=15_000, policy=policy)
    (entry,) = await bench.read()
    await bench.client.xdel("tokenrelay:{0}:jobs:" + MODEL, entry.entry)
    await bench.store.generations.renew_readers("g1", 15_000, [generation_id])
    assert [one.generation_id for one in await bench.read()] == [generation_id]
