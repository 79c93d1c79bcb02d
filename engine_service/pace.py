"""How long to wait before sending the next frame, so that busy sessions send fewer, larger frames.

A larger frame costs less for each token on its whole way. The wait is as long as the last frame took to be acknowledged, so
it grows with the load; for a session with a single stream it is next to nothing.
"""

MANY = 8  # streams; for these and more the rest is as long as the work
LONGEST = 0.02  # seconds
SHORTEST = 0.001  # seconds; event loops know no shorter ones


def rest(worked: float, streams: int) -> float:
    """Returns how many seconds to rest after work of so many seconds for so many streams; 0 for what is not worth it."""
    seconds = min(LONGEST, worked * min(1.0, streams / MANY))
    return seconds if seconds >= SHORTEST else 0.0
