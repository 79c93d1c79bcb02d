"""Redis runs out of memory under load: finished logs go first, then new work is refused, and what was accepted finishes."""

import redis.asyncio

from drills.faults.memory import RedisMemory
from drills.load import Load
from drills.scenario import Drill
from drills.stage import set_up

USERS = 40
REFUSED = "STORE_FULL"


async def run(drill: Drill) -> None:
    async with set_up(drill, allowed=(REFUSED,), drops_finished=True) as stage:
        load = stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS))
        refused = accepted_later = 0
        async with redis.asyncio.Redis(port=stage.cluster.redis_port) as client:
            memory = RedisMemory(client)
            for _ in range(3 if drill.long else 1):
                await stage.last(5.0)
                stage.note_fault("little memory", "redis")
                await memory.exhaust(headroom=await memory.used() // 10)  # above the watermark: what has ended makes room
                await stage.last(3.0)
                stage.note_fault("out of memory", "redis")
                await memory.exhaust(headroom=-(await memory.used()) // 2)
                before = len(load.failed)
                await stage.last(3.0)
                refused += len(load.failed) - before
                await memory.heal()
                stage.note_healed("out of memory", "redis")
                finished = load.notes.finished
                await stage.last(3.0)
                accepted_later += load.notes.finished - finished
    others = [failure for failure in load.failed if not failure.startswith(REFUSED)]
    drill.judge("calls refused with RESOURCE_EXHAUSTED while full", seen=str(refused), wanted="more than 0", held=refused > 0)
    drill.judge("generations finished afterwards", seen=str(accepted_later), wanted="more than 0", held=accepted_later > 0)
    drill.judge("other errors that reached a user", seen=str(len(others)), wanted="0", held=not others)
