"""Drives one engine session: starts claimed generations, appends frames from the engine to their logs, and finishes them."""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from broker_worker.endings import FAILED, Endings
from broker_worker.engine_link import EngineSession
from broker_worker.execution import Execution, State, emitted_so_far
from broker_worker.reports import Reports
from broker_worker.roster import Roster
from tokenrelay.clock import PeerClock
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import (
    DataLossError,
    EngineDiedError,
    GenerationAbortedError,
    InternalError,
    StoreUnavailableError,
    TokenrelayError,
    UnavailableError,
)
from tokenrelay.metrics import WorkerMetrics
from tokenrelay.status import from_status
from tokenrelay.store.log import TokenLog
from tokenrelay.store.protocols import WorkerStore
from tokenrelay.store.redis.errors import UnexpectedReplyError
from tokenrelay.store.values import Append, Claim, Finish, Outcome

log = structlog.get_logger(__name__)


@dataclass
class Frame:
    """What a frame from the engine asks for: tokens to append, generations to finish, generations that the engine gave back."""

    appending: list[Execution] = field(default_factory=list)
    appends: list[Append] = field(default_factory=list)  # of the executions above, in their order
    finishes: list[tuple[Execution, Finish]] = field(default_factory=list)
    given_back: list[Execution] = field(default_factory=list)


