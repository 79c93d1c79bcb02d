"""The server interceptor: takes requests in, opens a call's span, turns errors into statuses, and tells cancels apart.

To gRPC every call here has a stream of requests, of which one is taken: a call with a single request it would begin only
once that has come, wait for it for ever, and leave unanswered if the client ends the call without it.

OpenTelemetry's own gRPC instrumentation is not used: it records a cancelled stream as a success, an abort twice, and
breaks handlers that write by themselves.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from grpc_status import rpc_status
from opentelemetry.trace import SpanKind

from tokenrelay import calls, conventions, telemetry
from tokenrelay.calls import Call
from tokenrelay.errors import (
    InternalError,
    InvalidRequestError,
    MessageTooLargeError,
    TokenrelayError,
    UnavailableError,
)
from tokenrelay.grpc_server import ClientGoneError
from tokenrelay.metrics import CallMetrics
from tokenrelay.settings import ServerSettings
from tokenrelay.status import to_status
from tokenrelay.telemetry import Tracing

log = structlog.get_logger(__name__)

Deserializer = Callable[[bytes], Message]
Handler = Callable[[Message, Any], Any]
Requests = AsyncIterator[bytes]
OURS = "/tokenrelay."


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every call but the engine's session. Those of our own services are observed, those of the standard ones are not.

    Args:
        settings: the limits on calls and on their requests.
    """

    def __init__(self, tracing: Tracing, metrics: CallMetrics, settings: ServerSettings) -> None:
        self._tracing = tracing
        self._metrics = metrics
        self._settings = settings
        self._calls = 0

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if not handler_call_details.method.startswith(OURS):
            return self._standard(handler)
        if handler.request_streaming:
            return handler
        method = handler_call_details.method.removeprefix("/")
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(method, handler.unary_stream, handler.request_deserializer), response_serializer=_serialize
            )
        return grpc.stream_unary_rpc_method_handler(
            self._unary(method, handler.unary_unary, handler.request_deserializer), response_serializer=_serialize
        )

    def _unary(self, method: str, handle: Handler, deserialize: Deserializer) -> Any:
        async def serve(requests: Requests, context: Any) -> Any:
            with self._observe(method, context) as outcome:
                try:
                    with self._place():
                        return await handle(await self._receive(requests, deserialize), context)
                except Exception as error:
                    status = outcome.fail(error)
            return await context.abort_with_status(status)

        return serve

    def _stream(self, method: str, handle: Handler, deserialize: Deserializer) -> Any:
        async def serve(requests: Requests, context: Any) -> None:
            with self._observe(method, context) as outcome:
                try:
                    with self._place():
                        # Not a generator: a message passes through each on its way, which costs more than the handler.
                        await handle(await self._receive(requests, deserialize), context)
                except Exception as error:
                    status = outcome.fail(error)
                else:
                    return
            await context.abort_with_status(status)

        return serve

    def _standard(self, handler: Any) -> Any:
        """Returns a handler of health or reflection that answers bad requests like one of ours."""
        deserialize = handler.request_deserializer

        async def serve_unary(requests: Requests, context: Any) -> Any:
            try:
                with self._place():
                    return await handler.unary_unary(await self._receive(requests, deserialize), context)
            except TokenrelayError as error:
                status = rpc_status.to_status(to_status(error))
            return await context.abort_with_status(status)

        async def serve_watch(requests: Requests, context: Any) -> None:
            try:
                with self._place():
                    await handler.unary_stream(await self._receive(requests, deserialize), context)
            except TokenrelayError as error:
                status = rpc_status.to_status(to_status(error))
            else:
                return
            await context.abort_with_status(status)

        async def serve_stream(requests: Requests, context: Any) -> AsyncIterator[Any]:
            try:
                with self._place():
                    parsed = (self._parse(raw, deserialize) async for raw in requests)
                    async for response in handler.stream_stream(parsed, context):
                        yield response
            except TokenrelayError as error:
                status = rpc_status.to_status(to_status(error))
            else:
                return
            await context.abort_with_status(status)

        serialize = handler.response_serializer
        if not handler.response_streaming:
            return grpc.stream_unary_rpc_method_handler(serve_unary, response_serializer=serialize)
        serve = serve_stream if handler.request_streaming else serve_watch
        return grpc.stream_stream_rpc_method_handler(serve, response_serializer=serialize)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Takes one of the places for open calls."""
        most = self._settings.max_calls
        if self._calls >= most:
            raise UnavailableError(f"{self._calls} calls are open here; at most {most} may be", retry_after=1.0)
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    async def _receive(self, requests: Requests, deserialize: Deserializer) -> Message:
        """Returns the call's request as soon as it is there."""
        try:
            async with asyncio.timeout(self._settings.request_seconds):
                async for raw in requests:
                    return self._parse(raw, deserialize)
        except TimeoutError:
            raise InvalidRequestError(f"the request did not arrive within {self._settings.request_seconds:g} s") from None
        raise InvalidRequestError("the call has no whole request message")

    def _parse(self, raw: bytes, deserialize: Deserializer) -> Message:
        most = self._settings.max_message_bytes
        if len(raw) > most:
            raise MessageTooLargeError(f"the request has {len(raw)} bytes; at most {most} are taken")
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
        self._metrics.open_of(method).inc()
        try:
            yield outcome
        except (asyncio.CancelledError, ClientGoneError):
            outcome.code = "DEADLINE_EXCEEDED" if call.is_past_deadline() else "CANCELLED"
            raise
        finally:
            self._metrics.open_of(method).dec()
            self._metrics.duration_of(method, outcome.code).observe((time.monotonic_ns() - received_ns) / 1e9)
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
        """Notes an error and returns its status. What is not ours becomes a fixed text; the log has the rest.

        Raises:
            ClientGoneError: that is the error; nobody is there to be told a status.
        """
        if isinstance(error, ClientGoneError):
            raise error
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
