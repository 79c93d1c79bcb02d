"""The errors that may reach a client, as one tree.

    TokenrelayError
    ├── InvalidRequestError            INVALID_ARGUMENT     the request is wrong; names the field and the limit
    │   └── OutOfRangeError            OUT_OF_RANGE         right in kind, but past what there is
    ├── MessageTooLargeError           RESOURCE_EXHAUSTED   the request has too many bytes
    │   └── HeadersTooLargeError                            its headers have, or are too many
    ├── UnimplementedError             UNIMPLEMENTED        what this server does not do
    ├── UnauthenticatedError           UNAUTHENTICATED      no key, or none that counts; all told alike
    ├── PermissionDeniedError          PERMISSION_DENIED    the key is good, but not for this; names the scope
    ├── GenerationNotFoundError        NOT_FOUND            unknown or expired id, told alike
    ├── ModelNotFoundError             NOT_FOUND            no worker has served this model
    ├── IdempotencyConflictError       ALREADY_EXISTS       the key is taken by another request
    ├── QueueFullError                 RESOURCE_EXHAUSTED   retry after a while
    ├── StoreFullError                 RESOURCE_EXHAUSTED   retry after a while
    ├── QuotaExceededError             RESOURCE_EXHAUSTED   the tenant or its key may not use more now
    ├── UnavailableError               UNAVAILABLE          retry after a while
    │   ├── StoreUnavailableError                           Redis cannot be reached
    │   ├── NoWorkerError                                   the model's last worker has left
    │   ├── EngineUnavailableError                          the engine service cannot be reached or is dead
    │   │   └── EngineDiedError                             it died while it worked on this very generation
    │   └── DrainingError                                   this server is stopping; go to another
    ├── HandshakeError                 UNAVAILABLE          client and server do not agree on TLS; waiting does not help
    ├── GenerationCancelledError       CANCELLED
    ├── GenerationExpiredError         DEADLINE_EXCEEDED    deadline, time limit or queue timeout
    ├── GenerationAbortedError         ABORTED              it cannot go on faithfully; ask again as a new request
    ├── DataLossError                  DATA_LOSS            the log lost what a client has seen
    ├── InternalError                  INTERNAL             ours; a fixed text with an id, the rest is in the log
    └── DeadLetterError                INTERNAL             its engine died on it twice; set aside, not to be tried again

Each class fixes the gRPC code and the reason that ErrorInfo carries. A message names the field and the limit
and never holds the text of an exception that is not ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from google.rpc import code_pb2

DOMAIN = "tokenrelay"


@dataclass(frozen=True)
class FieldViolation:
    """One wrong field: its path in the request, and what is wrong with it."""

    field: str
    description: str


class TokenrelayError(Exception):
    """An error that a client may see as it is.

    Attributes:
        code: the gRPC status code, a google.rpc.Code.
        reason: what ErrorInfo.reason says.
        retry_after: seconds after which a retry makes sense, or None if it makes none.
        violations: the wrong fields, for BadRequest.
        generation_id: which generation it is about, if a client knows.
        trace_id: the trace of the call, in hexadecimal, if a client knows.
    """

    code: ClassVar[int] = code_pb2.UNKNOWN
    reason: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str, *, retry_after: float | None = None, violations: Sequence[FieldViolation] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.violations = tuple(violations)
        self.generation_id: str | None = None
        self.trace_id: str | None = None


class InvalidRequestError(TokenrelayError):
    """The request is wrong and will stay wrong."""

    code = code_pb2.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"

    @classmethod
    def of_field(cls, field: str, description: str) -> "InvalidRequestError":
        """Returns the error of a single wrong field."""
        return cls(f"{field}: {description}", violations=[FieldViolation(field, description)])


class OutOfRangeError(InvalidRequestError):
    """The value is right in kind but lies past what there is."""

    code = code_pb2.OUT_OF_RANGE
    reason = "SEQUENCE_OUT_OF_RANGE"


class MessageTooLargeError(TokenrelayError):
    """The request has more bytes than the server takes."""

    code = code_pb2.RESOURCE_EXHAUSTED
    reason = "MESSAGE_TOO_LARGE"


class HeadersTooLargeError(MessageTooLargeError):
    """The request's headers have more bytes than the server takes, or are too many."""

    reason = "HEADERS_TOO_LARGE"


class UnimplementedError(TokenrelayError):
    """The request asks for what this server does not do."""

    code = code_pb2.UNIMPLEMENTED
    reason = "UNIMPLEMENTED"


