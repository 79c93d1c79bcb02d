"""One direction of a proxy's connections, and what is wrong with it: late, slow, silent, or about to be cut."""

import random
from collections.abc import Callable
from enum import Enum, auto

SHORT_SECONDS = 0.02  # with a bandwidth cap, as much is sent at once as may pass in this time


class Silence(Enum):
    """What becomes of the bytes of a direction that is silent."""

    HELD = auto()  # they arrive when the direction is healed, as after a lost route came back
    SWALLOWED = auto()  # they are gone, and so is, when the direction is healed, each connection that lost some


class Link:
    """How the bytes of one direction fare, for all connections of a proxy together, those to come as well.

    Attributes:
        passed, waiting, swallowed: bytes that were sent on, that have been received and not yet sent on, that are lost.
        silence: what becomes of them, if it is silent.

    Args:
        changed: called after each change, so that what waits is looked at anew.
    """

    def __init__(self, changed: Callable[[], None], dice: random.Random) -> None:
        self._changed = changed
        self._dice = dice
        self.passed = 0
        self.waiting = 0
        self.swallowed = 0
        self.silence: Silence | None = None
        self._latency = 0.0
        self._jitter = 0.0
        self._bytes_per_second: float | None = None
        self._free_at = 0.0  # when a capped link has sent what it was given
        self._cut_in: int | None = None

    def delay(self, seconds: float, jitter: float = 0.0) -> None:
        """Lets bytes arrive later, by up to `jitter` more at random; they stay in order."""
        self._latency, self._jitter = seconds, jitter
        self._changed()

    def limit(self, bytes_per_second: float | None) -> None:
        """Caps the bandwidth that all connections share; None takes the cap away."""
        self._bytes_per_second = bytes_per_second
        self._free_at = 0.0
        self._changed()

    def cut_after(self, count: int) -> None:
        """Resets the connection that carries the n-th byte from now on, once that byte has arrived. Once; 0: at the next."""
        self._cut_in = count

    def be_silent(self, silence: Silence) -> None:
        """Lets nothing more arrive, neither bytes nor ends; connections stay open."""
        self.silence = silence
        self._changed()

    def heal(self) -> None:
        """Takes everything away that is wrong."""
        self.silence = None
        self._latency = self._jitter = self._free_at = 0.0
        self._bytes_per_second = self._cut_in = None
        self._changed()

    @property
    def is_transparent(self) -> bool:
        """Whether bytes can be passed on as they come, unlooked at."""
        return not (self.silence or self._latency or self._jitter or self._bytes_per_second or self._cut_in is not None)

    def throw(self) -> float:
        """Returns a chunk's share of the jitter."""
        return self._dice.random() if self._jitter else 0.0

    def due(self, arrived: float, share: float) -> float:
        """Returns when a chunk may go on, as things stand."""
        return max(arrived + self._latency + share * self._jitter, self._free_at)

    def largest_piece(self) -> int | None:
        """Returns how many bytes may be sent at once; None: any number."""
        return None if self._bytes_per_second is None else max(1, int(self._bytes_per_second * SHORT_SECONDS))

    def send(self, piece: bytes, now: float) -> tuple[bytes, bool]:
        """Counts a piece and returns what of it may pass, and whether the connection is to be cut behind that."""
        is_last = False
        if self._cut_in is not None:
            is_last = len(piece) >= max(self._cut_in, 1)
            piece = piece[: self._cut_in]
            self._cut_in = None if is_last else self._cut_in - len(piece)
        if self._bytes_per_second is not None:
            self._free_at = now + len(piece) / self._bytes_per_second
        self.passed += len(piece)
        return piece, is_last
