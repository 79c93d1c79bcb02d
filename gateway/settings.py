"""What a gateway can be told."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from tokenrelay import addresses
from tokenrelay.setting_types import Count, DelaySeconds, Origins, Port, Seconds, TransportSeconds, WindowBytes
from tokenrelay.settings import ServerSettings, StoreSettings, TlsSettings


class GatewaySettings(StoreSettings, TlsSettings, ServerSettings):
    """Settings of the gateway; the variables begin with TOKENRELAY_."""

    port: Port = Field(50051, description="the port to listen on; 0: any free one")
    edge: Literal["envoy", "grpcio"] = Field(
        "grpcio", description="which server takes the connections; envoy is new, and costs less CPU a token"
    )
    # Half an hour, so that connections spread over gateways that were added, and few calls pay for a new handshake.
    max_connection_seconds: TransportSeconds | None = Field(
        1800.0, description=ServerSettings.model_fields["max_connection_seconds"].description
    )
    # Large enough that a client which reads is never waited for on a fast network, and small enough for 10,000 that do not.
    stream_window_bytes: WindowBytes = Field(
        128 * 1024,
        description="what Envoy takes of one request ahead of the application, and keeps of one answer that its client does "
        "not read; then the application waits. gRPC's own server chooses its windows itself",
    )
    connection_window_bytes: WindowBytes = Field(
        1024 * 1024, description="what Envoy takes of all requests of a connection ahead of the application"
    )
    connection_buffer_bytes: WindowBytes = Field(
        256 * 1024, description="what Envoy keeps of all answers of a connection that takes none"
    )
    cors_origins: Origins | None = Field(
        None,
        description="the pages that may call this gateway from a browser: their origins, such as https://chat.example.com, "
        "with commas between them. any: pages of every site. Unset: none",
    )
    auth: Literal["none", "keys"] = Field(
        "none", description="who may call: everybody, or who shows an API key (authorization: Bearer trk_…)"
    )
    auth_known_seconds: Seconds = Field(
        5.0, description="how long a key that was looked up counts without being looked up again; changes are heard at once"
    )
    auth_unknown_seconds: Seconds = Field(1.0, description="the same for a key that is not there")
    auth_outage_seconds: Seconds = Field(
        60.0, description="how long a key that was looked up counts while Redis is away; further callers are refused then"
    )
    allow_anonymous_network: bool = Field(
        False,
        validate_default=True,
        description="whether to listen beyond loopback without authentication, so that whoever reaches it may call",
    )
    allow_keys_in_plain_text: bool = Field(
        False,
        validate_default=True,
        description="whether to take keys beyond loopback without TLS, so that whoever sees the network has them",
    )
    lame_duck_seconds: DelaySeconds = Field(
        1.0, description="how long a stopping gateway still serves new calls after its health has become NOT_SERVING"
    )
    gateway_id: str | None = Field(
        None,
        pattern=r"^[\w.:-]+$",
        description="this gateway's name, unique among all; unset: host, port and process id",
    )
    disconnect_grace_seconds: Seconds = Field(
        10.0, description="how long CANCEL_AFTER_GRACE waits for a reader before it cancels"
    )
    watch_seconds: Seconds = Field(15.0, description="the reader lease: a gateway that died counts as a reader for this long")
    call_patience_seconds: Seconds = Field(
        5.0, description="how long a new call waits for Redis before it is refused with UNAVAILABLE"
    )
    max_choices: Count = Field(16, description="the largest n of a request")
    max_time_seconds: Seconds = Field(86_400.0, description="the longest queue_timeout and time_limit of a request")
    max_structure_bytes: Count = Field(
        64 * 1024, description="the largest schema, grammar, regular expression or list of choices of a request, in bytes"
    )
    longest_token_characters: Count = Field(
        256, description="characters of the longest token; texts with more than these for each token of the context are refused"
    )

    # These two refuse to start rather than serve strangers by mistake: what is asked for must be said in words.

    @field_validator("allow_anonymous_network")
    @classmethod
    def _is_meant_for_everybody(cls, value: bool, info: ValidationInfo) -> bool:
        if not value and info.data.get("auth") == "none" and _reaches_beyond(info):
            raise ValueError(
                "the gateway would listen beyond loopback without authentication; set TOKENRELAY_AUTH=keys, "
                "or set this to true if whoever reaches the gateway may call"
            )
        return value

    @field_validator("allow_keys_in_plain_text")
    @classmethod
    def _keys_may_be_seen(cls, value: bool, info: ValidationInfo) -> bool:
        takes_keys, in_plain_text = info.data.get("auth") == "keys", info.data.get("tls_certificate") is None
        if not value and takes_keys and in_plain_text and _reaches_beyond(info):
            raise ValueError(
                "keys would cross the network readable; set TOKENRELAY_TLS_CERTIFICATE and TOKENRELAY_TLS_KEY, "
                "or set this to true if something in front of the gateway speaks TLS"
            )
        return value


def _reaches_beyond(info: ValidationInfo) -> bool:
    """Tells whether others than this machine reach the gateway; a host that was refused itself is named by its own error."""
    return "host" in info.data and not addresses.is_loopback(info.data["host"])
