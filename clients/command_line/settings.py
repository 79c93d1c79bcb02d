"""What the command line can be told by the environment."""

from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError

from tokenrelay.client.connections import parse_targets
from tokenrelay.settings import ProcessSettings


class CommandLineSettings(ProcessSettings):
    """Settings of the command line; the variables begin with TOKENRELAY_."""

    targets: str = Field("localhost:50051", description="gateways to call, host:port, separated by commas")
    traces_url: str = Field(
        "http://127.0.0.1:16686", description="where `trace` asks for traces: Jaeger, or the local receiver"
    )

    api_key: SecretStr | None = Field(None, description="the key to show to gateways that want one, trk_…")
    tls: bool = Field(False, description="whether to speak TLS; naming a file for it does so too")
    tls_ca: str | None = Field(
        None, description="PEM file with the authorities to trust; unset: the public ones that come with gRPC"
    )
    # Not named as those of a server, which the same environment may hold.
    tls_client_certificate: str | None = Field(None, description="PEM file with the certificate to show to gateways that ask")
    tls_client_key: str | None = Field(None, description="PEM file with its private key, not encrypted")
    tls_server_name: str | None = Field(
        None, description="the name that the gateways' certificates must have; unset: that of the target"
    )

    @field_validator("targets")
    @classmethod
    def _check_targets(cls, value: str) -> str:
        try:
            parse_targets(value)
        except ValueError as error:
            raise PydanticCustomError("targets", "{reason}", {"reason": str(error).removeprefix("targets: ")}) from error
        return value

    @field_validator("traces_url")
    @classmethod
    def _check_traces_url(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            _ = parts.port  # raises if it is no number
        except ValueError as error:
            raise PydanticCustomError("url", "{reason}", {"reason": str(error)}) from error
        if parts.scheme not in ("http", "https") or not parts.hostname or not value.isprintable() or " " in value:
            raise PydanticCustomError("url", "must be a URL with http:// or https:// and a host")
        return value
