"""gRPC's framing and headers over ASGI: what is taken, and what is refused with which error."""

import gzip
from typing import Any

import pytest

from gateway.edge.grpc_over_asgi import headers
from gateway.edge.grpc_over_asgi.headers import MalformedHeaderError
from gateway.edge.grpc_over_asgi.messages import Requests, framed
from tokenrelay.errors import InvalidRequestError, MessageTooLargeError, UnavailableError, UnimplementedError
from tokenrelay.serving.budget import Budget
from tokenrelay.serving.exchange import ClientGoneError

MOST = 100


def requests(*chunks: bytes, encoding: bytes = b"identity", leaves: bool = False, budget: Budget | None = None) -> Requests:
    events: list[dict[str, Any]] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    events.append({"type": "http.disconnect"} if leaves else {"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> dict[str, Any]:
        return events.pop(0)

    return Requests(receive, encoding, MOST, budget or Budget(MOST))


def compressed(message: bytes) -> bytes:
    packed = gzip.compress(message, mtime=0)  # or each collection has its own ids
    return b"\1" + len(packed).to_bytes(4, "big") + packed


@pytest.mark.parametrize("size", [1, 3, 5, 1000])
async def test_messages_are_found_however_the_body_is_cut(size: int) -> None:
    body = framed(b"one") + framed(b"") + framed(b"x" * MOST)
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    assert [message async for message in requests(*chunks)] == [b"one", b"", b"x" * MOST]


async def test_a_message_that_is_not_whole_yet_takes_from_the_budget_of_all_requests() -> None:
    budget = Budget(100)
    body = framed(b"x" * MOST)
    slow, other = requests(body[:80], body[80:], budget=budget), requests(body, budget=budget)
    await slow._read()
    with pytest.raises(UnavailableError, match="limit 100"):
        await anext(other)
    assert await anext(slow) == b"x" * MOST  # one alone may be larger than all of the budget
    assert await anext(requests(body, budget=budget)) == b"x" * MOST
    left = requests(body[:80], leaves=True, budget=budget)
    with pytest.raises(ClientGoneError):
        await anext(left)
    left.close()
    assert await anext(requests(body, budget=budget)) == b"x" * MOST


async def test_what_is_no_whole_message_is_dropped() -> None:
    assert [message async for message in requests(framed(b"one") + framed(b"two")[:-1])] == [b"one"]


async def test_a_client_that_leaves_in_the_middle_is_told_apart_from_the_end() -> None:
    with pytest.raises(ClientGoneError):
        await anext(requests(framed(b"one")[:-1], leaves=True))


async def test_a_message_above_the_limit_is_refused_before_it_has_arrived() -> None:
    with pytest.raises(MessageTooLargeError, match="101 bytes; at most 100"):
        await anext(requests(framed(b"x" * (MOST + 1))[:5]))


async def test_gzip_is_taken_up_to_the_limit() -> None:
    assert await anext(requests(compressed(b"x" * MOST), encoding=b"gzip")) == b"x" * MOST


async def test_a_bomb_is_refused() -> None:
    with pytest.raises(MessageTooLargeError, match="when decompressed"):
        await anext(requests(compressed(b"x" * (MOST + 1)), encoding=b"gzip"))


@pytest.mark.parametrize(
    ("body", "encoding", "error"),
    [
        (compressed(b"x"), b"identity", InvalidRequestError),
        (compressed(b"x"), b"snappy", UnimplementedError),
        (b"\1\0\0\0\3abc", b"gzip", InvalidRequestError),
        (b"\2\0\0\0\3abc", b"gzip", InvalidRequestError),
        (b"\1\0\0\0\x0a" + gzip.compress(b"x", mtime=0)[:10], b"gzip", InvalidRequestError),
    ],
)
async def test_compression_that_does_not_fit_is_refused(body: bytes, encoding: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        await anext(requests(body, encoding=encoding))


@pytest.mark.parametrize(("value", "seconds"), [(b"2H", 7200.0), (b"3S", 3.0), (b"250m", 0.25), (b"99999999u", 99.999999)])
def test_timeouts(value: bytes, seconds: float) -> None:
    assert headers.timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"5", b"S", b"-1S", b"123456789S", b"1x", b"1S "])
def test_what_is_no_timeout_is_refused(value: bytes) -> None:
    with pytest.raises(MalformedHeaderError):
        headers.timeout(value)


def test_binary_metadata_may_lack_padding_and_be_joined() -> None:
    given = [(b"te", b"trailers"), (b"a", b"text"), (b"b-bin", b"AQ,AQI=")]
    assert headers.to_metadata(given) == [("a", "text"), ("b-bin", b"\1"), ("b-bin", b"\1\2")]


def test_binary_metadata_that_is_no_base64_is_refused() -> None:
    with pytest.raises(MalformedHeaderError, match="b-bin"):
        headers.to_metadata([(b"b-bin", b"*")])


def test_a_status_text_is_percent_encoded() -> None:
    assert headers.status(5, "50 % ü\n") == [(b"grpc-status", b"5"), (b"grpc-message", b"50 %25 %C3%BC%0A")]


@pytest.mark.parametrize(
    ("content_type", "is_grpc"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;x=y", True),
        (b"application/grpc+json", False),
        (b"application/grpc-web", False),
        (b"application/json", False),
    ],
)
def test_content_types(content_type: bytes, is_grpc: bool) -> None:
    assert headers.is_grpc(content_type) is is_grpc
