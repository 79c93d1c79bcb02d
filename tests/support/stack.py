"""The three services in this process, on free ports and a real Redis, with the simulated engine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc

from broker_worker.app import WorkerApplication
from broker_worker.settings import WorkerSettings
from engine_service.app import EngineApplication
from engine_service.settings import EngineSettings
from gateway.app import GatewayApplication
from gateway.settings import GatewaySettings
from tests.support.waiting import eventually
from tokenrelay.lifecycle import Application
from tokenrelay.v1 import generation_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc

MODEL = "simulated-test"


class Running:
    """One application that has been started."""

    def __init__(self, application: Any) -> None:
        self.application = application
        self._run: asyncio.Task[None] | None = None

    async def start(self) -> "Running":
        await self.application.start_up()
        self._run = asyncio.create_task(self.application.run())
        return self

    async def drain(self) -> None:
        await self.application.drain()
        await self.stop()

    async def stop(self, *, abruptly: bool = False) -> None:
        """Stops without draining. Abruptly: a worker does not even hand back what it has, as if it were killed."""
        if abruptly and isinstance(self.application, WorkerApplication):
            self.application.work._leave = _do_nothing  # type: ignore[assignment,method-assign]
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
    def target(self) -> str:
        return f"127.0.0.1:{self.application.port}"


async def _do_nothing(*_: Any) -> None:
    """Stands in for what a killed process does not do any more."""


class Stack:
    """Services over one Redis. What a test adds is stopped with the stack."""

    def __init__(self, redis_url: str) -> None:
        self.redis_url = redis_url
        self._running: list[Running] = []
        self._channels: list[grpc.aio.Channel] = []

    @property
    def newest(self) -> Running | None:
        return self._running[-1] if self._running else None

    async def add(self, application: Application) -> Running:
        running = Running(application)
        self._running.append(running)
        return await running.start()

    async def add_gateway(self, **settings: Any) -> Running:
        values = {"redis_url": self.redis_url, "port": 0, "drain_seconds": 1.0, "lame_duck_seconds": 0.0, **settings}
        return await self.add(GatewayApplication(GatewaySettings(**values)))

    async def add_engine(self, **settings: Any) -> Running:
        values = {"engine": "simulated", "model": "test", "port": 0, "simulated_step_ms": 1.0, "drain_seconds": 1.0, **settings}
        return await self.add(EngineApplication(EngineSettings(**values)))

    async def add_worker(self, engine: Running, **settings: Any) -> Running:
        values = {"redis_url": self.redis_url, "engine_address": engine.target, "lease_seconds": 1.0, "drain_seconds": 1.0}
        return await self.add(WorkerApplication(WorkerSettings(**{**values, **settings})))

    def channel(self, gateway: Running) -> grpc.aio.Channel:
        channel = grpc.aio.insecure_channel(gateway.target)
        self._channels.append(channel)
        return channel

    def stub(self, gateway: Running) -> Any:
        return generation_service_pb2_grpc.GenerationServiceStub(self.channel(gateway))

    async def wait_until_served(self, gateway: Running, workers: int = 1) -> None:
        stub: Any = model_service_pb2_grpc.ModelServiceStub(self.channel(gateway))

        async def served() -> bool:
            models = (await stub.ListModels(model_service_pb2.ListModelsRequest())).models
            return sum(model.workers for model in models) == workers

        await eventually(served, f"{workers} workers serve")

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()
        for running in reversed(self._running):
            await running.stop()


@asynccontextmanager
async def opened(redis_url: str) -> AsyncIterator[Stack]:
    stack = Stack(redis_url)
    try:
        yield stack
    finally:
        await stack.close()
