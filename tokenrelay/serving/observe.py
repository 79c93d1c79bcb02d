"""The step that opens a call's span, measures and counts the call, and tells cancels apart."""

import asyncio
import time
from typing import Any

import grpc
from google.rpc import code_pb2
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from tokenrelay import calls, conventions, telemetry
from tokenrelay.calls import Call
from tokenrelay.errors import InternalError, TokenrelayError
from tokenrelay.identity.callers import Scope
from tokenrelay.metrics import CallMetrics
from tokenrelay.serving.exchange import CLIENT_GONE, Exchange, Proceed, chosen_code
from tokenrelay.telemetry import Tracing

OK = "OK"


class Observe:
    """Makes the call this task's (see tokenrelay.calls), and records how it went."""

    def __init__(self, tracing: Tracing, metrics: CallMetrics) -> None:
        self._tracing = tracing
        self._metrics = metrics

    async def __call__(self, exchange: Exchange, proceed: Proceed) -> Any:
        call = self._begin(exchange)
        open_calls = self._metrics.open_of(call.method)
        open_calls.inc()
        code, reason = OK, ""
        try:
            return await proceed(exchange)
        except (asyncio.CancelledError, *CLIENT_GONE):
            # To gRPC both are cancels: the client's deadline has passed, or it has left.
            code = "DEADLINE_EXCEEDED" if call.is_past_deadline() else "CANCELLED"
            raise
        except Exception as error:
            code, reason = _code_and_reason(error, exchange.context)
            self._metrics.refusals.labels(reason or code).inc()
            raise
        finally:
            open_calls.dec()
            self._end(call, code, reason)

    def _begin(self, exchange: Exchange) -> Call:
        received_ns = time.monotonic_ns()
        client = _client_context(exchange.context)
        # Not every caller's trace is joined: it decides what is sampled here, and callers could join each other's traces.
        parent = client if Scope.TRACE in exchange.caller.scopes else Context()
        span = self._tracing.span(
            exchange.method,
            parent=parent,
            links=() if parent is client else telemetry.link_to(client),
            kind=SpanKind.SERVER,
            start_ns=telemetry.wall_ns(received_ns) if self._tracing.enabled else None,
            attributes={conventions.RPC_SYSTEM: "grpc", conventions.RPC_METHOD: exchange.method},
        )
        left = exchange.context.time_remaining()
        call = Call(
            method=exchange.method,
            received_ns=received_ns,
            span=span,
            context=telemetry.child_context(span) if self._tracing.enabled else parent,
            deadline_ns=None if left is None else received_ns + round(left * 1e9),
            caller=exchange.caller,
        )
        calls.begin(call)
        return call

    def _end(self, call: Call, code: str, reason: str) -> None:
        self._metrics.duration_of(call.method, code).observe((time.monotonic_ns() - call.received_ns) / 1e9)
        call.span.set_attribute(conventions.RPC_STATUS, code)
        if code != OK:
            telemetry.fail(call.span, reason or code)
        call.span.end()


def _code_and_reason(error: Exception, context: Any) -> tuple[str, str]:
    """Returns what an error will be to the client; see tokenrelay.serving.translate."""
    if isinstance(error, TokenrelayError):
        return code_pb2.Code.Name(error.code), error.reason
    chosen = chosen_code(context)
    if chosen is not None and isinstance(error, NotImplementedError | grpc.aio.AbortError):
        return chosen.name, ""
    return code_pb2.Code.Name(InternalError.code), InternalError.reason


def _client_context(context: Any) -> Context:
    """Returns the trace context that the client sent; empty if it sent none, or none that can be read."""
    found = dict.fromkeys(("traceparent", "tracestate"), "")
    for name, value in context.invocation_metadata() or ():
        if name in found:
            found[name] = value
    return telemetry.context_of(telemetry.joined(found["traceparent"], found["tracestate"]))
