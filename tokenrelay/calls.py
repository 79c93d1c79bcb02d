"""The call that is being served: when it came, its span, and its trace. Set by the interceptor, read by handlers."""

import time
from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.trace import Span

from tokenrelay.identity.callers import EVERYBODY, Caller

TOLERANCE_NS = 20_000_000  # the client's clock may run out a little before ours


@dataclass(frozen=True)
class Call:
    """One call of a client.

    Attributes:
        method: its full name, "package.Service/Method".
        received_ns: our monotonic instant of its arrival, in nanoseconds.
        span: its span.
        context: in which children of the span are started; holds the client's own context if nothing is exported.
        deadline_ns: our monotonic instant at which the client's deadline passes, None if it has none.
        caller: who calls.
    """

    method: str
    received_ns: int
    span: Span
    context: Context
    deadline_ns: int | None = None
    caller: Caller = EVERYBODY

    def is_past_deadline(self) -> bool:
        """Tells a deadline that has passed from a client that has left; to gRPC both are cancels."""
        return self.deadline_ns is not None and time.monotonic_ns() >= self.deadline_ns - TOLERANCE_NS


_current: ContextVar[Call] = ContextVar("current_call")


def current() -> Call:
    """Returns the call that this task serves."""
    return _current.get()


def begin(call: Call) -> None:
    """Makes a call this task's. grpc.aio serves each call in a task of its own, so nothing is to be undone."""
    _current.set(call)
