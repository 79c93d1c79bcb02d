"""A gateway on the Envoy edge that stops: its clients are sent away, and what runs goes on to its end."""

import asyncio
import signal

import pytest

from drills.raw_http2.connection import RawConnection
from drills.raw_http2.frames import message, request_fields
from tests.integration.conftest import spec
from tests.integration.test_hostile import GOOD, PATIENCE, SERVICE, UNAVAILABLE
from tests.support.stack import Stack
from tests.support.waiting import eventually
from tokenrelay.v1 import generation_service_pb2 as s

pytestmark = pytest.mark.edge("envoy")


async def test_clients_are_told_to_connect_elsewhere_while_open_streams_end(stack: Stack) -> None:
    await stack.add_worker(await stack.add_engine(simulated_step_ms=10.0))
    long = message(s.GenerateStreamRequest(spec=spec(max_tokens=500)).SerializeToString())
    gateway = await stack.add_gateway_process(drain_seconds=60.0)
    async with RawConnection(gateway.target) as old, RawConnection(gateway.target) as other:
        stream, whole = old.begin(request_fields(SERVICE + b"GenerateStream"), long)
        await eventually(lambda: old.streams.is_accepted(stream), "the stream has begun")
        gateway.process.send_signal(signal.SIGTERM)

        async def is_sent_away() -> bool:
            answer = await asyncio.wait_for(other.call(request_fields(SERVICE + b"Generate"), message(GOOD)), PATIENCE)
            if answer.status == UNAVAILABLE:
                assert answer.text == "this gateway is stopping; call another one"
            return other.sent_away.is_set()

        await eventually(is_sent_away, "an answer comes with a GOAWAY")
        async with RawConnection(gateway.target) as new:
            answer = await asyncio.wait_for(new.call(request_fields(SERVICE + b"Generate"), message(GOOD)), PATIENCE)
        assert (answer.status, answer.text) == (UNAVAILABLE, "this gateway is stopping; call another one")
        assert (await asyncio.wait_for(whole, PATIENCE)).status == 0
        assert await gateway.end() == 0
