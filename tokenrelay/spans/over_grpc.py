"""Exports encoded spans over gRPC."""

from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tokenrelay.spans.encoding import EncodedSpan, Encoder


class Exporter(OTLPSpanExporter):
    """The SDK's exporter for what a Recorder makes."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = encoder

    def _translate_data(self, data: Sequence[EncodedSpan]) -> ExportTraceServiceRequest:  # type: ignore[override]
        return self._encoder.request(data)
