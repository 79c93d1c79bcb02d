"""What a stream knows of itself, so that it can go on after a lost connection; pure, shared by both clients."""

import hashlib
import random
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tokenrelay.errors import DataLossError, GenerationExpiredError, TokenrelayError, UnavailableError
from tokenrelay.v1 import generation_pb2


@dataclass(frozen=True)
class RetryPolicy:
    """How long and how often the library tries again by itself.

    Attributes:
        first_delay: seconds before the first retry; doubled each time, with jitter.
        longest_delay: seconds at most.
        give_up_after: seconds without any progress.
        on_wait: told of the error and the seconds before each wait, to show what is waited for.
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
        return cls(None if seconds is None else time.monotonic() + seconds)

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


@dataclass
class Backoff:
    """When to try again, and when to stop."""

    policy: RetryPolicy
    _tries: int = 0
    _failing_since: float | None = None

    def progressed(self) -> None:
        """Starts anew."""
        self._tries, self._failing_since = 0, None

    def delay_after(self, error: TokenrelayError) -> float:
        """Returns for how many seconds to wait before the next try.

        Raises:
            TokenrelayError: the error itself, if a retry makes no sense or the patience is over.
        """
        now = time.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        # Only an unavailable server is worth a retry: every other error would come again.
        if not isinstance(error, UnavailableError) or now - self._failing_since > self.policy.give_up_after:
            raise error
        delay: float = min(self.policy.longest_delay, self.policy.first_delay * 2**self._tries)
        delay *= random.uniform(0.5, 1.0)  # noqa: S311  # jitter, no secret
        self._tries += 1
        if self.policy.on_wait is not None:
            self.policy.on_wait(error, delay)
        return delay


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
