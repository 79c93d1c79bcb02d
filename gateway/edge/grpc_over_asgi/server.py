"""The server object that generated code registers its handlers with, and the ASGI application that calls them."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
import structlog

from gateway.edge.departures import STREAM_HEADER, Departures
from gateway.edge.grpc_over_asgi import headers
from gateway.edge.grpc_over_asgi.context import Context
from gateway.edge.grpc_over_asgi.headers import MalformedHeaderError
from gateway.edge.grpc_over_asgi.messages import Receive, Requests
from gateway.edge.grpc_over_asgi.response import Send
from tokenrelay.serving.chain import Chain
from tokenrelay.serving.exchange import CLIENT_GONE

log = structlog.get_logger(__name__)

INTERNAL = grpc.StatusCode.INTERNAL.value[0]
DEADLINE_EXCEEDED, UNIMPLEMENTED = grpc.StatusCode.DEADLINE_EXCEEDED.value[0], grpc.StatusCode.UNIMPLEMENTED.value[0]
LOOK_INTERVAL = 0.02  # seconds


@dataclass
class _Details:
    """What an interceptor and a generic handler are told of a method before they are asked for its handler."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()


class GrpcOverAsgi:
    """Takes handlers as grpc.aio.server does, and serves the calls that an ASGI server hands it.

    Every handler reads its request from a stream and writes bytes, as the interceptor makes them; see
    tokenrelay.serving.chain.

    Args:
        interceptor: wraps each method's handler, once.
        max_message_bytes: the largest request.
        departures: tells which clients have left.
    """

    def __init__(self, interceptor: Chain, max_message_bytes: int, departures: Departures) -> None:
        self._interceptor = interceptor
        self._max_message_bytes = max_message_bytes
        self._departures = departures
        self._registered: dict[str, Any] = {}
        self._generic: list[grpc.GenericRpcHandler] = []
        self._handlers: dict[str, Any] = {}
        self._open_calls = 0

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Takes a service's handlers by their names; called by generated code."""
        self._registered |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    def add_generic_rpc_handlers(self, generic: Sequence[grpc.GenericRpcHandler]) -> None:
        """Takes handlers that are asked for a method by its name; called by generated code."""
        self._generic += generic

    def knows(self, path: str) -> bool:
        """Tells whether a path is that of a method."""
        return path in self._registered

    async def wait_until_idle(self, seconds: float) -> None:
        """Waits until no call is open, for so many seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._open_calls:  # noqa: ASYNC110  # only at the end; an event would be kept for nothing else
                    await asyncio.sleep(LOOK_INTERVAL)

    async def serve(self, scope: Mapping[str, Any], given: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        """Serves one call.

        Args:
            scope: an ASGI request whose content type is gRPC's.
            given: its headers by name.
            receive: ASGI's.
            send: ASGI's.
        """
        timeout = given.get(b"grpc-timeout")
        try:
            headers.expect_trailers(given.get(b"te", b""))
            seconds = None if timeout is None else headers.timeout(timeout)
            metadata = headers.to_metadata(scope["headers"])
        except MalformedHeaderError as error:
            await _say_last(Context((), send, None), INTERNAL, str(error))
            return
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        deadline = None if seconds is None else loop.time() + seconds
        # The deadline and a departure both cancel this task, so that the handler cleans up as at any cancel.
        alarm = None if deadline is None else loop.call_at(deadline, task.cancel)
        context = Context(metadata, send, deadline)
        requests = Requests(
            receive, given.get(b"grpc-encoding", b"identity"), self._max_message_bytes, self._interceptor.budget
        )
        self._open_calls += 1
        try:
            with self._departures.expected(given.get(STREAM_HEADER), task):
                await self._call(scope["raw_path"].decode("latin-1"), requests, context)
        except asyncio.CancelledError:
            # By the deadline; else the client has left, and nobody is there to be told.
            if context.time_remaining() == 0.0:
                await _say_last(context, DEADLINE_EXCEEDED, "Deadline Exceeded")
        except CLIENT_GONE:
            log.debug("the client left while it was answered", method=scope["raw_path"])
        finally:
            self._open_calls -= 1
            requests.close()
            context.close()
            if alarm is not None:
                alarm.cancel()

    async def _call(self, path: str, requests: Requests, context: Context) -> None:
        handler = await self._handler(path)
        if handler is None:
            await context.end(UNIMPLEMENTED, "Method not found!")
            return
        try:
            if handler.response_streaming:
                await handler.stream_stream(requests, context)
            else:
                await context.write(handler.response_serializer(await handler.stream_unary(requests, context)))
        except grpc.aio.AbortError:
            pass  # the context has the status
        await context.end()

    async def _handler(self, path: str) -> Any:
        """Returns a method's handler as the interceptor made it; None if there is no such method."""
        if path in self._handlers:
            return self._handlers[path]
        details = _Details(path)
        found = self._registered.get(path) or next((it for one in self._generic if (it := one.service(details))), None)
        if found is None:
            return None  # and not kept, since there is no end to names

        async def continuation(_: Any) -> Any:
            return found

        self._handlers[path] = await self._interceptor.intercept_service(continuation, details)
        return self._handlers[path]


async def _say_last(context: Context, code: int, details: str) -> None:
    try:
        await context.end(code, details)
    except CLIENT_GONE:
        log.debug("the client left before it was told why its call ends")
