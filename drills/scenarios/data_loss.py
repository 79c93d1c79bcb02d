"""FLUSHALL under load: open streams are told DATA_LOSS instead of hanging, and new work goes on at once."""

from typing import Any

from drills.load import Load
from drills.scenario import Drill
from drills.stage import set_up

USERS = 40
LOST = ("LOG_LOST", "GENERATION_NOT_FOUND")
# Until the workers have announced themselves again, gateways know of no model.
UNKNOWN = ("MODEL_NOT_FOUND", "NO_WORKER")
LONGEST_WAIT = 5.0  # seconds; the watch's length, within which gateways look at everything that they follow


async def run(drill: Drill) -> None:
    losses = 3 if drill.long else 1
    async with set_up(drill, allowed=(*LOST, *UNKNOWN)) as stage:
        stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS))
        for _ in range(losses):
            await stage.last(4.0)
            client: Any = stage.redis()
            client.flushall()
            client.close()
            stage.note_fault("FLUSHALL", "redis")
            await stage.last(LONGEST_WAIT + 2.0)
    events = drill.events()
    flushed = [event["at"] for event in events if event["kind"] == "fault"]
    begun = {event["call"]: event["at"] for event in events if event["kind"] == "call"}
    waits = [
        event["at"] - max(at for at in flushed if at < event["at"])
        for event in events
        if event["kind"] == "failed" and event["reason"] in LOST and begun[event["call"]] < max(flushed)
    ]
    longest = max(waits, default=0.0)
    drill.judge(
        "open streams are told",
        seen=f"{len(waits)} within {longest:.1f} s",
        wanted=f"all within {LONGEST_WAIT} s",
        held=bool(waits) and longest <= LONGEST_WAIT,
    )
    after = sum(event["kind"] == "finished" and begun[event["call"]] > flushed[-1] for event in events)
    drill.judge("generations begun and finished after the last loss", seen=str(after), wanted="more than 0", held=after > 0)
