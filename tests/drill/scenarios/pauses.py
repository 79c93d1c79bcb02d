"""A worker is stopped for three leases and goes on afterwards: whatever it still wants to write is too late."""

from tests.drill import nemesis
from tests.drill.load import Load
from tests.drill.scenario import Drill
from tests.drill.stage import LEASE_SECONDS, set_up

USERS = 32


async def run(drill: Drill) -> None:
    async with set_up(drill) as stage:
        stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS))
        for number in range(100 if drill.long else 8):
            await stage.last(drill.random.uniform(0.2, 1.5))
            await nemesis.pause(stage, f"worker-{number % 2 + 1}", 3 * LEASE_SECONDS)
        await stage.last(1.0)
    taken_over = sum(len(event["attempts"]) for event in drill.events() if event["kind"] == "log")
    drill.figures["takeovers"] = taken_over
    drill.judge("generations taken over from stopped workers", seen=str(taken_over), wanted="more than 0", held=taken_over > 0)
