"""OTLP's bytes of a span, and of a request that exports spans."""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, TypeVar

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.trace import Link, SpanContext, SpanKind

from tokenrelay.spans.recorded import RecordedSpan, Value

Item = TypeVar("Item")

_FIELDS = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}
_KINDS = {kind: kind.value + 1 for kind in SpanKind}  # in OTLP 0 is "unspecified"
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200  # of opentelemetry.proto.trace.v1.SpanFlags


class EncodedSpan(NamedTuple):
    """What waits for export.

    Attributes:
        context: the span's, by which the SDK's processor sees that it is sampled.
        encoded: a ScopeSpans that holds this span alone. In protobuf such messages one after the other are one message
            with all their spans.
    """

    context: SpanContext
    encoded: bytes


class Encoder:
    """Encodes the spans of one process.

    Args:
        resource: what all of them are of.
        scope: the name of what records them.
        limits: how many attributes and links a span may have, and how long a text may be.
    """

    def __init__(self, resource: Resource, scope: str, limits: SpanLimits) -> None:
        self._limits = limits
        described = {
            "resource": {"attributes": [_attribute(name, value) for name, value in resource.attributes.items()]},
            "scope_spans": [{"scope": {"name": scope}}],
            "schema_url": resource.schema_url,
        }
        self._empty = ExportTraceServiceRequest(resource_spans=[described]).SerializeToString()

    def span(self, span: RecordedSpan) -> EncodedSpan:
        """Encodes a span that has ended.

        Raises:
            ValueError: a text is no Unicode, or a number is too large.
            TypeError: a value is of a type that attributes cannot have.
        """
        context, parent = span.get_span_context(), span.parent
        attributes = _last(span.attributes.items(), self._limits.max_span_attributes)
        if self._limits.max_span_attribute_length is not None:
            attributes = [(key, _shortened(value, self._limits.max_span_attribute_length)) for key, value in attributes]
        links = _last(span.links, self._limits.max_links)
        alone = ScopeSpans()
        alone.spans.add(
            trace_id=context.trace_id.to_bytes(16, "big"),
            span_id=context.span_id.to_bytes(8, "big"),
            trace_state=context.trace_state.to_header() if context.trace_state else None,
            parent_span_id=None if parent is None else parent.span_id.to_bytes(8, "big"),
            name=span.name,
            kind=_KINDS[span.kind],
            start_time_unix_nano=span.start_ns,
            end_time_unix_nano=span.end_ns,
            attributes=[_attribute(key, value) for key, value in attributes],
            dropped_attributes_count=len(span.attributes) - len(attributes),
            links=[_link(link) for link in links],
            dropped_links_count=len(span.links) - len(links),
            status={"code": span.status.status_code.value, "message": span.status.description} if span.status else {},
            flags=_flags(parent),
        )
        return EncodedSpan(context, alone.SerializeToString())

    def request(self, spans: Iterable[EncodedSpan]) -> ExportTraceServiceRequest:
        """Returns the request that exports spans."""
        request = ExportTraceServiceRequest.FromString(self._empty)
        request.resource_spans[0].scope_spans[0].MergeFromString(b"".join([span.encoded for span in spans]))
        return request


def _last(items: Collection[Item], limit: int | None) -> Collection[Item]:
    """Returns as many items as are allowed; like the SDK it leaves out the first ones."""
    return items if limit is None or len(items) <= limit else list(items)[len(items) - limit :]


def _shortened(value: Value, limit: int) -> Value:
    if isinstance(value, bool | int | float):
        return value
    return value[:limit] if isinstance(value, str) else [text[:limit] for text in value]


def _attribute(key: str, value: object) -> dict[str, object]:
    field = _FIELDS.get(type(value))
    return {"key": key, "value": _value(value) if field is None else {field: value}}


def _value(value: object) -> dict[str, object]:
    field = _FIELDS.get(type(value))
    if field is not None:
        return {field: value}
    if not isinstance(value, Sequence):
        raise TypeError(f"an attribute cannot be a {type(value).__name__}")
    return {"array_value": {"values": [_value(one) for one in value]}}


def _link(link: Link) -> dict[str, object]:
    to = link.context
    return {"trace_id": to.trace_id.to_bytes(16, "big"), "span_id": to.span_id.to_bytes(8, "big"), "flags": _flags(to)}


def _flags(other: SpanContext | None) -> int:
    """Returns what a span or a link says of the span that it refers to."""
    return _HAS_IS_REMOTE | _IS_REMOTE if other is not None and other.is_remote else _HAS_IS_REMOTE
