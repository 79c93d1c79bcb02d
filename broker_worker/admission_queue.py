"""The entries that wait for room in the engine, and which of them may be claimed now.

A *suspect* is a generation that was running when its engine crashed and may have caused it. It runs with nothing else on the
engine until its first token. These rules follow, and the worker that has read the suspect applies them:

- While the engine is idle, suspects go first, the ones with the most crashes before the others.
- While something else runs, a suspect lets others pass for SUSPECT_PATIENCE seconds. After that nothing more is begun until
  the engine is idle.
- Many suspects at once, for instance all that had just been started when an engine crashed, do not wait for one another's
  ends: the next one begins as soon as the one before has its first token, and all others join after that. If the engine
  crashes during this, a suspect was not alone, so the crash is no verdict on it yet; the next time it goes first.
"""

import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from tokenrelay.store.values import QueueEntry

SUSPECT_PATIENCE = 10.0  # seconds for which a suspect lets others pass


@dataclass(frozen=True)
class Candidate:
    """An entry, the nonce that it will be claimed with, and when it was read."""

    entry: QueueEntry
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))
    read_at: float = field(default_factory=time.monotonic)


def slots_of(entry: QueueEntry, slots: int) -> int:
    """Returns how many of an engine's slots an entry takes when it begins: a suspect all."""
    return max(slots, entry.choices) if entry.is_suspect else entry.choices


@dataclass(frozen=True)
class Load:
    """How busy an engine is.

    Attributes:
        taken: how many of its slots are taken.
        slots: how many it has.
        only_cleared: whether all that it runs came as suspects and has its first token.
    """

    taken: int
    slots: int
    only_cleared: bool = False

    def has_room_for(self, entry: QueueEntry) -> bool:
        """Tells whether an entry fits; a generation larger than the engine has slots waits until it is alone."""
        return self.taken == 0 or self.taken + entry.choices <= self.slots

    def lets_begin(self, suspect: QueueEntry) -> bool:
        """Tells whether a suspect may begin: on an idle engine, or after other suspects that have their first tokens."""
        follows = self.only_cleared and suspect.engine_deaths == 1 and self.has_room_for(suspect)
        return self.taken == 0 or follows


class AdmissionQueue:
    """The candidates in order, suspects apart."""

    def __init__(self) -> None:
        self._ordinary: deque[Candidate] = deque()
        self._suspects: deque[Candidate] = deque()

    def __len__(self) -> int:
        return len(self._ordinary) + len(self._suspects)

    def __iter__(self) -> Iterator[QueueEntry]:
        return (candidate.entry for candidate in chain(self._ordinary, self._suspects))

    @property
    def ordinary(self) -> int:
        """How many are no suspects."""
        return len(self._ordinary)

    @property
    def suspects(self) -> list[QueueEntry]:
        return [candidate.entry for candidate in self._suspects]

    @property
    def holds_back(self) -> bool:
        """Whether a suspect has waited for so long that nothing else is to be begun."""
        now = time.monotonic()
        return any(now - candidate.read_at > SUSPECT_PATIENCE for candidate in self._suspects)

    def add(self, entries: Iterable[QueueEntry]) -> None:
        """Takes what was read."""
        for entry in entries:
            (self._suspects if entry.is_suspect else self._ordinary).append(Candidate(entry))
        self._sort()

    def put_back(self, candidates: Sequence[Candidate]) -> None:
        """Takes again what was taken and could not be claimed; it keeps its place and its nonce."""
        for candidate in reversed(candidates):
            (self._suspects if candidate.entry.is_suspect else self._ordinary).appendleft(candidate)
        self._sort()

    def _sort(self) -> None:
        """Puts those first that more engines have died on; otherwise the order stays."""
        self._suspects = deque(sorted(self._suspects, key=lambda candidate: -candidate.entry.engine_deaths))

    def take(self, load: Load, most: int) -> list[Candidate]:
        """Takes out what may be claimed together, in order."""
        batch: list[Candidate] = []
        while len(batch) < most and (source := self._next(load)):
            batch.append(source.popleft())
            load = Load(load.taken + slots_of(batch[-1].entry, load.slots), load.slots)
        return batch

    def has_next(self, load: Load) -> bool:
        """Tells whether something may be claimed."""
        return bool(self._next(load))

    def _next(self, load: Load) -> deque[Candidate] | None:
        """Returns where the next one is."""
        if self._suspects and load.lets_begin(self._suspects[0].entry):
            return self._suspects
        may_pass = self._ordinary and not self.holds_back
        return self._ordinary if may_pass and load.has_room_for(self._ordinary[0].entry) else None

    def forget(self, entry: QueueEntry) -> None:
        """Drops a suspect that is somebody else's by now."""
        self._suspects = deque(candidate for candidate in self._suspects if candidate.entry != entry)

    def clear(self) -> list[QueueEntry]:
        """Takes out everything."""
        left = list(self)
        self._ordinary.clear()
        self._suspects.clear()
        return left
