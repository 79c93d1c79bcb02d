"""A client that leaves while its generation still waits, and so while nothing is written to it, cancels it at once."""

import asyncio
import struct
import time
from collections.abc import Callable

import pytest

from drills.raw_http2.connection import RawConnection
from drills.raw_http2.frames import CANCEL, END_STREAM, Frame, frame, message, request_fields
from tests.integration.conftest import Served, spec
from tests.support.waiting import PATIENCE, eventually
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s

STREAM = b"/tokenrelay.v1.GenerationService/GenerateStream"
# The gateway looks after a lost reader by itself when its lease of 15 seconds has passed.
AT_ONCE = 10.0
NO_ERROR, PROTOCOL_ERROR = 0, 1


def by_a_cancel(connection: RawConnection, stream: int) -> None:
    connection.reset(stream, CANCEL)


def by_a_reset_for_an_error(connection: RawConnection, stream: int) -> None:
    connection.reset(stream, PROTOCOL_ERROR)


def by_hanging_up(connection: RawConnection, _: int) -> None:
    assert connection._writer is not None
    connection._writer.transport.abort()


def by_going_away(connection: RawConnection, stream: int) -> None:
    connection.send(frame(Frame.GOAWAY, 0, 0, struct.pack(">II", 0, NO_ERROR)))
    by_hanging_up(connection, stream)


@pytest.mark.parametrize("leave", [by_a_cancel, by_a_reset_for_an_error, by_hanging_up, by_going_away])
async def test_what_still_waits_is_cancelled(served: Served, leave: Callable[[RawConnection, int], None]) -> None:
    await served.worker.stop()
    request = s.GenerateStreamRequest(spec=spec(), on_disconnect=g.DISCONNECT_POLICY_CANCEL)
    async with RawConnection(served.gateway.target) as connection:
        stream, _ = connection.begin(request_fields(STREAM))
        connection.send(frame(Frame.DATA, END_STREAM, stream, message(request.SerializeToString())))
        await eventually(lambda: connection.streams.is_accepted(stream), "the call is accepted")
        generation_id = connection.streams.fields(stream)["tokenrelay-generation-id"]
        left_at = time.monotonic()
        leave(connection, stream)

        async def is_cancelled() -> bool:
            found = await served.stub.GetGeneration(s.GetGenerationRequest(generation_id=generation_id))
            return bool(found.generation.state == g.GENERATION_STATE_CANCELLED)

        await asyncio.wait_for(eventually(is_cancelled, "it is cancelled"), PATIENCE)
        assert time.monotonic() - left_at < AT_ONCE
