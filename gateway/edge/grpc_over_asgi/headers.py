"""gRPC's HTTP/2 headers: metadata, timeouts, content types and status texts.

The rules are those of https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from urllib.parse import quote

Header = tuple[bytes, bytes]
Metadata = Sequence[tuple[str, str | bytes]]

CONTENT_TYPE: Header = (b"content-type", b"application/grpc")
ACCEPTED_ENCODINGS: Header = (b"grpc-accept-encoding", b"identity, deflate, gzip")
BINARY = "-bin"  # at the end of the name of metadata whose values are bytes
# What the transport itself uses; handlers are not shown it.
TRANSPORT = frozenset({"te", "content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding"})
TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
SECONDS_OF_UNIT = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
# Percent-encoded in grpc-message: everything outside of space to tilde, and the percent sign itself.
PRINTABLE = "".join(chr(number) for number in range(0x20, 0x7F) if chr(number) != "%")


class MalformedHeaderError(ValueError):
    """A header breaks gRPC's rules. The text is for the client."""


def is_grpc(content_type: bytes) -> bool:
    """Tells whether a content type is that of gRPC with protobuf messages."""
    kind = content_type.split(b";", 1)[0].strip().lower()
    return kind in (b"application/grpc", b"application/grpc+proto")


def expect_trailers(te: bytes) -> None:
    """Does nothing if a client takes trailers; without them its call would be served and have no status.

    Raises:
        MalformedHeaderError: it does not.
    """
    if b"trailers" not in te:
        raise MalformedHeaderError("te must be trailers, which a call's status comes in")


def timeout(value: bytes) -> float:
    """Returns a grpc-timeout in seconds.

    Raises:
        MalformedHeaderError: it is none.
    """
    matched = TIMEOUT.fullmatch(value)
    if matched is None:
        raise MalformedHeaderError("grpc-timeout must be up to 8 digits and one of H, M, S, m, u, n")
    return int(matched[1]) * SECONDS_OF_UNIT[matched[2]]


def to_metadata(headers: Iterable[Header]) -> list[tuple[str, str | bytes]]:
    """Returns a request's headers as metadata.

    Raises:
        MalformedHeaderError: a value of a name that ends in -bin is no base64.
    """
    metadata: list[tuple[str, str | bytes]] = []
    for raw_name, raw_value in headers:
        name = raw_name.decode("latin-1")
        if name in TRANSPORT:
            continue
        if not name.endswith(BINARY):
            metadata.append((name, raw_value.decode("latin-1")))
            continue
        # Proxies may join several values with a comma, which base64 does not have.
        metadata.extend((name, _from_base64(name, part.strip())) for part in raw_value.split(b","))
    return metadata


def _from_base64(name: str, value: bytes) -> bytes:
    try:
        return b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        raise MalformedHeaderError(f"metadata {name} is not base64") from None


def from_metadata(metadata: Metadata) -> list[Header]:
    """Returns metadata as headers or trailers."""
    return [(name.encode(), _header_value(name, value)) for name, value in metadata]


def _header_value(name: str, value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return b64encode(raw).rstrip(b"=") if name.endswith(BINARY) else raw


def status(code: int, message: str) -> list[Header]:
    """Returns the two trailers that end every call."""
    trailers = [(b"grpc-status", b"%d" % code)]
    if message:
        trailers.append((b"grpc-message", quote(message, safe=PRINTABLE).encode()))
    return trailers
