"""Free ports for what a benchmark or a test starts."""

import random
import socket

FIRST, LAST, BLOCK = 21_000, 32_000, 100  # below those that connections take by themselves


def free_ports() -> int:
    """Returns the first of a block of free ports; at random, since others may look at the same moment.

    Raises:
        OSError: there is no such block.
    """
    blocks = range(FIRST, LAST, BLOCK)
    for first in random.sample(blocks, len(blocks)):
        try:
            for port in range(first, first + BLOCK):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise OSError(f"there are no {BLOCK} free ports in a row from {FIRST} to {LAST}")
