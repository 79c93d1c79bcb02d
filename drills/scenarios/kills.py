"""kill -9 of a random worker, engine, gateway or Redis every 3 seconds, with at least 32 streams at all times."""

from collections.abc import Awaitable, Callable
from functools import partial

from drills import nemesis
from drills.load import Load
from drills.scenario import Drill
from drills.stage import set_up

USERS = 40
EVERY = 3.0  # seconds


async def run(drill: Drill) -> None:
    async with set_up(drill) as stage:
        load = stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS))
        kills: list[Callable[[], Awaitable[object]]] = [
            *(partial(nemesis.kill, stage, name) for name in stage.cluster.members),
            *(partial(nemesis.kill_envoy, stage, name) for name in stage.on_envoy),
        ]
        for _ in range(100 if drill.long else 15):
            await stage.last(EVERY)
            await drill.random.choice(kills)()
        await stage.last(EVERY)
    drill.judge("errors that reached a user", seen=str(len(load.failed)), wanted="0", held=not load.failed)
    nemesis.judge_gateways_without_envoy(drill)
