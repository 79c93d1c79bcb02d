"""What a handler's writes become as ASGI's events, and what they wait for."""

import asyncio
import gc
from typing import Any

import pytest

from gateway.edge.grpc_over_asgi.context import Context
from gateway.edge.grpc_over_asgi.messages import framed
from tokenrelay.serving.exchange import ClientGoneError


class Envoy:
    """Takes events as Envoy's module does: at once, with a future that says when a piece of a body has been taken."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.untaken: list[asyncio.Future[None]] = []

    def send(self, event: dict[str, Any]) -> "asyncio.Future[None]":
        self.events.append(event)
        taken = asyncio.get_running_loop().create_future()
        if event.get("more_body"):
            self.untaken.append(taken)
        else:
            taken.set_result(None)
        return taken

    @property
    def bodies(self) -> list[bytes]:
        return [event["body"] for event in self.events if event["type"] == "http.response.body"]


@pytest.fixture
def envoy() -> Envoy:
    return Envoy()


@pytest.fixture
def context(envoy: Envoy) -> Context:
    return Context((), envoy.send, None)


async def test_headers_go_with_a_message_that_follows_at_once(envoy: Envoy, context: Context) -> None:
    await context.send_initial_metadata((("name", "value"),))
    await context.write(b"one")
    await asyncio.sleep(0)
    assert envoy.bodies == [framed(b"one")]
    assert (b"name", b"value") in envoy.events[0]["headers"]


async def test_headers_go_before_a_handler_that_waits(envoy: Envoy, context: Context) -> None:
    await context.send_initial_metadata(())
    await asyncio.sleep(0)
    assert envoy.bodies == [b""]


async def test_headers_go_with_the_end_of_a_call_without_messages(envoy: Envoy, context: Context) -> None:
    await context.send_initial_metadata(())
    await context.end()
    await asyncio.sleep(0)
    kinds = [event["type"] for event in envoy.events]
    assert kinds == ["http.response.start", "http.response.body", "http.response.trailers"]


async def test_a_message_waits_until_the_one_before_has_been_taken(envoy: Envoy, context: Context) -> None:
    await context.write(b"one")
    second = asyncio.create_task(context.write(b"two"))
    await asyncio.sleep(0)
    assert envoy.bodies == [framed(b"one")]
    envoy.untaken[0].set_result(None)
    await second
    assert envoy.bodies == [framed(b"one"), framed(b"two")]


async def test_a_cancelled_write_leaves_the_message_before_to_envoy(envoy: Envoy, context: Context) -> None:
    await context.write(b"one")
    second = asyncio.create_task(context.write(b"two"))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    assert not envoy.untaken[0].cancelled()  # Envoy's module still sets its result


async def test_the_next_write_says_that_the_client_has_left(envoy: Envoy, context: Context) -> None:
    await context.write(b"one")
    envoy.untaken[0].set_exception(OSError("gone"))
    with pytest.raises(ClientGoneError):
        await context.write(b"two")


async def test_nobody_is_told_of_a_message_that_was_not_taken_after_the_call(envoy: Envoy) -> None:
    reported: list[Any] = []
    context = Context((), envoy.send, None)
    asyncio.get_running_loop().set_exception_handler(lambda _, told: reported.append(told))
    await context.write(b"one")
    context.close()
    envoy.untaken.pop().set_exception(OSError("gone"))
    await asyncio.sleep(0)
    del context
    gc.collect()
    assert not reported
