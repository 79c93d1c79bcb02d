"""One trace with a span for every hop, metrics that count, and one log line a generation."""

import asyncio
import json
import socket
import urllib.error
import urllib.request
from collections.abc import AsyncIterator

import grpc
import pytest
import structlog
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from deploy.local.trace_receiver import Traces, serve_queries
from tests.integration.conftest import Served, spec
from tests.integration.test_calls import read
from tests.support.stack import Stack
from tests.support.waiting import eventually
from tokenrelay.client.command_line.traces import TraceSpan, fetch
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s

PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
TRACE = "0123456789abcdef0123456789abcdef"
SERVER = "tokenrelay.v1.GenerationService/GenerateStream"
TREE = {
    SERVER: None,
    "send tokenrelay:{0}:jobs:simulated-test": SERVER,
    "queue wait": "send tokenrelay:{0}:jobs:simulated-test",
    "process tokenrelay:{0}:jobs:simulated-test": "send tokenrelay:{0}:jobs:simulated-test",
    "dispatch": "process tokenrelay:{0}:jobs:simulated-test",
    "engine queue": "process tokenrelay:{0}:jobs:simulated-test",
    "prefill": "process tokenrelay:{0}:jobs:simulated-test",
    "decode": "process tokenrelay:{0}:jobs:simulated-test",
    "append": "process tokenrelay:{0}:jobs:simulated-test",
    "relay": SERVER,
}


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """A real OTLP receiver to which everything that starts now exports; yields where it is asked."""
    traces = Traces()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(traces, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    queries = serve_queries(traces, "127.0.0.1", 0)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    yield f"http://127.0.0.1:{queries.server_port}"
    queries.shutdown()
    queries.server_close()
    await server.stop(None)


async def spans_of(url: str, trace_id: str, wanted: set[str]) -> list[TraceSpan]:
    found: list[TraceSpan] = []

    async def complete() -> bool:
        nonlocal found
        try:
            found = await asyncio.to_thread(fetch, url, trace_id)
        except Exception:
            return False
        return wanted <= {span.name for span in found}

    await eventually(complete, f"the spans {wanted} have been exported")
    return found


async def test_a_request_is_one_trace_with_a_span_for_every_hop(receiver: str, stack: Stack) -> None:
    await stack.add_worker(await stack.add_engine())
    gateway = await stack.add_gateway()
    await stack.wait_until_served(gateway)
    call = stack.stub(gateway).GenerateStream(s.GenerateStreamRequest(spec=spec()), metadata=(("traceparent", PARENT),))
    events = await read(call)
    assert events[-1].finished.trace_id == TRACE
    assert dict(await call.initial_metadata())["tokenrelay-trace-id"] == TRACE

    spans = await spans_of(receiver, TRACE, set(TREE))
    names = {span.span_id: span.name for span in spans}
    assert {span.name: names.get(span.parent_id) for span in spans} == TREE
    by_name = {span.name: span for span in spans}
    root = by_name[SERVER]
    assert root.parent_id == "0123456789abcdef", "the client's span"
    assert {span.service for span in spans} == {"gateway", "worker", "engine"}
    for span in spans:
        assert span.start_ns <= span.end_ns
        assert root.start_ns - 5_000_000 <= span.start_ns <= span.end_ns <= root.end_ns + 5_000_000, span.name
    assert not any(span.failed for span in spans)
    process = by_name["process tokenrelay:{0}:jobs:simulated-test"].attributes
    assert process["gen_ai.usage.output_tokens"] == "20"
    assert process["messaging.consumer.group.name"] == "workers"
    assert "hello" not in json.dumps([span.attributes for span in spans]), "prompts do not enter spans"
    hops = {hop.kind: hop.duration.ToMicroseconds() for hop in events[-1].finished.timings.hops}
    decode = by_name["decode"]
    assert abs((decode.end_ns - decode.start_ns) / 1000 - hops[g.HOP_KIND_DECODE]) < 1000, "spans and hops tell the same"


async def test_content_is_told_only_if_a_setting_says_so(receiver: str, stack: Stack) -> None:
    await stack.add_worker(await stack.add_engine(), log_content=True)
    gateway = await stack.add_gateway()
    await stack.wait_until_served(gateway)
    request = s.GenerateRequest(spec=spec("a secret"))
    with structlog.testing.capture_logs() as lines:
        answer = await stack.stub(gateway).Generate(request, metadata=(("traceparent", PARENT),))
        (line,) = [line for line in lines if line["event"] == "generation ended"]
    text = answer.generation.choices[0].text
    assert json.loads(line["prompt"])["text"] == "a secret"
    assert json.loads(line["output"]) == {"0": text}
    spans = await spans_of(receiver, TRACE, {"process tokenrelay:{0}:jobs:simulated-test"})
    (process,) = [span for span in spans if span.name.startswith("process")]
    assert json.loads(process.attributes["tokenrelay.output"]) == {"0": text}


async def test_a_cancelled_stream_is_no_success(receiver: str, stack: Stack) -> None:
    await stack.add_worker(await stack.add_engine())
    gateway = await stack.add_gateway()
    await stack.wait_until_served(gateway)
    request = s.GenerateStreamRequest(spec=spec(max_tokens=100_000))
    call = stack.stub(gateway).GenerateStream(request, metadata=(("traceparent", PARENT),))
    async for response in call:
        if response.event.HasField("delta"):
            break
    call.cancel()
    spans = {span.name: span for span in await spans_of(receiver, TRACE, {SERVER})}
    server = spans[SERVER]
    assert server.failed
    assert server.attributes["rpc.response.status_code"] == "CANCELLED"


async def test_a_client_s_trace_is_kept_even_when_nothing_is_exported(served: Served) -> None:
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=spec()), metadata=(("traceparent", PARENT),))
    assert (await read(call))[-1].finished.trace_id == TRACE


