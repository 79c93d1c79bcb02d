"""What a drill's users write down, and what is counted of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from drills.history import History
from tokenrelay.errors import TokenrelayError
from tokenrelay.v1 import generation_pb2 as g


@dataclass(frozen=True)
class Wish:
    """What a user wants generated."""

    prompt: str
    sampling: dict[str, Any]


Wishes = Callable[[Random, int], Wish]
"""Makes up what the user of a call wants, from chance and the call's number."""


@dataclass
class Notebook:
    """Writes events of calls into the history.

    Attributes:
        tokens: how many have come,
        finished: how many streams ended well,
        failed: what users were told otherwise, as `REASON: text`.
    """

    history: History
    tokens: int = 0
    finished: int = 0
    failed: list[str] = field(default_factory=list)

    def call(self, call: int, client: str, method: str, wish: Wish) -> str:
        """Notes that a user is about to call; returns the idempotency key to call with."""
        key = f"drill-{call}"
        self.history.note(
            "call",
            call=call,
            client=client,
            method=method,
            prompt=wish.prompt,
            max_tokens=wish.sampling["max_tokens"],
            key=key,
        )
        return key

    def attach(self, call: int, client: str, generation_id: str, after: int) -> None:
        """Notes that a user is about to join a generation."""
        self.history.note("call", call=call, client=client, method="AttachGeneration", id=generation_id, after=after)

    def accepted(self, call: int, generation_id: str) -> None:
        self.history.note("accepted", call=call, id=generation_id)

    def left(self, call: int, generation_id: str, why: str) -> None:
        """Notes that a user has gone: `left`, or after a cancel `cancelled`."""
        self.history.note("left", call=call, id=generation_id, why=why)

    def delta(self, call: int, generation_id: str, sequence: int, delta: g.Delta) -> None:
        self.tokens += len(delta.token_ids)
        self.history.note(
            "delta", call=call, id=generation_id, sequence=sequence, tokens=list(delta.token_ids), text=delta.text
        )

    def ended(self, call: int, generation_id: str, sequence: int, finished: g.Finished) -> None:
        self.finished += 1
        self.history.note(
            "finished",
            call=call,
            id=generation_id,
            sequence=sequence,
            digest=finished.digest.hex(),
            attempts=finished.attempts,
            exact=finished.exact,
        )

    def was_told(self, call: int, generation_id: str | None, error: TokenrelayError) -> None:
        self.failed.append(f"{error.reason}: {error.message}")
        self.history.note(
            "failed", call=call, id=generation_id or None, code=error.code, reason=error.reason, message=error.message
        )
