"""The server interceptor: takes every call through the same small steps, from its arrival to its status.

    translate   turns errors into statuses; no text of an exception that is not ours leaves the process
    authenticate finds out who calls, where that is asked: only of a gateway, and only if it is told to
    observe     opens the call's span, counts it, and tells a deadline from a client that left
    place       takes one of the places for open calls, or refuses
    headers     bounds the request's headers
    receive     reads and parses the request

Authentication comes before all that costs something, so that strangers get neither a span, nor a place, nor have a request
read.

To gRPC every call here has a stream of requests, of which one is taken: a call with a single request it would begin only
once that has come, wait for it for ever, and leave unanswered if the client ends the call without it.

OpenTelemetry's own gRPC instrumentation is not used: it records a cancelled stream as a success, an abort twice, and
breaks handlers that write by themselves.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from tokenrelay.header_limits import HeaderLimits
from tokenrelay.metrics import CallMetrics
from tokenrelay.serving.budget import Budget
from tokenrelay.serving.exchange import Exchange, Proceed, Step, compose
from tokenrelay.serving.headers import Headers
from tokenrelay.serving.observe import Observe
from tokenrelay.serving.place import Place
from tokenrelay.serving.receive import Receive
from tokenrelay.serving.translate import Translate
from tokenrelay.settings import ServerSettings
from tokenrelay.telemetry import Tracing

OURS = "/tokenrelay."


class Chain(grpc.aio.ServerInterceptor):
    """Wraps every call but the engine's session, whose stream of requests has rules of its own.

    Calls of our own services are observed. Those of the standard ones, health and reflection, take the same way without
    that, and have places of their own, so that probes and calls cannot crowd each other out.

    Args:
        settings: the limits on calls and on their requests.
        authenticate: the step of that name; None: everybody may call.

    Attributes:
        budget: the bytes of all requests, for a server that holds such before they are whole.
    """

    def __init__(
        self, tracing: Tracing, metrics: CallMetrics, settings: ServerSettings, authenticate: Step | None = None
    ) -> None:
        self.budget = Budget(settings.max_request_bytes)
        first: list[Step] = [Translate()] if authenticate is None else [Translate(), authenticate]
        last: list[Step] = [Headers(HeaderLimits(settings)), Receive(settings, self.budget)]
        self._ours = compose([*first, Observe(tracing, metrics), Place.for_ours(settings), *last])
        self._standard = compose([*first, Place.for_standard(settings), *last])

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        is_ours = handler_call_details.method.startswith(OURS)
        if handler is None or (is_ours and handler.request_streaming):
            return handler
        serve = _serve(handler_call_details.method.removeprefix("/"), handler, self._ours if is_ours else self._standard)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(serve, response_serializer=_serialize)
        return grpc.stream_unary_rpc_method_handler(serve, response_serializer=_serialize)


def _serve(method: str, handler: Any, way: Proceed) -> Any:
    """Returns what gRPC calls for a method.

    It is no generator, and nor are the handlers of streams: they write by themselves. A message would pass through each
    generator on its way, which costs more than the handler does.
    """
    parse, handle = handler.request_deserializer, _writing(handler)

    async def serve(messages: AsyncIterator[bytes], context: Any) -> Any:
        return await way(Exchange(method, context, messages, parse, handle, handler.request_streaming))

    return serve


def _writing(handler: Any) -> Callable[[Any, Any], Awaitable[Any]]:
    """Returns a handler that does as Exchange.handle says; of the standard services some are generators."""
    if not handler.request_streaming:
        handle: Callable[[Any, Any], Awaitable[Any]] = handler.unary_stream or handler.unary_unary
        return handle

    async def write_all(requests: AsyncIterator[Message], context: Any) -> None:
        async for response in handler.stream_stream(requests, context):
            await context.write(response)

    return write_all


def _serialize(response: Message | bytes) -> bytes:
    """Handlers may give a message, or its bytes when they have them already."""
    return response if isinstance(response, bytes) else response.SerializeToString()
