"""Known keys go through every call and many failures; afterwards their secrets are looked for wherever people can look."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from bench.processes.ports import free_ports
from tests.integration.conftest import spec
from tests.integration.test_authentication import wait_until_served
from tests.support.api_keys import Keys, Metadata, keys_of, shown
from tests.support.redis_server import RedisServer
from tests.support.stack import Gateway, Stack
from tests.support.waiting import eventually
from tokenrelay.identity.api_keys import PREFIX_LENGTH, ApiKey, KeyKind
from tokenrelay.identity.quotas import Quota
from tokenrelay.store import keys as names
from tokenrelay.v1 import generation_pb2, model_service_pb2, model_service_pb2_grpc
from tokenrelay.v1 import generation_service_pb2 as s

SECRET_BEGINS = PREFIX_LENGTH + 12


class Collector(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]  # the package has no types
    """Keeps what is exported, as bytes."""

    def __init__(self) -> None:
        self.exported: list[bytes] = []

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's name
        self.exported.append(request.SerializeToString())
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    made = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    await server.start()
    yield made
    await server.stop(None)


async def outcome(call: Any) -> str:
    """Returns all that a client is told at a call's end."""
    try:
        answer = [one async for one in call] if hasattr(call, "__aiter__") else await call
        return repr((answer, await call.initial_metadata(), await call.trailing_metadata()))
    except grpc.aio.AioRpcError as error:
        return repr((error.details(), error.initial_metadata(), error.trailing_metadata()))


async def every_call(stack: Stack, gateway: Gateway, metadata: Metadata) -> list[str]:
    stub, models = stack.stub(gateway), model_service_pb2_grpc.ModelServiceStub(stack.channel(gateway))
    nobodys = names.new_generation_id(0)
    calls = (
        stub.Generate(s.GenerateRequest(spec=spec(max_tokens=3)), metadata=metadata),
        stub.GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=3)), metadata=metadata),
        stub.SubmitGeneration(s.SubmitGenerationRequest(spec=spec(max_tokens=3)), metadata=metadata),
        stub.SubmitGeneration(s.SubmitGenerationRequest(spec=spec(max_tokens=-3)), metadata=metadata),
        stub.Generate(s.GenerateRequest(spec=generation_pb2.GenerationSpec(model="none", text="x")), metadata=metadata),
        stub.GetGeneration(s.GetGenerationRequest(generation_id=nobodys), metadata=metadata),
        stub.AttachGeneration(s.AttachGenerationRequest(generation_id=nobodys), metadata=metadata),
        stub.CancelGeneration(s.CancelGenerationRequest(generation_id=nobodys), metadata=metadata),
        models.ListModels(model_service_pb2.ListModelsRequest(), metadata=metadata),
    )
    return list(await asyncio.gather(*(outcome(call) for call in calls)))


def in_redis(redis: RedisServer) -> Iterator[bytes]:
    """Yields the names and the contents of all keys."""
    read = {b"hash": "hgetall", b"stream": "xrange", b"set": "smembers", b"string": "get"}
    with redis.client() as client:
        for key in client.scan_iter():
            kind = client.type(key)
            value = client.zrange(key, 0, -1) if kind == b"zset" else getattr(client, read[kind])(key)
            yield key + repr(value).encode()


def titles() -> Iterator[bytes]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            yield (process / "cmdline").read_bytes() + (process / "comm").read_bytes()
        except OSError:
            continue  # it has ended


def assert_nowhere(secrets: Sequence[str], places: dict[str, bytes]) -> None:
    for place, found in places.items():
        for secret in secrets:
            # Half of it would be too much as well.
            assert secret[:20].encode() not in found, f"a key is seen in {place}"


async def test_no_key_is_seen_anywhere(stack: Stack, redis: RedisServer, collector: Collector) -> None:
    async with keys_of(redis.url) as admin:
        await stack.add_worker(await stack.add_engine())
        port = free_ports()
        gateway = await stack.add_gateway(auth="keys", metrics_port=port)
        with stack.captured_logs() as captured:
            canaries = await canaries_of(admin)
            await wait_until_served(stack, gateway, canaries[0])
            told = [one for key in canaries for one in await every_call(stack, gateway, shown(key))]
            broken = canaries[0].reveal()[:-1]
            for metadata in (shown(broken), (*shown(canaries[0]), *shown(broken)), (("authorization", broken),)):
                told += await every_call(stack, gateway, metadata)
            await eventually(lambda: bool(collector.exported), "spans have come")

    def metrics() -> bytes:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            return bytes(response.read())

    assert_nowhere(
        [key.reveal()[SECRET_BEGINS:] for key in canaries],
        {
            "what clients are told": repr(told).encode(),
            "logs": repr(captured.lines()).encode(),
            "spans": b"".join(collector.exported),
            "metrics": await asyncio.to_thread(metrics),
            "redis": b"".join(in_redis(redis)),
            "process titles": b"".join(titles()),
        },
    )


async def canaries_of(admin: Keys) -> list[ApiKey]:
    """Returns keys of every kind: one that counts first, then those that are refused for one reason or another."""
    await admin.tenant("acme")
    await admin.tenant("small", quota=Quota(tokens_per_minute=1))
    revoked = await admin.new("acme")
    await admin.revoke(revoked)
    return [
        await admin.new("acme", name="good"),
        await admin.new("small"),
        revoked,
        await admin.new("acme", expires_us=1),
        await admin.new("acme", scopes=frozenset()),
        ApiKey.new(KeyKind.CALLS),
        await admin.new("acme", KeyKind.ADMIN),
    ]
