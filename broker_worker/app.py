"""The broker worker's composition root, and its life: start up, run, drain, stop."""

import asyncio
import os
import secrets
from contextlib import AsyncExitStack

import structlog

from broker_worker.engine_link import EngineLink, EngineLostError
from broker_worker.intake import Intake
from broker_worker.lease_keeper import LeaseKeeper
from broker_worker.recovery import Recovery
from broker_worker.reports import Reports
from broker_worker.session_driver import SessionDriver
from broker_worker.settings import WorkerSettings
from tokenrelay import metrics, telemetry
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import StoreFullError, StoreUnavailableError
from tokenrelay.http_endpoint import HttpEndpoint
from tokenrelay.store import assembly, keys
from tokenrelay.store.reaper import Reaper
from tokenrelay.store.redis.thread_connection import ThreadConnection
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.worker_directory import ANNOUNCE_INTERVAL, WorkerDirectory
from tokenrelay.v1 import model_service_pb2

log = structlog.get_logger(__name__)

RENEWALS_PER_LEASE = 5
STORE_FULL_PAUSE = 1.0  # seconds
VERDICT_SECONDS = 2.0  # at most, and half a lease, to find out whether a lost engine has died
SESSION_OVER = "the session with the engine service is over"


class WorkerApplication:
    """One broker worker process."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._worker_id = settings.worker_id or f"{os.uname().nodename}:{os.getpid()}:{secrets.token_hex(3)}"
        self._renewal_interval = settings.lease_seconds / RENEWALS_PER_LEASE
        self._resources = AsyncExitStack()
        self._shift: SessionDriver | None = None
        self._intake: Intake | None = None
        self._working: asyncio.Task[None] | None = None
        self._draining = False

    async def start_up(self) -> None:
        settings = self._settings
        registry = metrics.new_registry()
        metrics.LoopMetrics(registry).watch()
        self._metrics = metrics.WorkerMetrics(registry)
        tracing = telemetry.set_up("tokenrelay-worker", self._worker_id, settings)
        self._resources.callback(tracing.shut_down)
        if settings.metrics_port is not None:
            endpoint = HttpEndpoint(settings.metrics_host, settings.metrics_port, registry, self._problem)
            self._resources.callback(endpoint.close)
        self._reports = Reports(self._worker_id, tracing, self._metrics, log_content=settings.log_content)
        self._store = assembly.open_store(settings)
        self._resources.push_async_callback(self._store.connection.close)
        self._registry = WorkerDirectory(self._store.connection)
        self._keeper = LeaseKeeper(
            self._store.attempts,
            ThreadConnection(settings.redis_url),
            self._owned,
            self._renewal_interval,
            settings.loop_hung_seconds,
        )
        self._keeper.start()
        self._resources.callback(self._keeper.close)
        self._reaper = Reaper(self._store.scripts, self._store.limits, metrics.ReaperMetrics(registry))
        self._link = EngineLink(settings.engine_address, settings.engine_keepalive_seconds)
        self._resources.push_async_callback(self._link.close)
        log.info("starting", worker_id=self._worker_id, engine=settings.engine_address)
        await self._store.connection.wait_until_ready()

    def _problem(self) -> str | None:
        if self._draining:
            return "draining"
        return None if self._shift is not None else "no session with the engine service"

    def _owned(self) -> list[tuple[str, str]]:
        shift = self._shift
        return [] if shift is None else shift.owned()

    async def run(self) -> None:
        """Reaps all the time, and works one shift after the other."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick())
            tasks.create_task(self._reaper.run())
            self._working = tasks.create_task(self._work())

    async def _tick(self) -> None:
        while True:
            self._keeper.tick()
            await asyncio.sleep(self._renewal_interval)

    async def _work(self) -> None:
        this_task = asyncio.current_task()
        assert this_task is not None
        # A task group that fails while its task is cancelled raises the failure and keeps quiet about the cancel.
        while not self._draining and not this_task.cancelling():
            model = await self._link.wait_until_serving()
            try:
                await self._store.queue.prepare(model.model)
                await self._work_shift(model)
            except* EngineLostError as group:
                log.error("the engine service is lost", reason=str(group.exceptions[0]))  # noqa: TRY400
            except* StoreFullError:
                log.error("redis is out of memory, and this model has no queue yet")  # noqa: TRY400
                await asyncio.sleep(STORE_FULL_PAUSE)
            except* StoreUnavailableError:
                log.error("redis stayed away; its work is given up and goes on when its leases have run out")  # noqa: TRY400

    async def _work_shift(self, model: engine_service_pb2.DescribeEngineResponse) -> None:
        """Works with one engine session until it breaks, or until drained."""
        intake = Intake(
            worker_id=self._worker_id,
            store=self._store.attempts,
            queue=self._store.queue,
            prefetch=self._settings.prefetch,
            metrics=self._metrics,
            is_serving=self._link.is_serving,
        )
        self._metrics.slots.set(model.slots)
        async with self._link.session() as session:
            shift = SessionDriver(
                worker_id=self._worker_id,
                model=model,
                session=session,
                store=self._store.attempts,
                token_log=self._store.log,
                reports=self._reports,
                metrics=self._metrics,
                on_room=intake.changed,
                on_refusal=intake.refused,
            )
            self._shift, self._intake = shift, intake
            self._metrics.engine_up.set(1)
            log.info("at work", model=model.model, engine=model.engine, slots=model.slots)
            try:
                await self._run_together(shift, intake)
            except* EngineLostError as group:
                if not _ended_in_order(group):
                    await asyncio.shield(self._look_for_the_cause(shift))
                raise
            finally:
                self._shift = self._intake = None
                self._metrics.engine_up.set(0)
                await asyncio.shield(self._leave(shift))

    async def _look_for_the_cause(self, shift: SessionDriver) -> None:
        """Hands back what has given tokens, then asks whether the engine has died: that counts against the others."""
        if await shift.hand_back_proven(SESSION_OVER):
            patience = min(VERDICT_SECONDS, self._settings.lease_seconds / 2)
            if await self._link.has_died(shift.model.instance, patience):
                shift.note_engine_death()

    async def _run_together(self, shift: SessionDriver, intake: Intake) -> None:
        def has_room() -> bool:
            return intake.wants_more and shift.used_slots < shift.model.slots

        def is_idle() -> bool:
            return intake.is_idle and not shift.running

        def knows(generation_id: str) -> bool:
            return shift.owns(generation_id) or intake.knows(generation_id)

        recovery = Recovery(self._worker_id, self._store.queue, self._registry, knows, has_room, is_idle, intake.adopt)
        await recovery.adopt_at_first(shift.model.model)
        async with asyncio.TaskGroup() as tasks:
            helpers = [
                tasks.create_task(work)
                for work in (
                    shift.relay(),
                    self._renew(shift),
                    self._listen(shift),
                    self._announce(shift),
                    intake.look_after_suspects(),
                    recovery.run(shift.model.model),
                )
            ]
            await tasks.create_task(intake.run(shift))
            # The intake ends only when this worker is drained.
            await self._finish_what_runs(shift)
            for helper in helpers:
                helper.cancel()

    async def _finish_what_runs(self, shift: SessionDriver) -> None:
        try:
            await asyncio.wait_for(shift.wait_until_idle(), self._settings.drain_seconds)
        except TimeoutError:
            await shift.hand_back_all("this worker stops")

    async def _leave(self, shift: SessionDriver) -> None:
        await shift.hand_back_all(SESSION_OVER)
        try:
            await self._registry.leave(self._worker_id, shift.model.model)
        except StoreUnavailableError:
            log.warning("redis is away; this worker is forgotten after a while")

    async def _renew(self, shift: SessionDriver) -> None:
        while True:
            await asyncio.sleep(self._renewal_interval)
            await shift.renew()

    async def _listen(self, shift: SessionDriver) -> None:
        """Renews at once what this worker is told to look at."""
        async for messages in self._store.connection.subscribe(keys.worker_channel(self._worker_id)):
            await shift.renew(None if messages is None else [message.decode() for message in messages])

    async def _announce(self, shift: SessionDriver) -> None:
        while True:
            try:
                await self._registry.announce(self._announcement(shift))
            except StoreUnavailableError:
                log.warning("redis is away; this worker cannot announce itself")
            await asyncio.sleep(ANNOUNCE_INTERVAL)

    def _announcement(self, shift: SessionDriver) -> store_pb2.WorkerAnnouncement:
        description = shift.model
        model = model_service_pb2.Model(
            name=description.model,
            engine=description.engine,
            engine_version=description.engine_version,
            max_model_len=description.max_model_len,
            vocabulary_size=description.vocabulary_size,
            fingerprint=description.fingerprint,
            workers=1,
            slots=description.slots,
            running=min(shift.used_slots, description.slots),
        )
        return store_pb2.WorkerAnnouncement(worker_id=self._worker_id, model=model, draining=self._draining)

    async def drain(self) -> None:
        """Gives back what is unstarted, lets what runs end, and hands over what does not end in time."""
        self._draining = True
        if self._intake is not None:
            self._intake.close()
            if self._working is not None:
                await asyncio.wait({self._working})

    async def stop(self) -> None:
        await self._resources.aclose()


def _ended_in_order(group: ExceptionGroup[EngineLostError]) -> bool:
    return all(isinstance(error, EngineLostError) and error.in_order for error in group.exceptions)
