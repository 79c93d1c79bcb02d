"""What the local stack can be told: `make up ENGINE=simulated GATEWAYS=2`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_PORT = 50051

Some = Annotated[int, Field(ge=1, le=9)]


class StackSettings(BaseSettings):
    """Settings of the local stack; the variables are the fields' names in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    engine: Literal["vllm", "simulated"] = Field("vllm", description="what generates")
    model: str = Field(str(ROOT / "models" / "demo"), description="a local folder or a hub name")
    vllm_args: str = Field("", description="any arguments of vLLM's engine")
    gateways: Some = Field(1, description="how many gateways, on ports from PORT on")
    workers: Some = Field(1, description="how many workers, each with an engine service of its own")
    port: Annotated[int, Field(ge=1024, le=65_000)] = Field(
        DEFAULT_PORT, description="the first gateway's port; the stack's other ports follow it"
    )
    redis_url: str | None = Field(None, description="a Redis that is there; unset: one of the stack's own")
    state: Path = Field(ROOT / ".tokenrelay", description="folder of logs and Redis' data")
