"""What a stream knows of itself, so that it can go on after a lost connection; pure, shared by both clients."""

import hashlib
import math
import random
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from google.rpc import code_pb2

from tokenrelay.backoff import Backoff
from tokenrelay.errors import (
    DataLossError,
    GenerationExpiredError,
    HandshakeError,
    InvalidRequestError,
    MessageTooLargeError,
    TokenrelayError,
    UnavailableError,
)
from tokenrelay.v1 import generation_pb2

LONGEST_TIMEOUT = 315_576_000.0  # seconds, ten years: gRPC counts deadlines in 64 bits of nanoseconds


@dataclass(frozen=True)
class RetryPolicy:
    """How long and how often the library tries again by itself.

    Tried again is what a lost connection, a gateway that is away or a full queue refused. When a gateway says how long to
    wait (google.rpc.RetryInfo), the library waits at least so long.

    Attributes:
        first_delay: seconds before the first retry; doubled each time, with jitter.
        longest_delay: seconds at most, unless a gateway asks for more.
        give_up_after: seconds without any progress. A wait that would last longer is not begun: the error is raised.
        on_wait: called with the error and the seconds before each wait, to show what is waited for.
    """

    first_delay: float = 0.05
    longest_delay: float = 2.0
    give_up_after: float = 60.0
    on_wait: Callable[[TokenrelayError, float], None] | None = None


@dataclass(frozen=True)
class Deadline:
    """When a generation must have ended, on our monotonic clock; None for never."""

    at: float | None

    @classmethod
    def after(cls, seconds: float | None) -> "Deadline":
        """Returns the deadline in so many seconds; zero and less have passed at once.

        Raises:
            InvalidRequestError: it is no number of seconds, or more than ten years.
            TypeError: it is no number at all.
        """
        if seconds is None:
            return cls(None)
        if not isinstance(seconds, int | float):
            raise TypeError(f"timeout: must be a number of seconds or None, is {type(seconds).__name__}")
        if not seconds <= LONGEST_TIMEOUT:  # also true of nan
            raise InvalidRequestError.of_field(
                "timeout", f"is {seconds:g} seconds; must be at most {LONGEST_TIMEOUT:.0f}, or None for no limit"
            )
        return cls(time.monotonic() + seconds)

    def left(self) -> float | None:
        """Returns how many seconds are left.

        Raises:
            GenerationExpiredError: none are.
        """
        if self.at is None:
            return None
        left = self.at - time.monotonic()
        if left <= 0:
            raise GenerationExpiredError("the timeout has passed")
        return left

    @property
    def passed(self) -> bool:
        """Whether it has passed."""
        return self.at is not None and time.monotonic() >= self.at


class Retries:
    """When to try again, and when to stop.

    Args:
        policy: how patient to be.
        deadline: no wait goes past it.
        gateways: how many there are; where TLS fails with one, each other is tried once.
    """

    def __init__(self, policy: RetryPolicy, deadline: Deadline | None = None, gateways: int = 1) -> None:
        self._policy = policy
        self._deadline = deadline or Deadline(None)
        self._backoff = Backoff(policy.first_delay, policy.longest_delay)
        self._failing_since: float | None = None
        self._gateways = gateways
        self._refusals = 0

    def progressed(self) -> None:
        """Starts again with the first delay and all of the patience."""
        self._refusals = 0
        if self._failing_since is not None:
            self._failing_since = None
            self._backoff.reset()

    def delay_after(self, error: TokenrelayError) -> float:
        """Returns for how many seconds to wait before the next try.

        Raises:
            TokenrelayError: the error itself, if a retry makes no sense or the patience is over.
        """
        if isinstance(error, HandshakeError):
            return self._delay_after_refusal(error)
        now = time.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        patience_left = self._failing_since + self._policy.give_up_after - now
        if not _is_passing(error) or patience_left < 0:
            raise error
        delay = self._backoff.next_delay()
        if error.retry_after is not None and error.retry_after > delay:
            # Spread out, since everybody who was refused at this moment was given the same number.
            delay = error.retry_after * random.uniform(1.0, 1.1)  # noqa: S311  # jitter, no secret
            if error.retry_after > min(patience_left, self._seconds_left(now)):
                raise error
        delay = min(delay, max(0.0, self._seconds_left(now)))
        if self._policy.on_wait is not None:
            self._policy.on_wait(error, delay)
        return delay

    def _delay_after_refusal(self, error: HandshakeError) -> float:
        self._refusals += 1
        if self._refusals >= self._gateways:
            raise error
        if self._policy.on_wait is not None:
            self._policy.on_wait(error, 0.0)
        return 0.0

    def _seconds_left(self, now: float) -> float:
        return math.inf if self._deadline.at is None else self._deadline.at - now


def _is_passing(error: TokenrelayError) -> bool:
    """Tells whether the same request may succeed later.

    RESOURCE_EXHAUSTED has two meanings: a queue or a store that is full for now comes with RetryInfo, a message that is
    too large for ever comes without.
    """
    if isinstance(error, UnavailableError):
        return True
    return (
        error.code == code_pb2.RESOURCE_EXHAUSTED
        and error.retry_after is not None
        and not isinstance(error, MessageTooLargeError)
    )


@dataclass
class Position:
    """Where a stream stands, and what it has seen.

    Attributes:
        sequence: the last one seen; the stream is resumed after it.
        complete: whether all tokens from the first on were seen, so that the digest can be checked.
    """

    generation_id: str = ""
    sequence: int = 0
    complete: bool = True
    finished: generation_pb2.Finished | None = None
    _token_ids: dict[int, list[int]] = field(default_factory=dict)

    def take(self, event: generation_pb2.GenerationEvent) -> generation_pb2.Delta | None:
        """Takes an event; returns its delta if it is one that was not seen before.

        Raises:
            DataLossError: a token is missing, or the digest does not fit.
        """
        kind = event.WhichOneof("event")
        if kind == "accepted":
            self.generation_id = event.accepted.generation_id
        elif kind == "finished":
            self._finish(event)
        elif kind == "delta" and event.sequence > self.sequence:
            return self._take_delta(event)
        return None

    def check_end(self) -> None:
        """Raises UnavailableError if a stream has ended without an error and without its last event."""
        if self.finished is None:
            raise UnavailableError("the stream broke off")

    def _take_delta(self, event: generation_pb2.GenerationEvent) -> generation_pb2.Delta:
        begins_after = event.sequence - len(event.delta.token_ids)
        if begins_after != self.sequence:
            raise DataLossError(f"the stream goes on after sequence {begins_after}, but {self.sequence} was the last one seen")
        self.sequence = event.sequence
        self._token_ids.setdefault(event.delta.index, []).extend(event.delta.token_ids)
        return event.delta

    def _finish(self, event: generation_pb2.GenerationEvent) -> None:
        if event.sequence != self.sequence:
            raise DataLossError(f"the stream ended at sequence {event.sequence}, but {self.sequence} was the last one seen")
        count = len(event.finished.choices)
        if self.complete and event.finished.digest != digest(self._token_ids.get(index, []) for index in range(count)):
            raise DataLossError("the tokens that were received do not fit the generation's digest")
        self.finished = event.finished


def digest(choices: Iterable[list[int]]) -> bytes:
    """Returns SHA-256 over each choice's token count and ids as little-endian uint32; see Finished.digest."""
    sha = hashlib.sha256()
    for ids in choices:
        sha.update(struct.pack(f"<{len(ids) + 1}I", len(ids), *ids))
    return sha.digest()
