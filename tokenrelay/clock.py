"""Estimates another process's clock, so that timestamps of several processes can be placed on one timeline."""

import time
from dataclasses import dataclass

WINDOW_NS = 30_000_000_000  # bounds older than one to two windows are forgotten, so that drift is followed


@dataclass
class _Bounds:
    """Between what two values the offset must lie, in nanoseconds; None while one is unknown."""

    lowest: int | None = None
    highest: int | None = None

    def tighten(self, other: "_Bounds") -> "_Bounds":
        lowest = [bound for bound in (self.lowest, other.lowest) if bound is not None]
        highest = [bound for bound in (self.highest, other.highest) if bound is not None]
        return _Bounds(max(lowest, default=None), min(highest, default=None))

    def is_within(self, lowest: int, highest: int | None) -> bool:
        """Tells whether these bounds are at least as tight as others."""
        if self.lowest is None or lowest > self.lowest:
            return False
        return highest is None or (self.highest is not None and highest >= self.highest)

    def is_void(self) -> bool:
        return self.lowest is not None and self.highest is not None and self.lowest > self.highest


class PeerClock:
    """Estimates how far a peer's clock is ahead of ours.

    An exchange brackets the peer's reading: it was taken after we asked and before we had the answer. So each exchange
    bounds the offset from both sides, a one-way message from one side, and the tightest bounds of the last seconds win.
    The error is at most half the fastest round trip.
    """

    def __init__(self) -> None:
        self._current = _Bounds()
        self._previous = _Bounds()
        self._window_started = 0
        self._offset: int | None = None

    def observe(self, asked: int | None, peer: int, answered: int) -> None:
        """Notes an exchange.

        Args:
            asked: our monotonic nanoseconds before the question; None for a one-way message.
            peer: the peer's reading, in nanoseconds.
            answered: our monotonic nanoseconds after the answer.
        """
        current, lowest = self._current, peer - answered
        if answered - self._window_started > WINDOW_NS:
            self._previous, self._current, self._window_started = current, _Bounds(), answered
        elif current.is_within(lowest, None if asked is None else peer - asked):
            return  # most exchanges tell nothing new, and there is one for every frame
        exchange = _Bounds(lowest, None if asked is None else peer - asked)
        self._current = self._current.tighten(exchange)
        bounds = self._current.tighten(self._previous)
        if bounds.is_void():
            # One of the clocks was set, or has drifted. What was known before is void.
            self._previous, self._current = _Bounds(), exchange
            bounds = exchange
        assert bounds.lowest is not None
        self._offset = bounds.lowest if bounds.highest is None else (bounds.lowest + bounds.highest) // 2

    def is_known(self) -> bool:
        return self._offset is not None

    def to_peer(self, ours: int) -> int:
        """Returns what the peer's clock showed at our monotonic instant, in nanoseconds."""
        assert self._offset is not None, "the peer's clock has not been observed"
        return ours + self._offset

    def to_ours(self, peer: int) -> int:
        """Returns our monotonic instant at which the peer's clock showed this, in nanoseconds."""
        assert self._offset is not None, "the peer's clock has not been observed"
        return peer - self._offset

    def now(self) -> int:
        """Returns what the peer's clock shows now, in nanoseconds."""
        return self.to_peer(time.monotonic_ns())
