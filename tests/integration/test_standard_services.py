"""Health and reflection: they answer what they know, hold nobody up, and take no place from a generation."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from drills.raw_http2.connection import RawConnection
from drills.raw_http2.frames import message, request_fields
from tests.integration.conftest import Served, spec
from tests.integration.test_calls import endless_streams, reason, started
from tests.support.redis_server import RedisServer
from tests.support.stack import Gateway, Stack
from tests.support.waiting import eventually
from tokenrelay.v1 import generation_service_pb2 as s

SERVICES = ("tokenrelay.v1.GenerationService", "tokenrelay.v1.ModelService")
PATIENCE = 60.0  # seconds after which an answer counts as hung
WATCH = request_fields(b"/grpc.health.v1.Health/Watch")
REFLECTION = ("grpc.reflection.v1", "grpc.reflection.v1alpha")


def health(served: Served) -> Any:
    return health_pb2_grpc.HealthStub(served.stack.channel(served.gateway))


def ask(channel: grpc.aio.Channel, package: str, requests: AsyncIterator[Any]) -> Any:
    return channel.stream_stream(
        f"/{package}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(requests)


async def test_health_lists_the_server_and_its_services(served: Served) -> None:
    with served.stack.captured_logs() as captured:
        listed = await health(served).List(health_pb2.HealthListRequest())
    assert {name: one.status for name, one in listed.statuses.items()} == dict.fromkeys(("", *SERVICES), 1)
    assert captured.errors() == []


async def test_a_service_that_there_is_not_is_not_found(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(served).Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    watching = health(served).Watch(health_pb2.HealthCheckRequest(service="nobody"))
    assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watching.cancel()


@pytest.mark.in_process_gateway("a servicer loses its methods")
@pytest.mark.parametrize("method", ["Check", "List", "Watch"])
async def test_what_a_servicer_leaves_out_is_unimplemented_without_a_traceback(
    served: Served, method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # What every generated servicer does for methods that it does not have.
    async def left_out(_: Any, request: Any, context: Any) -> None:
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details("Method not implemented!")
        raise NotImplementedError("Method not implemented!")

    monkeypatch.setattr("tokenrelay.serving.health_servicer.HealthServicer." + method, left_out)
    gateway = await served.stack.add_gateway()
    with structlog.testing.capture_logs() as lines:
        async with RawConnection(gateway.target) as connection:
            path = b"/grpc.health.v1.Health/" + method.encode()
            answer = await asyncio.wait_for(connection.call(request_fields(path), message(b"")), PATIENCE)
    assert (answer.status, answer.text) == (12, "this server does not implement the method")
    assert [line for line in lines if line["log_level"] == "error"] == []
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


@asynccontextmanager
async def watches_that_nobody_reads(gateway: Gateway) -> AsyncIterator[None]:
    """Opens watches of everything, and lets the gateway write nothing on them."""
    async with RawConnection(gateway.target, window=0) as connection:
        for service in ("", *SERVICES):
            request = health_pb2.HealthCheckRequest(service=service).SerializeToString()
            connection.begin(WATCH, message(request))
        # A call behind them, so that all of them have been taken.
        async with RawConnection(gateway.target) as other:
            await asyncio.wait_for(other.call(request_fields(b"/a/b"), message(b"")), PATIENCE)
        yield


async def test_a_watch_that_nobody_reads_holds_up_no_drain(served: Served) -> None:
    gateway = await served.stack.add_gateway(drain_seconds=1.0)
    await served.stack.wait_until_served(gateway)
    watching = await watch_that_serves(served.stack, gateway)
    async with watches_that_nobody_reads(gateway):
        draining = asyncio.create_task(gateway.drain())
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await asyncio.wait_for(draining, PATIENCE)


async def watch_that_serves(stack: Stack, gateway: Gateway) -> Any:
    """Watches a gateway's health; returns the call once it has told that the gateway serves."""
    watching = health_pb2_grpc.HealthStub(stack.channel(gateway)).Watch(health_pb2.HealthCheckRequest())
    while (await watching.read()).status != health_pb2.HealthCheckResponse.SERVING:
        pass
    return watching


async def test_a_watcher_is_told_of_each_change(served: Served, redis: RedisServer) -> None:
    watching = await watch_that_serves(served.stack, served.gateway)
    redis.signal(signal.SIGSTOP)
    try:
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    finally:
        redis.signal(signal.SIGCONT)
    assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
    watching.cancel()


