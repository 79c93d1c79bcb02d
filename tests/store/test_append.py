"""What a frame's append publishes, and when it renews a lease."""

import pytest

from tests.store.conftest import Bench, append_of
from tests.support.redis_server import RedisServer
from tokenrelay.store import keys
from tokenrelay.store.assembly import assemble
from tokenrelay.store.follower import END_ONLY
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import Append, Claim, Outcome, StoreLimits

LONG = 60_000  # milliseconds
# Neighbours with the same reader and with another one, with several, with one that wants the end only, and with none.
READERS = [("g1",), ("g1",), ("g2",), (), ("g1", "g2"), ("g1" + END_ONLY,), ("g2", "g1" + END_ONLY), ("g2",), ("g1",)]


def first_token(claim: Claim) -> Append:
    entry = store_pb2.LogEntry(token_count=1, epoch=claim.epoch).SerializeToString()
    return append_of(claim.record.generation_id, claim.fence, 0, 1, entry)


async def test_each_gateway_gets_what_it_reads(bench: Bench, redis: RedisServer) -> None:
    names = [await bench.submit() for _ in READERS]
    for name, readers in zip(names, READERS, strict=True):
        for reader in readers:
            await bench.store.generations.renew_readers(reader, LONG, [name])
    claims = [await bench.take() for _ in names]
    client = redis.client()
    listening = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    listening.subscribe(*(keys.feed_channel(gateway) for gateway in ("g1", "g2")))
    assert [listening.get_message(timeout=5) for _ in range(2)] == [None, None]  # it takes two answers and keeps neither

    appends = [first_token(claim) for claim in claims]
    assert (await bench.store.attempts.write(appends)).appended == [Outcome.OK] * len(names)

    for _ in range(2):
        message = listening.get_message(timeout=5)
        assert message is not None
        told = {entry.generation_id: entry for entry in store_pb2.FeedFrame.FromString(message["data"]).entries}
        gateway = message["channel"].decode().removeprefix(keys.feed_channel(""))
        assert list(told) == [name for name, readers in zip(names, READERS, strict=True) if gateway in readers]
        for name, entry in told.items():
            (item,) = await bench.store.log.read(name, 0)
            assert (entry.sequence, store_pb2.LogEntry.FromString(entry.log_entry)) == (1, item.entry)
    assert listening.get_message(timeout=0) is None
    client.close()


@pytest.mark.parametrize(("left", "is_renewed"), [(0.9, False), (0.75, False), (0.6, True), (0.1, True), (-1.0, True)])
async def test_an_append_renews_a_lease_of_which_a_third_has_passed(bench: Bench, left: float, is_renewed: bool) -> None:
    name = await bench.submit()
    claim = await bench.take()
    assert await bench.append(claim, 0, 1) is Outcome.OK
    seconds, microseconds = await bench.client.time()
    stands = seconds * 1000 + microseconds // 1000 + round(LONG * left)
    await bench.client.hset(keys.record(name, 0), "lease", stands)
    owner = assemble(bench.store.connection, StoreLimits(lease_ms=LONG)).attempts
    entry = store_pb2.LogEntry(token_count=1, epoch=claim.epoch).SerializeToString()
    assert (await owner.write([append_of(name, claim.fence, 1, 2, entry)])).appended == [Outcome.OK]
    lease = int((await bench.client.hget(keys.record(name, 0), "lease")) or 0)
    assert (lease > stands) is is_renewed
    assert is_renewed or lease == stands
