"""What a process exports, and what it says of the collector that it exports to."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.trace import SpanKind

from gateway.settings import GatewaySettings
from tokenrelay import settings, telemetry

Requests = SimpleQueue[tuple[trace_service_pb2.ExportTraceServiceRequest, dict[str, str]]]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SPANS = 1300  # more than two full batches


@contextmanager
def grpc_collector(requests: Requests) -> Iterator[int]:
    class Servicer(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]  # the package has no types
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802  # gRPC names it
            requests.put((request, dict(context.invocation_metadata())))
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


@contextmanager
def http_collector(requests: Requests) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            assert self.headers["Content-Type"] == "application/x-protobuf"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            requests.put((trace_service_pb2.ExportTraceServiceRequest.FromString(body), headers))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("protocol", "collector"), [("grpc", grpc_collector), ("http/protobuf", http_collector)], ids=["grpc", "http"]
)
def test_what_waits_is_exported_when_the_process_ends(
    protocol: str, collector: Callable[[Requests], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: Requests = SimpleQueue()
    with collector(requests) as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cret")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
        tracing = telemetry.set_up("gateway", "g1", settings.load(GatewaySettings))
        parent = telemetry.context_of(TRACEPARENT)
        for number in range(SPANS):
            tracing.past_span(f"span {number}", number, number + 1, parent=parent, attributes={"number": number})
        tracing.shut_down()
    names = []
    while not requests.empty():
        request, headers = requests.get()
        assert headers["api-key"] == "s3cret"
        (of_resource,) = request.resource_spans
        resource = {one.key: one.value.string_value for one in of_resource.resource.attributes}
        assert (resource["service.name"], resource["service.instance.id"]) == ("gateway", "g1")
        assert resource["deployment.environment"] == "test"
        (of_scope,) = of_resource.scope_spans
        assert of_scope.scope.name == "tokenrelay"
        names += [span.name for span in of_scope.spans]
        assert {span.trace_id.hex() for span in of_scope.spans} == {TRACEPARENT.split("-")[1]}
        assert {span.parent_span_id.hex() for span in of_scope.spans} == {TRACEPARENT.split("-")[2]}
    assert names == [f"span {number}" for number in range(SPANS)]


def test_nothing_is_set_up_without_an_endpoint() -> None:
    tracing = telemetry.set_up("gateway", "g1", GatewaySettings())
    assert not tracing.enabled
    assert not tracing.span("x", kind=SpanKind.SERVER).is_recording()


@pytest.mark.parametrize("set_up", [telemetry.set_up, telemetry.provider])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("headers", ["api-key s3cret", "API KEY=s3cret", "api-key=s3cret\x01"])
def test_a_malformed_header_is_told_without_its_value(
    set_up: Callable[..., Any], headers: str, protocol: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
    made = set_up("gateway", "test", settings.load(GatewaySettings))
    (made.shut_down if isinstance(made, telemetry.Tracing) else made.shutdown)()
    assert "OTEL_EXPORTER_OTLP_HEADERS" in caplog.text
    assert "s3cret" not in caplog.text
