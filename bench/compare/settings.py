"""What a comparison can be told: `make bench-compare SYSTEMS=tokenrelay,vllm-http CONCURRENCY=64,128`."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings

from bench.compare.choice import ENGINE_ARGUMENTS, NAMES, STANDARD
from bench.settings.fields import CONFIGURATION, Count, Counts, Edge, Listed

FEW_CORES = 2


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names in the order of all; refuses others."""
    unknown = set(names) - set(NAMES)
    if unknown:
        raise ValueError(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in names)


class ComparisonSettings(BaseSettings):
    """Settings of the comparison; a field's variable is its name in capitals after TOKENRELAY_BENCH_."""

    model_config = CONFIGURATION

    systems: Annotated[Listed[str], AfterValidator(_known)] = Field(
        (), description=f"what is compared, of {', '.join(NAMES)}; unset: all of {', '.join(STANDARD)} that are installed"
    )
    model: str | None = Field(
        None, description="a local folder or a hub name; unset: a small Llama of random weights that is faster than the servers"
    )
    edge: Edge | None = Field(None, description="what serves in Tokenrelay's gateway; unset: the gateway's default")
    vllm_args: str = Field(ENGINE_ARGUMENTS, description="arguments that the engine of every system gets")
    concurrency: Counts = Field((1, 16, 64, 128), description="requests that are kept open")
    input_tokens: Count = Field(8, description="the length of prompts")
    output_tokens: Count = Field(128, description="the length of answers")
    rounds: Count = Field(3, description="how often each system is started, measured and ended")
    requests: Count = Field(4, description="requests of each user and concurrency, of a round")
    connections: Count = Field(
        1, description="how many connections Tokenrelay's client has; those over HTTP have one for each request under way"
    )
    least_requests: Count = Field(16, description="requests of each concurrency at least")
    pin: bool | None = Field(
        None, description="vLLM's own processes on the first core, all others on the second; unset: if there are two"
    )
    seed: int = Field(0, description="the same seed gives the same prompts")
    results: Path | None = Field(None, description="folder for the results; unset: .tokenrelay/bench/<time>")

    @property
    def cores(self) -> tuple[int | None, int | None]:
        """The core of vLLM's own processes, and that of all others; None: not bound."""
        found = sorted(os.sched_getaffinity(0))
        if self.pin is False or len(found) < FEW_CORES or (self.pin is None and len(found) != FEW_CORES):
            return None, None
        return found[0], found[1]

    def requests_a_user(self, concurrency: int) -> int:
        return max(self.requests, -(-self.least_requests // concurrency))
