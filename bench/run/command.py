"""`python -m bench run`: starts what is to be measured, measures it, and writes the results."""

import asyncio
import shlex
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from bench.clients.pool import ClientEndedError
from bench.processes.child import INTERRUPTED, DidNotStartError, cancel_on_signals
from bench.results import machine, plots, saturation
from bench.results.report import Report
from bench.run.deployment import NotServingError, deployment
from bench.run.points import planned
from bench.run.progress import Shown
from bench.run.settings import BenchSettings
from bench.run.sweep import Sweep, client_pool
from bench.settings.fields import results_folder
from deploy.local.plan import NoRedisError

console = Console(highlight=False, soft_wrap=True)


def run(settings: BenchSettings) -> int:
    """Measures a stack under load: sweeps over concurrency or rate, and lengths of prompts and answers."""
    began = datetime.now(UTC)
    folder = results_folder(settings.results, began)
    try:
        report = asyncio.run(_measure(settings, folder, began))
    except (DidNotStartError, ClientEndedError, NotServingError, NoRedisError) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Interrupted; there are no results.")
        return INTERRUPTED
    report.write(folder)
    drawn = plots.draw(report, folder)
    console.print(f"\n{report.summary()}\n", markup=False)
    console.print(f"In {folder}: results.md, results.json, {', '.join(path.name for path in drawn)}", markup=False)
    return 0 if all(point.answered for point in report.points) else 1


async def _measure(settings: BenchSettings, folder: Path, began: datetime) -> Report:
    cancel_on_signals()
    console.print(_what(settings), markup=False)
    async with deployment(settings, folder) as measured, client_pool(settings, folder, measured) as clients:
        loads = list(planned(settings, measured.vocabulary_size))
        console.print(f"{measured.title}: {len(loads)} points, results in {folder}", markup=False)
        points = await Sweep(settings, measured, clients, Shown(console, len(loads))).run(loads)
    return Report(
        title=measured.title,
        engine=measured.engine,
        command=command(settings),
        at=began.isoformat(timespec="seconds"),
        settings=settings.model_dump(mode="json"),
        machine=machine.describe(),
        points=points,
        slots=measured.slots,
        saturation=saturation.find(points, measured.slots),
    )


def command(settings: BenchSettings) -> str:
    """Returns the command that measures the same again."""
    given = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in settings.model_dump(exclude_defaults=True, exclude={"results"}).items()
    }
    return " ".join(["make bench", *(f"{name.upper()}={shlex.quote(value)}" for name, value in given.items())])


def _what(settings: BenchSettings) -> str:
    if settings.target:
        return f"Measuring {', '.join(settings.target)}"
    return f"Starting a stack: engine {settings.engine}, {settings.gateways} gateways, {settings.workers} workers"
