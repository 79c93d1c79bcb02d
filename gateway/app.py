"""The gateway's composition root, and its life: start up, run, drain, stop."""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Protocol

import grpc
import structlog
from prometheus_client import CollectorRegistry

from gateway import memory
from gateway.core import authentication
from gateway.core.admission import Admission
from gateway.core.bounds import Limits
from gateway.core.core import Core
from gateway.core.directory import ModelDirectory
from gateway.core.readers import Readers
from gateway.core.reports import Reports
from gateway.grpc.authenticate import Authenticate
from gateway.grpc.generation_servicer import GenerationServicer
from gateway.grpc.model_servicer import ModelServicer
from gateway.settings import GatewaySettings
from tokenrelay import metrics, telemetry
from tokenrelay.errors import DrainingError
from tokenrelay.http_endpoint import HttpEndpoint
from tokenrelay.serving import server, server_credentials
from tokenrelay.serving.certificates import Certificates
from tokenrelay.serving.chain import Chain
from tokenrelay.store import assembly
from tokenrelay.store.feed import Feed
from tokenrelay.store.reaper import Reaper
from tokenrelay.store.redis_users import RedisUser
from tokenrelay.store.worker_directory import WorkerDirectory
from tokenrelay.v1 import generation_service_pb2_grpc, model_service_pb2_grpc

log = structlog.get_logger(__name__)

SERVICES = ("tokenrelay.v1.GenerationService", "tokenrelay.v1.ModelService")
HEALTH_INTERVAL = 0.5  # seconds
LOOK_INTERVAL = 0.05  # seconds between looks whether anybody still reads
LAST_WORDS_SECONDS = 1.0  # for streams to be told that this gateway is leaving


class Server(Protocol):
    """What takes the connections, with health and reflection already in it."""

    @property
    def server(self) -> Any:
        """What generated code adds servicers to."""

    async def listen(self, host: str, port: int, credentials: grpc.ServerCredentials | None = None) -> int:
        """Begins to serve, over TLS if there are credentials; returns the port."""

    async def run(self) -> None:
        """Returns, or raises, once it serves no longer."""

    async def stop(self, seconds: float | None) -> None:
        """Stops serving; open calls have so many seconds to end, none if that is None."""

    def set_serving(self, serving: bool) -> None:
        """Sets what health tells."""


BuildServer = Callable[[GatewaySettings, Sequence[str], Chain, Core], Server]


def build_grpc_alone(settings: GatewaySettings, services: Sequence[str], chain: Chain, _: Core) -> Server:
    """Returns gRPC's own server, which speaks no other protocol."""
    return server.build(settings, services, chain)


