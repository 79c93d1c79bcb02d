"""What the measurement of memory can be told: `make bench-memory STREAMS=2000 EDGE=envoy`."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings

from bench.settings.fields import CONFIGURATION, Count, Edge, Positive


class MemorySettings(BaseSettings):
    """Settings of the measurement of memory; a field's variable is its name in capitals after TOKENRELAY_BENCH_."""

    model_config = CONFIGURATION

    edge: Edge | None = Field(None, description="what serves in the gateway; unset: the gateway's default")
    streams: Count = Field(2000, description="streams that are open and idle")
    connections: Count = Field(20, description="connections that these streams share")
    unread: Count = Field(8, description="streams that a client never reads, each on a connection of its own")
    unread_seconds: Positive = Field(20.0, description="how long they are left unread")
    results: Path | None = Field(None, description="folder for the results; unset: .tokenrelay/bench/<time>")
