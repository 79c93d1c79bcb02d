"""What a process says of the collector that it exports its spans to."""

import pytest

from gateway.settings import GatewaySettings
from tokenrelay import settings, telemetry


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("headers", ["api-key s3cret", "API KEY=s3cret", "api-key=s3cret\x01"])
def test_a_malformed_header_is_told_without_its_value(
    headers: str, protocol: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", headers)
    telemetry.set_up("gateway", "test", settings.load(GatewaySettings)).shut_down()
    assert "OTEL_EXPORTER_OTLP_HEADERS" in caplog.text
    assert "s3cret" not in caplog.text
