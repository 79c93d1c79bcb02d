"""How our gRPC servers are built: limits, health, reflection, and a clear error when the port is taken."""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # the stubs leave out what is private

from tokenrelay import addresses
from tokenrelay.serving import descriptors
from tokenrelay.serving.health_servicer import HealthServicer
from tokenrelay.serving.standard import add_standard_services
from tokenrelay.setting_types import HEADER_LIMIT_FACTOR, MESSAGE_LIMIT_FACTOR
from tokenrelay.settings import ServerSettings
from tokenrelay.start_up import SettingError

# Calls that have come and wait for Python to take them. Past gRPC's own 1,000, a burst of good calls, or of resets by
# somebody else, has calls end CANCELLED at random, which no client tries again.
MAX_PENDING_CALLS = 10_000
WATCH_SECONDS = 1.0
GRPC_LOGGER = "grpc._cython.cygrpc"
NOT_WORTH_A_LINE = (
    "Invalid encoding on",  # a header that is no UTF-8; it is read as Latin-1 then
    "ExecuteBatchError raised in core by servicer method",  # the client left while it was being answered
)
# Whoever pings more often is cut off. gRPC's own bound of 5 minutes would cut off every client with a keepalive.
SHORTEST_PING_INTERVAL_MS = 200
# What stands for every method that there is not. Nobody can call it by its name, which would be a call without an answer.
OTHER_SERVICE, OTHER_METHOD = secrets.token_hex(16), "Other"
OTHER = f"/{OTHER_SERVICE}/{OTHER_METHOD}".encode()


class _Serving(cygrpc.AioServer):  # type: ignore[misc]
    """gRPC's serving loop, but for calls of methods that there are not.

    gRPC takes such a method's name for UTF-8, and shuts the whole server down when it is not: one call is enough (1.85.1).
    Here all of them have the same name, so that theirs is never looked at. They end UNIMPLEMENTED as usual.
    """

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        if method is None:
            return asyncio.get_running_loop().create_future()  # for ever; what it waits for comes under OTHER
        future: asyncio.Future[Any] = super()._make_request_call_future(None if method == OTHER else method)
        return future


@dataclass(frozen=True)
class GrpcServer:
    """A server with health and reflection, not yet listening."""

    server: grpc.aio.Server
    health: HealthServicer

    async def listen(self, host: str, port: int, credentials: grpc.ServerCredentials | None = None) -> int:
        """Listens and serves; port 0 takes a free one. Returns the port.

        Args:
            host: a name, an IPv4 address, or an IPv6 address with or without brackets.
            port: the port.
            credentials: for TLS; None: plain text.

        Raises:
            SettingError: the address cannot be had.
        """
        address = addresses.join(host, port)
        try:
            if credentials is None:
                bound = self.server.add_insecure_port(address)
            else:
                bound = self.server.add_secure_port(address, credentials)
        except RuntimeError:
            bound = 0
        if bound == 0:
            raise SettingError(
                "TOKENRELAY_HOST, TOKENRELAY_PORT",
                f"cannot listen on {address}: the port is in use, or the address is not this machine's",
            )
        await self.server.start()
        return bound

    async def run(self) -> None:
        """Returns once the server has been stopped.

        Raises:
            Exception: it has ended by itself, and nothing listens any more.
        """
        # Asked again and again, since gRPC tells of such an end only to who waits for a time.
        while await self.server.wait_for_termination(WATCH_SECONDS):
            pass

    async def stop(self, seconds: float | None) -> None:
        """Stops serving; open calls have so many seconds to end, none if that is None."""
        await self.server.stop(seconds)

    def set_serving(self, serving: bool) -> None:
        """Sets what grpc.health.v1 tells of the server and of each of its services."""
        self.health.set_serving(serving)


def build(settings: ServerSettings, services: Sequence[str], *interceptors: grpc.aio.ServerInterceptor) -> GrpcServer:
    """Returns a server that reports NOT_SERVING; its servicers are still to be added.

    Args:
        settings: its limits.
        services: the full names of the process' own services.
        interceptors: what each call passes, the outermost first.
    """
    keepalive_ms, header_ms = round(settings.keepalive_seconds * 1000), round(settings.header_seconds * 1000)
    age = settings.max_connection_seconds
    logging.getLogger(GRPC_LOGGER).addFilter(_is_worth_a_line)
    options = [
        ("grpc.so_reuseport", 0),  # else a second server would bind the same port without a word
        # Above ours, so that most oversized requests get our text.
        ("grpc.max_receive_message_length", settings.max_message_bytes * MESSAGE_LIMIT_FACTOR),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", settings.max_streams_per_connection),
        ("grpc.server.max_pending_requests", MAX_PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_CALLS),
        ("grpc.max_allowed_incoming_connections", descriptors.connections(settings.max_connections)),
        ("grpc.max_connection_idle_ms", round(settings.idle_connection_seconds * 1000)),
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.keepalive_timeout_ms", keepalive_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        # Without these two, what the machine at the other end receives but its program does not answer lasts a minute.
        ("grpc.http2.ping_timeout_ms", keepalive_ms),
        ("grpc.http2.settings_timeout", header_ms),
        ("grpc.server_handshake_timeout_ms", header_ms),
        # Above ours, too. Between the first one and the second one gRPC would refuse at random.
        ("grpc.max_metadata_size", settings.max_header_bytes * HEADER_LIMIT_FACTOR),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes * HEADER_LIMIT_FACTOR),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", SHORTEST_PING_INTERVAL_MS),
        # gRPC adds or takes up to 10 % by itself, and by default gives calls that are open all the time that they need.
        *([("grpc.max_connection_age_ms", round(age * 1000))] if age is not None else []),
    ]
    server: Any = grpc.aio.server(interceptors=interceptors)
    server._server = _Serving(cygrpc.get_working_loop(), None, (), interceptors, tuple(options), None)
    server.add_registered_method_handlers(OTHER_SERVICE, {OTHER_METHOD: None})
    return GrpcServer(server, add_standard_services(server, services, settings))


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Tells what gRPC says about itself from the tracebacks that it writes for what a client did."""
    return not record.getMessage().startswith(NOT_WORTH_A_LINE)
