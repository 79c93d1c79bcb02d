"""The server inside Envoy, as gateway.app sees it: it takes servicers, and serves ASGI's scopes."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc

from gateway.edge.departures import Departures
from gateway.edge.grpc_over_asgi.context import Send
from gateway.edge.grpc_over_asgi.messages import Receive
from gateway.edge.grpc_over_asgi.server import GrpcOverAsgi, is_call
from gateway.settings import GatewaySettings
from tokenrelay.serving.health_servicer import HealthServicer
from tokenrelay.serving.standard import add_standard_services


class AsgiServer:
    """Routes between gRPC and HTTP.

    Attributes:
        listening: set as soon as requests may come.
    """

    def __init__(self, settings: GatewaySettings, departures: Departures) -> None:
        self._settings = settings
        self._departures = departures
        self.listening = asyncio.Event()

    def build(
        self, settings: GatewaySettings, services: Sequence[str], interceptor: grpc.aio.ServerInterceptor
    ) -> "AsgiServer":
        """Returns itself, with health and reflection; see gateway.app.BuildServer."""
        self.server = GrpcOverAsgi(interceptor, settings.max_message_bytes, self._departures)
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
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
        elif is_call(scope["headers"]):
            await self.server.serve(scope, receive, send)
        else:
            await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"application/json")]})
            await send({"type": "http.response.body", "body": b"{}", "more_body": False})
