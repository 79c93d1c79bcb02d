"""What a client makes of a failed call: a gateway's own word, or a connection that was lost on the way."""

from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from tokenrelay import errors
from tokenrelay.client.failures import STATUS_DETAILS, to_error
from tokenrelay.errors import TokenrelayError
from tokenrelay.status import to_status

LOST = ["UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN"]


class Failed(grpc.RpcError):
    def __init__(self, code: str, details: str = "RST_STREAM") -> None:
        self._code, self._details = grpc.StatusCode[code], details

    def code(self) -> Any:
        return self._code

    def details(self) -> str:
        return self._details


def of_proxy(code: int, domain: str = "proxy.example") -> bytes:
    """A status with details as a proxy may send it."""
    packed = any_pb2.Any()
    packed.Pack(error_details_pb2.ErrorInfo(reason="UPSTREAM", domain=domain))
    return status_pb2.Status(code=code, message="upstream", details=[packed]).SerializeToString()


@pytest.mark.parametrize("code", LOST)
@pytest.mark.parametrize(
    "trailing",
    [
        None,
        (),
        [("grpc-status", "13")],
        [(STATUS_DETAILS, b"\xff\xff garbage")],
        [(STATUS_DETAILS, status_pb2.Status(code=code_pb2.INTERNAL, message="no details").SerializeToString())],
        [(STATUS_DETAILS, of_proxy(code_pb2.INTERNAL))],
    ],
    ids=["no trailers", "empty", "another", "garbage", "bare", "a proxy's"],
)
def test_a_status_that_no_gateway_made_is_a_lost_connection(code: str, trailing: Any) -> None:
    error = to_error(Failed(code), "host:1", None, trailing)
    assert isinstance(error, errors.UnavailableError)
    assert "host:1" in error.message
    assert "RST_STREAM" in error.message


@pytest.mark.parametrize(
    "said",
    [
        errors.InternalError.logged_as("abc"),
        errors.DeadLetterError("set aside"),
        errors.GenerationCancelledError("cancelled"),
        errors.QueueFullError("full", retry_after=5.0),
        errors.UnavailableError("away", retry_after=1.0),
    ],
)
def test_a_gateway_s_word_is_taken(said: TokenrelayError) -> None:
    trailing = [(STATUS_DETAILS, to_status(said).SerializeToString())]
    error = to_error(Failed(code_pb2.Code.Name(said.code)), "host:1", None, trailing)
    assert type(error) is type(said)
    assert (error.message, error.retry_after) == (said.message, said.retry_after)


def test_a_time_limit_on_the_way_is_a_lost_connection_before_our_own_has_passed() -> None:
    failed = Failed("DEADLINE_EXCEEDED", "max duration timeout")
    assert isinstance(to_error(failed, "host:1", expired=False), errors.UnavailableError)
    assert isinstance(to_error(failed, "host:1", expired=True), errors.GenerationExpiredError)


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"])
def test_a_refusal_on_the_way_is_no_lost_connection(code: str) -> None:
    error = to_error(Failed(code, "no key"), "host:1")
    assert type(error) is TokenrelayError
    assert error.message == f"host:1 refused the call: {code} (no key)"


def test_a_message_too_large_for_grpc_itself_is_said_to_be_so() -> None:
    failed = Failed("RESOURCE_EXHAUSTED", "SERVER: Received message larger than max (5 vs. 4)")
    assert type(to_error(failed, "host:1")) is errors.MessageTooLargeError
