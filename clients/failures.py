"""gRPC's errors as ours, and which of them only mean that a connection was lost.

What a gateway says itself carries ErrorInfo of our domain. Any other status was made on the way: by gRPC in this process,
or by a proxy. Behind a proxy a gateway's death has many faces: UNAVAILABLE if nobody could be reached, CANCELLED if the
call was dropped, INTERNAL if the stream was reset (gRPC translates HTTP/2's error code so), UNKNOWN if the proxy answered
with a page of its own, DEADLINE_EXCEEDED if its own time limit passed before ours. None of them says anything of the
generation, so all of them are UnavailableError, after which the client goes on from where it was. Only where the two sides
do not agree on TLS is it HandshakeError, after which it does not.
"""

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from tokenrelay.client import handshakes
from tokenrelay.errors import (
    DOMAIN,
    MessageTooLargeError,
    PermissionDeniedError,
    TokenrelayError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from tokenrelay.status import from_status

STATUS_DETAILS = "grpc-status-details-bin"  # where gRPC carries google.rpc.Status
GENERATION_ID, TRACE_ID = "tokenrelay-generation-id", "tokenrelay-trace-id"

_ALSO_OF_PROXIES = (TokenrelayError, UnimplementedError, UnauthenticatedError, PermissionDeniedError)
_LOST = frozenset((grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN))


def to_error(
    error: grpc.RpcError, target: str, initial: Any = None, trailing: Any = None, *, expired: bool = True
) -> TokenrelayError:
    """Returns the error that a failed call stands for, with the ids that its metadata names.

    Args:
        error: as gRPC raised it.
        target: the gateway that was called.
        initial: the call's initial metadata, if it has come.
        trailing: the call's trailing metadata, if it has come.
        expired: whether the call's own deadline has passed.
    """
    ours = _status_of_gateway(_as_mapping(trailing).get(STATUS_DETAILS))
    translated = from_status(ours) if ours is not None else _of_transport(error, target, expired)
    headers = _as_mapping(initial)
    translated.generation_id = str(headers.get(GENERATION_ID, "")) or None
    translated.trace_id = str(headers.get(TRACE_ID, "")) or None
    return translated


def _status_of_gateway(details: str | bytes | None) -> status_pb2.Status | None:
    """Returns the status if it was made by a gateway; a proxy may send details of its own."""
    if not isinstance(details, bytes):
        return None
    try:
        status = status_pb2.Status.FromString(details)
        info = error_details_pb2.ErrorInfo()
        return status if any(packed.Unpack(info) and info.domain == DOMAIN for packed in status.details) else None
    except DecodeError:
        return None


def _of_transport(error: grpc.RpcError, target: str, expired: bool) -> TokenrelayError:
    code: Any = error.code()
    message = error.details() or code.name
    if code is grpc.StatusCode.UNAVAILABLE:
        return handshakes.of_transport(message, target)
    if code in _LOST or (code is grpc.StatusCode.DEADLINE_EXCEEDED and not expired):
        return UnavailableError(f"the call to {target} was cut off ({message})")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" not in message:
        # Neither a full queue nor a large message of ours, but a limit of something between.
        return TokenrelayError(f"{target} refused the call: RESOURCE_EXHAUSTED ({message})")
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return MessageTooLargeError(message)
    translated = from_status(status_pb2.Status(code=code.value[0], message=message))
    if type(translated) in _ALSO_OF_PROXIES:  # not a word of ours, which has details
        return TokenrelayError(f"{target} refused the call: {code.name} ({message})")
    return translated


def _as_mapping(metadata: Any) -> dict[str, str | bytes]:
    return {str(name): value for name, value in metadata or ()}
