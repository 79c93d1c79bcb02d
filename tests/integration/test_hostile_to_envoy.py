"""What only Envoy's way of refusing can get wrong: it ends what is malformed, and nothing beside it."""

import asyncio

import pytest

from drills.raw_http2.connection import RawConnection
from drills.raw_http2.frames import END_STREAM, Frame, frame, message, request_fields
from tests.support.stack import Stack
from tests.support.waiting import PATIENCE
from tokenrelay.v1 import generation_service_pb2 as s

pytestmark = pytest.mark.edge("envoy")

GET = b"/tokenrelay.v1.GenerationService/GetGeneration"
BODY = message(s.GetGenerationRequest(generation_id="0-" + "0" * 32).SerializeToString())
INVALID, NOT_FOUND = 3, 5
PROTOCOL_ERROR = 1


async def test_a_malformed_request_costs_no_other_on_its_connection(stack: Stack) -> None:
    gateway = await stack.add_gateway()
    async with RawConnection(gateway.target) as opened:
        begun, answer = opened.begin(request_fields(GET))
        for header in ((b"X-UPPER", b"x"), (b"x-nul", b"a\0b"), (b"te", b"other"), (b":path", b"/twice")):
            malformed = await asyncio.wait_for(opened.call(request_fields(GET, header), BODY), PATIENCE)
            assert (header, malformed.reset) == (header, PROTOCOL_ERROR)
        opened.send(frame(Frame.DATA, END_STREAM, begun, BODY))
        assert (await asyncio.wait_for(answer, PATIENCE)).status == NOT_FOUND


async def test_a_request_that_is_given_up_leaves_no_error_behind(stack: Stack) -> None:
    gateway = await stack.add_gateway(request_seconds=0.2)
    with stack.captured_logs() as logged:
        async with RawConnection(gateway.target) as opened:
            begun, answer = opened.begin(request_fields(GET))
            opened.send(frame(Frame.DATA, 0, begun, BODY[:3]))
            assert (await asyncio.wait_for(answer, PATIENCE)).status == INVALID
            assert (await asyncio.wait_for(opened.call(request_fields(GET), BODY), PATIENCE)).status == NOT_FOUND
        assert logged.errors() == []
