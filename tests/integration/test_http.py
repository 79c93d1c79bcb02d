"""What the Envoy edge answers to those who do not speak gRPC, over both versions of HTTP, and over gRPC to bad paths."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator

import grpc
import httpx
import pytest

from tests.integration.conftest import spec
from tests.support import stack as stacks
from tests.support.gateway_process import GatewayProcess
from tests.support.redis_server import RedisServer
from tests.support.stack import MODEL, Stack
from tests.support.waiting import eventually
from tokenrelay.v1 import generation_service_pb2 as s

GENERATE = "/tokenrelay.v1.GenerationService/Generate"
HANDSHAKE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
    "sec-websocket-version": "13",
}
PAGE = "https://chat.example.com"


@pytest.fixture
async def stack(own_redis: RedisServer) -> AsyncIterator[Stack]:
    """One kind of server, since nothing here is Redis' doing."""
    async with stacks.opened(own_redis.url, "envoy") as opened:
        yield opened


@pytest.fixture
async def gateway(stack: Stack) -> GatewayProcess:
    return await stack.add_gateway_process(cors_origins=f"{PAGE},http://127.0.0.1:8000", max_message_bytes=100_000)


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
async def client(request: pytest.FixtureRequest, gateway: GatewayProcess) -> AsyncIterator[httpx.AsyncClient]:
    is_2 = request.param == "HTTP/2"
    address = f"http://{gateway.target}"
    async with httpx.AsyncClient(base_url=address, http1=not is_2, http2=is_2, trust_env=False, timeout=60) as opened:
        yield opened
        assert (await opened.get("/healthz")).http_version == request.param


def code_of(answer: httpx.Response) -> str:
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["code"])


async def test_models_and_health(stack: Stack, client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models")).json() == {"object": "list", "data": []}
    await stack.add_worker(await stack.add_engine())
    model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "tokenrelay"}

    async def is_listed() -> bool:
        return bool((await client.get("/v1/models")).json() == {"object": "list", "data": [model]})

    await eventually(is_listed, "the worker's model is listed")
    health = await client.get("/healthz")
    assert (health.status_code, health.text) == (200, "ok\n")


async def test_refusals(client: httpx.AsyncClient) -> None:
    nowhere = await client.get("/v1/nowhere")
    assert (nowhere.status_code, code_of(nowhere)) == (404, "not_found")
    posted = await client.post("/v1/models", content=b"x" * 50_000)
    assert (posted.status_code, posted.headers["allow"], code_of(posted)) == (405, "GET, HEAD, OPTIONS", "method_not_allowed")
    large = await client.post("/v1/models", content=b"x" * 150_000)
    assert (large.status_code, code_of(large)) == (413, "message_too_large")
    got = await client.get(GENERATE)
    assert (got.status_code, got.headers["allow"]) == (405, "POST")
    for content_type in ("application/json", "application/grpc+json"):
        wrong = await client.post(GENERATE, content=b"{}", headers={"content-type": content_type})
        assert (wrong.status_code, code_of(wrong)) == (415, "unsupported_media_type")


async def test_a_body_whose_size_nobody_tells_is_bounded_too(client: httpx.AsyncClient) -> None:
    async def large() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b"x" * 10_000

    try:
        answer = await client.post("/v1/models", content=large())
    except httpx.TransportError:
        return  # what is still being sent when the answer is there may break the connection
    assert answer.status_code in (405, 413)


async def test_head_and_options(client: httpx.AsyncClient) -> None:
    whole = await client.get("/v1/models")
    head = await client.head("/v1/models")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]
    options = await client.options("/v1/models")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


async def test_a_path_that_is_no_utf8_is_answered(stack: Stack, gateway: GatewayProcess, client: httpx.AsyncClient) -> None:
    for path in ("/%ff", "/v1/%c0%80"):
        answer = await client.get(path)
        assert (answer.status_code, code_of(answer)) == (404, "not_found")
    with pytest.raises(grpc.aio.AioRpcError, match="Method not found!") as caught:
        await stack.channel(gateway).unary_unary(path, request_serializer=bytes)(b"", timeout=60)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_websocket_is_refused(gateway: GatewayProcess) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        for path in ("/v1/models", "/v1/realtime"):
            answer = await client.get(f"http://{gateway.target}{path}", headers=HANDSHAKE)
            assert (answer.status_code, code_of(answer)) == (404, "not_found")


