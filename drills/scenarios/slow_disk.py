"""Redis' disk takes up to 1.5 seconds for each fsync, and Redis is killed while it waits: nothing that was seen is lost."""

from contextlib import ExitStack

from drills import nemesis
from drills.cluster import Changes
from drills.faults.slow_disk import SlowDisk
from drills.load import Load
from drills.scenario import Drill
from drills.stage import set_up

USERS = 32


async def run(drill: Drill) -> None:
    with ExitStack() as owned:
        disk = SlowDisk(drill.folder)
        owned.callback(disk.close)
        async with set_up(drill, changes={"redis": Changes(disk.environment())}) as stage:
            load = stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS))
            for number in range(8 if drill.long else 4):
                await stage.last(2.0)
                milliseconds = drill.random.randint(100, 1500)
                stage.note_fault("slow fsync", "redis", milliseconds=milliseconds)
                disk.set_delay(milliseconds)
                await stage.last(drill.random.uniform(1.0, 3.0))
                if number % 2:
                    await nemesis.kill(stage, "redis")
                disk.heal()
                stage.note_healed("slow fsync", "redis")
            await stage.last(2.0)
    drill.judge("errors that reached a user", seen=str(len(load.failed)), wanted="0", held=not load.failed)
