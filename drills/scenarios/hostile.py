"""Malformed, half, slow and flooding requests of every kind, while others use the gateway; then everything is as before."""

import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import grpc
import redis

from deploy.local.settings import ROOT
from drills import processes
from drills.cluster import Cluster
from drills.processes import MEBIBYTE, Footprint
from drills.scenario import Drill
from drills.stage import COMMON
from drills.timings import Durations
from drills.waiting import eventually
from engine_service.engines.simulated.simulation import expected_tokens
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s
from tokenrelay.v1 import generation_service_pb2_grpc

USERS = 4  # who go on with good requests, one after the other
TOKENS = 10
ENDLESS = 10_000
QUIET_SECONDS = 10.0  # for what good requests take without an attack
SETTLE_SECONDS = 60.0
WARM_UP = 200  # good requests, so that what is made once is made
GROWTH = 0.10
SETTINGS = {
    **COMMON,
    "TOKENRELAY_SIMULATED_STEP_MS": "1",
    "TOKENRELAY_RETENTION_SECONDS": "2",
    "TOKENRELAY_REQUEST_SECONDS": "5",
}


class Users:
    """Good clients, each of which knows what must come."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.aio.insecure_channel(target)
        self._stub: Any = generation_service_pb2_grpc.GenerationServiceStub(self._channel)
        self._number = 0
        self.seconds: list[float] = []
        self.wrong: list[str] = []

    async def ask(self) -> None:
        """Makes one good request and looks at every token of it."""
        self._number += 1
        spec = g.GenerationSpec(text=f"good {self._number}", sampling_params=g.SamplingParams(max_tokens=TOKENS))
        started, tokens, finished = time.monotonic(), [], 0
        try:
            async for response in self._stub.GenerateStream(s.GenerateStreamRequest(spec=spec), timeout=60):
                tokens += response.event.delta.token_ids
                finished += response.event.HasField("finished")
        except grpc.aio.AioRpcError as error:
            self.wrong.append(f"{error.code().name}: {error.details()}")
            return
        self.seconds.append(time.monotonic() - started)
        if finished != 1 or tokens != list(expected_tokens(spec)):
            self.wrong.append(f"{spec.text}: {tokens}, {finished} ends")

    async def leave(self) -> None:
        """Makes one good request and breaks it off when it has begun."""
        params = g.SamplingParams(max_tokens=ENDLESS, ignore_eos=True)
        call = self._stub.GenerateStream(s.GenerateStreamRequest(spec=g.GenerationSpec(text="leaves", sampling_params=params)))
        await call.initial_metadata()
        call.cancel()

    async def ask_while(self, running: "asyncio.Future[Any]") -> Durations:
        """Has all users make requests until something is done; returns what these took."""
        self.seconds = []

        async def user() -> None:
            while not running.done():
                await self.ask()
                await asyncio.sleep(0.02)

        await asyncio.gather(*(user() for _ in range(USERS)))
        return Durations(tuple(self.seconds))

    async def close(self) -> None:
        await self._channel.close()


async def run(drill: Drill) -> None:
    requests = 100_000 if drill.long else 10_000
    cluster = Cluster(
        drill.folder, drill.history, SETTINGS, engine="simulated", model="drill", edge=drill.edge, gateways=1, workers=1
    )
    client = redis.Redis(port=cluster.redis_port)
    try:
        cluster.start()
        users = Users(cluster.targets[0])
        try:
            await _run(drill, cluster, client, users, requests)
        finally:
            await users.close()
    finally:
        client.close()
        await cluster.close()


async def _run(drill: Drill, cluster: Cluster, client: Any, users: Users, requests: int) -> None:
    await cluster.wait_until_served()
    # At once, so that all connections to Redis are there; Envoy has a thread that only begins when somebody leaves.
    await asyncio.gather(*(users.ask() for _ in range(WARM_UP)), users.leave())
    keys = await rest(client, 0)
    before = await processes.lowest(cluster, 2.0)
    quiet = await users.ask_while(asyncio.ensure_future(asyncio.sleep(QUIET_SECONDS)))
    drill.say(f"good requests without an attack: {quiet}")

    tenth, attacked = await _attack(drill, cluster, users, requests // 10, "1")
    first = await _settled(cluster, before)
    drill.say(f"after the first tenth: {processes.memory_table(before, first)}")
    others, attacked = await _attack(drill, cluster, users, requests - requests // 10, "2")
    last = await _settled(cluster, before)
    drill.say(f"after all: {processes.memory_table(first, last)}")
    await users.ask()
    left = await rest(client, keys)
    _judge(drill, cluster, users, (before, first, last), (tenth, others), left - keys)
    drill.figures["a good request without the attack"] = str(_milliseconds(quiet))
    drill.figures["a good request during the attack"] = str(_milliseconds(attacked))
    drill.figures["good requests during the attack"] = len(attacked.seconds)


def _judge(
    drill: Drill,
    cluster: Cluster,
    users: Users,
    footprints: tuple[dict[str, Footprint], dict[str, Footprint], dict[str, Footprint]],
    attacks: tuple[dict[str, Any], dict[str, Any]],
    left: int,
) -> None:
    before, first, last = footprints
    made, bad = sum(one["requests"] for one in attacks), [text for one in attacks for text in one["bad"]]
    died = [name for name, footprint in before.items() if last[name].pids != footprint.pids]
    larger = processes.grown(first, last, GROWTH)
    open_still = processes.not_back(before, last)
    found = processes.tracebacks(member.log_file for member in cluster.members.values())
    outcomes: Counter[str] = Counter()
    for one in attacks:
        for counts in one["outcomes"].values():
            outcomes.update(counts)
    drill.figures["hostile requests"] = made
    drill.figures["hostile requests a second"] = round(made / sum(one["seconds"] for one in attacks))
    drill.figures["what they were told"] = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    drill.figures["memory, first tenth to the end"] = processes.memory_table(first, last)
    drill.figures["gateway before, at the end"] = f"{before['gateway-1']}; {last['gateway-1']}"
    drill.figures["the gateway's log, MiB"] = round(cluster.members["gateway-1"].log_file.stat().st_size / MEBIBYTE, 2)
    for what, seen, wanted in (
        ("hostile requests answered otherwise than they should be", bad, "none"),
        ("processes that died", died, "none"),
        (f"processes that grew after the first tenth of {made} requests", larger, f"none by more than {GROWTH:.0%}"),
        ("descriptors, threads and tasks more than before", open_still, "none"),
        ("tracebacks in the logs", found, "none"),
        ("good requests that went wrong, during and after", users.wrong, "none"),
    ):
        drill.judge(what, seen="; ".join(seen[:3]) + f" ({len(seen)})" if seen else "none", wanted=wanted, held=not seen)
    drill.judge("keys left in Redis", seen=str(left), wanted="none", held=left <= 0)


async def _attack(drill: Drill, cluster: Cluster, users: Users, requests: int, number: str) -> tuple[dict[str, Any], Durations]:
    """Has a process of its own make hostile requests, and users good ones; returns what came of both."""
    started, seed = time.monotonic(), f"{drill.random.getrandbits(32)} {number}"
    attacker = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "drills.attacks", cluster.targets[0], str(requests), seed),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        attack = asyncio.ensure_future(attacker.communicate())
        good = await users.ask_while(attack)
        output, _ = await attack
    finally:
        if attacker.returncode is None:
            attacker.kill()
            await attacker.wait()
    assert attacker.returncode == 0, "the attacker itself broke; see its traceback above"
    result: dict[str, Any] = json.loads(output)
    result["seconds"] = time.monotonic() - started
    drill.say(f"{result['requests']} hostile requests in {result['seconds']:.0f} s; good ones meanwhile: {good}")
    for kind, counts in result["outcomes"].items():
        drill.say(f"  {kind}: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    return result, good


async def _settled(cluster: Cluster, before: dict[str, Footprint]) -> dict[str, Footprint]:
    """Waits until what is passing has passed, if it does; returns what each process holds then."""

    async def back() -> bool:
        return not processes.not_back(before, await processes.footprints(cluster))

    with suppress(AssertionError):  # judged at the end
        await eventually(back, "descriptors, threads and tasks are back", SETTLE_SECONDS)
    return await processes.lowest(cluster, 3.0)


async def rest(client: Any, wanted: int) -> int:
    """Waits until no more keys are in Redis than wanted, or than stay there; returns how many."""
    fewest = [10**9, time.monotonic()]

    async def rests() -> bool:
        size = int(await asyncio.to_thread(client.dbsize))
        if size < fewest[0]:
            fewest[:] = [size, time.monotonic()]
        return size <= wanted or time.monotonic() - fewest[1] > 10.0

    await eventually(rests, "finished generations are forgotten", SETTLE_SECONDS)
    return int(fewest[0])


def _milliseconds(durations: Durations) -> str:
    p50, p99 = (durations.percentile(share) * 1000 for share in (0.5, 0.99))
    return f"p50 {p50:.0f} ms, p99 {p99:.0f} ms, of {len(durations.seconds)}"
