"""Measures one point after another."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from bench.clients.pool import ClientPool
from bench.load.plan import OfferedLoad
from bench.results import figures
from bench.results.figures import GoodputLimits, Point
from bench.run.deployment import Deployment
from bench.run.observer import Observer, gpu_memory
from bench.run.progress import Shown
from bench.run.settings import BenchSettings


class Sweep:
    """All points of a measurement.

    Args:
        settings: what was asked for.
        deployment: what is measured.
        client_pool: the client processes, started.
        shown: told how it goes on.
    """

    def __init__(self, settings: BenchSettings, deployment: Deployment, client_pool: ClientPool, shown: Shown) -> None:
        self._settings = settings
        self._clients = client_pool
        self._shown = shown
        # The memory of this machine's GPUs says nothing of engines elsewhere, or of one that computes nothing.
        self._has_gpus = bool(deployment.pids()) and deployment.engine != "simulated"
        self._observer = Observer(deployment.pids, deployment.metrics)
        self._limits = GoodputLimits(settings.goodput_ttft_ms, settings.goodput_tpot_ms)

    async def run(self, loads: list[OfferedLoad]) -> list[Point]:
        """Returns a point for each load.

        Raises:
            ClientEndedError: a client process is gone.
        """
        points = []
        for load in loads:
            with self._shown.point(load) as ended:
                points.append(await self._measure(load, ended))
            self._shown.result(points[-1])
        return points

    async def _measure(self, load: OfferedLoad, ended: Callable[[int], None]) -> Point:
        await self._clients.warm_up(load, self._settings.warm_up)
        metrics_before, cpu_before = await self._observer.engine_metrics(), self._observer.cpu_seconds()
        with self._observer.watching():
            outcomes = await self._clients.measure(ended)
        cpu_after, metrics_after = self._observer.cpu_seconds(), await self._observer.engine_metrics()
        gpu = await gpu_memory() if self._has_gpus else None
        served = self._observer.served(cpu_before, cpu_after, metrics_before, metrics_after, gpu)
        samples = [sample for outcome in outcomes for sample in outcome.samples]
        return figures.point(load, samples, self._limits, [outcome.cpu_seconds for outcome in outcomes], served)


@asynccontextmanager
async def client_pool(settings: BenchSettings, folder: Path, deployment: Deployment) -> AsyncIterator[ClientPool]:
    """Gives the client processes; they end afterwards."""
    started = ClientPool(settings.processes, folder, deployment.targets, settings.connections)
    try:
        await started.start()
        yield started
    finally:
        await started.close()
