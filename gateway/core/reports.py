"""What a gateway reports of the generations that pass through it: spans, metrics, and where the time went."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from opentelemetry.trace import SpanKind

from tokenrelay import conventions, telemetry, timings
from tokenrelay.calls import Call
from tokenrelay.clock import PeerClock
from tokenrelay.metrics import GatewayMetrics
from tokenrelay.status import from_status
from tokenrelay.store import keys
from tokenrelay.store.values import Accepted, LogItem, Submission
from tokenrelay.telemetry import Tracing
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)


class Reports:
    """Reports a generation's way into the queue, and a reader's end.

    Args:
        clock: Redis' clock, on which all instants of a generation lie.
    """

    def __init__(self, *, clock: PeerClock, tracing: Tracing, metrics: GatewayMetrics) -> None:
        self._clock = clock
        self._tracing = tracing
        self._metrics = metrics

    @contextmanager
    def submitting(self, submission: Submission, call: Call) -> Iterator[None]:
        """Traces and measures the storing of a generation, and writes the trace's context into its job."""
        queue = keys.queue(keys.JOBS, submission.job.model, 0)
        started = time.monotonic()
        span = self._tracing.span(
            f"send {queue}",
            parent=call.context,
            kind=SpanKind.PRODUCER,
            attributes={
                conventions.MESSAGING_SYSTEM: "redis",
                conventions.MESSAGING_OPERATION_NAME: "send",
                conventions.MESSAGING_OPERATION_TYPE: "send",
                conventions.MESSAGING_DESTINATION: queue,
                conventions.MESSAGING_MESSAGE_ID: submission.generation_id,
                conventions.MESSAGING_BODY_SIZE: len(submission.spec),
            },
        )
        context = telemetry.child_context(span) if self._tracing.enabled else call.context
        submission.job.traceparent = telemetry.traceparent_of(context)
        try:
            yield
        except Exception as error:
            telemetry.fail(span, type(error).__name__)
            log.debug("not accepted", generation_id=submission.generation_id, error=type(error).__name__)
            raise
        finally:
            span.end()
        self._metrics.submit_of("send").observe(time.monotonic() - started)

    def accepted(self, submission: Submission, accepted: Accepted) -> None:
        """Counts an accepted generation, unless its idempotency key stood for one that was there already."""
        log.debug("accepted", generation_id=accepted.generation_id, model=submission.job.model, created=accepted.created)
        if accepted.created:
            self._metrics.accepted_of(keys.queue(keys.JOBS, submission.job.model, 0)).inc()

    def ended(self, item: LogItem, call: Call) -> generation_pb2.Timings:
        """Returns the timings of a good stream for its reader; raises the error of another one.

        The relay is among them, unless the reader came after the end.

        Raises:
            TokenrelayError: why the generation did not finish.
        """
        terminal = item.terminal
        assert terminal is not None
        if terminal.state != generation_pb2.GENERATION_STATE_FINISHED:
            raise from_status(terminal.error)
        if self._clock.to_peer(call.received_ns) // 1000 > item.finished_us:
            return timings.timings(terminal.timeline, item.finished_us)
        now_us = self._clock.now() // 1000
        relayed_us = now_us - item.finished_us
        self._metrics.relay.observe(max(0, relayed_us) / 1e6)
        end_ns = time.time_ns()
        self._tracing.past_span(conventions.SPAN_RELAY, end_ns - relayed_us * 1000, end_ns, parent=call.context)
        return timings.timings(terminal.timeline, item.finished_us, now_us)
