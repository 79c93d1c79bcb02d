import pytest
from pydantic import ValidationError

from broker_worker.settings import WorkerSettings
from engine_service import placement
from engine_service.settings import EngineSettings
from gateway.settings import GatewaySettings
from tokenrelay import settings


def test_a_variable_sets_its_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENRELAY_PORT", "1234")
    monkeypatch.setenv("TOKENRELAY_LEASE_SECONDS", "2.5")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317")
    found = settings.load(GatewaySettings)
    assert (found.port, found.lease_seconds, found.tracing) == (1234, 2.5, True)


@pytest.mark.parametrize(
    ("variable", "value", "problem"),
    [
        ("TOKENRELAY_PORT", "70000", "less than or equal to 65535"),
        ("TOKENRELAY_PORT", "x", "valid integer"),
        ("TOKENRELAY_LEASE_SECONDS", "0", "greater than or equal to 0.001"),
        ("TOKENRELAY_GATEWAY_ID", "a b", "match pattern"),
        ("TOKENRELAY_LOG_LEVEL", "loud", "'debug', 'info'"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "smoke", "'grpc'"),
    ],
)
def test_a_wrong_value_names_its_variable(
    variable: str, value: str, problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as caught:
        settings.load(GatewaySettings)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"{variable}: ")
    assert problem in told


def test_tracing_is_off_without_an_endpoint_and_when_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not settings.load(WorkerSettings).tracing
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4317")
    assert settings.load(WorkerSettings).tracing
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert not settings.load(WorkerSettings).tracing


def test_cores_are_numbers_and_ranges() -> None:
    assert placement.parse("0") == {0}
    assert placement.parse("0-3,6") == {0, 1, 2, 3, 6}
    with pytest.raises(ValidationError, match="engine_core_cpus"):
        EngineSettings(engine_core_cpus="first")


def test_a_simulated_engine_says_so_in_the_model_s_name() -> None:
    assert EngineSettings(engine="simulated", model="llama").served_name == "simulated-llama"
    assert EngineSettings(engine="vllm", model="/models/llama/").served_name == "llama"
    assert EngineSettings(engine="vllm", model="org/llama", model_name="mine").served_name == "mine"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"CERTIFICATE": "tls.crt"}, "TOKENRELAY_TLS_KEY: the certificate is set but not the key"),
        ({"KEY": "tls.key"}, "TOKENRELAY_TLS_KEY: the key is set but not the certificate"),
        ({"CLIENT_CA": "ca.crt"}, "TOKENRELAY_TLS_CLIENT_CA: without TLS"),
    ],
    ids=str,
)
def test_tls_takes_a_certificate_and_a_key_or_neither(
    given: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"TOKENRELAY_TLS_{name}", value)
    with pytest.raises(SystemExit) as caught:
        settings.load(GatewaySettings)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(named)
    for name in ("CERTIFICATE", "KEY", "CLIENT_CA"):
        monkeypatch.setenv(f"TOKENRELAY_TLS_{name}", name)
    assert settings.load(GatewaySettings).tls_client_ca == "CLIENT_CA"
