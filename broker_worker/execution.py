"""One generation in this worker's hands: where its log stands, and what is written of it."""

import time
from asyncio import TimerHandle
from collections.abc import Sequence
from dataclasses import dataclass, field

from opentelemetry.trace import Span

from tokenrelay.clock import PeerClock
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import TokenrelayError
from tokenrelay.status import to_status
from tokenrelay.store.records import Record
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import Append, Finish, LogItem
from tokenrelay.v1 import generation_pb2


@dataclass(eq=False)
class Execution:
    """A claimed generation.

    Attributes:
        key: the number that the engine session knows it by.
        fence: what lets this worker write, and no other.
        last: the log's last sequence, as far as this worker has written it.
        slots: how many of the engine's slots it takes: a suspect all of them, until it has given a token.
        alone: whether nothing else ran when it began.
        dispatched_ns: when it was sent to the engine, on our monotonic clock.
        first_logged_us: when its first token was durably in the log, on Redis' clock, if this attempt wrote it.
        appended: whether this attempt has written to the log.
        engine_died: whether the engine is known to have died while it was there.
        over: whether it is out of this worker's hands.
        texts: what this attempt has put out, by index, if that may be told; else None.
    """

    key: int
    fence: str
    record: Record
    span: Span
    last: int
    slots: int
    alone: bool = False
    dispatched_ns: int = 0
    first_logged_us: int = 0
    appended: bool = False
    engine_died: bool = False
    over: bool = False
    deadline: TimerHandle | None = field(default=None)
    texts: dict[int, str] | None = None

    @property
    def generation_id(self) -> str:
        return self.record.generation_id

    @property
    def is_unproven(self) -> bool:
        """Whether the engine has it, and this attempt has given no token: if the engine died, it may be the cause."""
        return bool(self.dispatched_ns) and not self.appended

    def start_command(
        self, emitted: Sequence[engine_service_pb2.EmittedChoice], traceparent: str
    ) -> engine_service_pb2.StartGeneration:
        """Returns what the engine is told to begin."""
        self.dispatched_ns = time.monotonic_ns()
        return engine_service_pb2.StartGeneration(
            key=self.key,
            generation_id=self.generation_id,
            spec=self.record.spec,
            emitted=emitted,
            traceparent=traceparent,
        )

    def addition(self, output: engine_service_pb2.Output) -> Append:
        """Returns the log entry of an output, and moves on."""
        entry = store_pb2.LogEntry(
            delta=output.delta, token_count=output.token_count, index=output.index, epoch=self.record.epoch
        )
        if output.HasField("end"):
            entry.end.CopyFrom(output.end)
        if self.texts is not None:
            text = generation_pb2.Delta.FromString(output.delta).text
            self.texts[output.index] = self.texts.get(output.index, "") + text
        before, self.last = self.last, self.last + output.token_count
        return Append(self.generation_id, self.fence, before, self.last, entry.SerializeToString())

    def note_logged(self, at_us: int) -> None:
        """Notes when something was durably in the log. Others may join it in the engine from then on."""
        self.appended = True
        self.slots = self.record.job.n
        if not self.first_logged_us and self.record.first_us is None:
            self.first_logged_us = at_us

    def good_ending(self, summary: engine_service_pb2.EngineSummary, engine: PeerClock, store: PeerClock) -> Finish:
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
        return Finish(self.generation_id, self.fence, self.last, terminal)

    def bad_ending(self, state: generation_pb2.GenerationState.ValueType, error: TokenrelayError, store: PeerClock) -> Finish:
        """Returns the end of a generation that did not go well."""
        terminal = store_pb2.Terminal(
            state=state, error=to_status(error), timeline=self._timeline(store), trace_id=self.record.job.trace_id
        )
        return Finish(self.generation_id, self.fence, self.last, terminal)

    def _timeline(self, store: PeerClock) -> store_pb2.Timeline:
        timeline = self.record.timeline()
        if self.dispatched_ns:
            timeline.dispatched_us = store.to_peer(self.dispatched_ns) // 1000
        if self.first_logged_us:
            timeline.first_logged_us = self.first_logged_us
        return timeline


def emitted_so_far(items: Sequence[LogItem]) -> list[engine_service_pb2.EmittedChoice]:
    """Returns what earlier attempts have emitted, by index, read from the log."""
    choices: dict[int, engine_service_pb2.EmittedChoice] = {}
    for item in items:
        if item.entry is None:
            continue
        choice = choices.setdefault(item.entry.index, engine_service_pb2.EmittedChoice(index=item.entry.index))
        delta = generation_pb2.Delta.FromString(item.entry.delta)
        choice.token_ids.extend(delta.token_ids)
        choice.text_length += len(delta.text)
        if item.entry.HasField("end"):
            choice.end.CopyFrom(item.entry.end)
    return [choices[index] for index in sorted(choices)]
