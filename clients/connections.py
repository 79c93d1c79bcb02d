"""Channels to the gateways, and gRPC's errors as ours."""

import itertools
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import grpc
from google.rpc import status_pb2

from tokenrelay.errors import TokenrelayError, UnavailableError
from tokenrelay.status import from_status

DEFAULT_TARGET = "localhost:50051"
STATUS_DETAILS = "grpc-status-details-bin"  # where gRPC carries google.rpc.Status
GENERATION_ID, TRACE_ID = "tokenrelay-generation-id", "tokenrelay-trace-id"

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

Channel = TypeVar("Channel", grpc.Channel, grpc.aio.Channel)


class Targets(Generic[Channel]):
    """One channel a gateway, made when it is first used; calls go to one until it fails, then to the next."""

    def __init__(self, targets: str | Sequence[str], connect: Any) -> None:
        names = [targets] if isinstance(targets, str) else list(targets)
        self._names = [name.strip() for part in names for name in part.split(",") if name.strip()]
        if not self._names:
            raise ValueError("targets: at least one host:port is needed")
        self._order = itertools.cycle(self._names)
        self._connect = connect
        self._channels: dict[str, Channel] = {}
        self._current = next(self._order)

    @property
    def current(self) -> str:
        """The gateway that the next call goes to."""
        return self._current

    def channel(self) -> Channel:
        """Returns the current gateway's channel."""
        if self._current not in self._channels:
            self._channels[self._current] = self._connect(self._current, options=OPTIONS)
        return self._channels[self._current]

    def move_on_from(self, failed: str) -> None:
        """Lets the next gateway be the current one, unless another call that failed there has done so already."""
        if self._current == failed:
            self._current = next(self._order)

    def take_all(self) -> list[Channel]:
        """Returns all channels, for the owner to close, and forgets them."""
        channels, self._channels = list(self._channels.values()), {}
        return channels


def to_error(error: grpc.RpcError, target: str, initial: Any = None, trailing: Any = None) -> TokenrelayError:
    """Returns the error that a failed call stands for, with the ids that its metadata names.

    Args:
        error: as gRPC raised it.
        target: the gateway that was called.
        initial: the call's initial metadata, if it has come.
        trailing: the call's trailing metadata, if it has come.
    """
    trailers = _as_mapping(trailing)
    ours = trailers.get(STATUS_DETAILS)
    translated = from_status(status_pb2.Status.FromString(ours)) if isinstance(ours, bytes) else _of_grpc(error, target)
    headers = _as_mapping(initial)
    translated.generation_id = str(headers.get(GENERATION_ID, "")) or None
    translated.trace_id = str(headers.get(TRACE_ID, "")) or None
    return translated


def _of_grpc(error: grpc.RpcError, target: str) -> TokenrelayError:
    """Returns the error of gRPC's own status; what a gateway says itself comes with details."""
    code: Any = error.code()
    message = error.details() or code.name
    if code is grpc.StatusCode.UNAVAILABLE:
        return UnavailableError(f"no gateway answers at {target} ({message})")
    if code is grpc.StatusCode.CANCELLED:
        # A gRPC server that stops at the very moment at which a call arrives drops it with this status.
        return UnavailableError(f"the gateway at {target} dropped the call ({message})")
    return from_status(status_pb2.Status(code=code.value[0], message=message))


def _as_mapping(metadata: Any) -> dict[str, str | bytes]:
    return {str(name): value for name, value in metadata or ()}
