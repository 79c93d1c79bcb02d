"""The clients of the other servers count every token once, whatever pieces they come in."""

import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from smg_grpc_proto import vllm_engine_pb2 as v
from smg_grpc_proto import vllm_engine_pb2_grpc

from bench.load.measuring import Refused, Sample
from bench.load.workload import Request
from bench.systems.random_model import DEMO
from bench.systems.smg import SmgTarget
from bench.systems.vllm_grpc import VllmGrpcTarget
from bench.systems.vllm_http import CompletionsTarget

REQUEST = Request((300, 301, 302), 4)


def text(piece: str, so_far: int | None = None, reason: str | None = None) -> dict[str, Any]:
    """An event of a completion."""
    event: dict[str, Any] = {"choices": [{"text": piece, "finish_reason": reason}]}
    return event if so_far is None else {**event, "usage": {"completion_tokens": so_far}}


class Completions:
    """A server of one answer."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.status = 200
        self.asked: list[dict[str, Any]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        response = web.StreamResponse(status=self.status, headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in self.events:
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response


@pytest.fixture
async def completions() -> AsyncIterator[tuple[Completions, str]]:
    server, application = Completions(), web.Application()
    application.router.add_post("/v1/completions", server.answer)
    async with TestServer(application) as running:
        yield server, str(running.make_url("")).rstrip("/")


async def test_of_vllm_s_http_server_merged_chunks_count_with_all_their_tokens(completions: tuple[Completions, str]) -> None:
    server, url = completions
    server.events = [text(" a", 1), text(" b c", 3), text("", 3), text(" d", 4, "length"), {"choices": [], "usage": None}]
    target, sample = CompletionsTarget(url, "bench"), Sample(0.0)
    await target.run(REQUEST, sample)
    await target.close()
    assert [tokens for _, tokens in sample.chunks] == [1, 2, 1]
    assert server.asked[0]["prompt"] == [300, 301, 302]
    assert (server.asked[0]["max_tokens"], server.asked[0]["ignore_eos"]) == (4, True)


async def test_of_smg_merged_events_are_made_good_at_the_end(completions: tuple[Completions, str]) -> None:
    server, url = completions
    usage = {"choices": [], "usage": {"completion_tokens": 4}}
    server.events = [text(" a"), text(" b c d"), text("", reason="length"), usage]
    target, sample, silent = SmgTarget(url, str(DEMO)), Sample(0.0), Sample(0.0)
    await target.run(REQUEST, sample)
    server.events = [text("", reason="length"), usage]
    await target.run(REQUEST, silent)
    await target.close()
    assert [tokens for _, tokens in sample.chunks] == [1, 3]
    assert [tokens for _, tokens in silent.chunks] == [4], "tokens without text"
    assert isinstance(server.asked[0]["prompt"], str), "it takes no token ids"


async def test_a_refusal_is_told_by_its_status(completions: tuple[Completions, str]) -> None:
    server, url = completions
    server.status = 503
    target = CompletionsTarget(url, "bench")
    with pytest.raises(Refused, match="HTTP 503"):
        await target.run(REQUEST, Sample(0.0))
    await target.close()


class Engine(vllm_engine_pb2_grpc.VllmEngineServicer):  # type: ignore[misc]  # untyped
    """A servicer of one answer, whose last message repeats what came last."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.asked.append(request)
        if not request.tokenized.input_ids:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no prompt")
        for ids in ([7], [8, 9, 10]):
            yield v.GenerateResponse(chunk=v.GenerateStreamChunk(token_ids=ids))
        yield v.GenerateResponse(complete=v.GenerateComplete(output_ids=[8, 9, 10]))


async def test_of_vllm_s_grpc_server_chunks_count_and_the_last_message_does_not() -> None:
    servicer, server = Engine(), grpc.aio.server()
    vllm_engine_pb2_grpc.add_VllmEngineServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    target, sample = VllmGrpcTarget(f"127.0.0.1:{port}"), Sample(0.0)
    await target.run(REQUEST, sample)
    with pytest.raises(Refused, match="INVALID_ARGUMENT"):
        await target.run(Request((), 4), Sample(0.0))
    await target.close()
    await server.stop(None)
    assert [tokens for _, tokens in sample.chunks] == [1, 3]
    asked = servicer.asked[0]
    assert list(asked.tokenized.input_ids) == [300, 301, 302]
    assert (asked.stream, asked.sampling_params.max_tokens, asked.sampling_params.ignore_eos) == (True, 4, True)
