"""The loop that lets time decide: overdue generations, dead workers' leases, retention. Every gateway and worker runs it."""

import asyncio

import structlog

from tokenrelay.errors import StoreUnavailableError
from tokenrelay.metrics import ReaperMetrics
from tokenrelay.store import ends, foreign, terminals
from tokenrelay.store.scripting import NamedScript, Scripts
from tokenrelay.store.values import Reaped, StoreLimits

log = structlog.get_logger(__name__)

BATCH = 200  # generations that one script call looks at
REAPED = len(Reaped._fields)


class Reaper:
    """Reaps all shards, again and again. Several at a time do no harm."""

    def __init__(self, scripts: Scripts, limits: StoreLimits, metrics: ReaperMetrics) -> None:
        self._scripts = scripts
        self._metrics = metrics
        self._reap = NamedScript.load("reap")
        self._arguments = {
            "limit": BATCH,
            "lease_ms": limits.lease_ms,
            "retention_ms": limits.retention_ms,
            "drop_above": limits.drop_above,
            "keep_ms": limits.keep_ms,
            **terminals.of_time(),
        }
        # A lease that ran out is noticed within a fifth of it.
        self._interval = min(1.0, limits.lease_ms / 5000)

    async def run(self) -> None:
        """Reaps until cancelled."""
        while True:
            try:
                for shard in self._scripts.shards:
                    while (await self.reap_once(shard)).looked_at == BATCH:
                        pass
            except StoreUnavailableError:
                log.warning("redis is away; nothing is reaped")
            await asyncio.sleep(self._interval)

    async def reap_once(self, shard: int) -> Reaped:
        """Does one pass over what is due in a shard."""
        reply = await self._scripts.run(self._reap, shard, self._arguments)
        reaped, (ended, damaged, aside) = Reaped(*reply[:REAPED]), reply[REAPED:]
        for generation_id in damaged:
            log.error("a generation's data in redis are damaged; it is set aside", generation_id=_text(generation_id))
        for key, name in zip(aside[::2], aside[1::2], strict=True):
            foreign.report_aside(_text(key), name)
        for generation_id, state in zip(ended[::2], ended[1::2], strict=True):
            ends.report(_text(generation_id), state)
        decisions = {name: count for name, count in reaped._asdict().items() if count and name != "looked_at"}
        for decision, count in decisions.items():
            self._metrics.reaped.labels(decision).inc(count)
        if decisions:
            log.info("reaped", shard=shard, **decisions)
        return reaped


def _text(name: bytes) -> str:
    """Returns a name that may be anybody's."""
    return name.decode(errors="replace")
