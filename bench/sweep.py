"""Measures one point after another."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from bench import figures
from bench.deployment import Deployment
from bench.drivers import Drivers
from bench.figures import Limits, Point
from bench.observer import Observer, gpu_memory
from bench.plan import Load
from bench.progress import Shown
from bench.settings import BenchSettings


class Sweep:
    """All points of a measurement.

    Args:
        settings: what was asked for.
        deployment: what is measured.
        drivers: the client processes, started.
        shown: told how it goes on.
    """

    def __init__(self, settings: BenchSettings, deployment: Deployment, drivers: Drivers, shown: Shown) -> None:
        self._settings = settings
        self._drivers = drivers
        self._shown = shown
        # The memory of this machine's GPUs says nothing of engines elsewhere, or of one that computes nothing.
        self._has_gpus = bool(deployment.pids()) and deployment.engine != "simulated"
        self._observer = Observer(deployment.pids, deployment.metrics)
        self._limits = Limits(settings.goodput_ttft_ms, settings.goodput_tpot_ms)

    async def run(self, loads: list[Load]) -> list[Point]:
        """Returns a point for each load.

        Raises:
            DriverEndedError: a client process is gone.
        """
        points = []
        for load in loads:
            with self._shown.point(load) as ended:
                points.append(await self._measure(load, ended))
            self._shown.result(points[-1])
        return points

    async def _measure(self, load: Load, ended: Callable[[int], None]) -> Point:
        await self._drivers.warm_up(load, self._settings.warm_up)
        metrics_before, cpu_before = await self._observer.engine_metrics(), self._observer.cpu_seconds()
        with self._observer.watching():
            outcomes = await self._drivers.measure(ended)
        cpu_after, metrics_after = self._observer.cpu_seconds(), await self._observer.engine_metrics()
        gpu = await gpu_memory() if self._has_gpus else None
        served = self._observer.served(cpu_before, cpu_after, metrics_before, metrics_after, gpu)
        samples = [sample for outcome in outcomes for sample in outcome.samples]
        return figures.point(load, samples, self._limits, [outcome.cpu_seconds for outcome in outcomes], served)


@asynccontextmanager
async def drivers(settings: BenchSettings, folder: Path, deployment: Deployment) -> AsyncIterator[Drivers]:
    """Gives the client processes; they end afterwards."""
    started = Drivers(settings.processes, folder, deployment.targets)
    try:
        await started.start()
        yield started
    finally:
        await started.close()
