"""Channels to the gateways: one a target, and the next target when one fails."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import grpc

DEFAULT_TARGET = "localhost:50051"

OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),  # without it a client never notices a dead peer
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),  # a retry is ours to decide, with the idempotency key
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)

Metadata: TypeAlias = Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]]
"""What is sent with every call, such as an API key: names in lower case; a value is bytes if its name ends in -bin."""

MetadataPairs: TypeAlias = tuple[tuple[str, str | bytes], ...]

Channel = TypeVar("Channel", grpc.Channel, grpc.aio.Channel)

# Name syntaxes of gRPC's own (grpc/doc/naming.md); what stands behind the colon is for gRPC to judge.
_SCHEMES = ("dns:", "unix:", "unix-abstract:", "ipv4:", "ipv6:", "vsock:", "xds:")
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/@\[\]]+):([0-9]{1,5})", re.ASCII)
_METADATA_NAME = re.compile(r"[0-9a-z_.-]+", re.ASCII)


class Targets(Generic[Channel]):
    """One channel a gateway, made when it is first used; calls go to one until it fails, then to the next.

    Args:
        targets: "host:port", several separated by commas, or a sequence of them.
        connect: makes a channel of a target and options.
        options: of each channel, beside OPTIONS.

    Raises:
        ValueError: there is no target, or one is malformed.
    """

    def __init__(self, targets: str | Sequence[str], connect: Any, options: Sequence[tuple[str, Any]] = ()) -> None:
        self._names = parse_targets(targets)
        self._options = (*OPTIONS, *options)
        self._order = itertools.cycle(self._names)
        self._connect = connect
        self._channels: dict[str, Channel] = {}
        self._current = next(self._order)
        self.closed = False

    def __len__(self) -> int:
        """Returns how many gateways there are."""
        return len(self._names)

    @property
    def current(self) -> str:
        """The gateway that the next call goes to."""
        return self._current

    def channel(self) -> Channel:
        """Returns the current gateway's channel.

        Raises:
            RuntimeError: the client is closed; a channel that were made now would never be closed.
        """
        if self.closed:
            raise RuntimeError("this client is closed")
        if self._current not in self._channels:
            self._channels[self._current] = self._connect(self._current, options=self._options)
        return self._channels[self._current]

    def move_on_from(self, failed: str) -> None:
        """Lets the next gateway be the current one, unless another call that failed there has done so already."""
        if self._current == failed:
            self._current = next(self._order)

    def take_all(self) -> list[Channel]:
        """Returns all channels, for the owner to close; none is made any more."""
        self.closed = True
        channels, self._channels = list(self._channels.values()), {}
        return channels


def parse_targets(targets: str | Sequence[str]) -> list[str]:
    """Returns the single targets.

    Raises:
        ValueError: there is none, or one is malformed. gRPC would try to resolve it again and again.
    """
    names = [targets] if isinstance(targets, str) else list(targets)
    parsed = [name.strip() for part in names for name in part.split(",") if name.strip()]
    if not parsed:
        raise ValueError("targets: at least one host:port is needed")
    for name in parsed:
        _check_target(name)
    return parsed


def host_and_port(target: str) -> tuple[str, int] | None:
    """Returns where a target of the form host:port leads; None for gRPC's other names."""
    found = None if target.startswith(_SCHEMES) else _HOST_AND_PORT.fullmatch(target)
    return (found[1].strip("[]"), int(found[2])) if found is not None else None


def _check_target(name: str) -> None:
    if name.startswith(_SCHEMES):
        return
    if "://" in name:
        raise ValueError(f"targets: {name!r} is a URL; a target is host:port, without a scheme")
    found = _HOST_AND_PORT.fullmatch(name)
    if found is None:
        hint = "; an IPv6 address stands in brackets, as in [::1]:50051" if name.count(":") > 1 else ""
        raise ValueError(f"targets: {name!r} is not host:port{hint}")
    if not 1 <= int(found[2]) <= 65_535:
        raise ValueError(f"targets: {name!r} has port {found[2]}; must be from 1 to 65535")


def check_metadata(metadata: Metadata | None, api_key: str | None = None) -> MetadataPairs:
    """Returns metadata as pairs, with an API key as gateways take it.

    Raises:
        ValueError: gRPC cannot send it, or reserves its name; or the key cannot be one.
        TypeError: a name or a value is of a wrong type.
    """
    pairs = tuple(metadata.items() if isinstance(metadata, Mapping) else metadata or ())
    if api_key is not None:
        if not api_key or not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
            raise ValueError("api_key: is empty, or has characters that no key has")
        pairs = (*pairs, ("authorization", f"Bearer {api_key}"))
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, str | bytes):
            raise TypeError(f"metadata: {name!r} must be a str with a value of str or bytes")
        if not _METADATA_NAME.fullmatch(name) or name.startswith("grpc-"):
            raise ValueError(
                f"metadata: {name!r} is no name; it has lower-case letters, digits, '-', '_' and '.', and no 'grpc-' in front"
            )
        # No value is repeated here: it may be a key.
        if isinstance(value, bytes) != name.endswith("-bin"):
            raise ValueError(f"metadata: {name!r}: bytes go with names that end in -bin, and only with these")
        if isinstance(value, str) and not (value.isascii() and value.isprintable()):
            raise ValueError(f"metadata: {name!r}: the value has characters other than printable ASCII")
    return pairs