class SessionDriver:
    """What one worker does with one session of its engine.

    Args:
        worker_id: named in dead letters.
        model: the engine, as it describes itself.
        on_capacity: called whenever slots become free.
        on_refusal: called when the engine service takes no new generations, because it stops.
    """

    def __init__(
        self,
        *,
        worker_id: str,
        model: engine_service_pb2.DescribeEngineResponse,
        session: EngineSession,
        store: WorkerStore,
        token_log: TokenLog,
        reports: Reports,
        metrics: WorkerMetrics,
        on_capacity: Callable[[], None],
        on_refusal: Callable[[], None],
    ) -> None:
        self.model = model
        self._session = session
        self._store = store
        self._token_log = token_log
        self._reports = reports
        self._metrics = metrics
        self._on_refusal = on_refusal
        self._keys = itertools.count(1)
        self._engine_clock = PeerClock()
        # Two writers at a time would each believe to know where a log stands, and Redis would refuse one of them.
        self._writing = asyncio.Lock()
        self.roster = Roster(metrics, on_capacity)
        self.endings = Endings(
            worker_id=worker_id,
            model=model,
            session=session,
            roster=self.roster,
            store=store,
            reports=reports,
            metrics=metrics,
            writing=self._writing,
        )

    # Start.

    def take_up(self, claim: Claim) -> Execution:
        """Takes a claimed generation into this worker's hands; from now on its lease is renewed."""
        record = claim.record
        stale = self.roster.by_id(record.generation_id)
        if stale is not None:
            # This worker was paused for longer than its lease, and is faster in claiming than in noticing its loss.
            self.endings.lose(stale, "this worker has claimed it again")
        span, context = self._reports.begin(record)
        execution = Execution(
            key=next(self._keys),
            fence=claim.fence,
            record=record,
            span=span,
            context=context,
            last=record.last,
            slots=max(self.model.slots, record.job.n) if record.is_suspect else record.job.n,
            began_alone=len(self.roster) == 0,
            texts={} if self._reports.log_content else None,
        )
        self.roster.add(execution)
        self._metrics.consumed.inc()
        if record.epoch > 1:
            self._metrics.takeovers.inc()
        if record.deadline_ms is not None:
            left_ns = self._store.clock.to_ours(record.deadline_ms * 1_000_000) - time.monotonic_ns()
            loop = asyncio.get_running_loop()
            execution.deadline = loop.call_later(max(0.0, left_ns / 1e9), self.endings.expire, execution)
        log.debug("generation claimed", generation_id=record.generation_id, attempt=record.epoch, sequence=record.last)
        return execution

    async def start(self, execution: Execution) -> None:
        """Has the engine start a generation, or continue it where its log stands. What cannot go on ends with the reason.

        Raises:
            StoreUnavailableError: Redis stayed away for longer than the patience.
        """
        record = execution.record
        try:
            emitted = emitted_so_far(await self._token_log.read_whole(record.generation_id), record.last) if record.last else []
        except UnexpectedReplyError:
            # It is a kind of StoreUnavailableError, but it will come again: something else than a log is where the log was.
            log.exception("a token log cannot be read", generation_id=record.generation_id)
            self.endings.end_early(execution, FAILED, DataLossError("the generation cannot go on: its log cannot be read"))
            return
        except StoreUnavailableError:
            raise
        except TokenrelayError as error:
            self.endings.end_early(execution, FAILED, error)
            return
        except Exception:
            # One broken log is one generation's matter; raised, it would end the session for all others, again and again.
            log.exception("a token log cannot be read", generation_id=record.generation_id)
            self.endings.end_early(execution, FAILED, InternalError.logged_as(record.generation_id))
            return
        if self.endings.is_ending(execution):
            return  # cancelled, expired or lost while its log was read; the engine would get it after its cancel
        if record.last and record.fingerprint != self.model.fingerprint and not _is_complete(record.job.n, emitted):
            aborted = GenerationAbortedError(
                "the worker was lost after the first token, and the engine that took over is not like the one before"
            )
            self.endings.end_early(execution, FAILED, aborted)
            return
        execution.dispatch()
        self._session.start(execution.start_command(emitted))
        log.debug(
            "generation started in the engine", generation_id=record.generation_id, key=execution.key, emitted=record.last
        )

    # Frames.

    async def relay(self) -> None:
        """Appends frames to the logs as they come, until the session breaks.

        Raises:
            EngineLostError: the session broke.
            StoreUnavailableError: Redis stayed away for longer than the patience.
        """
        async for frame in self._session.frames():
            self._engine_clock.observe(None, frame.sent_at_ns, time.monotonic_ns())
            await self._write(frame)
            # Only now: a frame that is acknowledged is forgotten by the engine service, so it must be durable.
            self._session.acknowledge(frame.frame)

    async def _write(self, received: engine_service_pb2.RunSessionResponse) -> None:
        async with self._writing:
            # Sorted under the lock: before it, a generation might still end, and its log's end would not be known.
            frame = self._sort(received)
            started = time.monotonic()
            written = await self._store.write(frame.appends, [finish for _, finish in frame.finishes])
            self._measure(frame, time.monotonic() - started)
            for execution, outcome in zip(frame.appending, written.appended, strict=True):
                # Asked here, since it is the answer for nearly every token.
                if outcome is not Outcome.OK or execution.state is not State.PROVEN:
                    self._judge_append(execution, outcome, written.at_us)
            for (execution, finish), outcome in zip(frame.finishes, written.finished, strict=True):
                self.endings.judge(execution, finish, outcome, written.at_us)
        if frame.given_back:
            # After the lock, which a requeue takes itself.
            self._on_refusal()
            await self.endings.requeue(frame.given_back, "the engine service gave it back")

    def _sort(self, received: engine_service_pb2.RunSessionResponse) -> Frame:
        frame, by_key = Frame(), self.roster.by_key
        going_on = received.continuations
        for key, token_count, delta in zip(going_on.keys, going_on.token_counts, going_on.deltas, strict=True):
            execution = by_key(key)
            if execution is not None:  # else it was cancelled meanwhile
                frame.appending.append(execution)
                frame.appends.append(execution.append(delta, token_count))
        for output in received.outputs:
            execution = by_key(output.key)
            if execution is None:
                continue
            if output.token_count:
                end = output.end if output.HasField("end") else None
                frame.appending.append(execution)
                frame.appends.append(execution.append(output.delta, output.token_count, output.index, end))
            self._sort_outcome(execution, output, frame)
        return frame

    def _sort_outcome(self, execution: Execution, output: engine_service_pb2.Output, frame: Frame) -> None:
        """Sorts in what an output says of a generation's end, if it is the last one."""
        store_clock = self._store.clock
        kind = output.WhichOneof("outcome")
        if kind == "summary":
            frame.finishes.append((execution, execution.good_finish(output.summary, self._engine_clock, store_clock)))
        elif kind == "error":
            error = from_status(output.error)
            if isinstance(error, UnavailableError):
                if isinstance(error, EngineDiedError):
                    execution.strike()
                frame.given_back.append(execution)
            else:
                frame.finishes.append((execution, execution.bad_finish(FAILED, error, store_clock)))

    def _measure(self, frame: Frame, seconds: float) -> None:
        tokens = sum([append.after - append.before for append in frame.appends])
        self._metrics.append.observe(seconds)
        self._metrics.frame_tokens.observe(tokens)
        self._metrics.tokens.inc(tokens)

    def _judge_append(self, execution: Execution, outcome: Outcome, at_us: int) -> None:
        if execution.is_over:
            return
        if outcome in (Outcome.FENCED, Outcome.GAP):
            self.endings.lose(execution, f"append: {outcome}")
            return
        if self.roster.prove(execution, at_us):
            log.debug("first tokens appended", generation_id=execution.generation_id, sequence=execution.last)
        if outcome is Outcome.CANCEL:
            self.endings.cancel(execution)


def _is_complete(choices: int, emitted: Sequence[engine_service_pb2.EmittedChoice]) -> bool:
    """Tells whether only the terminal record is missing, which any engine may write."""
    return len(emitted) == choices and all(choice.HasField("end") for choice in emitted)
