"""How long to wait before the next try, for whoever waits for another process."""

import random


class Backoff:
    """Delays that double from the first to the longest, each shortened by chance.

    Without the chance, all who lost a server at the same moment would ask it again at the same moments.

    Args:
        first: seconds of the first delay, before it is shortened.
        longest: seconds that no delay exceeds.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._next = min(first, longest)

    def next_delay(self) -> float:
        """Returns how many seconds to wait now: between a half and all of what this try's turn is."""
        delay = self._next
        # Doubled step by step and bounded at once: a power of the number of tries overflows after a thousand of them.
        self._next = min(2 * delay, self._longest)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, no secret

    def reset(self) -> None:
        """Starts again with the first delay; to be called after a success."""
        self._next = min(self._first, self._longest)
