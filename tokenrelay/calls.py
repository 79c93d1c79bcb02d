"""The call that is being served: when it came, its span, and its trace. Set by the interceptor, read by handlers."""

from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.trace import Span


@dataclass(frozen=True)
class Call:
    """One call of a client.

    Attributes:
        method: its full name, "package.Service/Method".
        received_ns: our monotonic instant of its arrival, in nanoseconds.
        span: its span.
        context: in which children of the span are started; holds the client's own context if nothing is exported.
    """

    method: str
    received_ns: int
    span: Span
    context: Context


_current: ContextVar[Call] = ContextVar("current_call")


def current() -> Call:
    """Returns the call that this task serves."""
    return _current.get()


def begin(call: Call) -> None:
    """Makes a call this task's. grpc.aio serves each call in a task of its own, so nothing is to be undone."""
    _current.set(call)
