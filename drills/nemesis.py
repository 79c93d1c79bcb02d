"""What breaks processes: kill -9, a pause, and a Redis that dies and is looked at before it comes back."""

import asyncio
import shutil
import signal
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from drills import witness
from drills.stage import Stage

REDIS_AWAY_SECONDS = 0.5


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
    stage.note_fault("kill -9", name)
    await member.kill(hold=away is not None)
    died_at = time.time()
    if away is not None:
        await asyncio.sleep(away)
        member.release()
    return died_at


async def _kill_redis(stage: Stage, away: float) -> float:
    member = stage.cluster.members["redis"]
    executable, folder = member.process.command[0], stage.cluster.folder / "redis"
    stage.note_fault("kill -9", "redis")
    await member.kill(hold=True)
    died_at = time.time()
    with TemporaryDirectory(prefix="drill-") as copy:
        await asyncio.gather(asyncio.to_thread(shutil.copytree, folder, copy, dirs_exist_ok=True), asyncio.sleep(away))
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
