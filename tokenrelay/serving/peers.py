"""Lets only those clients call whose certificates have a name that is expected of them."""

from collections.abc import Awaitable, Callable, Collection
from typing import Any

import grpc
import structlog

log = structlog.get_logger(__name__)

NAMES = ("x509_subject_alternative_name", "peer_spiffe_id", "x509_common_name")  # as grpc.aio names them
HEALTH = "/grpc.health.v1.Health/"  # whoever has a certificate of the authority may ask whether a server serves


class Peers(grpc.aio.ServerInterceptor):
    """Refuses the calls of others.

    Args:
        names: DNS names or SPIFFE ids, of which a client's certificate must have one.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(HEALTH):
            return handler
        return _guarded(handler, self._check)

    async def _check(self, context: Any) -> None:
        shown = {name.decode(errors="replace") for key in NAMES for name in context.auth_context().get(key, ())}
        if not shown & self._names:
            log.warning("a peer is refused", peer=context.peer(), shown=sorted(shown))
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the certificate has no name that may call this server")


def _guarded(handler: Any, check: Callable[[Any], Awaitable[None]]) -> Any:
    """Returns a handler of the same kind that checks first. All of ours take a stream; see tokenrelay.serving.chain."""
    serializers = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    inner = handler.stream_stream or handler.stream_unary

    async def stream_unary(requests: Any, context: Any) -> Any:
        await check(context)
        return await inner(requests, context)

    async def stream_stream(requests: Any, context: Any) -> Any:
        await check(context)
        # Some write by themselves, and some are generators.
        answering = inner(requests, context)
        if hasattr(answering, "__aiter__"):
            async for response in answering:
                await context.write(response)
        else:
            await answering

    if handler.stream_stream:
        return grpc.stream_stream_rpc_method_handler(stream_stream, **serializers)
    return grpc.stream_unary_rpc_method_handler(stream_unary, **serializers)
