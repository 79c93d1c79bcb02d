"""Fetches a trace as Jaeger's query API gives it (GET /api/v3/traces/<id>, OTLP as JSON); the local receiver speaks it too."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

ERROR_STATUS = 2  # opentelemetry.proto.trace.v1.Status.STATUS_CODE_ERROR


class TraceNotFoundError(Exception):
    """There is no such trace, or nobody keeps traces there."""


@dataclass(frozen=True)
class TraceSpan:
    """One span; instants in nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    service: str
    start_ns: int
    end_ns: int
    failed: bool
    attributes: dict[str, Any]


def fetch(base_url: str, trace_id: str) -> list[TraceSpan]:
    """Returns a trace's spans.

    Raises:
        TraceNotFoundError: there is none.
    """
    url = f"{base_url.rstrip('/')}/api/v3/traces/{trace_id}"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310  # the user's own setting
            body = json.load(response)
    except (urllib.error.URLError, OSError) as error:
        raise TraceNotFoundError(f"no trace {trace_id} at {base_url}: {error}") from error
    spans = list(_parse(body.get("result", body)))
    if not spans:
        raise TraceNotFoundError(f"no trace {trace_id} at {base_url}")
    return spans


def fetch_complete(base_url: str, trace_id: str, wanted: set[str], patience: float) -> list[TraceSpan]:
    """Returns a trace once it has spans of some names, since each process exports in its own time; else what there is then."""
    give_up_at = time.monotonic() + patience
    while True:
        try:
            spans = fetch(base_url, trace_id)
        except TraceNotFoundError:
            if time.monotonic() > give_up_at:
                raise
            spans = []
        if wanted <= {span.name for span in spans} or time.monotonic() > give_up_at:
            return spans
        time.sleep(0.2)


def _parse(traces: dict[str, Any]) -> Iterator[TraceSpan]:
    for resource in traces.get("resourceSpans", []):
        service = _attributes(resource.get("resource", {})).get("service.name", "")
        for scope in resource.get("scopeSpans", []):
            for span in scope.get("spans", []):
                yield TraceSpan(
                    trace_id=span["traceId"],
                    span_id=span["spanId"],
                    parent_id=span.get("parentSpanId", ""),
                    name=span["name"],
                    service=str(service).removeprefix("tokenrelay-"),
                    start_ns=int(span["startTimeUnixNano"]),
                    end_ns=int(span["endTimeUnixNano"]),
                    failed=span.get("status", {}).get("code") in (ERROR_STATUS, "STATUS_CODE_ERROR"),
                    attributes=_attributes(span),
                )


def _attributes(holder: dict[str, Any]) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values()), None) for one in holder.get("attributes", [])}
