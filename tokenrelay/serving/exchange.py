"""One call on its way through the steps, and what a step is."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import grpc
from google.protobuf.message import Message
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # the stubs leave out what is private

from tokenrelay.identity.callers import EVERYBODY, Caller


class ClientGoneError(Exception):
    """What was to be written has no reader any more."""


# What a write raises whose connection is gone, if the call has not been cancelled before: by grpc.aio, and by others.
CLIENT_GONE = (cygrpc.ExecuteBatchError, ClientGoneError)


@dataclass(slots=True)
class Exchange:
    """One call.

    Attributes:
        method: its full name, "package.Service/Method".
        context: gRPC's, a grpc.aio.ServicerContext.
        messages: the request messages, as bytes, as they arrive.
        parse: makes a message of one of them; raises google.protobuf.message.DecodeError.
        handle: answers the request. It returns the response of a call that has one, and writes a stream of them by itself.
        takes_stream: whether the handler takes an iterator over all requests instead of the only one.
        caller: who calls; everybody, where there is no authentication.
        request: what the handler takes, once it has been received.
    """

    method: str
    context: Any
    messages: AsyncIterator[bytes]
    parse: Callable[[bytes], Message]
    handle: Callable[[Any, Any], Awaitable[Any]]
    takes_stream: bool = False
    caller: Caller = EVERYBODY
    request: Any = None


Proceed = Callable[[Exchange], Awaitable[Any]]


class Step(Protocol):
    """Does its part before, after or around the rest of the way, which `proceed` stands for."""

    async def __call__(self, exchange: Exchange, proceed: Proceed) -> Any:
        """Returns what the rest of the way returned."""


def compose(steps: Sequence[Step]) -> Proceed:
    """Returns one way through all steps, the first one outermost; at its end the call's handler answers."""
    way: Proceed = _answer
    for step in reversed(steps):
        way = partial(step, proceed=way)
    return way


async def _answer(exchange: Exchange) -> Any:
    return await exchange.handle(exchange.request, exchange.context)


def chosen_code(context: Any) -> grpc.StatusCode | None:
    """Returns the status code that a handler has chosen on its context; None if it has chosen none."""
    code = context.code()  # a StatusCode after set_code, its number after abort, and 0 before both
    if isinstance(code, grpc.StatusCode):
        return code
    return next((known for known in grpc.StatusCode if code and known.value[0] == code), None)
