"""Envoy's configuration, made of our settings. Pure: it only says what Envoy is to do.

Envoy's names for the fields are explained at https://www.envoyproxy.io/docs/envoy/v1.39.3/api-v3/api.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.edge import envoy_filters, envoy_limits
from gateway.edge.departures import STREAM_HEADER
from gateway.edge.envoy_extension import TYPES, extension
from gateway.edge.envoy_tls import NODE
from gateway.settings import GatewaySettings

APPLICATION = "gateway.edge.inside:app"
# What names a request in its header and on the pipe: no other request has its connection and its nanosecond.
STREAM_NAME = "%CONNECTION_ID%-%START_TIME(%s%9f)%"
REQUEST_OVERHEAD_BYTES = 64 * 1024


@dataclass(frozen=True)
class Place:
    """Where Envoy finds and puts things.

    Attributes:
        address: the IP address to listen on.
        port: the port.
        module: pyvoy's library.
        admin: the admin interface's Unix socket.
        departures: what Envoy opens to tell who has left; see gateway.edge.departures.
        transport_socket: how connections are encrypted; None: not at all. See gateway.edge.envoy_tls.
    """

    address: str
    port: int
    module: Path
    admin: Path
    departures: str
    transport_socket: dict[str, Any] | None = None


def configuration(settings: GatewaySettings, place: Place) -> dict[str, Any]:
    """Returns what Envoy is started with; it can be written as JSON."""
    return {
        "node": NODE,
        "admin": {"address": {"pipe": {"path": str(place.admin), "mode": 0o600}}},
        "static_resources": {"listeners": [_listener(settings, place)]},
        "overload_manager": envoy_limits.of_process(settings),
    }


def _listener(settings: GatewaySettings, place: Place) -> dict[str, Any]:
    chain: dict[str, Any] = {"filters": [extension("envoy.filters.network.http_connection_manager", _http(settings, place))]}
    if place.transport_socket is not None:
        chain |= {"transport_socket": place.transport_socket, **envoy_limits.of_tls(settings)}
    return {
        "name": "gateway",
        "address": {"socket_address": {"address": place.address, "port_value": place.port}},
        **envoy_limits.of_listener(settings),
        "filter_chains": [chain],
    }


def _http(settings: GatewaySettings, place: Place) -> dict[str, Any]:
    return {
        "@type": f"{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "server_header_transformation": "PASS_THROUGH",
        "generate_request_id": False,
        # The addresses and the header below are what a proxy in front says of its own client; here they are only passed on.
        "use_remote_address": False,
        "route_config": {"virtual_hosts": [_routes(settings)], "validate_clusters": False},
        "http_filters": [_stream_name(), *envoy_filters.before_the_application(), _application(place)],
        "local_reply_config": envoy_filters.own_answers(settings),
        "access_log": [_departures(place)],
        # What some load balancers still probe with, and without a host.
        "http_protocol_options": {"accept_http_10": True, "default_host_for_http_10": "gateway"},
        **envoy_limits.of_http(settings),
    }


def _routes(settings: GatewaySettings) -> dict[str, Any]:
    """Returns one route for everything. The module answers before Envoy would route, but its limits and its CORS policy count.

    A route to a cluster that is not there, since Envoy's filter for CORS looks at no other kind.
    """
    whole_request = settings.max_message_bytes + REQUEST_OVERHEAD_BYTES
    route = {"match": {"prefix": "/"}, "route": {"cluster": "none"}, "request_body_buffer_limit": whole_request}
    host = {"name": "gateway", "domains": ["*"], "routes": [route]}
    return host | envoy_filters.cors_policy(settings)


def _stream_name() -> dict[str, Any]:
    header = {"key": STREAM_HEADER.decode(), "value": STREAM_NAME}
    return extension(
        "envoy.filters.http.header_mutation",
        {
            "@type": f"{TYPES}.extensions.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {"request_mutations": [{"append": {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}]},
        },
    )


def _application(place: Place) -> dict[str, Any]:
    text = json.dumps(
        {"app": APPLICATION, "interface": "asgi", "root_path": "", "worker_threads": 1, "lifespan": True, "loop": "uvloop"}
    )
    return extension(
        "pyvoy",
        {
            "@type": f"{TYPES}.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
            "dynamic_module_config": {"module": {"local": {"filename": str(place.module)}}},
            "filter_name": "pyvoy",
            "terminal_filter": True,
            "filter_config": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text},
        },
    )


def _departures(place: Place) -> dict[str, Any]:
    log = extension(
        "envoy.access_loggers.file",
        {
            "@type": f"{TYPES}.extensions.access_loggers.file.v3.FileAccessLog",
            "path": place.departures,
            "log_format": {"text_format_source": {"inline_string": STREAM_NAME + "\n"}},
        },
    )
    # The client's connection is gone, or it has reset its stream, as every cancel does: DPE if it says that we erred.
    return {**log, "filter": {"response_flag_filter": {"flags": ["DC", "DR", "DPE"]}}}
