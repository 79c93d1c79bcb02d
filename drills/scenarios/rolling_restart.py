"""Every process is restarted in order, one at a time, under load, as in an upgrade; the users use our library."""

import asyncio

from drills.load import Load
from drills.scenario import Drill
from drills.stage import set_up

USERS = 40
READERS = {"reads": 6, "asks_for_all": 1, "submits": 2, "cancels": 1}  # what our library does


async def run(drill: Drill) -> None:
    async with set_up(drill, common={"TOKENRELAY_DRAIN_SECONDS": "2"}) as stage:
        load = stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS, kinds=READERS))
        for _ in range(2 if drill.long else 1):
            for name, member in stage.cluster.members.items():
                await stage.last(1.0)
                stage.note_fault("SIGTERM", name)
                await asyncio.wait_for(member.terminate(), 60)
                await stage.cluster.wait_until_served()
                stage.note_healed("SIGTERM", name)
        await stage.last(1.0)
    drill.judge("errors that reached a user", seen=str(len(load.failed)), wanted="0", held=not load.failed)
