"""Wall clocks jump by an hour, forwards and back: a worker's, a gateway's, and Redis'; a worker dies after each of Redis'."""

from contextlib import ExitStack

from drills import family, nemesis
from drills.cluster import Changes
from drills.faults.clock import JumpingClock
from drills.load import Load
from drills.scenario import Drill
from drills.stage import set_up

USERS = 32
HOUR = 3600.0
OF = ("worker-1", "gateway-1", "redis")
# What has ended must still be there to be looked at when Redis believes that hours have passed.
RETENTION = {"TOKENRELAY_RETENTION_SECONDS": "86400"}


async def run(drill: Drill) -> None:
    with ExitStack() as owned:
        clocks: dict[str, JumpingClock] = {}
        for name in OF:
            folder = drill.folder / f"clock-{name}"
            folder.mkdir()
            clocks[name] = JumpingClock(folder)
            owned.callback(clocks[name].close)
        changes = {name: Changes(clock.environment()) for name, clock in clocks.items()}
        async with set_up(drill, common=RETENTION, changes=changes) as stage:
            untouched = [
                f"process {pid} of {name}"
                for name, change in changes.items()
                for pid in family.tree(stage.cluster.members[name].pid or 0)
                if not family.has_loaded(pid, change.environment["LD_PRELOAD"])
            ]
            load = stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS))
            for _ in range(2 if drill.long else 1):
                for name, clock in clocks.items():
                    for seconds in (HOUR, -HOUR, -HOUR, HOUR):
                        await stage.last(1.5)
                        stage.note_fault("clock jump", name, seconds=seconds)
                        clock.jump(seconds)
                        if name == "redis":
                            await stage.last(0.5)
                            await nemesis.kill(stage, "worker-2")
            await stage.last(3.0)
    drill.judge("processes whose clocks stay", seen=", ".join(untouched) or "none", wanted="none", held=not untouched)
    drill.judge("errors that reached a user", seen=str(len(load.failed)), wanted="0", held=not load.failed)
