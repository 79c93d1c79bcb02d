"""Reports what became of a generation in this worker: one log line, the metrics, the spans."""

import json
import time

import structlog
from google.protobuf.json_format import MessageToJson
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind

from broker_worker.execution import Execution
from tokenrelay import conventions, telemetry, timings
from tokenrelay.metrics import WorkerMetrics
from tokenrelay.store import keys
from tokenrelay.store.records import Record
from tokenrelay.store.v1 import store_pb2
from tokenrelay.telemetry import Tracing
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)


class Reports:
    """Reports on executions of one worker.

    Args:
        log_content: whether log lines and spans hold prompts and outputs.
    """

    def __init__(self, worker_id: str, tracing: Tracing, metrics: WorkerMetrics, *, log_content: bool) -> None:
        self._worker_id = worker_id
        self._tracing = tracing
        self._metrics = metrics
        self.log_content = log_content

    def begin(self, record: Record) -> tuple[Span, Context]:
        """Opens the span of a claimed generation; returns it with the trace context for the engine."""
        producer = telemetry.context_of(record.job.traceparent)
        assert record.claimed_us is not None, "what is claimed has an instant of its claim"
        claimed_us = record.claimed_us
        queue = keys.queue(keys.JOBS, record.job.model, 0)
        if self._tracing.enabled:
            first_claim = record.lost_attempts[0].claimed_us if record.lost_attempts else claimed_us
            self._past(conventions.SPAN_QUEUE_WAIT, record.submitted_us, first_claim, producer)
            for lost in record.lost_attempts[-1:]:
                links = telemetry.link_to(producer)
                span = self._tracing.span(
                    conventions.SPAN_TAKEOVER, parent=producer, start_ns=lost.appended_us * 1000, links=links
                )
                span.set_attribute(conventions.ATTEMPT, record.epoch)
                span.end(claimed_us * 1000)
        span = self._tracing.span(
            f"process {queue}",
            parent=producer,
            kind=SpanKind.CONSUMER,
            start_ns=claimed_us * 1000,
            links=telemetry.link_to(producer),
            attributes={
                conventions.MESSAGING_SYSTEM: "redis",
                conventions.MESSAGING_OPERATION_NAME: "process",
                conventions.MESSAGING_OPERATION_TYPE: "process",
                conventions.MESSAGING_DESTINATION: queue,
                conventions.MESSAGING_CONSUMER_GROUP: keys.GROUP,
                conventions.MESSAGING_MESSAGE_ID: record.generation_id,
                conventions.GEN_AI_OPERATION: "generate_content",
                conventions.GEN_AI_PROVIDER: "tokenrelay",
                conventions.GEN_AI_RESPONSE_ID: record.generation_id,
                conventions.GEN_AI_REQUEST_MODEL: record.job.model,
                conventions.GEN_AI_CHOICE_COUNT: record.job.n,
                conventions.ATTEMPT: record.epoch,
                conventions.WORKER: self._worker_id,
            },
        )
        context = telemetry.child_context(span) if self._tracing.enabled else producer
        return span, context

    def ended(self, execution: Execution, terminal: store_pb2.Terminal, finished_us: int) -> None:
        """Reports a terminal record that this worker has written."""
        record, timeline = execution.record, terminal.timeline
        state = generation_pb2.GenerationState.Name(terminal.state).removeprefix("GENERATION_STATE_")
        times = timings.timings(timeline, finished_us)
        facts = _facts(record, terminal, times)
        content = _content(execution) if self.log_content else {}
        self._count(record.job.model, state, terminal, times)
        self._trace(execution, terminal, finished_us, content)
        report = log.info if terminal.state == generation_pb2.GENERATION_STATE_FINISHED else log.warning
        report("generation ended", generation_id=record.generation_id, state=state, **facts, **content)

    def set_aside(self, execution: Execution, terminal: store_pb2.Terminal, finished_us: int) -> None:
        """Reports a generation that has become a dead letter."""
        self._metrics.dead_letters.inc()
        log.error("generation set aside as a dead letter", generation_id=execution.generation_id, reason=terminal.error.message)
        self.ended(execution, terminal, finished_us)

    def _count(self, model: str, state: str, terminal: store_pb2.Terminal, times: generation_pb2.Timings) -> None:
        metrics = self._metrics
        error_type = "" if terminal.state == generation_pb2.GENERATION_STATE_FINISHED else state
        metrics.finished_of(state).inc()
        metrics.duration_of(model, error_type).observe(timings.milliseconds(times.total) / 1000)
        if times.HasField("time_to_first_token"):
            metrics.first_token_of(model).observe(timings.milliseconds(times.time_to_first_token) / 1000)
        for hop in times.hops:
            metrics.hops_of(timings.hop_name(hop.kind)).observe(timings.milliseconds(hop.duration) / 1000)
        per_token = _milliseconds_per_token(terminal)
        if per_token is not None:
            metrics.per_token_of(model).observe(per_token / 1000)

    def _trace(self, execution: Execution, terminal: store_pb2.Terminal, finished_us: int, content: dict[str, str]) -> None:
        if not self._tracing.enabled:
            return
        span, timeline = execution.span, terminal.timeline
        context = telemetry.child_context(span)
        if timeline.queued_us:
            self._past(conventions.SPAN_DISPATCH, timeline.dispatched_us, timeline.queued_us, context)
        self._past(conventions.SPAN_APPEND, timeline.last_token_us or finished_us, finished_us, context)
        span.set_attribute(conventions.STATE, terminal.state)
        span.set_attribute(conventions.SEQUENCE, execution.last)
        span.set_attribute(conventions.EXACT, terminal.exact)
        span.set_attribute(conventions.GEN_AI_INPUT_TOKENS, terminal.usage.prompt_tokens)
        span.set_attribute(conventions.GEN_AI_OUTPUT_TOKENS, terminal.usage.completion_tokens)
        span.set_attribute(conventions.GEN_AI_CACHED_TOKENS, terminal.usage.cached_tokens)
        span.set_attribute(conventions.GEN_AI_FINISH_REASONS, _finish_reasons(terminal))
        for name, text in content.items():
            span.set_attribute(conventions.CONTENT + name, text)
        if terminal.HasField("error"):
            telemetry.fail(span, generation_pb2.GenerationState.Name(terminal.state), terminal.error.message)
        span.end(finished_us * 1000)

    def _past(self, name: str, start_us: int, end_us: int, parent: Context) -> None:
        self._tracing.past_span(name, start_us * 1000, end_us * 1000, parent=parent)

    def lost(self, execution: Execution, why: str) -> None:
        """Reports a generation that this worker requeued, or lost to another one."""
        telemetry.fail(execution.span, "handed_over", why)
        execution.span.end(time.time_ns() if self._tracing.enabled else None)
        log.warning("generation goes on elsewhere", generation_id=execution.generation_id, sequence=execution.last, why=why)


