"""Somebody else's generation is answered as none is, by every script that takes an id."""

import pytest

from tests.store.conftest import MODEL, Bench
from tokenrelay.errors import GenerationNotFoundError
from tokenrelay.store import keys
from tokenrelay.store.generations import Generations
from tokenrelay.store.v1 import store_pb2
from tokenrelay.v1 import generation_pb2

OURS, OTHERS = "acme", "globex"
JOB = store_pb2.Job(model=MODEL, n=1, tenant=OURS, key_id="k" * 12)


@pytest.fixture
def generations(bench: Bench) -> Generations:
    return bench.store.generations


@pytest.fixture(params=["queued", "running", "cancelled"])
async def generation(bench: Bench, request: pytest.FixtureRequest) -> str:
    generation_id = await bench.submit(job=JOB)
    if request.param == "running":
        await bench.take()
    if request.param == "cancelled":
        await bench.store.generations.cancel(generation_id, tenant=OURS)
    return generation_id


def text(caught: pytest.ExceptionInfo[GenerationNotFoundError], generation_id: str) -> str:
    return caught.value.message.replace(generation_id, "<id>")


@pytest.mark.parametrize("tenant", [OTHERS, ""])
async def test_a_foreign_generation_is_no_generation(generations: Generations, generation: str, tenant: str) -> None:
    unknown = keys.new_generation_id(0)
    for call in (generations.read_record, generations.cancel):
        with pytest.raises(GenerationNotFoundError) as foreign:
            await call(generation, tenant=tenant)
        with pytest.raises(GenerationNotFoundError) as none:
            await call(unknown, tenant=tenant)
        assert text(foreign, generation) == text(none, unknown)
    assert await generations.renew_readers("g1", 1000, [generation, unknown], tenant=tenant) == [None, None]


async def test_nothing_of_a_refused_call_stays(bench: Bench, generations: Generations, generation: str) -> None:
    before = await bench.client.hgetall(keys.record(generation, 0))
    with pytest.raises(GenerationNotFoundError):
        await generations.cancel(generation, tenant=OTHERS)
    await generations.renew_readers("g1", 1000, [generation], tenant=OTHERS)
    assert await bench.client.hgetall(keys.record(generation, 0)) == before


async def test_the_owner_has_it(generations: Generations, generation: str) -> None:
    record = await generations.read_record(generation, tenant=OURS)
    assert (record.job.tenant, record.job.key_id) == (OURS, "k" * 12)
    assert await generations.renew_readers("g1", 1000, [generation], tenant=OURS) != [None]
    assert await generations.cancel(generation, tenant=OURS) != generation_pb2.GENERATION_STATE_UNSPECIFIED


async def test_one_idempotency_key_is_another_for_each_tenant(bench: Bench) -> None:
    first = await bench.submit_whole(job=JOB, idempotency_key="order-1")
    other = store_pb2.Job(model=MODEL, n=1, tenant=OTHERS)
    second = await bench.submit_whole(job=other, idempotency_key="order-1")
    nobodys = await bench.submit_whole(idempotency_key="order-1")
    assert first.created
    assert second.created
    assert nobodys.created
    joined = await bench.submit_whole(job=JOB, idempotency_key="order-1")
    assert (joined.generation_id, joined.created) == (first.generation_id, False)
