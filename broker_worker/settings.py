"""The broker worker's settings."""

from typing import Annotated

from pydantic import Field

from tokenrelay.client_certificate import ClientFiles
from tokenrelay.setting_types import Address, Seconds, TransportSeconds
from tokenrelay.settings import StoreSettings


class WorkerSettings(StoreSettings):
    """Settings of the broker worker; the variables begin with TOKENRELAY_."""

    engine_address: Address = Field("127.0.0.1:50061", description="host:port of the engine service that this worker drives")
    engine_tls_ca: str | None = Field(
        None, description="PEM file with the authorities of the engine service's certificate; unset: plain text"
    )
    engine_tls_certificate: str | None = Field(None, description="PEM file with the certificate that this worker shows")
    engine_tls_key: str | None = Field(None, description="PEM file with its private key, not encrypted")
    engine_tls_server_name: str | None = Field(
        None, description="the name that the engine service's certificate must have; unset: the host of its address"
    )
    worker_id: str | None = Field(
        None,
        pattern=r"^[\w.:-]+$",
        description="name, unique among all workers; unset: host, process id and a random part",
    )
    prefetch: Annotated[int, Field(ge=0)] = Field(
        2, description="generations that are read ahead; they stay unclaimed until there is room"
    )
    loop_hung_seconds: Seconds = Field(
        30.0, description="how long leases are renewed for a blocked event loop; then others take over"
    )
    log_content: bool = Field(False, description="write prompts and outputs to log lines and spans")
    engine_keepalive_seconds: TransportSeconds = Field(
        5.0,
        description="ping a silent engine connection after this time; close it when no answer comes in this time",
    )

    @property
    def engine_tls(self) -> ClientFiles | None:
        """How the engine service is called over TLS; None: it is called in plain text."""
        if self.engine_tls_ca is None:
            return None
        return ClientFiles(
            ca=self.engine_tls_ca,
            certificate=self.engine_tls_certificate,
            key=self.engine_tls_key,
            server_name=self.engine_tls_server_name,
            variables=("TOKENRELAY_ENGINE_TLS_CA", "TOKENRELAY_ENGINE_TLS_CERTIFICATE", "TOKENRELAY_ENGINE_TLS_KEY"),
        )
