"""Tracing: set up once per process as OpenTelemetry's variables say, and spans with given instants.

Without an endpoint nothing is set up and every span is a no-op. Instants are given by us because most hops are known
only when they are over, from the engine's or Redis' clock.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tokenrelay import conventions
from tokenrelay.settings import ProcessSettings
from tokenrelay.spans.encoding import Encoder
from tokenrelay.spans.recorded import Attributes
from tokenrelay.spans.recorder import Recorder
from tokenrelay.start_up import SettingError

LAST_EXPORT_SECONDS = 2.0  # for the spans that wait when a process ends
SPANS_WAITING = 65_536  # spans that may wait for export; more are dropped and counted by the SDK
SCOPE = "tokenrelay"

HEADERS_LOGGER = "opentelemetry.util.re"  # the SDK's, for headers that it cannot read

log = logging.getLogger(__name__)  # the client's command line has no structlog

_propagator = TraceContextTextMapPropagator()


@dataclass(frozen=True)
class Tracing:
    """A process' spans; none are recorded if it has no recorder."""

    recorder: Recorder | None = None

    @property
    def enabled(self) -> bool:
        return self.recorder is not None

    def span(
        self,
        name: str,
        *,
        parent: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        start_ns: int | None = None,
        attributes: Attributes | None = None,
        links: Sequence[Link] = (),
    ) -> Span:
        """Starts a span; the instant is in nanoseconds since the epoch, now if None."""
        if self.recorder is None:
            return INVALID_SPAN
        return self.recorder.begin(
            name, parent=parent or Context(), kind=kind, start_ns=start_ns, attributes=attributes, links=links
        )

    def past_span(
        self, name: str, start_ns: int, end_ns: int, *, parent: Context, attributes: Attributes | None = None
    ) -> None:
        """Records a span that is over."""
        if self.enabled:
            self.span(name, parent=parent, start_ns=start_ns, attributes=attributes).end(max(start_ns, end_ns))

    def shut_down(self) -> None:
        """Exports what waits, for a bounded time, then ends."""
        if self.recorder is None:
            return
        # On a thread that may be left behind: the SDK waits up to half a minute for a collector that does not answer, and
        # the process would be as late with its exit.
        ending = threading.Thread(target=self.recorder.shut_down, name="last spans", daemon=True)
        ending.start()
        ending.join(LAST_EXPORT_SECONDS)
        if ending.is_alive():
            log.warning("the collector does not answer; the last spans are dropped")


def set_up(service: str, instance: str, settings: ProcessSettings) -> Tracing:
    """Returns a server's tracing, off if no endpoint is set.

    Args:
        service: becomes service.name unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say otherwise.
        instance: becomes service.instance.id.
        settings: say whether and how spans are exported.

    Raises:
        SettingError: the exporter refuses what the environment says.
    """
    if not settings.tracing:
        return Tracing()
    resource = _resource(service, instance)
    encoder = Encoder(resource, SCOPE, SpanLimits())
    module = import_module(f"tokenrelay.spans.over_{_protocol(settings)}")
    processor = _processor(lambda: module.Exporter(encoder))
    return Tracing(Recorder(TracerProvider(resource=resource, shutdown_on_exit=False), processor, encoder))


def provider(service: str, instance: str, settings: ProcessSettings) -> TracerProvider | None:
    """Returns the SDK's own, for a program with few spans, which it begins through OpenTelemetry; None if tracing is off.

    The arguments and what it raises are those of `set_up`.
    """
    if not settings.tracing:
        return None
    module = import_module(f"opentelemetry.exporter.otlp.proto.{_protocol(settings)}.trace_exporter")
    made = TracerProvider(resource=_resource(service, instance), shutdown_on_exit=False)
    made.add_span_processor(_processor(module.OTLPSpanExporter))
    return made


def _resource(service: str, instance: str) -> Resource:
    named = {"service.name": service, "service.instance.id": instance, "service.namespace": "tokenrelay"}
    # What the SDK makes up where the environment says nothing, a random instance among it, does not count.
    from_environment = OTELResourceDetector().detect().attributes
    return Resource.create({**named, **from_environment})


def _protocol(settings: ProcessSettings) -> str:
    return "grpc" if settings.tracing_protocol == "grpc" else "http"


def _processor(make_exporter: Callable[[], SpanExporter]) -> BatchSpanProcessor:
    """Returns the queue of an OTLP exporter, which reads the other OTEL_EXPORTER_OTLP_* variables itself."""
    logging.getLogger(HEADERS_LOGGER).addFilter(_hide_headers)
    try:
        exporter = make_exporter()
    except Exception as error:
        # Of any kind: what it raises for a compression, a certificate or a header that it does not take is its own affair.
        raise SettingError("OTEL_EXPORTER_OTLP_*", f"the exporter refuses them: {type(error).__name__}: {error}") from error
    return BatchSpanProcessor(exporter, max_queue_size=SPANS_WAITING)


def _hide_headers(record: logging.LogRecord) -> bool:
    """Takes the header out of the SDK's warning that it is malformed, since its value may be the collector's key."""
    record.args = ("OTEL_EXPORTER_OTLP_HEADERS, whose value is not shown",)
    return True


def joined(traceparent: str, tracestate: str) -> str:
    """Returns W3C's two headers as the one text that jobs and the engine's requests carry: one line each.

    Without a tracestate it is the traceparent alone.
    """
    return f"{traceparent}\n{tracestate}" if traceparent and tracestate else traceparent


def traceparent_of(context: Context) -> str:
    """Returns a context as a text that context_of reads; empty if it has no trace."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, context)
    return joined(carrier.get("traceparent", ""), carrier.get("tracestate", ""))


def context_of(text: str) -> Context:
    """Returns the context that a traceparent stands for, or what `joined` made; empty if it is empty or malformed."""
    if not text:
        return Context()
    traceparent, _, tracestate = text.partition("\n")
    return _propagator.extract({"traceparent": traceparent, "tracestate": tracestate}, Context())


def child_context(span: Span) -> Context:
    """Returns the context in which children of a span are started."""
    return trace.set_span_in_context(span, Context())


def trace_id(context: Context) -> str:
    """Returns a context's trace id in hexadecimal; empty if there is none."""
    span = trace.get_current_span(context).get_span_context()
    return trace.format_trace_id(span.trace_id) if span.is_valid else ""


def link_to(context: Context) -> list[Link]:
    """Returns a link to a context's span, if there is one."""
    span = trace.get_current_span(context).get_span_context()
    return [Link(span)] if span.is_valid else []


def fail(span: Span, error_type: str, description: str | None = None) -> None:
    """Marks a span as failed."""
    span.set_attribute(conventions.ERROR_TYPE, error_type)
    span.set_status(Status(StatusCode.ERROR, description))


def wall_ns(monotonic_ns: int) -> int:
    """Returns the nanoseconds since the epoch of one of our monotonic instants."""
    return time.time_ns() - (time.monotonic_ns() - monotonic_ns)
