"""What the local stack can be told: `make up ENGINE=simulated GATEWAYS=2`.

A field's variable is its name in capitals after TOKENRELAY_. On make's command line the prefix is left out; a variable
without it counts only there, because other projects export names such as REDIS_URL and PORT for themselves.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from pydantic_settings import BaseSettings, SettingsConfigDict

from tokenrelay import setting_types

PREFIX = "TOKENRELAY_"
ROOT = Path(__file__).resolve().parents[2]
DEFAULT_PORT = 50051
HIGHEST_PORT = 65_000  # the stack's other ports are above the first gateway's
HIDDEN = "***"


def without_password(url: str) -> str:
    """Returns a URL as people and reports may see it."""
    hidden = re.sub(r"//.*@", f"//{HIDDEN}@", url)  # up to the last one, since a password may hold one unescaped
    return re.sub(r"\b(username|(?:ssl_)?password)=[^&]*", rf"\1={HIDDEN}", hidden)  # redis-py takes them from the query too


# Where settings are written down, as in a report, the password is left out.
RedisUrl = Annotated[str, AfterValidator(setting_types.redis_url), PlainSerializer(without_password)]
Some = Annotated[int, Field(ge=1, le=9)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class TlsFiles:
    """Where a stack keeps its certificates."""

    folder: Path

    @property
    def authority(self) -> Path:
        """What clients trust."""
        return self.folder / "authority.crt"

    @property
    def authority_key(self) -> Path:
        return self.folder / "authority.key"

    @property
    def certificate(self) -> Path:
        """What the gateways show."""
        return self.folder / "gateway.crt"

    @property
    def key(self) -> Path:
        return self.folder / "gateway.key"


class StackSettings(BaseModel):
    """Settings of a local stack, as a benchmark or a drill gives them; no variable of the environment counts."""

    model_config = ConfigDict(frozen=True)

    engine: Literal["vllm", "simulated"] = Field("vllm", description="what generates")
    model: str = Field(str(ROOT / "models" / "demo"), description="a local folder or a hub name")
    vllm_args: str = Field("", description="any arguments of vLLM's engine")
    gateways: Some = Field(1, description="how many gateways, on ports from PORT on")
    workers: Some = Field(1, description="how many workers, each with an engine service of its own")
    port: Annotated[int, Field(ge=1024, le=HIGHEST_PORT)] = Field(
        DEFAULT_PORT, description="the first gateway's port; the stack's other ports follow it"
    )
    redis_url: RedisUrl | None = Field(None, description="a Redis that runs already; unset: the stack starts one of its own")
    edge: Literal["envoy", "grpcio"] | None = Field(
        None, description="what serves in the gateways; unset: the gateways' default"
    )
    tls: bool = Field(False, description="whether the gateways speak TLS, with a certificate that is made for localhost")
    state: Annotated[Path, AfterValidator(Path.absolute)] = Field(
        ROOT / ".tokenrelay", description="folder of logs, Redis' data and certificates"
    )
    redis_seconds: Seconds = Field(30.0, description="how long `make up` waits for the Redis of REDIS_URL to answer")
    start_seconds: Seconds = Field(
        600.0, description="how long `make up` waits until all processes serve; a large model takes minutes to load"
    )
    follow: bool = Field(False, description="whether `make logs` goes on with new lines")

    @property
    def tls_files(self) -> TlsFiles:
        """The stack's certificates; they are there only once a stack with TLS has been started."""
        return TlsFiles(self.state / "tls")

    @property
    def has_local_model(self) -> bool:
        """Whether the model is a folder of this machine, so that nothing is fetched for it."""
        return Path(self.model).is_dir()


class CommandSettings(StackSettings, BaseSettings):
    """The same, read from the environment: what `make up` and its like are told."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)
