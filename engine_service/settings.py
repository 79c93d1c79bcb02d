"""What an engine service can be told."""

from typing import Annotated, Literal

from pydantic import Field

from tokenrelay.setting_types import Count, Port, Seconds
from tokenrelay.settings import ServerSettings, TlsSettings

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class EngineSettings(TlsSettings, ServerSettings):
    """Settings of the engine service; the variables begin with TOKENRELAY_."""

    port: Port = Field(50061, description="the port to listen on; 0: any free one")
    tls_client_names: str | None = Field(
        None,
        description="names, with commas between them, of which a worker's certificate must have one: DNS names or SPIFFE ids. "
        "Unset: any certificate of TOKENRELAY_TLS_CLIENT_CA will do",
    )
    engine: Literal["vllm", "simulated"] = Field("vllm", description="what generates; simulated computes no model")
    model: str = Field("models/demo", description="a local folder or a hub name; for simulated, any name")
    model_name: str | None = Field(None, description="what clients call it; unset: the folder's or hub's name")
    vllm_args: str = Field(
        "",
        description="any arguments of vLLM's engine, as on its command line; its grammar backend is xgrammar unless named here",
    )
    engine_core_cpus: str | None = Field(
        None,
        pattern=r"^\d+(-\d+)?(,\d+(-\d+)?)*$",
        description="cores for vLLM's scheduler process, such as 0-3,6; unset: all. It spins while it waits",
    )
    default_max_tokens: Count = Field(2048, description="cap on what the context leaves, for requests without max_tokens")
    frames_in_flight: Count = Field(1, description="frames that may wait for the worker's acknowledgement")
    hang_seconds: Seconds = Field(300.0, description="exit if generations are running and no token was produced for this long")
    warm_up_seconds: Seconds = Field(600.0, description="exit if the first tokens take longer than this")

    simulated_slots: Count = Field(256, description="simulated: choices generated at a time")
    simulated_max_model_len: Count = Field(131_072, description="simulated: the context, in tokens")
    simulated_step_ms: NonNegative = Field(10.0, description="simulated: milliseconds a token; 0: as fast as it goes")
    simulated_prefill_tokens_per_second: NonNegative = Field(50_000.0, description="simulated: prompt speed; 0: unlimited")
    simulated_multi_byte: bool = Field(True, description="simulated: characters whose bytes are split over two tokens")
    simulated_version: str = Field("1", min_length=1, description="simulated: its version, which is part of its fingerprint")

    @property
    def served_name(self) -> str:
        """What clients call the model. A simulated one says what it is."""
        name = self.model_name or self.model.rstrip("/").rsplit("/", 1)[-1]
        return name if self.engine == "vllm" or name.startswith("simulated") else f"simulated-{name}"
