"""Fetches a trace as Jaeger's query API gives it (GET /api/v3/traces/<id>, OTLP as JSON); the local receiver speaks it too."""

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any

ERROR_STATUS = 2  # opentelemetry.proto.trace.v1.Status.STATUS_CODE_ERROR


class TraceNotFoundError(Exception):
    """There is no such trace, or not yet, or nobody keeps traces there."""


class TraceStoreError(Exception):
    """What answers is no trace store."""


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
    """Returns a trace's spans, at least one.

    Raises:
        TraceNotFoundError: there is none, or nobody answers.
        TraceStoreError: something else than a trace store answers.
    """
    url = f"{base_url.rstrip('/')}/api/v3/traces/{urllib.parse.quote(trace_id, safe='')}"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310  # the user's own setting, an http(s) URL
            body = response.read()
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise TraceNotFoundError(f"no trace {trace_id} at {base_url}: HTTP status {error.code}") from error
    except OSError as error:  # URLError is of this kind
        raise TraceNotFoundError(f"no trace {trace_id} at {base_url}: {error}") from error
    except http.client.HTTPException as error:
        raise TraceStoreError(f"{base_url} is no trace store: it does not speak HTTP ({type(error).__name__})") from error
    try:
        spans = list(_parse(json.loads(body)))
    # Whatever has another shape: no JSON, a list for a mapping, a missing field, a text for a number.
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise TraceStoreError(f"{base_url} is no trace store: what it answers is no trace in OTLP's JSON") from error
    if not spans:
        raise TraceNotFoundError(f"no trace {trace_id} at {base_url}")
    return spans


def fetch_complete(base_url: str, trace_id: str, wanted: Set[str], patience: float) -> list[TraceSpan]:
    """Returns a trace once it has spans of some names, since each process exports in its own time.

    Args:
        base_url: the trace store.
        trace_id: in hexadecimal.
        wanted: names of spans; empty for any span.
        patience: seconds; when they are over, what there is then is returned.

    Raises:
        TraceNotFoundError: there is no span at all.
        TraceStoreError: something else than a trace store answers.
    """
    give_up_at = time.monotonic() + patience
    while True:
        try:
            spans = fetch(base_url, trace_id)
        except TraceNotFoundError:
            if time.monotonic() > give_up_at:
                raise
        else:
            if wanted <= {span.name for span in spans} or time.monotonic() > give_up_at:
                return spans
        time.sleep(0.2)


def _parse(body: dict[str, Any]) -> Iterator[TraceSpan]:
    for resource in body.get("result", body).get("resourceSpans", []):
        service = _attributes(resource.get("resource", {})).get("service.name", "")
        for scope in resource.get("scopeSpans", []):
            for span in scope.get("spans", []):
                yield TraceSpan(
                    trace_id=str(span["traceId"]),
                    span_id=str(span["spanId"]),
                    parent_id=str(span.get("parentSpanId", "")),
                    name=str(span["name"]),
                    service=str(service).removeprefix("tokenrelay-"),
                    start_ns=int(span["startTimeUnixNano"]),
                    end_ns=int(span["endTimeUnixNano"]),
                    failed=span.get("status", {}).get("code") in (ERROR_STATUS, "STATUS_CODE_ERROR"),
                    attributes=_attributes(span),
                )


def _attributes(holder: dict[str, Any]) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values()), None) for one in holder.get("attributes", [])}
