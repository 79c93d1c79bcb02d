"""One claimed generation: how far it has come, where its log stands, and what this worker writes to the log."""

import time
from asyncio import TimerHandle
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from google.protobuf.message import DecodeError
from opentelemetry.context import Context
from opentelemetry.trace import Span

from tokenrelay import telemetry
from tokenrelay.clock import PeerClock
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import DataLossError, TokenrelayError
from tokenrelay.status import to_status
from tokenrelay.store.entries import EntryWriter
from tokenrelay.store.records import Record
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import Append, Finish, LogItem
from tokenrelay.v1 import generation_pb2


class State(Enum):
    """How far an execution has come.

        CLAIMED ──► DISPATCHED ──► PROVEN ──► OVER
                        │            ▲          ▲
                        └──► STRICKEN ──────────┘

    Every state may go to OVER. What is STRICKEN becomes PROVEN if its first tokens were on their way when its engine died.
    """

    CLAIMED = auto()  # this worker owns it, and the engine does not have it yet
    DISPATCHED = auto()  # the engine has it, and this attempt has appended nothing
    PROVEN = auto()  # this attempt has appended tokens, so it is not what an engine crashes on
    STRICKEN = auto()  # the engine died while it was there, before this attempt appended anything
    OVER = auto()  # it has left this worker's hands; nothing may be written for it any more


