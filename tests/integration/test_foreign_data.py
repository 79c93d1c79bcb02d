"""Foreign and broken data at every key and channel that a process reads: no process ends, and work goes on around it.

The table is that of tokenrelay/store/keys.py. Each row damages one key while a gateway, a worker and an engine serve, then asks
for a new generation, which must be whole; and every application must still run.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from tests.integration.conftest import Served, spec
from tests.integration.test_calls import read
from tests.support.waiting import eventually
from tokenrelay.store import keys
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s

MODEL = "simulated-test"
NOBODY = "0-" + "0" * 32
GARBAGE = b"\xff\xfe\x00garbage"
PREFIX = keys.prefix(0)

Damage = Callable[[Redis], Awaitable[Any]]


def be_a_string(key: str) -> Damage:
    async def damage(client: Redis) -> None:
        await client.set(key, GARBAGE)

    return damage


def be_a_list(key: str) -> Damage:
    async def damage(client: Redis) -> None:
        await client.delete(key)
        await client.rpush(key, GARBAGE)

    return damage


def with_field(key: str, field: str | bytes, value: bytes) -> Damage:
    return lambda client: client.hset(key, field, value)


def with_entry(key: str, fields: dict[Any, Any]) -> Damage:
    return lambda client: client.xadd(key, fields)


def with_member(key: str, member: bytes) -> Damage:
    return lambda client: client.zadd(key, {member: 1})


def published(channel: str, message: bytes) -> Damage:
    return lambda client: client.publish(channel, message)


JOBS, RETURNED = (keys.queue(name, MODEL, 0) for name in (keys.JOBS, keys.RETURNED))
DEAD, DEPTH, DUE, FINISHED = keys.dead(MODEL, 0), keys.depth(MODEL, 0), f"{PREFIX}due", f"{PREFIX}finished"
SERVER, WORKERS, MODELS = f"{PREFIX}server", f"{keys.REGISTRY_PREFIX}workers", f"{keys.REGISTRY_PREFIX}models"

TYPES = [
    (f"{key} is a {kind}", damage(key))
    for key in (JOBS, RETURNED, DEAD, DEPTH, DUE, FINISHED, SERVER, WORKERS, MODELS)
    for kind, damage in (("string", be_a_string), ("list", be_a_list))
]
ENTRIES = [
    (f"{key} with {name}", with_entry(key, fields))
    for key in (JOBS, RETURNED)
    for name, fields in (
        ("other fields", {"foo": "bar"}),
        ("an id of nobody's", {"id": NOBODY, "n": 1}),
        ("an id that is none", {"id": "x", "n": 1}),
        ("an id that is no text", {"id": GARBAGE, "n": 1}),
        ("no count", {"id": NOBODY}),
        ("a count that is none", {"id": NOBODY, "n": "many"}),
        ("deaths that are none", {"id": NOBODY, "n": 1, "engine_deaths": "many"}),
    )
]
FIELDS = [
    (f"{key} with {field!r}: {value!r}", with_field(key, field, value))
    for key, field, value in (
        (DEPTH, "generations", GARBAGE),
        (DEPTH, "bytes", b"-5"),
        (SERVER, "seen", GARBAGE),
        (SERVER, "since", GARBAGE),
        (SERVER, "run_id", GARBAGE),
        *(
            (registry, field, value)
            for registry in (WORKERS, MODELS)
            for field in ("somebody", GARBAGE)
            for value in (b"", GARBAGE, b"9999999999999 " + GARBAGE, b"12 \x0a\x02hi")
        ),
    )
]
MEMBERS = [
    (f"{key} with {member!r}", with_member(key, member))
    for key in (DUE, FINISHED)
    for member in (GARBAGE, b"x", NOBODY.encode())
]
LETTERS = [
    ("a dead letter of other fields", with_entry(DEAD, {"foo": "bar"})),
    ("a dead letter of garbage", with_entry(DEAD, {"id": NOBODY, "letter": GARBAGE})),
]
DAMAGES = dict([*TYPES, *ENTRIES, *FIELDS, *MEMBERS, *LETTERS])


async def is_served(served: Served) -> None:
    """A new generation is whole, as soon as what is shared has been put right."""
    wanted = spec(max_tokens=5)

    async def whole() -> bool:
        try:
            call = served.stub.Generate(s.GenerateRequest(spec=wanted), timeout=5)
            return bool((await call).generation.state == g.GENERATION_STATE_FINISHED)
        except grpc.aio.AioRpcError:
            return False

    await eventually(whole, "new work is done", patience=15.0)
    served.stack.assert_all_run()


@pytest.mark.parametrize("name", DAMAGES)
async def test_nothing_ends_of_foreign_data_at_a_shared_key(served: Served, client: Redis, name: str) -> None:
    await DAMAGES[name](client)
    await is_served(served)


@pytest.mark.parametrize("message", [GARBAGE, b"", b"\x0a\x03\x0a\x01x"], ids=["garbage", "nothing", "half an entry"])
async def test_nothing_ends_of_foreign_messages(served: Served, client: Redis, message: bytes) -> None:
    await served.stack.wait_until_served(await served.stack.add_gateway(gateway_id="another"))
    for channel in (keys.feed_channel("another"), keys.worker_channel(served.worker.application._worker_id)):
        assert await published(channel, message)(client) == 1, "it has been heard"
    await is_served(served)


async def test_the_readers_of_a_lost_log_are_told(served: Served, client: Redis) -> None:
    name = (await served.stub.Generate(s.GenerateRequest(spec=spec()))).generation.generation_id
    await client.delete(keys.log(name, 0))
    for call in (
        served.stub.GetGeneration(s.GetGenerationRequest(generation_id=name), timeout=5),
        read(served.stub.AttachGeneration(s.AttachGenerationRequest(generation_id=name), timeout=5)),
        read(served.stub.AttachGeneration(s.AttachGenerationRequest(generation_id=name, after_sequence=10), timeout=5)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.DATA_LOSS


async def test_who_comes_back_behind_a_lost_end_is_told(served: Served, client: Redis) -> None:
    name = (await served.stub.Generate(s.GenerateRequest(spec=spec()))).generation.generation_id
    # As a replica has it that has become the primary.
    await client.hset(f"{PREFIX}server", "run_id", "another")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read(served.stub.AttachGeneration(s.AttachGenerationRequest(generation_id=name, after_sequence=1000), timeout=5))
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS


@pytest.mark.parametrize("value", [NOBODY.encode(), GARBAGE])
async def test_an_idempotency_key_that_stands_for_nothing_is_free(served: Served, client: Redis, value: bytes) -> None:
    await client.set(f"{PREFIX}idempotency:{keys.idempotency_hash('k', '')}", value)
    answer = await served.stub.Generate(s.GenerateRequest(spec=spec(max_tokens=5), idempotency_key="k"), timeout=10)
    assert answer.generation.state == g.GENERATION_STATE_FINISHED


@pytest.mark.parametrize("damage", [be_a_string, be_a_list])
async def test_an_idempotency_key_of_another_type_is_free(served: Served, client: Redis, damage: Any) -> None:
    await damage(f"{PREFIX}idempotency:{keys.idempotency_hash('k', '')}")(client)
    answer = await served.stub.Generate(s.GenerateRequest(spec=spec(max_tokens=5), idempotency_key="k"), timeout=10)
    assert answer.generation.state == g.GENERATION_STATE_FINISHED
