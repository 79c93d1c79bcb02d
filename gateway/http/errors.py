"""What HTTP clients are told of an error: a status, and the body that OpenAI's clients read.

The body always has all four keys: {"error": {"message", "type", "param", "code"}}.
"""

import json
import math
from collections.abc import Mapping

from google.rpc import code_pb2

from tokenrelay.errors import HeadersTooLargeError, IdempotencyConflictError, MessageTooLargeError, TokenrelayError

INVALID = "invalid_request_error"
SERVER = "server_error"
# By the error's gRPC code. OpenAI's clients repeat 408, 409, 429 and all from 500 on, so the first two are not used.
OF_CODE = {
    code_pb2.INVALID_ARGUMENT: (400, INVALID),
    code_pb2.UNAUTHENTICATED: (401, "authentication_error"),
    code_pb2.PERMISSION_DENIED: (403, "permission_error"),
    code_pb2.NOT_FOUND: (404, INVALID),
    code_pb2.OUT_OF_RANGE: (416, INVALID),
    code_pb2.RESOURCE_EXHAUSTED: (429, "rate_limit_error"),
    code_pb2.CANCELLED: (499, "cancelled"),
    code_pb2.INTERNAL: (500, SERVER),
    code_pb2.ABORTED: (500, SERVER),
    code_pb2.DATA_LOSS: (500, SERVER),
    code_pb2.UNIMPLEMENTED: (501, INVALID),
    code_pb2.UNAVAILABLE: (503, "service_unavailable_error"),
    code_pb2.DEADLINE_EXCEEDED: (504, "timeout_error"),
}
OF_REASON = {
    MessageTooLargeError.reason: (413, INVALID),
    HeadersTooLargeError.reason: (431, INVALID),
    IdempotencyConflictError.reason: (422, INVALID),
}


class HttpError(Exception):
    """An answer that says what is wrong.

    Attributes:
        status: HTTP's.
        headers: what the answer has beside its content type.
        body: the answer's, as JSON.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        kind: str = INVALID,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body = json.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}}).encode()


def of(error: TokenrelayError) -> HttpError:
    """Returns how HTTP says an error of ours."""
    status, kind = OF_REASON.get(error.reason) or OF_CODE[error.code]
    # The field is named as our contract names it.
    param = error.violations[0].field if error.violations else None
    # Required by https://www.rfc-editor.org/rfc/rfc9110#name-401-unauthorized.
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    if error.retry_after is not None:
        # The first one is HTTP's, in whole seconds; the second one is what OpenAI's clients look at before it.
        headers["retry-after"] = str(math.ceil(error.retry_after))
        headers["retry-after-ms"] = str(round(error.retry_after * 1000))
    return HttpError(status, error.message, code=error.reason.lower(), kind=kind, param=param, headers=headers)


def not_found() -> HttpError:
    return HttpError(404, "there is nothing at this path", code="not_found")


def method_not_allowed(allow: str) -> HttpError:
    return HttpError(405, f"this path takes {allow} alone", code="method_not_allowed", headers={"allow": allow})


def unsupported_media_type(wanted: str) -> HttpError:
    return HttpError(415, f"content-type must be {wanted}", code="unsupported_media_type")


def too_large(most: int) -> HttpError:
    return HttpError(413, f"the request is too large; at most {most} bytes are allowed", code="message_too_large")
