"""Checks a history, and nothing else, for what must hold whatever is killed:

1. terminal: every accepted generation ends exactly once, and every user is told how.
2. contiguous: every reader gets every token after the place where it joined, once and in order.
3. agreement: all readers of a generation get the same, and what they get is what the log holds.
4. faithful: the log holds what an undisturbed engine would have said, token for token and byte for byte.
5. fenced: after a takeover nothing is written by an attempt before it.
6. durable: what a client has seen is on disk when Redis dies.
7. once: an idempotency key stands for one generation; a request that was refused left none.
8. idle: afterwards nothing waits, hangs or runs, and every key of a finished generation will expire.
9. isolated: no reader gets what was made for another one's prompt.

And it is no good sign if a process ended that nobody had killed, or if one left others behind.
"""

from collections.abc import Iterable

from drills.checker import ends, logs, streams
from drills.checker.sorted_history import History
from drills.checker.violation import Violation
from drills.history import Event

__all__ = ["History", "Violation", "check"]

MOST_OF_A_KIND = 20  # violations of one invariant that are told one by one
INVARIANTS = (
    ends.terminal,
    streams.contiguous,
    streams.agreement,
    logs.faithful,
    streams.faithful_if_forgotten,
    logs.fenced,
    logs.durable,
    ends.once,
    ends.idle,
    streams.isolated,
    ends.alive,
    ends.childless,
    ends.complete,
)


def check(events: Iterable[Event]) -> list[Violation]:
    """Returns what a history shows that must not have happened."""
    history = History(events)
    found: list[Violation] = []
    for invariant in INVARIANTS:
        found += list(invariant(history))[:MOST_OF_A_KIND]
    return found
