"""What a broker worker can be told."""

from typing import Annotated, Literal

from pydantic import Field

from tokenrelay.setting_types import Address, Seconds, TransportSeconds
from tokenrelay.settings import StoreSettings


class WorkerSettings(StoreSettings):
    """Settings of the broker worker; the variables begin with TOKENRELAY_."""

    engine_address: Address = Field("127.0.0.1:50061", description="host:port of the engine service that it drives")
    worker_id: str | None = Field(
        None, pattern=r"^[\w.:-]+$", description="its name, unique among all; unset: host, process id and a random part"
    )
    prefetch: Annotated[int, Field(ge=0)] = Field(2, description="generations read ahead of free slots; they stay unclaimed")
    loop_hung_seconds: Seconds = Field(
        30.0, description="how long a worker that is too busy to renew its leases keeps them; then others take over"
    )
    log_content: bool = Field(False, description="whether prompts and outputs are written to its log lines and spans")
    engine_keepalive_seconds: TransportSeconds = Field(
        5.0, description="how long a silent engine connection is left without a ping, and a ping without an answer"
    )


class DeadLetterSettings(StoreSettings):
    """Settings of the dead letters command; the variables begin with TOKENRELAY_."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "error", description="the least important log line that is written"
    )
    redis_patience_seconds: Seconds = Field(5.0, description="how long the command waits for Redis")
