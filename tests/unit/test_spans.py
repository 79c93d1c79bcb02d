"""Our spans beside the SDK's own: the same of everything but the ids that chance gives."""

import itertools
from collections.abc import Callable, Sequence

import pytest
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, set_span_in_context

from tokenrelay import telemetry
from tokenrelay.spans.encoding import EncodedSpan, Encoder
from tokenrelay.spans.recorder import Recorder
from tokenrelay.telemetry import Tracing

RESOURCE = Resource({"service.name": "worker", "service.instance.id": "w1"}, "https://example.org/schema")
SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOT_SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
RANDOM = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03"
STATE = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
ATTRIBUTES = {
    "text": "é 😀",
    "yes": True,
    "no": False,
    "zero": 0,
    "negative": -1,
    "share": 0.5,
    "texts": ["a", "é"],
    "none": [],
}

Start = Callable[..., Span]


class Waiting(SpanProcessor):
    """Keeps what would be exported."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


class Both:
    """What is done to the SDK's spans and to ours alike, and what either would export."""

    def __init__(self) -> None:
        self._theirs, self._ours = Waiting(), Waiting()
        provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
        provider.add_span_processor(self._theirs)
        self._encoder = Encoder(RESOURCE, telemetry.SCOPE, SpanLimits())
        self.tracer = provider.get_tracer(telemetry.SCOPE)
        self.tracing = Tracing(Recorder(provider, self._ours, self._encoder))  # type: ignore[arg-type]  # of it on_end is used

    def each(self, act: Callable[[Start], object]) -> None:
        def start(name: str, *, parent: Context, start_ns: int | None = None, **of_span: object) -> Span:
            return self.tracer.start_span(name, context=parent, start_time=start_ns, **of_span)  # type: ignore[arg-type]

        act(start)
        act(self.tracing.span)

    def exported(self) -> tuple[ExportTraceServiceRequest, ExportTraceServiceRequest]:
        ours: Sequence[EncodedSpan] = self._ours.spans  # type: ignore[assignment]
        theirs = encode_spans(self._theirs.spans)
        return theirs, self._encoder.request(ours)


def without_own_ids(request: ExportTraceServiceRequest) -> ExportTraceServiceRequest:
    for span in request.resource_spans[0].scope_spans[0].spans:
        assert len(span.span_id) == 8
        assert any(span.span_id)
        span.span_id = b""
    return request


def assert_the_same(both: Both, spans: int = 1) -> None:
    theirs, ours = both.exported()
    assert len(ours.resource_spans[0].scope_spans[0].spans) == spans
    assert without_own_ids(ours) == without_own_ids(theirs)


def context(text: str, *, is_local: bool = False) -> Context:
    remote = telemetry.context_of(text)
    if not is_local:
        return remote
    above = telemetry.link_to(remote)[0].context
    local = SpanContext(above.trace_id, above.span_id, False, above.trace_flags, above.trace_state)
    return set_span_in_context(NonRecordingSpan(local), Context())


@pytest.mark.parametrize("kind", SpanKind, ids=[kind.name for kind in SpanKind])
def test_a_span_of_each_kind(kind: SpanKind) -> None:
    both = Both()
    both.each(lambda start: start("a name", parent=context(SAMPLED), kind=kind, start_ns=5).end(7))
    assert_the_same(both)


@pytest.mark.parametrize("is_local", [False, True], ids=["remote", "local"])
@pytest.mark.parametrize("text", [SAMPLED, RANDOM, f"{SAMPLED}\n{STATE}"], ids=["sampled", "random", "state"])
def test_parents_and_links(text: str, is_local: bool) -> None:
    parent = context(text, is_local=is_local)
    both = Both()
    both.each(lambda start: start("a name", parent=parent, links=telemetry.link_to(parent), start_ns=5).end(7))
    assert_the_same(both)


def act_with_all(start: Start) -> None:
    span = start("a name", parent=context(SAMPLED), start_ns=5, attributes=ATTRIBUTES)
    span.set_attribute("zero", 2**63 - 1)
    span.set_attribute("more", "x" * 1000)
    span.set_attributes({"even more": 1, "yes": False})
    span.end(7)


