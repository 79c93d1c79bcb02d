"""What the settings of several commands are made of."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode, SettingsConfigDict

from bench.settings import PREFIX
from deploy.local.settings import ROOT

RESULTS = ROOT / ".tokenrelay" / "bench"


def results_folder(wanted: Path | None, began: datetime) -> Path:
    """Makes the folder for a measurement's results: the one that is wanted, else one named by its beginning."""
    folder = (wanted or RESULTS / began.strftime("%Y%m%dT%H%M%SZ")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _split(value: object) -> object:
    """Takes a list as people write it in a variable: 1,4,16."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Item = TypeVar("Item")
Listed = Annotated[tuple[Item, ...], NoDecode, BeforeValidator(_split)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Address = Annotated[str, Field(pattern=r"^[^\s:]+:\d{1,5}$")]
Counts = Annotated[Listed[Count], Field(min_length=1), AfterValidator(lambda counts: tuple(sorted(set(counts))))]
Edge = Literal["envoy", "grpcio"]
Rates = Annotated[Listed[Positive], AfterValidator(lambda rates: tuple(sorted(set(rates))))]
CONFIGURATION = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True)
