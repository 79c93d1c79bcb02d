"""`python -m bench profile`: where the CPU time of each process goes, as flame graphs, and what a token costs it.

The library is py-spy, because it looks at processes from outside and slows them little.
"""

import asyncio
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench.clients.process import offer
from bench.load import plan
from bench.load.measuring import Sample
from bench.processes import usage
from bench.processes.child import INTERRUPTED, DidNotStartError, cancel_on_signals
from bench.run.deployment import NotServingError, deployment
from bench.run.points import planned
from bench.run.settings import BenchSettings
from bench.settings.fields import results_folder
from bench.systems.tokenrelay import TokenrelayTarget
from deploy.local.plan import NoRedisError

SAMPLES_A_SECOND = 200
PYTHON = ("gateway", "worker", "engine")  # the groups that py-spy can look into
console = Console(highlight=False, soft_wrap=True)


def profile(settings: BenchSettings) -> int:
    """Profiles the processes of a stack of its own under its last and largest point: a flame graph of each, CPU per token."""
    if settings.target:
        console.print("TARGET: only a stack that is started for it can be profiled", style="red")
        return 2
    folder = results_folder(settings.results, datetime.now(UTC))
    try:
        table = asyncio.run(_profile(settings, folder))
    except (DidNotStartError, NotServingError, NoRedisError) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Interrupted; there is no profile.")
        return INTERRUPTED
    (folder / "profile.md").write_text(table)
    console.print(f"\n{table}\nIn {folder}: profile.md and the flame graphs, *.svg", markup=False)
    return 0


async def _profile(settings: BenchSettings, folder: Path) -> str:
    cancel_on_signals()
    async with deployment(settings, folder) as measured:
        target = TokenrelayTarget(measured.targets)
        *_, load = planned(settings, measured.vocabulary_size)
        watching: list[asyncio.subprocess.Process] = []
        try:
            console.print(f"{measured.title}: {load.label()}", markup=False)
            await offer(target, plan.warm_up(load, settings.warm_up))
            groups = measured.pids()
            watching = await _watch(groups, folder)
            before = usage.cpu_seconds_of(groups)
            samples = await offer(target, load)
            after = usage.cpu_seconds_of(groups)
        finally:
            await _end(watching)
            await target.close()
    spent = {name: after[name] - before[name] for name in groups if groups[name]}
    return _table(f"{measured.title}, {load.label()}", spent, samples)


async def _watch(groups: Mapping[str, Sequence[int]], folder: Path) -> list[asyncio.subprocess.Process]:
    """Starts a py-spy for each process that it can look into."""
    py_spy = str(Path(sys.executable).with_name("py-spy"))
    started = []
    for name in PYTHON:
        for number, pid in enumerate(groups.get(name, ()), start=1):
            picture = str(folder / f"{name}-{number}.svg")
            command = [py_spy, "record", "--pid", str(pid), "--rate", str(SAMPLES_A_SECOND), "--output", picture]
            command += ["--threads", "--duration", "unlimited"]
            with (folder / "py-spy.log").open("ab") as log:
                started.append(await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log))
    return started


async def _end(watching: Sequence[asyncio.subprocess.Process]) -> None:
    """Has them write their flame graphs, which they do when they are interrupted."""
    for process in watching:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
    for process in watching:
        await process.wait()


def _table(title: str, spent: Mapping[str, float], samples: Sequence[Sample]) -> str:
    tokens = sum(sample.tokens for sample in samples)
    rows = [f"| {name} | {seconds:.2f} | {seconds * 1e6 / max(tokens, 1):.1f} |" for name, seconds in spent.items()]
    head = ["| processes | CPU s | CPU µs a token |", "| --- | --- | --- |"]
    return "\n".join([f"{title}: {tokens} tokens in {len(samples)} answers", "", *head, *rows, ""])
