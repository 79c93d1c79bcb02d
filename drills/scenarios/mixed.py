"""Every process is killed once, a worker is stopped for three leases, and in the end all are killed at the same moment."""

import asyncio

from drills import nemesis
from drills.load import Load
from drills.scenario import Drill
from drills.stage import LEASE_SECONDS, set_up

USERS = 16


async def run(drill: Drill) -> None:
    async with set_up(drill) as stage:
        load = stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS))
        names = list(stage.cluster.members)
        await stage.last(1.0)
        for name in drill.random.sample(names, len(names)):
            await nemesis.kill(stage, name)
            await stage.last(1.0)
        for name in stage.on_envoy:
            await nemesis.kill_envoy(stage, name)
            await stage.last(1.0)
        await nemesis.pause(stage, "worker-1", 3 * LEASE_SECONDS)
        await asyncio.gather(*(nemesis.kill(stage, name) for name in names))
        await stage.cluster.wait_until_served()
        await stage.last(2.0)
    drill.judge("errors that reached a user", seen=str(len(load.failed)), wanted="0", held=not load.failed)
    nemesis.judge_gateways_without_envoy(drill)