async def exchange(gateway: GatewayProcess, sent: bytes) -> bytes:
    """Sends bytes over a connection of their own; returns what comes until the gateway closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(sent)
    got = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    await writer.wait_closed()
    return got


async def test_what_is_no_http_is_told(gateway: GatewayProcess) -> None:
    got = await exchange(gateway, b"GARBAGE\r\n\r\n")
    assert b" 400 " in got
    assert b'"code": "malformed_request"' in got
    got = await exchange(gateway, b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 100_000 + b"\r\n\r\n")
    assert b" 431 " in got
    assert b'"code": "headers_too_large"' in got


async def test_load_balancers_may_probe_with_http_1_0(gateway: GatewayProcess) -> None:
    got = await exchange(gateway, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert re.match(rb"HTTP/1.[01] 200 OK", got)
    assert got.endswith(b"\r\n\r\nok\n")


async def test_a_request_that_stays_incomplete_is_answered(gateway: GatewayProcess) -> None:
    got = await exchange(gateway, b"POST /v1/models HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc")
    assert b" 405 " in got


async def preflight(client: httpx.AsyncClient, origin: str, path: str = GENERATE) -> httpx.Response:
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-grpc-web"}
    return await client.options(path, headers={"origin": origin, **asked})


async def test_pages_of_a_named_origin_may_call(client: httpx.AsyncClient) -> None:
    allowed = await preflight(client, PAGE)
    assert allowed.status_code == 200
    headers = {name: value for name, value in allowed.headers.items() if name.startswith("access-control-")}
    assert headers["access-control-allow-origin"] == PAGE
    assert {"content-type", "x-grpc-web", "grpc-timeout"} <= set(headers["access-control-allow-headers"].split(", "))
    assert "POST" in headers["access-control-allow-methods"]
    assert headers["access-control-max-age"] == "7200"
    models = await client.get("/v1/models", headers={"origin": PAGE})
    assert models.headers["access-control-allow-origin"] == PAGE
    exposed = set(models.headers["access-control-expose-headers"].split(", "))
    assert {"grpc-status", "grpc-message", "grpc-status-details-bin", "tokenrelay-generation-id"} <= exposed
    refused = await client.get("/%ff", headers={"origin": PAGE})
    assert refused.headers["access-control-allow-origin"] == PAGE


async def test_pages_of_other_origins_may_not(client: httpx.AsyncClient) -> None:
    for origin in ("https://chat.example.com.evil", "http://chat.example.com", "null", f"{PAGE}:8443"):
        answers = [await preflight(client, origin), await client.get("/v1/models", headers={"origin": origin})]
        assert [name for answer in answers for name in answer.headers if name.startswith("access-control-")] == []


async def test_without_the_setting_no_page_may_call(stack: Stack) -> None:
    gateway = await stack.add_gateway_process()
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.get(f"http://{gateway.target}/v1/models", headers={"origin": PAGE})
        assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (200, None)


async def test_a_draining_gateway_says_so(stack: Stack) -> None:
    await stack.add_worker(await stack.add_engine())
    gateway = await stack.add_gateway_process(drain_seconds=60.0)
    await stack.wait_until_served(gateway)
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        call = stack.stub(gateway).GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=100_000)))
        await call.initial_metadata()
        draining = asyncio.create_task(gateway.drain())

        async def says_so() -> bool:
            health = await client.get(f"http://{gateway.target}/healthz")
            return (health.status_code, health.text) == (503, "draining\n")

        await eventually(says_so, "it says that it is draining")
        call.cancel()
        await draining


async def test_a_redis_that_does_not_answer_is_told(own_redis: RedisServer, stack: Stack) -> None:
    gateway = await stack.add_gateway_process()
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        own_redis.signal(signal.SIGSTOP)
        address = f"http://{gateway.target}"

        async def says_so() -> bool:
            health = await client.get(f"{address}/healthz")
            return (health.status_code, health.text) == (503, "redis does not answer\n")

        await eventually(says_so, "it says that Redis does not answer")
        models = await client.get(f"{address}/v1/models")
        assert (models.status_code, code_of(models), models.headers["retry-after"]) == (503, "store_unavailable", "1")
        own_redis.signal(signal.SIGCONT)
