"""The server interceptor: parses requests, opens a call's span, turns errors into statuses, and tells cancels apart.

OpenTelemetry's own gRPC instrumentation is not used: it records a cancelled stream as a success, an abort twice, and
breaks handlers that write by themselves.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, contextmanager
from typing import Any
from uuid import uuid4

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status
from opentelemetry.trace import SpanKind

from tokenrelay import calls, conventions, telemetry
from tokenrelay.calls import Call
from tokenrelay.errors import InternalError, InvalidRequestError, MessageTooLargeError, TokenrelayError
from tokenrelay.metrics import CallMetrics
from tokenrelay.status import to_status
from tokenrelay.telemetry import Tracing

log = structlog.get_logger(__name__)

Deserializer = Callable[[bytes], Message]
Handler = Callable[[Message, Any], Any]
OURS = "/tokenrelay."


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every unary-request call of our services; the engine's session and the standard services pass through."""

    def __init__(self, tracing: Tracing, metrics: CallMetrics, max_message_bytes: int) -> None:
        self._tracing = tracing
        self._metrics = metrics
        self._max_message_bytes = max_message_bytes

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming or not handler_call_details.method.startswith(OURS):
            return handler
        method = handler_call_details.method.removeprefix("/")
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream, handler.request_deserializer), response_serializer=_serialize
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary, handler.request_deserializer), response_serializer=_serialize
        )

    def _unary(self, method: str, handle: Handler, deserialize: Deserializer) -> Any:
        async def serve(raw: bytes, context: Any) -> Any:
            with self._observe(method, context) as outcome:
                try:
                    return await handle(self._parse(raw, deserialize), context)
                except Exception as error:
                    status = outcome.fail(error)
            return await context.abort_with_status(status)

        return serve

    def _stream(self, method: str, handle: Handler, deserialize: Deserializer) -> Any:
        async def serve(raw: bytes, context: Any) -> AsyncIterator[Any]:
            with self._observe(method, context) as outcome:
                try:
                    async with aclosing(handle(self._parse(raw, deserialize), context)) as responses:
                        async for response in responses:
                            yield response
                except Exception as error:
                    status = outcome.fail(error)
                else:
                    return
            await context.abort_with_status(status)

        return serve

    def _parse(self, raw: bytes, deserialize: Deserializer) -> Message:
        if len(raw) > self._max_message_bytes:
            raise MessageTooLargeError(f"the request has {len(raw)} bytes; at most {self._max_message_bytes} are taken")
        try:
            return deserialize(raw)
        except DecodeError:
            raise InvalidRequestError("the request is not a valid protobuf message of its type") from None

    @contextmanager
    def _observe(self, method: str, context: Any) -> Any:
        received_ns = time.monotonic_ns()
        client = _client_context(context)
        span = self._tracing.span(
            method,
            parent=client,
            kind=SpanKind.SERVER,
            start_ns=telemetry.wall_ns(received_ns) if self._tracing.enabled else None,
            attributes={conventions.RPC_SYSTEM: "grpc", conventions.RPC_METHOD: method},
        )
        left = context.time_remaining()
        call = Call(
            method,
            received_ns,
            span,
            telemetry.child_context(span) if self._tracing.enabled else client,
            None if left is None else received_ns + round(left * 1e9),
        )
        calls.begin(call)
        outcome = _Outcome(method, self._metrics)
        self._metrics.open.labels(method).inc()
        try:
            yield outcome
        except (asyncio.CancelledError, GeneratorExit):
            outcome.code = "DEADLINE_EXCEEDED" if call.is_past_deadline() else "CANCELLED"
            raise
        finally:
            self._metrics.open.labels(method).dec()
            self._metrics.duration.labels(method, outcome.code).observe((time.monotonic_ns() - received_ns) / 1e9)
            span.set_attribute(conventions.RPC_STATUS, outcome.code)
            if outcome.code != "OK":
                telemetry.fail(span, outcome.reason or outcome.code)
            span.end()


class _Outcome:
    """How a call ended."""

    def __init__(self, method: str, metrics: CallMetrics) -> None:
        self.code = "OK"
        self.reason = ""
        self._method = method
        self._metrics = metrics

    def fail(self, error: Exception) -> grpc.Status:
        """Notes an error and returns its status. What is not ours becomes a fixed text; the log has the rest."""
        if not isinstance(error, TokenrelayError):
            error_id = uuid4().hex
            log.error("call failed", method=self._method, error_id=error_id, exc_info=error)
            error = InternalError.logged_as(error_id)
        self.reason = error.reason
        self._metrics.refusals.labels(error.reason).inc()
        status: grpc.Status = rpc_status.to_status(to_status(error))
        self.code = status.code.name
        return status


def _client_context(context: Any) -> Any:
    for name, value in context.invocation_metadata() or ():
        if name == "traceparent":
            return telemetry.context_of(value)
    return telemetry.context_of("")


def _serialize(response: Message | bytes) -> bytes:
    """Handlers may give a message, or its bytes when they have them already."""
    return response if isinstance(response, bytes) else response.SerializeToString()
