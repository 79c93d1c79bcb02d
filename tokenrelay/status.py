"""Errors to google.rpc.Status and back; the only such table.

A status travels in metadata twice: its message as grpc-message, percent-encoded, and all of it as
grpc-status-details-bin, in base64. gRPC drops metadata above 8 KiB at random and above 16 KiB always, and the caller is
then told RESOURCE_EXHAUSTED instead of the error. So a status is shortened here until both fit.
"""

from collections.abc import Iterator, Sequence

from google.protobuf import any_pb2, duration_pb2, message
from google.rpc import error_details_pb2, status_pb2

from tokenrelay import errors
from tokenrelay.errors import FieldViolation, QuotaExceededError, TokenrelayError

# All in bytes as they travel. The first leaves room in 8 KiB for the other trailers; a status with a message, a field and
# a description at their limits fits into it.
STATUS_BYTES = 7_000
MESSAGE_BYTES = 2_400
FIELD_BYTES = 256
DESCRIPTION_BYTES = 512
ELLIPSIS = "…"


def to_status(error: TokenrelayError) -> status_pb2.Status:
    """Returns the status of an error, with ErrorInfo and, where it helps, BadRequest or RetryInfo.

    Texts that are too long end in an ellipsis, and the last violations are left out until it fits into gRPC's metadata.
    """
    text = shortened(error.message, MESSAGE_BYTES)
    violations = [
        error_details_pb2.BadRequest.FieldViolation(
            field=shortened(violation.field, FIELD_BYTES), description=shortened(violation.description, DESCRIPTION_BYTES)
        )
        for violation in error.violations
    ]
    status = _build(error, text, violations)
    while metadata_bytes(status) > STATUS_BYTES and len(violations) > 1:
        violations.pop()
        status = _build(error, text, violations)
    return status


def shortened(text: str, most: int) -> str:
    """Returns a text of which at most so many bytes remain once it is percent-encoded."""
    if _encoded_bytes(text) <= most:
        return text
    room = most - _encoded_bytes(ELLIPSIS)
    for end, character in enumerate(text):
        room -= _encoded_bytes(character)
        if room < 0:
            return text[:end] + ELLIPSIS
    return text


def metadata_bytes(status: status_pb2.Status) -> int:
    """Returns how many bytes of metadata a status takes."""
    base64 = (int(status.ByteSize()) + 2) // 3 * 4
    return _encoded_bytes(status.message) + base64


def _encoded_bytes(text: str) -> int:
    """Returns a text's size as grpc-message: printable ASCII as it is, any other byte as %XX."""
    raw = text.encode("utf-8", "replace")
    return sum(1 if 0x20 <= byte <= 0x7E and byte != ord("%") else 3 for byte in raw)


def _build(
    error: TokenrelayError, text: str, violations: Sequence[error_details_pb2.BadRequest.FieldViolation]
) -> status_pb2.Status:
    status = status_pb2.Status(code=error.code, message=text)
    for detail in _details(error, violations):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _details(
    error: TokenrelayError, violations: Sequence[error_details_pb2.BadRequest.FieldViolation]
) -> Iterator[message.Message]:
    yield error_details_pb2.ErrorInfo(reason=error.reason, domain=errors.DOMAIN)
    if violations:
        yield error_details_pb2.BadRequest(field_violations=violations)
    if isinstance(error, QuotaExceededError):
        # Fields as in https://github.com/googleapis/googleapis/blob/master/google/rpc/error_details.proto.
        violation = error_details_pb2.QuotaFailure.Violation(
            subject=error.subject,
            description=error.message,
            quota_metric=f"tokenrelay/{error.metric}",
            quota_id=f"{error.subject.partition(':')[0]}/{error.metric}",
            quota_value=error.limit,
        )
        yield error_details_pb2.QuotaFailure(violations=[violation])
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after * 1000))
        yield error_details_pb2.RetryInfo(retry_delay=delay)


def from_status(status: status_pb2.Status) -> TokenrelayError:
    """Returns the error of a status that to_status made; a status of another origin gives the code's plain class."""
    reason = ""
    retry_after = None
    violations: list[FieldViolation] = []
    quota = error_details_pb2.QuotaFailure()
    for packed in status.details:
        info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if packed.Unpack(info):
            reason = info.reason
        elif packed.Unpack(bad):
            violations = [FieldViolation(violation.field, violation.description) for violation in bad.field_violations]
        elif packed.Unpack(retry):
            retry_after = retry.retry_delay.ToMilliseconds() / 1000
        else:
            packed.Unpack(quota)
    kind = _class_of(status.code, reason)
    if kind is QuotaExceededError and quota.violations:
        violation = quota.violations[0]
        return QuotaExceededError(
            status.message,
            retry_after=retry_after,
            violations=violations,
            subject=violation.subject,
            metric=violation.quota_metric.partition("/")[2],
            limit=violation.quota_value,
        )
    return kind(status.message, retry_after=retry_after, violations=violations)


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
        # Modules refine errors for themselves; a client sees those of tokenrelay.errors.
        if child.__module__ == errors.__name__:
            yield child
            yield from _subclasses(child)
