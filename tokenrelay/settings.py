"""Settings from environment variables: one frozen class per process, one field per variable.

The library is pydantic-settings, because it checks types and bounds and names what is wrong. A field's variable is its
name in capitals after TOKENRELAY_; the tracing variables are OpenTelemetry's own.
"""

import sys
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tokenrelay.setting_types import (
    Bytes,
    Count,
    HeaderBytes,
    HeaderCount,
    MessageBytes,
    OtlpEndpoint,
    Port,
    RedisUrl,
    Seconds,
    Shards,
    Share,
    TransportSeconds,
)

PREFIX = "TOKENRELAY_"
_CERTIFICATE, _KEY = f"{PREFIX}TLS_CERTIFICATE", f"{PREFIX}TLS_KEY"


class ProcessSettings(BaseSettings):
    """What every process can be told."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)

    @field_validator("*", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        """Refuses bytes that are no UTF-8, which Python lets through until somebody writes the text."""
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise ValueError("has bytes that are not UTF-8") from None
        return value

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least important log line that is written"
    )
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else JSON")
    metrics_host: str = Field("127.0.0.1", description="where /metrics and /healthz listen")
    metrics_port: Port | None = Field(None, description="port of /metrics and /healthz; unset: none, 0: any free one")
    drain_seconds: Seconds = Field(30.0, description="how long a stopping process waits for its open work before it leaves")
    otel_exporter_otlp_endpoint: OtlpEndpoint | None = Field(
        None,
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="the collector that spans are exported to; unset: tracing is off",
    )
    otel_exporter_otlp_traces_endpoint: OtlpEndpoint | None = Field(
        None, validation_alias="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", description="the same for traces alone"
    )
    otel_exporter_otlp_protocol: Literal["grpc", "http/protobuf"] = Field(
        "grpc", validation_alias="OTEL_EXPORTER_OTLP_PROTOCOL", description="how spans are sent"
    )
    otel_exporter_otlp_traces_protocol: Literal["grpc", "http/protobuf"] | None = Field(
        None,
        validation_alias="OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        description="the same for traces alone; unset: OTEL_EXPORTER_OTLP_PROTOCOL",
    )
    otel_exporter_otlp_timeout: Seconds = Field(
        10.0, validation_alias="OTEL_EXPORTER_OTLP_TIMEOUT", description="how long one export may take"
    )
    otel_exporter_otlp_traces_timeout: Seconds | None = Field(
        None, validation_alias="OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", description="the same for traces alone"
    )
    otel_sdk_disabled: bool = Field(False, validation_alias="OTEL_SDK_DISABLED", description="turns tracing off")

    @property
    def tracing(self) -> bool:
        """Whether spans are exported."""
        endpoint = self.otel_exporter_otlp_traces_endpoint or self.otel_exporter_otlp_endpoint
        return bool(endpoint) and not self.otel_sdk_disabled

    @property
    def tracing_protocol(self) -> str:
        """How spans are sent."""
        return self.otel_exporter_otlp_traces_protocol or self.otel_exporter_otlp_protocol


class ServerSettings(ProcessSettings):
    """What every gRPC server can be told."""

    host: str = Field("127.0.0.1", description="the address to listen on")
    reflection: bool = Field(True, description="whether clients such as grpcurl may read the contract by server reflection")
    max_message_bytes: MessageBytes = Field(4 * 1024 * 1024, description="the largest request, in bytes")
    keepalive_seconds: TransportSeconds = Field(
        10.0, description="ping a connection that was silent for this long, and close it if the ping is not answered within it"
    )
    max_connections: Count = Field(
        10_000,
        description="open connections; further ones are closed at once. At most the allowed file descriptors less 128",
    )
    idle_connection_seconds: TransportSeconds = Field(
        600.0, description="close a connection after this long without a call; clients reconnect by themselves"
    )
    max_connection_seconds: TransportSeconds | None = Field(
        None,
        description="how old a connection gets, within 10 %; then its client is asked to open another one, while calls that "
        "are open on it go on to their end. Unset: as old as it likes",
    )
    max_streams_per_connection: Count = Field(
        512, description="open calls on one connection; a gRPC client holds further ones back until one ends"
    )
    # A request with the headers of a sign-in and of tracing has two to four KiB.
    max_header_bytes: HeaderBytes = Field(
        32 * 1024, description="bytes of a request's headers, names and values together; above it calls are refused"
    )
    max_headers: HeaderCount = Field(100, description="headers of a request; above it calls are refused")
    header_seconds: TransportSeconds = Field(
        10.0,
        description="how long a new connection may take to greet, by TLS or HTTP/2, and, where the edge is Envoy, a request's "
        "headers to arrive; on gRPC's own server the keepalive bounds these",
    )
    max_calls: Count = Field(10_000, description="open calls; further ones are refused with UNAVAILABLE and RetryInfo")
    max_standard_calls: Count = Field(
        1000, description="open calls for each method of health and reflection, which are counted apart from other calls"
    )
    max_request_bytes: Bytes = Field(
        512 * 1024 * 1024,
        description="bytes of the requests of all open calls; above it calls are refused with UNAVAILABLE",
    )
    reflection_seconds: Seconds = Field(60.0, description="end a reflection stream after this time")
    request_seconds: Seconds = Field(
        30.0, description="refuse a call whose request has not arrived completely within this time"
    )


class TlsSettings(ProcessSettings):
    """How a server that can speak TLS is told to. Without a certificate it speaks plain text."""

    tls_certificate: str | None = Field(
        None,
        description="PEM file with the server's certificate, then those that lead to its authority; unset: no TLS",
    )
    tls_key: str | None = Field(
        None,
        validate_default=True,  # so that one that is missing is noticed
        description="PEM file with the certificate's private key, not encrypted",
    )
    tls_client_ca: str | None = Field(
        None,
        description="PEM file with the authorities of clients' certificates; clients without such a certificate are "
        "refused. Unset: clients need none",
    )

    @field_validator("tls_key")
    @classmethod
    def _goes_with_a_certificate(cls, value: str | None, info: ValidationInfo) -> str | None:
        # A certificate that was refused itself is not in info.data, and is named by its own error.
        if "tls_certificate" in info.data and (value is None) != (info.data["tls_certificate"] is None):
            missing, given = ("key", "certificate") if value is None else ("certificate", "key")
            raise ValueError(f"the {given} is set but not the {missing}; set both {_CERTIFICATE} and {_KEY}, or neither")
        return value

    @field_validator("tls_client_ca")
    @classmethod
    def _goes_with_tls(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("tls_certificate", "") is None:
            raise ValueError(f"without TLS no client can show a certificate; set {_CERTIFICATE} and {_KEY} too")
        return value


class StoreSettings(ProcessSettings):
    """What every process that uses Redis can be told. Gateways and workers must agree on these."""

    redis_url: RedisUrl = Field(
        "redis://127.0.0.1:6379/0", description="redis:// or rediss://, with user name, password and database"
    )
    redis_password_file: str | None = Field(
        None,
        description="file with the password of the user that TOKENRELAY_REDIS_URL names; read for each new connection, so that "
        "it can be changed without a restart. Unset: the URL has the password",
    )
    redis_patience_seconds: Seconds = Field(
        30.0, description="how long running work waits for Redis to come back before it fails"
    )
    shards: Shards = Field(1, description="hash tags over which the keys are spread")
    lease_seconds: Seconds = Field(
        5.0, description="another worker takes over from one that has not renewed its leases for this long"
    )
    retention_seconds: Seconds = Field(3600.0, description="how long a finished generation can be read")
    queue_generations: Count = Field(10_000, description="generations that may be queued for one model in one shard")
    queue_bytes: Bytes = Field(256 * 1024 * 1024, description="bytes of requests that may be queued for one model in one shard")
    memory_accept_below: Share = Field(0.9, description="share of Redis' maxmemory above which new work is refused")
    memory_drop_above: Share = Field(
        0.8, description="share of Redis' maxmemory above which the oldest finished generations go early"
    )


Settings = TypeVar("Settings", bound=ProcessSettings)


def load(kind: type[Settings]) -> Settings:
    """Reads the environment; on a wrong value names its variable and ends the process with status 2.

    The value itself is never shown, because it may hold a password.
    """
    try:
        return kind()
    except ValidationError as error:
        for problem in error.errors():
            name = variable(kind, str(problem["loc"][0])) if problem["loc"] else f"{PREFIX}*"
            print(f"{name}: {problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None


def variable(kind: type[ProcessSettings], name: str) -> str:
    """Returns the environment variable of a field, given the field's name or the variable itself."""
    field = kind.model_fields.get(name)
    if field is None:
        return name
    return str(field.validation_alias) if field.validation_alias else PREFIX + name.upper()


def environment(settings: ProcessSettings) -> dict[str, str]:
    """Returns the variables from which a process reads the same settings as these."""
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    return {variable(type(settings), name): str(value) for name, value in given.items() if value is not None}
