"""Free ports for what a benchmark or a test starts."""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

FIRST, LAST, BLOCK = 21_000, 32_000, 100  # below those that connections take by themselves
RESERVED = 8  # blocks at a time; whoever got an earlier one listens there by now
_reserved: list[int] = []  # file descriptors, whose locks last until they are closed


def free_ports() -> int:
    """Returns the first of a block of free ports, which no other process gets from here before they are used.

    Raises:
        OSError: there is no such block.
    """
    blocks = range(FIRST, LAST, BLOCK)
    for first in random.sample(blocks, len(blocks)):
        if not _reserve(first):
            continue
        try:
            for port in range(first, first + BLOCK):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise OSError(f"there are no {BLOCK} free ports in a row from {FIRST} to {LAST}")


def _reserve(first: int) -> bool:
    """Locks a file for the block, since two processes may look for ports at the same moment."""
    name = Path(tempfile.gettempdir()) / f"tokenrelay-{os.getuid()}-ports-{first}"
    file = os.open(name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return False
    _reserved.append(file)
    if len(_reserved) > RESERVED:
        os.close(_reserved.pop(0))
    return True
