"""How our gRPC servers are built: options, health, reflection, and a clear word when the port is taken."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tokenrelay.lifecycle import StartUpError
from tokenrelay.settings import ServerSettings

# gRPC's own limit stands above ours, so that most oversized requests get our text.
MESSAGE_LIMIT_FACTOR = 4
MAX_CONCURRENT_STREAMS = 10_000  # a connection
# Whoever pings more often is cut off. gRPC's own bound of 5 minutes would cut off every client with a keepalive.
SHORTEST_PING_INTERVAL_MS = 200


@dataclass(frozen=True)
class GrpcServer:
    """A server with health and reflection, not yet listening."""

    server: grpc.aio.Server
    health: health.aio.HealthServicer
    services: Sequence[str]

    async def listen(self, host: str, port: int) -> int:
        """Listens and serves; port 0 takes a free one. Returns the port.

        Raises:
            StartUpError: the address cannot be had.
        """
        address = f"{host}:{port}"
        try:
            bound = self.server.add_insecure_port(address)
        except RuntimeError:
            bound = 0
        if bound == 0:
            raise StartUpError(f"cannot listen on {address}: the port is in use, or the address is not this machine's")
        await self.server.start()
        return bound

    async def set_serving(self, serving: bool) -> None:
        """Sets what grpc.health.v1 says of the server and of each of its services."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *self.services):
            await self.health.set(service, status)


def build(settings: ServerSettings, services: Sequence[str], interceptors: Sequence[Any] = ()) -> GrpcServer:
    """Returns a server that reports NOT_SERVING; its servicers are still to be added."""
    keepalive_ms = round(settings.keepalive_seconds * 1000)
    server = grpc.aio.server(
        interceptors=list(interceptors),
        options=[
            ("grpc.so_reuseport", 0),  # else a second server would bind the same port without a word
            ("grpc.max_receive_message_length", settings.max_message_bytes * MESSAGE_LIMIT_FACTOR),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
            ("grpc.keepalive_time_ms", keepalive_ms),
            ("grpc.keepalive_timeout_ms", keepalive_ms),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", SHORTEST_PING_INTERVAL_MS),
        ],
    )
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if settings.reflection:
        names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    return GrpcServer(server, servicer, services)
