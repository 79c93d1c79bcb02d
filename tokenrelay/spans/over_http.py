"""Exports encoded spans over HTTP, as binary protobuf."""

from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExportResult

from tokenrelay.spans.encoding import EncodedSpan, Encoder


class Exporter(OTLPSpanExporter):
    """The SDK's exporter for what a Recorder makes."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = encoder

    def export(self, spans: Sequence[EncodedSpan]) -> SpanExportResult:  # type: ignore[override]
        request = self._encoder.request(spans)
        taken = self._client.export(request.SerializeToString()).success
        return SpanExportResult.SUCCESS if taken else SpanExportResult.FAILURE
