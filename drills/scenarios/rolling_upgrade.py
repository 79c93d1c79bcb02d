"""Workers and engines are upgraded one after the other under greedy load; an answer goes on only where its version lives."""

import asyncio
from collections import Counter
from random import Random

from drills.cluster import Changes
from drills.history import Event
from drills.load import Load, for_the_simulated_engine
from drills.notebook import Wish
from drills.scenario import Drill
from drills.stage import Stage, set_up

USERS = 32
WORKERS = 3
DRAIN_SECONDS, LAST_DRAIN_SECONDS = 1, 60
"""A worker that drains hands back what it cannot finish; the last one of a version must finish all, since nobody else can."""
TERMINATE_SECONDS = 90.0
VERSION = "TOKENRELAY_SIMULATED_VERSION"
# A worker that drains on a busy machine must not lose its lease: nobody else could go on with what a version's last one has.
PATIENT = {"TOKENRELAY_LEASE_SECONDS": "10"}


async def run(drill: Drill) -> None:
    changes = {f"engine-{number}": Changes({VERSION: "1"}) for number in range(1, WORKERS + 1)}
    for number in range(1, WORKERS + 1):
        drain = LAST_DRAIN_SECONDS if number == WORKERS else DRAIN_SECONDS
        changes[f"worker-{number}"] = Changes({"TOKENRELAY_DRAIN_SECONDS": str(drain)})
    async with set_up(drill, common=PATIENT, changes=changes, workers=WORKERS) as stage:
        load = stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS, wishes=greedy))
        for version in ("2", "3", "4") if drill.long else ("2",):
            for number in range(1, WORKERS + 1):
                await stage.last(2.0)
                await _upgrade(stage, number, version)
        await stage.last(2.0)
    _judge(drill, load)


def greedy(chance: Random, call: int) -> Wish:
    wish = for_the_simulated_engine(chance, call)
    return Wish(wish.prompt, {**wish.sampling, "temperature": 0.0})


async def _upgrade(stage: Stage, number: int, version: str) -> None:
    """Stops a worker and then its engine, as a machine's supervisor would, and starts both again, the engine anew."""
    worker, engine = stage.cluster.members[f"worker-{number}"], stage.cluster.members[f"engine-{number}"]
    stage.note_fault("upgrade", engine.name, version=version)
    async with asyncio.timeout(TERMINATE_SECONDS):
        await worker.terminate(hold=True)
        await engine.terminate(hold=True)
    engine.changes.environment[VERSION] = version
    engine.release()
    worker.release()
    await stage.cluster.wait_until_served()
    stage.note_healed("upgrade", engine.name)


def _judge(drill: Drill, load: Load) -> None:
    logs = [event for event in drill.events() if event["kind"] == "log"]
    aborted = [log["id"] for log in logs if log["state"] == "FAILED"]
    seams = sum(any(0 < attempt[2] < _length(log) for attempt in log["attempts"]) for log in logs)
    drill.judge("generations that could not go on", seen=str(len(aborted)), wanted="0", held=not aborted)
    drill.judge("generations that went on elsewhere in mid-stream", seen=str(seams), wanted="more than 0", held=seams > 0)
    drill.judge("errors that reached a user", seen=str(len(load.failed)), wanted="0", held=not load.failed)
    versions = Counter(log["fingerprint"] for log in logs if log["fingerprint"])
    drill.figures["generations"] = ", ".join(f"{count} by {name}" for name, count in sorted(versions.items()))
    wanted = 4 if drill.long else 2
    drill.judge("versions that generated", seen=str(len(versions)), wanted=str(wanted), held=len(versions) == wanted)


def _length(log: Event) -> int:
    return sum(len(tokens) for _, _, tokens in log["entries"])
