"""Errors that nobody expects end an engine session, and no worker."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.conftest import Served, spec
from tests.integration.test_calls import read
from tests.integration.test_processes_come_and_go import check_whole, until
from tests.support.waiting import eventually
from tokenrelay.v1 import generation_service_pb2 as s

WHERE: dict[str, Callable[[Any], tuple[Any, str]]] = {
    "a claim": lambda store: (store.attempts, "claim"),
    "a frame": lambda store: (store.attempts, "write"),
    "a renewal": lambda store: (store.attempts, "renew"),
    "a read": lambda store: (store.queue, "read"),
    "a look at others": lambda store: (store.queue, "depth"),
    "the queues": lambda store: (store.queue, "prepare"),
}


@pytest.mark.parametrize("where", WHERE)
async def test_a_stream_goes_on_after_an_error_that_nobody_expects(
    served: Served, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = spec(max_tokens=1500)
    call = served.stub.GenerateStream(s.GenerateStreamRequest(spec=wanted))
    events = await until(call, 100)
    part, name = WHERE[where](served.worker.application._store)
    original = getattr(part, name)
    raised: list[str] = []

    async def fails_once(*arguments: Any, **named: Any) -> Any:
        if not raised:
            raised.append(where)
            raise KeyError("nobody has thought of this")
        return await original(*arguments, **named)

    monkeypatch.setattr(part, name, fails_once)
    if where == "the queues":
        await served.engine.stop()
        await served.stack.add_engine(port=served.engine.application.port)
    if where == "a claim":
        other = spec("another one")
        check_whole(other, await read(served.stub.GenerateStream(s.GenerateStreamRequest(spec=other))), attempts=1)
    await eventually(lambda: bool(raised), "the error was raised")
    events += await read(call)
    whole = events[-1].finished
    check_whole(wanted, events, attempts=whole.attempts)
    assert whole.attempts <= 2
    await served.stack.wait_until_served(served.gateway)