class UnauthenticatedError(TokenrelayError):
    """Nobody whom this server knows. One text for all causes, because each difference would teach a stranger something."""

    code = code_pb2.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"

    def __init__(
        self,
        message: str = "authorization: a valid key is required, as in 'authorization: Bearer trk_…'",
        *,
        retry_after: float | None = None,
        violations: Sequence[FieldViolation] = (),
    ) -> None:
        super().__init__(message, retry_after=retry_after, violations=violations)


class PermissionDeniedError(TokenrelayError):
    """The caller is known, but may not do this."""

    code = code_pb2.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class GenerationNotFoundError(TokenrelayError):
    """There is no such generation, or no longer; both are told alike."""

    code = code_pb2.NOT_FOUND
    reason = "GENERATION_NOT_FOUND"


class ModelNotFoundError(TokenrelayError):
    """No worker has ever served this model."""

    code = code_pb2.NOT_FOUND
    reason = "MODEL_NOT_FOUND"


class IdempotencyConflictError(TokenrelayError):
    """The idempotency key belongs to another request."""

    code = code_pb2.ALREADY_EXISTS
    reason = "IDEMPOTENCY_KEY_IN_USE"


class QueueFullError(TokenrelayError):
    """The model's queue has reached a bound."""

    code = code_pb2.RESOURCE_EXHAUSTED
    reason = "QUEUE_FULL"


class StoreFullError(TokenrelayError):
    """Redis is above its memory watermark."""

    code = code_pb2.RESOURCE_EXHAUSTED
    reason = "STORE_FULL"


class QuotaExceededError(TokenrelayError):
    """The tenant, or its key, may not use more now. Retry when it is said; if nothing is said, this can never fit.

    Attributes:
        subject: whose limit it is, "tenant:<name>" or "key:<id>".
        metric: which limit.
        limit: its value.
    """

    code = code_pb2.RESOURCE_EXHAUSTED
    reason = "QUOTA_EXCEEDED"

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        violations: Sequence[FieldViolation] = (),
        subject: str = "",
        metric: str = "",
        limit: int = 0,
    ) -> None:
        super().__init__(message, retry_after=retry_after, violations=violations)
        self.subject = subject
        self.metric = metric
        self.limit = limit


class UnavailableError(TokenrelayError):
    """Something that the call needs cannot be reached now; RetryInfo says when to try again."""

    code = code_pb2.UNAVAILABLE
    reason = "UNAVAILABLE"


class StoreUnavailableError(UnavailableError):
    """Redis cannot be reached."""

    reason = "STORE_UNAVAILABLE"


class NoWorkerError(UnavailableError):
    """The model is known, but its last worker has left."""

    reason = "NO_WORKER"


class EngineUnavailableError(UnavailableError):
    """The engine service cannot be reached, or its engine is dead."""

    reason = "ENGINE_UNAVAILABLE"


class EngineDiedError(EngineUnavailableError):
    """The engine died while it worked on the generation; a worker is told so, no client."""

    reason = "ENGINE_DIED"


class DrainingError(UnavailableError):
    """This server is stopping; another one will serve the call."""

    reason = "SERVER_DRAINING"


class HandshakeError(TokenrelayError):
    """No secure connection, because the two sides do not agree on TLS; waiting does not help. Made by the client library."""

    code = code_pb2.UNAVAILABLE
    reason = "TLS_HANDSHAKE_FAILED"


class GenerationCancelledError(TokenrelayError):
    """The generation was cancelled."""

    code = code_pb2.CANCELLED
    reason = "GENERATION_CANCELLED"


class GenerationExpiredError(TokenrelayError):
    """The generation's deadline, time limit or queue timeout passed before it finished."""

    code = code_pb2.DEADLINE_EXCEEDED
    reason = "GENERATION_EXPIRED"


class GenerationAbortedError(TokenrelayError):
    """The generation cannot go on faithfully after a takeover."""

    code = code_pb2.ABORTED
    reason = "CANNOT_CONTINUE"


class DataLossError(TokenrelayError):
    """The log no longer holds what a client has already seen."""

    code = code_pb2.DATA_LOSS
    reason = "LOG_LOST"


class InternalError(TokenrelayError):
    """Our own fault. The text is fixed; the id finds the traceback in the log."""

    code = code_pb2.INTERNAL
    reason = "INTERNAL"

    @classmethod
    def logged_as(cls, error_id: str) -> "InternalError":
        """Returns the error whose traceback is in the log under an id."""
        return cls(f"internal error; the server's log has it under error_id {error_id}")


class DeadLetterError(TokenrelayError):
    """The engine died twice while it worked on the generation and before it gave a token; it was set aside.

    INTERNAL, since a request that passed every check must not kill an engine, and no client or proxy retries that by itself.
    """

    code = code_pb2.INTERNAL
    reason = "DEAD_LETTER"
