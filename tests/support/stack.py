"""The three services on free ports and a real Redis, with the simulated engine.

Worker and engine service run in this process, and the gateway too if its edge is gRPC's own server. With Envoy as its edge
it is a process of its own. What tests may know of either is what an operator may: whether it runs, its metrics, its log.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.request import urlopen

import grpc
import structlog
from prometheus_client.parser import text_string_to_metric_families

from broker_worker.app import WorkerApplication
from broker_worker.settings import WorkerSettings
from engine_service.app import EngineApplication
from engine_service.settings import EngineSettings
from gateway.app import GatewayApplication
from gateway.settings import GatewaySettings
from tests.support.gateway_process import GatewayProcess, Line
from tests.support.waiting import eventually
from tokenrelay.lifecycle import Application
from tokenrelay.v1 import generation_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc

MODEL = "simulated-test"

Edge = Literal["grpcio", "envoy"]


class Running:
    """One application that has been started."""

    def __init__(self, application: Any) -> None:
        self.application = application
        self._run: asyncio.Task[None] | None = None
        self._is_told_to_end = False

    async def start(self) -> "Running":
        await self.application.start_up()
        self._run = asyncio.create_task(self.application.run())
        return self

    def __repr__(self) -> str:
        return type(self.application).__name__

    async def drain(self) -> None:
        await self.application.drain()
        await self.stop()

    async def stop(self, *, abruptly: bool = False) -> None:
        """Stops without draining. Abruptly: a worker does not even hand back what it has, as if it were killed."""
        if abruptly and isinstance(self.application, WorkerApplication):
            self.application.work._leave = _do_nothing  # type: ignore[assignment,method-assign]
        self._is_told_to_end = True
        failure = None
        if self._run is not None:
            failure = self._run.exception() if self._run.done() and not self._run.cancelled() else None
            self._run.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._run
        await self.application.stop()
        if failure is not None and not abruptly:
            raise AssertionError(f"{type(self.application).__name__} had failed before it was stopped") from failure

    @property
    def has_ended(self) -> bool:
        """Whether it has stopped running, and nobody told it to."""
        return self._run is not None and self._run.done() and not self._is_told_to_end

    @property
    def port(self) -> int | None:
        """The port that it listens on; None or 0 as long as it does not."""
        port: int | None = self.application.port
        return port

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"


async def _do_nothing(*_: Any) -> None:
    """Stands in for what a killed process does not do any more."""


Gateway = Running | GatewayProcess


class Captured:
    """The log lines of all processes of a stack from some moment on.

    Args:
        here: those of this process, to which others may be added.
        processes: the gateways that are processes, each with its log's size at that moment.
    """

    def __init__(self, here: list[Line], processes: dict[GatewayProcess, int]) -> None:
        self._here = here
        self._processes = processes

    def lines(self, event: str | None = None) -> list[Line]:
        """Returns them, those of one event if one is named."""
        others = [line for process, start in self._processes.items() for line in process.lines(start)]
        return [line for line in (*self._here, *others) if event in (None, line["event"])]

    def errors(self) -> list[Line]:
        """Returns those that tell of an error."""
        return [line for line in self.lines() if line["log_level"] in ("error", "critical")]


class Stack:
    """Services over one Redis. What a test adds is stopped with the stack.

    Args:
        redis_url: where the Redis is.
        edge: that of its gateways.
        folder: for what processes write.
    """

    def __init__(self, redis_url: str, edge: Edge, folder: Path) -> None:
        self.redis_url = redis_url
        self.edge = edge
        self._folder = folder
        self._running: list[Running | GatewayProcess] = []
        self._channels: list[grpc.aio.Channel] = []

    @property
    def running(self) -> list[Running | GatewayProcess]:
        """Everything that was added, in its order; what has not started yet too."""
        return self._running

    async def add(self, application: Application) -> Running:
        running = Running(application)
        self._running.append(running)
        return await running.start()

    async def add_gateway(self, **settings: Any) -> Gateway:
        values = {"redis_url": self.redis_url, "port": 0, "drain_seconds": 1.0, "lame_duck_seconds": 0.0, **settings}
        given = GatewaySettings(edge=self.edge, **values)
        if self.edge == "grpcio":
            return await self.add(GatewayApplication(given))
        gateway = GatewayProcess(given, self._folder / f"gateway-{len(self._running)}.log")
        self._running.append(gateway)
        return await gateway.start()

    async def add_gateway_process(self, **settings: Any) -> GatewayProcess:
        """As add_gateway, for what is about the Envoy edge alone."""
        gateway = await self.add_gateway(**settings)
        assert isinstance(gateway, GatewayProcess)
        return gateway

    async def add_engine(self, **settings: Any) -> Running:
        values = {"engine": "simulated", "model": "test", "port": 0, "simulated_step_ms": 1.0, "drain_seconds": 1.0, **settings}
        return await self.add(EngineApplication(EngineSettings(**values)))

    async def add_worker(self, engine: Running, **settings: Any) -> Running:
        values = {"redis_url": self.redis_url, "engine_address": engine.target, "lease_seconds": 1.0, "drain_seconds": 1.0}
        return await self.add(WorkerApplication(WorkerSettings(**{**values, **settings})))

    def channel(self, gateway: Running | GatewayProcess) -> grpc.aio.Channel:
        channel = grpc.aio.insecure_channel(gateway.target)
        self._channels.append(channel)
        return channel

    def stub(self, gateway: Gateway) -> Any:
        return generation_service_pb2_grpc.GenerationServiceStub(self.channel(gateway))

    async def wait_until_served(self, gateway: Gateway, workers: int = 1) -> None:
        stub: Any = model_service_pb2_grpc.ModelServiceStub(self.channel(gateway))

        async def served() -> bool:
            models = (await stub.ListModels(model_service_pb2.ListModelsRequest())).models
            return sum(model.workers for model in models) == workers

        await eventually(served, f"{workers} workers serve")

    def assert_all_run(self) -> None:
        """Fails if anything has ended that was added, and that no test has stopped."""
        for running in self._running:
            assert not running.has_ended, f"{running} has ended"

    @contextmanager
    def captured_logs(self) -> Iterator[Captured]:
        """Captures what is logged from now on; see that nothing is still being written before the end is looked at."""
        gateways = [running for running in self._running if isinstance(running, GatewayProcess)]
        sizes = {gateway: gateway.log.stat().st_size for gateway in gateways}
        with structlog.testing.capture_logs() as here:
            yield Captured(here, sizes)

    async def close(self) -> None:
        """Stops everything, also if something of it fails to stop."""
        async with AsyncExitStack() as closing:
            closing.callback(self._show_logs)
            for running in self._running:
                closing.push_async_callback(running.stop)
            for channel in self._channels:
                closing.push_async_callback(channel.close)

    def _show_logs(self) -> None:
        """Prints what processes have logged; pytest shows it if the test has failed."""
        for log in sorted(self._folder.glob("*.log")):
            print(f"{log.name}:", log.read_text(errors="replace"), sep="\n")


@asynccontextmanager
async def opened(redis_url: str, edge: Edge) -> AsyncIterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="tokenrelay-stack-") as folder:
        stack = Stack(redis_url, edge, Path(folder))
        try:
            yield stack
        finally:
            await stack.close()


async def metric(port: int, name: str, **labels: str) -> float:
    """Returns a metric of a process that shows its metrics on a port, or the sum of those that have more labels than given."""

    def get() -> str:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            return str(response.read().decode())

    families = text_string_to_metric_families(await asyncio.to_thread(get))
    samples = [one for family in families for one in family.samples if one.name == name]
    values = [one.value for one in samples if labels.items() <= one.labels.items()]
    assert values, f"there is no metric {name} with {labels}"
    return float(sum(values))
