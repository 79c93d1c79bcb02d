"""kill -9 of a worker, again and again, and nothing else: how long a stream stands still."""

from drills import nemesis, timings
from drills.load import Load
from drills.scenario import Drill
from drills.stage import LEASE_SECONDS, set_up

USERS = 32
EVERY = 4.0  # seconds; longer than a takeover, so that each one is put down to its own kill
READERS = {"reads": 1, "reads_by_stub": 1}


async def run(drill: Drill) -> None:
    async with set_up(drill) as stage:
        stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS, kinds=READERS))
        for number in range(25 if drill.long else 6):
            await stage.last(EVERY)
            await nemesis.kill(stage, f"worker-{number % 2 + 1}")
        await stage.last(EVERY)
    found = timings.takeovers(drill.events(), "worker")
    drill.judge(
        f"takeover after kill -9 of a worker, lease {LEASE_SECONDS:.0f} s",
        seen=str(found),
        wanted="p99 under 2 s",
        held=found.percentile(0.99) < 2.0,
    )
