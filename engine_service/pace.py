"""How long frames rest after one that went to many streams.

What comes meanwhile is gathered into a larger frame, which costs less for each token on all its way: the busier the machine,
the longer a frame takes, the longer the rest, and the larger the next frame. A lone stream's rest is next to nothing.
"""

MANY = 8  # streams; for these and more the rest is as long as the work
LONGEST = 0.02  # seconds
SHORTEST = 0.001  # seconds; event loops know no shorter ones


def rest(worked: float, streams: int) -> float:
    """Returns how many seconds to rest after work of so many seconds for so many streams; 0 for what is not worth it."""
    seconds = min(LONGEST, worked * min(1.0, streams / MANY))
    return seconds if seconds >= SHORTEST else 0.0
