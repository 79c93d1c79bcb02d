"""Calls with keys: who is let in, what each key may do and see, and what happens when it is revoked or Redis is away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway.app import SERVICES
from gateway.grpc.authenticate import SCOPES
from tests.integration.conftest import spec
from tests.support.api_keys import Keys, Metadata, keys_of, shown
from tests.support.redis_server import RedisServer
from tests.support.stack import MODEL, Edge, Gateway, Stack, opened
from tests.support.waiting import eventually
from tokenrelay.identity.api_keys import ApiKey, KeyKind
from tokenrelay.identity.callers import Scope
from tokenrelay.store import keys
from tokenrelay.v1 import generation_pb2, model_service_pb2, model_service_pb2_grpc
from tokenrelay.v1 import generation_service_pb2 as s


@pytest.fixture
async def admin(redis: RedisServer) -> AsyncIterator[Keys]:
    async with keys_of(redis.url) as keys:
        yield keys


async def wait_until_served(stack: Stack, gateway: Gateway, key: ApiKey) -> None:
    stub: Any = model_service_pb2_grpc.ModelServiceStub(stack.channel(gateway))

    async def served() -> bool:
        return len((await stub.ListModels(model_service_pb2.ListModelsRequest(), metadata=shown(key))).models) > 0

    await eventually(served, "a model is served")


@pytest.fixture
async def gateway(stack: Stack, admin: Keys) -> Gateway:
    await stack.add_worker(await stack.add_engine())
    gateway = await stack.add_gateway(auth="keys")
    await admin.tenant("watching")
    await wait_until_served(stack, gateway, await admin.new("watching"))
    return gateway


async def refused(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def read_to_the_end(call: Any) -> int:
    return sum([len(response.event.delta.token_ids) async for response in call])


def test_every_method_has_its_scope() -> None:
    ours = {
        f"{service.full_name}/{method.name}"
        for contract in (s.DESCRIPTOR, model_service_pb2.DESCRIPTOR)
        for service in contract.services_by_name.values()
        for method in service.methods
    }
    assert {name.partition("/")[0] for name in ours} == set(SERVICES)
    assert ours <= set(SCOPES)


async def test_a_key_opens_what_its_tenant_has_and_nothing_else(stack: Stack, gateway: Gateway, admin: Keys) -> None:
    for tenant in ("acme", "globex"):
        await admin.tenant(tenant)
    ours, theirs = await admin.new("acme"), await admin.new("globex")
    stub = stack.stub(gateway)
    call = stub.GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=5)), metadata=shown(ours))
    generation_id = dict(await call.initial_metadata())["tokenrelay-generation-id"]
    assert await read_to_the_end(call) == 5
    request = s.GetGenerationRequest(generation_id=generation_id)
    assert (await stub.GetGeneration(request, metadata=shown(ours))).generation.generation_id == generation_id
    unknown = s.GetGenerationRequest(generation_id=keys.new_generation_id(0))
    foreign, none = [await refused(stub.GetGeneration(one, metadata=shown(theirs))) for one in (request, unknown)]
    assert foreign.code() == none.code() == grpc.StatusCode.NOT_FOUND
    assert str(foreign.details()).replace(generation_id, "<id>") == str(none.details()).replace(unknown.generation_id, "<id>")


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        shown(""),
        shown("trk_"),
        shown("sk-something-else"),
        shown(ApiKey.new(KeyKind.CALLS)),
        shown(ApiKey.new(KeyKind.ADMIN)),
        (("authorization", "Basic dXNlcjpwYXNz"),),
        (*shown("a"), *shown("b")),
    ],
    ids=["none", "empty", "half", "foreign", "unknown", "admin", "basic", "two"],
)
async def test_strangers_are_all_told_the_same(stack: Stack, gateway: Gateway, metadata: Metadata) -> None:
    for call in (
        stack.stub(gateway).Generate(s.GenerateRequest(spec=spec()), metadata=metadata),
        stack.stub(gateway).GetGeneration(s.GetGenerationRequest(), metadata=metadata),
    ):
        error = await refused(call)
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
        assert error.details() == "authorization: a valid key is required, as in 'authorization: Bearer trk_…'"


async def test_what_counts_no_more_is_refused_like_what_never_was(stack: Stack, gateway: Gateway, admin: Keys) -> None:
    await admin.tenant("acme")
    await admin.tenant("gone", suspended=True)
    revoked = await admin.new("acme")
    await admin.revoke(revoked)
    changed = await admin.new("acme")
    for key in (
        revoked,
        await admin.new("acme", expires_us=1),
        await admin.new("gone"),
        await admin.new("acme", KeyKind.ADMIN),
        changed.reveal()[:-1],
    ):
        error = await refused(stack.stub(gateway).Generate(s.GenerateRequest(spec=spec()), metadata=shown(key)))
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_a_key_does_what_its_scopes_say(stack: Stack, gateway: Gateway, admin: Keys) -> None:
    await admin.tenant("acme")
    reader = await admin.new("acme", scopes=frozenset({Scope.READ}))
    error = await refused(stack.stub(gateway).Generate(s.GenerateRequest(spec=spec()), metadata=shown(reader)))
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED
    assert error.details() == "the key lacks the scope 'generate'"


async def test_a_model_that_a_key_may_not_use_is_no_model(stack: Stack, gateway: Gateway, admin: Keys) -> None:
    await admin.tenant("acme", models=frozenset({"another"}))
    key = await admin.new("acme")
    listed = await model_service_pb2_grpc.ModelServiceStub(stack.channel(gateway)).ListModels(
        model_service_pb2.ListModelsRequest(), metadata=shown(key)
    )
    assert not listed.models
    request = s.GenerateRequest(spec=generation_pb2.GenerationSpec(model=MODEL, text="x"))
    error = await refused(stack.stub(gateway).Generate(request, metadata=shown(key)))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert "known: none" in str(error.details())


async def test_health_is_open_and_reflection_is_not(stack: Stack, gateway: Gateway, admin: Keys) -> None:
    channel = stack.channel(gateway)
    health = health_pb2_grpc.HealthStub(channel)
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    reflect = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    assert (await refused(anext(aiter(reflect(iter(asked)))))).code() == grpc.StatusCode.UNAUTHENTICATED
    await admin.tenant("acme")
    answer = await anext(aiter(reflect(iter(asked), metadata=shown(await admin.new("acme")))))
    assert answer.list_services_response.service


Made = Callable[[Keys, ApiKey], Awaitable[None]]


async def suspend(admin: Keys, _: ApiKey) -> None:
    await admin.register.change_tenant(replace(await admin.register.tenant("acme"), suspended=True))


@pytest.mark.parametrize("end", [Keys.revoke, suspend], ids=["the key is revoked", "the tenant is suspended"])
async def test_open_calls_end_when_their_key_counts_no_more(stack: Stack, gateway: Gateway, admin: Keys, end: Made) -> None:
    second = await stack.add_gateway(auth="keys")
    await admin.tenant("acme")
    await admin.tenant("globex")
    key, other = await admin.new("acme"), await admin.new("globex")
    stubs = [stack.stub(gateway), stack.stub(second)]

    def stream(stub: Any, key: ApiKey) -> Any:
        return stub.GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=100_000)), metadata=shown(key))

    calls = [stream(stub, key) for stub in stubs for _ in range(3)]
    others = [stream(stub, other) for stub in stubs]
    for call in (*calls, *others):
        await call.initial_metadata()
    await end(admin, key)
    for call in calls:
        assert (await refused(read_to_the_end(call))).code() == grpc.StatusCode.UNAUTHENTICATED
    for stub in stubs:
        error = await refused(stub.Generate(s.GenerateRequest(spec=spec()), metadata=shown(key)))
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    for call in others:
        assert not call.done()
        call.cancel()


async def test_while_redis_is_away_known_keys_go_on_and_unknown_ones_wait(own_redis: RedisServer, edge: Edge) -> None:
    async with keys_of(own_redis.url) as admin, opened(own_redis.url, edge) as stack:
        gateway = await stack.add_gateway(auth="keys", auth_known_seconds=0.1, call_patience_seconds=0.5)
        await admin.tenant("acme")
        known, unknown = await admin.new("acme"), await admin.new("acme")
        stub = stack.stub(gateway)
        request = s.GetGenerationRequest(generation_id=keys.new_generation_id(0))
        assert (await refused(stub.GetGeneration(request, metadata=shown(known)))).code() == grpc.StatusCode.NOT_FOUND
        own_redis.kill()
        for _ in range(3):
            error = await refused(stub.GetGeneration(request, metadata=shown(known)))
            assert "keys cannot be checked" not in str(error.details())  # it got past authentication, and no further
            error = await refused(stub.GetGeneration(request, metadata=shown(unknown)))
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            assert error.details() == "keys cannot be checked now"
            await asyncio.sleep(0.1)  # so that what is known is no longer new


async def test_while_redis_is_away_nobody_is_let_in_for_ever(own_redis: RedisServer, edge: Edge) -> None:
    async with keys_of(own_redis.url) as admin, opened(own_redis.url, edge) as stack:
        gateway = await stack.add_gateway(
            auth="keys", auth_known_seconds=0.01, auth_outage_seconds=0.02, call_patience_seconds=0.2
        )
        await admin.tenant("acme")
        key = await admin.new("acme")
        stub = stack.stub(gateway)
        request = s.GetGenerationRequest(generation_id=keys.new_generation_id(0))
        assert (await refused(stub.GetGeneration(request, metadata=shown(key)))).code() == grpc.StatusCode.NOT_FOUND
        own_redis.kill()

        async def is_refused() -> bool:
            return (await refused(stub.GetGeneration(request, metadata=shown(key)))).details() == "keys cannot be checked now"

        await eventually(is_refused, "the key counts no more")
