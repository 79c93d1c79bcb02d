"""What HTTP's paths answer, called as an ASGI server would."""

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog

from gateway.core.core import Core
from gateway.core.directory import ModelDirectory
from gateway.http import errors
from gateway.http.application import HttpApplication
from tokenrelay import errors as ours
from tokenrelay.errors import InvalidRequestError, QueueFullError, StoreUnavailableError, TokenrelayError
from tokenrelay.header_limits import HeaderLimits
from tokenrelay.settings import ServerSettings

MOST = 100


class Directory:
    """What /v1/models asks; it may fail."""

    def __init__(self) -> None:
        self.failure: Exception | None = None

    async def listed(self, _: Any) -> list[Any]:
        if self.failure is not None:
            raise self.failure
        return [(SimpleNamespace(model=SimpleNamespace(name=name)), 0) for name in ("a/b", "c")]


class Client:
    """Calls the application with whole requests."""

    def __init__(self) -> None:
        self.directory = Directory()
        self.problem: str | None = None
        core = Core(directory=cast(ModelDirectory, self.directory), authentication=None, problem=lambda: self.problem)
        self.application = HttpApplication(core, MOST, HeaderLimits(ServerSettings(max_headers=10, max_header_bytes=1024)))
        self.leaves = False

    async def call(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        events: list[Any] = []
        chunks = [body[:3], body[3:]]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

        async def send(event: Any) -> None:
            if self.leaves:
                raise OSError
            events.append(event)

        raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {"type": "http", "method": method, "path": path, "root_path": "", "query_string": b"", "headers": raw}
        await self.application(scope, receive, send)
        if self.leaves:
            return 0, {}, b""
        assert not chunks, "the request is read to its end before it is answered"
        start, *pieces = events
        assert [piece.get("more_body", False) for piece in pieces] == [*[True] * (len(pieces) - 1), False]
        given = {name.decode(): value.decode() for name, value in start["headers"]}
        return start["status"], given, b"".join(piece["body"] for piece in pieces)


@pytest.fixture
def client() -> Client:
    return Client()


def error_of(answer: tuple[int, dict[str, str], bytes]) -> dict[str, Any]:
    """Returns what an answer's body says, which has all four keys."""
    _, headers, body = answer
    assert headers["content-type"] == "application/json"
    assert int(headers["content-length"]) == len(body)
    told = json.loads(body)
    assert list(told) == ["error"]
    assert set(told["error"]) == {"message", "type", "param", "code"}
    return cast(dict[str, Any], told["error"])


async def test_models_are_listed_as_openai_does(client: Client) -> None:
    status, headers, body = await client.call("GET", "/v1/models")
    assert (status, headers["content-type"]) == (200, "application/json")
    model = {"object": "model", "created": 0, "owned_by": "tokenrelay"}
    assert json.loads(body) == {"object": "list", "data": [{"id": "a/b", **model}, {"id": "c", **model}]}


async def test_health_says_in_a_word_what_is_wrong(client: Client) -> None:
    assert (await client.call("GET", "/healthz"))[::2] == (200, b"ok\n")
    client.problem = "draining"
    assert (await client.call("GET", "/healthz"))[::2] == (503, b"draining\n")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/models/", "/v1/models/x", "//healthz", "/healthz/..", "*", "/\u00e4"])
async def test_other_paths_are_not_found(client: Client, path: str) -> None:
    answer = await client.call("GET", path)
    assert (answer[0], error_of(answer)["code"]) == (404, "not_found")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "TRACE", "PATCH"])
async def test_other_methods_are_told_which_there_are(client: Client, method: str) -> None:
    answer = await client.call(method, "/v1/models", body=b"whatever")
    assert (answer[0], answer[1]["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert error_of(answer)["code"] == "method_not_allowed"


async def test_head_answers_as_get_without_the_body(client: Client) -> None:
    _, headers, _ = await client.call("GET", "/v1/models")
    assert await client.call("HEAD", "/v1/models") == (200, headers, b"")
    status, _, body = await client.call("HEAD", "/nowhere")
    assert (status, body) == (404, b"")


async def test_options_tells_the_methods(client: Client) -> None:
    assert await client.call("OPTIONS", "/v1/models") == (204, {"allow": "GET, HEAD, OPTIONS"}, b"")
    assert (await client.call("OPTIONS", "/nowhere"))[0] == 404


async def test_a_request_that_says_it_is_too_large_is_refused(client: Client) -> None:
    answer = await client.call("POST", "/v1/models", headers={"content-length": str(MOST + 1)})
    assert answer[0] == 413
    assert error_of(answer)["message"] == "the request is too large; at most 100 bytes are allowed"
    assert (await client.call("GET", "/v1/models", headers={"content-length": str(MOST)}))[0] == 200


async def test_our_errors_say_when_to_come_again(client: Client) -> None:
    client.directory.failure = StoreUnavailableError("Redis cannot be reached", retry_after=1.2)
    answer = await client.call("GET", "/v1/models")
    assert (answer[0], answer[1]["retry-after"], answer[1]["retry-after-ms"]) == (503, "2", "1200")
    assert error_of(answer) == {
        "message": "Redis cannot be reached",
        "type": "service_unavailable_error",
        "param": None,
        "code": "store_unavailable",
    }


async def test_what_is_not_ours_stays_in_the_log(client: Client) -> None:
    client.directory.failure = ValueError("secret")
    with structlog.testing.capture_logs() as lines:
        answer = await client.call("GET", "/v1/models")
    told = error_of(answer)
    assert (answer[0], told["code"]) == (500, "internal")
    (line,) = [line for line in lines if line["log_level"] == "error"]
    assert line["error_id"] in told["message"]
    assert b"secret" not in answer[2]


async def test_a_client_that_has_left_is_no_error(client: Client) -> None:
    client.leaves = True
    with structlog.testing.capture_logs() as lines:
        await client.call("GET", "/v1/models")
    assert [line["log_level"] for line in lines] == ["debug"]


def leaves(kind: type[TokenrelayError]) -> list[type[TokenrelayError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in leaves(child))]


@pytest.mark.parametrize("kind", leaves(TokenrelayError)[1:])
def test_each_of_our_errors_has_a_status(kind: type[TokenrelayError]) -> None:
    told = errors.of(kind("text"))
    assert 400 <= told.status < 600
    # OpenAI's clients repeat these by themselves, so nothing that stays as it is may have one.
    assert told.status not in (408, 409)
    assert json.loads(told.body)["error"]["code"] == kind.reason.lower()


@pytest.mark.parametrize(
    ("error", "status", "kind", "param"),
    [
        (InvalidRequestError.of_field("spec.seed", "is no number"), 400, "invalid_request_error", "spec.seed"),
        (QueueFullError("full"), 429, "rate_limit_error", None),
        (ours.HeadersTooLargeError("large"), 431, "invalid_request_error", None),
        (ours.MessageTooLargeError("large"), 413, "invalid_request_error", None),
        (ours.IdempotencyConflictError("taken"), 422, "invalid_request_error", None),
        (ours.ModelNotFoundError("no"), 404, "invalid_request_error", None),
        (ours.GenerationExpiredError("late"), 504, "timeout_error", None),
    ],
)
def test_errors_have_the_status_that_clients_expect(error: TokenrelayError, status: int, kind: str, param: str | None) -> None:
    told = errors.of(error)
    said = json.loads(told.body)["error"]
    assert (told.status, said["type"], said["param"]) == (status, kind, param)
