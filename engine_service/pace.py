"""How long to wait before sending the next frame, so that sessions that are behind send fewer, larger frames.

A larger frame costs less for each token on its whole way. A session is behind if a frame takes longer to be acknowledged
than its engine takes for a token of each stream. Then frames leave no faster for leaving at once, and what the path does not
do for frames it does for new requests. A path that keeps up does not wait at all: its tokens would only come later.
"""

from dataclasses import dataclass

MANY = 8  # streams; for these and more the rest is as long as the session is behind
LONGEST = 0.02  # seconds
SHORTEST = 0.001  # seconds; event loops know no shorter ones


@dataclass(frozen=True, slots=True)
class SentFrame:
    """A frame that is on its way.

    Attributes:
        number: its own.
        at: when it was sent, in seconds.
        gathered: for how many seconds its tokens came: since the frame before it was sent; None for the first one.
        streams: how many it has tokens of.
        tokens: how many it has.
    """

    number: int
    at: float
    gathered: float | None
    streams: int
    tokens: int

    @property
    def step(self) -> float | None:
        """Seconds that the engine takes for a token of each stream; None if the frame does not tell."""
        return self.gathered * self.streams / self.tokens if self.gathered is not None and self.tokens else None


def rest(frame: SentFrame, acknowledged_at: float) -> float:
    """Returns how many seconds to rest after a frame has been acknowledged; 0 for what is not worth it."""
    if frame.step is None:
        return 0.0
    behind = acknowledged_at - frame.at - frame.step
    seconds = min(LONGEST, behind * min(1.0, frame.streams / MANY))
    return seconds if seconds >= SHORTEST else 0.0
