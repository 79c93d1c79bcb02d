"""The engine service's composition root, and its life: start up, run, drain, stop."""

import asyncio
import os
from contextlib import AsyncExitStack
from importlib import import_module

import structlog
from prometheus_client import REGISTRY

from engine_service import watchdog
from engine_service.engines import Engine
from engine_service.engines.simulated.engine import SimulatedEngine
from engine_service.servicer import EngineServicer
from engine_service.settings import EngineSettings
from engine_service.warm_up import warm_up
from tokenrelay import setting_types, telemetry
from tokenrelay.engine.v1 import engine_service_pb2_grpc
from tokenrelay.http_endpoint import HttpEndpoint
from tokenrelay.metrics import CallMetrics, EngineMetrics, LoopMetrics, new_registry
from tokenrelay.serving import server, server_credentials
from tokenrelay.serving.certificates import Certificates
from tokenrelay.serving.chain import Chain
from tokenrelay.serving.peers import Peers
from tokenrelay.start_up import StartUpError

log = structlog.get_logger(__name__)

SERVICES = ("tokenrelay.engine.v1.EngineService",)
# A worker merges all that it starts into one message, and how much that is depends on other processes' settings. So the
# only bound is the 2 GiB that protobuf takes.
WORKER_MESSAGE_BYTES = (2**31 - 1) // setting_types.MESSAGE_LIMIT_FACTOR
DISMISS_SECONDS = 1.0  # for ending the sessions of workers whose generations did not end in time


class EngineDeadError(Exception):
    """The engine is dead for good; only a new process helps."""


class ServerEndedError(Exception):
    """The gRPC server has ended by itself, so that no worker can reach the engine; only a new process helps."""


class EngineApplication:
    """One engine service process."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._resources = AsyncExitStack()
        self._ready = False
        self._is_draining = False
        self.port = settings.port

    async def start_up(self) -> None:
        settings = self._settings
        tracing = telemetry.set_up("tokenrelay-engine", f"{os.uname().nodename}:{settings.port}", settings)
        self._resources.callback(tracing.shut_down)
        # vLLM registers its own metrics in the default registry.
        registry = REGISTRY if settings.engine == "vllm" else new_registry()
        LoopMetrics(registry).watch()
        if settings.metrics_port is not None:
            endpoint = HttpEndpoint(settings.metrics_host, settings.metrics_port, registry, self._problem)
            self._resources.callback(endpoint.close)
        self._engine = _make(settings)
        progress = watchdog.Progress()
        engine_metrics = EngineMetrics(registry)
        self._servicer = EngineServicer(self._engine, settings.frames_in_flight, tracing, engine_metrics, progress)
        self._resources.callback(watchdog.start(progress, settings.hang_seconds).set)
        chain = Chain(tracing, CallMetrics(registry), settings)
        for_workers = settings.model_copy(update={"max_message_bytes": WORKER_MESSAGE_BYTES})
        names = [name.strip() for name in (settings.tls_client_names or "").split(",") if name.strip()]
        self._server = server.build(for_workers, SERVICES, *([Peers(names)] if names else []), chain)
        engine_service_pb2_grpc.add_EngineServiceServicer_to_server(self._servicer, self._server.server)
        self._server.set_serving(False)
        self._certificates = Certificates(settings) if settings.tls_certificate is not None else None
        credentials = server_credentials.of(self._certificates) if self._certificates is not None else None
        self.port = await self._server.listen(settings.host, settings.port, credentials)
        self._resources.push_async_callback(self._server.server.stop, None)
        log.info("listening", host=settings.host, port=self.port, engine=settings.engine, model=settings.served_name)
        await self._load()

    async def _load(self) -> None:
        """Loads the model and has it generate, before anybody is told that it serves."""
        self._resources.push_async_callback(self._engine.close)
        settings = self._settings
        try:
            description = await self._engine.start()
        except StartUpError:
            raise
        except Exception as error:
            log.exception("the engine does not start")
            raise StartUpError(f"the engine does not start: {type(error).__name__}: {error}") from error
        try:
            await asyncio.wait_for(warm_up(self._engine), settings.warm_up_seconds)
        except TimeoutError:
            limit = f"TOKENRELAY_WARM_UP_SECONDS, which is {settings.warm_up_seconds:g}"
            raise StartUpError(f"the engine generated nothing within {limit}") from None
        self._servicer.be_ready(description)
        self._ready = True
        self._server.set_serving(True)
        log.info("serving", model=description.model, engine=description.engine, fingerprint=description.fingerprint)

    def _problem(self) -> str | None:
        return None if self._ready else "the engine is not ready"

    async def run(self) -> None:
        """Ends with the engine or with the gRPC server, whichever is first.

        Raises:
            EngineDeadError: the engine died.
            ServerEndedError: the server ended, and nothing listens any more.
        """
        dead = asyncio.create_task(self._engine.wait_until_dead())
        ended = asyncio.create_task(self._server.run())
        watching = asyncio.create_task(self._certificates.watch()) if self._certificates is not None else None
        try:
            await asyncio.wait({dead, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            begun = [task for task in (dead, ended, watching) if task is not None]
            for task in begun:
                task.cancel()
            await asyncio.gather(*begun, return_exceptions=True)
        self._ready = False
        self._server.set_serving(False)
        if dead.done() and not dead.cancelled():
            raise EngineDeadError(dead.result())
        if self._is_draining:
            return  # drain has stopped it, and this may hear of it before it is cancelled
        raise ServerEndedError("the gRPC server ended by itself") from (None if ended.cancelled() else ended.exception())

    async def drain(self) -> None:
        """Refuses new generations and lets the open ones end."""
        self._ready = False
        self._is_draining = True
        self._server.set_serving(False)
        try:
            await asyncio.wait_for(self._servicer.drain(), self._settings.drain_seconds)
        except TimeoutError:
            log.warning("stopping with open generations; their worker takes them elsewhere")
        # In either case sessions end in good order, before the server stops: a worker whose session breaks counts a death.
        self._servicer.dismiss()
        await self._server.server.stop(DISMISS_SECONDS)

    async def stop(self) -> None:
        await self._resources.aclose()


def _make(settings: EngineSettings) -> Engine:
    if settings.engine == "simulated":
        return SimulatedEngine(settings)
    # Imported only when it is wanted: it takes seconds, and a machine for simulations need not have it.
    engine: Engine = import_module("engine_service.engines.vllm.engine").VllmEngine(settings)
    return engine
