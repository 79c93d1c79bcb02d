"""Redis runs out of memory under load: finished logs go first, then new work is refused, and what was accepted finishes."""

from typing import Any

from tests.drill.load import Load
from tests.drill.scenario import Drill
from tests.drill.stage import Stage, set_up

USERS = 40
REFUSED = "STORE_FULL"


async def run(drill: Drill) -> None:
    async with set_up(drill, allowed=(REFUSED,), drops_finished=True) as stage:
        load = stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS))
        refused = accepted_later = 0
        for _ in range(6 if drill.long else 2):
            await stage.last(5.0)
            await _shrink(stage, 1.1)  # above the watermark: what has ended makes room
            await stage.last(3.0)
            await _shrink(stage, 0.5)  # far too little: nothing is accepted
            before = len(load.failed)
            await stage.last(3.0)
            refused += len(load.failed) - before
            await _free(stage)
            finished = load.finished
            await stage.last(3.0)
            accepted_later += load.finished - finished
    others = [failure for failure in load.failed if not failure.startswith(REFUSED)]
    drill.judge("calls refused with RESOURCE_EXHAUSTED while full", seen=str(refused), wanted="more than 0", held=refused > 0)
    drill.judge("generations finished afterwards", seen=str(accepted_later), wanted="more than 0", held=accepted_later > 0)
    drill.judge("other errors that reached a user", seen=str(len(others)), wanted="0", held=not others)


async def _shrink(stage: Stage, share: float) -> None:
    """Leaves Redis a share of what it uses."""
    client: Any = stage.redis()
    used = client.info("memory")["used_memory"]
    stage.note_fault("out of memory", "redis", used=used, maximum=int(used * share))
    client.config_set("maxmemory", int(used * share))
    client.close()


async def _free(stage: Stage) -> None:
    client: Any = stage.redis()
    client.config_set("maxmemory", 0)
    client.close()
    stage.note_healed("out of memory", "redis")
