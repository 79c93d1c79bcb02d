"""Every setting of every process with a wrong value: status 2 and one line that names the variable, never a traceback."""

import json
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from broker_worker.settings import WorkerSettings
from engine_service.settings import EngineSettings
from gateway.settings import GatewaySettings
from tokenrelay import settings
from tokenrelay.admin.settings import AdminSettings
from tokenrelay.client.command_line.settings import CommandLineSettings
from tokenrelay.settings import ProcessSettings

KINDS: tuple[type[ProcessSettings], ...] = (
    GatewaySettings,
    WorkerSettings,
    EngineSettings,
    CommandLineSettings,
    AdminSettings,
)
NOT_UTF8 = "a\udcff"  # as os.environ shows the byte 0xff
# What is wrong with texts that have a form, by field.
TEXTS = {
    "gateway_id": ["a b", "é" * 3 + "\n", "a/b"],
    "cors_origins": [
        "*",
        "null",
        "chat.example.com",
        "https://chat.example.com/",
        "https://Chat.example.com",
        "https://chat.example.com:443",
        "http://chat.example.com:80",
        "https://*.example.com",
        "https://a, https://b",
        "https://a,",
        "https://a,any",
        "https://user@a",
    ],
    "worker_id": ["a b", "a/b"],
    "engine_core_cpus": ["first", "1-", "1,,2", "-1"],
    "engine_address": ["127.0.0.1", "http://127.0.0.1:50061", "127.0.0.1:0", "127.0.0.1:99999", "::1:50061", "a b:1", "h:x"],
    "redis_url": [
        "127.0.0.1:6379",
        "http://127.0.0.1:6379",
        "redis://",
        "redis://:6379",
        "redis://127.0.0.1:port",
        "redis://127.0.0.1:99999",
        "redis://127.0.0.1:0",
        "redis://:p@ss:w/rd#@127.0.0.1:6379",
        "redis://:s3cret/w@127.0.0.1:6379",
        "redis://user:s3cret\u2100w@127.0.0.1:6379",
        "redis://user:w[s3cret]w@127.0.0.1:6379",
        "redis://user:6?s3cret@127.0.0.1:6379",
        "unix://[s3cret]",
        "redis://127.0.0.1:6379/db",
        "redis://127.0.0.1:6379/0/1",
        "redis://127.0.0.1:6379?patience=3",
        "redis://127.0.0.1:6379?db=x",
        "redis://127.0.0.1:6379?ssl_cert_reqs=none",
        "redis://[::1",
        "unix://",
    ],
    "otel_exporter_otlp_endpoint": [
        "collector",
        "ftp://collector:4317",
        "http://",
        "http://collector:x",
        "http://[::1",
        "http://[s3cret]w",
    ],
    "otel_exporter_otlp_traces_endpoint": ["collector", "http://collector:99999"],
}
TAKEN = {
    "engine_address": ["127.0.0.1:50061", "[::1]:50061", "engine-0.engines:50061"],
    "redis_url": [
        "redis://127.0.0.1:6379/0",
        "redis://user:p%2Fss@redis:6379/15",
        "rediss://redis:6380?ssl_cert_reqs=none",
        "redis://[::1]:6379",
        "redis://redis",
        "rediss://redis?ssl_min_version=771&ssl_ca_certs=/etc/ca.pem",
        "unix:///run/redis.sock",
    ],
    "otel_exporter_otlp_endpoint": ["http://collector:4317", "https://collector", "collector:4317", "http://[::1]:4317"],
    "otel_exporter_otlp_traces_protocol": ["grpc", "http/protobuf"],
}


def numbers_of(field: FieldInfo) -> list[str]:
    """Returns values that a number must not have: of another type, and past each of its bounds."""
    wrong = ["x", "1,5", "nan", "inf", "-inf", "1e400", "0x10", "None", "-1e9"]
    for bound in _bounds(field):
        if isinstance(bound, Ge):
            wrong.append(str(bound.ge - 1))  # type: ignore[operator]
        elif isinstance(bound, Gt):
            wrong.append(str(bound.gt))
        elif isinstance(bound, Le):
            wrong.append(str(bound.le + 1))  # type: ignore[operator]
    return wrong


def _bounds(field: FieldInfo) -> list[Any]:
    found = list(field.metadata)
    for part in getattr(field.annotation, "__args__", ()):  # of `X | None`
        for one in getattr(part, "__metadata__", ()):
            found += getattr(one, "metadata", [one])
    return found


def wrong_values(name: str, field: FieldInfo) -> list[str]:
    kind = str(field.annotation)
    if name in TEXTS:
        return [*TEXTS[name], NOT_UTF8]
    if "Literal" in kind or "bool" in kind:
        return ["loud", "-1", "nan", NOT_UTF8]
    if "int" in kind or "float" in kind:
        return numbers_of(field)
    assert "str" in kind.lower(), f"{name}: no wrong values are known for {kind}"
    return [NOT_UTF8]


CASES = [
    pytest.param(kind, name, value, id=f"{kind.__name__}-{name}-{json.dumps(value)}")
    for kind in KINDS
    for name, field in kind.model_fields.items()
    for value in wrong_values(name, field)
]


@pytest.mark.parametrize(("kind", "name", "value"), CASES)
def test_a_wrong_value_ends_with_status_2_and_a_line_that_names_its_variable(
    kind: type[ProcessSettings], name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variable = settings.variable(kind, name)
    monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as caught:
        settings.load(kind)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{variable}: ")
    assert not any(part in line for part in ("p@ss", "s3cret")), "a value may hold a password"


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in TAKEN.items() for value in values], ids=str)
def test_a_good_value_is_taken(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in KINDS:
        if name in kind.model_fields:
            monkeypatch.setenv(settings.variable(kind, name), value)
            assert getattr(settings.load(kind), name) == value


def test_the_protocol_for_traces_alone_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load(GatewaySettings).tracing_protocol == "grpc"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    assert settings.load(GatewaySettings).tracing_protocol == "http/protobuf"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    assert settings.load(GatewaySettings).tracing_protocol == "grpc"
