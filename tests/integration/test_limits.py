"""What one client may take of a gateway, on either edge: headers, time, a connection's age, and answers that it does not read.

Limits on connections, streams and calls stand in test_hostile.py and test_standard_services.py.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from drills.raw_http2.connection import RawConnection
from drills.raw_http2.frames import PREFACE, Frame, frame, header_block, message, request_fields
from gateway.edge.envoy_admin import Admin
from tests.integration.conftest import spec
from tests.integration.test_calls import reason
from tests.integration.test_hostile import PATIENCE, SERVICE
from tests.integration.test_tls import AUTHORITY
from tests.support import stack as stacks
from tests.support.certificates import DAY, Files
from tests.support.redis_server import RedisServer
from tests.support.stack import Edge, Stack
from tests.support.waiting import eventually
from tokenrelay.v1 import generation_service_pb2 as s
from tokenrelay.v1 import model_service_pb2, model_service_pb2_grpc


@pytest.fixture
async def stack(own_redis: RedisServer, edge: Edge) -> AsyncIterator[Stack]:
    """A stack on one kind of Redis; limits do not depend on it."""
    async with stacks.opened(own_redis.url, edge) as opened:
        yield opened


@asynccontextmanager
async def served(target: str) -> AsyncIterator[None]:
    """Waits until a gateway knows of a worker."""
    async with grpc.aio.insecure_channel(target) as channel:

        async def has_a_model() -> bool:
            return bool((await list_models(channel)).models)

        await eventually(has_a_model, "the worker is seen")
    yield


async def list_models(channel: grpc.aio.Channel, *headers: tuple[str, str]) -> Any:
    stub: Any = model_service_pb2_grpc.ModelServiceStub(channel)
    return await stub.ListModels(model_service_pb2.ListModelsRequest(), metadata=headers, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ([("x-large", "x" * 3000)], r"the request's headers have 3\d\d\d bytes; at most 2048 are allowed"),
        ([(f"x-{number}", "") for number in range(50)], r"the request has 5\d headers; at most 40 are allowed"),
    ],
    ids=["bytes", "number"],
)
async def test_a_request_with_too_much_in_its_headers_is_refused(
    stack: Stack, headers: list[tuple[str, str]], said: str
) -> None:
    gateway = await stack.add_gateway(max_header_bytes=2048, max_headers=40)
    async with grpc.aio.insecure_channel(gateway.target) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match=said) as caught:
            await list_models(channel, *headers)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason(caught.value) == "HEADERS_TOO_LARGE"
        await list_models(channel, ("x-good", "x" * 1000), *((f"x-{number}", "") for number in range(20)))


@pytest.mark.edge("envoy")
@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
async def test_too_much_in_the_headers_of_http_is_refused(stack: Stack, http2: bool) -> None:
    gateway = await stack.add_gateway(max_header_bytes=2048, max_headers=40)
    async with httpx.AsyncClient(http1=not http2, http2=http2, trust_env=False, timeout=PATIENCE) as client:
        url = f"http://{gateway.target}/healthz"
        for headers in ({"x-large": "x" * 3000}, {f"x-{number}": "" for number in range(50)}):
            answer = await client.get(url, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (431, "headers_too_large")
        assert (await client.get(url)).status_code == 200


async def test_headers_far_beyond_the_limit_end_their_call_alone(stack: Stack) -> None:
    path = b"/tokenrelay.v1.ModelService/ListModels"
    gateway = await stack.add_gateway(max_header_bytes=2048)
    async with RawConnection(gateway.target) as connection:
        large = connection.call(request_fields(path, (b"x-large", b"x" * 15_000)), message(b""))
        answer = await asyncio.wait_for(large, PATIENCE)
        assert answer.status not in (0, None) or answer.reset is not None
        assert (await asyncio.wait_for(connection.call(request_fields(path), message(b"")), PATIENCE)).status == 0


async def test_headers_that_do_not_arrive_are_not_waited_for(stack: Stack) -> None:
    # gRPC's own server has no time for headers, but between the halves of a request's no ping can be answered either.
    limits = {"header_seconds": 0.5} if stack.edge == "envoy" else {"keepalive_seconds": 0.5}
    half = frame(Frame.HEADERS, 0, 1, header_block(request_fields(SERVICE + b"Generate")))
    gateway = await stack.add_gateway(**limits)
    connection = RawConnection(gateway.target, polite=False)
    await connection.open(preface=False)
    try:
        connection.send(PREFACE + frame(Frame.SETTINGS, 0, 0) + half)
        assert await connection.wait_until_closed(PATIENCE)
    finally:
        await connection.close()


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "half a greeting"])
async def test_who_does_not_finish_a_tls_handshake_is_cut_off(stack: Stack, tmp_path: Path, said: bytes) -> None:
    files = Files.holding(tmp_path, AUTHORITY.server(DAY), AUTHORITY)
    gateway = await stack.add_gateway(header_seconds=0.5, **files.settings)
    reader, writer = await asyncio.open_connection(*gateway.target.split(":"))
    writer.write(said)
    with suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
    writer.close()


@pytest.mark.edge("envoy")  # what has come of a request lies in gRPC's own server there, which has no such bound
async def test_requests_that_are_not_whole_yet_count_among_all_requests(stack: Stack) -> None:
    large = message(s.SubmitGenerationRequest(spec=spec("x" * 60_000)).SerializeToString())
    gateway = await stack.add_gateway_process(max_request_bytes=100_000)
    async with RawConnection(gateway.target) as connection:
        slow, _ = connection.begin(request_fields(SERVICE + b"SubmitGeneration"))
        for start in range(0, 50_000, 10_000):
            connection.send(frame(Frame.DATA, 0, slow, large[start : start + 10_000]))

        async def is_refused() -> bool:
            async with RawConnection(gateway.target) as other:
                answer = await asyncio.wait_for(other.call(request_fields(SERVICE + b"SubmitGeneration"), large), PATIENCE)
            return answer.text == "too many bytes of requests in flight (limit 100000)"

        await eventually(is_refused, "the bytes of the first request count")
        connection.reset(slow)

        async def is_taken() -> bool:
            return not await is_refused()

        await eventually(is_taken, "they are free again")


async def test_an_old_connection_is_left_for_a_new_one_and_its_stream_ends_well(stack: Stack) -> None:
    await stack.add_worker(await stack.add_engine(simulated_step_ms=10.0))
    long = message(s.GenerateStreamRequest(spec=spec(max_tokens=300)).SerializeToString())
    gateway = await stack.add_gateway(max_connection_seconds=1.0)
    async with served(gateway.target), RawConnection(gateway.target) as old:
        _, whole = old.begin(request_fields(SERVICE + b"GenerateStream"), long)
        await asyncio.wait_for(old.sent_away.wait(), PATIENCE)
        assert not whole.done()
        answer = await asyncio.wait_for(whole, PATIENCE)
        assert (answer.status, answer.cut) == (0, False)
        assert await old.wait_until_closed(PATIENCE)


@pytest.mark.edge("envoy")
async def test_an_old_connection_of_http_1_closes_with_an_answer(stack: Stack) -> None:
    gateway = await stack.add_gateway(max_connection_seconds=0.5)
    connection = HTTPConnection(gateway.target, timeout=PATIENCE)

    def is_last() -> bool:
        connection.request("GET", "/")
        with connection.getresponse() as answer:
            assert answer.read()
            return answer.getheader("connection") == "close"

    with closing(connection):
        await eventually(lambda: asyncio.to_thread(is_last), "an answer says that it is the last one")


@pytest.mark.edge("envoy")
async def test_envoy_keeps_little_for_a_client_that_does_not_read(stack: Stack) -> None:
    window = 65_535
    await stack.add_worker(await stack.add_engine(simulated_step_ms=0.0))
    endless = message(s.GenerateStreamRequest(spec=spec(max_tokens=100_000)).SerializeToString())
    gateway = await stack.add_gateway_process(stream_window_bytes=window)
    async with served(gateway.target), RawConnection(gateway.target, window=1000) as connection:
        admin = Admin(gateway.folder() / "admin.sock")
        connection.begin(request_fields(SERVICE + b"GenerateStream"), endless)

        async def kept() -> int:
            return int((await admin.statistics("http2.pending_send_bytes"))["http2.pending_send_bytes"])

        async def is_full() -> bool:
            return await kept() >= window

        await eventually(is_full, "Envoy keeps as much as it may")
        assert await kept() < 2 * window  # the last message may lie across the bound
