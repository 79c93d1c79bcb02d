"""The server inside Envoy, as gateway.app sees it: it takes servicers, and serves ASGI's scopes."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import structlog

from gateway.core.core import Core
from gateway.edge.departures import STREAM_HEADER, Departures
from gateway.edge.grpc_over_asgi.headers import is_grpc
from gateway.edge.grpc_over_asgi.messages import Receive
from gateway.edge.grpc_over_asgi.server import GrpcOverAsgi
from gateway.http import errors
from gateway.http.answer import Answer, Send
from gateway.http.application import HttpApplication
from gateway.settings import GatewaySettings
from tokenrelay.header_limits import HeaderLimits
from tokenrelay.serving.chain import Chain
from tokenrelay.serving.health_servicer import HealthServicer
from tokenrelay.serving.standard import add_standard_services

log = structlog.get_logger(__name__)

GRPC = "application/grpc"


class AsgiServer:
    """Serves gRPC, and hands to gateway.http what is not gRPC.

    Args:
        departures: tells which clients have left.

    Attributes:
        listening: set as soon as requests may come.
    """

    def __init__(self, departures: Departures) -> None:
        self._departures = departures
        self.listening = asyncio.Event()

    def build(self, settings: GatewaySettings, services: Sequence[str], interceptor: Chain, core: Core) -> "AsgiServer":
        """Returns itself, with health and reflection; see gateway.app.BuildServer."""
        self.server = GrpcOverAsgi(interceptor, settings.max_message_bytes, self._departures)
        self._http = HttpApplication(core, settings.max_message_bytes, HeaderLimits(settings))
        self.health: HealthServicer = add_standard_services(self.server, services, settings)
        return self

    async def listen(self, host: str, port: int, credentials: grpc.ServerCredentials | None = None) -> int:  # noqa: ARG002
        """Lets requests come; the address is Envoy's."""
        self.listening.set()
        return port

    async def run(self) -> None:
        """Runs until cancelled; Envoy's end is the process' end."""
        await asyncio.Event().wait()

    async def stop(self, seconds: float | None) -> None:
        """Gives open calls a last moment to end."""
        await self.server.wait_until_idle(seconds or 0.0)

    def set_serving(self, serving: bool) -> None:
        """Sets what grpc.health.v1 tells."""
        self.health.set_serving(serving)

    async def serve(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Serves one request."""
        headers = dict(scope["headers"])
        content_type = headers.get(b"content-type", b"")
        is_call = scope["method"] == "POST"
        if is_grpc(content_type) and is_call:
            await self.server.serve(scope, headers, receive, send)
        elif content_type.startswith(GRPC.encode()) or self.server.knows(scope["path"]):
            # As gRPC's HTTP/2 mapping wants it of a server that is called with another content type.
            error = errors.unsupported_media_type(GRPC) if is_call else errors.method_not_allowed("POST")
            await Answer(scope, receive, send).refuse(error)
        else:
            await self._serve_http(scope, headers, receive, send)

    async def _serve_http(self, scope: dict[str, Any], headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            with self._departures.expected(headers.get(STREAM_HEADER), task):
                await self._http(scope, receive, send)
        except asyncio.CancelledError:
            log.debug("the client left before it was answered", path=scope["path"])
