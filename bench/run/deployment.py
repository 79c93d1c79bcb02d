"""What is measured: a stack that runs already, or one that is started for it and ended after it."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.run.settings import BenchSettings
from bench.systems.tokenrelay import Tokenrelay
from tokenrelay.v1 import model_service_pb2, model_service_pb2_grpc

PATIENCE = 10.0  # seconds for a deployment that runs to say what it serves


class NotServingError(Exception):
    """The deployment does not answer, or serves nothing, or more than one model. Its text is for the user."""


@dataclass(frozen=True)
class Deployment:
    """Whom to ask, and what to watch.

    Attributes:
        model: what it serves.
        engine: what generates: "vllm" or "simulated".
        pids: returns the process ids by group; of a deployment elsewhere, none.
        metrics: where its engine services show their metrics, host:port.
    """

    targets: Sequence[str]
    model: str
    engine: str
    engine_version: str
    vocabulary_size: int
    slots: int
    pids: Callable[[], Mapping[str, Sequence[int]]]
    metrics: Sequence[str]

    @property
    def title(self) -> str:
        """Returns what tables and plots say of it."""
        if self.engine == "simulated":
            return f"simulated engine (computes no model), {self.model}"
        return f"{self.engine_version}, {self.model}"


@asynccontextmanager
async def deployment(settings: BenchSettings, folder: Path) -> AsyncIterator[Deployment]:
    """Gives what is measured; what was started for it ends afterwards, whatever happens.

    Raises:
        NotServingError: it does not answer, or serves nothing, or more than one model.
        DidNotStartError: a process of its own did not start.
    """
    if settings.target:
        yield await _described(settings.target, dict, settings.metrics)
        return
    system = _stack(settings, folder)
    try:
        await system.start()
        metrics = [f"127.0.0.1:{port}" for port in system.metrics_ports("engine")]
        yield await _described(system.targets, system.processes, metrics)
    finally:
        await system.close()


def _stack(settings: BenchSettings, folder: Path) -> Tokenrelay:
    simulated = {
        "TOKENRELAY_SIMULATED_STEP_MS": str(settings.simulated_step_ms),
        "TOKENRELAY_SIMULATED_SLOTS": str(settings.simulated_slots),
    }
    return Tokenrelay(
        folder / "stack",
        environment=simulated if settings.engine == "simulated" else {},
        edge=settings.edge,
        engine=settings.engine,
        model=settings.model or _model(settings, folder),
        vllm_args=settings.vllm_args,
        redis_url=settings.redis_url,
        gateways=settings.gateways,
        workers=settings.workers,
        tracing=settings.tracing,
    )


def _model(settings: BenchSettings, folder: Path) -> str:
    if settings.engine == "simulated":
        return "simulated"
    from bench.systems.random_model import make  # noqa: PLC0415  # torch takes seconds to import, and only this needs it

    return str(make(folder / "random-llama"))


async def _described(
    targets: Sequence[str], pids: Callable[[], Mapping[str, Sequence[int]]], metrics: Sequence[str]
) -> Deployment:
    """Asks the first gateway what it serves."""
    async with grpc.aio.insecure_channel(targets[0]) as channel:
        stub: model_service_pb2_grpc.ModelServiceAsyncStub = model_service_pb2_grpc.ModelServiceStub(channel)
        try:
            models = (await stub.ListModels(model_service_pb2.ListModelsRequest(), timeout=PATIENCE)).models
        except grpc.aio.AioRpcError as error:
            raise NotServingError(f"TARGET: {targets[0]} does not answer: {error.code().name}") from error
    served = [model for model in models if model.workers]
    if len(served) != 1:
        names = ", ".join(model.name for model in served) or "nothing"
        raise NotServingError(f"TARGET: {targets[0]} serves {names}; one model is measured at a time")
    (model,) = served
    return Deployment(
        targets, model.name, model.engine, model.engine_version, model.vocabulary_size, model.slots, pids, metrics
    )
