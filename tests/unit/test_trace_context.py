from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from tokenrelay import telemetry
from tokenrelay.serving import observe

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACESTATE = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"


def call_with(*metadata: tuple[str, str]) -> Any:
    return SimpleNamespace(invocation_metadata=lambda: metadata)


def test_a_client_s_tracestate_is_on_our_spans_and_passed_on() -> None:
    context = observe._client_context(call_with(("traceparent", TRACEPARENT), ("tracestate", TRACESTATE)))
    assert telemetry.traceparent_of(context) == f"{TRACEPARENT}\n{TRACESTATE}"
    span = TracerProvider().get_tracer("test").start_span("ours", context=context)
    assert span.get_span_context().trace_state.to_header() == TRACESTATE
    passed_on = telemetry.traceparent_of(telemetry.child_context(span))
    again = telemetry.traceparent_of(telemetry.context_of(passed_on))
    assert again == passed_on
    assert again.endswith("\n" + TRACESTATE)
    span.end()


def test_a_traceparent_alone_is_as_it_was() -> None:
    context = observe._client_context(call_with(("traceparent", TRACEPARENT)))
    assert telemetry.traceparent_of(context) == TRACEPARENT
    assert telemetry.traceparent_of(telemetry.context_of(TRACEPARENT)) == TRACEPARENT


@pytest.mark.parametrize(
    "metadata",
    [(), (("tracestate", TRACESTATE),), (("traceparent", "x"), ("tracestate", TRACESTATE)), (("traceparent", "é"),)],
    ids=["none", "no parent", "malformed", "no ASCII"],
)
def test_a_trace_that_cannot_be_read_is_none(metadata: Sequence[tuple[str, str]]) -> None:
    assert telemetry.traceparent_of(observe._client_context(call_with(*metadata))) == ""


def test_a_malformed_tracestate_leaves_the_trace_as_it_is() -> None:
    context = observe._client_context(call_with(("traceparent", TRACEPARENT), ("tracestate", "=,=;;\x00")))
    assert telemetry.traceparent_of(context) == TRACEPARENT
