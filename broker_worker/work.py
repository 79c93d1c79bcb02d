"""The worker's work: one engine session after the other, until it is drained.

A session lasts from the engine service's being ready until it breaks. Whatever ends it, what this worker has is requeued or
left to its leases, and the next session begins: no error of one generation, of Redis or of the engine ends the process.
"""

import asyncio
import time
from contextlib import suppress

import structlog

from broker_worker.announcer import Announcer
from broker_worker.endings import Endings
from broker_worker.engine_link import EngineLink, EngineLostError
from broker_worker.intake import Intake
from broker_worker.lease_renewal import LeaseRenewal
from broker_worker.peers import Peers
from broker_worker.recovery import Recovery
from broker_worker.reports import Reports
from broker_worker.revisit import Revisit
from broker_worker.session_driver import SessionDriver
from broker_worker.settings import WorkerSettings
from tokenrelay.backoff import Backoff
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import StoreFullError, StoreUnavailableError
from tokenrelay.metrics import WorkerMetrics
from tokenrelay.store import keys
from tokenrelay.store.assembly import Store
from tokenrelay.store.worker_directory import WorkerDirectory

log = structlog.get_logger(__name__)

RENEWALS_PER_LEASE = 5
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds before the next session after one that failed
VERDICT_SECONDS = 2.0  # at most, and half a lease, to find out whether a lost engine has died
SESSION_OVER = "the session with the engine service is over"


