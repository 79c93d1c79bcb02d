"""Tens of thousands of short generations, with cancels and attaches; then every process holds what it held in the beginning."""

import asyncio
import itertools
import time
from collections import Counter
from contextlib import suppress
from random import Random
from typing import Any

import grpc
import redis

from drills import processes
from drills.cluster import Cluster
from drills.processes import Footprint
from drills.scenario import Drill
from drills.scenarios.hostile import rest
from drills.stage import COMMON
from drills.waiting import eventually
from engine_service.engines.simulated.simulation import expected_tokens
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s
from tokenrelay.v1 import generation_service_pb2_grpc

USERS = 128
CONNECTIONS = 4
MOST_TOKENS = 20
WARM_UP = 300  # with all users at once, so that connections to Redis are there
SETTLE_SECONDS = 60.0
GROWTH = 0.10
SETTINGS = {
    **COMMON,
    "TOKENRELAY_SIMULATED_STEP_MS": "1",
    "TOKENRELAY_RETENTION_SECONDS": "2",
}


class Churn:
    """Users who make short generations in all the ways there are."""

    def __init__(self, target: str, chance: Random) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(CONNECTIONS)]
        self._stubs: list[Any] = [generation_service_pb2_grpc.GenerationServiceStub(channel) for channel in self._channels]
        self._chance = chance
        self._numbers = itertools.count()
        self._kinds = (self._reads, self._breaks_off, self._cancels, self._attaches, self._comes_back)
        self.made: Counter[str] = Counter()
        self.tokens = 0
        self.wrong: list[str] = []

    async def make(self, generations: int) -> None:
        """Makes so many generations, as many at a time as there are users."""
        left = iter(range(generations))

        async def user() -> None:
            for _ in left:
                await self._one()

        await asyncio.gather(*(user() for _ in range(USERS)))

    async def _one(self) -> None:
        number = next(self._numbers)
        params = g.SamplingParams(max_tokens=self._chance.randint(1, MOST_TOKENS), ignore_eos=True)
        spec = g.GenerationSpec(text=f"churn {number}", sampling_params=params)
        kind = self._chance.choices(self._kinds, weights=(50, 15, 10, 15, 10))[0]
        self.made[kind.__name__.strip("_").replace("_", " ")] += 1
        try:
            await kind(self._stubs[number % CONNECTIONS], spec, list(expected_tokens(spec)))
        except grpc.aio.AioRpcError as error:
            self.wrong.append(f"{spec.text} {kind.__name__}: {error.code().name}: {error.details()}")

    async def _follow(self, call: Any, expected: list[int], after: int = 0, until: int | None = None) -> tuple[str, int]:
        """Reads a stream to its end, or to a sequence; returns the generation's id and where it was left."""
        name, sequence = "", after
        async for response in call:
            event = response.event
            if event.HasField("accepted"):
                name = event.accepted.generation_id
            elif event.HasField("finished"):
                if sequence != len(expected) or event.sequence != sequence:
                    self.wrong.append(f"{name}: it ended at {sequence} of {len(expected)}")
                return name, sequence
            else:
                tokens = list(event.delta.token_ids)
                # Where somebody comes back, an entry may begin before the place that was asked for; here it never does.
                if tokens != expected[sequence : sequence + len(tokens)] or event.sequence != sequence + len(tokens):
                    self.wrong.append(f"{name}: after {sequence} came {tokens}")
                self.tokens += len(tokens)
                sequence = event.sequence
            if until is not None and sequence >= until:
                call.cancel()
                return name, sequence
        self.wrong.append(f"{name}: it ended at {sequence} without its end")
        return name, sequence

    async def _reads(self, stub: Any, spec: g.GenerationSpec, expected: list[int]) -> None:
        await self._follow(stub.GenerateStream(s.GenerateStreamRequest(spec=spec)), expected)

    async def _breaks_off(self, stub: Any, spec: g.GenerationSpec, expected: list[int]) -> None:
        until = self._chance.randrange(len(expected))
        await self._follow(stub.GenerateStream(s.GenerateStreamRequest(spec=spec)), expected, until=until)

    async def _cancels(self, stub: Any, spec: g.GenerationSpec, _: list[int]) -> None:
        accepted = await stub.SubmitGeneration(s.SubmitGenerationRequest(spec=spec))
        await stub.CancelGeneration(s.CancelGenerationRequest(generation_id=accepted.generation_id))

    async def _attaches(self, stub: Any, spec: g.GenerationSpec, expected: list[int]) -> None:
        accepted = await stub.SubmitGeneration(s.SubmitGenerationRequest(spec=spec))
        attach = s.AttachGenerationRequest(generation_id=accepted.generation_id)
        await asyncio.gather(*(self._follow(stub.AttachGeneration(attach), expected) for _ in range(2)))

    async def _comes_back(self, stub: Any, spec: g.GenerationSpec, expected: list[int]) -> None:
        policy = g.DISCONNECT_POLICY_CANCEL_AFTER_GRACE
        until = self._chance.randrange(len(expected))
        call = stub.GenerateStream(s.GenerateStreamRequest(spec=spec, on_disconnect=policy))
        name, after = await self._follow(call, expected, until=until)
        attach = s.AttachGenerationRequest(generation_id=name, after_sequence=after)
        await self._follow(stub.AttachGeneration(attach), expected, after)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


