"""Errors to google.rpc.Status and back; the only such table."""

from collections.abc import Iterator

from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

from tokenrelay import errors
from tokenrelay.errors import FieldViolation, TokenrelayError


def to_status(error: TokenrelayError) -> status_pb2.Status:
    """Returns the status of an error, with ErrorInfo and, where it helps, BadRequest or RetryInfo."""
    status = status_pb2.Status(code=error.code, message=error.message)
    for detail in _details(error):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _details(error: TokenrelayError) -> Iterator[message.Message]:
    yield error_details_pb2.ErrorInfo(reason=error.reason, domain=errors.DOMAIN)
    if error.violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=violation.field, description=violation.description)
            for violation in error.violations
        ]
        yield error_details_pb2.BadRequest(field_violations=violations)
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after * 1000))
        yield error_details_pb2.RetryInfo(retry_delay=delay)


def from_status(status: status_pb2.Status) -> TokenrelayError:
    """Returns the error of a status that to_status made; a status of another origin gives the code's plain class."""
    reason = ""
    retry_after = None
    violations: list[FieldViolation] = []
    for packed in status.details:
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if packed.Unpack(info):
            reason = info.reason
        elif packed.Unpack(bad):
            violations = [FieldViolation(violation.field, violation.description) for violation in bad.field_violations]
        elif packed.Unpack(retry):
            retry_after = retry.retry_delay.ToMilliseconds() / 1000
    return _class_of(status.code, reason)(status.message, retry_after=retry_after, violations=violations)


def _class_of(code: int, reason: str) -> type[TokenrelayError]:
    known = list(_subclasses(TokenrelayError))
    for candidate in known:
        if candidate.code == code and candidate.reason == reason:
            return candidate
    for candidate in known:
        if candidate.code == code:
            return candidate
    return TokenrelayError


def _subclasses(parent: type[TokenrelayError]) -> Iterator[type[TokenrelayError]]:
    for child in parent.__subclasses__():
        yield child
        yield from _subclasses(child)
