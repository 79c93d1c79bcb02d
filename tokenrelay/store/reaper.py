"""The loop that lets time decide: overdue generations, dead workers' leases, retention. Every gateway and worker runs it."""

import asyncio

import structlog

from tokenrelay.errors import StoreUnavailableError
from tokenrelay.metrics import ReaperMetrics
from tokenrelay.store.generations import GenerationStore
from tokenrelay.store.values import Reaped

log = structlog.get_logger(__name__)

BATCH = 200  # generations that one script call looks at


class Reaper:
    """Reaps all shards, again and again. Several at a time do no harm."""

    def __init__(self, store: GenerationStore, metrics: ReaperMetrics) -> None:
        self._store = store
        self._metrics = metrics
        # A lease that ran out is noticed within a fifth of it.
        self._interval = min(1.0, store.limits.lease_ms / 5000)

    async def run(self) -> None:
        """Reaps until cancelled."""
        while True:
            try:
                for shard in self._store.shards:
                    while (await self.reap_once(shard)).looked_at == BATCH:
                        pass
            except StoreUnavailableError:
                log.warning("redis is away; nothing is reaped")
            await asyncio.sleep(self._interval)

    async def reap_once(self, shard: int) -> Reaped:
        """Does one pass over what is due in a shard."""
        reaped = await self._store.reap(shard, BATCH)
        decisions = {name: count for name, count in reaped._asdict().items() if count and name != "looked_at"}
        for decision, count in decisions.items():
            self._metrics.reaped.labels(decision).inc(count)
        if decisions:
            log.info("reaped", shard=shard, **decisions)
        return reaped
