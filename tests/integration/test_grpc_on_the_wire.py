"""gRPC as its bytes are, for what no client library would send: the answers are the same on both edges."""

import asyncio
import gzip
import zlib

import pytest

from drills.raw_http2.connection import RawConnection
from drills.raw_http2.frames import Answer, Fields, message, request_fields
from tests.integration.conftest import Served, spec
from tests.support.stack import Gateway
from tests.support.waiting import PATIENCE
from tokenrelay.v1 import generation_service_pb2 as s

PATH = b"/tokenrelay.v1.GenerationService/Generate"
GOOD = s.GenerateRequest(spec=spec(max_tokens=2)).SerializeToString()
OK, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 4, 8, 12, 13
GZIP, DEFLATE = (b"grpc-encoding", b"gzip"), (b"grpc-encoding", b"deflate")


def with_content_type(value: bytes) -> Fields:
    return [(name, value if name == b"content-type" else was) for name, was in request_fields(PATH)]


async def call(gateway: Gateway, fields: Fields, body: bytes) -> Answer:
    async with RawConnection(gateway.target) as connection:
        return await asyncio.wait_for(connection.call(list(fields), body), PATIENCE)


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (request_fields(PATH, GZIP), message(gzip.compress(GOOD), flag=1)),
        (request_fields(PATH, DEFLATE), message(zlib.compress(GOOD), flag=1)),
        (request_fields(PATH, GZIP), message(GOOD)),
        (request_fields(PATH), message(GOOD) * 2),
        (request_fields(PATH), message(GOOD) + b"\0\0"),
        (request_fields(PATH, (b"grpc-timeout", b"100S")), message(GOOD)),
        (request_fields(PATH, (b"x-bin", b"AAEC")), message(GOOD)),
        (with_content_type(b"application/grpc+proto"), message(GOOD)),
    ],
    ids=["gzip", "deflate", "gzip, but not this one", "two messages", "half a second one", "timeout", "binary", "+proto"],
)
async def test_a_call_is_served(served: Served, fields: Fields, body: bytes) -> None:
    answer = await call(served.gateway, fields, body)
    assert (answer.status, answer.fields[":status"], answer.fields["content-type"]) == (OK, "200", "application/grpc")
    (response,) = answer.messages()
    assert s.GenerateResponse.FromString(response).generation.sequence == 2
    assert {"tokenrelay-generation-id", "tokenrelay-timings-bin", "server-timing"} <= answer.fields.keys()
    assert answer.fields["grpc-accept-encoding"] == "identity, deflate, gzip"


@pytest.mark.parametrize(
    ("fields", "body", "status"),
    [
        (request_fields(PATH, GZIP), message(gzip.compress(bytes(50_000_000)), flag=1), RESOURCE_EXHAUSTED),
        (request_fields(PATH, DEFLATE), message(zlib.compress(bytes(50_000_000)), flag=1), RESOURCE_EXHAUSTED),
        (request_fields(PATH, (b"grpc-timeout", b"soon")), message(GOOD), INTERNAL),
        (request_fields(PATH, (b"grpc-timeout", b"0n")), message(GOOD), DEADLINE_EXCEEDED),
        (request_fields(PATH, (b"x-bin", b"!!!")), message(GOOD), INTERNAL),
        (request_fields(PATH + b"Nothing"), message(GOOD), UNIMPLEMENTED),
    ],
    ids=["a gzip bomb", "a deflate bomb", "no timeout", "no time", "no base64", "no method"],
)
async def test_a_call_is_refused(served: Served, fields: Fields, body: bytes, status: int) -> None:
    answer = await call(served.gateway, fields, body)
    assert (answer.status, answer.fields[":status"], answer.messages()) == (status, "200", [])


@pytest.mark.parametrize(
    "fields",
    [
        [field for field in request_fields(PATH) if field[0] != b"te"],
        [(name, b"GET" if name == b":method" else value) for name, value in request_fields(PATH)],
    ],
    ids=["without trailers", "by GET"],
)
async def test_what_is_no_call_is_not_served(served: Served, fields: Fields) -> None:
    answer = await call(served.gateway, fields, message(GOOD))
    assert answer.status != OK
    assert answer.messages() == [] or answer.fields[":status"] == "405"
    assert answer.reset is not None or answer.status == INTERNAL or answer.fields[":status"] == "405"
    assert "tokenrelay-generation-id" not in answer.fields


async def test_a_status_text_comes_as_it_is(served: Served) -> None:
    name = "\u00fc%\n\U0001f600"
    path = b"/tokenrelay.v1.GenerationService/GetGeneration"
    request = s.GetGenerationRequest(generation_id=name).SerializeToString()
    answer = await call(served.gateway, request_fields(path), message(request))
    assert answer.text == "generation_id: there is no generation '%C3%BC%25\\n%F0%9F%98%80', or no longer"
