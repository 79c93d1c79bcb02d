"""What tenants have used, by day, key and model; written by the script that ends a generation."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date

from tokenrelay.store import keys
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.shards import Shards
from tokenrelay.v1 import generation_pb2

ENDED = "ended_"  # then the number of the state


@dataclass
class Usage:
    """What one key of a tenant has used of one model on one day of UTC.

    Attributes:
        ended: how many generations ended in which state, by the state's name without its prefix.
    """

    day: date
    tenant: str
    key_id: str
    model: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    ended: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, name: str, value: int) -> None:
        """Adds one of the ledger's numbers."""
        if name.startswith(ENDED):
            state = generation_pb2.GenerationState.Name(int(name.removeprefix(ENDED)))  # type: ignore[arg-type]
            self.ended[state.removeprefix("GENERATION_STATE_").lower()] += value
        else:
            setattr(self, name, getattr(self, name) + value)


class Ledger:
    """Reads usage. Errors are those of RedisConnection."""

    def __init__(self, connection: RedisConnection, shards: Shards) -> None:
        self._connection = connection
        self._shards = shards

    async def read(self, tenant: str, days: Iterable[date]) -> list[Usage]:
        """Returns a tenant's usage on some days, by day, key and model."""
        found: dict[tuple[date, str, str], Usage] = {}
        for day in days:
            for shard in self._shards:
                fields = await self._connection.hash(keys.usage(tenant, day, shard))
                for name, value in fields.items():
                    # A model's name may have spaces in it.
                    key_id, _, rest = name.decode().partition(" ")
                    model, _, what = rest.rpartition(" ")
                    usage = found.setdefault((day, key_id, model), Usage(day, tenant, key_id, model))
                    usage.add(what, int(value))
        return [found[one] for one in sorted(found)]
