"""Free ports for what a benchmark starts."""

import random
import socket

PORTS = range(21_000, 32_000)  # below those that connections take by themselves


def free_ports(count: int) -> int:
    """Returns the first of so many free ports in a row; at random, since others may look at the same moment."""
    while True:
        first = random.choice(PORTS[:-count])  # no secret
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