@pytest.mark.parametrize("package", REFLECTION)
async def test_reflection_knows_our_contract_and_its_own(served: Served, package: str) -> None:
    symbols = ("tokenrelay.v1.GenerationService", *(f"{one}.ServerReflection" for one in REFLECTION))

    async def requests() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        for symbol in symbols:
            yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)

    answers = [answer async for answer in ask(served.stack.channel(served.gateway), package, requests())]
    names = {service.name for service in answers[0].list_services_response.service}
    assert names == {*SERVICES, "grpc.health.v1.Health", *(f"{one}.ServerReflection" for one in REFLECTION)}
    for answer, symbol in zip(answers[1:], symbols, strict=True):
        assert answer.HasField("file_descriptor_response"), symbol


async def nothing_more(said: asyncio.Event) -> AsyncIterator[Any]:
    yield reflection_pb2.ServerReflectionRequest(list_services="")
    await said.wait()


async def test_a_reflection_stream_that_stays_open_is_ended(served: Served) -> None:
    gateway = await served.stack.add_gateway(reflection_seconds=0.3)
    call = ask(served.stack.channel(gateway), REFLECTION[0], nothing_more(asyncio.Event()))
    assert (await call.read()).HasField("list_services_response")
    assert await asyncio.wait_for(call.code(), PATIENCE) == grpc.StatusCode.UNAVAILABLE
    assert await call.details() == "the stream was open for 0.3 s; open another one"


async def test_a_reflection_stream_whose_answers_nobody_reads_is_ended(served: Served) -> None:
    gateway = await served.stack.add_gateway(reflection_seconds=0.3, max_standard_calls=1)
    asked = message(reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString())
    async with RawConnection(gateway.target, window=0) as connection:
        path = request_fields(b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        connection.begin(path, asked * 100)

        async def there_is_a_place() -> bool:
            call = ask(served.stack.channel(gateway), REFLECTION[0], nothing_more(asyncio.Event()))
            try:
                return bool(await call.read())
            except grpc.aio.AioRpcError:
                return False
            finally:
                call.cancel()

        await eventually(there_is_a_place, "the stream has given its place up")


async def test_what_is_held_open_at_the_standard_services_takes_no_place_from_others(stack: Stack) -> None:
    engine = await stack.add_engine()
    await stack.add_worker(engine)
    gateway = await stack.add_gateway(max_calls=2, max_standard_calls=2)
    await stack.wait_until_served(gateway)
    stub, probe = stack.stub(gateway), health_pb2_grpc.HealthStub(stack.channel(gateway))
    watches = [probe.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
    for watch in watches:
        await watch.read()
    with pytest.raises(grpc.aio.AioRpcError, match="too many open calls") as caught:
        await probe.Watch(health_pb2.HealthCheckRequest()).read()
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    generations = [stub.GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=100_000))) for _ in range(2)]
    for call in generations:
        await started(call)
    assert (await probe.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    for call in (*watches, *generations):
        call.cancel()


async def test_requests_in_flight_have_a_budget_of_bytes(served: Served) -> None:
    gateway = await served.stack.add_gateway(max_request_bytes=100_000)
    await served.stack.wait_until_served(gateway)
    stub = served.stack.stub(gateway)
    large = s.GenerateStreamRequest(spec=spec("x" * 60_000, max_tokens=100_000))
    running = stub.GenerateStream(large)
    await started(running)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GenerateStream(large).read()
    assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
    assert caught.value.details() == "too many bytes of requests in flight (limit 100000)"
    small = await stub.Generate(s.GenerateRequest(spec=spec()))
    assert small.generation.state == 3
    running.cancel()

    async def there_is_room() -> bool:
        call = stub.GenerateStream(large)
        try:
            await started(call)
        except grpc.aio.AioRpcError:
            return False
        finally:
            call.cancel()
        return True

    await eventually(there_is_room, "the bytes are free again")


async def test_one_connection_has_a_bounded_number_of_streams(served: Served) -> None:
    gateway = await served.stack.add_gateway(max_streams_per_connection=2)
    await served.stack.wait_until_served(gateway)
    stub = served.stack.stub(gateway)
    calls = await endless_streams(stub, 2)
    # gRPC's client holds a third one back, so that its deadline passes before the gateway has seen it.
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(s.GenerateRequest(spec=spec()), timeout=0.5)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    waiting = stub.Generate(s.GenerateRequest(spec=spec()))
    calls[0].cancel()
    assert (await asyncio.wait_for(waiting, PATIENCE)).generation.sequence == 20
    calls[1].cancel()
