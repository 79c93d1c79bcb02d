"""Begins spans as the SDK's sampler decides, and hands their bytes to the SDK's queue once they are over."""

import logging
import time
from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, ParentBased
from opentelemetry.trace import (
    DEFAULT_TRACE_STATE,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    TraceFlags,
    get_current_span,
)

from tokenrelay.spans.encoding import Encoder
from tokenrelay.spans.recorded import Attributes, RecordedSpan

NOT_SAMPLED, SAMPLED, RANDOM_TRACE_ID = 0x00, 0x01, 0x02  # W3C's trace flags
FLAGS = [TraceFlags(flags) for flags in range((SAMPLED | RANDOM_TRACE_ID) + 1)]

log = logging.getLogger(__name__)


class Recorder:
    """Begins and records the spans of one process.

    Args:
        provider: the SDK's, for its sampler and its ids.
        processor: the SDK's, whose exporter takes each EncodedSpan.
    """

    def __init__(self, provider: TracerProvider, processor: BatchSpanProcessor, encoder: Encoder) -> None:
        self._sampler = provider.sampler
        self._ids = provider.id_generator
        self._processor = processor
        self._encoder = encoder
        # OTEL_TRACES_SAMPLER has no parent-based sampler that does otherwise than the parent, so that for nine of ten
        # spans no sampler needs to be asked.
        self._heeds_parent = isinstance(self._sampler, ParentBased)

    def begin(
        self,
        name: str,
        *,
        parent: Context,
        kind: SpanKind = SpanKind.INTERNAL,
        start_ns: int | None = None,
        attributes: Attributes | None = None,
        links: Sequence[Link] = (),
    ) -> Span:
        """Begins a span; the instant is in nanoseconds since the epoch, now if None."""
        above = get_current_span(parent).get_span_context()
        if above.is_valid:
            trace_id, flags = above.trace_id, above.trace_flags & RANDOM_TRACE_ID
        else:
            trace_id = self._ids.generate_trace_id()
            flags = RANDOM_TRACE_ID if self._ids.is_trace_id_random() else NOT_SAMPLED
        if self._heeds_parent and above.is_valid:
            sampled, trace_state = above.trace_flags.sampled, above.trace_state
        else:
            result = self._sampler.should_sample(parent, trace_id, name, kind, attributes, links)
            sampled, trace_state = result.decision is Decision.RECORD_AND_SAMPLE, result.trace_state or DEFAULT_TRACE_STATE
        own = FLAGS[flags | SAMPLED if sampled else flags]
        context = SpanContext(trace_id, self._ids.generate_span_id(), False, own, trace_state)
        if not sampled:
            return NonRecordingSpan(context)
        return RecordedSpan(
            context,
            parent=above if above.is_valid else None,
            name=name,
            kind=kind,
            start_ns=time.time_ns() if start_ns is None else start_ns,
            attributes=attributes,
            links=links,
            on_end=self._export,
        )

    def shut_down(self) -> None:
        """Exports what waits, for as long as that takes."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK leaves it without types

    def _export(self, span: RecordedSpan) -> None:
        try:
            encoded = self._encoder.span(span)
        except (TypeError, ValueError) as error:
            # What is traced must not fail because of its trace. The value may be a prompt, so it is not shown.
            log.warning("the span %r cannot be encoded and is dropped: %s", span.name, type(error).__name__)
            return
        self._processor.on_end(encoded)  # type: ignore[arg-type]  # it looks at the context alone