def test_attributes_of_every_type() -> None:
    both = Both()
    both.each(act_with_all)
    theirs, ours = (request.resource_spans[0].scope_spans[0].spans[0] for request in both.exported())
    assert {one.key: one.value for one in ours.attributes} == {one.key: one.value for one in theirs.attributes}
    assert len(ours.attributes) == len(theirs.attributes) == len(ATTRIBUTES) + 2


def test_a_status_and_what_is_set_before_it() -> None:
    def act(start: Start) -> None:
        for status in (Status(StatusCode.ERROR, "why"), Status(StatusCode.ERROR), Status(StatusCode.OK)):
            span = start("a name", parent=context(SAMPLED), start_ns=5)
            span.set_status(status)
            span.end(7)
        span = start("failed", parent=context(SAMPLED), start_ns=5)
        telemetry.fail(span, "LOST", "it is gone")
        span.end(7)

    both = Both()
    both.each(act)
    assert_the_same(both, 4)


def test_the_limits_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, limit in (("ATTRIBUTE_COUNT", 3), ("ATTRIBUTE_VALUE_LENGTH", 5), ("LINK_COUNT", 1)):
        monkeypatch.setenv(f"OTEL_SPAN_{name}_LIMIT", str(limit))

    def act(start: Start) -> None:
        attributes = {"first": 1, "second": 2, "third": "a long text", "fourth": ["a long text", "short"], "last": True}
        links = [Link(SpanContext(trace_id, 1, False)) for trace_id in (1, 2, 3)]
        start("a name", parent=context(SAMPLED), start_ns=5, attributes=attributes, links=links).end(7)

    both = Both()
    both.each(act)
    assert_the_same(both)
    ours = both.exported()[1].resource_spans[0].scope_spans[0].spans[0]
    assert (ours.dropped_attributes_count, ours.dropped_links_count) == (2, 2)


SAMPLERS = ["", "always_on", "always_off", "parentbased_always_on", "parentbased_always_off", "traceidratio:0"]
SAMPLERS += ["traceidratio:1", "parentbased_traceidratio:0", "parentbased_traceidratio:1"]
PARENTS = {"none": "", "sampled": SAMPLED, "not sampled": NOT_SAMPLED, "state": f"{SAMPLED}\n{STATE}", "random": RANDOM}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_decides_as_the_sdk_s(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, argument = sampler.partition(":")
    if name:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", name)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    both = Both()
    for (about, text), is_local in itertools.product(PARENTS.items(), (False, True)):
        if not text and is_local:
            continue
        parent = context(text, is_local=is_local)
        theirs, ours = both.tracer.start_span("x", context=parent), both.tracing.span("x", parent=parent)
        made, wanted = ours.get_span_context(), theirs.get_span_context()
        assert ours.is_recording() == theirs.is_recording(), about
        assert (made.trace_flags, made.trace_state) == (wanted.trace_flags, wanted.trace_state), about
        assert made.is_valid
        assert (made.trace_id == wanted.trace_id) == bool(text), about
        assert made.span_id != wanted.span_id
        for span in (theirs, ours):
            span.end()
    theirs_exported, ours_exported = both.exported()
    recorded = [
        len(r.resource_spans[0].scope_spans[0].spans) if r.resource_spans else 0 for r in (theirs_exported, ours_exported)
    ]
    assert recorded[0] == recorded[1]


def test_a_span_ends_once() -> None:
    both = Both()
    span = both.tracing.span("x", parent=context(SAMPLED))
    assert span.is_recording()
    span.end(7)
    span.end(8)
    assert not span.is_recording()
    (ours,) = both.exported()[1].resource_spans[0].scope_spans[0].spans
    assert ours.end_time_unix_nano == 7


def test_a_span_that_cannot_be_encoded_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    both = Both()
    both.tracing.span("bad", parent=context(SAMPLED), attributes={"text": "\ud800"}).end(7)
    both.tracing.span("bad", parent=context(SAMPLED), attributes={"number": 2**70}).end(7)
    both.tracing.past_span("good", 5, 4, parent=context(SAMPLED))
    (ours,) = both.exported()[1].resource_spans[0].scope_spans[0].spans
    assert (ours.name, ours.start_time_unix_nano, ours.end_time_unix_nano) == ("good", 5, 5)
    assert caplog.text.count("the span 'bad' cannot be encoded and is dropped") == 2
