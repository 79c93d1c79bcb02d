"""The broker worker's composition root, and its life: start up, run, drain, stop."""

import asyncio
import os
import secrets
from contextlib import AsyncExitStack

import structlog

from broker_worker.engine_link import EngineLink
from broker_worker.lease_keeper import LeaseKeeper
from broker_worker.reports import Reports
from broker_worker.settings import WorkerSettings
from broker_worker.work import RENEWALS_PER_LEASE, Work
from tokenrelay import metrics, telemetry
from tokenrelay.http_endpoint import HttpEndpoint
from tokenrelay.store import assembly
from tokenrelay.store.reaper import Reaper
from tokenrelay.store.redis.thread_connection import ThreadConnection
from tokenrelay.store.redis_users import RedisUser
from tokenrelay.store.worker_directory import WorkerDirectory

log = structlog.get_logger(__name__)


class WorkerApplication:
    """One broker worker process. It wires what the other modules do.

    Attributes:
        work: what this process is there for; from start_up on.
    """

    work: Work

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._worker_id = settings.worker_id or f"{os.uname().nodename}:{os.getpid()}:{secrets.token_hex(3)}"
        self._resources = AsyncExitStack()

    async def start_up(self) -> None:
        settings = self._settings
        metrics_registry = metrics.new_registry()
        metrics.LoopMetrics(metrics_registry).watch()
        self._metrics = metrics.WorkerMetrics(metrics_registry)
        tracing = telemetry.set_up("tokenrelay-worker", self._worker_id, settings)
        self._resources.callback(tracing.shut_down)
        self._store = assembly.open_store(settings, RedisUser.WORKER)
        self._resources.push_async_callback(self._store.connection.close)
        link = EngineLink(settings.engine_address, settings.engine_keepalive_seconds, settings.engine_tls)
        self._resources.push_async_callback(link.close)
        self.work = Work(
            settings=settings,
            worker_id=self._worker_id,
            store=self._store,
            directory=WorkerDirectory(self._store.connection),
            link=link,
            reports=Reports(self._worker_id, tracing, self._metrics, log_content=settings.log_content),
            metrics=self._metrics,
        )
        if settings.metrics_port is not None:
            endpoint = HttpEndpoint(settings.metrics_host, settings.metrics_port, metrics_registry, self.work.problem)
            self._resources.callback(endpoint.close)
        self._keeper = LeaseKeeper(
            store=self._store.attempts,
            connection=ThreadConnection(settings.redis_url, settings.redis_password_file),
            owned=self.work.owned,
            interval=settings.lease_seconds / RENEWALS_PER_LEASE,
            hung_after=settings.loop_hung_seconds,
        )
        self._keeper.start()
        self._resources.callback(self._keeper.close)
        self._reaper = Reaper(self._store.scripts, self._store.limits, metrics.ReaperMetrics(metrics_registry))
        log.info("starting", worker_id=self._worker_id, engine=settings.engine_address)
        await self._store.connection.wait_until_ready()

    async def run(self) -> None:
        """Reaps all the time, and works one engine session after the other."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keeper.tick_on())
            tasks.create_task(self._reaper.run())
            tasks.create_task(self.work.run())

    async def drain(self) -> None:
        """Requeues what is unstarted, lets what runs end, and hands over what does not end in time."""
        await self.work.drain()

    async def stop(self) -> None:
        await self._resources.aclose()
