"""What the operators' commands can be told."""

from typing import Literal

from pydantic import Field

from tokenrelay.setting_types import Seconds
from tokenrelay.settings import StoreSettings


class AdminSettings(StoreSettings):
    """Settings of the operators' commands; the variables begin with TOKENRELAY_."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "error", description="the least important log line that is written"
    )
    redis_patience_seconds: Seconds = Field(5.0, description="how long the command waits for Redis")
