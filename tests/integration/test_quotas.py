"""What a tenant or its key may use, as clients see it: refusals, hints, and no more than was agreed however many gateways."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from tests.integration.conftest import spec
from tests.integration.test_authentication import refused, wait_until_served
from tests.support.api_keys import Keys, keys_of, shown
from tests.support.redis_server import RedisServer
from tests.support.stack import Gateway, Stack
from tokenrelay.client import AsyncClient
from tokenrelay.client.resumption import RetryPolicy
from tokenrelay.errors import QuotaExceededError, TokenrelayError
from tokenrelay.identity.quotas import Quota
from tokenrelay.store import keys as names
from tokenrelay.v1 import generation_service_pb2 as s


@pytest.fixture
async def admin(redis: RedisServer) -> AsyncIterator[Keys]:
    async with keys_of(redis.url) as keys:
        yield keys


@pytest.fixture
async def gateways(stack: Stack, admin: Keys) -> list[Gateway]:
    await stack.add_worker(await stack.add_engine(simulated_step_ms=0.1))
    await admin.tenant("watching")
    key = await admin.new("watching")
    gateways = [await stack.add_gateway(auth="keys") for _ in range(2)]
    for gateway in gateways:
        await wait_until_served(stack, gateway, key)
    return gateways


def detail(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    """Returns one of an error's details; None if it has none of that kind."""
    trailing = dict(error.trailing_metadata() or ())
    for packed in status_pb2.Status.FromString(trailing["grpc-status-details-bin"]).details:
        found = kind()
        if packed.Unpack(found):
            return found
    return None


async def test_a_refusal_names_the_limit_and_when_to_come_again(stack: Stack, gateways: list[Gateway], admin: Keys) -> None:
    await admin.tenant("acme", quota=Quota(requests_per_minute=1))
    key = await admin.new("acme")
    stub = stack.stub(gateways[0])
    await stub.Generate(s.GenerateRequest(spec=spec(max_tokens=1)), metadata=shown(key))
    error = await refused(stub.Generate(s.GenerateRequest(spec=spec(max_tokens=1)), metadata=shown(key)))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert detail(error, error_details_pb2.ErrorInfo).reason == "QUOTA_EXCEEDED"
    (violation,) = detail(error, error_details_pb2.QuotaFailure).violations
    assert (violation.subject, violation.quota_metric, violation.quota_value) == (
        "tenant:acme",
        "tokenrelay/requests_per_minute",
        1,
    )
    assert 30 < detail(error, error_details_pb2.RetryInfo).retry_delay.seconds <= 66


async def test_what_can_never_fit_is_not_to_be_tried_again(stack: Stack, gateways: list[Gateway], admin: Keys) -> None:
    await admin.tenant("acme", quota=Quota(tokens_per_minute=10))
    request = s.GenerateRequest(spec=spec("word " * 100))
    error = await refused(stack.stub(gateways[0]).Generate(request, metadata=shown(await admin.new("acme"))))
    assert detail(error, error_details_pb2.RetryInfo) is None
    assert "the request alone is more than that" in str(error.details())


async def test_trailers_tell_what_is_left(stack: Stack, gateways: list[Gateway], admin: Keys) -> None:
    await admin.tenant("acme", quota=Quota(tokens_per_minute=6000))
    call = stack.stub(gateways[0]).Generate(
        s.GenerateRequest(spec=spec(max_tokens=100)), metadata=shown(await admin.new("acme"))
    )
    await call
    trailing = dict(await call.trailing_metadata())
    assert trailing["ratelimit-limit"] == "6000"
    assert 5800 < int(trailing["ratelimit-remaining"]) < 5900
    assert trailing["ratelimit-reset"] in {"1", "2"}


@pytest.mark.parametrize(
    ("quota", "most"),
    [(Quota(concurrent=5), 5), (Quota(requests_per_minute=20), 21), (Quota(tokens_per_minute=110), 11)],
    ids=repr,
)
async def test_two_gateways_together_admit_no_more_than_one_limit(
    stack: Stack, gateways: list[Gateway], admin: Keys, quota: Quota, most: int
) -> None:
    await admin.tenant("acme", quota=quota)
    key = await admin.new("acme")
    stubs = [stack.stub(gateway) for gateway in gateways]
    # A token of the prompt, and so many of the answer that none ends while the others are judged.
    request = s.SubmitGenerationRequest(spec=spec("x", max_tokens=10 if quota.tokens_per_minute else 100_000))

    async def submit(number: int) -> str:
        try:
            return str((await stubs[number % 2].SubmitGeneration(request, metadata=shown(key))).generation_id)
        except grpc.aio.AioRpcError as error:
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            return ""

    admitted = [one for one in await asyncio.gather(*(submit(number) for number in range(400))) if one]
    assert most - 1 <= len(admitted) <= most + 1 if quota.concurrent is None else len(admitted) == most
    for generation_id in admitted:
        await stubs[0].CancelGeneration(s.CancelGenerationRequest(generation_id=generation_id), metadata=shown(key))


async def test_the_library_waits_as_it_is_told(gateways: list[Gateway], admin: Keys) -> None:
    await admin.tenant("acme", quota=Quota(concurrent=1))
    key = await admin.new("acme")
    waited: list[TokenrelayError] = []
    policy = RetryPolicy(on_wait=lambda error, _: waited.append(error))
    async with AsyncClient(gateways[0].target, api_key=key.reveal(), retry=policy) as client:
        answers = await asyncio.gather(*(client.generate("hello", max_tokens=5) for _ in range(3)))
    assert all(answers)
    assert waited
    assert all(isinstance(error, QuotaExceededError) for error in waited)


async def test_at_rest_nothing_is_open_or_reserved_and_the_ledger_has_every_token(
    stack: Stack, gateways: list[Gateway], admin: Keys, redis: RedisServer
) -> None:
    await admin.tenant("acme")
    key = await admin.new("acme")
    async with AsyncClient([gateway.target for gateway in gateways], api_key=key.reveal()) as client:
        await asyncio.gather(*(client.generate("hello there", max_tokens=number) for number in range(1, 21)))
    with redis.client() as connection:
        account = connection.hgetall(f"{names.prefix(0)}tenant:acme")
        (ledger,) = connection.keys(f"{names.prefix(0)}usage:acme:*")
        counted = {name.decode().split()[-1]: int(value) for name, value in connection.hgetall(ledger).items()}
    assert (account[b"open"], account[b"reserved"]) == (b"0", b"0")
    assert counted["completion_tokens"] == sum(range(1, 21))
    assert counted["ended_3"] == 20