class GatewayApplication:
    """One gateway process.

    Args:
        settings: all that it can be told.
        build: makes the server; see gateway.edge.
        ends_tls: whether that server speaks TLS itself, if the settings ask for it; Envoy does it in front of ours.
    """

    def __init__(self, settings: GatewaySettings, build: BuildServer = build_grpc_alone, *, ends_tls: bool = True) -> None:
        self._settings = settings
        self._build = build
        self._ends_tls = ends_tls
        self._gateway_id = settings.gateway_id or f"{os.uname().nodename}:{settings.port}:{os.getpid()}"
        self._resources = AsyncExitStack()
        self._draining = False
        self._readers: Readers | None = None
        self.port = settings.port

    async def start_up(self) -> None:
        settings = self._settings
        memory.give_back()
        metrics_registry = metrics.new_registry()
        metrics.LoopMetrics(metrics_registry).watch()
        tracing = telemetry.set_up("tokenrelay-gateway", self._gateway_id, settings)
        self._resources.callback(tracing.shut_down)
        self._open_store(metrics_registry)
        self._open_metrics(metrics_registry)
        self._servicer = self._make_servicer(tracing)
        core = Core(directory=self._directory, authentication=self._authentication, problem=self._problem)
        chain = self._make_chain(tracing, metrics.CallMetrics(metrics_registry))
        self._server = self._build(settings, SERVICES, chain, core)
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(self._servicer, self._server.server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(self._directory), self._server.server)
        with_tls = settings.tls_certificate is not None
        self._certificates = Certificates(settings) if with_tls and self._ends_tls else None
        credentials = server_credentials.of(self._certificates) if self._certificates is not None else None
        self.port = await self._server.listen(settings.host, settings.port, credentials)
        self._resources.push_async_callback(self._server.stop, None)
        log.info(
            "listening",
            host=settings.host,
            port=self.port,
            gateway_id=self._gateway_id,
            tls=with_tls,
            client_certificates=settings.tls_client_ca is not None,
        )
        await self._wait_for_store()

    def _open_store(self, metrics_registry: CollectorRegistry) -> None:
        settings = self._settings
        self._metrics = metrics.GatewayMetrics(metrics_registry)
        self._store = assembly.open_store(settings, RedisUser.GATEWAY)
        self._resources.push_async_callback(self._store.connection.close)
        self._feed = Feed(
            connection=self._store.connection,
            store=self._store.generations,
            token_log=self._store.log,
            gateway=self._gateway_id,
            lease_ms=round(settings.watch_seconds * 1000),
        )
        self._metrics.followers.set_function(self._feed.__len__)
        self._directory = ModelDirectory(
            connection=self._store.connection,
            workers=WorkerDirectory(self._store.connection),
            queue=self._store.queue,
            metrics=self._metrics,
        )
        self._authentication = authentication.of(settings, self._store.connection)
        self._reaper = Reaper(self._store.scripts, self._store.limits, metrics.ReaperMetrics(metrics_registry))

    def _make_servicer(self, tracing: telemetry.Tracing) -> GenerationServicer:
        settings, clock = self._settings, self._store.connection.clock
        reports = Reports(clock=clock, tracing=tracing, metrics=self._metrics)
        self._readers = Readers(
            store=self._store.generations,
            shards=self._store.shards,
            feed=self._feed,
            reports=reports,
            patience=settings.call_patience_seconds,
        )
        admission = Admission(
            directory=self._directory,
            clock=clock,
            limits=Limits(
                max_choices=settings.max_choices,
                max_time_seconds=settings.max_time_seconds,
                max_structure_bytes=settings.max_structure_bytes,
                longest_token_characters=settings.longest_token_characters,
            ),
            shards=settings.shards,
            grace_ms=round(settings.disconnect_grace_seconds * 1000),
        )
        return GenerationServicer(
            admission=admission,
            readers=self._readers,
            reports=reports,
            store=self._store.generations,
            token_log=self._store.log,
            patience=settings.call_patience_seconds,
        )

    def _make_chain(self, tracing: telemetry.Tracing, call_metrics: metrics.CallMetrics) -> Chain:
        if self._authentication is None:
            return Chain(tracing, call_metrics, self._settings)
        return Chain(tracing, call_metrics, self._settings, Authenticate(self._authentication, call_metrics))

    def _open_metrics(self, metrics_registry: CollectorRegistry) -> None:
        settings = self._settings
        if settings.metrics_port is not None:
            endpoint = HttpEndpoint(settings.metrics_host, settings.metrics_port, metrics_registry, self._problem)
            self._resources.callback(endpoint.close)

    def _problem(self) -> str | None:
        if self._draining:
            return "draining"
        return None if self._directory.store_answers else "redis does not answer"

    async def _wait_for_store(self) -> None:
        await self._store.connection.wait_until_ready()
        await self._directory.refresh()
        self._server.set_serving(self._directory.store_answers)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for work in (self._feed.run, self._directory.run, self._reaper.run, self._report_health, self._server.run):
                tasks.create_task(work())
            if self._authentication is not None:
                tasks.create_task(self._authentication.run())
            if self._certificates is not None:
                tasks.create_task(self._certificates.watch())

    async def _report_health(self) -> None:
        while True:
            self._server.set_serving(self._directory.store_answers and not self._draining)
            await asyncio.sleep(HEALTH_INTERVAL)

    async def drain(self) -> None:
        """Refuses new calls, lets open ones end, and tells those that do not to go to another gateway."""
        self._draining = True
        self._server.set_serving(False)
        # Whoever balances the load learns of that in its own time; until then calls still come here, and are served.
        await asyncio.sleep(self._settings.lame_duck_seconds)
        self._servicer.drain()
        # A gRPC server that stops drops calls that arrive at that moment. So it goes on listening as long as somebody reads,
        # and whoever calls is told to go elsewhere.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wait_until_nobody_reads(), self._settings.drain_seconds)
        if self._readers is not None:
            self._readers.leave()
        self._feed.fail_all(DrainingError("this gateway is stopping; attach through another one", retry_after=0.1))
        await self._server.stop(LAST_WORDS_SECONDS)

    async def _wait_until_nobody_reads(self) -> None:
        while len(self._feed):  # noqa: ASYNC110  # only while draining; an event would be kept for nothing else
            await asyncio.sleep(LOOK_INTERVAL)

    async def stop(self) -> None:
        if self._readers is not None:
            self._readers.leave()
        await self._resources.aclose()
