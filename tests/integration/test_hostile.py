"""Clients that send what no client should: each is told so or cut off, and nobody else notices."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from typing import Any

import grpc
import pytest
import structlog
from google.rpc import error_details_pb2, status_pb2
from redis.asyncio import Redis

from bench.processes.ports import free_ports
from deploy.local.settings import ROOT
from drills.raw_http2.connection import RawConnection
from drills.raw_http2.frames import (
    ACK,
    END_HEADERS,
    PREFACE,
    Answer,
    Frame,
    frame,
    header_block,
    message,
    request_fields,
)
from gateway.grpc import generation_servicer
from tests.integration.conftest import Served, spec
from tests.integration.test_calls import endless_streams, read, reason
from tests.support.redis_server import RedisServer
from tests.support.stack import Gateway, Stack, metric
from tests.support.waiting import eventually
from tokenrelay.serving import server as grpc_server
from tokenrelay.serving.exchange import ClientGoneError
from tokenrelay.v1 import generation_service_pb2 as s
from tokenrelay.v1 import model_service_pb2, model_service_pb2_grpc

PATIENCE = 60.0  # seconds after which an answer counts as hung
SERVICE = b"/tokenrelay.v1.GenerationService/"
PROTOCOL_ERROR = 1
GOOD = s.GenerateRequest(spec=spec(max_tokens=2)).SerializeToString()
INVALID, NOT_THERE, UNAVAILABLE = (
    code.value[0] for code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE)
)


async def send(gateway: Gateway, path: bytes, body: bytes, *fields: tuple[bytes, bytes]) -> Answer:
    async with RawConnection(gateway.target) as connection:
        return await asyncio.wait_for(connection.call(request_fields(path, *fields), body), PATIENCE)


@pytest.mark.parametrize("method", [b"Generate", b"GenerateStream", b"CancelGeneration"])
@pytest.mark.parametrize(
    "body", [b"", message(GOOD)[:3], message(GOOD)[:-1], message(GOOD, length=1000)], ids=["none", "prefix", "cut", "short"]
)
async def test_a_call_that_ends_without_a_whole_message_is_answered(served: Served, method: bytes, body: bytes) -> None:
    answer = await send(served.gateway, SERVICE + method, body)
    assert (answer.status, answer.text) == (INVALID, "the call has no whole request message")


@pytest.mark.parametrize(
    "path",
    [
        b"/grpc.health.v1.Health/Check",
        b"/grpc.health.v1.Health/Watch",
        b"/grpc.health.v1.Health/List",
        b"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        b"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_garbage_to_the_standard_services_is_refused_without_python_text(served: Served, path: bytes) -> None:
    answer = await send(served.gateway, path, message(b"\xff\xff\xff"))
    assert (answer.status, answer.text) == (INVALID, "the request is not a valid protobuf message of its type")
    assert (await send(served.gateway, b"/grpc.health.v1.Health/Check", message(b""))).status == 0


@pytest.mark.parametrize("path", [b"/\xff/\xfe", b"\xe9", b"", b"/a/b", b"/a/b?\xff", SERVICE + b"Nothing"])
async def test_no_path_is_the_end_of_the_server(served: Served, path: bytes) -> None:
    async with RawConnection(served.gateway.target) as connection:
        answer = await asyncio.wait_for(connection.call(request_fields(path), message(b"")), PATIENCE)
        # A path without a slash is no HTTP/2, so that a server may also break the stream off.
        assert answer.status == NOT_THERE or (not path.startswith(b"/") and answer.reset == PROTOCOL_ERROR)
        good = await asyncio.wait_for(connection.call(request_fields(SERVICE + b"Generate"), message(GOOD)), PATIENCE)
        assert good.status == 0, "others on the connection are served"


# A process of its own, since gRPC whose loop has broken sometimes crashes in its shutdown. That is an end too.
BROKEN = """
import asyncio, sys
import grpc
from gateway.app import GatewayApplication
from gateway.settings import GatewaySettings
from tokenrelay import lifecycle, settings

def fail(_):
    raise ValueError("the loop breaks")

class Broken(GatewayApplication):
    async def run(self):
        self._server.server._server._make_request_call_future = fail
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            await asyncio.gather(channel.unary_unary("/grpc.health.v1.Health/Check")(b""), return_exceptions=True)
            await super().run()

