"""What a client process and the one that started it tell each other: pickled, after the length in four bytes."""

import pickle
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

from bench.load.measuring import Sample
from bench.load.plan import OfferedLoad

LENGTH = struct.Struct("!I")


@dataclass(frozen=True)
class Part:
    """One process' part of a point.

    Attributes:
        connections: to each target.
        warm_up: comes first and is not counted; None: nothing does.
    """

    targets: tuple[str, ...]
    connections: int
    load: OfferedLoad
    warm_up: OfferedLoad | None


@dataclass(frozen=True)
class Ready:
    """The warm-up is over; what comes next is the instant to begin at."""


@dataclass(frozen=True)
class Ended:
    """So many requests have ended since it was last said."""

    requests: int


@dataclass(frozen=True)
class Outcome:
    """What a part came to.

    Attributes:
        cpu_seconds: what the process itself has taken.
    """

    samples: list[Sample]
    cpu_seconds: float


def pack(message: object) -> bytes:
    """Returns a message as it goes over the pipe."""
    data = pickle.dumps(message)
    return LENGTH.pack(len(data)) + data


def receive(pipe: BinaryIO) -> Any:
    """Returns the next message, None at the end."""
    head = pipe.read(LENGTH.size)
    return pickle.loads(pipe.read(*LENGTH.unpack(head))) if len(head) == LENGTH.size else None
