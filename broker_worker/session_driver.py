"""A shift: from an engine's being ready until it is gone. Begins claimed generations, relays their frames, ends them.

All writing to the logs goes through one lock, so that a cancel or a deadline finds the log where this worker thinks it is.
"""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

import structlog

from broker_worker import engine_death
from broker_worker.engine_link import EngineSession
from broker_worker.execution import Execution, emitted_so_far
from broker_worker.reports import Reports
from tokenrelay import telemetry
from tokenrelay.clock import PeerClock
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import (
    EngineDiedError,
    GenerationAbortedError,
    GenerationCancelledError,
    GenerationExpiredError,
    StoreUnavailableError,
    TokenrelayError,
    UnavailableError,
)
from tokenrelay.metrics import WorkerMetrics
from tokenrelay.status import from_status
from tokenrelay.store.log import TokenLog
from tokenrelay.store.protocols import WorkerStore
from tokenrelay.store.values import Append, Claim, Finish, Outcome
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)

CANCELLED, EXPIRED = generation_pb2.GENERATION_STATE_CANCELLED, generation_pb2.GENERATION_STATE_EXPIRED
FAILED = generation_pb2.GENERATION_STATE_FAILED


class SessionDriver:
    """What one worker does with one session of its engine.

    Args:
        on_room: called whenever slots become free.
        on_refusal: called when the engine service takes no new generations, since it stops.
    """

    def __init__(
        self,
        worker_id: str,
        model: engine_service_pb2.DescribeEngineResponse,
        session: EngineSession,
        store: WorkerStore,
        token_log: TokenLog,
        reports: Reports,
        metrics: WorkerMetrics,
        on_room: Callable[[], None],
        on_refusal: Callable[[], None],
    ) -> None:
        self._worker_id = worker_id
        self.model = model
        self._session = session
        self._store = store
        self._log = token_log
        self._reports = reports
        self._metrics = metrics
        self._on_room = on_room
        self._on_refusal = on_refusal
        self._keys = itertools.count(1)
        self._executions: dict[int, Execution] = {}
        self._by_id: dict[str, Execution] = {}
        self._engine_clock = PeerClock()
        self._writing = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def used_slots(self) -> int:
        return sum(execution.slots for execution in self._executions.values())

    @property
    def has_only_cleared(self) -> bool:
        """Whether all that runs here came as suspects and have given tokens since."""
        return all(execution.record.is_suspect and execution.appended for execution in self._executions.values())

    @property
    def running(self) -> int:
        return len(self._executions)

    def owns(self, generation_id: str) -> bool:
        return generation_id in self._by_id

    def owned(self) -> list[tuple[str, str]]:
        """Returns the ids of what is in this worker's hands, each with its fence. May be called from another thread."""
        executions = list(self._executions.values())  # in one step, as far as threads can see
        return [(execution.generation_id, execution.fence) for execution in executions]

    async def begin(self, claim: Claim) -> None:
        """Has the engine start a claimed generation, or continue it where its log stands."""
        record = claim.record
        span, context = self._reports.begin(record)
        slots = max(self.model.slots, record.job.n) if record.is_suspect else record.job.n
        execution = Execution(next(self._keys), claim.fence, record, span, record.last, slots, alone=not self._executions)
        if self._reports.log_content:
            execution.texts = {}
        self._take_up(execution)
        emitted = emitted_so_far(await self._log.read_whole(record.generation_id)) if record.last else []
        is_complete = len(emitted) == record.job.n and all(choice.HasField("end") for choice in emitted)
        if record.last and record.fingerprint != self.model.fingerprint and not is_complete:
            error = GenerationAbortedError(
                "the worker was lost after the first token, and the engine that took over is not like the one before"
            )
            await self._end_early(execution, FAILED, error)
            return
        if not execution.over:
            self._session.start(execution.start_command(emitted, telemetry.traceparent_of(context)))

    def _take_up(self, execution: Execution) -> None:
        record = execution.record
        self._executions[execution.key] = self._by_id[record.generation_id] = execution
        self._idle.clear()
        self._metrics.consumed.inc()
        self._metrics.running.set(self.running)
        if record.epoch > 1:
            self._metrics.takeovers.inc()
        if record.deadline_ms is not None:
            left = self._store.clock.to_ours(record.deadline_ms * 1_000_000) - time.monotonic_ns()
            loop = asyncio.get_running_loop()
            execution.deadline = loop.call_later(max(0.0, left / 1e9), self._expire, execution)

    def _let_go(self, execution: Execution) -> None:
        execution.over = True
        if execution.deadline is not None:
            execution.deadline.cancel()
        del self._executions[execution.key]
        del self._by_id[execution.generation_id]
        self._metrics.running.set(self.running)
        if not self._executions:
            self._idle.set()
        self._on_room()

    async def relay(self) -> None:
        """Writes frames to the logs as they come, until the session breaks.

        Raises:
            EngineLostError: the session broke.
            StoreUnavailableError: Redis stayed away for longer than the patience.
        """
        async for frame in self._session.frames():
            self._engine_clock.observe(None, frame.sent_at_ns, time.monotonic_ns())
            await self._write(frame.outputs)
            self._session.acknowledge(frame.frame)

    async def _write(self, outputs: Sequence[engine_service_pb2.Output]) -> None:
        async with self._writing:
            additions: list[tuple[Execution, Append]] = []
            endings: list[tuple[Execution, Finish]] = []
            handed_back: list[Execution] = []
            for output in outputs:
                execution = self._executions.get(output.key)
                if execution is None:
                    continue  # cancelled meanwhile
                if output.token_count:
                    additions.append((execution, execution.addition(output)))
                self._take_outcome(execution, output, endings, handed_back)
            started = time.monotonic()
            written = await self._store.write([addition for _, addition in additions], [ending for _, ending in endings])
            self._measure(additions, time.monotonic() - started)
            for (execution, _), outcome in zip(additions, written.appended, strict=True):
                self._judge_append(execution, outcome, written.at_us)
            for (execution, ending), outcome in zip(endings, written.finished, strict=True):
                self._judge_finish(execution, ending, outcome, written.at_us)
        if handed_back:
            self._on_refusal()
            await self.hand_back(handed_back, "the engine service gave it back")

    def _take_outcome(
        self,
        execution: Execution,
        output: engine_service_pb2.Output,
        endings: list[tuple[Execution, Finish]],
        handed_back: list[Execution],
    ) -> None:
        """Sorts out an output that is a generation's last."""
        store_clock = self._store.clock
        kind = output.WhichOneof("outcome")
        if kind == "summary":
            endings.append((execution, execution.good_ending(output.summary, self._engine_clock, store_clock)))
        elif kind == "error":
            error = from_status(output.error)
            if isinstance(error, UnavailableError):
                execution.engine_died = isinstance(error, EngineDiedError)
                handed_back.append(execution)
            else:
                endings.append((execution, execution.bad_ending(FAILED, error, store_clock)))

    def _measure(self, additions: Sequence[tuple[Execution, Append]], seconds: float) -> None:
        tokens = sum(addition.after - addition.before for _, addition in additions)
        self._metrics.append.observe(seconds)
        self._metrics.frame_tokens.observe(tokens)
        self._metrics.tokens.inc(tokens)

    def _judge_append(self, execution: Execution, outcome: Outcome, at_us: int) -> None:
        if execution.over:
            return
        match outcome:
            case Outcome.OK:
                self._note_logged(execution, at_us)
            case Outcome.CANCEL:
                self._note_logged(execution, at_us)
                self.cancel(execution)
            case Outcome.FENCED | Outcome.GAP:
                self._lose(execution, f"append: {outcome}")

    def _note_logged(self, execution: Execution, at_us: int) -> None:
        slots = execution.slots
        execution.note_logged(at_us)
        if execution.slots < slots:
            self._on_room()

    def _judge_finish(self, execution: Execution, ending: Finish, outcome: Outcome, at_us: int) -> None:
        if execution.over:
            return
        if outcome is Outcome.OK:
            self._let_go(execution)
            self._reports.ended(execution, ending.terminal, at_us)
        else:
            self._lose(execution, f"finish: {outcome}")

    def _lose(self, execution: Execution, why: str) -> None:
        """Another worker owns it: stop, and write nothing."""
        self._session.cancel(execution.key)
        self._metrics.fenced.inc()
        self._let_go(execution)
        self._reports.lost(execution, why)

    async def renew(self, ids: Sequence[str] | None = None) -> None:
        """Renews the leases on some generations, by default on all, and learns what is to be cancelled."""
        owned = [(name, fence) for name, fence in self.owned() if ids is None or name in ids]
        if not owned:
            return
        outcomes = await self._store.renew(owned)
        for (generation_id, fence), outcome in zip(owned, outcomes, strict=True):
            execution = self._by_id.get(generation_id)
            if execution is None or execution.fence != fence:
                continue
            if outcome is Outcome.CANCEL:
                self.cancel(execution)
            elif outcome is Outcome.FENCED:
                # Perhaps only because it is being finished at this moment; the lock tells.
                self._own(self._lose_if_still_fenced(execution))

    async def _lose_if_still_fenced(self, execution: Execution) -> None:
        async with self._writing:
            if execution.over:
                return
            (outcome,) = await self._store.renew([(execution.generation_id, execution.fence)])
            if outcome is Outcome.FENCED and not execution.over:
                self._lose(execution, "renew: FENCED")

    def cancel(self, execution: Execution) -> None:
        """Ends a generation that its client does not want any more."""
        self._own(self._end_early(execution, CANCELLED, GenerationCancelledError("the generation was cancelled")))

    def _expire(self, execution: Execution) -> None:
        error = GenerationExpiredError("the call's deadline or time_limit passed before the generation was finished")
        self._own(self._end_early(execution, EXPIRED, error))

    def _own(self, ending: "asyncio.coroutines.Coroutine[None, None, None]") -> None:  # type: ignore[name-defined]
        task = asyncio.ensure_future(ending)
        self._ending.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a generation could not be ended", exc_info=error)

    async def _end_early(
        self, execution: Execution, state: generation_pb2.GenerationState.ValueType, error: TokenrelayError
    ) -> None:
        """Stops the engine's work on a generation and writes its terminal record."""
        self._session.cancel(execution.key)
        async with self._writing:
            if execution.over:
                return
            ending = execution.bad_ending(state, error, self._store.clock)
            written = await self._store.write([], [ending])
            self._judge_finish(execution, ending, written.finished[0], written.at_us)

    async def hand_back(self, executions: Sequence[Execution], why: str) -> None:
        """Gives generations back to the front of the queue; another worker, or this one later, goes on with them."""
        async with self._writing:
            open_ones = engine_death.likeliest_first(one for one in executions if not one.over)
            if not open_ones:
                return
            for execution in open_ones:
                self._session.cancel(execution.key)
                self._let_go(execution)
            clock = self._store.clock
            given = [engine_death.hand_back(execution, self.model, self._worker_id, clock) for execution in open_ones]
            try:
                outcomes = await self._store.requeue(self.model.model, given)
            except StoreUnavailableError:
                log.warning("redis is away; the leases run out by themselves", generations=len(given))
                outcomes = [Outcome.FENCED] * len(given)
            for execution, one, outcome in zip(open_ones, given, outcomes, strict=True):
                if outcome is Outcome.DEAD and one.terminal is not None:
                    self._reports.set_aside(execution, one.terminal, clock.now() // 1000)
                else:
                    self._reports.lost(execution, why)

    async def hand_back_all(self, why: str) -> None:
        """Gives everything back."""
        await self.hand_back(list(self._executions.values()), why)

    async def hand_back_proven(self, why: str) -> bool:
        """Gives back what cannot have killed the engine; returns whether something else is left."""
        await self.hand_back([execution for execution in self._executions.values() if not execution.is_unproven], why)
        return bool(self._executions)

    def note_engine_death(self) -> None:
        """Notes that the engine is known to have died with what is left."""
        for execution in self._executions.values():
            execution.engine_died = True

    async def wait_until_idle(self) -> None:
        """Returns once nothing is in this worker's hands."""
        await self._idle.wait()