sys.exit(lifecycle.serve(Broken(settings.load(GatewaySettings))))
"""


def test_a_gateway_whose_server_has_ended_by_itself_ends(redis: RedisServer) -> None:
    environment = {**os.environ, "TOKENRELAY_REDIS_URL": redis.url, "TOKENRELAY_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", BROKEN], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60, check=False
    )
    assert done.returncode in (1, -signal.SIGSEGV), done.stderr
    assert "the loop breaks" in done.stdout + done.stderr


async def test_a_header_that_is_no_utf8_writes_no_traceback(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with served.stack.captured_logs() as captured, caplog.at_level(logging.DEBUG):
        answer = await send(
            served.gateway, SERVICE + b"Generate", message(GOOD), (b"x-odd", b"\xff\xfe"), (b"traceparent", b"\xe9")
        )
    assert answer.status == 0
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    assert [line for line in captured.lines() if "exception" in line] == []


async def test_grpc_says_nothing_of_clients_that_left_and_all_else(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    await stack.add_engine()  # any server that is gRPC's own
    grpc_log = logging.getLogger(grpc_server.GRPC_LOGGER)
    grpc_log.error("ExecuteBatchError raised in core by servicer method [/x/y]")
    grpc_log.error("Unexpected [ValueError] raised by servicer method [/x/y]")
    assert [record.getMessage()[:10] for record in caplog.records if record.name == grpc_log.name] == ["Unexpected"]


@pytest.mark.parametrize("window", [2**24, 2000], ids=["in mid-stream", "while the client takes nothing"])
async def test_a_connection_that_breaks_under_streams_is_a_client_that_left(served: Served, window: int) -> None:
    request = message(s.GenerateStreamRequest(spec=spec(max_tokens=100_000)).SerializeToString())
    port = free_ports()
    gateway = await served.stack.add_gateway(metrics_port=port)
    await served.stack.wait_until_served(gateway)

    async def nobody_reads() -> bool:
        return await metric(port, "tokenrelay_followers") == 0

    with served.stack.captured_logs() as captured:
        for _ in range(5):
            async with RawConnection(gateway.target, window=window) as connection:
                streams = [connection.begin(request_fields(SERVICE + b"GenerateStream"), request)[0] for _ in range(20)]
                await eventually(lambda: all(map(connection.streams.is_accepted, streams)), "all are accepted")  # noqa: B023
        await eventually(nobody_reads, "nobody reads any more")
        await eventually(lambda: not served.engine.application._engine._running, "the engine has freed the slots")
    assert captured.errors() == []


@pytest.mark.in_process_gateway("the servicer's write fails")
async def test_a_write_that_finds_its_connection_gone_is_no_failure_of_ours(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = asyncio.Event()

    async def fail(*_: object) -> None:
        written.set()
        raise ClientGoneError("execute_batch")

    monkeypatch.setattr(generation_servicer, "_send_metadata", fail)
    with structlog.testing.capture_logs() as lines:
        async with RawConnection(served.gateway.target) as connection:
            connection.begin(request_fields(SERVICE + b"GenerateStream"), message(GOOD))
            await asyncio.wait_for(written.wait(), PATIENCE)
            await eventually(lambda: len(served.gateway.application._feed) == 0, "it has left")  # type: ignore[union-attr]
    assert [line for line in lines if line["log_level"] == "error"] == []


async def test_a_flood_of_resets_cancels_nobody_elses_call(served: Served) -> None:
    wanted = request_fields(b"/tokenrelay.v1.ModelService/ListModels")  # the same, since gRPC has a line for each method
    async with RawConnection(served.gateway.target) as flood, RawConnection(served.gateway.target) as good:
        # All in one go, so that this loop, which is the gateway's too, takes none before all have come.
        for _ in range(4000):
            stream, _ = flood.begin(wanted)
            flood.reset(stream)
        calls = [good.begin(wanted, message(b""))[1] for _ in range(50)]
        answers = await asyncio.wait_for(asyncio.gather(*calls), 2 * PATIENCE)
    assert [answer.status for answer in answers] == [0] * 50


async def test_a_request_that_does_not_arrive_is_not_waited_for(served: Served) -> None:
    gateway = await served.stack.add_gateway(request_seconds=0.2)
    async with RawConnection(gateway.target) as connection:
        _, nothing = connection.begin(request_fields(SERVICE + b"GenerateStream"))
        stream, half = connection.begin(request_fields(SERVICE + b"Generate"))
        connection.send(frame(Frame.DATA, 0, stream, message(GOOD)[:9]))
        answers = await asyncio.wait_for(asyncio.gather(nothing, half), PATIENCE)
    assert {(answer.status, answer.text) for answer in answers} == {(INVALID, "the request did not arrive within 0.2 s")}


async def test_calls_beyond_the_limit_are_told_to_come_back(served: Served) -> None:
    gateway = await served.stack.add_gateway(max_calls=2)
    await served.stack.wait_until_served(gateway)
    stub = served.stack.stub(gateway)
    calls = await endless_streams(stub, 2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Generate(s.GenerateRequest(spec=spec()))
    error = caught.value
    assert (error.code(), reason(error)) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
    assert error.details() == "too many open calls (limit 2)"
    status = status_pb2.Status.FromString(dict(error.trailing_metadata() or ())["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    calls[0].cancel()

    async def there_is_room() -> bool:
        try:
            await stub.Generate(s.GenerateRequest(spec=spec()))
        except grpc.aio.AioRpcError as refused:
            assert refused.code() == grpc.StatusCode.UNAVAILABLE
            return False
        return True

    await eventually(there_is_room, "a place has become free")
    calls[1].cancel()


async def test_connections_beyond_the_limit_are_closed_at_once(stack: Stack) -> None:
    gateway = await stack.add_gateway(max_connections=2)
    async with RawConnection(gateway.target) as one, RawConnection(gateway.target) as two:
        for connection in (one, two):
            await asyncio.wait_for(connection.call(request_fields(b"/a/b"), message(b"")), PATIENCE)
        async with RawConnection(gateway.target) as three:
            assert await three.wait_until_closed(PATIENCE)
        assert one.is_open
        assert two.is_open


HELLO = PREFACE + frame(Frame.SETTINGS, 0, 0)
HALF_A_CALL = frame(Frame.HEADERS, END_HEADERS, 1, header_block(request_fields(b"/grpc.health.v1.Health/Watch")))


@pytest.mark.parametrize(
    ("said", "keepalive_seconds"),
    [
        (b"", 60.0),
        (PREFACE[:7], 60.0),
        (PREFACE, 60.0),
        (HELLO, 60.0),
        (HELLO + frame(Frame.SETTINGS, ACK, 0), 0.5),
        (HELLO + frame(Frame.SETTINGS, ACK, 0) + HALF_A_CALL, 0.5),
    ],
    ids=[
        "nothing",
        "half a greeting",
        "a greeting",
        "no receipt of settings",
        "no answer to pings",
        "half a call and no answer",
    ],
)
async def test_who_connects_and_does_not_answer_is_cut_off(stack: Stack, said: bytes, keepalive_seconds: float) -> None:
    if stack.edge == "envoy":  # which waits for the first bytes alone; what follows them has the time of a ping's answer
        keepalive_seconds = 0.5
    gateway = await stack.add_gateway(keepalive_seconds=keepalive_seconds, header_seconds=0.5)
    connection = RawConnection(gateway.target, polite=False)
    await connection.open(preface=False)
    try:
        connection.send(said)
        assert await connection.wait_until_closed(PATIENCE)
    finally:
        await connection.close()


async def test_an_idle_connection_is_closed_and_its_client_connects_again(stack: Stack) -> None:
    gateway = await stack.add_gateway(idle_connection_seconds=0.3)
    stub: Any = model_service_pb2_grpc.ModelServiceStub(stack.channel(gateway))
    await stub.ListModels(model_service_pb2.ListModelsRequest())
    async with RawConnection(gateway.target) as connection:
        assert await connection.wait_until_closed(PATIENCE)
    await stub.ListModels(model_service_pb2.ListModelsRequest())


async def test_refused_requests_leave_nothing_in_redis(served: Served, client: Redis) -> None:
    await read(served.stub.GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=1))))
    keys = set(await client.keys())
    for body in (b"", message(b"\xff\xff"), message(GOOD)[:5], message(b""), message(GOOD, flag=1)):
        for method in (b"Generate", b"GenerateStream", b"SubmitGeneration"):
            assert (await send(served.gateway, SERVICE + method, body)).status not in (0, 2, None)
    assert set(await client.keys()) == keys


HOLES = """
import ctypes, sys
from pathlib import Path
from gateway import memory
if sys.argv[1] == "bounded":
    memory.give_back()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
def take(size):
    place = libc.malloc(size)
    ctypes.memset(place, 1, size)
    return place
before = resident()
libc.free(take(20_000_000))
large = []
for _ in range(10):
    large.append(take(4_000_000))
    take(100_000)  # stays, and keeps what lies before it from being given back
for place in large:
    libc.free(place)
print(resident() - before)
"""


@pytest.mark.parametrize(("bounds", "is_given_back"), [("bounded", True), ("unbounded", False)])
def test_what_large_requests_took_is_given_back(bounds: str, is_given_back: bool) -> None:
    done = subprocess.run([sys.executable, "-c", HOLES, bounds], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (int(done.stdout) < 8_000_000) is is_given_back, f"{done.stdout} of 40,000,000 bytes are still there"
