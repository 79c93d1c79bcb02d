"""Every way in which a generation leaves this worker's hands: finished, ended early, lost to another worker, requeued.

Whatever writes holds one lock, which frames are appended under, too. So a cancel or a deadline finds the log where this
worker thinks that it is.
"""

import asyncio
from collections.abc import Sequence

import structlog

from broker_worker import engine_death
from broker_worker.engine_link import EngineSession
from broker_worker.execution import Execution, State
from broker_worker.reports import Reports
from broker_worker.roster import Roster
from tokenrelay.backoff import Backoff
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import (
    GenerationCancelledError,
    GenerationExpiredError,
    StoreUnavailableError,
    TokenrelayError,
)
from tokenrelay.metrics import WorkerMetrics
from tokenrelay.store.protocols import WorkerStore
from tokenrelay.store.redis.errors import UnexpectedReplyError
from tokenrelay.store.values import Finish, Outcome
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)

CANCELLED, EXPIRED = generation_pb2.GENERATION_STATE_CANCELLED, generation_pb2.GENERATION_STATE_EXPIRED
FAILED = generation_pb2.GENERATION_STATE_FAILED
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 2.0  # seconds between tries to end a generation


class Endings:
    """Ends the executions of one engine session.

    Args:
        worker_id: named in dead letters.
        model: the engine, as it describes itself.
        writing: held by whoever appends to logs or ends generations.
    """

    def __init__(
        self,
        *,
        worker_id: str,
        model: engine_service_pb2.DescribeEngineResponse,
        session: EngineSession,
        roster: Roster,
        store: WorkerStore,
        reports: Reports,
        metrics: WorkerMetrics,
        writing: asyncio.Lock,
    ) -> None:
        self._worker_id = worker_id
        self._model = model
        self._session = session
        self._roster = roster
        self._store = store
        self._reports = reports
        self._metrics = metrics
        self._writing = writing
        self._early: dict[Execution, asyncio.Task[None]] = {}

    # Ends that have been written, or are another worker's to write.

    def judge(self, execution: Execution, finish: Finish, outcome: Outcome, at_us: int) -> None:
        """Takes what Redis says of a terminal record that was to be written at an instant."""
        if execution.is_over:
            return
        if outcome is Outcome.OK:
            self._roster.remove(execution)
            self._reports.ended(execution, finish.terminal, at_us)
        else:
            self.lose(execution, f"finish: {outcome}")

    def lose(self, execution: Execution, why: str) -> None:
        """Stops the engine's work on a generation and writes nothing, because another worker owns it."""
        if execution.is_over:
            return
        self._session.cancel(execution.key)
        self._metrics.fenced.inc()
        self._roster.remove(execution)
        self._reports.lost(execution, why)

    async def lose_if_fenced(self, execution: Execution) -> None:
        """Loses a generation whose lease could not be renewed, unless it was only being finished at that moment."""
        # A finish that is on its way makes the fence invalid, too. It holds the lock, so after it we know which it was.
        async with self._writing:
            if execution.is_over:
                return
            (outcome,) = await self._store.renew([(execution.generation_id, execution.fence)])
            if outcome is Outcome.FENCED:
                self.lose(execution, "renew: FENCED")

    # Early ends: somebody cancels, time is over, or the generation cannot go on.

    def cancel(self, execution: Execution) -> None:
        """Ends a generation that its client does not want any more."""
        self.end_early(execution, CANCELLED, GenerationCancelledError("the generation was cancelled"))

    def expire(self, execution: Execution) -> None:
        """Ends a generation whose deadline has passed."""
        error = GenerationExpiredError("the call's deadline or time_limit passed before the generation was finished")
        self.end_early(execution, EXPIRED, error)

    def end_early(self, execution: Execution, state: generation_pb2.GenerationState.ValueType, error: TokenrelayError) -> None:
        """Stops the engine's work on a generation, and sees to it that its terminal record gets written."""
        # Each renewal says again that a generation is to be cancelled; a second task would only wait behind the first one.
        if self.is_ending(execution):
            return
        log.debug(
            "generation is ended early",
            generation_id=execution.generation_id,
            state=generation_pb2.GenerationState.Name(state).removeprefix("GENERATION_STATE_"),
        )
        self._session.cancel(execution.key)
        task = asyncio.create_task(self._write_early_end(execution, state, error))
        self._early[execution] = task
        task.add_done_callback(lambda _: self._early.pop(execution, None))

    def is_ending(self, execution: Execution) -> bool:
        """Tells whether an execution is over, or will be as soon as that is written."""
        return execution.is_over or execution in self._early

    async def _write_early_end(
        self, execution: Execution, state: generation_pb2.GenerationState.ValueType, error: TokenrelayError
    ) -> None:
        """Tries until the terminal record is written or the execution is over."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                async with self._writing:
                    if execution.is_over:
                        return
                    finish = execution.bad_finish(state, error, self._store.clock)
                    written = await self._store.write([], [finish])
                    self.judge(execution, finish, written.finished[0], written.at_us)
            except UnexpectedReplyError:
                # It is a kind of StoreUnavailableError, but to try again would mend nothing.
                self._give_up(execution)
            except StoreUnavailableError:
                # The engine has stopped working on it, so nothing else would ever end it: its lease is renewed for ever.
                log.warning("redis is away; an early end is tried again", generation_id=execution.generation_id)
            except Exception:
                self._give_up(execution)
            else:
                return
            await asyncio.sleep(backoff.next_delay())

    def _give_up(self, execution: Execution) -> None:
        """Leaves a generation to its lease."""
        # To keep it would renew the lease for ever. Without it, the generation expires or another worker takes it over.
        log.exception("a generation could not be ended; its lease runs out", generation_id=execution.generation_id)
        self.lose(execution, "it could not be ended here")

    # Handing over: back to the front of the queue, for another worker or this one later.

    async def requeue(self, executions: Sequence[Execution], why: str) -> None:
        """Gives generations back; one that its engine died of repeatedly becomes a dead letter instead.

        While Redis is away nothing can be given back. The leases run out then.
        """
        # Not before a frame that is being written is in the log: the next attempt goes on from there.
        async with self._writing:
            open_ones = engine_death.likeliest_first(one for one in executions if not one.is_over)
            if not open_ones:
                return
            clock = self._store.clock
            # Before they are let go, because that forgets whether the engine died with them.
            requeues = [engine_death.requeue(one, self._model, self._worker_id, clock) for one in open_ones]
            for execution in open_ones:
                self._session.cancel(execution.key)
                self._roster.remove(execution)
            try:
                outcomes = await self._store.requeue(self._model.model, requeues)
            except TokenrelayError as error:
                log.warning(
                    "generations could not be requeued; their leases run out", generations=len(requeues), reason=str(error)
                )
                outcomes = [Outcome.FENCED] * len(requeues)
            for execution, one, outcome in zip(open_ones, requeues, outcomes, strict=True):
                log.debug("generation requeued", generation_id=execution.generation_id, outcome=outcome, why=why)
                if outcome is Outcome.DEAD and one.terminal is not None:
                    self._reports.set_aside(execution, one.terminal, clock.now() // 1000)
                else:
                    self._reports.lost(execution, why)

    async def requeue_all(self, why: str) -> None:
        """Gives everything back."""
        await self.requeue(self._roster.executions, why)

    async def requeue_innocent(self, why: str) -> bool:
        """Gives back what cannot have crashed the engine; returns whether something else is left."""
        suspected = (State.DISPATCHED, State.STRICKEN)
        await self.requeue([one for one in self._roster.executions if one.state not in suspected], why)
        return len(self._roster) > 0

    def note_engine_death(self) -> None:
        """Notes that the engine is known to have died with what is left."""
        for execution in self._roster.executions:
            execution.strike()

    def close(self) -> None:
        """Gives up early ends that are still tried, because the session is over and what is left was requeued."""
        for task in self._early.values():
            task.cancel()