@dataclass(eq=False)
class Execution:
    """A claimed generation.

    Executions are compared by identity: a worker may claim a generation again while it still has an outdated execution of it.

    Attributes:
        key: the number that the engine session knows it by.
        fence: what lets this worker write, and no other.
        span, context: the attempt's span, and the trace context of what is done for it.
        last: the log's last sequence, as far as this worker has written it.
        slots: how many of the engine's slots it takes: a suspect all of them, until it is proven.
        began_alone: whether nothing else ran when it began.
        state: changed by the methods below only.
        dispatched_ns: when it was sent to the engine, on our monotonic clock; None before.
        first_logged_us: when the generation's first token was durably in the log, on Redis' clock; None unless this attempt
            wrote it.
        deadline: the timer that ends it; None if it has no deadline.
        texts: what this attempt has put out, by index, if prompts and outputs may be logged; else None.
        entries: writes this attempt's log entries.
    """

    key: int
    fence: str
    record: Record
    span: Span
    context: Context
    last: int
    slots: int
    began_alone: bool = False
    state: State = State.CLAIMED
    dispatched_ns: int | None = None
    first_logged_us: int | None = None
    deadline: TimerHandle | None = field(default=None)
    texts: dict[int, str] | None = None
    entries: EntryWriter = field(init=False)

    def __post_init__(self) -> None:
        self.entries = EntryWriter(self.record.generation_id, self.record.epoch)

    @property
    def generation_id(self) -> str:
        return self.record.generation_id

    @property
    def is_over(self) -> bool:
        return self.state is State.OVER

    def dispatch(self) -> None:
        """CLAIMED to DISPATCHED: the engine is about to get it."""
        assert self.state is State.CLAIMED
        self.state = State.DISPATCHED
        self.dispatched_ns = time.monotonic_ns()

    def prove(self, at_us: int) -> bool:
        """DISPATCHED or STRICKEN to PROVEN: tokens became durable at an instant. Returns whether they are the first."""
        if self.state not in (State.DISPATCHED, State.STRICKEN):
            return False
        self.state = State.PROVEN
        self.slots = self.record.job.n  # others may join it in the engine from now on
        if self.record.first_us is None:
            self.first_logged_us = at_us
        return True

    def strike(self) -> None:
        """DISPATCHED to STRICKEN: its engine died. That does not count against what was not there, or has given tokens."""
        if self.state is State.DISPATCHED:
            self.state = State.STRICKEN

    def let_go(self) -> None:
        """To OVER, and its deadline does not matter any more."""
        self.state = State.OVER
        if self.deadline is not None:
            self.deadline.cancel()

    def start_command(self, emitted: Sequence[engine_service_pb2.EmittedChoice]) -> engine_service_pb2.StartGeneration:
        """Returns the command that starts the generation, or continues it after what earlier attempts have emitted."""
        return engine_service_pb2.StartGeneration(
            key=self.key,
            generation_id=self.generation_id,
            spec=self.record.spec,
            emitted=emitted,
            traceparent=telemetry.traceparent_of(self.context),
        )

    def append(self, delta: bytes, token_count: int, index: int = 0, end: generation_pb2.ChoiceEnd | None = None) -> Append:
        """Returns what appends tokens of a choice to the log, and moves on.

        Args:
            delta: a serialized Delta.
            token_count: how many tokens it has.
            index: of which choice.
            end: how the choice ended, if it did with these tokens.
        """
        if self.texts is not None:
            self.texts[index] = self.texts.get(index, "") + generation_pb2.Delta.FromString(delta).text
        before, self.last = self.last, self.last + token_count
        feed, size = self.entries.feed_entry(delta, token_count, self.last, index, end)
        return Append(self.record.generation_id, self.fence, before, self.last, feed, size)

    def good_finish(self, summary: engine_service_pb2.EngineSummary, engine: PeerClock, store: PeerClock) -> Finish:
        """Returns the end of a generation that went well."""
        terminal = store_pb2.Terminal(
            state=generation_pb2.GENERATION_STATE_FINISHED,
            choices=summary.choices,
            usage=summary.usage,
            digest=summary.digest,
            exact=summary.exact,
            timeline=self._timeline(store),
            trace_id=self.record.job.trace_id,
        )
        times, timeline = summary.times, terminal.timeline
        for ours, theirs in (
            ("queued_us", times.queued_ns),
            ("scheduled_us", times.scheduled_ns),
            ("first_token_us", times.first_token_ns),
            ("last_token_us", times.last_token_ns),
        ):
            if theirs:
                setattr(timeline, ours, store.to_peer(engine.to_ours(theirs)) // 1000)
        return Finish(generation_id=self.generation_id, fence=self.fence, last=self.last, terminal=terminal)

    def bad_finish(self, state: generation_pb2.GenerationState.ValueType, error: TokenrelayError, store: PeerClock) -> Finish:
        """Returns the end of a generation that did not go well."""
        terminal = store_pb2.Terminal(
            state=state, error=to_status(error), timeline=self._timeline(store), trace_id=self.record.job.trace_id
        )
        return Finish(generation_id=self.generation_id, fence=self.fence, last=self.last, terminal=terminal)

    def _timeline(self, store: PeerClock) -> store_pb2.Timeline:
        timeline = self.record.timeline()
        if self.dispatched_ns is not None:
            timeline.dispatched_us = store.to_peer(self.dispatched_ns) // 1000
        if self.first_logged_us is not None:
            timeline.first_logged_us = self.first_logged_us
        return timeline


def emitted_so_far(items: Sequence[LogItem], last: int) -> list[engine_service_pb2.EmittedChoice]:
    """Returns what earlier attempts have emitted, by index, read from the log.

    Args:
        items: the whole log.
        last: the sequence at which the generation's record says that the log stands.

    Raises:
        DataLossError: the log does not lead from 0 to last without a gap. To start anew would repeat what readers have seen.
    """
    choices: dict[int, engine_service_pb2.EmittedChoice] = {}
    position = 0
    for item in items:
        if item.entry is None:
            continue
        position += item.entry.token_count
        if item.sequence != position:
            raise _log_damaged(last)
        choice = choices.setdefault(item.entry.index, engine_service_pb2.EmittedChoice(index=item.entry.index))
        try:
            delta = generation_pb2.Delta.FromString(item.entry.delta)
        except DecodeError as error:
            raise _log_damaged(last) from error
        choice.token_ids.extend(delta.token_ids)
        choice.text_length += len(delta.text)
        if item.entry.HasField("end"):
            choice.end.CopyFrom(item.entry.end)
    if position != last:
        raise _log_damaged(last)
    return [choices[index] for index in sorted(choices)]


def _log_damaged(last: int) -> DataLossError:
    return DataLossError(f"the generation cannot go on: it had emitted {last} tokens, and its log does not hold all of them")
