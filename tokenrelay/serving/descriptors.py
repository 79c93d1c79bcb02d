"""How many connections a server can take without running out of file descriptors."""

import resource

SPARE = 128  # for Redis, logs and metrics, however many clients connect


def connections(wanted: int) -> int:
    """Returns how many connections to take: never so many that no file descriptor is left for anything else."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(wanted, max(1, allowed - SPARE))
