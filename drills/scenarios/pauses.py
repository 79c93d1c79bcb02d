"""A worker is stopped for three leases and goes on afterwards: whatever it still wants to write is too late."""

import asyncio

from drills import nemesis
from drills.load import Load
from drills.scenario import Drill
from drills.stage import LEASE_SECONDS, set_up

USERS = 32
WORKERS = 4
AT_A_TIME = 2


async def run(drill: Drill) -> None:
    async with set_up(drill, workers=WORKERS) as stage:
        stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS))
        workers = [member.name for member in stage.cluster.named("worker")]
        for _ in range(50 if drill.long else 5):
            await stage.last(drill.random.uniform(0.2, 1.0))
            chosen = drill.random.sample(workers, AT_A_TIME)
            await asyncio.gather(*(nemesis.pause(stage, name, 3 * LEASE_SECONDS) for name in chosen))
        await stage.last(1.0)
    taken_over = sum(len(event["attempts"]) for event in drill.events() if event["kind"] == "log")
    drill.judge("generations taken over from stopped workers", seen=str(taken_over), wanted="more than 0", held=taken_over > 0)
