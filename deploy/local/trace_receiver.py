"""A small OTLP receiver: keeps the last traces, and gives them out as Jaeger's query API does.

It stands in for Jaeger where there is no Docker.
"""

import argparse
import asyncio
import json
import threading
from base64 import b64decode
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

KEPT_TRACES = 1000


class Traces(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]  # the package has no types
    """The last traces, by id."""

    def __init__(self) -> None:
        self._spans: OrderedDict[str, list[tuple[resource_pb2.Resource, trace_pb2.Span]]] = OrderedDict()
        self._lock = threading.Lock()

    async def Export(  # noqa: N802  # gRPC names it
        self,
        request: trace_service_pb2.ExportTraceServiceRequest,
        context: Any,  # noqa: ARG002
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        with self._lock:
            for described in request.resource_spans:
                resource = described.resource
                for scope in described.scope_spans:
                    for span in scope.spans:
                        self._spans.setdefault(span.trace_id.hex(), []).append((resource, span))
            while len(self._spans) > KEPT_TRACES:
                self._spans.popitem(last=False)
        return trace_service_pb2.ExportTraceServiceResponse()

    def as_json(self, trace_id: str) -> dict[str, Any] | None:
        """Returns a trace as OTLP's JSON, whose ids are hexadecimal; None if it is not kept."""
        with self._lock:
            kept = list(self._spans.get(trace_id, ()))
        if not kept:
            return None
        traces = MessageToDict(trace_pb2.TracesData(resource_spans=[_alone(resource, span) for resource, span in kept]))
        for resource in traces["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    for name in ("traceId", "spanId", "parentSpanId"):
                        if name in span:
                            span[name] = b64decode(span[name]).hex()
        return {"result": traces}


def _alone(resource: resource_pb2.Resource, span: trace_pb2.Span) -> trace_pb2.ResourceSpans:
    """Returns a span with what it is of."""
    return trace_pb2.ResourceSpans(resource=resource, scope_spans=[trace_pb2.ScopeSpans(spans=[span])])


def serve_queries(traces: Traces, host: str, port: int) -> ThreadingHTTPServer:
    """Answers GET /api/v3/traces/<id> on a thread of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the base class names it
            prefix, _, trace_id = self.path.rpartition("/")
            found = traces.as_json(trace_id) if prefix == "/api/v3/traces" else None
            body = json.dumps(found or {"error": "no such trace"}).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it
            """Logs nothing."""

    server = ThreadingHTTPServer((host, port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


async def serve(host: str, otlp_port: int, query_port: int) -> None:
    """Receives and answers until cancelled."""
    traces = Traces()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(traces, server)
    server.add_insecure_port(f"{host}:{otlp_port}")
    await server.start()
    queries = serve_queries(traces, host, query_port)
    try:
        await server.wait_for_termination()
    finally:
        queries.shutdown()
        await server.stop(None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--otlp-port", type=int, default=4317)
    parser.add_argument("--query-port", type=int, default=16686)
    options = parser.parse_args()
    asyncio.run(serve(options.host, options.otlp_port, options.query_port))
