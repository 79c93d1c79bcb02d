"""A gateway as a process on the Envoy edge: calls, errors, cancels and signals."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.processes.ports import free_ports
from engine_service.engines.simulated.simulation import expected_tokens
from gateway.settings import GatewaySettings
from tests.integration.conftest import spec
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack
from tests.support.waiting import eventually
from tokenrelay import settings
from tokenrelay.v1 import generation_pb2, generation_service_pb2_grpc
from tokenrelay.v1 import generation_service_pb2 as s

pytestmark = pytest.mark.edge("envoy")

SERVING = health_pb2.HealthCheckResponse.SERVING


class Gateway:
    """The parent process, and Envoy below it."""

    def __init__(
        self, process: asyncio.subprocess.Process, port: int, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        self.process = process
        self.port = port
        self.target = f"127.0.0.1:{port}"
        self.channel = (
            grpc.aio.secure_channel(self.target, credentials) if credentials else grpc.aio.insecure_channel(self.target)
        )
        self.stub = generation_service_pb2_grpc.GenerationServiceStub(self.channel)

    async def serves(self) -> bool:
        assert self.process.returncode is None, "the gateway has ended"
        with suppress(grpc.aio.AioRpcError):
            check = health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
            return bool((await check).status == SERVING)
        return False

    def envoy(self) -> int:
        """Returns Envoy's process id."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (found,) = [int(pid) for pid in children if "envoy" in Path(f"/proc/{pid}/comm").read_text()]
        return found

    async def state(self, generation_id: str | bytes) -> int:
        found = await self.stub.GetGeneration(s.GetGenerationRequest(generation_id=str(generation_id)))
        return int(found.generation.state)


@asynccontextmanager
async def running(stack: Stack, credentials: grpc.ChannelCredentials | None = None, **values: object) -> AsyncIterator[Gateway]:
    port = free_ports()
    given = GatewaySettings(redis_url=stack.redis_url, port=port, edge="envoy", lame_duck_seconds=0.0, **values)  # type: ignore[arg-type]
    environment = {**os.environ, **settings.environment(given)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "gateway", env=environment)
    gateway = Gateway(process, port, credentials)
    try:
        await eventually(gateway.serves, "the gateway serves")
        yield gateway
    finally:
        await gateway.channel.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
async def gateway(stack: Stack) -> AsyncIterator[Gateway]:
    engine = await stack.add_engine()
    await stack.add_worker(engine)
    await stack.wait_until_served(await stack.add_gateway())
    async with running(stack) as started:
        yield started


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_a_stream_has_every_token(gateway: Gateway) -> None:
    asked = spec(max_tokens=200)
    tokens: list[int] = []
    async for response in gateway.stub.GenerateStream(s.GenerateStreamRequest(spec=asked)):
        tokens += response.event.delta.token_ids
    assert tokens == list(expected_tokens(asked))


async def test_errors_have_their_details(gateway: Gateway) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.stub.GetGeneration(s.GetGenerationRequest(generation_id="nobody's"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert b"GENERATION_NOT_FOUND" in dict(caught.value.trailing_metadata() or ())["grpc-status-details-bin"]
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await gateway.channel.unary_unary("/no.Service/Method", request_serializer=bytes)(b"")
    assert unknown.value.code() == grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(grpc.aio.AioRpcError) as large:
        await gateway.stub.Generate(s.GenerateRequest(spec=generation_pb2.GenerationSpec(text="x" * 5_000_000)))
    assert large.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_client_that_leaves_cancels_what_still_waits(gateway: Gateway) -> None:
    call = gateway.stub.GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=100_000)))
    generation_id = dict(await call.initial_metadata())["tokenrelay-generation-id"]
    call.cancel()

    async def is_cancelled() -> bool:
        return await gateway.state(generation_id) == generation_pb2.GENERATION_STATE_CANCELLED

    await eventually(is_cancelled, "the generation is cancelled")


async def test_a_deadline_ends_the_call_and_its_generation(gateway: Gateway) -> None:
    call = gateway.stub.GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=100_000)), timeout=1.0)
    generation_id = dict(await call.initial_metadata())["tokenrelay-generation-id"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED

    async def has_expired() -> bool:
        return await gateway.state(generation_id) == generation_pb2.GENERATION_STATE_EXPIRED

    await eventually(has_expired, "the generation has expired")


async def test_sigterm_drains_and_leaves_nothing_behind(gateway: Gateway) -> None:
    envoy = gateway.envoy()
    call = gateway.stub.GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=300)))
    await call.initial_metadata()
    gateway.process.send_signal(signal.SIGTERM)
    last = None
    async for response in call:
        last = response
    assert last is not None
    assert last.event.HasField("finished")
    assert await gateway.process.wait() == 0
    assert not is_there(envoy)


async def test_envoy_dies_with_its_parent(gateway: Gateway) -> None:
    envoy = gateway.envoy()
    gateway.process.kill()
    await gateway.process.wait()
    await eventually(lambda: not is_there(envoy) or "State:\tZ" in Path(f"/proc/{envoy}/status").read_text(), "envoy is gone")


async def test_the_parent_ends_when_envoy_dies(gateway: Gateway) -> None:
    os.kill(gateway.envoy(), signal.SIGKILL)
    assert await gateway.process.wait() == 1


async def test_a_port_in_use_is_named(gateway: Gateway, stack: Stack) -> None:
    given = GatewaySettings(redis_url=stack.redis_url, port=gateway.port, edge="envoy")
    assert await ended(given) == (2, b"TOKENRELAY_HOST, TOKENRELAY_PORT: cannot listen")


async def test_what_the_application_cannot_start_with_is_the_process_s_status(redis: RedisServer, stack: Stack) -> None:
    taken = free_ports()
    with closing(socket.create_server(("127.0.0.1", taken))):
        given = GatewaySettings(redis_url=stack.redis_url, port=0, edge="envoy", metrics_port=taken)
        assert await ended(given) == (2, b"TOKENRELAY_METRICS_HOST, TOKENRELAY_METRICS_PORT: cannot listen")


async def ended(given: GatewaySettings) -> tuple[int | None, bytes]:
    """Runs a gateway that cannot start; returns its status, and the beginning of the line that names a variable."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway",
        env={**os.environ, **settings.environment(given)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    named = next((line for line in said.split(b"\n") if line.startswith(b"TOKENRELAY_")), said)
    end = b"cannot listen"
    return process.returncode, named.partition(end)[0] + end if end in named else named
