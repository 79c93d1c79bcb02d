"""What a measurement can be told: `make bench INPUT_TOKENS=128 CONCURRENCY=1,16,64`."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from bench.settings.fields import CONFIGURATION, Address, Count, Counts, Edge, Listed, NonNegative, Positive, Rates
from deploy.local.settings import RedisUrl, Some


class BenchSettings(BaseSettings):
    """Settings of the load generator; a field's variable is its name in capitals after TOKENRELAY_BENCH_."""

    model_config = CONFIGURATION

    target: Listed[Address] = Field((), description="gateways of a deployment that runs, host:port,...; unset: one of its own")
    metrics: Listed[Address] = Field(
        (), description="with TARGET: where its engine services show their metrics, host:port,...; unset: they are left out"
    )
    engine: Literal["vllm", "simulated"] = Field("vllm", description="what generates in a stack of its own")
    model: str | None = Field(
        None, description="a local folder or a hub name; unset: a small Llama of random weights that is faster than the stack"
    )
    vllm_args: str = Field("", description="any arguments of vLLM's engine")
    redis_url: RedisUrl | None = Field(None, description="a Redis that runs already; unset: the stack starts one of its own")
    gateways: Some = Field(1, description="how many gateways a stack of its own has")
    workers: Some = Field(1, description="how many workers it has, each with an engine service")
    edge: Edge | None = Field(None, description="what serves in a gateway of a stack of its own; unset: the gateway's default")
    tracing: bool = Field(
        False, description="whether every request is traced, and the spans received by a process of the stack"
    )
    simulated_step_ms: NonNegative = Field(10.0, description="milliseconds a token of the simulated engine")
    simulated_slots: Count = Field(256, description="how many generations the simulated engine runs at a time")

    concurrency: Counts = Field((1, 4, 16, 64, 128), description="closed loop: requests that are kept open, one point each")
    rounds: Count = Field(8, description="closed loop: requests of each user and point")
    ramp_seconds: NonNegative = Field(
        0.0,
        description="closed loop: users begin one after the other for so long; only the time in which all are there counts",
    )
    rates: Rates = Field((), description="open loop instead: arrivals a second, one point each, at random instants")
    point_seconds: Positive = Field(20.0, description="open loop: how long requests arrive")
    input_tokens: Counts = Field((256,), description="lengths of prompts; each is measured with each of OUTPUT_TOKENS")
    prompts: Literal["ids", "text"] = Field("ids", description="how prompts are sent; text has four characters for each token")
    output_tokens: Counts = Field((128,), description="lengths of answers")
    shared: Annotated[float, Field(ge=0, le=1)] = Field(0.5, description="which part of a prompt all requests share")
    warm_up: Annotated[int, Field(ge=0)] = Field(
        1, description="requests of each user, or seconds of arrivals, before each point that are not counted"
    )
    seed: int = Field(0, description="the same seed gives the same prompts and arrivals")
    processes: Some = Field(1, description="how many client processes share the load")
    connections: Count = Field(1, description="how many connections each client process has to each gateway")
    goodput_ttft_ms: Positive = Field(500.0, description="a good answer's longest time to first token")
    goodput_tpot_ms: Positive = Field(50.0, description="a good answer's longest time per token after the first")
    results: Path | None = Field(None, description="folder for the results; unset: .tokenrelay/bench/<time>")
