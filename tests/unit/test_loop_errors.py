"""The event loop inside Envoy is silent about the end of a wait that was cancelled, and about nothing else."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from gateway.edge import loop_errors


@pytest.fixture
def loop() -> Iterator[uvloop.Loop]:
    """The loop that Envoy's module has."""
    made = uvloop.new_event_loop()
    made.set_exception_handler(loop_errors.handle)
    yield made
    made.close()


def told(loop: uvloop.Loop, caplog: pytest.LogCaptureFixture, callback: Callable[..., Any], *arguments: Any) -> list[str]:
    """Returns what is logged of a callback."""
    loop.call_soon_threadsafe(callback, *arguments)
    loop.run_until_complete(asyncio.sleep(0))
    return [record.getMessage().partition("\n")[0] for record in caplog.records if record.name == "asyncio"]


def test_the_end_of_a_cancelled_wait_is_nothing_to_tell(loop: uvloop.Loop, caplog: pytest.LogCaptureFixture) -> None:
    wait = loop.create_future()
    wait.cancel()
    assert told(loop, caplog, wait.set_result, None) == []
    assert told(loop, caplog, wait.set_exception, ConnectionError()) == []


def test_other_errors_are_told(loop: uvloop.Loop, caplog: pytest.LogCaptureFixture) -> None:
    def ours() -> None:
        raise asyncio.InvalidStateError

    (text,) = told(loop, caplog, ours)
    assert "ours" in text
