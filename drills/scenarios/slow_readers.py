"""A tenth of all clients stop reading and let their connections be: what that costs the gateway and the others."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from deploy.local.settings import ROOT
from drills import processes
from drills.cluster import Cluster
from drills.processes import MEBIBYTE
from drills.scenario import Drill

CHOICES = 16  # of each stream that is to be left unread, so that much comes in a short time
ENDLESS = 100_000  # tokens
SLOWER = 1.2


class Process:
    """A process of readers, and its answers."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    async def say(self, word: str) -> dict[str, Any]:
        """Says a word and returns the answer."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{word}\n".encode())
        answer = await self._child.stdout.readline()
        assert answer, "a process of readers has died; see its traceback above"
        result: dict[str, Any] = json.loads(answer)
        return result

    async def measure(self, seconds: float) -> dict[str, Any]:
        """Returns what comes within some time."""
        await self.say("measure")
        await asyncio.sleep(seconds)
        return await self.say("measure")


@asynccontextmanager
async def readers(
    target: str, count: int, choices: int, max_tokens: int, connections: int, name: str
) -> AsyncIterator[Process]:
    """Runs a process of readers."""
    arguments = map(str, (count, choices, max_tokens, connections, name))
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "drills.readers", target, *arguments),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(child)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def run(drill: Drill) -> None:
    # Two cores carry about 12,000 tokens a second, clients and all.
    streams, step_ms, unread_seconds = (1000, 250, 120.0) if drill.long else (200, 50, 30.0)
    slow = streams // 10
    settings = {
        "TOKENRELAY_LEASE_SECONDS": "5",  # many streams begin at once, on few cores
        "TOKENRELAY_LOG_FORMAT": "json",
        "TOKENRELAY_SIMULATED_STEP_MS": str(step_ms),
        "TOKENRELAY_SIMULATED_SLOTS": "4096",
        "TOKENRELAY_RETENTION_SECONDS": "600",  # those that stop come back long after the end
    }
    cluster = Cluster(
        drill.folder, drill.history, settings, engine="simulated", model="drill", edge=drill.edge, gateways=1, workers=1
    )
    try:
        cluster.start()
        await cluster.wait_until_served()
        target = cluster.targets[0]
        unread_tokens = round((unread_seconds + 25) * 1000 / step_ms)
        async with (
            readers(target, streams - slow, 1, ENDLESS, 8, "reads on") as others,
            readers(target, slow, CHOICES, unread_tokens, slow, "stops") as stopping,
        ):
            await _run(drill, cluster, others, stopping, slow, unread_seconds)
    finally:
        await cluster.close()


async def _run(drill: Drill, cluster: Cluster, others: Process, stopping: Process, slow: int, unread_seconds: float) -> None:
    await others.say("begin")
    await others.measure(5.0)
    alone = await others.measure(15.0)
    before_they_came = _memory(cluster)
    drill.say(f"the others alone: {_rate(alone)}, gateway {before_they_came / MEBIBYTE:.1f} MiB")

    await stopping.say("begin")
    await others.measure(5.0)
    together = await others.measure(15.0)
    reading = _memory(cluster)
    drill.say(f"all read: {_rate(together)}, gateway {reading / MEBIBYTE:.1f} MiB")

    before = await stopping.say("stop")
    memory = []
    for _ in range(round(unread_seconds / 5.0)):
        await asyncio.sleep(5.0)
        memory.append(_memory(cluster))
        drill.say(f"{slow} have stopped: gateway {memory[-1] / MEBIBYTE:.1f} MiB")
    unread = await others.measure(15.0)
    each = (max(memory) - before_they_came) / slow
    drill.say(f"{slow} have stopped: {_rate(unread)}, {each / MEBIBYTE:.2f} MiB for each of them")

    await stopping.say("go")
    after = await stopping.say("join")
    drill.say(f"they came back and read {after['tokens'] - before['tokens']} tokens")
    left = await others.say("leave")
    wrong = left["wrong"] + after["wrong"]

    drill.figures["streams"] = f"{slow * 9} that read on, {slow} that stop, which have {CHOICES} choices each"
    drill.figures["tokens that each one left unread"] = round((after["tokens"] - before["tokens"]) / slow)
    drill.figures["the others alone"] = _rate(alone)
    drill.figures["the others while all read"] = _rate(together)
    drill.figures["the others while a tenth has stopped"] = _rate(unread)
    drill.figures["gateway memory, the others alone"] = f"{before_they_came / MEBIBYTE:.1f} MiB"
    drill.figures["gateway memory, all read"] = f"{reading / MEBIBYTE:.1f} MiB"
    drill.figures["gateway memory, a tenth has stopped"] = f"{max(memory) / MEBIBYTE:.1f} MiB at most"
    drill.judge(
        "gateway memory for each client that has stopped, its call and gRPC's own buffers included",
        seen=f"{each / MEBIBYTE:.2f} MiB",
        wanted="at most 1 MiB",
        held=each <= MEBIBYTE,
    )
    # How long single tokens take is told above and not judged: on two cores anything else that runs is seen in it.
    slower = (alone["tokens"] / alone["seconds"]) / (unread["tokens"] / unread["seconds"])
    drill.judge(
        "the others' streams, against without those that stop",
        seen=f"{slower:.3f}x the time",
        wanted="1.2x",
        held=slower <= SLOWER,
    )
    drill.judge("streams that were not exact", seen="; ".join(wrong) or "none", wanted="none", held=not wrong)


def _memory(cluster: Cluster) -> int:
    return processes.footprint(cluster, "gateway-1").memory


def _rate(measured: dict[str, Any]) -> str:
    waits = ", ".join(f"{name} {measured[name] * 1000:.0f} ms" for name in ("p50", "p99", "worst"))
    return f"{measured['tokens'] / measured['seconds']:.0f} tokens/s, a token after {waits}"