async def scrape(port: int, path: str = "/metrics") -> tuple[int, str]:
    def get() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    return await asyncio.to_thread(get)


def free_ports() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_every_process_has_metrics_and_a_health_check(stack: Stack) -> None:
    ports = [free_ports() for _ in range(3)]
    engine = await stack.add_engine(metrics_port=ports[0])
    worker = await stack.add_worker(engine, metrics_port=ports[1])
    gateway = await stack.add_gateway(metrics_port=ports[2])
    await stack.wait_until_served(gateway)
    await read(stack.stub(gateway).GenerateStream(s.GenerateStreamRequest(spec=spec())))
    await stack.stub(gateway).Generate(s.GenerateRequest(spec=spec()))
    texts = [(await scrape(port))[1] for port in ports]
    assert "tokenrelay_engine_tokens_total" in texts[0]
    for line in (
        'gen_ai_server_time_to_first_token_seconds_count{gen_ai_request_model="simulated-test"} 2.0',
        'gen_ai_server_time_per_output_token_seconds_count{gen_ai_request_model="simulated-test"} 2.0',
        'tokenrelay_generations_total{state="FINISHED"} 2.0',
        "tokenrelay_tokens_total 40.0",
        "tokenrelay_running 0.0",
        "messaging_client_consumed_messages_total 2.0",
        'tokenrelay_hop_seconds_count{hop="decode"} 2.0',
        "tokenrelay_takeovers_total 0.0",
        "tokenrelay_append_seconds_count",
        "process_resident_memory_bytes",
    ):
        assert line in texts[1], line
    method = "tokenrelay.v1.GenerationService/GenerateStream"
    for line in (
        f'rpc_server_call_duration_seconds_count{{rpc_method="{method}",rpc_response_status_code="OK"}} 1.0',
        'tokenrelay_queue_generations{model="simulated-test"} 0.0',
        'tokenrelay_queue_age_seconds{model="simulated-test"} 0.0',
        'tokenrelay_workers{model="simulated-test"} 1.0',
        "tokenrelay_followers 0.0",
        "tokenrelay_store_up 1.0",
    ):
        assert line in texts[2], line
    assert [await scrape(port, "/healthz") for port in ports] == [(200, "ok\n")] * 3
    await engine.stop()
    await eventually(lambda: worker.application.work.problem() is not None, "the worker has lost its engine")
    assert await scrape(ports[1], "/healthz") == (503, "no session with the engine service\n")


async def test_refusals_are_counted_by_reason(stack: Stack) -> None:
    port = free_ports()
    gateway = await stack.add_gateway(metrics_port=port)
    with pytest.raises(Exception, match="spec: is required"):
        await stack.stub(gateway).Generate(s.GenerateRequest())
    assert 'tokenrelay_refusals_total{reason="INVALID_REQUEST"} 1.0' in (await scrape(port))[1]


async def test_one_line_tells_all_of_a_finished_generation(served: Served) -> None:
    with structlog.testing.capture_logs() as logs:
        call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=spec()), metadata=(("traceparent", PARENT),))
        events = await read(call)
        await eventually(lambda: any(line["event"] == "generation ended" for line in logs), "it is logged")
    (line,) = [line for line in logs if line["event"] == "generation ended"]
    assert line["generation_id"] == events[0].accepted.generation_id
    assert (line["trace_id"], line["state"], line["completion_tokens"]) == (TRACE, "FINISHED", 20)
    assert (line["attempts"], line["exact"], line["finish_reasons"]) == (1, True, ["length"])
    hops = ("receive", "enqueue", "queue_wait", "claim", "dispatch", "engine_queue", "prefill", "decode", "append")
    assert sum(line[f"{hop}_ms"] for hop in hops) == pytest.approx(line["total_ms"], abs=0.01)
    assert 0 < line["time_to_first_token_ms"] < line["total_ms"]
    assert line["per_output_token_ms"] > 0
    assert "hello" not in json.dumps(line), "prompts do not enter logs"
