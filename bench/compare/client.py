"""The client of one system in one round: starts the system, measures it at each concurrency, ends it.

A process of its own for each, so that no system meets a client that others have worn, and AsyncLLM can be within it.
"""

import asyncio
import gc
import os
import signal
import sys
import time
from pathlib import Path

import uvloop
from pydantic import BaseModel, ConfigDict, TypeAdapter

from bench.compare.choice import Setup, create
from bench.load import plan
from bench.load.measuring import Sample, Target, closed_loop
from bench.load.plan import OfferedLoad
from bench.processes import usage
from bench.results import figures
from bench.results.figures import GoodputLimits, Point, Served
from bench.systems import System

POINTS = TypeAdapter(list[Point])
LIMITS = GoodputLimits(ttft_ms=float("inf"), tpot_ms=float("inf"))  # what is compared are answers, not good ones


class Task(BaseModel):
    """What one client process has to do.

    Attributes:
        system: its name.
        loads: one for each concurrency.
        results: the file for the points, as JSON.
    """

    model_config = ConfigDict(frozen=True)

    system: str
    setup: Setup
    loads: list[OfferedLoad]
    results: Path


async def carry_out(task: Task) -> list[Point]:
    """Starts a system, measures it and ends it, whatever happens."""
    system = create(task.system, task.setup)
    try:
        await system.start()
        target = system.target()
        try:
            return [await _measure(system, target, load) for load in task.loads]
        finally:
            await target.close()
    finally:
        await asyncio.shield(system.close())


async def _measure(system: System, target: Target, load: OfferedLoad) -> Point:
    await _offer(target, plan.warm_up(load, 1))
    gc.collect()
    served, own = usage.cpu_seconds_of(system.processes()), time.process_time()
    samples = await _offer(target, load)
    own = time.process_time() - own
    used = {group: seconds - served[group] for group, seconds in usage.cpu_seconds_of(system.processes()).items()}
    return figures.point(load, samples, LIMITS, [own], Served(cpu_seconds=used))


async def _offer(target: Target, load: OfferedLoad) -> list[Sample]:
    return await closed_loop(target, load.workload, load.concurrency, load.rounds, first_stream=load.first_stream)


async def main(task: Task) -> None:
    """Writes a task's points to its file."""
    here = asyncio.current_task()
    assert here is not None, "it is called in one"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, here.cancel)
    task.results.write_bytes(POINTS.dump_json(await carry_out(task)))


if __name__ == "__main__":
    try:
        uvloop.run(main(Task.model_validate_json(sys.argv[1])))
    except asyncio.CancelledError:
        sys.exit(os.EX_TEMPFAIL)
