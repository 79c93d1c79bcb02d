"""kill -9 of a real vLLM engine every 30 seconds, two engines, greedy: every answer is that of an undisturbed run."""

import asyncio
import os
from random import Random
from typing import Any

from drills import nemesis
from drills.cluster import Changes
from drills.load import Load
from drills.notebook import Wish
from drills.scenario import Drill
from drills.stage import Stage, set_up
from tokenrelay.client import AsyncClient

USERS = 32
EVERY = 30.0  # seconds; about what an engine takes to load
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 400}
PROMPTS = (
    "Tell me a story about a lighthouse.",
    "Tell me a short story about a brave fox.",
    "Tell me a long story about a train.",
    "Tell me a story about a relay race.",
    "Count from one to fifty.",
    "Say hello in ten languages.",  # answers in ten scripts
    "Write good morning in many languages.",
    "Show me the weather in symbols.",
)
SEAMS = 50


def _wish(chance: Random, _: int) -> Wish:
    return Wish(chance.choice(PROMPTS), GREEDY)


def _on_cores_of_their_own() -> dict[str, Changes]:
    """Spreads the engines over the cores; by itself vLLM's CPU build puts each one on the first."""
    cores = sorted(os.sched_getaffinity(0))
    return {
        f"engine-{number + 1}": Changes({"VLLM_CPU_OMP_THREADS_BIND": core, "TOKENRELAY_ENGINE_CORE_CPUS": core})
        for number, core in enumerate((str(cores[0]), str(cores[-1])))
    }


async def run(drill: Drill) -> None:
    async with set_up(drill, changes=_on_cores_of_their_own(), engine="vllm", model="models/demo") as stage:
        await _note_undisturbed(drill, stage)
        load = stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS, wishes=_wish))
        for number in range(5 if drill.long else 1):
            await stage.last(EVERY)
            await nemesis.kill(stage, f"engine-{number % 2 + 1}")
        await stage.last(EVERY)
    seams = sum(
        0 < attempt[2] < sum(len(tokens) for _, _, tokens in event["entries"])
        for event in drill.events()
        if event["kind"] == "log"
        for attempt in event["attempts"]
    )
    wanted = SEAMS if drill.long else 1
    drill.judge("seams in mid-stream", seen=str(seams), wanted=f"at least {wanted}", held=seams >= wanted)
    drill.judge("errors that reached a user", seen=str(len(load.failed)), wanted="0", held=not load.failed)


async def _note_undisturbed(drill: Drill, stage: Stage) -> None:
    """Writes down what each prompt gives when nothing is broken."""
    async with AsyncClient(stage.cluster.targets) as client:
        answers = await asyncio.gather(*(client.generate(prompt, **GREEDY) for prompt in PROMPTS))
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        (choice,) = answer.choices
        tokens = list(choice.token_ids)
        drill.history.note("expected", prompt=prompt, max_tokens=GREEDY["max_tokens"], tokens=tokens, text=choice.text)
    drill.say(f"{len(PROMPTS)} undisturbed answers, {sum(len(answer.choices[0].token_ids) for answer in answers)} tokens")