class Work:
    """What this process is there for.

    Attributes:
        driver: drives the session; None between sessions.
        intake: feeds it; None between sessions.
    """

    def __init__(
        self,
        *,
        settings: WorkerSettings,
        worker_id: str,
        store: Store,
        directory: WorkerDirectory,
        link: EngineLink,
        reports: Reports,
        metrics: WorkerMetrics,
    ) -> None:
        self._settings = settings
        self._worker_id = worker_id
        self._store = store
        self._directory = directory
        self._link = link
        self._reports = reports
        self._metrics = metrics
        self._draining = False
        self._drain_begun = asyncio.Event()
        self._finished = asyncio.Event()
        self.driver: SessionDriver | None = None
        self.intake: Intake | None = None

    def problem(self) -> str | None:
        """Returns why this worker takes no generations; None if it does."""
        if self._draining:
            return "draining"
        return None if self.driver is not None else "no session with the engine service"

    def owned(self) -> list[tuple[str, str]]:
        """Returns the ids of all generations here, each with its fence. May be called from another thread."""
        driver = self.driver  # read once: the event loop may set it to None at any moment
        return [] if driver is None else driver.roster.owned()

    async def run(self) -> None:
        """Works until drained or cancelled."""
        this_task = asyncio.current_task()
        assert this_task is not None
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        try:
            # A task group that fails while its task is cancelled raises the failure and keeps quiet about the cancel.
            while not self._draining and not this_task.cancelling():
                model = await self._link.wait_until_serving()
                started = time.monotonic()
                await self._try_session(model)
                if time.monotonic() - started > LONGEST_PAUSE:
                    backoff.reset()
                # An engine service or a Redis that breaks each session at once would be kept busy by nothing else.
                await self._pause(backoff.next_delay())
        finally:
            self._finished.set()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._drain_begun.wait()

    async def _try_session(self, model: engine_service_pb2.DescribeEngineResponse) -> None:
        """Works one session and says what ended it."""
        try:
            await self._store.queue.prepare(model.model)
            await self._work_session(model)
        except* EngineLostError as group:
            log.error("the engine service is lost", reason=str(group.exceptions[0]))  # noqa: TRY400
        except* StoreFullError:
            log.error("redis is out of memory, and this model has no queue yet")  # noqa: TRY400
        except* StoreUnavailableError:
            log.error("redis stayed away; its work is given up and goes on when its leases have run out")  # noqa: TRY400
        except* Exception:
            # Something is wrong with one generation's data, or with us. To end the process would help nobody: what it owned
            # was requeued, and a new process would meet the same.
            log.exception("the session failed; its work was requeued")

    async def _work_session(self, model: engine_service_pb2.DescribeEngineResponse) -> None:
        """Works with one engine session until it breaks, or until drained."""
        peers = Peers(self._directory, model.model)
        intake = Intake(
            worker_id=self._worker_id,
            store=self._store.attempts,
            queue=self._store.queue,
            prefetch=self._settings.prefetch,
            metrics=self._metrics,
            peers=peers,
            is_serving=self._link.is_serving,
        )
        self._metrics.slots.set(model.slots)
        async with self._link.session() as session:
            driver = SessionDriver(
                worker_id=self._worker_id,
                model=model,
                session=session,
                store=self._store.attempts,
                token_log=self._store.log,
                reports=self._reports,
                metrics=self._metrics,
                on_capacity=intake.on_capacity,
                on_refusal=intake.on_refusal,
            )
            announcer = Announcer(
                worker_id=self._worker_id,
                directory=self._directory,
                model=model,
                roster=driver.roster,
                is_draining=lambda: self._draining,
            )
            self.driver, self.intake = driver, intake
            self._metrics.engine_up.set(1)
            log.info("at work", model=model.model, engine=model.engine, slots=model.slots)
            try:
                await self._run_together(driver, intake, announcer, peers)
            except* EngineLostError as group:
                if not _ended_in_order(group):
                    # Shielded, as below: a process that is being stopped still says what its engine died of.
                    await asyncio.shield(self._look_for_the_cause(driver))
                raise
            finally:
                self.driver = self.intake = None
                self._metrics.engine_up.set(0)
                # Shielded: what is not requeued now waits for its leases to run out.
                await asyncio.shield(self._leave(driver.endings, announcer))

    async def _look_for_the_cause(self, driver: SessionDriver) -> None:
        """Requeues what cannot be the cause, then asks whether the engine has died: that counts against the others."""
        if await driver.endings.requeue_innocent(SESSION_OVER):
            patience = min(VERDICT_SECONDS, self._settings.lease_seconds / 2)
            if await self._link.has_died(driver.model.instance, patience):
                driver.endings.note_engine_death()

    async def _run_together(self, driver: SessionDriver, intake: Intake, announcer: Announcer, peers: Peers) -> None:
        """Runs all that a session consists of; returns when this worker is drained."""
        renewal = LeaseRenewal(
            store=self._store.attempts,
            connection=self._store.connection,
            roster=driver.roster,
            endings=driver.endings,
            interval=self._settings.lease_seconds / RENEWALS_PER_LEASE,
        )
        recovery = Recovery(
            worker_id=self._worker_id,
            queue=self._store.queue,
            directory=self._directory,
            fingerprint=driver.model.fingerprint,
            knows=lambda name: driver.roster.by_id(name) is not None or intake.read_ahead.knows(name),
            has_room=lambda: (
                not self._draining and intake.read_ahead.wants_more and driver.roster.used_slots < driver.model.slots
            ),
            is_idle=lambda: intake.read_ahead.is_idle and len(driver.roster) == 0,
            adopt=intake.read_ahead.adopt,
        )
        revisit = Revisit(queue=self._store.queue, model=driver.model.model, peers=peers, read_ahead=intake.read_ahead)
        # Before the first claim: without it, a generation with another engine's tokens would be taken for nobody's.
        await peers.refresh()
        await recovery.adopt_at_first(driver.model.model)
        async with asyncio.TaskGroup() as tasks:
            helpers = [
                tasks.create_task(work)
                for work in (
                    driver.relay(),
                    renewal.run(),
                    renewal.listen(keys.worker_channel(self._worker_id)),
                    announcer.run(),
                    peers.run(),
                    revisit.run(),
                    recovery.run(driver.model.model),
                )
            ]
            await tasks.create_task(intake.run(driver))
            # The intake ends only when this worker is drained.
            await self._finish_what_runs(driver)
            for helper in helpers:
                helper.cancel()

    async def _finish_what_runs(self, driver: SessionDriver) -> None:
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                await driver.roster.wait_until_idle()
        except TimeoutError:
            await driver.endings.requeue_all("this worker stops")

    async def _leave(self, endings: Endings, announcer: Announcer) -> None:
        await endings.requeue_all(SESSION_OVER)
        endings.close()
        await announcer.leave()

    async def drain(self) -> None:
        """Requeues what is unstarted, lets what runs end, and hands over what does not end in time."""
        self._draining = True
        self._drain_begun.set()
        if self.intake is not None:
            self.intake.close()
            await self._finished.wait()


def _ended_in_order(group: ExceptionGroup[EngineLostError]) -> bool:
    return all(isinstance(error, EngineLostError) and error.in_order for error in group.exceptions)
