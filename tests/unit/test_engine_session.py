"""What goes out on a session with the engine service, and how it breaks."""

import asyncio
from typing import Any, cast

import pytest

from broker_worker import engine_link
from broker_worker.engine_link import EngineLostError, EngineSession
from tests.support.waiting import eventually
from tokenrelay.engine.v1 import engine_service_pb2


class Call:
    """Stands in for grpc's call: takes what is written, and yields nothing until it is cancelled."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.written: list[engine_service_pb2.RunSessionRequest] = []
        self._failure = failure
        self._over = asyncio.Event()

    async def write(self, request: engine_service_pb2.RunSessionRequest) -> None:
        if self._failure is not None:
            raise self._failure
        self.written.append(request)

    def cancel(self) -> None:
        self._over.set()

    def __aiter__(self) -> "Call":
        return self

    async def __anext__(self) -> Any:
        await self._over.wait()
        raise asyncio.CancelledError


def session_on(call: Call) -> EngineSession:
    return EngineSession(cast("Any", call))


def start(key: int, size: int = 0) -> engine_service_pb2.StartGeneration:
    return engine_service_pb2.StartGeneration(key=key, spec=b"x" * size)


async def sent(session: EngineSession, call: Call, count: int) -> list[list[int]]:
    sending = asyncio.create_task(session.send())
    await eventually(lambda: len(call.written) == count, "the commands are sent")
    sending.cancel()
    return [[one.key for one in request.starts] for request in call.written]


async def test_what_is_cancelled_before_it_was_sent_never_starts() -> None:
    call = Call()
    session = session_on(call)
    session.start(start(1))
    session.start(start(2))
    session.cancel(1)
    session.cancel(7)
    assert await sent(session, call, 1) == [[2]]
    assert list(call.written[0].cancelled_keys) == [7]


async def test_large_starts_go_out_in_several_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_link, "START_BYTES", 1000)
    call = Call()
    session = session_on(call)
    for key, size in enumerate((400, 400, 400, 5000, 10)):
        session.start(start(key, size))
    assert await sent(session, call, 4) == [[0, 1], [2], [3], [4]]


async def test_a_session_breaks_when_nothing_can_be_sent_any_more() -> None:
    session = session_on(Call(ValueError("not a message")))
    session.start(start(1))
    sending = asyncio.create_task(session.send())
    with pytest.raises(EngineLostError, match="commands could not be sent"):
        async with asyncio.timeout(10):
            async for _ in session.frames():
                pass
    await sending
