"""What goes into the store and what comes out of it, as typed values."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import structlog

from tokenrelay.identity.quotas import Allowance, TokensLeft
from tokenrelay.store.records import Record
from tokenrelay.store.v1 import store_pb2
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)


class Outcome(StrEnum):
    """What a script says of one generation.

    OK: done. CANCEL: done, and it is to be cancelled. EXPIRED: its deadline has passed, and its owner is to end it.
    FENCED: the caller does not own it. GAP: its log does not stand where the caller thinks. DEAD: it became a dead letter.
    """

    OK = "OK"
    CANCEL = "CANCEL"
    EXPIRED = "EXPIRED"
    FENCED = "FENCED"
    GAP = "GAP"
    DEAD = "DEAD"


OUTCOMES = {outcome.encode(): outcome for outcome in Outcome}
DAMAGED = b"DAMAGED"  # what a script replies of a generation whose record or log is not as we write them


def outcome_of(reply: bytes, generation_id: str) -> Outcome:
    """Returns what a script's reply means. A damaged generation is nobody's: its owner lets go of it."""
    if reply == DAMAGED:
        log.error("a generation's data in redis are damaged", generation_id=generation_id)
        return Outcome.FENCED
    return OUTCOMES[reply]


@dataclass(frozen=True)
class StoreLimits:
    """How long and how much is kept.

    Attributes:
        retention_ms: how long records and logs stay after their end.
        lease_ms: how long an owner may go without renewing.
        queued_generations: how many may wait for one model in one shard.
        queued_bytes: how many bytes of prompts these may have.
        accept_below: share of maxmemory above which nothing is accepted.
        drop_above: share of maxmemory above which the oldest finished generations go early.
        keep_ms: how long they stay after their end even then, for readers that are behind.
    """

    retention_ms: int = 3_600_000
    lease_ms: int = 5_000
    queued_generations: int = 10_000
    queued_bytes: int = 256 * 1024 * 1024
    accept_below: float = 0.9
    drop_above: float = 0.8
    keep_ms: int = 10_000


@dataclass(frozen=True)
class Submission:
    """A generation to be accepted. Durations in milliseconds, None for no limit. A suspect runs alone until its first token.

    Attributes:
        allowance: what its tenant and its key may use; None without a tenant.
    """

    generation_id: str
    job: store_pb2.Job
    spec: bytes
    request_hash: str
    idempotency_key: str
    queue_timeout_ms: int | None
    time_limit_ms: int | None
    policy: generation_pb2.DisconnectPolicy.ValueType
    grace_ms: int
    suspect: bool = False
    allowance: Allowance | None = None


class Accepted(NamedTuple):
    """Which generation a submission became. It was not created if its idempotency key stood for it already.

    Attributes:
        tokens_left: None if no such limit was looked at.
    """

    generation_id: str
    created: bool
    tokens_left: TokensLeft | None = None


class QueueEntry(NamedTuple):
    """A waiting generation that was read from a queue, how many choices it wants, and how many engines died on it in a row."""

    generation_id: str
    queue: str
    entry: str
    choices: int
    engine_deaths: int = 0

    @property
    def is_suspect(self) -> bool:
        """Whether it is to run alone."""
        return self.engine_deaths > 0


class Claim(NamedTuple):
    """A generation that the caller owns now."""

    fence: str
    epoch: int
    record: Record


class Elsewhere(NamedTuple):
    """A generation that another worker is to claim, since its tokens come from an engine like that one's."""

    fingerprint: str


class Append(NamedTuple):
    """A log entry to append; its fields are the arguments that append.lua names.

    Attributes:
        before, after: the log's sequences before and after it.
        feed: what readers get, one of the entries of a serialized FeedFrame, which ends with the LogEntry.
        size: of the LogEntry, in bytes.
    """

    generation_id: str
    fence: str
    before: int
    after: int
    feed: bytes
    size: int


class Finish(NamedTuple):
    """A generation to end."""

    generation_id: str
    fence: str
    last: int
    terminal: store_pb2.Terminal


class Requeue(NamedTuple):
    """An owned generation to give up.

    Attributes:
        engine_died: whether its engine died while it was there; that counts unless this attempt gave a token.
        terminal: ends it unless that was the first time; for one that ran alone.
        letter: what is kept of it then.
    """

    generation_id: str
    fence: str
    engine_died: bool = False
    terminal: store_pb2.Terminal | None = None
    letter: store_pb2.DeadLetter | None = None


class WriteResults(NamedTuple):
    """What became of appends and of finishes, each in its order, and when: microseconds of Redis' clock."""

    appended: list[Outcome]
    finished: list[Outcome]
    at_us: int


class ReaderLease(NamedTuple):
    """Where a generation stands on which a gateway has a reader lease.

    Attributes:
        last: the last sequence in its log.
        ended_here: whether its last reader's leaving has just ended it.
        is_damaged: whether its data are damaged, so that nobody can go on with it and the rest here says nothing.
    """

    state: generation_pb2.GenerationState.ValueType
    last: int
    ended_here: int
    is_damaged: bool = False

    @property
    def is_over(self) -> bool:
        return self.state > generation_pb2.GENERATION_STATE_RUNNING


class LogItem(NamedTuple):
    """One entry of a token log: new tokens, or the terminal record and its instant in microseconds of Redis' clock."""

    sequence: int
    entry: store_pb2.LogEntry | None
    terminal: store_pb2.Terminal | None = None
    finished_us: int = 0


class Reaped(NamedTuple):
    """What one pass of reap did."""

    looked_at: int
    taken_over: int
    expired: int
    cancelled: int
    dropped_early: int


class Depth(NamedTuple):
    """How much waits for a model."""

    generations: int
    bytes: int
