"""kill -9 of Redis under load, back after 2 seconds: streams wait and go on, and nobody takes over from a live owner."""

from drills import nemesis, timings
from drills.load import Load
from drills.scenario import Drill
from drills.stage import LEASE_SECONDS, set_up

USERS = 40
AWAY = 2.0  # seconds
UP = 5.0  # seconds between a return and the next death


async def run(drill: Drill) -> None:
    async with set_up(drill) as stage:
        load = stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS))
        for _ in range(8 if drill.long else 3):
            await stage.last(UP)
            await nemesis.kill(stage, "redis", AWAY)
        await stage.last(UP)
    events = drill.events()
    found = timings.recoveries(events)
    changed_hands = timings.takeovers_in_outages(events, 2 * LEASE_SECONDS)
    drill.judge("streams go on after Redis' return", seen=str(found), wanted="within 3 s", held=found.percentile(1.0) < 3.0)
    drill.judge("takeovers from live owners", seen=str(changed_hands), wanted="0", held=changed_hands == 0)
    drill.judge("errors that reached a user", seen=str(len(load.failed)), wanted="0", held=not load.failed)
