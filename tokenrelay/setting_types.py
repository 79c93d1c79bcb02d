"""The types that settings have, with their bounds: what passes here is taken by whoever it is handed to.

The bounds are those of the layers below: gRPC's options and the file system's are 32-bit numbers, Redis counts
milliseconds and bytes in doubles, and nothing below waits for less than a millisecond.
"""

import re
from typing import Annotated
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import AfterValidator, Field

LARGEST_INT32 = 2**31 - 1
# The limits of the server in front stand so far above ours, because its answers name no setting.
MESSAGE_LIMIT_FACTOR = 4  # gRPC's on a message
HEADER_LIMIT_FACTOR = 2  # gRPC's and Envoy's on headers
LARGEST_ENVOY_HEADERS = 8192 * 1024  # bytes
# What redis-py takes after the question mark and a process does not set itself; for what redis-py does not know it raises
# TypeError at the first connection.
REDIS_OPTIONS = frozenset(
    {
        "client_name",
        "db",
        "health_check_interval",
        "password",
        "socket_keepalive",
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_ciphers",
        "ssl_keyfile",
        "ssl_min_version",
        "ssl_password",
        "username",
    }
)
ANY_ORIGIN = "any"  # in words, so that nobody opens a gateway to every page by a habit from elsewhere
ORIGIN = re.compile(r"(?!http:.*:80$|https:.*:443$)[a-z][a-z0-9+.-]*://(\[[0-9a-f:]+\]|[a-z0-9._-]+)(:[1-9]\d{0,4})?")


def _parts(url: str) -> SplitResult:
    """Returns a URL's parts; what it raises never repeats any of the URL, which may hold a password."""
    try:
        return urlsplit(url)
    except ValueError:  # whose text has the part that urlsplit stumbled over
        raise ValueError("is no URL; in a password, write any character that is no letter or digit as % and its code") from None


def _split(url: str, schemes: tuple[str, ...]) -> SplitResult:
    """Returns a URL's parts if it has a host; what it raises never repeats any of the URL."""
    wanted = " or ".join(f"{scheme}://" for scheme in schemes)
    parts = _parts(url)
    if parts.scheme not in schemes:
        raise ValueError(f"must begin with {wanted}")
    try:
        port = parts.port
    except ValueError:
        # A slash, a question mark or a hash in a password ends the host's part early.
        raise ValueError("has no valid port; in a password, write / as %2F, ? as %3F, # as %23 and @ as %40") from None
    if not parts.hostname or port == 0:
        raise ValueError(f"must be {schemes[0]}://host:port")
    return parts


def redis_url(url: str) -> str:
    """Returns the URL of a Redis that can be connected to.

    Raises:
        ValueError: there can be none; the text repeats none of it.
    """
    if url.startswith("unix://"):
        if not _parts(url).path:
            raise ValueError("must be unix:///path of the socket")
        return url
    parts = _split(url, ("redis", "rediss"))
    if not re.fullmatch(r"(/\d{0,6})?", parts.path):
        raise ValueError("the database must be a number, as in redis://host:6379/0")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    allowed = REDIS_OPTIONS if parts.scheme == "rediss" else {name for name in REDIS_OPTIONS if not name.startswith("ssl_")}
    if not allowed.issuperset(options):
        # The unknown one is not repeated: it may be the end of a password that has an unescaped question mark.
        raise ValueError(f"has an option that is none of {', '.join(sorted(allowed))}")
    for name in ("db", "health_check_interval", "ssl_min_version"):
        if not options.get(name, "0").isdecimal():
            raise ValueError(f"the option {name} must be a number")
    return url


def _http_url(url: str) -> str:
    _split(url, ("http", "https"))
    return url


def _otlp_endpoint(text: str) -> str:
    # OTLP over gRPC may go without a scheme.
    return _http_url(text) if "://" in text else _address(text)


def _address(text: str) -> str:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+):(\d{1,5})", text)
    if found is None or not 1 <= int(found[2]) <= 65535:
        raise ValueError("must be host:port, as in 127.0.0.1:50061 or [::1]:50061")
    return text


def _origins(text: str) -> str:
    for one in text.split(","):
        if one != ANY_ORIGIN and not ORIGIN.fullmatch(one):
            raise ValueError(
                "must be origins as a browser writes them, in small letters and without a path or the scheme's own port, "
                f"with commas between them, as in https://chat.example.com,http://127.0.0.1:8000; or {ANY_ORIGIN}"
            )
    if ANY_ORIGIN in text.split(",") and text != ANY_ORIGIN:
        raise ValueError(f"is either {ANY_ORIGIN} or a list of origins")
    return text


Seconds = Annotated[float, Field(ge=0.001, le=1e9, allow_inf_nan=False)]
DelaySeconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
TransportSeconds = Annotated[float, Field(ge=0.001, le=LARGEST_INT32 // 1000, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, le=LARGEST_INT32)]
Bytes = Annotated[int, Field(ge=1, le=2**53)]
MessageBytes = Annotated[int, Field(ge=1, le=LARGEST_INT32 // MESSAGE_LIMIT_FACTOR)]
HeaderCount = Annotated[int, Field(ge=1, le=LARGEST_INT32 // HEADER_LIMIT_FACTOR)]
HeaderBytes = Annotated[int, Field(ge=1024, le=LARGEST_ENVOY_HEADERS // HEADER_LIMIT_FACTOR)]
WindowBytes = Annotated[int, Field(ge=65_535, le=LARGEST_INT32)]  # HTTP/2's bounds: no window begins smaller
Port = Annotated[int, Field(ge=0, le=65535)]
Shards = Annotated[int, Field(ge=1, le=1024)]
RedisUrl = Annotated[str, AfterValidator(redis_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
OtlpEndpoint = Annotated[str, AfterValidator(_otlp_endpoint)]
Origins = Annotated[str, AfterValidator(_origins)]
Address = Annotated[str, AfterValidator(_address)]
