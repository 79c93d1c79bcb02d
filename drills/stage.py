"""A stack under load: started, broken by a scenario, brought to rest, written down and checked."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import redis

from drills import processes, witness
from drills.cluster import Changes, Cluster
from drills.load import Load
from drills.scenario import Drill
from drills.waiting import eventually

REST_SECONDS = 90.0  # for what runs to end, and for what nobody reads to be cancelled
SHOW_SECONDS = 5.0
LEASE_SECONDS = 1.0
COMMON = {
    "TOKENRELAY_LEASE_SECONDS": str(LEASE_SECONDS),
    "TOKENRELAY_WATCH_SECONDS": "5",
    "TOKENRELAY_LOG_FORMAT": "json",
}


class Stage:
    """What a scenario works with.

    Attributes:
        cluster: the processes.
        load: the users.
        faults: how many of each kind.
        on_envoy: the gateways that have an Envoy below them, whenever they run.
    """

    def __init__(self, drill: Drill, cluster: Cluster) -> None:
        self.drill = drill
        self.cluster = cluster
        self.faults: Counter[str] = Counter()
        self.on_envoy: list[str] = []
        self._loads: list[Load] = []
        self._showing: asyncio.Task[None] | None = None

    def redis(self) -> Any:
        """Returns a connection to the stack's Redis, past all proxies; the caller closes it."""
        return redis.Redis(port=self.cluster.redis_port, socket_timeout=10.0)

    async def start(self) -> None:
        """Returns once everything serves."""
        self.cluster.start()
        await self.cluster.wait_until_served()
        self.on_envoy = [member.name for member in self.cluster.named("gateway") if member.envoy is not None]
        self.drill.say("the stack serves")
        self._showing = asyncio.create_task(self._show())

    def add(self, load: Load) -> Load:
        """Starts users."""
        self._loads.append(load)
        load.start()
        return load

    def note_fault(self, fault: str, target: str, **details: object) -> None:
        """Writes down that something is broken now."""
        self.faults[fault] += 1
        self.drill.history.note("fault", fault=fault, target=target, **details)

    def note_healed(self, fault: str, target: str) -> None:
        self.drill.history.note("healed", fault=fault, target=target)

    async def last(self, seconds: float) -> None:
        """Lets some time pass, and fails if a user has failed in an unforeseen way."""
        await asyncio.sleep(seconds)
        for load in self._loads:
            load.check()

    async def rest(self) -> None:
        """Lets the users end, waits until nothing runs, and writes down what Redis holds."""
        self.drill.say("no new calls; waiting until nothing runs")
        for load in self._loads:
            await load.stop()
        client = self.redis()
        found: dict[str, Any] = {}

        async def idle() -> bool:
            nonlocal found
            with suppress(redis.RedisError):
                running = await self._running()
                if running is not None:
                    found = {**await asyncio.to_thread(witness.rest, client), "running": running}
                    return witness.is_idle(found)
            return False

        try:
            with suppress(AssertionError):  # the checker tells what is left
                await eventually(idle, "nothing runs", REST_SECONDS)
            self.drill.history.note("idle", **found)
            for fields in await asyncio.to_thread(lambda: list(witness.logs(client))):
                self.drill.history.note("log", **fields)
        finally:
            client.close()
        self.drill.history.note("end")

    async def _running(self) -> int | None:
        """Returns how many generations the engines run; None if one does not tell yet, since it still loads its model."""
        running = 0.0
        for member in self.cluster.named("engine"):
            if member.pid is not None:
                value = await processes.metric(self.cluster.metrics_port(member.name), "tokenrelay_engine_running")
                if value is None:
                    return None
                running += value
        return round(running)

    async def _show(self) -> None:
        while True:
            await asyncio.sleep(SHOW_SECONDS)
            calls = sum(load.calls for load in self._loads)
            tokens = sum(load.notes.tokens for load in self._loads)
            errors = sum(len(load.failed) for load in self._loads)
            faults = ", ".join(f"{count} {fault}" for fault, count in self.faults.items()) or "no faults yet"
            self.drill.say(f"{calls} calls, {tokens} tokens, {errors} errors told to users; {faults}")

    async def close(self) -> None:
        if self._showing is not None:
            self._showing.cancel()
        for load in self._loads:
            await load.close()
        await self.cluster.close()


@asynccontextmanager
async def set_up(
    drill: Drill,
    *,
    common: Mapping[str, str] | None = None,
    changes: Mapping[str, Changes] | None = None,
    allowed: tuple[str, ...] = (),
    may_exit: tuple[str, ...] = (),
    drops_finished: bool = False,
    **settings: object,
) -> AsyncIterator[Stage]:
    """Starts a stack; after the block users are let go, all comes to rest and is written down, and the stack ends.

    Args:
        common: variables for all of our processes, beside those that every drill has.
        changes: what is different for single processes.
        allowed: reasons of errors that may reach a user.
        may_exit: processes that may end by themselves.
        drops_finished: whether Redis is so short of memory that finished generations go before their time.
        settings: as for `make up`; by default two gateways, and two workers with a simulated engine each.
    """
    chosen = {"engine": "simulated", "model": "drill", "gateways": 2, "workers": 2, **settings}
    drill.history.note(
        "drill",
        name=drill.name,
        engine=chosen["engine"],
        allowed=allowed,
        may_exit=may_exit,
        drops_finished=drops_finished,
        settings={name: str(value) for name, value in chosen.items()},
    )
    cluster = Cluster(drill.folder, drill.history, {**COMMON, **(common or {})}, changes, edge=drill.edge, **chosen)
    stage = Stage(drill, cluster)
    try:
        await stage.start()
        yield stage
        await stage.rest()
    finally:
        await stage.close()
