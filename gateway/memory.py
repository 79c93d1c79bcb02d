"""Has the C library give memory back.

Left alone, it raises its bound for memory that goes straight back to the machine with every large request that it has
seen, up to 32 MiB, and each of gRPC's threads has a heap of its own. A few large requests at a time then leave holes in
these that nobody else gets.
"""

import ctypes

import structlog

log = structlog.get_logger(__name__)

# The numbers are glibc's, malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
LARGE = 128 * 1024  # bytes; glibc's own bound, which it no longer moves once it has been set
HEAPS = 2


def give_back() -> None:
    """Sets the bounds, for this process and from now on; another C library than glibc may not know them."""
    try:
        set_bound = ctypes.CDLL(None).mallopt
    except AttributeError:
        log.info("the C library's heap has no bounds to be set")
        return
    for bound, value in ((MMAP_THRESHOLD, LARGE), (TRIM_THRESHOLD, LARGE), (ARENA_MAX, HEAPS)):
        set_bound(bound, value)
