"""What Envoy lets clients take: the limits of the settings, as parts of Envoy's configuration."""

import math
from typing import Any

from gateway.settings import GatewaySettings
from tokenrelay.serving import descriptors
from tokenrelay.setting_types import HEADER_LIMIT_FACTOR

NEVER = "0s"
KIB = 1024
JITTER_PERCENT = 10  # of a connection's age, so that clients that connected together do not come back together
PING_JITTER_PERCENT = 15


def of_listener(settings: GatewaySettings) -> dict[str, Any]:
    """Returns what bounds a connection before its first request."""
    inspector = {"@type": "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector"}
    return {
        "per_connection_buffer_limit_bytes": settings.connection_buffer_bytes,
        # It waits for a connection's first bytes, so that its timeout is that of a client which says nothing.
        "listener_filters": [{"name": "envoy.filters.listener.http_inspector", "typed_config": inspector}],
        "listener_filters_timeout": seconds(settings.header_seconds),
    }


def of_tls(settings: GatewaySettings) -> dict[str, Any]:
    """Returns what bounds a TLS handshake."""
    return {"transport_socket_connect_timeout": seconds(settings.header_seconds)}


def of_http(settings: GatewaySettings) -> dict[str, Any]:
    """Returns what bounds requests and the connections that they come on.

    The application refuses requests with large headers before Envoy does, with a text that Envoy does not have. And it bounds
    how long a request's body may take, because Envoy's timeout knows no calls whose body has no end.
    """
    common: dict[str, Any] = {
        "idle_timeout": seconds(settings.idle_connection_seconds),
        "max_headers_count": settings.max_headers * HEADER_LIMIT_FACTOR,
    }
    if settings.max_connection_seconds is not None:
        common["max_connection_duration"] = seconds(settings.max_connection_seconds)
        common["max_connection_duration_jitter"] = {"value": JITTER_PERCENT}
    return {
        "stream_idle_timeout": NEVER,  # a generation may wait in the queue for as long as its caller likes
        "request_headers_timeout": seconds(settings.header_seconds),
        "max_request_headers_kb": math.ceil(settings.max_header_bytes * HEADER_LIMIT_FACTOR / KIB),
        "common_http_protocol_options": common,
        # HTTP/1.1 has no GOAWAY. Closed at its age, a connection would take a response with it.
        "http1_safe_max_connection_duration": True,
        "http2_protocol_options": {
            # A malformed header ends its own call, not the connection with everybody else's.
            "override_stream_error_on_invalid_http_message": True,
            "max_concurrent_streams": settings.max_streams_per_connection,
            "initial_stream_window_size": settings.stream_window_bytes,
            "initial_connection_window_size": settings.connection_window_bytes,
            "connection_keepalive": {
                "interval": seconds(settings.keepalive_seconds),
                "timeout": seconds(settings.keepalive_seconds),
                "interval_jitter": {"value": PING_JITTER_PERCENT},
            },
        },
    }


def of_process(settings: GatewaySettings) -> dict[str, Any]:
    """Returns what bounds all connections together."""
    kind = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    most = descriptors.connections(settings.max_connections)
    monitor = {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {"@type": f"type.googleapis.com/{kind}", "max_active_downstream_connections": most},
    }
    return {"resource_monitors": [monitor]}


def seconds(value: float) -> str:
    """Returns a time as Envoy reads it."""
    return f"{value:.3f}s"
