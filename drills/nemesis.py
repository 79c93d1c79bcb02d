"""What breaks processes: kill -9, also of Envoy alone, a pause, and a Redis that dies and is looked at before it comes back."""

import asyncio
import shutil
import signal
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from drills import witness
from drills.history import Event
from drills.scenario import Drill
from drills.stage import Stage
from drills.waiting import eventually
from tokenrelay.lifecycle import FAILED

REDIS_AWAY_SECONDS = 0.5
PARENT, ENVOY = "kill -9 of Envoy's parent", "kill -9 of Envoy alone"
ENDED_BY = "signal SIGKILL"  # as a gateway says of its Envoy


async def kill(stage: Stage, name: str, away: float | None = None) -> float:
    """Kills a process with SIGKILL and has it started again; Redis' disk is looked at in between.

    Args:
        away: seconds until it is started again; unset: at once, Redis after half a second.

    Returns:
        when it was dead, on the machine's clock.
    """
    member = stage.cluster.members[name]
    if name == "redis":
        return await _kill_redis(stage, REDIS_AWAY_SECONDS if away is None else away)
    stage.note_fault(PARENT if name in stage.on_envoy else "kill -9", name)
    await member.kill(hold=away is not None)
    died_at = time.time()
    if away is not None:
        await asyncio.sleep(away)
        member.release()
    return died_at


async def kill_envoy(stage: Stage, name: str) -> None:
    """Kills a gateway's Envoy with SIGKILL, and nothing else; its parent must end, say why, and be started again."""
    member = stage.cluster.members[name]
    await eventually(lambda: member.envoy, f"{name} has started its Envoy")
    said = member.log_file.stat().st_size
    stage.note_fault(ENVOY, name)
    status = await member.kill_envoy()
    with member.log_file.open("rb") as log:
        log.seek(said)
        told = next((line for line in log.read().decode().splitlines() if ENDED_BY in line), None)
    stage.drill.history.note("without_envoy", process=name, status=status, told=told)


def judge_gateways_without_envoy(drill: Drill) -> None:
    """Judges how gateways ended whose Envoy was killed, if any was."""
    ends = [event for event in drill.events() if event["kind"] == "without_envoy"]
    if ends:
        wrong = [f"{one['process']}, status {one['status']}: {one['told']}" for one in ends if not _ended_well(one)]
        drill.judge(
            "gateways whose Envoy was killed: ended with status 1 and said why",
            seen="; ".join(wrong) or f"{len(ends)} of {len(ends)}",
            wanted=f"{len(ends)} of {len(ends)}",
            held=not wrong,
        )


def _ended_well(end: Event) -> bool:
    return end["status"] == FAILED and end["told"] is not None


async def _kill_redis(stage: Stage, away: float) -> float:
    member = stage.cluster.members["redis"]
    executable, folder = member.process.command[0], stage.cluster.folder / "redis"
    stage.note_fault("kill -9", "redis")
    await member.kill(hold=True)
    died_at = time.time()
    with TemporaryDirectory(prefix="drill-") as copy:
        await asyncio.gather(asyncio.to_thread(_copy, folder, copy), asyncio.sleep(away))
        member.release()
        client = stage.redis()
        try:
            await asyncio.to_thread(witness.wait_until_loaded, client)
            stage.drill.history.note("serving", target="redis", died_at=died_at)
            # Its file is rewritten when it has doubled since the last start, so that it would grow with every death.
            await asyncio.to_thread(client.bgrewriteaof)
        finally:
            client.close()
        stage.drill.history.note("survived", died_at=died_at, logs=await asyncio.to_thread(_look, executable, Path(copy)))
    return died_at


def _copy(folder: Path, copy: str) -> None:
    """Copies Redis' files; its socket, which it leaves behind, is none that can be copied."""
    shutil.copytree(folder, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))


def _look(executable: str, copy: Path) -> dict[str, tuple[int, bool]]:
    with witness.disk_of(executable, copy) as client:
        return witness.positions(client)


async def pause(stage: Stage, name: str, seconds: float) -> None:
    """Stops a process with SIGSTOP and lets it go on after some time."""
    member = stage.cluster.members[name]
    stage.note_fault("SIGSTOP", name, seconds=seconds)
    if member.signal(signal.SIGSTOP):
        await asyncio.sleep(seconds)
        member.signal(signal.SIGCONT)
    stage.note_healed("SIGSTOP", name)
