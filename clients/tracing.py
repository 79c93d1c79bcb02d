"""The client's own span, if the application uses OpenTelemetry; nothing at all if it does not."""

from types import TracebackType
from typing import Any

from tokenrelay import conventions

try:
    from opentelemetry import propagate, trace
except ImportError:  # OpenTelemetry is the application's choice
    trace = None  # type: ignore[assignment, unused-ignore]

TRACED = trace is not None
SERVICE = "tokenrelay.v1.GenerationService"


class CallSpan:
    """A span around a call, and the metadata that lets the server continue its trace."""

    def __init__(self, method: str, model: str) -> None:
        self.metadata: tuple[tuple[str, str], ...] = ()
        self._span: Any = None
        if not TRACED:
            return
        name = f"{SERVICE}/{method}"
        attributes = {
            conventions.RPC_SYSTEM: "grpc",
            conventions.RPC_METHOD: name,
            conventions.GEN_AI_REQUEST_MODEL: model,
        }
        tracer = trace.get_tracer("tokenrelay.clients")
        self._span = tracer.start_span(name, kind=trace.SpanKind.CLIENT, attributes=attributes)
        carrier: dict[str, str] = {}
        propagate.inject(carrier, trace.set_span_in_context(self._span))
        self.metadata = tuple(carrier.items())

    def __enter__(self) -> "CallSpan":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """Ends the span; harmless if it has ended."""
        span, self._span = self._span, None  # at once, since a stream may be closed by one thread and read by another
        if span is None:
            return
        if error is not None:
            span.set_status(trace.StatusCode.ERROR, type(error).__name__)
        span.end()
