"""What requests pass in Envoy before they reach the application, and what Envoy itself answers. Pure, as envoy_configuration.

cors       answers preflights, and names the origins that may read an answer
grpc_web   takes gRPC-Web for gRPC, and puts trailers at the end of the body
paths      refuses paths that the application cannot be given
"""

from typing import Any

from gateway.edge.envoy_extension import TYPES, extension
from gateway.http import errors
from gateway.http.errors import HttpError
from gateway.settings import GatewaySettings
from tokenrelay.setting_types import ANY_ORIGIN

CORS = "envoy.filters.http.cors"
METHODS = "GET, HEAD, POST, OPTIONS"
# What gRPC-Web's and Connect's clients send, and the W3C's trace context.
REQUEST_HEADERS = (
    "authorization",
    "baggage",
    "content-type",
    "grpc-timeout",
    "traceparent",
    "tracestate",
    "x-grpc-web",
    "x-user-agent",
)
# What a page may read: gRPC's status, if there was no message before it, and what our calls tell in their metadata.
RESPONSE_HEADERS = (
    "grpc-message",
    "grpc-status",
    "grpc-status-details-bin",
    "retry-after",
    "retry-after-ms",
    "server-timing",
    "tokenrelay-generation-id",
    "tokenrelay-timings-bin",
    "tokenrelay-trace-id",
)
PREFLIGHT_SECONDS = 7200  # browsers ask again after this long; Chromium's own bound
_ANY = "[0-9A-Fa-f]"
_NEXT = f"%[89ABab]{_ANY}"  # a further byte of a character
# A path whose percent-encoded bytes are UTF-8. For any other one the module would neither call the application nor answer.
# After it may follow a query, which the application is given as it is.
DECODABLE = (
    f"(?:[!-$&->@-~]|%[0-7]{_ANY}|%(?:[Cc][2-9A-Fa-f]|[Dd]{_ANY}){_NEXT}"
    f"|%(?:[Ee]0%[ABab]{_ANY}|[Ee][1-9A-Ca-cEFef]{_NEXT}|[Ee][Dd]%[89]{_ANY}){_NEXT}"
    f"|%(?:[Ff]0%[9ABab]{_ANY}|[Ff][1-3]{_NEXT}|[Ff]4%8{_ANY}){_NEXT}{_NEXT})*"
    r"(?:\?[!-~]*)?"
)


def before_the_application() -> list[dict[str, Any]]:
    """Returns the filters, in their order."""
    web = {"@type": f"{TYPES}.extensions.filters.http.grpc_web.v3.GrpcWeb"}
    return [
        extension(CORS, {"@type": f"{TYPES}.extensions.filters.http.cors.v3.Cors"}),
        extension("envoy.filters.http.grpc_web", web),
        _paths(),
    ]


def cors_policy(settings: GatewaySettings) -> dict[str, Any]:
    """Returns what the one route says of other origins: nothing, unless the settings name some."""
    if settings.cors_origins is None:
        return {}
    origins = settings.cors_origins.split(",")
    policy = {
        "@type": f"{TYPES}.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"prefix": ""} if one == ANY_ORIGIN else {"exact": one} for one in origins],
        "allow_methods": METHODS,
        "allow_headers": ", ".join(REQUEST_HEADERS),
        "expose_headers": ", ".join(RESPONSE_HEADERS),
        "max_age": str(PREFLIGHT_SECONDS),
    }
    return {"typed_per_filter_config": {CORS: policy}}


def _paths() -> dict[str, Any]:
    decodable = {"header": {"name": ":path", "string_match": {"safe_regex": {"regex": DECODABLE}}}}
    return extension(
        "envoy.filters.http.rbac",
        {
            "@type": f"{TYPES}.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"policies": {"decodable": {"permissions": [decodable], "principals": [{"any": True}]}}},
        },
    )


def own_answers(settings: GatewaySettings) -> dict[str, Any]:
    """Returns how Envoy says what it refuses itself: as the application would.

    Envoy's own words stay for gRPC's clients, who get them in grpc-message.
    """
    refused = {
        400: HttpError(400, "this is no request that HTTP allows", code="malformed_request"),
        403: errors.not_found(),  # a path that the application cannot be given, and a WebSocket, which none takes
        404: errors.not_found(),
        408: HttpError(408, "the request did not arrive in time", code="request_timeout"),
        413: errors.too_large(settings.max_message_bytes),
        431: HttpError(431, "the request's headers are too large", code="headers_too_large"),
    }
    return {
        "mappers": [
            {
                "filter": {"and_filter": {"filters": [_has_status(403), _is_grpc()]}},
                "status_code": 404,  # which Envoy tells gRPC's clients as UNIMPLEMENTED
                "body": {"inline_string": "Method not found!"},
            },
            *(_answer(status, error) for status, error in refused.items()),
        ]
    }


def _answer(status: int, error: HttpError) -> dict[str, Any]:
    text = {"text_format_source": {"inline_string": error.body.decode()}, "content_type": "application/json"}
    return {
        "filter": {"and_filter": {"filters": [_has_status(status), _is_grpc(invert=True)]}},
        "status_code": error.status,
        "body_format_override": text,
    }


def _has_status(status: int) -> dict[str, Any]:
    value = {"default_value": status, "runtime_key": f"tokenrelay.status.{status}"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _is_grpc(*, invert: bool = False) -> dict[str, Any]:
    header = {
        "name": "content-type",
        "string_match": {"prefix": "application/grpc"},
        "invert_match": invert,
        "treat_missing_header_as_empty": True,
    }
    return {"header_filter": {"header": header}}
