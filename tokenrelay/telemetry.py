"""Tracing: the OpenTelemetry SDK, set up once per process, and spans with given instants.

Without an endpoint nothing is set up and every span is a no-op. Instants are given by us because most hops are known
only when they are over, from the engine's or Redis' clock.
"""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Link, NoOpTracer, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tokenrelay import conventions
from tokenrelay.settings import ProcessSettings
from tokenrelay.start_up import SettingError

LAST_EXPORT_SECONDS = 2.0  # for the spans that wait when a process ends
SPANS_WAITING = 65_536  # spans that may wait for export; more are dropped and counted by the SDK

HEADERS_LOGGER = "opentelemetry.util.re"  # the SDK's, for headers that it cannot read

log = logging.getLogger(__name__)  # the client's command line has no structlog

_propagator = TraceContextTextMapPropagator()
Attributes = Mapping[str, str | bool | int | float | Sequence[str]]


@dataclass(frozen=True)
class Tracing:
    """A process' tracer, and its end."""

    tracer: Tracer
    provider: TracerProvider | None = None

    @property
    def enabled(self) -> bool:
        return self.provider is not None

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
        return self.tracer.start_span(
            name, context=parent or Context(), kind=kind, start_time=start_ns, attributes=attributes, links=links
        )

    def past_span(
        self, name: str, start_ns: int, end_ns: int, *, parent: Context, attributes: Attributes | None = None
    ) -> None:
        """Records a span that is over."""
        if self.enabled:
            self.span(name, parent=parent, start_ns=start_ns, attributes=attributes).end(max(start_ns, end_ns))

    def shut_down(self) -> None:
        """Exports what waits, for a bounded time, then ends."""
        if self.provider is None:
            return
        # On a thread that may be left behind: the SDK waits up to half a minute for a collector that does not answer, and
        # the process would be as late with its exit.
        ending = threading.Thread(target=self.provider.shutdown, name="last spans", daemon=True)
        ending.start()
        ending.join(LAST_EXPORT_SECONDS)
        if ending.is_alive():
            log.warning("the collector does not answer; the last spans are dropped")


def set_up(service: str, instance: str, settings: ProcessSettings) -> Tracing:
    """Returns a process' tracing, off if no endpoint is set.

    Args:
        service: becomes service.name unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say otherwise.
        instance: becomes service.instance.id.
        settings: say whether and how spans are exported.

    Raises:
        SettingError: the exporter refuses what the environment says.
    """
    if not settings.tracing:
        return Tracing(NoOpTracer())
    named = {"service.name": service, "service.instance.id": instance, "service.namespace": "tokenrelay"}
    from_environment = Resource.create().attributes
    if str(from_environment.get("service.name", "")).startswith("unknown_service"):
        from_environment = {name: value for name, value in from_environment.items() if name != "service.name"}
    provider = TracerProvider(resource=Resource({**named, **from_environment}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_exporter(settings), max_queue_size=SPANS_WAITING))
    return Tracing(provider.get_tracer("tokenrelay"), provider)


def _exporter(settings: ProcessSettings) -> SpanExporter:
    """Returns the OTLP exporter of the chosen protocol; it reads the other OTEL_EXPORTER_OTLP_* variables itself."""
    protocol = "grpc" if settings.tracing_protocol == "grpc" else "http"
    module = import_module(f"opentelemetry.exporter.otlp.proto.{protocol}.trace_exporter")
    logging.getLogger(HEADERS_LOGGER).addFilter(_hide_headers)
    try:
        exporter: SpanExporter = module.OTLPSpanExporter()
    except Exception as error:
        # Of any kind: what it raises for a compression, a certificate or a header that it does not take is its own affair.
        raise SettingError("OTEL_EXPORTER_OTLP_*", f"the exporter refuses them: {type(error).__name__}: {error}") from error
    return exporter


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