async def run(drill: Drill) -> None:
    generations = 50_000 if drill.long else 3_000
    cluster = Cluster(
        drill.folder, drill.history, SETTINGS, engine="simulated", model="drill", edge=drill.edge, gateways=1, workers=1
    )
    client = redis.Redis(port=cluster.redis_port)
    churn = Churn(cluster.targets[0], drill.random)
    try:
        cluster.start()
        await cluster.wait_until_served()
        await churn.make(WARM_UP)
        keys, before = await _settled(cluster, client)
        drill.say(f"in the beginning: {keys} keys, gateway {before['gateway-1']}")
        seconds = await _make(churn, generations // 10)
        _, first = await _settled(cluster, client, keys, before)
        drill.say(f"after the first tenth: {processes.memory_table(before, first)}")
        seconds += await _make(churn, generations - generations // 10)
        left, last = await _settled(cluster, client, keys, before)
        drill.say(f"after all: {processes.memory_table(first, last)}")
    finally:
        await churn.close()
        client.close()
        await cluster.close()
    drill.figures["generations"] = ", ".join(f"{count} {kind}" for kind, count in churn.made.items())
    drill.figures["generations a second"] = round(generations / seconds)
    drill.figures["tokens that were looked at"] = churn.tokens
    drill.figures["memory, first tenth to the end"] = processes.memory_table(first, last)
    for name in before:
        drill.figures[f"{name} in the beginning, at the end"] = f"{before[name]}; {last[name]}"
    more = processes.not_back(before, last)
    drill.judge("descriptors, threads and tasks more than in the beginning", seen=_told(more), wanted="none", held=not more)
    drill.judge("keys more than in the beginning", seen=str(left - keys), wanted="none", held=left <= keys)
    drill.judge("streams that were not exact", seen=_told(churn.wrong), wanted="none", held=not churn.wrong)
    if drill.long:  # a tenth of the short run is too little for everything to have had its size once
        larger = processes.grown(first, last, GROWTH)
        wanted = f"none by more than {GROWTH:.0%}"
        drill.judge("processes that grew after the first tenth", seen=_told(larger), wanted=wanted, held=not larger)


async def _make(churn: Churn, generations: int) -> float:
    """Returns how many seconds it took."""
    started = time.monotonic()
    await churn.make(generations)
    return time.monotonic() - started


async def _settled(
    cluster: Cluster, client: Any, keys: int = 0, before: dict[str, Footprint] | None = None
) -> tuple[int, dict[str, Footprint]]:
    """Waits until what is passing has passed, if it does; returns how many keys there are and what each process holds."""
    left = await rest(client, keys)

    async def back() -> bool:
        return before is None or not processes.not_back(before, await processes.footprints(cluster))

    with suppress(AssertionError):  # judged at the end
        await eventually(back, "descriptors, threads and tasks are back", SETTLE_SECONDS)
    return left, await processes.lowest(cluster, 3.0)


def _told(found: list[str]) -> str:
    return "; ".join(found[:3]) + f" ({len(found)})" if found else "none"