def _facts(record: Record, terminal: store_pb2.Terminal, times: generation_pb2.Timings) -> dict[str, object]:
    """Returns the fields of the log line, durations in milliseconds, rounded to microseconds."""
    facts: dict[str, object] = {
        "trace_id": record.job.trace_id,
        "model": record.job.model,
        "attempts": record.epoch,
        "exact": terminal.exact,
        "prompt_tokens": terminal.usage.prompt_tokens,
        "completion_tokens": terminal.usage.completion_tokens,
        "cached_tokens": terminal.usage.cached_tokens,
        "finish_reasons": _finish_reasons(terminal),
        "total_ms": timings.milliseconds(times.total),
        **{f"{timings.hop_name(hop.kind)}_ms": timings.milliseconds(hop.duration) for hop in times.hops},
    }
    if times.HasField("time_to_first_token"):
        facts["time_to_first_token_ms"] = timings.milliseconds(times.time_to_first_token)
    per_token = _milliseconds_per_token(terminal)
    if per_token is not None:
        facts["per_output_token_ms"] = round(per_token, 3)
    if terminal.HasField("error"):
        facts["error"] = terminal.error.message
    return facts


def _content(execution: Execution) -> dict[str, str]:
    """Returns the prompt and what this attempt put out, as JSON."""
    spec = generation_pb2.GenerationSpec.FromString(execution.record.spec)
    spec.ClearField("sampling_params")
    return {
        "prompt": MessageToJson(spec, indent=None, ensure_ascii=False),
        "output": json.dumps(execution.texts, ensure_ascii=False),
    }


def _milliseconds_per_token(terminal: store_pb2.Terminal) -> float | None:
    tokens, timeline = terminal.usage.completion_tokens, terminal.timeline
    if tokens < 2 or not timeline.first_token_us:
        return None
    return (timeline.last_token_us - timeline.first_token_us) / 1000 / (tokens - 1)


def _finish_reasons(terminal: store_pb2.Terminal) -> list[str]:
    return [
        generation_pb2.FinishReason.Name(end.finish_reason).removeprefix("FINISH_REASON_").lower() for end in terminal.choices
    ]
