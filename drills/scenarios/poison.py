"""Prompts that kill or hang their engine, among others: they end as dead letters, and the others go on unharmed."""

from random import Random

from drills.load import Load
from drills.notebook import Wish, Wishes
from drills.scenario import Drill
from drills.stage import set_up

USERS = 32
DEAD = "DEAD_LETTER"
HANG_SECONDS = "1"
READERS = {"reads": 1, "reads_by_stub": 1}


async def run(drill: Drill) -> None:
    poisons = 4 if drill.long else 2
    engines = ("engine-1", "engine-2")
    async with set_up(drill, common={"TOKENRELAY_HANG_SECONDS": HANG_SECONDS}, allowed=(DEAD,), may_exit=engines) as stage:
        load = stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS))
        dead = 0
        for number in range(poisons):
            await stage.last(1.0)
            prompt = f"!{('crash', 'hang')[number % 2]} {(0, 7)[number // 2 % 2]} {number}"
            stage.note_fault("poison", prompt)
            poisoner = Load(
                stage.cluster.targets,
                drill.history,
                drill.random,
                1,
                wishes=_always(prompt),
                kinds=READERS,
                first=10**6 + number,
            )
            stage.add(poisoner)
            await poisoner.stop()
            dead += sum(failure.startswith(DEAD) for failure in poisoner.failed)
        await stage.last(2.0)
    drill.judge("prompts that ended as dead letters", seen=str(dead), wanted=str(poisons), held=dead == poisons)
    drill.judge("errors that reached another user", seen=str(len(load.failed)), wanted="0", held=not load.failed)


def _always(prompt: str) -> Wishes:
    def wish(_: Random, __: int) -> Wish:
        return Wish(prompt, {"max_tokens": 50})

    return wish
