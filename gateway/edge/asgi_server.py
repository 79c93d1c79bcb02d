"""The server inside Envoy, as gateway.app sees it: it takes servicers, and serves ASGI's scopes."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc

from gateway.edge.departures import Departures
from gateway.edge.grpc_over_asgi.headers import is_grpc
from gateway.edge.grpc_over_asgi.messages import Receive
from gateway.edge.grpc_over_asgi.response import Send
from gateway.edge.grpc_over_asgi.server import GrpcOverAsgi
from gateway.settings import GatewaySettings
from tokenrelay.serving.chain import Chain
from tokenrelay.serving.health_servicer import HealthServicer
from tokenrelay.serving.standard import add_standard_services

NOT_GRPC = b'{"error": {"message": "this gateway serves gRPC alone; content-type must be application/grpc"}}'


class AsgiServer:
    """Serves gRPC, and refuses what is not gRPC.

    Args:
        departures: tells which clients have left.

    Attributes:
        listening: set as soon as requests may come.
    """

    def __init__(self, departures: Departures) -> None:
        self._departures = departures
        self.listening = asyncio.Event()

    def build(self, settings: GatewaySettings, services: Sequence[str], interceptor: Chain) -> "AsgiServer":
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
        headers = dict(scope["headers"])
        if is_grpc(headers.get(b"content-type", b"")):
            await self.server.serve(scope, headers, receive, send)
            return
        # As gRPC's HTTP/2 mapping wants it of a server that is called with another content type.
        start = {"type": "http.response.start", "status": 415, "headers": [(b"content-type", b"application/json")]}
        await send(start)
        await send({"type": "http.response.body", "body": NOT_GRPC, "more_body": False})
