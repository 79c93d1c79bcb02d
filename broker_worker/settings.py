"""The broker worker's settings."""

from typing import Annotated

from pydantic import Field

from tokenrelay.setting_types import Address, Seconds, TransportSeconds
from tokenrelay.settings import StoreSettings


class WorkerSettings(StoreSettings):
    """Settings of the broker worker; the variables begin with TOKENRELAY_."""

    engine_address: Address = Field("127.0.0.1:50061", description="host:port of the engine service that this worker drives")
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
